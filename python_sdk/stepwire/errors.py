"""Every exception of the SDK, and the two functions between exceptions and `Failure` values (DESIGN 3, rule 9).

Exception classes never cross the wire: what a step raised comes back to the flow as a `StepError` that
carries the Failure. This module depends on `stepwire.protocol` only and does no I/O; it reads the wall
clock in one place, where a user gave `RetryAfter` a point in time.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from stepwire.protocol.failure import CAUSE_DEPTH_MAX, TRACEBACK_BYTES_MAX, ErrorCode, Failure, Retryable

if TYPE_CHECKING:
    from stepwire.results import GroupResult

MESSAGE_BYTES_MAX = 4 * 1024
CAUSE_TRACEBACK_BYTES_MAX = 4 * 1024
"""Tracebacks of causes are shorter, so that a whole chain stays far below the frame limit."""
RETRY_AFTER_SECONDS_MAX = 366 * 86_400.0
_SDK_DIRECTORY = os.path.dirname(os.path.abspath(__file__)) + os.sep


# ---- the tree


class StepwireError(Exception):
    """Stepwire could not do what was asked.

    The first line of a subclass's docstring is its default message.

    Args:
        message: What happened, one line.
        why: What caused it, if the message does not say so.
        hint: What to do next; the class has a default.

    Attributes:
        code: The stable cause.
        retry_after: When it is worth trying again, in seconds, as the engine says; None: it does not say.
    """

    code: ErrorCode = ErrorCode.INTERNAL
    hint: str = ""
    retry_after: float | None = None

    def __init__(self, message: str = "", *, why: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message or _default_message(type(self))
        self.why = why
        if hint:
            self.hint = hint

    def __str__(self) -> str:
        lines = [self.message]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.hint:
            lines.append(f"  next: {self.hint}")
        return "\n".join(lines)


def _default_message(cls: type[StepwireError]) -> str:
    """First docstring line; the class name under `python -OO`, which drops docstrings."""
    return (cls.__doc__ or cls.__name__).partition("\n")[0].rstrip(".")


class ConfigurationError(StepwireError):
    """A flow, step, policy or host is declared wrongly."""

    code = ErrorCode.INVALID_ARGUMENT
    hint = "correct the declaration; nothing was sent to the engine"


class EngineUnavailable(StepwireError):
    """The engine cannot be reached."""

    code = ErrorCode.STORE_UNAVAILABLE
    hint = "start it with `stepwire dev` or `stepwire engine`, or check STEPWIRE_ENGINE"


class EngineBusy(EngineUnavailable):
    """Too much is in progress: the engine did nothing of what was asked, also not after some tries."""

    code = ErrorCode.LIMIT_EXCEEDED
    hint = "try again later, or raise the limit of the engine that the message names"


class ProtocolError(StepwireError):
    """The peer broke the protocol, or speaks another version of it."""

    code = ErrorCode.PROTOCOL
    hint = "run engine and SDK of compatible versions; if they are, report this as a bug"


class UnreadablePayload(ProtocolError):
    """A payload cannot be decrypted."""

    hint = "give the host every key whose payloads are still stored, then `stepwire runs resume` what was paused"


class RunError(StepwireError):
    """A request about a run failed."""

    code = ErrorCode.WRONG_STATE


class RunNotFound(RunError):
    """There is no such run."""

    code = ErrorCode.RUN_NOT_FOUND
    hint = "list runs with `stepwire runs list`"


class RunFailed(RunError):
    """The run failed.

    Attributes:
        failure: What the flow failed with.
        run_id: The run, if known.
    """

    def __init__(self, failure: Failure, run_id: str = "") -> None:
        subject = f"run {run_id}" if run_id else "the run"
        super().__init__(f"{subject} failed with {failure.type}: {failure.message}")
        self.args = (failure, run_id)
        self.failure = failure
        self.run_id = run_id
        self.code = failure.code
        self.hint = f"see its steps with `stepwire runs show {run_id}`" if run_id else "see .failure.traceback"


class RunCancelled(RunError):
    """The run was cancelled."""

    code = ErrorCode.CANCELLED


class KeyConflict(RunError):
    """The idempotency key is in use with another flow or input."""

    code = ErrorCode.KEY_CONFLICT
    hint = "use another id, or start with the flow and input the key was first used with"


class UnknownFlow(RunError):
    """No host ever registered this flow."""

    code = ErrorCode.UNKNOWN_FLOW
    hint = "check the name and start a host that serves it"


class PartlyStarted(RunError):
    """Of runs that were started together, some were refused. The others are durable and go on.

    Attributes:
        handles: Of the runs, in the order of their inputs; None: refused.
        errors: Why; None: started. At least one; `code` and `retry_after` are those of the first.
    """

    hint = "see .handles and .errors; start the refused ones again once the cause is gone"

    def __init__(self, handles: Sequence[Any], errors: Sequence[StepwireError | None]) -> None:
        refused = [(index, error) for index, error in enumerate(errors) if error is not None]
        index, first = refused[0]
        super().__init__(
            f"{len(refused)} of {len(errors)} runs were not started; the first is number {index}: {first.message}"
        )
        self.code = first.code
        self.retry_after = first.retry_after
        self.handles = list(handles)
        self.errors = list(errors)


class StepError(StepwireError):
    """A step failed.

    Flow code sees it where it awaits the step. If it leaves the flow, the run fails with the same Failure.

    Args:
        what: The Failure, or a message to make one from with the code of the class.
        path: Path of the step; empty if it has none yet.
    """

    code = ErrorCode.USER_ERROR
    retryable: Retryable = Retryable.NO
    """Of failures made from a message; repeating a misuse of the SDK does not help."""
    hint = "read .traceback for the stack of the step; catch StepError in the flow to handle it"
    subject = "step"

    def __init__(self, what: Failure | str = "", path: str = "") -> None:
        if not isinstance(what, Failure):
            cls = type(self)
            message = what or _default_message(cls)
            what = Failure(cls.code, cls.__name__, valid_text(message, MESSAGE_BYTES_MAX), retryable=cls.retryable)
        super().__init__(what.message)
        self.args = (what, path)
        self.failure = what
        self.path = path
        self.code = what.code

    @property
    def type(self) -> str:
        """The type as the language of the step names it, e.g. "ValueError"."""
        return self.failure.type

    @property
    def traceback(self) -> str:
        """The stack of the step, as text."""
        return self.failure.traceback

    @property
    def cause(self) -> Failure | None:
        """What caused the failure; the same chain hangs on `__cause__` as StepErrors."""
        return self.failure.cause

    def __str__(self) -> str:
        subject = f"{self.subject} {self.path!r}" if self.path else f"a {self.subject}"
        if self.code is ErrorCode.USER_ERROR:
            what = f"{subject} failed with {self.type}: {self.message}"
        else:
            what = f"{subject}: {self.message}" if self.path else self.message
        return f"{what}\n  next: {self.hint}"


class GroupFailed(StepError):
    """A group did not reach its verdict.

    On `__cause__` hangs what the first branch that failed, in declaration order, failed with; or the StepTimeout
    of the group, if its deadline ended it.

    Attributes:
        results: How each branch ended, in declaration order; empty if the group was another run's.
        failures: Of the branches that failed, in declaration order.
    """

    code = ErrorCode.GROUP_FAILED
    subject = "group"
    hint = "see .failures and .results; catch it if the rest of the flow can do without"

    def __init__(
        self,
        what: Failure | str = "",
        path: str = "",
        *,
        results: GroupResult[Any] | None = None,
        failures: Sequence[Failure] = (),
        timeout: Failure | None = None,
    ) -> None:
        from stepwire.results import GroupResult  # it needs this module

        self.results: GroupResult[Any] = GroupResult() if results is None else results
        if not isinstance(what, Failure):
            what = _group_failure(what, len(self.results), failures, timeout)
        super().__init__(what, path)
        self.failures = tuple(failures)


def _group_failure(message: str, branches: int, failures: Sequence[Failure], timeout: Failure | None) -> Failure:
    causes = [timeout, *failures] if timeout is not None else failures
    if not message and failures:
        of = f" of {branches}" if branches else ""
        first = f"{failures[0].type}: {failures[0].message}"
        message = f"{len(failures)}{of} branches failed, the first with {first}"
    if timeout is not None:
        message = f"{timeout.message}; {message}" if message else timeout.message
    return Failure(
        ErrorCode.GROUP_FAILED,
        "GroupFailed",
        valid_text(message or _default_message(GroupFailed), MESSAGE_BYTES_MAX),
        retryable=Retryable.NO,
        cause=limited_depth(causes[0], CAUSE_DEPTH_MAX - 1) if causes else None,
    )


class StepTimeout(StepError):
    """An attempt was not finished within its timeout."""

    code = ErrorCode.TIMEOUT
    retryable = Retryable.POLICY
    hint = "raise timeout=, or make the step faster; an attempt that timed out may still have had effects"


class PayloadTooLarge(StepError):
    """A payload exceeds the limit of the engine."""

    code = ErrorCode.PAYLOAD_TOO_LARGE
    hint = "store the data elsewhere and pass a reference, or raise payload_bytes_max of the engine"


class OutputUnserializable(StepError):
    """The output cannot be encoded, or does not survive the round trip."""

    code = ErrorCode.OUTPUT_UNSERIALIZABLE
    hint = "return JSON values, dataclasses, Structs or Pydantic models, and annotate the return type"


class InvalidInput(StepError):
    """The input does not fit the annotations of the flow or step."""

    code = ErrorCode.INVALID_INPUT
    hint = "correct the input, or the annotation"


class NestedStepError(StepError):
    """A step was started inside a step."""

    code = ErrorCode.NESTED_STEP
    hint = "call the function directly, or move the inner step into the flow"


class UnawaitedStep(StepError):
    """The flow ended with a step it never awaited."""

    code = ErrorCode.UNAWAITED_STEP
    hint = "await the step before the flow returns"


class AmbiguousStep(StepError):
    """A step name is used again while its step is outstanding in the same scope."""

    code = ErrorCode.AMBIGUOUS_STEP
    hint = "give concurrent steps different names, or run them in ctx.group.parallel"


class NonDeterministicFlow(StepError):
    """The flow decided something else than its journal says.

    Args:
        what: The Failure or message; empty: made from the two below.
        path: Path at which they differ.
        expected: What the journal says.
        received: What the flow decided now.
    """

    code = ErrorCode.NON_DETERMINISTIC_FLOW
    hint = "deploy the code the run was started with, or decide with `stepwire runs`; the run is paused until then"

    def __init__(self, what: Failure | str = "", path: str = "", *, expected: str = "", received: str = "") -> None:
        if not what and (expected or received):
            what = f"replay expected {expected or 'nothing'}, the flow decided {received or 'nothing'}"
        super().__init__(what, path)
        self.expected = expected
        self.received = received


class LimitExceeded(StepError):
    """More steps, branches or levels than the limits allow."""

    code = ErrorCode.LIMIT_EXCEEDED
    hint = "split the work over several runs, or raise the limit of the engine"


class InvalidStepName(StepError):
    """A name is empty, longer than 256 bytes when encoded, or not valid Unicode."""

    code = ErrorCode.INVALID_NAME
    hint = "use a short literal name; values belong in the input"


# ---- raised by users


class NonRetryable(StepwireError):
    """The step failed and no other attempt may be made."""

    code = ErrorCode.USER_ERROR


class RetryAfter(StepwireError):
    """The step failed and asks for another attempt later.

    The attempt counts; the step fails when none is left.

    Args:
        delay: Seconds, a timedelta, or a datetime with time zone. 0..366 days; times in the past mean now.
        message: What happened.

    Raises:
        ValueError: the delay is negative, not finite, longer than 366 days, or a datetime without time zone.
    """

    code = ErrorCode.USER_ERROR

    def __init__(self, delay: float | timedelta | datetime, message: str = "") -> None:
        super().__init__(message)
        self.args = (delay, message)
        self.seconds = _seconds_until(delay)
        self.message = message or f"asked for another attempt in {self.seconds:g} s"


def _seconds_until(delay: float | timedelta | datetime) -> float:
    if isinstance(delay, datetime):
        if delay.tzinfo is None:
            raise ValueError(f"RetryAfter needs a datetime with time zone, not {delay.isoformat()}")
        seconds = max(0.0, (delay - datetime.now(UTC)).total_seconds())  # noqa: TID251 - the user named a time of this clock
    elif isinstance(delay, timedelta):
        seconds = delay.total_seconds()
    else:
        seconds = float(delay)
    if not 0 <= seconds <= RETRY_AFTER_SECONDS_MAX:
        raise ValueError(f"RetryAfter takes 0..366 days, not {delay!r}")
    return seconds


class BodyEvicted(BaseException):
    """This copy of the flow body was given up; the run goes on elsewhere.

    A BaseException, so that `except Exception` in a flow does not catch it. If you see it, a bare
    `except:` or `except BaseException:` around a ctx call caught it: let it pass. Cleanup that must
    happen once belongs in a step or in compensate=, because `finally` blocks of an evicted body also run.
    """

    def __init__(self, run_id: str = "") -> None:
        super().__init__(run_id)
        self.run_id = run_id

    def __str__(self) -> str:
        subject = f"the body of run {self.run_id}" if self.run_id else "this flow body"
        return (
            f"{subject} was given up and the run goes on elsewhere; do not catch this with a bare `except:`\n"
            "  next: use `except Exception:` in flows, and put cleanup into a step or compensate="
        )


class FlowStopped(BaseException):
    """The flow ended its own run, by `ctx.cancel()` or `ctx.restart_with()`.

    Raised by those calls so that no code of the flow goes on. A BaseException, so that `except Exception` does
    not catch it; the end is decided already, so catching it changes nothing.
    """


# ---- exceptions to failures


def failure_from_exception(
    exc: BaseException, *, code: ErrorCode = ErrorCode.USER_ERROR, retryable: Retryable | None = None
) -> Failure:
    """Turn what user code raised into data.

    Args:
        exc: A StepError gives back the Failure it carries.
        code: For exceptions that are not Stepwire's own.
        retryable: Overrides what the exception says.

    Returns:
        A Failure of valid Unicode: traceback at most 16 KiB without frames of the SDK, at most 8 causes.
    """
    failure = _failure(exc, code, CAUSE_DEPTH_MAX, TRACEBACK_BYTES_MAX)
    return failure if retryable is None else msgspec.structs.replace(failure, retryable=retryable)


def _failure(exc: BaseException, code: ErrorCode, causes_left: int, traceback_bytes: int) -> Failure:
    if isinstance(exc, StepError):
        return limited_depth(exc.failure, causes_left)
    retryable, retry_after = Retryable.POLICY, None
    match exc:
        case RetryAfter():
            retryable, retry_after = Retryable.YES, exc.seconds
        case NonRetryable():
            retryable = Retryable.NO
    type_name = valid_text(type(exc).__name__, 256)
    message = valid_text(_message(exc), MESSAGE_BYTES_MAX)
    return Failure(
        exc.code if isinstance(exc, StepwireError) else code,
        type_name,
        message,
        valid_text(_stack(exc.__traceback__) + f"{type_name}: {message}\n", traceback_bytes),
        retryable,
        retry_after,
        _cause(exc, causes_left),
    )


def _cause(exc: BaseException, causes_left: int) -> Failure | None:
    if causes_left == 0:
        return None
    if isinstance(exc, RunFailed):
        return limited_depth(exc.failure, causes_left - 1)
    cause = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    if cause is None:
        # What a task group or asyncio.TaskGroup wraps says more than the wrapper; the first stands for all.
        members = getattr(exc, "exceptions", None)
        cause = members[0] if isinstance(members, tuple) and members else None
    if not isinstance(cause, BaseException):
        return None
    return _failure(cause, ErrorCode.USER_ERROR, causes_left - 1, CAUSE_TRACEBACK_BYTES_MAX)


def _message(exc: BaseException) -> str:
    if isinstance(exc, StepwireError):
        return f"{exc.message}: {exc.why}" if exc.why else exc.message
    try:
        return str(exc)
    except Exception:
        return f"<{type(exc).__name__} whose text cannot be read>"


def _stack(tb: TracebackType | None) -> str:
    frames = traceback.StackSummary.extract(_user_frames(tb), limit=None, lookup_lines=True)
    return "Traceback (most recent call last):\n" + "".join(frames.format()) if frames else ""


def _user_frames(tb: TracebackType | None) -> Iterator[tuple[Any, int]]:
    for frame, line in traceback.walk_tb(tb):
        if not frame.f_code.co_filename.startswith(_SDK_DIRECTORY):
            yield frame, line


def valid_text(text: str, bytes_max: int) -> str:
    """Make `text` valid Unicode of at most `bytes_max` bytes: surrogates escaped, the middle cut out."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= bytes_max:
        return text if text.isascii() else data.decode()
    mark = f"\n... {len(data) - bytes_max} bytes cut ...\n"
    keep = max(0, bytes_max - len(mark)) // 2
    return data[:keep].decode(errors="ignore") + mark + data[len(data) - keep :].decode(errors="ignore")


