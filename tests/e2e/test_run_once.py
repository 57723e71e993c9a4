"""One call that starts a run and answers with its result, over real processes, and the engine killed meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import stepwire
from stepwire.errors import KeyConflict, RunFailed, UnknownFlow
from stepwire.v1 import run_service_pb2 as pb
from tests.e2e.processes import Engine, Stage, wait_for

WHOLE = ["first", "gated", "last"]
Run = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Callable[[Engine], Run]:
    """Gives `run` of the plain or of the async client."""

    def of(engine: Engine) -> Run:
        def plain(*args: Any, **kwargs: Any) -> Any:
            with stepwire.ClientSync(engine.address) as client:
                return client.run(*args, **kwargs)

        async def once(*args: Any, **kwargs: Any) -> Any:
            async with stepwire.Client(engine.address) as client:
                return await client.run(*args, **kwargs)

        return plain if request.param == "sync" else lambda *args, **kwargs: asyncio.run(once(*args, **kwargs))

    return of


def test_results_errors_and_ids(stage: Stage, run: Callable[[Engine], Run]) -> None:
    engine = stage.engine()
    stage.host(engine, "only")
    once = run(engine)
    assert once("plus_one", 1) == 2
    assert once("plus_one", 1, id="one") == once("plus_one", 1, id="one") == 2
    with pytest.raises(KeyConflict, match="one"):
        once("plus_one", 2, id="one")
    with pytest.raises(UnknownFlow):
        once("nobody")
    client = stage.client(engine)
    assert len(list(client.list())) == 2
    with pytest.raises(RunFailed) as caught:
        once("plus_one", "text")
    with pytest.raises(RunFailed) as expected:
        client.handle(caught.value.run_id).result(timeout=15)
    assert str(caught.value) == str(expected.value)


def test_a_timeout_leaves_the_run_to_whoever_asks_again(stage: Stage, run: Callable[[Engine], Run]) -> None:
    engine = stage.engine()
    stage.host(engine, "only")
    once = run(engine)
    with pytest.raises(TimeoutError, match="it goes on") as caught:
        once("gate_between", id="late", timeout=0.3)
    client = stage.client(engine)
    (open_run,) = client.list()
    assert open_run.run_id in str(caught.value)
    stage.gates.open(open_run.run_id, "gated")
    assert once("gate_between", id="late", timeout=15) == WHOLE
    assert [record.run_id for record in client.list()] == [open_run.run_id]


def test_the_engine_is_killed_while_it_waits(stage: Stage, run: Callable[[Engine], Run]) -> None:
    engine = stage.engine()
    stage.host(engine, "only")
    client = stage.client(engine)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(run(engine), "gate_between")
        (record,) = wait_for(lambda: list(client.list()), "the run")
        stage.gates.arrived(record.run_id, "gated")
        named_to_whoever_began_earlier(engine, record.id)
        engine.kill()
        with pytest.raises(stepwire.EngineUnavailable):
            client.get(record.run_id)
        assert not result.done()
        engine.start()
        stage.gates.open(record.run_id, "gated")
        assert result.result(30) == WHOLE
    assert [again.run_id for again in stage.client(engine).list()] == [record.run_id], "exactly one run"
    assert stage.ledger.count("before", record.run_id) == {"first": 1, "gated": 1, "last": 1}


def named_to_whoever_began_earlier(engine: Engine, key: str) -> None:
    """Make the same call besides, and wait until its run is named to it: to an earlier one it was before."""
    request = pb.StartAndAwaitRequest(start=pb.StartRequest(flow="gate_between", id=key))
    with grpc.insecure_channel(engine.address) as channel:
        method: Any = channel.unary_stream("/stepwire.v1.RunService/StartAndAwait")
        call = method(request.SerializeToString(), timeout=15)
        assert "stepwire-run-id" in dict(call.initial_metadata())
