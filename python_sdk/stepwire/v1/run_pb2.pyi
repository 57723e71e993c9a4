import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from stepwire.v1 import failure_pb2 as _failure_pb2
from stepwire.v1 import payload_pb2 as _payload_pb2
from stepwire.v1 import plan_pb2 as _plan_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATE_UNSPECIFIED: _ClassVar[RunState]
    RUN_STATE_PENDING: _ClassVar[RunState]
    RUN_STATE_RUNNING: _ClassVar[RunState]
    RUN_STATE_WAITING: _ClassVar[RunState]
    RUN_STATE_PAUSED: _ClassVar[RunState]
    RUN_STATE_SUCCEEDED: _ClassVar[RunState]
    RUN_STATE_FAILED: _ClassVar[RunState]
    RUN_STATE_CANCELLED: _ClassVar[RunState]

class StepState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STEP_STATE_UNSPECIFIED: _ClassVar[StepState]
    STEP_STATE_PENDING: _ClassVar[StepState]
    STEP_STATE_RUNNING: _ClassVar[StepState]
    STEP_STATE_BACKOFF: _ClassVar[StepState]
    STEP_STATE_SUCCEEDED: _ClassVar[StepState]
    STEP_STATE_FAILED: _ClassVar[StepState]
    STEP_STATE_CANCELLED: _ClassVar[StepState]

class WaitReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WAIT_REASON_UNSPECIFIED: _ClassVar[WaitReason]
    WAIT_REASON_NO_HOST: _ClassVar[WaitReason]
    WAIT_REASON_NO_SLOT: _ClassVar[WaitReason]
    WAIT_REASON_BACKOFF_UNTIL: _ClassVar[WaitReason]
    WAIT_REASON_SLEEPING_UNTIL: _ClassVar[WaitReason]
    WAIT_REASON_EVENT: _ClassVar[WaitReason]
    WAIT_REASON_SIBLING_IN_WAVE: _ClassVar[WaitReason]
    WAIT_REASON_GROUP_LIMIT: _ClassVar[WaitReason]
    WAIT_REASON_LIMIT_KEY: _ClassVar[WaitReason]
    WAIT_REASON_PAUSED: _ClassVar[WaitReason]
    WAIT_REASON_LEASE_OF_HOST: _ClassVar[WaitReason]
    WAIT_REASON_USER_CODE: _ClassVar[WaitReason]
    WAIT_REASON_ADOPTION: _ClassVar[WaitReason]
    WAIT_REASON_ATTEMPT_NOT_STOPPING: _ClassVar[WaitReason]
    WAIT_REASON_CHILD_RUN: _ClassVar[WaitReason]
    WAIT_REASON_JOURNAL_UNREADABLE: _ClassVar[WaitReason]
    WAIT_REASON_IN_COMMIT: _ClassVar[WaitReason]
    WAIT_REASON_READING_JOURNAL: _ClassVar[WaitReason]
    WAIT_REASON_HOST_LAGGING: _ClassVar[WaitReason]
    WAIT_REASON_HOST_DRAINING: _ClassVar[WaitReason]
    WAIT_REASON_HOST_AWAY: _ClassVar[WaitReason]
    WAIT_REASON_NO_BODY_ROOM: _ClassVar[WaitReason]
    WAIT_REASON_OTHER_UNDO: _ClassVar[WaitReason]
    WAIT_REASON_ENGINE_FULL: _ClassVar[WaitReason]
    WAIT_REASON_HOST_CONGESTED: _ClassVar[WaitReason]

class RunPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_PHASE_UNSPECIFIED: _ClassVar[RunPhase]
    RUN_PHASE_BODY: _ClassVar[RunPhase]
    RUN_PHASE_CANCELLING: _ClassVar[RunPhase]
    RUN_PHASE_UNDOING: _ClassVar[RunPhase]
