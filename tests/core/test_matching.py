"""What a match expression says about an event, and what it may cost."""

from __future__ import annotations

import msgspec
import pytest

from stepwire.protocol.payload import Payload
from stepwire_engine.core import matching
from stepwire_engine.core.events import event_output
from stepwire_engine.core.units import EventRecord

EVENT = EventRecord("e1", "paid", Payload(b'{"order": 17, "items": ["a", "b"], "vip": true, "note": ""}'), 1_500, 1_000)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "data.order == `17`",
        "data.order > `16` && data.vip",
        "name == 'paid' && id == 'e1' && at == `1.5`",
        "contains(data.items, 'b')",
        "data.items[?@ == 'a'] | [0]",
        "!(data.note)",
        " && ".join(["data.vip"] * 70),
    ],
)
def test_an_event_matches(expression: str) -> None:
    matching.check(expression)
    assert matching.event_matches(expression, EVENT)


@pytest.mark.parametrize(
    "expression",
    ["data.order == `18`", "data.note", "data.missing", "data.items[?@ == 'c']", "`false`", "`null`", "`{}`", "`[]`"],
)
def test_null_false_and_empty_do_not_match(expression: str) -> None:
    matching.check(expression)
    assert not matching.event_matches(expression, EVENT)


@pytest.mark.parametrize("expression", ["length(data.order) == `1`", "sum(data.items) > `0`", "max_by(data, &order)"])
def test_an_expression_that_does_not_fit_the_data_does_not_match(expression: str) -> None:
    matching.check(expression)
    assert not matching.event_matches(expression, EVENT)


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("data.", "not JMESPath"),
        ("data ==", "not JMESPath"),
        ("nothing(data)", "no function 'nothing'"),
        ("a" * 1025, "1025 bytes, limit 1024"),
        ("(" * 500 + "a" + ")" * 500, "not JMESPath"),
        ("a" + ".b" * 10 + " && a" * 130, "nested"),
        ("[@, @] | " * 10 + "length(@)", "copy the event"),
        ("to_string({" + ", ".join([f"k{n}: @" for n in range(65)]) + "})", "copy the event"),
    ],
)
def test_a_malformed_or_costly_expression_is_refused_with_the_reason(expression: str, why: str) -> None:
    with pytest.raises(matching.MalformedMatch, match=why.replace("(", "\\(")) as refused:
        matching.check(expression)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("data", [Payload(b'{"order": '), Payload(b'"\xff"'), Payload(b"")])
def test_data_that_are_not_the_json_they_say_are_null(data: Payload) -> None:
    event = EventRecord("e1", "paid", data, 0, 0)
    assert matching.event_matches("data == `null`", event)
    assert b'"data":null' in event_output(event).data


def test_data_of_another_encoding_stay_opaque() -> None:
    event = EventRecord("e1", "paid", Payload(b"\x11\xff", "x-sealed"), 0, 0)
    assert matching.event_matches("data.encoding == 'x-sealed' && data.base64 == 'Ef8='", event)
    data = msgspec.json.decode(event_output(event).data)["data"]
    assert data == {"encoding": "x-sealed", "base64": "Ef8="}


def test_data_are_given_to_flows_byte_for_byte() -> None:
    exact = b'{"n": 1.10,\t"big": 123456789012345678901234567890}'
    assert exact in event_output(EventRecord("e1", "paid", Payload(exact), 0, 0)).data
