"""Flow bodies are ordinary asyncio code; time, chance and identity survive replay (DESIGN 4 and 6)."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

import stepwire
from stepwire import testing
from stepwire.protocol.failure import ErrorCode
from stepwire.testing import TestRun
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import Planned, RunState
from stepwire_engine.core.history import StepStateView
from tests.evicting import Entries
from tests.sdk.gates import PATIENCE_SECONDS, Gates, recorded, until

REPLAY = pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
SHORT = 0.03


def flow_run(body: Any, *, replay: bool = False) -> TestRun:
    host = stepwire.Host("ordinary")
    return testing.run(host, host.flow(body), replay=replay)


# ---- time, chance, identity


@ASYNC
def test_helpers_are_equal_under_replay(is_async: bool) -> None:
    seen: list[list[str]] = []

    async def in_tasks(ctx: stepwire.Context) -> list[str]:
        drawn: list[str] = []

        def draw() -> None:
            drawn.extend((str(ctx.now()), str(ctx.random.random()), str(ctx.uuid()), str(ctx.random.randint(1, 10**9))))

        async def branch() -> list[float]:
            first = ctx.random.random()
            await ctx.step.run("s", lambda: 1)
            return [first, ctx.random.random()]

        draw()
        await ctx.step.run("a", lambda: 1, retries=0)
        draw()
        pairs = await ctx.group.parallel((branch, branch))
        draw()
        drawn.extend(map(str, pairs))
        await ctx.step.run("z", lambda: 1)
        seen.append(drawn)
        return drawn

    def in_threads(ctx: stepwire.ContextSync) -> list[str]:
        drawn: list[str] = []

        def draw() -> None:
            drawn.extend((str(ctx.now()), str(ctx.random.random()), str(ctx.uuid()), str(ctx.random.randint(1, 10**9))))

        def branch() -> list[float]:
            first = ctx.random.random()
            ctx.step.run("s", lambda: 1)
            return [first, ctx.random.random()]

        draw()
        ctx.step.run("a", lambda: 1, retries=0)
        draw()
        pairs = ctx.group.parallel((branch, branch))
        draw()
        drawn.extend(map(str, pairs))
        ctx.step.run("z", lambda: 1)
        seen.append(drawn)
        return drawn

    body = in_tasks if is_async else in_threads
    live, replayed = flow_run(body), flow_run(body, replay=True)
    assert replayed.body_entries > 1
    assert live.output == replayed.output, "the virtual clock gives both runs the same seed"
    assert len(set(live.output)) >= len(live.output) - 2, "draws differ; only the time stands still"
    branches = live.output[-2:]
    assert branches[0] != branches[1], "each branch draws its own numbers"


def test_now_moves_with_releases() -> None:
    async def flow(ctx: stepwire.Context) -> list[str]:
        failed: list[int] = []

        def flaky() -> None:
            if not failed:
                failed.append(1)
                raise ValueError

        before = ctx.now()
        retry = stepwire.Retry(retries=1, backoff="fixed", delay=30, jitter=0)
        await ctx.step.run("flaky", flaky, retries=retry)
        return [str((ctx.now() - before).total_seconds()), str(ctx.now().tzinfo)]

    assert flow_run(flow).output == ["30.0", "UTC"]


@REPLAY
@ASYNC
def test_run_id_and_flow_name(is_async: bool, replay: bool) -> None:
    async def in_tasks(ctx: stepwire.Context) -> list[str]:
        return [ctx.run_id, ctx.flow]

    def in_threads(ctx: stepwire.ContextSync) -> list[str]:
        return [ctx.run_id, ctx.flow]

    run = flow_run(in_tasks if is_async else in_threads, replay=replay)
    assert run.output == [run.record.run_id, run.record.flow]


# ---- asyncio and anyio around steps


@REPLAY
def test_gather(replay: bool) -> None:
    calls: list[int] = []

    async def flow(ctx: stepwire.Context) -> list[int]:
        async def two(i: int) -> int:
            await asyncio.sleep(0)
            first = await ctx.step.run(f"first-{i}", note, i)
            return first + await ctx.step.run(f"second-{i}", note, 10 * i)

        def note(i: int) -> int:
            calls.append(i)
            return i

        bare = asyncio.gather(*(ctx.step.run(f"bare-{i}", note, 100 * i) for i in (1, 2)))
        return [*await asyncio.gather(*(two(i) for i in (1, 2, 3))), *await bare]

    run = flow_run(flow, replay=replay)
    assert run.output == [11, 22, 33, 100, 200]
    assert sorted(calls) == [1, 2, 3, 10, 20, 30, 100, 200]


@REPLAY
def test_steps_outside_a_group_are_released_as_in_race(replay: bool) -> None:
    """Ordinary async code means what it says: the quick task goes on while the slow step still runs."""

    async def main() -> None:
        gates = Gates()
        host = stepwire.Host("ordinary")

        @host.flow
        async def flow(ctx: stepwire.Context) -> list[str]:
            async def quick() -> str:
                await ctx.step.run("q1", gates.wait, "q1")
                return await ctx.step.run("q2", gates.wait, "q2")

            return list(await asyncio.gather(quick(), ctx.step.run("slow", gates.wait, "slow")))

        async with testing.environment(host, replay=replay) as env:
            run_id = await env.start(flow)
            finish = asyncio.create_task(env.finish(flow, run_id))
            await gates.until_reached("q1", "slow")
            gates.open("q1")
            await gates.until_reached("q2")
            gates.open("q2")
            await until("q2 is recorded", lambda: recorded(env, run_id) == ["q1", "q2"])
            gates.open("slow")
            assert (await finish).output == ["q2", "slow"]

    asyncio.run(main())


@REPLAY
def test_task_group(replay: bool) -> None:
    async def flow(ctx: stepwire.Context) -> list[int]:
        async def two(i: int) -> int:
            return await ctx.step.run(f"a{i}", lambda: i) + await ctx.step.run(f"b{i}", lambda: i)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(two(i)) for i in (1, 2)]
        return [task.result() for task in tasks]

    assert flow_run(flow, replay=replay).output == [2, 4]


@REPLAY
def test_anyio_task_group(replay: bool) -> None:
    async def flow(ctx: stepwire.Context) -> list[int]:
        found: dict[int, int] = {}

        async def one(i: int) -> None:
            found[i] = await ctx.step.run(f"s{i}", lambda: i)

        async with anyio.create_task_group() as group:
            for i in range(3):
                group.start_soon(one, i)
        return [found[i] for i in range(3)]

    assert flow_run(flow, replay=replay).output == [0, 1, 2]


@REPLAY
def test_failing_step_in_a_task_group(replay: bool) -> None:
    """The others are abandoned, and the flow goes on."""
    never = asyncio.Event

    async def flow(ctx: stepwire.Context) -> list[str]:
        def fail() -> None:
            raise ValueError("no")

        async def waits() -> None:
            await ctx.step.run("endless", never().wait)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(waits())
                await ctx.step.run("fails", fail, retries=0)
        except* stepwire.StepError as errors:
            found = [str(e.path) for e in errors.exceptions if isinstance(e, stepwire.StepError)]
        return [*found, await ctx.step.run("after", lambda: "after")]

    run = flow_run(flow, replay=replay)
    assert run.output == ["fails", "after"]
    assert_cancelled(run, "endless")


def assert_cancelled(run: TestRun, path: str) -> None:
    states = {s.path: s.state for s in run.record.steps}
    assert states[path] is StepStateView.CANCELLED
    assert [p for e in run.journal if isinstance(e, Planned) for p in e.plan.abandoned] == [path]


async def with_asyncio(ctx: stepwire.Context, step: Any, limit: float = SHORT) -> str:
    try:
        async with asyncio.timeout(limit):
            await ctx.step.run("slow", step)
    except TimeoutError:
        return "timed out"
    return "in time"


async def with_anyio(ctx: stepwire.Context, step: Any, limit: float = SHORT) -> str:
    with anyio.move_on_after(limit) as scope:
        await ctx.step.run("slow", step)
    return "timed out" if scope.cancelled_caught else "in time"


async def with_wait_for(ctx: stepwire.Context, step: Any, limit: float = SHORT) -> str:
    try:
        await asyncio.wait_for(ctx.step.run("slow", step), limit)
    except TimeoutError:
        return "timed out"
    return "in time"


async def with_cancelled_task(ctx: stepwire.Context, step: Any) -> str:
    async def waits() -> None:
        await ctx.step.run("slow", step)

    task = asyncio.create_task(waits())
    await ctx.step.run("meanwhile", lambda: 1)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return "timed out"
    return "in time"


@pytest.mark.parametrize("scope", [with_asyncio, with_anyio, with_wait_for, with_cancelled_task])
def test_abandoned_step(scope: Any) -> None:
    """Cancelled by user code: recorded as such, its attempt is cancelled, and the run completes."""
    stopped: list[str] = []

    async def flow(ctx: stepwire.Context) -> list[str]:
        async def slow() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append("slow")

        found = await scope(ctx, slow)
        return [found, await ctx.step.run("after", lambda: "after")]

    run = flow_run(flow)
    assert run.output == ["timed out", "after"]
    assert_cancelled(run, "slow")
    assert stopped == ["slow"]


@pytest.mark.parametrize("scope", [with_asyncio, with_anyio, with_wait_for])
def test_step_within_its_scope(scope: Any) -> None:
    async def flow(ctx: stepwire.Context) -> str:
        return await scope(ctx, lambda: None, PATIENCE_SECONDS)  # type: ignore[no-any-return]

    assert flow_run(flow).output == "in time"


def test_abandoned_step_is_replayed() -> None:
    """The decision of the first body holds: what was abandoned is abandoned again, whatever the clock says."""
    entered: list[int] = []

    async def main() -> None:
        gates = Gates()
        host = stepwire.Host("ordinary")

        @host.flow
        async def flow(ctx: stepwire.Context) -> list[str]:
            entered.append(1)
            found = await with_cancelled_task(ctx, asyncio.Event().wait)
            return [found, await ctx.step.run("held", gates.wait, "held")]

        async with testing.environment(host) as env:
            run_id = await env.start(flow)
            await gates.until_reached("held")
            await env.crash(host)
            gates.open("held")
            run = await env.finish(flow, run_id)
        assert run.output == ["timed out", "held"]
        assert_cancelled(run, "slow")

    asyncio.run(main())
    assert len(entered) == Entries(2)


def test_cancelled_group_await() -> None:
    """A scope around a group ends its branches; the run goes on."""

    async def flow(ctx: stepwire.Context) -> list[str]:
        async def branch() -> None:
            await ctx.step.run("endless", asyncio.Event().wait)

        with anyio.move_on_after(SHORT):
            await ctx.group.parallel((branch, branch))
        return [await ctx.step.run("after", lambda: "after")]

    run = flow_run(flow)
    assert run.output == ["after"]
    states = {s.path: s.state for s in run.record.steps}
    assert states["parallel/[0]/endless"] is states["parallel/[1]/endless"] is StepStateView.CANCELLED


def test_group_inside_gather() -> None:
    async def flow(ctx: stepwire.Context) -> list[Any]:
        def group(name: str) -> Any:
            return ctx.group.parallel([lambda: ctx.step.run("s", lambda: name)], name=name)

        return list(await asyncio.gather(group("left"), group("right")))

    for replay in (False, True):
        assert flow_run(flow, replay=replay).output == [["left"], ["right"]]


# ---- context variables

USER: ContextVar[str] = ContextVar("user", default="nobody")


@REPLAY
@ASYNC
def test_context_variables(is_async: bool, replay: bool) -> None:
    """Steps see what their flow or branch had set at the call; what they set stays with them."""

    async def read() -> str:
        found = USER.get()
        USER.set("changed by a step")
        await asyncio.sleep(0)
        return found

    def read_sync() -> str:
        found = USER.get()
        USER.set("changed by a step")
        return found

    async def in_tasks(ctx: stepwire.Context) -> list[str]:
        async def branch(name: str) -> str:
            USER.set(name)
            return f"{await ctx.step.run('r', read)} {await ctx.step.run('s', read_sync)}"

        before = await ctx.step.run("before", read)
        USER.set("flow")
        seen = [before, await ctx.step.run("one", read), await ctx.step.run("two", read_sync), USER.get()]
        seen += await ctx.group.parallel((lambda: branch("left"), lambda: branch("right")))
        return [*seen, USER.get(), await ctx.step.run("three", read)]

    def in_threads(ctx: stepwire.ContextSync) -> list[str]:
        def branch(name: str) -> str:
            USER.set(name)
            return f"{ctx.step.run('r', read)} {ctx.step.run('s', read_sync)}"

        before = ctx.step.run("before", read)
        USER.set("flow")
        seen = [before, ctx.step.run("one", read), ctx.step.run("two", read_sync), USER.get()]
        seen += ctx.group.parallel((lambda: branch("left"), lambda: branch("right")))
        return [*seen, USER.get(), ctx.step.run("three", read)]

    body = in_tasks if is_async else in_threads
    expected = ["nobody", "flow", "flow", "flow", "left left", "right right", "flow", "flow"]
    assert flow_run(body, replay=replay).output == expected


@ASYNC
def test_context_variables_in_a_lambda_around_async_code(is_async: bool) -> None:
    """It shows only at the call that such a step is async; it sees the same context all the same."""

    async def read() -> list[str]:
        await asyncio.sleep(0)
        attempt = stepwire.current_attempt()
        return [USER.get(), attempt.path if attempt else ""]

    async def in_tasks(ctx: stepwire.Context) -> list[str]:
        USER.set("flow")
        return await ctx.step.run("hidden", lambda: read())

    def in_threads(ctx: stepwire.ContextSync) -> list[str]:
        USER.set("flow")
        return ctx.step.run("hidden", lambda: read())  # type: ignore[return-value]

    assert flow_run(in_tasks if is_async else in_threads).output == ["flow", "hidden"]


def test_current_attempt() -> None:
    keys: list[str] = []

    async def flow(ctx: stepwire.Context) -> str:
        assert stepwire.current_attempt() is None

        def step() -> str:
            attempt = stepwire.current_attempt()
            assert attempt is not None
            keys.append(attempt.idempotency_key)
            if attempt.attempt == 1:
                raise ValueError
            return f"{attempt.path} {attempt.attempt} {attempt.run_id == ctx.run_id}"

        return await ctx.step.run("step", step)

    assert flow_run(flow).output == "step 2 True"
    assert (len(keys), len(set(keys))) == (2, 1)


# ---- replay of code that is too slow or wrong


def test_stalled_replay_pauses() -> None:
    """Replay that waits in user code for something that never comes ends with a typed reason (body_stall_timeout)."""

    async def main() -> None:
        gates = Gates()
        never = asyncio.Event()

        def version(wait: bool) -> stepwire.Host:
            host = stepwire.Host("ordinary", body_stall_timeout=0.1)

            @host.flow(name="flow")
            async def flow(ctx: stepwire.Context) -> None:
                if wait:
                    await never.wait()
                await ctx.step.run("one", lambda: 1)
                await ctx.step.run("held", gates.wait, "held")

            return host

        v1, v2 = version(False), version(True)
        async with testing.environment(v1) as env:
            flow = v1.flows["flow"]
            run_id = await env.start(flow)
            await gates.until_reached("held")
            await env.crash(v1, v2)
            run = await env.finish(flow, run_id)
        assert run.record.state is RunState.PAUSED
        assert run.failure is not None and run.failure.code is ErrorCode.BODY_STALLED
        assert "step 'one'" in run.failure.message

    asyncio.run(main())


@pytest.mark.parametrize("known", [True, False], ids=["next release known", "nothing released since"])
def test_a_time_limit_longer_than_the_stall_timeout_passes_again(known: bool) -> None:
    """All of the flow waits in a step that it is known to give up: that takes as long as it took, and is no stall."""

    async def main() -> TestRun:
        gates = Gates()
        host = stepwire.Host("ordinary", body_stall_timeout=0.05)

        @host.flow
        async def flow(ctx: stepwire.Context) -> list[str]:
            found = await with_asyncio(ctx, asyncio.Event().wait, 0.3)
            after = await ctx.step.run("after", gates.wait, "after")
            return [found, after, await ctx.step.run("held", gates.wait, "held")]

        config = CoreConfig(reconnect_grace=0.2)
        async with testing.environment(host, virtual_clock=False, config=config) as env:
            run_id = await env.start(flow)
            if known:
                gates.open("after")
            await gates.until_reached("held" if known else "after")
            await env.crash(host)
            gates.open("after", "held")
            return await env.finish(flow, run_id)

    run = asyncio.run(main())
    assert run.output == ["timed out", "after", "held"]
