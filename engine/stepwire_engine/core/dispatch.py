"""Who gets what: bodies, registered steps and closures to sessions with room (DESIGN 3 rule 5, MISSION P18, I17).

Dispatching is never journaled; it follows from plans. A step is in at most one queue at a time
(`step.queued`), and a queue entry whose step has moved on meanwhile is skipped when it is popped.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter
from typing import Protocol

from stepwire.protocol.frames import (
    Advance,
    BodyStart,
    Cancel,
    CancelReason,
    Execute,
    Purpose,
    Release,
    StepOutcome,
    UndoInput,
)
from stepwire.protocol.payload import NULL
from stepwire.protocol.plan import Call, Plan, StepKind
from stepwire_engine.core import ending
from stepwire_engine.core.admission import Admission
from stepwire_engine.core.books import Books
from stepwire_engine.core.counting import given_out
from stepwire_engine.core.deadlines import group_timeout
from stepwire_engine.core.entries import Released, RunState
from stepwire_engine.core.model import PERFORMED, Body, Lease, Run, Step, StepState
from stepwire_engine.core.reads import UndoOutputs
from stepwire_engine.core.sessions import Session


class Performer(Protocol):
    """Does the steps that the core performs itself."""

    def arm(self, step: Step) -> None:
        """The step's plan is committed, or its run is in memory again: wait for what ends it."""

    def consider(self, run: Run) -> None:
        """Something of the run waits for its time: the run may be able to do so on disk."""


