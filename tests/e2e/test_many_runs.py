"""Many runs with one call, over real processes: started, waited for, and the engine killed meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import stepwire
from stepwire.errors import PartlyStarted
from tests.e2e.processes import Stage

RUNS = 200


def test_two_hundred_runs_and_their_results(stage: Stage) -> None:
    engine = stage.engine()
    stage.host(engine, "only")
    client = stage.client(engine)
    ids = [f"order-{number}" for number in range(RUNS)]
    runs = client.start_many("plus_one", range(RUNS), ids=ids)
    assert client.results(runs, timeout=30) == list(range(1, RUNS + 1))
    again = client.start_many("plus_one", range(RUNS), ids=ids)
    assert [(run.run_id, run.existing) for run in again] == [(run.run_id, True) for run in runs]
    assert client.results(again, timeout=30) == list(range(1, RUNS + 1)), "they had ended, and are read"
    with pytest.raises(PartlyStarted) as partly:
        client.start_many("plus_one", [7, 7], ids=["order-7", "order-8"])
    assert [handle is not None for handle in partly.value.handles] == [True, False]
    assert len(list(client.list(flow="plus_one"))) == RUNS


def test_results_outlive_the_engine_and_include_what_ended_while_nobody_heard(stage: Stage) -> None:
    engine = stage.engine()
    stage.host(engine, "only")
    client = stage.client(engine)
    gated, *others = client.start_many("gate_between", [None] * 3, ids=["a", "b", "c"])
    for run in others:
        stage.gates.arrived(run.run_id, "gated")
    stage.gates.arrived(gated.run_id, "gated")
    with ThreadPoolExecutor(1) as pool:
        results = pool.submit(client.results, [gated, *others], timeout=60)
        stage.gates.open(others[0].run_id, "gated")
        assert others[0].result(timeout=15) == ["first", "gated", "last"]
        engine.kill()
        stage.gates.open(others[1].run_id, "gated")
        engine.start()
        with stepwire.ClientSync(engine.address) as another:
            assert another.handle(others[1].run_id).result(timeout=30) == ["first", "gated", "last"]
        assert not results.done()
        stage.gates.open(gated.run_id, "gated")
        assert results.result(30) == [["first", "gated", "last"]] * 3
