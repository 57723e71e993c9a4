"""Every gRPC option of both sides, by its effect: gRPC ignores names that it does not know, and tells nobody.

The times of the production tables are too long for a test, so they are shortened here, by name: a name that is not in
the table fails the test, and one that gRPC does not know has no effect. Most effects are shown against the same
table without the option.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import pytest

import stepwire
from stepwire._transport import grpc_link, redial
from stepwire._transport.port import SessionPort
from stepwire._transport.session import HostSession
from stepwire.protocol import limits
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.transport import server as engine_server
from tests.e2e.faults.proxy import Proxy, Way, proxied

Options = Sequence[tuple[str, int]]

SERVER: Options = engine_server.options(limits.PAYLOAD_BYTES_MAX)
CLIENT: Options = grpc_link.OPTIONS
PROMPT = 10.0
"""Within this time happens what is to happen after some hundred milliseconds."""
SLOW = 1.5
"""Within this time it does not, where only gRPC's default is left."""
HELLO = b"hello"
PING_BYTES = 17
RESET = struct.pack("ii", 1, 0)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, SETTINGS, GOAWAY = 1, 4, 7


NO_PROBES = ("grpc.http2.bdp_probe", 0)
"""gRPC's own probes of a link are pings too, with the timeout of pings: one on its way would count as the host's."""


def shortened(table: Options, changes: Mapping[str, int], *, without: str = "") -> Options:
    """The production table with other values, and perhaps without one option."""
    names = dict(table)
    unknown = ({without} if without else set()) | changes.keys()
    assert unknown <= names.keys(), f"not in the table: {sorted(unknown - names.keys())}"
    return [*((name, value) for name, value in (names | changes).items() if name != without), NO_PROBES]


