"""What a `call` step gives back, read from what the engine writes (MISSION U4)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stepwire import HttpResult
from stepwire.codec import JSON_CODEC
from stepwire.errors import InvalidInput
from stepwire.http import http_result
from stepwire.protocol.payload import Payload


def written(**answer: Any) -> Payload:
    return Payload(json.dumps({"status": 200, "headers": {}, "body": "", "encoding": "utf-8", **answer}).encode())


def test_text_comes_as_text() -> None:
    found = http_result(written(status=404, headers={"content-type": "text/plain"}, body="né"))
    assert found == HttpResult(404, {"content-type": "text/plain"}, "né".encode())
    assert found.text == "né"


def test_bytes_come_as_base64() -> None:
    assert http_result(written(body="/wD+", encoding="base64")).body == b"\xff\x00\xfe"


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/plain; charset=latin-1", b"\xe9", "é"),
        ('text/plain; charset="ISO-8859-15"; x=y', b"\xa4", "€"),
        ("text/plain; charset=no-such-thing", b"ok", "ok"),
        ("text/plain; charset=base64", b"ok", "ok"),
        ("text/plain; charset=idna", b"\xff", "\ufffd"),
        ("text/plain", b"a\xff", "a\ufffd"),
        ("", b"", ""),
    ],
)
def test_text_follows_the_charset_as_far_as_it_goes(content_type: str, body: bytes, text: str) -> None:
    assert HttpResult(200, {"content-type": content_type}, body).text == text


def test_json_is_parsed_when_asked_for() -> None:
    assert HttpResult(200, {}, b'{"a": [1]}').json() == {"a": [1]}
    with pytest.raises(ValueError, match="status 502"):
        HttpResult(502, {}, b"<html>").json()


def test_a_result_survives_a_step_boundary() -> None:
    result = HttpResult(200, {"a": "b"}, b"\xff")
    assert JSON_CODEC.round_trip(result, HttpResult)[1] == result


@pytest.mark.parametrize("output", [b"null", b'{"status":"x"}', b'{"status":1,"headers":{},"body":"","encoding":"x"}'])
def test_what_is_no_answer_is_refused(output: bytes) -> None:
    with pytest.raises(InvalidInput):
        http_result(Payload(output))
