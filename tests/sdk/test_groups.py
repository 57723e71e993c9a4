"""Groups: identity of steps, branches of every kind, nesting, results in declaration order (P6-P8, P10, P11)."""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter
from typing import Any

import pytest

import stepwire
from stepwire import ParallelMode, testing
from tests.sdk.gates import Gates, recorded, turns, until_recorded

MODES = pytest.mark.parametrize("mode", list(ParallelMode), ids=lambda m: m.name)
REPLAY = pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])


def host_of(fn: Any) -> tuple[stepwire.Host, Any]:
    host = stepwire.Host("groups")
    return host, host.flow(fn)


@ASYNC
@REPLAY
@MODES
def test_repeated_ids_in_two_branches(mode: ParallelMode, replay: bool, is_async: bool) -> None:
    """Names count per branch, never per run (P11, surprise 3)."""
    calls: Counter[str] = Counter()

    def work(value: str) -> str:
        calls[value] += 1
        return value

    async def in_tasks(ctx: stepwire.Context) -> Any:
        async def branch(b: str) -> list[str]:
            return [await ctx.step.run("work", work, f"{b}-first"), await ctx.step.run("work", work, f"{b}-second")]

        return await ctx.group.parallel((lambda: branch("b1"), lambda: branch("b2")), parallel_mode=mode)

    def in_threads(ctx: stepwire.ContextSync) -> Any:
        def branch(b: str) -> list[str]:
            return [ctx.step.run("work", work, f"{b}-first"), ctx.step.run("work", work, f"{b}-second")]

        return ctx.group.parallel((lambda: branch("b1"), lambda: branch("b2")), parallel_mode=mode)

    run = testing.run(*host_of(in_tasks if is_async else in_threads), replay=replay)
    assert run.output == [["b1-first", "b1-second"], ["b2-first", "b2-second"]]
    assert calls == dict.fromkeys(["b1-first", "b1-second", "b2-first", "b2-second"], 1)
    assert {s.path for s in run.record.steps} == {
        "parallel/[0]/work", "parallel/[0]/work#2", "parallel/[1]/work", "parallel/[1]/work#2",
    }  # fmt: skip


@ASYNC
@REPLAY
def test_empty_one_member_and_nested(replay: bool, is_async: bool) -> None:
    seen: list[Any] = []

    async def in_tasks(ctx: stepwire.Context) -> Any:
        one = lambda n: lambda: ctx.step.run(f"s{n}", lambda: n)  # noqa: E731
        seen[:] = [
            await ctx.group.parallel(()),
            await ctx.group.parallel([one(1)]),
            await ctx.group.parallel((lambda: ctx.group.parallel((one(1), one(2))), one(3))),
        ]
        return "done"

    def in_threads(ctx: stepwire.ContextSync) -> Any:
        one = lambda n: lambda: ctx.step.run(f"s{n}", lambda: n)  # noqa: E731
        seen[:] = [
            ctx.group.parallel(()),
            ctx.group.parallel([one(1)]),
            ctx.group.parallel((lambda: ctx.group.parallel((one(1), one(2))), one(3))),
        ]
        return "done"

    run = testing.run(*host_of(in_tasks if is_async else in_threads), replay=replay)
    assert run.output == "done"
    assert seen == [(), (1,), ((1, 2), 3)]
    assert [g.path for g in run.record.groups] == ["parallel", "parallel#2", "parallel#3", "parallel#3/[0]/parallel"]


