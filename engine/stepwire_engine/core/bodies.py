"""Which host holds the body of a run, and what that body is told (DESIGN 3 rules 2 and 4, MISSION I17).

Runs that need a body wait by flow, and flows take turns at the room of hosts. All that a body learns of its run are its
snapshot and then every committed release. This module must not give out attempts: a body that was entered or has caught
up may have closures to execute, and whoever calls `enter` or `catch_up` sees to them.
"""

from __future__ import annotations

from stepwire.protocol.frames import Advance, BodyStart, Purpose, Release, StepOutcome
from stepwire.protocol.plan import Plan, StepKind
from stepwire_engine.core import ending
from stepwire_engine.core.books import Books
from stepwire_engine.core.deadlines import group_timeout
from stepwire_engine.core.entries import Released, RunState
from stepwire_engine.core.model import Body, Run
from stepwire_engine.core.sessions import Session
from stepwire_engine.core.turns import Turns


class Bodies:
    """Runs that want a body, and the Advances of those that have one."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._wanted: Turns[str, Run] = Turns(_still_wanted)

    # ---- a host for it

    def want(self, run: Run) -> None:
        """The run needs a host for its body."""
        if run.body is not None or run.body_wanted or run.uncertain or not needs_body(run):
            return
        if run.plan_row > run.committed_seq:
            return  # A snapshot needs the plans of the body before; their commit asks again.
        if not self._wanted.queues and (taker := self.taker_of(run.flow)) is not None:
            self._assign(run, taker)  # Nobody else waits.
            return
        run.body_wanted = True
        self._wanted.add(run.flow, run)
        self.place(run.flow)

    def forget(self, run: Run) -> None:
        """The run leaves memory: the queue of bodies must not keep it there."""
        if run.body_wanted:
            run.body_wanted = False
            self._wanted.give_up(run.flow)

    def place(self, flow: str) -> None:
        """Perhaps a host has room for bodies of this flow; others that wait for that room may come first."""
        while self._wanted.head(flow) is not None and (taker := self.taker_of(flow)) is not None:
            run = self._next(taker)
            assert run is not None
            self._assign(run, taker)

    def pump(self, session: Session) -> None:
        """The session may have room for bodies: flows take turns at it."""
        queues = self._wanted.queues
        while queues and session.takes_bodies and (run := self._next(session)) is not None:
            self._assign(run, session)

    def _next(self, session: Session) -> Run | None:
        for flow in list(self._wanted.queues):
            if flow in session.flows and self._wanted.head(flow) is not None:
                return self._wanted.take(flow)
        return None

    def taker_of(self, flow: str) -> Session | None:
        """The session that would get the next body of this flow."""
        takers = [s for s in self._books.sessions.values() if s.takes_bodies and flow in s.flows]
        return min(takers, key=lambda s: len(s.bodies), default=None)

    def _assign(self, run: Run, session: Session) -> None:
        body = session.take_body(run, self._books.next_fence())
        if run.seq == 1 and run.committed_seq == 1 and run.stats.body_entries == 0:
            self.enter(run, body, [], hold=False)  # There is nothing to read, and no closure.
        else:
            self._books.loads.append(run)

    # ---- what it is told

    def enter(self, run: Run, body: Body, entries: list[Plan | Release], *, hold: bool) -> None:
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

    def catch_up(self, run: Run, body: Body, missed: list[Plan | Release]) -> None:
        """Send a resumed body the releases it missed."""
        body.ready = True
        if missed:
            body.last_release = _last_release(missed)
            self._advance(
                run, self._books.sessions[body.session_id], Advance(body.fence, tuple(missed), None, body.hold)
            )

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


def needs_body(run: Run) -> bool:
    """Whether some host must hold the body: to decide, or for a compensation that is one of its closures."""
    if run.broken or run.asleep or run.state not in (RunState.PENDING, RunState.RUNNING):
        return False
    if run.stopping is None:
        return run.body_ended is None
    undo = ending.present_undo(run) if run.compensates else None
    return undo is not None and undo.kind is StepKind.RUN


def _still_wanted(run: Run) -> bool:
    """Whether a run that waits for a host still needs one; if not, it is in no queue any more."""
    run.body_wanted = run.body_wanted and needs_body(run)
    return run.body_wanted


def _last_release(entries: list[Plan | Release]) -> int:
    return max((entry.release_seq for entry in entries if isinstance(entry, Release)), default=0)
