"""Attempts that do not stop when they are told to: waited for, or given up where the user says so (MISSION S4, S20)."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

import stepwire
from stepwire import testing
from stepwire._runtime import attempts
from stepwire._runtime.threads import StepThreads
from stepwire.errors import ConfigurationError
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import CancelReason, Execute
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import StepKind
from tests.sdk.gates import PATIENCE_SECONDS, Gates, turns, until
from tests.sdk.host_desk import HostDesk

SHORT = 0.05
KINDS = pytest.mark.parametrize("is_async", [True, False], ids=["async-step", "sync-step"])


class Stubborn:
    """A registered step whose first attempt goes on until its gate opens, whatever it is told.

    Attributes:
        calls: Attempts that began, in order.
    """

    def __init__(self, *, is_async: bool, slots: int = 1, abandon_after: float | None = SHORT) -> None:
        self.gates = Gates()
        self.calls: list[int] = []
        self.host = stepwire.Host("stubborn", slots=slots)
        self.host.step(name="work", abandon_after=abandon_after)(self.in_task if is_async else self.on_thread)

    def _begin(self) -> int:
        attempt = stepwire.current_attempt()
        assert attempt is not None
        self.calls.append(attempt.attempt)
        return attempt.attempt

    async def in_task(self) -> str:
        if self._begin() > 1:
            return "second"
        while True:
            try:
                await self.gates.wait("stuck")
                return "late"
            except asyncio.CancelledError:
                continue

    def on_thread(self) -> str:
        return "second" if self._begin() > 1 else str(self.gates.wait_sync("stuck", "late"))

    def execute(self, desk: HostDesk, path: str = "a", *, attempt: int = 1, timeout: float | None = None) -> None:
        desk.say(
            executes=[
                Execute(path, attempt, desk.next_fence(), StepKind.TASK, "work", Payload(b"[[],{}]"), timeout=timeout)
            ]
        )


@KINDS
@pytest.mark.parametrize("told", ["timeout", "cancel"])
def test_an_attempt_that_does_not_stop_is_given_up(told: str, is_async: bool) -> None:
    """Its slot and its thread are free for others: here for its own next attempt, on a host of one slot."""

    async def main() -> None:
        stubborn = Stubborn(is_async=is_async)
        telemetry = stubborn.host.telemetry
        async with HostDesk(stubborn.host) as desk:
            stubborn.execute(desk, timeout=SHORT if told == "timeout" else None)
            await stubborn.gates.until_reached("stuck")
            if told == "cancel":
                desk.cancel("a", desk.next_fence())
            first = await desk.until_result("a")
            assert first.failure is not None and first.output is None
            assert first.failure.code is (ErrorCode.TIMEOUT if told == "timeout" else ErrorCode.CANCELLED)
            assert "was abandoned and still runs" in first.failure.message and "0.05 s" in first.failure.message
            assert desk.port.session.free_slots == 1
            assert desk.runtime.busy == 0 and desk.runtime.handed_over, "nothing waits for it"

            stubborn.execute(desk, attempt=2)
            second = await desk.until_result("a")
            assert (second.attempt, second.output) == (2, Payload(b'"second"'))
            assert stubborn.calls == [1, 2]

            assert (telemetry.attempts_abandoned, telemetry.late_results) == (1, 0)
            stubborn.gates.open("stuck")
            await until("the late result is dropped", lambda: telemetry.late_results == 1)
            assert desk.runtime._attempts.abandoned == 0
            await turns()
            assert desk.hear().results == []

    asyncio.run(main())


@KINDS
def test_by_default_an_attempt_is_waited_for(is_async: bool) -> None:
    """Never two attempts of one step at once."""

    async def main() -> None:
        stubborn = Stubborn(is_async=is_async, abandon_after=None)
        async with HostDesk(stubborn.host) as desk:
            stubborn.execute(desk, timeout=SHORT)
            await stubborn.gates.until_reached("stuck")
            (running,) = desk.runtime._attempts._running.values()
            await until("it was told", lambda: running.cancelled)
            await turns()
            assert desk.hear().results == [] and desk.port.session.free_slots == 0
            stubborn.gates.open("stuck")
            result = await desk.until_result("a")
            assert result.failure is not None and result.failure.code is ErrorCode.TIMEOUT
            assert "abandoned" not in result.failure.message
            assert stubborn.host.telemetry.attempts_abandoned == 0

    asyncio.run(main())


@KINDS
def test_an_attempt_that_stops_in_time_is_not_given_up(is_async: bool) -> None:
    async def main() -> None:
        stubborn = Stubborn(is_async=is_async, abandon_after=PATIENCE_SECONDS)
        async with HostDesk(stubborn.host) as desk:
            stubborn.execute(desk, timeout=SHORT)
            await stubborn.gates.until_reached("stuck")
            (running,) = desk.runtime._attempts._running.values()
            await until("it was told", lambda: running.cancelled)
            stubborn.gates.open("stuck")
            result = await desk.until_result("a")
            assert result.failure is not None and "abandoned" not in result.failure.message
            assert stubborn.host.telemetry.attempts_abandoned == 0

    asyncio.run(main())


@KINDS
def test_so_many_may_be_given_up_and_no_more(is_async: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is waited for until one of them ends."""
    monkeypatch.setattr(attempts, "ABANDONED_ATTEMPTS_MAX", 1)

    async def main() -> None:
        stubborn = Stubborn(is_async=is_async, slots=3)
        async with HostDesk(stubborn.host) as desk:
            stubborn.execute(desk, "a", timeout=SHORT)
            assert "abandoned" in str((await desk.until_result("a")).failure)
            stubborn.execute(desk, "b", timeout=SHORT)
            await until("b is due", lambda: desk.runtime._attempts._overdue)
            await turns()
            assert desk.hear().results == [] and desk.port.session.free_slots == 2
            assert desk.runtime._attempts.abandoned == 1
            stubborn.gates.open("stuck")
            result = await desk.until_result("b")
            assert result.failure is not None and result.failure.code is ErrorCode.TIMEOUT
            await until("both ended", lambda: not desk.runtime._attempts.abandoned)
            assert not desk.runtime._attempts._overdue
            assert desk.hear().results == []

    asyncio.run(main())


