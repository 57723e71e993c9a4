"""Draining, both ways: who stops what and what goes on, one case each (MISSION P17, reliability P11)."""

from __future__ import annotations

import pytest

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import CancelReason, Drain, Result
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import RetryPolicy, StepPlanned
from tests.session.desk import CONFIG, Desk, Host, advances, running, task

DEADLINE = 60.0
LONG = CONFIG.silence_timeout + CONFIG.reconnect_grace + 5
"""Longer than a silent host lives."""


def draining_engine(*steps: str | StepPlanned) -> tuple[Desk, Host]:
    """These steps were in progress when the engine began to drain."""
    desk, host = running(*steps)
    desk.core.drain(DEADLINE, desk.now)
    desk.settle()
    return desk, host


def draining_host(*steps: str | StepPlanned) -> tuple[Desk, Host, Host]:
    """These steps were in progress on the first host when it began to drain; the second is idle."""
    desk, host = running(*steps)
    other = desk.host("other")
    host.session.drain(DEADLINE)
    desk.settle()
    return desk, host, other


def nothing_was_lost(desk: Desk) -> bool:
    return not {"AttemptLost", "BodyLost"} & set(desk.kinds)


# ---- the engine drains


def test_engine_pause_every_host_is_told_and_gets_nothing_new() -> None:
    desk, host = running("a")
    other = desk.host("other")
    desk.core.drain(DEADLINE, desk.now)
    desk.start("r2")
    desk.settle()
    assert [h.frames[-1].drain for h in (host, other)] == [Drain(DEADLINE)] * 2
    assert host.take() == [] and other.take() == []


def test_engine_pause_a_host_begins_nothing_by_itself_until_the_next_engine() -> None:
    desk, host = draining_engine("a")
    fence = host.seqs["r"][0]
    assert not host.session.start_all("r", ("b",), fence, desk.mono)
    host.plan("b")
    host.ok("a")
    desk.settle()
    desk.restart()
    host.connect()
    desk.settle()
    assert [e.path for e in host.executes()] == ["b"], "the next engine gives it"
    assert host.session.start_all("r", ("c",), fence, desk.mono)


def test_engine_ready_a_host_that_is_welcomed_meanwhile_is_told_as_well() -> None:
    desk, _ = running("a", task("t"))
    desk.held = True
    late = desk.host("late", connect=False).connect()
    desk.core.drain(DEADLINE, desk.now)
    desk.start("r2")
    desk.held = False
    desk.settle()
    assert late.session.connected and late.frames[0].drain is not None
    assert late.take() == [] and not late.session.start_all("r", ("x",), desk.core.runs["r"].body.fence, desk.mono)  # type: ignore[union-attr]


def test_engine_heartbeat_and_lease_extension_a_long_attempt_is_not_lost() -> None:
    desk, host = draining_engine("a")
    desk.pass_time(LONG)
    assert list(desk.core.sessions) == ["h/0"] and host.holds("a") and nothing_was_lost(desk)
    host.ok("a")
    desk.settle()
    assert "AttemptEnded" in desk.kinds and host.session.settled


def test_engine_new_connection_a_cut_host_returns_with_its_results() -> None:
    desk, host = draining_engine("a")
    host.cut()
    host.ok("a")
    host.connect()
    desk.settle()
    assert any(frame.welcome is not None and frame.drain is not None for frame in host.frames), "it is told again"
    assert desk.kinds.count("AttemptEnded") == 1 and host.session.settled
    assert desk.core.counters.executes == 1


def test_engine_forward_what_becomes_due_goes_out_with_the_next_engine() -> None:
    desk, host = running(StepPlanned("a", retry=RetryPolicy(3)))
    host.failed("a")
    desk.settle()
    desk.core.drain(DEADLINE, desk.now)
    desk.settle()
    desk.pass_time(5)
    assert host.executes() == []
    desk.restart()
    host.connect()
    desk.settle()
    assert [(e.path, e.attempt) for e in host.executes()] == [("a", 2)]


def test_engine_reply_and_ack_a_run_may_even_end() -> None:
    desk, host = draining_engine("a")
    host.ok("a")
    desk.settle()
    assert host.seqs["r"][1] == 1, "the release of `a`"
    host.end()
    desk.settle()
    assert desk.run_state() == "SUCCEEDED" and host.session.settled


def test_engine_goodbye_the_host_keeps_all_and_the_next_engine_repeats_nothing() -> None:
    desk, host = draining_engine("a", task("t"))
    desk.core.say_goodbye("stop")
    desk.settle()
    assert host.frames[-1].goodbye is not None
    host.ok("t")
    desk.restart()
    host.connect()
    desk.settle()
    host.ok("a")
    desk.settle()
    assert desk.core.counters.executes == 0 and nothing_was_lost(desk)
    assert desk.kinds.count("AttemptEnded") == 2


# ---- a host drains


def test_host_pause_what_waits_goes_to_others() -> None:
    desk, host, other = draining_host("a")
    desk.start("r2")
    desk.settle()
    (section,) = other.take()
    assert section.run_id == "r2" and host.take() == []
    assert not host.session.start_all("r", ("b",), host.seqs["r"][0], desk.mono)


