"""Histories of the simulator: clean ones, one kind of fault at a time, and what must not happen under a few of them.

More of them: `python -m tests.simulation FIRST LAST`. A failing seed says how it is repeated.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from tests.simulation.__main__ import main
from tests.simulation.hosts import CALLS
from tests.simulation.simulator import FAULTS, World

pytestmark = pytest.mark.timeout(120)
"""Some seconds of processor time each; how long that is depends on who else uses the machine."""
SEEDS = 25
KINDS: list[tuple[str, ...]] = [
    (),
    ("cut", "flap"),
    ("dark", "half_open"),
    ("delay",),
    ("engine",),
    ("pause_engine", "drain"),
    ("host", "leave"),
    ("pause_host", "block"),
    ("twin",),
    ("evict", "stall"),
    ("refuse", "full"),
    ("damage", "engine"),
    ("clock", "engine"),
]


@pytest.mark.parametrize("kinds", KINDS)
def test_histories_with_one_kind_of_fault(kinds: tuple[str, ...]) -> None:
    for seed in range(SEEDS):
        World(seed, kinds=kinds or ("cut",), faults=0.8 if kinds else 0.0).run()


def test_every_kind_of_fault_is_played_by_itself() -> None:
    assert {kind for kinds in KINDS for kind in kinds} == set(FAULTS)


@pytest.mark.parametrize("features", [(), ("performed",), ("groups", "failures"), ("failures", "clients")])
def test_histories_of_simpler_flows(features: tuple[str, ...]) -> None:
    """What a simple flow does must not depend on what others could do."""
    for seed in range(SEEDS):
        World(seed, features=features).run()


@pytest.mark.parametrize(
    "seed",
    [
        # A future event became due between two questions to the store, and nobody looked for it again.
        747,
        # A body came back whose successor had decided meanwhile, and whose host was gone as well.
        81418755414,
        626471773094,
        # The parent of a run that is kept aside was still in memory: nothing is wrong with that.
        1056451646319,
        # The store was full when an event was due, and the clock was set back before it was delivered.
        1069,
        # A host came back with a plan of a body that was lost: it was told that it broke the protocol.
        2153,
        # The loop of a host was blocked while its body was evicted; then it began a closure under the old right.
        2904,
        # The child of a dormant run had restarted itself, and its successor was about to be started: no defect.
        5000962,
        433,
        1109,
        # The parent of a run that is kept aside was just becoming dormant: nothing is wrong with that either.
        7000658,
        # A link was dark when the history ended, and its host could not be told that a run was over.
        7005170,
        # The engine was stopped while its own host was to be told to stop an attempt.
        7013460,
        # A refused commit: a host came back with an ended attempt and the next one; both were given out again at once.
        7010582,
    ],
)
def test_a_history_that_once_failed(seed: int) -> None:
    World(seed).run()


def test_the_same_seed_is_the_same_history() -> None:
    def trace(seed: int) -> list[tuple[Any, ...]]:
        world = World(seed)
        world.run()
        return [(e.host.instance, e.run_id, e.path, e.attempt, e.began) for e in world.executions]

    assert trace(17) == trace(17)
    assert trace(17) != trace(18)


def executed_again(world: World) -> list[tuple[str, str, int]]:
    """Attempts that more than one host executed. Calls are not meant: their host is a part of the engine."""
    tries = Counter((e.run_id, e.path, e.attempt) for e in world.executions if e.host.name != CALLS)
    return [attempt for attempt, times in tries.items() if times > 1]


@pytest.mark.parametrize("kinds", [("engine",), ("engine", "pause_engine"), ("drain",), ("cut",), ("block",)])
def test_no_attempt_is_repeated_whose_host_returns_in_time(kinds: tuple[str, ...]) -> None:
    """Adoption (DESIGN 3, rule 7), stalls that are forgiven, drains, and links that are dialled again at once."""
    for seed in range(SEEDS):
        world = World(seed, kinds=kinds)
        world.run()
        assert executed_again(world) == [], f"seed {seed}"


def test_while_nothing_fails_each_body_is_entered_once() -> None:
    """Unless its run is stopped from outside: then it is evicted, and may be replayed for its undos."""
    for seed in range(SEEDS):
        world = World(seed, faults=0.0, live_idle=1e6, features=("performed", "groups", "failures"))
        world.run()
        for run_id, entries in world.body_entries.items():
            facts = world.truth.runs[run_id]
            stopped = facts.stopping is not None and not facts.body_ended
            assert entries == 1 or stopped, f"seed {seed}: {run_id} was entered {entries} times"


def test_a_history_that_fails_says_how_to_play_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(world: World) -> None:
        raise AssertionError("I0: planted")

    monkeypatch.setattr(World, "_play", broken)
    with pytest.raises(AssertionError) as failed:
        World(5, kinds=("cut", "dark"), faults=0.5, features=("groups",), refusals=0.1).run()
    (note,) = failed.value.__notes__
    command = "python -m tests.simulation 5 --kinds=cut,dark --features=groups --faults=0.5 --refusals=0.1"
    assert f"{command} " in note
    played: list[tuple[Any, ...]] = []
    monkeypatch.setattr(World, "_play", lambda world: played.append((world.seed, world.asked_for, world.faults)))
    with pytest.raises(AssertionError):  # Nothing was played, so nothing holds.
        main(command.split()[3:])
    assert played == [(5, (("cut", "dark"), ("groups",)), 0.5)]


def test_the_command_line_plays_seeds_and_says_what_it_reached() -> None:
    play = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "0", "3"], capture_output=True, text=True, check=True
    )
    assert "4 histories with " in play.stdout and "histories per minute of one core" in play.stdout
    assert " resume" in play.stdout
