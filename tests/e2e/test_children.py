"""Flows that invoke flows of another service: outcomes, cancellation, and kill -9 at every moment (MISSION S19)."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import stepwire
from stepwire.client import RunHandleSync
from stepwire.errors import RunCancelled, RunFailed, RunNotFound
from tests.e2e.processes import QUICK, Engine, Process, Stage, wait_for

CHILDREN = 40
ROUNDS = 4
DELAY_MS_MAX = 8.0


@dataclass
class Family:
    """An engine, a host of parents and one of children, shared by the tests of this module."""

    stage: Stage
    engine: Engine
    parents: Process
    children: Process
    client: stepwire.ClientSync

    @staticmethod
    def on(stage: Stage, **settings: float) -> Family:
        engine = stage.engine(**QUICK | settings)
        parents = stage.host(engine, "parents", flows="parent_flows")
        children = stage.host(engine, "children", flows="child_flows")
        return Family(stage, engine, parents, children, stage.client(engine))

    def child_of(self, run: RunHandleSync[Any], path: str = "child") -> RunHandleSync[Any]:
        """Wait until the run's step has started its child."""
        started: dict[str, str] = {}

        def is_there() -> bool:
            """The record names the child before it is there."""
            started.update({step.path: step.child_run_id for step in run.get(steps=True).steps})
            with contextlib.suppress(RunNotFound):
                return bool(started.get(path)) and bool(self.client.get(started[path]))
            return False

        wait_for(is_there, "the child to be started")
        return self.client.handle(started[path])

    def child_with(self, key: str) -> str:
        """The run with this idempotency key; empty: there is none."""
        return next((run.run_id for run in self.client.list(flow="double") if run.id == key), "")

    def restart_engine(self) -> None:
        self.engine.kill()
        self.engine.start()


@pytest.fixture(scope="module")
def shared(shared_stage: Stage) -> Family:
    return Family.on(shared_stage)


@pytest.fixture
def family(shared: Family) -> Iterator[Family]:
    yield shared
    assert "Traceback" not in shared.engine.running.said


@pytest.mark.parametrize("flow", ["asks", "asks_sync"])
def test_a_child_on_another_service(family: Family, flow: str) -> None:
    run = family.client.start(flow, "double")
    child = family.child_of(run)
    family.stage.gates.arrived(child.run_id, "gated")
    record = run.get(steps=True)
    assert record.reason == "child_run" and record.steps[0].name == "double"
    assert child.get().parent_run_id == run.run_id
    family.stage.gates.open(child.run_id, "gated")
    assert run.result(timeout=10) == [42]
    assert child.result(timeout=10) == 42
    ran = Counter(line.host for id in (run.run_id, child.run_id) for line in family.stage.ledger.of(id, "before"))
    assert ran == {"children": 1, "parents": 1}


@pytest.mark.parametrize("flow", ["asks", "asks_sync"])
def test_a_child_that_fails(family: Family, flow: str) -> None:
    run = family.client.start(flow, "fails")
    code, message = run.result(timeout=10)
    assert code == "USER_ERROR" and "not 21" in message
    child = family.child_of(run)
    assert child.status() == "FAILED"
    assert family.stage.ledger.count("after", child.run_id)["reserve#undo"] == 1, "it is undone by itself"


def test_the_failure_of_a_child_fails_its_parent(family: Family) -> None:
    run = family.client.start("asks_in_vain", "fails")
    with pytest.raises(RunFailed, match="not 21"):
        run.result(timeout=10)
    assert family.stage.ledger.count("after", run.run_id) == {"reserve": 1, "reserve#undo": 1}


def test_a_child_that_is_cancelled(family: Family) -> None:
    run = family.client.start("asks", "double")
    child = family.child_of(run)
    family.stage.gates.arrived(child.run_id, "gated")
    child.cancel()
    assert run.result(timeout=10)[0] == "CHILD_CANCELLED"


def test_cancelling_cascades(family: Family, figure: Callable[[str], None]) -> None:
    """Parent, child and grandchild on two services; each is undone as its own flow says."""
    run = family.client.start("asks_in_vain", "middle")
    child = family.child_of(run)
    grandchild = family.child_of(child, "grandchild")
    family.stage.gates.arrived(grandchild.run_id, "gated")
    began = time.monotonic()
    run.cancel()
    for cancelled in (run, child, grandchild):
        with pytest.raises(RunCancelled):
            cancelled.result(timeout=10)
    ledger = family.stage.ledger
    wait_for(lambda: ledger.of(grandchild.run_id, "cancelled"), "the step of the grandchild to be told")
    assert "reserve#undo" not in ledger.count("after", run.run_id)
    assert ledger.count("after", child.run_id)["reserve#undo"] == 1
    seconds = ledger.of(grandchild.run_id, "cancelled")[0].at - began
    assert seconds < 5
    figure(f"the step of a grandchild was told to stop {seconds * 1000:.0f} ms after the call of cancel")


