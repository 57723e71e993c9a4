"""Events as users see them, what they trigger, and how a `match=` becomes one JMESPath expression (MISSION T1, S18).

The protocol's values of the same names travel; these are what user code makes, annotates with and gets. This
module never evaluates a match: that is the engine's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from stepwire.codec import JSON_CODEC
from stepwire.errors import ConfigurationError, OutputUnserializable
from stepwire.protocol import bounds, frames, limits, plan

Match = str | Mapping[str, Any]
"""JMESPath over {name, id, data, at}, or values that paths of it must equal."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: flows wait for it, or are started by it (MISSION T1).

    A flow that is started by events may annotate its input with this class.

    Args:
        name: 1..256 bytes, for example "order/paid".
        data: Any JSON value.
        id: Deduplicates, at most 256 bytes; empty: the engine makes one.
        at: When it is delivered, with time zone; None or past: at once. Of a received event: when it was.
        redact: Its data are not for human eyes (MISSION V7): neither in the record of a flow that waits for it nor in
            that of a run that it starts. A received event does not say it: say it again to send it on.

    Raises:
        ValueError: name or id is out of bounds, or `at` has no time zone.
    """

    name: str
    data: Any = None
    id: str = ""
    if TYPE_CHECKING:
        at: datetime | None = None
    else:
        # The engine writes seconds since 1970, which every language reads; users only ever see the datetime.
        at: datetime | float | None = None
    redact: bool = False

    def __post_init__(self) -> None:
        for text in (self.name, self.id):
            if type(text) is not str:
                raise ValueError(f"name and id of an event are text, not {text!r:.80}")
        if isinstance(self.at, int | float):
            object.__setattr__(self, "at", datetime.fromtimestamp(self.at, UTC))
        elif self.at is not None and self.at.tzinfo is None:
            raise ValueError(f"an event needs a time with time zone, not {self.at.isoformat()}")
        problem = bounds.identity_problem(plan.Event(self.name, id=self.id))
        if problem is not None:
            raise ValueError(problem)


def planned_event(event: Event) -> plan.Event:
    """The event as the protocol has it. Its data are always JSON, because the engine matches on them.

    Raises:
        ConfigurationError: it is no Event, or its data are not portable JSON; names the place.
    """
    if not isinstance(event, Event):
        raise ConfigurationError(f"not an event: {event!r:.80}", hint="pass stepwire.Event(name, data)")
    if event.name.startswith(bounds.RESERVED_EVENTS):
        raise ConfigurationError(f"events named {bounds.RESERVED_EVENTS}... are the engine's own: {event.name!r}")
    try:
        data = JSON_CODEC.encode(event.data)
    except OutputUnserializable as problem:
        raise ConfigurationError(f"data of event {event.name!r}: {problem.message}") from None
    at_ms = None if event.at is None else epoch_ms(event.at)
    return plan.Event(event.name, data.marked() if event.redact else data, event.id, at_ms)


def epoch_ms(when: datetime) -> int:
    """Milliseconds since 1970, rounded up so that nothing happens too early; 0 for times before.

    Raises:
        ValueError: `when` has no time zone.
    """
    if when.tzinfo is None:
        raise ValueError(f"a time needs a time zone, not {when.isoformat()}")
    return max(0, -((_EPOCH - when) // _MILLISECOND))


# ---- triggers


@dataclass(frozen=True, slots=True)
class Trigger:
    """Starts a run of a flow for each event (MISSION T1).

    Args:
        event: Name of the event, 1..256 bytes.
        match: Which of them; None: all. See `Context.step.wait_event`.

    Raises:
        ConfigurationError: name or match is out of bounds.
    """

    event: str
    match: Match | None = None

    def __post_init__(self) -> None:
        if type(self.event) is not str:
            raise ConfigurationError(f"the name of an event is text, not {self.event!r:.80}")
        problem = bounds.options_problem(frames.FlowOptions("flow", triggers=(planned_trigger(self),)))
        if problem is not None:
            raise ConfigurationError(problem)


def planned_trigger(trigger: Trigger) -> frames.Trigger:
    """The trigger as the protocol has it."""
    return frames.Trigger(trigger.event, compile_match(trigger.match))


TriggerLike = str | Trigger | Iterable[str | Trigger]


def triggers(on: TriggerLike) -> tuple[Trigger, ...]:
    """The triggers of an `on=` option: names of events, Triggers, or several of them. Raises ConfigurationError."""
    if not isinstance(on, Iterable | Trigger):
        raise ConfigurationError(f"on= takes names of events and Triggers, not {on!r:.80}")
    several = (on,) if isinstance(on, str | Trigger) else tuple(on)
    for one in several:
        if not isinstance(one, str | Trigger):
            raise ConfigurationError(f"on= takes names of events and Triggers, not {one!r:.80}")
    made = tuple(one if isinstance(one, Trigger) else Trigger(one) for one in several)
    if len(made) > limits.TRIGGERS_PER_FLOW_MAX:
        raise ConfigurationError(f"a flow has at most {limits.TRIGGERS_PER_FLOW_MAX} triggers, not {len(made)}")
    return made


# ---- matches

_FIELDS = frozenset(("name", "id", "data", "at"))
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_PART = re.compile(
    r"""
    (?: "(?P<quoted> (?: [^"\\\x00-\x1f] | \\["\\/bfnrt] | \\u[0-9a-fA-F]{4} )+ )"
      | (?P<bare> [^."\[\]`\x00-\x1f]+ )
    )
    (?P<indexes> (?: \[ -?(?:0|[1-9][0-9]{0,8}) \] )* )
    """,
    re.VERBOSE,
)
_PATHS = 'a key is a path such as "data.order_id", "data.items[0].sku" or \'data."a.b"\''


def compile_match(match: Match | None) -> str:
    """One JMESPath expression; empty: everything matches.

    Args:
        match: An expression, taken as it is; or a mapping of paths to JSON values, all of which must be equal.

    Raises:
        ConfigurationError: a key is no path over {name, id, data, at}, a value is not JSON, or the expression
            is longer than 1 KiB.
    """
    match match:
        case None:
            expression = ""
        case str():
            expression = match.strip()
            if not expression:
                raise ConfigurationError("a match is not empty", hint="leave it out to take every event")
        case Mapping():
            expression = " && ".join(f"{_path(key)} == {_literal(key, value)}" for key, value in match.items())
        case _:
            raise ConfigurationError(f"a match is a JMESPath expression or a mapping, not {match!r:.80}")
    problem = bounds.spec_problem(plan.WaitEvent("event", expression))
    if problem is not None:
        raise ConfigurationError(problem)
    return expression


def _path(key: object) -> str:
    """A mapping's key as JMESPath, every part that is no plain identifier quoted."""
    if not isinstance(key, str):
        raise ConfigurationError(f"a key of a match is text, not {key!r:.80}", hint=_PATHS)
    parts = []
    at = 0
    while True:
        found = _PART.match(key, at)
        if found is None:
            raise ConfigurationError(f"not a path of a match: {key!r:.80}", hint=_PATHS)
        parts.append(_part(found))
        at = found.end()
        if at == len(key):
            break
        if key[at] != ".":
            raise ConfigurationError(f"not a path of a match: {key!r:.80}", hint=_PATHS)
        at += 1
    root = parts[0].partition("[")[0]
    if root not in _FIELDS:
        hint = f"what the sender put into the event is below data: write data.{key}"
        raise ConfigurationError(f"an event has no {root!r:.80}; it has name, id, data and at", hint=hint)
    return ".".join(parts)


def _part(found: re.Match[str]) -> str:
    quoted = found["quoted"]
    key: str = found["bare"] if quoted is None else json.loads(f'"{quoted}"')
    return (key if _IDENTIFIER.fullmatch(key) else json.dumps(key)) + found["indexes"]


def _literal(key: str, value: Any) -> str:
    """A JSON literal. Backticks end literals, so they stand as what JSON also calls them."""
    try:
        data = JSON_CODEC.encode(value).data.decode()
    except OutputUnserializable as problem:
        raise ConfigurationError(f"the value of {key!r:.80} in a match: {problem.message}") from None
    return "`" + data.replace("`", "\\u0060") + "`"
