"""Scenario: registered steps on several small hosts; how much of their slots' time is work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from benchmarks.runs import scale
from benchmarks.stage import Point, Stage
from benchmarks.step_host import WORK_SECONDS, workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One group of registered steps of 10 ms, executed by `hosts` hosts of 4 slots; a fifth host has the flow.

    Busy is the time that steps say they took, which the operating system stretches a little; nominal counts 10 ms.
    """

    steps: int
    hosts: int = 4
    warm_up: int = 160

    def scaled(self, factor: float) -> Self:
        """Fewer steps."""
        return replace(self, steps=scale(self.steps, factor), warm_up=scale(self.warm_up, factor))

    def measure(self, stage: Stage) -> list[Point]:
        """Seconds are from start to result of the run."""
        slots = self.hosts * workers.slots
        with stage.serving(workers=self.hosts) as serving:
            serving.acknowledged += len(serving.run("spread", self.warm_up))
            floor = stage.floor.sample()
            meter = serving.meter()
            meter.start()
            taken = serving.run("spread", self.steps)
            meter.stop()
            serving.acknowledged += len(taken)
            figures = meter.figures(len(taken))
        figures["slots_busy"] = sum(taken) / (slots * meter.seconds)
        figures["slots_nominal"] = len(taken) * WORK_SECONDS / (slots * meter.seconds)
        return [Point({**figures, **floor, **stage.proofs})]
