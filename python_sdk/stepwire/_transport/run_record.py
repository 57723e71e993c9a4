"""Runs as clients read them: plain values, times as aware datetimes, payloads decoded when asked for.

`stepwire.client` exports these. Numbers of the wire become names here; nothing here talks to anybody.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from stepwire.codec import Codec
from stepwire.errors import ProtocolError
from stepwire.protocol.failure import Failure
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BranchOutcome, FailPolicy, ParallelMode, StepKind, Verdict
from stepwire.protocol.wire import duration_from_pb, failure_from_pb, payload_from_pb, timestamp_from_pb
from stepwire.redaction import Redacted
from stepwire.v1 import payload_pb2, run_pb2

RECEIVE_BYTES_MAX = 67 * 1024 * 1024
"""Longest answer a client takes: a payload of the largest limit, and room for the rest of the record."""


class RunState(enum.StrEnum):
    """States of a run."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    PAUSED = "PAUSED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """Whether the run has ended."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


class StepState(enum.StrEnum):
    """States of a step."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class WaitReason(enum.StrEnum):
    """Why a run or step does not move."""

    NO_HOST = "no_host"
    NO_SLOT = "no_slot"
    BACKOFF_UNTIL = "backoff_until"
    SLEEPING_UNTIL = "sleeping_until"
    EVENT = "event"
    SIBLING_IN_WAVE = "sibling_in_wave"
    GROUP_LIMIT = "group_limit"
    LIMIT_KEY = "limit_key"
    PAUSED = "paused"
    LEASE_OF_HOST = "lease_of_host"
    USER_CODE = "user_code"
    ADOPTION = "adoption"
    ATTEMPT_NOT_STOPPING = "attempt_not_stopping"
    CHILD_RUN = "child_run"
    JOURNAL_UNREADABLE = "journal_unreadable"
    IN_COMMIT = "in_commit"
    READING_JOURNAL = "reading_journal"
    HOST_LAGGING = "host_lagging"
    HOST_DRAINING = "host_draining"
    HOST_AWAY = "host_away"
    NO_BODY_ROOM = "no_body_room"
    OTHER_UNDO = "other_undo"
    ENGINE_FULL = "engine_full"
    HOST_CONGESTED = "host_congested"
    OTHER = "other"
    """One that this version of the SDK does not know."""


class RunPhase(enum.StrEnum):
    """What an open run is doing, beside its state."""

    BODY = "BODY"
    CANCELLING = "CANCELLING"
    """Attempts in progress are told to stop."""
    UNDOING = "UNDOING"
    """Completed steps are compensated."""


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One try at a step. `elapsed` in seconds; `failure` None for success."""

    number: int
    elapsed: float
    ended_at: datetime
    failure: Failure | None = None
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step of a run.

    Attributes:
        kind: As in the protocol, lower case, e.g. "run" or "task".
        name: The registered step; the event that is waited for, the flow that is invoked, the events that are sent,
            or method and address of a request. Empty for a function of the flow.
        lost: Tries whose host was lost; they consume no retry.
        undoes: Path of the step that this one compensates; empty: none.
        child_run_id: The run of the invoked flow; empty: none, or not known.
        due_at: When it goes on by itself: a sleep, a backoff, a timeout.
        output_payload: The stored output. None if there is none, if it is redacted, or if it has more than 64 KiB:
            such outputs are not part of a record.
        output_redacted: There is an output, and it is not for human eyes.
    """

    path: str
    kind: str
    name: str
    state: StepState
    planned_at: datetime | None = None
    ended_at: datetime | None = None
    released_at: datetime | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    reason: WaitReason | None = None
    lost: int = 0
    undoes: str = ""
    child_run_id: str = ""
    due_at: datetime | None = None
    output_payload: Payload | None = None
    output_redacted: Redacted | None = None
    codec: Codec = field(repr=False, compare=False)

    @property
    def output(self) -> Any:
        """The output as plain JSON value, or Redacted; None also if it is not part of the record."""
        return self.output_redacted if self.output_payload is None else self.codec.decode(self.output_payload)


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """One group.

    Attributes:
        mode: "WAIT" or "RACE".
        branches: How many.
        verdict: "OK", "FAILED", or None while it is open.
        fail: "any", "all", "never" or "quorum".
        quorum: Successes needed, for "quorum".
        cancel_siblings: It ends when its verdict is decided.
        limit: Steps executing at once; 0: no limit.
        names: Labels of its branches by index, as far as they have some.
        outcomes: Of its branches by index: "OK", "FAILED", "CANCELLED", or None for one that has not ended; empty
            while none has.
        expired: Its deadline passed.
    """

    path: str
    mode: str
    branches: int
    verdict: str | None = None
    fail: str = "any"
    quorum: int = 0
    cancel_siblings: bool = False
    limit: int = 0
    names: tuple[str, ...] = ()
    outcomes: tuple[str | None, ...] = ()
    expired: bool = False


