"""What a host's frame does to its runs: plans, results, rejects and lost bodies, in the order of the frame.

One frame's say about one run is one turn and so one journal row. Correctness is by content and fences,
never by order of arrival (DESIGN 3, rules 3, 4 and 8): whatever does not fit is dropped, counted, and the
host is told what it no longer owns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import (
    BodyFailed,
    Cancel,
    CancelReason,
    Fault,
    HostSection,
    NeedSnapshot,
    Reject,
    RejectReason,
    Result,
)
from stepwire.protocol.plan import Fence, Plan
from stepwire_engine.core import ending, machine, plan_check
from stepwire_engine.core.books import Books
from stepwire_engine.core.dispatch import Dispatcher
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.model import Run, Step
from stepwire_engine.core.performed import Performed
from stepwire_engine.core.sessions import Session
from stepwire_engine.core.settle import settle
from stepwire_engine.core.turn import Turn


class Intake:
    """Turns host sections into turns."""

    def __init__(self, books: Books, dispatcher: Dispatcher, performed: Performed) -> None:
        self._books = books
        self._dispatcher = dispatcher
        self._performed = performed

    def section(self, session: Session, run: Run, section: HostSection) -> Turn:
        """Decide one section of a frame about a run in memory."""
        turn = Turn(run, self._books.now.unix_ms)
        for plan in section.plans:
            self._plan(turn, session, plan)
        if section.results:
            self._results(turn, session, section.results)
        if section.body_failed is not None:
            # Before whatever else says that the body is gone: the next one would only fail in the same way.
            self._body_failed(turn, session, section.body_failed)
        for reject in section.rejects:
            self._reject(turn, session, reject)
        if section.need_snapshot is not None:
            self._need_snapshot(session, run, section.need_snapshot)
        settle(turn)
        return turn

    def foreign(self, session: Session, section: HostSection) -> None:
        """A section about a run that is not in memory: it ended. The host may forget everything of it."""
        for result in section.results:
            session.saturated = False
            session.let_end(section.run_id, result.path, result.fence)
            self._books.counters.stale_results += 1
        for plan in section.plans:
            session.evict(section.run_id, plan.fence)
            self._stop_started(session, section.run_id, plan, CancelReason.RUN_CANCELLED)
            self._books.speak(session)
            self._performed.stir(section.run_id)

    # ---- plans

    def _plan(self, turn: Turn, session: Session, plan: Plan) -> None:
        run = turn.run
        body = run.body
        mine = body is not None and body.session_id == session.id and body.fence == plan.fence
        if plan.plan_seq <= run.plan_seq:
            self._books.counters.repeated_plans += 1
            if not plan_check.is_repeat(run, plan):
                # One of a body that was lost never arrived before; what another body decided instead stands.
                self._stop_started(session, run.run_id, plan, CancelReason.LEASE_LOST)
                contradiction = f"plan {plan.plan_seq} contradicts the journal"
                self._disown(session, run, plan.fence, contradiction if mine else "")
            return
        over = run.state.terminal or run.body_ended is not None or run.stopping is not None
        if not mine or over or run.state is RunState.PAUSED:
            self._stop_started(
                session, run.run_id, plan, CancelReason.RUN_CANCELLED if over else CancelReason.LEASE_LOST
            )
            self._disown(session, run, plan.fence, "")
            return
        if plan.plan_seq != run.plan_seq + 1 or plan.after_release > run.release_seq:
            self._disown(session, run, plan.fence, f"plan {plan.plan_seq} came when {run.plan_seq + 1} was due")
            return
        failure = plan_check.refusal(run, plan, self._books.config)
        if failure is not None:
            session.evict(run.run_id, plan.fence)
            session.drop_body(run)
            self._books.speak(session)
            machine.pause(turn, failure)
            return
        started = machine.accept_plan(turn, plan, session.service)
        if started:
            self._lease_started(turn, session, plan, started)
        if turn.aside is not None and turn.begun:
            self._performed.begin(turn)

    def _lease_started(self, turn: Turn, session: Session, plan: Plan, started: list[Step]) -> None:
        """The host has begun these steps of its plan by itself."""
        books = self._books
        now = books.now.mono
        for lease in session.hold_all(turn.run, started, repeat(plan.fence), now):
            step = lease.step
            if step.scope.limits:
                self._dispatcher.admission.count(step)
            if step.state.final:
                given_up = step.path in plan.abandoned
                turn.cancelled.append((lease, CancelReason.ABANDONED if given_up else CancelReason.RACE_LOST))
            elif step.timeout:
                books.timers.arm(now + step.timeout + books.config.timeout_grace, lease)

    def _stop_started(self, session: Session, run_id: str, plan: Plan, reason: CancelReason) -> None:
        """The host began these attempts for a plan that never counted: nobody will have their outcome."""
        for planned in plan.steps:
            if planned.started:
                self._books.counters.cancels_sent[reason.name.lower()] += 1
                session.cancel(run_id, Cancel(planned.path, plan.fence, reason))

    def _disown(self, session: Session, run: Run, fence: Fence, fault: str) -> None:
        """The host has no right to this body (any more). With `fault` it broke the protocol as well."""
        session.evict(run.run_id, fence)
        if fault:
            session.fault(Fault(ErrorCode.PLAN_REJECTED, fault, run.run_id))
        self._books.speak(session)
        body = run.body
        if body is not None and body.session_id == session.id and body.fence == fence:
            session.drop_body(run)
            self._dispatcher.bodies.want(run)

    # ---- results

    def _results(self, turn: Turn, session: Session, results: Sequence[Result]) -> None:
        """The outcomes of attempts, one after the other: each may decide what the next one is worth."""
        books, run = self._books, turn.run
        steps, run_id = run.steps, run.run_id
        last_given = books.last_fence
        session.keep_pace(results)
        for result in results:
            fence = result.fence
            if fence > last_given:  # No engine on this store has given it: a defect of the host, or an old store.
                message = f"a result of run {run_id} has a fence that was never given: {fence}"
                session.fault(Fault(ErrorCode.PROTOCOL, message, run_id))
                books.speak(session)
                continue
            session.saturated = False
            step = steps.get(result.path)
            lease = session.let_end(run_id, result.path, fence)
            if step is None or step.state.final:
                books.counters.repeated_results += 1
                continue
            if result.attempt != step.attempt or (step.fence is not None and fence < step.fence):
                books.counters.stale_results += 1
                turn.planned.append(step)  # If this was the last that stood in the way of its next attempt.
                continue
            failure = result.failure
            if failure is not None and failure.code is ErrorCode.CANCELLED and not run.state.terminal:
                # The host stopped it at our request (lease lost, drain); that is no outcome of the step.
                turn.planned.append(step)
                continue
            if step.lease is not None:
                # An older holder may not be heard once a newer one exists, so this is the same or a newer one.
                holder = books.sessions.get(step.lease.session_id)
                if holder is not None and holder is not session:
                    turn.cancelled.append((step.lease, CancelReason.LEASE_LOST))
            step.queued = False  # Whoever was to execute it again need not.
            if step.admitted:
                books.freed.append(step)
            step.produced_by = lease.beside if lease is not None else None
            machine.accept_result(turn, step, result, session.service, books.config)
            if not step.state.final:
                step.fence = books.next_fence()  # Nobody has the next attempt before it is given out.

    # ---- the rest

    def _reject(self, turn: Turn, session: Session, reject: Reject) -> None:
        run = turn.run
        self._books.counters.rejects += 1
        lease = session.leases.get((run.run_id, reject.path))
        if lease is None or lease.fence != reject.fence:
            return
        session.drop(lease)
        run.stats.executes -= 1  # It was no attempt.
        match reject.reason:
            case RejectReason.NO_SLOT if lease.ahead:
                session.pace = max(session.pace, 2 * self._books.config.ahead_pace)
            case RejectReason.NO_SLOT:
                session.saturated = True
            case RejectReason.DRAINING:
                session.draining = True
            case RejectReason.NOT_SERVED:
                session.steps -= {lease.step.name}
            case RejectReason.NO_BODY:
                body = run.body
                if run.body_ended is not None and lease.step.undo_of is None:
                    pass  # It has ended, and executes nothing but its undos; it may be kept for them.
                elif body is not None and body.session_id == session.id and body.fence < reject.fence:
                    session.drop_body(run)
                    self._dispatcher.bodies.want(run)
        turn.planned.append(lease.step)

    def _need_snapshot(self, session: Session, run: Run, needed: NeedSnapshot) -> None:
        session.full = session.full or needed.no_room
        body = run.body
        if body is None or body.session_id != session.id or body.fence != needed.fence:
            return
        session.drop_body(run)
        if run.stopping is None and needed.waits_after == run.release_seq:
            run.asleep = not self._dispatcher.has_closure_due(run)
        self._books.counters.body_evictions["host"] += 1
        self._dispatcher.bodies.want(run)

    def _body_failed(self, turn: Turn, session: Session, failed: BodyFailed) -> None:
        run = turn.run
        body = run.body
        if body is None or body.session_id != session.id or body.fence != failed.fence:
            return
        session.drop_body(run)
        if run.state.terminal or run.state is RunState.PAUSED:
            return
        if run.stopping is not None:
            ending.give_up_closures(turn, failed.failure)
        else:
            machine.pause(turn, failed.failure)


def cancel_everything(session: Session, run_id: str, fence: Fence) -> None:
    """Tell a host that a run needs nothing of it any more."""
    session.cancel(run_id, Cancel("", fence, CancelReason.RUN_CANCELLED))
    session.evict(run_id, fence)
