"""How much driving a run takes while its host stays: the request budget of DESIGN section 4 (MISSION 1.2, P9)."""

from __future__ import annotations

import asyncio

import pytest

import stepwire
from stepwire import ParallelMode, testing
from stepwire_engine.core.entries import RunStats

pytestmark = pytest.mark.live_bodies


def counted(flow_name: str, steps: int, mode: ParallelMode) -> RunStats:
    """Run one flow live; checks that its body was entered once and that each step body ran once."""
    # A slot for each step: with fewer the engine may fill a slot that the host has just taken itself, and an Execute
    # that comes back for want of a slot is counted, though it is no attempt.
    host = stepwire.Host("budget", parallel_mode=mode, slots=1000)
    entered: list[str] = []
    ran: list[int] = []

    async def work(i: int) -> int:
        ran.append(i)
        return i

    @host.flow
    async def wide(ctx: stepwire.Context, n: int) -> int:
        entered.append("wide")
        return sum(await ctx.group.parallel([lambda i=i: ctx.step.run(f"s{i}", work, i) for i in range(n)]))

    @host.flow
    def wide_sync(ctx: stepwire.ContextSync, n: int) -> int:
        entered.append("wide_sync")
        return sum(ctx.group.parallel([lambda i=i: ctx.step.run(f"s{i}", work, i) for i in range(n)]))

    @host.flow
    async def sequence(ctx: stepwire.Context, n: int) -> int:
        entered.append("sequence")
        return sum([await ctx.step.run("s", work, i) for i in range(n)])

    run = testing.run(host, host.flows[flow_name], steps)
    assert run.output == sum(range(steps))
    assert len(entered) == run.record.stats.body_entries == 1
    assert sorted(ran) == list(range(steps))
    assert run.record.stats.executes + run.record.stats.host_starts == steps
    return run.record.stats


@pytest.mark.parametrize("flow", ["wide", "wide_sync"])
@pytest.mark.parametrize("steps", [1, 3, 50, 1000])
def test_wide_group_in_wait(steps: int, flow: str) -> None:
    assert counted(flow, steps, ParallelMode.WAIT).advances <= 2


@pytest.mark.parametrize("flow", ["wide", "wide_sync"])
@pytest.mark.parametrize("steps", [1, 3, 50, 1000])
def test_wide_group_in_race(steps: int, flow: str) -> None:
    assert counted(flow, steps, ParallelMode.RACE).advances <= steps + 1


def test_three_in_sequence() -> None:
    assert counted("sequence", 3, ParallelMode.WAIT).advances <= 4


def test_uneven_branches() -> None:
    """Three steps beside one: d = 3, s = 4."""
    host = stepwire.Host("budget")

    @host.flow
    async def uneven(ctx: stepwire.Context, mode: str) -> int:
        async def long() -> int:
            return sum([await ctx.step.run("s", lambda: 1) for _ in range(3)])

        branches = (long, lambda: ctx.step.run("t", lambda: 1))
        return sum(await ctx.group.parallel(branches, parallel_mode=ParallelMode[mode]))

    async def main() -> None:
        async with testing.environment(host) as env:
            for mode, most in (("WAIT", 4), ("RACE", 5)):
                run = await env.execute(uneven, mode)
                assert run.output == 4
                assert run.record.stats.advances <= most
                assert run.body_entries == 1

    asyncio.run(main())
