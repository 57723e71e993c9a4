"""The checks of the simulator see: planted faults of commits, leases, groups and time are found (I1 to I7).

The other invariants are in a file of their own, so that both can be played at once.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.invariants import INVARIANTS
from tests.simulation.mutants.catching import check_caught, mutants_of
from tests.simulation.mutants.planting import Edit, planted
from tests.simulation.mutants.table import MUTANTS, Mutant
from tests.simulation.simulator import World

FIRST = [f"I{number}" for number in range(1, 8)]


@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.name) for mutant in mutants_of(FIRST)])
def test_a_planted_fault_is_found(mutant: Mutant) -> None:
    check_caught(mutant)


def test_each_invariant_has_two_mutants() -> None:
    owned = Counter([number for mutant in MUTANTS for number in mutant.breaks])
    assert {number for number in INVARIANTS if owned[number] < 2} == set()
    assert owned.keys() <= INVARIANTS.keys()


def test_mutants_have_names_of_their_own() -> None:
    assert [name for name, times in Counter([mutant.name for mutant in MUTANTS]).items() if times > 1] == []


def test_a_mutant_whose_line_is_gone_is_an_error_and_leaves_no_trace() -> None:
    sound = World.note.__code__
    with pytest.raises(AssertionError, match="must be written anew"), planted(Edit(World.note, "no such line", "")):
        raise RuntimeError("nothing may be played with it")
    assert World.note.__code__ is sound


def test_after_a_mutant_the_function_is_sound_again() -> None:
    sound = World.note.__code__
    with planted(Edit(World.note, "+= 1", "+= 2")):
        assert World.note.__code__ is not sound
        world = World(0)
        world.note("seen")
        assert world.reached["seen"] == 2
    assert World.note.__code__ is sound
