"""Registered steps that a host has ahead of a free slot begin without a word of the engine (docs/adr/0025)."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

import stepwire
from stepwire._runtime.starting import Starter
from stepwire._runtime.tracing import makers_of
from stepwire._serving import RunningHost
from stepwire._tracing import current_traceparent
from stepwire._transport.port import SessionPort
from stepwire._transport.session import HostSession
from stepwire.codec import JsonCodec
from stepwire.flow import StepFunction
from stepwire.protocol import limits
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import (
    Advance,
    BodyStart,
    Cancel,
    CancelReason,
    EngineFrame,
    EngineSection,
    Execute,
    Hello,
    RejectReason,
    Result,
    UndoInput,
    Welcome,
)
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import Fence, StepKind
from tests.sdk.gates import PATIENCE_SECONDS, Gates, turns, until
from tests.sdk.host_desk import RUN, HostDesk
from tests.sdk.spans import recorded, traceparent

_MARK = ContextVar("mark", default="nothing")
KINDS = pytest.mark.parametrize("is_async", [True, False], ids=["async-step", "sync-step"])


class Panic(BaseException):
    """As codecs that are written in other languages raise it."""


class Gated:
    """A host with one slot, and a registered step that waits at the gate of its name."""

    def __init__(self, *, is_async: bool, slots: int = 1) -> None:
        self.gates = Gates()
        self.host = stepwire.Host("gated", slots=slots)
        wait: Callable[[str], Any] = self.gates.wait if is_async else self.gates.wait_sync
        self.host.step(name="work")(_async(wait) if is_async else _sync(wait))

    def execute(self, desk: HostDesk, *names: str, step: str = "work") -> None:
        inputs = [Payload(b'[["%s"],{}]' % name.encode()) for name in names]
        desk.say(
            executes=[
                Execute(name, 1, desk.next_fence(), StepKind.TASK, step, given)
                for name, given in zip(names, inputs, strict=True)
            ]
        )


def _async(wait: Callable[[str], Any]) -> Any:
    async def work(name: str) -> str:
        return str(await wait(name))

    return work


def _sync(wait: Callable[[str], Any]) -> Any:
    def work(name: str) -> str:
        return str(wait(name))

    return work


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes back because this machine is slow."""
    monkeypatch.setattr("stepwire._transport.ahead.AHEAD_SECONDS", 3600.0)


@KINDS
def test_the_next_one_begins_when_a_slot_is_free_and_the_engine_has_said_nothing_more(is_async: bool) -> None:
    async def main() -> None:
        gated = Gated(is_async=is_async)
        async with HostDesk(gated.host, ahead=2) as desk:
            gated.execute(desk, "a", "b", "c")
            for name, others in (("a", 2), ("b", 1), ("c", 0)):
                await gated.gates.until_reached(name)
                assert gated.gates.reached[-1] == name, "in their order, one at a time"
                assert (desk.runtime.busy, desk.port.session.attempts) == (1, 1)
                assert desk.port.session.free_slots == -others
                gated.gates.open(name)
            for name in "abc":
                assert (await desk.until_result(name)).output == Payload(b'"%s"' % name.encode())
            await until("all slots are free", lambda: desk.port.session.free_slots == 1)
            assert desk.hear().rejects == []

    asyncio.run(main())


@KINDS
def test_a_waiting_one_that_this_host_cannot_begin_gives_its_slot_to_the_next(is_async: bool) -> None:
    async def main() -> None:
        gated = Gated(is_async=is_async)
        async with HostDesk(gated.host, ahead=2) as desk:
            gated.execute(desk, "a")
            gated.execute(desk, "b", step="unknown")
            gated.execute(desk, "c")
            gated.gates.open("a")
            await gated.gates.until_reached("c")
            assert [(r.path, r.reason) for r in desk.hear().rejects] == [("b", RejectReason.NOT_SERVED)]
            gated.gates.open("c")
            assert (await desk.until_result("c")).failure is None

    asyncio.run(main())