def limited_depth(failure: Failure, causes_max: int) -> Failure:
    """The same failure with at most `causes_max` causes below it."""
    chain = [failure]
    while (cause := chain[-1].cause) is not None and len(chain) <= causes_max:
        chain.append(cause)
    if chain[-1].cause is None:
        return failure
    limited = msgspec.structs.replace(chain[-1], cause=None)
    for above in reversed(chain[:-1]):
        limited = msgspec.structs.replace(above, cause=limited)
    return limited


# ---- failures to exceptions


_ERROR_TYPES: dict[ErrorCode, type[StepError]] = {
    cls.code: cls
    for cls in (
        GroupFailed,
        StepTimeout,
        PayloadTooLarge,
        OutputUnserializable,
        InvalidInput,
        NestedStepError,
        UnawaitedStep,
        AmbiguousStep,
        NonDeterministicFlow,
        LimitExceeded,
        InvalidStepName,
    )
}
"""Which StepError a failure becomes in flow code; codes that are not listed become plain StepError."""


def error_from_failure(failure: Failure, path: str = "") -> StepError:
    """The exception that flow code sees for a failed step, with its causes on `__cause__`."""
    error = _ERROR_TYPES.get(failure.code, StepError)(failure, path)
    if failure.cause is not None:
        error.__cause__ = error_from_failure(failure.cause, path)
    return error
