"""Random runs with every word there is, while engine and hosts end and start: results, undos, nothing repeated."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import stepwire
from stepwire.client import Run, RunHandleSync, StepState
from stepwire.errors import RunCancelled, RunError, RunFailed
from stepwire.protocol.failure import ErrorCode
from tests.e2e.ledger import Line
from tests.e2e.processes import Engine, Process, Stage

RUNS = 30
KILLS = 6
DRAIN_SECONDS = 3
"""A host that is ended while no engine is there waits so long for one, if it has outcomes to tell."""
PAUSE_SECONDS_MAX = 0.3
HOSTS = ("one", "two")
FATES = ("succeeds", "fails", "is cancelled")
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


@dataclass
class Piece:
    """One run, what it plays, and what becomes of it: it succeeds, fails at its end, or is cancelled somewhere."""

    run: RunHandleSync[int]
    ops: list[Any]
    fate: str

    def cancel(self) -> None:
        """It may have ended before."""
        try:
            self.run.cancel(undo=True)
        except RunError as refused:
            assert refused.code is ErrorCode.WRONG_STATE
            self.fate = "succeeds"

    def check(self) -> None:
        """Wait for its end, which must be the right one, with everything undone or nothing."""
        match self.fate:
            case "succeeds":
                assert self.run.result(timeout=60) == sum(map(value_of, self.ops))
            case "fails":
                with pytest.raises(RunFailed, match="as it is written"):
                    self.run.result(timeout=60)
            case "is cancelled":
                with pytest.raises(RunCancelled):
                    self.run.result(timeout=60)
        record = self.run.get(steps=True)
        if self.fate == "succeeds":
            assert not any(step.undoes for step in record.steps)
        else:
            assert_undone(record)


def begin(client: stepwire.ClientSync, rng: random.Random, number: int) -> Piece:
    """Start a run. With an id, so that the client may ask again if its connection ended with an engine."""
    ops, fate = line(rng), rng.choice(FATES)
    flow = rng.choice(("medley", "medley_sync"))
    return Piece(client.start(flow, {"line": ops, "fails": fate == "fails"}, id=f"piece {number}"), ops, fate)


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


def repeated_after_ack(lines: list[Line]) -> list[Line]:
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
    hosts: dict[str, Process] = dict(
        zip(HOSTS, stage.hosts(engine, *HOSTS, flows="medley_flows", drain=DRAIN_SECONDS), strict=True)
    )
    client = stage.client(engine)
    pieces: list[Piece] = []
    killed = Counter[str]()
    for _ in range(KILLS):
        begun = [begin(client, rng, len(pieces) + number) for number in range(RUNS // KILLS)]
        pieces += begun
        time.sleep(rng.uniform(0, PAUSE_SECONDS_MAX))  # gate: the kill's own random moment
        for piece in begun:
            if piece.fate == "is cancelled":
                piece.cancel()
        victims = rng.choice(VICTIMS)
        gently = rng.random() < 0.25
        killed.update([f"{victim}, gently" if gently else victim for victim in victims])
        for victim in victims:
            process = engine.running if victim == "engine" else hosts[victim]
            if gently:
                assert process.terminate() == 0
            process.kill()
        if "engine" in victims:
            engine.start()
        for name in set(victims) & set(HOSTS):
            hosts[name] = stage.host(engine, name, flows="medley_flows", drain=DRAIN_SECONDS)
    for piece in pieces:
        piece.check()
    lines = stage.ledger.refresh()
    assert repeated_after_ack(lines) == []
    events = Counter(one.event for one in lines)
    fates = Counter(piece.fate for piece in pieces)
    figure(
        f"{RUNS} runs {dict(fates)}, kills {dict(killed)}: {events['after']} attempts ended, "
        f"bodies entered {events['body']} times"
    )
