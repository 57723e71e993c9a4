"""Undos: how what a step did is compensated when its run fails (MISSION S8, O9).

A closure given as `compensate=` lives in the body that planned the step; a registered step needs no body.
Both become a StepCall, so that an undo is an attempt like any other. This module does not decide what is
undone, in which order or how often: that is the engine's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import Context
from typing import Any
from urllib.parse import unquote

from stepwire._runtime.attempt import StepCall
from stepwire.codec import Codec, first_parameter_type, return_type
from stepwire.errors import StepError, error_from_failure
from stepwire.flow import StepFunction
from stepwire.protocol import paths
from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import UndoInput
from stepwire.protocol.plan import StepKind
from stepwire.redaction import Parts
from stepwire.retry import Retry


class UndoCall:
    """A closure of a body that undoes one of its steps; kept by the step's path in `LiveBody.undos`.

    Only closures: an undo that is a registered step is named in the plan and needs nothing here.

    Args:
        fn: Takes the step's output, or the output and why the run is undone, or nothing.
        codec, returns: How the step's output is decoded.
        context: Of the call that planned the step; each attempt gets a copy.
        is_async: `fn` is a coroutine function.
        retries: As the user wrote them; the engine has the policy.
        redact: What of the step, and so of its undo, is not for human eyes.
    """

    __slots__ = ("codec", "context", "fn", "is_async", "redact", "retries", "returns")

    def __init__(
        self,
        fn: Callable[..., Any],
        codec: Codec,
        returns: Any,
        context: Context,
        is_async: bool,
        retries: int | Retry | None = None,
        redact: Parts | None = None,
    ) -> None:
        self.fn = fn
        self.codec = codec
        self.returns = returns
        self.context = context
        self.is_async = is_async
        self.retries = retries
        self.redact = redact

    def call(self, given: UndoInput) -> StepCall:
        """What an attempt calls.

        Raises:
            InvalidInput: the output does not fit the step's annotation any more.
        """
        args = _arguments(self.fn, self.codec.decode(given.output, self.returns), given.failure)
        returns = return_type(self.fn)
        codec, redact = self.codec, self.redact
        return StepCall(StepKind.RUN, self.fn, args, {}, returns, codec, self.retries, self.is_async, None, redact)


def registered_undo(step: StepFunction[..., Any], given: UndoInput) -> StepCall:
    """What an attempt of a registered step calls that undoes another one.

    The output is decoded by the annotation of the first parameter: this host need not know the other step.

    Raises:
        InvalidInput: the output does not fit it.
    """
    output = step.codec.decode(given.output, first_parameter_type(step.fn))
    args = _arguments(step.fn, output, given.failure)
    return StepCall(
        StepKind.TASK,
        step.fn,
        args,
        {},
        step.returns,
        step.codec,
        step.retries,
        step.is_async,
        step.abandon_after,
        step.redact,
    )


def _arguments(fn: Callable[..., Any], output: Any, failure: Failure | None) -> tuple[Any, ...]:
    match _positional(fn):
        case 0:
            return ()
        case 1:
            return (output,)
        case _:
            return output, why(failure)


def _positional(fn: Callable[..., Any]) -> int:
    """How many of (output, failure) a function takes.

    A second parameter with a default of its own, as in `lambda out, i=i: ...`, binds a value where the
    function was made: the failure must not replace it. None as default means that it may be left out.
    """
    try:
        parameters = inspect.signature(fn).parameters.values()
    except ValueError:  # some builtins do not say
        return 1
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) >= 2:
        return 2 if positional[1].default in (inspect.Parameter.empty, None) else 1
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return 1 if takes_any else len(positional)


def why(failure: Failure | None) -> StepError | None:
    """What an undo function is told about the failure of the run; None: the run was cancelled."""
    return None if failure is None else error_from_failure(failure)


def step_name(path: str) -> str:
    """The name the step at `path`, or the step that an undo at `path` undoes, was planned with."""
    segment = (paths.undone_path(path) or path).rpartition("/")[2]
    return unquote(segment.partition("#")[0])


def unreachable(path: str, reason: str) -> Failure:
    """The outcome of an undo whose closure the replayed body does not have."""
    message = f"the closure of {path!r} cannot be reached: {reason}"
    return Failure(ErrorCode.UNDO_UNREACHABLE, "UndoUnreachable", message, retryable=Retryable.NO)
