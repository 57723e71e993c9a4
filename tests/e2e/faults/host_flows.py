"""A host of the tests of hosts that die or hang: its flows and its deadly steps. `deaths` says where it kills itself.

E2E_INSTANCE is an instance id that several processes then share.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
from collections.abc import Callable
from typing import Any

import stepwire
from stepwire import Context
from tests.e2e.bodies import enter, gated, pen, told
from tests.e2e.faults import deaths
from tests.e2e.ledger import HOST_ENV

INSTANCE_ENV = "E2E_INSTANCE"
LARGE = 700_000
"""Bytes of an output whose frame travels in pieces."""

host = stepwire.Host(os.environ[HOST_ENV])


# ---- steps that kill or hang


def hold_gil(seconds: float) -> str:
    """Hold the GIL: no thread of this process runs."""
    with pen.attempt():
        if os.environ[HOST_ENV].startswith("gil"):
            ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))
    return "held"


DEATHS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(3),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
}


@host.step
async def deadly(death: str) -> str:
    """Kills whoever executes it."""
    with pen.attempt():
        DEATHS[death]()
    return "survived"


@host.step
async def patient(value: int) -> int:
    """Takes longer than a deadly step needs to kill."""
    with pen.attempt():
        await asyncio.sleep(0.4)  # gate: a step that is always under way when its host is killed
    return value


@host.flow
async def poisoned(ctx: Context, death: str) -> str:
    """A deadly step; the text of its failure."""
    enter(ctx)
    try:
        return await ctx.step.run("deadly", deadly, death)
    except stepwire.StepError as failed:
        return str(failed)


@host.flow
async def bystander(ctx: Context, steps: int) -> int:
    """Patient steps beside each other."""
    enter(ctx)
    made = [lambda n=n: ctx.step.run("patient", patient, n) for n in range(steps)]
    return sum(await ctx.group.parallel(made))


@host.flow
async def holding(ctx: Context, seconds: float) -> str:
    """One step that holds the GIL, on a host of that name; elsewhere it is quick."""
    enter(ctx)
    return await ctx.step.run("hold", hold_gil, seconds)


@host.flow
async def one_gated(ctx: Context) -> str:
    """One step at a gate."""
    enter(ctx)
    return str(await ctx.step.run("gated", gated, "done"))


# ---- a run that comes by every protocol point


@host.step
async def registered(value: str) -> str:
    """May be executed anywhere."""
    return str(told(value))


def large(_: int) -> str:
    return "x" * LARGE if told(1) else ""


def undo(result: Any) -> None:
    told(result)


@host.flow
async def tour(ctx: Context, number: int) -> None:
    """Closures, registered steps, a large output; then it fails and is undone."""
    enter(ctx)
    await ctx.step.run("closure", told, number, compensate=undo)
    await ctx.group.parallel([lambda n=n: ctx.step.run("task", registered, str(n)) for n in range(3)])
    await ctx.step.run("large", large, 0)
    await ctx.step.run("last", told, "last", compensate=undo)
    raise ValueError("to be undone")


deaths.arm()
if shared := os.environ.get(INSTANCE_ENV):
    made = secrets.token_hex
    names = iter([shared])
    secrets.token_hex = lambda size=16: next(names, "") or made(size)  # type: ignore[assignment]
