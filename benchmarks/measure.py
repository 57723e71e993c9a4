"""Runs one workload: engine, host and driver are three processes; every repetition is measured from outside."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.baselines import Floor, measure_floor
from benchmarks.journal import JournalFigures, reread
from benchmarks.processes import BenchmarkError, Engine
from benchmarks.workloads import Workload
from stepwire.client import ClientSync
from stepwire.errors import UnknownFlow

RUN_SECONDS = 120.0
CONNECT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One repetition. CPU is in microseconds per step, `flushes` of the disk are those of the whole machine."""

    workload: str
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
    floor: Floor | None = None
    floor_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A workload with its repetitions and with what its journal says afterwards."""

    workload: Workload
    acknowledged: int
    journal: JournalFigures
    measurements: list[Measurement] = field(default_factory=list)

    @property
    def journal_agrees(self) -> bool:
        """Durable is exactly what clients were told."""
        return self.journal.steps == self.acknowledged

    def median(self, name: str) -> float | None:
        """Of a figure over the repetitions; None if it was not measured."""
        values = [value for one in self.measurements if (value := getattr(one, name)) is not None]
        return statistics.median(values) if values else None

    def as_json(self) -> dict[str, Any]:
        """The last line of a workload."""
        return {
            "workload": self.workload.name,
            "summary": {name: self.median(name) for name in ("steps_per_s", "engine_cpu_us", "host_cpu_us")},
            "acknowledged": self.acknowledged,
            "journal_agrees": self.journal_agrees,
            "journal": asdict(self.journal),
        }


class Driver:
    """Starts runs and counts what their results acknowledge."""

    def __init__(self, client: ClientSync, workload: Workload) -> None:
        self.acknowledged = 0
        self._client = client
        self._workload = workload

    def wait_for_host(self) -> None:
        """Complete one run; the flow is unknown until the host has connected."""
        deadline = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                self.acknowledged += self._one_run()[0]
                return
            except UnknownFlow:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def repetition(self, pool: ThreadPoolExecutor) -> list[float]:
        """All runs of the workload; gives the seconds from start to result of each."""
        done = list(pool.map(lambda _: self._one_run(), range(self._workload.runs)))
        acknowledged = sum(steps for steps, _ in done)
        if acknowledged != self._workload.steps * self._workload.runs:
            raise BenchmarkError(f"{self._workload.name}: the runs acknowledge {acknowledged} steps")
        self.acknowledged += acknowledged
        return [seconds for _, seconds in done]

    def _one_run(self) -> tuple[int, float]:
        began = time.perf_counter()
        acknowledged: int = self._client.start(self._workload.flow, self._workload.steps).result(timeout=RUN_SECONDS)
        return acknowledged, time.perf_counter() - began


def run_workload(
    workload: Workload,
    *,
    repeat: int,
    folder: Path,
    slots: int | None = None,
    report: Callable[[Measurement], None] = lambda _: None,
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
    measurements = []
    with tempfile.TemporaryDirectory(prefix=f"{workload.name}-", dir=folder) as made:
        place = Path(made)
        with (
            processes.engine(place) as engine,
            processes.step_host(place, engine.address, slots) as host,
            ClientSync(engine.address) as client,
            ThreadPoolExecutor(workload.at_once) as pool,
        ):
            driver = Driver(client, workload)
            driver.wait_for_host()
            driver.repetition(pool)
            for number in range(1, repeat + 1):
                floor = measure_floor(place) if workload.floor else None
                measurement = _measure(workload, number, engine, host, lambda: driver.repetition(pool), floor)
                measurements.append(measurement)
                report(measurement)
        return Outcome(
            workload=workload,
            acknowledged=driver.acknowledged,
            journal=reread(engine.database),
            measurements=measurements,
        )


def _measure(
    workload: Workload, number: int, engine: Engine, host: int, work: Callable[[], list[float]], floor: Floor | None
) -> Measurement:
    steps = workload.steps * workload.runs
    pids: tuple[int | str, ...] = (engine.pid, host, "self")
    commits, flushes = engine.commits(), processes.device_flushes(engine.database)
    before = [processes.cpu_seconds(pid) for pid in pids]
    began = time.perf_counter()
    runs = work()
    seconds = time.perf_counter() - began
    cpu_us = [(processes.cpu_seconds(pid) - start) * 1e6 / steps for pid, start in zip(pids, before, strict=True)]
    flushed = processes.device_flushes(engine.database)
    return Measurement(
        workload=workload.name,
        repetition=number,
        steps=steps,
        seconds=seconds,
        steps_per_s=steps / seconds,
        engine_cpu_us=cpu_us[0],
        host_cpu_us=cpu_us[1],
        driver_cpu_us=cpu_us[2],
        engine_rss_bytes=processes.resident_bytes(engine.pid),
        host_rss_bytes=processes.resident_bytes(host),
        run_p50_ms=statistics.median(runs) * 1000,
        run_p99_ms=sorted(runs)[max(0, -(-len(runs) * 99 // 100) - 1)] * 1000,
        commits=engine.commits() - commits,
        flushes=None if flushed is None or flushes is None else flushed - flushes,
        floor=floor,
        floor_ratio=None if floor is None else seconds / steps / floor.step,
    )
