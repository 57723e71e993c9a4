"""Runs that stop: the time of their attempts, engines that die and commits that are refused meanwhile (MISSION S8)."""

from __future__ import annotations

from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import FlowOptions, Purpose, RejectReason
from stepwire.protocol.plan import BodyEnded, RetryPolicy, Sleep, StepKind, StepPlanned, Undo
from stepwire_engine.core.books import Now
from stepwire_engine.core.entries import AttemptEnded
from tests.session.desk import REFUSED, Desk, Host, advances, running, task

BROKEN = Failure(ErrorCode.USER_ERROR, "ValueError", "broken", retryable=Retryable.NO)
ONCE = RetryPolicy(max_attempts=1)
BY_WORK = Undo(StepKind.TASK, "work", retry=ONCE)
BY_CLOSURE = Undo(retry=ONCE)


def booked(desk: Desk, host: Host, undo: Undo = BY_WORK) -> None:
    """A step is done and can be undone, another one is executing."""
    host.plan(task("done", undo=undo))
    desk.settle()
    host.ok("done")
    desk.settle()
    host.plan(task("busy"))
    desk.settle()
    host.take()


def cancelling(undo: Undo = BY_WORK) -> tuple[Desk, Host]:
    """A run that is to be undone once the attempt of `busy` has stopped."""
    desk, host = running()
    booked(desk, host, undo)
    cancel(desk)
    desk.settle()
    host.take()
    assert desk.core.runs["r"].leased == 1
    return desk, host


def cancel(desk: Desk) -> None:
    desk.core.cancel_run("c", "r", True, desk.now)


def paths(host: Host) -> list[str]:
    return [e.path for e in host.executes()]


# ---- attempts that have to stop


def test_the_deadline_of_a_run_that_stops_already_does_not_shorten_the_time_its_attempts_have() -> None:
    desk = Desk()
    host = desk.host(flow_options=(FlowOptions("flow", deadline=5.0),))
    desk.start()
    desk.settle()
    booked(desk, host)
    desk.pass_time(4.0)
    cancel(desk)
    desk.settle()
    host.take()
    desk.pass_time(3.0)
    assert paths(host) == [], "busy may still change what the undo changes"
    desk.pass_time(desk.config.stop_grace)
    assert paths(host) == ["done#undo"]


def test_a_run_that_was_cancelled_before_its_engine_died_is_undone_by_the_next_one() -> None:
    desk, host = cancelling()
    desk.restart()
    host.cut()
    other = desk.host("other")
    desk.pass_time(desk.config.adoption_grace + 1.0)
    assert paths(other) == ["done#undo"]
    other.ok("done#undo")
    desk.settle()
    assert desk.run_state() == "CANCELLED"


def test_an_attempt_that_was_told_to_stop_is_waited_for_by_the_next_engine_as_well() -> None:
    desk, host = cancelling()
    desk.restart()
    host.connect()
    desk.settle()
    sections = host.take()
    assert [c.path for s in sections for c in s.cancels] == ["busy"]
    assert not any(s.executes for s in sections), "it has not stopped"
    host.failed("busy", code=ErrorCode.CANCELLED)
    desk.settle()
    assert paths(host) == ["done#undo"]


def test_the_next_engine_does_not_wait_for_ever_for_an_attempt_that_does_not_stop() -> None:
    desk, host = cancelling()
    desk.restart()
    host.connect()
    desk.settle()
    desk.pass_time(desk.config.stop_grace - 1.0)
    assert paths(host) == []
    desk.pass_time(2.0)
    assert paths(host) == ["done#undo"]


def test_a_cancellation_while_hosts_are_awaited_waits_for_the_attempts_they_may_have() -> None:
    desk, host = running()
    booked(desk, host)
    other = desk.host("other")
    desk.restart()
    other.connect()
    desk.settle()
    cancel(desk)
    desk.settle()
    assert paths(other) == [], "nobody knows yet whether busy is executing"
    host.connect()
    desk.settle()
    assert [c.path for s in host.take() for c in s.cancels] == ["busy"]
    host.failed("busy", code=ErrorCode.CANCELLED)
    desk.settle()
    assert len(paths(host) + paths(other)) == 1


def test_an_attempt_that_its_host_never_had_is_not_waited_for() -> None:
    desk, host = cancelling()
    fence = host.session.attempt_fence("r", "busy")
    assert fence is not None
    del host.session._attempts["r", "busy"]
    desk.pass_time(5.0)
    assert paths(host) == ["done#undo"], "its report says that it has none"


