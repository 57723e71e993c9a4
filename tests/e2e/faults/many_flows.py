"""Flows of which thousands are open at once. Runs as `stepwire host tests.e2e.faults.many_flows:host`.

With E2E_LATER in the environment it serves only the flow that it does not serve without.
"""

from __future__ import annotations

import asyncio
import os
from functools import cache
from typing import Any

import stepwire
from stepwire import Context
from tests.e2e.bodies import pen, told
from tests.e2e.gates import pass_gate
from tests.e2e.ledger import HOST_ENV

busy = stepwire.Host(os.environ[HOST_ENV])
later = stepwire.Host(os.environ[HOST_ENV])
host = later if os.environ.get("E2E_LATER") else busy
HELD = "held all"
"""The one gate of all `held` steps of a host."""


@cache
def _released() -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(pass_gate(HELD))


async def until_released(value: Any) -> Any:
    with pen.attempt():
        await asyncio.shield(_released())
    return value


@busy.flow
async def held(ctx: Context, value: int) -> int:
    """Its step waits at the gate."""
    return int(await ctx.step.run("held", until_released, value))


@busy.flow
async def sleeps(ctx: Context, value: int) -> int:
    await ctx.step.sleep("sleep", "1h")
    return value


@busy.flow
async def quick(ctx: Context, value: int) -> int:
    return int(await ctx.step.run("quick", told, value))


@later.flow
async def waits_for_host(ctx: Context, value: int) -> int:
    return int(await ctx.step.run("quick", told, value))
