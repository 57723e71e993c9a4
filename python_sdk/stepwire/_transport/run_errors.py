"""What a failed call of RunService is to its user: exceptions by code, and what to do next (proto/README.md, 11)."""

from __future__ import annotations

from typing import Any

import grpc

from stepwire.errors import (
    EngineBusy,
    EngineUnavailable,
    InvalidInput,
    KeyConflict,
    PayloadTooLarge,
    ProtocolError,
    RunError,
    RunNotFound,
    StepwireError,
    UnknownFlow,
)
from stepwire.protocol.failure import ErrorCode

CALL_SECONDS = 30.0
"""How long a call may take, a watch apart."""
_CODE_KEY = "stepwire-code"
_RETRY_KEY = "stepwire-retry-after-ms"
_RUN_KEY = "stepwire-run-id"
_CLASSES: dict[ErrorCode, type[StepwireError]] = {
    ErrorCode.UNKNOWN_FLOW: UnknownFlow,
    ErrorCode.RUN_NOT_FOUND: RunNotFound,
    ErrorCode.KEY_CONFLICT: KeyConflict,
    ErrorCode.PAYLOAD_TOO_LARGE: PayloadTooLarge,
    ErrorCode.INVALID_INPUT: InvalidInput,
    ErrorCode.STORE_UNAVAILABLE: EngineUnavailable,
    ErrorCode.STORE_FULL: EngineUnavailable,
    ErrorCode.DRAINING: EngineUnavailable,
    ErrorCode.PROTOCOL: ProtocolError,
    ErrorCode.UNDECODABLE: ProtocolError,
    ErrorCode.VERSION: ProtocolError,
    ErrorCode.FEATURE: ProtocolError,
}
"""Classes of refused calls; every other code is a RunError that carries it."""
_CODES = {code.slug: code for code in ErrorCode}
_HINTS = {
    ErrorCode.WRONG_STATE: "see its state with `stepwire runs show`",
    ErrorCode.INTERNAL: "read the engine's log; report this as a bug",
    ErrorCode.DRAINING: "try again: the engine is being stopped or restarted",
    ErrorCode.STORE_UNAVAILABLE: "try again; if it goes on, read the engine's log",
    ErrorCode.STORE_FULL: "make room on the disk of the engine's database; it takes calls again by itself",
    ErrorCode.RUN_UNREADABLE: "run `stepwire doctor` where the engine runs, and restore the last backup",
    ErrorCode.NOT_IMPLEMENTED: "run a newer engine",
}


def code_of(error: grpc.RpcError) -> ErrorCode | None:
    """The engine's code for a failed call; None if it was not the engine that answered."""
    trailers: Any = error.trailing_metadata()  # pairs, whatever the stubs say
    for key, value in trailers or ():
        if key == _CODE_KEY:
            return _CODES.get(value, ErrorCode.INTERNAL)
    return None


def error_from_rpc(error: grpc.RpcError, address: str) -> StepwireError:
    """The exception users see for a failed call."""
    code = code_of(error)
    details = (error.details() or "").strip()
    if code is None:
        return _transport_error(error.code(), details, address)
    return refused(code, details, EngineBusy if is_busy(error) else None, retry_after_of(error))


def is_busy(error: grpc.RpcError) -> bool:
    """Whether the engine has no room for the call at the moment; nothing of it was done."""
    return code_of(error) is ErrorCode.LIMIT_EXCEEDED and retry_after_of(error) is not None


def refused(
    code: ErrorCode, details: str, cls: type[StepwireError] | None = None, retry_after: float | None = None
) -> StepwireError:
    """The exception for what an engine refused, by its code."""
    cls = cls or _CLASSES.get(code, RunError)
    if issubclass(cls, InvalidInput | PayloadTooLarge):
        return cls(details)
    error = cls(details, hint=_HINTS.get(code, ""))
    error.code = code
    error.retry_after = retry_after
    return error


def run_id_of(error: grpc.RpcError) -> str:
    """The run that a failed call had started; empty: the engine has not said."""
    failed: Any = error  # a grpc.Call, too
    for key, value in (*(failed.initial_metadata() or ()), *(failed.trailing_metadata() or ())):
        if key == _RUN_KEY:
            return str(value)
    return ""


def retry_after_of(error: grpc.RpcError) -> float | None:
    """When the engine says that it is worth trying again, in seconds; None: it does not say."""
    trailers: Any = error.trailing_metadata()
    for key, value in trailers or ():
        if key == _RETRY_KEY and value.isascii() and value.isdigit():
            return int(value) / 1000
    return None


def _transport_error(status: grpc.StatusCode, details: str, address: str) -> StepwireError:
    match status:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return EngineUnavailable(
                f"the engine at {address} did not answer within {CALL_SECONDS:g} s",
                why="it is overloaded, or the network drops packets; what was asked may still have been done",
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            return ProtocolError(f"what answers at {address} does not know this call", why=details)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "larger than max" in details:
            return PayloadTooLarge(details)
        case _:
            return EngineUnavailable(f"no engine answers at {address}", why=details or status.name)
