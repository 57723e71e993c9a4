"""The wall clock is set while the engine runs: what is due by it is neither early nor forgotten; leases do not care."""

from __future__ import annotations

import pytest

from stepwire.protocol.frames import FlowOptions
from stepwire.protocol.plan import Backoff, GroupOpened, RetryPolicy, Sleep, StepKind, StepPlanned, WaitEvent
from stepwire_engine.core.entries import AttemptEnded, GroupExpired, RunStopping
from tests.session.desk import CONFIG, REFUSED, Desk, running, task

HOUR = 3600.0


def awake(seconds: float) -> Desk:
    """A run that sleeps, beside a step that keeps it in memory."""
    desk, _ = running(StepPlanned("nap", StepKind.SLEEP, spec=Sleep(seconds)), task("a"))
    return desk


def ended(desk: Desk, path: str) -> list[AttemptEnded]:
    return [e for e in desk.rows.entries() if isinstance(e, AttemptEnded) and e.path == path]


def test_a_sleep_is_not_over_while_the_clock_that_was_set_back_says_so() -> None:
    desk = awake(10.0).set_clock(-60.0)
    desk.pass_time(60.0)
    assert ended(desk, "nap") == []
    desk.pass_time(10.5)
    assert len(ended(desk, "nap")) == 1


def test_a_sleep_whose_time_has_come_ends_when_the_clock_is_set_forward() -> None:
    """As it would be if the engine had been started then, and as dormant runs do."""
    desk = awake(HOUR).set_clock(HOUR + 1.0)
    desk.pass_time(CONFIG.reconcile_interval + 1.0)
    assert len(ended(desk, "nap")) == 1
    assert desk.core.take_repairs() == []


def test_a_clock_that_was_wrong_when_the_engine_started_delays_nothing_once_it_is_right() -> None:
    desk = awake(10.0)
    desk.set_clock(-HOUR).restart()
    desk.set_clock(HOUR)
    desk.pass_time(10.0 + CONFIG.reconcile_interval + 1.0)
    assert len(ended(desk, "nap")) == 1


@pytest.mark.parametrize("back", [0.0, 60.0])
def test_deadlines_of_steps_groups_and_runs_wait_for_the_clock_that_was_set_back(back: float) -> None:
    desk = Desk()
    host = desk.host(flow_options=(FlowOptions("flow", deadline=40.0),))
    desk.start()
    desk.settle()
    group = GroupOpened("g", 1, deadline=20.0)
    host.plan(task("a", deadline=10.0), task("g/[0]/b"), groups=(group,))
    desk.settle()
    begun_ms = desk.now.unix_ms
    desk.set_clock(-back)
    desk.pass_time(90.0 + back)
    entries = desk.rows.entries()
    (late,) = ended(desk, "a")
    (expired,) = [e for e in entries if isinstance(e, GroupExpired)]
    (stopping,) = [e for e in entries if isinstance(e, RunStopping)]
    assert [e.at_ms - begun_ms for e in (late, expired, stopping)] == [
        pytest.approx(seconds * 1000, abs=600) for seconds in (10.0, 20.0, 40.0)
    ]
    assert min(late.at_ms - 10_000, expired.at_ms - 20_000, stopping.at_ms - 40_000) >= begun_ms


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_no_lease_ends_because_somebody_sets_the_clock(seconds: float) -> None:
    desk, host = running("a")
    desk.set_clock(seconds)
    desk.pass_time(2 * CONFIG.silence_timeout)
    assert host.holds("a")
    assert desk.core.counters.attempts_lost.total() == 0


def test_an_event_that_was_due_is_not_forgotten_when_the_clock_is_set_back_before_it_is_delivered() -> None:
    desk, _ = running(StepPlanned("w", StepKind.WAIT_EVENT, spec=WaitEvent("paid")))
    desk.send("paid")
    desk.held = True
    desk.settle()
    desk.commit()  # The event is on record, and
    desk.settle()
    desk.commit(receipt=REFUSED)  # nobody could be told of it.
    desk.held = False
    desk.set_clock(-60.0)
    desk.pass_time(62.0)
    assert len(ended(desk, "w")) == 1


def test_a_retry_that_is_due_and_waits_for_a_slot_is_not_missed_when_the_clock_is_set_back() -> None:
    desk = Desk()
    host = desk.host(slots=1)
    desk.start()
    desk.settle()
    retry = RetryPolicy(max_attempts=3, backoff=Backoff.FIXED, delay=1.0)
    host.plan(task("a", retry=retry), task("b"))
    desk.settle()
    host.failed("a")
    desk.settle()
    desk.pass_time(3.0)
    assert desk.core.runs["r"].steps["a"].queued
    desk.set_clock(-60.0)
    desk.pass_time(CONFIG.reconcile_interval + 1.0)
    assert desk.core.counters.reconciled.total() == 0


def test_a_retry_of_a_closure_that_is_due_and_waits_for_its_body_is_not_missed_either() -> None:
    desk, host = running(StepPlanned("a", retry=RetryPolicy(max_attempts=3, backoff=Backoff.FIXED, delay=1.0)))
    host.failed("a")
    desk.settle()
    host.session.say_goodbye("leaves")
    desk.settle()
    desk.pass_time(3.0)
    desk.set_clock(-60.0)
    desk.pass_time(CONFIG.reconcile_interval + 1.0)
    assert desk.core.counters.reconciled.total() == 0
    assert desk.host("h2").holds("a") is False
    desk.pass_time(60.0)
    assert desk.hosts[-1].holds("a")
