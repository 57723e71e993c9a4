"""Durations, times, enums, fences and identifiers: the smallest parts of every message, and their bounds."""

from __future__ import annotations

import enum
from typing import NoReturn, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from stepwire.protocol import limits
from stepwire.protocol.bounds import has_control_characters
from stepwire.protocol.failure import ErrorCode, Retryable
from stepwire.protocol.frames import CancelReason, Purpose, RejectReason
from stepwire.protocol.plan import Backoff, BranchOutcome, FailPolicy, Fence, ParallelMode, StepKind, Verdict
from stepwire.protocol.traceparent import is_traceparent
from stepwire.v1 import plan_pb2

NANOS = 1_000_000_000
_EPOCH_SECONDS_MAX = 253_402_300_799


class WireError(Exception):
    """A message that cannot be mapped; the receiver sends Fault with this code and closes the stream.

    Attributes:
        code: UNDECODABLE, or PAYLOAD_TOO_LARGE for a transfer over a limit.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def undecodable(what: str) -> NoReturn:
    raise WireError(ErrorCode.UNDECODABLE, what)


E = TypeVar("E", bound=enum.IntEnum)


class Members(dict[int, E]):
    """Members of an enum by number; a lookup costs a third of calling the enum class."""

    def __init__(self, members: type[E]) -> None:
        super().__init__({int(member): member for member in members})
        self._name = members.__name__

    def __missing__(self, number: int) -> NoReturn:
        undecodable(f"{self._name} is {'not set' if number == 0 else f'{number}, which this side does not know'}")


KINDS = Members(StepKind)
MODES = Members(ParallelMode)
FAIL_POLICIES = Members(FailPolicy)
BACKOFFS = Members(Backoff)
BRANCH_OUTCOMES = Members(BranchOutcome)
VERDICTS = Members(Verdict)
ERROR_CODES = Members(ErrorCode)
RETRYABLES = Members(Retryable)
REJECT_REASONS = Members(RejectReason)
CANCEL_REASONS = Members(CancelReason)
PURPOSES = Members(Purpose)


def duration_to_pb(seconds: float, target: Duration) -> None:
    """Fill `target`. Values outside 0 .. 100 years are clamped; the wire carries nanoseconds."""
    if 0.0 < seconds < 0.9:  # most durations of attempts; no carry into the seconds
        target.nanos = round(seconds * NANOS)
        return
    target.seconds, target.nanos = divmod(nanoseconds(seconds), NANOS)


def nanoseconds(seconds: float) -> int:
    """As `duration_to_pb`, in one number."""
    return round(min(max(seconds, 0.0), limits.DURATION_SECONDS_MAX) * NANOS)


def duration_from_pb(value: Duration) -> float:
    """Seconds; 0.0 if absent. Raises WireError for less than 0 or more than 100 years."""
    seconds, nanos = value.seconds, value.nanos
    if not (0 <= seconds <= limits.DURATION_SECONDS_MAX and 0 <= nanos < NANOS):
        undecodable(f"duration of {seconds} s and {nanos} ns is not between 0 and 100 years")
    return (seconds * NANOS + nanos) / NANOS if nanos else float(seconds)


def timestamp_to_pb(at_ms: int, target: Timestamp) -> None:
    """Fill `target` from milliseconds since the Unix epoch."""
    target.seconds, millis = divmod(at_ms, 1000)
    target.nanos = millis * 1_000_000


def timestamp_from_pb(value: Timestamp) -> int:
    """Milliseconds since the Unix epoch; 0 if absent. Raises WireError outside the years 1970 to 9999."""
    seconds, nanos = value.seconds, value.nanos
    if not (0 <= seconds <= _EPOCH_SECONDS_MAX and 0 <= nanos < NANOS):
        undecodable(f"time of {seconds} s and {nanos} ns is not between the years 1970 and 9999")
    return seconds * 1000 + nanos // 1_000_000


def moment_to_pb(at_ms: int, target: Timestamp) -> None:
    """A time that user code names, clamped to the years 1970 to 9999; sets `target` also for the epoch itself."""
    target.SetInParent()
    timestamp_to_pb(min(max(at_ms, 0), _EPOCH_SECONDS_MAX * 1000 + 999), target)


def limit_to_pb(seconds: float | None, target: Duration) -> None:
    """A timeout: absent means none, so one that is already over must not round to zero."""
    if seconds is not None:
        duration_to_pb(max(seconds, 1e-9), target)


def limit_from_pb(value: Duration) -> float | None:
    """Seconds; None if absent or zero."""
    return duration_from_pb(value) or None


def fence_to_pb(fence: Fence, target: plan_pb2.Fence) -> None:
    target.claim_epoch = fence.claim_epoch
    target.n = fence.n


def fence_from_pb(value: plan_pb2.Fence) -> Fence:
    epoch = value.claim_epoch
    if not epoch:
        undecodable("a fence is absent or has claim_epoch 0")
    return Fence(epoch, value.n)


def checked_path(path: str) -> str:
    if not 0 < len(path) <= limits.PATH_BYTES_MAX:
        undecodable(f"a path has {len(path)} characters; 1 to {limits.PATH_BYTES_MAX} are allowed")
    if has_control_characters(path):
        undecodable(f"a path has control characters: {path[:80]!r}")
    return path


def check_paths(paths: list[str]) -> None:
    """`checked_path` for each of them. Together, because a frame has many and they are good: a tenth of the cost."""
    text = paths[0] if len(paths) == 1 else "".join(paths)
    fits = len(text) <= limits.PATH_BYTES_MAX or max(map(len, paths)) <= limits.PATH_BYTES_MAX
    if fits and all(paths) and text.isascii() and text.isprintable():  # of ASCII, all but the control characters
        return
    for path in paths:
        checked_path(path)


def checked_run_id(value: str) -> str:
    return value or undecodable("a section has no run_id")


def traceparent_from_pb(value: str) -> str:
    """It if it is well formed, otherwise none: nobody loses a run over the context of a span."""
    return value if is_traceparent(value) else ""


def checked_attempt(number: int) -> int:
    return number or undecodable("an attempt has number 0")
