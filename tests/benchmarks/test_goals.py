"""Goals: bounds, ratios to peers, met and missed."""

from __future__ import annotations

import pytest

from benchmarks.figures import FIGURES, Better
from benchmarks.goals import GOALS, Goal, verdicts
from benchmarks.lines import Line
from benchmarks.medians import results
from benchmarks.runs import Curve, Pair, Runs
from benchmarks.workloads import SETS, WORKLOADS, named
from tests.benchmarks.made import measured, some, work


def test_every_goal_is_of_a_workload_and_of_a_figure_with_a_direction() -> None:
    names = {workload.name for workload in WORKLOADS}
    assert [goal for goal in GOALS if goal.workload not in names] == []
    assert [goal for goal in GOALS if FIGURES[goal.figure].better is Better.NEITHER] == []


def test_every_workload_of_the_goals_has_one() -> None:
    assert {w.name for w in WORKLOADS if w.set == "goals"} - {goal.workload for goal in GOALS} == set()


@pytest.mark.parametrize(("steps_per_s", "met"), [(39_999, False), (40_000, True)])
def test_more_is_better(steps_per_s: float, met: bool) -> None:
    (verdict,) = verdicts(results([measured("group_100", steps_per_s=steps_per_s)]))
    assert verdict.met is met and verdict.goal.text == "≥ 40,000 steps/s"


@pytest.mark.parametrize(("ratio", "met"), [(1.5, True), (1.51, False)])
def test_less_is_better(ratio: float, met: bool) -> None:
    (verdict,) = verdicts(results([measured("sequence", ratio=ratio)]))
    assert verdict.met is met and verdict.goal.text == "≤ 1.5 ratio"


@pytest.mark.parametrize(("seconds", "met"), [(0.1, True), (0.101, False)])
def test_a_goal_may_be_a_multiple_of_a_peer(seconds: float, met: bool) -> None:
    goal = Goal("w3", "steps_per_s", 10, "restate")
    lines: list[Line] = [work("w3", "stepwire", seconds, 10), work("w3", "restate", 1.0, 10)]
    (verdict,) = verdicts(results(lines), goals=[goal])
    assert verdict.met is met and goal.text == "≥ 10x restate (steps/s)"


def test_without_the_peer_there_is_no_verdict() -> None:
    assert verdicts(results([work("w3", "stepwire", 1.0, 10)])) == []


def test_goals_are_judged_in_the_order_of_their_table() -> None:
    found = verdicts(some())
    assert [(v.goal.workload, v.goal.figure, v.met) for v in found] == [
        ("group_100", "steps_per_s", True),
        ("group_100", "engine_cpu_us", False),
        ("group_100", "host_cpu_us", True),
        ("w3", "steps_per_s", True),
        ("w3", "cpu_us", True),
    ]


# ---- workloads


def test_names_are_unique_and_sets_are_known() -> None:
    assert len({workload.name for workload in WORKLOADS}) == len(WORKLOADS)
    assert {workload.set for workload in WORKLOADS} == set(SETS)


def test_workloads_are_chosen_by_name_and_by_set() -> None:
    assert [w.name for w in named(["w1", "group_100"])] == ["group_100", "w1"]
    assert [w.name for w in named(["curves"])] == ["group_curve", "sequence_curve"]
    assert {w.set for w in named(["all"])} == {"goals", "curves", "peers"}


def test_a_try_is_smaller_and_a_profile_longer() -> None:
    by_name = {workload.name: workload for workload in WORKLOADS}
    small = by_name["group_100"].scaled(0.01).scenario
    assert isinstance(small, Runs) and (small.steps, small.runs, small.at_once, small.warm_up) == (1, 2, 1, 1)
    longer = by_name["group_100"].scaled(1, longer=3).scenario
    assert isinstance(longer, Runs) and (longer.steps, longer.runs) == (100, 600)
    singly = by_name["group_100"].scaled(1, together=False).scenario
    assert isinstance(singly, Runs) and not singly.together
    alone = by_name["group_1000"].scaled(1, together=True).scenario
    assert isinstance(alone, Runs) and not alone.together, "one run needs no other client"
    pair = by_name["group_10000"].scaled(0.1).scenario
    assert isinstance(pair, Pair) and (pair.measured.steps, pair.compared.steps) == (1000, 100)
    curve = by_name["group_curve"].scaled(0.1).scenario
    assert isinstance(curve, Curve) and curve.sizes == (1, 10, 100, 1000)
