"""Flows with one of everything, whose steps return a stamp: a value that no other attempt ever returned.

A stamp is in the ledger beside the attempt that made it, so the test sees which attempt a result is from. Runs as
`stepwire host tests.e2e.faults.engine_flows:host`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import Any

import stepwire
from stepwire import Context, Event, ParallelMode
from stepwire._transport import redial
from tests.e2e.bodies import enter, pen, refused
from tests.e2e.gates import pass_gate
from tests.e2e.ledger import HOST_ENV

host = stepwire.Host(os.environ[HOST_ENV])
NO_RETRY = stepwire.Retry(retries=0)
QUICK = stepwire.Retry(retries=3, delay="10ms", jitter=0)
_numbers = itertools.count(1)

if os.environ.get("E2E_DIAL_QUICKLY"):
    # So that hundreds of restarts fit into one test.
    redial.QUICK_CAP = redial.SLOW_CAP = min(redial.QUICK_CAP, redial.SLOW_CAP, 0.03)


# ---- step bodies


def stamped(_: Any = None) -> str:
    """A new stamp."""
    with pen.attempt():
        return _stamp()


async def stamped_later(_: Any = None) -> str:
    """A new stamp, after some milliseconds."""
    with pen.attempt():
        await asyncio.sleep(0.005)  # gate: a step that takes time
        return _stamp()


async def stamped_at_gate(_: Any = None) -> str:
    """A new stamp, from behind a gate."""
    with pen.attempt() as key:
        await pass_gate(key)
        return _stamp()


def _stamp() -> str:
    info = stepwire.current_attempt()
    assert info is not None
    stamp = f"{os.getpid()}-{next(_numbers)}"
    pen.write(f"stamp:{stamp}", info.run_id, info.path, info.attempt)
    return stamp


def third_time(_: Any = None) -> str:
    """Fails twice."""
    info = stepwire.current_attempt()
    assert info is not None
    if info.attempt < 3:
        refused(f"attempt {info.attempt}")
    return stamped()


@host.step
async def task(_: Any = None) -> str:
    """`stamped_later`, registered: it may run on any host."""
    return await stamped_later()


@host.step
def untask(_: Any) -> str:
    return stamped()


# ---- flows


@host.flow
async def child(ctx: Context) -> list[str]:
    enter(ctx)
    return [await ctx.step.run("only", stamped_later)]


@host.flow
async def broken(ctx: Context) -> None:
    """Undoes two steps."""
    enter(ctx)
    await ctx.step.run("closure", stamped, compensate=stamped)
    await ctx.step.run("registered", task, compensate=untask)
    await ctx.step.run("refuse", refused, "as it is written", retries=NO_RETRY)


@host.flow
async def everything(ctx: Context, key: str) -> list[str]:
    """Steps, groups of both modes, a retry, a sleep, events, children, an undo; the stamps that this body saw."""
    enter(ctx)
    step = ctx.step
    got = [await step.run("first", stamped), await step.run("registered", task)]

    async def chain(name: str) -> list[str]:
        return [await step.run(f"{name}1", stamped_later), await step.run(f"{name}2", task)]

    for mode in (ParallelMode.WAIT, ParallelMode.RACE):
        both = await ctx.group.parallel((lambda: chain("a"), lambda: chain("b")), parallel_mode=mode)
        got += [stamp for stamps in both for stamp in stamps]
    settled = await ctx.group.settle(
        (lambda: step.run("fine", stamped), lambda: step.run("refuse", refused, "it has to", retries=NO_RETRY))
    )
    got += settled.values
    got.append(await step.run("flaky", third_time, retries=QUICK))
    await step.sleep("sleep", 0.05)
    await step.send_event("send", Event("inside", {"key": key}))
    for name in ("inside", "outside"):
        event = await step.wait_event(f"wait-{name}", name, match={"data.key": key}, lookback="1h")
        assert event is not None
    got += await step.invoke("child", child)
    try:
        await step.invoke("broken", broken)
    except stepwire.StepError:
        got.append(await step.run("last", stamped))
    return got


@host.flow(undo_on_cancel=True)
async def errand(ctx: Context, key: str) -> None:
    """Waits in vain, until it is cancelled."""
    enter(ctx)
    await ctx.step.run("reserve", stamped, compensate=stamped)
    await ctx.step.wait_event("wait", "never", match={"data.key": key})


@host.flow
async def carries(ctx: Context, load: str) -> int:
    """Its input is large, its output is not."""
    enter(ctx)
    await ctx.step.run("weigh", stamped)
    return len(load)


@host.flow
async def waits_at_gate(ctx: Context) -> list[str]:
    enter(ctx)
    return [await ctx.step.run("gated", stamped_at_gate), await ctx.step.run("after", stamped)]
