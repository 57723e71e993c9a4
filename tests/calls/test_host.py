"""Calls over real sockets: what is an output, what is a failure, and that nothing is left behind (MISSION S16, U4)."""

from __future__ import annotations

import asyncio
import gzip
import socket
from typing import Any

import pytest

from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import CancelReason
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Call
from stepwire_engine.calls.exchange import idempotency_key, unanswered
from stepwire_engine.calls.host import CallSettings
from tests.calls.desk import LOOPBACK, RUN, desk, play
from tests.calls.sites import Request, Visit, answering, holding, site

KIB = 1024
HEAD = b"HTTP/1.1 200 OK\r\n"


def kind(failure: Failure) -> tuple[ErrorCode, Retryable]:
    return failure.code, failure.retryable


LOST = (ErrorCode.CALL_FAILED, Retryable.POLICY)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ---- answers


def test_a_call_sends_its_request_and_its_output_is_the_answer() -> None:
    async def scenario() -> None:
        head = "Content-Type: application/json\nContent-Length: 11"
        async with site(answering(head, b'{"paid":17}')) as shop, desk() as at:
            body = Payload(b'{"order":17}')
            output = await at.output(Call(shop.url("/pay?x=1"), "POST", (("Authorization", "Bearer t"),), body))
            assert output == {
                "status": 200,
                "headers": {"content-type": "application/json", "content-length": "11"},
                "body": '{"paid":17}',
                "encoding": "utf-8",
            }
            (request,) = shop.requests
            assert (request.line, request.body) == ("POST /pay?x=1 HTTP/1.1", b'{"order":17}')
            assert request.header("host") == [f"127.0.0.1:{shop.port}"]
            assert request.header("authorization") == ["Bearer t"]
            assert request.header("content-type") == ["application/json"]
            assert request.header("content-length") == ["12"]
            assert request.header("connection") == ["close"]
            assert request.header("idempotency-key") == [idempotency_key(RUN, "call")]

    play(scenario)


@pytest.mark.parametrize(
    "status", ["204 No Content", "301 Moved", "302 Found", "308 Moved", "404 Not Found", "429 Slow", "500 No", "503 No"]
)
def test_any_answer_is_an_output_and_redirects_are_not_followed(status: str) -> None:
    async def scenario() -> None:
        async with site(answering("Content-Length: 0")) as other:
            head = f"Location: {other.url()}\nContent-Length: 0\nRetry-After: 1"
            async with site(answering(head, status=status)) as shop, desk() as at:
                output = await at.output(Call(shop.url()))
                assert output["status"] == int(status[:3])
                assert output["headers"]["location"] == other.url()
            assert other.connections == 0

    play(scenario)


def test_bodies_that_are_packed_or_in_chunks_or_end_with_the_connection() -> None:
    async def scenario() -> None:
        packed = gzip.compress(b"packed")
        bodies = {
            "/gzip": b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed,
            "/chunks": b"Transfer-Encoding: chunked\r\n\r\n3\r\nchu\r\n3\r\nnks\r\n0\r\n\r\n",
            "/close": b"\r\nuntil the end",
            "/bytes": b"Content-Length: 2\r\n\r\n\xff\xfe",
        }

        async def handler(request: Request, visit: Visit) -> None:
            await visit.say(HEAD + bodies[request.line.split()[1]])

        async with site(handler) as shop, desk() as at:
            outputs = [await at.output(Call(shop.url(path))) for path in bodies]
        found = [(output["body"], output["encoding"]) for output in outputs]
        assert found == [("packed", "utf-8"), ("chunks", "utf-8"), ("until the end", "utf-8"), ("//4=", "base64")]

    play(scenario)


def test_head_has_no_body_and_interim_answers_are_none() -> None:
    async def scenario() -> None:
        interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        async with site(holding(interim, HEAD + b"Content-Length: 5\r\n\r\n")) as shop, desk() as at:
            output = await at.output(Call(shop.url(), "HEAD"))
            assert (output["status"], output["body"], output["headers"]) == (200, "", {"content-length": "5"})

    play(scenario)


def test_cookies_of_one_call_are_not_sent_with_another() -> None:
    async def scenario() -> None:
        async with site(answering("Set-Cookie: session=1; Path=/\nContent-Length: 0")) as shop, desk() as at:
            await at.output(Call(shop.url()))
            await at.output(Call(shop.url()))
            assert [request.header("cookie") for request in shop.requests] == [[], []]
            assert shop.connections == 2, "nor is a connection shared"

    play(scenario)


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with site(answering("Content-Length: 0")) as proxy, site(answering("Content-Length: 1", b"x")) as shop:
            for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, proxy.url())
            async with desk() as at:
                assert (await at.output(Call(shop.url())))["body"] == "x"
            assert proxy.connections == 0

    play(scenario)


