"""Every step of random trees runs once, in both modes, however results and plans overtake each other (MISSION 1.3)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.ledger import repeats
from tests.e2e.processes import Stage

TREES = 250


def grown(rng: random.Random, depth: int = 0) -> list[Any]:
    """2..8 branches of 1..5 items; an item is a step (a number), or a nested group (a list) up to depth 2."""
    branches = rng.randint(2, 8 if depth == 0 else 3)
    return [[item(rng, depth) for _ in range(rng.randint(1, 5 if depth == 0 else 2))] for _ in range(branches)]


def item(rng: random.Random, depth: int) -> Any:
    return grown(rng, depth + 1) if depth < 2 and rng.random() < 0.12 else rng.randrange(1000)


def steps_of(branches: list[Any], scope: str = "") -> list[str]:
    """Paths of all steps of a tree."""
    paths = []
    for number, items in enumerate(branches):
        groups = 0
        for index, one in enumerate(items):
            inside = f"{scope}/[{number}]"
            if isinstance(one, list):
                groups += 1
                paths += steps_of(one, f"{inside}/parallel" + (f"#{groups}" if groups > 1 else ""))
            else:
                paths.append(f"{inside}/s{index}")
    return paths


@pytest.mark.timeout(120)
def test_five_hundred_random_trees(stage: Stage, rng: random.Random, figure: Callable[[str], None]) -> None:
    engine = stage.engine()
    for name in ("one", "two"):
        stage.host(engine, name)
    client = stage.client(engine)
    trees = [grown(rng) for _ in range(TREES)]
    runs = [(mode, tree, client.start("tree", {"mode": mode, "branches": tree}))
            for tree in trees for mode in ("WAIT", "RACE")]  # fmt: skip
    total = 0
    for mode, tree, run in runs:
        assert run.result(timeout=90) == [tree, "after"], f"{mode} {tree}"
    begun = {run.run_id: Counter[str]() for _, _, run in runs}
    for line in stage.ledger.refresh():
        if line.event == "before":
            begun[line.run_id][line.path] += 1
    for mode, tree, run in runs:
        expected = [*steps_of(tree, "parallel"), "after"]
        assert begun[run.run_id] == dict.fromkeys(expected, 1), f"{mode} {tree}"
        total += len(expected)
    assert repeats(stage.ledger.lines) == []
    hosts = Counter(line.host for line in stage.ledger.lines if line.event == "before")
    assert min(hosts["one"], hosts["two"]) > 0
    figure(f"{len(runs)} runs, {total} steps, each once; steps per host {dict(hosts)}")
