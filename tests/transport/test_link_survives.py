"""What an engine says or a defect of ours raises never ends the link's thread; a replaced host takes a new name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

import stepwire
from stepwire._transport import grpc_link, redial
from stepwire._transport.grpc_link import METHOD, GrpcLink
from stepwire._transport.port import SessionPort
from stepwire._transport.session import HostSession
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import EngineFrame, Execute, Fault, Hello, RejectReason, Welcome
from stepwire.protocol.plan import Fence, StepKind
from stepwire.protocol.wire import HostFrameDecoder, encode_engine_frame

WELCOME = EngineFrame(number=1, welcome=Welcome(session_id="s", protocol=1))
REPLACED = EngineFrame(number=2, fault=Fault(ErrorCode.REPLACED, "replaced"))
Answer = Callable[[int], Iterator[EngineFrame]]


class Engine:
    """Answers each stream's Hello as it is told, and keeps the Hellos."""

    def __init__(self, answer: Answer) -> None:
        self.hellos: list[Hello] = []
        self._answer = answer
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
        for said in self._answer(number):
            yield from encode_engine_frame(said)

    def until(self, streams: int) -> list[Hello]:
        with self._more:
            assert self._more.wait_for(lambda: len(self.hellos) >= streams, 10), f"{len(self.hellos)} streams"
            return list(self.hellos)

    def close(self) -> None:
        self._server.stop(0).wait()


@contextmanager
def linked(answer: Answer, on_frame: Callable[[EngineFrame, list[Any]], None]) -> Iterator[tuple[Engine, GrpcLink]]:
    engine = Engine(answer)
    session = HostSession(stepwire.Host("h").hello())
    link = GrpcLink(engine.address, SessionPort(session, time.monotonic), on_frame, lambda: None, lambda *_: None)
    link.start()
    try:
        yield engine, link
    finally:
        link.stop(5)
        engine.close()


def test_a_defect_in_the_handling_of_a_frame_ends_its_stream_and_not_the_thread(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redial, "QUICK_CAP", 0.05)

    def defect(frame: EngineFrame, sections: list[Any]) -> None:
        raise RuntimeError("a defect")

    with linked(lambda number: iter([WELCOME]), defect) as (engine, link):
        engine.until(4)
        assert not link.refused.is_set()
    assert "a defect" in caplog.text


def test_a_replaced_host_says_hello_under_a_new_name_and_offers_what_it_holds() -> None:
    hold = threading.Event()

    def answer(number: int) -> Iterator[EngineFrame]:
        yield WELCOME
        if number == 1:
            yield REPLACED
        else:
            hold.wait(10)

    try:
        with linked(answer, lambda frame, sections: None) as (engine, link):
            first, second = engine.until(2)
            assert first.instance_id != second.instance_id
            assert first.resume is None and second.resume is not None
            assert not link.refused.is_set()
            hold.set()
    finally:
        hold.set()


@pytest.mark.parametrize("code", [ErrorCode.VERSION, ErrorCode.FEATURE, ErrorCode.INVALID_NAME])
def test_a_refusal_for_good_is_not_dialled_again(code: ErrorCode) -> None:
    refusal = EngineFrame(number=1, fault=Fault(code, "no"))
    with linked(lambda number: iter([refusal]), lambda frame, sections: None) as (engine, link):
        assert link.refused.wait(10)
        assert len(engine.hellos) == 1


def test_whatever_ends_the_thread_says_that_this_host_serves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fatal(frame: EngineFrame, sections: list[Any]) -> None:
        raise SystemExit

    with linked(lambda number: iter([WELCOME]), fatal) as (_, link):
        assert link.refused.wait(10)
    assert "it serves nothing any more" in caplog.text


def test_what_is_handed_over_is_taken_before_the_caller_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_link, "_TAKEN_SECONDS", 10.0)
    welcomed, ended = threading.Event(), threading.Event()

    def answer(number: int) -> Iterator[EngineFrame]:
        yield WELCOME
        ended.wait(10)

    with linked(answer, lambda *_: welcomed.set()) as (_, link):
        try:
            assert welcomed.wait(10)
            link._port.reject("r", Execute("s", 1, Fence(1, 1), StepKind.TASK, "s"), RejectReason.NO_SLOT)
            assert link._port.session.speaks
            link._port.hand_over()
            assert not link._port.session.speaks
        finally:
            ended.set()
