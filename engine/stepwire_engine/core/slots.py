"""Who gets the free slots of hosts: registered steps and closures that are ready (DESIGN 3 rule 5, MISSION P18, I17).

Registered steps wait by name, and closures in the session of their body. Whoever waits for the same slot takes turns:
closures with registered steps, and among these one name with the other. A step is in at most one queue at a time
(`step.queued`), and one that has moved on meanwhile is skipped when its turn comes. This module must not decide whether
a step is ready, nor what becomes of it.
"""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter

from stepwire.protocol.frames import Cancel, CancelReason, Execute, UndoInput
from stepwire.protocol.payload import NULL
from stepwire.protocol.plan import Call, StepKind
from stepwire_engine.core import ending
from stepwire_engine.core.bodies import Bodies
from stepwire_engine.core.books import Books
from stepwire_engine.core.counting import given_out
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.model import Lease, Step
from stepwire_engine.core.sessions import Session
from stepwire_engine.core.turns import Turns

Lane = tuple[str, bool]
"""A queue of registered steps: their name, and whether each of them may be what kills hosts.

Those wait by themselves, because a host executes only one of them at a time: they keep nobody else waiting, and keep
their own turn until some host may have one.
"""


class Slots:
    """Queues of ready steps and the choice of a session for each.

    Args:
        bodies: Wait for room of the same hosts, though not for slots.
    """

    def __init__(self, books: Books, bodies: Bodies) -> None:
        self._books = books
        self._bodies = bodies
        self._tasks: Turns[Lane, Step] = Turns(_still_ready)

    def add(self, step: Step) -> None:
        """A registered step is ready."""
        session = None if self._tasks.queues else self._roomiest(step)
        if session is not None and not session.closures:
            self._execute(session, [step])  # Nobody else waits.
            return
        step.queued = True
        lane = self._lane(step)
        if self._tasks.add(lane, step):  # Where others wait already there is no room.
            self._pump_lane(lane)

    def withdraw(self, step: Step) -> None:
        """A step that waits here is not to be executed any more."""
        step.queued = False
        if step.kind is not StepKind.RUN:
            self._tasks.give_up(self._lane(step))

    # ---- turns

    def pump(self, session: Session) -> None:
        """The session may have room: give it what waits."""
        if self._tasks.queues and self._is_awaited(session):
            self._fill(session)
            self._fill_ahead(session)
        elif session.closures:
            self.pump_closures(session)
        self._bodies.pump(session)

    def pump_closures(self, session: Session) -> None:
        """Closures wait for slots of this session: they have them all, if nobody else waits for them."""
        if self._tasks.queues and self._is_awaited(session):
            self._fill(session)
            return
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

    def look_again(self, step: Step) -> None:
        """Perhaps a host has room for this step, which is ready: then somebody whose turn it is gets it."""
        if step.kind is not StepKind.RUN:
            self._pump_lane(self._lane(step))
        elif step.run.body is not None:
            self.pump_closures(self._books.sessions[step.run.body.session_id])

    def _pump_lane(self, lane: Lane) -> None:
        """Perhaps a host has room for its first step; others that wait for that room may come first."""
        while (step := self._tasks.head(lane)) is not None:
            if (session := self._roomiest(step)) is not None:
                self._fill(session)
            elif (session := self._soonest(step)) is not None:
                self._fill_ahead(session)
            else:
                return

    def _is_awaited(self, session: Session) -> bool:
        """Whether registered steps wait that it serves."""
        return any([name in session.steps for name, _ in self._tasks.queues])

    def _fill(self, session: Session) -> None:
        """Closures and registered steps take turns at its free slots, and so do the names of registered steps."""
        room = session.free_slots
        given: list[Step] = []
        suspected = room > 0 and session.executes_suspect
        while len(given) < room and (step := self._next(session, suspected=suspected)) is not None:
            step.queued = False
            given.append(step)
            if step.lost_on and self._suspect(step):
                suspected = True
        if given:
            self._execute(session, given)

    def _next(self, session: Session, *, suspected: bool) -> Step | None:
        """Take what gets its next slot. `suspected`: it must be given no suspect."""
        if not session.closure_last and (step := self._next_closure(session, suspected=suspected)) is not None:
            session.closure_last = True
            return step
        session.closure_last = False
        return self._next_task(session, suspected=suspected) or self._next_closure(session, suspected=suspected)

    def _next_closure(self, session: Session, *, suspected: bool) -> Step | None:
        closures = session.closures
        aside: list[Step] = []
        found: Step | None = None
        while closures and found is None:
            step = closures.popleft()
            if _still_ready(step):
                if suspected and self._suspect(step):
                    aside.append(step)
                else:
                    found = step
        closures.extendleft(reversed(aside))
        return found

    def _next_task(self, session: Session, *, suspected: bool) -> Step | None:
        for lane in list(self._tasks.queues):
            if lane[0] in session.steps and (step := self._tasks.head(lane)) is not None:
                if not (suspected and self._suspect(step)):
                    return self._tasks.take(lane)
        return None

    def _fill_ahead(self, session: Session) -> None:
        """Steps that may wait in the host for a slot go there in turn, as many as it may have."""
        room = session.room_ahead(self._books.config.ahead_pace)
        given: list[Step] = []
        while len(given) < room and (lane := self._next_ahead(session)) is not None:
            step = self._tasks.take(lane)
            step.queued = False
            given.append(step)
        if given:
            self._execute(session, given, ahead=True)

    def _next_ahead(self, session: Session) -> Lane | None:
        """Whose turn it is to go ahead; nobody's if some step that may not waits for this host's next free slot.

        Otherwise those that may would keep it away.
        """
        first: Lane | None = None
        for lane in list(self._tasks.queues):
            if lane[0] in session.steps and (step := self._tasks.head(lane)) is not None:
                if not _goes_ahead(step):
                    return None
                first = first or lane
        return first

    # ---- the choice of a session

    def has_room_for(self, step: Step) -> bool:
        """Whether a session has a slot for this step, which is ready."""
        if step.kind is not StepKind.RUN:
            return self._roomiest(step) is not None
        body = step.run.body
        session = None if body is None else self._books.sessions[body.session_id]
        return session is not None and session.free_slots > 0 and not (self._suspect(step) and session.executes_suspect)

    def _roomiest(self, step: Step) -> Session | None:
        best: Session | None = None
        most = 0
        name, alone = step.name, step.lost_on and self._suspect(step)
        for session in self._books.sessions.values():
            if name in session.steps and (room := session.free_slots) > most:
                if not (alone and session.executes_suspect):
                    best, most = session, room
        return best

    def _soonest(self, step: Step) -> Session | None:
        """The session without a free slot that will soon have one for this step, and lets it wait for that."""
        if not _goes_ahead(step):
            return None
        pace_max = self._books.config.ahead_pace
        best: Session | None = None
        most = 0
        for session in self._books.sessions.values():
            if step.name in session.steps and (room := session.room_ahead(pace_max)) > most:
                if self._next_ahead(session) is not None:
                    best, most = session, room
        return best

    def _suspect(self, step: Step) -> bool:
        """Whether the step has lost so many hosts that it may be what kills them."""
        return len(step.lost_on) >= self._books.config.suspect_after

    def _lane(self, step: Step) -> Lane:
        return step.name, bool(step.lost_on) and self._suspect(step)

    # ---- giving out and taking back

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
