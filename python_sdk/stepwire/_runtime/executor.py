"""The runtime of a host: it carries what the engine says to bodies and attempts, and what they produce back.

Bodies and async steps live on the application's loop. Everything they produce within one tick leaves as one
frame: plans first, then results, and the transport is told once the loop has nothing more to add.
Outcomes of sync steps go from their thread to the session without touching the loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context, copy_context
from typing import Any

from stepwire._runtime.attempt import RunningAttempt, StepCall
from stepwire._runtime.body import LiveBody
from stepwire._runtime.hooks import Hooks
from stepwire._runtime.keeping import Keeping, Leaving
from stepwire._runtime.logs import SHIPPER, LogShipper
from stepwire._runtime.patience import patience, stalled
from stepwire._runtime.task import task_call
from stepwire._runtime.telemetry import HostTelemetry
from stepwire._runtime.threads import BranchThreads
from stepwire._runtime.tracing import PLAIN, Makers
from stepwire._runtime.undo import step_name, unreachable
from stepwire._transport.port import SessionPort
from stepwire.codec import Codec
from stepwire.errors import failure_from_exception
from stepwire.flow import FlowFunction, StepFunction
from stepwire.hooks import Hook, HookKind
from stepwire.protocol import paths
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import (
    Advance,
    BodyFailed,
    Cancel,
    CancelReason,
    EngineSection,
    Execute,
    Purpose,
    RejectReason,
    Result,
    Welcome,
)
from stepwire.protocol.plan import ParallelMode, StepKind
from stepwire.redaction import Parts, hidden, redacts

logger = logging.getLogger("stepwire.host")

QUIET_TICKS_MAX = 12
"""Ticks of the loop that a frame waits for more, while every tick brings something."""


class HostRuntime:
    """Bodies and attempts of one host process.

    Args:
        port: The shared session.
        flows, steps: What this host serves, by name.
        parallel_mode: Of groups whose flow names none.
        context_of: Makes the first argument of a flow.
        keeping: Which bodies stay in memory.
        hooks: For every flow; those of one flow are known to it.
        makers: Of bodies and attempts.
        logs: Knows its own records by the context that bodies and steps inherit.
        body_stall_timeout: Seconds a replaying body may spend in user code without progress.
    """

    def __init__(
        self,
        port: SessionPort,
        flows: Mapping[str, FlowFunction[..., Any]],
        steps: Mapping[str, StepFunction[..., Any]],
        *,
        loop: asyncio.AbstractEventLoop,
        codec: Codec,
        parallel_mode: ParallelMode,
        branch_threads: int,
        body_stall_timeout: float,
        telemetry: HostTelemetry,
        context_of: Callable[[LiveBody, ParallelMode], Any],
        keeping: Keeping,
        hooks: Iterable[Hook] = (),
        makers: Makers = PLAIN,
        logs: LogShipper | None = None,
    ) -> None:
        self.loop = loop
        self.threads = BranchThreads(branch_threads)
        self.codec = codec
        self.limits = Welcome("")
        self._port = port
        self._flows = flows
        self._steps = steps
        self._parallel_mode = parallel_mode
        self._stall_timeout = body_stall_timeout
        self._telemetry = telemetry
        self._context_of = context_of
        self._keeping = keeping
        self._draining = False
        self._refused_body = False
        self._looking: asyncio.TimerHandle | None = None
        self._new_body = makers.body
        self._attempts = makers.attempts(loop, port.session.slots, port.clock, self._finish, telemetry)
        self._bodies: dict[str, LiveBody] = {}
        self._dirty: dict[int, LiveBody] = {}
        self._unsent: dict[int, LiveBody] = {}
        self._waiting: dict[str, dict[str, Execute]] = {}
        self._results: list[tuple[str, Result]] = []
        self._loop_thread = threading.get_ident()
        self._flushing = False
        self._activity = 0
        self.context = copy_context()
        self.context.run(SHIPPER.set, logs)
        self.hooks = Hooks(loop, hooks, flows, telemetry)
        self.stubs: Mapping[str, Any] = {}
        """What steps do instead of their function, by name, and undos by "<name>#undo"; for tests."""

    @property
    def busy(self) -> int:
        """Attempts in progress."""
        return self._attempts.count

    @property
    def handed_over(self) -> bool:
        """No attempt runs, and everything that attempts and bodies produced is with the session."""
        return not (self._attempts.count or self._flushing or self._dirty or self._unsent or self._results)

    @property
    def idle(self) -> bool:
        """No attempt runs, nothing waits to be flushed, and every body waits for a release."""
        return self.quiet and not any(body.lines_running for body in self._bodies.values())

    @property
    def quiet(self) -> bool:
        """As `idle`, but lines of async flows may wait for anything: nobody can tell what they await.

        A body that replays is on its way, also while it waits: a time limit of the flow's own may have to pass again.
        """
        in_code = any(b.journal.replaying or (b.lines_running and not b.flow.is_async) for b in self._bodies.values())
        return not (self._attempts.count or self._flushing or self._dirty or in_code)

    @property
    def activity(self) -> int:
        """Grows whenever anything happens."""
        return self._activity

    # ---- from the engine

    def welcome(self, welcome: Welcome) -> None:
        """Limits of this engine."""
        self.limits = welcome
        self._attempts.payload_bytes_max = welcome.payload_bytes_max

    def handle(self, sections: Sequence[EngineSection]) -> None:
        """Do what a frame says. On the loop."""
        self._loop_thread = threading.get_ident()
        for section in sections:
            run_id = section.run_id
            if section.evict is not None:
                body = self._bodies.get(run_id)
                if body is not None and body.journal.fence <= section.evict:
                    self._drop(body)
            if section.advance is not None:
                self._advance(run_id, section.advance)
            for execute in section.executes:
                self._execute(run_id, execute)
            for cancel in section.cancels:
                self._cancel(run_id, cancel)
        self._schedule()

    def _advance(self, run_id: str, advance: Advance) -> None:
        body = self._bodies.get(run_id)
        if advance.start is not None:
            if body is not None:
                self._drop(body)
            flow = self._flows.get(advance.start.flow)
            if flow is None:
                self._port.give_back(run_id, advance.fence)
                return
            if self._keeping.full:
                self._refused_body = True
                self._telemetry.bodies_refused += 1
                self._port.give_back(run_id, advance.fence, no_room=True)
                return
            body = self._bodies[run_id] = self._new_body(self, run_id, flow, advance)
            self._telemetry.body_entries += 1
            if advance.entries:
                self._telemetry.replays += 1
                body.replays_since = self.loop.time()
            elif advance.purpose is Purpose.RUN:
                self.hooks.fire("run_started", run_id, flow.name)
            body.enter(self._context_of(body, flow.parallel_mode or self._parallel_mode), self.context.copy())
        elif body is None:
            self._port.give_back(run_id, advance.fence)
            return
        elif self._must_replay(body) or not body.feed(advance):
            self.body_gone(body)
            return
        self.touch(body)

    def _must_replay(self, body: LiveBody) -> bool:
        """A policy may say that no body is there any more when something comes for it; see `keeping`."""
        return self._keeping.replays and not body.undoing and body.journal.complete

    def _execute(self, run_id: str, execute: Execute) -> None:
        if execute.kind is StepKind.TASK:
            self._execute_task(run_id, execute)
            return
        body = self._bodies.get(run_id)
        undo = execute.undo is not None
        if undo and body is not None and self._must_replay(body):
            self.body_gone(body)
        if body is None or body.over or (body.ended and not undo):
            self._port.reject(run_id, execute, RejectReason.NO_BODY)
        elif execute.path in body.steps:
            self._start_closure(body, execute)
        else:
            self._waiting.setdefault(run_id, {})[execute.path] = execute
            if undo:
                self.touch(body)

    def _execute_task(self, run_id: str, execute: Execute, flow: str = "") -> None:
        step = self._steps.get(execute.name)
        if step is None:
            self._port.reject(run_id, execute, RejectReason.NOT_SERVED)
            return
        try:
            call = task_call(step, execute)
        except Exception as error:  # InvalidInput, or of a codec of the user's own
            failure = failure_from_exception(error)
            self._refuse(run_id, execute, hidden(failure) if redacts(step.redact, Parts.FAILURE) else failure)
            return
        names = (execute.name,) if execute.undo is None else (_undo_name(execute.path), execute.name)
        self._start(run_id, execute, self._stubbed(call, *names), self.context, flow or execute.flow)

    def _start_closure(self, body: LiveBody, execute: Execute) -> None:
        step = body.steps[execute.path]
        self._start(body.run_id, execute, self._stubbed(step.call, step.name), step.context, body.flow.name)

    def _start_undos(self, body: LiveBody) -> None:
        """Begin undos that waited for the body to be where it was."""
        for execute in self._take_undos(body):
            self._start_undo(body, execute)

    def _take_undos(self, body: LiveBody) -> list[Execute]:
        waiting = self._waiting.get(body.run_id)
        undos = [execute for execute in waiting.values() if execute.undo is not None] if waiting else []
        for execute in undos:
            self._take_waiting(body.run_id, execute.path)
        return undos

    def _start_undo(self, body: LiveBody, execute: Execute) -> None:
        undo = body.undos.get(paths.undone_path(execute.path) or "")
        if undo is None:
            reason = "the flow no longer plans this step with a closure as compensate="
            self._refuse(body.run_id, execute, unreachable(execute.path, reason))
            return
        assert execute.undo is not None
        try:
            call = undo.call(execute.undo)
        except Exception as error:  # InvalidInput, or of a codec of the user's own
            failure = failure_from_exception(error)
            self._refuse(body.run_id, execute, hidden(failure) if redacts(undo.redact, Parts.FAILURE) else failure)
            return
        call = self._stubbed(call, _undo_name(execute.path))
        self._start(body.run_id, execute, call, undo.context.copy(), body.flow.name)

    def _start(self, run_id: str, execute: Execute, call: StepCall, context: Context, flow: str) -> None:
        path, attempt = execute.path, execute.attempt
        self.hooks.fire(_HOOKS[execute.undo is not None][0], run_id, flow, path, attempt)
        fence, timeout = execute.fence, execute.timeout
        self._attempts.start(run_id, path, attempt, fence, call, context, timeout, flow, execute.traceparent)

    def _stubbed(self, call: StepCall, *names: str) -> StepCall:
        name = next((name for name in names if name in self.stubs), None)
        if name is None:
            return call
        stub = self.stubs[name]

        def fn(*args: Any, **kwargs: Any) -> Any:
            if isinstance(stub, BaseException):
                raise stub
            return stub(*args, **kwargs) if callable(stub) else stub

        return call.with_function(fn, is_async=False)

    def _refuse(self, run_id: str, execute: Execute, failure: Failure) -> None:
        """An attempt failed before any of its code ran."""
        self._results.append((run_id, Result(execute.path, execute.attempt, execute.fence, None, failure)))
        self._schedule()

    def _cancel(self, run_id: str, cancel: Cancel) -> None:
        self._telemetry.cancels[cancel.reason.name.lower()] += 1
        if cancel.path:
            self._cancel_waiting(run_id, cancel.path)
            self._attempts.cancel(run_id, cancel.path, cancel.reason)
            return
        for path in list(self._waiting.get(run_id, ())):
            self._cancel_waiting(run_id, path)
        self._attempts.cancel_run(run_id, cancel.reason)
        body = self._bodies.get(run_id)
        if body is None or cancel.fence < body.journal.fence:
            return
        if body.undoing or (body.ended and not body.journal.has_new):
            self._drop(body)  # Nobody needs its undos any more, and it does nothing else.

    def _cancel_waiting(self, run_id: str, path: str) -> None:
        waiting = self._take_waiting(run_id, path)
        if waiting is not None:
            # Not a Reject: the body is well, only this attempt of a step it has yet to reach is over.
            stopped = Failure(ErrorCode.CANCELLED, "Cancelled", f"step {path!r} was cancelled before it began")
            self._refuse(run_id, waiting, stopped)

    def _take_waiting(self, run_id: str, path: str) -> Execute | None:
        waiting = self._waiting.get(run_id)
        if waiting is None:
            return None
        execute = waiting.pop(path, None)
        if not waiting:
            del self._waiting[run_id]
        return execute

    # ---- from bodies

    def touch(self, body: LiveBody) -> None:
        """The body decided something or received something; look at it at the end of this tick."""
        self._dirty[id(body)] = body
        self._schedule()

    def reached(self, body: LiveBody, path: str) -> None:
        """An Execute may have come before the body planned its step."""
        if self._waiting:
            execute = self._take_waiting(body.run_id, path)
            if execute is not None:
                self.loop.call_soon(self._reached_later, body, execute)

    def _reached_later(self, body: LiveBody, execute: Execute) -> None:
        if body.over or execute.path not in body.steps:
            self._port.reject(body.run_id, execute, RejectReason.NO_BODY)
            self._schedule()
        else:
            self._start_closure(body, execute)

    def body_failed(self, body: LiveBody, failure: Failure) -> None:
        """The body cannot go on; the engine pauses the run.

        What the body decided before still counts: its steps may have been started already.
        """
        logger.warning("run %s of flow %s cannot go on: %s", body.run_id, body.flow.name, failure.message)
        self._submit_plans(body)
        if body.over:
            return
        self._port.fail_body(body.run_id, BodyFailed(body.journal.fence, failure))
        for execute in self._take_undos(body):
            self._refuse(body.run_id, execute, unreachable(execute.path, failure.message))
        self._drop(body)
        self._schedule()

    def body_gone(self, body: LiveBody) -> None:
        """Something of the live copy is missing; the engine sends a snapshot.

        What the body decided before still counts: its steps may have been started already.
        """
        self._submit_plans(body)
        if not body.over:
            self._port.give_back(body.run_id, body.journal.fence)
            self._drop(body)
        self._schedule()

    def _drop(self, body: LiveBody) -> None:
        if self._bodies.get(body.run_id) is body:
            self._remove(body)
        body.evict()
        for execute in self._waiting.pop(body.run_id, {}).values():
            self._port.reject(body.run_id, execute, RejectReason.NO_BODY)

    def _remove(self, body: LiveBody) -> None:
        del self._bodies[body.run_id]
        self._keeping.left(body)
        if self._refused_body and not self._keeping.full:
            self._refused_body = False
            self._port.room_again()

    # ---- room for bodies

    def _make_room(self) -> None:
        """Give bodies back that wait, if there are too many of them."""
        for body in self._keeping.surplus(self._bodies.values(), self.loop.time(), self._has_attempts):
            self._port.give_back(body.run_id, body.journal.fence, waits_after=body.journal.delivered)
            self._telemetry.bodies_given_back += 1
            self._drop(body)
        pause = self._keeping.look_again()
        if pause is not None and self._looking is None:
            self._looking = self.loop.call_later(pause, self._look_again)

    def _look_again(self) -> None:
        self._looking = None
        self._make_room()
        self._port.ring()

    def _has_attempts(self, body: LiveBody) -> bool:
        if body.ended or body.undoing:
            return self._attempts.has_any(body.run_id)
        return any(self._attempts.has(body.run_id, path) for path in body.steps)

    # ---- from attempts

    def _finish(self, running: RunningAttempt, result: Result, value: Any) -> None:
        run_id = running.run_id
        body = self._bodies.get(run_id)
        if body is not None and result.output is not None and paths.undone_path(result.path) is None:
            body.outputs[result.path] = value
            body.size += len(result.output.data)
        if self.hooks:
            self._tell(running, result.failure, value)  # first: what follows from the result is told after it
        if threading.get_ident() == self._loop_thread:
            self._results.append((run_id, result))
            self._schedule()
        else:
            self._port.submit_results([(run_id, result)])
            self._port.ring()
            if self._draining:
                self.loop.call_soon_threadsafe(self._schedule)  # Its body may go now.

    def _tell(self, running: RunningAttempt, failure: Failure | None, output: Any) -> None:
        kinds = _HOOKS[paths.undone_path(running.path) is not None]
        if failure is None:
            self.hooks.fire(kinds[1], running.run_id, running.flow, running.path, running.attempt, output=output)
        else:
            self.hooks.fire(kinds[2], running.run_id, running.flow, running.path, running.attempt, failure=failure)

    # ---- the end of a tick

    def _schedule(self) -> None:
        self._activity += 1
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush, 0, -1)

    def _flush(self, ticks: int, seen: int) -> None:
        """Gather while ticks bring something, then carry everything to the session: plans first, then results."""
        if seen != self._activity and ticks < QUIET_TICKS_MAX:
            seen = self._activity
            self._look_at_bodies()
            self.loop.call_soon(self._flush, ticks + 1, seen)
            return
        self._look_at_bodies()
        unsent, self._unsent = self._unsent, {}
        for body in unsent.values():
            self._submit_plans(body)
        results, self._results = self._results, []
        self._port.submit_results(results)
        self._make_room()
        self._flushing = False
        if self._dirty:
            self._schedule()
        self._port.ring()

    def _look_at_bodies(self) -> None:
        dirty, self._dirty = self._dirty, {}
        now = self.loop.time()
        for body in dirty.values():
            body.go_on()
            if body.over:
                continue
            if body.replays_since is not None and body.journal.caught_up:
                self._telemetry.replay_seconds.observe(self.loop.time() - body.replays_since)
                body.replays_since = None
            self._keeping.moved(body, now)
            if body.at_frontier:
                self._start_undos(body)
            started = self._self_start(body)
            self._unsent[id(body)] = body
            executes = [self._started(body, path) for path in started]
            if any(not body.steps[path].call.is_async for path in started):
                # The outcome of a sync step goes to the session from its thread; its plan must be there first.
                self._submit_plans(body)
            if body.over:
                for execute in executes:
                    self._port.reject(body.run_id, execute, RejectReason.NO_BODY)
                continue
            for execute in executes:
                self._run_started(body, execute)
            self._watch_stall(body)

    def _submit_plans(self, body: LiveBody) -> None:
        if body.over:
            return
        plans = body.journal.take_plans()
        if plans and not self._port.submit_plans(body.run_id, plans):
            for path in [step.path for plan in plans for step in plan.steps if step.started]:
                # Nobody will ever hear of this step.
                self._attempts.cancel(body.run_id, path, CancelReason.LEASE_LOST)
            self._drop(body)
        elif body.ended and body.journal.caught_up:
            body.outputs.clear()
            if not body.kept:
                self._retire(body)

    def _self_start(self, body: LiveBody) -> Sequence[str]:
        """Choose new steps whose first attempt this host starts itself (DESIGN 3, rule 5)."""
        fresh, body.fresh = body.fresh, []
        if body.hold or not fresh or not body.journal.caught_up:
            return []
        alone = len(fresh) == 1
        mine = []
        for path in fresh:
            step = body.steps.get(path)
            if step is not None and body.journal.is_new(path) and not step.future.scope.limited:
                planned = step.planned
                if planned.kind is StepKind.RUN or (alone and planned.name in self._steps):
                    mine.append(path)
        started = self._port.start(body.run_id, mine, body.journal.fence) if mine else ()
        if started:
            body.journal.mark_started(started)
        return started

    def _started(self, body: LiveBody, path: str) -> Execute:
        """The first attempt of a step that the host begins by itself, as the engine would give it."""
        planned = body.steps[path].planned
        fence = body.journal.fence
        kind, timeout, traceparent = planned.kind, planned.timeout, planned.traceparent
        return Execute(path, 1, fence, kind, planned.name, planned.input, timeout, traceparent=traceparent)

    def _run_started(self, body: LiveBody, execute: Execute) -> None:
        if execute.kind is StepKind.TASK:
            # User code of a registered step always sees arguments decoded from the journaled bytes.
            self._execute_task(body.run_id, execute, body.flow.name)
        else:
            self._start_closure(body, execute)

    def _retire(self, body: LiveBody) -> None:
        """The flow ended and said so."""
        if self._bodies.get(body.run_id) is body:
            self._remove(body)
        body.retire()

    def _watch_stall(self, body: LiveBody) -> None:
        body.forget_stall()
        if not body.at_frontier and (body.journal.replaying or body.run_id in self._waiting):
            body.stall = self.loop.call_later(patience(body, self._stall_timeout), self._stalled, body)

    def _stalled(self, body: LiveBody) -> None:
        if not body.journal.replaying:
            self._start_undos(body)  # All is made again; a line of code that awaits something else may do so for ever.
            return
        self.body_failed(body, stalled(body, patience(body, self._stall_timeout)))

    # ---- shutting down

    def drain(self) -> None:
        """Take nothing new. What was not begun is given back now, every body as soon as nothing of it runs."""
        self._draining = True
        self._keeping = Leaving()
        waiting, self._waiting = self._waiting, {}
        for run_id, executes in waiting.items():
            for execute in executes.values():
                self._port.reject(run_id, execute, RejectReason.DRAINING)
        self._schedule()

    def stop_attempts(self) -> None:
        """Tell everything that still runs to stop."""
        self._attempts.stop_all()

    def close(self) -> None:
        """Stop everything that still runs."""
        if self._looking is not None:
            self._looking.cancel()
        for body in list(self._bodies.values()):
            self._drop(body)
        self._attempts.close()
        self.threads.close()
        self.hooks.close()


def _undo_name(path: str) -> str:
    return step_name(path) + paths.UNDO_SUFFIX


_HOOKS: tuple[tuple[HookKind, HookKind, HookKind], ...] = (
    ("step_started", "step_succeeded", "step_failed"),
    ("undo_started", "undo_succeeded", "undo_failed"),
)
"""What is told of an attempt, of a step and of an undo: it began, it succeeded, it did not."""
