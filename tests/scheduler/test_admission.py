"""What clients may ask for at once is bounded; beyond it they are told when to try again (DESIGN 7)."""

from __future__ import annotations

import asyncio

import pytest

from stepwire.protocol.failure import ErrorCode
from stepwire_engine.core.refusal import RETRY_BUSY_SECONDS, CallRefused
from stepwire_engine.scheduler.runs import RunBounds
from tests.scheduler.desk import INPUT, Desk, play, turns


async def refused(desk: Desk) -> CallRefused:
    with pytest.raises(CallRefused) as error:
        await desk.driver.runs.start("checkout", INPUT, "")
    return error.value


def test_a_start_beyond_the_runs_in_memory_is_told_when_to_try_again() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.host()
        await desk.start()
        error = await refused(desk)
        assert (error.code, error.retry_after) == (ErrorCode.LIMIT_EXCEEDED, RETRY_BUSY_SECONDS)
        assert "runs_in_memory_max" in error.message

    play(scenario, RunBounds(runs_in_memory_max=1))


def test_while_the_store_has_too_much_to_write_nothing_more_is_accepted() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.host()
        desk.store.gated = True
        waiting = [asyncio.create_task(desk.driver.runs.start("checkout", INPUT, "")) for _ in range(3)]
        await turns()
        error = await refused(desk)
        assert (error.code, error.retry_after) == (ErrorCode.LIMIT_EXCEEDED, RETRY_BUSY_SECONDS)
        assert "units_waiting_max" in error.message
        desk.store.gated = False
        desk.store.let_through()
        await asyncio.gather(*waiting)
        await desk.start()

    play(scenario, RunBounds(units_waiting_max=3))


def test_calls_that_wait_for_their_commit_are_bounded_and_told_when_to_try_again() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.host()
        desk.store.gated = True
        waiting = asyncio.create_task(desk.driver.runs.start("checkout", INPUT, ""))
        await turns()
        error = await refused(desk)
        assert (error.code, error.retry_after) == (ErrorCode.LIMIT_EXCEEDED, RETRY_BUSY_SECONDS)
        desk.store.gated = False
        desk.store.let_through()
        await waiting

    play(scenario, RunBounds(starts_pending_max=1))
