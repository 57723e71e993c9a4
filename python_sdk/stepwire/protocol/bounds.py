"""What steps, events and flow options must keep to: one answer for SDKs, engines and the wire.

Pure. An SDK asks where user code calls, an engine for plans and for events of clients; the wire refuses what a
host should have seen itself. Every function gives the problem as a sentence for people, or None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from stepwire.protocol import limits
from stepwire.protocol.frames import FlowOptions
from stepwire.protocol.payload import JSON, Payload
from stepwire.protocol.plan import (
    Call,
    Event,
    Invoke,
    SecretHeader,
    SendEvent,
    Sleep,
    StepKind,
    StepSpec,
    Undo,
    WaitEvent,
)

SPEC_OF: dict[StepKind, type[StepSpec]] = {
    StepKind.SLEEP: Sleep,
    StepKind.WAIT_EVENT: WaitEvent,
    StepKind.SEND_EVENT: SendEvent,
    StepKind.INVOKE: Invoke,
    StepKind.CALL: Call,
}
"""The kinds that the engine performs, and what each needs."""


_SECRET = re.compile(r"[A-Z_][A-Z0-9_]{0,255}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
RESERVED_EVENTS = "stepwire/"
"""Prefix of the events that only the engine sends, so that nobody can forge the failure of a run."""


def spec_problem(spec: StepSpec) -> str | None:
    """What is wrong with what a step is to do (MISSION S16 to S19, I15)."""
    match spec:
        case Sleep():
            return _sleep_problem(spec)
        case WaitEvent():
            return (
                name_problem("the name of an event", spec.event)
                or _text_problem("a match", spec.match, 0, limits.MATCH_BYTES_MAX)
                or _duration_problem("timeout", spec.timeout)
                or _duration_problem("lookback", spec.lookback)
            )
        case SendEvent():
            if not 0 < len(spec.events) <= limits.EVENTS_PER_STEP_MAX:
                return f"a step sends 1 to {limits.EVENTS_PER_STEP_MAX} events, not {len(spec.events)}"
            return _first(map(event_problem, spec.events))
        case Invoke():
            return name_problem("the name of a flow", spec.flow) or name_problem(
                "an idempotency key", spec.id, 0, limits.EVENT_ID_BYTES_MAX
            )
        case Call():
            return _call_problem(spec)


def event_problem(event: Event) -> str | None:
    """What is wrong with an event that somebody sends (MISSION T1)."""
    if event.name.startswith(RESERVED_EVENTS):
        return f"events named {RESERVED_EVENTS}... are the engine's own"
    return identity_problem(event) or _json_problem(event.data)


def identity_problem(event: Event) -> str | None:
    """What is wrong with name and id of an event, whoever sent it."""
    return name_problem("the name of an event", event.name) or name_problem(
        "the id of an event", event.id, 0, limits.EVENT_ID_BYTES_MAX
    )


def undo_problem(undo: Undo) -> str | None:
    """What is wrong with a compensation (MISSION S8)."""
    match undo.kind:
        case StepKind.RUN:
            if undo.name:
                return "an undo that is a closure has no name"
            return _duration_problem("timeout", undo.timeout)
        case StepKind.TASK:
            return name_problem("the name of a registered step", undo.name) or _duration_problem(
                "timeout", undo.timeout
            )
        case _:
            return f"an undo is a closure or a registered step, not {undo.kind.name}"


def options_problem(options: FlowOptions) -> str | None:
    """What is wrong with the options of a flow (MISSION T1)."""
    if len(options.triggers) > limits.TRIGGERS_PER_FLOW_MAX:
        return f"a flow has at most {limits.TRIGGERS_PER_FLOW_MAX} triggers, not {len(options.triggers)}"
    return (
        name_problem("the name of a flow", options.flow)
        or _duration_problem("deadline", options.deadline)
        or _first(name_problem("the event of a trigger", trigger.event) for trigger in options.triggers)
        or _first(_text_problem("a match", t.match, 0, limits.MATCH_BYTES_MAX) for t in options.triggers)
    )


def has_control_characters(text: str) -> bool:
    """Whether a name would move the cursor of a terminal or break a line of a log."""
    return not text.isprintable() and _CONTROL.search(text) is not None


def name_problem(what: str, text: str, least: int = 1, most: int = limits.NAME_BYTES_MAX) -> str | None:
    """What is wrong with a name or id, which is shown to people; `least` and `most` in bytes."""
    problem = _text_problem(what, text, least, most)
    if problem is None and has_control_characters(text):
        return f"{what} has control characters"
    return problem


def cut_text(text: str, bytes_max: int) -> str:
    """`text` as valid UTF-8 of at most `bytes_max` bytes (at least 64): lone surrogates become "?", the middle goes."""
    if len(text) * 4 <= bytes_max and text.isascii():
        return text
    data = text.encode("utf-8", "replace")
    if len(data) <= bytes_max:
        return data.decode()
    keep = (bytes_max - 32) // 2
    left, right = data[:keep].decode("utf-8", "ignore"), data[-keep:].decode("utf-8", "ignore")
    return f"{left}\n[... {len(data) - 2 * keep} bytes cut]\n{right}"


def _sleep_problem(sleep: Sleep) -> str | None:
    if (sleep.duration is None) == (sleep.until_ms is None):
        return "a sleep has exactly one of duration and until"
    return _duration_problem("duration", sleep.duration)


def _call_problem(call: Call) -> str | None:
    headers = len(call.headers) + len(call.secret_headers)
    if headers > limits.HEADERS_MAX:
        return f"a request has at most {limits.HEADERS_MAX} headers, not {headers}"
    return (
        _text_problem("a URL", call.url, 1, limits.URL_BYTES_MAX)
        or _text_problem("a method", call.method, 1, limits.METHOD_BYTES_MAX)
        or _first(_text_problem("the name of a header", name) for name, _ in call.headers)
        or _first(_text_problem("a header", value, 0, limits.HEADER_VALUE_BYTES_MAX) for _, value in call.headers)
        or _first(map(_secret_problem, call.secret_headers))
    )


def _secret_problem(header: SecretHeader) -> str | None:
    if not _SECRET.fullmatch(header.secret):
        return "the name of a secret is 1 to 256 of A-Z, 0-9 and _, and begins with none of 0-9"
    return _text_problem("the name of a header", header.name) or _text_problem(
        "the prefix of a header", header.prefix, 0, limits.HEADER_VALUE_BYTES_MAX
    )


def _json_problem(data: Payload) -> str | None:
    """Data of an event become part of other JSON, so they must be what they say. Other encodings stay opaque."""
    if data.encoding == JSON:
        try:
            data.data.decode()
            msgspec.json.decode(data.data, type=msgspec.Raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return f"the data of an event are not JSON: {error}"
    return None


def _first(problems: Iterable[str | None]) -> str | None:
    return next((problem for problem in problems if problem is not None), None)


def _text_problem(what: str, text: str, least: int = 1, most: int = limits.NAME_BYTES_MAX) -> str | None:
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        return f"{what} is not valid Unicode"
    return None if least <= size <= most else f"{what} has {size} bytes; {least} to {most} are allowed"


def _duration_problem(what: str, seconds: float | None) -> str | None:
    if seconds is None or 0.0 <= seconds <= limits.DURATION_SECONDS_MAX:
        return None
    return f"{what} of {seconds} s is not between 0 and 100 years"
