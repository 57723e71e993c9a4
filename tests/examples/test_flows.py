"""The ready-made fixtures (MISSION 7.6): each example flow in memory and over real processes, with one expected record.

Steps of `two_by_two` wait for files that the tests create, so the order is the test's and not the machine's.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest

import stepwire
from stepwire import testing
from stepwire.client import Run
from tests.e2e.processes import Process, Stage, wait_for
from tests.examples import records
from tests.examples.records import Record
from tests.sdk.gates import until

PLAIN: list[tuple[str, str, Any, Record, Any]] = [
    ("coffee", "make_coffee", "espresso", records.COFFEE, "one espresso"),
    ("summarize", "summarize", None, records.SUMMARIZE, "steps, groups, results, nothing, everything"),
    ("process_data", "process-data", None, records.PROCESS_DATA, None),
    ("process_data", "process-data-strict", None, records.PROCESS_DATA_STRICT, None),
    ("order_saga", "place_order", None, records.ORDER_SAGA, None),
]
"""Module, flow, input (None: the module's), record, output (None: not compared)."""
IDS = [flow for _, flow, *_ in PLAIN]

ORDERS = {"wait": ["a", "x", "b", "y"], "race": ["a", "b", "x", "y"]}
GATED = {"wait": (records.WAIT, "xayb"), "race": (records.RACE, "abxy")}
"""The record, and the order in which the gates are opened."""


# ---- in memory


def host_of(module: str) -> stepwire.Host:
    host: stepwire.Host = import_module(f"examples.flows.{module}").host
    return host


def input_of(module: str, given: Any) -> Any:
    return import_module(f"examples.flows.{module}").INPUT if given is None else given


@pytest.mark.parametrize("replay", [False, True], ids=["live", "replayed"])
@pytest.mark.parametrize(("module", "flow", "given", "record", "output"), PLAIN, ids=IDS)
def test_in_memory(module: str, flow: str, given: Any, record: Record, output: Any, replay: bool) -> None:
    host = host_of(module)
    run = testing.run(host, host.flows[flow], input_of(module, given), replay=replay)
    assert records.of_view(run.record) == record
    if output is not None:
        assert run.output == output


def test_accounts_in_memory(api: str) -> None:
    host = host_of("accounts")
    run = testing.run(host, host.flows["fetch_accounts"], api)
    assert records.of_view(run.record) == records.ACCOUNTS
    assert run.output == ["ada: tea", "ada: cake"]


async def in_memory_by_event() -> testing.TestRun:
    host = host_of("payment")
    async with testing.environment(host) as env:
        event = stepwire.Event("stripe/charge.created", input_of("payment", None))
        await env.send(event)
        (run_id,) = await env.started(host.flows["after_payment"])
        return await env.finish(host.flows["after_payment"], run_id)


def test_payment_in_memory_is_started_by_its_event() -> None:
    run = asyncio.run(in_memory_by_event())
    assert records.of_view(run.record) == records.PAYMENT
    assert run.output == {"email_id": "email to ada@example.com", "update": "ada@example.com paid 1200"}


@pytest.mark.parametrize("flow", list(GATED))
def test_two_by_two_in_memory(flow: str, tmp_path: Path) -> None:
    record, gates = GATED[flow]

    async def main() -> testing.TestRun:
        host = host_of("two_by_two")
        async with testing.environment(host, virtual_clock=False) as env:
            run_id = await env.start(host.flows[flow], str(tmp_path))
            finish = asyncio.create_task(env.finish(host.flows[flow], run_id))
            for number, gate in enumerate(gates):
                (tmp_path / gate).touch()
                await until(f"{gate} is recorded", lambda number=number: len(ended(env, run_id)) > number)
            return await finish

    run = asyncio.run(main())
    assert records.of_view(run.record) == record
    assert run.output == ORDERS[flow]


def ended(env: testing.Environment, run_id: str) -> list[str]:
    return [e.path for e in env.journal(run_id) if type(e).__name__ == "AttemptEnded"]


# ---- over real processes


class Installation:
    """An engine and the hosts of the examples, started when they are needed."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._engine = stage.engine(call_allow="127.0.0.0/8")
        self.client = stage.client(self._engine)
        self._hosts: dict[str, Process] = {}

    def serve(self, module: str) -> None:
        if module in self._hosts:
            return
        target = f"examples.flows.{module}:host"
        log = self._stage.directory / f"{module}.log"
        self._stage.logs.append(log)
        process = Process(["-m", "stepwire_engine", "host", target, "--engine", self._engine.address], log)
        self._stage._closing.append(process.kill)
        process.says("connected to engine")
        self._hosts[module] = process

    def finished(self, run_id: str) -> Run:
        def ended() -> Run | None:
            run = self.client.get(run_id, steps=True)
            return run if run.ended_at is not None else None

        found = wait_for(ended, f"run {run_id} to end")
        assert found is not None
        return found


@pytest.fixture(scope="module")
def installation(shared_stage: Stage) -> Installation:
    return Installation(shared_stage)


@pytest.mark.parametrize(("module", "flow", "given", "record", "output"), PLAIN, ids=IDS)
def test_over_processes(
    installation: Installation, module: str, flow: str, given: Any, record: Record, output: Any
) -> None:
    installation.serve(module)
    started = installation.client.start(flow, input_of(module, given))
    run = installation.finished(started.run_id)
    assert records.of_run(run) == record
    if output is not None:
        assert run.output == output


def test_accounts_over_processes(installation: Installation, api: str) -> None:
    installation.serve("accounts")
    run = installation.finished(installation.client.start("fetch_accounts", api).run_id)
    assert records.of_run(run) == records.ACCOUNTS
    assert run.output == ["ada: tea", "ada: cake"]


def test_payment_over_processes_is_started_by_its_event(installation: Installation) -> None:
    installation.serve("payment")
    installation.client.send("stripe/charge.created", input_of("payment", None), id="charge-1")
    installation.client.send("stripe/charge.created", input_of("payment", None), id="charge-1")
    first = wait_for(lambda: list(installation.client.list(flow="after_payment")), "the event to start the flow")
    run = installation.finished(first[0].run_id)
    assert records.of_run(run) == records.PAYMENT
    assert len(list(installation.client.list(flow="after_payment"))) == 1, "one event, one run"


@pytest.mark.parametrize("flow", list(GATED))
def test_two_by_two_over_processes(installation: Installation, flow: str, tmp_path: Path) -> None:
    installation.serve("two_by_two")
    record, gates = GATED[flow]
    started = installation.client.start(flow, str(tmp_path))
    for number, gate in enumerate(gates):
        (tmp_path / gate).touch()
        wait_for(lambda number=number: steps_ended(installation, started.run_id) > number, f"{gate} to be recorded")
    run = installation.finished(started.run_id)
    assert records.of_run(run) == record
    assert run.output == ORDERS[flow]


def steps_ended(installation: Installation, run_id: str) -> int:
    return sum(step.ended_at is not None for step in installation.client.get(run_id, steps=True).steps)


# ---- the API that `accounts` talks to


class Api(BaseHTTPRequestHandler):
    """Gives a token, and lists to whoever has it."""

    answers: ClassVar[dict[tuple[str, str], Callable[[Any], tuple[int, Any]]]] = {
        ("POST", "/auth"): lambda _: (200, {"access_token": "tok123"}),
        ("GET", "/users"): lambda request: request.guarded([{"name": "ada"}]),
        ("GET", "/products"): lambda request: request.guarded([{"name": "tea"}, {"name": "cake"}]),
    }

    def guarded(self, body: Any) -> tuple[int, Any]:
        return (200, body) if self.headers["Authorization"] == "Bearer tok123" else (401, {})

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, body = self.answers[self.command, self.path](self)
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read no access logs."""


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()