def test_one_that_could_not_be_given_up_is_when_another_one_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "ABANDONED_ATTEMPTS_MAX", 1)

    async def main() -> None:
        gates = Gates()
        host = stepwire.Host("bound", slots=2)

        @host.step(abandon_after=SHORT)
        def work(gate: str) -> None:
            gates.wait_sync(gate)

        def execute(path: str) -> None:
            given = Payload(f'[["{path}"],{{}}]'.encode())
            desk.say(executes=[Execute(path, 1, desk.next_fence(), StepKind.TASK, "work", given, timeout=SHORT)])

        async with HostDesk(host) as desk:
            execute("a")
            await desk.until_result("a")
            execute("b")
            await until("b is due", lambda: desk.runtime._attempts._overdue)
            assert desk.hear().results == []
            gates.open("a")
            assert "abandoned" in str((await desk.until_result("b")).failure)
            assert host.telemetry.attempts_abandoned == 2
            gates.open("b")
            await until("b ended", lambda: host.telemetry.late_results == 2)

    asyncio.run(main())


def test_a_function_that_turns_out_to_be_async_after_it_was_given_up() -> None:
    """Its coroutine never runs, and its thread does not come back to the pool."""

    async def main() -> None:
        gates = Gates()
        host = stepwire.Host("late", slots=1)
        ran: list[str] = []

        async def late() -> None:
            ran.append("late")

        @host.step(abandon_after=SHORT)
        def work() -> Any:
            gates.wait_sync("stuck")
            return late()

        async with HostDesk(host) as desk:
            given = Payload(b"[[],{}]")
            desk.say(executes=[Execute("a", 1, desk.next_fence(), StepKind.TASK, "work", given, timeout=SHORT)])
            assert "abandoned" in str((await desk.until_result("a")).failure)
            assert desk.runtime._attempts._threads.count == 0
            gates.open("stuck")
            await until("it ended", lambda: host.telemetry.late_results == 1)
            gc.collect()
            assert ran == []

    asyncio.run(main())


