"""An engine that is a table, and both clients in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.transport.callers import AsyncCaller, Caller, SyncCaller
from tests.transport.run_engine import LoopbackEngine, TablePort


@pytest.fixture(scope="module")
def engine() -> Iterator[LoopbackEngine]:
    engine = LoopbackEngine()
    yield engine
    engine.close()


@pytest.fixture
def port(engine: LoopbackEngine) -> Iterator[TablePort]:
    port = TablePort()
    engine.serve(port)
    yield port
    engine.stop()


@pytest.fixture(params=[SyncCaller, AsyncCaller], ids=["sync", "async"])
def caller(request: pytest.FixtureRequest, engine: LoopbackEngine, port: TablePort) -> Iterator[Caller]:
    caller = request.param(engine.address)
    yield caller
    caller.close()


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """Where a call waits while the test goes on."""
    with ThreadPoolExecutor() as pool:
        yield pool
