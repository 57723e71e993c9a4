"""The runtime of a host: it carries what the engine says to bodies and attempts, and what they produce back.

Bodies and async steps live on the application's loop. Everything they produce within one tick leaves as one
frame: plans first, then results, and the transport is told once the loop has nothing more to add.
Outcomes of sync steps go from their thread to the session without touching the loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from typing import Any

from stepwire._runtime.attempt import RunningAttempt
from stepwire._runtime.body import LiveBody
from stepwire._runtime.eager import EagerTasks
from stepwire._runtime.first_attempts import FirstAttempts
from stepwire._runtime.hooks import Hooks
from stepwire._runtime.keeping import Keeping, Leaving
from stepwire._runtime.logs import SHIPPER, LogShipper
from stepwire._runtime.patience import patience, stalled
from stepwire._runtime.starting import HOOKS, Starter
from stepwire._runtime.telemetry import HostTelemetry
from stepwire._runtime.threads import BranchThreads, Work
from stepwire._runtime.tracing import PLAIN, Makers
from stepwire._runtime.undo import unreachable
from stepwire._transport.port import SessionPort
from stepwire.codec import Codec
from stepwire.flow import FlowFunction, StepFunction
from stepwire.hooks import Hook
from stepwire.protocol import paths
from stepwire.protocol.failure import Failure
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

logger = logging.getLogger("stepwire.host")

QUIET_TICKS_MAX = 12
"""Ticks of the loop that a frame waits for more, while every tick brings something."""
SLICE_STEPS = 512
"""Attempts that begin in one tick. While the next ones run, the engine has the outcomes of these; what a further frame
and commit cost is little beside so many."""


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
        self.tasks = EagerTasks(loop)
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
        self._attempts = makers.attempts(
            loop, self.tasks, port.session.slots, port.clock, self._finish, telemetry, self._continued
        )
        self._bodies: dict[str, LiveBody] = {}
        self._dirty: list[LiveBody] = []
        self._reached: list[tuple[LiveBody, Execute]] = []
        self._unsent: dict[int, LiveBody] = {}
        self._results: list[tuple[str, Result]] = []
        self.loop_thread = threading.get_ident()
        self._pid = os.getpid()
        self._flushing = False
        self._activity = 0
        self.context = copy_context()
        self.context.run(SHIPPER.set, logs)
        self.hooks = Hooks(loop, hooks, flows, telemetry)
        self._hooked = bool(self.hooks)
        self._starter = Starter(port, steps, self._attempts, self.hooks, self.context, self._refused)
        self.expected: Mapping[str, object] = self._starter.waiting
        self._first_attempts = FirstAttempts(port, steps, self._starter, self._submit_plans)

    @property
    def stubs(self) -> Mapping[str, Any]:
        """What steps do instead of their function; see `Starter`."""
        return self._starter.stubs

    @stubs.setter
    def stubs(self, stubs: Mapping[str, Any]) -> None:
        self._starter.stubs = stubs

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
        self.loop_thread = threading.get_ident()
        # Scheduled last, so that the flush finds what user code does with what it is given now.
        scheduled, self._flushing = self._flushing, True
        try:
            for section in sections:
                self._handle_section(section)
            self._look_at_bodies()
        finally:
            self._flushing = scheduled
            self._schedule()

    def _handle_section(self, section: EngineSection) -> None:
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
        elif (self._keeping.replays and self._must_replay(body)) or not body.feed(advance):
            self.body_gone(body)
            return
        self.touch(body)

    def _must_replay(self, body: LiveBody) -> bool:
        """A policy may say that no body is there any more when something comes for it; see `NoBodies`."""
        if not self._keeping.replays or body.undoing or not body.journal.complete:
            return False
        return body.flow.is_async or body.lines_running == 0

    def _execute(self, run_id: str, execute: Execute) -> None:
        if execute.kind is StepKind.TASK:
            self._starter.start_task(run_id, execute)
            return
        body = self._bodies.get(run_id)
        if execute.undo is not None:
            self._execute_undo(run_id, execute, body)
        elif body is None or body.over or body.ended:
            self._port.reject(run_id, execute, RejectReason.NO_BODY)
        elif (step := body.steps.get(execute.path)) is not None:
            self._starter.start_closure(
                body, step, execute.attempt, execute.fence, execute.timeout, execute.traceparent
            )
        else:
            self._starter.wait(run_id, execute)

    def _execute_undo(self, run_id: str, execute: Execute, body: LiveBody | None) -> None:
        if body is not None and self._must_replay(body):
            self.body_gone(body)
        if body is None or body.over:
            self._port.reject(run_id, execute, RejectReason.NO_BODY)
        else:
            self._starter.wait(run_id, execute)
            self.touch(body)

    def _refused(self, run_id: str, result: Result) -> None:
        self._results.append((run_id, result))
        self._schedule()

    def _cancel(self, run_id: str, cancel: Cancel) -> None:
        self._telemetry.cancels[cancel.reason.name.lower()] += 1
        if self._reached:
            self._cancel_reached(run_id, cancel.path)
        if cancel.path:
            self._starter.cancel(run_id, cancel.path)
            self._attempts.cancel(run_id, cancel.path, cancel.reason, cancel.fence)
            return
        self._starter.cancel_run(run_id)
        self._attempts.cancel_run(run_id, cancel.reason)
        body = self._bodies.get(run_id)
        if body is None or cancel.fence < body.journal.fence:
            return
        if body.undoing or (body.ended and not body.journal.has_new):
            self._drop(body)  # Nobody needs its undos any more, and it does nothing else.

    def _cancel_reached(self, run_id: str, path: str) -> None:
        """What was to begin at the end of this tick, at this path or anywhere in the run, is not wanted any more."""
        reached, self._reached = self._reached, []
        for body, execute in reached:
            if body.run_id == run_id and path in ("", execute.path):
                self._starter.give_up(run_id, execute)
            else:
                self._reached.append((body, execute))

    # ---- from bodies

    def touch(self, body: LiveBody) -> None:
        """The body decided something or received something; look at it at the end of this tick."""
        if not body.touched:
            body.touched = True
            self._dirty.append(body)
        if self._flushing:
            self._activity += 1  # as _schedule does it
        else:
            self._schedule()

    def reached(self, body: LiveBody, path: str) -> None:
        """An Execute may have come before the body planned its step."""
        execute = self._starter.take(body.run_id, path)
        if execute is not None:
            self._reached.append((body, execute))
            self._schedule()

    def _start_reached(self) -> None:
        reached, self._reached = self._reached, []
        for body, execute in reached:
            step = body.steps.get(execute.path)
            if body.over:
                self._port.reject(body.run_id, execute, RejectReason.NO_BODY)
            elif step is None:
                self._starter.give_up(body.run_id, execute)
            else:
                self._starter.start_closure(
                    body, step, execute.attempt, execute.fence, execute.timeout, execute.traceparent
                )

    def body_failed(self, body: LiveBody, failure: Failure) -> None:
        """The body cannot go on; the engine pauses the run.

        What the body decided before still counts: its steps may have been started already.
        """
        logger.warning("run %s of flow %s cannot go on: %s", body.run_id, body.flow.name, failure.message)
        self._submit_plans(body)
        if body.over:
            return
        self._port.fail_body(body.run_id, BodyFailed(body.journal.fence, failure))
        for execute in self._starter.take_undos(body):
            self._starter.refuse(body.run_id, execute, unreachable(execute.path, failure.message))
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
        self._starter.reject_run(body.run_id)

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
        if body is not None and result.output is not None and not result.path.endswith(paths.UNDO_SUFFIX):
            body.outputs[result.path] = value
            body.size += len(result.output.data)
        if self._hooked:
            self._tell(running, result.failure, value)  # first: what follows from the result is told after it
        if not running.on_thread or threading.get_ident() == self.loop_thread:
            self._results.append((run_id, result))
            self._activity += 1
            if not self._flushing:
                self._schedule()
        else:
            self._port.submit_results([(run_id, result)])
            self._port.ring()
            if self._draining or (self._port.waiting and self._attempts.threadless):
                self.loop.call_soon_threadsafe(self._schedule)  # Its body may go now, or its thread has other work.

    def _continued(self) -> Work | None:
        """The next attempt for a thread that has told its outcome: what waits for its slot need not wait for the loop.

        None: nothing waits, or only the loop can begin it. Nothing waits for a forked child, which has no loop.
        """
        while self._port.waiting and os.getpid() == self._pid:
            booked = self._port.begin_next(self._starter.book)
            work = self._starter.continued(booked) if booked is not None else None
            if work is not None:
                return work
            self.loop.call_soon_threadsafe(self._schedule)
            if booked is None:
                break
        return None

    def _tell(self, running: RunningAttempt, failure: Failure | None, output: Any) -> None:
        kinds = HOOKS[paths.undone_path(running.path) is not None]
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
        """Gather while ticks bring something, then carry everything to the session: plans first, then results.

        A tick can bring something only while code of a flow runs, or is on its way from one wait to the next. Of more
        attempts than a slice has, nothing waits for the next slice.
        """
        activity = self._activity
        try:
            begun = self._attempts.let_go(SLICE_STEPS)
            self._look_at_bodies()
            self._attempts.let_go(SLICE_STEPS - begun)
        except BaseException:  # SystemExit and its like of user code: what the others produced goes its way.
            self.loop.call_soon(self._flush, ticks, seen)
            raise
        more = bool(self._attempts.fresh)
        if not more and seen != self._activity and ticks < QUIET_TICKS_MAX and self._in_code():
            self.loop.call_soon(self._flush, ticks + 1, activity)
            return
        unsent, self._unsent = self._unsent, {}
        for body in unsent.values():
            self._submit_plans(body)
        results, self._results = self._results, []
        if results:
            self._port.submit_results(results)
            self._attempts.count_succeeded()
        self._make_room()
        self._flushing = False
        if more or self._dirty:
            self._schedule()
            self._port.hand_over()
        else:
            self._port.ring()
        if self._port.waiting:
            self._begin_waiting()

    def _begin_waiting(self) -> None:
        """What was given ahead of a free slot begins, without asking the engine, if there is one now."""
        if begun := self._port.begin_waiting():
            for run_id, execute in begun:
                self._starter.start_task(run_id, execute)
            self._schedule()

    def _in_code(self) -> bool:
        """Whether what was gathered so far is of a body that may have more to say soon."""
        return any([body.lines_running and not body.ended for body in self._unsent.values()])

    def _look_at_bodies(self) -> None:
        dirty, self._dirty = self._dirty, []
        now = self.loop.time() if dirty else 0.0
        left = iter(dirty)
        try:
            for body in left:
                body.go_on()
                body.touched = False
                if not body.over:
                    self._look_at(body, now)
                    if len(self._attempts.fresh) >= SLICE_STEPS:
                        break
        except BaseException:  # What comes of one body keeps no other from going on.
            body.touched = False
            raise
        finally:
            others = list(left)
            self._dirty = others + self._dirty
        for body in others:
            self._unsent.pop(id(body), None)  # What it has planned is told with what of it begins here.
        if self._reached and not others:
            self._start_reached()  # Now it is known whether their bodies went astray.

    def _look_at(self, body: LiveBody, now: float) -> None:
        if body.replays_since is not None and body.journal.caught_up:
            self._telemetry.replay_seconds.observe(self.loop.time() - body.replays_since)
            body.replays_since = None
        self._keeping.moved(body, now)
        expected = self.expected
        if expected and body.run_id in expected and body.at_frontier:
            self._starter.start_undos(body)
        self._unsent[id(body)] = body
        if body.fresh:
            self._first_attempts.start(body)
            if body.over:
                return
        if body.stall is not None or body.journal.replaying or expected:
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

    def _retire(self, body: LiveBody) -> None:
        """The flow ended and said so."""
        if self._bodies.get(body.run_id) is body:
            self._remove(body)
        body.retire()
        body.let_go()

    def _watch_stall(self, body: LiveBody) -> None:
        body.forget_stall()
        if not body.at_frontier and (body.journal.replaying or body.run_id in self._starter.waiting):
            body.stall = self.loop.call_later(patience(body, self._stall_timeout), self._stalled, body)

    def _stalled(self, body: LiveBody) -> None:
        if not body.journal.replaying:
            # All is made again; a line of code that awaits something else may do so for ever.
            self._starter.start_undos(body)
            self._schedule()
            return
        self.body_failed(body, stalled(body, patience(body, self._stall_timeout)))

    # ---- shutting down

    def drain(self) -> None:
        """Take nothing new. What was not begun is given back now, every body as soon as nothing of it runs."""
        self._draining = True
        self._keeping = Leaving()
        self._starter.reject_all(RejectReason.DRAINING)
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
