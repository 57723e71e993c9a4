"""A deterministic world: the real engine core and the real host session and replay cores, one thread, one heap.

Everything that can go wrong comes from one seeded generator: links cut and stay dark, engine and hosts
crash at any event, a commit in flight survives a crash or not. Ground truth is what the hosts saw, never
the journal. `World(seed).run()` raises on the first broken invariant; the same seed replays it.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from stepwire._replay.journal import BodyJournal
from stepwire._transport.session import HostSession
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import Advance, EngineFrame, EngineSection, Execute, Fault, Hello, HostFrame, Result
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Fence, StepKind
from stepwire_engine.core.books import Commit, Now
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.engine import EngineCore
from stepwire_engine.core.entries import Entry, Planned, RunEnded, RunState
from stepwire_engine.core.fold import rebuild
from stepwire_engine.core.model import durable_view
from stepwire_engine.core.units import Receipt, SessionRecord, UnitOutcome
from tests.simulation.programs import ProgramBody, expected_output, random_program, steps_by_path

CONFIG = CoreConfig(
    heartbeat_interval=1.0,
    silence_timeout=3.0,
    reconnect_grace=1.0,
    adoption_grace=2.5,
    attempts_lost_max=1000,
    tick_interval=0.25,
    stall_forgiven=1.0,
)


class Execution:
    """One time a host really ran a step; what tests believe."""

    def __init__(self, host: str, run_id: str, path: str, attempt: int, began: float) -> None:
        self.host = host
        self.run_id = run_id
        self.path = path
        self.attempt = attempt
        self.began = began
        self.acked: float | None = None
        self.succeeded = False


class SimStore:
    """Durable rows, and the batch that is being committed."""

    def __init__(self) -> None:
        self.epoch = 0
        self.rows: dict[int, list[tuple[Entry, ...]]] = {}
        self.open: dict[int, bool] = {}
        self.sessions: dict[str, SessionRecord] = {}
        self.last_number = 0

    def commit(self, commits: list[Commit]) -> list[Receipt]:
        receipts = []
        for commit in commits:
            unit = commit.unit
            assert unit.claim_epoch == self.epoch, "a dead engine commits"
            if unit.run is not None:
                rows = self.rows.setdefault(unit.run, [])
                assert len(rows) == unit.expected_seq, (unit.run, len(rows), unit.expected_seq)
                rows.append(unit.entries)
                self.last_number = max(self.last_number, unit.run)
                self.open[unit.run] = not any(isinstance(e, RunEnded) for e in unit.entries)
            for record in unit.sessions:
                self.sessions[record.instance_id] = record
            for gone in unit.sessions_gone:
                self.sessions.pop(gone, None)
            receipts.append(Receipt(UnitOutcome.COMMITTED))
        return receipts


class Link:
    """One stream: two FIFO directions. After `cut` nothing more arrives."""

    def __init__(self) -> None:
        self.alive = True
        self.arrives = {"engine": 0.0, "host": 0.0}


class SimHost:
    """A host process: session core, bodies and attempts."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.born = world.count("born")
        self.session = HostSession(
            Hello(name, f"{name}/{self.born}", ("flow",), ("work",), slots=world.slots, bodies=1000)
        )
        self.link: Link | None = None
        self.alive = True
        self.bodies: dict[str, tuple[ProgramBody, bool]] = {}
        self.outputs: dict[str, dict[str, Payload]] = {}
        self.waiting: dict[str, dict[str, Execute]] = {}
        self.executions: dict[tuple[str, str, int], Execution] = {}

    # ---- frames

    def receive(self, frame: EngineFrame) -> None:
        unacked = {id(r): (s.run_id, r) for _, ss in self.session._unacked for s in ss for r in s.results}
        sections = self.session.receive(frame, self.world.now)
        kept = {id(r) for _, ss in self.session._unacked for s in ss for r in s.results}
        for key, (run_id, result) in unacked.items():
            if key not in kept:
                execution = self.executions.get((run_id, result.path, result.attempt))
                if execution is not None and execution.acked is None:
                    execution.acked = self.world.now
        for section in sections:
            self._section(section)
        self.flush()

    def _section(self, section: EngineSection) -> None:
        run_id = section.run_id
        if section.evict is not None:
            body = self.bodies.get(run_id)
            if body is not None and body[0].journal.fence <= section.evict:
                self._drop(run_id)
        if section.advance is not None:
            self._advance(run_id, section.advance)
        for execute in section.executes:
            self._execute(run_id, execute)

    def _advance(self, run_id: str, advance: Advance) -> None:
        if advance.start is not None:
            journal = BodyJournal(advance.fence)
            journal.load(advance.entries, complete=not advance.more)
            body = ProgramBody(journal, self.world.programs[run_id])
            self.bodies[run_id] = body, advance.hold
            self.outputs[run_id] = {}
            self.world.body_entries[run_id] += 1
            body.enter()
        else:
            body, _ = self.bodies[run_id]
            self.bodies[run_id] = body, advance.hold
            for entry in advance.entries:
                if not body.journal.add_release(entry):
                    self._drop(run_id)
                    self.session.give_back(run_id, advance.fence)
                    return
        self._go_on(run_id)

    def _go_on(self, run_id: str) -> None:
        body, hold = self.bodies[run_id]
        while (release := body.journal.deliver()) is not None:
            if any(o.held and o.path not in self.outputs[run_id] for o in release.outcomes):
                self.world.reached["held output gone"] += 1
                fence = body.journal.fence
                self._drop(run_id)
                self.session.give_back(run_id, fence)
                return
            body.deliver(release, self.outputs[run_id])
        divergence = body.journal.divergence()
        assert divergence is None, divergence
        if not body.ended:
            assert body.journal.undelivered == 0, "a blocked body must have received everything"
        if not hold:
            self._start_closures(run_id, body)
        self.session.submit_plans(run_id, body.journal.take_plans())
        for path, execute in list(self.waiting.get(run_id, {}).items()):
            if path in body.reached:
                del self.waiting[run_id][path]
                self.world.execute(self, run_id, execute)
        if body.ended:
            self._drop(run_id)

    def _start_closures(self, run_id: str, body: ProgramBody) -> None:
        if not body.journal.caught_up:
            return
        fence = body.journal.fence
        new = body.journal.new_steps
        for planned in new:
            if planned.kind is StepKind.RUN and self.session.start(run_id, planned.path, fence, self.world.now):
                body.journal.mark_started([planned.path])
                self.world.execute(self, run_id, Execute(planned.path, 1, fence, StepKind.RUN))

    def _execute(self, run_id: str, execute: Execute) -> None:
        if execute.kind is StepKind.TASK:
            self.world.execute(self, run_id, execute)
            return
        body = self.bodies.get(run_id)
        if body is None:
            self.session.reject(run_id, execute, self.world.no_body)
        elif execute.path in body[0].reached:
            self.world.execute(self, run_id, execute)
        else:
            self.waiting.setdefault(run_id, {})[execute.path] = execute

    def _drop(self, run_id: str) -> None:
        self.bodies.pop(run_id, None)
        self.outputs.pop(run_id, None)
        for execute in self.waiting.pop(run_id, {}).values():
            if self.session.attempt_fence(run_id, execute.path) is not None:
                self.session.reject(run_id, execute, self.world.no_body)

    def finish(self, run_id: str, result: Result) -> None:
        """An attempt's body returned."""
        if not self.alive:
            return
        if result.output is not None and run_id in self.outputs:
            self.outputs[run_id][result.path] = result.output
        self.session.submit_result(run_id, result)
        self.flush()

    def flush(self) -> None:
        while self.link is not None and (frame := self.session.take_frame(self.world.now)) is not None:
            self.world.send(self.link, "engine", frame, self)


