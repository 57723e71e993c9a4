"""Testing flows in one process: the same engine code, a store in memory, a virtual clock (MISSION V6).

    async with stepwire.testing.environment(host) as env:
        assert await env.run(checkout, order) == receipt

Time jumps to the next retry as soon as engine, session and bodies are idle, so backoffs cost nothing.
`replay=True` throws the live body away at every release, so that each one is reached by replay.
Needs the extra `stepwire[engine]`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from stepwire._runtime.executor import HostRuntime
from stepwire._transport.local import LocalLink
from stepwire._transport.port import SessionPort
from stepwire._transport.session import HostSession
from stepwire.errors import RunFailed, StepwireError
from stepwire.flow import FlowFunction
from stepwire.host import Host
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import EngineFrame, EngineSection
from stepwire_engine.clock import SystemClock, VirtualClock
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.history import RunView
from stepwire_engine.embedded import EmbeddedEngine

__all__ = ("Environment", "Stuck", "TestRun", "environment", "run")

_POLL_SECONDS = 0.002


class Stuck(StepwireError):
    """Nothing can move the run any more: no attempt runs and no timer is due."""


class TestRun:
    """A finished run.

    Attributes:
        record: The run's record with its steps, as `stepwire runs show` has it.
        body_entries: How often user code of the flow was entered.
    """

    __test__ = False

    def __init__(self, flow: FlowFunction[..., Any], record: RunView) -> None:
        self._flow = flow
        self.record = record
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
        ended = [s for s in self.record.steps if s.ended_at_ms is not None]
        return [s.path for s in sorted(ended, key=lambda s: (s.ended_at_ms or 0, s.order))]


class _LocalHost:
    """A host joined to the engine in the same loop."""

    def __init__(self, env: Environment, host: Host) -> None:
        self.host = host
        self._env = env
        loop = asyncio.get_running_loop()
        self.port = SessionPort(HostSession(host.hello()), time.monotonic)
        self.runtime = HostRuntime(
            self.port,
            host.flows,
            host.steps,
            loop=loop,
            codec=host.codec,
            parallel_mode=host.parallel_mode,
            branch_threads=host.branch_threads,
            body_stall_timeout=host.body_stall_timeout,
            telemetry=host.telemetry,
        )
        self.runtime.stubs = env.stubs
        self.link = LocalLink(env.engine.driver, self.port, loop, self._on_frame)

    @property
    def idle(self) -> bool:
        return self.runtime.idle and not self.link.in_flight

    def _on_frame(self, frame: EngineFrame, sections: list[Any]) -> None:
        if frame.welcome is not None:
            self.runtime.welcome(frame.welcome)
        if self._env.replay:
            sections = [s for s in sections if not self._thrown_away(s)]
        if sections:
            self.runtime.handle(sections)

    def _thrown_away(self, section: EngineSection) -> bool:
        """Forced replay: a live body that gets a release is given back instead."""
        advance = section.advance
        if advance is None or advance.start is not None:
            return False
        self.runtime.throw_away(section.run_id)
        section.advance = None
        return not (section.executes or section.cancels or section.evict)


class Environment:
    """An engine with its hosts; made by `environment`.

    Attributes:
        stubs: What steps do instead of their function, by step name: a value, a callable or an exception.
        replay: Bodies are thrown away at every release.
    """

    def __init__(self, engine: EmbeddedEngine, *, replay: bool, stubs: Mapping[str, Any]) -> None:
        self.engine = engine
        self.replay = replay
        self.stubs = dict(stubs)
        self._hosts: dict[str, _LocalHost] = {}
        self._virtual = isinstance(engine.clock, VirtualClock)

    async def add(self, host: Host) -> None:
        """Connect one more host and wait until the engine knows it."""
        local = self._hosts[host.name] = _LocalHost(self, host)
        local.link.start()
        while not local.port.session.connected:
            await asyncio.sleep(0)

    async def start(self, flow: FlowFunction[..., Any], *args: Any, id: str = "") -> str:
        """Start a run. Returns its run_id."""
        run_id, _ = await self.engine.driver.runs.start(flow.name, flow.encode_input(*args), id)
        return run_id

    async def finish(self, flow: FlowFunction[..., Any], run_id: str) -> TestRun:
        """Wait until a run ended or is paused, moving the virtual clock whenever nothing else happens.

        Raises:
            Stuck: nothing can move it any more.
        """
        while not self._settled(run_id):
            if self._virtual and self._idle():
                await self._jump(run_id)
            else:
                await asyncio.sleep(0 if self._virtual and not self._executing() else _POLL_SECONDS)
        await self.engine.driver.settled()
        return TestRun(flow, await self.engine.driver.runs.view(run_id, include_steps=True))

    async def execute(self, flow: FlowFunction[..., Any], *args: Any, id: str = "") -> TestRun:
        """Start a run and wait for its end."""
        return await self.finish(flow, await self.start(flow, *args, id=id))

    async def run(self, flow: FlowFunction[..., Any], *args: Any) -> Any:
        """Start a run and return what it returned. Raises RunFailed if it failed."""
        return (await self.execute(flow, *args)).output

    async def crash(self, host: Host) -> None:
        """The host's process dies and comes back as a new instance; its session is lost at once."""
        dead = self._hosts.pop(host.name)
        dead.runtime.close()
        dead.link.cut()
        if self._virtual:
            await self.engine.advance(self.engine.driver.core.config.reconnect_grace + 1.0)
        await self.add(host)

    async def cut(self, host: Host) -> None:
        """The host's stream breaks and it resumes."""
        local = self._hosts[host.name]
        local.link.cut()
        local.link.start()

    async def close(self) -> None:
        for local in self._hosts.values():
            local.runtime.close()

    # ---- idleness

    def _settled(self, run_id: str) -> bool:
        run = self.engine.driver.core.runs.get(run_id)
        return run is None or (run.state is RunState.PAUSED and not run.in_flight)

    def _executing(self) -> bool:
        return any(local.runtime.busy for local in self._hosts.values())

    def _idle(self) -> bool:
        return self.engine.driver.idle and all(local.idle for local in self._hosts.values())

    async def _jump(self, run_id: str) -> None:
        await asyncio.sleep(0)
        if not self._idle() or self._settled(run_id):
            return
        if not await self.engine.advance_to_next_timer():
            view = await self.engine.driver.runs.view(run_id, include_steps=True)
            open_steps = [f"{s.path} ({s.state.name.lower()})" for s in view.steps if s.ended_at_ms is None]
            raise Stuck(
                f"run {run_id} is {view.state.name} and nothing can move it",
                why=f"open steps: {', '.join(open_steps) or 'none'}; reason {view.reason.name.lower()}",
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
    async with EmbeddedEngine(VirtualClock() if virtual_clock else SystemClock(), config) as engine:
        env = Environment(engine, replay=replay, stubs=stubs or {})
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


