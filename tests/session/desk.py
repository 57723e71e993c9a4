"""Both session cores back to back: an engine core, a store in memory, host sessions, and no network, thread or clock.

`desk.settle()` carries frames both ways and commits until nothing is left to say; with `desk.held` the store
keeps what it was given until `desk.commit()`, so that a test sees what leaves before a commit: nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stepwire._transport.session import HostSession
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import (
    Advance,
    EngineFrame,
    EngineSection,
    Execute,
    Fault,
    Hello,
    HostFrame,
    Release,
    Result,
)
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded, Fence, GroupOpened, Plan, StepKind, StepPlanned
from stepwire_engine.core.books import Commit, Now, Reply
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.engine import EngineCore
from stepwire_engine.core.entries import Entry, RunEnded
from stepwire_engine.core.sessions import Session
from stepwire_engine.core.units import EventRecord, Receipt, SessionRecord, UnitOutcome
from stepwire_engine.scheduler.reader import answer_of
from stepwire_engine.store.memory import MemoryStore
from tests.session.explained import unexplained

CONFIG = CoreConfig(
    heartbeat_interval=4.0, silence_timeout=12.0, reconnect_grace=3.0, adoption_grace=10.0, attempts_lost_max=3
)
WALL = 1_700_000_000_000
INPUT = Payload(b'{"n":1}')
COMMITTED = Receipt(UnitOutcome.COMMITTED)
REFUSED = Receipt(UnitOutcome.REFUSED, reason="disk full")


class Rows:
    """The store in memory, committing at once; it outlives engines."""

    def __init__(self) -> None:
        self.store = MemoryStore(notify=lambda call: call())
        self.store.open()
        self._over: set[int | None] = set()

    def commit(self, commit: Commit) -> Receipt:
        unit = commit.unit
        receipts: list[Receipt] = []
        self.store.submit([unit], receipts.extend)
        if receipts[0].outcome is UnitOutcome.COMMITTED and unit.entries:
            assert unit.run not in self._over, "a row after the end of its run"
            if any(isinstance(entry, RunEnded) for entry in unit.entries):
                self._over.add(unit.run)
        return receipts[0]

    @property
    def rows(self) -> dict[int, list[tuple[Entry, ...]]]:
        """The committed rows of every run."""
        numbers = range(1, self.store.last_run_number() + 1)
        return {n: rows for n in numbers if (rows := [row.entries for row in self.store.journal(n)])}

    @property
    def sessions(self) -> dict[str, SessionRecord]:
        return {record.instance_id: record for record in self.store.sessions()}

    def open_runs(self) -> list[tuple[int, list[tuple[Entry, ...]]]]:
        return [(record.number, self.journal(record.number)) for record in self.store.open_runs()]

    def journal(self, run: int) -> list[tuple[Entry, ...]]:
        return [row.entries for row in self.store.journal(run)]

    def entries(self, run: int = 1) -> list[Entry]:
        return [e for row in self.journal(run) for e in row]


class Host:
    """A host process whose user code is the test: it sees sections and submits plans and results by hand."""

    def __init__(self, desk: Desk, hello: Hello) -> None:
        self.desk = desk
        self.name = hello.service
        self.session = HostSession(hello)
        self.engine: Session | None = None
        self.stream = 0
        self.frames: list[EngineFrame] = []
        self.sections: list[EngineSection] = []
        self.seqs: dict[str, tuple[Fence, int, int]] = {}
        """By run: fence of the body, last release, last plan_seq."""

    # ---- the stream

    def connect(self) -> Host:
        """Begin a stream; its Hello goes out at once."""
        self.session.connect()
        frame = self.session.take_frame(self.desk.mono)
        assert frame is not None and frame.hello is not None
        found = self.desk.core.open_session(frame.hello, self.desk.now)
        assert isinstance(found, Session), found
        self.engine, self.stream = found, found.stream
        return self

    def cut(self, *, told: bool = True) -> Host:
        """The stream ends; without `told` the engine hears nothing of it."""
        self.session.disconnect()
        if told and self.engine is not None:
            self.desk.core.close_stream(self.engine, self.stream, self.desk.now)
        self.engine = None
        return self

    def raw(self, frame: HostFrame) -> None:
        """Say something that the host's session would not say."""
        assert self.engine is not None
        self.desk.core.receive(self.engine, self.stream, frame, self.desk.now)

    def receive(self, frame: EngineFrame) -> None:
        self.frames.append(frame)
        for section in self.session.receive(frame, self.desk.mono):
            self.sections.append(section)
            if section.advance is not None:
                self._advance(section.run_id, section.advance)

    def _advance(self, run_id: str, advance: Advance) -> None:
        fence, released, planned = (advance.fence, 0, 0) if advance.start is not None else self.seqs[run_id]
        for entry in advance.entries:
            match entry:
                case Release():
                    released = entry.release_seq
                case Plan():
                    planned = entry.plan_seq
        self.seqs[run_id] = fence, released, planned

    # ---- what arrived

    def take(self) -> list[EngineSection]:
        """Sections since the last call."""
        taken, self.sections = self.sections, []
        return taken

    def executes(self) -> list[Execute]:
        return [e for s in self.take() for e in s.executes]

    def releases(self) -> list[Release]:
        return [e for s in self.take() if s.advance is not None for e in s.advance.entries if isinstance(e, Release)]

    @property
    def acked(self) -> int:
        return self.frames[-1].acked_position

    @property
    def faults(self) -> list[Fault]:
        return [f.fault for f in self.frames if f.fault is not None]

    # ---- user code

    def plan(
        self,
        *steps: str | StepPlanned,
        run_id: str = "r",
        groups: tuple[GroupOpened, ...] = (),
        start: tuple[str, ...] = (),
        **what: Any,
    ) -> Plan:
        """Queue the body's next plan. `start`: closures the host starts itself."""
        fence, released, planned = self.seqs[run_id]
        found = tuple(s if isinstance(s, StepPlanned) else StepPlanned(s, started=s in start) for s in steps)
        for path in start:
            assert self.session.start_all(run_id, (path,), fence, self.desk.mono)
        plan = Plan(planned + 1, released, fence, groups, found, **what)
        if self.session.submit_plans(run_id, [plan]):
            self.seqs[run_id] = fence, released, planned + 1
        return plan

    def end(self, run_id: str = "r", output: bytes = b"done", **what: Any) -> Plan:
        return self.plan(run_id=run_id, body_ended=BodyEnded(Payload(output)), **what)

    def ok(self, path: str, run_id: str = "r", data: bytes = b"1", attempt: int = 1) -> Result:
        return self._result(run_id, path, attempt, Payload(data), None)

    def failed(self, path: str, run_id: str = "r", attempt: int = 1, code: ErrorCode = ErrorCode.USER_ERROR) -> Result:
        return self._result(run_id, path, attempt, None, Failure(code, "ValueError", "no"))

    def _result(self, run_id: str, path: str, attempt: int, output: Payload | None, failure: Failure | None) -> Result:
        fence = self.session.attempt_fence(run_id, path)
        assert fence is not None, f"{self.name} does not execute {path}"
        result = Result(path, attempt, fence, output, failure)
        self.session.submit_result(run_id, result)
        return result

    def holds(self, path: str, run_id: str = "r") -> bool:
        return self.session.attempt_fence(run_id, path) is not None


