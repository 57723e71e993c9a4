"""Frames as values: what the session cores of both sides read and write.

A frame is a batch, sectioned by run (DESIGN 3). The meaning of every field is in `host_service.proto`;
`wire.py` is the only place that turns these values into bytes. Durations are seconds, times of the
engine are milliseconds since the Unix epoch.
"""

from __future__ import annotations

import enum

import msgspec

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Call, Fence, Plan, RetryPolicy, StepKind

# ---- host to engine


class AttemptInProgress(msgspec.Struct, frozen=True, gc=False):
    run_id: str
    path: str
    attempt: int
    fence: Fence
    elapsed: float = 0.0


class LiveBody(msgspec.Struct, frozen=True, gc=False):
    run_id: str
    fence: Fence
    last_release: int
    next_plan_seq: int


class ResumeState(msgspec.Struct, frozen=True):
    """What a host still holds when its stream comes back (DESIGN 3, rule 7)."""

    bodies: tuple[LiveBody, ...] = ()
    attempts: tuple[AttemptInProgress, ...] = ()
    first_unacked: int = 0


class Feature(enum.IntEnum):
    """What a peer may need beyond the version; the numbers are those of `host_service.proto`."""

    STEP_KINDS = 1
    UNDO = 2
    ALIKE = 3


class Trigger(msgspec.Struct, frozen=True, array_like=True):
    """Events that start runs of a flow (MISSION T1).

    Attributes:
        event: Name of the event.
        match: JMESPath over {name, id, data, at}; empty: every event of that name.
    """

    event: str
    match: str = ""


class FlowOptions(msgspec.Struct, frozen=True, array_like=True):
    """What the engine must know of a flow; the newest registration counts for new runs.

    Attributes:
        flow: Its name.
        deadline: Seconds from the start of a run within which its body must have ended; None: no limit.
        undo_on_cancel: A cancelled run is compensated, too.
        triggers: Events that start runs of it, with the event as input.
        redact_input: The input of its runs is redacted, whoever starts them.
    """

    flow: str
    deadline: float | None = None
    undo_on_cancel: bool = False
    triggers: tuple[Trigger, ...] = ()
    redact_input: bool = False


class Hello(msgspec.Struct, frozen=True):
    service: str
    instance_id: str
    flows: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    slots: int = 1
    bodies: int = 1
    protocol_min: int = 1
    protocol_max: int = 1
    required_features: tuple[int, ...] = ()
    build_id: str = ""
    sdk_language: str = ""
    sdk_version: str = ""
    resume: ResumeState | None = None
    flow_options: tuple[FlowOptions, ...] = ()
    ahead: int = 0
    features: tuple[int, ...] = ()


class Result(msgspec.Struct, frozen=True, gc=False):
    """Outcome of an attempt; `failure` None means success and then `output` is set."""

    path: str
    attempt: int
    fence: Fence
    output: Payload | None = None
    failure: Failure | None = None
    elapsed: float = 0.0


class RejectReason(enum.IntEnum):
    NO_SLOT = 1
    NO_BODY = 2
    NOT_SERVED = 3
    DRAINING = 4


class Reject(msgspec.Struct, frozen=True, gc=False):
    path: str
    attempt: int
    fence: Fence
    reason: RejectReason


class BodyFailed(msgspec.Struct, frozen=True, gc=False):
    fence: Fence
    failure: Failure


class NeedSnapshot(msgspec.Struct, frozen=True, gc=False):
    """The body is not there, or given back.

    Attributes:
        waits_after: It waits, and was given every release up to this one; None: it is wanted at once.
        no_room: The host has no room for bodies until its next Report.
    """

    fence: Fence
    waits_after: int | None = None
    no_room: bool = False


class HostSection(msgspec.Struct, gc=False):
    """Everything a host frame says about one run."""

    run_id: str
    plans: list[Plan] = []
    results: list[Result] = []
    rejects: list[Reject] = []
    need_snapshot: NeedSnapshot | None = None
    body_failed: BodyFailed | None = None


class Report(msgspec.Struct, frozen=True):
    free_slots: int
    live_bodies: int = 0
    loop_lag: float = 0.0
    last_engine_frame: int = 0
    attempts: tuple[AttemptInProgress, ...] = ()


class Drain(msgspec.Struct, frozen=True):
    deadline: float = 0.0


class Goodbye(msgspec.Struct, frozen=True):
    reason: str = ""


class Fault(msgspec.Struct, frozen=True):
    """A typed protocol error; without `run_id` the sender closes the stream after it."""

    code: ErrorCode
    message: str
    run_id: str = ""


