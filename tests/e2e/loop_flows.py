"""Flows that ask a lot of an event loop: threads, processes, timers. `stepwire host tests.e2e.loop_flows:host`."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

import stepwire
from stepwire import Context, ContextSync
from tests.e2e.bodies import enter, gated
from tests.e2e.ledger import HOST_ENV

host = stepwire.Host(os.environ[HOST_ENV])


@host.step
def in_a_thread() -> bool:
    """A registered step of a plain function."""
    return threading.current_thread() is not threading.main_thread()


async def loop_name() -> str:
    """Which loop the host runs on."""
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


async def in_a_process(text: str) -> str:
    """A step that waits for a process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"print({text!r})", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return f"{output.decode().strip()} {process.returncode}"


async def too_long() -> None:
    """A step that its timeout ends."""
    await asyncio.Event().wait()


async def late(ctx: Context) -> str:
    """A branch whose step is cancelled."""
    try:
        await ctx.step.run("late", too_long, timeout=0.1, retries=0)
    except stepwire.StepTimeout:
        return "timed out"
    return "in time"


@host.flow
async def everything(ctx: Context) -> list[object]:
    """One step of each kind, in a group, then some time."""
    enter(ctx)
    found = await ctx.group.parallel(
        [
            lambda: ctx.step.run("loop", loop_name),
            lambda: ctx.step.run("thread", in_a_thread),
            lambda: ctx.step.run("process", in_a_process, "out"),
            lambda: late(ctx),
        ]
    )
    await ctx.step.sleep("nap", 0.05)
    return list(found)


@host.flow
def everything_sync(ctx: ContextSync) -> int:
    """Plain functions, on threads."""
    enter(ctx)
    return sum(ctx.group.parallel([lambda i=i: ctx.step.run(f"step-{i}", int, i) for i in range(20)]))


@host.flow
async def waits_at_its_gate(ctx: Context) -> str:
    """A step in progress when signals come."""
    enter(ctx)
    return str(await ctx.step.run("gated", gated, "passed"))
