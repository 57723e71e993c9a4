"""Flows whose end is what is tested: handled failures, hooks, successors.

Runs as `stepwire host tests.e2e.ending_flows:host`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import stepwire
from stepwire import Context
from stepwire.flow import RunFailure
from stepwire.hooks import HOOK_KINDS, HookCall
from tests.e2e.bodies import enter, gated, pen, refused, told
from tests.e2e.ledger import HOST_ENV

host = stepwire.Host(os.environ[HOST_ENV])
QUICKLY = stepwire.Retry(retries=3, delay="10ms", jitter=0)


@dataclass(frozen=True)
class Order:
    """A typed input."""

    number: int
    paid: bool = False


@host.flow
async def typed(ctx: Context, order: Order) -> int:
    enter(ctx)
    return int(await ctx.step.run("number", told, order.number))


# ---- failure handlers


def second_time(value: Any) -> Any:
    """Fails at its first attempt."""
    attempt = stepwire.current_attempt()
    assert attempt is not None
    if attempt.attempt == 1:
        refused("the first attempt of the handler")
    return told(value)


def what_failed(failed: RunFailure) -> list[Any]:
    assert isinstance(failed.input, Order)
    return [failed.run_id, failed.flow, failed.input.number, failed.failure.code.name, failed.failure.message]


@host.flow
async def sold_out(ctx: Context, order: Order) -> None:
    """Fails; its handler is one step, which fails at first."""
    enter(ctx)
    await ctx.step.run("sell", refused, "sold out", retries=0)


@sold_out.on_failure
def apologise(failed: RunFailure) -> list[Any]:
    return list(second_time(what_failed(failed)))


@host.flow
async def closed(ctx: Context, order: Order) -> None:
    """Fails; its handler is a flow body."""
    enter(ctx)
    await ctx.step.run("sell", refused, "closed", retries=0)


@closed.on_failure
async def put_off(ctx: Context, failed: RunFailure) -> list[Any]:
    enter(ctx)
    return await ctx.step.run("tell", second_time, what_failed(failed), retries=QUICKLY)


@host.flow
async def hopeless(ctx: Context, order: Order) -> None:
    """Fails, and so does its handler."""
    enter(ctx)
    await ctx.step.run("sell", refused, "hopeless", retries=0)


@hopeless.on_failure
async def also_hopeless(ctx: Context, failed: RunFailure) -> None:
    enter(ctx)
    await ctx.step.run("tell", refused, "nobody listens", retries=0)


# ---- hooks


def note(call: HookCall) -> None:
    pen.write(f"hook:{call.kind}", call.run_id, call.path or "-", call.attempt)


async def stumble(call: HookCall) -> None:
    """A hook that fails, before and after the one that works."""
    raise RuntimeError(f"a hook that fails at {call.kind}")


for kind in HOOK_KINDS:
    host.on(kind)(stumble)
    host.on(kind)(note)


@host.flow
async def hooked(ctx: Context, fails: bool) -> list[Any]:
    """Three steps at once, of which one is tried twice; then perhaps a failure."""
    enter(ctx)
    three = await ctx.group.parallel(
        (
            lambda: ctx.step.run("a", told, "a", compensate=told),
            lambda: ctx.step.run("flaky", second_time, "flaky", retries=QUICKLY),
            lambda: ctx.step.run("c", told, "c"),
        )
    )
    if fails:
        await ctx.step.run("ship", refused, "no lorry", retries=0)
    return list(three)


# ---- successors


@dataclass(frozen=True)
class Lap:
    """How many laps are left, and what those before have added up."""

    left: int
    total: int = 0


@host.flow
async def laps(ctx: Context, lap: Lap) -> int:
    """Each run is one lap, and the next one is its successor."""
    enter(ctx)
    total = lap.total + await ctx.step.run("lap", gated, lap.left)
    if lap.left == 1:
        return int(total)
    ctx.restart_with(Lap(lap.left - 1, total))


@host.flow
async def quick_laps(ctx: Context, lap: Lap) -> int:
    """The same without gates."""
    enter(ctx)
    total = lap.total + await ctx.step.run("lap", told, lap.left)
    if lap.left == 1:
        return int(total)
    ctx.restart_with(Lap(lap.left - 1, total))


@host.flow
async def asks_for_laps(ctx: Context, lap: Lap) -> int:
    """Its child has successors; the last one answers."""
    enter(ctx)
    return await ctx.step.invoke("child", quick_laps, lap)
