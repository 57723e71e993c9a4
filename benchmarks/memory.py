"""Scenario: what outstanding steps and live runs hold of the engine's memory."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Self

from benchmarks import linux
from benchmarks.processes import BenchmarkError
from benchmarks.runs import scale
from benchmarks.stage import RUN_SECONDS, Point, Serving, Stage

LOOK_SECONDS = 0.5
QUIET_SHARE = 0.04
QUIET_LOOKS = 3
QUIET_SECONDS_MAX = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Runs whose steps all wait at a gate; then the gate opens and they end, so that the journal can be compared.

    The growth of the engine counts from when it has served a first run, and contains what commits and frames left
    behind: nothing is warmed up to hide it.

    Attributes:
        figure: That the growth is given as, divided by steps or by runs.
    """

    figure: str
    runs: int
    steps: int
    per_step: bool
    host: tuple[str, ...] = ()

    def scaled(self, factor: float) -> Self:
        """Fewer of both."""
        return replace(self, runs=scale(self.runs, factor), steps=scale(self.steps, factor))

    def measure(self, stage: Stage) -> list[Point]:
        """Resident memory before, and when everything waits."""
        total = self.runs * self.steps
        with stage.serving(host=self.host) as serving:
            floor = stage.floor.sample()
            before = linux.resident_bytes(serving.engine.pid)
            meter = serving.meter()
            meter.start()
            with ThreadPoolExecutor(50) as pool:
                started = list(pool.map(lambda _: serving.client.start("gated_group", self.steps), range(self.runs)))
            wait_until_quiet(serving)
            growth = linux.resident_bytes(serving.engine.pid) - before
            os.kill(serving.hosts[0], signal.SIGUSR1)
            done = sum(run.result(timeout=RUN_SECONDS) for run in started)
            meter.stop()
            if done != total:
                raise BenchmarkError(f"{done} of {total} steps were acknowledged")
            serving.acknowledged += done
            figures = meter.figures(done)
        # What the waiting took says nothing about speed.
        kept = {name: figures[name] for name in ("steps", "engine_rss_mib", "host_rss_mib")}
        kept[self.figure] = growth / (total if self.per_step else self.runs)
        return [Point({**kept, **floor, **stage.proofs})]


def wait_until_quiet(serving: Serving) -> None:
    """Until engine and host have used almost no CPU for a while: all that can be decided is decided.

    Raises:
        BenchmarkError: it does not become quiet.
    """
    deadline = time.monotonic() + QUIET_SECONDS_MAX
    quiet = 0
    while quiet < QUIET_LOOKS:
        if time.monotonic() > deadline:
            raise BenchmarkError("engine and host do not become quiet")
        before = _cpu(serving)
        time.sleep(LOOK_SECONDS)
        quiet = quiet + 1 if _cpu(serving) - before < QUIET_SHARE * LOOK_SECONDS else 0


def _cpu(serving: Serving) -> float:
    return sum(linux.cpu_seconds(pid) for pid in (serving.engine.pid, *serving.hosts))
