"""Code that changed under a run: a typed pause with both paths, never a hang, never a repeated step (MISSION P12)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import stepwire
from stepwire import ParallelMode, testing
from stepwire.protocol.failure import ErrorCode
from stepwire_engine.core.entries import Planned, RunState
from tests.evicting import Entries
from tests.sdk.gates import Gates, until

Body = Callable[["Versions", stepwire.Context], Any]


class Versions:
    """One service in several versions of its code; steps count their calls, and one waits at a gate."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.gates = Gates()
        self.block = True

    def host(self, body: Body) -> stepwire.Host:
        host = stepwire.Host("service")

        @host.flow(name="flow")
        async def flow(ctx: stepwire.Context) -> Any:
            return await body(self, ctx)

        @host.step(name="registered")
        async def registered(name: str) -> str:
            return await self.note(name)

        return host

    async def note(self, name: str) -> str:
        self.calls[name] += 1
        return name

    async def hold(self, name: str) -> str:
        """Ends only with `block` off: the first host dies while it runs."""
        if self.block:
            await self.gates.wait(name)
        return await self.note(name)

    def registered(self, ctx: stepwire.Context) -> Any:
        return ctx._body.host._steps["registered"]  # type: ignore[attr-defined]


def planned(env: testing.Environment, run_id: str) -> list[str]:
    """Last segments of the steps whose plan is committed."""
    return [
        step.path.rpartition("/")[2] for e in env.journal(run_id) if isinstance(e, Planned) for step in e.plan.steps
    ]


async def crashed(versions: Versions, env: testing.Environment, v1: stepwire.Host, v2: stepwire.Host, last: str) -> Any:
    """Run v1 until it waits at gate `last`, kill the host, go on with v2 until the run settles."""
    flow = v1.flows["flow"]
    run_id = await env.start(flow)
    await versions.gates.until_reached(last)
    # With the plan on record the engine gives that step out together with the snapshot.
    await until("the plan is recorded", lambda: last in planned(env, run_id))
    versions.block = False
    await env.crash(v1, v2)
    return await env.finish(v2.flows["flow"], run_id)


async def three(v: Versions, ctx: stepwire.Context) -> list[str]:
    return [
        await ctx.step.run("one", v.note, "one"),
        await ctx.step.run("two", v.note, "two"),
        await ctx.step.run("three", v.hold, "three"),
    ]


async def disappearing(v: Versions, ctx: stepwire.Context) -> list[str]:
    return [await ctx.step.run("one", v.note, "one"), await ctx.step.run("three", v.hold, "three")]


async def renamed(v: Versions, ctx: stepwire.Context) -> list[str]:
    return [
        await ctx.step.run("one", v.note, "one"),
        await ctx.step.run("zwei", v.note, "two"),
        await ctx.step.run("three", v.hold, "three"),
    ]


async def added(v: Versions, ctx: stepwire.Context) -> list[str]:
    return [
        await ctx.step.run("one", v.note, "one"),
        await ctx.step.run("between", v.note, "between"),
        await ctx.step.run("two", v.note, "two"),
        await ctx.step.run("three", v.hold, "three"),
    ]


async def swapped_kind(v: Versions, ctx: stepwire.Context) -> list[str]:
    return [
        await ctx.step.run("one", v.note, "one"),
        await ctx.step.run("two", v.registered(ctx), "two"),
        await ctx.step.run("three", v.hold, "three"),
    ]


async def ends_early(v: Versions, ctx: stepwire.Context) -> list[str]:
    return [await ctx.step.run("one", v.note, "one")]


async def raises_early(v: Versions, ctx: stepwire.Context) -> list[str]:
    await ctx.step.run("one", v.note, "one")
    raise ValueError("new code")


async def grouped(v: Versions, ctx: stepwire.Context) -> list[str]:
    await ctx.step.run("one", v.note, "one")
    return list(await ctx.group.parallel((lambda: ctx.step.run("two", v.note, "two"),)))


CHANGES = [
    (disappearing, "step 'two' (run)", "step 'three' (run)"),
    (renamed, "step 'two' (run)", "step 'zwei' (run)"),
    (added, "step 'two' (run)", "step 'between' (run)"),
    (swapped_kind, "step 'two' (run)", "step 'two' (task of 'registered')"),
    (ends_early, "step 'two' (run)", "the end of the flow"),
    (raises_early, "step 'two' (run)", "the failure of the flow"),
    (grouped, "step 'two' (run)", "parallel"),
]


