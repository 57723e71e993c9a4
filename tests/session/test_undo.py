"""Compensation: what is undone, by whom, in which order, and what survives a crash in the middle (MISSION S8, O9)."""

from __future__ import annotations

import pytest

from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import BodyFailed, CancelReason, Purpose
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded, RetryPolicy, StepKind, StepPlanned, Undo
from stepwire_engine.core.entries import RunEnded, UndoPlanned
from tests.session.desk import Desk, Host, advances, running, task

BROKEN = Failure(ErrorCode.USER_ERROR, "ValueError", "broken", retryable=Retryable.NO)
ONCE = RetryPolicy(max_attempts=1)
BY_WORK = Undo(StepKind.TASK, "work", retry=ONCE)
BY_CLOSURE = Undo(retry=ONCE)


def closure(path: str, undo: Undo | None = BY_CLOSURE) -> StepPlanned:
    return StepPlanned(path, started=True, undo=undo)


def begin(host: Host, *steps: StepPlanned) -> None:
    """Plan steps; closures are started by the host itself."""
    started = tuple(s.path for s in steps if s.started)
    fence = host.seqs["r"][0]
    for path in started:
        assert host.session.start_all("r", (path,), fence, host.desk.mono)
    host.plan(*steps)
    host.desk.settle()


def fail(host: Host) -> None:
    host.plan(body_ended=BodyEnded(None, BROKEN))
    host.desk.settle()


def undone(desk: Desk) -> list[str]:
    return [e.path for e in desk.rows.entries() if type(e).__name__ == "AttemptEnded" and e.path.endswith("#undo")]


def three_done(order: tuple[str, ...] = ("c", "a", "b")) -> tuple[Desk, Host]:
    desk, host = running()
    begin(host, *(task(p, undo=BY_WORK) for p in "abc"))
    for path in order:
        host.ok(path, data=b'"%s"' % path.encode())
        desk.settle()
    host.take()
    return desk, host


def test_completed_steps_are_undone_one_after_the_other_the_last_first() -> None:
    desk, host = three_done(("c", "a", "b"))
    fail(host)
    seen = []
    for _ in range(3):
        (execute,) = host.executes()
        assert execute.undo is not None and execute.undo.failure == BROKEN
        assert (execute.kind, execute.name) == (StepKind.TASK, "work")
        seen.append((execute.path, execute.undo.output.data))
        assert desk.run_state() == "RUNNING"
        host.ok(execute.path)
        desk.settle()
    assert seen == [("b#undo", b'"b"'), ("a#undo", b'"a"'), ("c#undo", b'"c"')]
    assert desk.run_state() == "FAILED"


def test_a_failed_step_and_one_without_undo_are_not_undone() -> None:
    desk, host = running()
    begin(host, task("good", undo=BY_WORK), task("bad", undo=BY_WORK, retry=ONCE), task("plain"))
    host.failed("bad")
    host.ok("plain")
    host.ok("good")
    desk.settle()
    host.take()
    fail(host)
    (execute,) = host.executes()
    host.ok(execute.path)
    desk.settle()
    assert undone(desk) == ["good#undo"]
    assert desk.run_state() == "FAILED"


def test_a_run_that_succeeds_undoes_nothing() -> None:
    desk, host = three_done()
    host.end()
    desk.settle()
    assert desk.run_state() == "SUCCEEDED"
    assert "UndoPlanned" not in desk.kinds


def test_an_undo_that_fails_does_not_stop_the_others() -> None:
    desk, host = three_done(("a", "b", "c"))
    fail(host)
    for path in ("c#undo", "b#undo", "a#undo"):
        (execute,) = host.executes()
        assert execute.path == path
        if path == "b#undo":
            host.failed(path)
        else:
            host.ok(path)
        desk.settle()
    assert desk.run_state() == "FAILED"
    failures = {e.path: e.failure for e in desk.rows.entries() if type(e).__name__ == "AttemptEnded"}
    assert failures["b#undo"] is not None and failures["a#undo"] is None


