"""Scenario: registered steps on several small hosts; how much of their slots' time is work."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Self

from benchmarks.runs import scale
from benchmarks.stage import Point, Stage
from benchmarks.step_host import WORK_SECONDS, workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Groups of registered steps of 10 ms, executed by `hosts` hosts of 4 slots; a fifth host has their flow.

    Several runs are in progress at once, so that slots have work while one of them is being planned or has ended.
    Busy is the time that steps say they took, which the operating system stretches a little; nominal counts 10 ms.

    Attributes:
        steps: Of each run, in one group.
    """

    steps: int
    runs: int
    at_once: int
    hosts: int = 4
    warm_up: int = 160

    def scaled(self, factor: float) -> Self:
        """Fewer steps and runs."""
        sizes = {name: scale(getattr(self, name), factor) for name in ("steps", "runs", "at_once", "warm_up")}
        return replace(self, **sizes)

    def measure(self, stage: Stage) -> list[Point]:
        """Seconds are from the first start to the last result."""
        slots = self.hosts * workers.slots
        with stage.serving(workers=self.hosts) as serving:
            serving.acknowledged += len(serving.run("spread", self.warm_up))
            floor = stage.floor.sample()
            meter = serving.meter()
            meter.start()
            with ThreadPoolExecutor(self.at_once) as pool:
                groups = list(pool.map(lambda _: serving.run("spread", self.steps), range(self.runs)))
            meter.stop()
            taken = [seconds for group in groups for seconds in group]
            serving.acknowledged += len(taken)
            figures = meter.figures(len(taken))
        figures["slots_busy"] = sum(taken) / (slots * meter.seconds)
        figures["slots_nominal"] = len(taken) * WORK_SECONDS / (slots * meter.seconds)
        return [Point({**figures, **floor, **stage.proofs})]
