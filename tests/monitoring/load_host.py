"""A host with a bit of everything, for the load of `test_prometheus`.

Runs as `python -m tests.monitoring.load_host ENGINE PORT`. It shows its metrics as a service would that has no web
server: through `Host(metrics_port=)`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Any

import stepwire
from stepwire import Context, ParallelMode

SERVICE_ENV = "LOAD_SERVICE"


async def quick(value: int) -> int:
    """A step that succeeds."""
    await asyncio.sleep(0)
    return value


def quick_sync(value: int) -> int:
    """A plain one."""
    return value


def once(value: int) -> int:
    """Fails at its first attempt."""
    if stepwire.current_attempt().attempt == 1:
        raise RuntimeError("not yet")
    return value


async def never(value: int) -> int:
    """Always fails."""
    raise stepwire.NonRetryable(f"no {value}")


async def slow(value: int) -> int:
    """Ends when it is cancelled."""
    await asyncio.Event().wait()
    return value


def build(service: str, metrics_port: int) -> stepwire.Host:
    host = stepwire.Host(service, slots=8, metrics_port=metrics_port)

    @host.step
    async def charge(value: int) -> int:
        return value + 1

    @host.flow
    async def child(ctx: Context, value: int) -> int:
        return await ctx.step.run("only", quick, value)

    @host.flow
    async def mixed(ctx: Context, width: int) -> int:
        await ctx.step.run("charge", charge, width)
        await ctx.step.run("plain", quick_sync, width)
        await ctx.step.run("once", once, width, retries=stepwire.Retry(retries=2, delay=0.01))
        await ctx.group.map("item-{i}", quick, range(width))
        await ctx.group.parallel([lambda i=i: ctx.step.run(f"r{i}", quick, i) for i in range(3)],
                                 parallel_mode=ParallelMode.RACE)  # fmt: skip
        await ctx.group.settle([lambda: ctx.step.run("good", quick, 1), lambda: ctx.step.run("bad", never, 2)])
        await ctx.group.race([lambda: ctx.step.run("fast", quick, 1), lambda: ctx.step.run("slow", slow, 2)])
        await ctx.step.sleep("nap", 0.02)
        await ctx.step.send_event("tell", stepwire.Event("told", {"n": width}))
        return int(await ctx.step.invoke("child", child, width))

    @host.flow
    async def fails(ctx: Context, value: int) -> None:
        await ctx.step.run("first", quick, value, compensate=undone)
        await ctx.step.run("last", never, value)

    @host.flow
    async def waits(ctx: Context) -> Any:
        return await ctx.step.wait_event("w", "never-sent")

    return host


async def undone(value: int) -> None:
    """Undoes `first`."""


def main(engine: str, port: str) -> int:
    logging.basicConfig(level=logging.INFO)
    return build(os.environ[SERVICE_ENV], int(port)).run(engine)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
