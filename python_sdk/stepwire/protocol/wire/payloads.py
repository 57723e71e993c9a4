"""Payloads and failures, also for unary calls, which have no chunks."""

from __future__ import annotations

from typing import Any

from stepwire.protocol import limits
from stepwire.protocol.bounds import cut_text
from stepwire.protocol.failure import CAUSE_DEPTH_MAX, TRACEBACK_BYTES_MAX, ErrorCode, Failure
from stepwire.protocol.payload import JSON, Payload
from stepwire.protocol.wire.scalars import (
    ERROR_CODES,
    RETRYABLES,
    WireError,
    duration_from_pb,
    duration_to_pb,
    undecodable,
)
from stepwire.v1 import failure_pb2, payload_pb2

_TYPE_BYTES_MAX = 256


def payload_to_pb(payload: Payload, target: payload_pb2.Payload) -> None:
    """Fill `target` inline, whatever the size: unary calls have no chunks."""
    target.data = payload.data
    if payload.encoding != JSON:
        target.encoding = payload.encoding
    elif not payload.data:
        target.SetInParent()
    if payload.redacted:
        target.redacted = True


def payload_from_pb(value: payload_pb2.Payload, payload_bytes_max: int = limits.PAYLOAD_BYTES_MAX) -> Payload:
    """The payload of a unary call.

    Raises:
        WireError: PAYLOAD_TOO_LARGE over `payload_bytes_max`, UNDECODABLE if it names a transfer.
    """
    if value.transfer_id:
        undecodable("a payload outside of a session cannot travel as chunks")
    if len(value.data) > payload_bytes_max:
        raise too_large(len(value.data), payload_bytes_max)
    return Payload(value.data, value.encoding or JSON, value.redacted)


def too_large(size: int, limit: int) -> WireError:
    return WireError(ErrorCode.PAYLOAD_TOO_LARGE, f"payload has {size} bytes; the limit is {limit}")


def failure_to_pb(failure: Failure, target: failure_pb2.Failure) -> None:
    """Fill `target`; texts over their limits lose their middle, causes below level 8 are dropped."""
    current: Failure | None = failure
    message: Any = target
    for level in range(CAUSE_DEPTH_MAX):
        if current is None:
            return
        message = message.cause if level else message
        message.code = current.code
        message.type = cut_text(current.type, _TYPE_BYTES_MAX)
        message.message = cut_text(current.message, limits.MESSAGE_TEXT_BYTES_MAX)
        message.traceback = cut_text(current.traceback, TRACEBACK_BYTES_MAX)
        message.retryable = current.retryable
        if current.retry_after is not None:
            message.retry_after.SetInParent()
            duration_to_pb(current.retry_after, message.retry_after)
        current = current.cause


def failure_from_pb(value: failure_pb2.Failure, level: int = 1) -> Failure:
    """The failure and its causes; an error code of a newer peer becomes INTERNAL. Raises WireError."""
    if level > CAUSE_DEPTH_MAX:
        undecodable(f"a failure has more than {CAUSE_DEPTH_MAX} levels of causes")
    return Failure(
        error_code(value.code),
        value.type,
        value.message,
        value.traceback,
        RETRYABLES[value.retryable],
        duration_from_pb(value.retry_after) if value.HasField("retry_after") else None,
        failure_from_pb(value.cause, level + 1) if value.HasField("cause") else None,
    )


def error_code(number: int) -> ErrorCode:
    return ERROR_CODES[number] if number in ERROR_CODES or number == 0 else ErrorCode.INTERNAL
