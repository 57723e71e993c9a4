"""What happens at the end of runs: failure handlers, hooks, refused inputs (MISSION S21, S23, V5)."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import stepwire
from stepwire.client import RunHandleSync
from stepwire.errors import InvalidInput, RunFailed
from stepwire.protocol.failure import ErrorCode
from tests.e2e.processes import QUICK, Engine, Stage, wait_for
from tests.evicting import Entries

ORDER = {"number": 17, "paid": False}
KILLS = 4
DELAY_MS_MAX = 12.0


@dataclass
class Served:
    """An engine with a host, shared by the tests of this module."""

    stage: Stage
    engine: Engine
    client: stepwire.ClientSync

    def failed(self, flow: str, value: Any = None, **how: Any) -> RunHandleSync[Any]:
        run = self.client.start(flow, ORDER if value is None else value, **how)
        with pytest.raises(RunFailed):
            run.result(timeout=15)
        return run

    def handlers(self, flow: str, run: RunHandleSync[Any]) -> list[stepwire.client.Run]:
        """Runs of the failure handler for this run, that have ended."""
        listed = [self.client.get(r.run_id, steps=True) for r in self.client.list(flow=f"{flow}.on_failure")]
        return [r for r in listed if r.state.terminal and r.input["data"]["run_id"] == run.run_id]

    def handled(self, flow: str, run: RunHandleSync[Any]) -> stepwire.client.Run:
        wait_for(lambda: self.handlers(flow, run), "the failure handler")
        (record,) = self.handlers(flow, run)
        return record

    def hooks(self, run: RunHandleSync[Any]) -> Counter[tuple[str, str, int]]:
        lines = [line for line in self.stage.ledger.refresh() if line.run_id == run.run_id]
        found = [line for line in lines if line.event.startswith("hook:")]
        return Counter((line.event.removeprefix("hook:"), line.path, line.attempt) for line in found)


@pytest.fixture(scope="module")
def served(shared_stage: Stage) -> Served:
    engine = shared_stage.engine(**QUICK)
    shared_stage.host(engine, "only", flows="ending_flows")
    return Served(shared_stage, engine, shared_stage.client(engine))


# ---- failure handlers


@pytest.mark.parametrize(
    ("flow", "step", "message"), [("sold_out", "on_failure", "sold out"), ("closed", "tell", "closed")]
)
def test_a_failure_handler_is_a_run_of_its_own_and_is_retried(
    served: Served, flow: str, step: str, message: str
) -> None:
    run = served.failed(flow)
    record = served.handled(flow, run)
    assert record.state == "SUCCEEDED"
    (handled,) = record.steps
    assert handled.path == step and len(handled.attempts) == 2
    assert handled.output == [run.run_id, flow, 17, "USER_ERROR", message]


def test_a_failure_handler_that_fails_is_on_record_and_has_no_handler(served: Served) -> None:
    run = served.failed("hopeless")
    record = served.handled("hopeless", run)
    assert record.state == "FAILED" and record.failure is not None and record.failure.message == "nobody listens"
    other = served.failed("closed")
    served.handled("closed", other)
    assert len(list(served.client.list(flow="hopeless.on_failure"))) == 1


@pytest.mark.timeout(60)
def test_kills_while_a_run_fails(served: Served, rng: random.Random, figure: Callable[[str], None]) -> None:
    """Each failure is handled once, whatever the engine had done about it when it was killed."""
    runs = []
    for number in range(KILLS):
        runs.append(served.client.start("closed", ORDER, id=f"run {number}"))
        time.sleep(rng.uniform(0, DELAY_MS_MAX) / 1000)  # gate: the kill's own random moment
        served.engine.kill()
        served.engine.start()
    for run in runs:
        with pytest.raises(RunFailed, match="closed"):
            run.result(timeout=15)
    records = [served.handled("closed", run) for run in runs]
    assert [(record.state, record.steps[0].output[0]) for record in records] == [
        ("SUCCEEDED", run.run_id) for run in runs
    ]
    figure(f"{KILLS} kills while runs fail: each of {KILLS} failures was handled once")


# ---- hooks


def expected_hooks(fails: bool) -> dict[tuple[str, str, int], int]:
    a, flaky, c = (f"parallel/[{index}]/{name}" for index, name in enumerate(("a", "flaky", "c")))
    calls = [("run_started", "-", 0), ("step_failed", flaky, 1), ("step_started", flaky, 2)]
    calls += [("step_started", path, 1) for path in (a, flaky, c)]
    calls += [("step_succeeded", a, 1), ("step_succeeded", flaky, 2), ("step_succeeded", c, 1)]
    if fails:
        calls += [("step_started", "ship", 1), ("step_failed", "ship", 1), ("run_failed", "-", 0)]
        calls += [("undo_started", f"{a}#undo", 1), ("undo_succeeded", f"{a}#undo", 1)]
    else:
        calls += [("run_succeeded", "-", 0)]
    return dict.fromkeys(calls, 1)


@pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
def test_hooks_are_called_once_for_what_happens(served: Served, stage: Stage, replay: bool) -> None:
    """A hook that fails every time stands before the one that counts; replays are not told of."""
    if replay:
        engine = stage.engine(**QUICK)
        stage.host(engine, "replaying", flows="ending_flows", replay=True)
        served = Served(stage, engine, stage.client(engine))
    failing = served.failed("hooked", True)
    succeeding = served.client.start("hooked", False)
    assert succeeding.result(timeout=15) == ["a", "flaky", "c"]
    for run, expected in ((failing, expected_hooks(True)), (succeeding, expected_hooks(False))):
        wait_for(lambda: len(served.hooks(run)) >= len(expected), "the hooks to be called")  # noqa: B023
        assert served.hooks(run) == expected
        entered = len(served.stage.ledger.of(run.run_id, "body"))
        assert entered > 1 if replay else entered == Entries(1)


# ---- refused inputs


def test_a_client_with_the_flow_at_hand_starts_nothing(served: Served) -> None:
    mine = stepwire.Host("mine")

    @mine.flow
    async def typed(ctx: stepwire.Context, number: int) -> int:
        return number

    before = len(list(served.client.list(flow="typed")))
    with pytest.raises(InvalidInput):
        served.client.start(typed, "seventeen")
    assert len(list(served.client.list(flow="typed"))) == before


@pytest.mark.parametrize("value", [{"number": "seventeen"}, {"paid": True}, [1], "text", None])
def test_an_input_that_does_not_fit_fails_the_run_before_any_step(served: Served, value: Any) -> None:
    run = served.client.start("typed", value)
    with pytest.raises(RunFailed) as caught:
        run.result(timeout=10)
    assert caught.value.failure.code is ErrorCode.INVALID_INPUT
    record = run.get(steps=True)
    assert record.steps == () and record.stats.executes == record.stats.host_starts == 0
    assert served.stage.ledger.of(run.run_id, "body", "before") == []
    assert served.client.start("typed", ORDER).result(timeout=10) == 17
