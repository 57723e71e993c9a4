"""The host's link to an engine that accepts its stream and then says nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import stepwire
from stepwire._transport import grpc_link
from stepwire._transport.port import SessionPort
from stepwire._transport.session import HostSession
from stepwire.protocol.wire import HostFrameDecoder


def test_a_stream_without_welcome_is_given_up_and_dialled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_link, "_WELCOME_SECONDS", 0.2)
    hellos: list[str] = []
    twice = threading.Event()

    def silent(frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        frame = HostFrameDecoder().decode(next(frames))
        assert frame is not None and frame.hello is not None
        hellos.append(frame.hello.instance_id)
        if len(hellos) == 2:
            twice.set()
        over = threading.Event()
        context.add_callback(over.set)
        over.wait(10)
        return iter(())

    server = grpc.server(ThreadPoolExecutor(4))
    handler = grpc.method_handlers_generic_handler(
        "stepwire.v1.HostService", {"Session": grpc.stream_stream_rpc_method_handler(silent)}
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    session = HostSession(stepwire.Host("h").hello())
    link = grpc_link.GrpcLink(
        f"127.0.0.1:{port}",
        SessionPort(session, time.monotonic),
        lambda frame, sections: None,
        lambda: None,
        lambda *_: None,
    )
    link.start()
    try:
        assert twice.wait(15), "the silent stream was kept"
        assert len(set(hellos)) == 1, "the same instance dialled again"
    finally:
        link.stop(1.0)
        server.stop(0)
