"""Scenario: an engine that starts on a database full of sleeping runs, against one with an empty database."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from benchmarks import linux, processes
from benchmarks.checkout import Checkout
from benchmarks.meter import MIB
from benchmarks.processes import BenchmarkError
from benchmarks.runs import scale
from benchmarks.stage import Point, Stage

SETTLE_SECONDS = 3.0
"""From ready until memory is read: what a start puts off is done by then."""
PREPARE_SECONDS = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleeping:
    """The database is made once per session and checkout (`benchmarks.dormant`), then opened in every round."""

    runs: int

    def scaled(self, factor: float) -> Self:
        """Fewer runs."""
        return replace(self, runs=scale(self.runs, factor))

    def measure(self, stage: Stage) -> list[Point]:
        """Start on nothing, then on the prepared file."""
        database = self.prepare(stage.checkout, stage.kept)
        empty_mib, _ = self._started(stage.checkout, stage.folder / "stepwire.db", 0)
        floor = stage.floor.sample()
        full_mib, ready_seconds = self._started(stage.checkout, database, self.runs)
        size = sum(file.stat().st_size for file in database.parent.glob("stepwire.db*"))
        figures = {
            "growth_mib": full_mib - empty_mib,
            "ready_s": ready_seconds,
            "engine_rss_mib": full_mib,
            "database_mib": size / MIB,
        }
        return [Point({**figures, **floor})]

    def prepare(self, checkout: Checkout, kept: Path) -> Path:
        """The database; made when it is asked for first. Raises BenchmarkError."""
        folder = kept / f"dormant-{checkout.name}"
        database = folder / "stepwire.db"
        if not folder.exists():
            folder.mkdir()
            command = checkout.command("benchmarks.dormant", str(database), "--runs", str(self.runs))
            made = subprocess.run(
                command, env=checkout.environment(), capture_output=True, text=True, timeout=PREPARE_SECONDS
            )
            if made.returncode != 0:
                raise BenchmarkError(f"the sleeping runs were not made: {made.stderr[-2000:]}")
        return database

    @staticmethod
    def _started(checkout: Checkout, database: Path, runs: int) -> tuple[float, float]:
        """Resident MiB, and seconds until it was ready."""
        with processes.engine(checkout, database) as engine:
            time.sleep(SETTLE_SECONDS)
            found = engine.metric("stepwire_runs", state="waiting")
            if found != runs:
                raise BenchmarkError(f"the engine counts {found:.0f} sleeping runs, not {runs}")
            return linux.resident_bytes(engine.pid) / MIB, engine.ready_seconds
