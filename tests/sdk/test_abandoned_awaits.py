"""User code stops awaiting a step: live, and again when that is replayed (DESIGN 4, "Abandoned awaits").

Scopes with a time limit use the loop's clock. In a replay they pass again after the same time, because only user
code knows how long that is; the body waits for it instead of being declared astray.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

import stepwire
from stepwire._runtime import patience
from stepwire.protocol.failure import ErrorCode
from tests.sdk.by_hand import EngineByHand, by_hand
from tests.sdk.gates import until

SHORT = 0.03


async def with_asyncio(awaitable: Awaitable[Any]) -> str:
    try:
        async with asyncio.timeout(SHORT):
            await awaitable
    except TimeoutError:
        return "too late"
    return "in time"


async def with_wait_for(awaitable: Awaitable[Any]) -> str:
    try:
        await asyncio.wait_for(awaitable, SHORT)
    except TimeoutError:
        return "too late"
    return "in time"


async def with_anyio(awaitable: Awaitable[Any]) -> str:
    with anyio.move_on_after(SHORT) as scope:
        await awaitable
    return "too late" if scope.cancelled_caught else "in time"


async def with_fail_after(awaitable: Awaitable[Any]) -> str:
    try:
        with anyio.fail_after(SHORT):
            await awaitable
    except TimeoutError:
        return "too late"
    return "in time"


SCOPES = pytest.mark.parametrize("scope", [with_asyncio, with_wait_for, with_anyio, with_fail_after])
Scope = Callable[[Awaitable[Any]], Awaitable[str]]


def host_with(body: Callable[..., Any], **options: Any) -> tuple[stepwire.Host, Any]:
    host = stepwire.Host("abandoned", **options)
    return host, host.flow(name="flow")(body)


async def replayed(engine: EngineByHand, flow: Any) -> None:
    """Enter a second body with what is in the journal, which must decide nothing new."""
    plans = list(engine.plans)
    await engine.begin(flow, entries=list(engine.entries))
    await until("replay caught up", lambda: engine.runtime._bodies["run-1"].journal.caught_up)
    await engine.settled()
    assert engine.failed == []
    assert engine.plans == plans, "nothing is decided twice"


def abandoned(engine: EngineByHand) -> list[str]:
    return [path for plan in engine.plans for path in plan.abandoned]


@SCOPES
def test_a_time_limit_that_passed_passes_again(scope: Scope) -> None:
    """What was decided after it is in the same plan or a later one; either way it is matched."""

    async def main() -> None:
        async def body(ctx: stepwire.Context) -> list[str]:
            found = await scope(ctx.step.sleep("long", "1h"))
            await ctx.step.sleep("after", 1)
            await ctx.step.sleep("last", 1)
            return [found]

        host, flow = host_with(body)
        async with by_hand(host) as engine:
            await engine.begin(flow)
            await until("the limit passed", lambda: "after" in engine.steps)
            assert abandoned(engine) == ["long"]
            await engine.release({"after": None})
            await replayed(engine, flow)
            await engine.release({"last": None})
            assert engine.output == ["too late"]

    asyncio.run(main())


@SCOPES
def test_a_time_limit_around_a_group(scope: Scope) -> None:
    async def main() -> None:
        async def body(ctx: stepwire.Context) -> list[str]:
            async def branch() -> None:
                await ctx.step.sleep("long", "1h")

            found = await scope(ctx.group.parallel((branch, branch)))
            await ctx.step.sleep("after", 1)
            return [found]

        host, flow = host_with(body)
        async with by_hand(host) as engine:
            await engine.begin(flow)
            await until("the limit passed", lambda: "after" in engine.steps)
            await replayed(engine, flow)
            await engine.release({"after": None})
            assert engine.output == ["too late"]

    asyncio.run(main())


@SCOPES
@pytest.mark.parametrize("shape", ["bare", "nested", "mixed"])
def test_a_time_limit_around_branches_that_are_bare_steps(scope: Scope, shape: str) -> None:
    """They end a tick after they were given up, and what the flow did meanwhile does not mean that it went astray."""

    async def main() -> None:
        async def body(ctx: stepwire.Context) -> list[str]:
            def bare() -> Awaitable[Any]:
                return ctx.step.sleep("long", "1h")

            async def line() -> None:
                await bare()

            def inner() -> Awaitable[Any]:
                return ctx.group.parallel((bare, bare))

            branches = {"bare": (bare, bare), "nested": (inner, bare), "mixed": (inner, line)}[shape]
            found = await scope(ctx.group.parallel(branches))
            await ctx.step.sleep("after", 1)
            return [found]

        host, flow = host_with(body)
        async with by_hand(host) as engine:
            await engine.begin(flow)
            await until("the limit passed", lambda: "after" in engine.steps)
            await engine.settled()
            await replayed(engine, flow)
            await engine.release({"after": None})
            assert engine.output == ["too late"]

    asyncio.run(main())


@SCOPES
def test_a_time_limit_inside_a_branch(scope: Scope) -> None:
    async def main() -> None:
        async def body(ctx: stepwire.Context) -> list[str]:
            async def hasty() -> str:
                found = await scope(ctx.step.sleep("long", "1h"))
                await ctx.step.sleep("after", 1)
                return found

            async def patient() -> str:
                await ctx.step.sleep("slow", 1)
                return "patient"

            return list(await ctx.group.parallel((hasty, patient)))

        host, flow = host_with(body)
        async with by_hand(host) as engine:
            await engine.begin(flow)
            await until("the limit passed", lambda: "parallel/[0]/after" in engine.steps)
            assert abandoned(engine) == ["parallel/[0]/long"]
            await replayed(engine, flow)
            await engine.release({"parallel/[0]/after": None, "parallel/[1]/slow": None})
            assert engine.output == ["too late", "patient"]

    asyncio.run(main())


@SCOPES
def test_what_came_in_time_is_in_time_again(scope: Scope) -> None:
    async def main() -> None:
        async def body(ctx: stepwire.Context) -> list[str]:
            found = await scope(ctx.step.sleep("quick", "1h"))
            await ctx.step.sleep("after", 1)
            return [found]

        host, flow = host_with(body)
        async with by_hand(host) as engine:
            await engine.begin(flow, settle=False)
            await until("it is planned", lambda: "quick" in engine.steps)
            await engine.release({"quick": None})
            await replayed(engine, flow)
            await engine.release({"after": None})
            assert engine.output == ["in time"]

    asyncio.run(main())


def test_a_task_group_gives_up_the_rest_when_one_fails() -> None:
    """A release decides it, so replay decides it at once."""

    async def main() -> None:
        async def body(ctx: stepwire.Context) -> list[str]:
            async def waits(name: str) -> None:
                await ctx.step.sleep(name, "1h")

            async def fails() -> None:
                await ctx.step.sleep("first", 1)
                raise ValueError("no")

            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(waits("a"))
                    group.create_task(fails())
                    group.create_task(waits("b"))
            except* ValueError:
                pass
            await ctx.step.sleep("after", 1)
            return ["went on"]

        host, flow = host_with(body)
        async with by_hand(host) as engine:
            await engine.begin(flow, settle=False)
            await until("all are planned", lambda: len(engine.steps) == 3)
            await engine.release({"first": None})
            assert sorted(abandoned(engine)) == ["a", "b"]
            await replayed(engine, flow)
            await engine.release({"after": None})
            assert engine.output == ["went on"]

    asyncio.run(main())


def test_a_limit_that_is_gone_from_the_code_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The body waits as long as such a limit may take, then says what is missing."""
    monkeypatch.setattr(patience, "OWN_LIMIT_SECONDS_MAX", SHORT)

    async def main() -> None:
        limited = [True]

        async def body(ctx: stepwire.Context) -> None:
            if limited:
                await with_asyncio(ctx.step.sleep("long", "1h"))
            else:
                await ctx.step.sleep("long", "1h")
            await ctx.step.sleep("after", 1)

        host, flow = host_with(body, body_stall_timeout=SHORT)
        async with by_hand(host) as engine:
            await engine.begin(flow)
            await until("the limit passed", lambda: "after" in engine.steps)
            limited.clear()
            await engine.begin(flow, entries=list(engine.entries), settle=False)
            await until("it is found", lambda: engine.failed)
            failure = engine.failed[0].failure
            assert failure.code is ErrorCode.BODY_STALLED
            assert "'long'" in failure.message or "'after'" in failure.message

    asyncio.run(main())


def test_other_decisions_are_missed_at_once() -> None:
    """An abandoned step elsewhere in the journal is no excuse once it was abandoned again."""

    async def main() -> None:
        renamed: list[bool] = []

        async def body(ctx: stepwire.Context) -> None:
            await with_asyncio(ctx.step.sleep("long", "1h"))
            await ctx.step.sleep("renamed" if renamed else "after", 1)

        host, flow = host_with(body)
        async with by_hand(host) as engine:
            await engine.begin(flow)
            await until("the limit passed", lambda: "after" in engine.steps)
            renamed.append(True)
            await engine.begin(flow, entries=list(engine.entries), settle=False)
            await until("it is found", lambda: engine.failed)
            failure = engine.failed[0].failure
            assert failure.code is ErrorCode.NON_DETERMINISTIC_FLOW
            assert "'after'" in failure.message and "'renamed'" in failure.message

    asyncio.run(main())
