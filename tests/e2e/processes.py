"""Real processes for the end-to-end tests: engines and hosts in groups of their own, with logs in files.

Everything that is started is ended by `Stage.close`, with SIGKILL to its whole process group. Waiting is
polling of something observable, up to a deadline.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import stepwire
from tests import evicting
from tests.e2e import gates, ledger, observed

ROOT = Path(__file__).resolve().parents[2]
READY = re.compile(r"stepwire engine ready  grpc (\S+)  http (\S+)  db ")
COMMAND = ("-m", "stepwire_engine", "engine")
START_SECONDS = 15.0
END_SECONDS = 15.0
QUICK: dict[str, Any] = {"reconnect_grace": 0.5, "adoption_grace": 3}
"""Settings of engines that lose hosts on purpose: nobody has to wait for the usual graces."""
_POLL_SECONDS = 0.002
_LOG_TAIL = 12_000
PORTS = range(20_000, 32_000)
"""Outside of what the system gives to outgoing connections."""
_PORTS_EACH = 750


def _own_ports() -> Iterator[int]:
    """Ports that no other process of this test session takes, each as late again as possible.

    An engine that was killed and is to be started again keeps its port while nobody listens on it.
    """
    number = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0)
    first = PORTS.start + number * _PORTS_EACH % len(PORTS)
    own = list(range(first, first + _PORTS_EACH))
    begin = random.SystemRandom().randrange(len(own))
    return itertools.cycle(own[begin:] + own[:begin])


_ports = _own_ports()

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str, seconds: float = 15.0) -> T:
    """Poll until `condition` gives something true, and return it. Fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(_POLL_SECONDS)  # gate: the pause between two looks at the condition
    return found


def free_port() -> int:
    """A port nobody listens on, outside the range the system gives to outgoing connections.

    Otherwise a host that dials an engine which is down could be given this very port, and connect to itself.
    """
    while True:
        port = next(_ports)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Process:
    """One process, its log, and its end."""

    def __init__(self, arguments: list[str], log: Path, **environment: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("STEPWIRE_")}
        self.log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as file:
            self.popen = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=inherited | {"PYTHONPATH": PYTHONPATH, "PYTHONUNBUFFERED": "1"} | environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def said(self) -> str:
        """What this process wrote so far."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def says(self, text: str, seconds: float = 15.0) -> None:
        """Wait until it has written `text`."""
        wait_for(lambda: text in self.said, f"process {self.pid} to say {text!r}", seconds)

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self, seconds: float = END_SECONDS) -> int:
        """The exit code. Fails the test if the process does not end."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"process {self.pid} did not end within {seconds:g} s") from None

    def terminate(self, seconds: float = END_SECONDS) -> int:
        """SIGTERM, then the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """SIGKILL to the process and everything it started. Idempotent."""
        if self.running:
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait(END_SECONDS)


PYTHONPATH = os.pathsep.join(str(path) for path in (ROOT, ROOT / "engine", ROOT / "python_sdk"))


class Engine:
    """An engine on one database and one pair of ports, over as many processes as the test wants.

    Args:
        command: What python is to run instead of `-m stepwire_engine engine`; it gets the same flags.
        environment: Variables of the processes.
    """

    def __init__(
        self,
        db: Path,
        log: Path,
        command: Sequence[str] = COMMAND,
        environment: Mapping[str, str] = MappingProxyType({}),
        **settings: Any,
    ) -> None:
        self.db = db
        self.log = log
        self.command = list(command)
        self.environment = dict(environment)
        self.port, self.http_port = free_port(), free_port()
        self.settings = settings
        self.process: Process | None = None
        self.start_seconds = 0.0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def launch(self, **settings: Any) -> Process:
        """Start a process without waiting for anything; `settings` change those of the engine."""
        ports = {"port": self.port, "http_port": self.http_port}
        given = {"db": self.db, "log_format": "text"} | ports | self.settings | settings
        flags = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        return Process([*self.command, *flags], self.log, **self.environment)

    def start(self) -> Engine:
        """Returns when the engine says that it is ready."""
        began = time.monotonic()
        process = self.process = self.launch()
        wait_for(lambda: READY.search(process.said) or not process.running, "the engine to be ready", START_SECONDS)
        self.start_seconds = time.monotonic() - began
        assert process.running, f"the engine ended with {process.wait()}: {process.said}"
        return self

    @property
    def running(self) -> Process:
        assert self.process is not None
        return self.process

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def http(self, path: str) -> tuple[int, str]:
        """Status and text of a GET."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()

    def metric(self, series: str) -> float:
        """The value of one series, e.g. `stepwire_frames_total{direction="in"}`."""
        for line in self.http("/metrics")[1].splitlines():
            if line.startswith(series + " "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"there is no series {series}")


