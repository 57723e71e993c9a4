"""Sleeps: durable, for any time, without a slot (MISSION S17)."""

from __future__ import annotations

import pytest

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import BodyFailed
from stepwire.protocol.payload import NULL
from stepwire.protocol.plan import ParallelMode, Sleep, StepKind, StepPlanned
from stepwire_engine.core.entries import AttemptEnded
from tests.core.given import group
from tests.session.desk import WALL, Desk, Host, advances, running

DAY = 86_400.0
YEAR = 365 * DAY


def sleeping(path: str, seconds: float | None = None, *, until_ms: int | None = None) -> StepPlanned:
    return StepPlanned(path, StepKind.SLEEP, spec=Sleep(seconds, until_ms))


def released(host: Host) -> list[str]:
    return [outcome.path for release in host.releases() for outcome in release.outcomes]


def test_a_sleep_ends_when_its_time_has_come_and_not_before() -> None:
    desk, host = running(sleeping("nap", 5.0))
    desk.pass_time(4.9)
    assert released(host) == []
    desk.pass_time(0.1)
    (release,) = host.releases()
    (outcome,) = release.outcomes
    assert (outcome.path, outcome.output, outcome.failure, outcome.took_ms) == ("nap", NULL, None, 5000)


@pytest.mark.parametrize("past", [sleeping("nap", 0.0), sleeping("nap", until_ms=WALL)])
def test_a_sleep_into_the_past_ends_in_the_commit_of_its_plan(past: StepPlanned) -> None:
    desk, _ = running(past)
    assert [type(e).__name__ for e in desk.rows.entries()][-3:] == ["Planned", "AttemptEnded", "Released"]
    assert len(desk.rows.rows[1]) == 2


def test_a_sleep_until_a_time_of_the_wall_clock() -> None:
    desk, host = running()
    host.plan(sleeping("nap", until_ms=desk.now.unix_ms + 7000))
    desk.settle()
    desk.pass_time(6.9)
    assert released(host) == []
    desk.pass_time(0.2)
    assert released(host) == ["nap"]


def test_a_sleep_survives_the_engine_and_keeps_its_end() -> None:
    desk, host = running(sleeping("nap", 6.0))
    desk.pass_time(2.0)
    desk.restart()
    host.connect()
    desk.settle()
    desk.pass_time(3.5)
    assert released(host) == []
    desk.pass_time(1.0)
    assert released(host) == ["nap"]


def test_a_sleep_that_ended_while_the_engine_was_down_is_over_at_once() -> None:
    """Although hosts may still adopt what they execute: nobody executes a sleep."""
    desk, host = running(sleeping("nap", 6.0))
    host.cut(told=False)
    desk.mono += 100.0
    desk.restart()
    desk.core.tick(desk.now)
    desk.settle()
    assert desk.core.adopting
    assert [e.path for e in desk.rows.entries() if isinstance(e, AttemptEnded)] == ["nap"]


def test_a_sleep_holds_the_wave_of_its_group() -> None:
    desk, host = running(
        sleeping("g/[0]/nap", 5.0), "g/[1]/a", groups=(group("g", 2, ParallelMode.WAIT),), start=("g/[1]/a",)
    )
    host.ok("g/[1]/a")
    desk.settle()
    assert released(host) == []
    desk.pass_time(5.1)
    assert released(host) == ["g/[0]/nap", "g/[1]/a"]


def test_a_sleep_is_executed_by_nobody() -> None:
    desk, host = running(sleeping("nap", 5.0))
    other = desk.host("other")
    desk.pass_time(4.0)
    assert host.executes() == other.executes() == []
    assert all(not session.leases for session in desk.core.sessions.values())


def test_a_sleep_of_ten_years_needs_one_timer() -> None:
    desk, _ = running(sleeping("nap", 10 * YEAR))
    desk.pass_time(3.0)
    due = desk.core.next_timer()
    assert due == pytest.approx(desk.mono - 3.0 + 10 * YEAR, abs=1.0)


def test_a_thousand_sleeps_one_after_the_other() -> None:
    desk = Desk()
    host = desk.host()
    desk.start()
    desk.settle()
    for n in range(1000):
        host.plan(sleeping(f"s{n}", 2.0))
        desk.settle()
        desk.jump(2.0)
    host.end()
    desk.settle()
    assert desk.run_state() == "SUCCEEDED"
    assert released(host) == [f"s{n}" for n in range(1000)]


def test_a_sleep_that_ends_while_its_run_is_paused_is_released_when_it_goes_on() -> None:
    desk, host = running(sleeping("nap", 6.0))
    failure = Failure(ErrorCode.NON_DETERMINISTIC_FLOW, "NonDeterministicFlow", "went astray")
    host.session.fail_body("r", BodyFailed(host.seqs["r"][0], failure))
    desk.settle()
    desk.pass_time(3.0)
    desk.restart()
    host.connect()
    desk.settle()
    desk.pass_time(20.0)
    assert desk.run_state() == "PAUSED"
    desk.core.resume_run("t", "r", desk.now)
    desk.settle()
    desk.pass_time(0.5)
    (advance,) = [a for a in advances(host.take()) if a.start is not None]
    host.end()
    desk.settle()
    assert desk.run_state() == "SUCCEEDED" and advance.hold
