"""Runs that invoke runs: one child per attempt, its outcome is the step's, and nobody is left behind (MISSION S19)."""

from __future__ import annotations

from typing import Any

import pytest

from stepwire.protocol.failure import CAUSE_DEPTH_MAX, ErrorCode, Failure, Retryable
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    BodyEnded,
    BranchEnded,
    BranchOutcome,
    GroupEnded,
    Invoke,
    RetryPolicy,
    StepKind,
    StepPlanned,
    Verdict,
)
from stepwire_engine.core import causes
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import AttemptEnded, RunCreated
from tests.core.given import race
from tests.session.desk import CONFIG, Desk, Host

CHILD = causes.child_run_id("r", "i", 1)
SECOND = causes.child_run_id("r", "i", 2)
NO = Failure(ErrorCode.USER_ERROR, "ValueError", "no")


def invoke(path: str = "i", *, flow: str = "sub", id: str = "", **how: Any) -> StepPlanned:
    return StepPlanned(path, StepKind.INVOKE, input=Payload(b"7"), spec=Invoke(flow, id), **how)


def parent(*steps: StepPlanned, config: CoreConfig = CONFIG, **plan: Any) -> tuple[Desk, Host]:
    """Run "r" of "flow" planned these steps; flow "sub" is served by the same host."""
    desk = Desk(config=config)
    host = desk.host(flows=("flow", "sub"))
    desk.start()
    desk.settle()
    host.plan(*steps, **plan)
    desk.settle()
    return desk, host


def created(desk: Desk) -> list[RunCreated]:
    return [e for rows in desk.rows.rows.values() for row in rows for e in row if isinstance(e, RunCreated)]


def outcome(desk: Desk, path: str = "i") -> AttemptEnded:
    (found,) = [e for e in desk.rows.entries() if isinstance(e, AttemptEnded) and e.path == path and not e.retry_at_ms]
    return found


def cancel(desk: Desk, run_id: str = "r", undo: bool | None = None) -> None:
    desk.core.cancel_run("cancel", run_id, undo, desk.now)
    desk.settle()


# ---- outcomes


def test_a_child_is_started_with_the_steps_input_and_its_output_is_the_steps() -> None:
    desk, host = parent(invoke())
    _, child = created(desk)
    assert (child.run_id, child.flow, child.input, child.seed) == (CHILD, "sub", Payload(b"7"), causes.seed_of(CHILD))
    assert child.parent is not None and (child.parent.run_id, child.parent.path, child.parent.depth) == ("r", "i", 1)
    step = desk.core.runs["r"].steps["i"]
    assert step.particulars is not None and step.particulars.child == CHILD
    host.end(CHILD, b"42")
    desk.settle()
    assert outcome(desk).output == Payload(b"42")
    assert desk.rows.store.inbox() == []


def test_a_failed_child_fails_the_step_with_its_failure_as_cause() -> None:
    desk, host = parent(invoke())
    host.plan(run_id=CHILD, body_ended=BodyEnded(failure=NO))
    desk.settle()
    failure = outcome(desk).failure
    assert failure is not None and (failure.code, failure.type) == (ErrorCode.USER_ERROR, "ValueError")
    assert failure.message == f"run {CHILD} of flow 'sub' failed: no" and failure.cause == NO


def test_causes_do_not_grow_without_end() -> None:
    deep = NO
    for n in range(CAUSE_DEPTH_MAX):
        deep = Failure(ErrorCode.USER_ERROR, "ValueError", f"level {n}", cause=deep)
    desk, host = parent(invoke())
    host.plan(run_id=CHILD, body_ended=BodyEnded(failure=deep))
    desk.settle()
    failure, levels = outcome(desk).failure, 0
    while failure is not None and failure.cause is not None:
        failure, levels = failure.cause, levels + 1
    assert levels == CAUSE_DEPTH_MAX


def test_a_cancelled_child_fails_the_step() -> None:
    desk, _ = parent(invoke())
    cancel(desk, CHILD)
    failure = outcome(desk).failure
    assert failure is not None and failure.code is ErrorCode.CHILD_CANCELLED


