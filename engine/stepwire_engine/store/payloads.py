"""The walk over an entry's payloads, in a fixed order: large ones are stored apart and counted by it.

The order of what an older engine wrote never changes: a stored payload is found by its place in the walk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded, Call, Plan, SendEvent, StepPlanned, StepSpec
from stepwire_engine.core.entries import AttemptEnded, Entry, Planned, RunCreated


def map_payloads(entry: Entry, change: Callable[[Payload], Payload]) -> Entry:
    """`entry` with `change` applied to each of its payloads, in a fixed order.

    A payload that this walk does not reach stays in the journal row; a test compares it with the types.
    """
    match entry:
        case RunCreated():
            return msgspec.structs.replace(entry, input=change(entry.input))
        case AttemptEnded(output=Payload() as output):
            return msgspec.structs.replace(entry, output=change(output))
        case Planned():
            return msgspec.structs.replace(entry, plan=_map_plan(entry.plan, change))
        case _:
            return entry


def any_larger(entries: Iterable[Entry], size: int) -> bool:
    """Whether a payload of `entries` has more than so many bytes. Nothing is made for those that have not."""
    sizes: list[int] = []

    def note(payload: Payload) -> Payload:
        sizes.append(len(payload.data))
        return payload

    for entry in entries:
        if type(entry) is AttemptEnded:  # A wide group has thousands of them in one row.
            if entry.output is not None and len(entry.output.data) > size:
                return True
        else:
            map_payloads(entry, note)
    return max(sizes, default=0) > size


def _map_plan(plan: Plan, change: Callable[[Payload], Payload]) -> Plan:
    steps = tuple(
        [
            step if step.input is None and step.spec is None else _map_step(step, change)  # Most have no payload.
            for step in plan.steps
        ]
    )
    match plan.body_ended:
        case BodyEnded(output=Payload() as output) as ended:
            body_ended: BodyEnded | None = msgspec.structs.replace(ended, output=change(output))
        case ended:
            body_ended = ended
    if body_ended is not None and body_ended.restart is not None:
        body_ended = msgspec.structs.replace(body_ended, restart=change(body_ended.restart))
    return msgspec.structs.replace(plan, steps=steps, body_ended=body_ended)


def _map_step(step: StepPlanned, change: Callable[[Payload], Payload]) -> StepPlanned:
    if step.input is not None:
        step = msgspec.structs.replace(step, input=change(step.input))
    if step.spec is not None:
        step = msgspec.structs.replace(step, spec=_map_spec(step.spec, change))
    return step


def _map_spec(spec: StepSpec, change: Callable[[Payload], Payload]) -> StepSpec:
    match spec:
        case Call(body=Payload() as body):
            return msgspec.structs.replace(spec, body=change(body))
        case SendEvent(events=events):
            changed = [msgspec.structs.replace(event, data=change(event.data)) for event in events]
            return SendEvent(tuple(changed))
        case _:
            return spec
