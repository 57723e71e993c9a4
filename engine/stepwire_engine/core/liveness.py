"""Who is alive: sessions, their resume and their loss, and the adoption after an engine restart (DESIGN 3, rules 6, 7).

Losing a host never consumes a retry. A host is gone gracefully only if it said Goodbye; the end of a
stream means nothing but that a grace begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import AttemptInProgress, Cancel, CancelReason, Fault, LiveBody, Report, ResumeState
from stepwire.protocol.plan import StepKind
from stepwire_engine.core import ending, machine
from stepwire_engine.core.books import Books, Commit, earliest
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.decisions import Decisions
from stepwire_engine.core.dispatch import Dispatcher
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.intake import cancel_everything
from stepwire_engine.core.model import PERFORMED, Lease, Run, RunPhase, StepState
from stepwire_engine.core.sessions import Session
from stepwire_engine.core.settle import settle
from stepwire_engine.core.turn import Turn
from stepwire_engine.core.units import Unit


class Liveness:
    """The books of who holds what, as hosts come, resume, fall silent and go."""

    def __init__(self, books: Books, dispatcher: Dispatcher, decisions: Decisions) -> None:
        self._books = books
        self._dispatcher = dispatcher
        self._decisions = decisions
        self._last_tick = books.now.mono
        self._loss_due = math.inf
        self._awaited: set[str] = set()
        self._adopt_until: float | None = None
        self._reclaimed: dict[int, Run] = {}

    # ---- adoption after a restart

    def await_instances(self, instances: Iterable[str], now: float) -> None:
        """After a restart: what these instances may still execute is uncertain until they speak or the grace ends."""
        self._awaited = set(instances)
        self._adopt_until = now + self._books.config.adoption_grace if self._awaited else now

    @property
    def adopting(self) -> bool:
        return self._adopt_until is not None

    def awaits(self, run: Run) -> bool:
        """Whether hosts may still come and adopt what they have of this run, which is uncertain."""
        if run.number in self._reclaimed:
            return any([instance in self._books.sessions for instance in run.awaited])
        return self.adopting and not run.waking

    def dispatch_unclaimed(self, run: Run) -> None:
        """Nobody adopts anything more of this run: give out what it has to do."""
        self._reclaimed.pop(run.number, None)
        self._dispatch_unclaimed(run)

    def instance_spoke(self, instance_id: str) -> None:
        """An instance resumed, said Goodbye or was lost."""
        self._awaited.discard(instance_id)
        for run in self._books.broken.values():
            run.awaited.discard(instance_id)
        for run in list(self._reclaimed.values()):
            run.awaited.discard(instance_id)
            if not run.awaited:
                del self._reclaimed[run.number]
                self._dispatch_unclaimed(run)

    def reclaim(self, run: Run, instances: Iterable[str]) -> None:
        """A run was read again: what these instances hold of it is adopted, unless they are lost meanwhile."""
        run.awaited = {instance for instance in instances if instance in self._books.sessions}
        if run.waking:
            self._withhold(run)
            return
        if not run.awaited:
            self._reclaimed.pop(run.number, None)
            self._dispatch_unclaimed(run)
            return
        self._withhold(run)
        self._reclaimed[run.number] = run

    def _withhold(self, run: Run) -> None:
        run.uncertain = True
        for step in run.open_steps():
            step.uncertain = step.kind not in PERFORMED

    def awake(self, run: Run) -> None:
        """It is on record that the run is no longer dormant: from now on a restart would adopt what hosts get of it."""
        run.waking = False
        self._dispatch_unclaimed(run)

    def _dispatch_unclaimed(self, run: Run) -> None:
        run.uncertain = False
        for step in run.open_steps():
            step.uncertain = False
        if run.phase is RunPhase.CANCELLING:
            self._decisions.alone(run, ending.stop_again)
        self._dispatcher.bodies.want(run)
        self._dispatcher.enqueue_open(run)

    def end_adoption(self) -> list[Run]:
        """Dispatch what nobody adopted, once every awaited instance spoke or the grace is over."""
        if self._adopt_until is None or (self._awaited and self._books.now.mono < self._adopt_until):
            return []
        self._adopt_until = None
        gone = tuple(sorted(self._awaited - self._books.sessions.keys()))
        if gone:  # Otherwise every later restart would wait for them again.
            self._books.commits.append(Commit(Unit(self._books.claim_epoch, sessions_gone=gone)))
        self._awaited.clear()
        waiting = [
            run
            for run in self._books.runs.values()
            if run.uncertain and not run.waking and run.number not in self._reclaimed
        ]
        for run in waiting:
            self._dispatch_unclaimed(run)
        return waiting

    # ---- resume

    def resume(self, session: Session, state: ResumeState) -> None:
        """Compare what the host holds with what the engine believes (after Welcome was queued)."""
        self._books.counters.sessions_resumed += 1
        known = {(a.run_id, a.path): a for a in state.attempts}
        for key, lease in list(session.leases.items()):
            offered = known.get(key)
            if offered is None or offered.attempt != lease.attempt:
                self._never_arrived(session, lease)
                continue
            lease.frame = 0
            if offered.fence < lease.fence:
                # The Execute that raised the right never arrived; the host runs the attempt under its old one.
                lease.fence = lease.step.fence = offered.fence
            if lease.cancelled is not None:
                session.cancel(offered.run_id, Cancel(offered.path, lease.fence, lease.cancelled))
        held = {b.run_id: b.fence for b in state.bodies}
        for run in list(session.bodies.values()):
            if run.body is None or held.get(run.run_id) != run.body.fence:
                # The Advance that gave it this body never arrived, whatever older one it still names.
                session.drop_body(run)
                self._dispatcher.bodies.want(run)
        undoing = {a.run_id for a in state.attempts if self._is_undo_of_body(a)}
        for body in state.bodies:
            if self._books.never_given(body.fence):
                session.evict(body.run_id, body.fence)
                continue
            self._resume_body(session, body, for_undo=body.run_id in undoing)
        for attempt in state.attempts:
            if self._books.never_given(attempt.fence):
                session.cancel(attempt.run_id, Cancel(attempt.path, attempt.fence, CancelReason.LEASE_LOST))
                continue
            self._resume_attempt(session, attempt)
        self._books.speak(session)

    def _is_undo_of_body(self, offered: AttemptInProgress) -> bool:
        """Whether this attempt is a closure that undoes something, so that the host's body was entered for that."""
        run = self._books.runs.get(offered.run_id)
        step = None if run is None else run.steps.get(offered.path)
        return step is not None and step.undo_of is not None and step.kind is StepKind.RUN

    def _resume_body(self, session: Session, offered: LiveBody, *, for_undo: bool) -> None:
        run = self._books.runs.get(offered.run_id)
        if run is None or run.broken or run.state is RunState.PAUSED:
            session.evict(offered.run_id, offered.fence)
            return
        body = run.body
        if body is None and run.stopping is not None and run.body_ended is None and not for_undo:
            session.evict(offered.run_id, offered.fence)  # It was cancelled where it stood.
            return
        mine = body is not None and body.session_id == session.id and body.fence == offered.fence
        if not mine:
            superseded = (body is not None and body.fence >= offered.fence) or (
                # Another body has decided since, even if its host is gone as well.
                run.plan_fence is not None and offered.fence < run.plan_fence
            )
            behind = offered.next_plan_seq <= run.plan_seq or offered.last_release > run.release_seq
            if superseded or behind:
                session.evict(run.run_id, offered.fence)
                return
            if body is not None:
                self._take_away(run)
            body = session.take_body(run, offered.fence)
            self._books.counters.bodies_adopted += 1
        assert body is not None
        session.keep_body(run, offered.fence)
        body.last_release = offered.last_release
        body.ready = True
        if offered.last_release < run.release_seq:
            body.ready = False
            session.resumed_bodies[run.number] = offered.last_release
            self._books.loads.append(run)
        self._dispatcher.enqueue_closures(run)

    def _take_away(self, run: Run) -> None:
        assert run.body is not None
        holder = self._books.sessions.get(run.body.session_id)
        if holder is not None:
            holder.evict(run.run_id, run.body.fence)
            self._books.speak(holder)
            holder.drop_body(run)

    def _resume_attempt(self, session: Session, offered: AttemptInProgress) -> None:
        run = self._books.runs.get(offered.run_id)
        if run is None or run.broken:
            cancel_everything(session, offered.run_id, offered.fence)
            return
        step = run.steps.get(offered.path)
        if step is None:
            return  # A plan that explains it will be sent again.
        lease = step.lease
        if lease is not None and lease.session_id == session.id and lease.fence == offered.fence:
            return
        # One that was told to stop holds its places and keeps compensation waiting until it has.
        stops = step.state is StepState.CANCELLED
        wanted = (stops or not step.state.final) and step.attempt == offered.attempt
        if not wanted or (step.fence is not None and step.fence > offered.fence):
            session.cancel(run.run_id, Cancel(offered.path, offered.fence, CancelReason.LEASE_LOST))
            return
        if lease is not None:
            self._dispatcher.slots.cancel(lease, CancelReason.LEASE_LOST)
        adopted = Lease(step, session.id, offered.fence, self._books.now.mono - offered.elapsed, step.attempt)
        run.steps[offered.path].queued = False
        session.hold(adopted)
        self._dispatcher.admission.count(step)
        self._books.counters.attempts_adopted += 1
        if step.timeout:
            due = adopted.since + step.timeout + self._books.config.timeout_grace
            self._books.timers.arm(due, adopted)
        if stops:
            reason = CancelReason.LEASE_LOST if run.stopping is None else CancelReason.RUN_CANCELLED
            self._dispatcher.slots.cancel(adopted, reason)

    # ---- reports

    def report(self, session: Session, report: Report) -> None:
        """Renew, and find dispatches that never arrived: in a frame the host has processed, yet unknown to it."""
        session.saturated = session.full = False
        session.loop_lag = report.loop_lag
        session.lagging = report.loop_lag > self._books.config.loop_lag_max
        session.note_processed(report.last_engine_frame, self._books.now.mono)
        known = {(a.run_id, a.path) for a in report.attempts}
        for key, lease in list(session.leases.items()):
            if 0 < lease.frame <= report.last_engine_frame and key not in known:
                self._never_arrived(session, lease)

    def _never_arrived(self, session: Session, lease: Lease) -> None:
        """The host does not have this attempt: somebody else may, or its run may go on without it."""
        session.drop(lease)
        self._dispatcher.enqueue(lease.step)
        if lease.step.run.phase is RunPhase.CANCELLING:
            self._decisions.alone(lease.step.run, lambda turn: None)

    # ---- loss

    def silent(self) -> list[Session]:
        """Sessions whose time is over. An engine stall never expires healthy leases: the stall is forgiven."""
        now = self._books.now.mono
        config = self._books.config
        stall = now - self._last_tick
        self._last_tick = now
        lost: list[Session] = []
        self._loss_due = math.inf
        for session in self._books.sessions.values():
            if stall > config.stall_forgiven:
                session.forgive(stall, now)
            falls_silent = self._falls_silent(session) if session.connected else math.inf
            if falls_silent <= now:
                session.lost_at = falls_silent if session.lost_at is None else session.lost_at
            elif session.connected:
                session.lost_at = None
            due = (falls_silent if session.lost_at is None else session.lost_at) + config.reconnect_grace
            if due <= now:
                lost.append(session)
            else:
                self._loss_due = min(self._loss_due, due)
        return lost

    def _falls_silent(self, session: Session) -> float:
        """When a connected session counts as silent if nothing more is heard, or if it goes on to process nothing."""
        config = self._books.config
        silent = session.heard + config.silence_timeout
        if session.deaf_since is None:
            return silent
        # Its reports come, so one of them was the first to show that the host is behind; that took up to a heartbeat.
        return min(silent, session.deaf_since + config.silence_timeout - config.heartbeat_interval)

    def next_due(self) -> float | None:
        """When `tick` must come next: steadily while there are sessions, so that a late tick shows a stall."""
        if not self._books.sessions:
            return self._adopt_until
        steady = self._last_tick + self._books.config.tick_interval
        # A host is given up on time, not at the tick after.
        return earliest(self._adopt_until, min(steady, self._loss_due))

    def lose(self, session: Session, cause: str) -> list[Turn]:
        """The session is over: take everything it holds. Returns the turns that must be committed.

        Args:
            cause: "goodbye" (nothing counts as lost), "silence" or "stream_end".
        """
        books = self._books
        books.sessions.pop(session.id, None)
        session.open = False
        if cause == "silence":
            session.fault(Fault(ErrorCode.STALE, _silence(session, books.config)))
            books.speak(session)
        self.instance_spoke(session.instance_id)
        turns: dict[int, Turn] = {}
        graceful = cause == "goodbye"
        requeue: list[Lease] = []
        session.drop_closures(session.closures)
        for lease in list(session.leases.values()):
            current = lease.step.lease is lease
            session.drop(lease)
            run = lease.step.run
            if run.stopping is not None and not run.broken:
                turns.setdefault(run.number, Turn(run, books.now.unix_ms))  # It may have waited for this attempt.
            if not current or lease.step.state.final or run.broken or run.state.terminal:
                continue
            if graceful or run.state is RunState.PAUSED:
                requeue.append(lease)
                continue
            books.counters.attempts_lost[cause] += 1
            turn = turns.setdefault(run.number, Turn(run, books.now.unix_ms))
            machine.lose_attempt(turn, lease.step, session.service, books.config)
        for run in list(session.bodies.values()):
            session.drop_body(run)
            wanted = run.body_ended is None or run.stopping is not None
            if not graceful and not run.broken and not run.state.terminal and wanted:
                turn = turns.setdefault(run.number, Turn(run, books.now.unix_ms))
                machine.lose_body(turn, books.config)
            else:
                self._dispatcher.bodies.want(run)
        for lease in requeue:
            self._dispatcher.enqueue(lease.step)
        books.commits.append(Commit(Unit(books.claim_epoch, sessions_gone=(session.instance_id,))))
        for turn in turns.values():
            settle(turn)
        return list(turns.values())


def _silence(session: Session, config: CoreConfig) -> str:
    if session.deaf_since is None:
        return f"nothing heard for {config.silence_timeout:g} s; resume"
    return f"host reports, but processed nothing of what was sent for {config.silence_timeout:g} s; resume"
