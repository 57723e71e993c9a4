"""No step costs more calls, frames, commits, bytes or memory than `budget.py` says. Counts, not times."""

from __future__ import annotations

import functools
import sys

import pytest

from tests.budget import budget
from tests.budget.check import PINNED, excesses, steeper
from tests.budget.scenarios import Counted, count

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.live_bodies,
    pytest.mark.skipif(
        sys.version_info[:2] != PINNED, reason="the budget is that of Python 3.11; others make some more or fewer calls"
    ),
]
counted = functools.cache(count)


@pytest.mark.parametrize("scenario", dict.fromkeys(rule.scenario for rule in budget.RULES))
def test_within_budget(scenario: str) -> None:
    found = excesses(scenario, counted(scenario))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("ratio", budget.RATIOS, ids=lambda ratio: f"{ratio.scenario} of {ratio.of}")
def test_scales(ratio: budget.Ratio) -> None:
    found = steeper(ratio, counted(ratio.scenario), counted(ratio.of))
    assert not found, "\n".join(found)


def test_counts_are_the_same_every_time() -> None:
    """Otherwise a bound would say nothing."""
    one, other = counted("group_200"), count("group_200")
    names = [name for name in Counted.__slots__ if not name.endswith("_functions")]
    assert {name: getattr(one, name) for name in names} == pytest.approx(
        {n: getattr(other, n) for n in names}, rel=0.01
    )


def test_the_table_is_that_of_the_rules() -> None:
    """After a change of the rules: python -m tests.budget --write"""
    assert list(budget.MEASURED) == [(rule.scenario, rule.count) for rule in budget.RULES]
