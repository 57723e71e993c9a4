"""What `stepwire chaos` does: engine and hosts as processes, clients that keep starting runs, and faults at random.

Faults are SIGKILL to the engine, SIGKILL to a host, and SIGSTOP to a host for a while. When the time is over everything
lives again, and what was started has to end. Nothing here decides whether that was right: see `chaos_truth`.
"""

from __future__ import annotations

import math
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from stepwire_engine.cli.chaos_truth import FILE_ENV, FORGET_ENV, Absence
from stepwire_engine.cli.children import Child

if TYPE_CHECKING:
    from stepwire.client import Client, Run, RunHandle

LOOPBACK = "127.0.0.1"
TARGET = "stepwire_engine.cli.chaos_flow:host"
FLOW = "storm"
SETTINGS = {
    "--heartbeat-interval": "500ms",
    "--silence-timeout": "2s",
    "--reconnect-grace": "500ms",
    "--adoption-grace": "3s",
}
"""Shorter than the defaults, so that a minute shows many recoveries."""
CUSTOMERS = 12
"""Runs that are open at once."""
CALM_SECONDS = (0.1, 3.0)
"""Between two faults."""
STOP_SECONDS = (0.3, 4.0)
"""How long a host is stopped: less or more than the engine waits for it."""
DOWN_SECONDS_MAX = 0.5
"""How long what was killed stays down."""
SETTLE_SECONDS = 60.0
"""In which everything that was started must end, once nothing is killed any more."""
_PORTS = (20_000, 32_000)
_AGAIN_SECONDS = 0.05


@dataclass(slots=True)
class Aftermath:
    """What is left to be judged.

    Attributes:
        accepted: Ids of runs that an engine accepted, with their numbers.
        ended: Ids of runs whose end a client was told, with whether they succeeded.
        records: Of these and of the runs they invoked.
        faults: How often each kind was done.
        down: Pairs of when an engine was killed and when its successor was started.
        surprises: What nobody did and happened all the same, one line each.
    """

    accepted: dict[str, int] = field(default_factory=dict)
    ended: dict[str, bool] = field(default_factory=dict)
    records: list[Run] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=lambda: {"engine killed": 0, "host killed": 0, "host stopped": 0})
    absences: list[Absence] = field(default_factory=list)
    down: list[tuple[float, float]] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)


