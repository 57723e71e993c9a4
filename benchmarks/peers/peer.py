"""What every peer has in common: it is started, given the work of a workload, measured from outside, and stopped."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.driving import Driven
from benchmarks.floor import Floor
from benchmarks.lines import Subject
from benchmarks.meter import Meter
from benchmarks.processes import POLL_SECONDS, START_SECONDS, BenchmarkError
from benchmarks.runs import Runs
from benchmarks.stage import Point, latencies
from benchmarks.work import LARGE_BYTES
from benchmarks.workloads import Workload

SETTLE_SECONDS = 1.0
"""What a server puts off at its start is not the work that is measured."""


@dataclass(frozen=True, slots=True)
class Running:
    """A peer that serves.

    Attributes:
        groups: Its processes, as "engine" and "host"; a library has only a host.
        drive: Flow, steps per run, runs, runs at once.
    """

    groups: Mapping[str, Sequence[int]]
    drive: Callable[[str, int, int, int], Driven]


class Peer(Protocol):
    """Another engine."""

    @property
    def name(self) -> str:
        """As it is chosen."""

    def missing(self) -> str:
        """Why it cannot be measured here; empty: it can."""

    def subject(self) -> Subject:
        """Version, topology and durability."""

    def start(self, folder: Path) -> AbstractContextManager[Running]:
        """Everything it needs, in a fresh folder. Raises BenchmarkError."""


@dataclass(frozen=True, slots=True)
class Turns:
    """A peer takes its turns with the work that it can do."""

    peer: Peer

    @property
    def name(self) -> str:
        """Of the peer."""
        return self.peer.name

    def subject(self) -> Subject:
        """Of the peer."""
        return self.peer.subject()

    def does(self, workload: Workload) -> bool:
        """Only runs of the set that is the same for everybody."""
        return workload.set == "peers"

    def prepare(self, workload: Workload, kept: Path) -> None:
        """Nothing takes long."""

    def measure(self, workload: Workload, folder: Path, kept: Path, floor: Floor) -> list[Point]:
        """As our own runs are measured: fresh processes, a warm-up, then the runs."""
        work = workload.scenario
        assert isinstance(work, Runs)
        with self.peer.start(folder) as running:
            time.sleep(SETTLE_SECONDS)
            if work.warm_up:
                running.drive(work.flow, work.steps, work.warm_up, min(work.at_once, work.warm_up))
            raw = floor.sample()
            meter = Meter(running.groups, folder)
            meter.start()
            driven = running.drive(work.flow, work.steps, work.runs, work.at_once)
            meter.stop()
            if driven.acknowledged != work.steps * work.runs:
                raise BenchmarkError(f"{driven.acknowledged} of {work.steps * work.runs} steps were acknowledged")
            figures = {**meter.figures(driven.acknowledged), **latencies(driven), **raw}
        if work.large:
            figures["mb_per_s"] = figures["steps_per_s"] * LARGE_BYTES / 1e6
        return [Point(figures)]


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def wait_for(url: str, served_by: subprocess.Popen[bytes]) -> None:
    """Until it answers, with whatever.

    Raises:
        BenchmarkError: it does not, or its process has ended.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and served_by.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(POLL_SECONDS * 4)
    raise BenchmarkError(f"nobody answers at {url}")
