"""A deterministic world: the real engine core and the real host session and replay cores, one thread, one heap.

Everything that can go wrong comes from one seeded generator: links cut and stay dark, engine and hosts crash at any
event, a commit in flight survives a crash or not, bodies are given back or stall, clients cancel runs and repeat
events. Ground truth is what the hosts saw, never the journal. `World(seed).run()` raises on the first broken
invariant; the same seed replays it.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import msgspec

from stepwire.protocol.frames import Advance, EngineFrame, Execute, Fault, HostFrame, Purpose, Result
from stepwire_engine.core.books import Commit, Now
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.engine import EngineCore
from stepwire_engine.core.fold import rebuild
from stepwire_engine.core.model import Run, durable_view
from stepwire_engine.core.reads import Read
from stepwire_engine.core.sessions import Session
from stepwire_engine.core.units import Receipt, UnitOutcome
from stepwire_engine.scheduler.reader import answer_of
from stepwire_engine.store.memory import MemoryStore
from tests.simulation import endings
from tests.simulation.clients import Clients
from tests.simulation.hosts import CALLS, Execution, Link, SimHost
from tests.simulation.programs import Author, Luck, StepOp
from tests.simulation.truth import Truth

CONFIG = CoreConfig(
    heartbeat_interval=1.0,
    silence_timeout=3.0,
    reconnect_grace=1.0,
    adoption_grace=2.5,
    attempts_lost_max=1000,
    timeout_grace=0.4,
    stop_grace=2.0,
    tick_interval=0.25,
    stall_forgiven=1.0,
    live_idle=1.0,
)
EPOCH_MS = 1_700_000_000_000
FAULTS = ("cut", "dark", "engine", "host", "evict", "stall", "refuse", "leave")
FEATURES = ("performed", "groups", "failures", "clients")
_TIME_MAX = 600.0
_RECOVERY = 1.5
"""Virtual time within which an engine has done again what the store refused."""


class World:
    """One seeded history.

    Args:
        seed: Everything random follows from it.
        faults: Chance of a fault per second of virtual time; 0 gives a clean history.
        kinds: Which faults may happen: cut links, dark links, crashes of the engine and of hosts, bodies given back,
            bodies that stall, commits that the store refuses, hosts that leave.
        features: What flows and clients do beyond steps and groups: "performed" steps, policies of "groups",
            "failures" for good, "clients" that cancel runs and send events.
        refusals: Chance that the store refuses a batch, beyond the faults.
        live_idle: As in CoreConfig.
    """

    def __init__(
        self,
        seed: int,
        *,
        faults: float = 0.8,
        kinds: tuple[str, ...] = FAULTS,
        features: tuple[str, ...] = FEATURES,
        refusals: float = 0.0,
        live_idle: float = 1.0,
        runs: int = 3,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = 0.0
        self.faults = faults
        self.kinds = kinds
        self.features = features
        self.refusals = refusals
        self.horizon = 12.0
        self.slots = self.rng.choice([1, 2, 4, 16])
        room = self.rng.choice([100_000, 100_000, 4])
        self.config = msgspec.structs.replace(CONFIG, live_idle=live_idle, runs_in_memory_max=room)
        self.reached: Counter[str] = Counter()
        self.body_entries: Counter[str] = Counter()
        self._entered: defaultdict[str, set[str]] = defaultdict(set)
        """Instances that had the body of a run."""
        self.flows = Author(self.rng, frozenset(features)).flows(runs)
        self.truth = Truth(self.flows, self.config.stop_grace, self.note)
        self.store = MemoryStore(notify=lambda then: then())
        self.store.open()
        self.core: EngineCore | None = None
        self.generation = 0
        self.outages: list[tuple[float, float]] = []
        """From when to when the engine was down, or busy with what the store had refused."""
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._tie = 0
        self._counts: Counter[str] = Counter()
        self._committing = False
        self._refuse_next = False
        self._queue: list[list[Commit]] = []
        self._batch: list[Commit] = []
        self._streams: dict[int, tuple[Session, int, SimHost, Link]] = {}
        self._executions: dict[tuple[str, str, str, int], Execution] = {}
        self.hosts = self._hosts()
        self.calls = self._calls()
        self.clients = Clients(self, runs)

    @property
    def executions(self) -> list[Execution]:
        return self.truth.executions

    @property
    def executions_by_number(self) -> dict[int, Execution]:
        return {execution.number: execution for execution in self.truth.executions}

    def _hosts(self) -> list[SimHost]:
        options = tuple([flow.options for flow in self.flows.values()])
        every = tuple(self.flows)
        hosts = []
        for index in range(self.rng.randint(1, 3)):
            flows = every if index == 0 or self.rng.random() < 0.8 else ()
            hosts.append(SimHost(self, f"h{index}", flows, options if flows else ()))
        return hosts

    def _calls(self) -> SimHost:
        return SimHost(self, CALLS, (), ())

    def count(self, what: str) -> int:
        self._counts[what] += 1
        return self._counts[what]

    def note(self, what: str) -> None:
        """A branch of the code that is rarely reached."""
        self.reached[what] += 1

    def at(self, delay: float, action: Callable[[], None]) -> None:
        self._tie += 1
        heapq.heappush(self._heap, (self.now + delay, self._tie, action))

    def present(self) -> Now:
        return Now(self.now, round(self.now * 1000) + EPOCH_MS)

    # ---- engine

    def boot(self) -> None:
        epoch = self.store.claim()
        self.generation += 1
        core = EngineCore(self.config, epoch, self.store.last_run_number(), self.present())
        core.known_flows.update(self.store.known_flows())
        inbox = self.store.inbox()
        if inbox:
            self.note("fact found in the inbox at start")
        core.recover(
            [(record.number, self.rows(record.number)) for record in self.store.open_runs()],
            self.store.sessions(),
            self.present(),
            flow_options=self.store.flow_options(),
            inbox=inbox,
        )
        self.core = core
        self._committing = False
        self._queue = []
        self.calls = self._calls()
        self.connect(self.calls)
        self.pump()
        generation = self.generation
        self.at(0.1, lambda: self.tick(generation))

    def rows(self, number: int) -> list[Any]:
        """The journal of a run, as the store has it."""
        return [row.entries for row in self.store.journal(number)]

    def tick(self, generation: int) -> None:
        if generation == self.generation and self.core is not None:
            self.core.tick(self.present())
            self.pump()
            self.at(0.1, lambda: self.tick(generation))

    def pump(self) -> None:
        core = self.core
        if core is None:
            return
        commits = core.take_commits()
        if commits:
            self._queue.append(commits)
        if self._queue and not self._committing:
            self._submit()
        for run in core.take_loads():
            self._later(lambda run=run: self._load(run))
        for read in core.take_reads():
            self._later(lambda read=read: self._answer(read))
        for session, frame in core.take_frames():
            stream = self._streams.get(id(session))
            if stream is not None and stream[1] == session.stream:
                self.send(stream[3], "host", frame, stream[2])
                if session.closing:
                    self.cut(stream[3], stream[2])
        self.clients.answered(core.take_replies())
        core.take_changed()
        core.take_ended()
        for run_id, error in core.take_incidents():
            raise AssertionError(f"the core failed on run {run_id}") from error

    def _submit(self) -> None:
        self._batch = [c for commits in self._queue for c in commits]
        self._queue = []
        self._committing = True
        generation, batch = self.generation, self._batch
        self.at(self.rng.uniform(0.001, 0.05), lambda: self._commit(generation, batch))

    def _later(self, action: Callable[[], None]) -> None:
        """After a while, if the engine that asks still runs."""
        generation = self.generation

        def late() -> None:
            if generation == self.generation and self.core is not None:
                action()
                self.pump()

        self.at(self.rng.uniform(0, 0.02 if self.rng.random() < 0.9 else 0.5), late)

    def _load(self, run: Run) -> None:
        assert self.core is not None
        rows = self.rows(run.number)
        if self.rng.random() < 0.5:
            self.core.journal_loaded(run, rows, self.present())
        else:
            core = self.core
            self._later(lambda: core.journal_loaded(run, rows, self.present()))

    def _answer(self, read: Read) -> None:
        assert self.core is not None
        self.core.read_done(read, answer_of(self.store, read), self.present())

    def _commit(self, generation: int, batch: list[Commit]) -> None:
        if generation != self.generation or self.core is None:
            return
        if self._refuse_next or (self.refusals and self.now < self.horizon and self.rng.random() < self.refusals):
            self._refuse_next = False
            self.note("commit refused")
            self.outages.append((self.now, self.now + _RECOVERY))
            receipts = [Receipt(UnitOutcome.REFUSED, reason="no space left")] * len(batch)
        else:
            receipts = self._store_batch(batch)
        if self.rng.random() < 0.02 and self.armed("engine"):
            self.note("crash after commit")
            self.crash_engine(committed=True)
            return
        self._committing = False
        self.core.committed(batch, receipts, self.present())
        self._check_runs(batch)
        self.pump()

    def _store_batch(self, batch: list[Commit]) -> list[Receipt]:
        receipts: list[Receipt] = []
        self.store.submit([commit.unit for commit in batch], receipts.extend)
        refused: set[int | None] = set()
        for commit, receipt in zip(batch, receipts, strict=True):
            assert receipt.outcome is not UnitOutcome.STALE_CLAIM, "a dead engine commits"
            if receipt.outcome is UnitOutcome.SEQ_CONFLICT:
                assert commit.turn is not None
                assert commit.turn.run.broken or commit.unit.run in refused, commit.unit
            elif receipt.outcome is not UnitOutcome.COMMITTED:
                refused.add(commit.unit.run)
            if receipt.outcome is UnitOutcome.COMMITTED:
                self.truth.woke(commit)
                self.truth.committed(commit, receipt, self.now, self.generation)
            else:
                self.note(f"unit {receipt.outcome.value}")
        return receipts

    def _check_runs(self, batch: list[Commit]) -> None:
        """Rebuild(journal) == live state, for runs with nothing in flight, and those that leave memory (I12)."""
        core = self.core
        assert core is not None
        for run in core.runs.values():
            if not run.in_flight and self.rng.random() < 0.05:
                again = rebuild(run.number, self.rows(run.number))
                assert durable_view(again) == durable_view(run), f"run {run.run_id}"
        for commit in batch:
            turn = commit.turn
            if turn is not None and turn.rests and turn.run.gone:
                self.note("dormant run")
                again = rebuild(turn.run.number, self.rows(turn.run.number))
                assert durable_view(again) == durable_view(turn.run), f"dormant run {turn.run.run_id}"
                endings.check_rest(self, turn.run.run_id, turn.wake_ms)

    def crash_engine(self, *, committed: bool = False) -> None:
        if self.core is None:
            return
        self.note("engine crash")
        if self._committing and not committed and not self._refuse_next and self.rng.random() < 0.5:
            self.note("crash with a commit that survived")
            self._store_batch(self._batch)
        self.core = None
        self.generation += 1
        self.clients.engine_lost()
        for _, _, host, link in list(self._streams.values()):
            self.cut(link, host)
        self._streams = {}
        self._lose(self.calls)
        down = self.rng.uniform(0.05, 1.0)
        self.outages.append((self.now, self.now + down))
        self.at(down, self.boot)

    # ---- links

    def send(self, link: Link, to: str, frame: Any, host: SimHost) -> None:
        arrival = max(link.arrives[to], self.now + self.rng.uniform(0.001, 0.03))
        link.arrives[to] = arrival
        told = []
        if isinstance(frame, EngineFrame):
            if frame.fault is not None and frame.fault.run_id:
                # Two hosts may believe that a run is theirs only if the engine forgot to whom it gave it last.
                assert self.reached["commit refused"], frame.fault
            told = [section.run_id for section in frame.runs if self.truth.told(section)]
        self.at(arrival - self.now, lambda: self.arrive(link, to, frame, host, told))

    def arrive(self, link: Link, to: str, frame: Any, host: SimHost, told: list[str]) -> None:
        if not link.alive:
            return
        if to == "host":
            if host.alive and host.link is link:
                host.stopped.update(told)
                host.receive(frame)
                if host.session.refused is not None:
                    self.cut(link, host)
            return
        core = self.core
        if core is None:
            self.cut(link, host)
            return
        assert isinstance(frame, HostFrame)
        if frame.hello is not None:
            if frame.hello.resume is not None:
                self.note("resume")
                if frame.hello.resume.first_unacked:
                    self.note("resume with an unacked plan or result")
            session = core.open_session(frame.hello, self.present())
            assert not isinstance(session, Fault), session
            self._streams[id(session)] = session, session.stream, host, link
        else:
            for session, stream, _, known in list(self._streams.values()):
                if known is link:
                    core.receive(session, stream, frame, self.present())
        self.pump()

    def cut(self, link: Link, host: SimHost, *, told: bool = True) -> None:
        """The link dies. With `told` both ends see it soon; otherwise the engine only hears silence."""
        if not link.alive:
            return
        link.alive = False
        host.unknown()
        self.at(self.rng.uniform(0, 0.05), lambda: self.host_sees_end(host, link))
        if told:
            self.at(self.rng.uniform(0, 0.05), lambda: self.engine_sees_end(link))

    def engine_sees_end(self, link: Link) -> None:
        for session, stream, _, known in list(self._streams.values()):
            if known is link and self.core is not None:
                self.core.close_stream(session, stream, self.present())
                self.pump()

    def host_sees_end(self, host: SimHost, link: Link) -> None:
        if host.alive and host.link is link:
            host.session.disconnect()
            host.link = None
            self.at(self.rng.uniform(0.01, 0.3), lambda: self.connect(host))

    def connect(self, host: SimHost) -> None:
        if not host.alive or host.link is not None:
            return
        if self.core is None:
            self.at(0.1, lambda: self.connect(host))
            return
        host.link = Link()
        host.session.connect()
        host.flush()

    # ---- what hosts do

    def execute(self, host: SimHost, run_id: str, execute: Execute, *, started: bool = False) -> None:
        """A host begins an attempt."""
        known = host.knows(run_id, execute.path) and not started
        execution = Execution(self.count("execution"), host, run_id, execute, self.now, known=known)
        self.truth.begins(execution, execute, self.generation, started=started)
        self._executions[host.instance, run_id, execute.path, execute.attempt] = execution
        host.running[run_id, execute.path] = execution
        luck = self._luck(run_id, execute, host)
        takes = self.rng.choice([0.0, 0.01, 0.2, 1.5])
        if execute.timeout is not None and takes > execute.timeout:
            self.at(execute.timeout, lambda: host.time_out(execution))
        self.at(takes, lambda: host.finish(execution, luck))

    def _luck(self, run_id: str, execute: Execute, host: SimHost) -> Luck:
        flow = self.flows[host.flow_of(run_id, execute)]
        op = self.truth.places[flow.name][execute.path.removesuffix("#undo")][0]
        assert isinstance(op, StepOp)
        if execute.undo is None:
            return op.luck
        assert op.undo is not None
        return op.undo[1]

    def acked(self, host: SimHost, run_id: str, result: Result) -> None:
        """A host may forget a success."""
        if self.core is None or self.reached["commit refused"]:
            return  # An engine that has read a run again does not know any more who had it.
        facts = self.truth.runs.get(run_id)
        if facts is None or facts.ended is not None:
            return
        run = self.core.runs.get(run_id) or rebuild(facts.number, facts.rows)
        execution = self._executions[host.instance, run_id, result.path, result.attempt]
        self.truth.acked(execution, result, run.steps.get(result.path))

    def note_entered(self, host: SimHost, run_id: str, advance: Advance) -> None:
        """A host enters a body."""
        if advance.purpose is Purpose.UNDO:
            self.note("undo by replay")
            if host.instance not in self._entered[run_id]:
                self.note("undo by replay on another host")
        self.body_entries[run_id] += 1
        self._entered[run_id].add(host.instance)

    # ---- faults

    def _lose(self, host: SimHost) -> None:
        """A host process is gone."""
        host.alive = False
        host.lose_attempts()
        if host.link is not None:
            self.cut(host.link, host)

    def _replace(self, host: SimHost) -> None:
        self._lose(host)
        fresh = SimHost(self, host.name, host.flows, host.options)
        self.hosts[self.hosts.index(host)] = fresh
        self.at(self.rng.uniform(0.1, 2.0), lambda: self.connect(fresh))

    def _evict_body(self) -> None:
        """A host gives a body back in the middle of its life."""
        host = self.rng.choice(self.hosts)
        bodies = [run_id for run_id, body in sorted(host.bodies.items()) if not (body.undoing or body.ended)]
        if bodies:
            self.note("evict")
            host.give_back(self.rng.choice(bodies))

    def _stall(self) -> None:
        """User code holds up the replay of its body, or does not do again what is recorded."""
        host = self.rng.choice(self.hosts)
        bodies = [run_id for run_id, body in sorted(host.bodies.items()) if not body.at_frontier]
        if bodies:
            self.note("body stalled")
            host.fail_body(self.rng.choice(bodies))

    def armed(self, kind: str) -> bool:
        return kind in self.kinds and self.faults > 0 and self.now < self.horizon

    def fault(self) -> None:
        if self.now >= self.horizon:
            return
        linked = [h for h in self.hosts if h.link is not None]
        host = self.rng.choice(self.hosts)
        match self.rng.choice(self.kinds):
            case "cut" if linked:
                host = self.rng.choice(linked)
                self.cut(host.link, host)
            case "dark" if linked:
                host = self.rng.choice(linked)
                self.note("dark link")
                self.cut(host.link, host, told=False)
            case "engine":
                self.crash_engine()
            case "host":
                self.note("host crash")
                self._replace(host)
            case "evict":
                self._evict_body()
            case "stall":
                self._stall()
            case "refuse":
                self._refuse_next = self.core is not None
            case "leave":
                self.note("host left")
                host.session.say_goodbye("leaves")
                host.flush()
                self._replace(host)
        self.at(self.rng.expovariate(self.faults), self.fault)

    # ---- history

    def run(self) -> None:
        """Play the history to its end and check it."""
        try:
            self._play()
            endings.check(self)
        except Exception as error:
            error.add_note(f"replay it: python -m tests.simulation {self.seed}  (virtual time {self.now:.3f})")
            raise

    def _play(self) -> None:
        self.boot()
        for host in self.hosts:
            self.at(self.rng.uniform(0, 0.1), lambda host=host: self.connect(host))
        self.clients.begin()
        if self.faults:
            self.at(self.rng.expovariate(self.faults), self.fault)
        self.at(0.2, self.beat)
        quiet_since: float | None = None
        while quiet_since is None or self.now < quiet_since + endings.QUIET_SECONDS:
            self.now, _, action = heapq.heappop(self._heap)
            assert self.now < _TIME_MAX, f"no progress, open: {self.open_runs()}"
            action()
            if not self._over():
                quiet_since = None
            elif quiet_since is None:
                quiet_since = self.now

    def beat(self) -> None:
        for host in (*self.hosts, self.calls):
            if host.alive:
                host.flush()
        self.at(0.2, self.beat)

    def open_runs(self) -> list[str]:
        return [f"{run_id} {facts.state.name}" for run_id, facts in self.truth.runs.items() if facts.ended is None]

    def _over(self) -> bool:
        if self.now < self.horizon or not self.clients.done or self.truth.inbox:
            return False
        if any(facts.ended is None for facts in self.truth.runs.values()):
            return False
        return len(self.truth.accepted) == len(self.truth.delivered)
