"""Failures as data: what crosses the wire and the journal instead of exception classes (DESIGN 3, rule 9)."""

from __future__ import annotations

import enum

import msgspec

TRACEBACK_BYTES_MAX = 16 * 1024
CAUSE_DEPTH_MAX = 8


class ErrorCode(enum.IntEnum):
    """Stable causes; the numbers are those of `failure.proto`, where each is explained."""

    USER_ERROR = 1
    TIMEOUT = 2
    CANCELLED = 3
    INVALID_INPUT = 4
    OUTPUT_UNSERIALIZABLE = 5
    PAYLOAD_TOO_LARGE = 6
    NON_DETERMINISTIC_FLOW = 7
    NESTED_STEP = 8
    UNAWAITED_STEP = 9
    AMBIGUOUS_STEP = 10
    GROUP_FAILED = 11
    POISON_STEP = 12
    LIMIT_EXCEEDED = 13
    INVALID_NAME = 14
    BODY_STALLED = 15
    RUN_TIMEOUT = 16
    UNDO_UNREACHABLE = 17
    CALL_FAILED = 18
    DESTINATION_REFUSED = 19
    CHILD_CANCELLED = 20
    PROTOCOL = 30
    UNDECODABLE = 31
    VERSION = 32
    FEATURE = 33
    PLAN_REJECTED = 34
    STALE = 35
    REPLACED = 36
    UNKNOWN_FLOW = 50
    RUN_NOT_FOUND = 51
    KEY_CONFLICT = 52
    STORE_UNAVAILABLE = 53
    DRAINING = 54
    INTERNAL = 55
    WRONG_STATE = 56
    INVALID_ARGUMENT = 57
    NOT_IMPLEMENTED = 58
    STORE_FULL = 59
    RUN_UNREADABLE = 60

    @property
    def slug(self) -> str:
        """The spelling in metadata, CLI and documentation, e.g. `unknown_flow`."""
        return self.name.lower()


class Retryable(enum.IntEnum):
    """Whether another attempt may be made (DESIGN 3, rule 9)."""

    POLICY = 1
    YES = 2
    NO = 3


class Failure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What went wrong, as data.

    Attributes:
        code: The stable cause.
        type: The type as the host's language names it, e.g. "ValueError".
        message: One line for people.
        traceback: Text, at most 16 KiB.
        retryable: Whether the step's policy decides on another attempt.
        retry_after: Seconds to wait at least before the next attempt; None: the policy's delay.
        cause: What caused it, at most 8 levels deep.
    """

    code: ErrorCode
    type: str
    message: str
    traceback: str = ""
    retryable: Retryable = Retryable.POLICY
    retry_after: float | None = None
    cause: Failure | None = None
