"""Two branches of two steps: WAIT finishes a, x, b, y and RACE a, b, x, y (MISSION I10, P6, P7, 7.6 fixture 4)."""

from __future__ import annotations

import asyncio

import pytest

import stepwire
from stepwire import ParallelMode, testing
from stepwire.testing import Environment, TestRun
from tests.evicting import Entries
from tests.sdk.gates import Gates, recorded, turns, until_recorded

REPETITIONS = 50
ORDERS = {"WAIT": list("axby"), "RACE": list("abxy")}


class FastSlow:
    """The flow, async and sync, over gates that each repetition makes anew."""

    def __init__(self, *, is_async: bool) -> None:
        self.host = stepwire.Host("fast-slow")
        self.flow = self.host.flow(self.in_tasks if is_async else self.in_threads)
        self.entered = 0
        self.gates: Gates

    async def in_tasks(self, ctx: stepwire.Context, mode: str) -> list[str]:
        self.entered += 1

        async def branch(first: str, second: str) -> str:
            return await ctx.step.run(first, self.gates.wait, first) + await ctx.step.run(
                second, self.gates.wait, second
            )

        fast_slow = (lambda: branch("a", "b"), lambda: branch("x", "y"))
        return list(await ctx.group.parallel(fast_slow, parallel_mode=ParallelMode[mode]))

    def in_threads(self, ctx: stepwire.ContextSync, mode: str) -> list[str]:
        self.entered += 1

        def branch(first: str, second: str) -> str:
            return ctx.step.run(first, self.gates.wait_sync, first) + ctx.step.run(second, self.gates.wait_sync, second)

        fast_slow = (lambda: branch("a", "b"), lambda: branch("x", "y"))
        return list(ctx.group.parallel(fast_slow, parallel_mode=ParallelMode[mode]))

    async def run(self, env: Environment, mode: str) -> TestRun:
        gates = self.gates = Gates()
        run_id = await env.start(self.flow, mode)
        finish = asyncio.create_task(env.finish(self.flow, run_id))
        await gates.until_reached("a", "x")
        await (self.wait if mode == "WAIT" else self.race)(env, run_id)
        run = await finish
        assert gates.passed == ORDERS[mode]
        assert sorted(gates.reached) == list("abxy"), "every step body ran once"
        return run

    async def wait(self, env: Environment, run_id: str) -> None:
        gates = self.gates
        gates.open("a")
        await until_recorded(env, run_id, gates, "a")
        await turns()
        assert "b" not in gates.reached, "b was started before x ended"
        gates.open("x")
        await gates.until_reached("b", "y")
        gates.open("b")
        await until_recorded(env, run_id, gates, "b")
        gates.open("y")

    async def race(self, env: Environment, run_id: str) -> None:
        gates = self.gates
        gates.open("a")
        await gates.until_reached("b")
        gates.open("b")
        await until_recorded(env, run_id, gates, "b")
        assert recorded(env, run_id) == ["a", "b"], "x is still at its gate"
        gates.open("x")
        await gates.until_reached("y")
        gates.open("y")


@pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("mode", ["WAIT", "RACE"])
def test_order_of_completion(mode: str, is_async: bool, replay: bool) -> None:
    async def main() -> None:
        fixture = FastSlow(is_async=is_async)
        async with testing.environment(fixture.host, replay=replay) as env:
            for _ in range(REPETITIONS):
                fixture.entered = 0
                run = await fixture.run(env, mode)
                assert run.output == ["ab", "xy"]
                assert [path.rpartition("/")[2] for path in run.order] == ORDERS[mode]
                assert run.body_entries == fixture.entered
                assert fixture.entered > 1 if replay else fixture.entered == Entries(1)

    asyncio.run(main())


@pytest.mark.live_bodies
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize(("mode", "advances"), [("WAIT", 3), ("RACE", 5)])
def test_budget(mode: str, advances: int, is_async: bool) -> None:
    """The body is entered once; each step is given out once; d + 1 Advances in WAIT, s + 1 in RACE (P9)."""

    async def main() -> None:
        fixture = FastSlow(is_async=is_async)
        async with testing.environment(fixture.host) as env:
            stats = (await fixture.run(env, mode)).record.stats
        assert fixture.entered == stats.body_entries == 1
        assert stats.executes + stats.host_starts == 4
        assert stats.advances <= advances

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["WAIT", "RACE"])
def test_same_record_async_and_sync(mode: str) -> None:
    """A flow written as `def` decides the same, in the same order (I4)."""

    async def record(is_async: bool) -> tuple[object, ...]:
        fixture = FastSlow(is_async=is_async)
        async with testing.environment(fixture.host) as env:
            run = await fixture.run(env, mode)
        steps = {(s.path, s.kind, len(s.attempts)) for s in run.record.steps}
        return run.order, steps, run.record.groups, run.output

    assert asyncio.run(record(True)) == asyncio.run(record(False))
