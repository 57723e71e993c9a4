"""A host that is connected: its session, its runtime and its link, from start to drain (MISSION P2, P3).

`host.py` is what users register; this is what runs because of it, on the loop it was started in.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any, Protocol

from stepwire._runtime.executor import HostRuntime
from stepwire._runtime.telemetry import HostTelemetry
from stepwire._transport.grpc_link import GrpcLink
from stepwire._transport.port import SessionPort
from stepwire._transport.session import HostSession
from stepwire.codec import Codec
from stepwire.context import context_of
from stepwire.flow import FlowFunction, StepFunction
from stepwire.hooks import Hook
from stepwire.protocol.frames import EngineFrame, Hello
from stepwire.protocol.plan import ParallelMode

logger = logging.getLogger("stepwire.host")

_LAG_INTERVAL = 0.5
_LAG_TOO_LONG = 1.0


class Served(Protocol):
    """What a `stepwire.Host` says of itself."""

    name: str
    flows: dict[str, FlowFunction[..., Any]]
    steps: dict[str, StepFunction[..., Any]]
    hooks: list[Hook]
    codec: Codec
    parallel_mode: ParallelMode
    branch_threads: int
    body_stall_timeout: float
    telemetry: HostTelemetry

    def hello(self) -> Hello:
        """A fresh greeting; each is of another instance."""


def runtime_of(host: Served, port: SessionPort, loop: asyncio.AbstractEventLoop) -> HostRuntime:
    """The bodies and attempts of one connection."""
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
        hooks=host.hooks,
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
        self.port = SessionPort(HostSession(host.hello()), time.monotonic)
        self.runtime = runtime_of(host, self.port, self.loop)
        self._link = GrpcLink(engine, self.port, self._on_frame, self._on_reconnect)
        self._lag: asyncio.TimerHandle | None = None
        host.telemetry.refresh.append(self._gauges)

    def start(self) -> None:
        self._link.start()
        self._watch_lag(self.loop.time())

    def wait_refused(self, stop: asyncio.Event) -> None:
        """Block until the engine refused this host for good, or `stop` is set."""
        while not stop.is_set() and not self._link.refused.wait(0.2):
            pass

    async def stop(self, drain_timeout: float) -> None:
        """Drain, say goodbye, and end the session's threads."""
        with self.port.lock:
            self.port.session.drain(drain_timeout)
        self.port.ring()
        deadline = self.loop.time() + drain_timeout
        while self.loop.time() < deadline and not (self.runtime.handed_over and self.port.session.settled):
            if self.runtime.handed_over and not self.port.session.connected:
                break  # Nobody is there to take what is left; it is safe with the engine's journal.
            await asyncio.sleep(0.02)
        await self._hooks_drained(deadline)
        self._link.leave()
        with self.port.lock:
            self.port.session.say_goodbye("drained")
        self.port.ring()
        await self.loop.run_in_executor(None, self._link.stop, 2.0)
        self.runtime.close()
        if self._lag is not None:
            self._lag.cancel()
        if self._gauges in self.host.telemetry.refresh:
            self.host.telemetry.refresh.remove(self._gauges)

    async def _hooks_drained(self, deadline: float) -> None:
        if not self.runtime.hooks:
            return
        try:
            async with asyncio.timeout(max(0.0, deadline - self.loop.time())):
                await self.runtime.hooks.drained()
        except TimeoutError:
            logger.warning("hooks of host %s had not finished when it was stopped", self.host.name)

    # ---- from the link's threads

    def _on_frame(self, frame: EngineFrame, sections: list[Any]) -> None:
        self.host.telemetry.frames["in"] += 1
        if os.getpid() != self.pid:
            return
        self.loop.call_soon_threadsafe(self._handle, frame, sections)

    def _handle(self, frame: EngineFrame, sections: list[Any]) -> None:
        if frame.welcome is not None:
            self.runtime.welcome(frame.welcome)
            logger.info("host %s connected to engine %s", self.host.name, self._link.address)
        if sections:
            self.runtime.handle(sections)

    def _on_reconnect(self) -> None:
        self.host.telemetry.reconnects += 1

    # ---- loop lag

    def _watch_lag(self, due: float) -> None:
        lag = max(0.0, self.loop.time() - due)
        self.host.telemetry.loop_lag_seconds.observe(lag)
        if lag > _LAG_TOO_LONG:
            logger.warning("the event loop of host %s was blocked for %.1f s", self.host.name, lag)
        self.port.session.loop_lag = lag
        self._lag = self.loop.call_later(_LAG_INTERVAL, self._watch_lag, self.loop.time() + _LAG_INTERVAL)

    def _gauges(self) -> None:
        session = self.port.session
        self.host.telemetry.bodies_live = session.bodies
        self.host.telemetry.slots["busy"] = session.attempts
        self.host.telemetry.slots["free"] = max(0, session.free_slots)
