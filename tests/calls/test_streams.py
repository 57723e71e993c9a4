"""The life of the built-in host's streams: reports, ends that it did not ask for, and its return."""

from __future__ import annotations

import asyncio

import pytest

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import Fault, RejectReason
from stepwire.protocol.plan import CALL_STEP, Call
from stepwire_engine.calls import host
from stepwire_engine.calls.host import CallHost, CallSettings
from tests.calls.desk import RUN, Desk, FakeEngine, desk, play
from tests.calls.sites import Request, Visit, answering, holding, site


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "REDIAL_SECONDS", 0.001)


def test_it_says_who_it_is() -> None:
    async def scenario() -> None:
        async with desk(CallSettings(slots=7)) as at:
            (hello,) = at.engine.hellos
            assert (hello.service, hello.instance_id, hello.steps) == ("stepwire", "stepwire-engine", (CALL_STEP,))
            assert (hello.slots, hello.bodies, hello.flows, hello.resume) == (7, 0, (), None)

    play(scenario)


def test_it_reports_what_it_executes_at_every_heartbeat() -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        engine.heartbeat = 0.001
        built_in = CallHost(engine, CallSettings(allow=("127.0.0.1",)))
        built_in.start()
        async with site(holding()) as shop:
            await engine.until(lambda: engine.reports)
            fence = engine.execute(Call(shop.url()))
            await engine.until(lambda: engine.reports[-1].attempts)
            (attempt,) = engine.reports[-1].attempts
            assert (attempt.run_id, attempt.path, attempt.attempt, attempt.fence) == (RUN, "call", 1, fence)
            assert engine.reports[-1].free_slots == 255
            count = len(engine.reports)
            await engine.until(lambda: len(engine.reports) > count + 3)
            await built_in.stop()
            count = len(engine.frames)
        assert len(engine.frames) == count, "it is silent after its goodbye"

    play(scenario)


def test_calls_go_on_while_the_stream_is_gone_and_their_outcomes_follow() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def gated(request: Request, visit: Visit) -> None:
            await gate.wait()
            await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        async with site(gated) as shop, desk() as at:
            engine = at.engine
            fence = engine.execute(Call(shop.url()))
            await shop.asked.acquire()
            engine.close()
            await engine.until(lambda: engine.streams == 2)
            assert engine.ended == 1
            resume = engine.hellos[1].resume
            assert resume is not None
            assert [(a.path, a.attempt, a.fence) for a in resume.attempts] == [("call", 1, fence)]
            gate.set()
            await engine.until(lambda: engine.results)
            assert len(shop.requests) == 1

    play(scenario)


def test_an_outcome_that_was_not_acked_is_said_again_and_not_made_again() -> None:
    async def scenario() -> None:
        async with site(answering("Content-Length: 0")) as shop, desk() as at:
            engine = at.engine
            engine.acking = False
            first = await at.result(Call(shop.url()))
            engine.close()
            await engine.until(lambda: len(engine.results) == 2)
            assert engine.results[1] == first
            resume = engine.hellos[1].resume
            assert resume is not None and resume.first_unacked == 1
            assert [frame.position for frame in engine.frames] == [1, 1]
            assert len(shop.requests) == 1

    play(scenario)


def test_it_comes_back_when_the_engine_takes_it_again() -> None:
    async def scenario() -> None:
        async with desk() as at:
            engine = at.engine
            engine.refusal = Fault(ErrorCode.STORE_UNAVAILABLE, "no space")
            engine.close()
            await engine.until(lambda: len(engine.hellos) == 4)
            assert engine.streams == 1
            engine.refusal = None
            await engine.until(lambda: engine.streams == 2)

    play(scenario)


def test_it_is_refused_at_first_and_comes_back() -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        engine.refusal = Fault(ErrorCode.STORE_UNAVAILABLE, "no space")
        built_in = CallHost(engine, CallSettings())
        built_in.start()
        await engine.until(lambda: len(engine.hellos) == 3)
        engine.refusal = None
        await engine.until(lambda: engine.streams == 1)
        assert [hello.resume for hello in engine.hellos] == [None] * len(engine.hellos)
        await built_in.stop()

    play(scenario)


def test_a_stop_while_the_stream_is_gone_is_quiet() -> None:
    async def scenario() -> None:
        async with site(holding()) as shop:
            engine = FakeEngine()
            built_in = CallHost(engine, CallSettings(allow=("127.0.0.1",)))
            built_in.start()
            await asyncio.sleep(0)
            engine.execute(Call(shop.url()))
            await shop.asked.acquire()
            engine.refusal = Fault(ErrorCode.DRAINING, "engine is draining")
            engine.close()
            await engine.until(lambda: len(engine.hellos) == 2)
            await built_in.stop()
            assert (engine.frames, engine.streams) == ([], 1)

    play(scenario)


def test_a_draining_engine_gets_its_outcomes_and_new_calls_back() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def gated(request: Request, visit: Visit) -> None:
            await gate.wait()
            await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        async with site(gated) as shop, desk() as at:
            at.engine.execute(Call(shop.url()))
            await shop.asked.acquire()
            at.engine.drain()
            at.engine.execute(Call(shop.url()), "late")
            await at.engine.until(lambda: at.engine.rejects)
            assert [(r.path, r.reason) for r in at.engine.rejects] == [("late", RejectReason.DRAINING)]
            gate.set()
            await at.engine.until(lambda: at.engine.results)
            assert at.engine.results[0].failure is None

    play(scenario)


def test_more_calls_than_slots_are_given_back() -> None:
    async def scenario() -> None:
        async with site(holding()) as shop, desk(CallSettings(allow=("127.0.0.1",), slots=1)) as at:
            at.engine.execute(Call(shop.url()), "a")
            at.engine.execute(Call(shop.url()), "b")
            await at.engine.until(lambda: at.engine.rejects)
            assert [(r.path, r.reason) for r in at.engine.rejects] == [("b", RejectReason.NO_SLOT)]

    play(scenario)


def test_frames_of_a_stream_that_is_gone_are_ignored() -> None:
    async def scenario() -> None:
        async with site(answering("Content-Length: 0")) as shop, desk() as at:
            engine = at.engine
            engine.close()
            engine.execute(Call(shop.url()))
            await engine.until(lambda: engine.streams == 2)
            assert (await _answered(at, shop.url())) == 1

    async def _answered(at: Desk, url: str) -> int:
        await at.output(Call(url))
        return len(at.engine.results)

    play(scenario)