@pytest.mark.parametrize(("v2", "expected", "received"), CHANGES, ids=lambda v: getattr(v, "__name__", None))
def test_changed_code_pauses_the_run(v2: Body, expected: str, received: str) -> None:
    async def main() -> None:
        versions = Versions()
        first, second = versions.host(three), versions.host(v2)
        async with testing.environment(first) as env:
            run = await crashed(versions, env, first, second, "three")
            assert run.record.state is RunState.PAUSED
            assert run.failure is not None
            assert (run.failure.code, run.failure.type) == (ErrorCode.NON_DETERMINISTIC_FLOW, "NonDeterministicFlow")
            before, _, after = run.failure.message.partition("received")
            assert expected in before
            assert received in after
            assert versions.calls == {"one": 1, "two": 1}, "nothing ran under the wrong code"
            assert run.body_entries == Entries(2)

            restored = versions.host(three)
            await env.crash(second, restored)
            await env.resume(run.record.run_id)
            again = await env.finish(restored.flows["flow"], run.record.run_id)
            assert again.output == ["one", "two", "three"]
            assert versions.calls == {"one": 1, "two": 1, "three": 1}, "completed steps were not repeated"

    asyncio.run(main())


async def two_branches(v: Versions, ctx: stepwire.Context, count: int, mode: ParallelMode) -> list[str]:
    def branch(i: int) -> Any:
        async def steps() -> str:
            first = await ctx.step.run("first", v.note, f"first{i}")
            return first + await ctx.step.run(f"second{i}", v.hold, f"second{i}")

        return steps

    return list(await ctx.group.parallel([branch(i) for i in range(count)], parallel_mode=mode))


@pytest.mark.parametrize(
    ("count", "mode", "received"),
    [
        (3, ParallelMode.WAIT, "group 'parallel' with 3 branches in WAIT"),
        (1, ParallelMode.WAIT, "group 'parallel' with 1 branches in WAIT"),
        (2, ParallelMode.RACE, "group 'parallel' with 2 branches in RACE"),
    ],
)
def test_changed_group_pauses_the_run(count: int, mode: ParallelMode, received: str) -> None:
    async def main() -> None:
        versions = Versions()
        first = versions.host(lambda v, ctx: two_branches(v, ctx, 2, ParallelMode.WAIT))
        second = versions.host(lambda v, ctx: two_branches(v, ctx, count, mode))
        async with testing.environment(first) as env:
            run = await crashed(versions, env, first, second, "second1")
        assert run.record.state is RunState.PAUSED
        assert run.failure is not None and run.failure.code is ErrorCode.NON_DETERMINISTIC_FLOW
        assert run.failure.message == f"expected group 'parallel' with 2 branches in WAIT, received {received}"
        assert versions.calls == {"first0": 1, "first1": 1}

    asyncio.run(main())


def test_changed_step_inside_a_branch() -> None:
    async def other(v: Versions, ctx: stepwire.Context) -> list[str]:
        async def first() -> str:
            return await ctx.step.run("first", v.note, "first0") + await ctx.step.run("second0", v.hold, "second0")

        async def changed() -> str:
            return await ctx.step.run("other", v.note, "other")

        return list(await ctx.group.parallel((first, changed)))

    async def main() -> None:
        versions = Versions()
        v1 = versions.host(lambda v, ctx: two_branches(v, ctx, 2, ParallelMode.WAIT))
        async with testing.environment(v1) as env:
            run = await crashed(versions, env, v1, versions.host(other), "second1")
        assert run.record.state is RunState.PAUSED
        assert run.failure is not None
        assert "expected step 'parallel/[1]/first' (run)" in run.failure.message
        assert versions.calls["other"] == 0

    asyncio.run(main())


def test_registered_step_that_became_a_closure() -> None:
    async def v1(v: Versions, ctx: stepwire.Context) -> str:
        await ctx.step.run("two", v.registered(ctx), "two")
        return await ctx.step.run("three", v.hold, "three")

    async def v2(v: Versions, ctx: stepwire.Context) -> str:
        await ctx.step.run("two", v.note, "two")
        return await ctx.step.run("three", v.hold, "three")

    async def main() -> None:
        versions = Versions()
        first = versions.host(v1)
        async with testing.environment(first) as env:
            run = await crashed(versions, env, first, versions.host(v2), "three")
        assert run.record.state is RunState.PAUSED
        assert run.failure is not None
        assert run.failure.message == "expected step 'two' (task of 'registered'), received step 'two' (run)"
        assert versions.calls == {"two": 1}

    asyncio.run(main())


