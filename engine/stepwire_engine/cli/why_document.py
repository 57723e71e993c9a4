"""What `stepwire runs why -o json` prints, as values: the schema `stepwire.why/v1`.

Like `documents.py`: scripts depend on these fields, they are only added to, and the text for people is made of them.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from stepwire import client
from stepwire_engine.cli.connection import run_document
from stepwire_engine.cli.documents import Run

WHY_SCHEMA = "stepwire.why/v1"


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """A host that has the body (`attempt` 0) or executes an attempt, `since` it was given to it."""

    service: str
    instance_id: str
    since: datetime | None = None
    attempt: int = 0
    connected: bool = True
    stopping: bool = False


class OpenStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step without an outcome; `attempt` is the one that executes or comes next.

    `match` is what events are compared with; `group` the one whose places are taken, by `group_holders`.
    """

    path: str
    kind: str
    name: str
    reason: str | None
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


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """The connected hosts of one service; numbers are counts of hosts, except `busy` and `slots`."""

    service: str
    hosts: int
    serving_flow: int = 0
    busy: int = 0
    slots: int = 0
    lagging: int = 0
    draining: int = 0
    serving_steps: tuple[str, ...] = ()


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run does not move; `open_steps` has at most 100 of `open_steps_count`."""

    schema: str = WHY_SCHEMA
    run: Run
    at: datetime
    body: Holder | None = None
    open_steps: tuple[OpenStep, ...] = ()
    open_steps_count: int = 0
    services: tuple[Service, ...] = ()


def why_document(explanation: client.Explanation) -> Why:
    """An explanation of the SDK as document."""
    return Why(
        run=run_document(explanation.run),
        at=explanation.at,
        body=None if explanation.body is None else _holder(explanation.body),
        open_steps=tuple(map(_open_step, explanation.open_steps)),
        open_steps_count=explanation.open_steps_count,
        services=tuple(map(_service, explanation.services)),
    )


def _holder(holder: client.Holder) -> Holder:
    return Holder(**{name: getattr(holder, name) for name in Holder.__struct_fields__})


def _open_step(step: client.OpenStep) -> OpenStep:
    values = {name: getattr(step, name) for name in OpenStep.__struct_fields__}
    values["reason"] = step.reason.value if step.reason is not None else None
    values["holder"] = None if step.holder is None else _holder(step.holder)
    return OpenStep(**values)


def _service(status: client.ServiceStatus) -> Service:
    return Service(**{name: getattr(status, name) for name in Service.__struct_fields__})
