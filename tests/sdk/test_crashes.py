"""A host dies or its stream breaks at every release: what was recorded never runs again (DESIGN 3 rules 6 and 7, 5)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

import stepwire
from stepwire import ParallelMode, testing
from stepwire.testing import Environment
from stepwire_engine.core.entries import AttemptEnded, Released
from tests.evicting import Entries
from tests.sdk.gates import Gates, until

STEPS = 10
ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])


def ended(env: Environment, run_id: str) -> set[str]:
    return {e.path for e in env.journal(run_id) if isinstance(e, AttemptEnded) and e.retry_at_ms is None}


def releases(env: Environment, run_id: str) -> int:
    return sum(isinstance(e, Released) for e in env.journal(run_id))


class Sequence:
    """Ten steps, one after the other; a step may wait at its gate."""

    def __init__(self, *, is_async: bool) -> None:
        self.host = stepwire.Host("crashes")
        self.calls: Counter[str] = Counter()
        self.gates = Gates()
        self.flow = self.host.flow(self.in_tasks if is_async else self.in_threads)

    async def step(self, name: str) -> str:
        self.calls[name] += 1
        return str(await self.gates.wait(name))

    def step_sync(self, name: str) -> str:
        self.calls[name] += 1
        return str(self.gates.wait_sync(name))

    async def in_tasks(self, ctx: stepwire.Context) -> list[str]:
        return [await ctx.step.run(f"s{i}", self.step, f"s{i}") for i in range(STEPS)]

    def in_threads(self, ctx: stepwire.ContextSync) -> list[str]:
        return [ctx.step.run(f"s{i}", self.step_sync, f"s{i}") for i in range(STEPS)]


@ASYNC
@pytest.mark.parametrize("accident", ["crash", "cut"])
@pytest.mark.parametrize("at", range(STEPS))
def test_accident_while_a_step_runs(at: int, accident: str, is_async: bool) -> None:
    """`at` releases were handed over; the step after them is in progress."""

    async def main() -> None:
        fixture = Sequence(is_async=is_async)
        names = [f"s{i}" for i in range(STEPS)]
        async with testing.environment(fixture.host) as env:
            run_id = await env.start(fixture.flow)
            fixture.gates.open(*names[:at])
            await fixture.gates.until_reached(names[at])
            recorded = ended(env, run_id)
            assert recorded == set(names[:at])
            await getattr(env, accident)(fixture.host)
            fixture.gates.open(*names[at:])
            run = await env.finish(fixture.flow, run_id)
        assert run.output == names
        assert all(fixture.calls[name] == 1 for name in recorded)
        assert fixture.calls[names[at]] == (2 if accident == "crash" else 1), "a stream that breaks loses no work"
        assert sum(fixture.calls.values()) == STEPS + (accident == "crash")
        assert run.body_entries == Entries(2 if accident == "crash" else 1)
        assert len(run.record.steps[at].attempts) == 1, "lost work consumes no retry"

    asyncio.run(main())


@ASYNC
@pytest.mark.parametrize("accident", ["crash", "cut"])
@pytest.mark.parametrize("at", range(1, STEPS))
def test_accident_at_the_moment_of_a_release(at: int, accident: str, is_async: bool) -> None:
    """The outcome is committed; whether its release reached the body is anybody's guess."""

    async def main() -> None:
        fixture = Sequence(is_async=is_async)
        names = [f"s{i}" for i in range(STEPS)]
        async with testing.environment(fixture.host) as env:
            run_id = await env.start(fixture.flow)
            fixture.gates.open(*names[:at])
            await until(f"release {at}", lambda: releases(env, run_id) == at)
            recorded = ended(env, run_id)
            await getattr(env, accident)(fixture.host)
            fixture.gates.open(*names)
            run = await env.finish(fixture.flow, run_id)
        assert run.output == names
        assert all(fixture.calls[name] == 1 for name in recorded)
        assert all(1 <= fixture.calls[name] <= 2 for name in names)
        if accident == "cut":
            assert all(fixture.calls[name] == 1 for name in names)

    asyncio.run(main())


