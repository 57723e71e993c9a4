"""Cancelling runs: their steps are told, their keys freed, their work undone if asked for (MISSION S20)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import stepwire
from stepwire.client import RunHandleSync, StepState
from stepwire.errors import RunCancelled, RunError, RunFailed
from stepwire.protocol.failure import ErrorCode
from tests.e2e.processes import QUICK, Engine, Stage, wait_for

ASYNC, SYNC = "parallel/[0]/async", "parallel/[1]/sync"
SECONDS_MAX = 5.0
"""A generous bound for a loaded machine; the promise is 1 s, and the figure is printed."""
KILLS = 3


@dataclass
class Served:
    """An engine with a host, shared by the tests of this module."""

    stage: Stage
    engine: Engine
    client: stepwire.ClientSync

    def underway(self, flow: str = "errand", **options: Any) -> RunHandleSync[Any]:
        """A run whose two steps wait."""
        run = self.client.start(flow, **options)
        self.stage.gates.arrived(run.run_id, ASYNC)
        wait_for(lambda: SYNC in self.stage.ledger.count("before", run.run_id), "the plain step to begin")
        return run

    def told_after(self, run: RunHandleSync[Any], began: float, *paths: str) -> float:
        """Wait until these steps were told to stop; seconds until the last of them was."""

        def cancelled() -> dict[str, float]:
            return {line.path: line.at for line in self.stage.ledger.of(run.run_id, "cancelled")}

        wait_for(lambda: set(paths) <= cancelled().keys(), f"{paths} to be told")
        return max(cancelled().values()) - began

    def undone(self, run: RunHandleSync[Any]) -> dict[str, int]:
        counts = self.stage.ledger.count("after", run.run_id)
        return {path: number for path, number in counts.items() if path.endswith("#undo")}


@pytest.fixture(scope="module")
def shared(shared_stage: Stage) -> Served:
    engine = shared_stage.engine(**QUICK)
    shared_stage.host(engine, "only", flows="control_flows")
    return Served(shared_stage, engine, shared_stage.client(engine))


@pytest.fixture
def served(shared: Served) -> Iterator[Served]:
    yield shared
    assert "Traceback" not in shared.engine.running.said


def test_running_steps_are_told_at_once(served: Served, figure: Callable[[str], None]) -> None:
    run = served.underway()
    # They began on their host, perhaps before its plan reached the engine: what was never planned is on no record.
    wait_for(lambda: {ASYNC, SYNC} <= {step.path for step in run.get(steps=True).steps}, "the plan to be committed")
    began = time.monotonic()
    served.client.cancel(run.run_id)
    seconds = served.told_after(run, began, ASYNC, SYNC)
    with pytest.raises(RunCancelled):
        run.result(timeout=10)
    assert seconds < SECONDS_MAX
    record = run.get(steps=True)
    assert (record.state, record.failure) == ("CANCELLED", None)
    assert {step.path: step.state for step in record.steps} == {
        "reserve": StepState.SUCCEEDED,
        ASYNC: StepState.CANCELLED,
        SYNC: StepState.CANCELLED,
    }
    figure(f"an async and a plain step were told to stop {seconds * 1000:.0f} ms after the call of cancel")


@pytest.mark.parametrize(
    ("flow", "undo", "undone"),
    [
        ("errand", None, False),
        ("errand", True, True),
        ("careful_errand", None, True),
        ("careful_errand", False, False),
    ],
)
def test_it_is_undone_only_if_asked_for(served: Served, flow: str, undo: bool | None, undone: bool) -> None:
    run = served.underway(flow)
    run.cancel(undo=undo)
    with pytest.raises(RunCancelled):
        run.result(timeout=10)
    assert served.undone(run) == ({"reserve#undo": 1} if undone else {})


def test_the_key_is_free_again(served: Served) -> None:
    run = served.underway(id="the errand")
    assert served.client.start("errand", id="the errand").run_id == run.run_id
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(timeout=10)
    again = served.client.start("errand", id="the errand")
    assert not again.existing and again.run_id != run.run_id
    again.cancel()


def test_the_failure_handler_does_not_run(served: Served) -> None:
    cancelled = served.client.start("fragile", False)
    served.stage.gates.arrived(cancelled.run_id, "work")
    cancelled.cancel()
    with pytest.raises(RunCancelled):
        cancelled.result(timeout=10)
    failed = served.client.start("fragile", True)
    with pytest.raises(RunFailed, match="broken"):
        failed.result(timeout=10)

    def handled() -> list[Any]:
        found = served.client.list(flow="fragile.on_failure", states=["SUCCEEDED"])
        return [served.client.get(run.run_id).input["data"]["run_id"] for run in found]

    wait_for(handled, "the failure handler")
    assert handled() == [failed.run_id], "one run later failed, and only that was handled"


def test_the_command_cancels(served: Served) -> None:
    run = served.underway()
    printed = served.stage.stepwire(served.engine, "runs", "cancel", run.run_id, "--undo")
    assert run.run_id in printed.splitlines()
    with pytest.raises(RunCancelled):
        run.result(timeout=10)
    assert served.undone(run) == {"reserve#undo": 1}


def test_a_flow_cancels_itself(served: Served) -> None:
    run = served.client.start("gives_up")
    look, wait = "parallel/[0]/look", "parallel/[1]/wait"
    served.stage.gates.arrived(run.run_id, look, wait)
    served.stage.gates.open(run.run_id, look)
    with pytest.raises(RunCancelled):
        run.result(timeout=10)
    assert served.undone(run) == {"reserve#undo": 1}
    served.told_after(run, 0, wait)


def test_all_runs_of_a_flow_are_cancelled(served: Served) -> None:
    runs = [served.client.start("fragile", False) for _ in range(5)]
    other = served.underway()
    for run in runs:
        served.stage.gates.arrived(run.run_id, "work")
    assert set(served.client.cancel_all(flow="fragile")) == {run.run_id for run in runs}
    for run in runs:
        with pytest.raises(RunCancelled):
            run.result(timeout=10)
    assert other.status() == "RUNNING"
    other.cancel()


def test_a_run_that_has_ended_cannot_be_cancelled(served: Served) -> None:
    run = served.client.start("fragile", True)
    with pytest.raises(RunFailed):
        run.result(timeout=10)
    with pytest.raises(RunError) as caught:
        run.cancel()
    assert caught.value.code is ErrorCode.WRONG_STATE
    assert run.status() == "FAILED"


def test_a_run_without_host_is_cancelled(stage: Stage) -> None:
    """Also one whose host is lost for good while its step runs."""
    engine = stage.engine(**QUICK)
    host = stage.host(engine, "only", flows="control_flows")
    client = stage.client(engine)
    run = client.start("fragile", False)
    stage.gates.arrived(run.run_id, "work")
    host.kill()
    for cancelled in (run, client.start("fragile", False)):
        cancelled.cancel(undo=True)
        with pytest.raises(RunCancelled):
            cancelled.result(timeout=10)


@pytest.mark.timeout(60)
def test_a_cancel_that_was_answered_survives_kills(
    stage: Stage, rng: random.Random, figure: Callable[[str], None]
) -> None:
    """The engine is killed 0..8 ms after its answer: while steps are told, while it undoes, or later."""
    engine = stage.engine(**QUICK)
    stage.host(engine, "only", flows="control_flows")
    served = Served(stage, engine, stage.client(engine))
    for _ in range(KILLS):
        run = served.underway("careful_errand")
        run.cancel()
        time.sleep(rng.uniform(0, 8) / 1000)  # gate: the kill's own random moment
        engine.kill()
        engine.start()
        with pytest.raises(RunCancelled):
            run.result(timeout=15)
        served.told_after(run, 0, ASYNC, SYNC)
        undos = [step for step in run.get(steps=True).steps if step.undoes]
        assert [(undo.undoes, undo.state) for undo in undos] == [("reserve", StepState.SUCCEEDED)]
        assert set(served.undone(run)) == {"reserve#undo"}
    begun = [line for line in stage.ledger.lines if line.event == "before" and line.path == "reserve#undo"]
    figure(f"{KILLS} kills after a cancel was answered: {KILLS} runs cancelled and undone, {len(begun)} undos begun")
