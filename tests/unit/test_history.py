"""The record of a run follows from its journal, and the run in memory adds why it waits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import Hello, Result
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    BodyEnded,
    BranchEnded,
    BranchOutcome,
    Fence,
    GroupEnded,
    GroupOpened,
    ParallelMode,
    Plan,
    StepKind,
    StepPlanned,
    Verdict,
)
from stepwire.v1 import run_pb2
from stepwire_engine.core import machine
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import Entry, RunCreated, RunState
from stepwire_engine.core.history import RunView, StepStateView, StepView, WaitReason, live_view, run_view
from stepwire_engine.core.machine import Turn
from stepwire_engine.core.model import Lease, Run
from stepwire_engine.core.sessions import Session

FENCE = Fence(1, 1)
BROKEN = Failure(ErrorCode.USER_ERROR, "ValueError", "no", "Traceback ...")
STUCK = Failure(ErrorCode.NON_DETERMINISTIC_FLOW, "NonDeterministicFlow", "expected a, got b")
IN_RACE = GroupOpened("race", 2, ParallelMode.RACE)
IN_WAIT = GroupOpened("parallel", 2, ParallelMode.WAIT)


class Story:
    """A run driven by the real machine, one row per call; time goes on by a second per row."""

    def __init__(self) -> None:
        self.run = Run(7)
        self.rows: list[tuple[Entry, ...]] = []
        self.ms = 1_000_000
        self.served = {("flow", "orders"), ("step", "charge")}
        turn = self._turn()
        machine.create(turn, RunCreated("r1", "orders", Payload(b"17"), 5, self.ms, "order-17"))
        self._commit(turn)

    def plan(
        self,
        *steps: StepPlanned,
        groups: Sequence[GroupOpened] = (),
        branches: Sequence[BranchEnded] = (),
        ended: Sequence[GroupEnded] = (),
        abandoned: Sequence[str] = (),
        end: BodyEnded | None = None,
    ) -> None:
        run, turn = self.run, self._turn()
        plan = Plan(
            run.plan_seq + 1,
            run.release_seq,
            FENCE,
            tuple(groups),
            steps,
            tuple(abandoned),
            tuple(branches),
            tuple(ended),
            end,
        )
        machine.accept_plan(turn, plan, "shop")
        machine.settle(turn)
        self._commit(turn)

    def result(self, path: str, *, output: bytes = b"1", failure: Failure | None = None, elapsed: float = 0.5) -> None:
        turn, step = self._turn(), self.run.steps[path]
        payload = None if failure is not None else Payload(output)
        result = Result(path, step.attempt, FENCE, payload, failure, elapsed)
        machine.accept_result(turn, step, result, "shop", CoreConfig())
        machine.settle(turn)
        self._commit(turn)

    def lose(self, path: str) -> None:
        turn = self._turn()
        machine.lose_attempt(turn, self.run.steps[path], "shop", CoreConfig())
        self._commit(turn)

    def pause(self) -> None:
        turn = self._turn()
        machine.pause(turn, STUCK)
        self._commit(turn)

    def resume(self) -> None:
        turn = self._turn()
        machine.resume(turn)
        self._commit(turn)

    def lease(self, path: str) -> None:
        step = self.run.steps[path]
        step.lease = Lease(step, "s1", FENCE, 0.0)

    def enter(self) -> None:
        session = Session("s1", Hello("shop", "i1"), 0.0)
        session.take_body(self.run, FENCE).ready = True

    def view(
        self, *, steps: bool = True, live: bool = True, rows: Sequence[tuple[Entry, ...]] | None = None
    ) -> RunView:
        return run_view(
            7,
            rows or self.rows,
            live=self.run if live else None,
            now_unix_ms=self.ms,
            include_steps=steps,
            serves=lambda kind, name: (kind, name) in self.served,
        )

    def in_memory(self) -> RunView | None:
        return live_view(self.run, now_unix_ms=self.ms, serves=lambda kind, name: (kind, name) in self.served)

    def step(self, path: str, *, live: bool = True) -> StepView:
        return next(step for step in self.view(live=live).steps if step.path == path)

    def _turn(self) -> Turn:
        self.ms += 1000
        return Turn(self.run, self.ms)

    def _commit(self, turn: Turn) -> None:
        self.rows.append(tuple(turn.entries))
        self.run.seq += 1
        self.run.committed_seq += 1


def named(*paths: str) -> list[StepPlanned]:
    return [StepPlanned(path) for path in paths]


# ---- the journal alone


def test_a_new_run_is_pending() -> None:
    view = Story().view(live=False)
    assert (view.run_id, view.flow, view.id, view.state) == ("r1", "orders", "order-17", RunState.PENDING)
    assert view.input == Payload(b"17")
    assert view.created_at_ms == 1_001_000
    assert (view.output, view.failure, view.ended_at_ms, view.reason) == (None, None, None, None)


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


def test_first_and_last_row_tell_everything_but_the_steps_of_a_finished_run() -> None:
    story = Story()
    story.plan(*named("a"))
    story.result("a")
    story.plan(end=BodyEnded(Payload(b"1")))
    whole = story.view(steps=False, live=False)
    assert whole.steps == ()
    assert story.view(steps=False, live=False, rows=[story.rows[0], story.rows[-1]]) == whole


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


# ---- the run in memory


def test_a_leased_step_is_running() -> None:
    story = Story()
    story.plan(*named("a"))
    story.enter()
    story.lease("a")
    step = story.step("a")
    assert (step.state, step.reason) == (StepStateView.RUNNING, WaitReason.LEASE_OF_HOST)
    assert (story.view().reason, story.view().live_body) == (WaitReason.LEASE_OF_HOST, True)
    assert story.step("a", live=False).state is StepStateView.PENDING


def test_an_outcome_that_is_not_committed_is_not_shown() -> None:
    story = Story()
    story.plan(*named("a"))
    committed = list(story.rows)
    story.result("a")
    view = story.view(rows=committed)
    assert (view.steps[0].state, view.steps[0].output, view.steps[0].reason) == (StepStateView.RUNNING, None, None)


@pytest.mark.parametrize(
    ("served", "reason"), [(True, WaitReason.NO_SLOT), (False, WaitReason.NO_HOST)], ids=["served", "not served"]
)
def test_a_registered_step_waits_for_a_slot_or_for_a_host(served: bool, reason: WaitReason) -> None:
    story = Story()
    story.plan(StepPlanned("charge", StepKind.TASK, "charge"))
    story.enter()
    if not served:
        story.served.discard(("step", "charge"))
    assert story.step("charge").reason is reason
    assert story.view().reason is reason


def test_a_closure_waits_for_a_host_of_its_flow() -> None:
    story = Story()
    story.plan(*named("a"))
    assert story.step("a").reason is WaitReason.NO_SLOT
    story.served.clear()
    assert story.step("a").reason is WaitReason.NO_HOST


def test_a_retry_waits_for_its_time_and_then_for_a_slot() -> None:
    story = Story()
    story.plan(*named("a"))
    story.result("a", failure=BROKEN)
    assert (story.step("a").state, story.step("a").reason) == (StepStateView.BACKOFF, WaitReason.BACKOFF_UNTIL)
    story.ms += 3_600_000
    assert (story.step("a").state, story.step("a").reason) == (StepStateView.BACKOFF, WaitReason.NO_SLOT)


def test_an_outcome_waits_for_its_wave_only_in_wait_mode() -> None:
    story = Story()
    story.plan(
        *named("parallel/[0]/a", "parallel/[1]/b", "race/[0]/a", "race/[1]/b"),
        groups=[IN_WAIT, IN_RACE],
    )
    story.result("parallel/[0]/a")
    story.result("race/[0]/a")
    assert story.step("parallel/[0]/a").state is StepStateView.SUCCEEDED
    assert story.step("parallel/[0]/a").reason is WaitReason.SIBLING_IN_WAVE
    assert story.step("race/[0]/a").reason is None
    story.result("parallel/[1]/b")
    assert story.step("parallel/[0]/a").reason is None


def test_a_run_without_open_steps_waits_for_its_body_or_user_code() -> None:
    story = Story()
    assert story.view().reason is WaitReason.NO_SLOT
    story.enter()
    assert story.view().reason is WaitReason.USER_CODE
    story.run.body = None
    story.served.clear()
    assert story.view().reason is WaitReason.NO_HOST


def test_after_a_restart_runs_and_steps_wait_for_adoption() -> None:
    story = Story()
    story.plan(*named("a"))
    story.run.uncertain = story.run.steps["a"].uncertain = True
    assert (story.view().reason, story.step("a").reason) == (WaitReason.ADOPTION, WaitReason.ADOPTION)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(StepKind.SLEEP, WaitReason.SLEEPING_UNTIL), (StepKind.WAIT_EVENT, WaitReason.EVENT)],
    ids=["sleep", "wait_event"],
)
def test_steps_that_nobody_executes_say_what_they_wait_for(kind: StepKind, reason: WaitReason) -> None:
    story = Story()
    story.plan(StepPlanned("pause", kind))
    assert story.step("pause").reason is reason


def test_the_reason_of_a_run_is_that_of_its_first_open_step() -> None:
    story = Story()
    story.plan(*named("a", "b"), StepPlanned("c", StepKind.TASK, "unknown"))
    story.enter()
    story.lease("b")
    story.result("a")
    assert story.view().reason is WaitReason.LEASE_OF_HOST
    story.result("b")
    assert story.view().reason is WaitReason.NO_HOST


# ---- without the journal


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
    assert (view.state, view.output, view.reason) == (RunState.RUNNING, None, None)


@pytest.mark.parametrize("what", ["not committed", "broken", "paused", "ended"])
def test_memory_leaves_to_the_journal_what_it_cannot_tell(what: str) -> None:
    story = Story()
    match what:
        case "not committed":
            story.run.committed_seq = 0
        case "broken":
            story.run.broken = True
        case "paused":
            story.pause()
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
