"""Code of steps and branches begins at once, and sees what it would see in any task of asyncio (DESIGN 6).

Every piece of code below runs in a task that asyncio makes, in a step and in a branch. What it saw is the same. What
differs on purpose, when branches begin, is in `test_branches_begin.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import stepwire
from stepwire import testing
from stepwire._event_loop import loop_factory
from stepwire._runtime.attempt import RunningAttempt, StepCall
from stepwire._runtime.attempts import Attempts
from stepwire._runtime.eager import EagerTasks
from stepwire._runtime.telemetry import HostTelemetry
from stepwire.codec import JSON_CODEC
from stepwire.protocol.frames import CancelReason, Result
from stepwire.protocol.plan import Fence, StepKind

SHORT = 0.01
USER: ContextVar[str] = ContextVar("user", default="nobody")
Code = Callable[[], Coroutine[Any, Any, Any]]
Flow = Callable[[stepwire.Context], Awaitable[Any]]

LOOPS = pytest.mark.parametrize("choice", ["asyncio", "uvloop"])
MODES = pytest.mark.parametrize("mode", ["live", "replay", "factory"])


def run(flow: Flow, choice: str, mode: str = "live") -> testing.TestRun:
    """Run a flow on this kind of loop: live, with forced replay, or where a task factory makes the tasks."""
    if choice == "uvloop":
        pytest.importorskip("uvloop")

    async def main() -> testing.TestRun:
        if mode == "factory":
            asyncio.get_running_loop().set_task_factory(made_by_factory)
        host = stepwire.Host("eager")
        registered = host.flow(name="flow")(flow)
        async with testing.environment(host, replay=mode == "replay") as env:
            return await env.execute(registered)

    with asyncio.Runner(loop_factory=loop_factory(choice)) as runner:
        return runner.run(main())


def made_by_factory(loop: asyncio.AbstractEventLoop, code: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(code, loop=loop, **options)


# ---- what ordinary code sees


async def cancelled_by_timeout() -> list[Any]:
    task = asyncio.current_task()
    assert task is not None
    seen: list[Any] = []
    for limit in (0, SHORT):
        try:
            async with asyncio.timeout(limit) as scope:
                await asyncio.Event().wait()
        except TimeoutError:
            seen += ["timed out", scope.expired(), task.cancelling()]
    async with asyncio.timeout(None) as scope:
        await asyncio.sleep(0)
    return [*seen, scope.expired()]


async def cancelled_by_wait_for() -> list[Any]:
    stopped: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("stopped")

    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(waits(), SHORT)
    return [*stopped, await asyncio.wait_for(asyncio.sleep(0, "in time"), 60)]


async def a_task_group() -> list[Any]:
    seen: list[Any] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def fails() -> None:
        raise ValueError("no")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits())
            group.create_task(fails())
            seen.append("no child has begun")
    except* ValueError as errors:
        seen += [str(error) for error in errors.exceptions]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0, i)) for i in range(3)]
    return [*seen, *[task.result() for task in tasks]]


async def a_gather() -> list[Any]:
    async def fails() -> None:
        raise ValueError("no")

    results = await asyncio.gather(asyncio.sleep(0, 1), fails(), asyncio.sleep(0, 2), return_exceptions=True)
    done, pending = await asyncio.wait(
        [asyncio.create_task(asyncio.sleep(0, 3)), waits := asyncio.create_task(asyncio.Event().wait())],
        return_when=asyncio.FIRST_COMPLETED,
    )
    waits.cancel()
    return [*map(str, results), *[task.result() for task in done], pending == {waits}]


async def scopes_of_anyio() -> list[Any]:
    seen: list[Any] = []

    async def child(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            seen.append(name)

    with anyio.move_on_after(SHORT) as scope:
        await anyio.sleep_forever()
    seen.append(scope.cancelled_caught)
    try:
        with anyio.fail_after(SHORT):
            await anyio.sleep_forever()
    except TimeoutError:
        seen.append("too late")
    async with anyio.create_task_group() as group:
        group.start_soon(child, "child")
        await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.lowlevel.checkpoint()
    with anyio.CancelScope(shield=True):
        seen.append(await anyio.to_thread.run_sync(lambda: "on a thread"))
    return [*seen, scope.cancelled_caught]


async def the_current_task() -> list[bool]:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    same = [asyncio.current_task() is task, asyncio.current_task(loop) is task, task in asyncio.all_tasks()]
    for wait in (asyncio.sleep(0), asyncio.sleep(0.001), asyncio.to_thread(int)):  # gate: a wait for a timer
        await wait
        same += [asyncio.current_task() is task, asyncio.get_running_loop() is loop]
    within = await asyncio.create_task(which_task())
    return [*same, within is task, task.done(), task.cancelled(), task.cancelling() == 0, task.get_loop() is loop]


async def which_task() -> Any:
    return asyncio.current_task()


async def its_own_cancel() -> list[Any]:
    task = asyncio.current_task()
    assert task is not None
    seen: list[Any] = [task.cancel("enough"), "goes on until it waits"]
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError as error:
        seen += [str(error), task.cancelling(), task.uncancel()]
    await asyncio.sleep(0)
    return seen


async def the_order_of_callbacks() -> list[str]:
    loop, seen = asyncio.get_running_loop(), list[str]()

    async def child() -> None:
        seen.append("child")

    loop.call_soon(seen.append, "callback")
    task = asyncio.create_task(child())
    loop.call_soon(seen.append, "callback after")
    seen.append("code")
    await task
    seen.append("code after")
    return seen


async def nobodys_exception() -> list[Any]:
    seen: list[Any] = [sys.exc_info()[0]]
    try:
        raise ValueError("own")
    except ValueError as error:
        seen.append(error.__context__)
        await asyncio.sleep(0)
        seen.append(str(sys.exc_info()[1]))
    return [*seen, sys.exc_info()[0]]


async def generators() -> list[str]:
    seen: list[str] = []

    async def numbers(name: str) -> AsyncIterator[int]:
        try:
            for number in range(9):
                yield number
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            seen.append(f"{name} is closed")

    async with contextlib.aclosing(numbers("a closed one")) as closing:
        async for number in closing:
            if number == 1:
                break
    forgotten: Any = numbers("a forgotten one")
    await anext(forgotten)
    del forgotten  # The loop closes it, in a task of its own.
    for _ in range(9):
        await asyncio.sleep(0)
    return seen


async def context_variables() -> list[str]:
    def read() -> str:
        return USER.get()

    async def child() -> str:
        found = USER.get()
        USER.set("child")
        return found

    seen = [read()]
    token = USER.set("code")
    seen += [read(), await child_in_task(child), await asyncio.to_thread(read), copy_context()[USER]]
    await asyncio.sleep(0)
    seen.append(read())
    USER.reset(token)
    return [*seen, read()]


async def child_in_task(child: Callable[[], Coroutine[Any, Any, str]]) -> str:
    return await asyncio.create_task(child())


async def locks_and_queues() -> list[Any]:
    lock, queue = asyncio.Lock(), asyncio.Queue[int](1)

    async def puts() -> None:
        async with lock:
            for i in range(3):
                await queue.put(i)

    task = asyncio.create_task(puts())
    got = [await queue.get() for _ in range(3)]
    async with lock:
        return [*got, task.done()]


async def a_shield() -> list[Any]:
    inner = asyncio.create_task(asyncio.sleep(SHORT, "kept"))  # gate: it outlives the time limit
    try:
        async with asyncio.timeout(0):
            await asyncio.shield(inner)
    except TimeoutError:
        return [inner.cancelled(), await inner]
    return []


CODES: list[Code] = [
    cancelled_by_timeout,
    cancelled_by_wait_for,
    a_task_group,
    a_gather,
    scopes_of_anyio,
    the_current_task,
    its_own_cancel,
    the_order_of_callbacks,
    nobodys_exception,
    generators,
    context_variables,
    locks_and_queues,
    a_shield,
]


@pytest.fixture(scope="module")
def in_a_task() -> Callable[[Code], Any]:
    """What code sees in a task that asyncio makes."""

    async def main(code: Code) -> Any:
        return await asyncio.create_task(code())

    return lambda code: asyncio.run(main(code))


@LOOPS
@MODES
@pytest.mark.parametrize("code", CODES)
def test_in_a_step(code: Code, mode: str, choice: str, in_a_task: Callable[[Code], Any]) -> None:
    seen: list[Any] = []

    async def step() -> None:
        seen.append(await code())

    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("before", step, retries=0)
        await ctx.group.map("s{i}", lambda _: step(), range(2), retries=0)
        await ctx.step.run("after", step, retries=0)

    run(flow, choice, mode).output  # noqa: B018 - raises if the run failed
    assert seen == [in_a_task(code)] * 4


@LOOPS
@MODES
@pytest.mark.parametrize("code", CODES)
def test_in_a_branch(code: Code, mode: str, choice: str, in_a_task: Callable[[Code], Any]) -> None:
    """In all its lives; code before and after a step of the branch, and in the branch of a group inside."""
    seen: list[Any] = []

    async def flow(ctx: stepwire.Context) -> list[Any]:
        async def branch() -> list[Any]:
            return [await code(), await ctx.step.run("s", int), *await ctx.group.parallel((code, code))]

        await ctx.step.run("before", int)
        found = [*await ctx.group.parallel((branch, branch)), await code()]
        seen.append(found)
        await ctx.step.run("after", int)
        return found

    expected = in_a_task(code)
    branch = [expected, 0, expected, expected]
    run(flow, choice, mode).output  # noqa: B018 - raises if the run failed
    assert len(seen) > (mode == "replay")
    assert seen == [[branch, branch, expected]] * len(seen)


# ---- between one piece of code and the next


@LOOPS
@MODES
def test_what_one_sets_nobody_else_sees(mode: str, choice: str) -> None:
    def sets(name: str) -> Code:
        async def code() -> str:
            found = USER.get()
            USER.set(name)
            await asyncio.sleep(0)
            return f"{found} {USER.get()}"

        return code

    async def flow(ctx: stepwire.Context) -> list[Any]:
        USER.set("flow")
        steps = [await ctx.step.run(name, sets(name)) for name in ("a", "b")]
        branches = await ctx.group.parallel((sets("c"), sets("d")))
        mapped = await ctx.group.map("m{i}", lambda i: sets(i)(), ["e", "f"])
        return [*steps, *branches, *mapped, USER.get()]

    assert run(flow, choice, mode).output == [*[f"flow {name}" for name in "abcdef"], "flow"]


@LOOPS
@pytest.mark.parametrize("mode", ["live", "factory"])
def test_a_stale_cancel_hits_nobody(mode: str, choice: str) -> None:
    """Each step and branch is a task of its own: to cancel one that has ended does nothing."""
    tasks: list[asyncio.Task[Any]] = []

    async def keeps(name: str) -> str:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        return name

    async def cancels(name: str) -> str:
        hit = [task.cancel() for task in tasks]
        await keeps(name)
        await asyncio.sleep(0)
        return f"{name} {any(hit)} {len(set(tasks)) == len(tasks)}"

    async def flow(ctx: stepwire.Context) -> list[Any]:
        first = [await ctx.step.run("a", keeps, "a"), await ctx.step.run("b", cancels, "b")]
        branches = await ctx.group.parallel((lambda: keeps("c"),)), await ctx.group.parallel((lambda: cancels("d"),))
        return [*first, *branches]

    assert run(flow, choice, mode).output == ["a", "b False True", ["c"], ["d False True"]]


@LOOPS
@MODES
@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError("no")], ids=["error", "cancelled"])
def test_an_exception_before_the_first_wait(error: BaseException, mode: str, choice: str) -> None:
    async def fails() -> None:
        raise error

    async def flow(ctx: stepwire.Context) -> list[Any]:
        found: list[Any] = []
        try:
            await ctx.step.run("fails", fails, retries=0)
        except stepwire.StepError as failed:
            found += [failed.failure.type, failed.failure.message]
        settled = await ctx.group.settle((fails, lambda: ctx.step.run("s", int), fails))
        return [*found, *[branch.outcome for branch in settled]]

    ended = "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"
    assert run(flow, choice, mode).output == [type(error).__name__, "no", ended, "completed", ended]


@LOOPS
@MODES
def test_tasks_are_named_after_the_step_or_the_branch(mode: str, choice: str) -> None:
    async def name() -> str:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    async def flow(ctx: stepwire.Context) -> list[Any]:
        async def branch() -> list[str]:
            return [await name(), await ctx.step.run("s", name)]

        return [await ctx.step.run("alone", name), *await ctx.group.parallel((branch, branch))]

    of_branches = [["parallel/[0]", "parallel/[0]/s"], ["parallel/[1]", "parallel/[1]/s"]]
    assert run(flow, choice, mode).output == ["alone", *of_branches]


# ---- what never begins


def test_an_attempt_that_is_stopped_before_it_begins_runs_no_code() -> None:
    """Nor does one that is still to begin when the host closes. No coroutine is left behind: warnings are errors."""
    ran: list[str] = []
    told: list[tuple[str, str]] = []

    async def main() -> None:
        async def work(name: str) -> None:
            ran.append(name)

        def finish(running: RunningAttempt, result: Result, value: Any) -> None:
            told.append((result.path, "ok" if result.failure is None else result.failure.type))

        def start(name: str) -> None:
            call = StepCall(StepKind.RUN, work, (name,), {}, Any, JSON_CODEC, None, True)
            attempts.start("run", name, 1, Fence(1, 1), call, copy_context(), None)

        loop = asyncio.get_running_loop()
        attempts = Attempts(loop, EagerTasks(loop), 1, time.monotonic, finish, HostTelemetry("test"), lambda: None)
        for name in ("a", "b", "c"):
            start(name)
        attempts.cancel("run", "b", CancelReason.RACE_LOST)
        attempts.let_go(4)
        start("d")
        attempts.close()
        attempts.let_go(4)
        assert attempts.count == 0

    asyncio.run(main())
    assert ran == ["a", "c"]
    assert sorted(told) == [("a", "ok"), ("b", "Cancelled"), ("c", "ok"), ("d", "Cancelled")]