class World:
    """One seeded history.

    Args:
        seed: Everything random follows from it.
        faults: Chance of a fault per second of virtual time; 0 gives a clean history.
        kinds: Which faults may happen: "cut", "dark", "engine", "host", "evict".
    """

    def __init__(
        self, seed: int, *, faults: float = 0.8, kinds: tuple[str, ...] = ("cut", "dark", "engine", "host", "evict")
    ) -> None:
        from stepwire.protocol.frames import RejectReason

        self.no_body = RejectReason.NO_BODY
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = 0.0
        self.faults = faults
        self.kinds = kinds
        self.slots = self.rng.choice([1, 2, 4, 16])
        self.reached: Counter[str] = Counter()
        self.executions: list[Execution] = []
        self.body_entries: Counter[str] = Counter()
        self.programs: dict[str, Any] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._tie = 0
        self._counts: Counter[str] = Counter()
        self.store = SimStore()
        self.core: EngineCore | None = None
        self.generation = 0
        self.hosts = [SimHost(self, f"h{i}") for i in range(self.rng.randint(1, 3))]
        self._committing = False
        self._queue: list[list[Commit]] = []
        self._streams: dict[int, tuple[Any, int, SimHost, Link]] = {}

    def count(self, what: str) -> int:
        self._counts[what] += 1
        return self._counts[what]

    def at(self, delay: float, action: Callable[[], None]) -> None:
        self._tie += 1
        heapq.heappush(self._heap, (self.now + delay, self._tie, action))

    def present(self) -> Now:
        return Now(self.now, int(self.now * 1000) + 1_700_000_000_000)

    # ---- engine

    def boot(self) -> None:
        self.store.epoch += 1
        self.generation += 1
        core = EngineCore(CONFIG, self.store.epoch, self.store.last_number, self.present())
        core.recover(
            [(n, self.store.rows[n]) for n, is_open in self.store.open.items() if is_open],
            list(self.store.sessions.values()),
            self.present(),
        )
        core.known_flows.add("flow")
        self.core = core
        self._committing = False
        self._queue = []
        self.pump()
        generation = self.generation
        self.at(0.1, lambda: self.tick(generation))

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
            batch = [c for commits in self._queue for c in commits]
            self._queue = []
            self._committing = True
            generation = self.generation
            self._batch = batch
            self.at(self.rng.uniform(0.001, 0.05), lambda: self.commit(generation, batch))
        for run in core.take_loads():
            self.load(run)
        for session, frame in core.take_frames():
            stream = self._streams.get(id(session))
            if stream is not None and stream[1] == session.stream:
                self.send(stream[3], "host", frame, stream[2])
                if session.closing:
                    self.cut(stream[3], stream[2])
        core.take_replies()
        core.take_changed()

    def load(self, run: Any) -> None:
        rows = list(self.store.rows.get(run.number, []))
        generation = self.generation
        self.at(self.rng.uniform(0, 0.02), lambda: self.loaded(generation, run, rows))

    def loaded(self, generation: int, run: Any, rows: Any) -> None:
        if generation == self.generation and self.core is not None:
            self.core.journal_loaded(run, rows, self.present())
            self.pump()

    def commit(self, generation: int, batch: list[Commit]) -> None:
        if generation != self.generation or self.core is None:
            return
        receipts = self.store.commit(batch)
        if self.rng.random() < 0.02 and self.armed("engine"):
            self.reached["crash after commit"] += 1
            self.crash_engine(committed=True)
            return
        self._committing = False
        self.core.committed(batch, receipts, self.present())
        self.check_rebuild()
        self.pump()

    def check_rebuild(self) -> None:
        """Rebuild(journal) == live state, for every run with nothing in flight (I12)."""
        assert self.core is not None
        for run in self.core.runs.values():
            if not run.in_flight and self.rng.random() < 0.05:
                again = rebuild(run.number, self.store.rows[run.number])
                assert durable_view(again) == durable_view(run), f"seed {self.seed}: run {run.run_id}"

    def crash_engine(self, *, committed: bool = False) -> None:
        if self.core is None:
            return
        self.reached["engine crash"] += 1
        if self._committing and not committed and self.rng.random() < 0.5:
            self.reached["crash with a commit that survived"] += 1
            self.store.commit(self._batch)
        self.core = None
        self.generation += 1
        for _, _, host, link in list(self._streams.values()):
            self.cut(link, host)
        self._streams = {}
        self.at(self.rng.uniform(0.05, 1.0), self.boot)

    # ---- links

    def send(self, link: Link, to: str, frame: Any, host: SimHost) -> None:
        arrival = max(link.arrives[to], self.now + self.rng.uniform(0.001, 0.03))
        link.arrives[to] = arrival
        self.at(arrival - self.now, lambda: self.arrive(link, to, frame, host))

    def arrive(self, link: Link, to: str, frame: Any, host: SimHost) -> None:
        if not link.alive:
            return
        if to == "host":
            if host.alive and host.link is link:
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
                self.reached["resume"] += 1
                if frame.hello.resume.first_unacked:
                    self.reached["resume with an unacked plan or result"] += 1
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

    # ---- hosts

    def execute(self, host: SimHost, run_id: str, execute: Execute) -> None:
        execution = Execution(host.name, run_id, execute.path, execute.attempt, self.now)
        for earlier in self.executions:
            same = earlier.run_id == run_id and earlier.path == execute.path
            assert not (same and earlier.succeeded and earlier.acked is not None), (
                f"seed {self.seed}: {run_id} {execute.path} ran again after its ack"
            )
        self.executions.append(execution)
        host.executions[run_id, execute.path, execute.attempt] = execution
        fails = self.fails[run_id][execute.path]
        self.at(self.rng.choice([0.0, 0.01, 0.2, 1.5]), lambda: self.done(host, run_id, execute, execution, fails))

    def done(self, host: SimHost, run_id: str, execute: Execute, execution: Execution, fails: int) -> None:
        if not host.alive:
            return
        fence = host.session.attempt_fence(run_id, execute.path)
        if execute.attempt <= fails:
            failure = Failure(ErrorCode.USER_ERROR, "ValueError", f"attempt {execute.attempt}")
            result = Result(execute.path, execute.attempt, fence or execute.fence, None, failure)
        else:
            execution.succeeded = True
            result = Result(execute.path, execute.attempt, fence or execute.fence, Payload(execute.path.encode()))
        host.finish(run_id, result)

    def crash_host(self) -> None:
        host = self.rng.choice(self.hosts)
        if not host.alive:
            return
        self.reached["host crash"] += 1
        host.alive = False
        if host.link is not None:
            self.cut(host.link, host)
        fresh = SimHost(self, host.name)
        self.hosts[self.hosts.index(host)] = fresh
        self.at(self.rng.uniform(0.1, 2.0), lambda: self.connect(fresh))

    def evict_body(self) -> None:
        """A host gives a body back in the middle of its life."""
        host = self.rng.choice(self.hosts)
        if host.alive and host.bodies:
            run_id = self.rng.choice(sorted(host.bodies))
            fence: Fence = host.bodies[run_id][0].journal.fence
            host._drop(run_id)
            host.session.give_back(run_id, fence)
            self.reached["evict"] += 1
            host.flush()

    # ---- history

    def armed(self, kind: str) -> bool:
        return kind in self.kinds and self.faults > 0 and self.now < self.horizon

    def fault(self) -> None:
        if self.now >= self.horizon:
            return
        kind = self.rng.choice(self.kinds)
        linked = [h for h in self.hosts if h.link is not None]
        match kind:
            case "cut" if linked:
                host = self.rng.choice(linked)
                self.cut(host.link, host)
            case "dark" if linked:
                host = self.rng.choice(linked)
                self.reached["dark link"] += 1
                self.cut(host.link, host, told=False)
            case "engine":
                self.crash_engine()
            case "host":
                self.crash_host()
            case "evict":
                self.evict_body()
        self.at(self.rng.expovariate(self.faults), self.fault)

    def run(self, *, runs: int = 3) -> None:
        """Play the history to its end and check it."""
        self.horizon = 12.0
        self.fails = {}
        self.boot()
        for host in self.hosts:
            self.at(self.rng.uniform(0, 0.1), lambda host=host: self.connect(host))
        for index in range(runs):
            run_id = f"r{index}"
            self.programs[run_id] = random_program(self.rng)
            self.fails[run_id] = steps_by_path(self.programs[run_id])
            self.at(self.rng.uniform(0.2, 1.0), lambda run_id=run_id: self.start(run_id))
        if self.faults:
            self.at(self.rng.expovariate(self.faults), self.fault)
        self.at(0.2, self.beat)
        while self._heap and not self.finished():
            self.now, _, action = heapq.heappop(self._heap)
            assert self.now < 600, f"seed {self.seed}: no progress, open: {self.open_runs()}"
            action()
        self.check(runs)

    def start(self, run_id: str) -> None:
        if self.core is None:
            self.at(0.2, lambda: self.start(run_id))
            return
        key = f"key-{run_id}"
        if self.core.runs.get(run_id) is None and not self.started(run_id):
            self.core.start_run(
                run_id,
                run_id=run_id,
                seed=self.seed,
                flow="flow",
                payload=Payload(b"{}"),
                key=key,
                now=self.present(),
            )
            self.pump()
            self.at(0.5, lambda: self.start(run_id))

    def started(self, run_id: str) -> bool:
        return any(rows and rows[0][0].run_id == run_id for rows in self.store.rows.values())

    def beat(self) -> None:
        for host in self.hosts:
            if host.alive:
                host.flush()
        self.at(0.2, self.beat)

    def open_runs(self) -> list[str]:
        return [r for r in self.programs if not self.ended(r)]

    def ended(self, run_id: str) -> bool:
        return any(
            rows[0][0].run_id == run_id and not self.store.open[number] for number, rows in self.store.rows.items()
        )

    def finished(self) -> bool:
        return len(self.programs) > 0 and not self.open_runs()

    def check(self, runs: int) -> None:
        """Every run ended once, with the output its program must have; nothing acked ran again."""
        assert len(self.store.rows) == runs, f"seed {self.seed}: {len(self.store.rows)} runs"
        for number, rows in self.store.rows.items():
            entries = [e for row in rows for e in row]
            run = rebuild(number, rows)
            assert run.state is RunState.SUCCEEDED, f"seed {self.seed}: {run.state!r}"
            assert sum(isinstance(e, RunEnded) for e in entries) == 1
            last = [e.plan for e in entries if isinstance(e, Planned)][-1]
            assert last.body_ended is not None and last.body_ended.output is not None
            output = last.body_ended.output.data.decode()
            assert output == repr(expected_output(self.programs[run.run_id])), f"seed {self.seed}"
            assert set(run.steps) == set(self.fails[run.run_id])
            plan_seqs = [e.plan.plan_seq for e in entries if isinstance(e, Planned)]
            assert plan_seqs == list(range(1, len(plan_seqs) + 1))
