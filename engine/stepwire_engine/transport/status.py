"""The one table from an error code to what each outside calls it: gRPC status, exit code, HTTP status.

`proto/README.md` section 11 is normative for the gRPC column. Nothing else in the engine maps codes.
"""

from __future__ import annotations

from dataclasses import dataclass

from grpc import StatusCode

from stepwire.protocol.failure import ErrorCode

EXIT_RUN_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_UNREACHABLE = 4
EXIT_CONFLICT = 5


@dataclass(frozen=True, slots=True)
class Status:
    """How an error leaves the engine.

    Attributes:
        grpc: Status of a call of RunService.
        exit_code: Of the command line.
        http: Of the HTTP API.
    """

    grpc: StatusCode
    exit_code: int
    http: int


STATUS: dict[ErrorCode, Status] = {
    # Of user code: they stand in a run's record and become a status only if a run is refused because of them.
    ErrorCode.USER_ERROR: Status(StatusCode.UNKNOWN, EXIT_RUN_FAILED, 500),
    ErrorCode.TIMEOUT: Status(StatusCode.DEADLINE_EXCEEDED, EXIT_RUN_FAILED, 504),
    ErrorCode.CANCELLED: Status(StatusCode.CANCELLED, EXIT_RUN_FAILED, 409),
    ErrorCode.INVALID_INPUT: Status(StatusCode.INVALID_ARGUMENT, EXIT_USAGE, 400),
    ErrorCode.OUTPUT_UNSERIALIZABLE: Status(StatusCode.UNKNOWN, EXIT_RUN_FAILED, 500),
    ErrorCode.PAYLOAD_TOO_LARGE: Status(StatusCode.INVALID_ARGUMENT, EXIT_USAGE, 413),
    ErrorCode.NON_DETERMINISTIC_FLOW: Status(StatusCode.FAILED_PRECONDITION, EXIT_RUN_FAILED, 409),
    ErrorCode.NESTED_STEP: Status(StatusCode.FAILED_PRECONDITION, EXIT_RUN_FAILED, 500),
    ErrorCode.UNAWAITED_STEP: Status(StatusCode.FAILED_PRECONDITION, EXIT_RUN_FAILED, 500),
    ErrorCode.AMBIGUOUS_STEP: Status(StatusCode.FAILED_PRECONDITION, EXIT_RUN_FAILED, 500),
    ErrorCode.GROUP_FAILED: Status(StatusCode.UNKNOWN, EXIT_RUN_FAILED, 500),
    ErrorCode.POISON_STEP: Status(StatusCode.FAILED_PRECONDITION, EXIT_RUN_FAILED, 500),
    ErrorCode.LIMIT_EXCEEDED: Status(StatusCode.RESOURCE_EXHAUSTED, EXIT_RUN_FAILED, 413),
    ErrorCode.INVALID_NAME: Status(StatusCode.INVALID_ARGUMENT, EXIT_USAGE, 400),
    ErrorCode.BODY_STALLED: Status(StatusCode.FAILED_PRECONDITION, EXIT_RUN_FAILED, 500),
    ErrorCode.RUN_TIMEOUT: Status(StatusCode.DEADLINE_EXCEEDED, EXIT_RUN_FAILED, 504),
    ErrorCode.UNDO_UNREACHABLE: Status(StatusCode.FAILED_PRECONDITION, EXIT_RUN_FAILED, 500),
    ErrorCode.CALL_FAILED: Status(StatusCode.UNKNOWN, EXIT_RUN_FAILED, 502),
    ErrorCode.DESTINATION_REFUSED: Status(StatusCode.PERMISSION_DENIED, EXIT_RUN_FAILED, 403),
    ErrorCode.CHILD_CANCELLED: Status(StatusCode.CANCELLED, EXIT_RUN_FAILED, 409),
    # Of a session's stream.
    ErrorCode.PROTOCOL: Status(StatusCode.FAILED_PRECONDITION, EXIT_RUN_FAILED, 400),
    ErrorCode.UNDECODABLE: Status(StatusCode.INVALID_ARGUMENT, EXIT_USAGE, 400),
    ErrorCode.VERSION: Status(StatusCode.FAILED_PRECONDITION, EXIT_USAGE, 400),
    ErrorCode.FEATURE: Status(StatusCode.FAILED_PRECONDITION, EXIT_USAGE, 400),
    ErrorCode.PLAN_REJECTED: Status(StatusCode.FAILED_PRECONDITION, EXIT_RUN_FAILED, 409),
    ErrorCode.STALE: Status(StatusCode.ABORTED, EXIT_CONFLICT, 409),
    ErrorCode.REPLACED: Status(StatusCode.ABORTED, EXIT_CONFLICT, 409),
    # Of calls.
    ErrorCode.UNKNOWN_FLOW: Status(StatusCode.NOT_FOUND, EXIT_NOT_FOUND, 404),
    ErrorCode.RUN_NOT_FOUND: Status(StatusCode.NOT_FOUND, EXIT_NOT_FOUND, 404),
    ErrorCode.KEY_CONFLICT: Status(StatusCode.ALREADY_EXISTS, EXIT_CONFLICT, 409),
    ErrorCode.STORE_UNAVAILABLE: Status(StatusCode.UNAVAILABLE, EXIT_UNREACHABLE, 503),
    ErrorCode.DRAINING: Status(StatusCode.UNAVAILABLE, EXIT_UNREACHABLE, 503),
    ErrorCode.INTERNAL: Status(StatusCode.INTERNAL, EXIT_RUN_FAILED, 500),
    ErrorCode.WRONG_STATE: Status(StatusCode.FAILED_PRECONDITION, EXIT_CONFLICT, 409),
    ErrorCode.INVALID_ARGUMENT: Status(StatusCode.INVALID_ARGUMENT, EXIT_USAGE, 400),
    ErrorCode.STORE_FULL: Status(StatusCode.RESOURCE_EXHAUSTED, EXIT_UNREACHABLE, 507),
    ErrorCode.RUN_UNREADABLE: Status(StatusCode.DATA_LOSS, EXIT_CONFLICT, 500),
    ErrorCode.NOT_IMPLEMENTED: Status(StatusCode.UNIMPLEMENTED, EXIT_USAGE, 501),
}


EXIT_CODES: dict[ErrorCode, int] = {code: status.exit_code for code, status in STATUS.items()}
"""What the command line ends with, by code."""


def stream_status(code: ErrorCode) -> StatusCode:
    """The status a session's stream ends with; it differs where a call can tell whose fault it was."""
    return StatusCode.RESOURCE_EXHAUSTED if code is ErrorCode.PAYLOAD_TOO_LARGE else STATUS[code].grpc