class Dispatcher:
    """Queues of ready work and the choice of a session for each item.

    Attributes:
        performer: Takes the steps that no host executes.
        admission: Keeps steps within the limits of their groups.
        _forgotten: Runs in the queue of a flow's bodies that left memory.
        _unwanted: Steps in the queue of a name that nobody waits for.
    """

    performer: Performer

    def __init__(self, books: Books) -> None:
        self._books = books
        self._tasks: dict[str, deque[Step]] = {}
        self._bodies: dict[str, deque[Run]] = {}
        self._forgotten: Counter[str] = Counter()
        self._unwanted: Counter[str] = Counter()
        self.admission = Admission(self.enqueue)

    # ---- bodies

    def want_body(self, run: Run) -> None:
        """The run needs a host for its body."""
        if run.body is not None or run.body_wanted or run.uncertain or not needs_body(run):
            return
        if run.plan_row > run.committed_seq:
            return  # A snapshot needs the plans of the body before; their commit asks again.
        run.body_wanted = True
        self._bodies.setdefault(run.flow, deque()).append(run)
        self.pump_bodies(run.flow)

    def forget(self, run: Run) -> None:
        """The run leaves memory: the queue of bodies must not keep it there."""
        if not run.body_wanted:
            return
        run.body_wanted = False
        queue = self._bodies[run.flow]
        self._forgotten[run.flow] += 1
        if 2 * self._forgotten[run.flow] > len(queue):
            self._bodies[run.flow] = deque([waiting for waiting in queue if waiting.body_wanted])
            self._forgotten[run.flow] = 0

    def pump_bodies(self, flow: str) -> None:
        queue = self._bodies.get(flow)
        while queue:
            run = queue[0]
            if not run.body_wanted or not needs_body(run):
                run.body_wanted = False
                queue.popleft()
                continue
            taker = self.taker_of(flow)
            if taker is None:
                return
            queue.popleft()
            self._assign(run, taker)

    def taker_of(self, flow: str) -> Session | None:
        """The session that would get the next body of this flow."""
        takers = [s for s in self._books.sessions.values() if s.takes_bodies and flow in s.flows]
        return min(takers, key=lambda s: len(s.bodies), default=None)

    def _assign(self, run: Run, session: Session) -> None:
        body = session.take_body(run, self._books.next_fence())
        if run.seq == 1 and run.committed_seq == 1 and run.stats.body_entries == 0:
            self.enter_body(run, body, [], hold=False)
        else:
            self._books.loads.append(run)

    def enter_body(self, run: Run, body: Body, entries: list[Plan | Release], *, hold: bool) -> None:
        """Send the snapshot that makes the host enter the body."""
        session = self._books.sessions[body.session_id]
        body.ready = True
        body.hold = hold
        body.last_release = _last_release(entries)
        run.stats.body_entries += 1
        self._books.counters.body_entries += 1
        if entries:
            self._books.counters.live_body_misses += 1
        start = BodyStart(run.flow, run.input, run.seed, run.created_at_ms, run.traceparent)
        purpose = Purpose.UNDO if run.compensates else Purpose.RUN
        self._advance(run, session, Advance(body.fence, tuple(entries), start, hold, purpose=purpose))
        self.enqueue_closures(run)

    def catch_up(self, run: Run, body: Body, missed: list[Plan | Release]) -> None:
        """Send a resumed body the releases it missed."""
        body.ready = True
        if missed:
            body.last_release = _last_release(missed)
            self._advance(
                run, self._books.sessions[body.session_id], Advance(body.fence, tuple(missed), None, body.hold)
            )
        self.enqueue_closures(run)

    def release(self, run: Run, released: Released) -> None:
        """Hand a committed release to the live body; without one the next snapshot carries it."""
        body = run.body
        if body is None or not body.ready or released.release_seq <= body.last_release:
            for path in released.paths:
                held = run.steps.get(path)
                if held is not None:
                    held.outcome = None
            return
        outcomes: list[StepOutcome] = []
        for path in released.paths:
            step = run.steps.get(path)
            if step is None:
                group = run.groups[path]
                outcomes.append(StepOutcome(path, None, group_timeout(path, group.opened.deadline)))
                continue
            ended = step.outcome
            step.outcome = None
            assert ended is not None
            took_ms = ended.at_ms - step.planned_ms if ended.at_ms > step.planned_ms else 0
            if ended.failure is not None:
                outcomes.append(StepOutcome(path, None, ended.failure, False, ended.attempt, took_ms))
            elif step.produced_by == body.fence:
                outcomes.append(StepOutcome(path, None, None, True, ended.attempt, took_ms))
            else:
                outcomes.append(StepOutcome(path, ended.output, None, False, ended.attempt, took_ms))
        body.last_release = released.release_seq
        self._books.counters.live_body_hits += 1
        release = Release(released.release_seq, released.at_ms, tuple(outcomes))
        self._advance(run, self._books.sessions[body.session_id], Advance(body.fence, (release,), None, body.hold))

    def _advance(self, run: Run, session: Session, advance: Advance) -> None:
        run.stats.advances += 1
        self._books.counters.advances += 1
        session.advance(run.run_id, advance)
        self._books.speaking[session.id] = session

    # ---- steps

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
                self.pump_closures(session)
                waiting = False
            self.enqueue(step)
        if session is not None and waiting:
            self.pump_closures(session)

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
            step.queued = True
            self._tasks.setdefault(step.name, deque()).append(step)
            self.pump_tasks(step.name)
        else:
            assert run.body is not None
            step.queued = True
            session = self._books.sessions[run.body.session_id]
            session.closures.append(step)
            self.pump_closures(session)

    def _body_ready(self, run: Run) -> bool:
        """Whether closures can be executed; their body is asked for where nobody else does."""
        if run.body is not None:
            return run.body.ready
        if run.stopping is not None or run.asleep:
            run.asleep = False
            self.want_body(run)
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
            self.cancel(lease, reason)
        for step in steps:
            if step.queued:
                self._unqueue(step)
            if step.lease is None:
                self.admission.retire(step)

    def _unqueue(self, step: Step) -> None:
        """Steps that nobody may ever ask for must not stay in memory until somebody does."""
        step.queued = False
        queue = self._tasks.get(step.name)
        if step.kind is StepKind.RUN or queue is None:
            return
        self._unwanted[step.name] += 1
        if 2 * self._unwanted[step.name] > len(queue):
            self._unwanted[step.name] = 0
            self._tasks[step.name] = deque([waiting for waiting in queue if waiting.queued])
            self.pump_tasks(step.name)

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

    def pump_tasks(self, name: str) -> None:
        queue = self._tasks.get(name)
        aside: list[Step] = []
        while queue:
            if not _still_ready(queue[0]):
                queue.popleft()
                continue
            session = self._roomiest(queue[0])
            if session is not None:
                self._execute(session, [queue.popleft()])
            elif not aside and (session := self._soonest(queue[0])) is not None:
                self._execute(session, [queue.popleft()], ahead=True)
            elif self._suspect(queue[0]):
                aside.append(queue.popleft())
            else:
                break
        if aside:
            self._tasks[name].extendleft(reversed(aside))
        elif not queue:
            self._tasks.pop(name, None)

    def pump_closures(self, session: Session) -> None:
        closures = session.closures
        aside: list[Step] = []
        while closures and (room := session.free_slots) > 0:
            taken: list[Step] = []
            suspected = False
            while closures and len(taken) < room:
                step = closures.popleft()
                if not _still_ready(step):
                    continue
                if step.lost_on and self._suspect(step):
                    if suspected or session.executes_suspect:
                        aside.append(step)
                        continue
                    suspected = True
                step.queued = False
                taken.append(step)
            if taken:
                self._execute(session, taken)
        if aside:
            closures.extendleft(reversed(aside))

    def _suspect(self, step: Step) -> bool:
        """Whether the step has lost so many hosts that it may be what kills them."""
        return len(step.lost_on) >= self._books.config.suspect_after

    def pump(self, session: Session) -> None:
        """The session has room: give it what waits."""
        room = session.free_slots
        if room > 0 and session.closures:
            self.pump_closures(session)
        if self._tasks and (room > 0 or session.room_ahead(self._books.config.ahead_pace) > 0):
            for name in [n for n in self._tasks if n in session.steps]:
                self.pump_tasks(name)
        if any(self._bodies.values()) and session.takes_bodies:
            for flow in [f for f, queue in self._bodies.items() if queue and f in session.flows]:
                self.pump_bodies(flow)

    def has_room_for(self, step: Step) -> bool:
        """Whether a session has a slot for this step, which is ready."""
        if step.kind is not StepKind.RUN:
            return self._roomiest(step) is not None
        body = step.run.body
        session = None if body is None else self._books.sessions[body.session_id]
        return session is not None and session.free_slots > 0 and not (self._suspect(step) and session.executes_suspect)

    def _roomiest(self, step: Step) -> Session | None:
        best: Session | None = None
        room = 0
        alone = self._suspect(step)
        for session in self._books.sessions.values():
            if step.name in session.steps and session.free_slots > room and not (alone and session.executes_suspect):
                best, room = session, session.free_slots
        return best

    def _soonest(self, step: Step) -> Session | None:
        """The session without a free slot that will soon have one for this step, and lets it wait for that."""
        if not _goes_ahead(step):
            return None
        pace_max = self._books.config.ahead_pace
        best: Session | None = None
        room = 0
        for session in self._books.sessions.values():
            if step.name in session.steps:
                found = session.room_ahead(pace_max)
                if found > room and not self._is_wanted(session):
                    best, room = session, found
        return best

    def _is_wanted(self, session: Session) -> bool:
        """Whether its next free slot is for a step that may not go ahead: those that may must not keep it away."""
        return any([n in session.steps and q and not _goes_ahead(q[0]) for n, q in self._tasks.items()])

    def _execute(self, session: Session, steps: list[Step], *, ahead: bool = False) -> None:
        """Give these steps to a host that has a slot for each; for every run at once what is the same for its steps.

        Args:
            ahead: It has none: they wait there for a moment.
        """
        books = self._books
        mono = books.now.mono
        for run, group in groupby(steps, _RUN):
            own = list(group)
            leases = session.hold_all(run, own, books.next_fences(len(own)), mono)
            for lease in leases:
                if ahead:
                    lease.ahead = True
                step = lease.step
                step.queued = False
                if step.timeout:
                    books.timers.arm(mono + step.timeout + books.config.timeout_grace, lease)
                if step.lost_on and self._suspect(step):
                    session.suspects.add(step)
            run.stats.executes += len(own)
            session.execute(run.run_id, [_execute(lease) for lease in leases], leases)
        books.counters.executes += len(steps)
        given_out(books.counters, steps, books.now.unix_ms)
        books.speak(session)

    def cancel(self, lease: Lease, reason: CancelReason) -> None:
        """Tell the host to stop an attempt. It stays leased until its result arrives, so its slot stays used."""
        session = self._books.sessions.get(lease.session_id)
        if session is None or lease.cancelled is not None:
            return
        lease.cancelled = reason
        self._books.counters.cancels_sent[reason.name.lower()] += 1
        session.cancel(lease.step.run.run_id, Cancel(lease.step.path, lease.fence, reason))
        self._books.speak(session)


