"""The flows of `benchmarks.step_host` as handlers of a Restate service. Run by the private interpreter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import restate

from benchmarks.work import LARGE, OUTPUT, large_output, nap, no_work

service = restate.Service("Bench")


async def _one_by_one(ctx: restate.Context, steps: int, step: Callable[[], Awaitable[Any]], output: Any) -> int:
    acknowledged = 0
    for i in range(steps):
        acknowledged += await ctx.run_typed(f"step-{i}", step) == output
    return acknowledged


async def _at_once(ctx: restate.Context, steps: int, step: Callable[[], Awaitable[Any]], output: Any) -> int:
    results = await restate.gather(*[ctx.run_typed(f"step-{i}", step) for i in range(steps)])
    return sum([await result == output for result in results])


@service.handler()
async def sequence(ctx: restate.Context, steps: int) -> int:
    return await _one_by_one(ctx, steps, no_work, OUTPUT)


@service.handler()
async def large_sequence(ctx: restate.Context, steps: int) -> int:
    return await _one_by_one(ctx, steps, large_output, LARGE)


@service.handler()
async def group(ctx: restate.Context, steps: int) -> int:
    return await _at_once(ctx, steps, no_work, OUTPUT)


@service.handler()
async def sleeping_group(ctx: restate.Context, steps: int) -> int:
    return await _at_once(ctx, steps, nap, OUTPUT)


app = restate.app([service])
