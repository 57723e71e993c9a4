"""Why a run does not move, as clients read it: plain values, times as aware datetimes. `stepwire.client` exports these.

Numbers of the wire become names here; nothing here talks to anybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from stepwire._transport.run_record import Run, WaitReason, kind_name, reason_of, run_from_pb, time_from_pb
from stepwire.codec import Codec
from stepwire.v1 import run_pb2
from stepwire.v1 import run_service_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A host that has a body or executes an attempt.

    Attributes:
        since: When the attempt was given to it; None for a body.
        attempt: Its number; 0 for a body.
        connected: Otherwise it may come back.
        stopping: It was told to stop the attempt.
    """

    service: str
    instance_id: str
    since: datetime | None = None
    attempt: int = 0
    connected: bool = True
    stopping: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStep:
    """A step without an outcome, and what would make it go on.

    Attributes:
        kind, name, lost, child_run_id, due_at: As of StepRecord.
        attempt: Which executes or comes next.
        holder: Who executes it; None: nobody.
        match: What events are compared with; empty: every event of the name is taken.
        group: The group with a limit whose places are all taken; empty: it waits for none.
        group_holders: Steps that have these places, at most 20.
    """

    path: str
    kind: str
    name: str
    reason: WaitReason | None
    attempt: int
    lost: int = 0
    planned_at: datetime | None = None
    due_at: datetime | None = None
    holder: Holder | None = None
    match: str = ""
    child_run_id: str = ""
    group: str = ""
    group_limit: int = 0
    group_holders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """The connected hosts of one service, in the light of one run.

    Attributes:
        hosts: How many there are; `serving_flow`, `lagging`, `draining`: how many of them do.
        busy, slots: Attempts they execute, and may execute, at once.
        serving_steps: Steps that the run waits for and that they serve.
    """

    service: str
    hosts: int
    serving_flow: int = 0
    busy: int = 0
    slots: int = 0
    lagging: int = 0
    draining: int = 0
    serving_steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a run does not move. Of a run that ended there is nothing but the run.

    Attributes:
        run: With its steps.
        at: The engine's present.
        body: Who has its body; None: nobody.
        open_steps: In order of planning, at most 100 of `open_steps_count`.
        services: Connected ones by name, at most 100.
    """

    run: Run
    at: datetime
    body: Holder | None = None
    open_steps: tuple[OpenStep, ...] = ()
    open_steps_count: int = 0
    services: tuple[ServiceStatus, ...] = ()


def explanation_from_pb(message: pb.ExplainResponse, codec: Codec) -> Explanation:
    """The explanation. Raises ProtocolError for states of a newer engine, WireError for what is malformed."""
    return Explanation(
        run=run_from_pb(message.run, codec),
        at=time_from_pb(message.at),
        body=_holder(message.body) if message.HasField("body") else None,
        open_steps=tuple(map(_open_step, message.open_steps)),
        open_steps_count=message.open_steps_count,
        services=tuple(map(_service, message.services)),
    )


def _holder(message: run_pb2.Holder) -> Holder:
    return Holder(
        service=message.service,
        instance_id=message.instance_id,
        since=time_from_pb(message.since) if message.HasField("since") else None,
        attempt=message.attempt,
        connected=message.connected,
        stopping=message.stopping,
    )


def _open_step(message: run_pb2.OpenStep) -> OpenStep:
    return OpenStep(
        path=message.path,
        kind=kind_name(message.kind),
        name=message.name,
        reason=reason_of(message.reason),
        attempt=message.attempt,
        lost=message.lost,
        planned_at=time_from_pb(message.planned_at) if message.HasField("planned_at") else None,
        due_at=time_from_pb(message.due_at) if message.HasField("due_at") else None,
        holder=_holder(message.holder) if message.HasField("holder") else None,
        match=message.match,
        child_run_id=message.child_run_id,
        group=message.group,
        group_limit=message.group_limit,
        group_holders=tuple(message.group_holders),
    )


def _service(message: run_pb2.ServiceStatus) -> ServiceStatus:
    return ServiceStatus(
        service=message.service,
        hosts=message.hosts,
        serving_flow=message.serving_flow,
        busy=message.busy,
        slots=message.slots,
        lagging=message.lagging,
        draining=message.draining,
        serving_steps=tuple(message.serving_steps),
    )