def test_a_function_that_went_on_as_async_is_given_up_without_a_thread() -> None:
    async def main() -> None:
        gates = Gates()
        host = stepwire.Host("late", slots=1)

        async def stubborn() -> None:
            while "open" not in gates.passed:
                try:
                    await gates.wait("open")
                except asyncio.CancelledError:
                    continue

        @host.step(abandon_after=SHORT)
        def work() -> Any:
            return stubborn()

        async with HostDesk(host) as desk:
            given = Payload(b"[[],{}]")
            desk.say(executes=[Execute("a", 1, desk.next_fence(), StepKind.TASK, "work", given, timeout=SHORT)])
            assert "abandoned" in str((await desk.until_result("a")).failure)
            assert desk.runtime._attempts._threads.count == 1, "its thread went back long ago"
            gates.open("open")
            await until("it ended", lambda: host.telemetry.late_results == 1)

    asyncio.run(main())


@pytest.mark.parametrize("is_async", [True, False], ids=["async-flow", "sync-flow"])
def test_a_flow_goes_on_while_an_attempt_that_was_given_up_still_runs(is_async: bool) -> None:
    async def main() -> None:
        gates = Gates()
        host = stepwire.Host("flow", slots=1)
        begun: list[int] = []

        def stuck() -> str:
            attempt = stepwire.current_attempt()
            assert attempt is not None
            begun.append(attempt.attempt)
            return str(gates.wait_sync("stuck", "late")) if attempt.attempt == 1 else "second"

        how: dict[str, Any] = {
            "timeout": SHORT,
            "abandon_after": SHORT,
            "retries": stepwire.Retry(retries=1, delay=0, jitter=0),
        }

        async def in_tasks(ctx: stepwire.Context) -> str:
            return await ctx.step.run("stuck", stuck, **how)

        def in_threads(ctx: stepwire.ContextSync) -> str:
            return ctx.step.run("stuck", stuck, **how)

        flow = host.flow(in_tasks if is_async else in_threads)
        async with testing.environment(host) as env:
            run = await env.execute(flow)
            assert run.output == "second" and begun == [1, 2]
            (step,) = run.record.steps
            failure = step.attempts[0].failure
            assert failure is not None and failure.code is ErrorCode.TIMEOUT and "abandoned" in failure.message
            assert gates.passed == []
            gates.open("stuck")
            await until("it ended", lambda: host.telemetry.late_results == 1)

    asyncio.run(main())


# ---- being told to stop


def test_a_thread_learns_at_once_that_it_must_stop() -> None:
    """MISSION S20 gives it a second."""

    async def main() -> None:
        host = stepwire.Host("waits")
        seen: list[float] = []

        @host.step
        def work() -> None:
            attempt = stepwire.current_attempt()
            assert attempt is not None and not attempt.cancelled
            assert attempt.wait_cancelled(0.001) is False
            seen.append(0.0)
            assert attempt.wait_cancelled(PATIENCE_SECONDS) and attempt.wait_cancelled()
            seen.append(time.monotonic())

        async with HostDesk(host) as desk:
            desk.say(executes=[Execute("a", 1, desk.next_fence(), StepKind.TASK, "work", Payload(b"[[],{}]"))])
            await until("it waits", lambda: seen)
            told = time.monotonic()
            desk.cancel("", desk.next_fence())
            result = await desk.until_result("a")
            assert result.failure is not None and result.failure.code is ErrorCode.CANCELLED
            assert seen[1] - told < 1.0

    asyncio.run(main())


def test_every_thread_of_a_step_learns_it() -> None:
    async def main() -> None:
        host = stepwire.Host("waits")
        began = threading.Barrier(4)
        learned: list[bool] = []

        @host.step
        def work() -> None:
            attempt = stepwire.current_attempt()
            assert attempt is not None

            def wait() -> None:
                began.wait(PATIENCE_SECONDS)
                learned.append(attempt.wait_cancelled(PATIENCE_SECONDS))

            others = [threading.Thread(target=wait) for _ in range(3)]
            for other in others:
                other.start()
            wait()
            for other in others:
                other.join()

        async with HostDesk(host) as desk:
            desk.say(executes=[Execute("a", 1, desk.next_fence(), StepKind.TASK, "work", Payload(b"[[],{}]"))])
            await until("it runs", lambda: desk.runtime.busy)
            desk.cancel("a", desk.next_fence(), CancelReason.RACE_LOST)
            await desk.until_result("a")

        assert learned == [True] * 4

    asyncio.run(main())


