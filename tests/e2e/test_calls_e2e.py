"""Steps that the engine performs, in one group with ordinary ones; HTTP calls hold no slot (MISSION S11, S16, U4)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import stepwire
from stepwire.client import RunHandleSync, StepState
from tests.e2e.processes import QUICK, Engine, Stage, wait_for
from tests.e2e.sites import Site
from tests.evicting import Entries

HOST = "only"
SLOTS = 8
MEMBERS = {f"parallel/[{i}]/{name}": name for i, name in enumerate(("call", "run", "sleep", "wait", "invoke", "send"))}
POSTED = '{"from":"a flow"}'


@dataclass
class Served:
    """An engine that may call this machine, a host and a site, shared by the tests of this module."""

    stage: Stage
    engine: Engine
    client: stepwire.ClientSync
    site: Site

    def slots(self, state: str, service: str = HOST) -> float:
        return self.engine.metric(f'stepwire_session_slots{{service="{service}",state="{state}"}}')

    def let_go(self, run: RunHandleSync[Any]) -> None:
        """Let the members of a mixture end that wait for the test."""
        self.stage.gates.open(run.run_id, "parallel/[1]/run")
        self.client.send("go", {"run": run.run_id, "text": "go on"}, id=f"go-{run.run_id}")
        self.site.release()


@pytest.fixture(scope="module")
def installed(shared_stage: Stage) -> tuple[Engine, stepwire.ClientSync]:
    engine = shared_stage.engine(call_allow="127.0.0.0/8", **QUICK)
    shared_stage.host(engine, HOST, flows="call_flows", slots=SLOTS)
    return engine, shared_stage.client(engine)


@pytest.fixture
def served(shared_stage: Stage, installed: tuple[Engine, stepwire.ClientSync]) -> Iterator[Served]:
    site = Site()
    yield Served(shared_stage, *installed, site)
    site.close()
    assert "Traceback" not in installed[0].running.said


def expected(run: RunHandleSync[Any], path: str) -> list[Any]:
    return [200, {"path": path, "body": POSTED}, "ran", None, "go on", 5, [f"gone-{run.run_id}"]]


@pytest.mark.parametrize("flow", ["mixture", "mixture_sync"])
@pytest.mark.parametrize("mode", ["WAIT", "RACE"])
def test_every_kind_of_step_in_one_group(served: Served, flow: str, mode: str) -> None:
    url = served.site.url("/held/all")
    run = served.client.start(flow, {"url": url, "seconds": 0.2, "mode": mode})
    served.site.wait_for("/held/all")
    served.stage.gates.arrived(run.run_id, "parallel/[1]/run")

    def ended() -> set[str]:
        steps = run.get(steps=True).steps
        return {step.kind for step in steps if step.state is StepState.SUCCEEDED}

    wait_for(lambda: ended() == {"sleep", "invoke", "send_event"}, "what needs nobody to end")
    assert served.slots("busy") == 1, "only the ordinary step holds a slot"
    served.let_go(run)
    assert run.result(timeout=10) == expected(run, "/held/all")
    steps = run.get(steps=True).steps
    assert {step.path: step.kind for step in steps if step.path in MEMBERS} == {
        path: {"wait": "wait_event", "send": "send_event"}.get(name, name) for path, name in MEMBERS.items()
    }
    assert served.site.of("/held/all") == [POSTED]


@pytest.mark.parametrize("mode", ["WAIT", "RACE"])
def test_a_kill_of_the_engine_in_the_middle_of_everything(served: Served, mode: str) -> None:
    """Only the call is made again, as its host was in the engine. Everything else happens once."""
    url = served.site.url("/held/twice")
    run = served.client.start("mixture", {"url": url, "seconds": 0.8, "mode": mode})
    served.site.wait_for("/held/twice")
    served.stage.gates.arrived(run.run_id, "parallel/[1]/run")
    wait_for(lambda: len(run.get(steps=True).steps) == len(MEMBERS), "the group to be on record")
    served.engine.kill()
    served.engine.start()
    served.site.wait_for("/held/twice", times=2)
    served.let_go(run)
    assert run.result(timeout=15) == expected(run, "/held/twice")
    assert served.site.of("/held/twice") == [POSTED] * 2
    record = run.get(steps=True)
    assert {step.path: len(step.attempts) for step in record.steps} == dict.fromkeys([*MEMBERS, "after"], 1)
    assert served.stage.ledger.count("before", run.run_id) == {"parallel/[1]/run": 1, "after": 1}
    child = next(step.child_run_id for step in record.steps if step.kind == "invoke")
    assert served.stage.ledger.count("before", child) == {"step": 1}
    assert len(served.stage.ledger.of(run.run_id, "body")) == Entries(1), "the live body was kept"


def test_a_call_holds_no_slot(served: Served) -> None:
    """More calls than the host has slots are in progress at once."""
    runs = [served.client.start("fetch", served.site.url(f"/held/{i}")) for i in range(2 * SLOTS)]
    for i in range(2 * SLOTS):
        served.site.wait_for(f"/held/{i}")
    assert (served.slots("busy"), served.slots("free")) == (0, SLOTS)
    assert served.slots("busy", "stepwire") == 2 * SLOTS
    served.site.release()
    assert [run.result(timeout=10)[0] for run in runs] == [200] * 2 * SLOTS
    assert served.slots("busy", "stepwire") == 0


def test_an_error_of_the_server_is_a_result(served: Served) -> None:
    status, text = served.client.start("fetch", served.site.url("/broken")).result(timeout=10)
    assert status == 500 and "/broken" in text
    assert len(served.site.asked) == 1


def test_a_call_that_is_not_answered_in_time_is_tried_again(served: Served) -> None:
    run = served.client.start("fetch_patiently", served.site.url("/first-held"))
    assert run.result(timeout=10)[0] == 200
    (step,) = run.get(steps=True).steps
    codes = [None if attempt.failure is None else attempt.failure.code.name for attempt in step.attempts]
    assert codes == ["TIMEOUT", None]


def test_a_server_that_is_not_there_fails_the_step_after_its_retries(served: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
    run = served.client.start("fetch_patiently", url)
    assert run.result(timeout=10) == ["CALL_FAILED"]
    assert len(run.get(steps=True).steps[0].attempts) == 3


def test_a_cancelled_call_is_given_up(served: Served) -> None:
    run = served.client.start("fetch", served.site.url("/held/given-up"))
    served.site.wait_for("/held/given-up")
    run.cancel()
    wait_for(lambda: served.slots("busy", "stepwire") == 0, "the request to be given up")
    assert run.status() == "CANCELLED"
