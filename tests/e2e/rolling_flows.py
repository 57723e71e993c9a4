"""The load of the rolling restarts: runs of steps that take 20 to 200 ms, in sequence and in groups, async and sync.

Runs as `stepwire host tests.e2e.rolling_flows:host`.
"""

from __future__ import annotations

import asyncio
import os
import time
import zlib

import stepwire
from stepwire import Context, ContextSync, ParallelMode
from tests.e2e.bodies import enter, pen
from tests.e2e.ledger import HOST_ENV

host = stepwire.Host(os.environ[HOST_ENV])


def seconds_of(key: str) -> float:
    """20 to 200 ms, by run and path."""
    return 0.02 + zlib.crc32(key.encode()) % 181 / 1000


async def work(value: int) -> int:
    with pen.attempt() as key:
        await asyncio.sleep(seconds_of(key))  # gate: a step that takes time
    return value + 1


def work_sync(value: int) -> int:
    with pen.attempt() as key:
        time.sleep(seconds_of(key))  # gate: a step that takes time
    return value + 1


@host.step
async def task(value: int) -> int:
    """`work`, registered."""
    return await work(value)


@host.step
def task_sync(value: int) -> int:
    """`work_sync`, registered."""
    return work_sync(value)


@host.flow
async def load(ctx: Context, value: int) -> int:
    """Six steps; returns value + 6."""
    enter(ctx)
    value = await ctx.step.run("first", work, value)
    value = await ctx.step.run("registered", task_sync, value)

    async def branch() -> int:
        return await ctx.step.run("deeper", task, await ctx.step.run("sync", work_sync, 0))

    both = await ctx.group.parallel((branch, lambda: ctx.step.run("beside", task, 0)), parallel_mode=ParallelMode.RACE)
    return await ctx.step.run("last", work, value + sum(both))


@host.flow
def load_sync(ctx: ContextSync, value: int) -> int:
    """The same as a plain function."""
    enter(ctx)
    value = ctx.step.run("first", work_sync, value)
    value = ctx.step.run("registered", task, value)

    def branch() -> int:
        return ctx.step.run("deeper", task_sync, ctx.step.run("sync", work_sync, 0))

    both = ctx.group.parallel((branch, lambda: ctx.step.run("beside", task_sync, 0)), parallel_mode=ParallelMode.WAIT)
    return ctx.step.run("last", work_sync, value + sum(both))
