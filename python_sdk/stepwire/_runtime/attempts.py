"""Attempts: running the body of a step once, on the loop or on a thread, and telling its outcome.

Never two attempts of one step at once (MISSION S4): an attempt that timed out or was cancelled is asked to
stop and keeps its slot until it has; whatever it then returns is dropped. Only where the user says
`abandon_after=` is it let go before it has stopped. One sweep serves all deadlines.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import logging
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from stepwire._runtime.attempt import RunningAttempt, StepCall, stop_failure
from stepwire._runtime.eager import Code, EagerTasks
from stepwire._runtime.scope import PLACE
from stepwire._runtime.telemetry import HostTelemetry
from stepwire._runtime.threads import StepThreads, Work
from stepwire.errors import OutputUnserializable, PayloadTooLarge, StepError, failure_from_exception
from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import CancelReason, Execute, Result
from stepwire.protocol.paths import undone_path
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import Fence, StepKind
from stepwire.redaction import HIDDEN, Parts, hidden, marked, redacts
from stepwire.retry import Retry

logger = logging.getLogger("stepwire.host")

ABANDONED_ATTEMPTS_MAX = 64
"""Attempts given up that still run, in one process; each may hold a thread. With more, none is given up."""
_TASK = StepKind.TASK
_KIND_NAMES = {kind: kind.name.lower() for kind in (StepKind.RUN, StepKind.TASK)}
_OUTCOMES = {ErrorCode.TIMEOUT: "timeout", ErrorCode.CANCELLED: "cancelled"}


Finish = Callable[[RunningAttempt, Result, Any], None]
"""Called with the attempt, its result and the decoded output; from any thread."""


class Attempts:
    """Every attempt this process executes.

    Args:
        loop: The application's loop; async steps run on it.
        tasks: Makes their tasks.
        slots: Threads for sync steps.
        clock: Seconds, monotonic.
        finish: Takes outcomes; called on the loop for async and on the pool's thread for sync steps.
        more: Gives a thread that has told its outcome the next attempt, see `continued`; None: there is none for it.

    Attributes:
        fresh: Those whose code waits for `let_go`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tasks: EagerTasks,
        slots: int,
        clock: Callable[[], float],
        finish: Finish,
        telemetry: HostTelemetry,
        more: Callable[[], Work | None],
    ) -> None:
        self.payload_bytes_max = 4 * 1024 * 1024
        self._loop = loop
        self._clock = clock
        self._finish = finish
        self._telemetry = telemetry
        self._threads = StepThreads(slots, more)
        self._abandoning = threading.Lock()
        self._abandoned = 0
        self._overdue: dict[RunningAttempt, None] = {}
        self._running: dict[tuple[str, str], RunningAttempt] = {}
        self.fresh: list[RunningAttempt] = []
        self._codes: list[Code] = []
        self._stopped_fresh = False
        self._tasks = tasks
        self._succeeded: dict[StepKind, list[float]] = {kind: [] for kind in _KIND_NAMES}
        self._ending: set[RunningAttempt] = set()
        self._deadlines: list[tuple[float, int, RunningAttempt]] = []
        self._deadline_count = 0
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        """Attempts in progress; those given up are none."""
        return len(self._running) + len(self._ending)

    @property
    def threadless(self) -> int:
        """Attempts that wait for a thread: the system makes no more."""
        return self._threads.queued

    @property
    def abandoned(self) -> int:
        """Attempts given up that still run."""
        return self._abandoned

    def start(
        self,
        run_id: str,
        path: str,
        attempt: int,
        fence: Fence,
        call: StepCall,
        context: Context,
        timeout: float | None,
        flow: str = "",
        traceparent: str = "",
    ) -> None:
        """Begin an attempt in `context`, or a copy of it if it is not the first. On the loop; async code by `let_go`.

        Args:
            traceparent: The context of the step's span, for those that make spans (`traced.py`).
        """
        if attempt > 1 or call.kind is _TASK:
            context = context.copy()
        since = self._clock()
        running = RunningAttempt(run_id, path, attempt, fence=fence, call=call, timeout=timeout, since=since, flow=flow)
        self._running[run_id, path] = running
        if timeout:
            self._arm(running, since + timeout)
        if call.is_async:
            self.fresh.append(running)
            self._codes.append((self._run_async(running), context, path))
        else:
            running.on_thread = True
            try:
                self._threads.start(partial(context.run, self._run_sync, running))
            except RuntimeError as none:  # There is no thread, and the system makes none: perhaps at its next attempt.
                running.on_thread = False
                self._failed(running, none)

    def book(self, run_id: str, execute: Execute, call: StepCall) -> RunningAttempt:
        """A registered step that a thread of the pool begins by itself. From now on it can be told to stop.

        Args:
            call: Its arguments may be missing until `continued`.
        """
        running = self._running[run_id, execute.path] = RunningAttempt(
            run_id,
            execute.path,
            execute.attempt,
            fence=execute.fence,
            call=call,
            timeout=execute.timeout,
            since=self._clock(),
            flow=execute.flow,
            on_thread=True,
        )
        return running

    def continued(self, running: RunningAttempt, call: StepCall, context: Context, traceparent: str) -> Work:
        """What the calling thread of the pool does for an attempt that was booked."""
        running.call = call
        running.since = self._clock()
        if running.timeout:
            self._loop.call_soon_threadsafe(self._arm, running, running.since + running.timeout)
        return partial(context.copy().run, self._run_sync, running)

    def unbook(self, running: RunningAttempt) -> None:
        """None of its code will run."""
        self._running.pop((running.run_id, running.path), None)

    def let_go(self, most: int) -> int:
        """Let the code of so many begin, in their order, each up to its first wait. In a callback of the loop.

        Returns:
            How many there were.
        """
        if not self.fresh:
            return 0
        fresh, self.fresh = self.fresh[:most], self.fresh[most:]
        codes, self._codes = self._codes[:most], self._codes[most:]
        if self._stopped_fresh:
            self._stopped_fresh = bool(self.fresh)
            for running, code in zip(fresh, codes, strict=True):
                if running.stop is not None:
                    code[0].close()
                    self._never_began(running)
            codes = [code for running, code in zip(fresh, codes, strict=True) if running.stop is None]
            fresh = [running for running in fresh if running.stop is None]
        if fresh:
            self._tasks.start(codes, partial(_keep_tasks, fresh))
        return len(fresh)

    async def _run_async(self, running: RunningAttempt) -> None:
        PLACE.set(running)
        call = running.call
        try:
            value = await (call.fn(*call.args, **call.kwargs) if call.kwargs else call.fn(*call.args))
        except (Exception, asyncio.CancelledError) as exc:
            self._failed(running, exc)
        except BaseException as exc:
            self._failed(running, exc)
            raise
        else:
            self._returned(running, value)

    def _run_sync(self, running: RunningAttempt) -> bool:
        """On a thread. Returns False if the thread was given up with its attempt."""
        PLACE.set(running)
        call = running.call
        try:
            value = call.fn(*call.args, **call.kwargs)
        except BaseException as exc:
            self._failed(running, exc)
            return not running.abandoned
        if inspect.isawaitable(value):
            # A lambda or partial around a coroutine function: it shows only now that it is async.
            if self._leave_thread(running):
                self._loop.call_soon_threadsafe(self._continue_async, running, value, copy_context())
                return True
            if inspect.iscoroutine(value):
                value.close()
        self._returned(running, value)
        return not running.abandoned

    def _leave_thread(self, running: RunningAttempt) -> bool:
        """The attempt goes on without its thread. False: it was given up together with the thread."""
        with self._abandoning:
            if running.abandoned:
                return False
            running.on_thread = False
            return True

    def _continue_async(self, running: RunningAttempt, awaitable: Any, context: Context) -> None:
        async def fn() -> Any:
            return await awaitable

        running.call = running.call.with_function(fn, is_async=True, no_arguments=True)
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
            if call.redact is not None and Parts.OUTPUT in call.redact:
                payload = marked(payload, call.codec, Parts.OUTPUT)
            if len(payload.data) > self.payload_bytes_max:
                raise PayloadTooLarge(
                    f"output of step {running.path!r} is {len(payload.data)} bytes, limit {self.payload_bytes_max}"
                )
        except BaseException as exc:
            self._give_unrecordable(running, exc)
            if not (running.on_thread or isinstance(exc, Exception)):
                raise  # As of user code on the loop. A thread has other steps to serve.
        else:
            if call.abandon_after is None:
                self._hand_over(running, payload, None, back)  # as _give does it
            else:
                self._give(running, payload, None, back)

    def _give_unrecordable(self, running: RunningAttempt, exc: BaseException) -> None:
        """Its output cannot be encoded or is too large."""
        if undone_path(running.path) is not None:
            # Nobody gets the output of an undo, and what it did is done.
            why = HIDDEN if redacts(running.call.redact, Parts.FAILURE) else exc
            logger.warning("what %r of run %s returned is not recorded: %s", running.path, running.run_id, why)
            self._give(running, NULL, None, None)
            return
        if not isinstance(exc, StepError):  # of a codec or a type of the user's own
            exc = OutputUnserializable(f"{type(exc).__name__}: {exc}")
        self._give(running, None, _shown(running, failure_from_exception(exc)), None)

    def _failed(self, running: RunningAttempt, exc: BaseException) -> None:
        if running.stop is not None:
            self._stopped(running)
            return
        retries = running.call.retries
        never = isinstance(retries, Retry) and retries.forbids(exc)
        failure = failure_from_exception(exc, retryable=Retryable.NO if never else None)
        self._give(running, None, _shown(running, failure), None)

    def _stopped(self, running: RunningAttempt) -> None:
        """It ended after it was told to: what it returned or raised no longer counts."""
        self._give(running, None, stop_failure(running), None)

    def _give(self, running: RunningAttempt, output: Payload | None, failure: Failure | None, value: Any) -> None:
        """Hand over the outcome of an attempt that ended, unless it was given up before."""
        if running.call.abandon_after is None or self._claim(running):
            self._hand_over(running, output, failure, value)
        else:
            self._late(running)

    def _claim(self, running: RunningAttempt) -> bool:
        """Take the right to tell the outcome. One gets it: the attempt that ends, or the sweep that gives it up."""
        with self._abandoning:
            told, running.told = running.told, True
            self._overdue.pop(running, None)
            return not told

    def _hand_over(self, running: RunningAttempt, output: Payload | None, failure: Failure | None, value: Any) -> None:
        elapsed = self._clock() - running.since
        result = Result(running.path, running.attempt, running.fence, output, failure, elapsed)
        running.task = None  # It knows its context, which knows this: nobody should have to collect them.
        if running.on_thread:
            # Before its outcome is handed over it must not look as if nothing were going on.
            self._ending.add(running)
            self._running.pop((running.run_id, running.path), None)
            self._count(running, failure, elapsed)
            self._finish(running, result, value)
            self._ending.discard(running)
            return
        self._running.pop((running.run_id, running.path), None)
        if failure is None:
            self._succeeded[running.call.kind].append(elapsed)  # Counted together with others.
        else:
            self._count(running, failure, elapsed)
        self._finish(running, result, value)

    def _count(self, running: RunningAttempt, failure: Failure | None, elapsed: float) -> None:
        kind = _KIND_NAMES[running.call.kind]
        outcome = "ok" if failure is None else _OUTCOMES.get(failure.code, "failed")
        self._telemetry.attempts[kind, outcome] += 1
        self._telemetry.attempt_seconds[kind].observe(elapsed)

    def count_succeeded(self) -> None:
        """Tell the numbers about attempts on the loop that succeeded since the last time."""
        for kind, name in _KIND_NAMES.items():
            if seconds := self._succeeded[kind]:
                self._succeeded[kind] = []
                self._telemetry.attempts[name, "ok"] += len(seconds)
                self._telemetry.attempt_seconds[name].observe_all(seconds)

    # ---- stopping

    def cancel(self, run_id: str, path: str, reason: CancelReason, fence: Fence | None = None) -> None:
        """Ask an attempt to stop: an async one is cancelled, a sync one sees its flag (MISSION S20).

        Args:
            fence: Only one whose right is no younger: a thread may have begun the next one meanwhile. None: any.
        """
        running = self._running.get((run_id, path))
        if running is not None and (fence is None or running.fence <= fence):
            self._stop(running, reason)

    def has(self, run_id: str, path: str) -> bool:
        """Whether an attempt of this step is in progress here."""
        return (run_id, path) in self._running

    def has_any(self, run_id: str) -> bool:
        """Whether an attempt of this run is in progress here."""
        return any([run == run_id for run, _ in list(self._running)])

    def stop_all(self) -> None:
        """The host leaves: whatever stops when it is told to does."""
        for running in list(self._running.values()):
            self._stop(running, CancelReason.DRAIN)

    def cancel_run(self, run_id: str, reason: CancelReason) -> None:
        """Ask every attempt of this run to stop."""
        for running in list(self._running.values()):  # Threads add and remove some meanwhile.
            if running.run_id == run_id:
                self._stop(running, reason)

    def _stop(self, running: RunningAttempt, reason: CancelReason) -> None:
        if running.stop is not None:
            return
        running.tell(reason)
        if running.task is not None:
            running.task.cancel()
            running.task.add_done_callback(lambda _: self._never_began(running))
        else:
            self._stopped_fresh = bool(self.fresh)
        if running.call.abandon_after is not None:
            running.abandon_at = self._clock() + running.call.abandon_after
            self._arm(running, running.abandon_at)

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
            if self._running.get((running.run_id, running.path)) is not running:
                continue
            if running.stop is None:
                self._stop(running, CancelReason.TIMEOUT)
            elif running.abandon_at is not None and running.abandon_at <= now:
                self._abandon(running)
        if self._deadlines:
            self._arm_sweep()

    # ---- giving up

    def _abandon(self, running: RunningAttempt) -> None:
        """It was told to stop and has not: its outcome is told without it, and its slot is free (MISSION S4)."""
        with self._abandoning:
            if running.told:
                return
            if self._abandoned >= ABANDONED_ATTEMPTS_MAX:
                self._overdue[running] = None
                return
            self._overdue.pop(running, None)
            self._abandoned += 1
            running.told = running.abandoned = True
            if running.on_thread:
                self._threads.give_up()
        logger.warning("step %r of run %s does not stop and was given up", running.path, running.run_id)
        self._telemetry.attempts_abandoned += 1
        self._hand_over(running, None, stop_failure(running), None)

    def _late(self, running: RunningAttempt) -> None:
        """An attempt that was given up has ended at last; nobody waits for what it says."""
        self._telemetry.late_results += 1
        with self._abandoning:
            self._abandoned -= 1
            waiting = bool(self._overdue)
        if waiting:
            self._loop.call_soon_threadsafe(self._abandon_overdue)

    def _abandon_overdue(self) -> None:
        """There is room again for those that could not be given up when it was due."""
        with self._abandoning:
            overdue = list(self._overdue)[: max(0, ABANDONED_ATTEMPTS_MAX - self._abandoned)]
        for running in overdue:
            self._abandon(running)

    def close(self) -> None:
        """No more attempts; async ones are cancelled, threads end with what they run."""
        self.stop_all()
        for code, _, _ in self._codes:
            code.close()
        if self._sweep is not None:
            self._sweep.cancel()
        self._threads.close()


def _keep_tasks(attempts: list[RunningAttempt], tasks: list[asyncio.Task[Any]]) -> None:
    for running, task in zip(attempts, tasks, strict=True):
        running.task = task


def _shown(running: RunningAttempt, failure: Failure) -> Failure:
    """What user code said of its failure, unless that is not for human eyes."""
    return hidden(failure) if redacts(running.call.redact, Parts.FAILURE) else failure
