"""From turns to rows, and from receipts to effects: decide -> commit -> perform happens here (DESIGN 2). LAW.

A turn is queued as one unit; what it makes possible is performed when its receipt says that it is durable, and
not before. A refused unit takes its run out of memory: the journal is read again, its hosts send again.
"""

from __future__ import annotations

from stepwire.protocol import limits
from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import CancelReason, ResumeState, Welcome
from stepwire.protocol.traceparent import trace_id_of
from stepwire_engine.core import machine
from stepwire_engine.core.books import Books, Commit, Reply, StopGrace, arm_deadline
from stepwire_engine.core.counters import EndedRun
from stepwire_engine.core.counting import count
from stepwire_engine.core.dispatch import Dispatcher
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.greeting import FEATURES
from stepwire_engine.core.liveness import Liveness
from stepwire_engine.core.model import Run
from stepwire_engine.core.performed import Performed
from stepwire_engine.core.sessions import AckTicket, Session
from stepwire_engine.core.turn import Turn
from stepwire_engine.core.units import InboxRow, Receipt, RunRecord, Unit, UnitOutcome

STORE_FULL = "the store is full; nothing was accepted"
RESEND = "the store refused a commit; resume and send again"


class Commits:
    """Units on their way to the store, and what follows from their receipts."""

    def __init__(self, books: Books, dispatcher: Dispatcher, liveness: Liveness, performed: Performed) -> None:
        self._performed = performed
        self._books = books
        self._dispatcher = dispatcher
        self._liveness = liveness

    def queue(self, turn: Turn, ticket: AckTicket | None) -> Commit | None:
        """Queue the turn's row. A frame that brought nothing new waits for what the run has in flight."""
        run = turn.run
        if turn.let_go or turn.ended is not None:
            self._performed.complete(turn)
        changes = turn.aside is not None or turn.frees_key or turn.wakes or turn.rests
        if not (turn.entries or (changes and turn.changes)):
            if run.in_flight and ticket is not None:
                self._wait_for(run, ticket)
            last = self.last(run)
            if last is not None and last.turn is not None:
                last.turn.planned.extend(turn.planned)
                last.turn.stopping = last.turn.stopping or turn.stopping
            else:
                self._perform(turn)
            return None
        record = None
        state = RunState.WAITING if turn.rests else run.state
        if state is not run.recorded:
            run.recorded = state
            record = self._record(turn, state)
        commit = Commit(self._unit(turn, record, changes), turn)
        if turn.entries:
            run.seq += 1
        run.in_flight += 1
        self._books.last_commit[run.number] = commit
        if ticket is not None:
            ticket.holds += 1
            commit.tickets.append(ticket)
        self._books.commits.append(commit)
        return commit

    def _unit(self, turn: Turn, record: RunRecord | None, changes: bool) -> Unit:
        """`changes`: the turn may change more of the store than the journal."""
        run = turn.run
        key = run.id if run.seq == 0 else ""
        if not (changes and turn.changes):
            return Unit(self._books.claim_epoch, run.number, run.seq, tuple(turn.entries), record, key)
        return Unit(
            self._books.claim_epoch,
            run.number,
            run.seq,
            tuple(turn.entries),
            record,
            key,
            run.id if turn.frees_key else "",
            inbox=tuple([InboxRow(number, fact) for number, fact in turn.facts]),
            inbox_done=tuple(turn.facts_done),
            events=tuple(turn.events),
            events_since_ms=self._books.events_since_ms,
            waits=tuple(turn.waits),
            waits_done=tuple(turn.waits_done),
        )

    def _record(self, turn: Turn, state: RunState) -> RunRecord:
        run = turn.run
        ended = self._books.now.unix_ms if state.terminal else None
        return RunRecord(
            run.number, run.run_id, run.flow, state, run.created_at_ms, ended, run.id, wake_ms=turn.wake_ms
        )

    def last(self, run: Run) -> Commit | None:
        """The run's newest commit that is still on its way."""
        return self._books.last_commit.get(run.number)

    def _wait_for(self, run: Run, ticket: AckTicket) -> None:
        commit = self.last(run)
        assert commit is not None
        ticket.holds += 1
        commit.tickets.append(ticket)

    def done(self, commit: Commit, receipt: Receipt) -> None:
        """The unit is durable: perform what waited for it."""
        books, turn = self._books, commit.turn
        if commit.welcome is not None:
            self._welcome(*commit.welcome)
        if turn is not None:
            run = turn.run
            run.in_flight -= 1
            run.moved = books.now.mono
            if commit.unit.entries:
                run.committed_seq += 1
                count(books.counters, turn)
            if commit.unit.record is not None:
                self._recorded(run, commit.unit, commit.unit.record)
            if not run.in_flight:
                books.last_commit.pop(run.number, None)
            books.changed.add(run.run_id)
            if run.waking and not run.broken:
                self._liveness.awake(run)
            self._perform(turn)
            if run.broken and not run.in_flight and books.broken.get(run.run_id) is run:
                books.loads.append(run)  # Quarantined, or a row before this one was refused.
        unit = commit.unit
        if unit.inbox or unit.events or unit.inbox_done:
            self._performed.stored(commit, receipt)
        if commit.after is not None:
            commit.after(receipt)
        books.replies.extend(commit.replies)
        for ticket in commit.tickets:
            ticket.holds -= 1
            if not ticket.holds and ticket.ledger.advance():
                books.speaking[ticket.session.id] = ticket.session

    def _recorded(self, run: Run, unit: Unit, record: RunRecord) -> None:
        """With its first row, which always brings a record, a run counts as started and its deadline begins."""
        counters = self._books.counters
        if unit.entries and run.committed_seq == 1:
            counters.runs_started[run.flow] += 1
            arm_deadline(self._books, run)
        rests = record.state is RunState.WAITING
        counters.dormant += rests - run.resting
        run.resting = rests

    def failed(self, commit: Commit, receipt: Receipt) -> None:
        """Nothing of this commit happened: the run leaves memory and is read again, its hosts start over."""
        full = receipt.outcome is UnitOutcome.NO_SPACE
        code = ErrorCode.STORE_FULL if full else ErrorCode.STORE_UNAVAILABLE
        message = STORE_FULL if full else f"nothing was accepted: {receipt.reason or receipt.outcome.value}"
        taken = receipt.existing_run if receipt.outcome is UnitOutcome.KEY_TAKEN else ""
        for reply in commit.replies:
            self._books.replies.append(Reply(reply.token, code=code, message=message, key_taken_by=taken))
        if commit.welcome is not None:
            session, stream = commit.welcome
            if session.stream == stream:
                self._books.fault(session, code, message)
        if commit.unit.inbox_done:
            self._performed.failed(commit, receipt)
        if commit.after is not None:
            commit.after(receipt)
        if commit.turn is None:
            return
        run = commit.turn.run
        run.in_flight -= 1
        for ticket in commit.tickets:
            # Whoever brought this must bring it again, also a host that holds nothing of the run any more.
            run.awaited.add(ticket.session.instance_id)
            if ticket.ledger is ticket.session.acks:
                self._books.fault(ticket.session, ErrorCode.STORE_UNAVAILABLE, RESEND)
        if not run.broken:
            self._break(run)
        if run.in_flight:
            return
        self._books.last_commit.pop(run.number, None)
        if run.committed_seq:
            self._books.loads.append(run)
        else:
            self._books.broken.pop(run.run_id, None)
            self._performed.gone(run)

    def quarantine(self, run: Run, error: Exception) -> None:
        """The core failed on this run: it is read again and paused, everything else goes on (DESIGN 5)."""
        message = f"the engine failed on run {run.run_id} and paused it; its log says why"
        run.quarantine = Failure(ErrorCode.INTERNAL, "InternalError", message, retryable=Retryable.NO)
        self._books.incidents.append((run.run_id, error))
        self.forget(run)
        self._books.broken[run.run_id] = run
        if not run.in_flight:
            self._books.loads.append(run)

    def forget(self, run: Run) -> None:
        """Take a run out of memory, and tell the hosts that hold something of it to let it go."""
        run.broken = True
        self._books.broken.pop(run.run_id, None)
        self._books.remove(run)
        self._dispatcher.bodies.forget(run)
        for session in list(self._books.sessions.values()):
            for lease in [lease for lease in session.leases.values() if lease.step.run is run]:
                self._dispatcher.slots.cancel(lease, CancelReason.LEASE_LOST)
                session.drop(lease)
            body = run.body
            if body is not None and body.session_id == session.id:
                session.evict(run.run_id, body.fence)
                session.drop_body(run)
                self._books.speak(session)
            self._dispatcher.slots.pump(session)

    def _break(self, run: Run) -> None:
        run.broken = True
        self._books.broken[run.run_id] = run
        self._books.remove(run)
        for session in list(self._books.sessions.values()):
            leases = [lease for lease in session.leases.values() if lease.step.run is run]
            if leases or run.number in session.bodies:
                for lease in leases:
                    session.drop(lease)
                session.drop_body(run)
                run.awaited.add(session.instance_id)
                self._books.fault(session, ErrorCode.STORE_UNAVAILABLE, RESEND)

    # ---- effects

    def _welcome(self, session: Session, stream: int) -> None:
        if session.stream != stream or not session.connected:
            return
        held = session.hello.resume or ResumeState()
        runs = {body.run_id for body in held.bodies} | {attempt.run_id for attempt in held.attempts}
        if not runs.isdisjoint(self._books.broken):
            self._books.fault(session, ErrorCode.STORE_UNAVAILABLE, RESEND)
            return
        config = self._books.config
        session.welcome(
            Welcome(
                session_id=session.id,
                protocol=min(session.hello.protocol_max, limits.PROTOCOL_MAX),
                features=tuple(sorted(FEATURES)),
                heartbeat_interval=config.heartbeat_interval,
                session_ttl=config.silence_timeout + config.reconnect_grace,
                payload_bytes_max=config.payload_bytes_max,
                steps_per_run_max=config.steps_per_run_max,
                branches_per_group_max=config.branches_per_group_max,
                group_depth_max=config.group_depth_max,
                default_retry=config.default_retry,
            )
        )
        session.draining = self._books.draining
        if session.draining:
            session.drain(max(0.0, self._books.drained_by - self._books.now.mono))
        if stream > 1 or session.hello.resume is not None:
            # Without a resume state this host never saw a Welcome, so it holds nothing of what was given to it.
            session.forget_queued()
            self._liveness.resume(session, held)
        self._liveness.instance_spoke(session.instance_id)
        self._books.speak(session)
        self._liveness.end_adoption()
        self._dispatcher.slots.pump(session)

    def _perform(self, turn: Turn) -> None:
        run = turn.run
        if run.broken:
            return
        if turn.accepted and run.body is not None:
            run.body.hold = False
        if turn.let_go or turn.cancelled:
            self._dispatcher.let_go(turn.let_go, turn.cancelled)
        if turn.ended is not None:
            self._finish(turn)
            return
        if turn.rests:
            self._performed.rested(turn)
            if run.broken:
                return  # It has left memory.
        if turn.stopping or turn.paused or turn.resumed or turn.aside is not None:
            self._turn_aside(turn)
        if turn.released is not None:
            run.asleep = False
            self._dispatcher.bodies.release(run, turn.released)
        if turn.planned or turn.retries:
            self._dispatcher.enqueue_all(run, (*turn.planned, *turn.retries))
        if run.body is None and not turn.paused:
            self._dispatcher.bodies.want(run)
        if turn.resumed:
            self._dispatcher.enqueue_open(run)

    def _turn_aside(self, turn: Turn) -> None:
        """What few turns do: the body must go or may be wanted again, or something has a deadline."""
        run = turn.run
        if turn.resumed or turn.stopping:
            run.asleep = False
        if turn.paused or (turn.stopping and run.body_ended is None):
            self._evict(run)
        for timed in turn.deadlines:
            arm_deadline(self._books, timed)
        for group in turn.closing:
            # Code of a branch that does not come to an end must not keep the group open.
            group.close_by = self._books.now.mono + self._books.config.timeout_grace
            self._books.timers.arm(group.close_by, group)
        if turn.stopping and run.stop_waits:
            run.stop_due = self._books.now.mono + self._books.config.stop_grace
            self._books.timers.arm(run.stop_due, StopGrace(run))

    def _evict(self, run: Run) -> None:
        if run.body is not None:
            session = self._books.sessions[run.body.session_id]
            session.evict(run.run_id, run.body.fence)
            session.drop_body(run)
            self._books.counters.body_evictions["engine"] += 1
            self._books.speak(session)

    def _finish(self, turn: Turn) -> None:
        run = turn.run
        assert turn.ended is not None
        state = turn.ended.state.name.lower()
        self._books.counters.runs_finished[run.flow, state] += 1
        seconds = max(0, turn.unix_ms - run.created_at_ms) / 1000
        labels = {"run_id": run.run_id}
        if run.traceparent:
            labels["trace_id"] = trace_id_of(run.traceparent)
        self._books.counters.runs_ended.append(EndedRun(run.flow, seconds, turn.unix_ms, labels))
        if run.body is not None:
            holder = self._books.sessions.get(run.body.session_id)
            if holder is not None:
                if turn.ended.state is not RunState.SUCCEEDED:
                    holder.evict(run.run_id, run.body.fence)  # It may be kept for its closures.
                    self._books.speak(holder)
                holder.drop_body(run)
                self._dispatcher.slots.pump(holder)
        for step in machine.open_leases(run):
            assert step.lease is not None
            self._dispatcher.slots.cancel(step.lease, CancelReason.RUN_CANCELLED)
        self._books.remove(run)
        self._books.ended.append((run, turn.ended.at_ms))
        self._performed.gone(run)
