"""The order of everything: rounds of workloads, in each the subjects in turns. What is measured is a line at once."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Protocol

from benchmarks import linux
from benchmarks.checkout import Checkout
from benchmarks.floor import Floor, floor
from benchmarks.lines import Line, Measurement, Session, Skipped, Subject
from benchmarks.pace import SLOWED_MAX, Pace
from benchmarks.processes import BenchmarkError
from benchmarks.runs import Pair, Runs
from benchmarks.sleeping import Sleeping
from benchmarks.stage import Point, Stage
from benchmarks.turn import Turn, turns_of
from benchmarks.workloads import Workload
from stepwire.errors import StepwireError

FAILURES = (BenchmarkError, StepwireError, TimeoutError, OSError, subprocess.SubprocessError)
"""What makes a measurement void; anything else is a defect of the benchmarks."""
LIBRARIES = ("grpcio", "protobuf", "msgspec", "uvloop")


class Measured(Protocol):
    """Whatever takes turns: a checkout or a peer."""

    @property
    def name(self) -> str:
        """Of the subject."""

    def subject(self) -> Subject:
        """What the lines say of it."""

    def does(self, workload: Workload) -> bool:
        """Whether it can do this work."""

    def prepare(self, workload: Workload, kept: Path) -> None:
        """What takes long and is needed once. Raises BenchmarkError."""

    def measure(self, workload: Workload, folder: Path, kept: Path, floor: Floor) -> list[Point]:
        """One round. Raises BenchmarkError."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A checkout takes its turns with every workload.

    Attributes:
        slots: Of its host; None: the default.
    """

    checkout: Checkout
    slots: int | None = None

    @property
    def name(self) -> str:
        """Of the checkout."""
        return self.checkout.name

    def subject(self) -> Subject:
        """Of the checkout."""
        return self.checkout.subject()

    def does(self, workload: Workload) -> bool:
        """Everything; on cores of their own, what is about speed."""
        return self.checkout.cores is None or (workload.set != "peers" and isinstance(workload.scenario, Runs | Pair))

    def prepare(self, workload: Workload, kept: Path) -> None:
        """The database of sleeping runs."""
        match workload.scenario:
            case Sleeping() as scenario:
                scenario.prepare(self.checkout, kept)

    def measure(self, workload: Workload, folder: Path, kept: Path, floor: Floor) -> list[Point]:
        """On processes of its own."""
        return workload.scenario.measure(Stage(self.checkout, folder, kept, floor, self.slots))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        folder: On a real disk; what is made there is removed at the end.
        lock: For measuring in turns with others on this machine.
        patience: Seconds that each measurement waits for calm cores at most; 0: whatever the machine does.
        again: How often one that was slowed all the same is made again at most.
    """

    workloads: Sequence[Workload]
    subjects: Sequence[Measured]
    repeat: int
    folder: Path
    lock: Path | None = None
    patience: float = 0.0
    again: int = 0
    scale: float = 1.0


def run(plan: Plan, emit: Callable[[Line], object]) -> list[Skipped]:
    """Measure everything; gives what failed, which was also emitted.

    A subject that fails at a workload is not asked for it again; everything else goes on.
    """
    emit(_heading(plan))
    for subject in plan.subjects:
        emit(subject.subject())
    failed: dict[tuple[str, str], Skipped] = {}

    def fail(workload: Workload, subject: Measured, error: Exception) -> None:
        failed[workload.name, subject.name] = skipped = Skipped(
            subject=subject.name, workload=workload.name, reason=f"{type(error).__name__}: {error}"
        )
        emit(skipped)

    with tempfile.TemporaryDirectory(prefix="stepwire-bench-", dir=plan.folder) as made:
        place = Path(made)
        kept = place / "kept"
        kept.mkdir()
        for workload, subject in {(w.name, s.name): (w, s) for _, w, s in turns(plan)}.values():
            try:
                subject.prepare(workload, kept)
            except FAILURES as error:
                fail(workload, subject, error)
        pace = Pace()
        with floor(place, pace, plan.patience) as raw, turns_of(plan.lock) as turn:
            for number, workload, subject in turns(plan):
                if (workload.name, subject.name) in failed:
                    continue
                try:
                    measure = partial(_measure, turn, workload, subject, place, kept, raw)
                    for point in _paced(measure, pace, plan.again if plan.patience else 0):
                        emit(_line(number, workload, subject, point))
                except FAILURES as error:
                    fail(workload, subject, error)
    return list(failed.values())


def _paced(measure: Callable[[], list[Point]], pace: Pace, again: int) -> list[Point]:
    """Measure, and note how slowed the cores were; measure again, at most so many times, if they were."""
    while True:
        points = measure()
        after = pace.slowed()
        for point in points:
            point.figures["slowed"] = max(after, point.figures.get("slowed", after))
        if not again or all(point.figures["slowed"] <= SLOWED_MAX for point in points):
            return points
        again -= 1


def turns(plan: Plan) -> Iterator[tuple[int, Workload, Measured]]:
    """Round, workload, subject; in every round another subject goes first."""
    for number in range(1, plan.repeat + 1):
        for workload in plan.workloads:
            able = [subject for subject in plan.subjects if subject.does(workload)]
            first = number % len(able) if able else 0
            for subject in [*able[first:], *able[:first]]:
                yield number, workload, subject


def _line(number: int, workload: Workload, subject: Measured, point: Point) -> Measurement:
    return Measurement(
        workload=workload.name, subject=subject.name, round=number, figures=point.figures, size=point.size
    )


def _measure(turn: Turn, workload: Workload, subject: Measured, place: Path, kept: Path, raw: Floor) -> list[Point]:
    turn.take()
    with tempfile.TemporaryDirectory(prefix=f"{workload.name}-{subject.name}-", dir=place) as folder:
        return subject.measure(workload, Path(folder), kept, raw)


def _heading(plan: Plan) -> Session:
    return Session(
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        machine={
            "cores": str(os.cpu_count()),
            "processor": linux.processor(),
            "memory": f"{linux.memory_gib():.0f} GiB",
            "kernel": f"Linux {platform.release()}",
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            **{name: version for name in LIBRARIES if (version := installed(name))},
        },
        file_system=linux.file_system(plan.folder),
        repeat=plan.repeat,
        patience=plan.patience,
        scale=plan.scale,
    )


def installed(distribution: str) -> str:
    """Version of a library here; empty: it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
