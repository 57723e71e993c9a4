"""Whether an event is the one that somebody waits for: JMESPath over the event (MISSION S18, T1).

An expression is user text that the engine evaluates for every event of a name, so what it may cost is bounded:
its length, its nesting, and how far it may multiply the event. Whatever goes wrong while it is evaluated means that
the event does not match. Nothing here knows of runs.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jmespath
import msgspec
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from jmespath.parser import ParsedResult

from stepwire.protocol.limits import MATCH_BYTES_MAX
from stepwire.protocol.payload import JSON, Payload
from stepwire_engine.core.units import EventRecord

_CACHED_MAX = 1024
_COPIES_MAX = 64
"""Product of the sizes of all lists and hashes in an expression: a chain of `[@, @]` doubles its value each time."""
_DEPTH_MAX = 128
"""Nested nodes of an expression; each `&&` of a chain is one."""
_FUNCTIONS = frozenset(Functions.FUNCTION_TABLE)


class MalformedMatch(ValueError):
    """A match expression that cannot be evaluated; the message says why, on one line."""


def check(expression: str) -> None:
    """Accept an expression, or raise MalformedMatch. The empty one matches everything."""
    if expression:
        _compiled(expression)


def matches(expression: str, document: Any) -> bool:
    """Whether a document is true for the expression: neither null nor false nor empty, as JMESPath says it.

    Args:
        expression: Accepted by `check`; empty: true.
        document: See `document_of`.
    """
    if not expression:
        return True
    try:
        found = _compiled(expression).search(document)
    except (JMESPathError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return False  # Decided: an expression that does not fit this event does not match it.
    return found is not None and found is not False and found != "" and found != [] and found != {}


def event_matches(expression: str, event: EventRecord) -> bool:
    """As `matches`, for an event that nobody else is matched with."""
    return not expression or matches(expression, document_of(event))


def document_of(event: EventRecord) -> dict[str, Any]:
    """What expressions see: `id`, `name`, `at` in seconds, and `data`."""
    return {"id": event.id, "name": event.name, "at": event.due_ms / 1000, "data": _decoded(event.data)}


def opaque(data: Payload) -> dict[str, str]:
    """Data that are no JSON, as expressions see and flows get them."""
    return {"encoding": data.encoding, "base64": b64encode(data.data).decode()}


def _decoded(data: Payload) -> Any:
    if data.encoding != JSON:
        return opaque(data)
    try:
        return msgspec.json.decode(data.data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


@lru_cache(_CACHED_MAX)
def _compiled(expression: str) -> ParsedResult:
    size = len(expression.encode())
    if size > MATCH_BYTES_MAX:
        raise MalformedMatch(f"it has {size} bytes, limit {MATCH_BYTES_MAX}")
    try:
        compiled = jmespath.compile(expression)
    except (JMESPathError, RecursionError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise MalformedMatch(f"it is not JMESPath: {reason}") from None
    _check_cost(compiled.parsed)
    return compiled


def _check_cost(root: Mapping[str, Any]) -> None:
    copies = 1
    nodes = [(root, 1)]
    while nodes:
        node, depth = nodes.pop()
        if depth > _DEPTH_MAX:
            raise MalformedMatch(f"it is nested more than {_DEPTH_MAX} deep")
        children = [child for child in node.get("children", ()) if isinstance(child, dict)]
        if node["type"] == "function_expression" and node["value"] not in _FUNCTIONS:
            raise MalformedMatch(f"there is no function {node['value']!r}")
        if node["type"] in ("multi_select_list", "multi_select_dict"):
            copies *= max(1, len(children))
            if copies > _COPIES_MAX:
                raise MalformedMatch(f"its lists and hashes would copy the event more than {_COPIES_MAX} times")
        nodes.extend([(child, depth + 1) for child in children])
