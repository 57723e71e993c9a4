"""SIGTERM to engine and host: exit 0 in time, nothing lost; a second one ends at once (MISSION P11)."""

from __future__ import annotations

import signal
import time

import pytest

from stepwire.client import RunHandleSync
from tests.e2e.processes import Engine, Process, Stage, wait_for

DRAIN_SECONDS = 1.0
SLACK_SECONDS = 1.5
TICKS = range(3, 8)
RESTARTS = 12


def seconds_to_end(process: Process) -> tuple[int, float]:
    """The exit code and the time from now until the end."""
    began = time.monotonic()
    return process.wait(), time.monotonic() - began


def at_its_gate(stage: Stage, engine: Engine) -> RunHandleSync[list[str]]:
    """A run whose second step waits at its gate."""
    run = stage.client(engine).start("gate_between")
    stage.gates.arrived(run.run_id, "gated")
    return run


def planned_of(run: RunHandleSync[list[str]]) -> None:
    """Wait until a plan of the run is committed."""
    wait_for(lambda: run.get(steps=True).steps, "a plan to be committed")


def assert_completed(stage: Stage, run: RunHandleSync[list[str]]) -> None:
    """The right result, and each step ran once."""
    assert run.result(timeout=15) == ["first", "gated", "last"]
    assert stage.ledger.count("before", run.run_id) == {"first": 1, "gated": 1, "last": 1}


def test_the_engine_ends_within_its_drain_timeout(stage: Stage) -> None:
    engine = stage.engine(drain_timeout=DRAIN_SECONDS)
    stage.host(engine, "stays")
    at_its_gate(stage, engine)
    engine.running.signal(signal.SIGTERM)
    code, seconds = seconds_to_end(engine.running)
    assert code == 0
    assert seconds < DRAIN_SECONDS + SLACK_SECONDS


@pytest.mark.parametrize("opened", ["while it is down", "after the restart"])
def test_the_engine_drains_and_the_step_is_adopted(stage: Stage, opened: str) -> None:
    engine = stage.engine(drain_timeout=DRAIN_SECONDS)
    host = stage.host(engine, "stays")
    run = at_its_gate(stage, engine)
    assert engine.running.terminate() == 0
    assert "Traceback" not in engine.running.said

    if opened == "while it is down":
        stage.gates.open(run.run_id, "gated")
        wait_for(lambda: "gated" in stage.ledger.count("after", run.run_id), "the step to end without an engine")
    engine.start()
    if opened == "after the restart":
        stage.gates.open(run.run_id, "gated")
    assert_completed(stage, run)
    assert host.running and len(stage.ledger.of(run.run_id, "body")) == 1, "the live body was kept"


def test_the_engine_waits_for_what_runs(stage: Stage) -> None:
    """Within the drain timeout a step that ends is committed; no new one is begun."""
    engine = stage.engine(drain_timeout=10)
    stage.host(engine, "stays")
    run = at_its_gate(stage, engine)
    engine.running.signal(signal.SIGTERM)
    engine.running.says("draining")
    stage.gates.open(run.run_id, "gated")
    code, seconds = seconds_to_end(engine.running)
    assert code == 0 and seconds < 5, "it ends as soon as nothing runs"
    engine.start()
    assert_completed(stage, run)


def test_a_second_sigterm_ends_the_engine_at_once(stage: Stage) -> None:
    engine = stage.engine(drain_timeout=60)
    stage.host(engine, "stays")
    run = at_its_gate(stage, engine)
    engine.running.signal(signal.SIGTERM)
    engine.running.says("draining")
    assert engine.running.running
    engine.running.signal(signal.SIGTERM)
    code, seconds = seconds_to_end(engine.running)
    assert code == 0 and seconds < 5
    engine.start()
    stage.gates.open(run.run_id, "gated")
    assert_completed(stage, run)


def test_a_host_drains_and_the_run_goes_on_elsewhere(stage: Stage) -> None:
    engine = stage.engine()
    leaving = stage.host(engine, "leaving")
    run = at_its_gate(stage, engine)
    stage.host(engine, "staying")
    leaving.signal(signal.SIGTERM)
    stage.draining(leaving)
    stage.gates.open(run.run_id, "gated")
    code, seconds = seconds_to_end(leaving)
    assert code == 0 and seconds < 5
    assert_completed(stage, run)


@pytest.mark.timeout(60)
def test_a_step_that_ends_while_its_host_begins_to_drain(stage: Stage) -> None:
    """Whatever tick of the loop it ends in: a result that exists when the host says Goodbye is not thrown away."""
    engine = stage.engine()
    client = stage.client(engine)
    again = {}
    for ticks in TICKS:
        host = stage.host(engine, f"leaving-{ticks}")
        run = client.start("leaving", ticks)
        stage.gates.arrived(run.run_id, "leave")
        planned_of(run)
        stage.gates.open(run.run_id, "leave")
        assert host.wait() == 0
        following = stage.host(engine, "following")
        assert run.result(timeout=10) == ["left", "last"]
        again[ticks] = stage.ledger.count("before", run.run_id)["leave"] - 1
        assert following.terminate() == 0
    assert not any(again.values()), f"ticks and re-executions: {again}"


@pytest.mark.timeout(90)
def test_a_host_comes_back_after_every_restart(stage: Stage) -> None:
    """It dials at once when its stream ends, hence often an engine that is just ending."""
    engine = stage.engine()
    stage.host(engine, "stays")
    for _ in range(RESTARTS):
        assert engine.running.terminate() == 0
        engine.start().running.says("host stays connected", 10)


def test_a_host_that_leaves_an_idle_engine(stage: Stage) -> None:
    engine = stage.engine()
    leaving = stage.host(engine, "leaving")
    assert leaving.terminate() == 0
    assert "Traceback" not in leaving.said
    run = stage.client(engine).start("plus_one", 1)
    stage.host(engine, "staying")
    assert run.result(timeout=15) == 2


def test_a_host_that_drains_too_long_gives_its_step_back(stage: Stage) -> None:
    """After the drain timeout the step is begun elsewhere: its result was never acked."""
    engine = stage.engine()
    leaving = stage.host(engine, "leaving", drain=0.5)
    run = at_its_gate(stage, engine)
    stage.host(engine, "staying")
    leaving.signal(signal.SIGTERM)
    code, seconds = seconds_to_end(leaving)
    assert code == 0 and seconds < 0.5 + SLACK_SECONDS + 2
    wait_for(lambda: stage.ledger.count("before", run.run_id)["gated"] == 2, "the step to begin on the other host")
    stage.gates.open(run.run_id, "gated")
    assert run.result(timeout=15) == ["first", "gated", "last"]
    assert stage.ledger.count("before", run.run_id)["first"] == 1


def test_a_second_sigterm_ends_a_host_at_once(stage: Stage) -> None:
    engine = stage.engine(reconnect_grace=0.3)
    leaving = stage.host(engine, "leaving", drain=60)
    run = at_its_gate(stage, engine)
    leaving.signal(signal.SIGTERM)
    stage.draining(leaving)
    assert leaving.running
    leaving.signal(signal.SIGTERM)
    code, seconds = seconds_to_end(leaving)
    assert code == 130 and seconds < 2
    stage.gates.open(run.run_id, "gated")
    stage.host(engine, "staying")
    assert run.result(timeout=15) == ["first", "gated", "last"]
    assert stage.ledger.count("before", run.run_id)["first"] == 1
