"""Decide, commit, perform (LAW): nothing a host or client may rely on leaves before its commit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import BodyFailed, CancelReason, HostSection, RejectReason, Result
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    BranchEnded,
    BranchOutcome,
    Event,
    FailPolicy,
    GroupEnded,
    GroupOpened,
    ParallelMode,
    Plan,
    RetryPolicy,
    SendEvent,
    StepKind,
    StepPlanned,
    Undo,
    Verdict,
)
from stepwire_engine.core.entries import AttemptEnded, Planned, Released, RunPaused
from stepwire_engine.core.intake import Intake
from stepwire_engine.core.model import Run
from stepwire_engine.core.sessions import Session
from stepwire_engine.core.turn import Turn
from stepwire_engine.core.units import Receipt, UnitOutcome
from tests.session.desk import REFUSED, Desk, Host, running, task

FAILURE = Failure(ErrorCode.NON_DETERMINISTIC_FLOW, "NonDeterministicFlow", "went astray")
RACING = GroupOpened("g", 2, ParallelMode.RACE, FailPolicy.ALL, cancel_siblings=True)


def _welcome(desk: Desk, host: Host) -> None:
    host.cut()
    host.connect()


def _start(desk: Desk, host: Host) -> None:
    desk.start("r2", key="k")


def _plan(desk: Desk, host: Host) -> None:
    host.plan("b", task("t"))


def _plan_and_result(desk: Desk, host: Host) -> None:
    host.plan("b", start=("b",))
    host.ok("b")


def _release(desk: Desk, host: Host) -> None:
    host.ok("a")


def _end(desk: Desk, host: Host) -> None:
    host.end()


def _resume(desk: Desk, host: Host) -> None:
    desk.core.resume_run("token", "r", desk.now)


def _lost(desk: Desk, host: Host) -> None:
    host.cut()
    desk.mono += 4
    desk.core.tick(desk.now)


EFFECTS: list[tuple[Callable[[Desk, Host], None], Callable[[Desk, Host], bool]]] = [
    (_welcome, lambda desk, host: host.frames[-1].welcome is not None),
    (_start, lambda desk, host: desk.replies[-1].run_id == "r2"),
    (_plan, lambda desk, host: {e.path for e in host.executes()} == {"b", "t"}),
    (_plan_and_result, lambda desk, host: [r.outcomes[0].path for r in host.releases()] == ["b"]),
    (_release, lambda desk, host: [r.outcomes[0].path for r in host.releases()] == ["a"]),
    (_end, lambda desk, host: host.acked == 2),
]


@pytest.mark.parametrize(("act", "performed"), EFFECTS, ids=[a.__name__[1:] for a, _ in EFFECTS])
def test_an_effect_waits_for_its_commit(
    act: Callable[[Desk, Host], None], performed: Callable[[Desk, Host], bool]
) -> None:
    desk, host = running("a")
    desk.held = True
    frames, replies = len(host.frames), len(desk.replies)
    act(desk, host)
    desk.settle()
    assert desk.in_flight
    assert (len(host.frames), len(desk.replies)) == (frames, replies), "something left before the commit"
    assert desk.core.take_frames() == [] and desk.core.take_replies() == []
    desk.held = False
    desk.settle()
    assert performed(desk, host)


def test_the_losers_of_a_race_are_cancelled_with_the_commit_of_its_end_not_with_an_earlier_one() -> None:
    desk, host = running("g/[0]/a", "g/[1]/b", groups=(RACING,))
    host.ok("g/[0]/a")
    desk.settle()
    host.take()
    desk.held = True
    host.plan("other")
    desk.settle()
    host.plan(
        branches_ended=(BranchEnded("g/[0]", BranchOutcome.OK),), groups_ended=(GroupEnded("g", Verdict.OK, 1, (1,)),)
    )
    desk.settle()
    assert len(desk.in_flight) == 2
    desk.commit(1)
    desk.settle()
    assert [c for s in host.take() for c in s.cancels] == []
    desk.commit()
    desk.settle()
    assert [(c.path, c.reason) for s in host.take() for c in s.cancels] == [("g/[1]/b", CancelReason.RACE_LOST)]


def test_what_ends_in_the_frame_in_which_its_branch_loses_is_not_released() -> None:
    """The core performs the step with its plan; a later plan of the same frame ends the race without it."""
    desk, host = running("g/[0]/a", "g/[1]/b", groups=(RACING,), start=("g/[0]/a", "g/[1]/b"))
    host.ok("g/[0]/a")
    host.ok("g/[1]/b")
    desk.settle()
    released = len(host.releases())
    host.plan(StepPlanned("g/[1]/tell", StepKind.SEND_EVENT, spec=SendEvent((Event("done"),))))
    host.plan(
        branches_ended=(BranchEnded("g/[0]", BranchOutcome.OK),), groups_ended=(GroupEnded("g", Verdict.OK, 1, (1,)),)
    )
    desk.settle()
    assert released and host.releases() == []
    host.end()
    desk.settle()
    assert desk.run_state() == "SUCCEEDED"


def test_an_abandoned_attempt_is_told_that_it_was_abandoned() -> None:
    desk, host = running("a")
    host.plan(abandoned=("a",))
    desk.settle()
    assert [(c.path, c.reason) for s in host.take() for c in s.cancels] == [("a", CancelReason.ABANDONED)]


def test_a_body_that_failed_pauses_the_run_and_somebody_resumes_it() -> None:
    desk, host = running("a")
    fence = host.seqs["r"][0]
    host.session.fail_body("r", BodyFailed(fence, FAILURE))
    desk.settle()
    assert desk.run_state() == "PAUSED"
    desk.held = True
    desk.core.resume_run("token", "r", desk.now)
    desk.settle()
    assert not [r for r in desk.replies if r.token == "token"]
    assert [s for s in host.take() if s.advance] == []
    desk.held = False
    desk.settle()
    assert [r.code for r in desk.replies if r.token == "token"] == [None]
    (section,) = [s for s in host.take() if s.advance]
    assert section.advance is not None and section.advance.start is not None


def test_a_body_that_failed_pauses_the_run_also_if_it_gives_attempts_back_in_the_same_frame() -> None:
    """Reject(NO_BODY) means that the body is gone; it must not hide why."""
    desk, host = running()
    host.plan("a")
    desk.settle()
    (execute,) = host.executes()
    host.session.fail_body("r", BodyFailed(host.seqs["r"][0], FAILURE))
    host.session.reject("r", execute, RejectReason.NO_BODY)
    desk.settle()
    assert desk.run_state() == "PAUSED"
    assert desk.core.counters.body_entries == 1


# ---- acks


def test_acks_are_cumulative_and_wait_for_the_frames_before_them() -> None:
    desk, host = running("a", "b", "c")
    desk.start("r2")
    desk.settle()
    base = host.acked
    desk.held = True
    host.ok("a")
    desk.settle()
    host.plan("z", run_id="r2")
    desk.settle()
    assert host.session.unacked == 2
    # The second run's row is committed first; the frame before it is not settled.
    first, second = desk.in_flight
    desk.in_flight = []
    desk.core.committed([second], [desk.rows.commit(second)], desk.now)
    desk.settle()
    assert host.acked == base
    desk.core.committed([first], [desk.rows.commit(first)], desk.now)
    desk.settle()
    assert host.acked == base + 2
    assert host.session.unacked == 0


def test_a_frame_that_brings_nothing_new_is_acked_with_what_is_in_flight() -> None:
    desk, host = running("a")
    base = host.acked
    desk.held = True
    result = host.ok("a")
    desk.settle()
    host.session.submit_result("r", result)
    desk.settle()
    assert host.acked == base
    desk.held = False
    desk.settle()
    assert host.acked == base + 2
    assert desk.core.counters.repeated_results == 1


def test_a_frame_about_a_run_that_ended_is_acked_and_its_body_evicted() -> None:
    desk, host = running("a")
    fence = host.seqs["r"][0]
    host.end()
    desk.settle()
    assert desk.run_state() == "SUCCEEDED"
    host.session.submit_result("r", Result("a", 1, fence, Payload(b"late")))
    desk.settle()
    assert host.session.unacked == 0
    assert desk.core.counters.stale_results == 1


@pytest.mark.parametrize("undo", [False, True], ids=["the run is over", "the run is being undone"])
def test_what_a_host_began_for_a_plan_that_came_after_the_cancel_is_told_to_stop(undo: bool) -> None:
    desk, host = running()
    host.plan(StepPlanned("a", undo=Undo(StepKind.TASK, "work"), started=True), start=("a",))
    host.ok("a")
    desk.settle()
    host.take()
    host.plan("b", start=("b",))
    desk.core.cancel_run("cancel", "r", undo, desk.now)
    desk.settle()
    assert [(c.path, c.reason) for s in host.take() for c in s.cancels] == [("b", CancelReason.RUN_CANCELLED)]
    assert desk.run_state() == ("RUNNING" if undo else "CANCELLED")


# ---- refused commits


@pytest.mark.parametrize("receipt", [REFUSED, Receipt(UnitOutcome.SEQ_CONFLICT)], ids=["refused", "conflict"])
def test_after_a_refused_commit_the_host_sends_again_and_the_run_completes(receipt: Receipt) -> None:
    desk, host = running("a")
    desk.held = True
    host.ok("a")
    desk.settle()
    desk.commit(receipt=receipt)
    desk.settle()
    assert [f.code for f in host.faults] == [ErrorCode.STORE_UNAVAILABLE]
    assert host.session.unacked == 1
    desk.host("other")
    desk.held = False
    desk.settle()
    assert desk.core.counters.body_entries == 1, "what the host still holds is adopted, not given to another one"
    host.connect()
    desk.settle()
    assert host.session.unacked == 0
    assert [e.path for e in desk.rows.entries() if isinstance(e, AttemptEnded)] == ["a"]
    host.end()
    desk.settle()
    assert desk.run_state() == "SUCCEEDED"
    assert (desk.core.counters.body_entries, desk.core.counters.executes) == (1, 1)


def test_a_refused_commit_repeats_no_attempt_of_a_host_that_comes_back() -> None:
    desk, host = running("a", task("t"))
    other = desk.host("other", flows=())
    desk.held = True
    host.ok("a")
    desk.settle()
    desk.commit(receipt=REFUSED)
    desk.held = False
    desk.settle()
    assert other.take() == []
    host.connect()
    desk.settle()
    assert other.take() == [] and host.holds("t")
    assert [c for s in host.take() for c in s.cancels] == []
    host.ok("t")
    desk.settle()
    assert {p for e in desk.rows.entries() if isinstance(e, Released) for p in e.paths} == {"a", "t"}


def test_a_second_refusal_still_waits_for_the_hosts_of_the_first() -> None:
    desk, host = running("a", task("t"))
    worker = desk.host("worker", flows=())
    host.plan(task("u"))
    desk.settle()
    assert [e.path for e in worker.executes()] == ["u"]
    desk.held = True
    host.ok("a")
    desk.settle()
    desk.commit(receipt=REFUSED)
    desk.settle()
    assert worker.faults
    worker.ok("u")
    worker.connect()
    desk.commit(1)
    desk.settle()
    desk.commit(receipt=REFUSED)
    desk.held = False
    desk.settle()
    worker.connect()
    desk.settle()
    assert worker.take() == [] and desk.core.counters.executes == 3, "the first host may still come back"
    host.connect()
    desk.settle()
    assert desk.core.counters.executes == 3 and host.holds("t") and host.session.unacked == 0


def test_a_refused_commit_of_a_host_that_does_not_come_back_costs_its_grace() -> None:
    desk, host = running("a", task("t"))
    other = desk.host("other")
    desk.held = True
    host.ok("a")
    desk.settle()
    desk.commit(receipt=REFUSED)
    desk.held = False
    desk.settle()
    assert other.take() == []
    desk.pass_time(4)
    sections = other.take()
    assert {e.path for s in sections for e in s.executes} == {"a", "t"}
    assert [s for s in sections if s.advance] != []


def test_a_host_that_resumes_while_its_run_is_being_read_again_is_told_to_come_later() -> None:
    desk, host = running("a", "b")
    desk.held = True
    host.ok("a")
    desk.settle()
    desk.commit(receipt=REFUSED)
    desk._to_hosts()
    host.connect()
    desk.commit()
    desk._to_hosts()
    assert [f.code for f in host.faults] == [ErrorCode.STORE_UNAVAILABLE] * 2
    assert host.session.bodies == 1 and [c for s in host.take() for c in s.cancels] == []
    desk.held = False
    desk.settle()
    host.connect()
    desk.settle()
    assert desk.core.counters.body_entries == 1 and host.holds("b")


def test_a_refused_result_of_a_host_without_lease_or_body_is_not_lost() -> None:
    """The host of a registered step holds nothing of the run any more once its result is under way."""
    desk = Desk()
    body = desk.host("body", steps=())
    desk.start()
    desk.settle()
    worker = desk.host("worker", flows=())
    body.plan(task("t"))
    desk.settle()
    assert worker.holds("t")
    desk.held = True
    worker.ok("t", data=b"42")
    desk.settle()
    desk.commit(receipt=REFUSED)
    desk.held = False
    desk.settle()
    assert [f.code for f in worker.faults] == [ErrorCode.STORE_UNAVAILABLE], "it must send its result again"
    for host in (worker, body):
        host.connect()
    desk.settle()
    assert worker.session.unacked == 0
    assert not worker.holds("t"), "a finished attempt was executed again"
    assert "Released" in desk.kinds


def test_everything_decided_after_a_refused_commit_is_dropped_too() -> None:
    desk, host = running("a", "b")
    desk.held = True
    host.ok("a")
    desk.settle()
    host.ok("b")
    desk.settle()
    assert len(desk.in_flight) == 2
    rows = len(desk.rows.rows[1])
    desk.commit(1, REFUSED)
    desk.commit()
    assert len(desk.rows.rows[1]) == rows
    desk.held = False
    desk.settle()
    host.connect()
    desk.settle()
    assert {p for e in desk.rows.entries() if isinstance(e, Released) for p in e.paths} == {"a", "b"}


def test_a_refused_start_leaves_nothing() -> None:
    desk = Desk()
    host = desk.host()
    desk.held = True
    desk.start(key="k")
    desk.start("again", key="k")
    desk.settle()
    desk.commit(receipt=REFUSED)
    desk.held = False
    desk.settle()
    assert [r.code for r in desk.replies] == [ErrorCode.STORE_UNAVAILABLE] * 2
    assert desk.core.runs == {}
    assert desk.core.counters.runs_started.total() == 0
    desk.start("r3", key="k")
    desk.settle()
    assert [(r.run_id, r.existing) for r in desk.replies[2:]] == [("r3", False)]
    assert desk.core.counters.runs_started["flow"] == 1
    assert [s.run_id for s in host.take()] == ["r3"]


def test_a_refused_welcome_is_a_fault_and_the_next_stream_may_try() -> None:
    desk = Desk()
    desk.held = True
    host = desk.host()
    desk.commit(receipt=REFUSED)
    desk.held = False
    desk.settle()
    assert [f.code for f in host.faults] == [ErrorCode.STORE_UNAVAILABLE]
    host.connect()
    desk.settle()
    assert host.session.connected


def test_a_run_that_turns_out_to_have_ended_is_not_kept() -> None:
    """SEQ_CONFLICT: somebody else wrote the row; what the store says is true."""
    desk, host = running("a")
    desk.held = True
    host.end()
    desk.settle()
    (commit,) = desk.in_flight
    desk.in_flight = []
    desk.rows.commit(commit)
    desk.core.committed([commit], [Receipt(UnitOutcome.SEQ_CONFLICT)], desk.now)
    desk.held = False
    desk.settle()
    assert desk.core.runs == {}


# ---- starts


def test_an_idempotent_start_is_answered_with_the_first_one() -> None:
    desk = Desk()
    desk.host()
    desk.held = True
    desk.start("r", key="k")
    desk.start("other", key="k")
    desk.settle()
    assert desk.replies == []
    desk.held = False
    desk.settle()
    assert [(r.run_id, r.existing, r.code) for r in desk.replies] == [("r", False, None), ("r", True, None)]
    desk.start("third", key="k")
    desk.start("fourth", key="k", payload=Payload(b"other"))
    desk.settle()
    assert [(r.run_id, r.code) for r in desk.replies[2:]] == [("r", None), ("r", ErrorCode.KEY_CONFLICT)]
    assert list(desk.rows.rows) == [1]


def test_a_key_held_by_a_finished_run_is_left_to_the_shell() -> None:
    desk = Desk()
    desk.host()
    desk.held = True
    desk.start("r2", key="k")
    desk.settle()
    desk.commit(receipt=Receipt(UnitOutcome.KEY_TAKEN, existing_run="r1"))
    desk.held = False
    desk.settle()
    assert [r.key_taken_by for r in desk.replies] == ["r1"]
    assert desk.core.runs == {}


def test_an_unknown_flow_is_refused_by_name() -> None:
    desk = Desk()
    desk.start(flow="nobody")
    desk.settle()
    assert desk.replies[0].code is ErrorCode.UNKNOWN_FLOW
    assert "'nobody'" in desk.replies[0].message and "flow" in desk.replies[0].message


# ---- a body is given on only with all of its plans


def test_a_snapshot_holds_the_plans_that_were_under_way_when_the_body_was_given_back() -> None:
    desk, host = running("a")
    fence = host.seqs["r"][0]
    desk.held = True
    host.plan("b", "c")
    host.session.give_back("r", fence)
    desk.settle()
    assert [s for s in host.take() if s.advance] == []
    desk.held = False
    desk.settle()
    (section,) = [s for s in host.take() if s.advance]
    assert section.advance is not None
    planned = [s.path for p in section.advance.entries if isinstance(p, Plan) for s in p.steps]
    assert planned == ["a", "b", "c"]


def test_a_step_is_not_given_to_another_host_before_its_plan_is_committed() -> None:
    """The planning host says Goodbye together with its plan."""
    desk, host = running("a")
    other = desk.host("other", flows=())
    desk.held = True
    assert host.session.start_all("r", ("t",), host.seqs["r"][0], desk.mono)
    host.plan(task("t", started=True))
    host.session.say_goodbye("stop")
    desk.settle()
    assert other.executes() == []
    desk.held = False
    desk.settle()
    assert [e.path for e in other.executes()] == ["t"]
    assert [type(e) for e in desk.rows.entries()].count(Planned) == 2


def test_a_retry_waits_for_its_time_whatever_else_happens() -> None:
    desk, host = running(StepPlanned("a", retry=RetryPolicy(3, delay=5.0, jitter=0.0)))
    host.failed("a")
    desk.settle()
    desk.pass_time(4.5)
    assert host.executes() == []
    desk.pass_time(1.0)
    assert [(e.path, e.attempt) for e in host.executes()] == [("a", 2)]


def test_a_failure_of_the_core_pauses_its_run_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in the core quarantines that one run with a typed reason, never the frame (DESIGN 5)."""
    desk = Desk()
    host = desk.host()
    desk.start("bad")
    desk.start("good")
    desk.settle()
    whole = Intake.section

    def fails_on_bad(self: Intake, session: Session, run: Run, section: HostSection) -> Turn:
        if run.run_id == "bad":
            raise ZeroDivisionError("a fault of ours")
        return whole(self, session, run, section)

    monkeypatch.setattr(Intake, "section", fails_on_bad)
    host.plan("a", run_id="bad")
    host.end("good")
    desk.settle()
    assert desk.run_state("good") == "SUCCEEDED"
    assert desk.run_state("bad") == "PAUSED"
    ((run_id, error),) = desk.core.take_incidents()
    assert run_id == "bad" and isinstance(error, ZeroDivisionError)
    (paused,) = [e for e in desk.rows.entries(1) if isinstance(e, RunPaused)]
    assert paused.failure.code is ErrorCode.INTERNAL and "ours" not in paused.failure.message
    assert host.session.settled, "the host was acked and need not send it again"


def test_a_run_whose_journal_cannot_be_read_keeps_nobody_waiting() -> None:
    desk, host = running("a", task("t"))
    run = desk.core.runs["r"]
    desk.core.journal_unreadable(run, desk.now)
    host.ok("a")
    desk.settle()
    assert "r" not in desk.core.runs and host.session.settled and host.faults == []