RUN_STATE_UNSPECIFIED: RunState
RUN_STATE_PENDING: RunState
RUN_STATE_RUNNING: RunState
RUN_STATE_WAITING: RunState
RUN_STATE_PAUSED: RunState
RUN_STATE_SUCCEEDED: RunState
RUN_STATE_FAILED: RunState
RUN_STATE_CANCELLED: RunState
STEP_STATE_UNSPECIFIED: StepState
STEP_STATE_PENDING: StepState
STEP_STATE_RUNNING: StepState
STEP_STATE_BACKOFF: StepState
STEP_STATE_SUCCEEDED: StepState
STEP_STATE_FAILED: StepState
STEP_STATE_CANCELLED: StepState
WAIT_REASON_UNSPECIFIED: WaitReason
WAIT_REASON_NO_HOST: WaitReason
WAIT_REASON_NO_SLOT: WaitReason
WAIT_REASON_BACKOFF_UNTIL: WaitReason
WAIT_REASON_SLEEPING_UNTIL: WaitReason
WAIT_REASON_EVENT: WaitReason
WAIT_REASON_SIBLING_IN_WAVE: WaitReason
WAIT_REASON_GROUP_LIMIT: WaitReason
WAIT_REASON_LIMIT_KEY: WaitReason
WAIT_REASON_PAUSED: WaitReason
WAIT_REASON_LEASE_OF_HOST: WaitReason
WAIT_REASON_USER_CODE: WaitReason
WAIT_REASON_ADOPTION: WaitReason
WAIT_REASON_ATTEMPT_NOT_STOPPING: WaitReason
WAIT_REASON_CHILD_RUN: WaitReason
WAIT_REASON_JOURNAL_UNREADABLE: WaitReason
WAIT_REASON_IN_COMMIT: WaitReason
WAIT_REASON_READING_JOURNAL: WaitReason
WAIT_REASON_HOST_LAGGING: WaitReason
WAIT_REASON_HOST_DRAINING: WaitReason
WAIT_REASON_HOST_AWAY: WaitReason
WAIT_REASON_NO_BODY_ROOM: WaitReason
WAIT_REASON_OTHER_UNDO: WaitReason
WAIT_REASON_ENGINE_FULL: WaitReason
WAIT_REASON_HOST_CONGESTED: WaitReason
RUN_PHASE_UNSPECIFIED: RunPhase
RUN_PHASE_BODY: RunPhase
RUN_PHASE_CANCELLING: RunPhase
RUN_PHASE_UNDOING: RunPhase

