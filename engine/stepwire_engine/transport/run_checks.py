"""What requests of clients may say: bounds and forms, refused by the name of the field. It asks nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import msgspec

from stepwire.protocol import limits
from stepwire.protocol.bounds import has_control_characters
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.payload import JSON, Payload
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.refusal import CallRefused
from stepwire_engine.store.paging import LIMIT_MAX


def refuse(message: str) -> NoReturn:
    """Raise CallRefused (INVALID_ARGUMENT)."""
    raise CallRefused(ErrorCode.INVALID_ARGUMENT, message)


def check_count(field: str, count: int) -> None:
    """A list is neither empty nor too long."""
    if not 1 <= count <= LIMIT_MAX:
        refuse(f"{field} has {count} entries; 1..{LIMIT_MAX} are allowed")


def check_text(field: str, value: str) -> None:
    """A name or an id is 1..256 bytes without control characters."""
    size = len(value.encode())
    if not 1 <= size <= limits.NAME_BYTES_MAX:
        refuse(f"{field} has {size} bytes; 1..{limits.NAME_BYTES_MAX} are allowed")
    if has_control_characters(value):
        refuse(f"{field} has control characters")


def check_json(field: str, payload: Payload) -> None:
    """Event data becomes a part of other JSON and is matched on, so that it must be what it says."""
    if payload.encoding == JSON:
        try:
            payload.data.decode()
            msgspec.json.decode(payload.data, type=msgspec.Raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            refuse(f"{field} is not JSON: {problem}")


def wanted_states(numbers: Sequence[int]) -> tuple[RunState, ...]:
    """States by their numbers."""
    try:
        return tuple(RunState(number) for number in numbers)
    except ValueError:
        refuse("states has a value this engine does not know")
