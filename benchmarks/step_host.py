"""The measured host: `python -m benchmarks.step_host ENGINE [SLOTS]`. Flows of steps that do nothing.

A flow returns how many of its steps gave the expected output: what the client may count as acknowledged.
"""

from __future__ import annotations

import sys
from typing import Any

import stepwire

OUTPUT = {"order": 17, "state": "accepted", "note": "x" * 56}
"""About 100 bytes as JSON."""


async def no_work() -> dict[str, Any]:
    """The step."""
    return OUTPUT


async def group(ctx: stepwire.Context, steps: int) -> int:
    """All steps in one group, a branch each."""
    branches = [lambda i=i: ctx.step.run(f"step-{i}", no_work) for i in range(steps)]
    results = await ctx.group.parallel(branches)
    return sum(result == OUTPUT for result in results)


async def sequence(ctx: stepwire.Context, steps: int) -> int:
    """Every step after the one before."""
    acknowledged = 0
    for i in range(steps):
        acknowledged += await ctx.step.run(f"step-{i}", no_work) == OUTPUT
    return acknowledged


async def nap(ctx: stepwire.Context, steps: int) -> int:
    """A group of all steps but one, then a nap of a second: what a long history costs when its run wakes."""
    acknowledged = await group(ctx, steps - 1)
    await ctx.step.sleep("nap", 1.0)
    return acknowledged + 1


async def naps(ctx: stepwire.Context, steps: int) -> int:
    """One nap of 50 ms after the other."""
    for i in range(steps):
        await ctx.step.sleep(f"nap-{i}", 0.05)
    return steps


def main(address: str, slots: str = "") -> int:
    """Serve until SIGTERM."""
    host = stepwire.Host("benchmark", slots=int(slots)) if slots else stepwire.Host("benchmark")
    host.flow(group)
    host.flow(sequence)
    host.flow(nap)
    host.flow(naps)
    return host.run(address)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
