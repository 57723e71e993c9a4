"""The destination policy where it counts: which server a connection is really made to (MISSION S16)."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading

import pytest

from stepwire.protocol.failure import ErrorCode, Retryable
from stepwire.protocol.plan import Call
from stepwire_engine.calls.exchange import CallFailed
from stepwire_engine.calls.host import CallSettings
from stepwire_engine.calls.resolver import LOOKUPS_MAX, Resolver
from tests.calls.desk import LOOPBACK, Names, desk, play
from tests.calls.sites import answering, client_tls, server_tls, site

EMPTY = answering("Content-Length: 0")
REFUSED = (ErrorCode.DESTINATION_REFUSED, Retryable.NO)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"])
def test_this_machine_is_not_called_by_whatever_name(host: str) -> None:
    async def scenario() -> None:
        async with site(EMPTY) as shop, desk(CallSettings()) as at:
            failure = await at.failure(Call(shop.url(host=host)))
            assert (failure.code, failure.retryable) == REFUSED
            assert "call_allow" in failure.message
            assert shop.connections == 0

    play(scenario)


def test_one_refused_address_refuses_the_host() -> None:
    async def scenario() -> None:
        names = Names(orders_test=["127.0.0.1", "10.0.0.5"])
        async with site(EMPTY) as shop, desk(resolve=names) as at:
            failure = await at.failure(Call(shop.url(host="orders.test")))
            assert (failure.code, failure.retryable) == REFUSED
            assert "orders.test is 10.0.0.5, which is a private address" in failure.message
            assert shop.connections == 0

    play(scenario)


def test_the_checked_address_is_called_whatever_the_name_stands_for_afterwards() -> None:
    async def scenario() -> None:
        names = Names(orders_test=[["127.0.0.1"], ["10.0.0.5"]])
        async with site(EMPTY) as shop, desk(resolve=names) as at:
            call = Call(shop.url(host="orders.test"))
            assert (await at.output(call))["status"] == 200
            assert names.asked == ["orders.test"], "it is looked up once"
            assert shop.requests[0].header("host") == [f"orders.test:{shop.port}"]
            assert (await at.failure(call)).code is ErrorCode.DESTINATION_REFUSED, "the next attempt looks again"
            assert shop.connections == 1

    play(scenario)


def test_a_host_that_is_named_may_have_any_address() -> None:
    async def scenario() -> None:
        names = Names(orders_test=["127.0.0.1"], other_test=["127.0.0.1"])
        settings = CallSettings(allow=("orders.test",))
        async with site(EMPTY) as shop, desk(settings, resolve=names) as at:
            assert (await at.output(Call(shop.url(host="orders.test"))))["status"] == 200
            assert (await at.failure(Call(shop.url(host="other.test")))).code is ErrorCode.DESTINATION_REFUSED

    play(scenario)


def test_the_next_address_is_tried_if_there_is_no_connection() -> None:
    async def scenario() -> None:
        names = Names(orders_test=["127.0.0.9", "127.0.0.8", "127.0.0.1"], dead_test=["127.0.0.9", "127.0.0.8"])
        async with site(EMPTY) as shop, desk(resolve=names) as at:
            assert (await at.output(Call(shop.url(host="orders.test"))))["status"] == 200
            failure = await at.failure(Call(shop.url(host="dead.test")))
            assert failure.code is ErrorCode.CALL_FAILED
            assert f"http://dead.test:{shop.port} at 127.0.0.8" in failure.message

    play(scenario)


def test_a_request_that_may_have_arrived_is_not_sent_to_the_next_address() -> None:
    async def scenario() -> None:
        names = Names(orders_test=["127.0.0.1", "127.0.0.1", "127.0.0.2"])
        async with site(answering("Content-Length: 10", b"half")) as shop, desk(resolve=names) as at:
            assert (await at.failure(Call(shop.url(host="orders.test")))).code is ErrorCode.CALL_FAILED
            assert len(shop.requests) == 1

    play(scenario)


# ---- TLS


def test_the_name_of_the_url_is_asked_for_and_checked() -> None:
    asked: list[str | None] = []

    async def scenario() -> None:
        names = Names(orders_test=["127.0.0.1"], other_test=["127.0.0.1"])
        async with (
            site(EMPTY, server_tls(asked.append)) as shop,
            desk(resolve=names, tls=client_tls()) as at,
        ):
            assert (await at.output(Call(shop.url(host="orders.test", scheme="https"))))["status"] == 200
            assert (await at.output(Call(shop.url(host="ORDERS.test.", scheme="https"))))["status"] == 200
            failure = await at.failure(Call(shop.url(host="other.test", scheme="https")))
            assert failure.code is ErrorCode.CALL_FAILED
            assert "certificate verify failed" in failure.message
            failure = await at.failure(Call(shop.url(scheme="https")))
            assert "certificate verify failed" in failure.message, "an address is not the name in the certificate"
            assert len(shop.requests) == 2

    play(scenario)
    assert asked == ["orders.test", "orders.test", "other.test", None]


def test_a_certificate_that_nobody_signed_is_not_trusted() -> None:
    async def scenario() -> None:
        names = Names(orders_test=["127.0.0.1"])
        async with site(EMPTY, server_tls()) as shop, desk(resolve=names) as at:
            failure = await at.failure(Call(shop.url(host="orders.test", scheme="https")))
            assert (failure.code, failure.retryable) == (ErrorCode.CALL_FAILED, Retryable.POLICY)
            assert "certificate verify failed" in failure.message
            assert shop.requests == []

    play(scenario)


def test_a_server_without_tls_is_no_https() -> None:
    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        async with server, desk() as at:
            port = server.sockets[0].getsockname()[1]
            failure = await at.failure(Call(f"https://127.0.0.1:{port}/"))
            assert (failure.code, failure.retryable) == (ErrorCode.CALL_FAILED, Retryable.POLICY)

    play(scenario)


def test_only_present_versions_of_tls_are_spoken() -> None:
    assert ssl.create_default_context().minimum_version >= ssl.TLSVersion.TLSv1_2


# ---- the resolver of this machine


def test_names_are_resolved_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    original = socket.getaddrinfo

    def noted(*args: object, **options: object) -> object:
        threads.append(threading.current_thread().name)
        return original(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", noted)

    async def scenario() -> None:
        async with site(EMPTY) as shop, desk(CallSettings(allow=(*LOOPBACK.allow, "::1"))) as at:
            assert (await at.output(Call(shop.url(host="localhost"))))["status"] == 200

    play(scenario)
    assert threads == ["stepwire-resolve"]


@pytest.mark.parametrize(
    ("host", "code"), [("nothing.invalid", ErrorCode.CALL_FAILED), ("a" * 64 + ".test", ErrorCode.INVALID_INPUT)]
)
def test_names_that_stand_for_nothing(host: str, code: ErrorCode) -> None:
    async def scenario() -> None:
        with pytest.raises(CallFailed) as caught:
            await Resolver()(host, 80)
        assert caught.value.failure.code is code

    play(scenario)


def test_a_lookup_that_fails_in_another_way_is_told_and_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        raise ValueError("a defect")

    async def scenario() -> None:
        resolve = Resolver()
        monkeypatch.setattr(socket, "getaddrinfo", broken)
        for _ in range(LOOKUPS_MAX + 1):
            with pytest.raises(ValueError, match="a defect"):
                await resolve("orders.test", 80)
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        for _ in range(LOOKUPS_MAX + 1):
            with pytest.raises(RuntimeError, match="no thread"):
                await resolve("orders.test", 80)

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("no thread")

    play(scenario)


def test_lookups_that_nobody_waits_for_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    began = threading.Semaphore(0)

    def hanging(*_: object, **__: object) -> object:
        began.release()
        gate.wait()
        return [(None, None, None, None, ("127.0.0.1", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", hanging)

    async def scenario() -> None:
        resolve = Resolver()
        abandoned = [asyncio.create_task(resolve("orders.test", 80)) for _ in range(LOOKUPS_MAX)]
        for _ in abandoned:
            await asyncio.to_thread(began.acquire)
        for task in abandoned:
            task.cancel()
        await asyncio.gather(*abandoned, return_exceptions=True)
        late = asyncio.create_task(resolve("orders.test", 80))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not began.acquire(blocking=False), "there are as many threads as may be"
        gate.set()
        assert await late == ["127.0.0.1"]

    play(scenario)


def test_a_lookup_outlives_its_loop_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    threads: list[threading.Thread] = []

    def hanging(*_: object, **__: object) -> object:
        threads.append(threading.current_thread())
        gate.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hanging)

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await Resolver()("orders.test", 80)

    play(scenario)
    gate.set()
    for thread in threads:
        thread.join()
    assert [thread.daemon for thread in threads] == [True]