@KINDS
@pytest.mark.parametrize("path", ["b", ""], ids=["one", "run"])
def test_one_that_is_cancelled_before_it_begins_never_does(path: str, is_async: bool) -> None:
    async def main() -> None:
        gated = Gated(is_async=is_async)
        async with HostDesk(gated.host, ahead=1) as desk:
            gated.execute(desk, "a", "b")
            await gated.gates.until_reached("a")
            desk.cancel(path, desk.next_fence())
            cancelled = await desk.until_result("b")
            assert cancelled.failure is not None and cancelled.failure.code is ErrorCode.CANCELLED
            assert "before it began" in cancelled.failure.message
            gated.gates.open("a")
            await desk.until_result("a")
            await turns(10)
            assert gated.gates.reached == ["a"] and desk.port.session.free_slots == 1

    asyncio.run(main())


def hold_the_loop(until_this: Callable[[], bool]) -> None:
    """Called on the loop, which does nothing else until then."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not until_this():
        assert time.monotonic() < deadline, "it never came to this"
        time.sleep(0)


def test_a_thread_goes_on_with_what_waits_while_the_loop_is_blocked() -> None:
    async def main() -> None:
        gated = Gated(is_async=False)
        async with HostDesk(gated.host, ahead=3) as desk:
            gated.execute(desk, "a", "b", "c", "d")
            await gated.gates.until_reached("a")
            gated.gates.open("a", "b", "c")
            hold_the_loop(lambda: gated.gates.reached == ["a", "b", "c", "d"])
            assert [result.path for result in desk.hear().results] == ["a", "b", "c"]
            assert (desk.runtime.busy, desk.port.session.attempts, desk.port.session.free_slots) == (1, 1, 0)
            gated.gates.open("d")
            await desk.until_result("d")
            await until("nothing runs", lambda: desk.runtime.busy == 0)

    asyncio.run(main())


def test_what_a_thread_went_on_with_can_be_cancelled_and_has_its_timeout() -> None:
    """Also while the loop was blocked when it began."""

    async def main() -> None:
        told: dict[str, threading.Event] = {"b": threading.Event(), "c": threading.Event()}
        gated = Gated(is_async=False)

        @gated.host.step
        def obedient(name: str) -> None:
            gated.gates.reached.append(name)
            if stepwire.current_attempt().wait_cancelled(60):
                told[name].set()

        async with HostDesk(gated.host, ahead=2) as desk:
            gated.execute(desk, "a")
            gated.execute(desk, "b", step="obedient")
            timed = Execute("c", 1, desk.next_fence(), StepKind.TASK, "obedient", Payload(b'[["c"],{}]'), 0.01)
            desk.say(executes=[timed])
            await gated.gates.until_reached("a")
            gated.gates.open("a")
            hold_the_loop(lambda: gated.gates.reached[-1] == "b")
            desk.cancel("b", desk.next_fence())
            cancelled = await desk.until_result("b")
            assert told["b"].is_set()
            assert cancelled.failure is not None and cancelled.failure.code is ErrorCode.CANCELLED
            late = await desk.until_result("c")
            assert told["c"].is_set() and late.failure is not None and late.failure.code is ErrorCode.TIMEOUT

    asyncio.run(main())


def test_arguments_that_do_not_fit_fail_their_step_and_the_thread_goes_on() -> None:
    async def main() -> None:
        gated = Gated(is_async=False)
        started: list[str] = []
        gated.host.on("step_started")(lambda call: started.append(call.path))
        async with HostDesk(gated.host, ahead=2) as desk:
            gated.execute(desk, "a")
            misfit = Execute("b", 1, desk.next_fence(), StepKind.TASK, "work", Payload(b"[[1, 2, 3],{}]"))
            desk.say(executes=[misfit])
            gated.execute(desk, "c")
            await gated.gates.until_reached("a")
            rung: list[str] = []
            desk.port.bell = lambda: rung.append("rung")
            gated.gates.open("a")
            hold_the_loop(lambda: gated.gates.reached == ["a", "c"])
            assert len(rung) == 2, "one outcome each of a and b"
            gated.gates.open("c")
            refused = await desk.until_result("b")
            assert refused.failure is not None and refused.failure.code is ErrorCode.INVALID_INPUT
            assert (await desk.until_result("c")).failure is None
            await until("hooks were told", lambda: started == ["a", "c"])
            assert desk.runtime.busy == 0 and desk.port.session.free_slots == 1

    asyncio.run(main())


def test_what_only_the_loop_can_begin_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Async steps, undos, those that a test replaces, and those whose attempts may be given up."""
    taken: dict[str, bool] = {}
    book = Starter.book

    def spied(starter: Starter, run_id: str, execute: Execute) -> Any:
        booked = book(starter, run_id, execute)
        taken[execute.path] = booked is not None
        return booked

    monkeypatch.setattr(Starter, "book", spied)

    async def main() -> None:
        gated = Gated(is_async=False)
        gated.host.step(name="on_loop")(_async(gated.gates.wait))
        gated.host.step(name="hasty", abandon_after="1h")(_sync(gated.gates.wait_sync))
        async with HostDesk(gated.host, ahead=4) as desk:
            for name, step in (("a", "work"), ("b", "on_loop"), ("c", "work"), ("d", "hasty"), ("e", "work")):
                gated.execute(desk, name, step=step)
            for name, asked in (("a", "b"), ("b", ""), ("c", "d"), ("d", "e"), ("e", "")):
                await gated.gates.until_reached(name)
                gated.gates.open(name)
                if asked:  # By the thread, before the loop can look at what waits.
                    hold_the_loop(lambda asked=asked: asked in taken)
                assert (await desk.until_result(name)).failure is None
            assert gated.gates.reached == list("abcde")
            assert taken == {"b": False, "d": False, "e": True}
            starter, fence = desk.runtime._starter, desk.next_fence()
            undo = Execute("a#undo", 1, fence, StepKind.TASK, "work", undo=UndoInput(NULL))
            assert starter.book(RUN, undo) is None
            starter.stubs = {"work": lambda name: "instead"}
            assert starter.book(RUN, Execute("f", 1, fence, StepKind.TASK, "work")) is None

    asyncio.run(main())