class Desk:
    """An engine on a store, with its hosts."""

    def __init__(self, rows: Rows | None = None, config: CoreConfig = CONFIG) -> None:
        self.mono = 100.0
        self.ahead_ms = 0
        """By how much somebody set the wall clock forward."""
        self.rows = rows or Rows()
        self.config = config
        self.hosts: list[Host] = []
        self.replies: list[Reply] = []
        self.held = False
        self.tampered = False
        """The test takes something out of the core's books, so that not everything has its owner."""
        self.sent = 0
        self._boot()

    @property
    def now(self) -> Now:
        return Now(self.mono, WALL + self.ahead_ms + round(self.mono * 1000))

    def _boot(self) -> None:
        store = self.rows.store
        self.core = EngineCore(self.config, store.claim(), store.last_run_number(), self.now)
        self.core.known_flows.update(store.known_flows() | {"flow"})
        self.core.recover(
            self.rows.open_runs(),
            store.sessions(),
            self.now,
            flow_options=store.flow_options(),
            inbox=store.inbox(),
        )
        self.in_flight: list[Commit] = []

    def restart(self) -> None:
        """The engine dies, with what was not committed, and another one takes over the store."""
        for host in self.hosts:
            host.session.disconnect()
            host.engine = None
        self._boot()

    # ---- doing

    def host(self, name: str = "h", *, connect: bool = True, **hello: Any) -> Host:
        """A new process; it is welcomed unless commits are held."""
        how: dict[str, Any] = {"flows": ("flow",), "steps": ("work",), "slots": 100, "bodies": 100, **hello}
        host = Host(self, Hello(name, f"{name}/{len(self.hosts)}", **how))
        self.hosts.append(host)
        if connect:
            host.connect()
            self.settle()
        return host

    def start(self, run_id: str = "r", *, key: str = "", flow: str = "flow", payload: Payload = INPUT) -> None:
        self.core.start_run(run_id, run_id=run_id, seed=7, flow=flow, payload=payload, key=key, now=self.now)

    def send(self, name: str, data: object = None, *, id: str = "", at_ms: int | None = None) -> None:
        """A client sends an event, due now or at `at_ms`."""
        now_ms = self.now.unix_ms
        payload = Payload(msgspec.json.encode(data))
        self.sent += 1
        event = EventRecord(id or f"event {self.sent}", name, payload, max(at_ms or 0, now_ms), now_ms)
        self.core.send_event(id or name, event, self.now)

    def settle(self) -> Desk:
        """Carry everything there is to carry."""
        for _ in range(1000):
            if not (self._from_hosts() | self._commits() | self._loads() | self._to_hosts()):
                assert not (unsaid := unexplained(self.core, self.now.unix_ms)), unsaid
                return self
        raise AssertionError("engine and hosts never come to rest")

    def _from_hosts(self) -> bool:
        moved = False
        for host in self.hosts:
            while host.engine is not None and (frame := host.session.take_frame(self.mono)) is not None:
                self.core.receive(host.engine, host.stream, frame, self.now)
                moved = True
        return moved

    def _commits(self) -> bool:
        taken = self.core.take_commits()
        self.in_flight += taken
        return bool(not self.held and self.commit()) or bool(taken)

    def commit(self, count: int | None = None, receipt: Receipt | None = None) -> int:
        """Commit the oldest `count` units in flight, or refuse them with `receipt`."""
        self.in_flight += self.core.take_commits()
        batch = self.in_flight[:count]
        self.in_flight = self.in_flight[len(batch) :]
        receipts = [receipt or self.rows.commit(c) for c in batch]
        self.core.committed(batch, receipts, self.now)
        return len(batch)

    def _loads(self) -> bool:
        loads = self.core.take_loads()
        for run in loads:
            self.core.journal_loaded(run, self.rows.journal(run.number), self.now)
        reads = self.core.take_reads()
        for read in reads:
            self.core.read_done(read, answer_of(self.rows.store, read), self.now)
        return bool(loads or reads)

    def _to_hosts(self) -> bool:
        self.replies += self.core.take_replies()
        self.core.take_changed()
        frames = self.core.take_frames()
        for session, frame in frames:
            for host in self.hosts:
                if host.engine is session and host.stream == session.stream:
                    host.receive(frame)
                    if session.closing:
                        host.cut()
        return bool(frames)

    def pass_time(self, seconds: float, *, step: float = 0.5, beat: bool = True) -> Desk:
        """Time passes in ticks; with `beat` connected hosts report."""
        end = self.mono + seconds
        while self.mono < end:
            self.mono = min(end, self.mono + step)
            if beat:
                self._from_hosts()
            self.core.tick(self.now)
            assert self.tampered or not (found := self.core.unowned()), found
            if beat:
                self.settle()
            else:
                self._commits()
                self._loads()
                self._to_hosts()
        return self

    def set_clock(self, seconds: float) -> Desk:
        """Somebody sets the wall clock by so much; no time passes."""
        self.ahead_ms += round(seconds * 1000)
        self.core.tick(self.now)
        return self.settle()

    def jump(self, seconds: float) -> Desk:
        """Time passes while everybody else stands still, as it does for a virtual clock."""
        self.mono += seconds
        self.core.tick(self.now)
        return self.settle()

    # ---- reading

    @property
    def kinds(self) -> list[str]:
        return [type(e).__name__ for e in self.rows.entries()]

    def run_state(self, run_id: str = "r") -> str:
        run = self.core.runs.get(run_id)
        if run is not None:
            return run.state.name
        record = self.rows.store.find_run(run_id)
        return "NONE" if record is None else record.state.name


def task(path: str, **how: Any) -> StepPlanned:
    """A registered step that any host serving "work" may run."""
    return StepPlanned(path, StepKind.TASK, "work", Payload(b"{}"), **how)


def running(*steps: str | StepPlanned, **what: Any) -> tuple[Desk, Host]:
    """A run whose body planned these steps on its only host."""
    desk = Desk()
    host = desk.host()
    desk.start()
    desk.settle()
    if steps:
        host.plan(*steps, **what)
        desk.settle()
    host.take()
    return desk, host


def advances(sections: list[EngineSection]) -> list[Advance]:
    return [section.advance for section in sections if section.advance is not None]
