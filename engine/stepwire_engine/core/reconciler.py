"""Looks all the time whether every open run has exactly one owner, and gives one back to those that do not.

It goes round in small portions, so that its cost does not depend on how many runs there are. Whatever it finds is a
defect of the engine: it is counted, told to the shell for its log, and put right by what recovery uses. It never
decides anything about a run that has an owner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from stepwire.protocol.frames import CancelReason
from stepwire_engine.core import deadlines, ending
from stepwire_engine.core.books import Books, Repair
from stepwire_engine.core.deadlines import step_due_ms
from stepwire_engine.core.decisions import Decisions
from stepwire_engine.core.dispatch import Dispatcher
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.liveness import Liveness
from stepwire_engine.core.model import PERFORMED, Lease, Run, Step
from stepwire_engine.core.owners import LATE_MS, Missing, Owner, Owners
from stepwire_engine.core.performed import Performed
from stepwire_engine.core.reads import DormantFound, DormantPage, OpenPage, Read, UndoOutputs
from stepwire_engine.core.sessions import Session
from stepwire_engine.core.turn import Turn
from stepwire_engine.core.units import RunRecord

PAUSE = 0.25
"""Seconds between two portions."""
OPEN_AT_ONCE = 1_000
"""Records of open runs that are compared with memory by one question to the store."""
DORMANT_AT_ONCE = 50
"""Dormant runs whose journals are looked at by one question to the store."""
_CHUNK = 256
"""Steps of one run that are looked at before others have their turn."""


class Reconciler:
    """Goes round."""

    def __init__(
        self, books: Books, dispatcher: Dispatcher, decisions: Decisions, liveness: Liveness, performed: Performed
    ) -> None:
        self._books = books
        self._dispatcher = dispatcher
        self._decisions = decisions
        self._liveness = liveness
        self._performed = performed
        self.owners = Owners(books, dispatcher, liveness, performed.looks_back)
        self._round: Iterator[int] = iter(())
        self._round_at = books.now.mono + books.config.reconcile_interval
        self._portion_at = books.now.mono
        self._page = ""
        self._dormant_asked = False
        self._open_page = ""
        self._open_asked = False
        self._lost: set[int] = set()
        """Runs that were not in memory when the store was asked for those that belong there."""

    def tick(self) -> None:
        """Look at the next portion, if it is time."""
        now = self._books.now.mono
        self.owners.note_clock()
        if now < self._portion_at:
            return
        self._portion_at = now + PAUSE
        self.owners.begin()
        left = self._books.config.reconcile_portion
        while left > 0:
            cost = next(self._round, None)
            if cost is not None:
                left -= cost
            elif now < self._round_at:
                return
            else:
                self._round_at = now + self._books.config.reconcile_interval
                self._round = self._go_round()

    def unowned(self) -> list[Repair]:
        """Everything that would be repaired at this moment; for tests that look at all runs at once."""
        self.owners.begin()
        found: list[Repair] = []
        for run in list(self._runs()):
            if run.state.terminal:
                continue
            missing = self.owners.of_run(run)
            if _is_defect(missing):
                found.append(Repair(run.run_id, "", missing.value))
            late = self.owners.late_groups(run)
            found += [Repair(run.run_id, group.path, which.value) for group, which in late if _is_defect(which)]
            steps = [] if run.broken else list(run.open_steps())
            owners = [(step.path, self.owners.of_step(step)) for step in steps]
            found += [Repair(run.run_id, path, owner.value) for path, owner in owners if _is_defect(owner)]
        for session in self._books.sessions.values():
            strays = [lease for lease in session.leases.values() if _is_stray(session, lease)]
            found += [Repair(lease.step.run.run_id, lease.step.path, Missing.SLOT.value) for lease in strays]
        return found

    # ---- the round

    def _runs(self) -> Iterator[Run]:
        yield from self._books.by_number.values()
        yield from self._books.broken.values()
        yield from self._performed.waking()

    def _go_round(self) -> Iterator[int]:
        """Looks at everything once; what it yields is how much it has looked at since."""
        # A copy of the references: a millisecond for 100,000 runs, and nothing in between can upset it.
        for run in list(self._runs()):
            yield 1
            if not run.state.terminal and not run.gone:
                self._look_at_run(run)
                yield from self._look_at_steps(run)
        for session in list(self._books.sessions.values()):
            yield from self._look_at_session(session)
        self._look_at_store()

    def _look_at_run(self, run: Run) -> None:
        owner = self.owners.of_run(run)
        if isinstance(owner, Missing):
            self._note(run, "", owner)
            self._guarded(run, lambda: self._mend_run(run, owner))
        for group, missing in self.owners.late_groups(run) if run.groups else ():
            self._note(run, group.path, missing)
            self._decisions.alone(run, partial(deadlines.expire_group, group=group))

    def _look_at_steps(self, run: Run) -> Iterator[int]:
        seen = 0
        while not (run.broken or run.state.terminal):
            steps = list(islice(run.steps.values(), seen, seen + _CHUNK))
            if not steps:
                return
            seen += len(steps)
            looked = 0
            for step in steps:
                if step.admitted and self.owners.wastes_place(step):
                    self._note(run, step.path, Missing.PLACE)
                    self._dispatcher.admission.retire(step)
                if not step.state.final:
                    looked += 1
                    self._look_at_step(step)
            yield looked + (len(steps) - looked) // 8

    def _look_at_step(self, step: Step) -> None:
        owner = self.owners.of_step(step)
        if isinstance(owner, Missing):
            self._note(step.run, step.path, owner)
            self._guarded(step.run, lambda: self._mend_step(step, owner))

    def _look_at_session(self, session: Session) -> Iterator[int]:
        leases = list(session.leases.values())
        for start in range(0, len(leases), _CHUNK):
            for lease in leases[start : start + _CHUNK]:
                if _is_stray(session, lease):
                    self._note(lease.step.run, lease.step.path, Missing.SLOT)
                    self._dispatcher.slots.cancel(lease, CancelReason.LEASE_LOST)
            yield _CHUNK // 4
        bodies = list(session.bodies.values())
        for start in range(0, len(bodies), _CHUNK):
            for run in bodies[start : start + _CHUNK]:
                self._look_at_body(session, run)
            yield _CHUNK // 4

    def _look_at_body(self, session: Session, run: Run) -> None:
        forgotten = run.body is None or run.body.session_id != session.id
        if forgotten and session.bodies.get(run.number) is run:
            self._note(run, "", Missing.SLOT)
            session.drop_body(run)
            self._dispatcher.slots.pump(session)

    def _note(self, run: Run, path: str, missing: Missing) -> None:
        if missing is Missing.CLOCK:
            self._books.counters.reconciled[missing.value] += 1
        else:
            self._books.note_repair(run.run_id, path, missing.value)

    def _guarded(self, run: Run, mend: Callable[[], None]) -> None:
        try:
            mend()
        except Exception as error:
            self._decisions.quarantine(run, error)

    # ---- putting right

    def _mend_run(self, run: Run, missing: Missing) -> None:
        match missing:
            case Missing.READ:
                self._books.loads.append(run)
            case Missing.ADOPTION:
                run.waking = False
                self._liveness.dispatch_unclaimed(run)
            case Missing.ENDING:
                self._decisions.alone(run, _nothing)
            case Missing.TIMER | Missing.CLOCK:
                late = ending.expire if run.stopping is None else ending.stop_waiting
                self._decisions.alone(run, late)
            case Missing.TWO:
                run.body_wanted = False  # Whatever queue it is in passes it over.
            case Missing.QUEUE:
                self._dispatcher.bodies.place(run.flow)
                if self._dispatcher.bodies.taker_of(run.flow) is not None:
                    self._want_again(run)  # It was not in the queue.
            case Missing.BODY_HOLDER:
                self._let_body_go(run)
                self._want_again(run)
            case _:
                self._want_again(run)

    def _want_again(self, run: Run) -> None:
        if run.body is None:
            run.body_wanted = run.asleep = False
            self._dispatcher.bodies.want(run)

    def _let_body_go(self, run: Run) -> None:
        assert run.body is not None
        session = self._books.sessions.get(run.body.session_id)
        if session is not None:
            session.drop_body(run)
        run.body = None

    def _mend_step(self, step: Step, missing: Missing) -> None:
        run = step.run
        match missing:
            case Missing.TIMER | Missing.CLOCK:
                self._be_due(step)
                return
            case Missing.READ:
                self._books.read(UndoOutputs(run))
                return
            case Missing.LEASE:
                self._let_lease_go(step)
            case Missing.QUEUE:
                self._dispatcher.slots.look_again(step)
                if self._dispatcher.slots.has_room_for(step):
                    step.queued = False  # It was not in the queue.
            case Missing.TWO if step.lease is None:
                step.waits_for_group = False
            case Missing.TWO:
                step.queued = False
            case Missing.PLACE:
                step.waits_for_group = False
            case Missing.ADOPTION:
                step.uncertain = False
            case _:
                pass
        self._dispatcher.enqueue(step)

    def _let_lease_go(self, step: Step) -> None:
        assert step.lease is not None
        session = self._books.sessions.get(step.lease.session_id)
        if session is not None and session.leases.get((step.run.run_id, step.path)) is step.lease:
            session.drop(step.lease)
        step.lease = None

    def _be_due(self, step: Step) -> None:
        """A timer of this step was lost: of its deadline, of its attempt's timeout, or of what it waits for."""
        run, now_ms = step.run, self._books.now.unix_ms
        deadline_ms = step_due_ms(step)
        if run.stopping is None and deadline_ms is not None and deadline_ms + LATE_MS < now_ms:
            self._decisions.alone(run, partial(deadlines.expire_steps, steps=[step]))
        elif step.lease is not None:
            self._dispatcher.slots.cancel(step.lease, CancelReason.TIMEOUT)
        else:
            step.timer_ms = None
            self._dispatcher.enqueue(step)
            due_ms = deadlines.goes_on_ms(step)
            if step.kind in PERFORMED and due_ms is not None and due_ms <= now_ms:
                self._performed.due(step)

    # ---- on disk

    def _look_at_store(self) -> None:
        if not self._dormant_asked:
            self._dormant_asked = True
            self._books.read(DormantPage(self._page, self._books.now.unix_ms - LATE_MS, DORMANT_AT_ONCE))
        if not self._open_asked:
            self._open_asked = True
            self._books.read(OpenPage(self._open_page, OPEN_AT_ONCE))

    def answer(self, read: Read, answer: Any) -> bool:
        """The shell read something. False: it was no question of this module."""
        match read:
            case DormantPage():
                self._dormant(answer)
            case OpenPage():
                self._open(answer)
            case _:
                return False
        return True

    def _open(self, answer: tuple[Sequence[RunRecord], str]) -> None:
        """One page of the runs that belong into memory. One that is not there the second time has been lost."""
        self._open_asked = False
        records, self._open_page = answer
        missing = {record.number: record for record in records if record.number not in self._books.by_number}
        for number in missing.keys() & self._lost:
            self._performed.wake_if_forgotten(missing[number], Missing.MEMORY.value)
        seen = {record.number for record in records}
        self._lost = (self._lost - seen) | (missing.keys() - self._lost)

    def _dormant(self, answer: DormantFound) -> None:
        """One page of the dormant runs was looked at."""
        self._dormant_asked = False
        self._page = answer.next_page
        for record, invoked in answer.forgotten:
            self._performed.wake_if_forgotten(record, Missing.DORMANT.value, invoked)


def _is_defect(owner: Owner | Missing) -> bool:
    return isinstance(owner, Missing) and owner is not Missing.CLOCK


def _is_stray(session: Session, lease: Lease) -> bool:
    """Whether this session still counts an attempt that is nobody's any more, and that nobody told it to stop."""
    step, run = lease.step, lease.step.run
    if lease.cancelled is not None or run.in_flight or run.state is RunState.PAUSED:
        return False
    if session.leases.get((run.run_id, step.path)) is not lease:
        return False
    return step.lease is not lease or step.state.final or run.state.terminal or run.broken


def _nothing(turn: Turn) -> None:
    """The end of every turn does what is due."""
