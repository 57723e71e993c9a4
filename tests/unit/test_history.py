"""The record of a run follows from its journal, and the run in memory adds why it waits."""

from __future__ import annotations

import msgspec
import pytest

from stepwire.protocol.failure import ErrorCode, Retryable
from stepwire.protocol.frames import CancelReason
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import (
    BodyEnded,
    BranchEnded,
    BranchOutcome,
    FailPolicy,
    GroupEnded,
    GroupOpened,
    ParallelMode,
    StepKind,
    StepPlanned,
    Undo,
    Verdict,
)
from stepwire.v1 import run_pb2
from stepwire_engine.core import causes
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import ParentStep, RunState
from stepwire_engine.core.history import StepStateView, ended_view
from stepwire_engine.core.model import RunPhase
from stepwire_engine.core.reasons import WaitReason
from tests.unit.story import BROKEN, IN_RACE, IN_WAIT, STUCK, Story, named

# ---- the journal alone


def test_a_new_run_is_pending() -> None:
    view = Story().view(live=False)
    assert (view.run_id, view.flow, view.id, view.state) == ("r1", "orders", "order-17", RunState.PENDING)
    assert view.input == Payload(b"17")
    assert view.created_at_ms == 1_001_000
    assert (view.output, view.failure, view.ended_at_ms, view.reason) == (None, None, None, WaitReason.READING_JOURNAL)


def test_a_journal_without_beginning_is_refused() -> None:
    with pytest.raises(ValueError, match="run number 7"):
        Story().view(rows=[()])


def test_a_finished_run_has_output_times_and_counts() -> None:
    story = Story()
    story.plan(StepPlanned("reserve", started=True))
    story.result("reserve", output=b'"r"', elapsed=0.25)
    story.plan(end=BodyEnded(Payload(b'"done"')))
    view = story.view(live=False)
    assert (view.state, view.output, view.failure) == (RunState.SUCCEEDED, Payload(b'"done"'), None)
    assert (view.created_at_ms, view.ended_at_ms) == (1_001_000, 1_004_000)
    assert (view.stats.plans, view.stats.releases, view.stats.host_starts) == (2, 1, 1)
    (step,) = view.steps
    assert (step.path, step.kind, step.state) == ("reserve", StepKind.RUN, StepStateView.SUCCEEDED)
    assert (step.planned_at_ms, step.ended_at_ms, step.released_at_ms) == (1_002_000, 1_003_000, 1_003_000)
    assert step.output == Payload(b'"r"')
    (attempt,) = step.attempts
    assert (attempt.number, attempt.elapsed, attempt.ended_at_ms, attempt.host) == (1, 0.25, 1_003_000, "shop")
    assert attempt.failure is None


def test_a_failed_run_has_the_failure_of_its_body() -> None:
    story = Story()
    story.plan(end=BodyEnded(failure=BROKEN))
    assert (story.view().state, story.view().failure) == (RunState.FAILED, BROKEN)


def test_without_steps_the_record_says_the_same_about_the_run() -> None:
    story = Story()
    story.plan(*named("a", "parallel/[0]/b"), groups=[IN_WAIT])
    story.result("a")
    story.cancel(undo=True)
    whole = story.view(live=False)
    assert whole.steps and whole.groups
    assert story.view(steps=False, live=False) == msgspec.structs.replace(whole, steps=(), groups=())


def test_each_attempt_is_shown_with_its_failure() -> None:
    story = Story()
    story.plan(*named("a"))
    story.result("a", failure=BROKEN)
    story.lose("a")
    story.result("a")
    step = story.step("a", live=False)
    assert [(a.number, a.failure) for a in step.attempts] == [(1, BROKEN), (2, None)]
    assert (step.state, step.lost) == (StepStateView.SUCCEEDED, 1)


def test_steps_and_groups_keep_the_order_of_planning() -> None:
    story = Story()
    story.plan(*named("b", "parallel/[0]/z", "parallel/[1]/a"), groups=[IN_WAIT])
    view = story.view()
    assert [step.path for step in view.steps] == ["b", "parallel/[0]/z", "parallel/[1]/a"]
    (group,) = view.groups
    assert (group.path, group.mode, group.branches, group.verdict) == ("parallel", ParallelMode.WAIT, 2, None)


