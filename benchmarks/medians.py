"""Figures over the rounds: medians per workload, subject and size. Everything that is printed is made from these."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.lines import Line, Measurement, Session, Skipped, Subject
from benchmarks.pace import SLOWED_MAX

FOREIGN_CORES_MAX = 0.3
"""What other processes may use in a round that is quiet."""
QUIET_ROUNDS_MIN = 3


class Key(NamedTuple):
    """What one row of a table is about."""

    workload: str
    subject: str
    size: int = 0


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


@dataclass(slots=True)
class Results:
    """What a file of lines says.

    Attributes:
        rounds: Figures of each round, in order.
    """

    session: Session | None = None
    subjects: dict[str, Subject] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    rounds: dict[Key, list[dict[str, float]]] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        """Take one more line in."""
        match line:
            case Session():
                self.session = line
            case Subject():
                self.subjects[line.name] = line
            case Skipped():
                self.skipped.append(line)
            case Measurement():
                key = Key(line.workload, line.subject, line.size)
                self.rounds.setdefault(key, []).append(line.figures)

    def medians(self, key: Key) -> dict[str, float]:
        """Of every figure over the rounds that have it; empty if nothing was measured.

        Rounds in which others used the cores are left out, if there are enough without them. Where measurements were
        to wait for calm cores, those that found none are as well.
        """
        found: Sequence[dict[str, float]] = self.rounds.get(key, ())
        calm = SLOWED_MAX if self.session is not None and self.session.patience else math.inf
        bounds = {"foreign_cores": FOREIGN_CORES_MAX, "slowed": calm}
        quiet = [figures for figures in found if all(figures.get(name, 0.0) <= most for name, most in bounds.items())]
        if len(quiet) >= QUIET_ROUNDS_MIN:
            found = quiet
        names = dict.fromkeys(name for figures in found for name in figures)
        return {name: statistics.median([f[name] for f in found if name in f]) for name in names}

    def median(self, key: Key, figure: str) -> float | None:
        """One figure; None if it was not measured."""
        return self.medians(key).get(figure)

    def keys(self, workload: str) -> list[Key]:
        """What was measured of a workload, in the order it came."""
        return [key for key in self.rounds if key.workload == workload]

    def workloads(self) -> list[str]:
        """Names, in the order they came."""
        return list(dict.fromkeys(key.workload for key in self.rounds))


def results(lines: Iterable[Line]) -> Results:
    """All lines of a file."""
    made = Results()
    for line in lines:
        made.add(line)
    return made
