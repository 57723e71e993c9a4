"""Engine and host as processes of their own, and what Linux says about them (/proc)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 15.0
STOP_SECONDS = 40.0
_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
_READY = "stepwire engine ready"


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
        name = "stepwire_commit_seconds_count"
        return int(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)))


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """`stepwire engine --db FILE` with free ports and nothing else; stopped with SIGTERM, which must end well."""
    database, log = folder / "stepwire.db", folder / "engine.log"
    command = ["stepwire_engine", "engine", "--db", str(database), "--port", "0", "--http-port", "0"]
    with _process(command, log) as process:
        words = _ready_message(process, log).split()
        yield Engine(process.pid, words[words.index("grpc") + 1], words[words.index("http") + 1], database)


@contextmanager
def step_host(folder: Path, address: str, slots: int | None) -> Iterator[int]:
    """The host of the workloads; gives its process id."""
    command = ["benchmarks.step_host", address, *([] if slots is None else [str(slots)])]
    with _process(command, folder / "host.log") as process:
        yield process.pid


@contextmanager
def _process(module: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    paths = [str(ROOT / "engine"), str(ROOT / "python_sdk"), str(ROOT)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("STEPWIRE_")}
    environment = {**kept, "PYTHONPATH": os.pathsep.join(paths)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *module], cwd=log.parent, env=environment, stdout=output, stderr=output
        )
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            code = process.wait(STOP_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code != 0:
        raise BenchmarkError(f"{module[0]} ended with {code}:\n{log.read_text()[-2000:]}")


def _ready_message(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines(keepends=True):
            if _READY in line and line.endswith("\n"):
                return str(json.loads(line)["message"])
        time.sleep(0.02)
    raise BenchmarkError(f"the engine did not start:\n{log.read_text()[-2000:]}")


def cpu_seconds(pid: int | str = "self") -> float:
    """User and system time of all threads of a process; the kernel counts in ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_SECONDS


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def file_system(folder: Path) -> str:
    """Type of the file system that holds `folder`."""
    place, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        point = mount.split()[4]
        if folder.resolve().is_relative_to(point) and len(point) >= len(place):
            place, kind = point, source.split()[0]
    return kind


def device_flushes(folder: Path) -> int | None:
    """Cache flushes the disk under `folder` has completed; None if the kernel does not say."""
    number = os.stat(folder).st_dev
    try:
        fields = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat").read_text().split()
        return int(fields[15])
    except (OSError, IndexError):
        return None