def test_a_child_is_tried_again_as_its_step_says() -> None:
    desk, host = parent(invoke(retry=RetryPolicy(2, delay=3.0, jitter=0.0)))
    host.plan(run_id=CHILD, body_ended=BodyEnded(failure=NO))
    desk.settle()
    desk.pass_time(2.5)
    assert len(created(desk)) == 2
    desk.pass_time(0.5)
    assert [c.run_id for c in created(desk)] == ["r", CHILD, SECOND]
    assert desk.core.runs["r"].steps["i"].particulars.child == SECOND  # type: ignore[union-attr]
    host.plan(run_id=SECOND, body_ended=BodyEnded(failure=NO))
    desk.settle()
    assert outcome(desk).attempt == 2


def test_a_child_that_must_not_be_tried_again_is_not() -> None:
    desk, host = parent(invoke(retry=RetryPolicy(2, delay=0.0)))
    final = Failure(ErrorCode.USER_ERROR, "ValueError", "no", retryable=Retryable.NO)
    host.plan(run_id=CHILD, body_ended=BodyEnded(failure=final))
    desk.settle()
    assert outcome(desk).attempt == 1


def test_the_last_of_a_line_of_successors_answers() -> None:
    desk, host = parent(invoke())
    host.plan(run_id=CHILD, body_ended=BodyEnded(restart=Payload(b"8")))
    desk.settle()
    successor = causes.successor_run_id(CHILD)
    host.end(successor, b"9")
    desk.settle()
    assert outcome(desk).output == Payload(b"9")


def test_an_unknown_flow_fails_the_step_at_once() -> None:
    desk, _ = parent(invoke(flow="nobody"))
    failure = outcome(desk).failure
    assert failure is not None and failure.code is ErrorCode.UNKNOWN_FLOW and len(created(desk)) == 1


def test_a_line_of_children_has_an_end() -> None:
    desk, host = parent(invoke(), config=CoreConfig(invoke_depth_max=1))
    host.plan(invoke(), run_id=CHILD)
    desk.settle()
    (ended,) = [e for e in desk.rows.entries(2) if isinstance(e, AttemptEnded)]
    assert ended.failure is not None and ended.failure.code is ErrorCode.LIMIT_EXCEEDED and len(created(desk)) == 2


def test_a_child_takes_its_key() -> None:
    desk, host = parent(invoke(id="once"))
    host.end(CHILD)
    desk.settle()
    record = desk.rows.store.find_key("once")
    assert record is not None and record.run_id == CHILD and outcome(desk).failure is None


@pytest.mark.parametrize("ended", [False, True])
def test_a_key_of_another_run_fails_the_step(ended: bool) -> None:
    desk = Desk()
    host = desk.host(flows=("flow", "sub"))
    desk.start()
    desk.start("other", key="once", flow="sub", payload=Payload(b"7"))
    desk.settle()
    if ended:
        host.end("other")
    host.plan(invoke(id="once"))
    desk.settle()
    failure = outcome(desk).failure
    assert failure is not None and failure.code is ErrorCode.KEY_CONFLICT and "'once'" in failure.message
    assert desk.rows.store.inbox() == [] and desk.run_state("other") == ("SUCCEEDED" if ended else "PENDING")
    if not ended:
        desk.start("again", key="once", flow="sub", payload=Payload(b"7"))
        desk.settle()
        assert desk.replies[-1].run_id == "other" and desk.replies[-1].existing


# ---- cancelling


def test_cancelling_a_run_cancels_the_whole_line_below_it() -> None:
    desk, host = parent(invoke())
    host.plan(invoke(), run_id=CHILD)
    desk.settle()
    cancel(desk)
    states = [record.state.name for record in desk.rows.store.list_runs().runs]
    assert states == ["CANCELLED"] * 3 and desk.rows.store.inbox() == []


def test_a_failed_run_and_an_abandoned_step_cancel_their_children() -> None:
    desk, host = parent(invoke("i"), invoke("j"))
    other = causes.child_run_id("r", "j", 1)
    host.plan(abandoned=("j",))
    desk.settle()
    assert (desk.run_state(CHILD), desk.run_state(other)) == ("PENDING", "CANCELLED")
    host.plan(body_ended=BodyEnded(failure=NO))
    desk.settle()
    assert desk.run_state(CHILD) == "CANCELLED"