def test_a_child_that_is_late_is_cancelled(family: Family) -> None:
    run = family.client.start("asks_in_time", 1.0)
    child = family.child_of(run)
    assert run.result(timeout=10) == "late"
    with pytest.raises(RunCancelled):
        child.result(timeout=10)


def test_a_child_with_a_key_is_started_once(family: Family) -> None:
    """Of three parents that name the same key one has the child; the engine is killed while it runs."""
    runs = [family.client.start("asks_by_key", "the only child") for _ in range(3)]
    wait_for(lambda: family.child_with("the only child"), "the child")
    child = family.child_with("the only child")
    family.stage.gates.arrived(child, "gated")
    family.restart_engine()
    family.stage.gates.open(child, "gated")
    answers = sorted(str(run.result(timeout=15)) for run in runs)
    assert answers == ["42", "KEY_CONFLICT", "KEY_CONFLICT"]
    assert family.stage.ledger.count("before", child) == {"gated": 1}


def test_a_group_of_children_over_a_kill_of_the_engine(family: Family) -> None:
    """Killed after the first of them have ended."""
    run = family.client.start("asks_many", CHILDREN)

    def ended() -> int:
        return sum(step.state == "SUCCEEDED" for step in run.get(steps=True).steps)

    wait_for(ended, "the first child to end")
    family.restart_engine()
    assert run.result(timeout=15) == 2 * sum(range(CHILDREN))
    steps = run.get(steps=True).steps
    children = {step.child_run_id for step in steps}
    assert len(children) == CHILDREN
    begun = Counter(line.run_id for line in family.stage.ledger.refresh() if line.event == "before")
    assert {begun[child] for child in children} == {1}


@pytest.mark.timeout(90)
@pytest.mark.parametrize("victims", ["engine", "engine and children", "engine and parents"])
def test_kills_right_at_the_end_of_a_child(
    stage: Stage, rng: random.Random, victims: str, figure: Callable[[str], None]
) -> None:
    """The child's last step passes its gate, and some milliseconds later everything named is killed."""
    # Where a host is killed as well, nobody should have to wait long for it.
    family = Family.on(stage) if victims == "engine" else Family.on(stage, adoption_grace=0.5)
    if victims == "engine and parents":
        stage.host(family.engine, "parents-too", flows="parent_flows")
    if victims == "engine and children":
        stage.host(family.engine, "children-too", flows="child_flows")
    rounds = ROUNDS if victims == "engine" else ROUNDS // 2
    again = 0
    for number in range(rounds):
        run = family.client.start("asks", "double", id=f"round {number}")
        child = family.child_of(run)
        stage.gates.arrived(child.run_id, "gated")
        stage.gates.open(child.run_id, "gated")
        time.sleep(rng.uniform(0, DELAY_MS_MAX) / 1000)  # gate: the kill's own random moment
        family.engine.kill()
        if victims == "engine and children":
            family.children.kill()
            family.children = stage.host(family.engine, "children", flows="child_flows", wait=False)
        if victims == "engine and parents":
            family.parents.kill()
            family.parents = stage.host(family.engine, "parents", flows="parent_flows", wait=False)
        family.engine.start()
        assert run.result(timeout=20) == [42]
        assert child.result(timeout=10) == 42
        record = run.get(steps=True)
        assert [(step.path, len(step.attempts), step.child_run_id) for step in record.steps] == [
            ("child", 1, child.run_id),
            ("after", 1, ""),
        ]
        again += stage.ledger.count("before", child.run_id)["gated"] - 1
    started = [run.run_id for run in family.client.list(flow="double")]
    assert len(started) == rounds, "each parent has one child"
    if victims == "engine":
        assert again == 0, "the host stayed, so its attempts were adopted"
    figure(f"{rounds} kills of {victims} at the end of a child: {rounds} children, attempts begun again {again}")


@pytest.mark.timeout(60)
def test_kills_while_a_child_is_started(stage: Stage, rng: random.Random, figure: Callable[[str], None]) -> None:
    """The engine is killed some milliseconds after the parent was started."""
    family = Family.on(stage)
    runs = []
    for number in range(ROUNDS):
        runs.append(family.client.start("asks", "quick", id=f"round {number}"))
        time.sleep(rng.uniform(0, DELAY_MS_MAX) / 1000)  # gate: the kill's own random moment
        family.restart_engine()
    assert [run.result(timeout=20) for run in runs] == [[42]] * ROUNDS
    children = [run.run_id for run in family.client.list(flow="quick")]
    assert len(children) == ROUNDS
    begun = [stage.ledger.count("before", child) for child in children]
    assert begun == [{"step": 1}] * ROUNDS
    figure(f"{ROUNDS} kills while a child is started: {len(children)} children, each ran once")
