"""Bodies that stay, or are entered, for their undos: for how long, what they may do, what is unreachable (S8)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import stepwire
from stepwire.errors import BodyEvicted
from stepwire.flow import FlowFunction
from stepwire.protocol.failure import ErrorCode, Retryable
from stepwire.protocol.frames import Advance, CancelReason, Execute, Purpose, RejectReason, Release
from stepwire.protocol.plan import Plan, StepKind
from tests.sdk.gates import Gates, turns, until
from tests.sdk.host_desk import RUN, HostDesk
from tests.sdk.sagas import Saga

ASYNC_FLOW = pytest.mark.parametrize("is_async", [True, False], ids=["async-flow", "sync-flow"])
WAYS = pytest.mark.parametrize("way", ["live", "replay"])


# ---- how long the body stays


def bodies(desk: HostDesk) -> tuple[int, int]:
    """Live bodies, as the session counts them and as the runtime holds them."""
    return desk.port.session.bodies, len(desk.runtime._bodies)


@ASYNC_FLOW
@pytest.mark.parametrize("gone", ["evict", "cancel", "start"])
def test_a_failed_body_with_undos_stays_until_the_engine_lets_it_go(gone: str, is_async: bool) -> None:
    async def main() -> None:
        saga = Saga(lambda out: None, is_async=is_async)
        async with HostDesk(saga.host) as desk:
            await desk.play(saga.flow)
            assert bodies(desk) == (1, 1), "kept, and counted as live"
            (held,) = desk.connect().bodies
            assert (held.run_id, held.fence, held.last_release, held.next_plan_seq) == (RUN, desk.fence, 2, 4)
            match gone:
                case "evict":
                    desk.evict()
                case "cancel":
                    desk.cancel("", desk.fence)
                case "start":
                    desk.start(saga.flow)
                    assert bodies(desk) == (1, 1), "the new one"
                    desk.evict()
            assert bodies(desk) == (0, 0)
            desk.undo("book")
            assert [r.reason for r in desk.hear().rejects] == [RejectReason.NO_BODY]

    asyncio.run(main())


@ASYNC_FLOW
@pytest.mark.parametrize("why", ["succeeded", "no undo", "registered undo"])
def test_a_body_that_nobody_will_undo_goes_as_soon_as_its_end_is_acked(why: str, is_async: bool) -> None:
    host = stepwire.Host("ends")

    @host.step
    def release(out: Any) -> None: ...

    compensate = {"succeeded": lambda out: None, "no undo": None, "registered undo": release}[why]

    def end() -> str:
        if why != "succeeded":
            raise ValueError
        return "done"

    async def in_tasks(ctx: stepwire.Context) -> str:
        await ctx.step.run("book", int, compensate=compensate)
        return end()

    def in_threads(ctx: stepwire.ContextSync) -> str:
        ctx.step.run("book", int, compensate=compensate)
        return end()

    flow = host.flow(in_tasks if is_async else in_threads)

    async def main() -> None:
        async with HostDesk(host) as desk:
            await desk.play(flow)
            assert bodies(desk) == (0, 0)

    asyncio.run(main())


@ASYNC_FLOW
def test_a_flow_that_cancels_itself_is_kept_for_its_undos(is_async: bool) -> None:
    host = stepwire.Host("cancels")
    undone: list[Any] = []

    async def in_tasks(ctx: stepwire.Context) -> None:
        await ctx.step.run("book", lambda: 7, compensate=undone.append)
        ctx.cancel()

    def in_threads(ctx: stepwire.ContextSync) -> None:
        ctx.step.run("book", lambda: 7, compensate=undone.append)
        ctx.cancel()

    flow = host.flow(in_tasks if is_async else in_threads)

    async def main() -> None:
        async with HostDesk(host) as desk:
            ended = await desk.play(flow)
            assert ended.cancelled and bodies(desk) == (1, 1)
            desk.undo("book", b"7")
            assert (await desk.until_result("book#undo")).failure is None
            assert undone == [7]

    asyncio.run(main())


def test_no_line_of_a_kept_body_runs_that_never_began() -> None:
    """A branch ends the run before the code of another one begins."""

    async def body(ctx: stepwire.Context) -> None:
        async def waits() -> None:
            await ctx.step.sleep("long", "1h")

        await ctx.step.run("book", lambda: 7, compensate=lambda: None)
        await ctx.group.parallel((waits, lambda: ctx.cancel()))

    host = stepwire.Host("cancels")
    flow = host.flow(name="flow")(body)

    async def main() -> None:
        async with HostDesk(host) as desk:
            ended = await desk.play(flow)
            assert ended.cancelled and bodies(desk) == (1, 1)
            await until("nothing of it runs", lambda: desk.runtime.idle)

    asyncio.run(main())


def test_a_stale_cancel_or_evict_lets_nothing_go() -> None:
    async def main() -> None:
        saga = Saga(lambda out: None)
        async with HostDesk(saga.host) as desk:
            stale = desk.next_fence()
            await desk.play(saga.flow)
            desk.cancel("", stale)
            desk.say(evict=stale)
            assert bodies(desk) == (1, 1)

    asyncio.run(main())


def test_a_kept_body_executes_undos_and_nothing_else() -> None:
    async def main() -> None:
        saga = Saga(lambda out: None)
        async with HostDesk(saga.host) as desk:
            await desk.play(saga.flow)
            desk.say(executes=[Execute("book", 2, desk.next_fence(), StepKind.RUN)])
            assert [r.reason for r in desk.hear().rejects] == [RejectReason.NO_BODY]
            desk.release()
            await turns()
            assert desk.hear().plans == [] and bodies(desk) == (1, 1)

    asyncio.run(main())


def test_lines_of_a_kept_body_that_still_run_decide_nothing() -> None:
    async def main() -> None:
        gates = Gates()
        host = stepwire.Host("kept")
        refused: list[BaseException] = []
        calls: list[str] = []

        @host.flow
        async def flow(ctx: stepwire.Context) -> None:
            async def straggler() -> None:
                await gates.wait("straggler")
                try:
                    await ctx.step.run("late", calls.append, "late")
                except BodyEvicted as evicted:
                    refused.append(evicted)
                    raise

            await ctx.step.run("book", int, compensate=lambda out: None)
            loose = asyncio.ensure_future(straggler())
            loose.add_done_callback(lambda done: done.exception())
            await gates.wait("begun")
            raise ValueError

        gates.open("begun")
        async with HostDesk(host) as desk:
            await desk.play(flow)
            gates.open("straggler")
            await until("it was refused", lambda: refused)
            assert desk.hear().plans == [] and calls == []
            desk.undo("book", b"0")
            assert (await desk.until_result("book#undo")).failure is None

    asyncio.run(main())


def test_what_the_host_holds_survives_its_stream() -> None:
    """The undo in progress goes on; the kept body is listed and still serves the next one."""

    async def main() -> None:
        gates = Gates()
        saga = Saga(lambda out: gates.wait("undo"))
        async with HostDesk(saga.host) as desk:
            await desk.play(saga.flow)
            desk.undo("book", b'{"id":7,"seat":"3A"}')
            await gates.until_reached("undo")
            desk.port.disconnect()
            resume = desk.connect()
            assert [body.run_id for body in resume.bodies] == [RUN]
            assert [a.path for a in resume.attempts] == ["book#undo"]
            desk.say(continued=desk.fence)
            gates.open("undo")
            assert (await desk.until_result("book#undo")).failure is None
            assert bodies(desk) == (1, 1)

    asyncio.run(main())


# ---- Advance for undo


class Cut:
    """A flow whose journal is cut after its first release, as if its run had been cancelled there."""

    def __init__(self, *, is_async: bool) -> None:
        self.host = stepwire.Host("cut")
        self.undone: list[Any] = []
        self.after: list[Any] = []
        self.flow: FlowFunction[..., Any] = self.host.flow(name="flow")(self.in_tasks if is_async else self.in_threads)
        self.then = "step"

    async def in_tasks(self, ctx: stepwire.Context) -> str:
        await ctx.step.run("book", lambda: 7, compensate=self.undone.append)
        try:
            match self.then:
                case "step":
                    await ctx.step.run("more", self.after.append, "more")
                case "group":
                    await ctx.group.parallel((lambda: ctx.step.run("more", self.after.append, "more"),))
                case "cancel":
                    ctx.cancel()
        except BodyEvicted as evicted:
            self.after.append(type(evicted))
            raise
        return "end"

    def in_threads(self, ctx: stepwire.ContextSync) -> str:
        ctx.step.run("book", lambda: 7, compensate=self.undone.append)
        try:
            match self.then:
                case "step":
                    ctx.step.run("more", self.after.append, "more")
                case "group":
                    ctx.group.parallel((lambda: ctx.step.run("more", self.after.append, "more"),))
                case "cancel":
                    ctx.cancel()
        except BodyEvicted as evicted:
            self.after.append(type(evicted))
            raise
        return "end"

    async def journal(self) -> list[Plan | Release]:
        desk = HostDesk(self.host)
        await desk.play(self.flow)
        desk.runtime.close()
        self.undone.clear()
        self.after.clear()
        return desk.journal[:2]


@ASYNC_FLOW
@pytest.mark.parametrize("then", ["step", "group", "cancel", "return"])
def test_a_body_entered_for_undo_decides_nothing_that_is_not_recorded(then: str, is_async: bool) -> None:
    async def main() -> None:
        cut = Cut(is_async=is_async)
        cut.then = then
        journal = await cut.journal()
        async with HostDesk(cut.host) as desk:
            desk.start(cut.flow, journal, purpose=Purpose.UNDO)
            if then != "return":
                await until("the flow was refused", lambda: cut.after)
                assert cut.after == [BodyEvicted]
            await turns()
            assert desk.hear().plans == []
            assert not desk.failed and not desk.given_back
            desk.undo("book", b"7")
            assert (await desk.until_result("book#undo")).failure is None
            assert cut.undone == [7]
            assert bodies(desk) == (1, 1)
            desk.evict()
            assert bodies(desk) == (0, 0)

    asyncio.run(main())


@ASYNC_FLOW
def test_lines_that_wait_for_what_never_came_wait_until_the_body_goes(is_async: bool) -> None:
    """The run was cancelled while a recorded step was in progress."""

    async def main() -> None:
        saga = Saga(lambda out: None, is_async=is_async)
        first = HostDesk(saga.host)
        await first.play(saga.flow)
        first.runtime.close()
        saga.calls.clear()
        async with HostDesk(saga.host) as desk:
            desk.start(saga.flow, first.journal[:3], purpose=Purpose.UNDO)
            desk.undo("book", b'{"id":7,"seat":"3A"}')
            assert (await desk.until_result("book#undo")).failure is None
            assert bodies(desk) == (1, 1) and desk.hear().plans == []
            assert saga.calls == [], "nothing is executed again"

    asyncio.run(main())


def test_an_undo_waits_for_the_whole_replay_even_if_its_closure_is_there() -> None:
    """A closure may read what the flow writes after it was made."""

    async def main() -> None:
        gates = Gates()
        host = stepwire.Host("late")
        undone: list[list[str]] = []

        @host.flow
        async def flow(ctx: stepwire.Context) -> None:
            notes: list[str] = []
            await ctx.step.run("book", int, compensate=lambda out: undone.append(list(notes)))
            await gates.wait("code")
            notes.append("written later")
            await ctx.step.run("last", int)
            raise ValueError

        gates.open("code")
        first = HostDesk(host)
        await first.play(flow)
        first.runtime.close()
        gates._async.clear()
        async with HostDesk(host) as desk:
            desk.start(flow, first.journal, purpose=Purpose.UNDO)
            desk.undo("book", b"0")
            await until("user code waits", lambda: gates.reached.count("code") == 2)
            await turns()
            assert undone == [] and desk.hear().results == []
            gates.open("code")
            assert (await desk.until_result("book#undo")).failure is None
            assert undone == [["written later"]]

    asyncio.run(main())


class Behind:
    """A flow that still runs code after its last recorded decision."""

    def __init__(self, *, is_async: bool, **options: Any) -> None:
        self.host = stepwire.Host("behind", **options)
        self.gates = Gates()
        self.undone: list[list[str]] = []
        self.flow: FlowFunction[..., Any] = self.host.flow(name="flow")(self.in_tasks if is_async else self.in_threads)

    def undo(self, notes: list[str]) -> Any:
        return lambda out: self.undone.append(list(notes))

    async def in_tasks(self, ctx: stepwire.Context) -> None:
        notes: list[str] = []
        await ctx.step.run("book", int, compensate=self.undo(notes))
        await self.gates.wait("code")
        notes.append("written later")
        await ctx.step.run("more", int)

    def in_threads(self, ctx: stepwire.ContextSync) -> None:
        notes: list[str] = []
        ctx.step.run("book", int, compensate=self.undo(notes))
        self.gates.wait_sync("code")
        notes.append("written later")
        ctx.step.run("more", int)

    async def enter(self) -> HostDesk:
        """A body entered for undo whose journal ends with the release of its first step."""
        first = HostDesk(self.host)
        self.gates.open("code")
        await first.play(self.flow)
        first.runtime.close()
        self.gates = Gates()
        desk = HostDesk(self.host)
        desk.start(self.flow, first.journal[:2], purpose=Purpose.UNDO)
        desk.undo("book", b"0")
        await self.gates.until_reached("code")
        await turns()
        assert self.undone == [] and desk.hear().results == []
        return desk


@ASYNC_FLOW
def test_an_undo_waits_until_no_line_of_code_can_go_on(is_async: bool) -> None:
    async def main() -> None:
        behind = Behind(is_async=is_async)
        async with await behind.enter() as desk:
            behind.gates.open("code")
            assert (await desk.until_result("book#undo")).failure is None
            assert behind.undone == [["written later"]]
            assert desk.plans == []

    asyncio.run(main())


@ASYNC_FLOW
def test_code_that_comes_to_no_end_does_not_keep_an_undo_waiting_for_ever(is_async: bool) -> None:
    async def main() -> None:
        behind = Behind(is_async=is_async, body_stall_timeout=0.1)
        async with await behind.enter() as desk:
            assert (await desk.until_result("book#undo")).failure is None
            assert behind.undone == [[]] and desk.failed == []
            behind.gates.open("code")
            await behind.gates.until_passed("code")

    asyncio.run(main())


def test_an_undo_waits_for_the_rest_of_the_snapshot() -> None:
    async def main() -> None:
        saga = Saga(lambda out: None)
        first = HostDesk(saga.host)
        await first.play(saga.flow)
        first.runtime.close()
        async with HostDesk(saga.host) as desk:
            desk.start(saga.flow, first.journal[:2], purpose=Purpose.UNDO, more=True)
            desk.undo("book", b'{"id":7,"seat":"3A"}')
            await turns()
            assert desk.hear().results == [] and desk.rejects == []
            rest = tuple(first.journal[2:])
            desk.say(advance=Advance(desk.fence, rest, purpose=Purpose.UNDO))
            assert (await desk.until_result("book#undo")).failure is None

    asyncio.run(main())


# ---- closures that cannot be reached


@ASYNC_FLOW
def test_a_closure_that_the_flow_no_longer_has_is_unreachable(is_async: bool) -> None:
    async def main() -> None:
        saga = Saga(lambda out: None, is_async=is_async)
        first = HostDesk(saga.host)
        await first.play(saga.flow)
        first.runtime.close()
        saga.undo = None  # type: ignore[assignment]
        async with HostDesk(saga.host) as desk:
            desk.start(saga.flow, first.journal, purpose=Purpose.UNDO)
            desk.undo("book", b'{"id":7,"seat":"3A"}')
            failure = (await desk.until_result("book#undo")).failure
            assert failure is not None
            assert (failure.code, failure.retryable) == (ErrorCode.UNDO_UNREACHABLE, Retryable.NO)
            assert "'book#undo'" in failure.message
            desk.undo("never planned", b"1")
            failure = (await desk.until_result("never planned#undo")).failure
            assert failure is not None and failure.code is ErrorCode.UNDO_UNREACHABLE
            assert desk.port.session.free_slots == desk.port.session.slots

    asyncio.run(main())


@ASYNC_FLOW
def test_a_flow_that_went_astray_leaves_its_closures_unreachable(is_async: bool) -> None:
    async def main() -> None:
        saga = Saga(lambda out: None, is_async=is_async)
        first = HostDesk(saga.host)
        await first.play(saga.flow)
        first.runtime.close()
        host = stepwire.Host("other")

        async def in_tasks(ctx: stepwire.Context) -> None:
            await ctx.step.run("book", dict, compensate=lambda out: None)
            await ctx.step.run("something else", int)

        def in_threads(ctx: stepwire.ContextSync) -> None:
            ctx.step.run("book", dict, compensate=lambda out: None)
            ctx.step.run("something else", int)

        flow = host.flow(name="flow")(in_tasks if is_async else in_threads)
        async with HostDesk(host) as desk:
            desk.start(flow, first.journal, purpose=Purpose.UNDO)
            desk.undo("book", b"0")
            failure = (await desk.until_result("book#undo")).failure
            assert failure is not None and failure.code is ErrorCode.UNDO_UNREACHABLE
            (failed,) = desk.failed
            assert failed.failure.code is ErrorCode.NON_DETERMINISTIC_FLOW
            assert "step 'fail'" in failed.failure.message and "'something else'" in failed.failure.message
            assert desk.plans == [] and bodies(desk) == (1, 0), "listed until its last words are acked"
            desk.ack()
            assert bodies(desk) == (0, 0)

    asyncio.run(main())


@ASYNC_FLOW
def test_a_replay_that_hangs_in_user_code_leaves_its_closures_unreachable(is_async: bool) -> None:
    async def main() -> None:
        gates = Gates()
        host = stepwire.Host("hangs", body_stall_timeout=0.1)

        async def in_tasks(ctx: stepwire.Context) -> None:
            await ctx.step.run("book", int, compensate=lambda out: None)
            await gates.wait("code")
            await ctx.step.run("last", int)
            raise ValueError

        def in_threads(ctx: stepwire.ContextSync) -> None:
            ctx.step.run("book", int, compensate=lambda out: None)
            gates.wait_sync("code")
            ctx.step.run("last", int)
            raise ValueError

        flow = host.flow(in_tasks if is_async else in_threads)
        gates.open("code")
        first = HostDesk(host)
        await first.play(flow)
        first.runtime.close()
        gates._async.clear()
        gates._sync.clear()
        async with HostDesk(host) as desk:
            desk.start(flow, first.journal, purpose=Purpose.UNDO)
            desk.undo("book", b"0")
            failure = (await desk.until_result("book#undo")).failure
            assert failure is not None and failure.code is ErrorCode.UNDO_UNREACHABLE
            assert [f.failure.code for f in desk.failed] == [ErrorCode.BODY_STALLED]
            gates.open("code")
            await gates.until_passed("code")

    asyncio.run(main())


@pytest.mark.parametrize("gone", ["evict", "cancel of the run", "cancel of the undo"])
def test_an_undo_that_waits_is_answered_when_its_body_goes(gone: str) -> None:
    async def main() -> None:
        saga = Saga(lambda out: None)
        first = HostDesk(saga.host)
        await first.play(saga.flow)
        first.runtime.close()
        async with HostDesk(saga.host) as desk:
            desk.start(saga.flow, first.journal[:2], purpose=Purpose.UNDO, more=True)
            fence = desk.undo("book", b'{"id":7,"seat":"3A"}')
            match gone:
                case "evict":
                    desk.evict()
                    await turns()
                    assert [r.reason for r in desk.hear().rejects] == [RejectReason.NO_BODY]
                case "cancel of the run":
                    desk.cancel("", desk.fence)
                    result = await desk.until_result("book#undo")
                    assert result.failure is not None and result.failure.code is ErrorCode.CANCELLED
                    assert bodies(desk) == (0, 0)
                case _:
                    desk.cancel("book#undo", fence, CancelReason.TIMEOUT)
                    result = await desk.until_result("book#undo")
                    assert result.failure is not None and result.failure.code is ErrorCode.CANCELLED
                    assert bodies(desk) == (1, 1)
            assert desk.port.session.free_slots == desk.port.session.slots

    asyncio.run(main())
