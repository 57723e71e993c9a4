"""What user code gives is what it gets back, or a clear error that names the place (DESIGN 6, MISSION P14)."""

from __future__ import annotations

import enum
import functools
import math
import re
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwire.codec import (
    JsonCodec,
    call_types,
    decode_call,
    decode_flow_input,
    encode_call,
    encode_flow_input,
    return_type,
)
from stepwire.errors import ConfigurationError, InvalidInput, OutputUnserializable, ProtocolError
from stepwire.protocol.payload import NULL, Payload

if TYPE_CHECKING:
    from nowhere import Hidden  # type: ignore[import-not-found]

CODEC = JsonCodec()


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 3


@dataclass
class Item:
    name: str
    price: Decimal


@dataclass
class Order:
    id: UUID
    at: datetime
    items: list[Item] = field(default_factory=list)
    colour: Colour = Colour.RED


@dataclass(eq=False)
class Measures:
    by_year: dict[int, float]


class Point(msgspec.Struct):
    x: int
    y: int


class Row(TypedDict):
    id: int
    tags: set[str]


class Pair(NamedTuple):
    a: int
    b: str


ORDER = Order(UUID(int=7), datetime(2026, 1, 2, tzinfo=UTC), [Item("pen", Decimal("1.10"))])


@pytest.mark.parametrize(
    ("value", "tp"),
    [
        (ORDER, Order),
        ([ORDER], list[Order]),
        (Point(1, 2), Point),
        ({"id": 1, "tags": {"a"}}, Row),
        (Pair(1, "x"), Pair),
        (Colour.RED, Colour),
        (Size.BIG, Size),
        ({1: "a"}, dict[int, str]),
        ({date(2026, 1, 2): 1}, dict[date, int]),
        ((1, "a"), tuple[int, str]),
        ({1, 2}, set[int]),
        (b"\x00\xff", bytes),
        (timedelta(seconds=90), timedelta),
        (Decimal("0.1"), Decimal | None),
        (None, None),
        (5, Annotated[int, msgspec.Meta(ge=0)]),
        (5, Annotated[int, ["unhashable"]]),
    ],
)
def test_annotated_values_come_back_equal(value: Any, tp: Any) -> None:
    payload, back = CODEC.round_trip(value, tp)
    assert back == value
    assert type(back) is type(value)
    assert CODEC.decode(payload, tp) == value


def test_values_without_equality_come_back_with_their_keys() -> None:
    _, back = CODEC.round_trip(Measures({2026: 1.5}), Measures)
    assert back.by_year == {2026: 1.5}


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON_VALUES)
def test_plain_json_comes_back_equal_and_unaliased(value: Any) -> None:
    payload, back = CODEC.round_trip(value)
    assert back == value
    assert CODEC.decode(payload) == value
    if isinstance(value, list | dict) and value:
        assert back is not value


def test_without_annotation_values_come_back_as_plain_json() -> None:
    _, back = CODEC.round_trip(
        {"t": (1, 2), "p": Point(1, 2), "u": UUID(int=1), "s": {3}, "i": [Item("a", Decimal(1))]}
    )
    assert back == {
        "t": [1, 2],
        "p": {"x": 1, "y": 2},
        "u": str(UUID(int=1)),
        "s": [3],
        "i": [{"name": "a", "price": "1"}],
    }


@pytest.mark.parametrize("text", ["\0", "a\0b", "é", "🦊", "null", '"\\', "\u2028"])
def test_text_round_trips(text: str) -> None:
    assert CODEC.round_trip([text, {text: text}])[1] == [text, {text: text}]


def deep(levels: int) -> Any:
    value: Any = 1
    for n in range(levels):
        value = [value, "]"] if n % 2 else {"k": value}
    return value


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, r"nan at \$$"),
        ({"a": [1, 2, 3, math.inf]}, r"inf at \$\.a\[3\]$"),
        ({"a b": -math.inf}, r"-inf at \$\['a b'\]$"),
        ({"a": [None, math.nan]}, r"nan at \$\.a\[1\]$"),
        ({"p": Measures({1: math.nan})}, r"key of type int at \$\.p\.by_year|nan at \$\.p\.by_year\[1\]"),
        ("\ud800", r"lone surrogate at \$$"),
        ({"a": [{"b": "x\udfff"}]}, r"lone surrogate at \$\.a\[0\]\.b$"),
        ({"\ud800": 1}, r"lone surrogate at \$$"),
        ({"n": 2**63}, r"beyond 64 bits at \$\.n$"),
        ([-(2**63) - 1], r"beyond 64 bits at \$\[0\]$"),
        ([10**40], r"beyond 64 bits at \$\[0\]$"),
        ({"m": {1: "a"}}, r"key of type int at \$\.m would come back as text; .*dict\[int"),
        ({UUID(int=1): 1}, r"key of type UUID at \$"),
        ({(1, 2): 1}, r"at \$$"),
        ({"a": {None: 1}}, r"at \$\.a$"),
        ({"a": [object()]}, r"object of type object at \$\.a\[0\]$"),
        ({"f": len}, r"at \$\.f$"),
        (deep(65), "nested deeper than 64 levels"),
        (deep(500), "nested deeper than 64 levels"),
        (deep(50_000), "nested deeper than 64 levels"),
        (circular(), "nested deeper than 64 levels, or contains itself"),
    ],
    ids=lambda v: str(v)[:30] if isinstance(v, str) and v.isascii() else type(v).__name__,
)
def test_what_does_not_survive_is_an_error_that_names_the_place(value: Any, expected: str) -> None:
    with pytest.raises(OutputUnserializable) as caught:
        CODEC.encode(value)
    assert re.search(expected, caught.value.message)
    assert len(str(caught.value)) < 500


