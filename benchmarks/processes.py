"""Engine and hosts as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checkout import Checkout

START_SECONDS, STOP_SECONDS = 60.0, 40.0
POLL_SECONDS = 0.005


class BenchmarkError(Exception):
    """The measurement is not valid; the text says why."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine.

    Attributes:
        ready_seconds: From the start of its process until it said that it is ready.
    """

    pid: int
    address: str
    http: str
    database: Path
    ready_seconds: float

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of a metric that have these labels."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum_of(text, name, wanted)

    def commits(self) -> int:
        """Commits since it was started, from its own metrics."""
        return int(self.metric("stepwire_commit_seconds_count"))


def sum_of(exposition: str, name: str, labels: Sequence[str] = ()) -> float:
    """Samples of `name` in the text that /metrics gives."""
    return sum(
        float(line.split()[-1])
        for line in exposition.splitlines()
        if line.startswith((f"{name} ", f"{name}{{")) and all(label in line for label in labels)
    )


@contextmanager
def engine(checkout: Checkout, database: Path, *settings: str) -> Iterator[Engine]:
    """`stepwire engine --db FILE` with free ports and `settings`; stopped with SIGTERM, which must end well."""
    log = database.parent / "engine.log"
    command = checkout.command(
        "stepwire_engine", "engine", "--db", str(database), "--port=0", "--http-port=0", "--log-format=json", *settings
    )
    began = time.perf_counter()
    with process(command, log, checkout.environment(), core=checkout.engine_core) as running:
        words = _ready_message(running, log).split()
        ready = time.perf_counter() - began
        yield Engine(running.pid, words[words.index("grpc") + 1], words[words.index("http") + 1], database, ready)


@contextmanager
def step_host(checkout: Checkout, folder: Path, address: str, *options: str) -> Iterator[int]:
    """The host of the workloads (`benchmarks.step_host`); gives its process id."""
    number = len(list(folder.glob("host-*.log")))
    command = checkout.command("benchmarks.step_host", address, *options)
    log = folder / f"host-{number}.log"
    with process(command, log, checkout.environment(), core=checkout.host_core) as running:
        yield running.pid


@contextmanager
def process(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    *,
    stop: signal.Signals = signal.SIGTERM,
    codes: Sequence[int] = (0,),
    core: int | None = None,
    piped: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the folder of its log, stopped with `stop`.

    Args:
        codes: That it may end with.
        core: The only one it runs on; None: any.
        piped: Its standard input and output are pipes; otherwise nothing, and the log.

    Raises:
        BenchmarkError: it ended with a code that is none of `codes`, and nothing else went wrong.
    """
    with log.open("wb") as output:
        ends = (subprocess.PIPE, subprocess.PIPE) if piped else (subprocess.DEVNULL, output)
        running = subprocess.Popen(
            command, cwd=log.parent, env=environment, stdin=ends[0], stdout=ends[1], stderr=output
        )
    try:
        if core is not None:
            os.sched_setaffinity(running.pid, {core})  # Its threads, which are still to come, inherit it.
        yield running
        running.send_signal(stop)
        running.wait(STOP_SECONDS)
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
    if running.returncode not in codes:
        raise BenchmarkError(f"{Path(command[0]).name} ended with {running.returncode}:\n{tail(log)}")


def tail(log: Path) -> str:
    """The end of a log."""
    return log.read_text(errors="replace")[-2000:]


def _ready_message(running: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and running.poll() is None:
        for line in log.read_text().splitlines(keepends=True):
            if "stepwire engine ready" in line and line.endswith("\n"):
                return str(json.loads(line)["event"])
        time.sleep(POLL_SECONDS)
    raise BenchmarkError(f"the engine did not start:\n{tail(log)}")
