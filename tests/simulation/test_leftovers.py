"""What may be left in memory when a history is over: of runs that stay as they are, what they wait with."""

from __future__ import annotations

import pytest

from stepwire_engine.core.books import Commit
from stepwire_engine.core.fold import rebuild
from stepwire_engine.core.model import Run
from stepwire_engine.core.turn import Turn
from stepwire_engine.core.units import Unit
from tests.simulation.leftovers import engine_leftovers
from tests.simulation.simulator import World


@pytest.fixture
def world() -> World:
    world = World(1, faults=0.0)
    world.run()
    return world


@pytest.fixture
def left(world: World) -> Run:
    """A run as it was before its end, with a timer and a commit."""
    assert world.core is not None
    books = world.core._books
    for facts in world.truth.runs.values():
        for length in range(1, len(facts.rows)):
            run = rebuild(facts.number, facts.rows[:length])
            for step in run.open_steps():
                books.timers.arm(1e9, step)
                books.last_commit[run.number] = Commit(Unit(1), Turn(run, 0))
                return run
    raise AssertionError("no run of this history had a step")


def test_what_a_run_keeps_that_could_end_is_left(world: World, left: Run) -> None:
    assert set(engine_leftovers(world)) == {"timers", "last_commit"}


def test_a_run_that_stays_as_it_is_may_be_in_memory_and_have_timers(world: World, left: Run) -> None:
    world.truth._stuck = {left.run_id}
    assert engine_leftovers(world) == {}


def test_nothing_is_kept_of_a_run_that_left_memory_though_it_stays_as_it_is(world: World, left: Run) -> None:
    world.truth._stuck = {left.run_id}
    left.broken = True
    assert set(engine_leftovers(world)) == {"last_commit"}, "its timer is dropped when timers are swept"
