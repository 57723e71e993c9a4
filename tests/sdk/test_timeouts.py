"""Timeout per attempt: cancels, then retries; never two attempts of one step at once (MISSION S4)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import stepwire
from stepwire import Retry, testing
from stepwire.protocol.failure import ErrorCode
from tests.sdk.gates import PATIENCE_SECONDS

SHORT = 0.05
ASYNC_FLOW = pytest.mark.parametrize("is_async", [True, False], ids=["async flow", "sync flow"])
ONCE_MORE = Retry(retries=1, backoff="fixed", delay=1, jitter=0)


def flow_of(host: stepwire.Host, step: Any, is_async: bool, **options: Any) -> Any:
    async def in_tasks(ctx: stepwire.Context) -> Any:
        return await ctx.step.run("slow", step, **options)

    def in_threads(ctx: stepwire.ContextSync) -> Any:
        return ctx.step.run("slow", step, **options)

    return host.flow(in_tasks if is_async else in_threads)


@ASYNC_FLOW
def test_async_attempt_is_cancelled_then_retried(is_async: bool) -> None:
    events: list[str] = []

    async def slow() -> str:
        if "cancelled" in events:
            return "second"
        events.append("begin")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            events.append("cancelled")
            raise
        return "never"

    host = stepwire.Host("timeouts")
    run = testing.run(host, flow_of(host, slow, is_async, timeout=SHORT, retries=ONCE_MORE))
    assert run.output == "second"
    assert events == ["begin", "cancelled"]
    first, second = run.record.steps[0].attempts
    assert first.failure is not None
    assert (first.failure.code, first.failure.type) == (ErrorCode.TIMEOUT, "StepTimeout")
    assert "'slow'" in first.failure.message and "0.05 s" in first.failure.message
    assert first.elapsed >= SHORT
    assert second.failure is None


def test_async_attempt_that_refuses_to_be_cancelled() -> None:
    """What it returns afterwards no longer counts."""

    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return "late"

    host = stepwire.Host("timeouts")
    run = testing.run(host, flow_of(host, stubborn, True, timeout=SHORT, retries=0))
    assert run.failure is not None and run.failure.code is ErrorCode.TIMEOUT
    assert run.record.steps[0].output is None


@ASYNC_FLOW
def test_sync_attempt_sees_its_flag_and_its_late_result_is_dropped(is_async: bool) -> None:
    running = threading.Lock()
    seen: list[tuple[int, bool]] = []

    def slow() -> str:
        attempt = stepwire.current_attempt()
        assert attempt is not None
        assert running.acquire(blocking=False), "two attempts of one step at once"
        try:
            waiting = threading.Event()
            for _ in range(int(PATIENCE_SECONDS / 0.005)):
                if attempt.cancelled or attempt.attempt == 2:
                    break
                waiting.wait(0.005)
            seen.append((attempt.attempt, attempt.cancelled))
            return f"result of attempt {attempt.attempt}"
        finally:
            running.release()

    host = stepwire.Host("timeouts")
    run = testing.run(host, flow_of(host, slow, is_async, timeout=SHORT, retries=ONCE_MORE))
    assert seen == [(1, True), (2, False)]
    assert run.output == "result of attempt 2", "the late result of attempt 1 was dropped"
    first = run.record.steps[0].attempts[0]
    assert first.failure is not None and first.failure.code is ErrorCode.TIMEOUT


def test_timeout_can_be_caught() -> None:
    host = stepwire.Host("timeouts")

    @host.flow
    async def flow(ctx: stepwire.Context) -> str:
        try:
            await ctx.step.run("slow", asyncio.Event().wait, timeout=SHORT, retries=0)
        except stepwire.StepTimeout as error:
            return error.path
        return ""

    assert testing.run(host, flow).output == "slow"


def test_timeout_of_a_registered_step() -> None:
    host = stepwire.Host("timeouts")

    @host.step(timeout=SHORT, retries=0)
    async def slow() -> None:
        await asyncio.Event().wait()

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("slow", slow)

    run = testing.run(host, flow)
    assert run.failure is not None and run.failure.code is ErrorCode.TIMEOUT


def test_siblings_are_not_touched() -> None:
    host = stepwire.Host("timeouts")

    @host.flow
    async def flow(ctx: stepwire.Context) -> list[Any]:
        async def slow() -> str:
            try:
                await ctx.step.run("slow", asyncio.Event().wait, timeout=SHORT, retries=0)
            except stepwire.StepTimeout:
                return "timed out"
            return ""

        return list(await ctx.group.parallel((slow, lambda: ctx.step.run("quick", lambda: "quick"))))

    assert testing.run(host, flow).output == ["timed out", "quick"]


def test_no_time_for_an_attempt_that_waits_for_its_slot() -> None:
    """The timeout is of the attempt: it begins with the attempt, not with the plan."""
    host = stepwire.Host("timeouts", slots=1)
    gate = asyncio.Event

    @host.flow
    async def flow(ctx: stepwire.Context) -> list[str]:
        opened = gate()

        async def long() -> str:
            asyncio.get_running_loop().call_later(3 * SHORT, opened.set)
            await opened.wait()
            return "long"

        async def quick() -> str:
            return "quick"

        branches = (
            lambda: ctx.step.run("long", long),
            lambda: ctx.step.run("quick", quick, timeout=SHORT, retries=0),
        )
        return list(await ctx.group.parallel(branches))

    assert testing.run(host, flow).output == ["long", "quick"]
