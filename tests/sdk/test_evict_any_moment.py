"""A body may be taken away at any moment: its code stops or is refused, and nothing of it is left (DESIGN 6).

The flow stops at one point of its way: in a step, in its own code, in branches, in branches of branches. There it is
evicted. What it does then is up to user code; what comes of it is not.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import stepwire
from stepwire.errors import BodyEvicted
from stepwire.protocol.frames import Purpose
from tests.sdk.gates import Gates, turns, until
from tests.sdk.host_desk import HostDesk
from tests.sdk.sagas import Saga

ASYNC_FLOW = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
IN_STEPS = ("one", "deep", "wide")
IN_CODE = ("start", "between", "deep code", "wide code")
HABITS = ("plain", "finally", "swallows")


class Way:
    """A flow that stops at `moment`, and does with its end what `habit` says.

    Attributes:
        refused: What durable calls raised after the body was gone, by type.
        told: Kinds of hook calls.
    """

    def __init__(self, moment: str, habit: str = "plain", *, is_async: bool = True) -> None:
        self.gates = Gates()
        self.moment = moment
        self.habit = habit
        self.refused: list[str] = []
        self.told: list[str] = []
        self.host = stepwire.Host("way")
        self.flow = self.host.flow(name="flow")(self.in_tasks if is_async else self.in_threads)
        self.host.on("run_started")(lambda call: self.told.append(call.kind))
        self.host.on("run_failed")(lambda call: self.told.append(call.kind))

    async def stop(self, name: str) -> str:
        """A step, or code between steps, of an async flow."""
        return await self.gates.wait(name) if name == self.moment else name  # type: ignore[no-any-return]

    def stop_sync(self, name: str) -> str:
        return self.gates.wait_sync(name) if name == self.moment else name  # type: ignore[no-any-return]

    async def in_tasks(self, ctx: stepwire.Context) -> str:
        async def at(*names: str) -> None:
            for name in names:
                if name in IN_STEPS:
                    await ctx.step.run(name, self.stop, name)
                else:
                    await self.habitually(ctx, name)

        async def wide() -> None:
            await at("wide", "wide code")

        async def outer() -> None:
            await ctx.group.parallel((lambda: at("deep", "deep code"), lambda: at("deep")), name="inner")

        await at("start", "one", "between")
        await ctx.group.parallel((outer, wide))
        return "end"

    async def habitually(self, ctx: stepwire.Context, name: str) -> None:
        try:
            await self.stop(name)
        except asyncio.CancelledError:
            if self.habit == "plain":
                raise
        finally:
            if self.habit == "finally" and name == self.moment:
                await self.refused_in(ctx)
        if self.habit == "swallows" and name == self.moment:
            await self.refused_in(ctx)

    async def refused_in(self, ctx: stepwire.Context) -> None:
        for call in (lambda: ctx.step.run("late", int), lambda: ctx.group.parallel((lambda: ctx.step.run("l", int),))):
            try:
                await call()
            except BaseException as error:
                self.refused.append(type(error).__name__)

    def in_threads(self, ctx: stepwire.ContextSync) -> str:
        def at(*names: str) -> None:
            for name in names:
                if name in IN_STEPS:
                    ctx.step.run(name, self.stop_sync, name)
                else:
                    self.habitually_sync(ctx, name)

        def wide() -> None:
            at("wide", "wide code")

        def outer() -> None:
            ctx.group.parallel((lambda: at("deep", "deep code"), lambda: at("deep")), name="inner")

        at("start", "one", "between")
        ctx.group.parallel((outer, wide))
        return "end"

    def habitually_sync(self, ctx: stepwire.ContextSync, name: str) -> None:
        try:
            self.stop_sync(name)
        finally:
            if self.habit == "finally" and name == self.moment:
                self.refused_in_sync(ctx)
        if self.habit == "swallows" and name == self.moment:
            self.refused_in_sync(ctx)

    def refused_in_sync(self, ctx: stepwire.ContextSync) -> None:
        for call in (lambda: ctx.step.run("late", int), lambda: ctx.group.parallel((lambda: 1,))):
            try:
                call()
            except BaseException as error:
                self.refused.append(type(error).__name__)


def threads_out(desk: HostDesk) -> int:
    """Threads in code of bodies, of those that are gone as well."""
    threads = desk.runtime.threads
    return threads._count - len(threads._idle)


async def ended(desk: HostDesk, way: Way, tasks: set[asyncio.Task[Any]]) -> None:
    """All gates are opened; every task and thread of the body ends, and the host says nothing more of it."""
    desk.hear()
    desk.plans.clear()
    way.gates.open(*IN_STEPS, *IN_CODE)
    await until("its threads come back", lambda: threads_out(desk) == 0)
    await until("its attempts have ended", lambda: desk.runtime.busy == 0)
    await until("its tasks have ended", lambda: not asyncio.all_tasks() - tasks - {asyncio.current_task()})
    await turns(30)
    assert desk.hear().plans == [] and desk.failed == [] and desk.given_back == []
    assert desk.runtime._bodies == {} and desk.port.session.bodies == 0 and desk.runtime.expected == {}


async def at_moment(desk: HostDesk, way: Way) -> None:
    """Play until the flow has come to where it stops."""
    playing = asyncio.create_task(desk.play(way.flow))
    await way.gates.until_reached(way.moment)
    await turns(20)
    playing.cancel()
    await asyncio.wait([playing])


@ASYNC_FLOW
@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize("moment", [*IN_STEPS, *IN_CODE])
def test_an_evicted_body_leaves_nothing(moment: str, habit: str, is_async: bool) -> None:
    async def main() -> None:
        way = Way(moment, habit, is_async=is_async)
        async with HostDesk(way.host) as desk:
            tasks = asyncio.all_tasks()
            await at_moment(desk, way)
            desk.evict()
            await ended(desk, way, tasks)
            if moment in IN_CODE and habit != "plain":
                assert way.refused == ["BodyEvicted", "BodyEvicted"]
            await desk.runtime.hooks.drained()
            assert way.told == ["run_started"], "an eviction is no end of a run"

    asyncio.run(main())


@ASYNC_FLOW
@pytest.mark.parametrize("moment", IN_CODE)
def test_a_body_that_replays_is_evicted_in_its_code(moment: str, is_async: bool) -> None:
    """Also one that waits behind the barrier, for what another branch has yet to make again."""

    async def main() -> None:
        way = Way("nowhere", is_async=is_async)
        async with HostDesk(way.host) as desk:
            tasks = asyncio.all_tasks()
            assert (await desk.play(way.flow)).output is not None
            way.moment = moment
            desk.plans.clear()
            desk.start(way.flow, desk.journal)
            await way.gates.until_reached(moment)
            await turns(20)
            desk.evict()
            await ended(desk, way, tasks)

    asyncio.run(main())


@ASYNC_FLOW
@pytest.mark.parametrize("moment", [*IN_STEPS, *IN_CODE])
def test_a_newer_body_replaces_the_older_one_wherever_that_is(moment: str, is_async: bool) -> None:
    """Two copies of user code run for a while; only the newer one can decide anything."""

    async def main() -> None:
        way = Way(moment, "swallows", is_async=is_async)
        async with HostDesk(way.host) as desk:
            tasks = asyncio.all_tasks()
            await at_moment(desk, way)
            older = desk.fence
            way.moment = "nowhere"
            desk.plans.clear()
            desk.journal.clear()
            playing = asyncio.create_task(desk.play(way.flow))
            await turns(20)
            if moment in IN_STEPS:
                way.gates.open(moment)  # The attempt goes on, for the newer body: there are never two of one step.
            assert (await playing).output is not None
            assert desk.fence > older and {plan.fence for plan in desk.hear().plans} <= {desk.fence}
            await ended(desk, way, tasks)

    asyncio.run(main())


@ASYNC_FLOW
@pytest.mark.parametrize("during", ["replay", "undo"])
def test_a_body_that_undoes_is_evicted(during: str, is_async: bool) -> None:
    async def main() -> None:
        gates = Gates()

        async def undo(_: Any) -> None:
            await gates.wait("undo")

        saga = Saga(undo, is_async=is_async)
        async with HostDesk(saga.host) as desk:
            tasks = asyncio.all_tasks()
            await desk.play(saga.flow)
            desk.evict()
            desk.start(saga.flow, desk.journal, purpose=Purpose.UNDO)
            if during == "undo":
                desk.undo("book", b'{"id":7,"seat":"3A"}')
                await gates.until_reached("undo")
            desk.evict()
            gates.open("undo")
            await until("nothing runs", lambda: desk.runtime.busy == 0 and threads_out(desk) == 0)
            await until("its tasks have ended", lambda: not asyncio.all_tasks() - tasks - {asyncio.current_task()})
            assert desk.runtime._bodies == {} and desk.port.session.bodies == 0 and desk.hear().failed == []

    asyncio.run(main())


def test_a_thread_of_an_evicted_body_ends_when_it_next_asks_for_something() -> None:
    """A plain flow in its own code cannot be stopped; it is refused, and its thread is free again."""
    refused = threading.Event()

    async def main() -> None:
        way = Way("between", is_async=False)

        def flow(ctx: stepwire.ContextSync) -> None:
            way.gates.wait_sync("between")
            try:
                ctx.step.run("late", int)
            except BodyEvicted:
                refused.set()
                raise

        made = way.host.flow(name="alone")(flow)
        async with HostDesk(way.host) as desk:
            desk.start(made)
            await way.gates.until_reached("between")
            desk.evict()
            assert threads_out(desk) == 1
            way.gates.open("between")
            await until("its thread is free", lambda: threads_out(desk) == 0)

    asyncio.run(main())
    assert refused.is_set()