def test_losers_are_cancelled_when_their_group_ended() -> None:
    story = Story()
    story.plan(*named("race/[0]/a", "race/[1]/b"), groups=[IN_RACE])
    story.result("race/[0]/a")
    story.plan(
        branches=[BranchEnded("race/[0]", BranchOutcome.OK)],
        ended=[GroupEnded("race", Verdict.OK, 1, (1,))],
    )
    loser = story.step("race/[1]/b")
    assert (loser.state, loser.ended_at_ms, loser.released_at_ms) == (StepStateView.CANCELLED, story.ms, None)
    assert story.view().groups[0].verdict is Verdict.OK


def test_an_abandoned_step_is_cancelled() -> None:
    story = Story()
    story.plan(*named("a"))
    story.plan(abandoned=["a"])
    assert (story.step("a").state, story.step("a").ended_at_ms) == (StepStateView.CANCELLED, story.ms)


def test_what_is_open_when_the_run_ends_is_cancelled_with_it() -> None:
    story = Story()
    story.plan(*named("a"))
    story.plan(end=BodyEnded(Payload(b"1")))
    step = story.step("a")
    assert (step.state, step.ended_at_ms, step.reason) == (StepStateView.CANCELLED, story.ms, None)


def test_a_paused_run_says_why_and_forgets_it_when_resumed() -> None:
    story = Story()
    story.plan(*named("a"))
    story.pause()
    view = story.view(live=False)
    assert (view.state, view.failure, view.reason) == (RunState.PAUSED, STUCK, WaitReason.PAUSED)
    assert story.step("a").reason is WaitReason.PAUSED
    story.resume()
    assert (story.view().state, story.view().failure) == (RunState.RUNNING, None)


def test_every_committed_prefix_of_a_journal_is_a_record() -> None:
    story = Story()
    story.plan(*named("a", "parallel/[0]/x", "parallel/[1]/y"), groups=[IN_WAIT])
    for path in ("a", "parallel/[0]/x", "parallel/[1]/y"):
        story.result(path)
    story.plan(end=BodyEnded(Payload(b"1")))
    states = [story.view(rows=story.rows[:n], live=False).state for n in range(1, len(story.rows) + 1)]
    assert states == [RunState.PENDING, *[RunState.RUNNING] * 4, RunState.SUCCEEDED]


# ---- groups


def test_a_group_shows_its_policies_and_how_its_branches_ended() -> None:
    story = Story()
    opened = GroupOpened("race", 4, ParallelMode.RACE, FailPolicy.QUORUM, 2, True, 3, names=("fast", "slow"))
    story.plan(*named("race/[0]/a", "race/[3]/b"), groups=[opened])
    (group,) = story.view().groups
    assert (group.fail, group.quorum, group.cancel_siblings, group.limit) == (FailPolicy.QUORUM, 2, True, 3)
    assert (group.names, group.outcomes, group.expired) == (("fast", "slow"), (), False)
    story.result("race/[0]/a")
    story.plan(branches=[BranchEnded("race/[0]", BranchOutcome.OK)])
    assert story.view().groups[0].outcomes == (BranchOutcome.OK, None, None, None)
    story.plan(
        branches=[BranchEnded("race/[2]", BranchOutcome.FAILED, BROKEN), BranchEnded("race/[1]", BranchOutcome.OK)],
        ended=[GroupEnded("race", Verdict.OK, 2, (3,))],
    )
    assert story.view(live=False).groups[0].outcomes == (
        BranchOutcome.OK,
        BranchOutcome.OK,
        BranchOutcome.FAILED,
        BranchOutcome.CANCELLED,
    )


def test_a_group_whose_deadline_passed_says_so() -> None:
    story = Story()
    story.plan(*named("parallel/[0]/a"), groups=[GroupOpened("parallel", 1, deadline=1.0)])
    story.expire("parallel")
    (group,) = story.view(live=False).groups
    assert (group.expired, group.verdict) == (True, None)


