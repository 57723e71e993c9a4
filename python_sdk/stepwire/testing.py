"""Testing flows in one process: the same engine code, a store in memory, a virtual clock (MISSION V6).

    async with stepwire.testing.environment(host) as env:
        assert await env.run(checkout, order) == receipt

Time jumps to the next retry as soon as engine, session and bodies are idle, so backoffs cost nothing. A flow that
awaits something else than a step (a gather, an event) counts as idle when nothing has moved for a moment.
`replay=True` throws the live body away at every release, so that each one is reached by replay.
Needs the extra `stepwire[engine]`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from stepwire._runtime.keeping import NoBodies
from stepwire._serving import runtime_of
from stepwire._tracing import current_traceparent
from stepwire._transport.local import LocalLink
from stepwire._transport.port import SessionPort
from stepwire._transport.session import HostSession
from stepwire.errors import RunFailed, StepwireError
from stepwire.events import Event, planned_event
from stepwire.flow import FlowFunction
from stepwire.host import Host
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import EngineFrame
from stepwire_engine.clock import SystemClock, VirtualClock
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import AttemptEnded, Entry, RunState
from stepwire_engine.core.history import RunView
from stepwire_engine.embedded import EmbeddedEngine
from stepwire_engine.store.base import LogQuery, LogRow
from stepwire_engine.store.memory import MemoryStore

__all__ = ("Environment", "Stuck", "TestRun", "environment", "run")

_POLL_SECONDS = 0.002
_QUIET_SECONDS = 0.02
"""Real time without any movement after which a flow that awaits something else than a step counts as idle."""
_NEVER_SECONDS = 1e9


class Stuck(StepwireError):
    """Nothing can move the run any more: no attempt runs and no timer is due."""


class TestRun:
    """A finished run.

    Attributes:
        record: The run's record with its steps, as `stepwire runs show` has it.
        journal: The entries of its journal, in order.
        body_entries: How often user code of the flow was entered.
        logs: What flow and steps logged, as far as their loggers let it pass, as `stepwire runs logs` has it.
    """

    __test__ = False

    def __init__(
        self, flow: FlowFunction[..., Any], record: RunView, journal: Sequence[Entry], logs: Sequence[LogRow] = ()
    ) -> None:
        self._flow = flow
        self.logs = logs
        self.record = record
        self.journal = journal
        self.body_entries = record.stats.body_entries

    @property
    def succeeded(self) -> bool:
        return self.record.state is RunState.SUCCEEDED

    @property
    def failure(self) -> Failure | None:
        """Why the run failed, or is paused."""
        return self.record.failure

    @property
    def output(self) -> Any:
        """What the flow returned. Raises RunFailed if it did not."""
        if self.record.output is None:
            unknown = Failure(ErrorCode.INTERNAL, "RunFailed", f"run is {self.record.state.name}")
            raise RunFailed(self.record.failure or unknown, self.record.run_id)
        return self._flow.decode_output(self.record.output)

    @property
    def order(self) -> list[str]:
        """Paths of steps in the order in which their outcomes were recorded."""
        return [e.path for e in self.journal if isinstance(e, AttemptEnded) and e.retry_at_ms is None]


class _LocalHost:
    """A host joined to the engine in the same loop."""

    def __init__(self, env: Environment, host: Host) -> None:
        self.host = host
        self._env = env
        loop = asyncio.get_running_loop()
        self.port = SessionPort(HostSession(host.hello()), time.monotonic, host.log_handler.lines)
        self.runtime = runtime_of(host, self.port, loop, NoBodies() if env.replay else None)
        self.runtime.stubs = env.stubs
        self.link = self._new_link()

    def _new_link(self) -> LocalLink:
        return LocalLink(self._env.engine.driver, self.port, self.runtime.loop, self._on_frame)

    def cut(self) -> None:
        """Break the stream and dial again. A link is one stream: what the old one still carries never arrives."""
        self.link.cut()
        self.link = self._new_link()
        self.link.start()

    def start(self) -> None:
        self.host.log_handler.attach()
        self.link.start()

    def close(self) -> None:
        self.runtime.close()
        self.host.log_handler.detach()

    async def ship_logs(self) -> None:
        """Send the log lines that wait to go along with something."""
        if self.port.logs:
            self.port.logs.hurry()
            self.port.ring()
            while self.link.in_flight:  # noqa: ASYNC110 - the link is callbacks of this loop; nothing tells
                await asyncio.sleep(0)

    @property
    def idle(self) -> bool:
        return self.runtime.idle and not self.link.in_flight

    @property
    def quiet(self) -> bool:
        """Idle, except that flow code may wait for something that is no step."""
        return self.runtime.quiet and not self.link.in_flight

    def _on_frame(self, frame: EngineFrame, sections: list[Any]) -> None:
        if frame.welcome is not None:
            self.runtime.welcome(frame.welcome)
        if sections:
            self.runtime.handle(sections)


class Environment:
    """An engine with its hosts; made by `environment`.

    Attributes:
        stubs: What steps do instead of their function, by step name: a value, a callable or an exception.
        replay: Bodies are thrown away at every release.
    """

    def __init__(
        self, engine: EmbeddedEngine, store: MemoryStore, config: CoreConfig, *, replay: bool, stubs: Mapping[str, Any]
    ) -> None:
        self.engine = engine
        self._store = store
        self._config = config
        self.replay = replay
        self.stubs = dict(stubs)
        self._hosts: dict[str, _LocalHost] = {}
        self._virtual = isinstance(engine.clock, VirtualClock)

    async def add(self, host: Host) -> None:
        """Connect one more host and wait until the engine knows it."""
        local = self._hosts[host.name] = _LocalHost(self, host)
        local.start()
        while not local.port.session.connected:  # noqa: ASYNC110 - the link is callbacks of this loop; nothing tells
            await asyncio.sleep(0)

    async def start(self, flow: FlowFunction[..., Any], *args: Any, id: str = "") -> str:
        """Start a run. Returns its run_id."""
        runs, payload = self.engine.driver.runs, flow.encode_input(*args)
        run_id, _ = await runs.start(flow.name, payload, id, current_traceparent())
        return run_id

    async def finish(self, flow: FlowFunction[..., Any], run_id: str) -> TestRun:
        """Wait until a run ended or is paused, moving the virtual clock whenever nothing else happens.

        Raises:
            Stuck: nothing can move it any more.
        """
        moved = time.monotonic()
        seen: object = None
        while not self._settled(run_id):
            if not self._virtual or self._executing():
                await asyncio.sleep(_POLL_SECONDS)
            elif self._idle():
                await self._jump(run_id)
            elif not self._quiet():
                await asyncio.sleep(0)
            elif seen != (seen := self._activity()):
                moved = time.monotonic()
                await asyncio.sleep(0)
            elif time.monotonic() < moved + _QUIET_SECONDS:
                await asyncio.sleep(_POLL_SECONDS)
            else:
                await self.engine.advance_to_next_timer()
                await asyncio.sleep(_POLL_SECONDS)
        await self.engine.driver.settled()
        for local in self._hosts.values():
            await local.runtime.hooks.drained()
            await local.ship_logs()
        await self.engine.driver.settled()
        record = await self.engine.driver.runs.view(run_id, include_steps=True)
        return TestRun(flow, record, self.journal(run_id), self.logs(run_id))

    def journal(self, run_id: str) -> list[Entry]:
        """The committed entries of a run, in order."""
        record = self._store.find_run(run_id)
        return [] if record is None else [entry for row in self._store.journal(record.number) for entry in row.entries]

    def logs(self, run_id: str) -> list[LogRow]:
        """The last lines that flow and steps of a run logged, at most 1,000, oldest first."""
        record = self._store.find_run(run_id)
        return [] if record is None else list(self._store.logs(LogQuery(record.number, limit=1_000)).lines)

    async def send(self, event: Event) -> str:
        """Send an event, as a client does; gives its id. What it starts or wakes moves with the next `finish`."""
        sent = msgspec.structs.replace(planned_event(event), traceparent=current_traceparent())
        event_id, _ = await self.engine.driver.runs.send_event(sent)
        return event_id

    async def started(self, flow: FlowFunction[..., Any], count: int = 1) -> list[str]:
        """Wait until at least `count` runs of a flow were started, by events or other runs; gives their ids, oldest
        first."""
        while len(runs := self._store.list_runs(flow=flow.name, limit=1000).runs) < count:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        return [run.run_id for run in reversed(runs)]

    async def cancel(self, run_id: str, *, undo: bool | None = None) -> None:
        """Cancel a run, as a client does."""
        await self.engine.driver.runs.cancel(run_id, undo)

    async def resume(self, run_id: str) -> None:
        """Let a paused run go on."""
        await self.engine.driver.runs.resume(run_id)

    async def execute(self, flow: FlowFunction[..., Any], *args: Any, id: str = "") -> TestRun:
        """Start a run and wait for its end."""
        return await self.finish(flow, await self.start(flow, *args, id=id))

    async def run(self, flow: FlowFunction[..., Any], *args: Any) -> Any:
        """Start a run and return what it returned. Raises RunFailed if it failed."""
        return (await self.execute(flow, *args)).output

    async def crash(self, host: Host, successor: Host | None = None) -> None:
        """The host's process dies and comes back as a new instance; its session is lost at once.

        Args:
            successor: What comes back instead, for example the same service with newer code.
        """
        dead = self._hosts.pop(host.name)
        dead.close()
        dead.link.cut()
        if self._virtual:
            await self.engine.advance(self._config.reconnect_grace + 1.0)
        await self.add(successor or host)

    async def cut(self, host: Host) -> None:
        """The host's stream breaks and it resumes."""
        self._hosts[host.name].cut()

    async def close(self) -> None:
        for local in self._hosts.values():
            local.close()

    # ---- idleness

    def _settled(self, run_id: str) -> bool:
        run = self.engine.driver.core.runs.get(run_id)
        if run is not None:
            return run.state is RunState.PAUSED and not run.in_flight
        record = self._store.find_run(run_id)
        return record is None or record.state is not RunState.WAITING  # then it is dormant, and will be woken

    def _executing(self) -> bool:
        return self.engine.calls_in_progress > 0 or any(local.runtime.busy for local in self._hosts.values())

    def _idle(self) -> bool:
        return self.engine.driver.idle and all(local.idle for local in self._hosts.values())

    def _quiet(self) -> bool:
        return self.engine.driver.idle and all(local.quiet for local in self._hosts.values())

    def _activity(self) -> int:
        return sum(local.runtime.activity for local in self._hosts.values())

    async def _jump(self, run_id: str) -> None:
        await asyncio.sleep(0)
        if not self._idle() or self._settled(run_id):
            return
        if not await self.engine.advance_to_next_timer() and self._idle() and not self._settled(run_id):
            view = await self.engine.driver.runs.view(run_id, include_steps=True)
            open_steps = [f"{s.path} ({s.state.name.lower()})" for s in view.steps if s.ended_at_ms is None]
            reason = view.reason.name.lower() if view.reason else "unknown"
            raise Stuck(
                f"run {run_id} is {view.state.name} and nothing can move it",
                why=f"open steps: {', '.join(open_steps) or 'none'}; reason {reason}",
                hint="does a host of this environment serve the flow and every registered step?",
            )


