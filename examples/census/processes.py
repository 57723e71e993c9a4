"""Engine and hosts of the demonstration as child processes: started by commands a user would type, and always ended.

Nothing here knows what the flow does.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

LOOPBACK = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[2]
ADOPTION_GRACE = "1s"
"""How long a restarted engine waits for hosts that may hold attempts; the default of 10 s would be most of the show."""
READY_SECONDS = 20.0
STOP_SECONDS = 10.0
LOG_LINES_SHOWN = 15
_POLL_SECONDS = 0.02
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy of the environment is not for loopback


class Unready(Exception):
    """A process ended, or did not become what was waited for in time."""


class Process:
    """One `stepwire ...` command; its output goes to a file of its own.

    Args:
        name: Shown to people, and the log's name.
        arguments: Of the `stepwire` command.
        directory: Its working directory, which takes the log.
        environment: Beside what is inherited, which loses its STEPWIRE_* settings.
    """

    def __init__(
        self, name: str, arguments: list[str], directory: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("STEPWIRE_")}
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches the demonstration alone, which ends its processes in order.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stepwire_engine", *arguments],
                cwd=directory,
                env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """SIGKILL: it gets no chance to say or save anything."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """Ask it to end; does not wait."""
        if not self.ended:
            self._process.send_signal(signal.SIGTERM)

    def join(self) -> None:
        """Wait until it has ended, and insist after STOP_SECONDS."""
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def last_lines(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text("utf-8", "replace").split("\n")[-LOG_LINES_SHOWN:])


class Cluster:
    """One engine and its hosts.

    Args:
        directory: Takes the database and the logs.
        database: File name in it.
        target: What the hosts serve, as `stepwire host` takes it.
    """

    def __init__(self, directory: Path, database: str, target: str) -> None:
        self.directory = directory
        self.database = directory / database
        self._target = target
        self._grpc, self._http = free_ports(2)
        self.engine: Process | None = None
        self.hosts: dict[str, Process] = {}

    @property
    def address(self) -> str:
        """Where clients and hosts dial."""
        return f"{LOOPBACK}:{self._grpc}"

    @property
    def processes(self) -> list[Process]:
        """Everything that is supposed to run."""
        return [*self.hosts.values(), *([self.engine] if self.engine else [])]

    def start_engine(self) -> Process:
        """Start the engine on the database and wait until it serves."""
        ports = ["--port", str(self._grpc), "--http-port", str(self._http)]
        settings = ["--db", str(self.database), *ports, "--adoption-grace", ADOPTION_GRACE, "--log-format", "text"]
        self.engine = engine = Process(f"engine-{self.database.stem}", ["engine", *settings], self.directory)
        self._wait(lambda: self._read("/readyz") is not None, "the engine is ready")
        return engine

    def kill_engine(self) -> int:
        """SIGKILL; its process id."""
        engine, self.engine = self.engine, None
        assert engine is not None, "no engine was started"
        engine.kill()
        return engine.pid

    def start_host(self, name: str, environment: Mapping[str, str]) -> Process:
        """Start one host; `wait_for_hosts` waits for its connection."""
        self.hosts[name] = Process(name, ["host", self._target, "--engine", self.address], self.directory, environment)
        return self.hosts[name]

    def kill_host(self, name: str) -> int:
        """SIGKILL; its process id."""
        host = self.hosts.pop(name)
        host.kill()
        return host.pid

    def wait_for_hosts(self, count: int) -> None:
        """Wait until the engine has sessions of `count` hosts."""
        self._wait(lambda: self._sessions() >= count, f"{count} hosts are connected")

    def stop(self) -> None:
        """End everything in order: hosts say goodbye, then the engine. Whatever does not listen is killed."""
        try:
            for process in self.hosts.values():
                process.terminate()
            for process in self.hosts.values():
                process.join()
            if self.engine is not None:
                self.engine.terminate()
                self.engine.join()
        finally:
            # Somebody pressed Ctrl-C again.
            for process in self.processes:
                process.kill()

    def copy_of_journal(self, name: str) -> Cluster:
        """The database as it is on disk now, without hosts; for looking at it while the engine is dead."""
        for suffix in ("", "-wal"):
            source = self.database.with_name(self.database.name + suffix)
            if source.exists():
                shutil.copyfile(source, self.directory / (name + suffix))
        return Cluster(self.directory, name, self._target)

    def _sessions(self) -> int:
        lines = (self._read("/metrics") or "").split("\n")
        counts = [line.rpartition(" ")[2] for line in lines if line.startswith("stepwire_sessions_connected{")]
        return sum(int(float(count)) for count in counts)

    def _read(self, path: str) -> str | None:
        try:
            with _DIRECT.open(f"http://{LOOPBACK}:{self._http}{path}", timeout=2) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, OSError):
            return None

    def _wait(self, reached: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not reached():
            for process in self.processes:
                if process.ended:
                    raise Unready(f"{process.name} ended before {what}:\n{process.last_lines()}")
            if time.monotonic() > deadline:
                raise Unready(f"waited {READY_SECONDS:g} s in vain until {what}")
            time.sleep(_POLL_SECONDS)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment; they differ."""
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [int(open_socket.getsockname()[1]) for open_socket in sockets]
    for open_socket in sockets:
        open_socket.close()
    return ports