class Peer:
    """A server with a stream that stays open, and one call that echoes as many bytes as it is told."""

    def __init__(self, options: Options) -> None:
        self.opened = threading.Semaphore(0)
        self.ended = threading.Event()
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(8)
        self._server = grpc.server(self._pool, options=options)
        handlers = {
            "Stay": grpc.stream_stream_rpc_method_handler(self._stay),
            "Echo": grpc.unary_unary_rpc_method_handler(lambda data, context: bytes(int(data))),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Peer", handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _stay(self, frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        context.add_callback(self.ended.set)
        next(frames)
        self.opened.release()
        yield HELLO
        self._over.wait()

    def close(self) -> None:
        self._over.set()
        self._server.stop(0).wait()
        self._pool.shutdown()


class Stream:
    """An open stream to a Peer."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._over = threading.Event()
        self.ended = threading.Event()
        self.error: Any = None
        self._call: Any = channel.stream_stream("/test.Peer/Stay")(self._hellos())
        assert next(self._call) == HELLO
        threading.Thread(target=self._read, daemon=True).start()

    def _hellos(self) -> Iterator[bytes]:
        yield HELLO
        self._over.wait()

    def _read(self) -> None:
        try:
            for _ in self._call:
                pass
        except grpc.RpcError as error:
            self.error = error
        self.ended.set()

    def close(self) -> None:
        self._over.set()
        self._call.cancel()
        assert self.ended.wait(10)


@contextmanager
def linked(server: Options, client: Options) -> Iterator[tuple[Peer, Proxy, grpc.Channel]]:
    """A server, a proxy and a channel through it."""
    with ExitStack() as stack:
        peer = Peer(server)
        stack.callback(peer.close)
        proxy = stack.enter_context(proxied(peer.address))
        yield peer, proxy, stack.enter_context(grpc.insecure_channel(proxy.address, options=client))


@contextmanager
def streaming(server: Options, client: Options) -> Iterator[tuple[Peer, Proxy, Stream]]:
    """The same with a stream that is open and idle."""
    with linked(server, client) as (peer, proxy, channel):
        stream = Stream(channel)
        try:
            yield peer, proxy, stream
        finally:
            stream.close()


# ---- watched at the same time: nearly all of the time nothing happens

Watch = Callable[[str], Any]
"""Makes its connections without one option of the tables ("": with all), or as one of IDLE; says what happened."""


class Watching:
    """All watches of this module, with everything that is left out in turn."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._seen = {(watch, without): pool.submit(watch, without) for watch in WATCHES for without in WATCHES[watch]}

    def __call__(self, watch: Watch, without: str) -> Any:
        """What it saw."""
        return self._seen[watch, without].result()


@pytest.fixture(scope="module")
def watching() -> Iterator[Watching]:
    with ThreadPoolExecutor(sum(map(len, WATCHES.values()))) as pool:
        yield Watching(pool)


# ---- dead peers

QUICK_SERVER = {
    "grpc.keepalive_time_ms": 200,
    "grpc.keepalive_timeout_ms": 200,
    "grpc.http2.ping_timeout_ms": 200,
    "grpc.http2.min_ping_interval_without_data_ms": 50,
}
QUICK_CLIENT = {"grpc.keepalive_time_ms": 200, "grpc.keepalive_timeout_ms": 200, "grpc.http2.ping_timeout_ms": 200}
PATIENT: Options = (NO_PROBES,)
"""A peer that sends no pings itself."""
QUIET_SERVER = {"grpc.keepalive_time_ms": 60_000}


PINGS = ("", "grpc.keepalive_time_ms", "grpc.http2.ping_timeout_ms")
WITHOUT_CALLS = ("", "grpc.keepalive_permit_without_calls")


def a_dead_peer(without: str) -> bool:
    with streaming(shortened(SERVER, QUICK_SERVER, without=without), PATIENT) as (peer, proxy, _):
        proxy.hold()
        return peer.ended.wait(SLOW if without else PROMPT)


@pytest.mark.parametrize("without", PINGS)
def test_the_engine_drops_a_peer_that_answers_nothing(without: str, watching: Watching) -> None:
    assert watching(a_dead_peer, without) is (not without)


def a_dead_engine(without: str) -> bool:
    server = shortened(SERVER, QUIET_SERVER)
    with streaming(server, shortened(CLIENT, QUICK_CLIENT, without=without)) as (_, proxy, stream):
        proxy.hold()
        return stream.ended.wait(SLOW if without else PROMPT)


@pytest.mark.parametrize("without", PINGS)
def test_a_host_drops_an_engine_that_answers_nothing(without: str, watching: Watching) -> None:
    assert watching(a_dead_engine, without) is (not without)


def a_dead_connection(without: str) -> bool:
    with linked(shortened(SERVER, QUICK_SERVER, without=without), PATIENT) as (_, proxy, channel):
        assert channel.unary_unary("/test.Peer/Echo")(b"1") == bytes(1)
        proxy.forget()
        return proxy.left.wait(SLOW if without else PROMPT)


@pytest.mark.parametrize("without", WITHOUT_CALLS)
def test_the_engine_drops_a_dead_connection_without_calls(without: str, watching: Watching) -> None:
    assert watching(a_dead_connection, without) is (not without)


# ---- healthy peers

IDLE_SECONDS = 6.0
EAGER_CLIENT = QUICK_CLIENT | {"grpc.keepalive_time_ms": 1_000, "grpc.keepalive_timeout_ms": 10_000}
"""A host that pings as often as gRPC lets it: once a second."""
ALLOWED = {"grpc.http2.min_ping_interval_without_data_ms": 50}
TOO_OFTEN = {"grpc.http2.min_ping_interval_without_data_ms": 60_000}
IDLE: dict[str, tuple[Options, Options]] = {
    "healthy": (shortened(SERVER, QUIET_SERVER | ALLOWED), shortened(CLIENT, EAGER_CLIENT)),
    "by default": (
        shortened(SERVER, QUIET_SERVER, without="grpc.http2.min_ping_interval_without_data_ms"),
        shortened(CLIENT, EAGER_CLIENT),
    ),
    "too often": (shortened(SERVER, QUIET_SERVER | TOO_OFTEN), shortened(CLIENT, EAGER_CLIENT)),
    "never strikes": (
        shortened(SERVER, QUIET_SERVER | TOO_OFTEN | {"grpc.http2.max_ping_strikes": 0}),
        shortened(CLIENT, EAGER_CLIENT),
    ),
    "two pings": (
        shortened(SERVER, QUIET_SERVER | ALLOWED),
        shortened(CLIENT, EAGER_CLIENT, without="grpc.http2.max_pings_without_data"),
    ),
}
"""Idle streams: how the engine serves, and how the host dials."""


def idle(how: str) -> tuple[bool, float]:
    """Whether an idle stream is still there after some seconds, and how many pings the host sent."""
    with streaming(*IDLE[how]) as (_, proxy, stream):
        before = proxy.passed[Way.UP]
        alive = not stream.ended.wait(IDLE_SECONDS)
        return alive, (proxy.passed[Way.UP] - before) / PING_BYTES


def test_a_healthy_idle_stream_outlives_its_pings(watching: Watching) -> None:
    assert watching(idle, "healthy")[0]


def test_by_default_grpc_would_cut_it(watching: Watching) -> None:
    assert not watching(idle, "by default")[0]


def test_strikes_are_counted_as_the_table_says(watching: Watching) -> None:
    assert not watching(idle, "too often")[0]
    assert watching(idle, "never strikes")[0], "0 is: never"


def test_a_host_goes_on_pinging_though_it_has_nothing_to_say(watching: Watching) -> None:
    assert watching(idle, "two pings")[1] < 4.5 < watching(idle, "healthy")[1]


def test_the_host_pings_more_slowly_than_the_engine_allows() -> None:
    assert dict(CLIENT)["grpc.keepalive_time_ms"] >= 2 * dict(SERVER)["grpc.http2.min_ping_interval_without_data_ms"]


def test_a_link_that_died_is_noticed_before_the_engine_gives_the_host_up() -> None:
    client, core = dict(CLIENT), CoreConfig()
    noticed = (client["grpc.keepalive_time_ms"] + client["grpc.http2.ping_timeout_ms"]) / 1000 + redial.QUICK_CAP
    # It may have been heard last one heartbeat before the link died.
    assert noticed < core.silence_timeout + core.reconnect_grace - core.heartbeat_interval
    assert client["grpc.min_reconnect_backoff_ms"] / 1000 + redial.QUICK_CAP < core.reconnect_grace


def test_the_engines_transport_is_the_second_line_only() -> None:
    engine, core = dict(SERVER), CoreConfig()
    dropped = (engine["grpc.keepalive_time_ms"] + engine["grpc.http2.ping_timeout_ms"]) / 1000
    assert dropped > core.silence_timeout + core.reconnect_grace


# ---- sizes, streams, handshakes, ports, dials


@pytest.mark.parametrize("name", ["grpc.max_receive_message_length", "grpc.max_send_message_length"])
@pytest.mark.parametrize("side", ["engine", "host"])
def test_the_sizes_of_messages_are_bounded_by_these_options(name: str, side: str) -> None:
    server = shortened(SERVER, {name: 1000} if side == "engine" else {})
    client = shortened(CLIENT, {name: 1000} if side == "host" else {})
    sends = name == "grpc.max_send_message_length"
    large_answer = (side == "engine") is sends
    with linked(server, client) as (_, _, channel):
        echo = channel.unary_unary("/test.Peer/Echo")
        with pytest.raises(grpc.RpcError) as refused:
            echo(b"2000" if large_answer else b"1" * 2000, timeout=10)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_connection_has_so_many_streams_and_no_more() -> None:
    server = shortened(SERVER, {"grpc.max_concurrent_streams": 1})
    with linked(server, CLIENT) as (peer, _, channel):
        first = Stream(channel)
        assert peer.opened.acquire(timeout=10)
        second = channel.unary_unary("/test.Peer/Echo").future(b"1")
        with pytest.raises(grpc.FutureTimeoutError):
            second.result(timeout=0.3)
        first.close()
        assert second.result(timeout=10) == bytes(1)


def test_who_connects_and_says_nothing_is_dropped() -> None:
    peer = Peer(shortened(SERVER, {"grpc.server_handshake_timeout_ms": 300}))
    try:
        host, _, port = peer.address.partition(":")
        with socket.create_connection((host, int(port)), timeout=PROMPT) as silent:
            while silent.recv(4096):
                pass  # The server's settings, and then the end.
    finally:
        peer.close()


@pytest.mark.parametrize("without", ["", "grpc.so_reuseport"])
def test_two_servers_share_a_port_only_where_nobody_forbids_it(without: str) -> None:
    first, second = (grpc.server(ThreadPoolExecutor(1), options=shortened(SERVER, {}, without=without)) for _ in "12")
    port = first.add_insecure_port("127.0.0.1:0")
    try:
        if without:
            assert second.add_insecure_port(f"127.0.0.1:{port}") == port
        else:
            with pytest.raises(RuntimeError, match="Failed to bind"):
                second.add_insecure_port(f"127.0.0.1:{port}")
    finally:
        first.stop(0)
        second.stop(0)


BACKOFF = ("", "grpc.min_reconnect_backoff_ms")
POOL = ("", "grpc.use_local_subchannel_pool")
RETRIES = ("", "grpc.enable_retries")


def an_unanswered_dial(without: str) -> bool:
    """A listener that accepts nothing: the connection stands, and HTTP/2 never begins."""
    client = shortened(CLIENT, {"grpc.min_reconnect_backoff_ms": 300}, without=without)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        with grpc.insecure_channel(f"127.0.0.1:{mute.getsockname()[1]}", options=client) as channel:
            call = channel.unary_unary("/test.Peer/Echo").future(b"1")
            given_up = threading.Event()
            call.add_done_callback(lambda _: given_up.set())
            ended = given_up.wait(SLOW if without else PROMPT)
            call.cancel()
            return ended


@pytest.mark.parametrize("without", BACKOFF)
def test_a_dial_that_nobody_answers_is_given_up(without: str, watching: Watching) -> None:
    assert watching(an_unanswered_dial, without) is (not without)


def three_dials(without: str) -> int:
    """To an address that refuses: with a shared subchannel the second dial only waits for the backoff of the first."""
    client = shortened(CLIENT, {}, without=without)
    dials = 0
    with socket.create_server(("127.0.0.1", 0)) as slamming:
        slamming.settimeout(1.0)
        address = f"127.0.0.1:{slamming.getsockname()[1]}"
        with ExitStack() as channels:
            for _ in range(3):
                channel = channels.enter_context(grpc.insecure_channel(address, options=client))
                call = channel.unary_unary("/test.Peer/Echo").future(b"1")
                try:
                    connection, _ = slamming.accept()
                except TimeoutError:
                    call.cancel()
                    continue
                dials += 1
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                connection.close()
                with pytest.raises(grpc.RpcError):
                    call.result(timeout=10)
    return dials


@pytest.mark.parametrize("without", POOL)
def test_every_dial_is_one(without: str, watching: Watching) -> None:
    assert (watching(three_dials, without) == 3) is (not without)


def test_a_stream_that_an_ending_engine_never_took_is_given_up(watching: Watching) -> None:
    """Otherwise gRPC tries it again itself, and waits for as long as the connection stays."""
    assert watching(never_taken, "") is grpc.StatusCode.UNAVAILABLE
    assert watching(never_taken, "grpc.enable_retries") is grpc.StatusCode.DEADLINE_EXCEEDED


def never_taken(without: str) -> grpc.StatusCode:
    """How a stream ends whose server says that it is going away and took no stream (RFC 9113 6.8), and stays."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as reader:
            reader.read(len(PREFACE))
            connection.sendall(frame(SETTINGS))
            while head := reader.read(9):
                reader.read(int.from_bytes(head[:3], "big"))
                if head[3] == HEADERS:
                    connection.sendall(frame(GOAWAY, bytes(8)))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        client = shortened(CLIENT, {}, without=without)
        with grpc.insecure_channel(f"127.0.0.1:{listener.getsockname()[1]}", options=client) as channel:
            with pytest.raises(grpc.RpcError) as ended:
                list(channel.stream_stream("/test.Peer/Stay")(iter([HELLO]), timeout=1.0))
        thread.join(10)
    return ended.value.code()


WATCHES: dict[Watch, Sequence[str]] = {
    a_dead_peer: PINGS,
    a_dead_engine: PINGS,
    a_dead_connection: WITHOUT_CALLS,
    idle: tuple(IDLE),
    an_unanswered_dial: BACKOFF,
    three_dials: POOL,
    never_taken: RETRIES,
}


def frame(kind: int, payload: bytes = b"") -> bytes:
    """One frame of HTTP/2 about the connection, without flags."""
    return len(payload).to_bytes(3, "big") + bytes([kind]) + bytes(5) + payload


# ---- the tables are those in use


def test_the_link_dials_with_this_table(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[Any] = []
    dial = grpc.insecure_channel

    def noted(address: str, options: Any = None) -> grpc.Channel:
        dialled.append(options)
        return dial(address, options=options)

    monkeypatch.setattr(grpc, "insecure_channel", noted)
    session = HostSession(stepwire.Host("h").hello())
    lost = threading.Event()
    link = grpc_link.GrpcLink(
        "127.0.0.1:1", SessionPort(session, time.monotonic), lambda *_: None, lost.set, lambda *_: None
    )
    link.start()
    assert lost.wait(10)
    link.stop(5)
    assert all(options is grpc_link.OPTIONS for options in dialled)


def test_the_engine_serves_with_this_table(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []
    serve = grpc.aio.server

    def noted(**how: Any) -> grpc.aio.Server:
        served.append(how["options"])
        return serve(**how)

    async def main() -> None:
        engine = engine_server.GrpcServer("127.0.0.1", 0, [])
        await engine.start()
        await engine.stop(0)

    monkeypatch.setattr(grpc.aio, "server", noted)
    asyncio.run(main())
    assert served == [SERVER]
