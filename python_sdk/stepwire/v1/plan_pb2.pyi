import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from stepwire.v1 import failure_pb2 as _failure_pb2
from stepwire.v1 import payload_pb2 as _payload_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StepKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STEP_KIND_UNSPECIFIED: _ClassVar[StepKind]
    STEP_KIND_RUN: _ClassVar[StepKind]
    STEP_KIND_TASK: _ClassVar[StepKind]
    STEP_KIND_SLEEP: _ClassVar[StepKind]
    STEP_KIND_WAIT_EVENT: _ClassVar[StepKind]
    STEP_KIND_SEND_EVENT: _ClassVar[StepKind]
    STEP_KIND_INVOKE: _ClassVar[StepKind]
    STEP_KIND_CALL: _ClassVar[StepKind]

class ParallelMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PARALLEL_MODE_UNSPECIFIED: _ClassVar[ParallelMode]
    PARALLEL_MODE_WAIT: _ClassVar[ParallelMode]
    PARALLEL_MODE_RACE: _ClassVar[ParallelMode]

class FailPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAIL_POLICY_UNSPECIFIED: _ClassVar[FailPolicy]
    FAIL_POLICY_ANY: _ClassVar[FailPolicy]
    FAIL_POLICY_ALL: _ClassVar[FailPolicy]
    FAIL_POLICY_NEVER: _ClassVar[FailPolicy]
    FAIL_POLICY_QUORUM: _ClassVar[FailPolicy]

