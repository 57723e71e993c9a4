"""Live bodies of a host are bounded by number and bytes; beyond, those that waited longest go back to the engine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import stepwire
from stepwire import testing
from stepwire._runtime.keeping import BODY_BYTES
from stepwire.testing import Environment
from stepwire_engine.core.entries import RunState
from tests.sdk.gates import Gates, turns, until

pytestmark = pytest.mark.live_bodies
MIB = 1024**2
ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])


class Waiting:
    """Runs that get something large, and wait for an event.

    Attributes:
        most: Most bodies that were live at once.
    """

    def __init__(self, size: int = 10, *, is_async: bool = True, **bounds: Any) -> None:
        self.host = stepwire.Host("waiting", body_idle=0.001, **bounds)
        self.size = size
        self.most = 0
        self.flow = self.host.flow(name="flow")(self.in_tasks if is_async else self.in_threads)

    async def in_tasks(self, ctx: stepwire.Context) -> int:
        text = await ctx.step.run("large", lambda: "x" * self.size)
        await ctx.step.wait_event("wait", "go")
        return len(text) + await ctx.step.run("last", lambda: 1)

    def in_threads(self, ctx: stepwire.ContextSync) -> int:
        text = ctx.step.run("large", lambda: "x" * self.size)
        ctx.step.wait_event("wait", "go")
        return len(text) + ctx.step.run("last", lambda: 1)

    async def all_wait(self, env: Environment, runs: list[str]) -> None:
        """Until every run waits for the event; what is live meanwhile is looked at in every turn of the loop."""
        runtime = env._hosts[self.host.name].runtime

        def waiting() -> bool:
            self.most = max(self.most, len(runtime._bodies))
            found = [env.engine.driver.core.runs.get(run_id) for run_id in runs]
            return all(run is not None and "wait" in run.steps for run in found)

        await until("every run waits", waiting)

    async def finish(self, env: Environment, runs: list[str]) -> list[testing.TestRun]:
        await env.send(stepwire.Event("go"))
        return [await env.finish(self.flow, run_id) for run_id in runs]


@ASYNC
def test_more_runs_wait_than_a_host_may_hold_bodies(is_async: bool) -> None:
    async def main() -> None:
        waiting = Waiting(bodies=5, is_async=is_async)
        async with testing.environment(waiting.host, virtual_clock=False) as env:
            runs = [await env.start(waiting.flow) for _ in range(20)]
            await waiting.all_wait(env, runs)
            assert waiting.most <= 5
            assert waiting.host.telemetry.bodies_given_back >= 15
            entered = waiting.host.telemetry.body_entries
            assert entered < 30, "a body that was given back is not sent again before it has something to do"
            done = await waiting.finish(env, runs)
            assert [run.output for run in done] == [11] * 20
            assert waiting.host.telemetry.bodies_refused == 0

    asyncio.run(main())


def test_bodies_that_fit_are_entered_once() -> None:
    async def main() -> None:
        waiting = Waiting(bodies=50)
        async with testing.environment(waiting.host, virtual_clock=False) as env:
            runs = [await env.start(waiting.flow) for _ in range(20)]
            await waiting.all_wait(env, runs)
            assert [run.body_entries for run in await waiting.finish(env, runs)] == [1] * 20
            assert waiting.host.telemetry.bodies_given_back == 0

    asyncio.run(main())


def test_bytes_of_bodies_are_bounded_and_counted() -> None:
    async def main() -> None:
        waiting = Waiting(300_000, body_bytes=MIB)
        async with testing.environment(waiting.host, virtual_clock=False) as env:
            runs = [await env.start(waiting.flow) for _ in range(12)]
            await waiting.all_wait(env, runs)
            await turns(100)
            runtime = env._hosts[waiting.host.name].runtime
            sizes = [body.size for body in runtime._bodies.values()]
            assert all(300_000 + BODY_BYTES < size < 300_000 + 2 * BODY_BYTES for size in sizes)
            assert sum(sizes) < MIB and waiting.host.telemetry.bodies_given_back >= 9
            assert [run.output for run in await waiting.finish(env, runs)] == [300_001] * 12

    asyncio.run(main())


def test_a_host_whose_bodies_are_all_busy_takes_no_other_until_there_is_room() -> None:
    """Memory is full and nobody waits: the run stays with the engine, is not entered, and none of its tries is lost."""

    async def main() -> None:
        gates = Gates()
        host = stepwire.Host("full", body_bytes=MIB)

        @host.flow
        async def busy(ctx: stepwire.Context) -> int:
            text = await ctx.step.run("large", lambda: "x" * MIB)
            await gates.wait("code")
            return len(text)

        @host.flow
        async def other(ctx: stepwire.Context) -> str:
            return await ctx.step.run("one", lambda: "one")

        async with testing.environment(host) as env:
            first = await env.start(busy)
            await gates.until_reached("code")
            second = await env.start(other)
            await until("the body is refused", lambda: host.telemetry.bodies_refused)
            await turns(50)
            assert host.telemetry.bodies_refused == 1, "the engine does not try again and again"
            assert env.engine.driver.core.runs[second].body is None
            gates.open("code")
            assert (await env.finish(busy, first)).output == MIB
            assert (await env.finish(other, second)).output == "one"

    asyncio.run(main())


def test_a_body_that_every_host_refused_is_taken_when_one_has_room() -> None:
    async def main() -> None:
        gates = Gates()
        hosts = [stepwire.Host(name, body_bytes=MIB) for name in ("full", "free")]

        async def busy(ctx: stepwire.Context) -> int:
            text = await ctx.step.run("large", lambda: "x" * MIB)
            await gates.wait("code")
            return len(text)

        flows = [host.flow(name="busy")(busy) for host in hosts]
        async with testing.environment(*hosts) as env:
            runs = [await env.start(flows[0]) for _ in range(2)]
            await until("both are in their code", lambda: gates.reached.count("code") == 2)
            third = await env.start(flows[0])
            await until("both refused it", lambda: all(host.telemetry.bodies_refused for host in hosts))
            gates.open("code")
            for run_id in (*runs, third):
                assert (await env.finish(flows[0], run_id)).output == MIB

    asyncio.run(main())


@ASYNC
def test_a_closure_in_progress_outlives_the_body_that_was_given_back(is_async: bool) -> None:
    """Its outcome is taken, under the right of the body that began it; it does not run twice."""

    async def main() -> None:
        gates = Gates()
        host = stepwire.Host("closures", body_bytes=MIB)
        ran: list[str] = []

        async def slow() -> str:
            ran.append("slow")
            return await gates.wait("slow")  # type: ignore[no-any-return]

        async def in_tasks(ctx: stepwire.Context, text: str) -> str:
            return await ctx.step.run("slow", slow) + text[:1]

        def in_threads(ctx: stepwire.ContextSync, text: str) -> str:
            return ctx.step.run("slow", slow) + text[:1]

        flow = host.flow(name="flow")(in_tasks if is_async else in_threads)
        async with testing.environment(host) as env:
            run_id = await env.start(flow, "x" * MIB)
            await gates.until_reached("slow")
            await until("the body is given back", lambda: host.telemetry.bodies_given_back)
            assert env._hosts[host.name].runtime.busy == 1
            gates.open("slow")
            run = await env.finish(flow, run_id)
        assert run.record.state is RunState.SUCCEEDED and run.output == "slowx" and ran == ["slow"]

    asyncio.run(main())


@ASYNC
def test_a_retry_enters_the_body_that_was_given_back(is_async: bool) -> None:
    """A closure needs its body for its next attempt, also if no release is due."""

    async def main() -> None:
        host = stepwire.Host("retries", body_bytes=MIB, body_idle=0.001)
        tries: list[int] = []

        async def flaky() -> str:
            tries.append(len(tries))
            await until("the body is given back", lambda: host.telemetry.bodies_given_back == len(tries))
            if len(tries) < 3:
                raise ValueError
            return "done"

        async def in_tasks(ctx: stepwire.Context, text: str) -> str:
            return await ctx.step.run("flaky", flaky)

        def in_threads(ctx: stepwire.ContextSync, text: str) -> str:
            return ctx.step.run("flaky", flaky)  # type: ignore[return-value]

        flow = host.flow(name="flow")(in_tasks if is_async else in_threads)
        async with testing.environment(host) as env:
            run = await env.execute(flow, "x" * MIB)
        assert run.output == "done" and tries == [0, 1, 2]
        assert run.body_entries == 4

    asyncio.run(main())


@pytest.mark.parametrize(
    "bounds",
    [{"bodies": 0}, {"bodies": 100_001}, {"body_bytes": MIB - 1}, {"body_bytes": 1024**4 + 1}, {"body_idle": -1}],
    ids=str,
)
def test_bounds_are_checked(bounds: Any) -> None:
    with pytest.raises(stepwire.ConfigurationError):
        stepwire.Host("bounds", **bounds)
