"""The goals, as a table: which figure of which workload, and its bound. Nothing else says met or missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.checkout import OWN
from benchmarks.figures import FIGURES, Better
from benchmarks.medians import Key, Results


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound of one figure; figures that are better when higher have a lower bound.

    Attributes:
        bound: In the figure's unit.
        peer: The bound is this multiple of the same figure of a peer, in the same rounds; None: it is absolute.
    """

    workload: str
    figure: str
    bound: float
    peer: str | None = None

    @property
    def at_least(self) -> bool:
        """The bound is the least that is good."""
        return FIGURES[self.figure].better is Better.HIGHER

    @property
    def text(self) -> str:
        """For people: ">= 40,000 steps/s", "<= 0.4x restate (run p50 ms)"."""
        sign, heading = "≥" if self.at_least else "≤", FIGURES[self.figure].heading
        if self.peer is not None:
            return f"{sign} {self.bound:g}x {self.peer} ({heading})"
        return f"{sign} {self.bound:,g} {heading}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal beside what was measured.

    Attributes:
        value: In the unit of the goal's bound.
    """

    goal: Goal
    value: float

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.value >= self.goal.bound if self.goal.at_least else self.value <= self.goal.bound


GOALS = (
    Goal("group_100", "steps_per_s", 40_000),
    Goal("group_100", "engine_cpu_us", 10),
    Goal("group_100", "host_cpu_us", 12),
    Goal("group_1000", "steps_per_s", 40_000),
    Goal("group_10000", "ratio", 11),
    Goal("sequence_10", "steps_per_s", 20_000),
    Goal("sequence_10", "engine_cpu_us", 16),
    Goal("race_1000", "ratio", 1.3),
    Goal("sequence", "ratio", 1.5),
    Goal("one_step", "run_p50_ms", 3),
    Goal("one_step", "run_p99_ms", 10),
    Goal("spread_4", "slots_busy", 0.95),
    Goal("sleeps_100", "run_p50_ms", 130),
    Goal("outputs_64k", "mb_per_s", 60),
    Goal("open_steps", "step_bytes", 2000),
    Goal("live_runs", "run_bytes", 12_000),
    Goal("dormant", "growth_mib", 95.4),  # 100 MB
    Goal("dormant", "ready_s", 5),
    Goal("startup", "import_s", 0.35),
    Goal("startup", "help_s", 0.3),
    Goal("startup", "ready_s", 1.5),
    Goal("w1", "run_p50_ms", 0.4, "restate"),
    Goal("w1", "cpu_us", 0.1, "restate"),
    Goal("w2h", "steps_per_s", 10, "restate"),
    Goal("w2h", "cpu_us", 0.1, "restate"),
    Goal("w3", "steps_per_s", 10, "restate"),
    Goal("w3", "cpu_us", 0.1, "restate"),
    Goal("w4", "steps_per_s", 40, "restate"),
    Goal("w4", "cpu_us", 0.1, "restate"),
)


def verdicts(results: Results, subject: str = OWN, goals: Sequence[Goal] = GOALS) -> list[Verdict]:
    """Of every goal whose figures were measured."""
    made = []
    for goal in goals:
        value = results.median(Key(goal.workload, subject), goal.figure)
        if value is not None and goal.peer is not None:
            peer = results.median(Key(goal.workload, goal.peer), goal.figure)
            value = value / peer if peer else None
        if value is not None:
            made.append(Verdict(goal, value))
    return made