def test_host_heartbeat_and_lease_extension_a_long_attempt_is_not_lost() -> None:
    desk, host, other = draining_host("a", task("t"))
    desk.pass_time(LONG)
    assert host.holds("a") and host.holds("t") and other.take() == [] and nothing_was_lost(desk)
    host.ok("t")
    desk.settle()
    assert "AttemptEnded" in desk.kinds


def test_host_new_connection_it_says_drain_again() -> None:
    desk, host, other = draining_host(task("t"))
    host.cut()
    host.connect()
    desk.settle()
    assert host.engine is not None and host.engine.draining
    host.plan(task("u"))
    desk.settle()
    assert [e.path for e in other.executes()] == ["u"]
    host.ok("t")
    desk.settle()
    assert desk.core.counters.executes == 2 and nothing_was_lost(desk)


def test_host_forward_a_step_under_way_when_it_began_goes_elsewhere_and_is_no_attempt() -> None:
    desk, host = running(task("t"))
    host.ok("t")
    desk.settle()
    other = desk.host("other", slots=1)
    host.plan(task("u"))
    desk._from_hosts()
    desk._commits()
    host.session.drain(DEADLINE)
    desk.settle()
    assert host.session.attempts == 0
    assert [(e.path, e.attempt) for e in other.executes()] == [("u", 1)]
    assert desk.core.runs["r"].stats.executes == 2


def test_host_reply_and_ack_results_count_until_goodbye() -> None:
    desk, host, other = draining_host("a", "b")
    host.ok("a")
    host.ok("b")
    desk.settle()
    assert host.session.settled and desk.kinds.count("AttemptEnded") == 2 and other.executes() == []


def test_host_hand_back_a_body_given_back_with_the_drain_is_not_given_to_it_again() -> None:
    desk, host = running("a")
    host.ok("a")
    desk.settle()
    other = desk.host("other")
    host.session.drain(DEADLINE)
    host.session.give_back("r", host.seqs["r"][0])
    desk.settle()
    assert len(advances(other.take())) == 1
    assert desk.core.counters.body_entries == 2, "one here, one there, none in between"
    assert nothing_was_lost(desk)


def test_host_hand_back_alone_its_body_waits_for_whoever_comes() -> None:
    """Otherwise the two would hand the body to and fro until the host is gone."""
    desk, host = running("a")
    host.ok("a")
    desk.settle()
    host.session.drain(DEADLINE)
    host.session.give_back("r", host.seqs["r"][0])
    desk.settle()
    assert desk.core.counters.body_entries == 1
    later = desk.host("later")
    assert len(advances(later.take())) == 1


def test_host_hand_back_an_attempt_goes_on_where_its_body_was() -> None:
    desk, host = running("a", task("t"))
    other = desk.host("other")
    host.session.drain(DEADLINE)
    host.session.give_back("r", host.seqs["r"][0])
    desk.settle()
    (advance,) = advances(other.take())
    assert advance.start is not None
    host.ok("t", data=b"7")
    desk.settle()
    (release,) = other.releases()
    assert [(o.path, o.held, o.output) for o in release.outcomes] == [("t", False, Payload(b"7"))]


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "still running"])
def test_host_goodbye_the_rest_begins_elsewhere_at_once_and_no_retry_is_charged(stopped: bool) -> None:
    once = RetryPolicy(1)
    desk, host, other = draining_host(StepPlanned("a", retry=once), task("t", retry=once))
    if stopped:
        cancelled = Failure(ErrorCode.CANCELLED, "Cancelled", f"drained: {CancelReason.DRAIN.name}")
        for path in ("a", "t"):
            fence = host.session.attempt_fence("r", path)
            assert fence is not None
            host.session.submit_result("r", Result(path, 1, fence, None, cancelled))
    host.session.say_goodbye("drained")
    desk.settle()
    sections = other.take()
    assert {(e.path, e.attempt) for s in sections for e in s.executes} == {("a", 1), ("t", 1)}
    assert nothing_was_lost(desk) and desk.rows.sessions.keys() == {"other/1"}
    other.ok("a")
    other.ok("t")
    desk.settle()
    assert desk.kinds.count("AttemptEnded") == 2


# ---- both at once


def test_both_drain_and_nothing_is_lost() -> None:
    """A whole site is restarted: the host leaves first, then the engine; both come again."""
    desk, host = draining_engine("a", task("t"))
    host.session.drain(DEADLINE)
    desk.settle()
    host.ok("a")
    host.session.say_goodbye("drained")
    desk.settle()
    desk.core.say_goodbye("stop")
    desk.settle()
    desk.restart()
    again = desk.host("again")
    sections = again.take()
    assert len(advances(sections)) == 1 and [e.path for s in sections for e in s.executes] == ["t"]
    again.ok("t")
    desk.settle()
    assert nothing_was_lost(desk) and desk.kinds.count("AttemptEnded") == 2


def test_outcomes_are_owed_until_they_are_acked_and_bodies_are_not() -> None:
    desk, host = running("a", "b")
    assert not host.session.owes_outcomes
    desk.held = True
    host.ok("a")
    assert host.session.owes_outcomes
    desk.settle()
    assert host.session.owes_outcomes
    desk.held = False
    desk.settle()
    assert not host.session.owes_outcomes
    host.cut()
    host.session.give_back("r", host.seqs["r"][0])
    assert not host.session.owes_outcomes and not host.session.settled
