"""The checks of the simulator see: planted faults of ends, events, keys and leftovers are found (I8 to I14)."""

from __future__ import annotations

import pytest

from tests.simulation.mutants.catching import check_caught, mutants_of
from tests.simulation.mutants.table import Mutant

LATER = [f"I{number}" for number in range(8, 15)]


@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.name) for mutant in mutants_of(LATER)])
def test_a_planted_fault_is_found(mutant: Mutant) -> None:
    check_caught(mutant)
