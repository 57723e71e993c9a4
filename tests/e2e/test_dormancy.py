"""Sleeps survive the engine; runs that only wait leave memory and come back in time (MISSION S17, DESIGN 5)."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import stepwire
from stepwire.client import RunHandleSync, RunState
from stepwire.errors import RunCancelled
from tests.e2e.processes import QUICK, Engine, Process, Stage, wait_for
from tests.evicting import Entries

LIVE_IDLE = 0.1
NAP_SECONDS = 2.0
"""Long enough for a loaded machine to put the run to rest before."""
LATE_SECONDS_MAX = 10.0
"""A generous bound for a loaded machine; the figures are printed."""
SLEEPERS = WAITERS = 100
SLEEP_SECONDS = 6.0
NAPPERS = 20
NAPS = 3
KILLS = 3
PAUSE_MS_MAX = 400.0


@dataclass
class Served:
    """An engine whose runs are soon dormant, and a host, shared by the tests of this module."""

    stage: Stage
    engine: Engine
    host: Process
    client: stepwire.ClientSync

    @staticmethod
    def on(stage: Stage, **settings: Any) -> Served:
        engine = stage.engine(**QUICK | settings)
        return Served(stage, engine, stage.host(engine, "only", flows="event_flows"), stage.client(engine))

    def dormant(self, run: RunHandleSync[Any]) -> RunHandleSync[Any]:
        wait_for(lambda: run.status() is RunState.WAITING, "the run to be dormant")
        return run

    def in_memory(self) -> float:
        return sum(
            self.engine.metric(f'stepwire_runs{{state="{state.lower()}"}}')
            for state in RunState
            if state is not RunState.WAITING
        )

    def entered(self, run: RunHandleSync[Any]) -> int:
        return len(self.stage.ledger.of(run.run_id, "body"))


@pytest.fixture(scope="module")
def served(shared_stage: Stage) -> Served:
    return Served.on(shared_stage, live_idle=LIVE_IDLE)


def slept(run: RunHandleSync[Any]) -> float:
    """How long the run's sleep took, by the engine's clock."""
    step = next(step for step in run.get(steps=True).steps if step.kind == "sleep")
    assert step.ended_at is not None and step.planned_at is not None
    return (step.ended_at - step.planned_at).total_seconds()


# ---- sleeping


def test_sleeps_over_a_kill_of_the_engine(stage: Stage, figure: Callable[[str], None]) -> None:
    """They end when they would have ended anyway, or at once if that has passed; the live bodies are kept."""
    served = Served.on(stage)
    runs = {seconds: served.client.start("sleeps", seconds) for seconds in (0.3, 2.0)}
    for run in runs.values():
        wait_for(lambda: run.get().reason == "sleeping_until", "the run to sleep")  # noqa: B023
    served.engine.kill()
    served.engine.start()
    for seconds, run in runs.items():
        assert run.result(timeout=15) == "rested"
        assert stage.ledger.count("before", run.run_id) == {"first": 1, "last": 1}
        assert served.entered(run) == Entries(1)
        assert seconds <= slept(run) < seconds + LATE_SECONDS_MAX
        figure(f"a sleep of {seconds:g} s over a kill of the engine took {slept(run):.3f} s")


def test_sleeping_runs_leave_memory_and_wake_in_time(served: Served, figure: Callable[[str], None]) -> None:
    runs = [served.client.start(flow, NAP_SECONDS) for flow in ("sleeps", "sleeps_sync")]
    for run in runs:
        assert served.dormant(run).get().reason == "sleeping_until"
    wait_for(lambda: served.in_memory() == 0, "them to leave memory")
    for run in runs:
        assert run.result(timeout=10) == "rested"
        assert served.entered(run) == Entries(2), "it was evicted, and entered again when it woke"
        assert served.stage.ledger.count("before", run.run_id) == {"first": 1, "last": 1}
        late = slept(run) - NAP_SECONDS
        assert 0 <= late < LATE_SECONDS_MAX
        figure(f"a dormant run woke {late * 1000:.0f} ms late")


def test_branches_that_sleep_at_their_own_pace(served: Served) -> None:
    run = served.client.start("sleeps_often", 3)
    assert run.result(timeout=15) == [3, 3]
    assert set(served.stage.ledger.count("before", run.run_id).values()) == {1}
    assert len(served.stage.ledger.count("before", run.run_id)) == 6


# ---- waking


def test_an_event_wakes_a_dormant_run(served: Served) -> None:
    run = served.dormant(served.client.start("waits", {"event": "wake", "n": 1}))
    served.client.send("wake", {"n": 1})
    assert run.result(timeout=10) == {"n": 1}
    assert served.entered(run) == Entries(2)


def test_the_end_of_its_child_wakes_a_dormant_run(served: Served) -> None:
    run = served.dormant(served.client.start("waits_for_child", NAP_SECONDS))
    (step,) = run.get(steps=True).steps
    child = served.dormant(served.client.handle(step.child_run_id))
    assert run.result(timeout=10) == "rested"
    assert served.entered(run) == Entries(2)
    assert served.entered(child) == Entries(2)


def test_cancelling_a_dormant_run_reaches_its_closures(served: Served) -> None:
    run = served.dormant(served.client.start("rests_and_is_undone"))
    run.cancel(undo=True)
    with pytest.raises(RunCancelled):
        run.result(timeout=10)
    assert served.stage.ledger.count("after", run.run_id) == {"reserve": 1, "reserve#undo": 1}


def test_starting_again_with_the_key_of_a_dormant_run_names_it(served: Served) -> None:
    run = served.dormant(served.client.start("waits", {"event": "wake", "n": 2}, id="the waiter"))
    again = served.client.start("waits", {"event": "wake", "n": 2}, id="the waiter")
    assert again.existing and again.run_id == run.run_id
    assert run.status() is RunState.WAITING
    served.client.send("wake", {"n": 2})
    assert again.result(timeout=10) == {"n": 2}


# ---- kill -9


@pytest.mark.timeout(60)
def test_two_hundred_dormant_runs_survive_a_kill_of_everything(stage: Stage, figure: Callable[[str], None]) -> None:
    """Nothing of them is read at the start. Half of them wake by time, the others by one event."""
    served = Served.on(stage, live_idle=LIVE_IDLE, adoption_grace=0.5)
    client, engine = served.client, served.engine
    waiters = [client.start("waits", {"event": "morning", "n": 1}) for _ in range(WAITERS)]
    sleepers = [client.start("sleeps", SLEEP_SECONDS) for _ in range(SLEEPERS)]

    def waiting() -> int:
        return sum(1 for _ in client.list(states=[RunState.WAITING]))

    wait_for(lambda: waiting() == SLEEPERS + WAITERS, "all runs to be dormant")
    assert served.in_memory() == 0
    engine.kill()
    served.host.kill()
    engine.start()
    assert "took over" not in engine.running.said
    assert served.in_memory() == 0 and waiting() == SLEEPERS + WAITERS
    stage.host(engine, "new", flows="event_flows")
    client.send("morning", {"n": 1})
    assert [run.result(timeout=20) for run in waiters] == [{"n": 1}] * WAITERS
    assert [run.result(timeout=20) for run in sleepers] == ["rested"] * SLEEPERS
    late = [slept(run) - SLEEP_SECONDS for run in sleepers]
    assert min(late) >= 0
    begun = Counter((line.run_id, line.path) for line in stage.ledger.refresh() if line.event == "before")
    assert set(begun.values()) == {1} and len(begun) == WAITERS + 2 * SLEEPERS
    entered = Counter(line.run_id for line in stage.ledger.lines if line.event == "body")
    assert all(times == Entries(2) for times in entered.values())
    figure(
        f"{WAITERS + SLEEPERS} dormant runs survived kill -9 of engine and host; engine ready after "
        f"{engine.start_seconds:.2f} s; sleepers woke at most {max(late) * 1000:.0f} ms late"
    )


@pytest.mark.timeout(60)
def test_kills_while_runs_go_to_rest_and_wake(stage: Stage, rng: random.Random, figure: Callable[[str], None]) -> None:
    """Every run sleeps and wakes several times in two branches; the engine is killed at random points of that."""
    served = Served.on(stage, live_idle=0.05)
    runs = [served.client.start("sleeps_often", NAPS) for _ in range(NAPPERS)]
    for _ in range(KILLS):
        time.sleep(rng.uniform(0, PAUSE_MS_MAX) / 1000)  # gate: the kill's own random moment
        served.engine.kill()
        served.engine.start()
    assert [run.result(timeout=20) for run in runs] == [[sum(range(NAPS))] * 2] * NAPPERS
    begun = Counter((line.run_id, line.path) for line in stage.ledger.refresh() if line.event == "before")
    assert set(begun.values()) == {1} and len(begun) == 2 * NAPS * NAPPERS
    entered = sum(served.entered(run) for run in runs)
    figure(
        f"{KILLS} kills while {NAPPERS} runs slept {2 * NAPS} times each: steps once, bodies entered {entered} times"
    )
