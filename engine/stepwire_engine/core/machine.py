"""The run machine: (run, event) -> entries, and what must happen once they are committed.

Every function here takes a `Turn`, emits entries through it and so folds them into the run at once; the
engine commits the turn's entries as one row and performs its effects afterwards (decide -> commit ->
perform, LAW). Nothing here sends, waits or reads a clock. If a commit fails the run is dropped and read
again from its journal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import Result
from stepwire.protocol.plan import Plan
from stepwire_engine.core import ending
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import (
    AttemptEnded,
    AttemptLost,
    BodyLost,
    Planned,
    RunCreated,
    RunPaused,
    RunResumed,
    RunStats,
)
from stepwire_engine.core.model import PERFORMED, Run, Step
from stepwire_engine.core.retry import jitter_chance, retry_delay
from stepwire_engine.core.turn import Turn

_NAMED_MAX = 5
"""Hosts that the message about a step names."""
_SUSPENDED_TIMES = 10
"""How much more often a body may be lost that waits."""


def create(turn: Turn, entry: RunCreated) -> None:
    """First entry of a run (MISSION T2)."""
    turn.emit(entry)


def accept_plan(turn: Turn, plan: Plan, host: str) -> list[Step]:
    """Journal a checked plan (`plan_check.refusal` said None) and find out what it makes possible.

    Returns:
        The steps that its host has started.
    """
    run = turn.run
    stats = run.stats
    driven = RunStats(stats.advances, stats.executes, 0, stats.body_entries) if stats.body_entries > 1 else None
    turn.emit(Planned(plan, turn.unix_ms, host, driven))
    turn.accepted = True
    for group in plan.groups:
        if group.deadline is not None:
            turn.deadlines.append(run.groups[group.path])
    started: list[Step] = []
    steps = run.steps
    for planned in plan.steps:
        step = steps[planned.path]
        if planned.deadline is not None:
            turn.deadlines.append(step)
        if planned.started:
            started.append(step)
        else:
            turn.planned.append(step)
            if planned.kind in PERFORMED:
                turn.begun.append(step)
    return started


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
    """The host of an attempt is lost. After `attempts_lost_max` in a row the step fails as POISON_STEP (DESIGN 3).

    In a row: an attempt that ended, however it did, was outlived by its host, so the count begins again.
    """
    turn.emit(AttemptLost(step.path, step.attempt, turn.unix_ms, host))
    if len(step.lost_on) < config.attempts_lost_max:
        turn.planned.append(step)
        return
    on = ", ".join(f"{name or 'unknown'} ({times})" for name, times in Counter(step.lost_on).most_common(_NAMED_MAX))
    message = (
        f"step {step.path!r} lost its host {len(step.lost_on)} times in a row, on {on}; "
        "it probably kills the process that runs it"
    )
    failure = Failure(ErrorCode.POISON_STEP, "PoisonStep", message, retryable=Retryable.NO)
    turn.emit(AttemptEnded(step.path, step.attempt, turn.unix_ms, 0.0, host, None, failure))


def lose_body(turn: Turn, config: CoreConfig) -> None:
    """The live body is lost. A flow that does so again and again without getting anywhere is paused.

    One that had answered its last release was suspended, and its code had survived so far: most likely something else
    killed the host, so it may be lost ten times as often. If it was wanted for its undos, those that are its closures
    are given up instead.
    """
    run = turn.run
    turn.emit(BodyLost(turn.unix_ms))
    suspended = run.plan_seq > 0 and run.answered >= run.release_seq and run.stopping is None
    if run.body_losses < config.attempts_lost_max * (_SUSPENDED_TIMES if suspended else 1):
        return
    message = f"the body of flow {run.flow!r} lost its host {run.body_losses} times without getting anywhere"
    failure = Failure(ErrorCode.POISON_STEP, "PoisonFlow", message, retryable=Retryable.NO)
    if run.stopping is None:
        pause(turn, failure)
    else:
        ending.give_up_closures(turn, failure)


def pause(turn: Turn, failure: Failure) -> None:
    """Stop the run until somebody decides (DESIGN 5, NonDeterministicFlow)."""
    turn.emit(RunPaused(failure, turn.unix_ms))
    turn.paused = True


def resume(turn: Turn) -> None:
    """Let a paused run go on."""
    turn.emit(RunResumed(turn.unix_ms))
    turn.resumed = True


def open_leases(run: Run) -> Sequence[Step]:
    """Steps that some host holds at the moment."""
    return [step for step in run.steps.values() if step.lease is not None]