def test_a_cancel_that_the_loop_has_not_seen_yet_does_not_stop_the_next_attempt() -> None:
    async def main() -> None:
        gated = Gated(is_async=False)
        async with HostDesk(gated.host, ahead=2) as desk:
            gated.execute(desk, "p", "q")
            await gated.gates.until_reached("p")
            cancel = Cancel("p", desk.next_fence(), CancelReason.TIMEOUT)
            late = desk.port.receive(EngineFrame(2, runs=[EngineSection(RUN, cancels=[cancel])]))
            assert late, "it is for the loop, which is blocked from here on"
            gated.gates.open("p", "q")
            hold_the_loop(lambda: len(desk.hear().results) == 2)
            first = desk.results[0]
            again = Execute("p", 2, desk.next_fence(), StepKind.TASK, "work", Payload(b'[["again"],{}]'))
            gated.execute(desk, "r")
            hold_the_loop(lambda: desk.port.session.attempts == 1)
            assert desk.port.receive(EngineFrame(4, runs=[EngineSection(RUN, executes=[again])])) == []
            await gated.gates.until_reached("r")
            gated.gates.open("r")
            hold_the_loop(lambda: gated.gates.reached == ["p", "q", "r", "again"])
            desk.runtime.handle(late)
            gated.gates.open("again")
            await until("it has ended as well", lambda: len(desk.hear().results) == 4)
            second = desk.results[-1]
            assert (first.path, first.attempt, second.path, second.attempt) == ("p", 1, "p", 2)
            assert second.failure is None

    asyncio.run(main())


