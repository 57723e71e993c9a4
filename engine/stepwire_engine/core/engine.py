"""The engine core: one object that takes events and gives out commits, frames and answers. Pure (DESIGN 2).

The shell around it does exactly this, in this order: feed events, submit `take_commits()` to the store,
report the receipts through `committed`, and then send `take_frames()` and `take_replies()`. Nothing a client
or host may rely on leaves before its commit: effects are performed in `committed` only. LAW.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import CancelReason, EngineFrame, Fault, FlowOptions, Hello, HostFrame, HostSection
from stepwire.protocol.payload import Payload
from stepwire_engine.core import deadlines, ending
from stepwire_engine.core.books import Books, Commit, Deadline, Now, Repair, Reply, StopGrace, earliest
from stepwire_engine.core.commits import RESEND, Commits
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.counters import Counters
from stepwire_engine.core.decisions import Decisions
from stepwire_engine.core.dispatch import Dispatcher
from stepwire_engine.core.entries import Entry
from stepwire_engine.core.greeting import hello_refusal
from stepwire_engine.core.intake import Intake
from stepwire_engine.core.journals import Journals
from stepwire_engine.core.liveness import Liveness
from stepwire_engine.core.logs import Logs
from stepwire_engine.core.model import PERFORMED, Group, Lease, Run, Step
from stepwire_engine.core.performed import Performed
from stepwire_engine.core.reads import Read
from stepwire_engine.core.reconciler import Reconciler
from stepwire_engine.core.requests import Requests
from stepwire_engine.core.sessions import AckTicket, Session
from stepwire_engine.core.units import EventRecord, InboxRow, Receipt, SessionRecord, Unit, UnitOutcome


class EngineCore:
    """Runs, sessions and everything that happens to them.

    Args:
        config: Bounds and times.
        claim_epoch: Of the claim this engine made; it fences everything an earlier engine gave out.
        last_run_number: Highest run number in the store.
        now: The present; every input brings a newer one.
    """

    def __init__(self, config: CoreConfig, claim_epoch: int, last_run_number: int, now: Now) -> None:
        self._books = Books(config, claim_epoch, last_run_number, now)
        self.queues = self._books
        """The shell looks here whether there is something to take; it takes by the methods below."""
        self._dispatcher = Dispatcher(self._books)
        self._decisions = Decisions(self._books)
        self._requests = Requests(self._books, self._decisions)
        self._performed = Performed(self._books, self._dispatcher, self._decisions, self._requests.cancel)
        self._dispatcher.performer = self._performed
        self._liveness = Liveness(self._books, self._dispatcher, self._decisions)
        self._intake = Intake(self._books, self._dispatcher, self._performed)
        self._commits = Commits(self._books, self._dispatcher, self._liveness, self._performed)
        self._journals = Journals(self._books, self._dispatcher, self._liveness, self._performed, self._commits)
        self._reconciler = Reconciler(self._books, self._dispatcher, self._decisions, self._liveness, self._performed)
        self._logs = Logs(self._books)
        self._decisions.queue = self._commits.queue
        self._decisions.quarantine = self._commits.quarantine

    # ---- reading

    @property
    def runs(self) -> dict[str, Run]:
        """Runs in memory by run_id. Read only."""
        return self._books.runs

    @property
    def numbers(self) -> Mapping[int, Run]:
        """Runs in memory by number. Read only."""
        return self._books.by_number

    @property
    def sessions(self) -> dict[str, Session]:
        """Sessions by id. Read only."""
        return self._books.sessions

    @property
    def counters(self) -> Counters:
        return self._books.counters

    @property
    def known_flows(self) -> set[str]:
        return self._books.known_flows

    @property
    def adopting(self) -> bool:
        """After a restart: still waiting for hosts that may hold work."""
        return self._liveness.adopting

    def next_due(self) -> float | None:
        """When `tick` must be called next, on the monotonic clock; None: not before another event."""
        return earliest(self._liveness.next_due(), earliest(self._books.timers.next_due(), self._performed.next_due()))

    def next_timer(self) -> float | None:
        """When something goes on by itself, of a dormant run as well; what a virtual clock may jump to."""
        return earliest(self._books.timers.next_due(), self._performed.next_timer())

    # ---- start-up

    def recover(
        self,
        runs: Iterable[tuple[int, Sequence[Iterable[Entry]]]],
        sessions: Iterable[SessionRecord],
        now: Now,
        *,
        flow_options: Mapping[str, FlowOptions] = MappingProxyType({}),
        inbox: Iterable[InboxRow] = (),
        unreadable: Mapping[int, str] = MappingProxyType({}),
        unrecorded: Container[int] = (),
        dormant: int = 0,
    ) -> None:
        """Take over the open runs of the store. What its sessions may still execute is adopted, not repeated.

        Args:
            runs: Number and committed rows of every run that is neither over nor dormant.
            flow_options: As flows were last registered.
            inbox: Facts that were not acted on.
            unreadable: Numbers of open runs that are kept aside, and what of them is damaged.
            unrecorded: Numbers of runs whose record is damaged and whose journal is not.
            dormant: How many runs are.
        """
        self._books.now = now
        self._books.counters.dormant = dormant
        self._books.unreadable.update(unreadable)
        self._books.flow_options.update(flow_options)
        instances = []
        for record in sessions:
            instances.append(record.instance_id)
            self._books.known_flows.update(record.flows)
        for number, rows in runs:
            self._journals.take_over(number, rows, recorded=number not in unrecorded)
        self._performed.recover(inbox)
        self._liveness.await_instances(instances, now.mono)
        self._liveness.end_adoption()

    # ---- sessions

    def open_session(self, hello: Hello, now: Now) -> Session | Fault:
        """A stream said Hello. Its Welcome follows when the session is on record.

        Returns:
            The session, whose `stream` number identifies this stream from now on, or the Fault to refuse it with.
        """
        self._books.now = now
        refused = hello_refusal(hello)
        if refused is not None:
            return refused
        session = self._books.sessions.get(hello.instance_id)
        if session is None:
            session = Session(hello.instance_id, hello, now.mono, self._books.freed)
            self._books.sessions[session.id] = session
        else:
            session.open = False
            session.greet(hello)
        session.connected = True
        session.heard = now.mono
        session.lost_at = None
        self._performed.register(hello)
        record = SessionRecord(hello.instance_id, hello.service, hello.flows, now.unix_ms, hello.flow_options)
        unit = Unit(self._books.claim_epoch, sessions=(record,))
        self._books.commits.append(Commit(unit, welcome=(session, session.stream)))
        return session

    def close_stream(self, session: Session, stream: int, now: Now) -> None:
        """A stream ended. That alone means nothing but that the reconnect grace begins."""
        self._books.now = now
        if session.stream == stream and session.connected:
            session.connected = False
            session.open = False
            if session.lost_at is None:  # One that had been silent has no more time because its stream ends as well.
                session.lost_at = now.mono

    def congestion(self, session: Session, stream: int, congested: bool, now: Now) -> None:
        """Much waits to be written to a host, or no longer. Others get its share of new work meanwhile."""
        self._books.now = now
        if session.stream == stream:
            session.congested = congested
            self._dispatcher.slots.pump(session)

    def receive(self, session: Session, stream: int, frame: HostFrame, now: Now) -> None:
        """A frame of a session's stream; frames of replaced streams are ignored."""
        books = self._books
        books.now = now
        if session.stream != stream or session.closing or session.id not in books.sessions:
            return
        session.heard = now.mono
        session.lost_at = None
        ticket = None
        if frame.logs:
            self._logs.take(session, frame.logs)
        broken = books.broken
        if broken and any([section.run_id in broken for section in frame.runs]):
            books.fault(session, ErrorCode.STORE_UNAVAILABLE, RESEND)
            return
        if frame.position:
            if not session.acks.follows(frame.position):
                books.fault(session, ErrorCode.PROTOCOL, f"frame position {frame.position} is out of order")
                return
            ticket = session.acks.begin(session, frame.position)
        if frame.hello is not None:
            books.fault(session, ErrorCode.PROTOCOL, "expected one Hello per stream, got a second")
            return
        if frame.drain is not None:
            session.draining = True  # First: what this very frame gives back must not be given to the same host.
        if frame.runs:
            self._decide(session, frame.runs, ticket)
        if frame.report is not None or frame.goodbye is not None or frame.fault is not None:
            self._hear(session, frame)
        if ticket is not None and ticket.release():
            books.speak(session)
        if books.freed:
            self._dispatcher.retire_freed()
        self._dispatcher.slots.pump(session)

    def _decide(self, session: Session, sections: Iterable[HostSection], ticket: AckTicket | None) -> None:
        runs, decide, queue = self._books.runs, self._intake.section, self._commits.queue
        for section in sections:
            run = runs.get(section.run_id)
            if run is None:
                self._intake.foreign(session, section)
                continue
            try:
                turn = decide(session, run, section)
            except Exception as error:
                # A fault of ours must take neither the rest of the frame nor other runs with it (DESIGN 5).
                self._commits.quarantine(run, error)
            else:
                queue(turn, ticket)

    def _hear(self, session: Session, frame: HostFrame) -> None:
        """What a frame says about the host itself."""
        if frame.report is not None:
            self._liveness.report(session, frame.report)
        if frame.goodbye is not None:
            self._lose(session, "goodbye")
        elif frame.fault is not None and not frame.fault.run_id:
            session.closing = True

    def _lose(self, session: Session, cause: str) -> None:
        if cause != "goodbye":
            self._books.lost.append((session, cause))
        for turn in self._liveness.lose(session, cause):
            self._commits.queue(turn, None)
        self._dispatcher.retire_freed()
        self._liveness.end_adoption()

    # ---- clients

    def start_run(
        self,
        token: object,
        *,
        run_id: str,
        seed: int,
        flow: str,
        payload: Payload,
        key: str,
        now: Now,
        traceparent: str = "",
    ) -> None:
        """A client starts a run (MISSION T2). The answer follows through `take_replies` after the commit."""
        self._books.now = now
        self._requests.start(
            token, run_id=run_id, seed=seed, flow=flow, payload=payload, key=key, traceparent=traceparent
        )

    def resume_run(self, token: object, run_id: str, now: Now) -> None:
        """Let a paused run go on."""
        self._books.now = now
        self._requests.resume(token, run_id)

    def cancel_run(self, token: object, run_id: str, undo: bool | None, now: Now) -> None:
        """Cancel a run (MISSION S20). The answer follows the commit; OK as well if it is being cancelled already.

        Args:
            undo: Whether completed steps are compensated; None: as its flow was registered.
        """
        self._books.now = now
        if run_id in self._books.runs:
            self._requests.cancel(token, run_id, undo)
        else:
            self._performed.cancel_dormant(token, run_id, undo)

    def send_event(self, token: object, event: EventRecord, now: Now) -> None:
        """Accept an event (MISSION T1). The answer follows the commit; runs wake or start because of it afterwards."""
        self._books.now = now
        self._performed.send(token, event)

    # ---- time

    def tick(self, now: Now) -> None:
        """Time has passed: silent sessions, due retries, attempts over their timeout, the end of adoption."""
        self._books.now = now
        for session in self._liveness.silent():
            self._lose(session, "silence" if session.connected else "stream_end")
        late: dict[Run, list[Step]] = {}
        for due in self._books.pop_due():
            if isinstance(due, Deadline):
                late.setdefault(due.step.run, []).append(due.step)
            else:
                self._due(due)
        for run, steps in late.items():
            self._decisions.alone(run, partial(deadlines.expire_steps, steps=steps))
        self._performed.tick()
        self._liveness.end_adoption()
        self._dispatcher.retire_freed()
        self._reconciler.tick()

    def _due(self, due: Step | Lease | StopGrace | Group | Run) -> None:
        match due:
            case Lease():
                if due.step.lease is due:
                    self._dispatcher.slots.cancel(due, CancelReason.TIMEOUT)
            case Step():
                due.timer_ms = None
                if due.kind in PERFORMED:
                    self._performed.due(due)
                else:
                    self._dispatcher.enqueue(due)
            case Group():
                self._decisions.alone(due.run, lambda turn: deadlines.expire_group(turn, due))
            case StopGrace():
                self._decisions.alone(due.run, ending.stop_waiting)
            case Run():
                self._decisions.alone(due, ending.expire)

    def drain(self, deadline: float, now: Now) -> None:
        """The engine stops: hosts are told, nothing new is dispatched, what is in flight may finish."""
        self._books.now = now
        self._books.draining = True
        self._books.drained_by = now.mono + deadline
        for session in self._books.sessions.values():
            session.draining = True
            session.drain(deadline)
            self._books.speak(session)

    def say_goodbye(self, reason: str) -> None:
        """Last words to every host; they reconnect and resume with the next engine."""
        for session in self._books.sessions.values():
            session.goodbye(reason)
            self._books.speak(session)

    # ---- commits

    def committed(self, commits: Sequence[Commit], receipts: Sequence[Receipt], now: Now) -> None:
        """What became of taken commits, in order. Their effects happen here and nowhere else.

        Raises:
            ExceptionGroup: Defects of ours, one for each receipt that could not be worked off. The others were: they
                are facts as well, and what they cause must happen.
        """
        self._books.now = now
        defects: list[Exception] = []
        done, committed = self._commits.done, UnitOutcome.COMMITTED
        for commit, receipt in zip(commits, receipts, strict=True):
            try:
                if receipt.outcome is committed:
                    done(commit, receipt)
                else:
                    self._commits.failed(commit, receipt)
            except Exception as error:
                error.add_note(f"on the receipt of run number {commit.unit.run}")
                defects.append(error)
        if self._books.freed:
            try:
                self._dispatcher.retire_freed()
            except Exception as error:
                defects.append(error)
        if defects:
            raise ExceptionGroup("receipts that could not be worked off", defects)

    # ---- journals

    def take_loads(self) -> list[Run]:
        """Runs whose journal the shell must read; it answers with `journal_loaded`."""
        loads, self._books.loads = self._books.loads, []
        for run in loads:
            self._books.loading[run] = self._books.loading.get(run, 0) + 1
        return loads

    def _loaded(self, run: Run) -> None:
        left = self._books.loading.pop(run, 1) - 1
        if left:
            self._books.loading[run] = left

    def journal_loaded(self, run: Run, rows: Sequence[Iterable[Entry]], now: Now) -> None:
        """The committed rows of a run: for a snapshot, for a resumed body, or after a refused commit."""
        self._books.now = now
        self._loaded(run)
        self._journals.loaded(run, rows)

    def take_reads(self) -> list[Read]:
        """Questions for the store; each is answered with `read_done`."""
        reads, self._books.reads = self._books.reads, {}
        self._books.reading.update(reads)
        return list(reads)

    def read_done(self, read: Read, answer: object, now: Now) -> None:
        """The answer to a question, as `reads.py` says which."""
        self._books.now = now
        self._books.reading.discard(read)
        if not self._reconciler.answer(read, answer):
            self._performed.answer(read, answer)
        self._dispatcher.retire_freed()

    @property
    def unreadable(self) -> Mapping[int, str]:
        """Runs that are kept aside, by number, and what of them is damaged in the store."""
        return self._books.unreadable

    def journal_unreadable(self, run: Run, now: Now, what: str = "") -> None:
        """The store cannot give the run's journal: the run leaves memory, so that nobody waits for it.

        It stays open in the store and is kept aside until another engine reads it; the shell says what is wrong.
        """
        self._books.now = now
        self._loaded(run)
        self._set_aside(run, what)

    def set_aside(self, number: int, what: str, now: Now) -> None:
        """A row is damaged that a run cannot go on without: it is kept aside, wherever it is."""
        self._books.now = now
        run = self._books.by_number.get(number)
        if run is None:
            self._books.unreadable.setdefault(number, what)
        else:
            self._set_aside(run, what)

    def _set_aside(self, run: Run, what: str) -> None:
        self._books.unreadable.setdefault(run.number, what)
        self._commits.forget(run)
        self._performed.unreadable(run)
        self._books.changed.add(run.run_id)

    # ---- taken by the shell

    def take_incidents(self) -> list[tuple[str, Exception]]:
        """Runs that were quarantined, with the exception of the core; for the log."""
        incidents, self._books.incidents = self._books.incidents, []
        return incidents

    def take_repairs(self) -> list[Repair]:
        """Runs and steps that had not exactly one owner and were given one: defects, for the log."""
        repairs, self._books.repairs = self._books.repairs, []
        return repairs

    def unowned(self) -> list[Repair]:
        """Every run and step that has not exactly one owner at this moment: none. It looks at everything at once."""
        return self._reconciler.unowned()

    def take_commits(self) -> list[Commit]:
        """What to submit to the store now, in order."""
        if self._books.lines:
            self._logs.flush()
        commits, self._books.commits = self._books.commits, []
        return commits

    def take_lost(self) -> list[tuple[Session, str]]:
        """Hosts that are gone without a word, and how that was noticed; for the log."""
        lost, self._books.lost = self._books.lost, []
        return lost

    def take_frames(self) -> list[tuple[Session, EngineFrame]]:
        """What to send now; a session appears at most once."""
        speaking, self._books.speaking = self._books.speaking, {}
        return [(s, frame) for s in speaking.values() if s.connected and (frame := s.take_frame()) is not None]

    def take_replies(self) -> list[Reply]:
        """Answers to clients."""
        replies, self._books.replies = self._books.replies, []
        return replies

    def take_ended(self) -> list[tuple[Run, int]]:
        """Runs whose end was committed, with its time in milliseconds since the Unix epoch; without their steps.

        To be asked for when nobody looks into what was committed any more.
        """
        ended, self._books.ended = self._books.ended, []
        for run, _ in ended:
            if not run.in_flight:  # A result may have come after the end was decided, in a commit of its own.
                run.dissolve()
        return ended

    def take_changed(self) -> set[str]:
        """Runs that a commit changed."""
        changed, self._books.changed = self._books.changed, set()
        return changed
