"""The session inside one process: frames travel as values, one loop callback each (DESIGN 6).

`stepwire.testing` joins a host to an engine in the same loop with it; nothing but gRPC and bytes is left out.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Protocol

from stepwire._transport.port import SessionPort
from stepwire.errors import ProtocolError
from stepwire.protocol.frames import EngineFrame, Fault, Hello, HostFrame


class Engine(Protocol):
    """What an engine in the same process offers; streams are named by what `connect` returned."""

    def connect(self, hello: Hello, port: LocalLink) -> Any:
        """Begin a stream with its Hello. Returns the stream, or the Fault it is refused with."""

    def receive(self, stream: Any, frame: HostFrame) -> None: ...

    def disconnected(self, stream: Any) -> None: ...


class LocalLink:
    """One stream as two queues of loop callbacks."""

    def __init__(
        self,
        engine: Engine,
        port: SessionPort,
        loop: asyncio.AbstractEventLoop,
        on_frame: Callable[[EngineFrame, list[Any]], None],
    ) -> None:
        self._engine = engine
        self._port = port
        self._loop = loop
        self._on_frame = on_frame
        self._stream: Any = None
        self._streams = 0
        self._lock = threading.Lock()
        self._open = False
        self._sending = False
        self.in_flight = 0
        port.bell = self._ring

    def start(self) -> None:
        """Dial."""
        self._streams += 1
        self._port.connect()
        hello = self._port.take_frame()
        assert hello is not None and hello.hello is not None
        stream = self._engine.connect(hello.hello, self)
        if isinstance(stream, Fault):
            raise ProtocolError(f"the engine refused this host: {stream.message}")
        self._stream = stream
        self._open = True

    def cut(self) -> None:
        """End the stream as a broken network would: nothing in flight arrives."""
        self._open = False
        self._engine.disconnected(self._stream)
        self._port.disconnect()

    def _count(self, more: int) -> None:
        with self._lock:
            self.in_flight += more

    # ---- engine to host: the engine's Port

    def send(self, frame: EngineFrame) -> None:
        """The engine sends a frame."""
        self._count(1)
        self._loop.call_soon(self._deliver, frame, self._streams)

    def close(self) -> None:
        """The engine ends the stream."""
        self._loop.call_soon(self._closed, self._streams)

    def _deliver(self, frame: EngineFrame, stream: int) -> None:
        self._count(-1)
        if self._open and stream == self._streams:
            self._on_frame(frame, self._port.receive(frame))
            self._ring()

    def _closed(self, stream: int) -> None:
        if self._open and stream == self._streams:
            self.cut()

    # ---- host to engine

    def _ring(self) -> None:
        # Rung by the loop and by threads of sync steps.
        with self._lock:
            if not self._open or self._sending:
                return
            self._sending = True
        self._count(1)
        self._loop.call_soon_threadsafe(self._send)

    def _send(self) -> None:
        self._sending = False
        self._count(-1)
        while self._open and (frame := self._port.take_frame()) is not None:
            self._engine.receive(self._stream, frame)
