"""A step host: what a service registers, and how it stays connected to its engine (MISSION P2, P3)."""

from __future__ import annotations

import gc
import os
import platform
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar, overload

from prometheus_client import CollectorRegistry

from stepwire._event_loop import EVENT_LOOP_ENV, loop_factory, name_of
from stepwire._exposition import Exposition
from stepwire._process import HostProcess
from stepwire._runtime.logs import LogShipper, level_of
from stepwire._runtime.telemetry import HostTelemetry, export
from stepwire._serving import RunningHost
from stepwire._transport.log_queue import LogQueue
from stepwire.codec import JSON_CODEC, Codec
from stepwire.declarative import Flow
from stepwire.errors import ConfigurationError
from stepwire.events import TriggerLike
from stepwire.flow import FlowFunction, StepFunction
from stepwire.hooks import Hook, HookFunction, HookKind, registering
from stepwire.protocol.frames import Feature, FlowOptions, Hello
from stepwire.protocol.plan import ParallelMode
from stepwire.redaction import Redact
from stepwire.retry import Duration, Retry, duration

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=HookFunction)

DEFAULT_ENGINE = "127.0.0.1:7380"
DRAIN_TIMEOUT_ENV = "STEPWIRE_DRAIN_TIMEOUT"
FIRST_ANSWER_SECONDS = 1.0
"""What the start of a service waits, so that its first requests find an engine that knows its flows."""
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)
SDK_VERSION = "0.1.0"
GC_ALLOCATIONS = 250_000
"""Containers that are there more than after the last collection of the youngest generation, in `Host.run`. The steps of
the largest run are 200,000, and to look at them gains nothing: what ended needs no collector."""