class Backoff(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BACKOFF_UNSPECIFIED: _ClassVar[Backoff]
    BACKOFF_FIXED: _ClassVar[Backoff]
    BACKOFF_LINEAR: _ClassVar[Backoff]
    BACKOFF_EXPONENTIAL: _ClassVar[Backoff]

class BranchOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BRANCH_OUTCOME_UNSPECIFIED: _ClassVar[BranchOutcome]
    BRANCH_OUTCOME_OK: _ClassVar[BranchOutcome]
    BRANCH_OUTCOME_FAILED: _ClassVar[BranchOutcome]
    BRANCH_OUTCOME_CANCELLED: _ClassVar[BranchOutcome]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_OK: _ClassVar[Verdict]
    VERDICT_FAILED: _ClassVar[Verdict]
STEP_KIND_UNSPECIFIED: StepKind
STEP_KIND_RUN: StepKind
STEP_KIND_TASK: StepKind
STEP_KIND_SLEEP: StepKind
STEP_KIND_WAIT_EVENT: StepKind
STEP_KIND_SEND_EVENT: StepKind
STEP_KIND_INVOKE: StepKind
STEP_KIND_CALL: StepKind
PARALLEL_MODE_UNSPECIFIED: ParallelMode
PARALLEL_MODE_WAIT: ParallelMode
PARALLEL_MODE_RACE: ParallelMode
FAIL_POLICY_UNSPECIFIED: FailPolicy
FAIL_POLICY_ANY: FailPolicy
FAIL_POLICY_ALL: FailPolicy
FAIL_POLICY_NEVER: FailPolicy
FAIL_POLICY_QUORUM: FailPolicy
BACKOFF_UNSPECIFIED: Backoff
BACKOFF_FIXED: Backoff
BACKOFF_LINEAR: Backoff
BACKOFF_EXPONENTIAL: Backoff
BRANCH_OUTCOME_UNSPECIFIED: BranchOutcome
BRANCH_OUTCOME_OK: BranchOutcome
BRANCH_OUTCOME_FAILED: BranchOutcome
BRANCH_OUTCOME_CANCELLED: BranchOutcome
VERDICT_UNSPECIFIED: Verdict
VERDICT_OK: Verdict
VERDICT_FAILED: Verdict

class Fence(_message.Message):
    __slots__ = ("claim_epoch", "n")
    CLAIM_EPOCH_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    claim_epoch: int
    n: int
    def __init__(self, claim_epoch: _Optional[int] = ..., n: _Optional[int] = ...) -> None: ...

class RetryPolicy(_message.Message):
    __slots__ = ("max_attempts", "backoff", "delay", "factor", "cap", "jitter", "non_retryable_types")
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    CAP_FIELD_NUMBER: _ClassVar[int]
    JITTER_FIELD_NUMBER: _ClassVar[int]
    NON_RETRYABLE_TYPES_FIELD_NUMBER: _ClassVar[int]
    max_attempts: int
    backoff: Backoff
    delay: _duration_pb2.Duration
    factor: float
    cap: _duration_pb2.Duration
    jitter: float
    non_retryable_types: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, max_attempts: _Optional[int] = ..., backoff: _Optional[_Union[Backoff, str]] = ..., delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., factor: _Optional[float] = ..., cap: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., jitter: _Optional[float] = ..., non_retryable_types: _Optional[_Iterable[str]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("name", "data", "id", "at", "traceparent")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    data: _payload_pb2.Payload
    id: str
    at: _timestamp_pb2.Timestamp
    traceparent: str
    def __init__(self, name: _Optional[str] = ..., data: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., id: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Sleep(_message.Message):
    __slots__ = ("duration", "until")
    DURATION_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    duration: _duration_pb2.Duration
    until: _timestamp_pb2.Timestamp
    def __init__(self, duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class WaitEvent(_message.Message):
    __slots__ = ("event", "match", "timeout", "lookback")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    LOOKBACK_FIELD_NUMBER: _ClassVar[int]
    event: str
    match: str
    timeout: _duration_pb2.Duration
    lookback: _duration_pb2.Duration
    def __init__(self, event: _Optional[str] = ..., match: _Optional[str] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., lookback: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class SendEvent(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class Invoke(_message.Message):
    __slots__ = ("flow", "id")
    FLOW_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    flow: str
    id: str
    def __init__(self, flow: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class SecretHeader(_message.Message):
    __slots__ = ("name", "prefix", "secret")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    name: str
    prefix: str
    secret: str
    def __init__(self, name: _Optional[str] = ..., prefix: _Optional[str] = ..., secret: _Optional[str] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("url", "method", "headers", "body", "redact_output", "secret_headers")
    URL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    REDACT_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    SECRET_HEADERS_FIELD_NUMBER: _ClassVar[int]
    url: str
    method: str
    headers: _containers.RepeatedCompositeFieldContainer[Header]
    body: _payload_pb2.Payload
    redact_output: bool
    secret_headers: _containers.RepeatedCompositeFieldContainer[SecretHeader]
    def __init__(self, url: _Optional[str] = ..., method: _Optional[str] = ..., headers: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., body: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., redact_output: bool = ..., secret_headers: _Optional[_Iterable[_Union[SecretHeader, _Mapping]]] = ...) -> None: ...

class Undo(_message.Message):
    __slots__ = ("kind", "name", "retry", "timeout")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    kind: StepKind
    name: str
    retry: RetryPolicy
    timeout: _duration_pb2.Duration
    def __init__(self, kind: _Optional[_Union[StepKind, str]] = ..., name: _Optional[str] = ..., retry: _Optional[_Union[RetryPolicy, _Mapping]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Alike(_message.Message):
    __slots__ = ("paths",)
    PATHS_FIELD_NUMBER: _ClassVar[int]
    paths: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, paths: _Optional[_Iterable[str]] = ...) -> None: ...

class StepPlanned(_message.Message):
    __slots__ = ("path", "kind", "name", "input", "retry", "timeout", "started", "concurrent", "deadline", "sleep", "wait_event", "send_event", "invoke", "call", "undo", "traceparent", "alike")
    PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    CONCURRENT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    SLEEP_FIELD_NUMBER: _ClassVar[int]
    WAIT_EVENT_FIELD_NUMBER: _ClassVar[int]
    SEND_EVENT_FIELD_NUMBER: _ClassVar[int]
    INVOKE_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    UNDO_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    ALIKE_FIELD_NUMBER: _ClassVar[int]
    path: str
    kind: StepKind
    name: str
    input: _payload_pb2.Payload
    retry: RetryPolicy
    timeout: _duration_pb2.Duration
    started: bool
    concurrent: bool
    deadline: _duration_pb2.Duration
    sleep: Sleep
    wait_event: WaitEvent
    send_event: SendEvent
    invoke: Invoke
    call: Call
    undo: Undo
    traceparent: str
    alike: Alike
    def __init__(self, path: _Optional[str] = ..., kind: _Optional[_Union[StepKind, str]] = ..., name: _Optional[str] = ..., input: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., retry: _Optional[_Union[RetryPolicy, _Mapping]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., started: bool = ..., concurrent: bool = ..., deadline: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., sleep: _Optional[_Union[Sleep, _Mapping]] = ..., wait_event: _Optional[_Union[WaitEvent, _Mapping]] = ..., send_event: _Optional[_Union[SendEvent, _Mapping]] = ..., invoke: _Optional[_Union[Invoke, _Mapping]] = ..., call: _Optional[_Union[Call, _Mapping]] = ..., undo: _Optional[_Union[Undo, _Mapping]] = ..., traceparent: _Optional[str] = ..., alike: _Optional[_Union[Alike, _Mapping]] = ...) -> None: ...

class GroupOpened(_message.Message):
    __slots__ = ("path", "mode", "branches", "fail", "quorum", "cancel_siblings", "limit", "concurrent", "names", "deadline")
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    BRANCHES_FIELD_NUMBER: _ClassVar[int]
    FAIL_FIELD_NUMBER: _ClassVar[int]
    QUORUM_FIELD_NUMBER: _ClassVar[int]
    CANCEL_SIBLINGS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CONCURRENT_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    path: str
    mode: ParallelMode
    branches: int
    fail: FailPolicy
    quorum: int
    cancel_siblings: bool
    limit: int
    concurrent: bool
    names: _containers.RepeatedScalarFieldContainer[str]
    deadline: _duration_pb2.Duration
    def __init__(self, path: _Optional[str] = ..., mode: _Optional[_Union[ParallelMode, str]] = ..., branches: _Optional[int] = ..., fail: _Optional[_Union[FailPolicy, str]] = ..., quorum: _Optional[int] = ..., cancel_siblings: bool = ..., limit: _Optional[int] = ..., concurrent: bool = ..., names: _Optional[_Iterable[str]] = ..., deadline: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class BranchEnded(_message.Message):
    __slots__ = ("path", "outcome", "failure", "alike")
    PATH_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    ALIKE_FIELD_NUMBER: _ClassVar[int]
    path: str
    outcome: BranchOutcome
    failure: _failure_pb2.Failure
    alike: Alike
    def __init__(self, path: _Optional[str] = ..., outcome: _Optional[_Union[BranchOutcome, str]] = ..., failure: _Optional[_Union[_failure_pb2.Failure, _Mapping]] = ..., alike: _Optional[_Union[Alike, _Mapping]] = ...) -> None: ...

class GroupEnded(_message.Message):
    __slots__ = ("path", "verdict", "winner", "losers")
    PATH_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    WINNER_FIELD_NUMBER: _ClassVar[int]
    LOSERS_FIELD_NUMBER: _ClassVar[int]
    path: str
    verdict: Verdict
    winner: int
    losers: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, path: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., winner: _Optional[int] = ..., losers: _Optional[_Iterable[int]] = ...) -> None: ...

class Abandoned(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...

class BodyEnded(_message.Message):
    __slots__ = ("output", "failure", "restart", "cancelled")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    output: _payload_pb2.Payload
    failure: _failure_pb2.Failure
    restart: _payload_pb2.Payload
    cancelled: bool
    def __init__(self, output: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., failure: _Optional[_Union[_failure_pb2.Failure, _Mapping]] = ..., restart: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., cancelled: bool = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("plan_seq", "after_release", "fence", "groups", "steps", "abandoned", "branches_ended", "groups_ended", "body_ended")
    PLAN_SEQ_FIELD_NUMBER: _ClassVar[int]
    AFTER_RELEASE_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ABANDONED_FIELD_NUMBER: _ClassVar[int]
    BRANCHES_ENDED_FIELD_NUMBER: _ClassVar[int]
    GROUPS_ENDED_FIELD_NUMBER: _ClassVar[int]
    BODY_ENDED_FIELD_NUMBER: _ClassVar[int]
    plan_seq: int
    after_release: int
    fence: Fence
    groups: _containers.RepeatedCompositeFieldContainer[GroupOpened]
    steps: _containers.RepeatedCompositeFieldContainer[StepPlanned]
    abandoned: _containers.RepeatedCompositeFieldContainer[Abandoned]
    branches_ended: _containers.RepeatedCompositeFieldContainer[BranchEnded]
    groups_ended: _containers.RepeatedCompositeFieldContainer[GroupEnded]
    body_ended: BodyEnded
    def __init__(self, plan_seq: _Optional[int] = ..., after_release: _Optional[int] = ..., fence: _Optional[_Union[Fence, _Mapping]] = ..., groups: _Optional[_Iterable[_Union[GroupOpened, _Mapping]]] = ..., steps: _Optional[_Iterable[_Union[StepPlanned, _Mapping]]] = ..., abandoned: _Optional[_Iterable[_Union[Abandoned, _Mapping]]] = ..., branches_ended: _Optional[_Iterable[_Union[BranchEnded, _Mapping]]] = ..., groups_ended: _Optional[_Iterable[_Union[GroupEnded, _Mapping]]] = ..., body_ended: _Optional[_Union[BodyEnded, _Mapping]] = ...) -> None: ...
