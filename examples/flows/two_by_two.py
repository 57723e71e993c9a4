"""Two branches of two steps: WAIT finishes them a, x, b, y; RACE lets the fast branch go ahead: a, b, x, y.

    stepwire dev examples/flows/two_by_two.py:host
    stepwire run race --input '"/tmp/gates"'

Each step waits until a file with its name is in the directory it is given: open the gates in any order and watch.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import stepwire

host = stepwire.Host("two-by-two")

POLL_SECONDS = 0.005


async def work(name: str, gates: str) -> str:
    """Stands for a job whose end is decided elsewhere."""
    while not Path(gates, name).exists():  # noqa: ASYNC110, ASYNC240 - the example has no other signal than a file
        await asyncio.sleep(POLL_SECONDS)
    return name


async def branches(ctx: stepwire.Context, gates: str, mode: stepwire.ParallelMode) -> list[str]:
    """A fast and a slow branch."""
    order: list[str] = []

    async def branch(*names: str) -> None:
        for name in names:
            await ctx.step.run(name, work, name, gates)
            order.append(name)

    await ctx.group.parallel((lambda: branch("a", "b"), lambda: branch("x", "y")), parallel_mode=mode)
    return order


@host.flow
async def wait(ctx: stepwire.Context, gates: str) -> list[str]:
    """The default: b is not started before x has ended."""
    return await branches(ctx, gates, stepwire.ParallelMode.WAIT)


@host.flow
async def race(ctx: stepwire.Context, gates: str) -> list[str]:
    """Branches are independent: b may end while x still runs."""
    return await branches(ctx, gates, stepwire.ParallelMode.RACE)
