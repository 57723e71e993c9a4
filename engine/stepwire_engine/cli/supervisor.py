"""The processes of `stepwire dev` and when they start and end: engine first and last, hosts again on change.

Hosts end before the engine, so that what they have in progress still finds it. A host that ends by itself waits
for the next change; the end of the engine ends everything.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc

from stepwire_engine.cli.children import Child

READY_POLL_SECONDS = 0.05
STOP_SECONDS_EXTRA = 3.0
"""What a process gets beyond its own drain timeout before it is killed."""

Changes = AsyncIterator[set[Path]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run.

    Attributes:
        engine: Command of the engine.
        hosts: Command of each host, by the name its lines carry.
        environment: Of all of them.
        ready: Host and port that accept connections once the engine is ready.
        drain_timeout: Seconds that all of them were told to give attempts in progress.
        changes: Opens the stream of changed files, which ends when the event is set; None: no reload.
    """

    engine: Sequence[str]
    hosts: Mapping[str, Sequence[str]]
    environment: Mapping[str, str]
    ready: tuple[str, int]
    drain_timeout: float
    changes: Callable[[anyio.Event], Changes] | None


class Supervisor:
    """Runs a Plan until a signal, the end of the engine, or, without reload, the end of all hosts.

    Args:
        show: Called with the name and each line of a process; the name is empty for what the supervisor says.
        on_ready: Called once, when the engine accepts connections.
    """

    def __init__(self, plan: Plan, *, show: Callable[[str, str], None], on_ready: Callable[[], None]) -> None:
        self._plan = plan
        self._show = show
        self._on_ready = on_ready
        self._engine = Child("engine", plan.engine, plan.environment, show)
        self._hosts: dict[str, Child] = {}
        self._stop = anyio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        """Run everything; returns the exit code of the engine if it ended by itself, of a host without reload, or 0."""
        async with anyio.create_task_group() as processes:
            await processes.start(self._watch_signals)
            await processes.start(self._engine.run)
            async with anyio.create_task_group() as work:
                work.start_soon(self._until_engine_ends)
                work.start_soon(self._serve, processes)
                await self._stop.wait()
                work.cancel_scope.cancel()
            await self._stop_all()
            processes.cancel_scope.cancel()
        return self._exit_code

    # ---- what ends it

    async def _watch_signals(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            async for _ in signals:
                if self._stop.is_set():
                    for child in (*self._hosts.values(), self._engine):
                        child.kill()
                else:
                    self._show("", "stopping; once more to stop at once")
                    self._stop.set()

    async def _until_engine_ends(self) -> None:
        await self._engine.ended.wait()
        self._exit_code = self._engine.exit_code or 0
        self._show("", f"the engine ended with exit code {self._exit_code}")
        self._stop.set()

    async def _stop_all(self) -> None:
        async with anyio.create_task_group() as group:
            for child in self._hosts.values():
                group.start_soon(self._stop_host, child)
        if not await self._engine.stop(self._grace):
            self._show("", f"the engine did not end within {self._grace:g} s and was killed")

    @property
    def _grace(self) -> float:
        return self._plan.drain_timeout + STOP_SECONDS_EXTRA

    async def _stop_host(self, child: Child) -> None:
        if not await child.stop(self._grace):
            killed = f"{child.name} did not end within {self._grace:g} s and was killed"
            self._show("", f"{killed}; its steps are tried again")

    # ---- what it does meanwhile

    async def _serve(self, processes: anyio.abc.TaskGroup) -> None:
        await self._until_ready()
        self._on_ready()
        await self._start_hosts(processes)
        if self._plan.changes is not None:
            async for changed in self._plan.changes(self._stop):
                self._show("", f"{_some(changed)} changed: starting {', '.join(self._plan.hosts)} again")
                async with anyio.create_task_group() as group:
                    for child in self._hosts.values():
                        group.start_soon(self._stop_host, child)
                await self._start_hosts(processes)

    async def _until_ready(self) -> None:
        host, port = self._plan.ready
        while True:
            try:
                async with await anyio.connect_tcp(host, port):
                    return
            except OSError:
                await anyio.sleep(READY_POLL_SECONDS)

    async def _start_hosts(self, processes: anyio.abc.TaskGroup) -> None:
        for name, command in self._plan.hosts.items():
            child = Child(name, command, self._plan.environment, self._show)
            self._hosts[name] = child
            # Shielded, because a start that is cancelled half-way leaves a process that nobody knows.
            with anyio.CancelScope(shield=True):
                await processes.start(child.run)
            processes.start_soon(self._say_when_ended, child)

    async def _say_when_ended(self, child: Child) -> None:
        await child.ended.wait()
        if not child.unexpected or self._stop.is_set():
            return
        following = "; it starts again when a file changes" if self._plan.changes is not None else ""
        self._show("", f"{child.name} ended with exit code {child.exit_code}{following}")
        if self._plan.changes is None and all(host.ended.is_set() for host in self._hosts.values()):
            self._exit_code = child.exit_code or 0
            self._stop.set()


def _some(changed: set[Path]) -> str:
    names = sorted({path.name for path in changed})
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
