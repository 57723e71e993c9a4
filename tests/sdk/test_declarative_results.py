"""What steps of declared flows see and what comes out: states, results, JSON, records, hooks, input (S5, S23, V5)."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import pickle
from collections import Counter
from datetime import datetime
from typing import Any

import msgspec
import pydantic
import pytest

import stepwire
from stepwire import ConfigurationError, Event, Flow, Step, testing
from stepwire._transport.run_record import Run, run_from_pb
from stepwire.codec import JSON_CODEC
from stepwire.declarative import FlowResult, FlowState, ResultUnavailable
from stepwire.errors import InvalidInput, RunError
from stepwire.hooks import HookCall
from stepwire.protocol.failure import ErrorCode, Retryable
from stepwire.protocol.payload import Payload
from stepwire.testing import TestRun
from stepwire.v1 import run_pb2
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.history import RunView
from stepwire_engine.transport.run_messages import run_to_pb
from tests.sdk.gates import Gates, until

REPLAY = pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])


@dataclasses.dataclass
class Order:
    id: int
    items: list[str]


class Receipt(msgspec.Struct):
    total: float
    order: Order


class Page(pydantic.BaseModel):
    number: int


def run_once(flow: Flow, *args: Any, **options: Any) -> TestRun:
    host = stepwire.Host("declared")
    return testing.run(host, host.add(flow), *args, **options)


def record(view: RunView) -> Run:
    """A run as a client reads it."""
    message = run_pb2.Run()
    run_to_pb(view, message)
    return run_from_pb(message, JSON_CODEC)


def no() -> None:
    raise ValueError("no")


# ---- what a step sees


@REPLAY
def test_a_state_tells_of_the_run_and_of_everything_before(replay: bool) -> None:
    seen: dict[str, Any] = {}

    def order(state: FlowState) -> Order:
        seen["input"] = state.input
        return Order(7, ["book"])

    def receipt(state: FlowState) -> Receipt:
        return Receipt(9.5, state.result("order").output)

    async def last(state: FlowState) -> dict[int, str]:
        seen["run_id"] = state.run_id
        seen["repr"] = repr(state)
        seen["order"] = state.result("order").output
        seen["receipt"] = state.result("receipt").output
        seen["group"] = state.group_result("group").ok
        return {1: "one"}

    flow = Flow("f", input=Order).step("order", order).parallel("group", [Step("receipt", receipt)]).step("last", last)
    run = run_once(flow, Order(1, []), replay=replay)
    assert run.succeeded
    assert seen["input"] == Order(1, [])
    assert seen["run_id"] == run.record.run_id and run.record.run_id in seen["repr"]
    assert seen["order"] == Order(7, ["book"]) and seen["receipt"] == Receipt(9.5, Order(7, ["book"]))
    assert seen["group"] == ["receipt"]


def test_every_attempt_has_values_of_its_own() -> None:
    """What a step does to its values is seen neither by its next attempt nor by its siblings."""
    seen: list[Any] = []

    def greedy(state: FlowState) -> None:
        items = state.result("items").output
        assert state.result("items").output is items, "one attempt sees one object"
        assert state.input is state.input
        seen.append((list(items), list(state.input["tags"])))
        items.clear()
        state.input["tags"].clear()
        state.group_result("none")
        if len(seen) < 3:
            raise ValueError("again")

    members = [Step(name, greedy, retries=3, retry_delay=0, jitter=0) for name in ("a", "b")]
    flow = Flow("f").step("items", lambda state: [1, 2]).parallel("none", ()).parallel("g", members)
    run = run_once(flow, {"tags": ["x"]})
    assert run.succeeded
    assert seen == [([1, 2], ["x"])] * len(seen) and len(seen) >= 4
    assert run.output.result("items").output == [1, 2]


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (
            lambda s: s.result("sibling"),
            r"'sibling' has no result that a step beside it could read: steps of group 'g'",
        ),
        (lambda s: s.group_result("g"), r"'g' has no result that a step beside it could read"),
        (lambda s: s.result("reader"), r"'reader' has no result that a step beside it could read"),
        (lambda s: s.result("later"), r"'later' has no result yet: it is declared later"),
        (lambda s: s.result("nobody"), r"flow 'f' declares neither a step nor a group 'nobody'"),
        (lambda s: s.group_result("first"), r"'first' is a step, not a group"),
        (lambda s: s.result("empty"), r"'empty' is a group"),
    ],
)
def test_o12_what_a_step_may_not_see_is_a_clear_error(read: Any, message: str) -> None:
    """The sibling has completed long before it is asked for."""
    tries: list[int] = []

    async def main() -> TestRun:
        gates = Gates()
        host = stepwire.Host("declared")

        async def reader(state: FlowState) -> Any:
            tries.append(1)
            await gates.wait("reader")
            return read(state)

        flow = (
            Flow("f")
            .step("first", lambda: 1)
            .parallel("empty", ())
            .parallel("g", [Step("sibling", gates.wait, argument=lambda s: "sibling"), Step("reader", reader)])
            .step("later", lambda: 1)
        )
        host.add(flow)
        async with testing.environment(host) as env:
            run_id = await env.start(flow)
            finish = asyncio.create_task(env.finish(flow, run_id))
            await gates.until_reached("sibling", "reader")
            gates.open("sibling")
            await gates.until_passed("sibling")
            gates.open("reader")
            return await finish

    failed = asyncio.run(main()).output.result("reader")
    assert failed.error is not None and failed.error.type == "ResultUnavailable"
    with pytest.raises(ResultUnavailable, match=message):
        _ = failed.output
    assert tries == [1], "the answer would be the same"


def test_a_stub_gets_the_state() -> None:
    flow = Flow("f").step("a", lambda: 1).step("b", lambda state: 2)
    run = run_once(flow, stubs={"a": 10, "b": lambda state: state.result("a").output + 1})
    assert [step.output for step in run.output.steps] == [10, 11]


def test_a_step_does_not_see_itself() -> None:
    run = run_once(Flow("f").step("s", lambda state: state.result("s")))
    assert run.failure is not None and run.failure.message == "'s' has no result yet: it is this step itself"


def test_unavailable_results_survive_pickle_and_copy() -> None:
    cause = stepwire.StepError("broken", "a")
    error = ResultUnavailable("what", "a", why="because", error=cause)
    assert str(error).startswith("what: because\n  next: ") and error.__cause__ is cause
    assert error.failure.retryable is Retryable.NO and error.cause == cause.failure
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(again), str(again), again.failure) == (ResultUnavailable, str(error), error.failure)


# ---- the output of a run


def typed_flow() -> Flow:
    def receipt(state: FlowState) -> Receipt:
        return Receipt(9.5, Order(7, ["book"]))

    def page() -> Page:
        return Page(number=3)

    def keys() -> dict[int, str]:
        return {1: "one"}

    members = [Step("receipt", receipt), Step("page", page), Step("no", no, retries=0), Step("none", lambda: None)]
    return Flow("typed").parallel("group", members).step("keys", keys)


@REPLAY
def test_outputs_come_back_by_the_annotations_of_their_functions(replay: bool) -> None:
    result = run_once(typed_flow(), replay=replay).output
    assert result.result("receipt").output == Receipt(9.5, Order(7, ["book"]))
    assert result.result("page").output == Page(number=3)
    assert result.result("keys").output == {1: "one"}
    assert result.result("none").output is None and result.result("none").ok
    assert result.group_result("group").steps[0] is result.result("receipt")
    for read in (result.result, result.group_result):
        with pytest.raises(KeyError):
            read("nobody")


def test_the_output_is_json_for_people_and_other_languages() -> None:
    run = run_once(typed_flow())
    assert run.record.output is not None
    told = json.loads(run.record.output.data)
    assert (told["name"], told["status"]) == ("typed", "completed")
    assert told["groups"] == {"group": {"fail": "all", "steps": ["receipt", "page", "no", "none"]}}
    receipt, page, failed, nothing, keys = told["steps"]
    assert receipt["output"] == {"total": 9.5, "order": {"id": 7, "items": ["book"]}}
    assert (page["output"], keys["output"]) == ({"number": 3}, {"1": "one"})
    assert nothing["output"] is None and "error" not in nothing
    assert failed["error"] == {"code": "user_error", "type": "ValueError", "message": "no"} and "output" not in failed
    assert {key: receipt[key] for key in ("name", "group", "path", "status", "attempts")} == {
        "name": "receipt",
        "group": "group",
        "path": "group/[0]/receipt",
        "status": "completed",
        "attempts": 1,
    }
    assert datetime.fromisoformat(receipt["started_at"]).tzinfo is not None
    assert receipt["duration"] >= 0


def test_an_output_of_a_newer_flow_is_read_as_far_as_it_is_known() -> None:
    """Steps that this version does not declare come as plain JSON, codes that it does not know as internal."""
    told = {
        "name": "f",
        "status": "completed",
        "extra": 1,
        "steps": [
            {"name": "new", "path": "new", "status": "completed", "output": {"a": 1}},
            {"name": "bad", "path": "bad", "status": "failed", "error": {"code": "odd", "type": "T", "message": "m"}},
        ],
        "groups": {},
    }
    result = Flow("f").decode_output(Payload(json.dumps(told).encode()))
    assert result.result("new").output == {"a": 1}
    error = result.result("bad").error
    assert error is not None and (error.type, error.code) == ("T", ErrorCode.INTERNAL)
    with pytest.raises(InvalidInput):
        Flow("f").decode_output(Payload(b'{"a": 1}'))


def test_causes_of_tolerated_failures_are_kept() -> None:
    def bad() -> None:
        try:
            raise KeyError("root")
        except KeyError as root:
            raise ValueError("bad") from root

    error = run_once(Flow("f").parallel("g", [Step("bad", bad, retries=0)], fail="never")).output.result("bad").error
    assert error.cause is not None and error.cause.type == "KeyError"
    assert type(error.__cause__) is stepwire.StepError


def test_outputs_that_would_be_too_large_together_may_be_left_out() -> None:
    def flow(**options: Any) -> Flow:
        steps = [Step(f"s{i}", lambda: "x" * 600, **options) for i in range(4)]
        return Flow("f").parallel("g", steps).step("sum", lambda s: len(s.result("s0").output))

    small = CoreConfig(payload_bytes_max=2000)
    together = run_once(flow(), config=small)
    assert together.failure is not None and together.failure.code is ErrorCode.PAYLOAD_TOO_LARGE
    result = run_once(flow(in_result=False), config=small).output
    assert result.result("sum").output == 600, "steps see it"
    assert result.result("s0").ok
    with pytest.raises(ResultUnavailable, match="not part of this result"):
        _ = result.result("s0").output
    assert "left out" in repr(result.result("s0"))


def test_results_are_values() -> None:
    run = run_once(Flow("f").parallel("g", [Step("a", lambda: [1]), Step("b", lambda: [2])]))
    assert run.output == run.output
    assert hash(run.output.result("a")) == hash(run.output.result("a"))
    assert run.output.result("a") != run.output.result("b")
    assert "output=[1]" in repr(run.output.result("a"))


@REPLAY
def test_a_flow_may_be_invoked_by_another(replay: bool) -> None:
    host = stepwire.Host("declared")
    child = host.add(typed_flow())

    @host.flow
    async def parent(ctx: stepwire.Context) -> float:
        result = await ctx.step.invoke("child", child)
        by_name = await ctx.step.invoke("by name", "typed")
        assert by_name["steps"][0]["output"]["total"] == 9.5
        receipt: Receipt = result.result("receipt").output
        return receipt.total

    assert testing.run(host, parent, replay=replay).output == 9.5


# ---- from records: runs that did not succeed


def saga() -> Flow:
    """Four statuses at once: completed, failed, cancelled, and skipped behind them."""

    async def endless() -> None:
        await asyncio.Event().wait()

    def cannot(output: Any) -> None:
        raise OSError("cannot")

    return (
        Flow("saga")
        .step("first", lambda: 1, compensate=stepwire.Compensation(cannot, retries=0))
        .parallel("before", [Step("good", lambda: 2, compensate=lambda output: None)])
        .parallel(
            "group",
            [Step("bad", no, retries=1, retry_delay=0, jitter=0), Step("endless", endless)],
            fail_fast=True,
            cancel_siblings=True,
        )
        .parallel("next", [Step("unreached", lambda: 1)])
        .step("last", lambda: 1)
    )


@REPLAY
def test_s5_the_record_of_a_failed_run_has_every_status(replay: bool) -> None:
    flow = saga()
    run = record(run_once(flow, replay=replay).record)
    result = flow.result_of(run)
    assert (result.name, result.status) == ("saga", "failed")
    assert result.failure is not None and result.failure.code is ErrorCode.GROUP_FAILED
    statuses = {step.name: (step.status, step.attempts) for step in result.steps}
    assert statuses["first"] == statuses["good"] == ("completed", 1)
    assert statuses["bad"] == ("failed", 2)
    assert statuses["endless"][0] == "cancelled"
    assert statuses["unreached"] == statuses["last"] == ("skipped", 0)
    assert [step.name for step in result.steps] == ["first", "good", "bad", "endless", "unreached", "last"]
    assert result.group_result("group").failed == ["bad"] and result.group_result("next").ok == []
    error = result.result("bad").error
    assert error is not None and (error.type, error.path) == ("ValueError", "group/[0]/bad")
    assert result.result("first").output == 1
    for step in result.steps:
        if step.status in ("completed", "failed"):
            assert step.started_at is not None and step.ended_at is not None and step.duration is not None
            assert step.started_at <= step.ended_at
        if step.status == "skipped":
            assert step.started_at is None and step.error is None
            with pytest.raises(ResultUnavailable, match="it is skipped"):
                _ = step.output


def test_a_record_tells_how_compensation_ended() -> None:
    flow = saga()
    result = flow.result_of(record(run_once(flow).record))
    undos = {step.name: step.undo for step in result.steps if step.undo is not None}
    assert undos == {"first": "failed", "good": "completed"}


def test_a_record_of_success_tells_what_the_run_returned() -> None:
    flow = typed_flow()
    run = run_once(flow)
    told, returned = flow.result_of(record(run.record)), run.output
    assert [(s.name, s.path, s.group, s.status, s.attempts) for s in told.steps] == [
        (s.name, s.path, s.group, s.status, s.attempts) for s in returned.steps
    ]
    assert told.result("receipt").output == returned.result("receipt").output
    assert told.groups.keys() == returned.groups.keys()


def test_a_member_that_never_came_to_its_step_is_told_by_its_branch() -> None:
    flow = Flow("f").parallel("g", [Step("a", str, argument=lambda s: 1 // 0), Step("b", no, retries=0)])
    run = run_once(flow)
    assert run.record.state is RunState.FAILED
    statuses = [(step.name, step.status) for step in flow.result_of(record(run.record)).steps]
    assert statuses == [("a", "failed"), ("b", "failed")]


def test_only_ended_runs_of_the_flow_have_a_result() -> None:
    flow = typed_flow()
    run = record(run_once(flow).record)
    with pytest.raises(RunError, match="has not ended: it is RUNNING"):
        flow.result_of(dataclasses.replace(run, state=type(run.state).RUNNING))
    with pytest.raises(ConfigurationError, match="is one of flow 'typed'"):
        Flow("other").result_of(run)


# ---- input (S23)


def counted(calls: Counter[str], **options: Any) -> Flow:
    def step(state: FlowState) -> Any:
        calls["step"] += 1
        return state.input

    return Flow("f", **options).step("step", step)


@pytest.mark.parametrize("bad", [{"id": "x", "items": []}, {"id": 1}, 7, None])
def test_s23_input_that_does_not_fit_runs_no_step(bad: Any) -> None:
    """Refused where it is given as a value; a run that was started by name fails before any plan of a step."""
    calls: Counter[str] = Counter()
    flow = counted(calls, input=Order)
    host = stepwire.Host("declared")
    host.add(flow)
    with pytest.raises(InvalidInput):
        flow.encode_input(bad)

    async def main() -> TestRun:
        async with testing.environment(host) as env:
            given = Payload(json.dumps(bad).encode())
            run_id, _ = await env.engine.driver.runs.start("f", given, "")
            return await env.finish(flow, run_id)

    run = asyncio.run(main())
    assert run.record.state is RunState.FAILED
    assert run.failure is not None and run.failure.code is ErrorCode.INVALID_INPUT
    assert "input of flow 'f'" in run.failure.message
    assert run.record.steps == () and calls == {}


@REPLAY
@pytest.mark.parametrize("given", [(), (None,), ({"any": ["thing"]},), ("text",)], ids=str)
def test_s23_without_a_type_any_json_is_fine(given: tuple[Any, ...], replay: bool) -> None:
    run = run_once(counted(Counter()), *given, replay=replay)
    assert run.output.result("step").output == (given[0] if given else None)


@REPLAY
def test_s23_input_comes_by_its_type(replay: bool) -> None:
    seen: list[Any] = []
    flow = Flow("f", input=Page | None).step("step", lambda state: seen.append(state.input))
    assert run_once(flow, Page(number=4), replay=replay).succeeded
    assert set(map(type, seen)) == {Page} and seen[0].number == 4
    with pytest.raises(InvalidInput):
        flow.encode_input(1, 2)


def test_a_flow_may_be_started_by_an_event() -> None:
    seen: list[Any] = []
    flow = Flow("f", input=Event, on="order/paid").step("step", lambda state: seen.append(state.input.data))
    host = stepwire.Host("declared")
    host.add(flow)

    @host.flow
    async def sender(ctx: stepwire.Context) -> None:
        await ctx.step.send_event("send", Event("order/paid", {"id": 17}))

    async def main() -> None:
        async with testing.environment(host) as env:
            await env.execute(sender)
            await until("the event has started the flow", lambda: seen)

    asyncio.run(main())
    assert seen == [{"id": 17}]


# ---- hooks (V5)


@REPLAY
def test_v5_hooks_of_a_declared_flow(replay: bool) -> None:
    told: list[tuple[str, str]] = []

    def look(call: HookCall) -> None:
        told.append((call.kind, call.path))
        raise RuntimeError("a hook that fails changes nothing")

    members = [Step("a", lambda: 1), Step("b", no, retries=1, retry_delay=0, jitter=0)]
    flow = Flow("f").on("step_failed", look).on("run_succeeded", look).parallel("g", members)
    flow.on("step_succeeded")(look)
    assert run_once(flow, replay=replay).succeeded
    assert Counter(told) == {
        ("step_failed", "g/[1]/b"): 2,
        ("step_succeeded", "g/[0]/a"): 1,
        ("run_succeeded", ""): 1,
    }
    assert told[-1] == ("run_succeeded", "")


def test_a_hook_needs_a_kind_and_a_function() -> None:
    with pytest.raises(ConfigurationError):
        Flow("f").on("step_begun", print)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError):
        Flow("f").on("step_failed", 7)  # type: ignore[call-overload]


def test_a_failure_handler_hears_of_a_failed_run() -> None:
    heard: list[Any] = []
    host = stepwire.Host("declared")
    flow = host.add(Flow("f", input=Order).step("no", no, retries=0))

    @flow.on_failure
    def handler(failed: Any) -> None:
        heard.append((failed.flow, failed.input, failed.failure.message))

    async def main() -> None:
        async with testing.environment(host) as env:
            await env.execute(flow, Order(3, []))
            await until("the handler ran", lambda: heard)

    asyncio.run(main())
    assert heard == [("f", Order(3, []), "no")]


def test_the_names_of_the_package() -> None:
    assert stepwire.Flow is stepwire.declarative.Flow and stepwire.Step is stepwire.declarative.Step
    assert isinstance(run_once(Flow("f")).output, FlowResult)