@pytest.mark.parametrize("mode", list(ParallelMode), ids=lambda m: m.name)
@pytest.mark.parametrize("accident", ["crash", "cut"])
def test_accident_at_every_release_of_one_run(accident: str, mode: ParallelMode) -> None:
    """A run in groups that loses its host after each of its releases still completes."""

    async def main() -> None:
        host = stepwire.Host("crashes")
        calls: Counter[str] = Counter()

        def note(name: str) -> str:
            calls[name] += 1
            return name

        @host.flow
        async def flow(ctx: stepwire.Context) -> list[Any]:
            async def branch(b: int) -> list[str]:
                return [await ctx.step.run(f"s{i}", note, f"{b}{i}") for i in range(b + 1)]

            groups = [
                await ctx.group.parallel([lambda b=b: branch(b) for b in range(4)], parallel_mode=mode)
                for _ in range(2)
            ]
            return [*groups, await ctx.step.run("last", note, "last")]

        async with testing.environment(host) as env:
            run_id = await env.start(flow)
            finish = asyncio.create_task(env.finish(flow, run_id))
            seen, recorded_calls = 0, Counter[str]()
            while not finish.done():
                await asyncio.sleep(0)
                if releases(env, run_id) > seen and not finish.done():
                    seen = releases(env, run_id)
                    recorded_calls = Counter(calls)
                    await getattr(env, accident)(host)
            run = finish.result()
        branches = [[f"{b}{i}" for i in range(b + 1)] for b in range(4)]
        assert run.output == [branches, branches, "last"]
        assert seen > 4
        assert sum(recorded_calls.values()) >= 20
        if accident == "cut":
            assert calls["last"] == 1 and sum(calls.values()) == 21

    asyncio.run(main())


@pytest.mark.parametrize("accident", ["crash", "cut"])
def test_accident_during_a_backoff(accident: str) -> None:
    """The attempt that failed counts, and the next one is made when it is due."""

    async def main() -> None:
        host = stepwire.Host("crashes")
        attempts: list[int] = []

        def flaky() -> int:
            attempt = stepwire.current_attempt()
            assert attempt is not None
            attempts.append(attempt.attempt)
            if attempt.attempt < 3:
                raise ValueError
            return attempt.attempt

        @host.flow
        async def flow(ctx: stepwire.Context) -> int:
            retry = stepwire.Retry(retries=3, backoff="fixed", delay="1m", jitter=0)
            return await ctx.step.run("flaky", flaky, retries=retry)

        async with testing.environment(host) as env:
            run_id = await env.start(flow)
            await until(
                "the first attempt is recorded", lambda: any(isinstance(e, AttemptEnded) for e in env.journal(run_id))
            )
            await getattr(env, accident)(host)
            run = await env.finish(flow, run_id)
        assert run.output == 3
        assert attempts == [1, 2, 3]

    asyncio.run(main())


@pytest.mark.live_bodies
@ASYNC
def test_evicted_body_is_dead(is_async: bool) -> None:
    """Its code is stopped where it stands, and its context refuses every call (DESIGN 6)."""

    async def main() -> None:
        gates = Gates()
        host = stepwire.Host("crashes")
        contexts: list[Any] = []
        after: list[str] = []

        async def in_tasks(ctx: stepwire.Context) -> None:
            contexts.append(ctx)

            async def outside() -> None:
                await gates.wait("outside")
                after.append("outside")

            async def steps() -> None:
                await ctx.step.run("held", gates.wait, "held")
                after.append("step")

            await ctx.group.parallel((outside, steps))

        def in_threads(ctx: stepwire.ContextSync) -> None:
            contexts.append(ctx)
            ctx.step.run("held", gates.wait_sync, "held")
            after.append("step")
            ctx.step.run("more", lambda: 1)
            after.append("outside")

        flow = host.flow(in_tasks if is_async else in_threads)
        async with testing.environment(host) as env:
            run_id = await env.start(flow)
            await gates.until_reached("held")
            await env.crash(host)
            gates.open("held", "outside")
            run = await env.finish(flow, run_id)
            assert run.succeeded
            assert sorted(after) == ["outside", "step"], "nothing of the first body ran on"
            assert contexts[0] is not contexts[1]
            assert contexts[0]._body.over

    asyncio.run(main())


def test_body_given_back_between_the_start_of_a_step_and_its_plan() -> None:
    """The host starts a closure at once and sends its plan a moment later: a body that goes takes no plan with it."""

    async def main() -> None:
        gates = Gates()
        host = stepwire.Host("crashes")
        calls: list[str] = []

        async def late(run_id: str) -> str:
            calls.append("late")
            if len(calls) == 1:
                runtime = env._hosts[host.name].runtime
                runtime.body_gone(runtime._bodies[run_id])
            return "late"

        @host.flow
        async def flow(ctx: stepwire.Context) -> list[str]:
            async def branch() -> str:
                await gates.wait("code")
                return await ctx.step.run("late", late, ctx.run_id)

            return list(await ctx.group.parallel((branch, lambda: ctx.step.run("other", gates.wait, "other"))))

        async with testing.environment(host) as env:
            run_id = await env.start(flow)
            await gates.until_reached("code", "other")
            gates.open("code")
            await until("late ran", lambda: calls)
            await until("late is recorded", lambda: "parallel/[0]/late" in ended(env, run_id))
            gates.open("other")
            run = await env.finish(flow, run_id)
        assert run.output == ["late", "other"]
        assert run.body_entries == 2
        assert calls == ["late"], "the step did not run twice"

    asyncio.run(main())
