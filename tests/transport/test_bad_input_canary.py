"""No peer sees the text of an exception of the engine: not in a status, not in trailers, not in a frame.

A secret is raised in every method that a call or a stream reaches, one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from stepwire.protocol.frames import HostFrame, Report
from stepwire.protocol.wire import HostFrameDecoder
from stepwire.v1 import plan_pb2
from stepwire.v1 import run_service_pb2 as pb
from stepwire_engine import telemetry
from stepwire_engine.transport import host_service, run_service
from tests.transport.bench import REF
from tests.transport.whole_engine import Answer, WholeEngine, payload, whole_engine, with_instance

SECRET = "postgres://user:hunter2@db/x"
INTERNAL = f"internal error (ref {REF})"


def explode(*args: Any, **kwargs: Any) -> Any:
    raise ValueError(SECRET)


async def explode_later(*args: Any, **kwargs: Any) -> Any:
    raise ValueError(SECRET)


def check(answer: Answer, caplog: pytest.LogCaptureFixture) -> None:
    """The peer knows a reference, the log knows what it stands for."""
    assert (answer.status, answer.code, answer.message) == (grpc.StatusCode.INTERNAL, "internal", INTERNAL)
    for text in ("postgres", "hunter2", "ValueError", "Traceback"):
        assert text not in answer.message and text not in answer.everything
    assert SECRET in caplog.text and REF in caplog.text


def play(scenario: Callable[[WholeEngine], Awaitable[None]]) -> None:
    async def main() -> None:
        async with whole_engine() as engine:
            await scenario(engine)
            await engine.check_serves()

    asyncio.run(main())


EVENT = pb.SendEventRequest(event=plan_pb2.Event(name="paid", data=payload(b"1")))
CALLS: dict[str, tuple[str, Message]] = {
    "Start": ("start", pb.StartRequest(flow="checkout")),
    "StartMany": ("start_many", pb.StartManyRequest(runs=[pb.StartRequest(flow="checkout")])),
    "Get": ("view", pb.GetRequest(run_id="r")),
    "Explain": ("explain", pb.ExplainRequest(run_id="r")),
    "List": ("list_runs", pb.ListRequest()),
    "Logs": ("logs", pb.LogsRequest(run_id="r")),
    "Resume": ("resume", pb.ResumeRequest(run_id="r")),
    "Cancel": ("cancel", pb.CancelRequest(run_id="r")),
    "SendEvent": ("send_event", EVENT),
    "Watch": ("view", pb.WatchRequest(run_id="r")),
    "Await": ("view", pb.AwaitRequest(run_ids=["r"])),
    "AwaitOne": ("view", pb.AwaitOneRequest(run_id="r")),
    "StartAndAwait": ("start", pb.StartAndAwaitRequest(start=pb.StartRequest(flow="checkout"))),
}
"""Every call, and what it asks of the engine."""


def test_every_call_is_in_the_table() -> None:
    service = pb.DESCRIPTOR.services_by_name["RunService"]
    assert CALLS.keys() == {method.name for method in service.methods} == set(telemetry.METHODS)


@pytest.mark.parametrize("method", CALLS)
def test_an_exception_behind_a_call_stays_inside(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(engine: WholeEngine) -> None:
        asks, request = CALLS[method]
        with monkeypatch.context() as patch:
            patch.setattr(engine.driver.runs, asks, explode_later)
            check(await engine.refusal(method, request), caplog)

    play(scenario)


@pytest.mark.parametrize("function", ["_parsed", "_serialized"])
@pytest.mark.parametrize("method", ["List", "Watch", "Await", "AwaitOne", "StartAndAwait"])
def test_an_exception_in_the_mapping_of_a_call_stays_inside(
    method: str, function: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(engine: WholeEngine) -> None:
        host = engine.host()
        await host.greet()
        run_id = await engine.finished_run(host, key="k")
        known = pb.StartRequest(flow="checkout", id="k", input=payload(b"1"))
        requests: dict[str, Message] = {
            "List": pb.ListRequest(),
            "Watch": pb.WatchRequest(run_id=run_id),
            "Await": pb.AwaitRequest(run_ids=[run_id]),
            "AwaitOne": pb.AwaitOneRequest(run_id=run_id),
            "StartAndAwait": pb.StartAndAwaitRequest(start=known),
        }
        with monkeypatch.context() as patch:
            patch.setattr(run_service, function, explode)
            check(await engine.refusal(method, requests[method]), caplog)

    play(scenario)


@pytest.mark.parametrize(("method", "asks"), [("Watch", "changes"), ("Await", "ends"), ("AwaitOne", "ends")])
def test_an_exception_around_a_watch_stays_inside(
    method: str, asks: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(engine: WholeEngine) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(engine.driver.runs, asks, explode)
            check(await engine.refusal(method, CALLS[method][1]), caplog)

    play(scenario)


def test_a_call_is_answered_even_if_it_cannot_be_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(engine: WholeEngine) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(engine.calls, "_answered", explode)
            assert await engine.call("List", pb.ListRequest()) == b""
            answer = await engine.refusal("Get", pb.GetRequest(run_id="r"))
            assert answer.code == "run_not_found" and SECRET not in answer.everything
        assert SECRET in caplog.text

    play(scenario)


async def ended_with(engine: WholeEngine, *frames: HostFrame, greet: bool = True) -> Answer:
    host = engine.host(with_instance("bad", flows=()))
    if greet:
        await host.greet()
    for frame in frames or (HostFrame(hello=host.hello),):
        await host.send(frame)
    return await engine.ended(host)


@pytest.mark.parametrize("asks", ["connect", "receive"])
def test_an_exception_behind_a_stream_stays_inside(
    asks: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(engine: WholeEngine) -> None:
        host = engine.host(with_instance("bad", flows=()))
        if asks == "receive":
            await host.greet()
        with monkeypatch.context() as patch:
            patch.setattr(engine.driver, asks, explode)
            await host.send(HostFrame(hello=host.hello) if asks == "connect" else HostFrame(report=Report(1)))
            check(await engine.ended(host), caplog)

    play(scenario)


def test_an_exception_while_a_stream_is_given_up_stays_inside(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(engine: WholeEngine) -> None:
        host = engine.host(with_instance("bad", flows=()))
        await host.greet()
        with monkeypatch.context() as patch:
            patch.setattr(engine.driver, "disconnected", explode)
            await host.call.done_writing()
            check(await engine.ended(host), caplog)

    play(scenario)


def test_an_exception_in_the_decoder_of_frames_stays_inside(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(engine: WholeEngine) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(HostFrameDecoder, "decode", explode)
            check(await ended_with(engine, greet=False), caplog)

    play(scenario)


def test_an_exception_in_the_encoder_of_frames_stays_inside(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(engine: WholeEngine) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(host_service, "encode_engine_frame", explode)
            check(await ended_with(engine, greet=False), caplog)

    play(scenario)


@pytest.mark.parametrize("part", ["section", "foreign"])
def test_an_exception_of_the_core_about_a_frame_stays_inside(
    part: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One about a run in memory pauses that run, the stream stays; one about nothing in memory ends the stream."""

    async def scenario(engine: WholeEngine) -> None:
        host = engine.host()
        await host.greet()
        run_id = await engine.start()
        _, advance = await host.advance()
        with monkeypatch.context() as patch:
            patch.setattr(engine.driver.core._intake, part, explode)
            await host.plan_one_step(run_id if part == "section" else "nobody", advance.fence)
            if part == "foreign":
                check(await engine.ended(host), caplog)
                return
            await host.until_acked()
        view = pb.GetResponse.FromString(await engine.call("Get", pb.GetRequest(run_id=run_id))).run
        assert SECRET not in repr(view) and SECRET in caplog.text

    play(scenario)
