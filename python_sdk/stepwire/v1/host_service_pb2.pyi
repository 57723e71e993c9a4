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

class ProtocolVersion(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROTOCOL_VERSION_UNSPECIFIED: _ClassVar[ProtocolVersion]
    PROTOCOL_VERSION_1: _ClassVar[ProtocolVersion]

class Feature(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FEATURE_UNSPECIFIED: _ClassVar[Feature]
    FEATURE_STEP_KINDS: _ClassVar[Feature]
    FEATURE_UNDO: _ClassVar[Feature]
    FEATURE_ALIKE: _ClassVar[Feature]

class RejectReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REJECT_REASON_UNSPECIFIED: _ClassVar[RejectReason]
    REJECT_REASON_NO_SLOT: _ClassVar[RejectReason]
    REJECT_REASON_NO_BODY: _ClassVar[RejectReason]
    REJECT_REASON_NOT_SERVED: _ClassVar[RejectReason]
    REJECT_REASON_DRAINING: _ClassVar[RejectReason]

class Purpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PURPOSE_UNSPECIFIED: _ClassVar[Purpose]
    PURPOSE_RUN: _ClassVar[Purpose]
    PURPOSE_UNDO: _ClassVar[Purpose]

class CancelReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CANCEL_REASON_UNSPECIFIED: _ClassVar[CancelReason]
    CANCEL_REASON_RUN_CANCELLED: _ClassVar[CancelReason]
    CANCEL_REASON_RACE_LOST: _ClassVar[CancelReason]
    CANCEL_REASON_TIMEOUT: _ClassVar[CancelReason]
    CANCEL_REASON_LEASE_LOST: _ClassVar[CancelReason]
    CANCEL_REASON_DRAIN: _ClassVar[CancelReason]
    CANCEL_REASON_ABANDONED: _ClassVar[CancelReason]
PROTOCOL_VERSION_UNSPECIFIED: ProtocolVersion
PROTOCOL_VERSION_1: ProtocolVersion
FEATURE_UNSPECIFIED: Feature
FEATURE_STEP_KINDS: Feature
FEATURE_UNDO: Feature
FEATURE_ALIKE: Feature
REJECT_REASON_UNSPECIFIED: RejectReason
REJECT_REASON_NO_SLOT: RejectReason
REJECT_REASON_NO_BODY: RejectReason
REJECT_REASON_NOT_SERVED: RejectReason
REJECT_REASON_DRAINING: RejectReason
PURPOSE_UNSPECIFIED: Purpose
PURPOSE_RUN: Purpose
PURPOSE_UNDO: Purpose
CANCEL_REASON_UNSPECIFIED: CancelReason
CANCEL_REASON_RUN_CANCELLED: CancelReason
CANCEL_REASON_RACE_LOST: CancelReason
CANCEL_REASON_TIMEOUT: CancelReason
CANCEL_REASON_LEASE_LOST: CancelReason
CANCEL_REASON_DRAIN: CancelReason
CANCEL_REASON_ABANDONED: CancelReason

class HostFrame(_message.Message):
    __slots__ = ("position", "hello", "runs", "report", "chunks", "drain", "goodbye", "fault", "logs")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    position: int
    hello: Hello
    runs: _containers.RepeatedCompositeFieldContainer[HostSection]
    report: Report
    chunks: _containers.RepeatedCompositeFieldContainer[_payload_pb2.Chunk]
    drain: Drain
    goodbye: Goodbye
    fault: Fault
    logs: _containers.RepeatedCompositeFieldContainer[RunLogs]
    def __init__(self, position: _Optional[int] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., runs: _Optional[_Iterable[_Union[HostSection, _Mapping]]] = ..., report: _Optional[_Union[Report, _Mapping]] = ..., chunks: _Optional[_Iterable[_Union[_payload_pb2.Chunk, _Mapping]]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., fault: _Optional[_Union[Fault, _Mapping]] = ..., logs: _Optional[_Iterable[_Union[RunLogs, _Mapping]]] = ...) -> None: ...

class RunLogs(_message.Message):
    __slots__ = ("run_id", "lines", "dropped")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    lines: _containers.RepeatedCompositeFieldContainer[LogLine]
    dropped: int
    def __init__(self, run_id: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[LogLine, _Mapping]]] = ..., dropped: _Optional[int] = ...) -> None: ...

class LogLine(_message.Message):
    __slots__ = ("path", "attempt", "age", "level", "logger", "message")
    PATH_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    LOGGER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    path: str
    attempt: int
    age: _duration_pb2.Duration
    level: int
    logger: str
    message: str
    def __init__(self, path: _Optional[str] = ..., attempt: _Optional[int] = ..., age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., level: _Optional[int] = ..., logger: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class HostSection(_message.Message):
    __slots__ = ("run_id", "plans", "results", "rejects", "need_snapshot", "body_failed")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    REJECTS_FIELD_NUMBER: _ClassVar[int]
    NEED_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    BODY_FAILED_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    plans: _containers.RepeatedCompositeFieldContainer[_plan_pb2.Plan]
    results: _containers.RepeatedCompositeFieldContainer[Result]
    rejects: _containers.RepeatedCompositeFieldContainer[Reject]
    need_snapshot: NeedSnapshot
    body_failed: BodyFailed
    def __init__(self, run_id: _Optional[str] = ..., plans: _Optional[_Iterable[_Union[_plan_pb2.Plan, _Mapping]]] = ..., results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ..., rejects: _Optional[_Iterable[_Union[Reject, _Mapping]]] = ..., need_snapshot: _Optional[_Union[NeedSnapshot, _Mapping]] = ..., body_failed: _Optional[_Union[BodyFailed, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol_min", "protocol_max", "required_features", "service", "instance_id", "build_id", "sdk_language", "sdk_version", "flows", "steps", "slots", "bodies", "resume", "flow_options", "ahead", "features")
    PROTOCOL_MIN_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MAX_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FEATURES_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    BUILD_ID_FIELD_NUMBER: _ClassVar[int]
    SDK_LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    SDK_VERSION_FIELD_NUMBER: _ClassVar[int]
    FLOWS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    BODIES_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    FLOW_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    protocol_min: ProtocolVersion
    protocol_max: ProtocolVersion
    required_features: _containers.RepeatedScalarFieldContainer[Feature]
    service: str
    instance_id: str
    build_id: str
    sdk_language: str
    sdk_version: str
    flows: _containers.RepeatedScalarFieldContainer[str]
    steps: _containers.RepeatedScalarFieldContainer[str]
    slots: int
    bodies: int
    resume: ResumeState
    flow_options: _containers.RepeatedCompositeFieldContainer[FlowOptions]
    ahead: int
    features: _containers.RepeatedScalarFieldContainer[Feature]
    def __init__(self, protocol_min: _Optional[_Union[ProtocolVersion, str]] = ..., protocol_max: _Optional[_Union[ProtocolVersion, str]] = ..., required_features: _Optional[_Iterable[_Union[Feature, str]]] = ..., service: _Optional[str] = ..., instance_id: _Optional[str] = ..., build_id: _Optional[str] = ..., sdk_language: _Optional[str] = ..., sdk_version: _Optional[str] = ..., flows: _Optional[_Iterable[str]] = ..., steps: _Optional[_Iterable[str]] = ..., slots: _Optional[int] = ..., bodies: _Optional[int] = ..., resume: _Optional[_Union[ResumeState, _Mapping]] = ..., flow_options: _Optional[_Iterable[_Union[FlowOptions, _Mapping]]] = ..., ahead: _Optional[int] = ..., features: _Optional[_Iterable[_Union[Feature, str]]] = ...) -> None: ...

class Trigger(_message.Message):
    __slots__ = ("event", "match")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    event: str
    match: str
    def __init__(self, event: _Optional[str] = ..., match: _Optional[str] = ...) -> None: ...

class FlowOptions(_message.Message):
    __slots__ = ("flow", "deadline", "undo_on_cancel", "triggers", "redact_input")
    FLOW_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    UNDO_ON_CANCEL_FIELD_NUMBER: _ClassVar[int]
    TRIGGERS_FIELD_NUMBER: _ClassVar[int]
    REDACT_INPUT_FIELD_NUMBER: _ClassVar[int]
    flow: str
    deadline: _duration_pb2.Duration
    undo_on_cancel: bool
    triggers: _containers.RepeatedCompositeFieldContainer[Trigger]
    redact_input: bool
    def __init__(self, flow: _Optional[str] = ..., deadline: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., undo_on_cancel: bool = ..., triggers: _Optional[_Iterable[_Union[Trigger, _Mapping]]] = ..., redact_input: bool = ...) -> None: ...

class ResumeState(_message.Message):
    __slots__ = ("bodies", "attempts", "first_unacked")
    BODIES_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    FIRST_UNACKED_FIELD_NUMBER: _ClassVar[int]
    bodies: _containers.RepeatedCompositeFieldContainer[LiveBody]
    attempts: _containers.RepeatedCompositeFieldContainer[AttemptInProgress]
    first_unacked: int
    def __init__(self, bodies: _Optional[_Iterable[_Union[LiveBody, _Mapping]]] = ..., attempts: _Optional[_Iterable[_Union[AttemptInProgress, _Mapping]]] = ..., first_unacked: _Optional[int] = ...) -> None: ...

class LiveBody(_message.Message):
    __slots__ = ("run_id", "fence", "last_release", "next_plan_seq")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_RELEASE_FIELD_NUMBER: _ClassVar[int]
    NEXT_PLAN_SEQ_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    fence: _plan_pb2.Fence
    last_release: int
    next_plan_seq: int
    def __init__(self, run_id: _Optional[str] = ..., fence: _Optional[_Union[_plan_pb2.Fence, _Mapping]] = ..., last_release: _Optional[int] = ..., next_plan_seq: _Optional[int] = ...) -> None: ...

class AttemptInProgress(_message.Message):
    __slots__ = ("run_id", "path", "attempt", "fence", "elapsed")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    path: str
    attempt: int
    fence: _plan_pb2.Fence
    elapsed: _duration_pb2.Duration
    def __init__(self, run_id: _Optional[str] = ..., path: _Optional[str] = ..., attempt: _Optional[int] = ..., fence: _Optional[_Union[_plan_pb2.Fence, _Mapping]] = ..., elapsed: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ResultsAlike(_message.Message):
    __slots__ = ("paths", "outputs", "elapsed_ns")
    PATHS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_NS_FIELD_NUMBER: _ClassVar[int]
    paths: _containers.RepeatedScalarFieldContainer[str]
    outputs: _containers.RepeatedScalarFieldContainer[bytes]
    elapsed_ns: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, paths: _Optional[_Iterable[str]] = ..., outputs: _Optional[_Iterable[bytes]] = ..., elapsed_ns: _Optional[_Iterable[int]] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("path", "attempt", "fence", "output", "failure", "elapsed", "alike")
    PATH_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_FIELD_NUMBER: _ClassVar[int]
    ALIKE_FIELD_NUMBER: _ClassVar[int]
    path: str
    attempt: int
    fence: _plan_pb2.Fence
    output: _payload_pb2.Payload
    failure: _failure_pb2.Failure
    elapsed: _duration_pb2.Duration
    alike: ResultsAlike
    def __init__(self, path: _Optional[str] = ..., attempt: _Optional[int] = ..., fence: _Optional[_Union[_plan_pb2.Fence, _Mapping]] = ..., output: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., failure: _Optional[_Union[_failure_pb2.Failure, _Mapping]] = ..., elapsed: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., alike: _Optional[_Union[ResultsAlike, _Mapping]] = ...) -> None: ...

class Reject(_message.Message):
    __slots__ = ("path", "attempt", "fence", "reason")
    PATH_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    path: str
    attempt: int
    fence: _plan_pb2.Fence
    reason: RejectReason
    def __init__(self, path: _Optional[str] = ..., attempt: _Optional[int] = ..., fence: _Optional[_Union[_plan_pb2.Fence, _Mapping]] = ..., reason: _Optional[_Union[RejectReason, str]] = ...) -> None: ...

class NeedSnapshot(_message.Message):
    __slots__ = ("fence", "waits_after", "no_room")
    FENCE_FIELD_NUMBER: _ClassVar[int]
    WAITS_AFTER_FIELD_NUMBER: _ClassVar[int]
    NO_ROOM_FIELD_NUMBER: _ClassVar[int]
    fence: _plan_pb2.Fence
    waits_after: int
    no_room: bool
    def __init__(self, fence: _Optional[_Union[_plan_pb2.Fence, _Mapping]] = ..., waits_after: _Optional[int] = ..., no_room: bool = ...) -> None: ...

class BodyFailed(_message.Message):
    __slots__ = ("fence", "failure")
    FENCE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    fence: _plan_pb2.Fence
    failure: _failure_pb2.Failure
    def __init__(self, fence: _Optional[_Union[_plan_pb2.Fence, _Mapping]] = ..., failure: _Optional[_Union[_failure_pb2.Failure, _Mapping]] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("free_slots", "live_bodies", "loop_lag", "last_engine_frame", "attempts")
    FREE_SLOTS_FIELD_NUMBER: _ClassVar[int]
    LIVE_BODIES_FIELD_NUMBER: _ClassVar[int]
    LOOP_LAG_FIELD_NUMBER: _ClassVar[int]
    LAST_ENGINE_FRAME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    free_slots: int
    live_bodies: int
    loop_lag: _duration_pb2.Duration
    last_engine_frame: int
    attempts: _containers.RepeatedCompositeFieldContainer[AttemptInProgress]
    def __init__(self, free_slots: _Optional[int] = ..., live_bodies: _Optional[int] = ..., loop_lag: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., last_engine_frame: _Optional[int] = ..., attempts: _Optional[_Iterable[_Union[AttemptInProgress, _Mapping]]] = ...) -> None: ...

class EngineFrame(_message.Message):
    __slots__ = ("number", "welcome", "acked_position", "runs", "chunks", "drain", "goodbye", "fault")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ACKED_POSITION_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    number: int
    welcome: Welcome
    acked_position: int
    runs: _containers.RepeatedCompositeFieldContainer[EngineSection]
    chunks: _containers.RepeatedCompositeFieldContainer[_payload_pb2.Chunk]
    drain: Drain
    goodbye: Goodbye
    fault: Fault
    def __init__(self, number: _Optional[int] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., acked_position: _Optional[int] = ..., runs: _Optional[_Iterable[_Union[EngineSection, _Mapping]]] = ..., chunks: _Optional[_Iterable[_Union[_payload_pb2.Chunk, _Mapping]]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., fault: _Optional[_Union[Fault, _Mapping]] = ...) -> None: ...

class EngineSection(_message.Message):
    __slots__ = ("run_id", "continue_body", "advance", "executes", "cancels", "evict")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    CONTINUE_BODY_FIELD_NUMBER: _ClassVar[int]
    ADVANCE_FIELD_NUMBER: _ClassVar[int]
    EXECUTES_FIELD_NUMBER: _ClassVar[int]
    CANCELS_FIELD_NUMBER: _ClassVar[int]
    EVICT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    continue_body: Continue
    advance: Advance
    executes: _containers.RepeatedCompositeFieldContainer[Execute]
    cancels: _containers.RepeatedCompositeFieldContainer[Cancel]
    evict: Evict
    def __init__(self, run_id: _Optional[str] = ..., continue_body: _Optional[_Union[Continue, _Mapping]] = ..., advance: _Optional[_Union[Advance, _Mapping]] = ..., executes: _Optional[_Iterable[_Union[Execute, _Mapping]]] = ..., cancels: _Optional[_Iterable[_Union[Cancel, _Mapping]]] = ..., evict: _Optional[_Union[Evict, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "features", "session_id", "heartbeat_interval", "session_ttl", "payload_bytes_max", "steps_per_run_max", "branches_per_group_max", "group_depth_max", "default_retry", "peers", "engine_version")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    SESSION_TTL_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    STEPS_PER_RUN_MAX_FIELD_NUMBER: _ClassVar[int]
    BRANCHES_PER_GROUP_MAX_FIELD_NUMBER: _ClassVar[int]
    GROUP_DEPTH_MAX_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_RETRY_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol: ProtocolVersion
    features: _containers.RepeatedScalarFieldContainer[Feature]
    session_id: str
    heartbeat_interval: _duration_pb2.Duration
    session_ttl: _duration_pb2.Duration
    payload_bytes_max: int
    steps_per_run_max: int
    branches_per_group_max: int
    group_depth_max: int
    default_retry: _plan_pb2.RetryPolicy
    peers: _containers.RepeatedScalarFieldContainer[str]
    engine_version: str
    def __init__(self, protocol: _Optional[_Union[ProtocolVersion, str]] = ..., features: _Optional[_Iterable[_Union[Feature, str]]] = ..., session_id: _Optional[str] = ..., heartbeat_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., session_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., payload_bytes_max: _Optional[int] = ..., steps_per_run_max: _Optional[int] = ..., branches_per_group_max: _Optional[int] = ..., group_depth_max: _Optional[int] = ..., default_retry: _Optional[_Union[_plan_pb2.RetryPolicy, _Mapping]] = ..., peers: _Optional[_Iterable[str]] = ..., engine_version: _Optional[str] = ...) -> None: ...

class Advance(_message.Message):
    __slots__ = ("fence", "purpose", "hold", "start", "entries", "more")
    FENCE_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    fence: _plan_pb2.Fence
    purpose: Purpose
    hold: bool
    start: BodyStart
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    more: bool
    def __init__(self, fence: _Optional[_Union[_plan_pb2.Fence, _Mapping]] = ..., purpose: _Optional[_Union[Purpose, str]] = ..., hold: bool = ..., start: _Optional[_Union[BodyStart, _Mapping]] = ..., entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., more: bool = ...) -> None: ...

class BodyStart(_message.Message):
    __slots__ = ("flow", "input", "seed", "created_at", "traceparent")
    FLOW_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    flow: str
    input: _payload_pb2.Payload
    seed: int
    created_at: _timestamp_pb2.Timestamp
    traceparent: str
    def __init__(self, flow: _Optional[str] = ..., input: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., seed: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("plan", "release")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    plan: _plan_pb2.Plan
    release: Release
    def __init__(self, plan: _Optional[_Union[_plan_pb2.Plan, _Mapping]] = ..., release: _Optional[_Union[Release, _Mapping]] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("release_seq", "released_at", "outcomes")
    RELEASE_SEQ_FIELD_NUMBER: _ClassVar[int]
    RELEASED_AT_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    release_seq: int
    released_at: _timestamp_pb2.Timestamp
    outcomes: _containers.RepeatedCompositeFieldContainer[StepOutcome]
    def __init__(self, release_seq: _Optional[int] = ..., released_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., outcomes: _Optional[_Iterable[_Union[StepOutcome, _Mapping]]] = ...) -> None: ...

class OutcomesAlike(_message.Message):
    __slots__ = ("paths", "took_ms")
    PATHS_FIELD_NUMBER: _ClassVar[int]
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    paths: _containers.RepeatedScalarFieldContainer[str]
    took_ms: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, paths: _Optional[_Iterable[str]] = ..., took_ms: _Optional[_Iterable[int]] = ...) -> None: ...

class StepOutcome(_message.Message):
    __slots__ = ("path", "output", "failure", "held", "attempts", "took_ms", "alike")
    PATH_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    ALIKE_FIELD_NUMBER: _ClassVar[int]
    path: str
    output: _payload_pb2.Payload
    failure: _failure_pb2.Failure
    held: bool
    attempts: int
    took_ms: int
    alike: OutcomesAlike
    def __init__(self, path: _Optional[str] = ..., output: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., failure: _Optional[_Union[_failure_pb2.Failure, _Mapping]] = ..., held: bool = ..., attempts: _Optional[int] = ..., took_ms: _Optional[int] = ..., alike: _Optional[_Union[OutcomesAlike, _Mapping]] = ...) -> None: ...

class UndoInput(_message.Message):
    __slots__ = ("output", "failure")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    output: _payload_pb2.Payload
    failure: _failure_pb2.Failure
    def __init__(self, output: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., failure: _Optional[_Union[_failure_pb2.Failure, _Mapping]] = ...) -> None: ...

class Execute(_message.Message):
    __slots__ = ("path", "attempt", "fence", "kind", "name", "input", "timeout", "flow", "call", "undo", "traceparent")
    PATH_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    FLOW_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    UNDO_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    path: str
    attempt: int
    fence: _plan_pb2.Fence
    kind: _plan_pb2.StepKind
    name: str
    input: _payload_pb2.Payload
    timeout: _duration_pb2.Duration
    flow: str
    call: _plan_pb2.Call
    undo: UndoInput
    traceparent: str
    def __init__(self, path: _Optional[str] = ..., attempt: _Optional[int] = ..., fence: _Optional[_Union[_plan_pb2.Fence, _Mapping]] = ..., kind: _Optional[_Union[_plan_pb2.StepKind, str]] = ..., name: _Optional[str] = ..., input: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., flow: _Optional[str] = ..., call: _Optional[_Union[_plan_pb2.Call, _Mapping]] = ..., undo: _Optional[_Union[UndoInput, _Mapping]] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("path", "fence", "reason", "grace")
    PATH_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GRACE_FIELD_NUMBER: _ClassVar[int]
    path: str
    fence: _plan_pb2.Fence
    reason: CancelReason
    grace: _duration_pb2.Duration
    def __init__(self, path: _Optional[str] = ..., fence: _Optional[_Union[_plan_pb2.Fence, _Mapping]] = ..., reason: _Optional[_Union[CancelReason, str]] = ..., grace: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Continue(_message.Message):
    __slots__ = ("fence",)
    FENCE_FIELD_NUMBER: _ClassVar[int]
    fence: _plan_pb2.Fence
    def __init__(self, fence: _Optional[_Union[_plan_pb2.Fence, _Mapping]] = ...) -> None: ...

class Evict(_message.Message):
    __slots__ = ("fence",)
    FENCE_FIELD_NUMBER: _ClassVar[int]
    fence: _plan_pb2.Fence
    def __init__(self, fence: _Optional[_Union[_plan_pb2.Fence, _Mapping]] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("deadline",)
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    deadline: _duration_pb2.Duration
    def __init__(self, deadline: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("code", "message", "run_id")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    code: _failure_pb2.ErrorCode
    message: str
    run_id: str
    def __init__(self, code: _Optional[_Union[_failure_pb2.ErrorCode, str]] = ..., message: _Optional[str] = ..., run_id: _Optional[str] = ...) -> None: ...
