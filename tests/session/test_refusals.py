"""Random histories in which the store refuses whole batches: the simulator with a store that is often full."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulation.simulator import World


@pytest.mark.parametrize("how", [{"faults": 0.0}, {"kinds": ("cut",)}, {}], ids=["calm", "cuts", "everything"])
def test_runs_complete_and_repeat_nothing_that_was_acked(how: dict[str, Any]) -> None:
    refused = 0
    for seed in range(60):
        world = World(seed, refusals=0.1, **how)
        world.run()
        refused += world.reached["commit refused"]
    assert refused > 60
