"""Defects that random histories found (`tests/simulation`), each in the shortest history that shows it."""

from __future__ import annotations

import msgspec
import pytest

from stepwire._replay.journal import BodyJournal, Kind
from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import Advance, BodyStart, EngineFrame, EngineSection
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    BodyEnded,
    BranchEnded,
    BranchOutcome,
    Event,
    Fence,
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
    WaitEvent,
)
from stepwire_engine.core.entries import AttemptEnded, Released
from stepwire_engine.core.reads import UndeliveredEvents
from stepwire_engine.scheduler.reader import answer_of
from stepwire_engine.store.base import RunState
from tests.session.desk import CONFIG, REFUSED, Desk, Host, running, task

DAY = 86_400.0
BROKEN = Failure(ErrorCode.USER_ERROR, "ValueError", "broken", retryable=Retryable.NO)
SLOW = RetryPolicy(max_attempts=3, delay=60.0, jitter=0.0)


def wait(path: str = "w", **how: object) -> StepPlanned:
    return StepPlanned(path, StepKind.WAIT_EVENT, spec=WaitEvent("paid", **how))  # type: ignore[arg-type]


def at_rest(*steps: StepPlanned, config: object = CONFIG) -> tuple[Desk, Host]:
    """A run that became dormant with these open steps."""
    desk = Desk(config=config)  # type: ignore[arg-type]
    host = desk.host()
    desk.start()
    desk.settle()
    host.plan(*steps)
    desk.settle()
    for step in steps:
        if step.kind is StepKind.TASK:
            host.failed(step.path)
    desk.settle().pass_time(CONFIG.live_idle + 1.0)
    assert "r" not in desk.core.runs
    host.take()
    return desk, host


def outcome(desk: Desk, path: str) -> AttemptEnded:
    (found,) = [e for e in desk.rows.entries() if isinstance(e, AttemptEnded) and e.path == path]
    return found


# ---- replay


def test_a_branch_that_ended_before_the_deadline_of_its_group_does_not_wait_for_those_that_lost_by_it() -> None:
    group = GroupOpened("g", 2, ParallelMode.RACE, deadline=1.0)
    ended = BranchEnded("g/[0]", BranchOutcome.OK)
    made = BodyJournal(Fence(2, 1))
    made.load(
        [
            Plan(1, 0, Fence(1, 1), (group,), (StepPlanned("g/[1]/a"),), branches_ended=(ended,)),
            Plan(2, 1, Fence(1, 1), steps=(StepPlanned("g/[1]/b"),)),
            Plan(3, 2, Fence(1, 1), groups_ended=(GroupEnded("g", Verdict.FAILED, 0, (1,)),)),
        ],
        complete=True,
    )
    made.decide(Kind.GROUP, "g", group)
    made.decide(Kind.STEP, "g/[1]/a", StepPlanned("g/[1]/a"))
    assert made.end_due("g") == 0, "b is planned only after a release that waits for this end"


# ---- facts and dormant runs


def test_events_that_wait_for_room_in_memory_come_before_those_after_them() -> None:
    """Facts about one run have an order; one that was put off for want of room must not be overtaken."""
    desk, host = at_rest(wait(), config=msgspec.structs.replace(CONFIG, runs_in_memory_max=1))
    desk.start("other")
    desk.settle()
    desk.send("paid", 1, id="first")
    desk.settle()
    host.end("other")
    desk.settle()
    desk.send("paid", 2, id="second")
    desk.settle().pass_time(3.0)
    taken = outcome(desk, "w").output
    assert taken is not None and msgspec.json.decode(taken.data)["id"] == "first"


def test_a_dormant_run_is_not_woken_by_an_event_that_is_older_than_its_wait() -> None:
    desk = Desk()
    host = desk.host()
    desk.start()
    desk.settle()
    desk.held = True
    desk.send("paid", 1, id="old")
    desk.commit()
    desk.mono += 1.0
    host.plan(wait())
    desk.held = False
    reads = desk.core.take_reads()  # Of the event's delivery; it takes until the run is dormant.
    desk.settle().pass_time(CONFIG.live_idle + 1.0)
    assert reads and "r" not in desk.core.runs
    for read in reads:
        desk.core.read_done(read, answer_of(desk.rows.store, read), desk.now)
    desk.settle()
    assert not [e for e in desk.rows.entries() if isinstance(e, AttemptEnded)]


