"""kill -9 while a failed run is undone: every undo runs to success once, in the right order (MISSION S8, O9, O10)."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from stepwire.client import RunHandleSync, StepRecord, StepState
from stepwire.errors import RunFailed
from stepwire.protocol.failure import ErrorCode
from tests.e2e.processes import Engine, Process, Stage, wait_for
from tests.evicting import Entries

HOSTS = ("one", "two")
A, B, C = (f"settle/[{index}]/{name}" for index, name in enumerate("abc"))
STEPS = ["reserve", A, B, C, "settle/[3]/d", "ship"]
UNDOS = [f"{path}#undo" for path in (B, A, C, "reserve")]
"""C, A and B complete in this order, after the first step; undone is in the reverse order."""
UNDO_A = f"{A}#undo"
DELAY_MS_MAX = 8.0


class Order:
    """A run that has failed and is about to be undone, on two hosts."""

    def __init__(self, stage: Stage, **settings: Any) -> None:
        self.stage = stage
        self.engine: Engine = stage.engine(**{"reconnect_grace": 0.3, "adoption_grace": 5.0} | settings)
        started = stage.hosts(self.engine, *HOSTS, flows="saga_flows")
        self.hosts: dict[str, Process] = dict(zip(HOSTS, started, strict=True))
        self.client = stage.client(self.engine)
        self.run: RunHandleSync[None] = self.client.start("order")
        stage.gates.arrived(self.run.run_id, A, B, C)
        for path in (C, A, B):
            stage.gates.open(self.run.run_id, path)
            stage.acked(self.run.run_id, path)

    def start_host(self, name: str, code: str = "") -> None:
        self.hosts[name] = self.stage.host(self.engine, name, flows="saga_flows", E2E_CODE=code)

    def host_of(self, path: str) -> str:
        """Where the last attempt was begun."""
        return [line.host for line in self.stage.ledger.of(self.run.run_id, "before") if line.path == path][-1]

    def kill(self, victims: str, path: str) -> None:
        """Kill the engine, the host of this undo, or both, and start them again."""
        name = self.host_of(path)
        if victims != "host":
            self.engine.kill()
        if victims != "engine":
            self.hosts[name].kill()
        if victims != "host":
            self.engine.start()
        if victims != "engine":
            self.start_host(name)

    def ended(self) -> dict[str, StepRecord]:
        """Wait for the run's end; its undos by path, as journaled."""
        with pytest.raises(RunFailed, match="no lorry"):
            self.run.result(timeout=30)
        steps = self.run.get(steps=True).steps
        return {step.path: step for step in steps if step.undoes}

    def ran(self, event: str = "after") -> list[str]:
        """Undos in the order in which they were begun, or ran to their end."""
        return [line.path for line in self.stage.ledger.of(self.run.run_id, event) if line.path.endswith("#undo")]


def successes(undo: StepRecord) -> int:
    return sum(attempt.failure is None for attempt in undo.attempts)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("victims", ["host", "engine", "host and engine"])
def test_a_kill_at_each_undo(stage: Stage, victims: str, figure: Callable[[str], None]) -> None:
    """Each undo waits at its gate when its host, the engine, or both are killed."""
    order = Order(stage, adoption_grace=5.0 if victims == "engine" else 0.5)
    run_id = order.run.run_id
    for path in UNDOS:
        stage.gates.arrived(run_id, path)
        order.kill(victims, path)
        if victims != "engine":
            stage.gates.arrived(run_id, path, times=2)
        stage.gates.open(run_id, path)
    undos = order.ended()
    assert order.ran() == UNDOS, "each ran to its end once, in the reverse order of completion"
    assert list(undos) == UNDOS, "the step that failed is not undone"
    assert {path: successes(undo) for path, undo in undos.items()} == dict.fromkeys(UNDOS, 1)
    assert {undo.state for undo in undos.values()} == {StepState.SUCCEEDED}
    begun = [line.path for line in stage.ledger.of(run_id, "before")]
    assert Counter(begun) == dict.fromkeys([*STEPS, *UNDOS], 1) | dict.fromkeys(UNDOS, 1 if victims == "engine" else 2)
    entered = len(stage.ledger.of(run_id, "body"))
    assert entered == Entries(1) if victims == "engine" else entered > 2, "closures are reached again by replay"
    figure(f"kill of {victims} at each of {len(UNDOS)} undos: each succeeded once; body entered {entered} times")