class Attempt(_message.Message):
    __slots__ = ("number", "elapsed", "ended_at", "failure", "host")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    number: int
    elapsed: _duration_pb2.Duration
    ended_at: _timestamp_pb2.Timestamp
    failure: _failure_pb2.Failure
    host: str
    def __init__(self, number: _Optional[int] = ..., elapsed: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., failure: _Optional[_Union[_failure_pb2.Failure, _Mapping]] = ..., host: _Optional[str] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("path", "kind", "name", "state", "attempts", "planned_at", "ended_at", "released_at", "reason", "output", "lost", "undoes", "child_run_id", "due_at")
    PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    PLANNED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    RELEASED_AT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    UNDOES_FIELD_NUMBER: _ClassVar[int]
    CHILD_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    DUE_AT_FIELD_NUMBER: _ClassVar[int]
    path: str
    kind: _plan_pb2.StepKind
    name: str
    state: StepState
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    planned_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    released_at: _timestamp_pb2.Timestamp
    reason: WaitReason
    output: _payload_pb2.Payload
    lost: int
    undoes: str
    child_run_id: str
    due_at: _timestamp_pb2.Timestamp
    def __init__(self, path: _Optional[str] = ..., kind: _Optional[_Union[_plan_pb2.StepKind, str]] = ..., name: _Optional[str] = ..., state: _Optional[_Union[StepState, str]] = ..., attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ..., planned_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., released_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[_Union[WaitReason, str]] = ..., output: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., lost: _Optional[int] = ..., undoes: _Optional[str] = ..., child_run_id: _Optional[str] = ..., due_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("path", "mode", "branches", "verdict", "fail", "quorum", "cancel_siblings", "limit", "names", "outcomes", "expired")
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    BRANCHES_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    FAIL_FIELD_NUMBER: _ClassVar[int]
    QUORUM_FIELD_NUMBER: _ClassVar[int]
    CANCEL_SIBLINGS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    path: str
    mode: _plan_pb2.ParallelMode
    branches: int
    verdict: _plan_pb2.Verdict
    fail: _plan_pb2.FailPolicy
    quorum: int
    cancel_siblings: bool
    limit: int
    names: _containers.RepeatedScalarFieldContainer[str]
    outcomes: _containers.RepeatedScalarFieldContainer[_plan_pb2.BranchOutcome]
    expired: bool
    def __init__(self, path: _Optional[str] = ..., mode: _Optional[_Union[_plan_pb2.ParallelMode, str]] = ..., branches: _Optional[int] = ..., verdict: _Optional[_Union[_plan_pb2.Verdict, str]] = ..., fail: _Optional[_Union[_plan_pb2.FailPolicy, str]] = ..., quorum: _Optional[int] = ..., cancel_siblings: bool = ..., limit: _Optional[int] = ..., names: _Optional[_Iterable[str]] = ..., outcomes: _Optional[_Iterable[_Union[_plan_pb2.BranchOutcome, str]]] = ..., expired: bool = ...) -> None: ...

class RunStats(_message.Message):
    __slots__ = ("advances", "executes", "host_starts", "body_entries", "plans", "releases")
    ADVANCES_FIELD_NUMBER: _ClassVar[int]
    EXECUTES_FIELD_NUMBER: _ClassVar[int]
    HOST_STARTS_FIELD_NUMBER: _ClassVar[int]
    BODY_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    advances: int
    executes: int
    host_starts: int
    body_entries: int
    plans: int
    releases: int
    def __init__(self, advances: _Optional[int] = ..., executes: _Optional[int] = ..., host_starts: _Optional[int] = ..., body_entries: _Optional[int] = ..., plans: _Optional[int] = ..., releases: _Optional[int] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("run_id", "flow", "state", "input", "output", "failure", "created_at", "ended_at", "stats", "reason", "steps", "groups", "id", "phase", "parent_run_id", "successor_run_id", "stopping")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FLOW_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PARENT_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SUCCESSOR_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STOPPING_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    flow: str
    state: RunState
    input: _payload_pb2.Payload
    output: _payload_pb2.Payload
    failure: _failure_pb2.Failure
    created_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    stats: RunStats
    reason: WaitReason
    steps: _containers.RepeatedCompositeFieldContainer[Step]
    groups: _containers.RepeatedCompositeFieldContainer[Group]
    id: str
    phase: RunPhase
    parent_run_id: str
    successor_run_id: str
    stopping: _failure_pb2.Failure
    def __init__(self, run_id: _Optional[str] = ..., flow: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ..., input: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., output: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., failure: _Optional[_Union[_failure_pb2.Failure, _Mapping]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stats: _Optional[_Union[RunStats, _Mapping]] = ..., reason: _Optional[_Union[WaitReason, str]] = ..., steps: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., groups: _Optional[_Iterable[_Union[Group, _Mapping]]] = ..., id: _Optional[str] = ..., phase: _Optional[_Union[RunPhase, str]] = ..., parent_run_id: _Optional[str] = ..., successor_run_id: _Optional[str] = ..., stopping: _Optional[_Union[_failure_pb2.Failure, _Mapping]] = ...) -> None: ...

class Holder(_message.Message):
    __slots__ = ("service", "instance_id", "since", "attempt", "connected", "stopping")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    STOPPING_FIELD_NUMBER: _ClassVar[int]
    service: str
    instance_id: str
    since: _timestamp_pb2.Timestamp
    attempt: int
    connected: bool
    stopping: bool
    def __init__(self, service: _Optional[str] = ..., instance_id: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., attempt: _Optional[int] = ..., connected: bool = ..., stopping: bool = ...) -> None: ...

class OpenStep(_message.Message):
    __slots__ = ("path", "kind", "name", "reason", "planned_at", "due_at", "attempt", "lost", "holder", "match", "child_run_id", "group", "group_limit", "group_holders")
    PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PLANNED_AT_FIELD_NUMBER: _ClassVar[int]
    DUE_AT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    CHILD_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    GROUP_LIMIT_FIELD_NUMBER: _ClassVar[int]
    GROUP_HOLDERS_FIELD_NUMBER: _ClassVar[int]
    path: str
    kind: _plan_pb2.StepKind
    name: str
    reason: WaitReason
    planned_at: _timestamp_pb2.Timestamp
    due_at: _timestamp_pb2.Timestamp
    attempt: int
    lost: int
    holder: Holder
    match: str
    child_run_id: str
    group: str
    group_limit: int
    group_holders: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, path: _Optional[str] = ..., kind: _Optional[_Union[_plan_pb2.StepKind, str]] = ..., name: _Optional[str] = ..., reason: _Optional[_Union[WaitReason, str]] = ..., planned_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., due_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., attempt: _Optional[int] = ..., lost: _Optional[int] = ..., holder: _Optional[_Union[Holder, _Mapping]] = ..., match: _Optional[str] = ..., child_run_id: _Optional[str] = ..., group: _Optional[str] = ..., group_limit: _Optional[int] = ..., group_holders: _Optional[_Iterable[str]] = ...) -> None: ...

class ServiceStatus(_message.Message):
    __slots__ = ("service", "hosts", "serving_flow", "busy", "slots", "lagging", "draining", "serving_steps")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    SERVING_FLOW_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    LAGGING_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    SERVING_STEPS_FIELD_NUMBER: _ClassVar[int]
    service: str
    hosts: int
    serving_flow: int
    busy: int
    slots: int
    lagging: int
    draining: int
    serving_steps: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, service: _Optional[str] = ..., hosts: _Optional[int] = ..., serving_flow: _Optional[int] = ..., busy: _Optional[int] = ..., slots: _Optional[int] = ..., lagging: _Optional[int] = ..., draining: _Optional[int] = ..., serving_steps: _Optional[_Iterable[str]] = ...) -> None: ...
