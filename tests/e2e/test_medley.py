"""Random runs with every word there is, while engine and hosts are killed: results, undos, nothing repeated."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from stepwire.client import Run, RunHandleSync, StepState
from stepwire.errors import RunFailed
from tests.e2e.ledger import Line
from tests.e2e.processes import Engine, Process, Stage

RUNS = 24
KILLS = 6
PAUSE_SECONDS_MAX = 0.5
HOSTS = ("one", "two")
VICTIMS = (("engine",), ("one",), ("two",), ("engine", "one"), ("engine", "two"))


def line(rng: random.Random, depth: int = 0) -> list[Any]:
    """1..4 ops; groups only up to depth 2."""
    return [op(rng, depth) for _ in range(rng.randint(1, 4 if depth == 0 else 2))]


def op(rng: random.Random, depth: int) -> Any:
    limit = rng.choice((None, None, 1, 2))
    simple = rng.random()
    if depth >= 2 or simple < 0.5:
        return rng.choice((rng.randrange(100), rng.randrange(100), {"sleep": rng.choice((0.01, 0.3, 0.6))},
                           {"child": rng.randrange(100)}, {"news": rng.randrange(100)}))  # fmt: skip
    lines = [line(rng, depth + 1) for _ in range(rng.randint(2, 4))]
    return rng.choice((
        {"parallel": lines, "mode": rng.choice(("WAIT", "RACE")), "limit": limit},
        {"race": lines},
        {"settle": lines},
        {"map": [rng.randrange(100) for _ in range(rng.randint(2, 6))], "limit": limit},
    ))  # fmt: skip


def value_of(op: Any) -> int:
    match op:
        case int():
            return op
        case {"child": value} | {"news": value}:
            return int(value)
        case {"parallel": lines} | {"settle": lines}:
            return sum(value_of(op) for ops in lines for op in ops)
        case {"map": values}:
            return sum(values)
    return 0


def ended(run: RunHandleSync[int], fails: bool, expected: int) -> Run:
    """Wait for the run's end, which must be the right one; its record."""
    if fails:
        with pytest.raises(RunFailed, match="as it is written"):
            run.result(timeout=60)
    else:
        assert run.result(timeout=60) == expected
    return run.get(steps=True)


def assert_undone(record: Run) -> None:
    """Every completed step with an undo was undone once, in the reverse order of completion."""
    completed = [step for step in record.steps if step.state is StepState.SUCCEEDED]
    wanted = {step.path for step in completed if step.kind in ("run", "task") and not step.undoes}
    undos = [step for step in record.steps if step.undoes]
    assert Counter(undo.undoes for undo in undos) == dict.fromkeys(wanted, 1)
    assert {undo.state for undo in undos} <= {StepState.SUCCEEDED}
    assert [sum(attempt.failure is None for attempt in undo.attempts) for undo in undos] == [1] * len(undos)
    at = {step.path: step.ended_at for step in completed}
    order = [at[undo.undoes] for undo in undos]
    assert order == sorted(order, reverse=True)  # type: ignore[type-var]


def repeated_after_ack(lines: list[Line], killed: set[int]) -> list[Line]:
    """Attempts that were begun although their outcome had been acked."""
    acked: set[tuple[str, str, int]] = set()
    broken = []
    for one in lines:
        if one.event == "acked":
            acked.add(one.key)
        elif one.event == "before" and one.key in acked:
            broken.append(one)
    return broken


@pytest.mark.timeout(120)
def test_every_word_under_random_kills(stage: Stage, rng: random.Random, figure: Callable[[str], None]) -> None:
    engine: Engine = stage.engine(reconnect_grace=0.4, adoption_grace=1.5, live_idle=0.15)
    hosts: dict[str, Process] = dict(zip(HOSTS, stage.hosts(engine, *HOSTS, flows="medley_flows"), strict=True))
    client = stage.client(engine)
    scores = [(line(rng), rng.random() < 0.4) for _ in range(RUNS)]
    runs = [client.start("medley", {"line": ops, "fails": fails}, id=f"{i}") for i, (ops, fails) in enumerate(scores)]
    killed = Counter[str]()
    for _ in range(KILLS):
        time.sleep(rng.uniform(0, PAUSE_SECONDS_MAX))  # gate: the kill's own random moment
        victims = rng.choice(VICTIMS)
        killed.update(victims)
        for victim in victims:
            engine.kill() if victim == "engine" else hosts[victim].kill()
        if "engine" in victims:
            engine.start()
        for name in set(victims) & set(HOSTS):
            hosts[name] = stage.host(engine, name, flows="medley_flows")
    for run, (ops, fails) in zip(runs, scores, strict=True):
        record = ended(run, fails, sum(map(value_of, ops)))
        if fails:
            assert_undone(record)
        else:
            assert not any(step.undoes for step in record.steps)
    lines = stage.ledger.refresh()
    assert repeated_after_ack(lines, set()) == []
    steps = Counter(one.event for one in lines)
    figure(f"{RUNS} runs, kills {dict(killed)}: {steps['after']} attempts ended, bodies entered {steps['body']} times")