def test_a_run_that_is_read_again_is_not_woken_a_second_time() -> None:
    desk, _ = at_rest(wait())
    desk.core.cancel_run("c", "r", False, desk.now)
    desk._loads()
    (stub,) = desk.core.take_loads()
    desk.core.journal_loaded(stub, desk.rows.journal(1), desk.now)
    desk.commit(receipt=REFUSED)
    (again,) = desk.core.take_loads()
    desk.core.cancel_run("c2", "r", False, desk.now)
    desk._loads()
    assert desk.core.take_loads() == [], "it is on its way into memory"
    desk.core.journal_loaded(again, desk.rows.journal(1), desk.now)
    desk.settle()
    codes = {reply.token: reply.code for reply in desk.replies}
    assert codes["c2"] is ErrorCode.STORE_UNAVAILABLE and desk.core.runs["r"].state is RunState.RUNNING


def test_nothing_of_a_woken_run_is_given_out_before_it_is_on_record_as_awake() -> None:
    """A restart does not read dormant runs, so nobody would adopt what their hosts execute."""
    desk, host = at_rest(task("t", retry=SLOW))
    desk.held = True
    for _ in range(8):
        desk.pass_time(10.0)
    assert host.executes() == [], "its record says that it is dormant"
    desk.held = False
    desk.commit()
    desk.settle()
    assert [(e.path, e.attempt) for e in host.executes()] == [("t", 2)]
    record = desk.rows.store.find_run("r")
    assert record is not None and record.state is RunState.RUNNING


def test_of_two_answers_about_a_broken_run_one_counts() -> None:
    """Its journal was being read for a snapshot when a commit of it was refused."""
    desk, host = running(task("t"))
    host.session.give_back("r", host.seqs["r"][0])
    desk._from_hosts()
    (snapshot,) = desk.core.take_loads()
    host.ok("t")
    desk._from_hosts()
    desk.commit(receipt=REFUSED)
    (again,) = desk.core.take_loads()
    rows = desk.rows.journal(1)
    desk.core.journal_loaded(snapshot, rows, desk.now)
    found = desk.core.runs["r"]
    desk.core.journal_loaded(again, rows, desk.now)
    assert desk.core.runs["r"] is found and desk.core._books.by_number == {1: found}


# ---- bodies and releases


def test_a_host_that_executes_nothing_forward_in_an_ended_body_keeps_it() -> None:
    """An Execute that crosses the body's last words is rejected; the body is kept for its undos."""
    desk, host = running("a", start=("a",))
    host.plan(StepPlanned("b", undo=Undo()), StepPlanned("c"))
    desk.held = True
    desk._from_hosts()
    desk.commit()
    host.plan(run_id="r", body_ended=BodyEnded(failure=BROKEN))
    desk._to_hosts()
    assert host.session._queue["r"].rejects, "the host has no body for it any more"
    desk.held = False
    desk.settle()
    assert host.session._bodies == {}, "the engine let the body go when the run ended"


def test_what_ends_and_loses_in_one_turn_is_not_released() -> None:
    """Two plans in one frame: the first sends an event, the second ends the group around it."""
    desk, host = running()
    send = StepPlanned("g/[1]/tell", StepKind.SEND_EVENT, spec=SendEvent((Event("paid"),)))
    host.plan(send, groups=(GroupOpened("g", 2, ParallelMode.RACE, deadline=1.0, cancel_siblings=True),))
    lost = GroupEnded("g", Verdict.FAILED, 0, (1,))
    host.plan(branches_ended=(BranchEnded("g/[0]", BranchOutcome.FAILED, BROKEN),), groups_ended=(lost,))
    desk.settle()
    assert desk.core.take_incidents() == []
    assert not [e for e in desk.rows.entries() if isinstance(e, Released)]
    host.end()
    desk.settle()
    assert desk.run_state() == "SUCCEEDED"


