"""Waiting for the ends of runs: many with one stream, one with one call; successors of `ctx.restart_with` are followed.

An engine that is not there for a while is waited for, as by every `RunStream`. Coroutines get one thread per wait,
however many runs it is for; none for one run, unless its engine went away or it has a successor.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Any, TypeVar

import grpc

from stepwire._transport.run_answers import over
from stepwire._transport.run_calls import RunCalls
from stepwire._transport.run_record import Run
from stepwire._transport.run_watch import RunStream

AT_ONCE = 1000
"""Runs that one stream may name (proto/README.md, 13)."""
T = TypeVar("T")


class RunEnds(RunStream):
    """How runs ended, in whatever order they do.

    Args:
        run_ids: Any number; each counts once.
        timeout: Seconds for all of them; None: no limit.
    """

    def __init__(self, calls: RunCalls, run_ids: Iterable[str], *, timeout: float | None) -> None:
        super().__init__(calls, timeout=timeout)
        self._cancellable = False
        self._read_answer = calls.ended
        self._left = {run_id: {run_id} for run_id in run_ids}
        """What is waited for, and for whose sake: a successor is, for the runs that began the chain."""
        self._ended: dict[str, Run] = {}
        self._told = 0

    def collect(self, broken: grpc.RpcError | None = None) -> dict[str, Run]:
        """Block until all have ended; the records by the ids that were asked for, of a chain the last run.

        Args:
            broken: How a first call ended.

        Raises:
            TimeoutError: the time is over and some have not ended.
            StepwireError: the engine refuses, e.g. RunNotFound.
        """
        if broken is not None:
            self._judge(broken)
        while self._left and not self._cancelled.is_set():
            told = self._told
            try:
                with closing(self._stream()) as stream:
                    for data in stream:
                        for run in self._read_answer(data):
                            self._note(run)
            except grpc.RpcError as error:
                self._judge(error)
            else:
                if self._told == told:
                    self._rest()  # an engine that stops may end its streams in good order
        return self._ended

    async def wait(self) -> dict[str, Run]:
        """`collect` for a coroutine; cancelling it ends the wait."""
        self._cancellable = True
        broken = await self._first_answer() if len(self._left) == 1 else None
        return await on_thread(lambda: self.collect(broken), self.cancel) if self._left else self._ended

    async def _first_answer(self) -> grpc.RpcError | None:
        """The answer for a single run; `collect` says what there is to do if it has a successor, or the call failed."""
        (run_id,) = self._left
        call = self._calls.end(run_id, self._seconds_left(), False, True).future
        await over(call)
        failed = call.exception()
        if isinstance(failed, grpc.RpcError):
            return failed
        for run in self._calls.ended_one(call.result()):
            self._note(run)
        return None

    def _note(self, run: Run) -> None:
        first = self._left.pop(run.run_id, None)
        if first is None:
            return
        self._told += 1
        if run.successor_run_id:
            self._left.setdefault(run.successor_run_id, set()).update(first)
            self._await_successor()
            return
        self._ended.update(dict.fromkeys(first, run))
        if self._created_by is not None and all(run_id in asked for run_id, asked in self._left.items()):
            self._created_by = None

    def _stream(self) -> Generator[bytes, None, None]:
        if not self._reached:
            # Ends may take their time; that the engine is back is known as soon as it says how one of the runs is.
            first = next(iter(self._left))
            probe = self._calls.watch(first, False, self._seconds_left(), True)
            with closing(self._read(probe)) as seen:
                next(seen, None)
        yield from super()._stream()

    def _open(self, timeout: float | None, wait_for_ready: bool) -> Any:
        asked = list(self._left)[:AT_ONCE]
        if len(asked) == 1:
            self._read_answer = self._calls.ended_one
            return self._calls.end(asked[0], timeout, wait_for_ready, self._cancellable)
        self._read_answer = self._calls.ended
        return self._calls.ends(asked, timeout, wait_for_ready)

    def _unfinished(self) -> str:
        first, *others = self._left
        return f"run {first}" + (f" and {len(others)} more" if others else "")


async def on_thread(work: Callable[[], T], cancel: Callable[[], None]) -> T:
    """What blocking `work` returns or raises, for a coroutine. Cancelling it calls `cancel` and waits for nobody."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(value: T | None, problem: BaseException | None) -> None:
        if future.done():
            return
        if problem is not None:
            future.set_exception(problem)
        else:
            future.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value: T | None = None
        problem: BaseException | None = None
        try:
            value = work()
        except BaseException as raised:  # handed over, not handled
            problem = raised
        try:
            loop.call_soon_threadsafe(tell, value, problem)
        except RuntimeError:
            pass  # the loop was closed; nobody waits any more

    threading.Thread(target=run, name="stepwire-wait", daemon=True).start()
    try:
        return await future
    finally:
        if not future.done() or future.cancelled():
            cancel()
