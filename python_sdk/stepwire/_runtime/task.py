"""What an attempt at a registered step calls: its function with the journaled arguments, or its undo."""

from __future__ import annotations

from typing import Any

from stepwire._runtime.attempt import StepCall
from stepwire._runtime.undo import registered_undo
from stepwire.flow import StepFunction
from stepwire.protocol.frames import Execute
from stepwire.protocol.payload import NULL
from stepwire.protocol.plan import StepKind


def task_call(step: StepFunction[..., Any], execute: Execute) -> StepCall:
    """Raises InvalidInput if the arguments do not fit, or what a codec of the user's own raises."""
    if execute.undo is not None:
        return registered_undo(step, execute.undo)
    args, kwargs = step.decode_input(execute.input or NULL)
    call = unread_call(step)
    call.args, call.kwargs = args, kwargs
    return call


def unread_call(step: StepFunction[..., Any]) -> StepCall:
    """The call of a registered step whose arguments are not decoded yet."""
    return StepCall(
        StepKind.TASK,
        step.fn,
        (),
        {},
        step.returns,
        step.codec,
        step.retries,
        step.is_async,
        step.abandon_after,
        step.redact,
    )
