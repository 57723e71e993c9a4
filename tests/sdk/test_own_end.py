"""A flow ends its own run: `ctx.cancel()` and `ctx.restart_with()`, from wherever its code stands (MISSION S20)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import pytest

import stepwire
from stepwire.errors import BodyEvicted, FlowStopped, InvalidInput, PayloadTooLarge
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import Purpose, Welcome
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded
from tests.sdk.by_hand import EngineByHand, by_hand
from tests.sdk.gates import until

ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
CANCELLED = BodyEnded(cancelled=True)


@dataclasses.dataclass
class Page:
    number: int


def run_by_hand(
    body: Callable[..., Any],
    input: Any = None,
    *,
    welcome: Welcome | None = None,
    until_left: Callable[[], object] = lambda: True,
) -> BodyEnded:
    """Enter a flow that ends by itself; how it said it ended.

    Args:
        until_left: True once its code, which may be on a thread, did what the test looks at.
    """

    async def main() -> BodyEnded:
        host = stepwire.Host("ends")
        flow = host.flow(name="flow")(body)
        async with by_hand(host, welcome=welcome) as engine:
            await engine.begin(flow, input)
            await until("the body has ended", lambda: engine.ended is not None)
            await until("its code has been left", until_left)
            assert engine.ended is not None
            return engine.ended

    return asyncio.run(main())


@ASYNC
def test_a_flow_cancels_its_run(is_async: bool) -> None:
    after: list[str] = []

    async def in_tasks(ctx: stepwire.Context) -> None:
        ctx.cancel()
        after.append("went on")

    def in_threads(ctx: stepwire.ContextSync) -> None:
        ctx.cancel()
        after.append("went on")

    assert run_by_hand(in_tasks if is_async else in_threads) == CANCELLED
    assert after == []


@ASYNC
def test_a_flow_goes_on_with_another_input(is_async: bool) -> None:
    async def in_tasks(ctx: stepwire.Context, page: Page) -> None:
        ctx.restart_with(Page(page.number + 1))

    def in_threads(ctx: stepwire.ContextSync, page: Page) -> None:
        ctx.restart_with(Page(page.number + 1))

    ended = run_by_hand(in_tasks if is_async else in_threads, {"number": 1})
    assert ended == BodyEnded(restart=Payload(b'{"number":2}'))


def test_a_flow_without_input_starts_again() -> None:
    async def flow(ctx: stepwire.Context) -> None:
        ctx.restart_with()

    assert run_by_hand(flow) == BodyEnded(restart=Payload(b"null"))


@ASYNC
@pytest.mark.parametrize(
    ("bad", "error"), [(("x",), InvalidInput), ((1, 2), InvalidInput), ((Page(10**9),), PayloadTooLarge)]
)
def test_a_bad_input_is_raised_and_the_run_goes_on(
    is_async: bool, bad: tuple[Any, ...], error: type[Exception]
) -> None:
    async def in_tasks(ctx: stepwire.Context, page: Page) -> str:
        with pytest.raises(error):
            ctx.restart_with(*bad)
        return "on"

    def in_threads(ctx: stepwire.ContextSync, page: Page) -> str:
        with pytest.raises(error):
            ctx.restart_with(*bad)
        return "on"

    body = in_tasks if is_async else in_threads
    ended = run_by_hand(body, {"number": 1}, welcome=Welcome("session", payload_bytes_max=20))
    assert ended.output == Payload(b'"on"')


@ASYNC
def test_handlers_of_errors_do_not_stop_the_end(is_async: bool) -> None:
    caught: list[str] = []

    async def in_tasks(ctx: stepwire.Context) -> str:
        try:
            ctx.cancel()
        except Exception:
            caught.append("as an error")
        finally:
            caught.append("finally")
        return "on"

    def in_threads(ctx: stepwire.ContextSync) -> str:
        try:
            ctx.cancel()
        except Exception:
            caught.append("as an error")
        finally:
            caught.append("finally")
        return "on"

    assert run_by_hand(in_tasks if is_async else in_threads, until_left=lambda: caught) == CANCELLED
    assert caught == ["finally"]


@ASYNC
def test_catching_everything_changes_nothing(is_async: bool) -> None:
    seen: list[type[BaseException]] = []

    async def in_tasks(ctx: stepwire.Context) -> str:
        try:
            ctx.cancel()
        except BaseException as exc:
            seen.append(type(exc))
        try:
            await ctx.step.sleep("after", 1)
        except BaseException as exc:
            seen.append(type(exc))
        return "on"

    def in_threads(ctx: stepwire.ContextSync) -> str:
        try:
            ctx.cancel()
        except BaseException as exc:
            seen.append(type(exc))
        try:
            ctx.step.sleep("after", 1)
        except BaseException as exc:
            seen.append(type(exc))
        return "on"

    assert run_by_hand(in_tasks if is_async else in_threads, until_left=lambda: len(seen) == 2) == CANCELLED
    assert seen == [FlowStopped, BodyEvicted]


def test_steps_that_are_outstanding_do_not_hold_it_up() -> None:
    async def flow(ctx: stepwire.Context) -> None:
        ctx.step.sleep("never awaited", 1)
        ctx.cancel()

    assert run_by_hand(flow) == CANCELLED


def test_a_task_group_around_it_does_not_hide_it() -> None:
    """asyncio wraps what a child raises; the end was decided before."""

    async def flow(ctx: stepwire.Context) -> None:
        async def waits() -> None:
            await ctx.step.sleep("long", "1h")

        async def ends() -> None:
            ctx.cancel()

        async with asyncio.TaskGroup() as group:
            group.create_task(waits())
            group.create_task(ends())

    assert run_by_hand(flow) == CANCELLED


def test_a_branch_ends_the_whole_run() -> None:
    """The other branches are stopped where they stand, and the code after the group never runs."""
    stopped: list[str] = []

    async def flow(ctx: stepwire.Context) -> None:
        async def waits() -> None:
            try:
                await ctx.step.sleep("long", "1h")
            except BaseException as exc:
                stopped.append(type(exc).__name__)
                raise

        async def ends() -> None:
            await asyncio.sleep(0)
            ctx.cancel()

        await ctx.group.parallel((waits, ends))
        stopped.append("after the group")

    assert run_by_hand(flow, until_left=lambda: stopped) == CANCELLED
    assert len(stopped) == 1 and stopped[0] in ("BodyEvicted", "CancelledError")


def test_a_branch_on_a_thread_ends_the_whole_run() -> None:
    stopped: list[str] = []
    done = threading.Event()

    def flow(ctx: stepwire.ContextSync) -> None:
        waiting = threading.Event()

        def waits() -> None:
            waiting.set()
            try:
                ctx.step.sleep("long", "1h")
            except BaseException as exc:
                stopped.append(type(exc).__name__)
                raise
            finally:
                done.set()

        def ends() -> None:
            assert waiting.wait(10)
            ctx.restart_with()

        ctx.group.parallel((waits, ends))
        stopped.append("after the group")

    assert run_by_hand(flow, until_left=done.is_set) == BodyEnded(restart=Payload(b"null"))
    assert len(stopped) == 1 and stopped[0] in ("BodyEvicted", "CancelledError")


def test_nothing_is_decided_after_the_end() -> None:
    """Not even the ends of branches: the engine would refuse such a plan."""
    host = stepwire.Host("ends")

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        async def quick() -> None:
            with contextlib.suppress(BaseException):
                await ctx.step.sleep("nap", 1)
            with contextlib.suppress(BaseException):
                await ctx.step.sleep("later", 1)

        async def ends() -> None:
            await ctx.step.sleep("first", 1)
            ctx.cancel()

        await ctx.group.parallel((quick, ends), parallel_mode=stepwire.ParallelMode.RACE)

    async def main() -> EngineByHand:
        async with by_hand(host) as engine:
            await engine.begin(flow)
            await engine.release({"parallel/[1]/first": None})
            return engine

    engine = asyncio.run(main())
    last = engine.plans[-1]
    assert last.body_ended == CANCELLED
    assert not (last.steps or last.branches_ended or last.groups_ended or last.abandoned)
    assert sum(plan.body_ended is not None for plan in engine.plans) == 1


def test_any_other_exception_of_a_flow_is_a_failure() -> None:
    """One that is no Exception does not leave the run without an end."""

    class Odd(BaseException):
        pass

    async def flow(ctx: stepwire.Context) -> None:
        raise Odd("odd")

    ended = run_by_hand(flow)
    assert ended.failure is not None
    assert (ended.failure.code, ended.failure.type) == (ErrorCode.USER_ERROR, "Odd")


@ASYNC
def test_an_end_is_reached_again_for_undos(is_async: bool) -> None:
    """Replay for compensation makes the recorded end again, from a branch, and keeps the closures before it."""
    host = stepwire.Host("ends")
    undone: list[Any] = []

    async def in_tasks(ctx: stepwire.Context) -> None:
        async def ends() -> None:
            await ctx.step.run("reserve", lambda: "seat", compensate=undone.append)
            ctx.cancel()

        async def waits() -> None:
            await ctx.step.sleep("long", "1h")

        await ctx.group.parallel((ends, waits), parallel_mode=stepwire.ParallelMode.RACE)

    def in_threads(ctx: stepwire.ContextSync) -> None:
        def ends() -> None:
            ctx.step.run("reserve", lambda: "seat", compensate=undone.append)
            ctx.cancel()

        ctx.group.parallel((ends, lambda: ctx.step.sleep("long", "1h")), parallel_mode=stepwire.ParallelMode.RACE)

    async def main() -> None:
        flow = host.flow(name="flow")(in_tasks if is_async else in_threads)
        async with by_hand(host) as engine:
            await engine.begin(flow)
            await engine.release({"parallel/[0]/reserve": "seat"})
            assert engine.ended == CANCELLED
            plans = list(engine.plans)
            await engine.begin(flow, entries=list(engine.entries), purpose=Purpose.UNDO)
            body = engine.runtime._bodies["run-1"]
            assert body.ended and list(body.undos) == ["parallel/[0]/reserve"]
            assert engine.plans == plans and engine.failed == []

    asyncio.run(main())
