import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from stepwire.v1 import failure_pb2 as _failure_pb2
from stepwire.v1 import payload_pb2 as _payload_pb2
from stepwire.v1 import plan_pb2 as _plan_pb2
from stepwire.v1 import run_pb2 as _run_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StartRequest(_message.Message):
    __slots__ = ("flow", "input", "id", "traceparent")
    FLOW_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    flow: str
    input: _payload_pb2.Payload
    id: str
    traceparent: str
    def __init__(self, flow: _Optional[str] = ..., input: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., id: _Optional[str] = ..., traceparent: _Optional[str] = ...) -> None: ...

class StartResponse(_message.Message):
    __slots__ = ("run_id", "existing")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EXISTING_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    existing: bool
    def __init__(self, run_id: _Optional[str] = ..., existing: bool = ...) -> None: ...

class StartManyRequest(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[StartRequest]
    def __init__(self, runs: _Optional[_Iterable[_Union[StartRequest, _Mapping]]] = ...) -> None: ...

class StartManyResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[StartOutcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[StartOutcome, _Mapping]]] = ...) -> None: ...

class StartOutcome(_message.Message):
    __slots__ = ("run_id", "existing", "code", "message")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EXISTING_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    existing: bool
    code: _failure_pb2.ErrorCode
    message: str
    def __init__(self, run_id: _Optional[str] = ..., existing: bool = ..., code: _Optional[_Union[_failure_pb2.ErrorCode, str]] = ..., message: _Optional[str] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("run_id", "include_steps", "include_redacted_output")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_STEPS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_REDACTED_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    include_steps: bool
    include_redacted_output: bool
    def __init__(self, run_id: _Optional[str] = ..., include_steps: bool = ..., include_redacted_output: bool = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: _run_pb2.Run
    def __init__(self, run: _Optional[_Union[_run_pb2.Run, _Mapping]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("run", "at", "body", "open_steps", "open_steps_count", "services")
    RUN_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    OPEN_STEPS_FIELD_NUMBER: _ClassVar[int]
    OPEN_STEPS_COUNT_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    run: _run_pb2.Run
    at: _timestamp_pb2.Timestamp
    body: _run_pb2.Holder
    open_steps: _containers.RepeatedCompositeFieldContainer[_run_pb2.OpenStep]
    open_steps_count: int
    services: _containers.RepeatedCompositeFieldContainer[_run_pb2.ServiceStatus]
    def __init__(self, run: _Optional[_Union[_run_pb2.Run, _Mapping]] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., body: _Optional[_Union[_run_pb2.Holder, _Mapping]] = ..., open_steps: _Optional[_Iterable[_Union[_run_pb2.OpenStep, _Mapping]]] = ..., open_steps_count: _Optional[int] = ..., services: _Optional[_Iterable[_Union[_run_pb2.ServiceStatus, _Mapping]]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("flow", "states", "page_size", "page_token")
    FLOW_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    flow: str
    states: _containers.RepeatedScalarFieldContainer[_run_pb2.RunState]
    page_size: int
    page_token: str
    def __init__(self, flow: _Optional[str] = ..., states: _Optional[_Iterable[_Union[_run_pb2.RunState, str]]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[_run_pb2.Run]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[_run_pb2.Run, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("run_id", "include_steps", "include_redacted_output")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_STEPS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_REDACTED_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    include_steps: bool
    include_redacted_output: bool
    def __init__(self, run_id: _Optional[str] = ..., include_steps: bool = ..., include_redacted_output: bool = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: _run_pb2.Run
    def __init__(self, run: _Optional[_Union[_run_pb2.Run, _Mapping]] = ...) -> None: ...

class AwaitRequest(_message.Message):
    __slots__ = ("run_ids", "include_redacted_output")
    RUN_IDS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_REDACTED_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    run_ids: _containers.RepeatedScalarFieldContainer[str]
    include_redacted_output: bool
    def __init__(self, run_ids: _Optional[_Iterable[str]] = ..., include_redacted_output: bool = ...) -> None: ...

class AwaitResponse(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[_run_pb2.Run]
    def __init__(self, runs: _Optional[_Iterable[_Union[_run_pb2.Run, _Mapping]]] = ...) -> None: ...

class AwaitOneRequest(_message.Message):
    __slots__ = ("run_id", "include_redacted_output")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_REDACTED_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    include_redacted_output: bool
    def __init__(self, run_id: _Optional[str] = ..., include_redacted_output: bool = ...) -> None: ...

class AwaitOneResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: _run_pb2.Run
    def __init__(self, run: _Optional[_Union[_run_pb2.Run, _Mapping]] = ...) -> None: ...

class StartAndAwaitRequest(_message.Message):
    __slots__ = ("start", "include_redacted_output")
    START_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_REDACTED_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    start: StartRequest
    include_redacted_output: bool
    def __init__(self, start: _Optional[_Union[StartRequest, _Mapping]] = ..., include_redacted_output: bool = ...) -> None: ...

class StartAndAwaitResponse(_message.Message):
    __slots__ = ("run_id", "existing", "run")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EXISTING_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    existing: bool
    run: _run_pb2.Run
    def __init__(self, run_id: _Optional[str] = ..., existing: bool = ..., run: _Optional[_Union[_run_pb2.Run, _Mapping]] = ...) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class ResumeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CancelRequest(_message.Message):
    __slots__ = ("run_id", "undo")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    UNDO_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    undo: bool
    def __init__(self, run_id: _Optional[str] = ..., undo: bool = ...) -> None: ...

class CancelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SendEventRequest(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: _plan_pb2.Event
    def __init__(self, event: _Optional[_Union[_plan_pb2.Event, _Mapping]] = ...) -> None: ...

class SendEventResponse(_message.Message):
    __slots__ = ("event_id", "existing")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EXISTING_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    existing: bool
    def __init__(self, event_id: _Optional[str] = ..., existing: bool = ...) -> None: ...

class LogsRequest(_message.Message):
    __slots__ = ("run_id", "path", "attempt", "level_min", "after", "limit")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LEVEL_MIN_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    path: str
    attempt: int
    level_min: int
    after: int
    limit: int
    def __init__(self, run_id: _Optional[str] = ..., path: _Optional[str] = ..., attempt: _Optional[int] = ..., level_min: _Optional[int] = ..., after: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class LogsResponse(_message.Message):
    __slots__ = ("lines", "next", "dropped")
    LINES_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[LogRecord]
    next: int
    dropped: int
    def __init__(self, lines: _Optional[_Iterable[_Union[LogRecord, _Mapping]]] = ..., next: _Optional[int] = ..., dropped: _Optional[int] = ...) -> None: ...

class LogRecord(_message.Message):
    __slots__ = ("number", "at", "path", "attempt", "level", "logger", "message", "host")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    LOGGER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    number: int
    at: _timestamp_pb2.Timestamp
    path: str
    attempt: int
    level: int
    logger: str
    message: str
    host: str
    def __init__(self, number: _Optional[int] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., path: _Optional[str] = ..., attempt: _Optional[int] = ..., level: _Optional[int] = ..., logger: _Optional[str] = ..., message: _Optional[str] = ..., host: _Optional[str] = ...) -> None: ...
