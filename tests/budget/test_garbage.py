"""What runs held is freed with their end: nothing of them waits for the garbage collector (ADR 0029)."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import stepwire
from tests.budget.pair import pair
from tests.budget.scenarios import no_collections

pytestmark = pytest.mark.timeout(60)
RUNS = 5
FLOWS: dict[str, Callable[..., Any]] = {}


def flow(function: Callable[..., Any]) -> Callable[..., Any]:
    FLOWS[function.__name__] = function
    return function


async def goes_well(value: int = 1) -> int:
    return value


async def fails() -> int:
    raise ValueError("no")


async def nap() -> None:
    await asyncio.sleep(60)  # gate: of the loop's own time, which does not move; it is cancelled


def undo(output: int) -> None: ...


@flow
async def a_step_fails_and_that_is_caught(ctx: stepwire.Context, steps: int) -> int:
    for i in range(steps):
        try:
            await ctx.step.run(f"step-{i}", fails, retries=0)
        except stepwire.StepError:
            pass
    return steps


@flow
async def a_step_fails_and_so_does_the_run(ctx: stepwire.Context, steps: int) -> None:
    await ctx.step.run("step", fails, retries=0)


@flow
async def a_group_fails(ctx: stepwire.Context, steps: int) -> int:
    try:
        await ctx.group.parallel([lambda: ctx.step.run("a", fails, retries=0), lambda: ctx.step.run("b", goes_well)])
    except stepwire.GroupFailed:
        pass
    return steps


@flow
async def branches_have_code_and_groups_of_their_own(ctx: stepwire.Context, steps: int) -> int:
    async def branch() -> None:
        await ctx.step.run("before", goes_well)
        await ctx.group.parallel([lambda i=i: ctx.step.run("in", goes_well, i) for i in range(steps)])

    await ctx.group.parallel([branch, branch])
    return steps


@flow
async def a_race_is_won(ctx: stepwire.Context, steps: int) -> int:
    async def slow() -> None:
        await ctx.step.run("slow", nap)

    async def fast() -> int:
        return await ctx.step.run("fast", goes_well)

    await ctx.group.race([slow, fast])
    return steps


@flow
async def nothing_is_compensated(ctx: stepwire.Context, steps: int) -> int:
    for i in range(steps):
        await ctx.step.run(f"step-{i}", goes_well, compensate=undo)
    return steps


@flow
async def a_branch_cancels_the_run(ctx: stepwire.Context, steps: int) -> None:
    async def slow() -> None:
        await ctx.step.run("slow", nap)

    async def fast() -> None:
        await ctx.step.run("fast", goes_well)
        ctx.cancel()

    await ctx.group.parallel([slow, fast])


@flow
async def a_run_goes_on_as_another(ctx: stepwire.Context, steps: int) -> int:
    if steps:
        await ctx.step.run("step", goes_well)
        ctx.restart_with(0)
    return steps


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Failures are logged as warnings, and pytest would keep their records."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", FLOWS)
def test_ended_runs_leave_nothing_for_the_collector(name: str, tmp_path: Path) -> None:
    host = stepwire.Host("budget", slots=1000, bodies=1000)
    host.flow(FLOWS[name])
    with pair(tmp_path, host) as made, no_collections():
        for _ in range(2):  # The first time makes what is made once.
            gc.collect()
            made.start(name, b"3", RUNS)
            made.finish()
        assert gc.collect() == 0