# ---- cancelled and compensated runs


def test_a_run_that_is_cancelled_waits_for_its_attempts_to_stop() -> None:
    story = Story()
    story.plan(StepPlanned("paid", undo=Undo()), *named("b"))
    story.enter()
    story.result("paid")
    lease = story.lease("b")
    story.cancel(undo=True)
    lease.cancelled = CancelReason.RUN_CANCELLED
    view = story.view()
    assert (view.state, view.phase, view.reason) == (
        RunState.RUNNING,
        RunPhase.CANCELLING,
        WaitReason.ATTEMPT_NOT_STOPPING,
    )
    assert (view.failure, view.stopping) == (None, None)
    step = story.step("b")
    assert (step.state, step.ended_at_ms, step.reason) == (
        StepStateView.CANCELLED,
        story.ms,
        WaitReason.ATTEMPT_NOT_STOPPING,
    )


def test_a_cancelled_run_has_ended_without_failure() -> None:
    story = Story()
    story.plan(*named("a"))
    story.pause()
    story.cancel()
    view = story.view(live=False)
    assert (view.state, view.failure, view.phase, view.ended_at_ms) == (RunState.CANCELLED, None, None, story.ms)
    assert story.step("a").state is StepStateView.CANCELLED


def undoing() -> Story:
    """A run that failed after three steps, two of which are undone."""
    story = Story()
    story.plan(
        StepPlanned("reserve", undo=Undo(StepKind.TASK, "charge")),
        StepPlanned("parallel/[0]/pay", undo=Undo()),
        *named("parallel/[1]/x"),
        groups=[IN_WAIT],
    )
    for path in ("reserve", "parallel/[0]/pay", "parallel/[1]/x"):
        story.result(path)
    story.plan(end=BodyEnded(failure=BROKEN))
    return story


def test_compensations_are_steps_in_the_order_in_which_they_are_made() -> None:
    story = undoing()
    view = story.view()
    assert (view.state, view.phase, view.failure, view.stopping) == (RunState.RUNNING, RunPhase.UNDOING, None, BROKEN)
    undos = [step for step in view.steps if step.undoes]
    assert [(step.path, step.undoes, step.kind, step.name) for step in undos] == [
        ("parallel/[0]/pay#undo", "parallel/[0]/pay", StepKind.RUN, ""),
        ("reserve#undo", "reserve", StepKind.TASK, "charge"),
    ]
    assert [step.planned_at_ms for step in undos] == [story.ms, story.ms]
    assert [step.reason for step in undos] == [WaitReason.NO_SLOT, WaitReason.OTHER_UNDO]
    assert view.reason is WaitReason.NO_SLOT
    assert [step.reason for step in view.steps if not step.undoes] == [None, None, None]


def test_a_failed_compensation_is_shown_and_the_run_has_the_failure_it_was_undone_for() -> None:
    story = undoing()
    refused = msgspec.structs.replace(BROKEN, type="Refused", retryable=Retryable.NO)
    story.result("parallel/[0]/pay#undo", failure=refused)
    assert story.step("reserve#undo").reason is WaitReason.NO_SLOT
    story.result("reserve#undo")
    view = story.view(live=False)
    assert (view.state, view.phase, view.failure, view.stopping) == (RunState.FAILED, None, BROKEN, None)
    states = {step.path: step.state for step in view.steps if step.undoes}
    assert states == {
        "parallel/[0]/pay#undo": StepStateView.FAILED,
        "reserve#undo": StepStateView.SUCCEEDED,
    }
    assert story.step("parallel/[0]/pay#undo").attempts[-1].failure == refused
    assert story.step("parallel/[0]/pay").state is StepStateView.SUCCEEDED


def test_a_run_over_its_deadline_says_so_while_it_is_undone_and_afterwards() -> None:
    story = Story(deadline=3.0)
    story.plan(StepPlanned("a", undo=Undo()), *named("b"))
    story.result("a")
    story.expire()
    stopping = story.view().stopping
    assert stopping is not None and stopping.code is ErrorCode.RUN_TIMEOUT
    story.result("a#undo")
    view = story.view()
    assert (view.state, view.failure, view.stopping) == (RunState.FAILED, stopping, None)


