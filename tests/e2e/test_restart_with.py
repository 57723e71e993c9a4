"""`ctx.restart_with`: one run after another, each started once, and a client gets the last result."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from stepwire.client import RunHandleSync
from tests.e2e.processes import QUICK, Engine, Stage, wait_for

LAPS = 5
TOTAL = sum(range(LAPS + 1))
DELAY_MS_MAX = 8.0


@pytest.fixture(scope="module")
def engine(shared_stage: Stage) -> Engine:
    engine = shared_stage.engine(**QUICK)
    shared_stage.host(engine, "only", flows="ending_flows")
    return engine


def chain(stage: Stage, engine: Engine, run: RunHandleSync[Any]) -> list[str]:
    """The run and its successors."""
    client = stage.client(engine)
    found = [run.run_id]
    while following := client.get(found[-1]).successor_run_id:
        found.append(following)
    return found


def test_five_runs_and_one_result(shared_stage: Stage, engine: Engine) -> None:
    client = shared_stage.client(engine)
    run = client.start("quick_laps", {"left": LAPS}, id="the laps")
    assert run.result(timeout=15) == TOTAL
    runs = chain(shared_stage, engine, run)
    assert len(runs) == LAPS
    records = [client.get(run_id, steps=True) for run_id in runs]
    assert [record.state for record in records] == ["SUCCEEDED"] * LAPS
    assert [record.output for record in records] == [None] * (LAPS - 1) + [TOTAL]
    assert [record.input["left"] for record in records] == list(range(LAPS, 0, -1))
    assert [len(record.steps) for record in records] == [1] * LAPS


def test_the_last_successor_of_a_child_answers(shared_stage: Stage, engine: Engine) -> None:
    run = shared_stage.client(engine).start("asks_for_laps", {"left": LAPS})
    assert run.result(timeout=15) == TOTAL


@pytest.mark.timeout(60)
def test_kills_between_a_run_and_its_successor(
    shared_stage: Stage, engine: Engine, rng: random.Random, figure: Callable[[str], None]
) -> None:
    """The engine is killed some milliseconds after the last step of each run but the last one passed its gate."""
    client = shared_stage.client(engine)
    run = client.start("laps", {"left": LAPS})
    present = run.run_id
    for _ in range(LAPS - 1):
        shared_stage.gates.arrived(present, "lap")
        shared_stage.gates.open(present, "lap")
        time.sleep(rng.uniform(0, DELAY_MS_MAX) / 1000)  # gate: the kill's own random moment
        engine.kill()
        engine.start()
        present = wait_for(lambda: client.get(present).successor_run_id, "the successor")  # noqa: B023
    shared_stage.gates.arrived(present, "lap")
    shared_stage.gates.open(present, "lap")
    assert run.result(timeout=15) == TOTAL
    runs = chain(shared_stage, engine, run)
    assert sorted(runs) == sorted(record.run_id for record in client.list(flow="laps"))
    assert len(runs) == LAPS
    assert [shared_stage.ledger.count("before", run_id) for run_id in runs] == [{"lap": 1}] * LAPS
    figure(f"{LAPS - 1} kills between runs and their successors: {LAPS} runs, each step once")
