"""What clients ask, checked before anything is sent. It talks to nobody."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec

from stepwire._transport.run_record import RunState
from stepwire.errors import ConfigurationError, RunError
from stepwire.events import Event, planned_event
from stepwire.protocol import plan
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.payload import Payload

OPEN_STATES = tuple(state for state in RunState if not state.terminal)
"""States of runs that can be cancelled."""
STARTS_AT_ONCE = 1000
"""Runs that one call may start (proto/README.md, 13)."""
_START_BYTES_TARGET = 1024 * 1024
"""One call, unless a single input is larger; every engine receives that much, whatever its limit for inputs is."""
_START_BYTES = 128
"""Of a run in a call besides its texts and its input, at most: the trace, tags and lengths."""
_OVER = frozenset({ErrorCode.WRONG_STATE, ErrorCode.RUN_NOT_FOUND})


def flow_name(flow: Any) -> str:
    """Of a flow, or of something that has a name. Raises ConfigurationError."""
    name = flow if isinstance(flow, str) else getattr(flow, "name", None)
    if not isinstance(name, str):
        raise ConfigurationError(
            f"{flow!r:.80} cannot be asked for",
            why="it is neither a flow nor the name of one",
            hint="give a flow or its name",
        )
    return name


def run_states(states: Iterable[RunState | str]) -> tuple[RunState, ...]:
    """States by their names. Raises ConfigurationError."""
    try:
        return tuple(RunState(state) for state in states)
    except ValueError as unknown:
        names = ", ".join(RunState)
        raise ConfigurationError(f"{unknown}", why="runs have other states", hint=f"use {names}") from None


def open_states(states: Iterable[RunState | str]) -> tuple[RunState, ...]:
    """States of runs that can be cancelled; all of them if none is given. Raises ConfigurationError."""
    wanted = run_states(states) or OPEN_STATES
    over = [state for state in wanted if state.terminal]
    if over:
        raise ConfigurationError(f"runs that are {over[0]} cannot be cancelled", hint=f"use {', '.join(OPEN_STATES)}")
    return wanted


def page_sizes(limit: int | None, page_size: int) -> Iterator[int]:
    """How many runs to ask for next, for ever or until there are `limit`."""
    left = limit
    while left is None or left > 0:
        size = page_size if left is None else min(page_size, left)
        yield size
        left = None if left is None else left - size


def start_ids(ids: Iterable[str] | None, count: int) -> list[str]:
    """Idempotency keys for `count` runs. Raises ConfigurationError if there are more or fewer."""
    given = [""] * count if ids is None else list(ids)
    if len(given) != count:
        raise ConfigurationError(f"{len(given)} ids were given for {count} inputs", hint="give one for each, or none")
    return given


def start_batches(
    flow: str, payloads: Sequence[Payload], ids: Sequence[str]
) -> Iterator[tuple[list[Payload], list[str]]]:
    """What is started with one call each: bounded in number and bytes."""
    part: list[Payload] = []
    keys: list[str] = []
    size = 0
    besides = _START_BYTES + len(flow.encode())
    for payload, key in zip(payloads, ids, strict=True):
        more = besides + len(payload.data) + len(payload.encoding) + len(key.encode())
        if part and (len(part) == STARTS_AT_ONCE or size + more > _START_BYTES_TARGET):
            yield part, keys
            part, keys, size = [], [], 0
        part.append(payload)
        keys.append(key)
        size += more
    if part:
        yield part, keys


def sent_event(event: Event | str, data: Any, id: str, at: datetime | None) -> plan.Event:
    """What is sent. It always has an id, so that a call may be repeated without sending twice.

    Raises:
        ValueError: name or id is out of bounds, or `at` has no time zone.
        ConfigurationError: the data are no JSON, or an Event was given and data, id or at besides.
    """
    if isinstance(event, str):
        event = Event(event, data, id, at)
    elif data is not None or id or at is not None:
        raise ConfigurationError(
            "an Event was given, and data, id or at besides", hint="put them into the Event, or give its name only"
        )
    planned = planned_event(event)
    return planned if planned.id else msgspec.structs.replace(planned, id=secrets.token_hex(16))


@contextmanager
def unless_over() -> Iterator[None]:
    """Lets a run be that ended by itself before it could be cancelled."""
    try:
        yield
    except RunError as refused:
        if refused.code not in _OVER:
            raise