# ---- no answer


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200 * KIB,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nno gzip",
    ],
    ids=["nothing", "no HTTP", "half a body", "no chunk", "endless head", "no gzip"],
)
def test_a_broken_answer_is_left_to_the_policy(said: bytes) -> None:
    async def handler(_: Request, visit: Visit) -> None:
        await visit.say(said)

    async def scenario() -> None:
        async with site(handler) as shop, desk() as at:
            assert kind(await at.failure(Call(shop.url("/?token=secret")))) == LOST

    play(scenario)


def test_a_failure_names_the_server_and_not_the_whole_url() -> None:
    async def scenario() -> None:
        port = closed_port()
        async with desk() as at:
            failure = await at.failure(Call(f"http://127.0.0.1:{port}/path?token=secret"))
            assert kind(failure) == LOST
            assert f"http://127.0.0.1:{port}" in failure.message
            assert "secret" not in failure.message
            assert "ConnectError" in failure.message

    play(scenario)


def test_a_host_without_address_is_left_to_the_policy() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise unanswered(f"{host}: Name or service not known")

    async def silent(host: str, port: int) -> list[str]:
        return []

    async def scenario() -> None:
        for resolve in (unknown, silent):
            async with desk(resolve=resolve) as at:
                failure = await at.failure(Call("http://orders.test/"))
                assert kind(failure) == LOST
                assert "orders.test" in failure.message

    play(scenario)


def test_a_call_that_is_wrong_ends_at_once() -> None:
    async def scenario() -> None:
        async with site(answering("Content-Length: 0")) as shop, desk() as at:
            failure = await at.failure(Call(shop.url(), headers=(("Host", "evil"),)))
            assert kind(failure) == (ErrorCode.INVALID_INPUT, Retryable.NO)
            assert shop.connections == 0

    play(scenario)


def test_a_defect_is_logged_and_is_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(host: str, port: int) -> list[str]:
        raise RuntimeError("a secret of the engine")

    async def scenario() -> None:
        async with desk(resolve=broken) as at:
            failure = await at.failure(Call("http://orders.test/"))
            assert (failure.code, failure.message) == (
                ErrorCode.INTERNAL, "the engine failed on this call; its log says why",
            )  # fmt: skip

    play(scenario)
    assert "a secret of the engine" in caplog.text


# ---- bounds


@pytest.mark.parametrize(
    "head", [b"Content-Length: 10485760\r\n\r\n", b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n400\r\n"]
)
def test_reading_stops_at_the_limit(head: bytes) -> None:
    said = 0

    async def endless(_: Request, visit: Visit) -> None:
        nonlocal said
        await visit.say(HEAD + head)
        part = b"x" * KIB + (b"\r\n400\r\n" if b"chunked" in head else b"")
        while said < 8 * KIB * KIB:
            await visit.say(part)
            said += len(part)

    async def scenario() -> None:
        async with site(endless) as shop, desk(CallSettings(allow=LOOPBACK.allow, response_bytes_max=8 * KIB)) as at:
            failure = await at.failure(Call(shop.url()))
            assert kind(failure) == (ErrorCode.PAYLOAD_TOO_LARGE, Retryable.NO)
            assert "8192 bytes (call_response_bytes_max)" in failure.message
            await shop.left.acquire()
            shop.left.release()

    play(scenario)
    assert said < 8 * KIB * KIB, "the connection ended while the server was still sending"


def test_a_gzip_bomb_stops_at_the_limit() -> None:
    async def scenario() -> None:
        bomb = gzip.compress(bytes(64 * KIB * KIB))
        head = f"Content-Encoding: gzip\nContent-Length: {len(bomb)}"
        async with site(answering(head, bomb)) as shop, desk() as at:
            assert kind(await at.failure(Call(shop.url()))) == (ErrorCode.PAYLOAD_TOO_LARGE, Retryable.NO)

    play(scenario)


def test_an_output_keeps_to_the_limit_of_payloads() -> None:
    async def scenario() -> None:
        settings = CallSettings(allow=LOOPBACK.allow, payload_bytes_max=KIB)
        async with site(answering("Content-Length: 900", b"\x01" * 900)) as shop, desk(settings) as at:
            failure = await at.failure(Call(shop.url()))
            assert kind(failure) == (ErrorCode.PAYLOAD_TOO_LARGE, Retryable.NO)
            assert "limit 1024" in failure.message

    play(scenario)


@pytest.mark.parametrize(
    "parts",
    [(), (HEAD,), (HEAD, b"Content-Length: 10\r\n\r\n", b"half")],
    ids=["no answer", "half a head", "half a body"],
)
def test_a_slow_answer_ends_with_the_timeout(parts: tuple[bytes, ...]) -> None:
    async def scenario() -> None:
        async with site(holding(*parts)) as shop, desk() as at:
            failure = await at.failure(Call(shop.url()), timeout=0.05)
            assert kind(failure) == (ErrorCode.TIMEOUT, Retryable.POLICY)
            assert failure.message == "step 'call' was not finished within its timeout of 0.05 s"
            await shop.left.acquire()
            shop.left.release()

    play(scenario)


@pytest.mark.parametrize("timeout", [None, 3600.0])
def test_no_attempt_is_longer_than_the_setting(timeout: float | None) -> None:
    async def scenario() -> None:
        async with site(holding()) as shop, desk(CallSettings(allow=LOOPBACK.allow, timeout_max=0.05)) as at:
            failure = await at.failure(Call(shop.url()), timeout=timeout)
            assert failure.code is ErrorCode.TIMEOUT
            assert failure.message.endswith("timeout of 0.05 s (call_timeout_max)")

    play(scenario)


def test_a_lookup_that_hangs_ends_with_the_timeout() -> None:
    async def hanging(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    async def scenario() -> None:
        async with desk(resolve=hanging) as at:
            assert (await at.failure(Call("http://orders.test/"), timeout=0.05)).code is ErrorCode.TIMEOUT

    play(scenario)


# ---- stopping


@pytest.mark.parametrize("path", ["call", ""])
@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (CancelReason.RUN_CANCELLED, ErrorCode.CANCELLED),
        (CancelReason.LEASE_LOST, ErrorCode.CANCELLED),
        (CancelReason.TIMEOUT, ErrorCode.TIMEOUT),
    ],
)
def test_cancel_ends_the_request(path: str, reason: CancelReason, code: ErrorCode) -> None:
    async def scenario() -> None:
        async with site(holding(HEAD)) as shop, desk() as at:
            fence = at.engine.execute(Call(shop.url()))
            await shop.asked.acquire()
            at.engine.cancel(path, fence, reason)
            await at.engine.until(lambda: at.engine.results)
            (result,) = at.engine.results
            assert result.failure is not None
            assert result.failure.code is code
            await shop.left.acquire()
            shop.left.release()
            assert at.host.calls_in_progress == 0

    play(scenario)


