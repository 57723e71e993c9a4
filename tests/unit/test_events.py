"""Events as users make and get them, triggers, and matches compiled to JMESPath (MISSION T1, S18)."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import jmespath
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stepwire import Event, Trigger
from stepwire.codec import JSON_CODEC, encode_call
from stepwire.errors import ConfigurationError, InvalidInput
from stepwire.events import compile_match, epoch_ms, planned_event, planned_trigger, triggers
from stepwire.protocol import frames, limits, plan
from stepwire.protocol.payload import Payload

AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


# ---- the value


def test_an_event_decodes_from_what_the_engine_writes() -> None:
    written = Payload(b'{"id":"e1","name":"order/paid","at":1767323045.678,"data":{"order_id":17}}')
    found = JSON_CODEC.decode(written, Event)
    assert found == Event("order/paid", {"order_id": 17}, "e1", AT)
    assert found.at.tzinfo is UTC


def test_whole_seconds_are_a_time_too() -> None:
    assert JSON_CODEC.decode(Payload(b'{"name":"a","at":1767323045}'), Event).at == AT.replace(microsecond=0)


@pytest.mark.parametrize("data", [b'{"data":1}', b'{"name":""}', b'{"name":"a","at":"soon"}', b"[]", b'"a"'])
def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        JSON_CODEC.decode(Payload(data), Event)


@given(
    st.builds(
        Event,
        st.text("abc/é", min_size=1, max_size=20),
        st.none() | st.dictionaries(st.text(max_size=5), st.integers(-9, 9)),
        st.text("xyz", max_size=9),
        st.none() | st.datetimes(timezones=st.just(UTC)),
    )
)
def test_an_event_survives_a_step_boundary(event: Event) -> None:
    payload, back = JSON_CODEC.round_trip(event, Event)
    assert back == event
    assert JSON_CODEC.decode(payload, Event) == event


def test_events_may_be_part_of_other_types() -> None:
    @dataclasses.dataclass
    class Box:
        event: Event | None
        events: list[Event]

    box = Box(Event("a", at=AT), [Event("b", [1])])
    assert JSON_CODEC.round_trip(box, Box)[1] == box


def test_an_event_is_an_argument_of_a_registered_step() -> None:
    def step(event: Event) -> None: ...

    assert json.loads(encode_call((Event("a", 1, "i", AT),), {}, step).data)[0][0]["data"] == 1


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Event(""),
        lambda: Event("x" * (limits.NAME_BYTES_MAX + 1)),
        lambda: Event("a", id="x" * (limits.EVENT_ID_BYTES_MAX + 1)),
        lambda: Event("\ud800"),
        lambda: Event(17),  # type: ignore[arg-type]
        lambda: Event("a", at=datetime(2026, 1, 1)),
    ],
    ids=["no name", "long name", "long id", "surrogate", "number", "naive time"],
)
def test_a_bad_event_is_refused_where_it_is_made(bad: Any) -> None:
    with pytest.raises(ValueError):
        bad()


def test_the_protocol_gets_json_whatever_the_time_zone() -> None:
    there = AT.astimezone(timezone(timedelta(hours=5)))
    assert planned_event(Event("a", {"x": [1]}, "i", there)) == plan.Event(
        "a", Payload(b'{"x":[1]}'), "i", 1767323045678
    )
    assert planned_event(Event("a")) == plan.Event("a", Payload(b"null"))


@pytest.mark.parametrize("data", [float("nan"), object(), {1: 2}])
def test_data_that_are_no_json_are_refused_by_name_and_place(data: Any) -> None:
    with pytest.raises(ConfigurationError, match="data of event 'a'"):
        planned_event(Event("a", data))


def test_something_else_than_an_event_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not an event"):
        planned_event("a")  # type: ignore[arg-type]


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_in_milliseconds_is_never_too_early(when: datetime) -> None:
    found = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=epoch_ms(when))
    assert found >= when
    assert found - when < timedelta(milliseconds=1) or epoch_ms(when) == 0


# ---- triggers


def test_triggers_of_an_on_option() -> None:
    assert triggers("a") == triggers(["a"]) == triggers((Trigger("a"),)) == (Trigger("a"),)
    assert triggers(()) == ()
    assert [planned_trigger(t) for t in triggers(["a", Trigger("b", {"data.x": "y"})])] == [
        frames.Trigger("a"),
        frames.Trigger("b", 'data.x == `"y"`'),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Trigger(""),
        lambda: Trigger(17),  # type: ignore[arg-type]
        lambda: Trigger("a", {"x": 1}),
        lambda: Trigger("a", "x" * (limits.MATCH_BYTES_MAX + 1)),
        lambda: triggers([17]),  # type: ignore[list-item]
        lambda: triggers(["a"] * (limits.TRIGGERS_PER_FLOW_MAX + 1)),
    ],
    ids=["no name", "no text", "bad match", "long match", "number", "too many"],
)
def test_a_bad_trigger_is_refused(bad: Any) -> None:
    with pytest.raises(ConfigurationError):
        bad()


# ---- matches


def matches(match: Any, **event: Any) -> bool:
    """As the engine does it."""
    document = {"id": "i", "name": "n", "at": 1.5, "data": None, **event}
    return jmespath.search(compile_match(match), document) is True  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("match", "compiled"),
    [
        (None, ""),
        ({}, ""),
        ("data.total > `10`", "data.total > `10`"),
        ({"data.order_id": 17}, "data.order_id == `17`"),
        ({"data.a": None, "name": "x"}, 'data.a == `null` && name == `"x"`'),
        ({"data.order-id": True}, 'data."order-id" == `true`'),
        ({'data."a.b"[0].c[-1]': 1}, 'data."a.b"[0].c[-1] == `1`'),
        ({'data."plain"': 1}, "data.plain == `1`"),
        ({"data.7": "`"}, 'data."7" == `"\\u0060"`'),
        ({"data[2]": []}, "data[2] == `[]`"),
    ],
)
def test_how_a_match_is_compiled(match: Any, compiled: str) -> None:
    assert compile_match(match) == compiled


NO_PATHS = [
    *("", "data.", ".data", "data..x", "data[", "data[x]", "data[01]", "data x[0]y", 'data."', 'data."a"b', "data.x\n"),
    *("order_id", "data || name", "data == `1` || name", "data | name", "data.`1`", "@", "*", 7, None),
]


@pytest.mark.parametrize("key", NO_PATHS)
def test_a_key_that_is_no_path_of_an_event_is_refused(key: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        compile_match({key: 1})
    assert caught.value.hint


def test_a_forgotten_data_is_pointed_out() -> None:
    with pytest.raises(ConfigurationError) as caught:
        compile_match({"order_id": 1})
    assert "data.order_id" in caught.value.hint


@pytest.mark.parametrize("match", ["", "  ", 17, ["a"], {"data.x": float("inf")}, {"data.x": object()}])
def test_what_is_no_match_is_refused(match: Any) -> None:
    with pytest.raises(ConfigurationError):
        compile_match(match)


def test_a_match_over_the_limit_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="1024"):
        compile_match({"data.x": "y" * limits.MATCH_BYTES_MAX})


KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)


def path_to(keys: list[str | int]) -> str:
    """As a user would write it: indexes in brackets, everything else quoted."""
    return "data" + "".join(f"[{key}]" if isinstance(key, int) else f".{json.dumps(key)}" for key in keys)


def nested(keys: list[str | int], value: Any) -> Any:
    for key in reversed(keys):
        value = [None] * key + [value] if isinstance(key, int) else {key: value, "other": 0}
    return value


@given(st.lists(KEYS | st.integers(0, 3), max_size=3), VALUES)
def test_whatever_stands_there_is_found(keys: list[str | int], value: Any) -> None:
    keys = [key for key in keys if key != "other"]
    compiled = {path_to(keys): value}
    assume(len(path_to(keys)) + len(json.dumps(value, ensure_ascii=False).encode()) < limits.MATCH_BYTES_MAX // 2)
    assert matches(compiled, data=nested(keys, value))


@given(KEYS, VALUES, VALUES)
def test_nothing_else_is_found(key: str, wanted: Any, present: Any) -> None:
    assume(json.loads(json.dumps(wanted)) != json.loads(json.dumps(present)))
    assume(len(json.dumps(wanted)) < limits.MATCH_BYTES_MAX // 2)
    assert not matches({path_to([key]): wanted}, data={key: present})


@given(st.text(max_size=30))
def test_values_cannot_leave_their_literal(text: str) -> None:
    """What a user puts into a value never becomes part of the expression."""
    hostile = text + "` || `true`"
    assert matches({"data.x": hostile}, data={"x": hostile})
    assert not matches({"data.x": hostile}, data={"x": "something else"})


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 1), min_size=1), st.data())
def test_every_entry_must_be_equal(wanted: dict[str, int], data: st.DataObject) -> None:
    present = data.draw(st.fixed_dictionaries({key: st.integers(0, 1) for key in "abc"}))
    expected = all(present[key] == value for key, value in wanted.items())
    assert matches({f"data.{key}": value for key, value in wanted.items()}, data=present) is expected


@given(KEYS)
def test_a_key_without_syntax_needs_no_quotes(key: str) -> None:
    assume(not set(key) & set('."[]`') and all(ord(c) > 0x1F for c in key))
    assert matches({f"data.{key}": 1}, data={key: 1})
