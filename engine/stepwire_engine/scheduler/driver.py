"""The loop around the core: events in, commits, frames and answers out, everything on one asyncio loop.

It decides nothing and keeps no state of runs. The order is that of `core/engine.py`: events are fed, their
commits submitted, and what they cause is performed after the receipts. LAW. There is no task per step and no
lock: events only note that the core has something to say, and one `_pump` per turn of the loop takes it all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import EngineFrame, Fault, Hello, HostFrame
from stepwire_engine.clock import Clock
from stepwire_engine.core.books import Commit
from stepwire_engine.core.commits import STORE_FULL
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.engine import EngineCore
from stepwire_engine.core.refusal import CallRefused
from stepwire_engine.core.units import Receipt, UnitOutcome
from stepwire_engine.scheduler.event_log import EventLog
from stepwire_engine.scheduler.gauges import CommitLog, Gauges
from stepwire_engine.scheduler.ports import ENGINE_INSTANCE, Attached, Port
from stepwire_engine.scheduler.questions import Questions
from stepwire_engine.scheduler.reader import Reader
from stepwire_engine.scheduler.runs import RunBounds, Runs
from stepwire_engine.scheduler.takeover import take_stock
from stepwire_engine.store.base import Store, StoreError, StoreLocked
from stepwire_engine.telemetry import Telemetry

LAG_INTERVAL = 0.25
"""Seconds between two looks at how late the loop is."""
ABSORB_INTERVAL = 0.25
"""Seconds between two looks at the counters; timers may fire far more often."""
ARM_INTERVAL = 0.005
"""Seconds for which the timer is not set anew while commits are in flight; many events arm something later."""
DRAINING = "engine is draining"
RETRY_DRAINING_SECONDS = 1.0
"""When the next engine may be there, as clients are told that come while this one stops."""
COMMITS_SETTLE_SECONDS = 1.0
"""How long a stopping engine waits for commits in flight; what is not answered by then, hosts send again."""

_log = logging.getLogger("stepwire.engine.driver")


class Driver:
    """One engine on one loop.

    Args:
        config: Of the core.
        store: Not open yet; it must call back on the loop that runs `start`.
        clock: Time and identifiers.
        telemetry: Filled from the core's counters.
        bounds: What is accepted from clients at once.
        sessions_max: Hosts connected at once.
        steady: Arm timers on the loop. Without it nothing happens by time: a virtual clock calls `tick`.
        on_failed: Told that the store failed; the process must end with the error's `exit_code`.
    """

    def __init__(
        self,
        config: CoreConfig,
        store: Store,
        clock: Clock,
        telemetry: Telemetry,
        *,
        bounds: RunBounds | None = None,
        sessions_max: int = 1000,
        steady: bool = True,
        on_failed: Callable[[StoreError], None] | None = None,
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._telemetry = telemetry
        self._bounds = bounds or RunBounds(payload_bytes_max=config.payload_bytes_max)
        self._sessions_max = sessions_max
        self._steady = steady
        self._on_failed = on_failed
        self.commits = CommitLog()
        self.store_failure: StoreError | None = None
        self.draining = False
        self._reader = Reader(store)
        self._told = EventLog(config)
        self._attached: dict[str, Attached] = {}
        self._deaf = False
        self._stopped = False
        self._woken = False
        self._in_flight = 0
        self._units = 0
        self._idle = asyncio.Event()
        self._no_attempts = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = self._looked = 0.0  # On the core's clock.
        self._lag_timer: asyncio.TimerHandle | None = None
        self._absorb_at = 0.0

    # ---- life

    async def start(self) -> None:
        """Open the store, claim it, and take over its open runs. Raises StoreError."""
        self._loop = asyncio.get_running_loop()
        try:
            self._core = await self._reader.read(self._recovered)
        except BaseException:
            self._reader.close()
            await asyncio.to_thread(self._store.close)
            raise
        self._questions = Questions(
            self._core, self._store, self._reader, self._clock, wake=self._wake, failed=self.store_failed
        )
        self.runs = Runs(
            self._core, self._store, self._reader, self._clock, self._bounds, self._wake, lambda: self._units
        )
        self._gauges = Gauges(self._core, self._telemetry, self.commits, self._clock, self.runs.lacks)
        if self._steady:
            self._lag_due = self._loop.time() + LAG_INTERVAL
            self._lag_timer = self._loop.call_at(self._lag_due, self._measure_lag)
        self.tick()

    def _recovered(self) -> EngineCore:
        """Blocking, and before anything can reach the core."""
        store = self._store
        store.open()
        epoch = store.claim()
        now = self._clock.now()
        core = EngineCore(self._config, epoch, store.last_run_number(), now)
        core.known_flows.update(store.known_flows())
        found = take_stock(store)
        core.recover(
            found.journals,
            found.sessions,
            self._clock.now(),
            flow_options=store.flow_options(),
            inbox=found.inbox,
            unreadable=found.unreadable,
            unrecorded=found.unrecorded,
            dormant=store.count_dormant(),
        )
        core.counters.damaged_rows = len(found.damage)
        if found.journals:
            _log.info("took over %d open runs", len(found.journals))
        return core

    @property
    def core(self) -> EngineCore:
        """What this loop drives. Read only."""
        return self._core

    @property
    def accepting(self) -> bool:
        """The store takes commits."""
        return self.store_failure is None and self._store.accepting

    async def drain(self, deadline: float) -> None:
        """Take no new work and wait until no attempt is in progress, at most `deadline` seconds."""
        self.draining = True
        self.runs.close_intake(_refused_draining())
        self._core.drain(deadline, self._clock.now())
        self._wake()
        try:
            async with asyncio.timeout(deadline):
                await self._no_attempts.wait()
        except TimeoutError:
            _log.warning("%d attempts are still in progress after %g s; hosts keep them", self._attempts(), deadline)

    async def stop(self) -> None:
        """Finish the commits in flight, say goodbye to every host, close the store. Idempotent."""
        if self._stopped:
            return
        self.draining = self._deaf = True
        refusal = _refused_draining()
        self.runs.close_intake(refusal)
        if self.store_failure is None:
            try:
                async with asyncio.timeout(COMMITS_SETTLE_SECONDS):
                    await self.settled()
            except TimeoutError:
                _log.warning("commits are still in flight after %g s", COMMITS_SETTLE_SECONDS)
        self.runs.end(refusal)
        self._core.say_goodbye("engine stops")
        self._send_frames()
        for attached in list(self._attached.values()):
            attached.close()
        for timer in (self._timer, self._lag_timer):
            if timer is not None:
                timer.cancel()
        self._stopped = True
        self._gauges.detach()
        self._reader.close()
        await asyncio.to_thread(self._store.close)

    async def settled(self) -> None:
        """Wait until nothing is queued, being committed or being read, or until the store failed."""
        while not (self.idle or self.store_failure):
            self._idle.clear()
            await self._idle.wait()

    @property
    def idle(self) -> bool:
        """Nothing is queued, being committed or being read."""
        return not (self._woken or self._in_flight or self._questions.pending)

    def store_failed(self, error: StoreError) -> None:
        """The outcome of a commit is unknown: nothing is accepted or sent any more, restart decides."""
        if self.store_failure is not None:
            return
        self.store_failure = error
        self.draining = self._deaf = True
        _log.critical("the store failed: %s", error)
        self.runs.end(CallRefused(ErrorCode.STORE_UNAVAILABLE, "the store failed; it is unknown what was accepted"))
        self._idle.set()
        if self._on_failed is not None:
            self._on_failed(error)

    # ---- hosts

    def connect(self, hello: Hello, port: Port) -> Attached | Fault:
        """A stream said Hello: its session, or the Fault to refuse it with. Welcome follows through the port."""
        refused = self._refusal(hello)
        if refused is not None:
            return refused
        session = self._core.open_session(hello, self._clock.now())
        if isinstance(session, Fault):
            return session
        replaced = self._attached.get(session.id)
        if replaced is not None:
            fault = Fault(ErrorCode.REPLACED, "session replaced by a newer stream of the same instance")
            replaced.send(EngineFrame(number=replaced.last_number + 1, fault=fault))
            replaced.close()
        attached = self._attached[session.id] = Attached(session, session.stream, port)
        _log.info("host %s connected, instance %s, stream %d", hello.service, hello.instance_id, session.stream)
        self._wake()
        return attached

    def _refusal(self, hello: Hello) -> Fault | None:
        if self.store_failure is not None:
            return Fault(ErrorCode.STORE_UNAVAILABLE, "the store failed; nothing was accepted")
        if self._deaf or (self.draining and hello.instance_id not in self._core.sessions):
            # A host whose stream was cut may return while the engine waits for its results.
            return Fault(ErrorCode.DRAINING, DRAINING)
        if not self._store.accepting:  # Nor does one that was closed: that an engine stops was said before.
            return Fault(ErrorCode.STORE_FULL, STORE_FULL)
        others = len(self._attached.keys() - {ENGINE_INSTANCE, hello.instance_id})
        if others >= self._sessions_max and hello.instance_id not in (ENGINE_INSTANCE, *self._attached):
            return Fault(ErrorCode.LIMIT_EXCEEDED, f"{others} hosts are connected (sessions_max); try later")
        return None

    def receive(self, attached: Attached, frame: HostFrame) -> None:
        """A frame of an attached stream; those of replaced streams and of a stopping engine are ignored."""
        if self._deaf:
            return
        session = attached.session
        if session.stream == attached.stream:
            session.written = attached.written
        self._core.receive(session, attached.stream, frame, self._clock.now())
        if frame.fault is not None:
            _log.warning("host %s: %s: %s", attached.session.service, frame.fault.code.slug, frame.fault.message)
        if frame.goodbye is not None or (frame.fault is not None and not frame.fault.run_id):
            self._close(attached)
        if not self._woken:
            self._wake()

    def congestion(self, attached: Attached, congested: bool) -> None:
        """Much waits to be written to a host, or no longer; for the core to give its work to others."""
        self._core.congestion(attached.session, attached.stream, congested, self._clock.now())
        self._wake()

    def disconnected(self, attached: Attached) -> None:
        """The stream ended, for whatever reason. Idempotent."""
        if self._attached.get(attached.session.id) is attached:
            del self._attached[attached.session.id]
        self._core.close_stream(attached.session, attached.stream, self._clock.now())
        _log.info("host %s disconnected, instance %s", attached.session.service, attached.session.instance_id)
        self._wake()

    # ---- the pump

    def _wake(self) -> None:
        """The core may have something to say: take it once, after everything else that is ready now."""
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._woken = False
        if self._stopped or self.store_failure is not None:
            return
        core, queues = self._core, self._core.queues
        if (queues.commits or queues.lines) and (commits := core.take_commits()):
            self._submit(commits)
        if queues.loads or queues.reads:
            self._questions.take()
        if queues.ended:
            self.runs.note_ended(core.take_ended())  # Before frames are written: somebody may wait for the result.
        if queues.speaking:
            self._send_frames()
        if queues.incidents or queues.repairs or queues.lost:
            self._told.defects(core.take_incidents(), core.take_repairs())
            self._told.lost(core.take_lost())
        if queues.replies:
            self.runs.answer(core.take_replies())
        if queues.changed:
            self.runs.note_changed(core.take_changed())
        if self._steady and not (self._in_flight and queues.now.mono < self._looked + ARM_INTERVAL and self._timer):
            self._arm()  # Otherwise what is armed is looked at after the receipts.
        if self.draining and not self._attempts():
            self._no_attempts.set()
        if self.idle:
            self._idle.set()

    def _submit(self, commits: list[Commit]) -> None:
        self._in_flight += 1
        self._units += len(commits)
        try:
            self._store.submit([commit.unit for commit in commits], partial(self._committed, commits))
        except StoreError as error:
            self.store_failed(error)

    def _committed(self, commits: Sequence[Commit], receipts: Sequence[Receipt]) -> None:
        self._in_flight -= 1
        self._units -= len(commits)
        if UnitOutcome.STALE_CLAIM in [receipt.outcome for receipt in receipts]:
            return self.store_failed(StoreLocked("another engine has claimed this database; this one ends"))
        try:
            self._core.committed(commits, receipts, self._clock.now())
        except ExceptionGroup as failed:
            for defect in failed.exceptions:
                _log.error("the core failed on a receipt", exc_info=defect)
        self._told.committed(commits, receipts)
        if self._in_flight or self._woken:
            self._wake()  # The receipts of the same commit follow at once; what they all cause is sent together.
        else:
            self._pump()  # There are none, and a turn of the loop is a tenth of a fast commit.

    def _send_frames(self) -> None:
        for session, frame in self._core.take_frames():
            attached = self._attached.get(session.id)
            if attached is not None and attached.session is session and session.stream == attached.stream:
                attached.send(frame)
                if session.closing:
                    self._close(attached)

    def _close(self, attached: Attached) -> None:
        """End a stream and give it nothing more to do; its transport reports the end later."""
        attached.close()
        self._core.close_stream(attached.session, attached.stream, self._clock.now())

    def _attempts(self) -> int:
        return sum(len(session.leases) for session in self._core.sessions.values())

    # ---- time

    def tick(self) -> None:
        """Time has passed.

        It stands still for the core while the store is full: whatever it decided would be refused, and hosts that it
        cannot hear must not be lost. The first tick after that is late, which the core forgives.
        """
        if self._deaf:
            return
        self._questions.note_damage()
        if self._store.accepting:
            try:
                self._core.tick(self._clock.now())
            except Exception:
                _log.exception("the core failed on a tick")
        if (now := self._loop.time()) >= self._absorb_at:
            self._absorb_at = now + ABSORB_INTERVAL
            self._gauges.absorb()
        self._wake()

    def _arm(self) -> None:
        """One timer for the core. It also beats when the core waits for nothing, so that a stall is seen as one."""
        if self._deaf:
            return
        self._looked = self._core.queues.now.mono
        due = self._core.next_due() if self._store.accepting else None
        if self._timer is not None:
            if due is None or due >= self._armed_for:
                return  # It fires soon enough, and then looks again.
            self._timer.cancel()
        now = self._clock.now().mono
        wait = self._config.tick_interval
        if due is not None:
            wait = min(max(0.0, due - now), wait)
        self._armed_for = now + wait
        self._timer = self._loop.call_later(wait, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self.tick()

    def _measure_lag(self) -> None:
        now = self._loop.time()
        self._telemetry.loop_lag_seconds.observe(max(0.0, now - self._lag_due))
        self._lag_due = now + LAG_INTERVAL
        self._lag_timer = self._loop.call_at(self._lag_due, self._measure_lag)


def _refused_draining() -> CallRefused:
    return CallRefused(ErrorCode.DRAINING, DRAINING, retry_after=RETRY_DRAINING_SECONDS)
