"""What JSON would change silently, found and named.

A value is encoded, decoded and compared; only where that differs are its members visited, to say which one
does not survive and why. This module knows nothing of annotations or payloads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import repeat
from typing import Any

import msgspec

DEPTH_MAX = 64
"""Levels of lists and objects in one value."""
INT_MIN, INT_MAX = -(2**63), 2**63 - 1


class NotPortable(Exception):
    """A value would not survive the round trip. The place is completed on the way out of the value."""

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(what)
        self._what, self._advice, self._place = what, advice, ""

    def inside(self, part: str) -> NotPortable:
        self._place = part + self._place
        return self

    def __str__(self) -> str:
        return f"{self._what} at ${self._place}{self._advice}"


class _TooDeep(NotPortable):
    def __str__(self) -> str:
        return f"nested deeper than {DEPTH_MAX} levels, or contains itself"


def json_round_trip(value: Any, decode: Callable[[Any], Any]) -> tuple[bytes, Any]:
    """Encode, decode and compare, which costs less than looking at every member from Python.

    Whatever JSON changes silently (NaN, keys that are not strings) makes the decoded value differ; only
    then, and for ints and depths that JSON carries but others may not, are the members visited.
    """
    try:
        data = _encode(value)
    except Exception as problem:  # of msgspec, or of the user's types
        _visit(value, _UNKNOWN, 0)
        raise NotPortable(str(problem)) from None
    size = len(data)
    if size > _SHALLOW_BYTES and _too_deep(data):
        raise _TooDeep("")
    if size >= _LONG_INT_BYTES and _LONG_INT in data.translate(_DIGITS_TO_ZERO):
        _visit(value, _UNKNOWN, 0)
    try:
        back = decode(data)
    except msgspec.MsgspecError:
        _visit(value, _UNKNOWN, 0)  # NaN explains more than "expected float, got null"
        raise
    try:
        same = value == back
    except Exception:  # an __eq__ of user code
        same = False
    if same is not True:
        _visit(value, back, 0)
    return data, back


def _encode_other(value: Any) -> Any:
    if hasattr(type(value), "__pydantic_validator__"):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"an object of type {type(value).__name__}")


_encode = msgspec.json.Encoder(enc_hook=_encode_other).encode
decode_untyped = msgspec.json.Decoder().decode
_SHALLOW_BYTES = 2 * DEPTH_MAX
_LONG_INT_BYTES = 19
_LONG_INT = b"0" * _LONG_INT_BYTES
_DIGITS_TO_ZERO = bytes(ord("0") if chr(i) in "123456789" else i for i in range(256))
_ONE_BRACKET = bytes({ord("{"): ord("["), ord("}"): ord("]")}.get(i, i) for i in range(256))
_NO_BRACKETS = bytes(i for i in range(256) if chr(i) not in "[]{}")


def _too_deep(data: bytes) -> bool:
    """Peel the innermost brackets level by level, and count exactly if that does not end in time.

    Brackets inside text may hide a level from the peeling, which is harmless: the limit is a courtesy to
    other parsers, and msgspec has one of its own.
    """
    brackets = data.translate(_ONE_BRACKET, _NO_BRACKETS)
    if brackets.count(b"[") <= DEPTH_MAX:
        return False
    for _ in range(DEPTH_MAX):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets) and _depth(decode_untyped(data)) > DEPTH_MAX


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [item for item in level if type(item) in (dict, list)]:
        depth += 1
        level = [member for item in level for member in (item.values() if type(item) is dict else item)]
    return depth


_UNKNOWN = object()
"""Stands for a decoded value that cannot be paired with the given one; its keys are not compared."""


def _visit(value: Any, back: Any, depth: int) -> None:
    """Raise NotPortable for the first member of `value` that is not portable.

    Args:
        back: What `value` was decoded to, or _UNKNOWN.
    """
    match value:
        case None | bool():
            return
        case str():
            _check_text(value)
        case int():
            if not INT_MIN <= value <= INT_MAX:
                raise NotPortable("an integer beyond 64 bits")
        case float():
            if not math.isfinite(value):
                raise NotPortable(str(value))
        case _ if depth >= DEPTH_MAX:
            raise _TooDeep("")
        case list() | tuple():
            _visit_list(value, back, depth)
        case Mapping():
            _visit_mapping(value, back, depth)
        case AbstractSet():
            _visit_list(list(value), _UNKNOWN, depth)
        case _:
            _visit_object(value, back, depth)


def _visit_list(value: Sequence[Any], back: Any, depth: int) -> None:
    paired = back if isinstance(back, list | tuple) and len(back) == len(value) else repeat(_UNKNOWN)
    for i, (member, known) in enumerate(zip(value, paired, strict=False)):
        try:
            _visit(member, known, depth + 1)
        except NotPortable as problem:
            raise problem.inside(f"[{i}]") from None


def _visit_mapping(value: Mapping[Any, Any], back: Any, depth: int) -> None:
    paired = isinstance(back, Mapping)
    for key, member in value.items():
        if isinstance(key, str):
            _check_text(key)
        elif paired and key not in back:
            kind = type(key).__name__
            advice = f" would come back as text; use text keys, or annotate as dict[{kind}, ...]"
            raise NotPortable(f"a key of type {kind}", advice)
        elif not isinstance(key, int | float):
            _check_leaf({key: None})
        try:
            _visit(member, back.get(key, _UNKNOWN) if paired else _UNKNOWN, depth + 1)
        except NotPortable as problem:
            raise problem.inside(place_part(key)) from None


def _visit_object(value: Any, back: Any, depth: int) -> None:
    members = _fields(value)
    if members is None:
        return _check_leaf(value)
    for name in members:
        known = back.get(name, _UNKNOWN) if isinstance(back, dict) else getattr(back, name, _UNKNOWN)
        try:
            _visit(getattr(value, name), known, depth + 1)
        except NotPortable as problem:
            raise problem.inside(place_part(name)) from None


def _fields(value: Any) -> Iterable[str] | None:
    """Names of the fields of an object that is encoded by fields; None for any other."""
    cls = type(value)
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if dataclasses.is_dataclass(cls):
        return (field.name for field in dataclasses.fields(cls))
    if hasattr(cls, "__attrs_attrs__"):
        return (attribute.name for attribute in cls.__attrs_attrs__)
    return list(value.__dict__) if hasattr(cls, "__pydantic_validator__") else None


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise NotPortable("text with a lone surrogate") from None


def _check_leaf(value: Any) -> None:
    try:
        _encode(value)
    except Exception as problem:
        raise NotPortable(str(problem)) from None


def place_part(key: object) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!a}]"
