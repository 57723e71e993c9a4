"""Playing histories with and without a planted fault."""

from __future__ import annotations

from collections.abc import Iterable

from tests.simulation.invariants import broken_by
from tests.simulation.mutants.planting import planted
from tests.simulation.mutants.table import MUTANTS, Mutant
from tests.simulation.simulator import World

_sound: set[tuple[str, int]] = set()
"""Histories that were played without a fault, by the options of their world and their seed."""


def mutants_of(invariants: Iterable[str]) -> list[Mutant]:
    """The lines of the table that are first of all about these invariants."""
    wanted = frozenset(invariants)
    return [mutant for mutant in MUTANTS if mutant.breaks[0] in wanted]


def check_caught(mutant: Mutant) -> None:
    """The fault is found within its seeds, by a check that names what it breaks, and by nothing else."""
    seed, error = _first_failure(mutant)
    assert broken_by(error) & set(mutant.breaks), f"{mutant.name} was found, but not as {mutant.breaks}: {error!r}"
    for again in range(seed + 1):
        known = repr(sorted(mutant.world.items())), again
        if known not in _sound:
            World(again, **mutant.world).run()
            _sound.add(known)


def _first_failure(mutant: Mutant) -> tuple[int, Exception]:
    with planted(*mutant.edits):
        for seed in range(mutant.seeds):
            try:
                World(seed, **mutant.world).run()
            except Exception as error:
                return seed, error
    raise AssertionError(f"{mutant.name}: no check found it in {mutant.seeds} histories; they are blind for it")
