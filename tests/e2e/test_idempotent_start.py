"""One id, one run: however many start it at once, after its end, and after an engine restart (MISSION P10)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import stepwire
from stepwire.errors import KeyConflict
from stepwire.protocol.failure import ErrorCode
from tests.e2e.processes import Engine, Stage

STARTS = 50


def test_fifty_starts_at_once_and_restarts(stage: Stage) -> None:
    engine = stage.engine()
    stage.host(engine, "only")
    clients = [stage.client(engine) for _ in range(5)]
    barrier = threading.Barrier(STARTS)

    def start(number: int) -> tuple[str, bool]:
        barrier.wait(10)
        run = clients[number % len(clients)].start("gate_between", id="order-17")
        return run.run_id, run.existing

    with ThreadPoolExecutor(STARTS) as pool:
        answers = list(pool.map(start, range(STARTS)))
    run_ids = {run_id for run_id, _ in answers}
    assert len(run_ids) == 1
    assert sum(existing for _, existing in answers) == STARTS - 1
    (run_id,) = run_ids
    stage.gates.arrived(run_id, "gated")

    client = clients[0]
    assert_same(client, run_id)
    client = restarted(stage, engine)
    assert_same(client, run_id)
    stage.gates.open(run_id, "gated")
    assert client.handle(run_id).result(timeout=15) == ["first", "gated", "last"]

    assert_same(client, run_id)
    assert client.start("gate_between", id="order-17").result(timeout=15) == ["first", "gated", "last"]
    client = restarted(stage, engine)
    assert_same(client, run_id)
    assert client.start("gate_between", id="order-17").result(timeout=15) == ["first", "gated", "last"]
    assert stage.ledger.count("before", run_id) == {"first": 1, "gated": 1, "last": 1}
    assert [run.run_id for run in client.list()] == [run_id]


def restarted(stage: Stage, engine: Engine) -> stepwire.ClientSync:
    """kill -9 and start; a client of the new process."""
    engine.kill()
    engine.start()
    return stage.client(engine)


def assert_same(client: stepwire.ClientSync, run_id: str) -> None:
    """The id gives the run, and another input or flow is a conflict that starts nothing."""
    again = client.start("gate_between", id="order-17")
    assert (again.run_id, again.existing) == (run_id, True)
    for flow, args in (("gate_between", (1,)), ("plus_one", ())):
        with pytest.raises(KeyConflict) as caught:
            client.start(flow, *args, id="order-17")
        assert caught.value.code is ErrorCode.KEY_CONFLICT
        assert "order-17" in str(caught.value) and run_id in str(caught.value)
    assert len(list(client.list())) == 1


def test_the_first_call_after_an_engine_restart(stage: Stage) -> None:
    engine = stage.engine()
    client = stage.client(engine)
    assert list(client.list()) == []
    engine.kill()
    engine.start()
    assert list(client.list()) == []