def test_the_limits_themselves_are_fine() -> None:
    values: list[Any] = [2**63 - 1, -(2**63), "12345678901234567890", deep(64), [[]] * 1000, ["[" * 100]]
    for value in values:
        assert CODEC.round_trip(value)[1] == value


def test_nan_in_an_annotated_float_is_named_as_nan() -> None:
    with pytest.raises(OutputUnserializable, match=r"nan at \$\[1\]"):
        CODEC.encode([1.0, math.nan], list[float])
    with pytest.raises(OutputUnserializable, match=r"nan at \$\[1\]"):
        CODEC.encode([1.0, math.nan], list[float | None])


def test_a_value_that_does_not_fit_its_annotation_is_an_error_at_the_step() -> None:
    with pytest.raises(OutputUnserializable, match=r"does not fit Point: .*missing required field `y`"):
        CODEC.encode({"x": 1}, Point)


def test_objects_with_a_hostile_eq_are_compared_by_their_members() -> None:
    @dataclass
    class Hostile:
        x: int

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no")

    assert CODEC.round_trip([Hostile(1)])[1] == [{"x": 1}]


def test_decode_names_the_field_and_refuses_other_encodings() -> None:
    payload = CODEC.encode({"id": UUID(int=1), "at": "2026-01-02T00:00:00Z", "items": [{"name": 1}]})
    with pytest.raises(
        InvalidInput, match=r"does not fit Order: Expected `str`, got `int` - at `\$\.items\[0\]\.name`"
    ):
        CODEC.decode(payload, Order)
    with pytest.raises(InvalidInput, match="does not fit JSON"):
        CODEC.decode(Payload(b"{"))
    with pytest.raises(ProtocolError, match="'zlib'"):
        CODEC.decode(Payload(b"x", "zlib"))


def test_types_that_cannot_be_decoded_are_refused_at_declaration() -> None:
    def step(value: Item | Order) -> None: ...

    with pytest.raises(ConfigurationError, match="cannot be decoded"):
        call_types(step)


# ---- calls


async def charge(order: Order, amount: int = 1, *, note: str = "") -> Item:
    return Item(note, Decimal(amount))


def test_a_call_round_trips_by_annotation() -> None:
    payload = encode_call((ORDER,), {"amount": 3, "note": "x"}, charge)
    assert decode_call(payload, charge) == ([ORDER, 3], {"note": "x"})
    assert decode_call(encode_call((ORDER,), {}), charge) == ([ORDER], {})
    assert return_type(charge) is Item


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"[[],{}]", "missing a required argument: 'order'"),
        (b"[[1,2,3],{}]", "too many positional arguments"),
        (b'[[],{"order":1,"other":2}]', "unexpected keyword argument 'other'"),
        (b"[[1],{}]", r"argument 'order': Expected `object`, got `int`"),
        (b'[[],{"order":{"id":"x"}}]', r"argument 'order': .* at `\$\.id`"),
        (b"{}", "Expected `array`, got `object`"),
        (b"[[1", "truncated"),
    ],
)
def test_a_call_that_does_not_fit_names_the_argument(data: bytes, expected: str) -> None:
    with pytest.raises(InvalidInput, match=f"the call of charge: .*{expected}"):
        decode_call(Payload(data), charge)


def test_variadic_and_keyword_only_parameters() -> None:
    def f(a: int, /, *rest: Point, must: int, **named: Point) -> None: ...

    args, kwargs = [1, Point(1, 2)], {"must": 2, "p": Point(3, 4)}
    assert decode_call(encode_call(args, kwargs, f), f) == (args, kwargs)
    with pytest.raises(InvalidInput, match=r"argument 'rest\[0\]'"):
        decode_call(Payload(b'[[1,{"x":"a","y":1}],{"must":2}]'), f)
    with pytest.raises(InvalidInput, match=r"missing a required .*'must'"):
        decode_call(Payload(b"[[1],{}]"), f)


def test_int_keys_in_calls_need_the_annotation() -> None:
    def f(by_year: dict[int, str]) -> None: ...

    assert decode_call(encode_call(({1: "a"},), {}, f), f) == ([{1: "a"}], {})
    with pytest.raises(InvalidInput, match="key of type int"):
        encode_call(({1: "a"},), {})