def test_a_refused_commit_of_the_undo_plan_is_made_again_without_anybody_asking() -> None:
    desk, host = cancelling()
    desk.held = True
    desk.pass_time(desk.config.stop_grace + 0.5)
    assert desk.commit(receipt=REFUSED) >= 1
    desk.held = False
    desk.settle()
    host.connect()
    desk.settle()
    desk.pass_time(desk.config.stop_grace + 1.0)
    assert "UndoPlanned" in desk.kinds
    assert paths(host)[-1:] == ["done#undo"]


def test_the_deadline_of_a_run_holds_although_the_wall_clock_lags_behind() -> None:
    desk = Desk()
    desk.host(flow_options=(FlowOptions("flow", deadline=5.0),))
    desk.start()
    desk.settle()
    desk.mono += 5.0
    desk.core.tick(Now(desk.mono, desk.now.unix_ms - 20))
    desk.settle()
    assert desk.run_state() != "FAILED", "it has not come by the clock that records are written by"
    desk.pass_time(0.03)
    assert desk.run_state() == "FAILED", "and is not forgotten for that"


# ---- before the commit


def test_no_body_is_entered_to_be_undone_before_the_cancellation_is_durable() -> None:
    desk, host = running()
    host.plan(StepPlanned("a", started=True, undo=BY_CLOSURE), start=("a",))
    host.ok("a")
    desk.settle()
    host.take()
    desk.held = True
    cancel(desk)
    host.plan(StepPlanned("late"))
    desk.settle()
    assert advances(host.take()) == []
    desk.held = False
    desk.settle()
    (advance,) = advances(host.take())
    assert advance.purpose is Purpose.UNDO


def test_a_body_that_is_being_read_when_its_run_is_cancelled_is_not_entered_for_undo_before_that_is_durable() -> None:
    desk, host = running()
    host.plan(StepPlanned("a", started=True, undo=BY_CLOSURE), start=("a",))
    host.ok("a")
    desk.settle()
    host.session.give_back("r", host.seqs["r"][0])
    desk._from_hosts()
    desk.held = True
    cancel(desk)
    desk.settle()
    assert all(advance.purpose is Purpose.RUN for advance in advances(host.take()))


def test_the_next_undo_begins_after_the_commit_of_the_one_before() -> None:
    desk, host = running()
    desk.host("never back")
    for path in ("a", "b"):
        host.plan(task(path, undo=BY_WORK))
        desk.settle()
        host.ok(path)
        desk.settle()
    host.plan(body_ended=BodyEnded(None, BROKEN))
    desk.settle()
    desk.restart()
    host.connect()
    desk.settle()
    host.take()
    desk.held = True
    host.ok("b#undo")
    desk.pass_time(desk.config.adoption_grace + 1.0)
    assert paths(host) == [], "what the other host may have is free now, but b is not undone for sure"
    desk.held = False
    desk.settle()
    assert paths(host) == ["a#undo"]


def test_a_cancellation_that_comes_too_late_is_refused_when_that_is_durable() -> None:
    desk, host = running("a")
    desk.held = True
    host.end()
    desk.settle()
    cancel(desk)
    desk.settle()
    assert [r for r in desk.replies if r.token == "c"] == []
    desk.commit(receipt=REFUSED)
    desk.settle()
    (reply,) = [r for r in desk.replies if r.token == "c"]
    assert reply.code is ErrorCode.STORE_UNAVAILABLE, "the end was refused, so the run can be cancelled"


# ---- bodies under undo


def test_an_undo_that_kills_its_host_is_recorded_as_failed_and_the_others_go_on() -> None:
    desk, host = running()
    host.plan(task("t", undo=BY_WORK))
    desk.settle()
    host.ok("t")
    desk.settle()
    host.plan(StepPlanned("a", started=True, undo=BY_CLOSURE), start=("a",))
    host.ok("a")
    desk.settle()
    host.plan(body_ended=BodyEnded(None, BROKEN))
    desk.settle()
    for number in range(desk.config.attempts_lost_max):
        assert host.holds("a#undo")
        other = desk.host(f"host {number}")
        host.cut()
        desk.pass_time(4.0)
        host = other
    assert desk.run_state() == "RUNNING"
    ended = {e.path: e.failure for e in desk.rows.entries() if isinstance(e, AttemptEnded)}
    assert ended["a#undo"] is not None and ended["a#undo"].code is ErrorCode.POISON_STEP
    assert paths(host)[-1] == "t#undo"
    host.ok("t#undo")
    desk.settle()
    assert desk.run_state() == "FAILED"