def test_waiting_for_it_on_the_loop_is_refused() -> None:
    async def main() -> None:
        host = stepwire.Host("waits")

        @host.step(retries=0)
        async def work() -> None:
            attempt = stepwire.current_attempt()
            assert attempt is not None
            with pytest.raises(ConfigurationError, match="would block the event loop"):
                attempt.wait_cancelled(0)

        async with HostDesk(host) as desk:
            desk.say(executes=[Execute("a", 1, desk.next_fence(), StepKind.TASK, "work", Payload(b"[[],{}]"))])
            assert (await desk.until_result("a")).failure is None

    asyncio.run(main())


# ---- the threads of sync steps


class Work:
    """Things for threads to do that end when the test says so."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self.threads: list[int] = []

    def make(self, gate: threading.Event, *, comes_back: bool = True) -> Any:
        def work() -> bool:
            self.threads.append(threading.get_ident())
            self.began.release()
            assert gate.wait(PATIENCE_SECONDS)
            self.ended.release()
            return comes_back

        return work


def opened() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


def test_threads_are_made_on_demand_and_used_again() -> None:
    pool, work, gate = StepThreads(2), Work(), opened()
    for _ in range(10):
        pool.start(work.make(gate))
        assert work.ended.acquire(timeout=PATIENCE_SECONDS)
    assert len(work.threads) == 10 and pool.count <= 2
    pool.close()


def test_work_beyond_the_bound_waits_for_a_thread() -> None:
    pool, work, gate = StepThreads(2), Work(), threading.Event()
    for _ in range(5):
        pool.start(work.make(gate))
    for _ in range(2):
        assert work.began.acquire(timeout=PATIENCE_SECONDS)
    assert not work.began.acquire(timeout=0.01) and pool.count == 2
    gate.set()
    for _ in range(5):
        assert work.ended.acquire(timeout=PATIENCE_SECONDS)
    assert len(set(work.threads)) == 2
    pool.close()


def test_a_thread_that_is_free_asks_for_more_before_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    """Also one whose answer was an error, which is logged."""
    work, more = Work(), deque[Any]([RuntimeError("no answer")])
    also = [work.make(opened()) for _ in range(3)]

    def next_one() -> Callable[[], bool] | None:
        if more:
            raise more.popleft()
        return also.pop() if also else None

    pool = StepThreads(1, next_one)
    pool.start(work.make(opened()))
    assert work.ended.acquire(timeout=PATIENCE_SECONDS)
    pool.start(work.make(opened()))
    for _ in range(4):
        assert work.ended.acquire(timeout=PATIENCE_SECONDS)
    assert len(set(work.threads)) == 1 and not also
    [error] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert error.exc_info is not None and "no answer" in str(error.exc_info[1])
    pool.close()


def test_what_waits_for_a_thread_comes_before_more_and_a_closed_pool_asks_for_none() -> None:
    work, more = Work(), Work()
    asked: list[Callable[[], bool]] = [more.make(opened())]
    pool, first, second = StepThreads(1, lambda: asked.pop() if asked else None), threading.Event(), threading.Event()
    pool.start(work.make(first))
    pool.start(work.make(second))
    first.set()
    assert work.ended.acquire(timeout=PATIENCE_SECONDS) and work.began.acquire(timeout=PATIENCE_SECONDS)
    assert work.began.acquire(timeout=PATIENCE_SECONDS) and asked, "the second one waited for a thread"
    second.set()
    assert more.ended.acquire(timeout=PATIENCE_SECONDS) and more.began.acquire(timeout=0)
    gate = threading.Event()
    pool.start(work.make(gate))
    assert work.began.acquire(timeout=PATIENCE_SECONDS)
    asked.append(more.make(opened()))
    pool.close()
    gate.set()
    assert work.ended.acquire(timeout=PATIENCE_SECONDS) and work.ended.acquire(timeout=PATIENCE_SECONDS)
    for thread in [thread for thread in threading.enumerate() if thread.ident == work.threads[0]]:
        thread.join(PATIENCE_SECONDS)
    assert asked and not more.began.acquire(timeout=0)


def test_work_waits_for_the_threads_there_are_when_the_system_makes_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool, work, gate, make = StepThreads(100), Work(), threading.Event(), threading.Thread.start
    made: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        if len(made) == 2:
            raise RuntimeError("can't start new thread")
        made.append(thread)
        make(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    for _ in range(5):
        pool.start(work.make(gate))
    for _ in range(2):
        assert work.began.acquire(timeout=PATIENCE_SECONDS)
    assert pool.count == 2
    [warning] = [record.getMessage() for record in caplog.records if record.name == "stepwire.host"]
    assert "share the 2 there are" in warning and "Host(slots=)" in warning
    gate.set()
    for _ in range(5):
        assert work.ended.acquire(timeout=PATIENCE_SECONDS)
    pool.close()


def test_work_is_refused_when_the_system_makes_no_thread_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool, work, make = StepThreads(100), Work(), threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="no thread for a sync step"):
        pool.start(work.make(opened()))
    monkeypatch.setattr(threading.Thread, "start", make)
    pool.start(work.make(opened()))
    assert work.ended.acquire(timeout=PATIENCE_SECONDS)
    assert work.ended.acquire(timeout=0.01) is False and pool.count == 1
    pool.close()


def test_an_attempt_for_which_there_is_no_thread_has_failed_and_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start, refused = StepThreads.start, []

    def once(self: StepThreads, work: Callable[[], bool]) -> None:
        if not refused:
            refused.append(work)
            raise RuntimeError("the system gives this process no thread for a sync step")
        start(self, work)

    monkeypatch.setattr(StepThreads, "start", once)
    host = stepwire.Host("threads")

    @host.flow
    async def flow(ctx: stepwire.Context) -> list[int]:
        return list(await ctx.group.parallel([lambda i=i: ctx.step.run(f"step-{i}", int, i) for i in range(3)]))

    run = testing.run(host, flow)
    assert run.output == [0, 1, 2] and sorted(len(step.attempts) for step in run.record.steps) == [1, 1, 2]


@pytest.mark.parametrize("queued", [True, False])
def test_a_thread_that_is_given_up_is_replaced(queued: bool) -> None:
    pool, work, stuck, gate = StepThreads(1), Work(), threading.Event(), opened()
    pool.start(work.make(stuck, comes_back=False))
    assert work.began.acquire(timeout=PATIENCE_SECONDS)
    if queued:
        pool.start(work.make(gate))
    pool.give_up()
    if not queued:
        pool.start(work.make(gate))
    assert work.ended.acquire(timeout=PATIENCE_SECONDS)
    assert pool.count == 1
    stuck.set()
    assert work.ended.acquire(timeout=PATIENCE_SECONDS)
    pool.start(work.make(gate))
    assert work.ended.acquire(timeout=PATIENCE_SECONDS)
    assert pool.count == 1 and work.threads[2] == work.threads[1], "the one given up did not come back"
    pool.close()


def test_a_step_that_never_stops_does_not_keep_the_process_from_ending() -> None:
    code = """
import threading
from stepwire._runtime.threads import StepThreads
began = threading.Event()
def work():
    began.set()
    threading.Event().wait()
StepThreads(1).start(work)
assert began.wait(10)
print("main ends")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "main ends\n", "")


def test_a_defect_in_one_outcome_costs_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    pool, work, gate = StepThreads(1), Work(), opened()

    def broken() -> bool:
        raise RuntimeError("a defect")

    pool.start(broken)
    pool.start(work.make(gate))
    assert work.ended.acquire(timeout=PATIENCE_SECONDS)
    assert "a defect" in caplog.text
    pool.close()
