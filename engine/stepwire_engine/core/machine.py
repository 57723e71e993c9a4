"""The run machine: (run, event) -> entries, and what must happen once they are committed.

Every function here takes a `Turn`, emits entries through it and so folds them into the run at once; the
engine commits the turn's entries as one row and performs its effects afterwards (decide -> commit ->
perform, LAW). Nothing here sends, waits or reads a clock. If a commit fails the run is dropped and read
again from its journal.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import CancelReason, Result
from stepwire.protocol.plan import Plan
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import (
    AttemptEnded,
    AttemptLost,
    BodyLost,
    Entry,
    Planned,
    Released,
    RunCreated,
    RunEnded,
    RunPaused,
    RunResumed,
    RunState,
    RunStats,
)
from stepwire_engine.core.fold import apply
from stepwire_engine.core.model import Group, Lease, Run, Step
from stepwire_engine.core.retry import jitter_chance, retry_delay


class Turn:
    """One decision about one run: the entries of its next row and the effects that wait for their commit.

    Attributes:
        planned: Steps that became dispatchable and that no host has started.
        accepted: It has a plan of the live body.
        retries: Steps that will be due at their `retry_at_ms`.
        cancelled: Attempts that are no longer wanted, and why.
        released: The release to hand to the body.
        ended: The run reached a terminal state.
    """

    __slots__ = (
        "accepted",
        "cancelled",
        "ended",
        "entries",
        "paused",
        "planned",
        "released",
        "resumed",
        "retries",
        "run",
        "unix_ms",
    )

    def __init__(self, run: Run, unix_ms: int) -> None:
        self.run = run
        self.unix_ms = unix_ms
        self.entries: list[Entry] = []
        self.accepted = False
        self.planned: list[Step] = []
        self.retries: list[Step] = []
        self.cancelled: list[tuple[Lease, CancelReason]] = []
        self.released: Released | None = None
        self.paused = False
        self.resumed = False
        self.ended: RunEnded | None = None

    def emit(self, entry: Entry) -> None:
        """Decide an entry: it is folded now and committed with the turn."""
        self.entries.append(entry)
        apply(self.run, entry)
        if self.run.cancelled_leases:
            self.cancelled.extend(self.run.cancelled_leases)
            self.run.cancelled_leases.clear()


def create(turn: Turn, entry: RunCreated) -> None:
    """First entry of a run (MISSION T2)."""
    turn.emit(entry)


def accept_plan(turn: Turn, plan: Plan, host: str) -> None:
    """Journal a checked plan (`plan_check.refusal` said None) and find out what it makes possible."""
    run = turn.run
    turn.emit(Planned(plan, turn.unix_ms, host))
    turn.accepted = True
    for planned in plan.steps:
        if not planned.started:
            turn.planned.append(run.steps[planned.path])


def accept_result(turn: Turn, step: Step, result: Result, host: str, config: CoreConfig) -> None:
    """Journal the outcome of an attempt that holds the right fence, and decide whether it is tried again."""
    run = turn.run
    step.uncertain = False
    retry_at_ms: int | None = None
    failure = result.failure
    if failure is None and result.output is not None and len(result.output.data) > config.payload_bytes_max:
        failure = _too_large(step, len(result.output.data), config.payload_bytes_max)
    if failure is not None:
        policy = step.retry or config.default_retry
        delay = retry_delay(policy, failure, step.attempt, jitter_chance(run.seed, step.path, step.attempt))
        if delay is not None:
            retry_at_ms = turn.unix_ms + round(delay * 1000)
    turn.emit(
        AttemptEnded(
            step.path,
            step.attempt,
            turn.unix_ms,
            result.elapsed,
            host,
            None if failure is not None else result.output,
            failure,
            retry_at_ms,
        )
    )
    if retry_at_ms is not None:
        turn.retries.append(step)


def _too_large(step: Step, size: int, limit: int) -> Failure:
    message = f"output of step {step.path!r} is {size} bytes, limit {limit}"
    return Failure(ErrorCode.PAYLOAD_TOO_LARGE, "PayloadTooLarge", message, retryable=Retryable.NO)


def lose_attempt(turn: Turn, step: Step, host: str, config: CoreConfig) -> None:
    """The host of an attempt is lost. After `attempts_lost_max` of them the step fails as POISON_STEP (DESIGN 3)."""
    turn.emit(AttemptLost(step.path, step.attempt, turn.unix_ms, host))
    if step.losses < config.attempts_lost_max:
        turn.planned.append(step)
        return
    message = (
        f"step {step.path!r} lost its host {step.losses} times (last: {host or 'unknown'}); "
        "it probably kills the process that runs it"
    )
    failure = Failure(ErrorCode.POISON_STEP, "PoisonStep", message, retryable=Retryable.NO)
    turn.emit(AttemptEnded(step.path, step.attempt, turn.unix_ms, 0.0, host, None, failure))


def lose_body(turn: Turn, config: CoreConfig) -> None:
    """The live body is lost. A flow that does so again and again without a plan is paused."""
    turn.emit(BodyLost(turn.unix_ms))
    if turn.run.body_losses >= config.attempts_lost_max:
        message = f"the body of flow {turn.run.flow!r} lost its host {turn.run.body_losses} times without a plan"
        pause(turn, Failure(ErrorCode.POISON_STEP, "PoisonFlow", message, retryable=Retryable.NO))


def pause(turn: Turn, failure: Failure) -> None:
    """Stop the run until somebody decides (DESIGN 5, NonDeterministicFlow)."""
    turn.emit(RunPaused(failure, turn.unix_ms))
    turn.paused = True


def resume(turn: Turn) -> None:
    """Let a paused run go on."""
    turn.emit(RunResumed(turn.unix_ms))
    turn.resumed = True


def settle(turn: Turn) -> None:
    """Close the turn: release what its entries made releasable, and end the run if its body ended.

    Called once per turn, after all its events, so that one frame's results make one release.
    """
    run = turn.run
    if run.state.terminal:
        return
    if run.body_ended is not None:
        _end_run(turn)
        return
    released = run.fresh
    run.fresh = []
    for group in run.dirty:
        group.dirty = False
        if wave_closed(group):
            released.extend(sorted(group.finished, key=_declaration_order))
    run.dirty.clear()
    if not released:
        return
    stats = run.stats
    entry = Released(
        run.release_seq + 1,
        tuple(step.path for step in released),
        turn.unix_ms,
        RunStats(stats.advances, stats.executes, 0, stats.body_entries),
    )
    turn.emit(entry)
    turn.released = entry


def wave_closed(group: Group) -> bool:
    """A WAIT wave closes when no branch is BUSY and no step directly in its branches lacks an outcome (MISSION P6)."""
    return group.busy == 0 and group.unfinished == 0 and bool(group.finished) and group.ended is None


def _declaration_order(step: Step) -> tuple[int, int]:
    return step.scope.index, step.order


def _end_run(turn: Turn) -> None:
    run = turn.run
    assert run.body_ended is not None
    failure = run.body_ended.failure
    ended = RunEnded(
        RunState.SUCCEEDED if failure is None else RunState.FAILED,
        turn.unix_ms,
        run.stats,
    )
    turn.emit(ended)
    turn.ended = ended


def open_leases(run: Run) -> Sequence[Step]:
    """Steps that some host holds at the moment."""
    return [step for step in run.steps.values() if step.lease is not None]