class Host:
    """A process that serves flows and steps.

    Args:
        name: Name of the service, 1..256 bytes; shown everywhere, an identity nowhere.
        slots: Attempts that run at once, 1..10000; sync steps get as many threads.
        bodies: Live bodies at once, 1..100000. At that number, those that waited longest, and at least for
            `body_idle`, are given back to the engine until a tenth is free. A body that was given back is entered
            again, by replay, when its run goes on.
        body_bytes: What live bodies may hold, 1 MiB..1 TiB: their inputs, the journals they were entered with, the
            outputs of their steps since then, and 16 KiB for each, 48 KiB for those of plain functions. Beyond it
            bodies that wait are given back, however short they have waited; while none does, no body is taken.
        body_idle: See `bodies`.
        parallel_mode: Of groups whose call and flow name none.
        codec: How inputs and outputs are encoded.
        build_id: Names this build of the code, for the record.
        branch_threads: Threads for the branches of sync flows, 1..20000.
        body_stall_timeout: How long a replaying body may stay in user code without progress; then its run is
            PAUSED as BODY_STALLED. Time limits of the flow's own (`asyncio.timeout`) that passed in its first life
            pass again in replay; for those of up to an hour the body has that time as well. `timeout=` and
            `deadline=` of a step need no such time.
        drain_timeout: How long attempts in progress may go on when the host is stopped. What is not finished then is
            handed back and begun elsewhere. The environment's STEPWIRE_DRAIN_TIMEOUT wins over it.
        registry: Exports the host's metrics, for example the service's own `prometheus_client.REGISTRY`; several
            hosts may share one. None: a registry of its own, see `Host.registry`.
        metrics_port: Show the metrics at /metrics on this port, 1..65535, or a free one for 0. If it is in use the next
            is tried, up to 15 further on: of several workers each shows its own. None: on no port.
        metrics_address: Where that port listens. One that other machines reach shows them the names of flows.
        tracing: Make spans of flows, groups, steps and attempts, if the service has configured OpenTelemetry before
            the host starts. Without that nothing is made, so that True costs nothing.
        ship_logs: Least level of what flows and steps log that goes to the engine as well, for
            `stepwire runs logs`: at most so much as there is room for, and as loggers let pass. None: nothing does.

    Attributes:
        log_handler: Takes what flows and steps of this host log, for the engine. It is on the root logger while the
            host runs; a logger that does not propagate needs it too.

    Raises:
        ConfigurationError: an argument outside its bounds.
    """

    def __init__(
        self,
        name: str,
        *,
        slots: int = 1000,
        bodies: int = 1000,
        body_bytes: int = 512 * 1024**2,
        body_idle: Duration = 1.0,
        parallel_mode: ParallelMode = ParallelMode.WAIT,
        codec: Codec = JSON_CODEC,
        build_id: str = "",
        branch_threads: int = 2048,
        body_stall_timeout: Duration = 60.0,
        drain_timeout: Duration = 30.0,
        registry: CollectorRegistry | None = None,
        metrics_port: int | None = None,
        metrics_address: str = "127.0.0.1",
        tracing: bool = True,
        ship_logs: str | None = "INFO",
    ) -> None:
        _check_bound("slots", slots, 10_000)
        _check_bound("bodies", bodies, 100_000)
        _check_bound("body_bytes", body_bytes, 1024**4, bottom=1024**2)
        _check_bound("branch_threads", branch_threads, 20_000)
        if not 0 < len(name.encode()) <= 256:
            raise ConfigurationError("a host needs a name of 1..256 bytes")
        self.name = name
        self.slots = slots
        self.bodies = bodies
        self.body_bytes = body_bytes
        self.body_idle = duration(body_idle)
        self.parallel_mode = parallel_mode
        self.codec = codec
        self.build_id = build_id
        self.branch_threads = branch_threads
        self.body_stall_timeout = duration(body_stall_timeout)
        self.drain_timeout = duration(drain_timeout)
        self.tracing = tracing
        self.flows: dict[str, FlowFunction[..., Any]] = {}
        self.steps: dict[str, StepFunction[..., Any]] = {}
        self.hooks: list[Hook] = []
        self.telemetry = HostTelemetry(name, SDK_VERSION)
        self.log_handler = LogShipper(name, level_of(ship_logs), LogQueue(self.telemetry.log_lines))
        self.registry = CollectorRegistry() if registry is None else registry
        export(self.telemetry, self.registry)
        if metrics_port is not None:
            _check_bound("metrics_port", metrics_port, 65_535, bottom=0)
        self._exposition = None if metrics_port is None else Exposition(self.registry, metrics_address, metrics_port)
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
        redact: Redact = (),
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
        redact: Redact = (),
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
            redact: Of its runs the "input", the "output" or the texts of the "failure", or several, are not for human
                eyes: records and commands do not show them (MISSION V7).

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
                redact=redact,
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
        redact: Redact = (),
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
        redact: Redact = (),
    ) -> Any:
        """Register a step: any host that serves it may run it.

        Args:
            name: Default: the function's name. Names that begin with "stepwire:" are the engine's own.
            retries: Tries after the first, or a Retry.
            timeout: Longest duration of one attempt.
            abandon_after: How long an attempt that was told to stop may go on before this host gives it up:
                then the next may begin beside it, and its late result is dropped. None: never.
            redact: Of its "input", its "output" and the texts of its "failure", what is not for human eyes.

        Raises:
            ConfigurationError: the name is taken, or an option or annotation is bad.
        """

        def register(function: Callable[..., Any]) -> StepFunction[..., Any]:
            made: StepFunction[..., Any] = StepFunction(
                function,
                name=name,
                retries=retries,
                timeout=timeout,
                abandon_after=abandon_after,
                redact=redact,
                codec=self.codec,
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
            features=(Feature.ALIKE,),
        )

    # ---- running

    async def start(self, engine: str | None = None) -> RunningHost:
        """Connect to the engine from the running loop and serve; returns at once.

        Args:
            engine: host:port; None: STEPWIRE_ENGINE, then 127.0.0.1:7380.

        Raises:
            ConfigurationError: it is running already, here or in the process that this one was forked from; nothing is
                registered; or STEPWIRE_DRAIN_TIMEOUT is bad.
        """
        if self._running is not None:
            if self._forked:
                raise ConfigurationError(
                    f"host {self.name!r} was started before this process was forked, and gRPC does not outlive a fork\n"
                    "  next: make the host before the fork, and start it in each process afterwards"
                )
            raise ConfigurationError(f"host {self.name!r} is running already")
        if not self.flows and not self.steps:
            raise ConfigurationError(f"host {self.name!r} has neither flows nor steps to serve")
        self._drain_seconds(None)  # A mistake there must not show only when the host is stopped.
        running = RunningHost(self, engine or os.environ.get("STEPWIRE_ENGINE") or DEFAULT_ENGINE)
        running.start()
        self.telemetry.runs_on(name_of(running.loop))
        self._running = running
        if self._exposition is not None:
            self._exposition.start(self.name)
        return running

    @property
    def _forked(self) -> bool:
        """What runs is a copy of the parent's, without its threads: its session is the parent's."""
        return self._running is not None and self._running.pid != os.getpid()

    async def stop(self, drain_timeout: Duration | None = None) -> None:
        """Take no new work, finish what runs, hand back what does not end in time, say goodbye.

        It returns at most 1.25 s after the drain timeout, whatever code still runs.

        Args:
            drain_timeout: None: STEPWIRE_DRAIN_TIMEOUT, then what the host was made with.
        """
        if self._forked:
            return
        running, self._running = self._running, None
        if running is not None:
            await running.stop(self._drain_seconds(drain_timeout))
        if self._exposition is not None:
            self._exposition.stop()

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """For ASGI: `FastAPI(lifespan=host.lifespan)`, or inside a lifespan of the service's own.

        The service starts whether or not an engine answers; it waits for a first answer, at most 1 s. It installs no
        signal handlers: the server does, and ends the lifespan on SIGTERM; then the host drains.
        """
        running = await self.start()
        try:
            await running.first_answer(FIRST_ANSWER_SECONDS)
            yield
        finally:
            await self.stop()

    def run(
        self, engine: str | None = None, drain_timeout: Duration | None = None, event_loop: str | None = None
    ) -> int:
        """Serve until SIGTERM or SIGINT, then drain as `stop` does. A second signal hands everything back at once.

        It owns the process: that ends within 2 s of the drain timeout, by force if code does not let go. It also
        tunes the garbage collector: what is loaded by now is left out of every collection, and collections come
        after more allocations. A step costs a quarter less that way.

        Args:
            engine, drain_timeout: As for `start` and `stop`.
            event_loop: "asyncio", "uvloop", or "auto", which is uvloop if that is installed (extra `uvloop`). None:
                STEPWIRE_EVENT_LOOP, then "auto".

        Returns:
            An exit code: 0 everything finished or handed back, 4 the engine refused this host, 130 a second signal.
            The process ends with 1 if it was ended by force.

        Raises:
            ConfigurationError: as `start` does; or there is no such event loop.
        """
        seconds = self._drain_seconds(drain_timeout)
        loops = loop_factory(event_loop or os.environ.get(EVENT_LOOP_ENV) or "auto")
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_ALLOCATIONS, 20, 20)
        process = HostProcess(
            self.name,
            start=lambda: self.start(engine),
            stop=lambda: self.stop(seconds),
            drain_seconds=seconds,
            loop_factory=loops,
        )
        return process.run()

    def _drain_seconds(self, given: Duration | None) -> float:
        if given is not None:
            return duration(given)
        text = os.environ.get(DRAIN_TIMEOUT_ENV, "").strip()
        if not text:
            return self.drain_timeout
        return duration(float(text) if _NUMBER.fullmatch(text) else text)


def _features(options: Iterable[FlowOptions]) -> tuple[int, ...]:
    """What the engine must be able to do, so that it does not silently ignore an option."""
    needed = {Feature.STEP_KINDS for o in options if o.triggers}
    needed |= {Feature.UNDO for o in options if o.deadline is not None or o.undo_on_cancel}
    return tuple(sorted(needed))


def _check_bound(name: str, value: int, top: int, *, bottom: int = 1) -> None:
    if not bottom <= value <= top:
        raise ConfigurationError(f"{name} is a whole number from {bottom} to {top}, not {value!r}")