def test_appended_steps_are_fine() -> None:
    async def appended(v: Versions, ctx: stepwire.Context) -> list[str]:
        return [*await three(v, ctx), await ctx.step.run("four", v.note, "four")]

    async def main() -> None:
        versions = Versions()
        v1, v2 = versions.host(three), versions.host(appended)
        async with testing.environment(v1) as env:
            run = await crashed(versions, env, v1, v2, "three")
        assert run.output == ["one", "two", "three", "four"]
        assert versions.calls == {"one": 1, "two": 1, "three": 1, "four": 1}

    asyncio.run(main())


def test_changed_policies_and_code_are_fine() -> None:
    """Identity is path and kind; retries, timeouts and what a step does may change."""

    async def tuned(v: Versions, ctx: stepwire.Context) -> list[str]:
        return [
            await ctx.step.run("one", v.note, "uno", retries=9),
            await ctx.step.run("two", v.note, "dos", timeout="1h"),
            await ctx.step.run("three", v.note, "tres"),
        ]

    async def main() -> None:
        versions = Versions()
        v1, v2 = versions.host(three), versions.host(tuned)
        async with testing.environment(v1) as env:
            run = await crashed(versions, env, v1, v2, "three")
        assert run.output == ["one", "two", "tres"]

    asyncio.run(main())


def test_order_of_plans_within_a_turn_does_not_matter() -> None:
    """Decisions between two releases are a set: identity is by path, never by position (1.3)."""

    async def pair(v: Versions, ctx: stepwire.Context, names: str) -> list[str]:
        steps = {name: ctx.step.run(name, v.note, name) for name in names}
        got = [await steps[name] for name in sorted(names)]
        return [*got, await ctx.step.run("last", v.hold, "last")]

    async def main() -> None:
        versions = Versions()
        v1, v2 = versions.host(lambda v, c: pair(v, c, "ab")), versions.host(lambda v, c: pair(v, c, "ba"))
        async with testing.environment(v1) as env:
            run = await crashed(versions, env, v1, v2, "last")
        assert run.output == ["a", "b", "last"]
        assert versions.calls == {"a": 1, "b": 1, "last": 1}

    asyncio.run(main())


def test_sync_flow_pauses_too() -> None:
    calls: Counter[str] = Counter()

    def note(name: str) -> str:
        calls[name] += 1
        return name

    async def main() -> None:
        gates = Gates()

        def version(names: list[str]) -> stepwire.Host:
            host = stepwire.Host("service")

            @host.flow(name="flow")
            def flow(ctx: stepwire.ContextSync) -> str:
                for name in names:
                    ctx.step.run(name, note, name)
                return ctx.step.run("last", gates.wait_sync, "last")

            return host

        v1, v2 = version(["one", "two"]), version(["one", "zwei"])
        async with testing.environment(v1) as env:
            flow = v1.flows["flow"]
            run_id = await env.start(flow)
            await until("the plan is recorded", lambda: "last" in planned(env, run_id))
            gates.open("last")
            await env.crash(v1, v2)
            run = await env.finish(flow, run_id)
        assert run.record.state is RunState.PAUSED
        assert run.failure is not None
        assert run.failure.message == "expected step 'two' (run), received step 'zwei' (run)"
        assert calls == {"one": 1, "two": 1}

    asyncio.run(main())


def test_divergence_in_concurrent_code_is_found_too() -> None:
    """A task of `gather` proves nothing while it may be on its way; then the stall timeout decides, not a hang."""

    async def gathered(v: Versions, ctx: stepwire.Context, second: str) -> list[str]:
        async def one(name: str) -> str:
            await asyncio.sleep(0)
            return await ctx.step.run(name, v.note, name)

        got = await asyncio.gather(one("a"), one(second))
        return [*got, await ctx.step.run("last", v.hold, "last")]

    async def main() -> None:
        versions = Versions()
        v1, v2 = versions.host(lambda v, c: gathered(v, c, "b")), versions.host(lambda v, c: gathered(v, c, "c"))
        v2.body_stall_timeout = 0.2
        async with testing.environment(v1) as env:
            run = await crashed(versions, env, v1, v2, "last")
        assert run.record.state is RunState.PAUSED
        assert run.failure is not None
        assert run.failure.code in (ErrorCode.NON_DETERMINISTIC_FLOW, ErrorCode.BODY_STALLED)
        assert "step 'b'" in run.failure.message
        assert versions.calls["c"] == 0

    asyncio.run(main())
