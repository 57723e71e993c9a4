"""One attempt at a step: what it calls, what is known of it while it runs, and its outcome if it is told to stop.

Values only: `attempts` runs them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from stepwire._runtime.scope import AttemptInfo
from stepwire.codec import Codec
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import CancelReason
from stepwire.protocol.plan import Fence, StepKind
from stepwire.redaction import Parts
from stepwire.retry import Retry


class StepCall(msgspec.Struct, eq=False):
    """What an attempt calls: a function with its arguments, and how its output is encoded.

    A Struct, because every step makes one.

    Attributes:
        abandon_after: Seconds after which an attempt that was told to stop is given up; None: never.
        redact: What of its outcome is not for human eyes; None: nothing.
    """

    kind: StepKind
    fn: Callable[..., Any]
    args: Any
    kwargs: dict[str, Any]
    returns: Any
    codec: Codec
    retries: int | Retry | None
    is_async: bool
    abandon_after: float | None = None
    redact: Parts | None = None

    def with_function(self, fn: Callable[..., Any], *, is_async: bool, no_arguments: bool = False) -> StepCall:
        """The same call of another function."""
        args, kwargs = ((), {}) if no_arguments else (self.args, self.kwargs)
        abandon_after = self.abandon_after
        return StepCall(
            self.kind, fn, args, kwargs, self.returns, self.codec, self.retries, is_async, abandon_after, self.redact
        )


class RunningAttempt(AttemptInfo, eq=False, kw_only=True):
    """An attempt in progress.

    Attributes:
        since: When it began, by the clock of Attempts.
        flow: Name of its flow; empty if the engine does not say.
        on_thread: Its code runs on a thread of the pool, not on the loop.
        task: What runs its code on the loop; None: it has not begun, or has ended.
        stop: Why it must end, if it must.
        abandon_at: When it is given up, by the clock of Attempts.
        told: Its outcome is with the host; whatever comes now is late.
        abandoned: It was given up and still runs.
    """

    fence: Fence
    call: StepCall
    timeout: float | None
    since: float
    flow: str
    on_thread: bool = False
    task: asyncio.Task[Any] | None = None
    stop: CancelReason | None = None
    abandon_at: float | None = None
    told: bool = False
    abandoned: bool = False

    def tell(self, reason: CancelReason) -> None:
        """Tell its code to stop, as far as code on a thread can be told."""
        self.stop = reason
        self.cancelled = True
        # Only after the flag: a thread that makes the event now looks at the flag before it waits.
        if self._told_to_stop is not None:
            self._told_to_stop.set()


def stop_failure(running: RunningAttempt) -> Failure:
    """The outcome of an attempt that was told to stop."""
    path = running.path
    if running.stop is CancelReason.TIMEOUT:
        code, kind = ErrorCode.TIMEOUT, "StepTimeout"
        message = f"step {path!r} was not finished within its timeout"
        if running.timeout:
            message += f" of {running.timeout:g} s"
    else:
        reason = running.stop.name.lower() if running.stop else "cancelled"
        code, kind = ErrorCode.CANCELLED, "Cancelled"
        message = f"step {path!r} was cancelled: {reason}"
    if running.abandoned:
        message += f"; it did not stop within {running.call.abandon_after:g} s, was abandoned and still runs"
    return Failure(code, kind, message)
