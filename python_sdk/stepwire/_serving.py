"""A host that is connected: its session, its runtime and its link, from start to drain (MISSION P2, P3).

`host.py` is what users register; this is what runs because of it, on the loop it was started in.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from typing import Any, Protocol

import msgspec

from stepwire._runtime import keeping as bodies
from stepwire._runtime.executor import HostRuntime
from stepwire._runtime.logs import LogShipper
from stepwire._runtime.telemetry import HostTelemetry
from stepwire._runtime.tracing import makers_of
from stepwire._transport.grpc_link import GrpcLink
from stepwire._transport.port import SessionPort
from stepwire._transport.session import HostSession
from stepwire.codec import Codec
from stepwire.context import context_of
from stepwire.flow import FlowFunction, StepFunction
from stepwire.hooks import Hook
from stepwire.protocol import limits
from stepwire.protocol.frames import EngineFrame, Hello
from stepwire.protocol.plan import ParallelMode

logger = logging.getLogger("stepwire.host")

_LAG_INTERVAL = 0.1
_LAG_TOO_LONG = 1.0
_DRAIN_POLL = 0.02
STOP_SECONDS = 0.5
"""What attempts get to stop once they were told to, at the end of a drain."""
LEAVE_SECONDS = 0.75
"""What the Goodbye gets to reach the engine."""


class Served(Protocol):
    """What a `stepwire.Host` says of itself."""

    name: str
    flows: dict[str, FlowFunction[..., Any]]
    steps: dict[str, StepFunction[..., Any]]
    hooks: list[Hook]
    codec: Codec
    parallel_mode: ParallelMode
    branch_threads: int
    bodies: int
    body_bytes: int
    body_idle: float
    body_stall_timeout: float
    tracing: bool
    telemetry: HostTelemetry
    log_handler: LogShipper

    def hello(self) -> Hello:
        """A fresh greeting; each is of another instance."""


def runtime_of(
    host: Served, port: SessionPort, loop: asyncio.AbstractEventLoop, keeping: bodies.Keeping | None = None
) -> HostRuntime:
    """The bodies and attempts of one connection.

    Args:
        keeping: Which bodies stay in memory; None: as many as the host's bounds allow.
    """
    return HostRuntime(
        port,
        host.flows,
        host.steps,
        loop=loop,
        codec=host.codec,
        parallel_mode=host.parallel_mode,
        branch_threads=host.branch_threads,
        body_stall_timeout=host.body_stall_timeout,
        telemetry=host.telemetry,
        context_of=context_of,
        keeping=keeping or bodies.bounded(host.bodies, host.body_bytes, host.body_idle),
        hooks=host.hooks,
        logs=host.log_handler,
        makers=makers_of(host.name, host.tracing),
    )


class RunningHost:
    """A host that serves: its session, runtime and link.

    Args:
        host: What is served.
        engine: Address of the engine.
    """

    def __init__(self, host: Served, engine: str) -> None:
        self.host = host
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        hello = host.hello()
        # Only here: within one process there is no round trip that could be saved.
        hello = msgspec.structs.replace(hello, ahead=min(hello.slots, limits.AHEAD_MAX))
        self.port = SessionPort(HostSession(hello), time.monotonic, host.log_handler.lines)
        self.runtime = runtime_of(host, self.port, self.loop)
        self._link = GrpcLink(engine, self.port, self._on_frame, self._on_reconnect, self._on_traffic)
        self._lag: asyncio.TimerHandle | None = None
        self._hurried = False
        self._answered = asyncio.Event()
        host.telemetry.refresh.append(self._gauges)

    def start(self) -> None:
        self.host.log_handler.attach()
        self._link.start()
        self._watch_lag(self.port.clock())

    async def first_answer(self, seconds: float) -> None:
        """Wait until the engine welcomed this host, or the first dial failed; at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._answered.wait()
        except TimeoutError:
            logger.info("engine %s has not answered host %s yet", self._link.address, self.host.name)

    def wait_refused(self, stop: asyncio.Event) -> None:
        """Block until the engine refused this host for good, or `stop` is set."""
        while not stop.is_set() and not self._link.refused.wait(0.2):
            pass

    # ---- the end

    def begin_drain(self, seconds: float) -> None:
        """Take no new work from now on, and tell the engine so. From any thread; idempotent."""
        with self.port.lock:
            if self.port.session.draining:
                return
            self.port.session.drain(seconds)
        self.port.ring()

    def hurry(self) -> None:
        """Do not wait for attempts any more. From any thread."""
        self._hurried = True

    async def stop(self, drain_timeout: float) -> None:
        """Drain, hand back what is left, say goodbye, and end the session's threads.

        It takes `drain_timeout` and at most STOP_SECONDS + LEAVE_SECONDS more, whatever user code does.
        """
        deadline = self.loop.time() + drain_timeout
        try:
            self.begin_drain(drain_timeout)
            self.runtime.drain()
            await self._wait_drained(deadline, hurry=True)
            await self._hooks_drained(deadline)
            if not self._drained():
                await self._give_up()
        finally:
            await self._left()
            self._close()

    async def _left(self) -> None:
        """`leave`, on a thread of its own: user code may hold all those of the loop's executor."""
        left = asyncio.Event()

        def leave() -> None:
            self.leave(LEAVE_SECONDS)
            self.loop.call_soon_threadsafe(left.set)

        threading.Thread(target=leave, name="stepwire-leave", daemon=True).start()
        await left.wait()

    def leave(self, seconds: float) -> None:
        """Say goodbye, which hands back whatever is left, and end the stream. Blocks; from any thread; idempotent."""
        self._link.leave()
        with self.port.lock:
            self.port.session.say_goodbye("drained")
        self.port.ring()
        self._link.stop(seconds)

    def _drained(self) -> bool:
        """Nothing runs, and nothing that ran could still be told to the engine."""
        with self.port.lock:
            session = self.port.session
            if session.attempts or not self.runtime.handed_over:
                return False
            # Without an engine only outcomes are worth waiting: bodies are made again from its journal.
            nobody = self._link.refused.is_set() or not (session.connected or session.owes_outcomes)
            return session.settled or nobody

    async def _wait_drained(self, deadline: float, *, hurry: bool) -> None:
        while not self._drained() and self.loop.time() < deadline:
            if hurry and self._hurried:
                return
            await asyncio.sleep(_DRAIN_POLL)

    async def _give_up(self) -> None:
        """The time is over. What stops when it is told to does not run on beside its next attempt elsewhere."""
        left = self.port.session.attempts
        if left:
            logger.warning("host %s hands back %d attempts that are not finished", self.host.name, left)
        self.runtime.stop_attempts()
        await self._wait_drained(self.loop.time() + STOP_SECONDS, hurry=False)

    def _close(self) -> None:
        self.runtime.close()
        self.host.log_handler.detach()
        if self._lag is not None:
            self._lag.cancel()
        if self._gauges in self.host.telemetry.refresh:
            self.host.telemetry.refresh.remove(self._gauges)

    async def _hooks_drained(self, deadline: float) -> None:
        if not self.runtime.hooks or self._hurried:
            return
        try:
            async with asyncio.timeout(max(0.0, deadline - self.loop.time())):
                await self.runtime.hooks.drained()
        except TimeoutError:
            logger.warning("hooks of host %s had not finished when it was stopped", self.host.name)

    # ---- from the link's threads

    def _on_frame(self, frame: EngineFrame, sections: list[Any]) -> None:
        if os.getpid() != self.pid:
            return
        self.loop.call_soon_threadsafe(self._handle, frame, sections)

    def _handle(self, frame: EngineFrame, sections: list[Any]) -> None:
        if frame.welcome is not None:
            self.runtime.welcome(frame.welcome)
            self._answered.set()
            logger.info("host %s connected to engine %s", self.host.name, self._link.address)
        if sections:
            self.runtime.handle(sections)

    def _on_reconnect(self) -> None:
        self.host.telemetry.reconnects += 1
        if not self._answered.is_set():
            self.loop.call_soon_threadsafe(self._answered.set)

    def _on_traffic(self, direction: str, frames: int, size: int) -> None:
        self.host.telemetry.frames[direction] += frames
        self.host.telemetry.frame_bytes[direction] += size

    # ---- loop lag

    def _watch_lag(self, due: float) -> None:
        now = self.port.clock()
        lag = max(0.0, now - due)
        self.host.telemetry.loop_lag_seconds.observe(lag)
        if lag > _LAG_TOO_LONG:
            logger.warning("the event loop of host %s was blocked for %.1f s", self.host.name, lag)
        with self.port.lock:
            # Reports are made by the session's own threads: they see that a tick is overdue while the loop is blocked.
            self.port.session.loop_ticked(now, now + _LAG_INTERVAL)
        self._lag = self.loop.call_later(_LAG_INTERVAL, self._watch_lag, now + _LAG_INTERVAL)

    def _gauges(self) -> None:
        session = self.port.session
        self.host.telemetry.connected = int(session.connected)
        self.host.telemetry.bodies_live = session.bodies
        self.host.telemetry.slots["busy"] = session.attempts
        self.host.telemetry.slots["free"] = max(0, session.free_slots)