def test_the_child_of_a_losing_branch_is_cancelled() -> None:
    desk, host = parent(invoke("g/[0]/i"), invoke("g/[1]/i"), groups=(race("g", 2),))
    winner, loser = (causes.child_run_id("r", f"g/[{n}]/i", 1) for n in range(2))
    host.end(winner)
    desk.settle()
    ends = (BranchEnded("g/[0]", BranchOutcome.OK),)
    host.plan(branches_ended=ends, groups_ended=(GroupEnded("g", Verdict.OK, 1, (1,)),))
    desk.settle()
    assert desk.run_state(loser) == "CANCELLED"


def test_a_step_over_its_deadline_cancels_its_child() -> None:
    desk, _ = parent(invoke(deadline=3.0))
    desk.pass_time(3.0)
    failure = outcome(desk).failure
    assert failure is not None and failure.code is ErrorCode.TIMEOUT
    assert desk.run_state(CHILD) == "CANCELLED"


def test_a_child_that_was_planned_and_given_up_in_one_plan_never_starts() -> None:
    desk, host = parent()
    host.plan(invoke(), abandoned=("i",))
    desk.settle()
    assert len(created(desk)) == 1 and desk.rows.store.inbox() == []


def test_cancelling_reaches_the_successor_of_a_child() -> None:
    desk, host = parent(invoke())
    host.plan(run_id=CHILD, body_ended=BodyEnded(restart=Payload(b"8")))
    desk.settle()
    cancel(desk)
    assert desk.run_state(causes.successor_run_id(CHILD)) == "CANCELLED" and desk.rows.store.inbox() == []


def test_cancelling_reaches_a_successor_that_is_just_being_started() -> None:
    desk, host = parent(invoke())
    desk.held = True
    host.plan(run_id=CHILD, body_ended=BodyEnded(restart=Payload(b"8")))
    desk.settle()
    desk.core.cancel_run("cancel", "r", None, desk.now)
    desk.settle()
    desk.held = False
    desk.settle()
    assert desk.run_state(causes.successor_run_id(CHILD)) == "CANCELLED" and desk.rows.store.inbox() == []


def test_cancelling_reaches_the_successor_of_a_child_that_ends_at_that_moment() -> None:
    desk, host = parent(invoke())
    desk.held = True
    desk.core.cancel_run("cancel", "r", None, desk.now)
    host.plan(run_id=CHILD, body_ended=BodyEnded(restart=Payload(b"8")))
    desk.settle()
    desk.commit(1)
    desk.settle()
    desk.held = False
    desk.settle()
    assert desk.run_state(causes.successor_run_id(CHILD)) == "CANCELLED" and desk.rows.store.inbox() == []


def test_cancelling_reaches_a_child_that_has_not_found_room_yet() -> None:
    desk, _ = parent(invoke(), config=CoreConfig(runs_in_memory_max=1))
    assert len(created(desk)) == 1
    cancel(desk)
    desk.pass_time(5.0)
    assert (desk.run_state(), desk.run_state(CHILD)) == ("CANCELLED", "CANCELLED")
    assert desk.rows.store.inbox() == [] and desk.core._performed._inbox.backlog == 0


def test_cancelling_between_two_attempts_starts_no_further_child() -> None:
    desk, host = parent(invoke(retry=RetryPolicy(2, delay=3.0, jitter=0.0)))
    host.plan(run_id=CHILD, body_ended=BodyEnded(failure=NO))
    desk.settle()
    cancel(desk)
    desk.pass_time(5.0)
    assert len(created(desk)) == 2 and desk.rows.store.inbox() == []


# ---- crashes


@pytest.mark.parametrize("commits", range(7))
def test_a_crash_between_any_two_commits_starts_one_child_and_ends_the_step_once(commits: int) -> None:
    desk = Desk()
    host = desk.host(flows=("flow", "sub"))
    desk.start()
    desk.settle()
    desk.held = True
    host.plan(invoke())
    ended = False
    for _ in range(commits):
        desk.settle()
        if CHILD in host.seqs and not ended:
            host.end(CHILD)
            desk.settle()
            ended = True
        desk.commit(1)
    desk.restart()
    desk.held = False
    host.connect()
    desk.settle()
    if not ended:
        host.end(CHILD)
        desk.settle()
    assert [c.run_id for c in created(desk)] == ["r", CHILD]
    assert outcome(desk).failure is None
    assert desk.rows.store.inbox() == []
