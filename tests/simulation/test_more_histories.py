"""Histories with every kind of fault, second half; the first one is in `test_histories.py`."""

from __future__ import annotations

import pytest

from tests.simulation.portions import PORTIONS, never_reached, play

pytestmark = pytest.mark.timeout(180)
"""A portion takes some five seconds of processor time; how long that is depends on who else uses the machine."""
MINE = range(PORTIONS, 2 * PORTIONS)


@pytest.mark.parametrize("portion", MINE)
def test_every_invariant_holds_in_every_history(portion: int) -> None:
    assert play(portion)["resume"] > 0


def test_the_histories_reach_every_rare_branch() -> None:
    """It plays every portion that was not chosen to run before it."""
    assert never_reached(MINE) == set()
