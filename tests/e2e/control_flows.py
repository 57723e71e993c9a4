"""Flows that are stopped from outside or from inside: cancelled, raced, limited, out of time.

Runs as `stepwire host tests.e2e.control_flows:host`.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import stepwire
from stepwire import Context, ContextSync, ParallelMode, StepTimeout
from stepwire.flow import RunFailure
from tests.e2e.bodies import dawdle, enter, gated, pen, refused, told
from tests.e2e.ledger import HOST_ENV

host = stepwire.Host(os.environ[HOST_ENV])

TOO_LONG_SECONDS = 10.0


# ---- step bodies that need to be told


def until_told(value: Any) -> Any:
    """A plain step that ends only when it is told to stop; its thread cannot be."""
    info = stepwire.current_attempt()
    assert info is not None
    pen.write("before", info.run_id, info.path, info.attempt)
    if info.wait_cancelled(TOO_LONG_SECONDS) and info.cancelled:
        pen.write("cancelled", info.run_id, info.path, info.attempt)
    else:
        pen.write("after", info.run_id, info.path, info.attempt)
    return value


async def too_long(value: Any) -> Any:
    with pen.attempt():
        await asyncio.sleep(TOO_LONG_SECONDS)  # gate: a step that takes too long
    return value


@host.step
async def gated_task(value: Any) -> Any:
    """`gated`, registered."""
    return await gated(value)


@host.step
async def quick_task(value: int) -> int:
    """`dawdle`, registered."""
    return await dawdle(value)


# ---- cancelled


async def _errand(ctx: Context) -> str:
    """A step that is undone, and then an async and a plain step that wait."""
    enter(ctx)
    await ctx.step.run("reserve", told, "reserve", compensate=told)
    both = await ctx.group.parallel(
        (lambda: ctx.step.run("async", gated, "async"), lambda: ctx.step.run("sync", until_told, "sync"))
    )
    return ", ".join(both)


@host.flow
async def errand(ctx: Context) -> str:
    return await _errand(ctx)


@host.flow(undo_on_cancel=True)
async def careful_errand(ctx: Context) -> str:
    return await _errand(ctx)


@host.flow
async def fragile(ctx: Context, fails: bool) -> str:
    """Fails at once, or waits at a gate."""
    enter(ctx)
    return str(await ctx.step.run("work", refused if fails else gated, "broken", retries=0))


@fragile.on_failure
def fragile_failed(failed: RunFailure) -> str:
    return str(told(failed.run_id))


@host.flow(undo_on_cancel=True)
async def gives_up(ctx: Context) -> None:
    """Cancels itself from a branch, while another one waits."""
    enter(ctx)
    await ctx.step.run("reserve", told, "reserve", compensate=told)

    async def give_up() -> None:
        await ctx.step.run("look", gated, "look")
        ctx.cancel()

    await ctx.group.parallel((give_up, lambda: ctx.step.run("wait", gated, "wait")), parallel_mode=ParallelMode.RACE)


# ---- groups


@host.flow
async def two_in_a_race(ctx: Context) -> list[Any]:
    """Two gated branches, then a gated step."""
    enter(ctx)

    async def branch(name: str) -> str:
        await ctx.step.run(name, gated, name)
        return str(await ctx.step.run(f"{name}-again", told, name))

    won = await ctx.group.race((lambda: branch("left"), lambda: branch("right")))
    return [won.index, won.value, await ctx.step.run("after", gated, "after")]


@host.flow
async def one_fails(ctx: Context) -> str:
    """A branch that fails behind a gate; async, plain and registered siblings that would go on for long."""
    enter(ctx)

    async def fails() -> None:
        await ctx.step.run("wait", gated, "go")
        await ctx.step.run("fail", refused, "broken", retries=0)

    try:
        await ctx.group.parallel(
            (
                fails,
                lambda: ctx.step.run("async", too_long, 1),
                lambda: ctx.step.run("sync", until_told, 2),
                lambda: ctx.step.run("task", gated_task, 3),
            ),
            cancel_siblings=True,
        )
    except stepwire.GroupFailed as failed:
        return str(await ctx.step.run("after", told, [branch.outcome for branch in failed.results]))
    raise AssertionError("the group must fail")


@host.flow
def one_fails_sync(ctx: ContextSync) -> str:
    """The same as a plain function."""
    enter(ctx)

    def fails() -> None:
        ctx.step.run("wait", gated, "go")
        ctx.step.run("fail", refused, "broken", retries=0)

    try:
        ctx.group.parallel(
            (
                fails,
                lambda: ctx.step.run("async", too_long, 1),
                lambda: ctx.step.run("sync", until_told, 2),
                lambda: ctx.step.run("task", gated_task, 3),
            ),
            cancel_siblings=True,
        )
    except stepwire.GroupFailed as failed:
        return str(ctx.step.run("after", told, [branch.outcome for branch in failed.results]))
    raise AssertionError("the group must fail")


@host.flow
async def at_most(ctx: Context, limit: int) -> list[int]:
    """Twelve gated registered steps, so many at once."""
    enter(ctx)
    made = [lambda i=i: ctx.step.run("member", gated_task, i) for i in range(12)]
    return list(await ctx.group.parallel(made, limit=limit))


@host.flow
async def nested_limit(ctx: Context, limit: int) -> int:
    """Closures, registered steps and a nested group with a limit of its own, all under one limit."""
    enter(ctx)

    async def inner() -> int:
        return sum(await ctx.group.map("inner-{i}", quick_task, range(20), limit=2))

    async def chain(first: int) -> int:
        one = await ctx.step.run("one", dawdle, first)
        return one + await ctx.step.run("two", quick_task, first)

    chains = [lambda i=i: chain(i) for i in range(20)]
    return sum(await ctx.group.parallel([inner, *chains], limit=limit))


@host.flow
async def mapped(ctx: Context, items: int) -> list[int]:
    """A step for each item."""
    enter(ctx)
    done = await ctx.group.map("summarize-{i}", quick_task, range(items))
    return [len(done), await ctx.step.run("reduce", sum, list(done))]


# ---- out of time


@host.flow
async def slow_group(ctx: Context, seconds: float) -> list[str]:
    """A group whose deadline passes while one branch waits; the other one has ended."""
    enter(ctx)
    settled = await ctx.group.settle(
        (lambda: ctx.step.run("quick", told, 1), lambda: ctx.step.run("stuck", gated, 2)), deadline=seconds
    )
    return [branch.outcome for branch in settled] + [await ctx.step.run("after", told, "after")]


@host.flow
async def slow_step(ctx: Context, seconds: float) -> str:
    """A step whose deadline passes while one of its attempts waits."""
    enter(ctx)
    try:
        await ctx.step.run("stuck", gated, 1, timeout=seconds / 5, retries=stepwire.Retry(delay=0), deadline=seconds)
    except StepTimeout as timeout:
        return timeout.path
    raise AssertionError("the step must not complete")


@host.flow(deadline="1.5s")
async def slow_run(ctx: Context) -> None:
    """Its deadline passes while a step waits."""
    enter(ctx)
    await ctx.step.run("reserve", told, "reserve", compensate=told)
    await ctx.step.run("stuck", gated, 1)