def test_whatever_decoding_raises_fails_the_step_and_not_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = StepFunction.decode_input

    def panicking(step: StepFunction[..., Any], given: Payload) -> Any:
        if b"b" in given.data:
            raise Panic("at the worst moment")
        return decode(step, given)

    monkeypatch.setattr(StepFunction, "decode_input", panicking)

    async def main() -> None:
        gated = Gated(is_async=False)
        async with HostDesk(gated.host, ahead=2) as desk:
            gated.execute(desk, "a", "b", "c")
            await gated.gates.until_reached("a")
            gated.gates.open("a", "c")
            failed = await desk.until_result("b")
            assert failed.failure is not None and failed.failure.type == "Panic"
            assert (await desk.until_result("c")).failure is None
            await until("nothing runs", lambda: desk.runtime.busy == 0)
            assert desk.port.session.free_slots == 1

    asyncio.run(main())


class _Panicking(JsonCodec):
    def round_trip(self, value: Any, type: Any = Any) -> tuple[Payload, Any]:
        if value == "b":
            raise Panic("at the worst moment")
        return super().round_trip(value, type)


@KINDS
def test_whatever_encoding_raises_fails_the_step_and_not_the_thread(is_async: bool) -> None:
    async def main() -> None:
        gated = Gated(is_async=is_async)
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        object.__setattr__(gated.host.steps["work"], "codec", _Panicking())
        async with HostDesk(gated.host, ahead=2) as desk:
            gated.gates.open("a", "b", "c")
            gated.execute(desk, "a", "b", "c")
            failed = await desk.until_result("b")
            assert failed.failure is not None and failed.failure.code is ErrorCode.OUTPUT_UNSERIALIZABLE
            assert "Panic: at the worst moment" in failed.failure.message
            assert (await desk.until_result("c")).failure is None
            await until("nothing runs", lambda: desk.runtime.busy == 0)
            assert desk.port.session.free_slots == 1

    asyncio.run(main())


def test_a_thread_that_has_other_work_leaves_what_waits_to_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system makes too few threads: one that ends its work takes what waits for a thread, and a slot is free."""

    async def main() -> None:
        gated = Gated(is_async=False, slots=2)
        gated.host.step(name="on_loop")(_async(gated.gates.wait))
        async with HostDesk(gated.host, ahead=2) as desk:
            gated.execute(desk, "a")
            await gated.gates.until_reached("a")

            def refuse(thread: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            monkeypatch.setattr(threading.Thread, "start", refuse)
            gated.execute(desk, "b")
            gated.execute(desk, "c", step="on_loop")
            gated.gates.open("a")
            await gated.gates.until_reached("b", "c")
            gated.gates.open("b", "c")
            for name in "abc":
                await desk.until_result(name)

    asyncio.run(main())


def test_a_forked_child_goes_on_with_nothing(tmp_path: Path) -> None:
    """What its parent was given ahead is not the child's: its thread ends with the step that forked."""

    async def main() -> None:
        gated = Gated(is_async=False)
        ran, told = tmp_path / "ran", tmp_path / "told"

        @gated.host.step
        def forks(name: str) -> None:
            gated.gates.wait_sync(name)
            if os.fork() == 0:
                threading.Timer(0.5, lambda: (told.write_text("child"), os._exit(0))).start()
                sys.exit(0)  # An outcome, as in every step.

        @gated.host.step
        def once(name: str) -> None:
            with ran.open("a") as file:
                file.write(f"{os.getpid()}\n")

        async with HostDesk(gated.host, ahead=2) as desk:
            gated.execute(desk, "a", step="forks")
            gated.execute(desk, "b", step="once")
            await gated.gates.until_reached("a")
            gated.gates.open("a")
            await desk.until_result("b")
            await until("the child has had its time", told.exists)
            assert ran.read_text().split() == [str(os.getpid())]

    asyncio.run(main())


