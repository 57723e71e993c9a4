"""What an engine says or a defect of ours raises never ends the link's thread; a replaced host takes a new name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stepwire._transport import grpc_link, redial
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import EngineFrame, Execute, Fault, RejectReason, Welcome
from stepwire.protocol.plan import Fence, StepKind
from stepwire.protocol.wire import encode_engine_frame
from tests.transport.stand_in import Serve, linked

WELCOME = EngineFrame(number=1, welcome=Welcome(session_id="s", protocol=1))
REPLACED = EngineFrame(number=2, fault=Fault(ErrorCode.REPLACED, "replaced"))
Answer = Callable[[int], Iterator[EngineFrame]]


def saying(answer: Answer) -> Serve:
    """Say these frames on each stream."""
    return lambda number, frames, context: (data for said in answer(number) for data in encode_engine_frame(said))


def test_a_defect_in_the_handling_of_a_frame_ends_its_stream_and_not_the_thread(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redial, "QUICK_CAP", 0.05)

    def defect(frame: EngineFrame, sections: list[Any]) -> None:
        raise RuntimeError("a defect")

    with linked(saying(lambda number: iter([WELCOME])), defect) as (engine, link):
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
        with linked(saying(answer)) as (engine, link):
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
    with linked(saying(lambda number: iter([refusal]))) as (engine, link):
        assert link.refused.wait(10)
        assert len(engine.hellos) == 1


def test_whatever_ends_the_thread_says_that_this_host_serves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fatal(frame: EngineFrame, sections: list[Any]) -> None:
        raise SystemExit

    with linked(saying(lambda number: iter([WELCOME])), fatal) as (_, link):
        assert link.refused.wait(10)
    assert "it serves nothing any more" in caplog.text


def test_what_is_handed_over_is_taken_before_the_caller_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_link, "_TAKEN_SECONDS", 10.0)
    welcomed, ended = threading.Event(), threading.Event()

    def answer(number: int) -> Iterator[EngineFrame]:
        yield WELCOME
        ended.wait(10)

    with linked(saying(answer), lambda *_: welcomed.set()) as (_, link):
        try:
            assert welcomed.wait(10)
            link._port.reject("r", Execute("s", 1, Fence(1, 1), StepKind.TASK, "s"), RejectReason.NO_SLOT)
            assert link._port.session.speaks
            link._port.hand_over()
            assert not link._port.session.speaks
        finally:
            ended.set()
