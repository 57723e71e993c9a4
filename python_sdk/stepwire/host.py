"""A step host: what a service registers, and how it stays connected to its engine (MISSION P2, P3)."""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import secrets
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar, overload

from prometheus_client import CollectorRegistry

from stepwire._runtime.telemetry import HostTelemetry, host_registry
from stepwire._serving import RunningHost
from stepwire.codec import JSON_CODEC, Codec
from stepwire.declarative import Flow
from stepwire.errors import ConfigurationError
from stepwire.events import TriggerLike
from stepwire.flow import FlowFunction, StepFunction
from stepwire.hooks import Hook, HookFunction, HookKind, registering
from stepwire.protocol.frames import Feature, FlowOptions, Hello
from stepwire.protocol.plan import ParallelMode
from stepwire.retry import Duration, Retry, duration

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=HookFunction)

DEFAULT_ENGINE = "127.0.0.1:7380"
SDK_VERSION = "0.1.0"
GC_ALLOCATIONS = 20_000
"""Allocations of containers between two collections of the youngest generation, in `Host.run`."""


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
        body_stall_timeout: How long a replaying body may stay in user code without progress. Time limits of the
            flow's own (`asyncio.timeout`) that passed in its first life pass again in replay, and count here;
            `timeout=` and `deadline=` of a step need no such time.

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
        self.hooks: list[Hook] = []
        self.telemetry = HostTelemetry()
        self.registry: CollectorRegistry = host_registry(self.telemetry)
        self._running: RunningHost | None = None

    # ---- registering

    @overload
    def flow(self, fn: Callable[P, T], /) -> FlowFunction[P, T]: ...

    @overload
    def flow(
        self,
        /,
        *,
        name: str | None = None,
        parallel_mode: ParallelMode | None = None,
        deadline: Duration | None = None,
        undo_on_cancel: bool = False,
        on: TriggerLike = (),
    ) -> Callable[[Callable[P, T]], FlowFunction[P, T]]: ...

    def flow(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        parallel_mode: ParallelMode | None = None,
        deadline: Duration | None = None,
        undo_on_cancel: bool = False,
        on: TriggerLike = (),
    ) -> Any:
        """Register a flow: an async or plain function whose first parameter is its context.

        Args:
            name: Default: the function's name. Names that begin with "stepwire:" are the engine's own.
            parallel_mode: Of its groups that name none.
            deadline: Time from the start of a run within which it must have ended; then it fails with
                RUN_TIMEOUT and is undone. More than 0; None: no limit.
            undo_on_cancel: What a run did is also undone when it is cancelled, not only when it fails.
            on: Events that start runs: a name, a Trigger, or up to 64 of them. The input of such a run is
                the event; annotate it with stepwire.Event.

        Raises:
            ConfigurationError: the name is taken, an option is bad, or an annotation cannot be resolved.
        """

        def register(function: Callable[..., Any]) -> FlowFunction[..., Any]:
            made: FlowFunction[..., Any] = FlowFunction(
                function,
                name=name,
                parallel_mode=parallel_mode,
                deadline=deadline,
                undo_on_cancel=undo_on_cancel,
                on=on,
                codec=self.codec,
                add=self._add_flow,
            )
            self._add_flow(made)
            return made

        return register if fn is None else register(fn)

    def add(self, flow: Flow) -> Flow:
        """Register a declared flow (MISSION S9); nothing can be added to that any more.

        Raises:
            ConfigurationError: the name is taken, or the flow is on a host already.
        """
        flow.join(self.codec, self._add_flow)
        return flow

    def _add_flow(self, flow: FlowFunction[..., Any]) -> None:
        if flow.name in self.flows:
            raise ConfigurationError(f"flow {flow.name!r} is registered twice on host {self.name!r}")
        self.flows[flow.name] = flow

    @overload
    def step(self, fn: Callable[P, T], /) -> StepFunction[P, T]: ...

    @overload
    def step(
        self,
        /,
        *,
        name: str | None = None,
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
        abandon_after: Duration | None = None,
    ) -> Callable[[Callable[P, T]], StepFunction[P, T]]: ...

    def step(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
        abandon_after: Duration | None = None,
    ) -> Any:
        """Register a step: any host that serves it may run it.

        Args:
            name: Default: the function's name. Names that begin with "stepwire:" are the engine's own.
            retries: Tries after the first, or a Retry.
            timeout: Longest duration of one attempt.
            abandon_after: How long an attempt that was told to stop may go on before this host gives it up:
                then the next may begin beside it, and its late result is dropped. None: never.

        Raises:
            ConfigurationError: the name is taken, or an option or annotation is bad.
        """

        def register(function: Callable[..., Any]) -> StepFunction[..., Any]:
            made: StepFunction[..., Any] = StepFunction(
                function, name=name, retries=retries, timeout=timeout, abandon_after=abandon_after, codec=self.codec
            )
            if made.name in self.steps:
                raise ConfigurationError(f"step {made.name!r} is registered twice on host {self.name!r}")
            self.steps[made.name] = made
            return made

        return register if fn is None else register(fn)

    def on(self, kind: HookKind) -> Callable[[F], F]:
        """Register a hook: a function that is told what happens on this host (MISSION V1, `stepwire.hooks`).

        It is called with one HookCall for each thing of its kind that happens here, one after the other and in
        order, also if it is registered for several kinds; never for what is replayed. What it raises is logged
        and counted in `hook_failures_total`; it cannot change the run. Runs that the engine ends (a deadline, a
        cancellation) and steps that the engine performs are not told of.

        Args:
            kind: "run_started", "run_succeeded", "run_failed", and the same of "step" and "undo", whose hooks
                are called for every attempt.

        Raises:
            ConfigurationError: there is no such kind.
        """
        return registering(self.hooks, kind)

    def hello(self) -> Hello:
        """What this host says of itself; a fresh instance each time."""
        options = tuple(f.options for f in self.flows.values() if f.options != FlowOptions(f.name))
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
            required_features=_features(options),
            flow_options=options,
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


def _features(options: Iterable[FlowOptions]) -> tuple[int, ...]:
    """What the engine must be able to do, so that it does not silently ignore an option."""
    needed = {Feature.STEP_KINDS for o in options if o.triggers}
    needed |= {Feature.UNDO for o in options if o.deadline is not None or o.undo_on_cancel}
    return tuple(sorted(needed))


def _check_bound(name: str, value: int, top: int) -> None:
    if not 1 <= value <= top:
        raise ConfigurationError(f"{name} is a whole number from 1 to {top}, not {value!r}")
