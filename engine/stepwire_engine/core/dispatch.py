"""Which steps are ready: nothing but a slot of a host keeps them from their next attempt (DESIGN 3 rule 5).

Whatever ends something that steps may have waited for tells this module, and it finds out what they wait for now: the
commit of their plan, their time, a place in their group, their body, or a slot. Dispatching is never journaled; it
follows from plans. Which host executes a step (`slots.py`) or holds a body (`bodies.py`) must not be decided here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from stepwire.protocol.frames import CancelReason
from stepwire.protocol.plan import StepKind
from stepwire_engine.core import ending
from stepwire_engine.core.admission import Admission
from stepwire_engine.core.bodies import Bodies
from stepwire_engine.core.books import Books
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.model import PERFORMED, Lease, Run, Step, StepState
from stepwire_engine.core.reads import UndoOutputs
from stepwire_engine.core.slots import Slots


class Performer(Protocol):
    """Does the steps that the core performs itself."""

    def arm(self, step: Step) -> None:
        """The step's plan is committed, or its run is in memory again: wait for what ends it."""

    def consider(self, run: Run) -> None:
        """Something of the run waits for its time: the run may be able to do so on disk."""


class Dispatcher:
    """Gives every step that becomes ready to whoever waits with it.

    Attributes:
        performer: Takes the steps that no host executes.
        bodies: Give bodies of runs to hosts.
        slots: Give steps that are ready to hosts.
        admission: Keeps steps within the limits of their groups.
    """

    performer: Performer

    def __init__(self, books: Books) -> None:
        self._books = books
        self.bodies = Bodies(books)
        self.slots = Slots(books, self.bodies)
        self.admission = Admission(self.enqueue)

    def enqueue_all(self, run: Run, steps: Iterable[Step]) -> None:
        """`enqueue` for steps of one run. Its plain closures only need a slot: those in a row take theirs together."""
        body = run.body
        may_run = body is not None and body.ready and run.state is RunState.RUNNING and not run.broken
        session = self._books.sessions[body.session_id] if body is not None and may_run else None
        waiting = False
        for step in steps:
            if session is not None and _is_plain(step):
                step.queued = waiting = True
                session.closures.append(step)
                continue
            if session is not None and waiting:
                self.slots.pump_closures(session)
                waiting = False
            self.enqueue(step)
        if session is not None and waiting:
            self.slots.pump_closures(session)

    def enqueue(self, step: Step) -> None:
        """Whatever stood in the way of this step's next attempt is gone; what is not due yet gets its timer."""
        run = step.run
        if step.queued or step.lease is not None or step.state.final or run.broken or step.uncertain:
            return
        if run.state is not RunState.RUNNING:
            return
        if step.row > run.committed_seq or (step.undo_of is not None and run.in_flight):
            # Its plan is not durable, or perhaps the outcome of the compensation before it is not.
            turn = self._books.last_commit[run.number].turn
            assert turn is not None
            turn.planned.append(step)
        elif step.kind in PERFORMED:
            self.performer.arm(step)
        elif not self._due(step):
            self.admission.retire(step)
            self._arm(step)
        elif step.undo_of is not None and not self._undo_ready(step):
            return
        elif step.kind is StepKind.RUN and not self._body_ready(run):
            return
        elif not self.admission.admit(step):
            return
        elif step.kind is not StepKind.RUN:
            self.slots.add(step)
        else:
            assert run.body is not None
            step.queued = True
            session = self._books.sessions[run.body.session_id]
            session.closures.append(step)
            self.slots.pump_closures(session)

    def _body_ready(self, run: Run) -> bool:
        """Whether closures can be executed; their body is asked for where nobody else does."""
        if run.body is not None:
            return run.body.ready
        if run.stopping is not None or run.asleep:
            run.asleep = False
            self.bodies.want(run)
        return False

    def has_closure_due(self, run: Run) -> bool:
        """Whether a closure waits for nothing but the live body to execute it."""
        return any(
            step.kind is StepKind.RUN and step.lease is None and not step.uncertain and self._due(step)
            for step in run.open_steps()
        )

    def _undo_ready(self, step: Step) -> bool:
        """Whether this compensation may be executed now; if only the output it needs is missing, that is read."""
        if ending.present_undo(step.run) is not step:
            return False
        particulars = step.particulars
        assert particulars is not None
        if particulars.output is None:
            self._books.read(UndoOutputs(step.run))
            return False
        return True

    def let_go(self, steps: Iterable[Step], cancelled: Iterable[tuple[Lease, CancelReason]]) -> None:
        """Nobody waits for these steps any more: their hosts are told, their places are free once they have stopped."""
        for lease, reason in cancelled:
            self.slots.cancel(lease, reason)
        for step in steps:
            if step.queued:
                self.slots.withdraw(step)
            if step.lease is None:
                self.admission.retire(step)

    def retire_freed(self) -> None:
        """Look at every step that lost its lease since the last look."""
        freed = self._books.freed
        while freed:
            step = freed.pop()
            if step.lease is None and not step.queued:
                self.admission.retire(step)

    def enqueue_closures(self, run: Run) -> None:
        """The run's body is live: its open closures can be executed."""
        if run.stopping is not None:
            undo = ending.present_undo(run)
            if undo is not None:
                self.enqueue(undo)
            return
        for step in run.open_steps():
            if step.kind is StepKind.RUN:
                self.enqueue(step)

    def enqueue_open(self, run: Run) -> None:
        """Everything open of this run."""
        for step in run.open_steps():
            self.enqueue(step)

    def _arm(self, step: Step) -> None:
        assert step.retry_at_ms is not None
        if step.timer_ms != step.retry_at_ms:
            step.timer_ms = step.retry_at_ms
            self._books.timers.arm(self._books.due_mono(step.retry_at_ms), step)
            self.performer.consider(step.run)

    def _due(self, step: Step) -> bool:
        return (
            step.state is not StepState.BACKOFF
            or step.retry_at_ms is None
            or step.retry_at_ms <= self._books.now.unix_ms
        )


def _is_plain(step: Step) -> bool:
    """Whether it is a closure that never waited for anything but its plan, and may be executed if that is durable."""
    return (
        step.state is StepState.PENDING
        and step.kind is StepKind.RUN
        and step.row <= step.run.committed_seq
        and step.lease is None
        and not (step.queued or step.uncertain or step.scope.limits)
        and (step.particulars is None or step.undo_of is None)
    )