_RUN = attrgetter("run")


def _execute(lease: Lease) -> Execute:
    step = lease.step
    run = step.run
    call: Call | None = None
    undo: UndoInput | None = None
    traceparent = run.traceparent
    particulars = step.particulars
    if particulars is not None:
        traceparent = step.traceparent
        if isinstance(particulars.spec, Call):
            call = particulars.spec
        if particulars.undo_of is not None:
            undo = UndoInput(particulars.output or NULL, ending.failure_of(run))
    return Execute(
        step.path,
        step.attempt,
        lease.fence,
        step.kind,
        step.name,
        step.input,
        step.timeout or None,
        run.flow,
        call,
        undo,
        traceparent,
    )


def _last_release(entries: list[Plan | Release]) -> int:
    return max((entry.release_seq for entry in entries if isinstance(entry, Release)), default=0)


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


def _goes_ahead(step: Step) -> bool:
    """Whether it may wait in a host for a slot: it takes no place of others, and has killed no host."""
    return not (step.lost_on or step.scope.limits)


def _still_ready(step: Step) -> bool:
    """Whether a queued step still needs its attempt; if not, it is in no queue any more."""
    run = step.run
    if step.queued and not step.state.final and step.lease is None and not run.broken and run.state is RunState.RUNNING:
        return True
    step.queued = False
    return False


def needs_body(run: Run) -> bool:
    """Whether some host must hold the body: to decide, or for a compensation that is one of its closures."""
    if run.broken or run.asleep or run.state not in (RunState.PENDING, RunState.RUNNING):
        return False
    if run.stopping is None:
        return run.body_ended is None
    undo = ending.present_undo(run) if run.compensates else None
    return undo is not None and undo.kind is StepKind.RUN