def test_one_thread_takes_one_slot() -> None:
    port = SessionPort(HostSession(Hello("h", "i", steps=("work",), slots=2, ahead=2)), lambda: 0.0)
    port.connect()
    port.take_frame()
    port.receive(EngineFrame(welcome=Welcome("s")))
    given = [Execute(path, 1, Fence(1, n), StepKind.TASK, "work") for n, path in enumerate("abcd", 1)]
    port.receive(EngineFrame(runs=[EngineSection("r", executes=given)]))
    port.submit_results([("r", Result(path, 1, Fence(1, 9), NULL)) for path in "ab"])
    booked: list[str] = []

    def book(run_id: str, execute: Execute) -> str | None:
        booked.append(execute.path)
        return execute.path if execute.path == "c" else None

    assert port.begin_next(book) == "c" and (port.session.attempts, len(port.waiting)) == (1, 1)
    assert port.begin_next(book) is None and (port.session.attempts, len(port.waiting)) == (1, 1)
    assert [execute.path for _, execute in port.begin_waiting()] == ["d"]
    assert port.begin_next(book) is None and booked == ["c", "d"]


def test_attempts_of_one_thread_share_no_context() -> None:
    async def main() -> None:
        seen: list[str] = []
        gated = Gated(is_async=False)

        @gated.host.step
        def mark(name: str) -> None:
            seen.append(_MARK.get())
            _MARK.set(name)

        async with HostDesk(gated.host, ahead=3) as desk:
            gated.execute(desk, "a")
            gated.execute(desk, "b", "c", step="mark")
            gated.gates.open("a")
            await desk.until_result("c")
            assert seen == ["nothing", "nothing"]

    asyncio.run(main())


def test_an_attempt_that_a_thread_went_on_with_has_a_span_of_its_own() -> None:
    current: dict[str, str] = {}

    async def main() -> None:
        gated = Gated(is_async=False)

        @gated.host.step
        def look(name: str) -> None:
            current[name] = current_traceparent()
            gated.gates.reached.append(name)

        with recorded() as spans:
            async with HostDesk(gated.host, ahead=2, makers=makers_of("gated", tracing=True)) as desk:
                gated.execute(desk, "a")
                gated.execute(desk, "b", "c", step="look")
                await gated.gates.until_reached("a")
                gated.gates.open("a")
                hold_the_loop(lambda: gated.gates.reached == ["a", "b", "c"])
                await desk.until_result("c")
            assert current == {name: traceparent(spans.one(f"attempt {name}")) for name in "bc"}

    asyncio.run(main())


def test_threads_may_begin_and_end_attempts_while_the_loop_looks_through_them() -> None:
    """Here they do so at the worst moment: between two of those that it looks at."""

    async def main() -> None:
        gated = Gated(is_async=False, slots=4)
        async with HostDesk(gated.host) as desk:
            attempts = desk.runtime._attempts

            class Ended(str):
                """A run to whose comparison an attempt ends."""

                __slots__ = ()

                def __eq__(self, other: object) -> bool:
                    attempts._running.popitem()
                    return False

                __hash__ = str.__hash__

            gated.execute(desk, "a", "b", "c", "d")
            await gated.gates.until_reached("a", "b", "c", "d")
            running = dict(attempts._running)
            assert not attempts.has_any(Ended("other"))
            attempts._running.update(running)
            attempts.cancel_run(Ended("other"), CancelReason.RUN_CANCELLED)
            attempts._running.update(running)
            gated.gates.open("a", "b", "c", "d")
            for name in "abcd":
                await desk.until_result(name)

    asyncio.run(main())


