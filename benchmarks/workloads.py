"""The work that is measured: one line each. A new kind of work is also a flow in `step_host`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.memory import Memory
from benchmarks.runs import Curve, Pair, Runs
from benchmarks.sleeping import Sleeping
from benchmarks.spread import Spread
from benchmarks.stage import Scenario
from benchmarks.startup import StartUp


@dataclass(frozen=True, slots=True)
class Workload:
    """A scenario with its numbers.

    Attributes:
        set: One of SETS.
        title: Of its row in tables.
    """

    name: str
    set: str
    title: str
    scenario: Scenario

    def scaled(self, factor: float, longer: int = 1, together: bool | None = None) -> Workload:
        """With other numbers.

        Args:
            factor: Of all sizes, for a try.
            longer: So many times as many measured runs, where runs are counted.
            together: How runs are started that are in progress at once; None: as the table says.
        """
        scenario = self.scenario if factor == 1 else self.scenario.scaled(factor)
        if isinstance(scenario, Runs):
            scenario = replace(scenario, runs=scenario.runs * longer)
            if together is not None:
                scenario = replace(scenario, together=together and scenario.at_once > 1)
        return replace(self, scenario=scenario)


_SLEEPY = ("--live-idle", "0.01")
"""Runs that only wait leave memory almost at once, so that every nap costs a wake."""

WORKLOADS = (
    Workload(
        "group_100", "goals", "groups of 100, 10 runs at once",
        Runs(flow="group", steps=100, runs=200, at_once=10, together=True, warm_up=40),
    ),
    Workload("group_1000", "goals", "one group of 1,000", Runs(flow="group", steps=1000, runs=15, warm_up=5)),
    Workload(
        "group_10000", "goals", "one group of 10,000 vs one of 1,000",
        Pair(
            measured=Runs(flow="group", steps=10_000, runs=1),
            compared=Runs(flow="group", steps=1000, runs=5),
        ),
    ),
    Workload(
        "sequence_10", "goals", "10 sequential steps, 100 runs at once",
        Runs(flow="sequence", steps=10, runs=1000, at_once=100, together=True, warm_up=300),
    ),
    Workload(
        "race_1000", "goals", "1,000 branches in RACE vs WAIT",
        Pair(
            measured=Runs(flow="racing_group", steps=1000, runs=4, warm_up=2),
            compared=Runs(flow="group", steps=1000, runs=4, warm_up=2),
        ),
    ),
    Workload(
        "sequence", "goals", "one run, strictly sequential, vs trip + commit",
        Runs(flow="sequence", steps=500, runs=1, floor=True),
    ),
    Workload("one_step", "goals", "one-step runs, one at a time", Runs(flow="sequence", steps=1, runs=300, warm_up=50)),
    Workload(
        "spread_4", "goals", "registered steps, 4 hosts x 4 slots x 10 ms", Spread(steps=200, runs=16, at_once=4)
    ),
    Workload(
        "sleeps_100", "goals", "100 parallel steps that sleep 100 ms",
        Runs(flow="sleeping_group", steps=100, runs=10, warm_up=2),
    ),
    Workload(
        "outputs_64k", "goals", "64 KiB outputs, groups of 50, 4 runs at once",
        Runs(flow="large_group", steps=50, runs=24, at_once=4, warm_up=4, large=True),
    ),
    Workload(
        "open_steps", "goals", "memory of 100,000 outstanding steps",
        Memory(figure="step_bytes", runs=10, steps=10_000, per_step=True),
    ),
    Workload(
        "live_runs", "goals", "memory of 5,000 live runs",
        Memory(figure="run_bytes", runs=5000, steps=1, per_step=False, host=("--slots", "10000", "--bodies", "10000")),
    ),
    Workload("dormant", "goals", "1,000,000 sleeping runs", Sleeping(runs=1_000_000)),
    Workload("startup", "goals", "import, command, engine", StartUp()),
    Workload("group_curve", "curves", "one group, by size", Curve(flow="group", steps=2000)),
    Workload("sequence_curve", "curves", "one sequence, by length", Curve(flow="sequence")),
    Workload("w1", "peers", "W1: 1-step runs, one at a time", Runs(flow="sequence", steps=1, runs=200, warm_up=20)),
    Workload(
        "w2", "peers", "W2: 10 sequential steps, 10 runs at once",
        Runs(flow="sequence", steps=10, runs=50, at_once=10, warm_up=10),
    ),
    Workload(
        "w2h", "peers", "W2 saturated: 50 runs at once",
        Runs(flow="sequence", steps=10, runs=200, at_once=50, warm_up=50),
    ),
    Workload(
        "w3", "peers", "W3: groups of 100, 4 runs at once", Runs(flow="group", steps=100, runs=20, at_once=4, warm_up=4)
    ),
    Workload("w4", "peers", "W4: one group of 1,000", Runs(flow="group", steps=1000, runs=1)),
    Workload("w5", "peers", "W5: 100 parallel steps of 100 ms", Runs(flow="sleeping_group", steps=100, runs=1)),
    Workload(
        "w6", "peers", "W6: 100 sequential steps of 64 KiB",
        Runs(flow="large_sequence", steps=100, runs=1, large=True),
    ),
    Workload(
        "group_100_singly", "more", "groups of 100, 10 runs at once, each by itself",
        Runs(flow="group", steps=100, runs=200, at_once=10, warm_up=40),
    ),
    Workload(
        "sequence_10_singly", "more", "10 sequential steps, 100 at once, each by itself",
        Runs(flow="sequence", steps=10, runs=1000, at_once=100, warm_up=300),
    ),
    Workload(
        "group_1000_4", "more", "groups of 1,000, 4 runs at once",
        Runs(flow="group", steps=1000, runs=24, at_once=4, warm_up=8),
    ),
    Workload(
        "nap_5000", "more", "5,000 steps, then a sleep of 1 s in memory",
        Runs(flow="group_and_nap", steps=5000, runs=1),
    ),
    Workload(
        "wake_5000", "more", "5,000 steps, then a sleep of 1 s on disk, and the wake",
        Runs(flow="group_and_nap", steps=5000, runs=1, settings=_SLEEPY),
    ),
    Workload("naps_1000", "more", "1,000 sleeps of 50 ms in memory", Runs(flow="naps", steps=1000, runs=1, warm_up=0)),
    Workload(
        "wakes_1000", "more", "1,000 sleeps of 50 ms on disk, and 1,000 wakes",
        Runs(flow="naps", steps=1000, runs=1, warm_up=0, settings=_SLEEPY),
    ),
)  # fmt: skip
"""In the order they are measured in each round."""

SETS = {
    "goals": "every row of the table of goals",
    "curves": "how cost grows from 1 to 10,000 steps",
    "peers": "the work that peers do as well, W1 to W6",
    "more": "what else was measured once",
}
DEFAULT = ("goals", "curves")


def named(names: tuple[str, ...] | list[str]) -> list[Workload]:
    """Workloads by name or set, in the order of the table.

    Raises:
        ValueError: there is no such workload.
    """
    known = {workload.name for workload in WORKLOADS} | SETS.keys() | {"all"}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no such workload: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return [w for w in WORKLOADS if w.name in names or w.set in names or ("all" in names and w.set != "more")]


def title(name: str) -> str:
    """Of a workload; a name that is not in the table is its own, so that old files can be read."""
    return next((workload.title for workload in WORKLOADS if workload.name == name), name)
