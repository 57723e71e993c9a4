"""Who may connect while the engine drains, and what ends the wait (MISSION P17)."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import AttemptInProgress, Fault, HostSection, LiveBody, Result, ResumeState
from stepwire.protocol.payload import Payload
from stepwire_engine.core.refusal import CallRefused
from tests.scheduler.desk import HELLO, Desk, play, turns


def test_a_host_that_was_cut_returns_and_ends_the_wait_a_stranger_does_not() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        run_id = await desk.start()
        fence = host.plan_closure(run_id)
        await desk.driver.settled()
        draining = asyncio.create_task(desk.driver.drain(60.0))
        await turns()
        desk.driver.disconnected(host.attached)
        stranger = desk.driver.connect(msgspec.structs.replace(HELLO, instance_id="i2"), host)
        assert isinstance(stranger, Fault) and stranger.code is ErrorCode.DRAINING

        held = ResumeState((LiveBody(run_id, fence, 0, 2),), (AttemptInProgress(run_id, "reserve", 1, fence, 0.1),), 2)
        again = await desk.host(msgspec.structs.replace(HELLO, resume=held))
        assert again.frames[0].welcome is not None and again.frames[0].drain is not None and not draining.done()
        again.position = 1
        again.say(HostSection(run_id, results=[Result("reserve", 1, fence, Payload(b"1"))]))
        await draining
        await desk.driver.stop()
        assert again.acked == again.position

    play(scenario)


def test_a_stopping_engine_takes_nobody_back() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        await desk.driver.stop()
        desk.store.accepting = False  # As a store that was closed; it is not full for that.
        again = desk.driver.connect(HELLO, host)
        assert isinstance(again, Fault) and again.code is ErrorCode.DRAINING

    play(scenario)


def test_a_client_is_told_when_to_try_again() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.driver.drain(60.0)
        for _ in range(2):
            with pytest.raises(CallRefused, match="engine is draining") as refused:
                await desk.start()
            assert (refused.value.code, refused.value.retry_after) == (ErrorCode.DRAINING, 1.0)
            await desk.driver.stop()

    play(scenario)


def test_without_attempts_there_is_nothing_to_wait_for() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        await desk.start()
        await asyncio.wait_for(desk.driver.drain(60.0), 5)
        assert host.frames[-1].drain is not None

    play(scenario)
