"""Histories of the simulator: clean ones, one kind of fault at a time, and everything at once.

More of them: `python -m tests.simulation FIRST LAST`. A failing seed is repeated with
`python -m tests.simulation SEED`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.simulation.hosts import CALLS
from tests.simulation.simulator import World

SEEDS = 200
RARE = {
    "cancel while undoing",
    "commit refused",
    "crash after commit",
    "crash with a commit that survived",
    "dark link",
    "deadline of a group passed",
    "deadline passed while a result was in flight",
    "decision parked",
    "dormant run",
    "dormant run woken by a timer",
    "dormant run woken by an event",
    "dormant run woken by cancel",
    "dormant run woken by its child",
    "dormant run woken by its parent's end",
    "end of a branch held back",
    "engine crash",
    "event of the past taken",
    "event with a known id",
    "evict",
    "fact found in the inbox at start",
    "failure told",
    "host crash",
    "host left",
    "key of a child in use",
    "limit of a group reached",
    "race_lost while executing",
    "restarted",
    "resume",
    "resume with an unacked plan or result",
    "run started by an event",
    "run_cancelled while executing",
    "step abandoned",
    "timeout while executing",
    "undo after engine crash",
    "undo by replay on another host",
}
"""Branches of hosts and engine that histories with every fault must reach."""


@pytest.mark.parametrize(
    "kinds", [(), ("cut",), ("cut", "dark"), ("engine",), ("host", "leave"), ("evict", "stall"), ("refuse",)]
)
def test_histories_with_one_kind_of_fault(kinds: tuple[str, ...]) -> None:
    for seed in range(SEEDS // 4):
        World(seed, kinds=kinds or ("cut",), faults=0.8 if kinds else 0.0).run()


@pytest.mark.parametrize("features", [(), ("performed",), ("groups", "failures"), ("failures", "clients")])
def test_histories_of_simpler_flows(features: tuple[str, ...]) -> None:
    """What a simple flow does must not depend on what others could do."""
    for seed in range(SEEDS // 4):
        World(seed, features=features).run()


@pytest.mark.timeout(120)
def test_histories_with_every_fault_reach_every_rare_branch() -> None:
    reached: Counter[str] = Counter()
    for seed in range(2 * SEEDS):
        world = World(seed)
        world.run()
        reached += world.reached
    assert RARE - set(reached) == set(), f"never reached: {RARE - set(reached)}"


@pytest.mark.parametrize(
    "seed",
    [
        # A future event became due between two questions to the store, and nobody looked for it again.
        747,
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


def test_engine_crashes_alone_repeat_no_attempt_whose_host_returns() -> None:
    """Adoption (DESIGN 3, rule 7): with hosts that stay, each attempt of a step is executed once.

    Calls are not meant: their host is a part of the engine.
    """
    for seed in range(SEEDS // 2):
        world = World(seed, kinds=("engine",))
        world.run()
        tries = Counter((e.run_id, e.path, e.attempt) for e in world.executions if e.host.name != CALLS)
        again = [key for key, times in tries.items() if times > 1]
        assert not again, f"seed {seed}: executed again after an engine crash: {again}"


def test_while_nothing_fails_each_body_is_entered_once() -> None:
    """Unless its run is stopped from outside: then it is evicted, and may be replayed for its undos."""
    for seed in range(SEEDS // 4):
        world = World(seed, faults=0.0, live_idle=1e6, features=("performed", "groups", "failures"))
        world.run()
        for run_id, entries in world.body_entries.items():
            facts = world.truth.runs[run_id]
            stopped = facts.stopping is not None and not facts.body_ended
            assert entries == 1 or stopped, f"seed {seed}: {run_id} was entered {entries} times"
