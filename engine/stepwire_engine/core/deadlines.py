"""What happens when the deadline of a step or a group passes (DESIGN 4, the durable forms of a timeout).

The shell's timers say when; these functions decide what is journaled. Whether a deadline still matters is
theirs to check as well: nobody disarms a timer.
"""

from __future__ import annotations

from collections.abc import Iterable

from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import CancelReason
from stepwire.protocol.plan import Sleep, WaitEvent
from stepwire_engine.core.entries import AttemptEnded, GroupExpired
from stepwire_engine.core.model import Group, Step, StepState
from stepwire_engine.core.turn import Turn


def step_due_ms(step: Step) -> int | None:
    """When the step must have its outcome, in milliseconds since the Unix epoch."""
    particulars = step.particulars
    if particulars is None or particulars.deadline is None:
        return None
    return step.planned_ms + round(particulars.deadline * 1000)


def goes_on_ms(step: Step) -> int | None:
    """When an open step goes on by itself: its next attempt, the end of a sleep, the timeout of a wait."""
    if step.state is StepState.BACKOFF:
        return step.retry_at_ms
    match step.spec:
        case Sleep(until_ms=int(until_ms)):
            return until_ms
        case Sleep(duration=float(seconds)) | WaitEvent(timeout=float(seconds)):
            return step.planned_ms + round(seconds * 1000)
        case _:
            return None


def is_settled(group: Group) -> bool:
    """Whether its deadline means nothing any more: it has ended, its body is told, or its own branch has ended."""
    return group.ended is not None or group.expired or group.scope.ended


def group_due_ms(group: Group) -> int | None:
    """When the group must have ended, in milliseconds since the Unix epoch; None: that is settled."""
    deadline = group.opened.deadline
    return None if deadline is None or is_settled(group) else group.opened_ms + round(deadline * 1000)


def expire_steps(turn: Turn, steps: Iterable[Step]) -> None:
    """The total deadline of these steps passed: that is their outcome, whatever their attempts still do."""
    for step in steps:
        if not step.state.final and turn.run.stopping is None:
            _expire_step(turn, step)


def _expire_step(turn: Turn, step: Step) -> None:
    particulars = step.particulars
    assert particulars is not None and particulars.deadline is not None
    message = f"step {step.path!r} was not finished within its deadline of {particulars.deadline:g} s"
    failure = Failure(ErrorCode.TIMEOUT, "StepTimeout", message, retryable=Retryable.NO)
    if step.lease is not None:
        turn.cancelled.append((step.lease, CancelReason.TIMEOUT))
    turn.let_go.append(step)
    turn.emit(AttemptEnded(step.path, step.attempt, turn.unix_ms, 0.0, "", None, failure))


def expire_group(turn: Turn, group: Group) -> None:
    """The deadline of an open group passed: the body learns it by a release and ends the group.

    Outcomes that waited for their wave are released first, so that what succeeded in time counts; the group follows
    when their branches have answered, or at the next call.
    """
    run = turn.run
    if is_settled(group) or run.stopping is not None or run.body_ended is not None:
        return
    if group.finished and not group.closing:
        group.closing = True
        turn.closing.append(group)
    else:
        turn.emit(GroupExpired(group.path, turn.unix_ms))


def group_timeout(path: str, deadline: float | None) -> Failure:
    """What the body gets for a group whose deadline passed."""
    message = f"group {path!r} was not finished within its deadline of {deadline or 0:g} s"
    return Failure(ErrorCode.TIMEOUT, "GroupTimeout", message, retryable=Retryable.NO)