class LogLine(msgspec.Struct, frozen=True, gc=False):
    """What a flow or step logged.

    Attributes:
        path: Of the step, or of the branch whose own code it was; empty: the flow's own code.
        attempt: 0 for the flow's own code.
        age: Seconds from then until it was sent.
        level: As Python numbers them: 20 is INFO.
        message: With the traceback, if there was one.
    """

    path: str
    attempt: int
    age: float
    level: int
    logger: str
    message: str


class RunLogs(msgspec.Struct, frozen=True):
    """Log lines of one run, oldest first; `dropped` counts those after them that the host had no room for."""

    run_id: str
    lines: tuple[LogLine, ...] = ()
    dropped: int = 0


class HostFrame(msgspec.Struct, gc=False):
    """A batch from a host. `position` numbers durable frames per instance from 1; 0 means not durable.

    `logs` are not durable whatever else the frame has: they are never sent again.
    """

    position: int = 0
    hello: Hello | None = None
    runs: list[HostSection] = []
    report: Report | None = None
    drain: Drain | None = None
    goodbye: Goodbye | None = None
    fault: Fault | None = None
    logs: list[RunLogs] = []


# ---- engine to host


class Welcome(msgspec.Struct, frozen=True):
    session_id: str
    protocol: int = 1
    features: tuple[int, ...] = ()
    heartbeat_interval: float = 4.0
    session_ttl: float = 15.0
    payload_bytes_max: int = 4 * 1024 * 1024
    steps_per_run_max: int = 10_000
    branches_per_group_max: int = 10_000
    group_depth_max: int = 32
    default_retry: RetryPolicy = RetryPolicy()
    peers: tuple[str, ...] = ()
    engine_version: str = ""


class Purpose(enum.IntEnum):
    RUN = 1
    UNDO = 2


class BodyStart(msgspec.Struct, frozen=True, gc=False):
    flow: str
    input: Payload
    seed: int
    created_at_ms: int
    traceparent: str = ""


class StepOutcome(msgspec.Struct, frozen=True, gc=False):
    """One released outcome: `failure`, or `output`, or `held` (the live host still has the bytes).

    Attributes:
        path: Of a step; or of a group, whose deadline has passed then.
        attempts: Tries it took; those that lost their host do not count.
        took_ms: From the commit of its plan to that of its outcome, by the engine's clock.
    """

    path: str
    output: Payload | None = None
    failure: Failure | None = None
    held: bool = False
    attempts: int = 1
    took_ms: int = 0


class Release(msgspec.Struct, frozen=True, gc=False):
    release_seq: int
    released_at_ms: int
    outcomes: tuple[StepOutcome, ...]


class Advance(msgspec.Struct, frozen=True, gc=False):
    """Moves a body on. With `start` the host enters the body anew and replays `entries`."""

    fence: Fence
    entries: tuple[Plan | Release, ...] = ()
    start: BodyStart | None = None
    hold: bool = False
    more: bool = False
    purpose: Purpose = Purpose.RUN


class UndoInput(msgspec.Struct, frozen=True, gc=False):
    """What an undo is called with.

    Attributes:
        output: Of the step that is undone.
        failure: Why the run is undone; None: it was cancelled.
    """

    output: Payload
    failure: Failure | None = None


class Execute(msgspec.Struct, frozen=True, gc=False):
    path: str
    attempt: int
    fence: Fence
    kind: StepKind
    name: str = ""
    input: Payload | None = None
    timeout: float | None = None
    flow: str = ""
    call: Call | None = None
    undo: UndoInput | None = None
    traceparent: str = ""


class CancelReason(enum.IntEnum):
    RUN_CANCELLED = 1
    RACE_LOST = 2
    TIMEOUT = 3
    LEASE_LOST = 4
    DRAIN = 5
    ABANDONED = 6


class Cancel(msgspec.Struct, frozen=True, gc=False):
    """Stop an attempt (`path`), or everything of the run on this host (empty `path`)."""

    path: str
    fence: Fence
    reason: CancelReason
    grace: float = 5.0


class EngineSection(msgspec.Struct, gc=False):
    """Everything an engine frame says about one run. `continued` and `evict` hold body fences."""

    run_id: str
    continued: Fence | None = None
    advance: Advance | None = None
    executes: list[Execute] = []
    cancels: list[Cancel] = []
    evict: Fence | None = None


class EngineFrame(msgspec.Struct, gc=False):
    """A batch from the engine, numbered per stream from 1."""

    number: int = 0
    welcome: Welcome | None = None
    acked_position: int = 0
    runs: list[EngineSection] = []
    drain: Drain | None = None
    goodbye: Goodbye | None = None
    fault: Fault | None = None
