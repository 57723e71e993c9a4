"""What a host's link dials instead of an engine: it says on each stream what a test wants, over real gRPC."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

import stepwire
from stepwire._transport.grpc_link import METHOD, GrpcLink
from stepwire._transport.port import SessionPort
from stepwire._transport.session import HostSession
from stepwire.protocol.frames import EngineFrame, Hello
from stepwire.protocol.wire import HostFrameDecoder

Serve = Callable[[int, Iterator[bytes], Any], Iterator[bytes]]
"""Answers one stream: its number from 1, what the host says after its Hello, and the call's context."""
OnFrame = Callable[[EngineFrame, list[Any]], None]


class StandIn:
    """Reads each stream's Hello, keeps it, and goes on as it is told."""

    def __init__(self, serve: Serve) -> None:
        self.hellos: list[Hello] = []
        self._serve = serve
        self._more = threading.Condition()
        self._server = grpc.server(ThreadPoolExecutor(8))
        service, _, method = METHOD[1:].partition("/")
        handler = grpc.stream_stream_rpc_method_handler(self._session)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _session(self, frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        frame = HostFrameDecoder().decode(next(frames))
        assert frame is not None and frame.hello is not None
        with self._more:
            self.hellos.append(frame.hello)
            number = len(self.hellos)
            self._more.notify_all()
        yield from self._serve(number, frames, context)

    def until(self, streams: int) -> list[Hello]:
        """The Hellos, once there are so many."""
        with self._more:
            assert self._more.wait_for(lambda: len(self.hellos) >= streams, 10), f"{len(self.hellos)} streams"
            return list(self.hellos)

    def close(self) -> None:
        self._server.stop(0).wait()


@contextmanager
def linked(
    serve: Serve, on_frame: OnFrame = lambda *_: None, session: HostSession | None = None
) -> Iterator[tuple[StandIn, GrpcLink]]:
    """A link that dials it; without a `session` that of a host with nothing to say."""
    engine = StandIn(serve)
    port = SessionPort(session or HostSession(stepwire.Host("h").hello()), time.monotonic)
    link = GrpcLink(engine.address, port, on_frame, lambda: None, lambda *_: None)
    link.start()
    try:
        yield engine, link
    finally:
        link.stop(5)
        engine.close()