@dataclass(frozen=True, slots=True)
class RunStats:
    """How much driving a run took; `body_entries` is 1 while its host stays."""

    advances: int = 0
    executes: int = 0
    host_starts: int = 0
    body_entries: int = 0
    plans: int = 0
    releases: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as of its last commit.

    Attributes:
        id: The idempotency key it was started with.
        failure: Of a FAILED run, or why a PAUSED one was paused.
        reason: Why it does not move at this moment.
        phase: What it is doing; None if it has ended, and in listings.
        stopping: Why an open run will fail once its steps are compensated; None also for one that is cancelled.
        parent_run_id: The run that invoked it; empty: none.
        successor_run_id: The run that goes on after `ctx.restart_with`; empty: none.
        steps: In order of planning; empty unless asked for, like `groups`.
        input_payload, output_payload: Stored bytes; listings have none, and redacted ones are None.
        input_redacted, output_redacted: There is a value, and it is not for human eyes.
    """

    run_id: str
    flow: str
    state: RunState
    created_at: datetime
    ended_at: datetime | None = None
    id: str = ""
    failure: Failure | None = None
    reason: WaitReason | None = None
    phase: RunPhase | None = None
    stopping: Failure | None = None
    parent_run_id: str = ""
    successor_run_id: str = ""
    stats: RunStats = RunStats()
    steps: tuple[StepRecord, ...] = ()
    groups: tuple[GroupRecord, ...] = ()
    input_payload: Payload | None = None
    output_payload: Payload | None = None
    input_redacted: Redacted | None = None
    output_redacted: Redacted | None = None
    codec: Codec = field(repr=False, compare=False)

    @property
    def input(self) -> Any:
        """The input as plain JSON value, or Redacted; None if the record has none."""
        return self.input_redacted if self.input_payload is None else self.codec.decode(self.input_payload)

    @property
    def output(self) -> Any:
        """The output as plain JSON value, or Redacted; None if the record has none."""
        return self.output_redacted if self.output_payload is None else self.codec.decode(self.output_payload)


# ---- from the wire

M = TypeVar("M", bound=enum.Enum)
_RUN_STATES = dict(enumerate(RunState, 1))
_STEP_STATES = dict(enumerate(StepState, 1))
_REASONS: dict[int, WaitReason | None] = {0: None, **dict(enumerate(list(WaitReason)[:-1], 1))}
_PHASES = dict(enumerate(RunPhase, 1))
_NUMBERS = {state: number for number, state in _RUN_STATES.items()}


def state_number(state: RunState) -> int:
    """The number of `state` on the wire."""
    return _NUMBERS[state]


def run_from_pb(message: run_pb2.Run, codec: Codec) -> Run:
    """The record. Raises ProtocolError for states of a newer engine, WireError for what is malformed."""
    stats = message.stats
    return Run(
        run_id=message.run_id,
        flow=message.flow,
        state=_member(_RUN_STATES, message.state, "run"),
        created_at=time_from_pb(message.created_at),
        ended_at=time_from_pb(message.ended_at) if message.HasField("ended_at") else None,
        id=message.id,
        failure=failure_from_pb(message.failure) if message.HasField("failure") else None,
        reason=reason_of(message.reason),
        phase=_PHASES.get(message.phase),
        stopping=failure_from_pb(message.stopping) if message.HasField("stopping") else None,
        parent_run_id=message.parent_run_id,
        successor_run_id=message.successor_run_id,
        stats=RunStats(
            stats.advances, stats.executes, stats.host_starts, stats.body_entries, stats.plans, stats.releases
        ),
        steps=tuple(_step_from_pb(step, codec) for step in message.steps),
        groups=tuple(map(_group_from_pb, message.groups)),
        input_payload=_payload(message, "input"),
        output_payload=_payload(message, "output"),
        input_redacted=_redacted(message.input),
        output_redacted=_redacted(message.output),
        codec=codec,
    )


def _step_from_pb(message: run_pb2.Step, codec: Codec) -> StepRecord:
    return StepRecord(
        path=message.path,
        kind=kind_name(message.kind),
        name=message.name,
        state=_member(_STEP_STATES, message.state, "step"),
        planned_at=time_from_pb(message.planned_at) if message.HasField("planned_at") else None,
        ended_at=time_from_pb(message.ended_at) if message.HasField("ended_at") else None,
        released_at=time_from_pb(message.released_at) if message.HasField("released_at") else None,
        attempts=tuple(
            AttemptRecord(
                attempt.number,
                duration_from_pb(attempt.elapsed),
                time_from_pb(attempt.ended_at),
                failure_from_pb(attempt.failure) if attempt.HasField("failure") else None,
                attempt.host,
            )
            for attempt in message.attempts
        ),
        reason=reason_of(message.reason),
        lost=message.lost,
        undoes=message.undoes,
        child_run_id=message.child_run_id,
        due_at=time_from_pb(message.due_at) if message.HasField("due_at") else None,
        output_payload=_payload(message, "output"),
        output_redacted=_redacted(message.output),
        codec=codec,
    )


def _group_from_pb(message: run_pb2.Group) -> GroupRecord:
    return GroupRecord(
        path=message.path,
        mode=_name(ParallelMode, message.mode),
        branches=message.branches,
        verdict=_name(Verdict, message.verdict) or None,
        fail=_name(FailPolicy, message.fail).lower(),
        quorum=message.quorum,
        cancel_siblings=message.cancel_siblings,
        limit=message.limit,
        names=tuple(message.names),
        outcomes=tuple(_name(BranchOutcome, outcome) or None for outcome in message.outcomes),
        expired=message.expired,
    )


def time_from_pb(value: Any) -> datetime:
    """A time of the wire, in UTC."""
    return datetime.fromtimestamp(timestamp_from_pb(value) / 1000, UTC)


def kind_name(number: int) -> str:
    """The kind of a step, lower case."""
    return _name(StepKind, number).lower()


def reason_of(number: int) -> WaitReason | None:
    """A reason of the wire; None for none."""
    return _REASONS.get(number, WaitReason.OTHER)


def _payload(message: Any, name: str) -> Payload | None:
    """The bytes of a field; None if there are none to be shown."""
    value: payload_pb2.Payload = getattr(message, name)
    if not message.HasField(name) or _redacted(value) is not None:
        return None
    return payload_from_pb(value, RECEIVE_BYTES_MAX)


def _redacted(value: payload_pb2.Payload) -> Redacted | None:
    return Redacted(value.redacted_bytes) if value.redacted and not value.data else None


def _name(members: type[enum.IntEnum], number: int) -> str:
    """Name of a member; empty for 0, the number itself for one of a newer engine."""
    if not number:
        return ""
    return members(number).name if number in set(members) else str(number)


def _member(members: dict[int, M], number: int, what: str) -> M:
    member = members.get(number)
    if member is None:
        raise ProtocolError(f"the engine names {what} state {number}, which this SDK does not know")
    return member
