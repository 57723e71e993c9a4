"""Events as values: what steps send, what flows get of one, and the one that says that a run failed.

Their data are JSON of user code, so whatever is embedded here was read once before. When and to whom events go is
decided in `delivery.py`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stepwire.protocol.failure import Failure
from stepwire.protocol.payload import JSON, Payload
from stepwire.protocol.plan import SendEvent
from stepwire_engine.core import causes
from stepwire_engine.core.ending import failure_of
from stepwire_engine.core.matching import opaque
from stepwire_engine.core.model import Run, Step
from stepwire_engine.core.units import EventRecord

EVENT_AHEAD_MS_MAX = 366 * 86_400_000
"""How far in the future an event may be delivered."""
_NOTHING = msgspec.Raw(b"null")


def sent_by_step(step: Step, spec: SendEvent, unix_ms: int) -> list[EventRecord]:
    """The events of a `send_event` step; ids that are not given follow from the step, times in the past are now."""
    return [
        EventRecord(
            event.id or causes.sent_event_id(step.run.run_id, step.path, index),
            event.name,
            event.data,
            unix_ms if event.at_ms is None else max(event.at_ms, unix_ms),
            unix_ms,
            traceparent=step.traceparent,
        )
        for index, event in enumerate(spec.events)
    ]


def ids_of(events: list[EventRecord]) -> Payload:
    """The output of the step that sent these."""
    return Payload(msgspec.json.encode([event.id for event in events]))


def event_output(event: EventRecord) -> Payload:
    """What a flow gets of an event: `{"id", "name", "at": seconds since 1970, "data"}`."""
    output = _payload(id=event.id, name=event.name, at=event.due_ms / 1000, data=_raw(event.data))
    return output.marked() if event.data.redacted else output


def started_by(run: Run, name: str) -> bool:
    """Whether an event of this name started the run: its id follows from the event's and the flow."""
    try:
        event = msgspec.json.decode(run.input.data, type=_Started)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return event.name == name and run.run_id == causes.triggered_run_id(event.id, run.flow, round(event.at * 1000))


def failed_event(run: Run, unix_ms: int, payload_bytes_max: int) -> EventRecord:
    """The event that says that this run failed (MISSION S21); an input that makes it too long is left out."""
    failure = failure_of(run)
    told = {"run_id": run.run_id, "flow": run.flow, "failure": _told(failure) if failure is not None else None}
    data = _payload(**told, input=_raw(run.input))
    if len(data.data) > payload_bytes_max:
        data = _payload(**told, input=_NOTHING)
    elif run.input.redacted:
        data = data.marked()
    event_id = causes.failed_event_id(run.run_id)
    return EventRecord(event_id, causes.RUN_FAILED_EVENT, data, unix_ms, unix_ms, traceparent=run.traceparent)


class _Started(msgspec.Struct):
    id: str
    name: str
    at: float


def _told(failure: Failure) -> dict[str, str]:
    return {
        "code": failure.code.slug,
        "type": failure.type,
        "message": failure.message,
        "traceback": failure.traceback,
    }


def _payload(**fields: Any) -> Payload:
    return Payload(msgspec.json.encode(fields))


def _raw(data: Payload) -> msgspec.Raw:
    """JSON to embed, byte for byte; data of another encoding stay opaque.

    What says that it is JSON and is not becomes null: a host that reads the whole must not stumble over it.
    """
    if data.encoding != JSON:
        return msgspec.Raw(msgspec.json.encode(opaque(data)))
    try:
        msgspec.json.decode(data.data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _NOTHING
    return msgspec.Raw(data.data)
