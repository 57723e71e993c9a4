"""Attempts: running the body of a step once, on the loop or on a thread, and telling its outcome.

Never two attempts of one step at once (MISSION S4): an attempt that timed out or was cancelled is asked to
stop and keeps its slot until it has; whatever it then returns is dropped. One sweep serves all deadlines.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Any

from stepwire._runtime.scope import ATTEMPT, SCOPE, AttemptInfo
from stepwire._runtime.telemetry import HostTelemetry
from stepwire.codec import Codec
from stepwire.errors import OutputUnserializable, PayloadTooLarge, StepError, failure_from_exception
from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import CancelReason, Result
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import Fence, StepKind
from stepwire.retry import Retry

_KIND_NAMES = {kind: kind.name.lower() for kind in StepKind}


class StepCall:
    """What an attempt calls: a function with its arguments, and how its output is encoded."""

    __slots__ = ("args", "codec", "fn", "is_async", "kind", "kwargs", "retries", "returns")

    def __init__(
        self,
        kind: StepKind,
        fn: Callable[..., Any],
        args: Any,
        kwargs: dict[str, Any],
        returns: Any,
        codec: Codec,
        retries: int | Retry | None,
        is_async: bool,
    ) -> None:
        self.kind = kind
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.returns = returns
        self.codec = codec
        self.retries = retries
        self.is_async = is_async


class RunningAttempt(AttemptInfo):
    """An attempt in progress. `stop` says why it must end, if it must."""

    __slots__ = ("call", "fence", "since", "stop", "task", "timeout")

    def __init__(
        self,
        run_id: str,
        path: str,
        attempt: int,
        fence: Fence,
        call: StepCall,
        timeout: float | None,
        since: float,
    ) -> None:
        super().__init__(run_id, path, attempt)
        self.fence = fence
        self.call = call
        self.timeout = timeout
        self.since = since
        self.stop: CancelReason | None = None
        self.task: asyncio.Task[Any] | None = None


Finish = Callable[[RunningAttempt, Result, Any], None]
"""Called with the attempt, its result and the decoded output; from any thread."""


class Attempts:
    """Every attempt this process executes.

    Args:
        loop: The application's loop; async steps run on it.
        slots: Threads for sync steps.
        clock: Seconds, monotonic.
        finish: Takes outcomes; called on the loop for async and on the pool's thread for sync steps.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        slots: int,
        clock: Callable[[], float],
        finish: Finish,
        telemetry: HostTelemetry,
    ) -> None:
        self.payload_bytes_max = 4 * 1024 * 1024
        self._loop = loop
        self._clock = clock
        self._finish = finish
        self._telemetry = telemetry
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="stepwire-step")
        self._running: dict[tuple[str, str], RunningAttempt] = {}
        self._ending: set[RunningAttempt] = set()
        self._deadlines: list[tuple[float, int, RunningAttempt]] = []
        self._deadline_count = 0
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        return len(self._running) + len(self._ending)

    def start(
        self,
        run_id: str,
        path: str,
        attempt: int,
        fence: Fence,
        call: StepCall,
        context: Context,
        timeout: float | None,
    ) -> None:
        """Begin an attempt in `context`, or a copy of it if it is not the first. Must be called on the loop."""
        if attempt > 1 or call.kind is StepKind.TASK:
            context = context.copy()
        running = RunningAttempt(run_id, path, attempt, fence, call, timeout, self._clock())
        self._running[run_id, path] = running
        context.run(ATTEMPT.set, running)
        context.run(SCOPE.set, None)
        if timeout:
            self._arm(running, running.since + timeout)
        if call.is_async:
            running.task = self._loop.create_task(self._run_async(running), context=context)
        else:
            self._pool.submit(context.run, self._run_sync, running)

    async def _run_async(self, running: RunningAttempt) -> None:
        call = running.call
        try:
            value = await call.fn(*call.args, **call.kwargs)
        except asyncio.CancelledError as exc:
            self._failed(running, exc)
        except Exception as exc:
            self._failed(running, exc)
        except BaseException as exc:
            self._failed(running, exc)
            raise
        else:
            self._returned(running, value)

    def _run_sync(self, running: RunningAttempt) -> None:
        call = running.call
        try:
            value = call.fn(*call.args, **call.kwargs)
        except BaseException as exc:
            self._failed(running, exc)
            return
        if inspect.isawaitable(value):
            # A lambda or partial around a coroutine function: it shows only now that it is async.
            self._loop.call_soon_threadsafe(self._continue_async, running, value, copy_context())
            return
        self._returned(running, value)

    def _continue_async(self, running: RunningAttempt, awaitable: Any, context: Context) -> None:
        async def fn() -> Any:
            return await awaitable

        running.call = StepCall(
            running.call.kind, fn, (), {}, running.call.returns, running.call.codec, running.call.retries, True
        )
        running.task = self._loop.create_task(self._run_async(running), context=context)
        if running.stop is not None:
            running.task.cancel()

    # ---- outcomes

    def _returned(self, running: RunningAttempt, value: Any) -> None:
        if running.stop is not None:
            self._stopped(running)
            return
        call = running.call
        try:
            if value is None:
                payload, back = NULL, None
            else:
                payload, back = call.codec.round_trip(value, call.returns)
            if len(payload.data) > self.payload_bytes_max:
                raise PayloadTooLarge(
                    f"output of step {running.path!r} is {len(payload.data)} bytes, limit {self.payload_bytes_max}"
                )
        except StepError as exc:
            self._give(running, None, failure_from_exception(exc), None)
        except Exception as exc:
            # A codec or a type of the user's own.
            error = OutputUnserializable(f"{type(exc).__name__}: {exc}")
            self._give(running, None, failure_from_exception(error), None)
        else:
            self._give(running, payload, None, back)

    def _failed(self, running: RunningAttempt, exc: BaseException) -> None:
        if running.stop is not None:
            self._stopped(running)
            return
        retries = running.call.retries
        never = isinstance(retries, Retry) and retries.forbids(exc)
        self._give(running, None, failure_from_exception(exc, retryable=Retryable.NO if never else None), None)

    def _stopped(self, running: RunningAttempt) -> None:
        """It ended after it was told to: what it returned or raised no longer counts."""
        path = running.path
        if running.stop is CancelReason.TIMEOUT:
            message = f"step {path!r} was not finished within its timeout"
            if running.timeout:
                message += f" of {running.timeout:g} s"
            failure = Failure(ErrorCode.TIMEOUT, "StepTimeout", message)
        else:
            reason = running.stop.name.lower() if running.stop else "cancelled"
            failure = Failure(ErrorCode.CANCELLED, "Cancelled", f"step {path!r} was cancelled: {reason}")
        self._give(running, None, failure, None)

    def _give(self, running: RunningAttempt, output: Payload | None, failure: Failure | None, value: Any) -> None:
        elapsed = max(0.0, self._clock() - running.since)
        # Before its outcome is handed over it must not look as if nothing were going on.
        self._ending.add(running)
        self._running.pop((running.run_id, running.path), None)
        self._count(running, failure, elapsed)
        result = Result(running.path, running.attempt, running.fence, output, failure, elapsed)
        self._finish(running, result, value)
        self._ending.discard(running)

    def _count(self, running: RunningAttempt, failure: Failure | None, elapsed: float) -> None:
        kind = _KIND_NAMES[running.call.kind]
        outcome = "ok"
        if failure is not None:
            outcome = {ErrorCode.TIMEOUT: "timeout", ErrorCode.CANCELLED: "cancelled"}.get(failure.code, "failed")
        self._telemetry.attempts[kind, outcome] += 1
        self._telemetry.attempt_seconds[kind].observe(elapsed)

    # ---- stopping

    def cancel(self, run_id: str, path: str, reason: CancelReason) -> None:
        """Ask an attempt to stop: an async one is cancelled, a sync one sees its flag (MISSION S20)."""
        running = self._running.get((run_id, path))
        if running is not None:
            self._stop(running, reason)

    def cancel_run(self, run_id: str, reason: CancelReason) -> None:
        for running in [r for (run, _), r in self._running.items() if run == run_id]:
            self._stop(running, reason)

    def _stop(self, running: RunningAttempt, reason: CancelReason) -> None:
        if running.stop is not None:
            return
        running.stop = reason
        running.cancelled = True
        if running.task is not None:
            running.task.cancel()
            running.task.add_done_callback(lambda _: self._never_began(running))

    def _never_began(self, running: RunningAttempt) -> None:
        """A task that is cancelled before its first step runs none of its code, so it cannot tell its outcome."""
        if self._running.get((running.run_id, running.path)) is running:
            self._stopped(running)

    def _arm(self, running: RunningAttempt, due: float) -> None:
        self._deadline_count += 1
        heapq.heappush(self._deadlines, (due, self._deadline_count, running))
        if self._deadlines[0][2] is running:
            self._arm_sweep()

    def _arm_sweep(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        delay = max(0.0, self._deadlines[0][0] - self._clock())
        self._sweep = self._loop.call_later(delay, self._sweep_deadlines)

    def _sweep_deadlines(self) -> None:
        self._sweep = None
        now = self._clock()
        while self._deadlines and self._deadlines[0][0] <= now:
            running = heapq.heappop(self._deadlines)[2]
            if self._running.get((running.run_id, running.path)) is running:
                self._stop(running, CancelReason.TIMEOUT)
        if self._deadlines:
            self._arm_sweep()

    def close(self) -> None:
        """No more attempts; async ones are cancelled, threads end with what they run."""
        if self._sweep is not None:
            self._sweep.cancel()
        for running in list(self._running.values()):
            self._stop(running, CancelReason.DRAIN)
        self._pool.shutdown(wait=False)