@ASYNC
@REPLAY
def test_modes_of_nested_groups(replay: bool, is_async: bool) -> None:
    """Each group runs its waves by its own mode; it never waits for outer siblings, and they wait for it (P8)."""

    def build(outer: ParallelMode, inner: ParallelMode, gates: Gates) -> Any:
        async def in_tasks(ctx: stepwire.Context) -> Any:
            async def pair(first: str, second: str) -> None:
                await ctx.step.run(first, gates.wait, first)
                await ctx.step.run(second, gates.wait, second)

            def nested() -> Any:
                return ctx.group.parallel((lambda: pair("a", "b"), lambda: pair("x", "y")), parallel_mode=inner)

            await ctx.group.parallel((nested, lambda: pair("p", "q")), parallel_mode=outer)

        def in_threads(ctx: stepwire.ContextSync) -> Any:
            def pair(first: str, second: str) -> None:
                ctx.step.run(first, gates.wait_sync, first)
                ctx.step.run(second, gates.wait_sync, second)

            def nested() -> Any:
                return ctx.group.parallel((lambda: pair("a", "b"), lambda: pair("x", "y")), parallel_mode=inner)

            ctx.group.parallel((nested, lambda: pair("p", "q")), parallel_mode=outer)

        return in_tasks if is_async else in_threads

    async def main(outer: ParallelMode, inner: ParallelMode) -> list[str]:
        gates = Gates()
        host, flow = host_of(build(outer, inner, gates))
        async with testing.environment(host, replay=replay) as env:
            run_id = await env.start(flow)
            finish = asyncio.create_task(env.finish(flow, run_id))
            await gates.until_reached("a", "x", "p")
            gates.open("p")
            await until_recorded(env, run_id, gates, "p")
            if outer is ParallelMode.RACE:
                await gates.until_reached("q")
            gates.open("a")
            await until_recorded(env, run_id, gates, "a")
            if inner is ParallelMode.RACE:
                await gates.until_reached("b")
            await turns()
            started = list(gates.reached)
            gates.open("b", "x", "y", "q")
            assert (await finish).succeeded
        return started

    assert asyncio.run(main(ParallelMode.WAIT, ParallelMode.RACE))[3:] == ["b"], "q waits for the whole inner group"
    assert asyncio.run(main(ParallelMode.RACE, ParallelMode.WAIT))[3:] == ["q"], "b waits for x only"
    assert asyncio.run(main(ParallelMode.WAIT, ParallelMode.WAIT))[3:] == []
    assert asyncio.run(main(ParallelMode.RACE, ParallelMode.RACE))[3:] == ["q", "b"]


def test_group_waits_for_inner_group_then_goes_on() -> None:
    """A branch that finished its steps does not hold the waves of the others."""

    async def flow(ctx: stepwire.Context) -> list[int]:
        async def long() -> int:
            return sum([await ctx.step.run("s", lambda: 1) for _ in range(5)])

        return list(await ctx.group.parallel((long, lambda: ctx.step.run("t", lambda: 1))))

    assert testing.run(*host_of(flow)).output == [5, 1]


# ---- branches


class CallableObject:
    def __init__(self, ctx: stepwire.Context) -> None:
        self.ctx = ctx

    async def __call__(self) -> str:
        return await self.ctx.step.run("object", lambda: "object")


@REPLAY
@MODES
def test_branches_of_every_kind(mode: ParallelMode, replay: bool) -> None:
    async def flow(ctx: stepwire.Context) -> list[Any]:
        async def coroutine_function() -> str:
            return await ctx.step.run("coroutine", lambda: "coroutine")

        async def with_argument(name: str) -> str:
            return await ctx.step.run(name, lambda: name)

        async def no_step() -> str:
            await asyncio.sleep(0)
            return "none"

        members = [
            lambda: ctx.step.run("bare", lambda: "bare"),
            coroutine_function,
            functools.partial(with_argument, "partial"),
            functools.partial(ctx.step.run, "partial step", lambda: "step"),
            CallableObject(ctx),
            no_step,
            lambda: "plain",
        ]
        return list(await ctx.group.parallel((m for m in members), parallel_mode=mode))

    run = testing.run(*host_of(flow), replay=replay)
    assert run.output == ["bare", "coroutine", "partial", "step", "object", "none", "plain"]


