"""What a host began for plans that the engine never sees: the body was evicted before they left (MISSION S20)."""

from __future__ import annotations

import asyncio
import threading

import pytest

import stepwire
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import EngineFrame, EngineSection, Execute
from stepwire.protocol.plan import StepKind
from tests.sdk.gates import turns, until
from tests.sdk.host_desk import RUN, HostDesk


class Begun:
    """A flow whose steps tell that they began, and that they were told to stop."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.stopped: list[str] = []
        self.host = stepwire.Host("begun")
        self.flow = self.host.flow(name="flow")(self.steps)
        self.both = self.host.flow(name="both")(self.one_of_each)
        self.end = threading.Event()

    async def waits(self) -> None:
        self.began.append("async")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.stopped.append("async")
            raise

    def blocks(self) -> None:
        self.began.append("sync")
        attempt = stepwire.current_attempt()
        assert attempt is not None
        if attempt.wait_cancelled(10):
            self.stopped.append("sync")

    async def steps(self, ctx: stepwire.Context) -> None:
        await ctx.step.run("async", self.waits)

    async def one_of_each(self, ctx: stepwire.Context) -> None:
        await ctx.group.parallel((lambda: ctx.step.run("async", self.waits), lambda: ctx.step.run("sync", self.blocks)))


def evict_unseen(desk: HostDesk) -> list[EngineSection]:
    """The session has the Evict; the loop, which is handed the sections later, does not know of it yet."""
    desk._frames += 1
    frame = EngineFrame(number=desk._frames, runs=[EngineSection(RUN, evict=desk.fence)])
    return desk.port.receive(frame)


@pytest.mark.parametrize("flow", ["flow", "both"])
def test_a_body_that_plans_after_its_eviction_begins_nothing_that_lasts(flow: str) -> None:
    """Nor does it harm the host: the next body works."""

    async def scenario() -> None:
        begun = Begun()
        async with HostDesk(begun.host) as desk:
            desk.start(begun.host.flows[flow])
            sections = evict_unseen(desk)
            await turns(30)
            desk.runtime.handle(sections)
            await until("nothing is executed", lambda: desk.runtime.busy == 0)
            assert sorted(begun.began) == sorted(begun.stopped)
            await until("its slots are free", lambda: desk.port.session.free_slots == begun.host.slots)
            assert desk.hear().plans == []

            desk.start(begun.both)
            await until("the next body's steps begin", lambda: {"async", "sync"} <= set(begun.began))
            desk.evict()
            await until("they are told to stop", lambda: desk.runtime.busy == 0)

    asyncio.run(scenario())


def test_what_only_an_unsent_plan_names_is_told_to_stop_with_the_eviction() -> None:
    async def scenario() -> None:
        begun = Begun()
        async with HostDesk(begun.host) as desk:
            desk.start(begun.both)
            await until("both steps run", lambda: len(begun.began) == 2)
            desk.evict()
            await until("they are told to stop", lambda: desk.runtime.busy == 0)
            assert sorted(begun.stopped) == ["async", "sync"]
            assert desk.hear().plans == []
            await until("its slots are free", lambda: desk.port.session.free_slots == begun.host.slots)

    asyncio.run(scenario())


def test_what_a_plan_named_that_left_goes_on_after_the_eviction() -> None:
    """The engine decides about that: the run may only have been placed elsewhere."""

    async def scenario() -> None:
        begun = Begun()
        async with HostDesk(begun.host) as desk:
            desk.start(begun.flow)
            await desk.until_planned("async")
            desk.evict()
            await turns(30)
            assert desk.runtime.busy == 1 and begun.stopped == []

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["s", ""])
def test_what_came_before_its_step_and_is_cancelled_as_that_is_planned_never_begins(path: str) -> None:
    """The Cancel comes in the very tick in which the body plans the step; with no path it is for the whole run."""
    began: list[str] = []
    host = stepwire.Host("early")

    async def main() -> None:
        gate = asyncio.Event()
        async with HostDesk(host) as desk:
            fence = desk.next_fence()

            async def work() -> None:
                began.append("s")

            @host.flow(name="flow")
            async def flow(ctx: stepwire.Context) -> None:
                await gate.wait()
                asyncio.get_running_loop().call_soon(desk.cancel, path, fence)
                await ctx.step.run("s", work)

            desk.start(flow)
            await turns()
            desk.say(executes=[Execute("s", 1, fence, StepKind.RUN)])
            await turns()
            gate.set()
            result = await desk.until_result("s")
            assert result.failure is not None and result.failure.code is ErrorCode.CANCELLED
            assert began == []

    asyncio.run(main())
