"""Scenarios that drive runs and say how fast: many runs, a curve over sizes, two kinds of runs in turns."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Self

from benchmarks.stage import Point, Serving, Stage, latencies
from benchmarks.work import LARGE_BYTES


def scale(number: int, factor: float) -> int:
    """A size for a try, at least 1."""
    return max(1, round(number * factor))


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Runs of one flow.

    Attributes:
        flow: Name of the flow in `step_host`; its input is `steps`.
        runs: That are measured.
        at_once: Runs in progress at the same time.
        together: In two lots, each started by one call and awaited by one; otherwise each by itself, from as many
            threads.
        warm_up: Runs before, which are not measured.
        floor: The time per step is given as a multiple of a raw round trip and a raw commit, sampled before and after.
        large: Outputs are of 64 KiB: bytes per second are given.
        settings: More options of `stepwire engine`.
    """

    flow: str
    steps: int
    runs: int
    at_once: int = 1
    together: bool = False
    warm_up: int = 1
    floor: bool = False
    large: bool = False
    settings: tuple[str, ...] = ()

    def scaled(self, factor: float) -> Self:
        """Fewer steps and runs."""
        return replace(
            self,
            steps=scale(self.steps, factor),
            runs=scale(self.runs, factor),
            at_once=scale(self.at_once, factor),
            warm_up=scale(self.warm_up, factor),
        )

    def measure(self, stage: Stage) -> list[Point]:
        """Measure on an engine and a host of its own."""
        with stage.serving(*self.settings) as serving:
            self.warm(serving)
            floor = stage.floor.sample()
            figures = serving.measure(self.flow, self.steps, self.runs, self.at_once, self.together)
            if self.floor:
                after = stage.floor.sample()
                floor = {name: (value + after[name]) / 2 for name, value in floor.items()}
                figures["ratio"] = figures["ms_per_step"] / (floor["round_trip_ms"] + floor["commit_ms"])
            if self.large:
                figures["mb_per_s"] = figures["steps_per_s"] * LARGE_BYTES / 1e6
        return [Point({**figures, **floor, **stage.proofs})]

    def warm(self, serving: Serving) -> None:
        """Let both processes meet this work first."""
        if self.warm_up:
            serving.drive(self.flow, self.steps, self.warm_up, min(self.at_once, self.warm_up), self.together)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One run after the other of each size: how cost grows with the size of a run.

    Attributes:
        steps: Measured at each size, at the least; from one run of the largest sizes.
    """

    flow: str
    sizes: tuple[int, ...] = (1, 10, 100, 1000, 10_000)
    steps: int = 500

    def scaled(self, factor: float) -> Self:
        """Smaller sizes."""
        sizes = dict.fromkeys(scale(size, factor) for size in self.sizes)
        return replace(self, sizes=tuple(sizes), steps=scale(self.steps, factor))

    def measure(self, stage: Stage) -> list[Point]:
        """A point per size, all on one engine and host."""
        points = []
        with stage.serving() as serving:
            serving.drive(self.flow, min(100, self.sizes[-1]), 3, 1)
            floor = stage.floor.sample()
            for size in self.sizes:
                runs = min(100, max(1, self.steps // size))
                points.append(Point({**serving.measure(self.flow, size, runs, 1), **floor}, size))
        return points


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Runs of two kinds in turns on one engine: how long one takes as a multiple of the other.

    Attributes:
        measured, compared: The ratio is the median run of the first by that of the second.
        turns: Of each.
    """

    measured: Runs
    compared: Runs
    turns: int = 3

    def scaled(self, factor: float) -> Self:
        """Fewer steps and runs."""
        return replace(self, measured=self.measured.scaled(factor), compared=self.compared.scaled(factor))

    def measure(self, stage: Stage) -> list[Point]:
        """The figures are those of `measured`."""
        turns: list[dict[str, float]] = []
        seconds: tuple[list[float], list[float]] = ([], [])
        with stage.serving() as serving:
            for kind in (self.compared, self.measured):
                kind.warm(serving)
            floor = stage.floor.sample()
            for _ in range(self.turns):
                driven = serving.drive(self.compared.flow, self.compared.steps, self.compared.runs, 1)
                seconds[1].extend(driven.run_seconds)
                meter = serving.meter()
                meter.start()
                driven = serving.drive(self.measured.flow, self.measured.steps, self.measured.runs, 1)
                meter.stop()
                seconds[0].extend(driven.run_seconds)
                turns.append({**meter.figures(driven.acknowledged), **latencies(driven)})
        figures = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
        figures["ratio"] = statistics.median(seconds[0]) / statistics.median(seconds[1])
        return [Point({**figures, **floor, **stage.proofs})]
