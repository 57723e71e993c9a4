"""The flow that `stepwire chaos` runs on its hosts: steps, groups, retries, a sleep, a child, compensation.

It is written as users write theirs, and served by `stepwire host`. Its steps do nothing but take a moment and write the
truth; see `chaos_truth`. Nothing here knows that processes are being killed.
"""

from __future__ import annotations

import asyncio
import random

import stepwire
from stepwire import Context, ParallelMode
from stepwire_engine.cli.chaos_truth import Pen, succeeds

host = stepwire.Host("chaos", slots=32)
BRANCHES = 3
STEP_SECONDS_MAX = 0.03
_NO_RETRY = stepwire.Retry(retries=0)
_QUICK_RETRY = stepwire.Retry(retries=3, delay="20ms", jitter=0)
_pen = Pen.from_environment()
_random = random.Random()


async def act(given: list[str]) -> str:
    """Take a moment; the result is a stamp."""
    attempt = stepwire.current_attempt()
    assert attempt is not None
    _pen.begun(attempt.run_id, attempt.path, attempt.attempt, given)
    await asyncio.sleep(_random.uniform(0, STEP_SECONDS_MAX))
    return _pen.ended(attempt.run_id, attempt.path, attempt.attempt)


async def undo(stamp: str) -> str:
    """Undoes `act`."""
    return await act([stamp])


async def second_time(given: list[str]) -> str:
    """Fails once."""
    attempt = stepwire.current_attempt()
    assert attempt is not None
    if attempt.attempt == 1:
        _pen.begun(attempt.run_id, attempt.path, attempt.attempt, given)
        raise ConnectionError("the first attempt always fails")
    return await act(given)


def refuse() -> None:
    raise ValueError("this run fails on purpose")


@host.step
async def work(given: list[str]) -> str:
    """`act`, registered: any host may execute it."""
    return await act(given)


@host.flow
async def errand(ctx: Context, given: list[str]) -> str:
    """The child of `storm`."""
    first = await ctx.step.run("first", act, given)
    return await ctx.step.run("second", work, [first])


@host.flow
async def storm(ctx: Context, number: int) -> str:
    """A bit of everything; fails if `number` says so. Every step is given results of earlier ones."""
    step = ctx.step
    last = await step.run("first", act, [], compensate=undo)

    async def branch(given: str) -> list[str]:
        one = await step.run("one", work, [given])
        return [await step.run("two", act, [one], compensate=undo)]

    for mode in (ParallelMode.WAIT, ParallelMode.RACE):
        given = last
        branches = [lambda given=given: branch(given) for _ in range(BRANCHES)]
        ends = await ctx.group.parallel(branches, parallel_mode=mode)
        last = await step.run("join", work, [stamp for stamps in ends for stamp in stamps])
    last = await step.run("flaky", second_time, [last], retries=_QUICK_RETRY)
    await step.sleep("rest", 0.2)
    last = await step.invoke("errand", errand, [last])
    if not succeeds(number):
        await step.run("refuse", refuse, retries=_NO_RETRY)
    return await step.run("last", act, [last])