def test_cancel_before_the_first_byte_and_of_another_call() -> None:
    async def scenario() -> None:
        async with site(holding()) as shop, desk() as at:
            kept = at.engine.execute(Call(shop.url()), "kept")
            at.engine.cancel("gone", at.engine.execute(Call(shop.url()), "gone"))
            await at.engine.until(lambda: at.engine.results)
            assert [(r.path, r.failure and r.failure.code) for r in at.engine.results] == [
                ("gone", ErrorCode.CANCELLED)
            ]
            assert at.host.calls_in_progress == 1
            at.engine.cancel("kept", kept)
            await at.engine.until(lambda: len(at.engine.results) == 2)

    play(scenario)


def test_cancel_in_a_handshake_leaves_no_socket() -> None:
    async def scenario() -> None:
        reached, left = asyncio.Event(), asyncio.Event()

        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            reached.set()
            while await reader.read(KIB):
                pass
            left.set()
            writer.close()

        server = await asyncio.start_server(mute, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with desk() as at:
            fence = at.engine.execute(Call(f"https://127.0.0.1:{port}/"))
            await reached.wait()
            at.engine.cancel("call", fence)
            await left.wait()
        server.close()
        await server.wait_closed()

    play(scenario)


def test_a_stop_gives_calls_back_without_results() -> None:
    async def scenario() -> None:
        async with site(holding(HEAD)) as shop:
            async with desk() as at:
                at.engine.execute(Call(shop.url()))
                await shop.asked.acquire()
            assert at.engine.results == []
            assert [frame.goodbye is not None for frame in at.engine.frames] == [True]
            assert at.engine.ended == 1
            await shop.left.acquire()
            shop.left.release()
            await at.host.stop()
            assert len(at.engine.frames) == 1, "a second stop says nothing"

    play(scenario)


def test_a_call_during_many_others() -> None:
    async def scenario() -> None:
        open_gate = asyncio.Event()

        async def waiting(request: Request, visit: Visit) -> None:
            await open_gate.wait()
            body = request.line.split()[1].encode()
            await visit.say(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)

        async with site(waiting) as shop, desk() as at:
            for i in range(100):
                at.engine.execute(Call(shop.url(f"/{i}")), f"call#{i}")
            for _ in range(100):
                await shop.asked.acquire()
            assert at.host.calls_in_progress == 100, "all of them wait at the server at the same time"
            open_gate.set()
            await at.engine.until(lambda: len(at.engine.results) == 100)
            found: dict[str, Any] = {r.path: r.output for r in at.engine.results}
            assert all(f'"body":"/{i}"'.encode() in found[f"call#{i}"].data for i in range(100))

    play(scenario)