def test_signatures_are_read_from_partials_methods_and_callables() -> None:
    class Service:
        def method(self, p: Point) -> Point:
            return p

        async def __call__(self, p: Point) -> Point:
            return p

    for fn in (Service().method, functools.partial(Service().method), Service()):
        assert decode_call(encode_call((Point(1, 2),), {}, fn), fn) == ([Point(1, 2)], {})
        assert return_type(fn) is Point


def test_return_types() -> None:
    def awaitable() -> Awaitable[Point]: ...  # type: ignore[empty-body]

    def none() -> None: ...

    expected: list[tuple[Callable[..., Any], Any]] = [
        (awaitable, Point),
        (none, type(None)),
        (lambda: 1, Any),
        (max, Any),
        (Point, Any),
    ]
    for fn, tp in expected:
        assert return_type(fn) is tp


def test_a_function_may_use_what_is_defined_after_it() -> None:
    """Of two flows inside a function that invoke each other, one comes first."""

    def first() -> int:
        return second()

    assert return_type(first) is int

    def second() -> int:
        return 2


def test_annotations_that_cannot_be_resolved_say_what_to_do() -> None:
    def step(x: Hidden) -> None: ...

    with pytest.raises(ConfigurationError, match=r"'Hidden'[^$]*TYPE_CHECKING"):
        call_types(step)


def test_flow_inputs() -> None:
    def none(ctx: Any) -> None: ...
    def one(ctx: Any, order: Order) -> None: ...
    def defaulted(ctx: Any, n: int = 5) -> None: ...
    def two(ctx: Any, a: int, b: int) -> None: ...

    assert decode_flow_input(NULL, none) == ()
    assert decode_flow_input(encode_flow_input((ORDER,), one), one) == (ORDER,)
    assert decode_flow_input(NULL, defaulted) == ()
    assert decode_flow_input(Payload(b"3"), defaulted) == (3,)
    with pytest.raises(InvalidInput, match=r"flow .*none takes no input"):
        decode_flow_input(Payload(b"1"), none)
    with pytest.raises(InvalidInput, match=r"does not fit Order: Expected `object`, got `null`"):
        decode_flow_input(NULL, one)
    with pytest.raises(InvalidInput, match=r"does not fit Order"):
        encode_flow_input(({},), one)
    with pytest.raises(InvalidInput, match=r"nan at \$"):
        encode_flow_input((math.nan,))
    with pytest.raises(ConfigurationError, match="takes 2 inputs"):
        decode_flow_input(NULL, two)
    with pytest.raises(InvalidInput, match="one input, not 2"):
        encode_flow_input((1, 2))


class Zlib:
    """The shape of a codec that users write: it transforms what JsonCodec made."""

    def encode(self, value: Any, type: Any = Any) -> Payload:
        return Payload(zlib.compress(CODEC.encode(value, type).data), "json+zlib")

    def decode(self, payload: Payload, type: Any = Any) -> Any:
        return CODEC.decode(Payload(zlib.decompress(payload.data)), type)

    def round_trip(self, value: Any, type: Any = Any) -> tuple[Payload, Any]:
        payload = self.encode(value, type)
        return payload, self.decode(payload, type)


def test_a_wrapping_codec_serves_calls_and_flow_inputs() -> None:
    call = encode_call((ORDER,), {}, charge, codec=Zlib())
    assert call.encoding == "json+zlib"
    assert decode_call(call, charge, codec=Zlib()) == ([ORDER], {})

    def flow(ctx: Any, order: Order) -> None: ...

    assert decode_flow_input(encode_flow_input((ORDER,), flow, codec=Zlib()), flow, codec=Zlib()) == (ORDER,)


# ---- Pydantic


def test_pydantic_models() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Line(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        sku: str
        quantity: int = pydantic.Field(alias="qty", ge=1)
        at: datetime

    line = Line(sku="a", qty=2, at=datetime(2026, 1, 2, tzinfo=UTC))

    Basket = make_dataclass("Basket", [("lines", list[Line])])

    for value, tp in ((line, Line), ([line], list[Line]), (Basket([line]), Basket), (None, Line | None)):
        payload, back = CODEC.round_trip(value, tp)
        assert back == value
        assert CODEC.decode(payload, tp) == value
    assert CODEC.round_trip({"l": line})[1] == {"l": {"sku": "a", "qty": 2, "at": "2026-01-02T00:00:00Z"}}
    with pytest.raises(InvalidInput, match=r"greater than or equal to 1 - at `\$\[0\]\.qty`"):
        CODEC.decode(Payload(b'[{"sku":"a","qty":0,"at":"2026-01-02T00:00:00Z"}]'), list[Line])

    def step(line: Any) -> None: ...

    step.__annotations__["line"] = Line
    assert decode_call(encode_call((line,), {}, step), step) == ([line], {})

    class Reading(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        celsius: float | None

    with pytest.raises(OutputUnserializable, match=r"nan at \$\.celsius"):
        CODEC.encode(Reading(celsius=math.nan), Reading)
