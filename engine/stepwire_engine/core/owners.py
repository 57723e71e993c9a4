"""Who sees to it that a run goes on: every open run, and every open step, has exactly one owner.

The owner of a step is a queue, a lease, a timer, an event that is waited for, a child, or a read on its way; of a run
it is its live body, its wish for one, its open steps, or a commit or read on its way. This module looks and changes
nothing; what becomes of a run or step that has none, or two, is `reconciler.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from stepwire.protocol.plan import StepKind, WaitEvent
from stepwire_engine.core import ending
from stepwire_engine.core.bodies import needs_body
from stepwire_engine.core.books import Books
from stepwire_engine.core.deadlines import goes_on_ms, group_due_ms, step_due_ms
from stepwire_engine.core.dispatch import Dispatcher
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.model import PERFORMED, Group, Lease, Run, RunPhase, Step, StepState
from stepwire_engine.core.performed import NOT_COMMITTED
from stepwire_engine.core.reads import UndoOutputs

LATE_MS = 1_000
"""What was due this long ago and has not happened was forgotten; timers are late by one tick at most."""


class Owner(enum.Enum):
    """Who makes a run or step go on."""

    COMMIT = "commit"
    READ = "read"
    ADOPTION = "adoption"
    PAUSED = "paused"
    BODY = "body"
    BODY_QUEUE = "body_queue"
    STEPS = "steps"
    ATTEMPTS = "attempts"
    QUEUE = "queue"
    LEASE = "lease"
    TIMER = "timer"
    EVENT = "event"
    CHILD = "child"
    GROUP_LIMIT = "group_limit"
    OTHER_UNDO = "other_undo"
    RUN = "run"
    """The step goes on with its run."""


class Missing(enum.StrEnum):
    """What is missing where there is no owner, or what is too much; the values are labels of a metric."""

    BODY = "body"
    """The run needs its body, and nobody looks for a host."""
    BODY_HOLDER = "body_holder"
    """The session that is to have the body does not have it."""
    READ = "read"
    """A journal is waited for that nobody reads."""
    ADOPTION = "adoption"
    """It waits for hosts that nobody awaits."""
    ENDING = "ending"
    """It stops or has ended, and nobody goes on with that."""
    TIMER = "timer"
    """Something that was due did not happen, or was never armed."""
    CLOCK = "clock"
    """It is late because somebody set the wall clock forward after its timer was armed: no defect."""
    LEASE = "lease"
    """The session that is to execute the step does not."""
    QUEUE = "queue"
    """It is said to be in a queue, and a host with room does not get it."""
    PLACE = "place"
    """It waits for a place in its group where there is one, or keeps one that it does not use."""
    CHILD = "child"
    """It waits for a run that was never asked for."""
    STEP = "step"
    """It could be executed, and is in no queue."""
    TWO = "two"
    """It has two owners."""
    SLOT = "slot"
    """A session has an attempt or a body in its books that is not its own any more."""
    MEMORY = "memory"
    """A run that belongs into memory and is not there."""
    DORMANT = "dormant"
    """A run on disk that neither time nor an event nor another run would wake."""


class Awaiting(Protocol):
    """Who knows what hosts are awaited for."""

    def awaits(self, run: Run) -> bool:
        """Whether hosts may still come and adopt what they have of this run."""


class Owners:
    """Finds the owner of runs in memory and of their open steps.

    Args:
        looks_back: Whether past events are being read for a step.
    """

    def __init__(
        self, books: Books, dispatcher: Dispatcher, awaiting: Awaiting, looks_back: Callable[[Step], bool]
    ) -> None:
        self._books = books
        self._dispatcher = dispatcher
        self._awaiting = awaiting
        self._looks_back = looks_back
        self._loads: set[Run] = set()
        self._behind = False
        """The next tick brings what is late."""
        self._offset_ms = books.now.unix_ms - round(books.now.mono * 1000)
        """The wall clock, less the monotonic one, where it was most behind: timers run on the monotonic clock."""

    def begin(self) -> None:
        """Call it before a series of questions between which nothing happens."""
        self._loads = set(self._books.loads)
        due = self._books.timers.next_due()
        now = self._books.now
        self._behind = due is not None and due <= now.mono
        self.note_clock()

    def note_clock(self) -> None:
        """Call it with every tick: timers may also be armed while the wall clock is behind for a moment."""
        now = self._books.now
        self._offset_ms = min(self._offset_ms, now.unix_ms - round(now.mono * 1000))

    # ---- runs

    def of_run(self, run: Run) -> Owner | Missing:
        """The owner of a run that is in memory or on its way there, and has not ended."""
        if run.in_flight:
            return Owner.COMMIT
        if run.broken:
            return Owner.READ if self._is_read(run) else Missing.READ
        if run.state is RunState.PAUSED:
            return Owner.PAUSED
        if run.uncertain:
            return Owner.ADOPTION if self._awaiting.awaits(run) else Missing.ADOPTION
        if run.stopping is not None and run.phase is RunPhase.CANCELLING:
            return self._of_stopping(run)
        if run.stopping is not None and ending.present_undo(run) is None:
            return Missing.ENDING
        if run.stopping is None and run.body_ended is not None:
            return Missing.ENDING
        if run.stopping is None and self._is_late(run.deadline_ms):
            return self._late(run.deadline_ms)
        return self._of_body(run)

    def late_groups(self, run: Run) -> list[tuple[Group, Missing]]:
        """Open groups whose deadline passed without anything having happened."""
        if run.in_flight or run.broken or run.uncertain or run.stopping is not None or run.body_ended is not None:
            return []
        found: list[tuple[Group, Missing]] = []
        for group in run.groups.values():
            due_ms = None if group.opened.deadline is None else group_due_ms(group)
            if due_ms is not None and group.closing:
                if group.close_by + LATE_MS / 1000 < self._books.now.mono and not self._behind:
                    found.append((group, Missing.TIMER))
            elif self._is_late(due_ms):
                found.append((group, self._late(due_ms)))
        return found

    def _of_stopping(self, run: Run) -> Owner | Missing:
        if not (run.leased and run.stop_waits):
            return Missing.ENDING
        late = run.stop_due is not None and run.stop_due + LATE_MS / 1000 < self._books.now.mono
        return Missing.TIMER if late else Owner.ATTEMPTS

    def _of_body(self, run: Run) -> Owner | Missing:
        body = run.body
        if body is not None:
            session = self._books.sessions.get(body.session_id)
            if session is None or session.bodies.get(run.number) is not run:
                return Missing.BODY_HOLDER
            if run.body_wanted:
                return Missing.TWO
            if body.ready:
                return Owner.BODY
            return Owner.READ if self._is_read(run) else Missing.READ
        if run.body_wanted:
            return Missing.QUEUE if self._dispatcher.bodies.taker_of(run.flow) is not None else Owner.BODY_QUEUE
        if needs_body(run):
            return Missing.BODY
        return Owner.STEPS if run.open else Missing.BODY

    def _is_read(self, run: Run) -> bool:
        return run in self._books.loading or run in self._loads

    # ---- steps

    def of_step(self, step: Step) -> Owner | Missing:
        """The owner of an open step of a run in memory."""
        run = step.run
        if run.in_flight:
            return Owner.COMMIT
        if run.stopping is None and run.state is RunState.RUNNING and self._is_late(step_due_ms(step)):
            return self._late(step_due_ms(step))
        if step.lease is not None:
            return self._of_lease(step, step.lease)
        if run.broken or run.uncertain or run.state is not RunState.RUNNING:
            return Owner.RUN
        if step.uncertain:
            return Missing.ADOPTION
        if step.undo_of is not None and ending.present_undo(run) is not step:
            return Owner.OTHER_UNDO
        if step.kind in PERFORMED:
            return self._of_performed(step)
        early = step.state is StepState.BACKOFF and (step.retry_at_ms or 0) > self._books.now.unix_ms
        armed = step.timer_ms == step.retry_at_ms
        if early and (armed or not self._waits_for_more(step)):
            return Owner.TIMER if armed else Missing.TIMER
        return self._of_ready(step)

    def _of_lease(self, step: Step, lease: Lease) -> Owner | Missing:
        session = self._books.sessions.get(lease.session_id)
        if session is None or session.leases.get((step.run.run_id, step.path)) is not lease:
            return Missing.LEASE
        if step.queued:
            return Missing.TWO
        if step.timeout and lease.cancelled is None:
            config = self._books.config
            until = lease.since + step.timeout + config.timeout_grace + LATE_MS / 1000
            if until < self._books.now.mono:
                return Missing.TIMER
        return Owner.LEASE

    def _of_performed(self, step: Step) -> Owner | Missing:
        if self._looks_back(step):
            return Owner.READ
        due_ms = goes_on_ms(step)
        if step.state is StepState.BACKOFF and not self._is_past(due_ms):
            return Owner.TIMER if step.timer_ms == due_ms else Missing.TIMER
        particulars = step.particulars
        assert particulars is not None
        if step.kind is StepKind.INVOKE:
            return Owner.CHILD if particulars.child else Missing.CHILD
        if isinstance(step.spec, WaitEvent) and (due_ms is None or not self._is_past(due_ms)):
            armed = particulars.asked != NOT_COMMITTED and step.timer_ms == due_ms
            return Owner.EVENT if armed else Missing.TIMER
        if due_ms is None:
            return Missing.STEP
        return Owner.TIMER if step.timer_ms == due_ms and not self._is_late(due_ms) else self._late(due_ms)

    def _waits_for_more(self, step: Step) -> bool:
        """Whether its time had come already, before somebody set the clock back, and something else was missing."""
        body = step.run.body
        return step.queued or step.waits_for_group or (step.kind is StepKind.RUN and (body is None or not body.ready))

    def _of_ready(self, step: Step) -> Owner | Missing:
        """Of a step that nothing but a place, a slot or its body keeps from being executed."""
        run = step.run
        if step.state is StepState.BACKOFF and step.timer_ms is not None and step.timer_ms == step.retry_at_ms:
            return self._late(step.retry_at_ms) if self._is_late(step.retry_at_ms) else Owner.TIMER
        if step.waits_for_group:
            full = any([group.executing >= group.opened.limit for group in step.scope.limits])
            return Missing.TWO if step.queued else Owner.GROUP_LIMIT if full else Missing.PLACE
        if step.queued:
            return Missing.QUEUE if self._dispatcher.slots.has_room_for(step) else Owner.QUEUE
        if step.kind is StepKind.RUN and (run.body is None or not run.body.ready):
            return Owner.RUN
        if step.undo_of is not None and step.particulars is not None and step.particulars.output is None:
            asked = UndoOutputs(run)
            return Owner.READ if asked in self._books.reading or asked in self._books.reads else Missing.READ
        return Missing.STEP

    def wastes_place(self, step: Step) -> bool:
        """Whether a step keeps its places in its groups without being executed or about to be."""
        run = step.run
        idle = step.admitted and step.lease is None and not step.queued
        return idle and not run.in_flight and run.state is RunState.RUNNING and not run.broken

    # ---- time

    def _is_past(self, due_ms: int | None) -> bool:
        return due_ms is not None and due_ms <= self._books.now.unix_ms

    def _is_late(self, due_ms: int | None) -> bool:
        return due_ms is not None and due_ms + LATE_MS < self._books.now.unix_ms and not self._behind

    def _late(self, due_ms: int | None) -> Missing:
        """Whose fault it is that something late has not happened."""
        if due_ms is None or due_ms + LATE_MS < self._offset_ms + self._books.now.mono * 1000:
            return Missing.TIMER
        return Missing.CLOCK
