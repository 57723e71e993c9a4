"""Runs one workload: engine, host and driver are three processes; every repetition is measured from outside."""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import processes
from benchmarks.baselines import Floor, measure_floor
from benchmarks.journal import JournalFigures, reread
from benchmarks.processes import BenchmarkError, Engine
from benchmarks.workloads import Workload
from stepwire.client import ClientSync
from stepwire.errors import UnknownFlow

RUN_SECONDS, CONNECT_SECONDS = 300.0, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One repetition. CPU is in microseconds per step; `flushes` of the disk are those of the whole machine."""

    repetition: int
    steps: int
    seconds: float
    steps_per_s: float
    engine_cpu_us: float
    host_cpu_us: float
    driver_cpu_us: float
    engine_rss_bytes: int
    host_rss_bytes: int
    run_p50_ms: float
    run_p99_ms: float
    commits: int
    flushes: int | None
    floor: Floor | None
    floor_ratio: float | None


@dataclass(slots=True)
class Outcome:
    """A workload with its repetitions and, at the end, with what its journal says."""

    workload: Workload
    acknowledged: int = 0
    measurements: list[Measurement] = field(default_factory=list)
    journal: JournalFigures | None = None

    @property
    def journal_agrees(self) -> bool:
        """Durable is exactly what clients were told."""
        return self.journal is not None and self.journal.steps == self.acknowledged

    def median(self, name: str) -> float | None:
        """Of a figure over the repetitions; None if it was not measured."""
        values = [value for one in self.measurements if (value := getattr(one, name)) is not None]
        return statistics.median(values) if values else None


def run_workload(
    workload: Workload,
    *,
    repeat: int,
    folder: Path,
    slots: int | None = None,
    report: Callable[[Measurement], object] = id,
) -> Outcome:
    """Measure a workload on an engine and a host of its own, then compare the journal with the clients' results.

    Args:
        repeat: Repetitions, after one that warms up and is not measured.
        folder: On a real disk; it gets a directory per call, which is removed.
        slots: Of the host; None: its default.
        report: Told each measurement.

    Raises:
        BenchmarkError: a process failed, or runs did not acknowledge every step.
    """
    outcome = Outcome(workload)
    with tempfile.TemporaryDirectory(prefix=f"{workload.name}-", dir=folder) as made:
        place = Path(made)
        with (
            processes.engine(place, *workload.settings) as engine,
            processes.step_host(place, engine.address, slots) as host,
            ClientSync(engine.address) as client,
            ThreadPoolExecutor(workload.at_once) as pool,
        ):
            bench = _Bench(engine, host, client, pool, outcome)
            bench.wait_for_host()
            if workload.warm_up:
                bench.all_runs()
            for number in range(1, repeat + 1):
                floor = measure_floor(place) if workload.floor else None
                outcome.measurements.append(bench.measure(number, floor))
                report(outcome.measurements[-1])
        outcome.journal = reread(engine.database)
    return outcome


@dataclass(frozen=True, slots=True)
class _Bench:
    """The processes of one workload, and what drives them."""

    engine: Engine
    host: int
    client: ClientSync
    pool: ThreadPoolExecutor
    outcome: Outcome

    def wait_for_host(self) -> None:
        """Complete a run of one step; its flow is unknown until the host has connected."""
        deadline = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                self.outcome.acknowledged += self._one_run(1)[0]
                return
            except UnknownFlow:
                if time.monotonic() > deadline:
                    raise BenchmarkError("the host did not connect") from None
                time.sleep(0.02)

    def all_runs(self) -> list[float]:
        """One repetition; gives the seconds of each run."""
        workload = self.outcome.workload
        done = list(self.pool.map(lambda _: self._one_run(workload.steps), range(workload.runs)))
        acknowledged = sum(steps for steps, _ in done)
        if acknowledged != workload.steps * workload.runs:
            raise BenchmarkError(f"{workload.name}: the results of its runs acknowledge {acknowledged} steps")
        self.outcome.acknowledged += acknowledged
        return [seconds for _, seconds in done]

    def _one_run(self, steps: int) -> tuple[int, float]:
        """Steps the result acknowledges, and seconds from start to result."""
        began = time.perf_counter()
        run = self.client.start(self.outcome.workload.flow, steps)
        acknowledged: int = run.result(timeout=RUN_SECONDS)
        return acknowledged, time.perf_counter() - began

    def measure(self, number: int, floor: Floor | None) -> Measurement:
        """One repetition, seen from outside."""
        steps = self.outcome.workload.steps * self.outcome.workload.runs
        commits, flushes = self.engine.commits(), processes.device_flushes(self.engine.database)
        before = self._cpu_seconds()
        began = time.perf_counter()
        runs = sorted(self.all_runs())
        seconds = time.perf_counter() - began
        cpu_us = [(now - then) / steps * 1e6 for now, then in zip(self._cpu_seconds(), before, strict=True)]
        flushed = processes.device_flushes(self.engine.database)
        return Measurement(
            repetition=number,
            steps=steps,
            seconds=seconds,
            steps_per_s=steps / seconds,
            engine_cpu_us=cpu_us[0],
            host_cpu_us=cpu_us[1],
            driver_cpu_us=cpu_us[2],
            engine_rss_bytes=processes.resident_bytes(self.engine.pid),
            host_rss_bytes=processes.resident_bytes(self.host),
            run_p50_ms=statistics.median(runs) * 1000,
            run_p99_ms=runs[math.ceil(len(runs) * 0.99) - 1] * 1000,
            commits=self.engine.commits() - commits,
            flushes=None if flushed is None or flushes is None else flushed - flushes,
            floor=floor,
            floor_ratio=None if floor is None else seconds / steps / (floor.round_trip + floor.commit),
        )

    def _cpu_seconds(self) -> list[float]:
        return [processes.cpu_seconds(pid) for pid in (self.engine.pid, self.host, os.getpid())]
