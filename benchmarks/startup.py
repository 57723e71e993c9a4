"""Scenario: how long starting takes: the import, the command, the engine."""

from __future__ import annotations

import statistics
import subprocess
import time
from dataclasses import dataclass
from typing import Self

from benchmarks import processes
from benchmarks.processes import BenchmarkError
from benchmarks.stage import Point, Stage

_IMPORT = "import time; began = time.perf_counter(); import stepwire; print(time.perf_counter() - began)"


@dataclass(frozen=True, slots=True)
class StartUp:
    """Each three times, the median; byte code is compiled and files are in memory, as on the second start of a day."""

    times: int = 3

    def scaled(self, factor: float) -> Self:
        """Nothing to scale."""
        return self

    def measure(self, stage: Stage) -> list[Point]:
        """Fresh processes."""
        floor = stage.floor.sample()
        figures = {
            "import_s": statistics.median(float(_output(stage, "-c", _IMPORT)[0]) for _ in range(self.times)),
            "help_s": statistics.median(
                _output(stage, "-m", "stepwire_engine", "--help")[1] for _ in range(self.times)
            ),
            "ready_s": statistics.median(_ready(stage, number) for number in range(self.times)),
        }
        return [Point({**figures, **floor})]


def _output(stage: Stage, *arguments: str) -> tuple[str, float]:
    """What it prints, and the seconds of the whole process."""
    command = [stage.checkout.python, *arguments]
    began = time.perf_counter()
    done = subprocess.run(
        command, env=stage.checkout.environment(), cwd=stage.folder, capture_output=True, text=True, timeout=60
    )
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise BenchmarkError(f"{arguments} ended with {done.returncode}: {done.stderr[-1000:]}")
    return done.stdout, seconds


def _ready(stage: Stage, number: int) -> float:
    folder = stage.folder / str(number)
    folder.mkdir()
    with processes.engine(stage.checkout, folder / "stepwire.db") as engine:
        return engine.ready_seconds