@asynccontextmanager
async def environment(
    *hosts: Host,
    replay: bool = False,
    virtual_clock: bool = True,
    stubs: Mapping[str, Any] | None = None,
    config: CoreConfig | None = None,
) -> AsyncIterator[Environment]:
    """An engine in this process and loop, with `hosts` connected.

    Args:
        replay: Reach every release by replay.
        virtual_clock: Retries are due as soon as nothing else happens; otherwise real time.
        stubs: Outcomes of steps by name: a value, a callable, or an exception to raise.
        config: Bounds of the engine.
    """
    config = config or CoreConfig()
    if virtual_clock:
        # Time jumps, and hosts do not beat meanwhile: neither silence nor a late tick says anything.
        config = msgspec.structs.replace(
            config, silence_timeout=_NEVER_SECONDS, stall_forgiven=_NEVER_SECONDS, adoption_grace=0.0
        )
    loop = asyncio.get_running_loop()

    def notify(call: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(call)

    store = MemoryStore(notify=notify)
    async with EmbeddedEngine(VirtualClock() if virtual_clock else SystemClock(), config, store) as engine:
        env = Environment(engine, store, config, replay=replay, stubs=stubs or {})
        for host in hosts:
            await env.add(host)
        try:
            yield env
        finally:
            await env.close()


def run(host: Host, flow: FlowFunction[..., Any], *args: Any, **options: Any) -> TestRun:
    """Run one flow to its end, for tests without a loop of their own; options as for `environment`."""

    async def main() -> TestRun:
        async with environment(host, **options) as env:
            return await env.execute(flow, *args)

    return asyncio.run(main())
