"""Flows that others invoke, served by a service of their own. Runs as `stepwire host tests.e2e.child_flows:host`."""

from __future__ import annotations

import os

import stepwire
from stepwire import Context
from tests.e2e.bodies import enter, gated, refused, told
from tests.e2e.ledger import HOST_ENV

host = stepwire.Host(os.environ[HOST_ENV])


@host.flow
async def double(ctx: Context, value: int) -> int:
    """A gated step, and twice the value."""
    enter(ctx)
    return 2 * int(await ctx.step.run("gated", gated, value))


@host.flow
async def quick(ctx: Context, value: int) -> int:
    """A step, and twice the value."""
    enter(ctx)
    return 2 * int(await ctx.step.run("step", told, value))


@host.flow
async def fails(ctx: Context, value: int) -> int:
    """Does something, and fails."""
    enter(ctx)
    await ctx.step.run("reserve", told, "reserve", compensate=told)
    await ctx.step.run("refuse", refused, f"not {value}", retries=0)
    return value


@host.flow(undo_on_cancel=True)
async def middle(ctx: Context, value: int) -> int:
    """Invokes another one in turn."""
    enter(ctx)
    await ctx.step.run("reserve", told, "reserve", compensate=told)
    return int(await ctx.step.invoke("grandchild", double, value))
