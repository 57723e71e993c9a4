"""Misuse of the SDK: each is named by code and step, and the next run is none the worse (MISSION P13, 1.3, U6)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import stepwire
from stepwire import testing
from stepwire.protocol.failure import ErrorCode
from stepwire.testing import TestRun

ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
REPLAY = pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])


def run_misuse(body: Callable[..., Any], *, replay: bool = False) -> TestRun:
    """Run `body` as a flow, and a well-behaved flow on the same host after it."""
    host = stepwire.Host("misuse")
    flow = host.flow(name="misuse")(body)

    @host.flow
    async def healthy(ctx: stepwire.Context) -> str:
        return await ctx.step.run("fine", lambda: "fine")

    async def main() -> TestRun:
        async with testing.environment(host, replay=replay) as env:
            run = await env.execute(flow)
            assert await env.run(healthy) == "fine"
        return run

    return asyncio.run(main())


def assert_failed(run: TestRun, code: ErrorCode, *mentioned: str) -> None:
    assert run.failure is not None
    assert not run.succeeded
    assert run.failure.code is code
    for text in mentioned:
        assert text in run.failure.message


# ---- steps inside steps


def inside_directly(ctx: Any) -> Callable[[], Any]:
    async def outer() -> Any:
        return await ctx.step.run("inner", lambda: 1)

    return outer


def inside_after_an_await(ctx: Any) -> Callable[[], Any]:
    async def outer() -> Any:
        await asyncio.sleep(0)
        return await ctx.step.run("inner", lambda: 1)

    return outer


def inside_in_a_task(ctx: Any) -> Callable[[], Any]:
    async def inner() -> Any:
        return await ctx.step.run("inner", lambda: 1)

    async def outer() -> Any:
        return await asyncio.create_task(inner())

    return outer


def inside_in_to_thread(ctx: Any) -> Callable[[], Any]:
    async def outer() -> Any:
        return await asyncio.to_thread(ctx.step.run, "inner", lambda: 1)

    return outer


def inside_in_a_raw_thread(ctx: Any) -> Callable[[], Any]:
    def outer() -> Any:
        caught: list[BaseException] = []

        def work() -> None:
            try:
                ctx.step.run("inner", lambda: 1)
            except BaseException as exc:
                caught.append(exc)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        raise caught[0]

    return outer


def inside_a_group(ctx: Any) -> Callable[[], Any]:
    async def outer() -> Any:
        return await ctx.group.parallel((lambda: None,), name="inner")

    return outer


def inside_a_sync_step(ctx: Any) -> Callable[[], Any]:
    return lambda: ctx.step.run("inner", lambda: 1)


WAYS = [
    inside_directly,
    inside_after_an_await,
    inside_in_a_task,
    inside_in_to_thread,
    inside_in_a_raw_thread,
    inside_a_group,
    inside_a_sync_step,
]


@REPLAY
@ASYNC
@pytest.mark.parametrize("way", WAYS)
def test_step_inside_a_step(way: Callable[[Any], Callable[[], Any]], is_async: bool, replay: bool) -> None:
    async def in_tasks(ctx: stepwire.Context) -> Any:
        return await ctx.step.run("outer", way(ctx))

    def in_threads(ctx: stepwire.ContextSync) -> Any:
        return ctx.step.run("outer", way(ctx))

    run = run_misuse(in_tasks if is_async else in_threads, replay=replay)
    assert_failed(run, ErrorCode.NESTED_STEP, "inner", "step")
    outer = run.record.steps[0]
    assert [s.path for s in run.record.steps] == ["outer"], "the inner step was never planned"
    assert len(outer.attempts) == 1, "misuse is not retried"
    if way is not inside_in_a_raw_thread:  # a thread of the step's own carries no context
        assert_failed(run, ErrorCode.NESTED_STEP, "'outer'")


def step_in_to_thread(ctx: Any) -> Any:
    return ctx.step.run("lost", lambda: 1)


def group_in_to_thread(ctx: Any) -> Any:
    return ctx.group.parallel((lambda: ctx.step.run("lost", lambda: 1),))


def branches_in_to_thread(ctx: Any) -> Any:
    async def branch() -> Any:
        return await ctx.step.run("lost", lambda: 1)

    return ctx.group.parallel((branch, branch))


@REPLAY
@pytest.mark.parametrize("call", [step_in_to_thread, group_in_to_thread, branches_in_to_thread])
def test_an_async_flow_makes_its_calls_on_the_loop(call: Callable[[Any], Any], replay: bool) -> None:
    """A thread that asyncio starts has the context of the flow, so nothing else tells it from the flow."""

    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("before", lambda: 1)
        await asyncio.to_thread(call, ctx)

    run = run_misuse(flow, replay=replay)
    assert_failed(run, ErrorCode.NESTED_STEP, "misuse", "thread")
    assert [step.path for step in run.record.steps] == ["before"], "nothing was planned from there"


def test_a_loop_may_go_on_in_another_thread() -> None:
    """The flow is on its loop, whichever thread runs that now."""
    host = stepwire.Host("moves")
    waits, moved = asyncio.Event(), asyncio.Event()

    @host.flow
    async def flow(ctx: stepwire.Context) -> int:
        waits.set()
        await moved.wait()
        return await ctx.step.run("after", lambda: 1)

    async def begin() -> tuple[Any, Any, str]:
        serving = testing.environment(host)
        env = await serving.__aenter__()
        run_id = await env.start(flow)
        await waits.wait()
        return serving, env, run_id

    async def end(serving: Any, env: Any, run_id: str) -> Any:
        moved.set()
        run = await env.finish(flow, run_id)
        await serving.__aexit__(None, None, None)
        return run

    with asyncio.Runner() as runner:
        begun = runner.run(begin())
        with ThreadPoolExecutor(1) as other:
            run = other.submit(runner.get_loop().run_until_complete, end(*begun)).result()
    assert run.succeeded


def test_step_on_a_thread_the_flow_started() -> None:
    def flow(ctx: stepwire.ContextSync) -> None:
        caught: list[BaseException] = []

        def work() -> None:
            try:
                ctx.step.run("lost", lambda: 1)
            except BaseException as exc:
                caught.append(exc)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        raise caught[0]

    assert_failed(run_misuse(flow), ErrorCode.NESTED_STEP, "'lost'", "'misuse'")


@pytest.mark.parametrize("what", ["now", "random", "uuid"])
def test_determinism_helpers_inside_a_step(what: str) -> None:
    """Inside a step they would only look deterministic."""

    async def flow(ctx: stepwire.Context) -> Any:
        def outer() -> str:
            member = getattr(ctx, what)
            return str(member() if callable(member) else member)

        return await ctx.step.run("outer", outer)

    run = run_misuse(flow)
    if what == "now":
        assert run.succeeded
    else:
        assert_failed(run, ErrorCode.NESTED_STEP, f"ctx.{what}", "'outer'")


# ---- steps that nobody waits for


@REPLAY
def test_step_never_awaited(replay: bool) -> None:
    async def flow(ctx: stepwire.Context) -> str:
        ctx.step.run("forgotten", lambda: 1)
        return await ctx.step.run("awaited", lambda: "done")

    assert_failed(run_misuse(flow, replay=replay), ErrorCode.UNAWAITED_STEP, "'forgotten'", "never awaited")


@REPLAY
def test_group_never_awaited(replay: bool) -> None:
    async def flow(ctx: stepwire.Context) -> str:
        ctx.group.parallel((lambda: ctx.step.run("a", lambda: 1),))
        return "done"

    assert_failed(run_misuse(flow, replay=replay), ErrorCode.UNAWAITED_STEP, "parallel")


def test_step_in_a_task_the_flow_does_not_wait_for() -> None:
    async def flow(ctx: stepwire.Context) -> str:
        never = asyncio.Event()

        async def background() -> None:
            await ctx.step.run("background", never.wait)

        task = asyncio.create_task(background())
        await asyncio.sleep(0)
        assert not task.done()
        return "done"

    assert_failed(run_misuse(flow), ErrorCode.UNAWAITED_STEP, "'background'", "still running")


def test_unawaited_step_in_a_branch() -> None:
    async def flow(ctx: stepwire.Context) -> Any:
        async def branch() -> str:
            ctx.step.run("forgotten", lambda: 1)
            return "done"

        return await ctx.group.parallel((branch,))

    run = run_misuse(flow)
    assert_failed(run, ErrorCode.UNAWAITED_STEP, "forgotten")


def test_exception_of_the_flow_says_more_than_its_forgotten_steps() -> None:
    async def flow(ctx: stepwire.Context) -> None:
        ctx.step.run("forgotten", lambda: 1)
        raise ValueError("the reason")

    assert_failed(run_misuse(flow), ErrorCode.USER_ERROR, "the reason")


# ---- names


@REPLAY
@pytest.mark.parametrize("where", ["root", "branch"])
def test_ambiguous_step(where: str, replay: bool) -> None:
    async def flow(ctx: stepwire.Context) -> Any:
        async def twice() -> Any:
            return await asyncio.gather(ctx.step.run("same", lambda: 1), ctx.step.run("same", lambda: 2))

        return await (twice() if where == "root" else ctx.group.parallel((twice,)))

    run = run_misuse(flow, replay=replay)
    assert run.failure is not None
    failure = run.failure if where == "root" else run.failure.cause
    assert failure is not None
    assert failure.code is ErrorCode.AMBIGUOUS_STEP
    assert "'same'" in failure.message
    if where == "branch":
        assert "'parallel/[0]'" in failure.message


@ASYNC
@pytest.mark.parametrize("name", ["", "x" * 257, "/" * 86, "\ud800"])
def test_bad_step_names(name: str, is_async: bool) -> None:
    async def in_tasks(ctx: stepwire.Context) -> Any:
        return await ctx.step.run(name, lambda: 1)

    def in_threads(ctx: stepwire.ContextSync) -> Any:
        return ctx.step.run(name, lambda: 1)

    run = run_misuse(in_tasks if is_async else in_threads)
    assert_failed(run, ErrorCode.INVALID_NAME)
    assert run.record.steps == ()


@ASYNC
def test_longest_and_oddest_names_work(is_async: bool) -> None:
    names = ["x" * 256, "/" * 85, "a/b#2[0]%", "\x00", "naïve ☃", "[0]", "#2", "parallel"]

    async def in_tasks(ctx: stepwire.Context) -> list[str]:
        return [await ctx.step.run(name, lambda name=name: name) for name in names]

    def in_threads(ctx: stepwire.ContextSync) -> list[str]:
        return [ctx.step.run(name, lambda name=name: name) for name in names]

    assert run_misuse(in_tasks if is_async else in_threads, replay=True).output == names


@ASYNC
def test_misuse_can_be_caught_in_the_flow(is_async: bool) -> None:
    """It is raised at the call, where the mistake is."""

    async def in_tasks(ctx: stepwire.Context) -> str:
        try:
            await ctx.step.run("", lambda: 1)
        except stepwire.StepError as error:
            return error.code.slug
        return ""

    def in_threads(ctx: stepwire.ContextSync) -> str:
        try:
            ctx.step.run("", lambda: 1)
        except stepwire.StepError as error:
            return error.code.slug
        return ""

    assert run_misuse(in_tasks if is_async else in_threads).output == "invalid_name"


def test_coroutine_instead_of_a_function() -> None:
    async def work() -> int:
        return 1

    async def flow(ctx: stepwire.Context) -> Any:
        return await ctx.step.run("work", work())  # type: ignore[arg-type]

    run = run_misuse(flow)
    assert_failed(run, ErrorCode.INVALID_ARGUMENT, "'work'", "not callable")


def test_more_branches_than_threads() -> None:
    """Refused at the call, before anything of the group is planned; never a hang (docs/adr/0007)."""
    host = stepwire.Host("misuse", branch_threads=4)

    @host.flow
    def flow(ctx: stepwire.ContextSync, branches: int) -> int:
        return sum(ctx.group.parallel([lambda: ctx.step.run("s", lambda: 1)] * branches))

    async def main() -> None:
        async with testing.environment(host) as env:
            run = await env.execute(flow, 4)
            assert_failed(run, ErrorCode.LIMIT_EXCEEDED, "branch_threads")
            assert run.record.groups == ()
            for _ in range(5):
                assert await env.run(flow, 3) == 3

    asyncio.run(main())


# ---- declarations


def declare(register: Callable[[stepwire.Host], Any]) -> str:
    with pytest.raises(stepwire.ConfigurationError) as caught:
        register(stepwire.Host("declared"))
    return str(caught.value)


def twice(what: str) -> Callable[[stepwire.Host], Any]:
    def register(host: stepwire.Host) -> None:
        def same(ctx: Any) -> None: ...

        getattr(host, what)(same)
        getattr(host, what)(same)

    return register


@pytest.mark.parametrize("what", ["flow", "step"])
def test_registered_twice(what: str) -> None:
    assert f"{what} 'same' is registered twice on host 'declared'" in declare(twice(what))


@pytest.mark.parametrize("what", ["flow", "step"])
def test_lambda_needs_a_name(what: str) -> None:
    assert "pass name=" in declare(lambda host: getattr(host, what)(lambda ctx: None))


@pytest.mark.parametrize("what", ["flow", "step"])
def test_lambda_with_a_name(what: str) -> None:
    host = stepwire.Host("declared")
    assert getattr(host, what)(name="named")(lambda ctx: None).name == "named"


@pytest.mark.parametrize(
    "options",
    [
        {"retries": -1},
        {"retries": 1.5},
        {"retries": True},
        {"retries": "many"},
        {"timeout": "10 parsecs"},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"name": "x" * 257},
    ],
    ids=str,
)
def test_bad_step_options(options: dict[str, Any]) -> None:
    def work() -> None: ...

    assert declare(lambda host: host.step(**options)(work))


@pytest.mark.parametrize(
    "options",
    [
        {"slots": 0},
        {"slots": 10_001},
        {"bodies": 0},
        {"branch_threads": 0},
        {"body_stall_timeout": "soon"},
    ],
    ids=str,
)
def test_bad_host_options(options: dict[str, Any]) -> None:
    assert declare(lambda _: stepwire.Host("other", **options))


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_bad_host_names(name: str) -> None:
    assert declare(lambda _: stepwire.Host(name))


def test_unresolvable_annotation_is_found_at_registration() -> None:
    def work(value: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert "Nowhere" in declare(lambda host: host.step(work))


def test_flow_takes_one_input() -> None:
    def flow(ctx: stepwire.ContextSync, one: int, two: int) -> None: ...

    assert "takes 2 inputs" in declare(lambda host: host.flow(flow))


@pytest.mark.parametrize("options", [{"retries": -1}, {"timeout": "soon"}], ids=str)
def test_bad_options_at_the_call(options: dict[str, Any]) -> None:
    async def flow(ctx: stepwire.Context) -> Any:
        return await ctx.step.run("step", lambda: 1, **options)

    run = run_misuse(flow)
    assert_failed(run, ErrorCode.INVALID_ARGUMENT)
    assert run.record.steps == ()
