"""The host of the end-to-end tests: its flows and steps. Runs as `stepwire host tests.e2e.flows:host`.

Every step body writes `before` and `after` lines around what it does, see `ledger.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
import zlib
from dataclasses import dataclass
from typing import Any

import stepwire
from stepwire import Context, ContextSync, ParallelMode
from tests.e2e.bodies import dawdle, enter, gated, gated_sync, pen, told
from tests.e2e.gates import pass_gate
from tests.e2e.ledger import HOST_ENV

host = stepwire.Host(os.environ[HOST_ENV])


# ---- registered steps


@host.step
async def task(value: int) -> int:
    """`dawdle`, registered."""
    return await dawdle(value)


@host.step
def gated_task(value: int) -> int:
    """`gated_sync`, registered."""
    return int(gated_sync(value))


# ---- order: fast and slow branches


@host.flow
async def two_by_two(ctx: Context, mode: str) -> list[list[str]]:
    """Branches a, b and x, y of gated steps."""
    enter(ctx)

    async def branch(first: str, second: str) -> list[str]:
        return [await ctx.step.run(first, gated, first), await ctx.step.run(second, gated, second)]

    both = await ctx.group.parallel(
        (lambda: branch("a", "b"), lambda: branch("x", "y")), parallel_mode=ParallelMode[mode]
    )
    return list(both)


@host.flow
def two_by_two_sync(ctx: ContextSync, mode: str) -> list[list[str]]:
    """The same as a plain function."""
    enter(ctx)

    def branch(first: str, second: str) -> list[str]:
        return [ctx.step.run(first, gated_sync, first), ctx.step.run(second, gated_sync, second)]

    both = ctx.group.parallel((lambda: branch("a", "b"), lambda: branch("x", "y")), parallel_mode=ParallelMode[mode])
    return list(both)


@host.flow
async def repeated_names(ctx: Context, mode: str) -> list[list[str]]:
    """Both branches use one step name twice."""
    enter(ctx)

    async def branch(name: str) -> list[str]:
        first = await ctx.step.run("work", told, f"{name}-first")
        return [first, await ctx.step.run("work", told, f"{name}-second")]

    return list(
        await ctx.group.parallel((lambda: branch("b1"), lambda: branch("b2")), parallel_mode=ParallelMode[mode])
    )


# ---- random trees


@dataclass(frozen=True)
class Tree:
    """A group of branches, and the mode of it and of those nested in it."""

    mode: str
    branches: list[Any]


@host.flow
async def tree(ctx: Context, planted: Tree) -> list[Any]:
    """Branches are lists of values (a step each; even ones closures, odd ones registered) and of nested groups."""
    enter(ctx)

    async def grow(item: Any, index: int) -> Any:
        if isinstance(item, list):
            return await group(item)
        return await ctx.step.run(f"s{index}", task if item % 2 else dawdle, item)

    async def branch(items: list[Any]) -> list[Any]:
        return [await grow(item, index) for index, item in enumerate(items)]

    async def group(members: list[Any]) -> list[Any]:
        made = [lambda items=items: branch(items) for items in members]
        return list(await ctx.group.parallel(made, parallel_mode=ParallelMode[planted.mode]))

    grown = await group(planted.branches)
    return [grown, await ctx.step.run("after", told, "after")]


# ---- the run that is killed


async def metered(value: int) -> int:
    """A gate, and then up to 24 ms, so that a kill may come before, in and after its result and its Ack."""
    with pen.attempt() as key:
        await pass_gate(key)
        await asyncio.sleep(zlib.crc32(key.encode()) % 25 / 1000)  # gate: a step that takes time
    return value


@host.step
async def metered_task(value: int) -> int:
    """`metered`, registered."""
    return await metered(value)


ROUNDS = 4
CHAOS_STEPS = 60
CHAOS_RESULT = sum(range(CHAOS_STEPS))


@host.flow
async def sixty(ctx: Context) -> int:
    """60 steps in sequences and groups of both modes, closures and registered ones; returns 0 + 1 + .. + 59."""
    enter(ctx)
    numbers = iter(range(CHAOS_STEPS))

    async def pair(first: int, second: int) -> int:
        one = await ctx.step.run("closure", metered, first)
        return one + await ctx.step.run("task", metered_task, second)

    total = 0
    for _ in range(ROUNDS):
        for fn in (metered, metered_task, metered):
            total += await ctx.step.run("single", fn, next(numbers))
        for mode in (ParallelMode.WAIT, ParallelMode.RACE):
            pairs = [(next(numbers), next(numbers)) for _ in range(3)]
            made = [lambda pair_of=pair_of: pair(*pair_of) for pair_of in pairs]
            total += sum(await ctx.group.parallel(made, parallel_mode=mode))
    return total


# ---- spread, blocking, shutting down


@host.flow
async def spread(ctx: Context, members: int) -> list[int]:
    """A group of gated registered steps."""
    enter(ctx)
    made = [lambda i=i: ctx.step.run("member", gated_task, i) for i in range(members)]
    return list(await ctx.group.parallel(made))


@host.flow
async def gate_between(ctx: Context) -> list[str]:
    """Three closures, the second one gated."""
    enter(ctx)
    return [await ctx.step.run(name, gated if name == "gated" else told, name) for name in ("first", "gated", "last")]


async def leave(ticks: int) -> str:
    """Behind a gate: SIGTERM to its own host, and then it ends so many ticks of the loop later."""
    with pen.attempt() as key:
        await pass_gate(key)
        if os.environ[HOST_ENV] == f"leaving-{ticks}":  # a second attempt, elsewhere, does not
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(ticks):
                await asyncio.sleep(0)
    return "left"


@host.flow
async def leaving(ctx: Context, ticks: int) -> list[str]:
    """Its first step ends while the host begins to drain."""
    enter(ctx)
    return [await ctx.step.run("leave", leave, ticks), await ctx.step.run("last", told, "last")]


def block(seconds: float) -> str:
    """Blocks whatever thread it runs on."""
    with pen.attempt():
        time.sleep(seconds)  # gate: a step that blocks is what is tested
    return "blocked"


async def block_loop(seconds: float) -> str:
    return block(seconds)


@host.flow
async def blocking(ctx: Context, seconds: float) -> str:
    """One plain step that blocks its thread."""
    enter(ctx)
    return await ctx.step.run("block", block, seconds)


@host.flow
async def blocking_loop(ctx: Context, seconds: float) -> str:
    """One async step that blocks the loop of the host."""
    enter(ctx)
    return await ctx.step.run("block", block_loop, seconds)


async def stubborn(seconds: float) -> str:
    """Takes no hint to stop."""
    with pen.attempt():
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                await asyncio.sleep(end - time.monotonic())  # gate: a step that goes on is what is tested
            except asyncio.CancelledError:
                continue
    return "stubborn"


@host.flow
async def stays_on(ctx: Context, seconds: float) -> str:
    """One async step that swallows its cancellation."""
    enter(ctx)
    return await ctx.step.run("stay", stubborn, seconds)


@host.flow
async def one_gated_sync(ctx: Context) -> str:
    """One plain step at a gate."""
    enter(ctx)
    return str(await ctx.step.run("gated", gated_sync, "done"))


# ---- input and output


@host.flow
async def plus_one(ctx: Context, n: int) -> int:
    """The good call."""
    enter(ctx)
    return await ctx.step.run("plus", lambda: n + 1)


@host.flow
async def no_json(ctx: Context) -> Any:
    """Its step returns what JSON cannot carry."""
    enter(ctx)
    return await ctx.step.run("bad", lambda: object())


@host.flow
async def no_json_itself(ctx: Context) -> Any:
    """It returns itself what JSON cannot carry."""
    enter(ctx)
    await ctx.step.run("good", told, 1)
    return object()


@host.flow
async def step_output(ctx: Context, size: int) -> int:
    """Its step returns a text of `size` characters."""
    enter(ctx)
    return len(await ctx.step.run("big", lambda: "x" * size))


@host.flow
async def flow_output(ctx: Context, size: int) -> str:
    """It returns a text of `size` characters."""
    enter(ctx)
    return "x" * size


@host.step
def reverse(text: str) -> str:
    """A registered step with a large input and a large output."""
    return str(told(text[::-1]))


@host.flow
async def large_task(ctx: Context, text: str) -> str:
    enter(ctx)
    first, second = await ctx.group.parallel(
        (lambda: ctx.step.run("one", reverse, text), lambda: ctx.step.run("two", reverse, text))
    )
    return "same" if first == second == text[::-1] else "different"


def letters(index: int, size: int) -> str:
    """A text of its own for every index."""
    head = f"{index}:"
    return str(told(head + "abcdefghij"[index % 10] * (size - len(head))))


@dataclass(frozen=True)
class Parts:
    """So many outputs of this size."""

    members: int
    size: int


@host.flow
async def large_group(ctx: Context, parts: Parts) -> list[int]:
    """CRCs of the members' outputs."""
    enter(ctx)
    made = [lambda i=i: ctx.step.run("part", letters, i, parts.size) for i in range(parts.members)]
    return [zlib.crc32(part.encode()) for part in await ctx.group.parallel(made)]
