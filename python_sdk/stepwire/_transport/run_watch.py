"""Watching runs over as many streams as it takes, from plain code and from coroutines.

A stream that breaks says nothing about the run: the watch reconnects until the run has ended or its time
is over. Coroutines get a thread per watch, which blocks in gRPC; that thread never touches their loop but
to wake it up.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import closing
from typing import Any

import grpc

from stepwire._transport.run_calls import RunCalls
from stepwire._transport.run_errors import code_of, error_from_rpc, is_busy
from stepwire._transport.run_record import Run
from stepwire.errors import PayloadTooLarge
from stepwire.protocol.failure import ErrorCode

SUCCESSOR_SECONDS = 30.0
"""How long a run's successor may take to be found after its predecessor has ended, an engine that restarts included."""
_PAUSE_SECONDS_MIN, _PAUSE_SECONDS_MAX = 0.05, 2.0
_BROKEN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""Statuses of a stream that broke, if they do not come from the engine."""
_COMES_BACK = {ErrorCode.DRAINING, ErrorCode.STORE_UNAVAILABLE, ErrorCode.STORE_FULL}
_log = logging.getLogger("stepwire.client")
_random = random.Random()


class RunStream:
    """What follows runs: one stream after the other until it is done or its time is over.

    Args:
        timeout: Seconds for all of it; None: no limit.
    """

    def __init__(self, calls: RunCalls, *, timeout: float | None) -> None:
        self._calls = calls
        self._created_by: float | None = None
        """Until when a successor may be unknown: its engine starts it soon after the commit that names it."""
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._cancelled = threading.Event()
        self._call: Any = None
        self._pause = _PAUSE_SECONDS_MIN
        self._reached = True

    def _open(self, timeout: float | None, wait_for_ready: bool) -> Any:
        """A new stream."""
        raise NotImplementedError

    def _unfinished(self) -> str:
        """What has not ended, for the error of a time that is over."""
        raise NotImplementedError

    def cancel(self) -> None:
        """End it; from any thread."""
        self._cancelled.set()
        call = self._call
        if call is not None:
            call.cancel()

    def _await_successor(self) -> None:
        """A run that is asked for next may not be there yet."""
        self._created_by = time.monotonic() + SUCCESSOR_SECONDS

    def _stream(self) -> Generator[bytes, None, None]:
        # The first try fails fast, so that somebody is told; later ones are woken when the engine is back.
        yield from self._read(self._open(self._seconds_left(), not self._reached))

    def _read(self, call: Any) -> Generator[bytes, None, None]:
        self._call = call
        try:
            if not self._cancelled.is_set():
                for data in call:
                    self._reached = True
                    self._pause = _PAUSE_SECONDS_MIN
                    yield data
        finally:
            call.cancel()

    def _seconds_left(self) -> float | None:
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            waiting = "it goes on" if self._reached else f"no engine answers at {self._calls.address}, the run is kept"
            raise TimeoutError(
                f"{self._unfinished()} did not end within {self._timeout:g} s; {waiting}\n"
                "  next: wait for it again; its id gives the same run"
            )
        return left

    def _judge(self, error: grpc.RpcError) -> None:
        """Pause and return if another stream may work; raise otherwise."""
        if self._cancelled.is_set() or self._calls.closed:
            return
        code, status = code_of(error), error.code()
        if code is None and status is grpc.StatusCode.DEADLINE_EXCEEDED:
            return
        missing = code is ErrorCode.RUN_NOT_FOUND
        if (missing and self._created_by is not None and time.monotonic() < self._created_by) or is_busy(error):
            self._rest()
            return
        refused = error_from_rpc(error, self._calls.address)
        if isinstance(refused, PayloadTooLarge) or (code not in _COMES_BACK if code else status not in _BROKEN):
            raise refused from None
        if self._reached:
            _log.warning("lost the engine at %s (%s); waiting for it", self._calls.address, error.details())
        self._reached = False
        self._rest()

    def _rest(self) -> None:
        """Pause before the next stream; longer each time, until one brings a record."""
        pause = self._pause * (1 + _random.random())
        if self._deadline is not None:
            pause = min(pause, max(0.0, self._deadline - time.monotonic()))
        self._cancelled.wait(pause)
        self._pause = min(2 * self._pause, _PAUSE_SECONDS_MAX)


class RunWatch(RunStream):
    """The run now and after its changes, up to its terminal state.

    Args:
        follow: A run that `ctx.restart_with` ended is followed by its successors.
        timeout: Seconds for all of it; None: no limit.
    """

    def __init__(
        self, calls: RunCalls, run_id: str, *, steps: bool, timeout: float | None, follow: bool = False
    ) -> None:
        super().__init__(calls, timeout=timeout)
        self._run_id = run_id
        self._steps = steps
        self._follow = follow

    def records(self) -> Generator[Run, None, None]:
        """Records, the terminal one last; nothing more after `cancel`.

        Raises:
            TimeoutError: the time is over and the run is not.
            StepwireError: the engine refuses, e.g. RunNotFound.
        """
        while not self._cancelled.is_set():
            run: Run | None = None
            try:
                with closing(self._stream()) as stream:
                    for data in stream:
                        run = self._calls.watched(data)
                        self._created_by = None
                        yield run
                        if run.state.terminal:
                            break
            except grpc.RpcError as error:
                self._judge(error)
            else:
                if run is None or not run.state.terminal:
                    self._rest()  # an engine that stops may end its streams in good order
                elif not self._goes_on(run):
                    return

    def _goes_on(self, ended: Run) -> bool:
        """Turn to the successor, if there is one to follow."""
        if not (self._follow and ended.successor_run_id):
            return False
        self._run_id = ended.successor_run_id
        self._await_successor()
        return True

    def _open(self, timeout: float | None, wait_for_ready: bool) -> Any:
        return self._calls.watch(self._run_id, self._steps, timeout, wait_for_ready)

    def _unfinished(self) -> str:
        return f"run {self._run_id}"


async def records_of(watch: RunWatch) -> AsyncGenerator[Run, None]:
    """The records of `watch` for a coroutine. A slow reader gets the newest, never a queue of them."""
    slot = _Slot(asyncio.get_running_loop())
    threading.Thread(target=slot.fill, args=(watch,), name="stepwire-watch", daemon=True).start()
    try:
        while (run := await slot.next()) is not None:
            yield run
    finally:
        watch.cancel()


class _Slot:
    """Room for one record between the thread of a watch and a coroutine."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._newest: Run | None = None
        self._ended = False
        self._problem: BaseException | None = None
        self._awake = asyncio.Event()

    def fill(self, watch: RunWatch) -> None:
        """Runs on the thread: until the watch ends or nobody can be woken."""
        problem: BaseException | None = None
        try:
            for run in watch.records():
                with self._lock:
                    told, self._newest = self._newest is not None, run
                if not told and not self._tell(self._awake.set):
                    watch.cancel()
        except BaseException as raised:  # handed over, not handled
            problem = raised
        with self._lock:
            self._ended, self._problem = True, problem
        self._tell(self._awake.set)

    def _tell(self, callback: Callable[[], None]) -> bool:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            return False  # the loop was closed
        return True

    async def next(self) -> Run | None:
        """The newest record; None at the end. Raises what ended the watch."""
        while True:
            await self._awake.wait()
            with self._lock:
                run, self._newest = self._newest, None
                ended, problem = self._ended, self._problem
            if run is not None:
                return run
            if problem is not None:
                raise problem
            if ended:
                return None
            self._awake.clear()
