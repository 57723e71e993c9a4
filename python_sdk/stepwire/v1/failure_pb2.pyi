import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_CODE_UNSPECIFIED: _ClassVar[ErrorCode]
    ERROR_CODE_USER_ERROR: _ClassVar[ErrorCode]
    ERROR_CODE_TIMEOUT: _ClassVar[ErrorCode]
    ERROR_CODE_CANCELLED: _ClassVar[ErrorCode]
    ERROR_CODE_INVALID_INPUT: _ClassVar[ErrorCode]
    ERROR_CODE_OUTPUT_UNSERIALIZABLE: _ClassVar[ErrorCode]
    ERROR_CODE_PAYLOAD_TOO_LARGE: _ClassVar[ErrorCode]
    ERROR_CODE_NON_DETERMINISTIC_FLOW: _ClassVar[ErrorCode]
    ERROR_CODE_NESTED_STEP: _ClassVar[ErrorCode]
    ERROR_CODE_UNAWAITED_STEP: _ClassVar[ErrorCode]
    ERROR_CODE_AMBIGUOUS_STEP: _ClassVar[ErrorCode]
    ERROR_CODE_GROUP_FAILED: _ClassVar[ErrorCode]
    ERROR_CODE_POISON_STEP: _ClassVar[ErrorCode]
    ERROR_CODE_LIMIT_EXCEEDED: _ClassVar[ErrorCode]
    ERROR_CODE_INVALID_NAME: _ClassVar[ErrorCode]
    ERROR_CODE_BODY_STALLED: _ClassVar[ErrorCode]
    ERROR_CODE_RUN_TIMEOUT: _ClassVar[ErrorCode]
    ERROR_CODE_UNDO_UNREACHABLE: _ClassVar[ErrorCode]
    ERROR_CODE_CALL_FAILED: _ClassVar[ErrorCode]
    ERROR_CODE_DESTINATION_REFUSED: _ClassVar[ErrorCode]
    ERROR_CODE_CHILD_CANCELLED: _ClassVar[ErrorCode]
    ERROR_CODE_PROTOCOL: _ClassVar[ErrorCode]
    ERROR_CODE_UNDECODABLE: _ClassVar[ErrorCode]
    ERROR_CODE_VERSION: _ClassVar[ErrorCode]
    ERROR_CODE_FEATURE: _ClassVar[ErrorCode]
    ERROR_CODE_PLAN_REJECTED: _ClassVar[ErrorCode]
    ERROR_CODE_STALE: _ClassVar[ErrorCode]
    ERROR_CODE_REPLACED: _ClassVar[ErrorCode]
    ERROR_CODE_UNKNOWN_FLOW: _ClassVar[ErrorCode]
    ERROR_CODE_RUN_NOT_FOUND: _ClassVar[ErrorCode]
    ERROR_CODE_KEY_CONFLICT: _ClassVar[ErrorCode]
    ERROR_CODE_STORE_UNAVAILABLE: _ClassVar[ErrorCode]
    ERROR_CODE_DRAINING: _ClassVar[ErrorCode]
    ERROR_CODE_INTERNAL: _ClassVar[ErrorCode]
    ERROR_CODE_WRONG_STATE: _ClassVar[ErrorCode]
    ERROR_CODE_INVALID_ARGUMENT: _ClassVar[ErrorCode]
    ERROR_CODE_NOT_IMPLEMENTED: _ClassVar[ErrorCode]
    ERROR_CODE_STORE_FULL: _ClassVar[ErrorCode]
    ERROR_CODE_RUN_UNREADABLE: _ClassVar[ErrorCode]

class Retryable(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RETRYABLE_UNSPECIFIED: _ClassVar[Retryable]
    RETRYABLE_POLICY: _ClassVar[Retryable]
    RETRYABLE_YES: _ClassVar[Retryable]
    RETRYABLE_NO: _ClassVar[Retryable]
ERROR_CODE_UNSPECIFIED: ErrorCode
ERROR_CODE_USER_ERROR: ErrorCode
ERROR_CODE_TIMEOUT: ErrorCode
ERROR_CODE_CANCELLED: ErrorCode
ERROR_CODE_INVALID_INPUT: ErrorCode
ERROR_CODE_OUTPUT_UNSERIALIZABLE: ErrorCode
ERROR_CODE_PAYLOAD_TOO_LARGE: ErrorCode
ERROR_CODE_NON_DETERMINISTIC_FLOW: ErrorCode
ERROR_CODE_NESTED_STEP: ErrorCode
ERROR_CODE_UNAWAITED_STEP: ErrorCode
ERROR_CODE_AMBIGUOUS_STEP: ErrorCode
ERROR_CODE_GROUP_FAILED: ErrorCode
ERROR_CODE_POISON_STEP: ErrorCode
ERROR_CODE_LIMIT_EXCEEDED: ErrorCode
ERROR_CODE_INVALID_NAME: ErrorCode
ERROR_CODE_BODY_STALLED: ErrorCode
ERROR_CODE_RUN_TIMEOUT: ErrorCode
ERROR_CODE_UNDO_UNREACHABLE: ErrorCode
ERROR_CODE_CALL_FAILED: ErrorCode
ERROR_CODE_DESTINATION_REFUSED: ErrorCode
ERROR_CODE_CHILD_CANCELLED: ErrorCode
ERROR_CODE_PROTOCOL: ErrorCode
ERROR_CODE_UNDECODABLE: ErrorCode
ERROR_CODE_VERSION: ErrorCode
ERROR_CODE_FEATURE: ErrorCode
ERROR_CODE_PLAN_REJECTED: ErrorCode
ERROR_CODE_STALE: ErrorCode
ERROR_CODE_REPLACED: ErrorCode
ERROR_CODE_UNKNOWN_FLOW: ErrorCode
ERROR_CODE_RUN_NOT_FOUND: ErrorCode
ERROR_CODE_KEY_CONFLICT: ErrorCode
ERROR_CODE_STORE_UNAVAILABLE: ErrorCode
ERROR_CODE_DRAINING: ErrorCode
ERROR_CODE_INTERNAL: ErrorCode
ERROR_CODE_WRONG_STATE: ErrorCode
ERROR_CODE_INVALID_ARGUMENT: ErrorCode
ERROR_CODE_NOT_IMPLEMENTED: ErrorCode
ERROR_CODE_STORE_FULL: ErrorCode
ERROR_CODE_RUN_UNREADABLE: ErrorCode
RETRYABLE_UNSPECIFIED: Retryable
RETRYABLE_POLICY: Retryable
RETRYABLE_YES: Retryable
RETRYABLE_NO: Retryable

class Failure(_message.Message):
    __slots__ = ("code", "type", "message", "traceback", "retryable", "retry_after", "cause")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    code: ErrorCode
    type: str
    message: str
    traceback: str
    retryable: Retryable
    retry_after: _duration_pb2.Duration
    cause: Failure
    def __init__(self, code: _Optional[_Union[ErrorCode, str]] = ..., type: _Optional[str] = ..., message: _Optional[str] = ..., traceback: _Optional[str] = ..., retryable: _Optional[_Union[Retryable, str]] = ..., retry_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., cause: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...
