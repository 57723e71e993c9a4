"""Runs that `invoke` steps start: what a step asks of its child, and what becomes of the step (MISSION S19).

A child is named by its parent's step and attempt, so that it is started once, whatever crashes. If it ends with
`ctx.restart_with`, its successor answers in its place. An idempotency key is claimed as by any start; one that some
run has already makes the step fail, also if that run has the same flow and input.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from stepwire.protocol.failure import CAUSE_DEPTH_MAX, ErrorCode, Failure, Retryable
from stepwire.protocol.payload import NULL
from stepwire.protocol.plan import Invoke
from stepwire_engine.core import causes
from stepwire_engine.core.books import Books
from stepwire_engine.core.entries import ParentStep
from stepwire_engine.core.model import Step
from stepwire_engine.core.retry import jitter_chance, retry_delay
from stepwire_engine.core.turn import Turn
from stepwire_engine.core.units import CancelRun, ChildEnded, StartRun


def refusal(books: Books, step: Step, spec: Invoke) -> Failure | None:
    """Why the step can have no child; None if it can."""
    depth = _depth(step)
    depth_max = books.config.invoke_depth_max
    if depth > depth_max:
        message = f"step {step.path!r} would be invocation {depth} in a line of them, limit {depth_max}"
        return Failure(ErrorCode.LIMIT_EXCEEDED, "LimitExceeded", message, retryable=Retryable.NO)
    if spec.flow not in books.known_flows:
        message = f"step {step.path!r} invokes flow {spec.flow!r}, which no host has registered"
        return Failure(ErrorCode.UNKNOWN_FLOW, "UnknownFlow", message, retryable=Retryable.NO)
    return None


def start(turn: Turn, step: Step) -> None:
    """Ask for the child of the step's present attempt. No entry says so of a later attempt: the child's id does."""
    run = turn.run
    spec = step.spec
    assert isinstance(spec, Invoke) and step.particulars is not None
    child = step.particulars.child = run_id_of(step)
    parent = ParentStep(run.number, run.run_id, step.path, step.attempt, _depth(step))
    turn.facts.append((0, StartRun(child, spec.flow, step.input or NULL, spec.id, parent, step.traceparent)))


def cancel(turn: Turn, steps: Iterable[Step]) -> None:
    """Nobody waits for these open steps any more: their children are cancelled; one not asked for yet is not."""
    asked = {fact.run_id for _, fact in turn.facts if isinstance(fact, StartRun)}
    never: set[str] = set()
    for step in steps:
        child = run_id_of(step)
        if child in asked:
            never.add(child)
        elif step.retry_at_ms is None or step.retry_at_ms <= turn.unix_ms:
            turn.facts.append((0, CancelRun(child)))
    if never:
        turn.facts[:] = [row for row in turn.facts if not (isinstance(row[1], StartRun) and row[1].run_id in never)]


def run_id_of(step: Step) -> str:
    """The child of the step's present attempt."""
    return causes.child_run_id(step.run.run_id, step.path, step.attempt)


def failure_and_delay(step: Step, ended: ChildEnded) -> tuple[Failure, float | None]:
    """How the step's attempt failed, and the seconds until another child is started; None: there is none.

    A key names one run for good, so a step with one has a single attempt, as one without a policy of its own.
    """
    failure = ended.failure
    spec = step.spec
    assert failure is not None and isinstance(spec, Invoke)
    if failure.code not in (ErrorCode.CHILD_CANCELLED, ErrorCode.KEY_CONFLICT):
        failure = _of_child(failure, run_id_of(step), spec.flow)
    if step.retry is None or spec.id:
        return failure, None
    chance = jitter_chance(step.run.seed, step.path, step.attempt)
    return failure, retry_delay(step.retry, failure, step.attempt, chance)


def _depth(step: Step) -> int:
    parent = step.run.parent
    return 1 if parent is None else parent.depth + 1


def _of_child(failure: Failure, run_id: str, flow: str) -> Failure:
    """The failure of a step whose child failed; its type is the child's, so that policies can name it."""
    return msgspec.structs.replace(
        failure,
        message=f"run {run_id} of flow {flow!r} failed: {failure.message}",
        cause=_shortened(failure, CAUSE_DEPTH_MAX),
    )


def _shortened(failure: Failure, levels: int) -> Failure:
    """The failure with its causes, `levels` in all."""
    if failure.cause is None:
        return failure
    cause = _shortened(failure.cause, levels - 1) if levels > 1 else None
    return msgspec.structs.replace(failure, cause=cause)