@ASYNC
def test_not_callable_names_the_index(is_async: bool) -> None:
    async def in_tasks(ctx: stepwire.Context) -> str:
        async def branch() -> None: ...

        try:
            ctx.group.parallel((branch, branch(), branch))  # type: ignore[arg-type]
        except TypeError as error:
            return str(error)
        return ""

    def in_threads(ctx: stepwire.ContextSync) -> str:
        try:
            ctx.group.parallel((lambda: None, 1, lambda: None))  # type: ignore[arg-type]
        except TypeError as error:
            return str(error)
        return ""

    run = testing.run(*host_of(in_tasks if is_async else in_threads))
    assert run.output.startswith("branch 1 is ")
    assert run.record.groups == (), "nothing was planned"


@ASYNC
@REPLAY
def test_code_outside_steps_delays_only_its_own_branch(replay: bool, is_async: bool) -> None:
    """Branch 2 starts its step while branch 1 awaits something that is no step (1.3)."""

    async def main() -> None:
        gates = Gates()

        async def in_tasks(ctx: stepwire.Context) -> Any:
            async def delayed() -> str:
                await gates.wait("code")
                return await ctx.step.run("one", lambda: "one")

            return await ctx.group.parallel((delayed, lambda: ctx.step.run("two", gates.wait, "two")))

        def in_threads(ctx: stepwire.ContextSync) -> Any:
            def delayed() -> str:
                gates.wait_sync("code")
                return ctx.step.run("one", lambda: "one")

            return ctx.group.parallel((delayed, lambda: ctx.step.run("two", gates.wait_sync, "two")))

        host, flow = host_of(in_tasks if is_async else in_threads)
        async with testing.environment(host, replay=replay) as env:
            run_id = await env.start(flow)
            finish = asyncio.create_task(env.finish(flow, run_id))
            await gates.until_reached("code", "two")
            gates.open("two")
            await until_recorded(env, run_id, gates, "two")
            assert recorded(env, run_id) == ["two"]
            gates.open("code")
            assert (await finish).output == ["one", "two"]

    asyncio.run(main())


@MODES
def test_results_in_declaration_order(mode: ParallelMode, seed: int) -> None:
    """Whatever finishes first (P10)."""
    rng = random.Random(seed)

    async def main() -> None:
        state: dict[str, Gates] = {}

        async def flow(ctx: stepwire.Context, n: int) -> list[int]:
            branches = [lambda i=i: ctx.step.run(f"s{i}", state["gates"].wait, f"s{i}", i) for i in range(n)]
            return list(await ctx.group.parallel(branches, parallel_mode=mode))

        host, registered = host_of(flow)
        async with testing.environment(host) as env:
            for _ in range(100):
                n = rng.randint(2, 8)
                gates = state["gates"] = Gates()
                order = rng.sample([f"s{i}" for i in range(n)], n)
                run_id = await env.start(registered, n)
                finish = asyncio.create_task(env.finish(registered, run_id))
                await gates.until_reached(*order)
                for name in order:
                    gates.open(name)
                    await gates.until_passed(name)
                assert gates.passed == order
                assert (await finish).output == list(range(n))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("group", "flow_mode", "host_mode", "effective"),
    [
        ("WAIT", "RACE", "RACE", "WAIT"),
        (None, "RACE", "WAIT", "RACE"),
        (None, None, "RACE", "RACE"),
        (None, None, None, "WAIT"),
    ],
)
def test_nearest_mode_wins(group: str | None, flow_mode: str | None, host_mode: str | None, effective: str) -> None:
    """Group argument, then flow, then host, then WAIT (I7); the record shows the effective one."""
    host = stepwire.Host("modes", **({"parallel_mode": ParallelMode[host_mode]} if host_mode else {}))

    @host.flow(parallel_mode=ParallelMode[flow_mode] if flow_mode else None)
    async def flow(ctx: stepwire.Context) -> None:
        mode = ParallelMode[group] if group else None
        await ctx.group.parallel((lambda: ctx.step.run("s", lambda: 1),), parallel_mode=mode)

    assert testing.run(host, flow).record.groups[0].mode is ParallelMode[effective]
