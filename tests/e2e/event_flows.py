"""Flows that are started by events, wait for them, send them, or sleep.

Runs as `stepwire host tests.e2e.event_flows:host`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import stepwire
from stepwire import Context, ContextSync, Event, Trigger
from tests.e2e.bodies import enter, gated, refused, told
from tests.e2e.ledger import HOST_ENV

host = stepwire.Host(os.environ[HOST_ENV])


# ---- started by events


@host.flow(on="order/paid")
async def ship(ctx: Context, event: Event) -> list[Any]:
    enter(ctx)
    return [event.id, await ctx.step.run("ship", told, event.data)]


@host.flow(on=("order/paid", "order/refunded"))
async def book(ctx: Context, event: Event) -> list[Any]:
    enter(ctx)
    return [event.id, await ctx.step.run("book", told, event.name)]


@host.flow(on="order/paid")
async def thank(ctx: Context, event: Event) -> None:
    """Always fails."""
    enter(ctx)
    await ctx.step.run("thank", refused, "no paper left", retries=0)


@host.flow(on=Trigger("order/paid", {"data.gift": True}))
async def wrap(ctx: Context, event: Event) -> list[Any]:
    enter(ctx)
    return [event.id, await ctx.step.run("wrap", told, event.data)]


@host.flow
async def pays(ctx: Context, id: str) -> list[str]:
    """Sends an event; a gated step follows."""
    enter(ctx)
    ids = await ctx.step.send_event("tell", Event("order/paid", {"order": 7}, id=id))
    await ctx.step.run("gated", gated, 1)
    return list(ids)


@host.flow(on="tick")
async def tick(ctx: Context, event: Event) -> int:
    enter(ctx)
    return int(await ctx.step.run("note", told, event.data["n"]))


@host.flow(on="tick")
async def tock(ctx: Context, event: Event) -> int:
    enter(ctx)
    return int(await ctx.step.run("note", told, event.data["n"]))


# ---- waiting


@dataclass(frozen=True)
class Wait:
    """What to wait for. Times in seconds."""

    event: str
    n: int
    timeout: float | None = None
    lookback: float | None = None


@host.flow
async def waits(ctx: Context, wait: Wait) -> Any:
    """Waits for an event with this number; returns its data, or None."""
    enter(ctx)
    event = await ctx.step.wait_event(
        "wait", wait.event, match={"data.n": wait.n}, timeout=wait.timeout, lookback=wait.lookback
    )
    return await ctx.step.run("woken", told, None if event is None else event.data)


# ---- sleeping


@host.flow
async def sleeps(ctx: Context, seconds: float) -> str:
    """A step, a sleep, a step."""
    enter(ctx)
    await ctx.step.run("first", told, 1)
    await ctx.step.sleep("sleep", seconds)
    return str(await ctx.step.run("last", told, "rested"))


@host.flow
def sleeps_sync(ctx: ContextSync, seconds: float) -> str:
    """The same as a plain function."""
    enter(ctx)
    ctx.step.run("first", told, 1)
    ctx.step.sleep("sleep", seconds)
    return str(ctx.step.run("last", told, "rested"))


@host.flow
async def sleeps_often(ctx: Context, times: int) -> list[int]:
    """Sleeps and steps in turn, in two branches of different pace."""
    enter(ctx)

    async def branch(seconds: float) -> int:
        total = 0
        for number in range(times):
            await ctx.step.sleep("sleep", seconds)
            total += await ctx.step.run("work", told, number)
        return total

    both = await ctx.group.parallel(
        (lambda: branch(0.3), lambda: branch(0.5)), parallel_mode=stepwire.ParallelMode.RACE
    )
    return list(both)


@host.flow
async def waits_for_child(ctx: Context, seconds: float) -> str:
    enter(ctx)
    return str(await ctx.step.invoke("child", sleeps, seconds))


@host.flow
async def rests_and_is_undone(ctx: Context) -> None:
    """A closure undoes the step before its sleep."""
    enter(ctx)
    await ctx.step.run("reserve", told, "reserve", compensate=lambda output: told(output))
    await ctx.step.sleep("sleep", "30s")