def test_an_event_that_becomes_due_while_the_store_is_asked_is_delivered() -> None:
    """The answer about the future has it, and by then it is no longer the future."""
    desk, _ = running(wait())
    desk.send("paid", 1, id="soon", at_ms=desk.now.unix_ms + 2_000)
    desk.settle()
    desk.held = True
    desk.send("another", 1)
    desk.commit()
    desk.held = False
    desk.restart()
    (present,) = [read for read in desk.core.take_reads() if isinstance(read, UndeliveredEvents)]
    desk.core.read_done(present, answer_of(desk.rows.store, present), desk.now)
    reads = desk.core.take_reads()
    (future,) = [read for read in reads if isinstance(read, UndeliveredEvents)]
    for read in [read for read in reads if read is not future]:
        desk.core.read_done(read, answer_of(desk.rows.store, read), desk.now)
    desk._commits()
    desk.mono += 3.0
    desk.core.read_done(future, answer_of(desk.rows.store, future), desk.now)
    desk.settle()
    assert outcome(desk, "w").output is not None


@pytest.mark.parametrize("started", [(), ("old",)])
def test_the_plan_of_a_body_that_was_lost_is_no_breach_of_the_protocol(started: tuple[str, ...]) -> None:
    """It never arrived, and another host's body decided something else in its place."""
    desk, first = running()
    first.plan("old", start=started)
    lost = first.session.take_frame(desk.mono)
    assert lost is not None and lost.runs
    first.cut(told=False)
    desk.pass_time(CONFIG.silence_timeout + CONFIG.reconnect_grace + 1.0)
    second = desk.host("h2")
    desk.settle()
    second.plan("new")
    desk.settle()
    first.connect()
    desk.settle()
    assert first.faults == []
    assert first.session.bodies == 0 and first.session.settled
    assert desk.core.runs["r"].steps.keys() == {"new"}


def test_no_closure_is_begun_for_a_body_that_is_gone_or_beside_an_attempt_of_the_same_step() -> None:
    """The loop was blocked: it still works on a body that the session was told to evict meanwhile."""
    desk, host = running()
    fence = host.seqs["r"][0]
    host.session.receive(EngineFrame(9, runs=[EngineSection("r", evict=fence)]), desk.mono)
    assert not host.session.start_all("r", ("a",), fence, desk.mono)
    newer = Fence(fence.claim_epoch, fence.n + 5)
    start = BodyStart("flow", Payload(b"1"), 1, 1)
    host.session.receive(EngineFrame(10, runs=[EngineSection("r", advance=Advance(newer, (), start))]), desk.mono)
    assert not host.session.start_all("r", ("a",), fence, desk.mono)
    assert host.session.start_all("r", ("a",), newer, desk.mono)
    assert not host.session.start_all("r", ("a",), newer, desk.mono)


def test_a_group_that_is_late_by_far_has_its_grace_like_any_other() -> None:
    """The engine was down when the deadline passed; nobody may say that its timer was lost."""
    desk, host = running()
    group = GroupOpened("g", 2, ParallelMode.WAIT, deadline=5.0)
    host.plan(task("g/[0]/a"), task("g/[1]/b"), groups=(group,))
    desk.settle()
    host.ok("g/[0]/a")
    desk.settle()
    desk.mono += 60.0
    desk.restart()
    host.connect()
    desk.settle()
    desk.core.tick(desk.now)
    desk.settle()
    assert desk.core.runs["r"].groups["g"].closing
    assert desk.core.unowned() == []


def test_a_body_that_another_one_has_decided_after_does_not_come_back() -> None:
    """Its host was silent for long, and so was that of its successor when it returned."""
    desk, old = running(task("a"))
    fence = old.seqs["r"][0]
    old.cut()
    old.plan(task("late"))
    new = desk.host()
    desk.pass_time(CONFIG.silence_timeout + CONFIG.reconnect_grace + 1.0)
    new.plan(task("other"))
    desk.settle()
    new.cut()
    desk.pass_time(CONFIG.silence_timeout + CONFIG.reconnect_grace + 1.0)
    old.take()
    old.connect()
    desk.settle()
    assert fence in [section.evict for section in old.take()] and old.faults == []
    assert old.seqs["r"][0] > fence, "it is entered anew, from the journal"
    assert "RunPaused" not in desk.kinds and desk.run_state() == "RUNNING"