def test_a_host_that_drains_begins_nothing_that_waits() -> None:
    async def main() -> None:
        gated = Gated(is_async=True)
        async with HostDesk(gated.host, ahead=1) as desk:
            gated.execute(desk, "a", "b")
            await gated.gates.until_reached("a")
            desk.port.session.drain(30.0)
            desk.runtime.drain()
            assert [(r.path, r.reason) for r in desk.hear().rejects] == [("b", RejectReason.DRAINING)]
            gated.gates.open("a")
            await desk.until_result("a")
            await until("everything is handed over", lambda: desk.runtime.handed_over)
            assert gated.gates.reached == ["a"]

    asyncio.run(main())


def test_what_nobody_else_tells_of_is_sent_at_once_and_in_time() -> None:
    """The runtime hears nothing of what only waits, is rejected or cancelled: the writer is woken for it."""
    now = [0.0]
    rung: list[float] = []
    port = SessionPort(HostSession(Hello("h", "i", steps=("work",), ahead=1)), lambda: now[0])
    port.connect()
    port.take_frame()
    port.receive(EngineFrame(welcome=Welcome("s", heartbeat_interval=4000.0)))
    port.bell = lambda: rung.append(now[0])

    def say(**what: Any) -> None:
        port.receive(EngineFrame(runs=[EngineSection("r", **what)]))

    def given(path: str) -> Execute:
        return Execute(path, 1, Fence(1, 1), StepKind.TASK, "work")

    say(executes=[given("a")])
    assert rung == [] and port.next_due() == 4000.0
    say(executes=[given("b")])
    assert rung == [0.0] and port.next_due() == 3600.0, "its time is noticed"
    now[0] = 1.0
    say(executes=[given("c")])
    assert rung == [0.0, 1.0], "it is rejected"
    assert port.take_frame() is not None
    now[0] = 2.0
    say(cancels=[Cancel("b", Fence(1, 2), CancelReason.RACE_LOST)])
    assert rung == [0.0, 1.0, 2.0], "it is cancelled"
    assert port.take_frame() is not None and port.next_due() == 4000.0
    now[0] = 3.0
    advance = EngineSection("other", advance=Advance(Fence(1, 3), (), BodyStart("flow", NULL, 1, 0)))
    frame = EngineFrame(runs=[advance, EngineSection("r", executes=[given("d")])])
    assert port.receive(frame) != [] and rung[3:] == [3.0], "it waits, and the runtime's loop may be blocked"


@pytest.mark.parametrize(("slots", "ahead"), [(1, 1), (4, 4), (1000, limits.AHEAD_MAX)])
def test_hosts_say_how_much_they_keep(slots: int, ahead: int) -> None:
    async def main() -> None:
        running = RunningHost(stepwire.Host("h", slots=slots), "127.0.0.1:1")
        running.port.connect()
        frame = running.port.take_frame()
        assert frame is not None and frame.hello is not None and frame.hello.ahead == ahead
        running.runtime.close()

    asyncio.run(main())


def test_outcomes_of_threads_and_of_the_loop_never_leave_a_slot_free_while_something_waits() -> None:
    """Both kinds of steps on four slots, ended by many threads at once."""

    async def main() -> None:
        lock, at_once, most = threading.Lock(), [0], [0]

        def work(name: str) -> str:
            with lock:
                at_once[0] += 1
                most[0] = max(most[0], at_once[0])
            with lock:
                at_once[0] -= 1
            return name

        async def also(name: str) -> str:
            await asyncio.sleep(0)
            return work(name)

        gated = Gated(is_async=True)
        host = stepwire.Host("many", slots=4)
        host.step(name="work")(work)
        host.step(name="also")(also)
        async with HostDesk(host, ahead=400) as desk:
            names = [f"s{index}" for index in range(400)]
            for index, name in enumerate(names):
                gated.execute(desk, name, step=("work", "also")[index % 2])
            await until("all have ended", lambda: len(desk.hear().results) == len(names))
            assert most[0] <= 4 and desk.port.session.free_slots == 4
            assert sorted(result.path for result in desk.results) == sorted(names)

    asyncio.run(main())
