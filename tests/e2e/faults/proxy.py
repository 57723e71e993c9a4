"""A TCP proxy for one link, whose faults the test makes: cut, close, hold, forget, delay, refuse.

It runs on a loop in a thread of its own. `hold` is what a network does that drops packets for a while: bytes arrive
later, because TCP sends them again. `forget` is a middle box that lost its tables: both ends keep a connection over
which nothing will ever come again, and dial anew without trouble.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
_CALL_SECONDS = 10.0
_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time: closing sends RST."""


class Way(enum.Enum):
    """Where bytes flow."""

    UP = "from who dialled"
    DOWN = "to who dialled"


BOTH = (Way.UP, Way.DOWN)


class _Connection:
    """One accepted connection and the one it was passed on to."""

    def __init__(self, proxy: Proxy, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._near = near
        self._far = far
        self.forgotten = False

    async def pump(self, way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Pass bytes on until one end is closed. What arrives on a forgotten connection is gone, ends included."""
        while True:
            try:
                data = await source.read(_BYTES)
            except OSError:
                data = b""
            if not data and way is Way.DOWN:
                self._proxy.left.set()
            await self._proxy._passable(way)
            if not data:
                if not self.forgotten:
                    sink.close()
                return
            if not self.forgotten:
                sink.write(data)
                self._proxy.passed[way] += len(data)
                await sink.drain()

    def end(self, *, reset: bool) -> None:
        for writer in (self._near, self._far):
            sock = writer.get_extra_info("socket")
            if reset and sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
            else:
                writer.close()


class Proxy:
    """Listens on a free port and passes connections on to `target`.

    Attributes:
        dials: When each connection was accepted, in seconds on the monotonic clock.
        passed: Bytes that were passed on, by direction.
        left: Set when the target ended a connection, whether or not that was passed on.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self.dials: list[float] = []
        self.passed = {Way.UP: 0, Way.DOWN: 0}
        self.left = threading.Event()
        self._delay = 0.0
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self._open = {way: asyncio.Event() for way in Way}
        self.port = 0
        self.heal()
        self.accept()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    # ---- faults

    def cut(self) -> None:
        """Reset every connection, at both ends."""
        self._do(self._end(reset=True))

    def close_streams(self) -> None:
        """Close every connection in good order."""
        self._do(self._end(reset=False))

    def hold(self, *ways: Way) -> None:
        """Nothing passes these ways (none named: both) until `heal`; then everything that waited does."""
        self._on_loop(lambda: [self._open[way].clear() for way in ways or BOTH])

    def heal(self) -> None:
        """Pass on what was held, without delay from now on."""

        def heal() -> None:
            self._delay = 0.0
            for event in self._open.values():
                event.set()

        self._on_loop(heal)

    def forget(self) -> None:
        """Nothing passes on the connections that exist, for ever; neither end is told."""

        def forget() -> None:
            for connection in self._connections:
                connection.forgotten = True

        self._on_loop(forget)

    def delay(self, seconds: float) -> None:
        """Every piece of data waits for so long before it is passed on."""
        self._on_loop(lambda: setattr(self, "_delay", seconds))

    def refuse(self) -> None:
        """Dials are refused, as by a closed port."""
        self._do(self._refuse())

    def accept(self) -> None:
        """Dials are accepted again, on the same port."""
        self._do(self._accept())

    # ---- life

    def close(self) -> None:
        """End everything."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        await self._refuse()
        for event in self._open.values():
            event.set()
        await self._end(reset=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CALL_SECONDS)

    async def _accept(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _end(self, *, reset: bool) -> None:
        for connection in list(self._connections):
            connection.end(reset=reset)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.dials.append(time.monotonic())
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            host, _, port = self._target.rpartition(":")
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(self, writer, far_writer)
        self._connections.add(connection)
        up = asyncio.create_task(connection.pump(Way.UP, reader, far_writer))
        down = asyncio.create_task(connection.pump(Way.DOWN, far_reader, writer))
        try:
            await asyncio.wait((up, down))
        finally:
            up.cancel()
            down.cancel()
            self._connections.discard(connection)
            connection.end(reset=False)
            self._tasks.discard(task)

    async def _passable(self, way: Way) -> None:
        if self._delay:
            await asyncio.sleep(self._delay)  # gate: a slow link is what is tested
        await self._open[way].wait()

    # ---- from the test's thread

    def _on_loop(self, change: Callable[[], object]) -> None:
        async def changed() -> None:
            change()

        self._do(changed())

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(_CALL_SECONDS)


@contextmanager
def proxied(target: str) -> Iterator[Proxy]:
    """A proxy in front of `target`, host:port."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
