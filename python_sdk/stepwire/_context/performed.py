"""Requests for the steps that the engine performs itself: sleeps, waits, events, other flows, HTTP (MISSION S16-S19).

Pure: each function checks what the user gave and makes the request that `LiveBody.plan_step` plans. Nothing here
depends on whether the flow is async, and nothing is planned if a check fails.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from stepwire._runtime.request import Decode, StepRequest
from stepwire.codec import JSON_CODEC, Codec, encode_flow_input
from stepwire.errors import ConfigurationError, OutputUnserializable
from stepwire.events import Event, Match, compile_match, epoch_ms, planned_event
from stepwire.http import EngineSecret, http_result
from stepwire.protocol.bounds import spec_problem
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    CALL_STEP,
    Call,
    Invoke,
    SecretHeader,
    SendEvent,
    Sleep,
    StepKind,
    StepSpec,
    WaitEvent,
)
from stepwire.redaction import Parts, Redact, parts_of, redacts
from stepwire.retry import Duration, Retry, deadline_of, duration, retry_policy

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_URL = re.compile(r"[^\x00-\x20\x7f]+")


class TypedFlow(Protocol):
    """A flow as an object: it knows its types."""

    @property
    def name(self) -> str:
        """As hosts registered it."""

    def encode_input(self, *args: Any) -> Payload:
        """The input; raises InvalidInput."""

    def decode_output(self, payload: Payload) -> Any:
        """The output, typed."""


def sleep(length: Duration) -> StepRequest:
    """Raises ConfigurationError."""
    return _performed(StepKind.SLEEP, Sleep(duration=duration(length)), _json_as(None))


def sleep_until(when: datetime) -> StepRequest:
    """Raises ValueError without a time zone, ConfigurationError for anything but a datetime."""
    if not isinstance(when, datetime):
        raise ConfigurationError(f"sleep_until takes a datetime, not {when!r:.80}")
    return _performed(StepKind.SLEEP, Sleep(until_ms=epoch_ms(when)), _json_as(None))


def wait_event(event: str, match: Match | None, timeout: Duration | None, lookback: Duration | None) -> StepRequest:
    """Raises ConfigurationError."""
    spec = WaitEvent(
        event,
        compile_match(match),
        None if timeout is None else duration(timeout),
        0.0 if lookback is None else duration(lookback),
    )
    return _performed(StepKind.WAIT_EVENT, spec, _json_as(Event | None))


def send_event(events: Event | Sequence[Event]) -> StepRequest:
    """Raises ConfigurationError."""
    several = (events,) if isinstance(events, Event) else tuple(events)
    return _performed(StepKind.SEND_EVENT, SendEvent(tuple(map(planned_event, several))), _json_as(tuple[str, ...]))


def invoke(
    flow: TypedFlow | str, args: tuple[Any, ...], codec: Codec, id: str, deadline: Duration | None, retries: int | Retry
) -> StepRequest:
    """A flow by name takes and gives plain JSON values, in the encoding of `codec`.

    Raises:
        ConfigurationError: an option is bad.
        InvalidInput: the input does not fit the flow.
    """
    name: str
    decode: Decode
    if isinstance(flow, str):
        name, given, decode = flow, encode_flow_input(args, codec=codec), codec.decode
    else:
        name, given, decode = flow.name, flow.encode_input(*args), flow.decode_output
    request = _performed(StepKind.INVOKE, Invoke(name, id), decode)
    request.input = given
    request.retry = retry_policy(retries)
    request.deadline = None if deadline is None else deadline_of(deadline)
    return request


def call(
    url: str,
    method: str,
    headers: Mapping[str, str | EngineSecret] | None,
    json: Any,
    body: bytes | str | None,
    timeout: Duration,
    retries: int | Retry,
    deadline: Duration | None,
    redact: Redact,
) -> StepRequest:
    """Raises ConfigurationError."""
    given = list((headers or {}).items())
    _check_request(url, method, given)
    parts = parts_of(redact)
    if redacts(parts, Parts.FAILURE):
        raise ConfigurationError('a call has no redact="failure"', why="its failures are the engine's own words")
    sent = _body(json, body)
    spec = Call(
        url,
        method.upper(),
        tuple([(name, value) for name, value in given if isinstance(value, str)]),
        sent.marked() if sent is not None and redacts(parts, Parts.INPUT) else sent,
        redacts(parts, Parts.OUTPUT),
        tuple([SecretHeader(n, s.prefix, s.name) for n, s in given if isinstance(s, EngineSecret)]),
    )
    request = _performed(StepKind.CALL, spec, http_result)
    request.task = CALL_STEP
    request.timeout = duration(timeout)
    request.retry = retry_policy(retries)
    request.deadline = None if deadline is None else deadline_of(deadline)
    return request


def _performed(kind: StepKind, spec: StepSpec, decode: Decode) -> StepRequest:
    problem = spec_problem(spec)
    if problem is not None:
        raise ConfigurationError(problem)
    return StepRequest(kind, None, decode, spec=spec)


def _json_as(type: Any) -> Decode:
    """What the engine writes is plain JSON, whatever the codec of the host."""
    return partial(JSON_CODEC.decode, type=type)


def _body(json: Any, body: bytes | str | None) -> Payload | None:
    if json is not msgspec.UNSET:
        if body is not None:
            raise ConfigurationError("give json or body, not both")
        try:
            return JSON_CODEC.encode(json)
        except OutputUnserializable as problem:
            raise ConfigurationError(f"json= of a call: {problem.message}") from None
    match body:  # the engine names the content type of JSON, and of nothing else
        case None:
            return None
        case str():
            return Payload(body.encode(), "text")
        case bytes() | bytearray() | memoryview():
            return Payload(bytes(body), "bytes")
        case _:
            raise ConfigurationError(f"body= of a call is bytes or text, not {body!r:.80}", hint="use json=")


def _check_request(url: object, method: object, headers: Sequence[tuple[object, object]]) -> None:
    if not isinstance(method, str) or not _TOKEN.fullmatch(method):
        raise ConfigurationError(f"not a method of HTTP: {method!r:.80}")
    for name, value in headers:
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ConfigurationError(f"not the name of a header: {name!r:.80}")
        text = value.prefix if isinstance(value, EngineSecret) else value
        if not isinstance(text, str) or not _HEADER_VALUE.fullmatch(text):
            raise ConfigurationError(f"the value of header {name!r:.80} must be text without control characters")
    if not isinstance(url, str) or not _URL.fullmatch(url) or not _is_http(url):
        raise ConfigurationError(
            f"not a URL to call: {url!r:.200}", why="it begins with http:// or https:// and a host"
        )


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bad port, or brackets that do not match
        return False