# ---- relatives


def test_a_child_names_its_parent() -> None:
    story = Story(parent=ParentStep(3, "p1", "ship", 1, 1))
    assert story.view().parent_run_id == "p1"
    memory = story.in_memory()
    assert memory is not None and memory.parent_run_id == "p1"


def test_a_run_that_restarts_itself_names_its_successor_and_returns_null() -> None:
    story = Story()
    story.plan(end=BodyEnded(restart=Payload(b"18")))
    view = story.view()
    assert (view.state, view.output) == (RunState.SUCCEEDED, NULL)
    assert view.successor_run_id == causes.successor_run_id("r1")


# ---- without the journal


@pytest.mark.parametrize(
    "how", ["succeeds", "fails", "restarts", "cancels itself", "is cancelled", "is undone", "late"]
)
def test_the_record_of_a_run_that_just_ended_is_that_of_its_journal(how: str) -> None:
    story = undoing() if how == "is undone" else Story(ParentStep(3, "p1", "ship", 1, 1), deadline=1.0)
    match how:
        case "succeeds":
            story.plan(end=BodyEnded(Payload(b"1")))
        case "fails":
            story.plan(end=BodyEnded(failure=BROKEN))
        case "restarts":
            story.plan(end=BodyEnded(restart=Payload(b"18")))
        case "cancels itself":
            story.plan(end=BodyEnded(cancelled=True))
        case "is cancelled":
            story.cancel()
        case "is undone":
            story.result("parallel/[0]/pay#undo")
            story.result("reserve#undo")
        case _:
            story.expire()
    assert story.run.state.terminal
    assert ended_view(story.run, story.ms) == story.view(steps=False, live=False)


def test_an_open_run_in_memory_is_shown_without_its_journal() -> None:
    story = Story()
    story.plan(*named("a"))
    assert story.in_memory() == story.view(steps=False)


def test_memory_never_shows_what_is_not_committed() -> None:
    story = Story()
    story.run.in_flight = 1
    story.plan(end=BodyEnded(Payload(b"1")))
    view = story.in_memory()
    assert view is not None
    assert (view.state, view.output, view.reason) == (RunState.RUNNING, None, WaitReason.IN_COMMIT)


@pytest.mark.parametrize("what", ["not committed", "broken", "paused", "stopping", "ended"])
def test_memory_leaves_to_the_journal_what_it_cannot_tell(what: str) -> None:
    story = Story()
    match what:
        case "not committed":
            story.run.committed_seq = 0
        case "broken":
            story.run.broken = True
        case "paused":
            story.pause()
        case "stopping":
            story = undoing()
        case _:
            story.plan(end=BodyEnded(Payload(b"1")))
    assert story.in_memory() is None


# ---- numbers


def test_states_and_reasons_have_the_numbers_of_the_protocol() -> None:
    def numbers(enum: object, prefix: str) -> dict[str, int]:
        items = enum.items()  # type: ignore[attr-defined]
        return {name.removeprefix(prefix): number for name, number in items if number}

    assert numbers(run_pb2.WaitReason, "WAIT_REASON_") == {r.name: int(r) for r in WaitReason}
    assert numbers(run_pb2.StepState, "STEP_STATE_") == {s.name: int(s) for s in StepStateView}
    assert numbers(run_pb2.RunPhase, "RUN_PHASE_") == {p.name: int(p) for p in RunPhase}


def test_a_lost_step_that_is_given_up_fails_its_step() -> None:
    story = Story()
    story.plan(*named("a"))
    for _ in range(CoreConfig().attempts_lost_max):
        story.lose("a")
    step = story.step("a")
    assert (step.state, step.lost) == (StepStateView.FAILED, CoreConfig().attempts_lost_max)
    failure = step.attempts[-1].failure
    assert failure is not None
    assert (failure.code, failure.retryable) == (ErrorCode.POISON_STEP, Retryable.NO)
