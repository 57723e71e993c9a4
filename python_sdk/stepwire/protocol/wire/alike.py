"""Which items of a list one message may speak for (FEATURE_ALIKE, ADR 0028).

Most steps of a wide group differ in nothing but their path, their output and their time. A message for each costs more
than everything else that the wire does. Each function here says how far the items after one are like it; what is
shared and what is told of each is said in the protos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from stepwire.protocol.frames import Result, StepOutcome
from stepwire.protocol.plan import BranchEnded, StepPlanned
from stepwire.protocol.wire.transfers import MOVABLE_BYTES

T = TypeVar("T")


def told(items: Sequence[T], end: Callable[[Sequence[T], int], int], *, alike: bool) -> list[tuple[T, Sequence[T]]]:
    """Each item that has a message, with those after it that the message speaks for.

    Args:
        end: One of the functions below.
        alike: The receiver understands that; otherwise each item has a message.
    """
    if not alike or len(items) == 1:
        return [(item, ()) for item in items]
    made: list[tuple[T, Sequence[T]]] = []
    at = 0
    while at < len(items):
        first, at = at, end(items, at)
        made.append((items[first], items[first + 1 : at]))
    return made


def steps_alike(steps: Sequence[StepPlanned], at: int) -> int:
    """Where the steps end that are like the one at `at`; `at` + 1 if none is."""
    first, end = steps[at], at + 1
    if first.input is not None or first.spec is not None or first.undo is not None or first.traceparent:
        return end
    kind, name, retry, timeout = first.kind, first.name, first.retry, first.timeout
    started, concurrent, deadline = first.started, first.concurrent, first.deadline
    while end < len(steps):
        step = steps[end]
        if step.kind is not kind or step.name != name or step.retry != retry or step.timeout != timeout:
            break
        if step.started is not started or step.concurrent is not concurrent or step.deadline != deadline:
            break
        if step.input is not None or step.spec is not None or step.undo is not None or step.traceparent:
            break
        end += 1
    return end


def branches_alike(branches: Sequence[BranchEnded], at: int) -> int:
    """Where the ends of branches end that are like the one at `at`."""
    first, end = branches[at], at + 1
    if first.failure is not None:
        return end
    outcome = first.outcome
    while end < len(branches):
        branch = branches[end]
        if branch.outcome is not outcome or branch.failure is not None:
            break
        end += 1
    return end


def results_alike(results: Sequence[Result], at: int) -> int:
    """Where the results end that are like the one at `at`."""
    first, end = results[at], at + 1
    output = first.output
    if output is None:
        return end
    attempt, fence, encoding, redacted = first.attempt, first.fence, output.encoding, output.redacted
    while end < len(results):
        result = results[end]
        output = result.output
        if output is None or result.attempt != attempt or result.fence != fence or len(output.data) >= MOVABLE_BYTES:
            break
        if output.encoding != encoding or output.redacted is not redacted:
            break
        end += 1
    return end


def outcomes_alike(outcomes: Sequence[StepOutcome], at: int) -> int:
    """Where the outcomes end that are like the one at `at`."""
    first, end = outcomes[at], at + 1
    if not first.held:
        return end
    attempts = first.attempts
    while end < len(outcomes):
        outcome = outcomes[end]
        if not outcome.held or outcome.attempts != attempts:
            break
        end += 1
    return end
