"""The measured host: `python -m benchmarks.step_host ENGINE [--slots N] [--bodies N] [--worker]`.

Its steps do nothing, or as little as a workload needs. A flow returns how many of its steps gave the expected output:
what the client may count as acknowledged. SIGUSR1 opens the gate at which gated steps wait.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import stepwire
from benchmarks.work import LARGE, OUTPUT, large_output, nap, no_work

WORK_SECONDS = 0.01

workers = stepwire.Host("workers", slots=4)


@workers.step
def work() -> float:
    """10 ms of work on a slot; gives the seconds it took, which the operating system decides."""
    began = time.perf_counter()
    time.sleep(WORK_SECONDS)
    return time.perf_counter() - began


def _branches(
    ctx: stepwire.Context, steps: int, step: Callable[[], Awaitable[Any]]
) -> list[Callable[[], Awaitable[Any]]]:
    return [lambda i=i: ctx.step.run(f"step-{i}", step) for i in range(steps)]


async def group(ctx: stepwire.Context, steps: int) -> int:
    """All steps in one group, a branch each."""
    results = await ctx.group.parallel(_branches(ctx, steps, no_work))
    return sum(result == OUTPUT for result in results)


async def racing_group(ctx: stepwire.Context, steps: int) -> int:
    """The same in mode RACE: every branch goes on by itself."""
    results = await ctx.group.parallel(_branches(ctx, steps, no_work), parallel_mode=stepwire.ParallelMode.RACE)
    return sum(result == OUTPUT for result in results)


async def sequence(ctx: stepwire.Context, steps: int) -> int:
    """Every step after the one before."""
    acknowledged = 0
    for i in range(steps):
        acknowledged += await ctx.step.run(f"step-{i}", no_work) == OUTPUT
    return acknowledged


async def sleeping_group(ctx: stepwire.Context, steps: int) -> int:
    """All at once, each step sleeps in user code."""
    results = await ctx.group.parallel(_branches(ctx, steps, nap))
    return sum(result == OUTPUT for result in results)


async def large_group(ctx: stepwire.Context, steps: int) -> int:
    """All at once, each step returns 64 KiB."""
    results = await ctx.group.parallel(_branches(ctx, steps, large_output))
    return sum(result == LARGE for result in results)


async def large_sequence(ctx: stepwire.Context, steps: int) -> int:
    """One after the other, each step returns 64 KiB."""
    acknowledged = 0
    for i in range(steps):
        acknowledged += await ctx.step.run(f"step-{i}", large_output) == LARGE
    return acknowledged


async def spread(ctx: stepwire.Context, steps: int) -> list[float]:
    """Registered steps, which the workers execute; gives the seconds that each took there."""
    return list(await ctx.group.parallel([lambda i=i: ctx.step.run(f"step-{i}", work) for i in range(steps)]))


async def sleeper(ctx: stepwire.Context, days: int) -> int:
    """A run that waits for long."""
    await ctx.step.sleep("sleep", days * 86_400)
    return 1


async def group_and_nap(ctx: stepwire.Context, steps: int) -> int:
    """A group of all steps but one, then a durable sleep of a second: what a long history costs when its run wakes."""
    acknowledged = await group(ctx, steps - 1)
    await ctx.step.sleep("nap", 1.0)
    return acknowledged + 1


async def naps(ctx: stepwire.Context, steps: int) -> int:
    """One durable sleep of 50 ms after the other."""
    for i in range(steps):
        await ctx.step.sleep(f"nap-{i}", 0.05)
    return steps


def _gated_group(opened: asyncio.Event) -> Callable[[stepwire.Context, int], Awaitable[int]]:
    async def wait() -> dict[str, Any]:
        await opened.wait()
        return OUTPUT

    async def gated_group(ctx: stepwire.Context, steps: int) -> int:
        """All at once; no step ends before the gate is opened."""
        results = await ctx.group.parallel(_branches(ctx, steps, wait))
        return sum(result == OUTPUT for result in results)

    return gated_group


FLOWS: tuple[Callable[..., Awaitable[Any]], ...] = (
    group, racing_group, sequence, sleeping_group, large_group, large_sequence, spread, sleeper, group_and_nap, naps,
)  # fmt: skip


def flows_host(bounds: dict[str, int]) -> stepwire.Host:
    """The host of the flows, whose gate is opened by SIGUSR1."""
    host = stepwire.Host("benchmark", **bounds)  # type: ignore[arg-type]
    opened = asyncio.Event()
    signal.signal(signal.SIGUSR1, lambda number, frame: asyncio.get_running_loop().call_soon_threadsafe(opened.set))
    for flow in (*FLOWS, _gated_group(opened)):
        host.flow(flow)
    return host


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine")
    parser.add_argument("--slots", type=int)
    parser.add_argument("--bodies", type=int)
    parser.add_argument("--worker", action="store_true")
    options = parser.parse_args(arguments)
    bounds = {name: value for name in ("slots", "bodies") if (value := getattr(options, name))}
    return (workers if options.worker else flows_host(bounds)).run(options.engine)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
