"""Flows that do whatever their input says, with every word there is.

Runs as `stepwire host tests.e2e.medley_flows:host`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import stepwire
from stepwire import Context, ContextSync, Event, ParallelMode
from tests.e2e.bodies import dawdle, enter, refused, told
from tests.e2e.ledger import HOST_ENV

host = stepwire.Host(os.environ[HOST_ENV])
NO_RETRY = stepwire.Retry(retries=0)

Line = list[Any]
"""Ops, one after the other."""


@dataclass(frozen=True)
class Score:
    """What to do, and whether to fail at the end of it."""

    line: Line
    fails: bool = False


@host.step
async def task(value: int) -> int:
    """`dawdle`, registered."""
    return await dawdle(value)


@host.step
def untask(value: int) -> None:
    """Undoes `task` on any host."""
    told(value)


@host.flow
async def brief(ctx: Context, value: int) -> int:
    """The child of medleys."""
    enter(ctx)
    return int(await ctx.step.run("step", dawdle, value))


class Player:
    """Plays lines of one async run. Every op has a value, and a line's is their sum."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx

    async def line(self, ops: Line) -> int:
        total = 0
        for op in ops:
            total += await self.op(op)
        return total

    async def op(self, op: Any) -> int:
        match op:
            case int():
                registered = op % 2 == 1
                return await self.ctx.step.run(
                    "step", task if registered else dawdle, op, compensate=untask if registered else told
                )
            case {"sleep": seconds}:
                await self.ctx.step.sleep("sleep", seconds)
                return 0
            case {"child": value}:
                return int(await self.ctx.step.invoke("child", brief, value))
            case {"news": value}:
                return await self.news(value)
            case {"parallel": lines, "mode": mode, "limit": limit}:
                mode = ParallelMode[mode]
                return sum(await self.ctx.group.parallel(self.branches(lines), parallel_mode=mode, limit=limit))
            case {"race": lines}:
                await self.ctx.group.race(self.branches(lines))
                return 0
            case {"settle": lines}:
                settled = await self.ctx.group.settle([*self.branches(lines), self.fail])
                return sum(settled.values)
            case {"map": values, "limit": limit}:
                done = await self.ctx.group.map("item-{i}", task, values, limit=limit, compensate=untask)
                return sum(done)
        raise AssertionError(f"no op: {op}")

    async def news(self, value: int) -> int:
        """Send an event and wait for it, wherever it is by then."""
        ctx = self.ctx
        (id,) = await ctx.step.send_event("send", Event("news", {"value": value, "run": ctx.run_id}))
        event = await ctx.step.wait_event("wait", "news", match={"id": id}, lookback="1h")
        assert event is not None
        return int(event.data["value"])

    async def fail(self) -> int:
        await self.ctx.step.run("refuse", refused, "as it is written", retries=NO_RETRY, compensate=told)
        return 0

    def branches(self, lines: list[Line]) -> list[Callable[[], Any]]:
        return [lambda ops=ops: self.line(ops) for ops in lines]


@host.flow
async def medley(ctx: Context, score: Score) -> int:
    enter(ctx)
    player = Player(ctx)
    total = await player.line(score.line)
    if score.fails:
        await player.fail()
    return total


class PlayerSync:
    """The same for plain functions."""

    def __init__(self, ctx: ContextSync) -> None:
        self.ctx = ctx

    def line(self, ops: Line) -> int:
        return sum([self.op(op) for op in ops])

    def op(self, op: Any) -> int:
        step, group = self.ctx.step, self.ctx.group
        match op:
            case int():
                registered = op % 2 == 1
                return step.run("step", task if registered else dawdle, op, compensate=untask if registered else told)
            case {"sleep": seconds}:
                step.sleep("sleep", seconds)
                return 0
            case {"child": value}:
                return int(step.invoke("child", brief, value))
            case {"news": value}:
                return self.news(value)
            case {"parallel": lines, "mode": mode, "limit": limit}:
                return sum(group.parallel(self.branches(lines), parallel_mode=ParallelMode[mode], limit=limit))
            case {"race": lines}:
                group.race(self.branches(lines))
                return 0
            case {"settle": lines}:
                return sum(group.settle([*self.branches(lines), self.fail]).values)
            case {"map": values, "limit": limit}:
                return sum(group.map("item-{i}", task, values, limit=limit, compensate=untask))
        raise AssertionError(f"no op: {op}")

    def news(self, value: int) -> int:
        ctx = self.ctx
        (id,) = ctx.step.send_event("send", Event("news", {"value": value, "run": ctx.run_id}))
        event = ctx.step.wait_event("wait", "news", match={"id": id}, lookback="1h")
        assert event is not None
        return int(event.data["value"])

    def fail(self) -> int:
        self.ctx.step.run("refuse", refused, "as it is written", retries=NO_RETRY, compensate=told)
        return 0

    def branches(self, lines: list[Line]) -> list[Callable[[], int]]:
        return [lambda ops=ops: self.line(ops) for ops in lines]


@host.flow
def medley_sync(ctx: ContextSync, score: Score) -> int:
    enter(ctx)
    player = PlayerSync(ctx)
    total = player.line(score.line)
    if score.fails:
        player.fail()
    return total
