"""What is sent for a call, and what its answer becomes."""

from __future__ import annotations

import pytest

from stepwire.protocol.failure import ErrorCode, Retryable
from stepwire.protocol.limits import HEADERS_MAX
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Call, SecretHeader
from stepwire_engine.calls.exchange import OWN_HEADERS, CallFailed, answer, idempotency_key, outgoing
from tests.calls.desk import decoded

URL = "https://api.example/orders?id=17"


def refusal(call: Call) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        outgoing(call, "k")
    assert caught.value.failure.retryable is Retryable.NO
    return caught.value


def test_headers_that_every_request_has() -> None:
    request = outgoing(Call(URL), "k")
    assert (request.method, str(request.url), request.content) == ("GET", URL, b"")
    assert dict(request.headers) == {
        b"host": b"api.example",
        b"accept": b"*/*",
        b"accept-encoding": b"gzip",
        b"user-agent": b"stepwire",
        b"idempotency-key": b"k",
        b"connection": b"close",
    }


@pytest.mark.parametrize("name", ["Accept", "USER-AGENT", "Idempotency-Key", "accept-encoding"])
def test_a_header_of_the_user_replaces_the_default(name: str) -> None:
    request = outgoing(Call(URL, headers=((name, " mine\t"),)), "k")
    assert [value for found, value in request.headers if found == name.lower().encode()] == [b"mine"]


def test_repeated_headers_and_other_alphabets_are_sent_as_they_are() -> None:
    request = outgoing(Call(URL, headers=(("x-a", "1"), ("x-a", "2"), ("x-name", "Zoë"))), "k")
    assert [value for name, value in request.headers if name.startswith(b"x-")] == [b"1", b"2", "Zoë".encode()]


@pytest.mark.parametrize(
    ("body", "headers", "content_type"),
    [
        (None, (), []),
        (Payload(b"{}"), (), [b"application/json"]),
        (Payload(b"{}"), (("Content-Type", "application/x+json"),), [b"application/x+json"]),
        (Payload(b"\x00", "bytes"), (), []),
    ],
)
def test_json_is_named_as_such(
    body: Payload | None, headers: tuple[tuple[str, str], ...], content_type: list[bytes]
) -> None:
    request = outgoing(Call(URL, "POST", headers, body), "k")
    assert [value for name, value in request.headers if name == b"content-type"] == content_type
    assert request.content == (body.data if body else b"")


@pytest.mark.parametrize("name", [*sorted(name.decode() for name in OWN_HEADERS), "HOST", "Content-Length"])
def test_headers_of_the_connection_are_not_the_users_to_set(name: str) -> None:
    error = refusal(Call(URL, headers=((name, "x"),)))
    assert error.failure.code is ErrorCode.INVALID_INPUT
    assert name.lower() in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "x"), ("a b", "x"), ("a:", "x"), ("a\r\nb", "x"), ("é", "x"), ("a\0", "x"), ("a" * 257, "x"),
        ("a", "x\r\nhost: evil"), ("a", "x\ny"), ("a", "x\ry"), ("a", "x\0y"), ("a", "\x7f"), ("a", "\x1b[31m"),
    ],
)  # fmt: skip
def test_names_and_values_of_headers_cannot_break_the_request(name: str, value: str) -> None:
    assert refusal(Call(URL, headers=((name, value),))).failure.code is ErrorCode.INVALID_INPUT


def test_a_bounded_number_of_headers_is_sent() -> None:
    headers = tuple((f"x-{i}", "") for i in range(HEADERS_MAX))
    assert len(outgoing(Call(URL, headers=headers), "k").headers) > HEADERS_MAX
    assert "101 headers" in str(refusal(Call(URL, headers=(*headers, ("y", "")))))


@pytest.mark.parametrize("method", ["CONNECT", "connect", "GET /", "GET\r\n", "GÉT", "X" * 33, " "])
def test_methods_that_are_none_are_refused(method: str) -> None:
    assert refusal(Call(URL, method)).failure.code is ErrorCode.INVALID_INPUT