def test_a_body_that_kills_its_hosts_while_it_is_replayed_for_undo_leaves_its_closures_unreachable() -> None:
    desk, host = running()
    host.plan(StepPlanned("a", started=True, undo=BY_CLOSURE), start=("a",))
    host.ok("a")
    desk.settle()
    host.plan(body_ended=BodyEnded(None, BROKEN))
    desk.settle()
    host.take()
    for number in range(desk.config.attempts_lost_max):
        other = desk.host(f"host {number}", slots=0)
        host.cut()
        desk.pass_time(4.0)
        host = other
    ended = {e.path: e.failure for e in desk.rows.entries() if isinstance(e, AttemptEnded)}
    assert ended["a#undo"] is not None and ended["a#undo"].code is ErrorCode.UNDO_UNREACHABLE
    assert desk.run_state() == "FAILED"


def test_the_last_host_may_be_lost_during_an_undo() -> None:
    desk, host = running()
    host.plan(StepPlanned("a", started=True, undo=BY_CLOSURE), start=("a",))
    host.ok("a")
    desk.settle()
    host.plan(body_ended=BodyEnded(None, BROKEN))
    desk.settle()
    host.cut()
    desk.pass_time(60.0)
    other = desk.host("other")
    sections = other.take()
    assert [a.purpose for a in advances(sections)] == [Purpose.UNDO]
    assert [e.path for s in sections for e in s.executes] == ["a#undo"]
    other.ok("a#undo")
    desk.settle()
    assert desk.run_state() == "FAILED"


def test_an_undo_of_a_cancelled_run_goes_on_in_its_body_when_the_engine_restarts() -> None:
    desk, host = running()
    host.plan(StepPlanned("a", started=True, undo=BY_CLOSURE), start=("a",))
    host.ok("a")
    desk.settle()
    cancel(desk)
    desk.settle()
    assert host.holds("a#undo")
    host.take()
    desk.restart()
    host.connect()
    desk.settle()
    desk.pass_time(1.0)
    sections = host.take()
    assert advances(sections) == [] and not any(s.evict for s in sections)
    host.ok("a#undo")
    desk.settle()
    assert desk.run_state() == "CANCELLED" and host.session.bodies == 0


def test_a_body_that_was_cancelled_where_it_stood_is_evicted_by_the_next_engine() -> None:
    desk, host = running()
    host.plan(StepPlanned("a", started=True, undo=BY_CLOSURE), start=("a",))
    host.ok("a")
    desk.settle()
    host.take()
    host.cut()
    cancel(desk)
    desk.settle()
    desk.restart()
    host.connect()
    desk.settle()
    sections = host.take()
    assert any(s.evict for s in sections)
    desk.pass_time(1.0)
    assert [a.purpose for a in advances(sections + host.take())] == [Purpose.UNDO]


# ---- a refused commit between others


def test_a_run_whose_refused_row_had_no_entries_is_read_again_although_its_next_row_was_committed() -> None:
    desk = Desk()
    host = desk.host()
    desk.start()
    desk.settle()
    host.plan(StepPlanned("nap", StepKind.SLEEP, spec=Sleep(600.0)))
    desk.settle()
    desk.held = True
    desk.pass_time(desk.config.live_idle + 1.0)
    assert any(commit.turn is not None and commit.turn.rests for commit in desk.in_flight)
    while not desk.in_flight[0].turn:
        desk.commit(1)
    cancel(desk)
    desk.commit(1, REFUSED)
    desk.held = False
    desk.settle()
    assert desk.run_state() == "CANCELLED"
    assert desk.core._books.broken == {}


def test_a_host_that_dropped_a_kept_body_enters_it_again_for_its_undos() -> None:
    desk, host = running()
    host.plan(StepPlanned("a", started=True, undo=BY_CLOSURE), start=("a",))
    host.ok("a")
    desk.settle()
    host.take()
    host.plan(body_ended=BodyEnded(None, BROKEN))
    desk.settle()
    (execute,) = host.executes()
    fence = host.seqs["r"][0]
    host.session._evict("r", fence)
    host.session.reject("r", execute, RejectReason.NO_BODY)
    desk.settle()
    sections = host.take()
    (advance,) = advances(sections)
    assert advance.purpose is Purpose.UNDO and advance.fence > fence
    assert [e.path for s in sections for e in s.executes] == ["a#undo"]
    host.ok("a#undo")
    desk.settle()
    assert desk.run_state() == "FAILED" and host.session.bodies == 0


def test_an_undo_whose_turn_comes_after_an_engine_restart_waits_for_no_host() -> None:
    """Nobody can have begun it before, so nobody has to be asked."""
    desk, host = running()
    desk.host("never back")
    for path in ("a", "b"):
        host.plan(task(path, undo=BY_WORK))
        desk.settle()
        host.ok(path)
        desk.settle()
    host.plan(body_ended=BodyEnded(None, BROKEN))
    desk.settle()
    host.take()
    desk.restart()
    host.connect()
    desk.settle()
    host.ok("b#undo")
    desk.settle()
    assert desk.core.adopting and paths(host) == ["a#undo"]
