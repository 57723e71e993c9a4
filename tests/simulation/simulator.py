"""A deterministic world: the real engine core and the real host session and replay cores, one thread, one heap.

Everything that can go wrong comes from one seeded generator: links that break in every way, processes that crash
between any two steps, are stopped or leave, a disk that loses what was not synced, is full or damaged, clocks that
drift and jump, clients that cancel runs and repeat events. Ground truth is what the hosts did, never the journal.
`World(seed).run()` raises on the first broken invariant; the same seed replays it.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import msgspec

from stepwire.protocol.frames import Advance, Execute, Purpose, Result
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.counters import Counters
from stepwire_engine.core.engine import EngineCore
from stepwire_engine.core.fold import rebuild
from tests.simulation import endings
from tests.simulation.clients import Clients
from tests.simulation.clocks import Clock
from tests.simulation.disk import Disk, SimStore
from tests.simulation.engine_process import EngineProcess
from tests.simulation.faults import FAULTS as FAULTS_BY_NAME
from tests.simulation.hosts import Execution, SimHost
from tests.simulation.network import Link, Network
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
FAULTS = tuple(FAULTS_BY_NAME)
FEATURES = ("performed", "groups", "failures", "clients")
CONVERGENCE_SECONDS = 120.0
"""I14: virtual time after the last fault within which every run has ended and nothing is left."""
_RECOVERY = 1.5
"""Virtual time within which an engine has done again what the store refused."""
_WIRED_SHARE = 1 / 8
_SLOW_READS_SHARE = 1 / 3
_STEP_CRASHES = (0.0, 0.0, 0.0005, 0.002)


class World:
    """One seeded history.

    Args:
        seed: Everything random follows from it.
        faults: Chance of a fault per second of virtual time; 0 gives a clean history.
        kinds: Which faults may happen, as `faults.py` names them. Of all of them, each history has about half.
        features: What flows and clients do beyond steps and groups: "performed" steps, policies of "groups",
            "failures" for good, "clients" that cancel runs and send events.
        refusals: Chance that the store refuses a batch, beyond the faults.
        live_idle: As in CoreConfig.
        runs: Runs that clients start.
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
        self.asked_for = kinds, features
        self.kinds = self._mixed(kinds)
        self.features = features
        self.refusals = refusals
        self.horizon = 12.0
        self.slots = self.rng.choice([1, 2, 4, 16])
        ahead = random.Random(f"ahead {seed}")
        self.ahead = ahead.choice([0, 1, 2, 3])
        """Executes that hosts keep beyond their slots; by dice of their own, so that what else a seed plays stays."""
        self.step_crashes = self.rng.choice(_STEP_CRASHES)
        self.wired = self.rng.random() < _WIRED_SHARE
        room = self.rng.choice([100_000, 100_000, 4])
        pace = ahead.choice([CONFIG.ahead_pace, 2.0, 2.0])
        self.alike = ahead.random() < 0.5
        """Both sides may let one message speak for several items, where there are messages."""
        self.config = msgspec.structs.replace(CONFIG, live_idle=live_idle, runs_in_memory_max=room, ahead_pace=pace)
        self.slow_reads = random.Random(f"reads {seed}").random() < _SLOW_READS_SHARE
        """The reconciler looks often, and the store takes its time to answer it."""
        if self.slow_reads:
            self.config = msgspec.structs.replace(self.config, reconcile_interval=0.5)
        self.reached: Counter[str] = Counter()
        self.faults_injected = 0
        self.disturbances = 0
        """What may have made the engine give something out again: trouble of links, hosts and engines."""
        self.body_entries: Counter[str] = Counter()
        self._entered: defaultdict[str, set[str]] = defaultdict(set)
        """Instances that had the body of a run."""
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._tie = 0
        self._counts: Counter[str] = Counter()
        self._executions: dict[tuple[int, str, str, int], Execution] = {}
        self.outages: list[tuple[float, float]] = []
        """From when to when the engine was down, or busy with what the store had refused."""
        self.flows = Author(self.rng, frozenset(features)).flows(runs)
        self.drifts = "clock" in self.kinds and bool(faults)
        self.clock = Clock(self.rng, drifts=self.drifts)
        self.truth = Truth(self.flows, self.config.stop_grace, self.note, self.clock)
        self.disk = Disk(self, SimStore())
        self.disk.store.open()
        self.network = Network(self, wired=self.wired)
        self.engine = EngineProcess(self)
        self.hosts = self._hosts()
        self.clients = Clients(self, runs)

    def _mixed(self, kinds: tuple[str, ...]) -> tuple[str, ...]:
        """Of every kind about half: what many faults at once would hide, few of them show."""
        if kinds != FAULTS:
            return kinds
        return tuple([kind for kind in kinds if self.rng.random() < 0.5]) or kinds

    def _hosts(self) -> list[SimHost]:
        options = tuple([flow.options for flow in self.flows.values()])
        every = tuple(self.flows)
        hosts = []
        for index in range(self.rng.randint(1, 3)):
            flows = every if index == 0 or self.rng.random() < 0.8 else ()
            hosts.append(SimHost(self, f"h{index}", flows, options if flows else ()))
        return hosts

    # ---- reading

    @property
    def core(self) -> EngineCore | None:
        """The engine that runs, if one does."""
        return self.engine.core

    @property
    def generation(self) -> int:
        return self.engine.generation

    @property
    def store(self) -> SimStore:
        """What is safe."""
        return self.disk.store

    @property
    def executions(self) -> list[Execution]:
        return self.truth.executions

    @property
    def executions_by_number(self) -> dict[int, Execution]:
        return {execution.number: execution for execution in self.truth.executions}

    @property
    def forgetful(self) -> bool:
        """An engine of this world has read a run again, and does not know who had what of it."""
        return bool(self.reached["commit refused"] or self.reached["journal damaged"])

    def rows(self, number: int) -> list[Any]:
        """The journal of a run, as it was written."""
        return [row.entries for row in self.disk.store.written(number)]

    def every_host(self) -> list[SimHost]:
        return [*self.hosts, self.engine.calls]

    def any_host(self) -> SimHost:
        return self.rng.choice(self.hosts)

    def any_link(self) -> Link | None:
        links = [host.link for host in self.hosts if host.link is not None and host.link.alive]
        return self.rng.choice(links) if links else None

    # ---- bookkeeping

    def count(self, what: str) -> int:
        self._counts[what] += 1
        return self._counts[what]

    def note(self, what: str) -> None:
        """A branch of the code that is rarely reached."""
        self.reached[what] += 1

    def at(self, delay: float, action: Callable[[], None]) -> None:
        self._tie += 1
        heapq.heappush(self._heap, (self.now + delay, self._tie, action))

    def disturbed(self, until: float) -> None:
        """The engine is not at work until then, or does again what was refused."""
        self.outages.append((self.now, until + _RECOVERY))

    def counted(self, counters: Counters) -> None:
        """What one life of the engine counted."""
        self.reached["attempt adopted"] += counters.attempts_adopted
        self.reached["body adopted"] += counters.bodies_adopted
        self.reached["stale result"] += counters.stale_results
        self.reached["repeated result"] += counters.repeated_results
        self.reached["attempt lost"] += sum(counters.attempts_lost.values())

    def padding(self) -> int:
        """Bytes that make an output too large for one message, sometimes, where there are messages."""
        return self.rng.randint(60_000, 300_000) if self.wired and self.rng.random() < 0.05 else 0

    # ---- what hosts do

    def execute(self, host: SimHost, run_id: str, execute: Execute, *, started: bool = False) -> None:
        """A host begins an attempt."""
        known = host.given(run_id, execute.path) and not started
        execution = Execution(self.count("execution"), host, run_id, execute, self.now, known=known)
        self.truth.begins(execution, execute, self.generation, started=started)
        self._executions[host.serial, run_id, execute.path, execute.attempt] = execution
        host.running[run_id, execute.path] = execution
        assert len(host.running) <= host.session.slots, f"I4: {host.name} executes more than it has slots for"
        luck = self._luck(run_id, execute, host)
        takes = self.rng.choice([0.0, 0.01, 0.2, 1.5])
        if execute.timeout is not None and takes > execute.timeout:
            host.at(execute.timeout, lambda: host.time_out(execution))
        host.at(takes, lambda: host.finish(execution, luck))

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
        if self.core is None or self.forgetful:
            return  # An engine that has read a run again does not know any more who had it.
        facts = self.truth.runs.get(run_id)
        if facts is None or facts.ended is not None:
            return
        if facts.dormant and self.clock.jumped:
            return  # Its host was lost, and its attempt is due again only when the clock says so: the result is stale.
        run = self.core.runs.get(run_id) or rebuild(facts.number, facts.rows)
        execution = self._executions[host.serial, run_id, result.path, result.attempt]
        self.truth.acked(execution, result, run)

    def note_entered(self, host: SimHost, run_id: str, advance: Advance) -> None:
        """A host enters a body."""
        if advance.purpose is Purpose.UNDO:
            self.note("undo by replay")
            if host.instance not in self._entered[run_id]:
                self.note("undo by replay on another host")
        self.body_entries[run_id] += 1
        self._entered[run_id].add(host.instance)

    # ---- faults

    def replace(self, host: SimHost) -> None:
        """The host's process is gone, and another one of its name comes soon."""
        if host not in self.hosts:
            return
        host.lost()
        if len([other for other in self.hosts if other.name == host.name]) > 1:
            self.hosts.remove(host)
            return
        fresh = SimHost(self, host.name, host.flows, host.options)
        self.hosts[self.hosts.index(host)] = fresh
        self.at(self.rng.uniform(0.1, 2.0), fresh.connect)

    def armed(self, kind: str) -> bool:
        return kind in self.kinds and self.faults > 0 and self.now < self.horizon

    def _fault(self) -> None:
        if self.now < self.horizon:
            self.faults_injected += 1
            FAULTS_BY_NAME[self.rng.choice(self.kinds)](self)
            self.at(self.rng.expovariate(self.faults), self._fault)

    def _may_crash(self) -> None:
        """After every event each process may crash, if it is the seed's will."""
        self.engine.may_crash("engine crash between two events")
        if self.armed("host") and self.rng.random() < self.step_crashes / 2:
            self.note("host crash between two events")
            self.replace(self.any_host())

    # ---- history

    @property
    def replay(self) -> str:
        """The command that plays this history again."""
        kinds, features = self.asked_for
        options = [f"--kinds={','.join(kinds)}"] if kinds != FAULTS else []
        options += [f"--features={','.join(features)}"] if features != FEATURES else []
        options += [f"--faults={self.faults:g}"] if self.faults != 0.8 else []
        options += [f"--refusals={self.refusals:g}"] if self.refusals else []
        options += [f"--live-idle={self.config.live_idle:g}"] if self.config.live_idle != 1.0 else []
        return " ".join(["python -m tests.simulation", str(self.seed), *options])

    def run(self) -> None:
        """Play the history to its end and check it."""
        try:
            self._play()
            endings.check(self)
        except Exception as error:
            error.add_note(f"replay it: {self.replay}  (virtual time {self.now:.3f})")
            raise

    def _play(self) -> None:
        self.engine.boot()
        for host in self.hosts:
            self.at(self.rng.uniform(0, 0.1), host.connect)
        self.clients.begin()
        if self.faults:
            self.at(self.rng.expovariate(self.faults), self._fault)
        self.at(0.2, self._beat)
        self.at(self.horizon, self.clock.settle)
        quiet_since: float | None = None
        while quiet_since is None or self.now < quiet_since + endings.QUIET_SECONDS:
            self.now, _, action = heapq.heappop(self._heap)
            assert self.now < self.horizon + CONVERGENCE_SECONDS, f"I14: no progress, open: {self.open_runs()}"
            action()
            if self.step_crashes:
                self._may_crash()
            if not self._over():
                quiet_since = None
            elif quiet_since is None:
                quiet_since = self.now
        assert self.core is not None
        self.engine.check_owners()
        self.counted(self.core.counters)

    def _beat(self) -> None:
        for host in self.every_host():
            host.beat()
        self.at(0.2, self._beat)

    def open_runs(self) -> list[str]:
        return [f"{run_id} {facts.state.name}" for run_id, facts in self.truth.runs.items() if facts.ended is None]

    @property
    def is_open(self) -> bool:
        """Some run that can end has not ended."""
        stuck = self.truth.stuck()
        return any(facts.ended is None and run_id not in stuck for run_id, facts in self.truth.runs.items())

    def _over(self) -> bool:
        if self.now < self.horizon or not self.clients.done or self.core is None:
            return False
        if not all(host.settled for host in self.every_host()):
            return False
        stuck = self.truth.stuck()
        if any(not self.truth.is_for(row, stuck) for row in self.truth.inbox.values()):
            return False
        return not self.is_open and len(self.truth.accepted) == len(self.truth.delivered)
