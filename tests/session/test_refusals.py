"""Random histories in which the store refuses whole batches: the simulator with a store that is sometimes full."""

from __future__ import annotations

from typing import Any

import pytest

from stepwire_engine.core.books import Commit
from stepwire_engine.core.units import Receipt, UnitOutcome
from tests.simulation.simulator import SimStore, World

REFUSALS_UNTIL = 12.0


class FullStore(SimStore):
    """Refuses one batch of ten, and what was decided upon it."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def commit(self, commits: list[Commit]) -> list[Receipt]:
        if self.world.now < REFUSALS_UNTIL and self.world.rng.random() < 0.1:
            self.world.reached["refused"] += 1
            return [Receipt(UnitOutcome.REFUSED, reason="disk full")] * len(commits)
        return [receipt for commit in commits for receipt in self._one(commit)]

    def _one(self, commit: Commit) -> list[Receipt]:
        unit = commit.unit
        if unit.run is not None and len(self.rows.get(unit.run, [])) != unit.expected_seq:
            return [Receipt(UnitOutcome.SEQ_CONFLICT)]
        return super().commit([commit])


@pytest.mark.parametrize("how", [{"faults": 0.0}, {"kinds": ("cut",)}, {}], ids=["calm", "cuts", "everything"])
def test_runs_complete_and_repeat_nothing_that_was_acked(how: dict[str, Any]) -> None:
    refused = 0
    for seed in range(60):
        world = World(seed, **how)
        world.store = FullStore(world)
        world.run()
        refused += world.reached["refused"]
    assert refused > 60
