"""The process of the engine: the real core in a shell that does what `scheduler/driver.py` does, in the same order.

Between any two steps it can crash; it can be stopped for a while and go on; it can be told to stop and drain. What it
had in memory is then gone, and only the disk is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import EngineFrame, Fault, HostFrame
from stepwire_engine.core.books import Commit, Now
from stepwire_engine.core.commits import STORE_FULL
from stepwire_engine.core.engine import EngineCore
from stepwire_engine.core.fold import rebuild
from stepwire_engine.core.model import Run, durable_view
from stepwire_engine.core.reads import DormantPage, Read, UndoOutputs
from stepwire_engine.core.sessions import Session
from stepwire_engine.core.units import Receipt
from stepwire_engine.scheduler.reader import answer_of
from stepwire_engine.scheduler.takeover import take_stock
from stepwire_engine.store.base import StoreCorrupt
from tests.simulation.hosts import CALLS, SimHost
from tests.simulation.network import Attachment, Link
from tests.simulation.process import Gate
from tests.simulation.reader import SlowPage
from tests.simulation.waits import check_rest

if TYPE_CHECKING:
    from tests.simulation.simulator import World

TICK_SECONDS = 0.1
HEALTHY_SECONDS = 6.0
"""A host without trouble for so long (silence and both graces, and what a Welcome takes) must not be given up."""


class EngineProcess:
    """The engine of a world, through all its lives.

    Attributes:
        core: None while no engine runs.
        generation: Counts its lives.
        draining: It was told to stop and takes nothing new.
        calls: The host inside of it.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.core: EngineCore | None = None
        self.generation = 0
        self.draining = False
        self.gate = Gate(world)
        self.calls = SimHost(world, CALLS, (), (), gate=self.gate)
        self._deaf = False
        self._commits_open = 0

    def present(self) -> Now:
        clock = self._world.clock
        return Now(clock.mono(self._world.now), clock.unix_ms(self._world.now))

    def at(self, delay: float, action: Callable[[], None]) -> None:
        """Do something later in this life, and not while the process is stopped."""
        generation = self.generation

        def later() -> None:
            if generation == self.generation and self.core is not None:
                action()

        self._world.at(delay, lambda: self.gate.act(later))

    # ---- life

    def boot(self) -> None:
        world = self._world
        store = world.disk.store
        epoch = store.claim()
        self.generation += 1
        self.draining = self._deaf = False
        self._commits_open = 0
        self.gate = Gate(world)
        core = EngineCore(world.config, epoch, store.last_run_number(), self.present())
        core.known_flows.update(store.known_flows())
        stock = take_stock(store)
        if stock.inbox:
            world.note("fact found in the inbox at start")
        for number in stock.unreadable:
            world.note("journal unreadable at start")
            world.truth.unreadable(number)
        core.recover(
            stock.journals,
            stock.sessions,
            self.present(),
            flow_options=store.flow_options(),
            inbox=stock.inbox,
            unreadable=stock.unreadable,
            unrecorded=stock.unrecorded,
            dormant=store.count_dormant(),
        )
        self.core = core
        self.calls = SimHost(world, CALLS, (), (), gate=self.gate)
        self.calls.connect()
        self.pump()
        self.at(TICK_SECONDS, self.tick)

    def crash(self) -> None:
        """The process is gone."""
        if self.core is None:
            return
        self._world.note("engine crash")
        self._world.disk.crash()
        self._end()

    def may_crash(self, where: str) -> None:
        """One of the boundaries at which a crash is possible."""
        world = self._world
        if self.core is not None and world.step_crashes and world.armed("engine"):
            if world.rng.random() < world.step_crashes:
                world.note(where)
                self.crash()

    def stall(self, seconds: float) -> None:
        """The process is stopped and goes on; its timers may come before what its sockets have got, or after."""
        self._world.note("engine stopped for a while")
        self._world.disturbed(self._world.now + seconds)
        if self._world.rng.random() < 0.5:
            generation = self.generation
            self._world.at(seconds, lambda: self._tick_at_once(generation))
        self.gate.shut_for(seconds)
        for host in self._world.every_host():
            host.trouble_at += seconds

    def drain(self, deadline: float) -> None:
        """The process is told to stop: nothing new, what is in flight may finish, then goodbye."""
        if self.core is None or self.draining:
            return
        self._world.note("engine drains")
        self.draining = True
        self.core.drain(deadline, self.present())
        self.pump()
        self._drained(self._world.now + deadline)

    def _drained(self, until: float) -> None:
        if self.core is None:
            return
        if self._world.now < until and any(session.leases for session in self.core.sessions.values()):
            self.at(0.02, lambda: self._drained(until))
            return
        self._deaf = True
        self._stop()

    def _stop(self) -> None:
        """Wait for the commits in flight, then say goodbye."""
        if self.core is None:
            return
        if self._commits_open or self.core.take_loads():
            self.at(0.01, self._stop)
            return
        self.core.say_goodbye("engine stops")
        self._send_frames(self.core)
        if self.core is not None:
            self._end()

    def _end(self) -> None:
        world = self._world
        core, self.core = self.core, None
        assert core is not None
        world.counted(core.counters)
        self.generation += 1
        world.clients.engine_lost()
        world.network.engine_lost()
        self.calls.lost()
        down = world.rng.uniform(0.05, 1.0)
        world.disturbed(world.now + down)
        world.at(down, self.boot)

    # ---- time

    def _tick_at_once(self, generation: int) -> None:
        if generation == self.generation and self.core is not None:
            self._tick(self.core)

    def tick(self) -> None:
        if self.core is not None and not self._deaf:
            self._tick(self.core)
        self.at(TICK_SECONDS, self.tick)

    def _tick(self, core: EngineCore) -> None:
        before = list(core.sessions.values())
        core.tick(self.present())
        for session in before:
            if core.sessions.get(session.id) is not session:
                self._check_loss(session)
        self.pump()

    def _check_loss(self, session: Session) -> None:
        """I4: a lease of a healthy host does not expire, whatever happened to the engine."""
        world = self._world
        world.note("session lost")
        world.disturbances += 1
        host = world.network.host_of(session)
        if host is not None and host.link is not None:
            world.network.doubt(host.link)
        attached = world.network.attachment(session)
        there = host is not None and attached is not None and host.alive and host.link is attached.link
        if host is None or not there or host.gate.shut or not attached.link.alive:
            return
        healthy = world.now - host.trouble_at
        assert healthy <= HEALTHY_SECONDS, f"I4: {session.id} was given up after {healthy:.1f} s without trouble"

    # ---- frames

    def receive(self, link: Link, frame: HostFrame) -> None:
        if self.core is None or self._deaf:
            return
        if frame.hello is not None:
            self._greet(self.core, link, frame)
        else:
            attached = self._world.network.by_link(link)
            if attached is not None:
                self.core.receive(attached.session, attached.stream, frame, self.present())
                if frame.goodbye is not None:
                    self._world.note("goodbye")
                    self._world.network.cut(link)
        self.may_crash("engine crash after a frame")
        self.pump()

    def _greet(self, core: EngineCore, link: Link, frame: HostFrame) -> None:
        world = self._world
        assert frame.hello is not None
        if frame.hello.resume is not None:
            world.note("resume")
            if frame.hello.resume.first_unacked:
                world.note("resume with an unacked plan or result")
        session: Session | Fault
        if self.draining and frame.hello.instance_id not in core.sessions:
            session = Fault(ErrorCode.DRAINING, "engine is draining")
        elif world.disk.full and world.rng.random() < 0.5:  # The driver may not know yet.
            session = Fault(ErrorCode.STORE_FULL, STORE_FULL)
        else:
            session = core.open_session(frame.hello, self.present())
        if isinstance(session, Fault):
            assert session.code in (ErrorCode.DRAINING, ErrorCode.STORE_FULL), session
            world.network.send(link, "host", EngineFrame(number=1, fault=session))
            world.network.close(link)
        else:
            world.network.attach(link, session)

    def stream_ended(self, attached: Attachment) -> None:
        if self.core is not None:
            self.core.close_stream(attached.session, attached.stream, self.present())
            self.pump()

    def _send_frames(self, core: EngineCore) -> None:
        network = self._world.network
        for session, frame in core.take_frames():
            attached = network.attachment(session)
            if attached is None:
                continue
            attached.last_number = frame.number
            if frame.fault is not None and frame.fault.run_id:
                # Two hosts may believe that a run is theirs only if the engine forgot to whom it gave it last.
                assert self._world.forgetful, f"I5: {frame.fault}"
            network.send(attached.link, "host", frame)
            if session.closing:
                network.close(attached.link)
                core.close_stream(session, attached.stream, self.present())
            self.may_crash("engine crash between two frames")
            if self.core is not core:
                return

    # ---- the pump

    def pump(self) -> None:
        """Everything that the core has to say, in the order of the driver."""
        core = self.core
        if core is None:
            return
        commits = core.take_commits()
        if commits:
            self._world.truth.submitted(commits)
            self._commits_open += 1
            self._world.disk.write(commits, self._committed)
        for run in core.take_loads():
            self._later(lambda run=run: self._load(run))
        for read in core.take_reads():
            self._later(lambda read=read: self._answer(read))
        self.may_crash("engine crash before it spoke")
        if self.core is not core:
            return
        self._send_frames(core)
        if self.core is not core:
            return
        self._world.clients.answered(core.take_replies())
        core.take_changed()
        core.take_ended()
        for run_id, error in core.take_incidents():
            raise AssertionError(f"the core failed on run {run_id}") from error
        repairs = core.take_repairs()
        assert not repairs, f"I18: {repairs}"

    def _committed(self, batch: list[Commit], receipts: list[Receipt]) -> None:
        if self.core is None:
            return
        self._commits_open -= 1
        self.core.committed(batch, receipts, self.present())
        if self._world.rng.random() < 0.02:
            self.check_owners()
        self._check_runs(self.core, batch)
        self.pump()

    def check_owners(self) -> None:
        """I18: every open run and step has exactly one owner."""
        if self.core is not None:
            unowned = self.core.unowned()
            assert not unowned, f"I18: {unowned}"

    def _check_runs(self, core: EngineCore, batch: list[Commit]) -> None:
        """I12: rebuild(journal) is the live state, for runs with nothing in flight, and those that leave memory."""
        world = self._world
        for run in core.runs.values():
            if not run.in_flight and world.rng.random() < 0.05:
                again = rebuild(run.number, world.rows(run.number))
                assert durable_view(again) == durable_view(run), f"I12: run {run.run_id} is not what its journal says"
        for commit in batch:
            turn = commit.turn
            if turn is not None and turn.rests and turn.run.gone:
                world.note("dormant run")
                again = rebuild(turn.run.number, world.rows(turn.run.number))
                assert durable_view(again) == durable_view(turn.run), f"I12: dormant run {turn.run.run_id}"
                check_rest(world, turn.run.run_id, turn.wake_ms)

    # ---- reading

    def _later(self, action: Callable[[], None]) -> None:
        def read() -> None:
            action()
            self.pump()

        rng = self._world.rng
        self.at(rng.uniform(0, 0.02 if rng.random() < 0.9 else 0.5), read)

    def _load(self, run: Run) -> None:
        core = self.core
        assert core is not None
        try:
            rows: list[Any] = [row.entries for row in self._world.disk.store.journal(run.number)]
        except StoreCorrupt as error:
            self._keep_aside(core, run, error)
            return
        if self._world.rng.random() < 0.5:
            core.journal_loaded(run, rows, self.present())
        else:
            self._later(lambda: core.journal_loaded(run, rows, self.present()))

    def _answer(self, read: Read) -> None:
        assert self.core is not None
        if self._world.slow_reads and isinstance(read, DormantPage):
            self._answer_slowly(self.core, read)
            return
        try:
            answer = answer_of(self._world.disk.store, read)
        except StoreCorrupt as error:
            assert isinstance(read, UndoOutputs)
            self._keep_aside(self.core, read.run, error)
        else:
            self.core.read_done(read, answer, self.present())

    def _answer_slowly(self, core: EngineCore, page: DormantPage) -> None:
        """While a page is read everything else goes on, and also after that, before its answer comes."""
        slow = SlowPage(self._world.disk.store, page)

        def read_on() -> None:
            answer = slow.answer()
            self._later(lambda: core.read_done(page, answer, self.present()))

        self._later(read_on)

    def _keep_aside(self, core: EngineCore, run: Run, error: StoreCorrupt) -> None:
        self._world.note("journal unreadable")
        self._world.truth.unreadable(run.number)
        core.journal_unreadable(run, self.present(), error.what)