def test_methods_are_sent_in_upper_case_and_get_is_the_default() -> None:
    assert [outgoing(Call(URL, method), "k").method for method in ("", "put", "M-SEARCH")] == ["GET", "PUT", "M-SEARCH"]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ftp://api.example/", ErrorCode.DESTINATION_REFUSED),
        ("file:///etc/passwd", ErrorCode.INVALID_INPUT),
        ("file://localhost/etc/passwd", ErrorCode.DESTINATION_REFUSED),
        ("gopher://api.example:25/", ErrorCode.DESTINATION_REFUSED),
        ("//api.example/", ErrorCode.INVALID_INPUT),
        ("/orders", ErrorCode.INVALID_INPUT),
        ("", ErrorCode.INVALID_INPUT),
        ("http://user@api.example/", ErrorCode.DESTINATION_REFUSED),
        ("http://user:secret@api.example/", ErrorCode.DESTINATION_REFUSED),
        ("http://api.example@10.0.0.1/", ErrorCode.DESTINATION_REFUSED),
        ("http:///orders", ErrorCode.INVALID_INPUT),
        ("http://api.example:0/", ErrorCode.INVALID_INPUT),
        ("http://api.example:65536/", ErrorCode.INVALID_INPUT),
        ("http://user:secret@api.example:port/", ErrorCode.INVALID_INPUT),
        ("http://api.example:port/", ErrorCode.INVALID_INPUT),
        ("http://[::1/", ErrorCode.INVALID_INPUT),
        ("http://a\r\nb/", ErrorCode.INVALID_INPUT),
        ("http://api.example/" + "a" * 70_000, ErrorCode.INVALID_INPUT),
    ],
)
def test_urls_that_cannot_be_called(url: str, code: ErrorCode) -> None:
    error = refusal(Call(url))
    assert error.failure.code is code
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("url", "host", "header", "origin"),
    [
        ("http://API.example", "api.example", b"api.example", "http://api.example"),
        ("http://api.example:80/", "api.example", b"api.example", "http://api.example"),
        ("https://api.example:8443/a?token=1", "api.example", b"api.example:8443", "https://api.example:8443"),
        ("http://bücher.example/", "xn--bcher-kva.example", b"xn--bcher-kva.example", "http://xn--bcher-kva.example"),
        ("http://[2606:4700::1]:81/", "2606:4700::1", b"[2606:4700::1]:81", "http://[2606:4700::1]:81"),
    ],
)
def test_the_host_of_a_url(url: str, host: str, header: bytes, origin: str) -> None:
    request = outgoing(Call(url), "k")
    assert (request.host, dict(request.headers)[b"host"], request.origin) == (host, header, origin)


def test_a_call_says_where_its_span_belongs_unless_the_user_does() -> None:
    def said(call: Call, traceparent: str) -> list[bytes]:
        return [value for name, value in outgoing(call, "k", traceparent).headers if name == b"traceparent"]

    span = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert said(Call(URL), span) == [span.encode()]
    assert said(Call(URL, headers=(("Traceparent", "mine"),)), span) == [b"mine"]
    assert said(Call(URL), "") == []


def test_the_idempotency_key_is_that_of_user_code() -> None:
    from stepwire._runtime.scope import AttemptInfo

    assert idempotency_key("run", "a/[0]/b#2") == AttemptInfo("run", "a/[0]/b#2", 3).idempotency_key


# ---- secrets of the engine

TOKEN = (SecretHeader("Authorization", "Bearer ", "TOKEN"),)


def test_a_secret_header_is_its_prefix_and_the_secret() -> None:
    request = outgoing(Call(URL, headers=(("x-a", "1"),), secret_headers=TOKEN), "k", secrets={"TOKEN": "t0p"})
    assert dict(request.headers)[b"authorization"] == b"Bearer t0p"
    assert dict(request.headers)[b"x-a"] == b"1"


def test_a_secret_header_replaces_a_default_as_any_other_does() -> None:
    header = (SecretHeader("idempotency-key", "", "TOKEN"),)
    request = outgoing(Call(URL, secret_headers=header), "k", secrets={"TOKEN": "mine"})
    assert [value for name, value in request.headers if name == b"idempotency-key"] == [b"mine"]


def test_a_secret_that_the_engine_does_not_have_fails_the_step_and_names_the_variable() -> None:
    error = refusal(Call(URL, secret_headers=TOKEN))
    assert (error.failure.code, error.failure.type) == (ErrorCode.INVALID_INPUT, "UnknownSecret")
    assert "STEPWIRE_SECRET_TOKEN" in str(error)


def test_a_secret_that_cannot_be_sent_is_refused_and_not_told() -> None:
    with pytest.raises(CallFailed) as caught:
        outgoing(Call(URL, secret_headers=TOKEN), "k", secrets={"TOKEN": "t0p\nx: y"})
    assert caught.value.failure.code is ErrorCode.INVALID_INPUT
    assert "t0p" not in str(caught.value.failure)


# ---- answers


def test_a_text_is_text_and_other_bytes_are_base64() -> None:
    assert decoded(answer(200, [], '{"ä":1}'.encode(), decoded=False)) == {
        "status": 200, "headers": {}, "body": '{"ä":1}', "encoding": "utf-8",
    }  # fmt: skip
    assert decoded(answer(200, [], b"\xff\x00", decoded=False))["body"] == "/wA="
    assert decoded(answer(200, [], b"\xff\x00", decoded=False))["encoding"] == "base64"
    assert decoded(answer(204, [], b"", decoded=False))["body"] == ""


def test_headers_of_an_answer_are_lower_case_and_joined() -> None:
    raw = [(b"X-A", b"1"), (b"x-a", b"2"), (b"X-Name", "Zoë".encode()), (b"X-Old", b"caf\xe9")]
    assert decoded(answer(200, raw, b"", decoded=False))["headers"] == {
        "x-a": "1, 2", "x-name": "Zoë", "x-old": "café",
    }  # fmt: skip


def test_headers_that_speak_of_a_removed_encoding_are_left_out() -> None:
    raw = [(b"Content-Encoding", b"gzip"), (b"Content-Length", b"20"), (b"Content-Type", b"text/plain")]
    assert decoded(answer(200, raw, b"", decoded=True))["headers"] == {"content-type": "text/plain"}
    assert len(decoded(answer(200, raw, b"", decoded=False))["headers"]) == 3