class Storm:
    """One engine, some hosts, and what happens to them.

    Args:
        directory: For the database, the logs and the truth.
        hosts: How many; 2 at least, so that there is somewhere to go.
        seconds: How long there are faults.
        seed: Of everything that is drawn here.
        say: Told of each fault.
        forget: Hosts forget to write the result of every so-manieth attempt; 0: none.
    """

    def __init__(
        self, directory: Path, *, hosts: int, seconds: float, seed: int, say: Callable[[str], None], forget: int = 0
    ) -> None:
        self.truth = directory / "truth"
        self.truth.touch()
        self._directory = directory
        self._seconds = seconds
        self._random = random.Random(seed)
        self._say = say
        self._port, http = free_port(), free_port()
        ports = ["--port", str(self._port), "--http-port", str(http), "--log-format", "text"]
        settings = [word for pair in SETTINGS.items() for word in pair]
        self._engine_command = ["engine", "--db", str(directory / "engine.db"), *ports, *settings]
        self._environment = _environment(self.truth, forget)
        self._names = [f"host-{number}" for number in range(1, hosts + 1)]
        self._children: dict[str, Child] = {}
        self._away: set[str] = set()
        self._numbers = iter(range(1, sys.maxsize))
        self._over = False
        self._began = 0.0
        self.left = Aftermath()

    async def run(self) -> Aftermath:
        """Everything, from the first process to the last."""
        from stepwire.client import Client

        async with anyio.create_task_group() as processes:
            for name in ("engine", *self._names):
                await self._start(name, processes)
            async with Client(f"{LOOPBACK}:{self._port}") as client:
                with anyio.move_on_after(self._seconds + SETTLE_SECONDS):
                    async with anyio.create_task_group() as group:
                        self._began = time.monotonic()
                        for _ in range(CUSTOMERS):
                            group.start_soon(self._keep_starting, client)
                        await self._rage(processes)
                        self._over = True
                        self._say(f"no more faults; {len(self.left.accepted) - len(self.left.ended)} runs are open")
                await self._read_records(client)
            processes.cancel_scope.cancel()
        return self.left

    # ---- processes

    async def _start(self, name: str, processes: anyio.abc.TaskGroup) -> None:
        host = ["host", TARGET, "--engine", f"{LOOPBACK}:{self._port}"]
        words = self._engine_command if name == "engine" else host
        log = (self._directory / f"{name}.log").open("a", encoding="utf-8")

        def show(_name: str, line: str) -> None:
            print(line, file=log, flush=True)

        child = Child(name, [sys.executable, "-m", "stepwire_engine", *words], self._environment, show)

        async def live(*, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
            with log:
                await child.run(task_status=task_status)
            if child.unexpected:
                self.left.surprises.append(f"{name} ended by itself with exit code {child.exit_code}: {log.name}")

        # Shielded, because a start that is cancelled half-way leaves a process that nobody knows.
        with anyio.CancelScope(shield=True):
            await processes.start(live)
        self._children[name] = child

    # ---- faults

    async def _rage(self, processes: anyio.abc.TaskGroup) -> None:
        until = time.monotonic() + self._seconds
        async with anyio.create_task_group() as faults:
            while (rest := until - time.monotonic()) > 0:
                await anyio.sleep(min(rest, self._random.uniform(*CALM_SECONDS)))
                free = [name for name in self._children if name not in self._away]
                if free and time.monotonic() < until:
                    name = self._random.choice(free)
                    stopped = name != "engine" and self._random.random() < 0.5
                    self._away.add(name)
                    faults.start_soon(self._stop if stopped else self._kill, name, processes)

    async def _kill(self, name: str, processes: anyio.abc.TaskGroup) -> None:
        child = self._children[name]
        at = time.monotonic()
        child.kill()
        self._note("engine killed" if name == "engine" else "host killed", name, child.pid)
        down = self._random.uniform(0, DOWN_SECONDS_MAX)
        await child.ended.wait()
        await anyio.sleep(down)
        await self._start(name, processes)
        if name == "engine":
            self.left.down.append((at, time.monotonic()))
        else:
            self.left.absences.append(Absence(child.pid, at))
        self._away.discard(name)

    async def _stop(self, name: str, _processes: anyio.abc.TaskGroup) -> None:
        pid, seconds = self._children[name].pid, self._random.uniform(*STOP_SECONDS)
        at = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        self._note("host stopped", name, pid, f" for {seconds:.1f} s")
        await anyio.sleep(seconds)
        os.kill(pid, signal.SIGCONT)
        self.left.absences.append(Absence(pid, at, time.monotonic()))
        self._away.discard(name)

    def _note(self, kind: str, name: str, pid: int, more: str = "") -> None:
        self.left.faults[kind] += 1
        at = time.monotonic() - self._began
        self._say(f"{at:6.2f} s  {kind:<13}  {name} (pid {pid}){more}")

    # ---- clients

    async def _keep_starting(self, client: Client) -> None:
        from stepwire.errors import RunFailed

        while not self._over:
            number = next(self._numbers)
            run = await self._accepted(client, number)
            self.left.accepted[run.run_id] = number
            try:
                await run.result()
                self.left.ended[run.run_id] = True
            except RunFailed:
                self.left.ended[run.run_id] = False

    async def _accepted(self, client: Client, number: int) -> RunHandle[str]:
        """Ask until an engine answers; with an id, so that there is one run whatever was heard before."""
        from stepwire.errors import EngineUnavailable, UnknownFlow

        while True:
            try:
                return await client.start(FLOW, number, id=f"chaos {number}")
            except (EngineUnavailable, UnknownFlow):  # no host has said yet that it serves the flow
                await anyio.sleep(_AGAIN_SECONDS)

    async def _read_records(self, client: Client) -> None:
        """The records of all runs and their children. One that the engine does not know is left out: it is lost."""
        from stepwire.errors import EngineUnavailable, RunNotFound

        wanted = list(self.left.accepted)
        while wanted:
            try:
                record = await client.get(wanted.pop(), steps=True)
            except RunNotFound as error:
                self.left.surprises.append(str(error))
                continue
            except EngineUnavailable as error:
                self.left.surprises.append(str(error))
                return
            self.left.records.append(record)
            wanted += [step.child_run_id for step in record.steps if step.child_run_id]


def _environment(truth: Path, forget: int) -> Mapping[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STEPWIRE_")}
    own = {FILE_ENV: str(truth), FORGET_ENV: str(forget) if forget else "", "PYTHONUNBUFFERED": "1"}
    return inherited | own


def free_port() -> int:
    """A port nobody listens on, outside the range that the system gives to outgoing connections.

    Otherwise a host that dials an engine which is down could be given this very port, and connect to itself.
    """
    drawn = random.SystemRandom()
    while True:
        port = drawn.randrange(*_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port


def engine_recoveries(down: Sequence[tuple[float, float]], begun: Sequence[float]) -> list[float]:
    """Seconds from each end of an engine to the first step that was begun with its successor.

    Args:
        down: When it was killed, and when the successor was started.
        begun: When steps were begun, in order.
    """
    found = []
    for killed, started in down:
        first = next((at for at in begun if at >= started), math.inf)
        if first < math.inf:
            found.append(first - killed)
    return found