class Stage:
    """Engines, hosts, gates and the ledger of one test or module.

    Args:
        directory: For databases, logs and the ledger.
    """

    alive: ClassVar[list[Stage]] = []

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ledger = ledger.Ledger(directory / "ledger")
        self.gates = gates.Gates()
        self.logs: list[Path] = []
        self._hosts: list[Process] = []
        self._closing: list[Callable[[], None]] = []
        Stage.alive.append(self)

    def engine(self, name: str = "engine", *, db: Path | None = None, **settings: Any) -> Engine:
        """An engine that is ready, with its database in this directory unless told otherwise. Settings as of Engine."""
        engine = Engine(db or self.directory / f"{name}.db", self._log(name), **settings)
        self._closing.append(engine.kill)
        return engine.start()

    def launch(self, engine: Engine, **settings: Any) -> Process:
        """One more process with the settings of `engine`, e.g. one that must refuse to start."""
        process = engine.launch(**settings)
        self._closing.append(process.kill)
        return process

    def host(self, engine: Engine, name: str, **options: Any) -> Process:
        """A host process. Options as of `hosts`."""
        return self.hosts(engine, name, **options)[0]

    def hosts(
        self,
        engine: Engine,
        *names: str,
        slots: int = 64,
        replay: bool = False,
        drain: float = 20,
        flows: str = "flows",
        wait: bool = True,
        **environment: str,
    ) -> list[Process]:
        """Host processes that start at the same time.

        Args:
            wait: Until the engine has welcomed all of them.
            flows: The module beside this one that they serve.
            environment: Variables of the processes.
        """
        arguments = ["host", f"tests.e2e.{flows}:host", "--engine", engine.address, "--slots", str(slots)]
        started = []
        for name in names:
            process = Process(
                ["-m", "stepwire_engine", *arguments, "--drain-timeout", str(drain)],
                self._log(name),
                **{
                    ledger.FILE_ENV: str(self.ledger.path),
                    ledger.HOST_ENV: name,
                    gates.ADDRESS_ENV: self.gates.address,
                    observed.REPLAY_ENV: "1" if replay or evicting.always() else "",
                },
                **environment,
            )
            self._closing.append(process.kill)
            self._hosts.append(process)
            started.append(process)
        if wait:
            for name, process in zip(names, started, strict=True):
                self._welcomed(name, process)
        return started

    def _welcomed(self, name: str, process: Process) -> None:
        wait_for(lambda: "connected to engine" in process.said or not process.running, f"host {name}", START_SECONDS)
        assert process.running, f"host {name} ended with {process.wait()}: {process.said}"

    def client(self, engine: Engine) -> stepwire.ClientSync:
        client = stepwire.ClientSync(engine.address)
        self._closing.append(client.close)
        return client

    def stepwire(self, engine: Engine, *words: str) -> str:
        """Run a `stepwire` command about `engine`, which must succeed; what it printed."""
        process = Process(
            ["-m", "stepwire_engine", *words, "--engine", engine.address], self._log(f"command-{len(self.logs)}")
        )
        self._closing.append(process.kill)
        assert process.wait() == 0, process.said
        return process.said

    def acked(self, run_id: str, *paths: str) -> None:
        """Wait until hosts received the Acks for these steps."""

        def all_acked() -> bool:
            return set(paths) <= {line.path for line in self.ledger.of(run_id, "acked")}

        wait_for(all_acked, f"acks for {paths} of {run_id}")

    def draining(self, host: Process) -> None:
        """Wait until a host process has begun to stop."""

        def noted() -> bool:
            return any(line.event == "draining" and line.pid == host.pid for line in self.ledger.refresh())

        wait_for(noted, "the host to drain")

    def _log(self, name: str) -> Path:
        path = self.directory / f"{name}.log"
        if path not in self.logs:
            self.logs.append(path)
        return path

    def dump_stacks(self) -> None:
        """Make every host write the stacks of its threads to its log."""
        for process in self._hosts:
            if process.running:
                process.signal(signal.SIGUSR1)
                with contextlib.suppress(AssertionError):
                    process.says("most recent call first", 1)

    def tails(self) -> list[tuple[str, str]]:
        """The end of every log, for reports of failures."""
        return [(path.name, path.read_text(errors="replace")[-_LOG_TAIL:]) for path in self.logs if path.exists()]

    def close(self) -> None:
        """End everything, whatever state it is in."""
        Stage.alive.remove(self)
        problems = []
        for close in [*reversed(self._closing), self.gates.close]:
            try:
                close()
            except Exception as problem:
                problems.append(problem)
        if problems:
            raise ExceptionGroup("could not end everything", problems)
