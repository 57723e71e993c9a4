"""Engine and host as processes of their own, and what Linux says about them (/proc, /sys)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS, STOP_SECONDS = 15.0, 40.0
_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


class BenchmarkError(Exception):
    """The measurement is not valid; the text says why."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine."""

    pid: int
    address: str
    http: str
    database: Path

    def commits(self) -> int:
        """Commits since it was started, from its own metrics."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(int(float(line.split()[-1])) for line in lines if line.startswith("stepwire_commit_seconds_count"))


@contextmanager
def engine(folder: Path, *settings: str) -> Iterator[Engine]:
    """`stepwire engine --db FILE` with free ports and `settings`; stopped with SIGTERM, which must end well."""
    database, log = folder / "stepwire.db", folder / "engine.log"
    given = ("--db", str(database), "--port=0", "--http-port=0", *settings)
    with _process(log, "stepwire_engine", "engine", *given) as process:
        words = _ready_message(process, log).split()
        yield Engine(process.pid, words[words.index("grpc") + 1], words[words.index("http") + 1], database)


@contextmanager
def step_host(folder: Path, address: str, slots: int | None) -> Iterator[int]:
    """The host of the workloads; gives its process id."""
    with _process(folder / "host.log", "benchmarks.step_host", address, *([str(slots)] if slots else [])) as process:
        yield process.pid


@contextmanager
def _process(log: Path, *module: str) -> Iterator[subprocess.Popen[bytes]]:
    path = os.pathsep.join(str(place) for place in (ROOT / "engine", ROOT / "python_sdk", ROOT))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEPWIRE_")}
    command = [sys.executable, "-m", *module]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=log.parent, env={**kept, "PYTHONPATH": path}, stdout=output, stderr=output
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise BenchmarkError(f"{module[0]} ended with {process.returncode}:\n{log.read_text()[-2000:]}")


def _ready_message(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines(keepends=True):
            if "stepwire engine ready" in line and line.endswith("\n"):
                return str(json.loads(line)["event"])
        time.sleep(0.02)
    raise BenchmarkError(f"the engine did not start:\n{log.read_text()[-2000:]}")


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process; the kernel counts in ticks, usually of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_SECONDS


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def file_system(folder: Path) -> str:
    """Type of the file system that holds `folder`."""
    mounts = [line.partition(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = {mount.split()[4]: source.split()[0] for mount, _, source in mounts}
    return found[max((point for point in found if folder.resolve().is_relative_to(point)), key=len)]


def device_flushes(folder: Path) -> int | None:
    """Cache flushes the disk under `folder` has completed; None if the kernel does not say."""
    device = os.stat(folder).st_dev
    try:
        fields = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()
        return int(fields[15])
    except (OSError, IndexError):
        return None