def test_an_undo_is_retried_by_its_own_policy() -> None:
    desk, host = running()
    begin(host, task("a", undo=Undo(StepKind.TASK, "work", RetryPolicy(max_attempts=2, delay=1.0, jitter=0.0))))
    host.ok("a")
    desk.settle()
    host.take()
    fail(host)
    assert [e.attempt for e in host.executes()] == [1]
    host.failed("a#undo")
    desk.settle()
    assert host.executes() == []
    desk.pass_time(1.5)
    assert [e.attempt for e in host.executes()] == [2]
    host.ok("a#undo", attempt=2)
    desk.settle()
    assert desk.run_state() == "FAILED"


def test_a_closure_is_undone_by_the_live_body_without_replay() -> None:
    desk, host = running()
    begin(host, closure("a"))
    host.ok("a")
    desk.settle()
    host.take()
    fail(host)
    sections = host.take()
    assert advances(sections) == []
    (execute,) = [e for s in sections for e in s.executes]
    assert (execute.path, execute.kind) == ("a#undo", StepKind.RUN)
    host.ok("a#undo")
    desk.settle()
    assert desk.run_state() == "FAILED"
    assert any(s.evict is not None for s in host.take()), "the body was kept for its closures and goes now"


def test_a_closure_of_a_lost_body_is_reached_by_replay_for_undo() -> None:
    desk, host = running()
    begin(host, closure("a"))
    host.ok("a")
    desk.settle()
    fail(host)
    other = desk.host("other")
    host.cut()
    desk.pass_time(4.0)
    sections = other.take()
    (advance,) = advances(sections)
    assert advance.purpose is Purpose.UNDO and advance.start is not None and advance.hold
    assert [type(e).__name__ for e in advance.entries] == ["Plan", "Release", "Plan"]
    (execute,) = [e for s in sections for e in s.executes]
    assert execute.path == "a#undo" and execute.undo is not None and execute.undo.output == Payload(b"1")
    other.ok("a#undo")
    desk.settle()
    assert desk.run_state() == "FAILED"


def test_a_body_that_cannot_be_replayed_leaves_its_closures_recorded_as_unreachable_and_undoes_the_rest() -> None:
    desk, host = running()
    begin(host, task("t", undo=BY_WORK), closure("a"))
    host.ok("t")
    host.ok("a")
    desk.settle()
    host.take()
    fail(host)
    host.session.fail_body("r", BodyFailed(host.seqs["r"][0], BROKEN))
    desk.settle()
    (execute,) = [e for e in host.executes() if e.path == "t#undo"]
    host.ok(execute.path)
    desk.settle()
    ended = {e.path: e.failure for e in desk.rows.entries() if type(e).__name__ == "AttemptEnded"}
    assert ended["a#undo"] is not None and ended["a#undo"].code is ErrorCode.UNDO_UNREACHABLE
    assert ended["t#undo"] is None
    assert desk.run_state() == "FAILED"


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_engine_that_dies_during_undo_goes_on_where_it_was(after: int) -> None:
    desk, host = three_done(("a", "b", "c"))
    fail(host)
    for path in ("c#undo", "b#undo", "a#undo")[:after]:
        host.ok(path)
        desk.settle()
    desk.restart()
    host.connect()
    desk.settle()
    desk.pass_time(1.0)
    for _ in range(3 - after):
        host.ok(_present(desk))
        desk.settle()
    assert undone(desk) == ["c#undo", "b#undo", "a#undo"]
    assert desk.run_state() == "FAILED"
    assert desk.kinds.count("UndoPlanned") == 1


def _present(desk: Desk) -> str:
    run = desk.core.runs["r"]
    return run.undos[run.undone].path


def test_cancel_stops_the_attempts_first_and_undoes_only_if_asked() -> None:
    desk, host = running()
    begin(host, task("done", undo=BY_WORK), task("busy"))
    host.ok("done")
    desk.settle()
    host.take()
    desk.core.cancel_run("c", "r", True, desk.now)
    desk.settle()
    sections = host.take()
    cancels = [c for s in sections for c in s.cancels]
    assert [(c.path, c.reason) for c in cancels] == [("busy", CancelReason.RUN_CANCELLED)]
    assert not any(s.executes for s in sections), "an attempt in progress may still change what an undo changes"
    host.failed("busy", code=ErrorCode.CANCELLED)
    desk.settle()
    (execute,) = host.executes()
    assert execute.path == "done#undo" and execute.undo is not None and execute.undo.failure is None
    host.ok("done#undo")
    desk.settle()
    assert desk.run_state() == "CANCELLED"


