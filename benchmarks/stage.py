"""Where one measurement happens: a fresh folder, fresh processes of one checkout, and the proof at the end.

Every measurement has an engine and a host of its own, so that memory is its own, rounds are independent of each other
and subjects can take turns.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from benchmarks import processes
from benchmarks.checkout import Checkout
from benchmarks.driving import Driven, drive, drive_together
from benchmarks.floor import Floor
from benchmarks.journal import must_hold, reread
from benchmarks.medians import quantile
from benchmarks.meter import Meter
from benchmarks.processes import BenchmarkError, Engine
from stepwire.client import ClientSync
from stepwire.errors import UnknownFlow

RUN_SECONDS, CONNECT_SECONDS = 300.0, 15.0


class Point(NamedTuple):
    """What a workload measured: figures, and the size they belong to (0: it has one size)."""

    figures: dict[str, float]
    size: int = 0


class Scenario(Protocol):
    """A way to measure; a workload is a scenario with its numbers."""

    def measure(self, stage: Stage) -> list[Point]:
        """One round. Raises BenchmarkError."""

    def scaled(self, factor: float) -> Self:
        """The same with other sizes, for a try."""


@dataclass(slots=True)
class Serving:
    """A running engine, its hosts, and a client that counts what it is told."""

    engine: Engine
    hosts: tuple[int, ...]
    client: ClientSync
    acknowledged: int = 0

    def run(self, flow: str, given: Any) -> Any:
        """Start a run and wait for its result, with one call if the engine knows it."""
        return self.client.run(flow, given, timeout=RUN_SECONDS)

    def drive(self, flow: str, steps: int, runs: int, at_once: int, together: bool = False) -> Driven:
        """Runs of a flow that returns how many of its steps are acknowledged; all of them must be."""

        def batch(size: int) -> int:
            started = self.client.start_many(flow, [steps] * size)
            return sum(map(int, self.client.results(started, timeout=RUN_SECONDS)))

        if together:
            driven = drive_together(batch, runs, at_once)
        else:
            driven = drive(lambda: int(self.run(flow, steps)), runs, at_once)
        if driven.acknowledged != steps * runs:
            raise BenchmarkError(f"results of {flow} acknowledge {driven.acknowledged} of {steps * runs} steps")
        self.acknowledged += driven.acknowledged
        return driven

    def meter(self) -> Meter:
        """For engine and hosts."""
        return Meter({"engine": (self.engine.pid,), "host": self.hosts}, self.engine.database.parent)

    def measure(self, flow: str, steps: int, runs: int, at_once: int, together: bool = False) -> dict[str, float]:
        """Drive, and say what it took."""
        commits, meter = self.engine.commits(), self.meter()
        meter.start()
        driven = self.drive(flow, steps, runs, at_once, together)
        meter.stop()
        return {
            **meter.figures(driven.acknowledged),
            **latencies(driven),
            "commits_per_step": (self.engine.commits() - commits) / driven.acknowledged,
        }


def latencies(driven: Driven) -> dict[str, float]:
    """Of runs, in milliseconds."""
    return {
        "run_p50_ms": quantile(driven.run_seconds, 0.5) * 1000,
        "run_p99_ms": quantile(driven.run_seconds, 0.99) * 1000,
    }


@dataclass(frozen=True, slots=True)
class Stage:
    """One measurement.

    Attributes:
        folder: Empty, on a real disk.
        kept: Lives as long as the session: what is prepared once.
        slots: Of the host; None: its default.
    """

    checkout: Checkout
    folder: Path
    kept: Path
    floor: Floor
    slots: int | None = None
    proofs: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def serving(self, *settings: str, host: tuple[str, ...] = (), workers: int = 0) -> Iterator[Serving]:
        """Engine, host of the flows and `workers` hosts of registered steps; afterwards the journal is read again.

        Raises:
            BenchmarkError: a process failed, or the journal is not what clients were told.
        """
        slots = ("--slots", str(self.slots)) if self.slots and "--slots" not in host else ()
        database = self.folder / "stepwire.db"
        with processes.engine(self.checkout, database, *settings) as engine:
            with ExitStack() as hosts, ClientSync(engine.address) as client:
                options = [(*slots, *host), *[("--worker",)] * workers]
                pids = [hosts.enter_context(self._host(engine, given)) for given in options]
                made = Serving(engine, tuple(pids), client)
                self._wait_for_hosts(made)
                yield made
        found = reread(self.checkout, database)
        must_hold(found, made.acknowledged)
        self.proofs.update(found.figures())

    def _host(self, engine: Engine, options: tuple[str, ...]) -> AbstractContextManager[int]:
        return processes.step_host(self.checkout, self.folder, engine.address, *options)

    @staticmethod
    def _wait_for_hosts(serving: Serving) -> None:
        """Complete a run of one step; its flow is unknown until the host has connected."""
        deadline = time.monotonic() + CONNECT_SECONDS
        while time.monotonic() < deadline:
            try:
                serving.drive("sequence", 1, 1, 1)
                if serving.engine.metric("stepwire_sessions_connected") >= len(serving.hosts):
                    return
            except UnknownFlow:
                pass
            time.sleep(0.02)
        raise BenchmarkError(f"not all of {len(serving.hosts)} hosts connected")
