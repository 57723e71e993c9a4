"""What the engine performs itself, and how steps are compensated: specs, events, calls and undos.

Rare beside plain steps, so each is checked as a value (`stepwire.protocol.bounds`) after it was read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from stepwire.protocol import limits
from stepwire.protocol.bounds import SPEC_OF, event_problem, spec_problem
from stepwire.protocol.frames import UndoInput
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import (
    CALL_STEP,
    Call,
    Event,
    Invoke,
    SecretHeader,
    SendEvent,
    Sleep,
    StepKind,
    StepSpec,
    WaitEvent,
)
from stepwire.protocol.wire.payloads import failure_from_pb, failure_to_pb, payload_from_pb, payload_to_pb
from stepwire.protocol.wire.scalars import (
    duration_from_pb,
    duration_to_pb,
    moment_to_pb,
    timestamp_from_pb,
    traceparent_from_pb,
    undecodable,
)
from stepwire.v1 import host_service_pb2, payload_pb2, plan_pb2

PutPayload = Callable[[Payload, payload_pb2.Payload], None]
GetPayload = Callable[[payload_pb2.Payload], Payload]

_METHOD = "GET"


def event_to_pb(event: Event, target: plan_pb2.Event) -> None:
    """Fill `target` for a unary call: the data stand inline, whatever their size."""
    _event_to_pb(event, target, payload_to_pb)


def event_from_pb(value: plan_pb2.Event, payload_bytes_max: int = limits.PAYLOAD_BYTES_MAX) -> Event:
    """The event of a unary call.

    Raises:
        WireError: PAYLOAD_TOO_LARGE over `payload_bytes_max`, UNDECODABLE if it is out of bounds.
    """
    event = _event_from_pb(value, partial(payload_from_pb, payload_bytes_max=payload_bytes_max))
    if (problem := event_problem(event)) is not None:
        undecodable(problem)
    return event


def spec_to_pb(spec: StepSpec, target: plan_pb2.StepPlanned, put: PutPayload) -> None:
    """Fill the field of `target` that the spec belongs into."""
    match spec:
        case Sleep():
            _sleep_to_pb(spec, target.sleep)
        case WaitEvent():
            _wait_to_pb(spec, target.wait_event)
        case SendEvent():
            target.send_event.SetInParent()
            for event in spec.events:
                _event_to_pb(event, target.send_event.events.add(), put)
        case Invoke():
            target.invoke.flow = spec.flow
            target.invoke.id = spec.id
        case Call():
            call_to_pb(spec, target.call, put)


def spec_from_pb(value: plan_pb2.StepPlanned, kind: StepKind, field: str | None, get: GetPayload) -> StepSpec:
    """What the step of this kind does; `field` is the one that is set. Raises WireError."""
    if field is None:
        undecodable(f"a step of kind {kind.name} does not say what it does")
    spec = _SPECS[field](getattr(value, field), get)
    if SPEC_OF.get(kind) is not type(spec):
        undecodable(f"a step of kind {kind.name} has the field {field}")
    if kind is StepKind.CALL and value.name != CALL_STEP:
        undecodable(f"a call has the name {CALL_STEP}, not {value.name[:80]!r}")
    if (problem := spec_problem(spec)) is not None:
        undecodable(problem)
    return spec


def call_to_pb(call: Call, target: plan_pb2.Call, put: PutPayload) -> None:
    """Fill `target`."""
    target.url = call.url
    if call.method != _METHOD:
        target.method = call.method
    for name, text in call.headers:
        target.headers.add(name=name, value=text)
    if call.body is not None:
        put(call.body, target.body)
    if call.redact_output:
        target.redact_output = True
    for header in call.secret_headers:
        target.secret_headers.add(name=header.name, prefix=header.prefix, secret=header.secret)


def call_from_pb(value: plan_pb2.Call, get: GetPayload) -> Call:
    """The request, not yet checked for bounds."""
    return Call(
        value.url,
        value.method or _METHOD,
        tuple([(header.name, header.value) for header in value.headers]),
        get(value.body) if value.HasField("body") else None,
        value.redact_output,
        tuple([SecretHeader(header.name, header.prefix, header.secret) for header in value.secret_headers]),
    )


def undo_input_to_pb(undo: UndoInput, target: host_service_pb2.UndoInput, put: PutPayload) -> None:
    """Fill `target`."""
    put(undo.output, target.output)
    if undo.failure is not None:
        failure_to_pb(undo.failure, target.failure)


def undo_input_from_pb(value: host_service_pb2.UndoInput, get: GetPayload) -> UndoInput:
    """What the undo is called with. Raises WireError if it lacks the output."""
    if not value.HasField("output"):
        undecodable("an undo has no output of the step that it undoes")
    return UndoInput(get(value.output), failure_from_pb(value.failure) if value.HasField("failure") else None)


def _sleep_to_pb(sleep: Sleep, target: plan_pb2.Sleep) -> None:
    target.SetInParent()
    if sleep.duration is not None:
        target.duration.SetInParent()
        duration_to_pb(sleep.duration, target.duration)
    if sleep.until_ms is not None:
        moment_to_pb(sleep.until_ms, target.until)


def _sleep_from_pb(value: plan_pb2.Sleep, _: GetPayload) -> Sleep:
    return Sleep(
        duration_from_pb(value.duration) if value.HasField("duration") else None,
        timestamp_from_pb(value.until) if value.HasField("until") else None,
    )


def _wait_to_pb(wait: WaitEvent, target: plan_pb2.WaitEvent) -> None:
    target.event = wait.event
    target.match = wait.match
    if wait.timeout is not None:  # zero means: only events of the lookback
        target.timeout.SetInParent()
        duration_to_pb(wait.timeout, target.timeout)
    if wait.lookback:
        duration_to_pb(wait.lookback, target.lookback)


def _wait_from_pb(value: plan_pb2.WaitEvent, _: GetPayload) -> WaitEvent:
    return WaitEvent(
        value.event,
        value.match,
        duration_from_pb(value.timeout) if value.HasField("timeout") else None,
        duration_from_pb(value.lookback),
    )


def _event_to_pb(event: Event, target: plan_pb2.Event, put: PutPayload) -> None:
    target.name = event.name
    put(event.data, target.data)
    target.id = event.id
    if event.at_ms is not None:
        moment_to_pb(event.at_ms, target.at)
    if event.traceparent:
        target.traceparent = event.traceparent


def _event_from_pb(value: plan_pb2.Event, get: GetPayload) -> Event:
    return Event(
        value.name,
        get(value.data) if value.HasField("data") else NULL,
        value.id,
        timestamp_from_pb(value.at) if value.HasField("at") else None,
        traceparent_from_pb(value.traceparent),
    )


def _send_from_pb(value: plan_pb2.SendEvent, get: GetPayload) -> SendEvent:
    return SendEvent(tuple([_event_from_pb(event, get) for event in value.events]))


def _invoke_from_pb(value: plan_pb2.Invoke, _: GetPayload) -> Invoke:
    return Invoke(value.flow, value.id)


_SPECS: dict[str, Callable[[Any, GetPayload], StepSpec]] = {
    "sleep": _sleep_from_pb,
    "wait_event": _wait_from_pb,
    "send_event": _send_from_pb,
    "invoke": _invoke_from_pb,
    "call": call_from_pb,
}