def test_the_undo_of_a_cancelled_run_waits_no_longer_than_the_stop_grace() -> None:
    desk, host = running()
    begin(host, task("done", undo=BY_WORK), task("busy"))
    host.ok("done")
    desk.settle()
    host.take()
    desk.core.cancel_run("c", "r", True, desk.now)
    desk.settle()
    desk.pass_time(desk.config.stop_grace - 1.0)
    assert host.executes() == []
    desk.pass_time(2.0)
    assert [e.path for e in host.executes()] == ["done#undo"]


def test_cancel_without_undo_ends_in_one_commit_and_frees_the_key() -> None:
    desk = Desk()
    host = desk.host()
    desk.start(key="k")
    desk.settle()
    host.plan(task("busy", undo=BY_WORK))
    desk.settle()
    host.take()
    desk.core.cancel_run("c", "r", None, desk.now)
    desk.settle()
    assert desk.run_state() == "CANCELLED"
    ended = [e for e in desk.rows.entries() if isinstance(e, RunEnded)]
    assert ended[0].failure is None
    sections = host.take()
    assert [c.path for s in sections for c in s.cancels] == ["busy"]
    assert any(s.evict is not None for s in sections)
    assert desk.replies[-1].code is None
    desk.start("again", key="k", payload=Payload(b"other"))
    desk.settle()
    assert desk.replies[-1].code is None and not desk.replies[-1].existing


def test_a_plan_after_the_cancellation_is_refused_and_changes_nothing() -> None:
    desk, host = running()
    begin(host, task("done", undo=BY_WORK), task("busy"))
    host.ok("done")
    desk.settle()
    desk.core.cancel_run("c", "r", True, desk.now)
    host.plan("late")
    desk.settle()
    assert "late" not in desk.core.runs["r"].steps


def test_a_pending_run_can_be_cancelled() -> None:
    desk = Desk()
    desk.start()
    desk.settle()
    desk.core.cancel_run("c", "r", None, desk.now)
    desk.settle()
    assert desk.run_state() == "CANCELLED"


def test_a_paused_run_can_be_cancelled_and_is_undone() -> None:
    desk, host = running()
    begin(host, task("done", undo=BY_WORK))
    host.ok("done")
    desk.settle()
    host.session.fail_body("r", BodyFailed(host.seqs["r"][0], BROKEN))
    desk.settle()
    assert desk.run_state() == "PAUSED"
    host.take()
    desk.core.cancel_run("c", "r", True, desk.now)
    desk.settle()
    assert [e.path for e in host.executes()] == ["done#undo"]
    host.ok("done#undo")
    desk.settle()
    assert desk.run_state() == "CANCELLED"


def test_cancelling_twice_is_no_error_and_an_ended_run_cannot_be_cancelled() -> None:
    desk, host = running()
    begin(host, task("done", undo=BY_WORK), task("busy"))
    host.ok("done")
    desk.settle()
    desk.core.cancel_run("1", "r", True, desk.now)
    desk.core.cancel_run("2", "r", True, desk.now)
    desk.settle()
    assert [r.code for r in desk.replies[-2:]] == [None, None]
    assert desk.kinds.count("RunStopping") == 1


def test_the_flow_can_cancel_its_own_run() -> None:
    desk, host = running()
    host.plan(body_ended=BodyEnded(cancelled=True))
    desk.settle()
    assert desk.run_state() == "CANCELLED"


def test_undo_order_is_that_of_the_journal_also_for_results_of_one_frame() -> None:
    desk, host = running()
    begin(host, *(task(p, undo=BY_WORK) for p in "abc"))
    for path in ("b", "c", "a"):
        host.ok(path)
    desk.settle()
    fail(host)
    planned = [e for e in desk.rows.entries() if isinstance(e, UndoPlanned)]
    assert planned[0].paths == ("a", "c", "b")