@pytest.mark.timeout(60)
def test_kills_of_everything_while_undos_end(stage: Stage, rng: random.Random, figure: Callable[[str], None]) -> None:
    """The kill comes some milliseconds after the gate opened: before, in or after the commit of the undo's success."""
    order = Order(stage, adoption_grace=0.5)
    run_id = order.run.run_id
    for path in UNDOS:
        stage.gates.arrived(run_id, path)
        stage.gates.open(run_id, path)
        time.sleep(rng.uniform(0, DELAY_MS_MAX) / 1000)  # gate: the kill's own random moment
        order.kill("host and engine", path)
    undos = order.ended()
    assert {path: successes(undo) for path, undo in undos.items()} == dict.fromkeys(UNDOS, 1)
    assert list(dict.fromkeys(order.ran("before"))) == UNDOS
    acked = [line.path for line in stage.ledger.of(run_id, "acked") if line.path in UNDOS]
    assert len(acked) == len(set(acked))
    figure(f"each of {len(UNDOS)} undos succeeded once; begun {len(order.ran('before'))} times in all")


@pytest.mark.parametrize(
    ("code", "unreachable"),
    [("no step b", [UNDOS[0], UNDOS[1], UNDOS[3]]), ("no undo of a", [UNDO_A])],
    ids=["the body diverges", "one closure is gone"],
)
def test_an_undo_whose_closure_is_gone(stage: Stage, code: str, unreachable: list[str]) -> None:
    """The only hosts left have another code. What they cannot undo is recorded as such; they undo the rest."""
    order = Order(stage)
    run_id = order.run.run_id
    stage.gates.open(run_id, *UNDOS[1:])
    stage.gates.arrived(run_id, UNDOS[0])
    for host in order.hosts.values():
        host.kill()
    order.start_host("other", code)
    stage.gates.open(run_id, UNDOS[0])
    undos = order.ended()
    failures = {path: [a.failure.code for a in undo.attempts if a.failure is not None] for path, undo in undos.items()}
    expected = {path: [ErrorCode.UNDO_UNREACHABLE] if path in unreachable else [] for path in UNDOS}
    assert failures == expected
    assert order.ran() == [path for path in UNDOS if path not in unreachable]
    failed = [path for path, undo in undos.items() if undo.state is StepState.FAILED]
    assert failed == unreachable


def test_an_undo_that_fails_does_not_stop_the_others(stage: Stage) -> None:
    engine = stage.engine()
    stage.host(engine, "only", flows="saga_flows")
    run = stage.client(engine).start("stumbling")
    with pytest.raises(RunFailed, match="no lorry"):
        run.result(timeout=15)
    undos = [step for step in run.get(steps=True).steps if step.undoes]
    assert [(undo.undoes, undo.state, len(undo.attempts)) for undo in undos] == [
        ("bad", StepState.FAILED, 1),
        ("flaky", StepState.SUCCEEDED, 3),
        ("good", StepState.SUCCEEDED, 1),
    ]


def test_undos_are_not_executed_while_no_host_is_there(stage: Stage) -> None:
    """The run stays open, says why, and goes on with the next host."""
    order = Order(stage)
    run_id = order.run.run_id
    stage.gates.arrived(run_id, UNDOS[0])
    for host in order.hosts.values():
        host.kill()
    wait_for(lambda: order.run.get().reason == "no_host", "the loss of all hosts")
    record = order.run.get()
    assert (record.state, record.phase) == ("RUNNING", "UNDOING")
    assert record.stopping is not None and record.stopping.message == "no lorry"
    stage.gates.open(run_id, *UNDOS)
    order.start_host("third")
    order.ended()
    assert order.ran() == UNDOS
