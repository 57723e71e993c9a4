"""A step host: what a service registers, and how it stays connected to its engine (MISSION P2, P3)."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import platform
import secrets
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar, overload

from prometheus_client import CollectorRegistry

from stepwire._runtime.executor import HostRuntime
from stepwire._runtime.telemetry import HostTelemetry, host_registry
from stepwire._transport.grpc_link import GrpcLink
from stepwire._transport.port import SessionPort
from stepwire._transport.session import HostSession
from stepwire.codec import JSON_CODEC, Codec
from stepwire.context import context_of
from stepwire.errors import ConfigurationError
from stepwire.flow import FlowFunction, StepFunction
from stepwire.protocol.frames import EngineFrame, Hello
from stepwire.protocol.plan import ParallelMode
from stepwire.retry import Duration, Retry, duration

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("stepwire.host")

DEFAULT_ENGINE = "127.0.0.1:7380"
SDK_VERSION = "0.1.0"
GC_ALLOCATIONS = 20_000
"""Allocations of containers between two collections of the youngest generation, in `Host.run`."""
_LAG_INTERVAL = 0.5
_LAG_TOO_LONG = 1.0


class Host:
    """A process that serves flows and steps.

    Args:
        name: Name of the service, 1..256 bytes; shown everywhere, an identity nowhere.
        slots: Attempts that run at once, 1..10000; sync steps get as many threads.
        bodies: Live bodies at once, 1..100000.
        parallel_mode: Of groups whose call and flow name none.
        codec: How inputs and outputs are encoded.
        build_id: Names this build of the code, for the record.
        branch_threads: Threads for the branches of sync flows, 1..20000.
        body_stall_timeout: How long a replaying body may stay in user code without progress.

    Raises:
        ConfigurationError: an argument outside its bounds.
    """

    def __init__(
        self,
        name: str,
        *,
        slots: int = 256,
        bodies: int = 1000,
        parallel_mode: ParallelMode = ParallelMode.WAIT,
        codec: Codec = JSON_CODEC,
        build_id: str = "",
        branch_threads: int = 2048,
        body_stall_timeout: Duration = 60.0,
    ) -> None:
        _check_bound("slots", slots, 10_000)
        _check_bound("bodies", bodies, 100_000)
        _check_bound("branch_threads", branch_threads, 20_000)
        if not 0 < len(name.encode()) <= 256:
            raise ConfigurationError("a host needs a name of 1..256 bytes")
        self.name = name
        self.slots = slots
        self.bodies = bodies
        self.parallel_mode = parallel_mode
        self.codec = codec
        self.build_id = build_id
        self.branch_threads = branch_threads
        self.body_stall_timeout = duration(body_stall_timeout)
        self.flows: dict[str, FlowFunction[..., Any]] = {}
        self.steps: dict[str, StepFunction[..., Any]] = {}
        self.telemetry = HostTelemetry()
        self.registry: CollectorRegistry = host_registry(self.telemetry)
        self._running: RunningHost | None = None

    # ---- registering

    @overload
    def flow(self, fn: Callable[P, T], /) -> FlowFunction[P, T]: ...

    @overload
    def flow(
        self, /, *, name: str | None = None, parallel_mode: ParallelMode | None = None
    ) -> Callable[[Callable[P, T]], FlowFunction[P, T]]: ...

    def flow(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        parallel_mode: ParallelMode | None = None,
    ) -> Any:
        """Register a flow: an async or plain function whose first parameter is its context.

        Args:
            name: Default: the function's name.
            parallel_mode: Of its groups that name none.

        Raises:
            ConfigurationError: the name is taken, or an annotation cannot be resolved.
        """

        def register(function: Callable[..., Any]) -> FlowFunction[..., Any]:
            made = FlowFunction(function, name=name, parallel_mode=parallel_mode, codec=self.codec)
            if made.name in self.flows:
                raise ConfigurationError(f"flow {made.name!r} is registered twice on host {self.name!r}")
            self.flows[made.name] = made
            return made

        return register if fn is None else register(fn)

    @overload
    def step(self, fn: Callable[P, T], /) -> StepFunction[P, T]: ...

    @overload
    def step(
        self, /, *, name: str | None = None, retries: int | Retry | None = None, timeout: Duration | None = None
    ) -> Callable[[Callable[P, T]], StepFunction[P, T]]: ...

    def step(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
    ) -> Any:
        """Register a step: any host that serves it may run it.

        Args:
            name: Default: the function's name.
            retries: Tries after the first, or a Retry.
            timeout: Longest duration of one attempt.

        Raises:
            ConfigurationError: the name is taken, or an option or annotation is bad.
        """

        def register(function: Callable[..., Any]) -> StepFunction[..., Any]:
            made = StepFunction(function, name=name, retries=retries, timeout=timeout, codec=self.codec)
            if made.name in self.steps:
                raise ConfigurationError(f"step {made.name!r} is registered twice on host {self.name!r}")
            self.steps[made.name] = made
            return made

        return register if fn is None else register(fn)

    def hello(self) -> Hello:
        """What this host says of itself; a fresh instance each time."""
        return Hello(
            service=self.name,
            instance_id=secrets.token_hex(16),
            flows=tuple(self.flows),
            steps=tuple(self.steps),
            slots=self.slots,
            bodies=self.bodies,
            build_id=self.build_id,
            sdk_language=f"python/{platform.python_version()}",
            sdk_version=SDK_VERSION,
        )

    # ---- running

    async def start(self, engine: str | None = None) -> RunningHost:
        """Connect to the engine from the running loop and serve; returns at once.

        Args:
            engine: host:port; None: STEPWIRE_ENGINE, then 127.0.0.1:7380.

        Raises:
            ConfigurationError: it is running already, or nothing is registered.
        """
        if self._running is not None:
            raise ConfigurationError(f"host {self.name!r} is running already")
        if not self.flows and not self.steps:
            raise ConfigurationError(f"host {self.name!r} has neither flows nor steps to serve")
        running = RunningHost(self, engine or os.environ.get("STEPWIRE_ENGINE") or DEFAULT_ENGINE)
        running.start()
        self._running = running
        return running

    async def stop(self, drain_timeout: float = 30.0) -> None:
        """Take no new work, finish what runs within `drain_timeout` seconds, say goodbye."""
        running, self._running = self._running, None
        if running is not None:
            await running.stop(drain_timeout)

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """For ASGI: `FastAPI(lifespan=host.lifespan)`. Installs no signal handlers."""
        await self.start()
        try:
            yield
        finally:
            await self.stop()

    def run(self, engine: str | None = None, drain_timeout: float | None = None) -> int:
        """Serve until SIGTERM or SIGINT, then drain (default 30 s). A second signal ends at once.

        It owns the process, so it also tunes the garbage collector: what is loaded by now is left out of every
        collection, and collections come after more allocations. A step costs a quarter less that way.

        Returns:
            An exit code: 0 after a clean stop, 4 if the engine refused this host.
        """
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_ALLOCATIONS, 20, 20)
        return asyncio.run(self._serve(engine, 30.0 if drain_timeout is None else drain_timeout))

    async def _serve(self, engine: str | None, drain_timeout: float) -> int:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()

        def on_signal() -> None:
            if stop.is_set():
                os._exit(130)
            stop.set()

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, on_signal)
        running = await self.start(engine)
        refused: asyncio.Future[Any] = loop.run_in_executor(None, running.wait_refused, stop)
        waiting: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
        await asyncio.wait({refused, waiting}, return_when=asyncio.FIRST_COMPLETED)
        was_refused = not stop.is_set()
        stop.set()
        await self.stop(drain_timeout)
        waiting.cancel()
        return 4 if was_refused else 0


class RunningHost:
    """A host that serves: its session, runtime and link.

    Args:
        host: What is served.
        engine: Address of the engine.
    """

    def __init__(self, host: Host, engine: str) -> None:
        self.host = host
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self.port = SessionPort(HostSession(host.hello()), time.monotonic)
        self.runtime = HostRuntime(
            self.port,
            host.flows,
            host.steps,
            loop=self.loop,
            codec=host.codec,
            parallel_mode=host.parallel_mode,
            branch_threads=host.branch_threads,
            body_stall_timeout=host.body_stall_timeout,
            telemetry=host.telemetry,
            context_of=context_of,
        )
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


def _check_bound(name: str, value: int, top: int) -> None:
    if not 1 <= value <= top:
        raise ConfigurationError(f"{name} is a whole number from 1 to {top}, not {value!r}")
