"""Declared flows beside the rules of groups: order, names, registered steps, replay, crashes (MISSION S9)."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import stepwire
from stepwire import Flow, Step, testing
from stepwire.declarative import FlowResult, FlowState
from stepwire.protocol.plan import FailPolicy
from stepwire.testing import TestRun
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.history import StepStateView
from tests.evicting import Entries
from tests.sdk.declared import Gated, opened, raises, returns, run_once, states
from tests.sdk.gates import recorded, until

REPLAY = pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async steps", "plain steps"])


# ---- more of groups


@REPLAY
@pytest.mark.parametrize("options", [{}, {"fail_fast": True}, {"fail": "never"}, {"cancel_siblings": True}], ids=str)
def test_an_empty_group_completes(options: dict[str, Any], replay: bool) -> None:
    run = run_once(Flow("f").parallel("nobody", (), **options).step("after", returns(1)), replay=replay)
    assert run.succeeded and run.output.result("after").output == 1
    group = run.output.group_result("nobody")
    assert (group.steps, group.ok, group.failed) == ((), [], [])


@REPLAY
def test_a_flow_without_steps_completes(replay: bool) -> None:
    run = run_once(Flow("f"), replay=replay)
    assert run.succeeded and run.output == FlowResult(name="f", status="completed", steps=(), groups={})


@REPLAY
def test_a_group_past_its_deadline_keeps_what_it_has(replay: bool) -> None:
    """With `fail="never"` the flow goes on with what had ended by then."""

    async def endless() -> None:
        await asyncio.Event().wait()

    members = [Step("fast", returns(1)), Step("endless", endless)]
    host = stepwire.Host("declared")
    flow = host.add(Flow("f").parallel("group", members, fail="never", deadline="50ms").step("after", returns(2)))
    run = testing.run(host, flow, replay=replay, virtual_clock=False)
    group = run.output.group_result("group")
    assert (group.ok, group.cancelled) == (["fast"], ["endless"])
    assert run.output.result("after").output == 2


@REPLAY
def test_a_quorum_tolerates_the_rest(replay: bool) -> None:
    def flow(ok: int) -> Flow:
        members = [Step(f"m{i}", returns(i) if i < ok else raises(f"no {i}"), retries=0) for i in range(4)]
        return Flow("f").parallel("vote", members, quorum=2).step("after", returns(1))

    enough = run_once(flow(2), replay=replay)
    assert enough.output.group_result("vote").ok == ["m0", "m1"]
    assert [group.fail for group in opened(enough)] == [FailPolicy.QUORUM]
    assert run_once(flow(1), replay=replay).record.state is RunState.FAILED


@REPLAY
def test_groups_and_steps_follow_each_other(replay: bool) -> None:
    trace: list[str] = []

    def note(name: str) -> Callable[..., Any]:
        return lambda state: trace.append(name)

    flow = (
        Flow("f")
        .step("first", note("first"))
        .parallel("g1", [Step("a", note("g1")), Step("b", note("g1"))])
        .parallel("g2", [Step("c", note("g2"))], fail_fast=True)
        .step("last", note("last"), needs=["a", "g2"])
    )
    run = run_once(flow, replay=replay)
    assert run.succeeded and trace == ["first", "g1", "g1", "g2", "last"]


@pytest.mark.live_bodies
def test_a_flow_is_entered_once_and_plans_once_for_each_item() -> None:
    members = [Step(f"m{i}", returns(i)) for i in range(10)]
    run = run_once(Flow("f").step("first", returns(1)).parallel("g", members).step("last", returns(2)))
    assert run.body_entries == 1
    assert run.record.stats.advances <= 4, "one for each of three items, and the start"


@REPLAY
def test_names_may_be_anything_paths_can_carry(replay: bool) -> None:
    members = [Step("a/b#2", returns(1)), Step("é [0]", returns(2))]
    run = run_once(Flow("f").parallel("g %", members).step("c/d", lambda s: s.result("é [0]").output), replay=replay)
    assert [(step.name, step.output) for step in run.output.steps] == [("a/b#2", 1), ("é [0]", 2), ("c/d", 2)]


@REPLAY
def test_a_step_that_fails_ends_the_flow_with_its_own_failure(replay: bool) -> None:
    run = run_once(Flow("f").step("bad", raises("broken"), retries=0).step("after", returns(1)), replay=replay)
    assert run.failure is not None and (run.failure.type, run.failure.message) == ("ValueError", "broken")
    assert list(states(run)) == ["bad"]


def test_registered_steps_run_on_any_host_that_serves_them() -> None:
    worker = stepwire.Host("worker")

    @worker.step(name="charge", retries=0)
    def charge(amount: int) -> str:
        return f"charged {amount}"

    @worker.step(name="audit", retries=0)
    async def audit() -> str:
        return "audited"

    flow = (
        Flow("pay", input=int)
        .parallel("g", [Step("charge", charge, argument=lambda state: state.input), Step("audit", audit)])
        .step("double", lambda amount: amount * 2, argument=lambda state: state.input)
    )
    orders = stepwire.Host("orders")
    orders.add(flow)

    async def main() -> TestRun:
        async with testing.environment(orders, worker) as env:
            return await env.execute(flow, 21)

    run = asyncio.run(main())
    assert [step.output for step in run.output.steps] == ["charged 21", "audited", 42]
    assert {step.path: step.state for step in run.record.steps}["g/[0]/charge"] is StepStateView.SUCCEEDED
    assert [step.kind.name for step in run.record.steps] == ["TASK", "TASK", "RUN"]


@REPLAY
def test_an_argument_that_cannot_be_made_fails_its_step_alone(replay: bool) -> None:
    members = [Step("a", str, argument=lambda state: state.input["missing"]), Step("b", returns(1))]
    run = run_once(Flow("f").parallel("g", members), {}, replay=replay)
    group = run.output.group_result("g")
    assert (group.ok, group.failed) == (["b"], ["a"])
    failed = group.steps[0]
    assert (failed.path, failed.attempts) == ("g/[0]/a", 0)
    assert failed.error is not None and failed.error.type == "KeyError"
    assert [step.path for step in run.record.steps] == ["g/[1]/b"]


def test_async_functions_run_on_the_loop_and_plain_ones_on_threads() -> None:
    where: dict[str, threading.Thread] = {}

    class Worker:
        async def __call__(self, state: FlowState) -> None:
            where["callable"] = threading.current_thread()

    async def in_task(state: FlowState) -> None:
        where["async"] = threading.current_thread()

    def on_thread(state: FlowState) -> None:
        where["plain"] = threading.current_thread()

    run_once(Flow("f").step("async", in_task).step("callable", Worker()).step("plain", on_thread))
    assert where["async"] is where["callable"] is threading.main_thread()
    assert where["plain"] is not threading.main_thread()


@ASYNC
def test_live_and_forced_replay_tell_the_same(is_async: bool) -> None:
    """Everything that is not a time: results, paths, order of planning, policies."""

    def flow() -> Flow:
        members = [
            Step("a", returns({"x": [1]}, is_async=is_async)),
            Step("b", raises("b", is_async=is_async), retries=2),
            Step("c", returns(None, is_async=is_async)),
        ]
        return (
            Flow("f", input=dict[str, int])
            .step("first", lambda state: state.input["n"])
            .parallel("g", members)
            .parallel("h", [Step("d", lambda state: state.group_result("g").failed)], fail_fast=True)
            .step("last", lambda state: [state.result(name).status for name in "abcd"])
        )

    live, replayed = run_once(flow(), {"n": 3}), run_once(flow(), {"n": 3}, replay=True)

    def timeless(result: FlowResult) -> list[Any]:
        return [
            (s.name, s.path, s.group, s.status, s.attempts, s.output if s.ok else s.error and s.error.failure)
            for s in result.steps
        ]

    assert timeless(live.output) == timeless(replayed.output)
    assert list(states(live).items()) == list(states(replayed).items())
    assert opened(live) == opened(replayed)
    assert live.body_entries == Entries(1) and replayed.body_entries > 1
    assert live.output.result("last").output == ["completed", "failed", "completed", "completed"]


def test_a_crash_between_two_items_loses_nothing() -> None:
    """The host comes back, and the flow goes on with what is recorded."""

    async def main() -> None:
        fixture = Gated(fails=("fetch-posts",))
        async with testing.environment(fixture.host) as env:
            run_id = await env.start(fixture.flow)
            await fixture.gates.until_reached("fetch-user", "fetch-posts")
            fixture.gates.open("fetch-user", "fetch-posts")
            await fixture.gates.until_reached("process-all")
            await until("both are recorded", lambda: len(recorded(env, run_id)) == 2)
            await env.crash(fixture.host)
            fixture.gates.open("process-all")
            result = (await env.finish(fixture.flow, run_id)).output
        assert [(s.name, s.status) for s in result.steps] == [
            ("fetch-user", "completed"),
            ("fetch-posts", "failed"),
            ("process-all", "completed"),
        ]
        assert Counter(fixture.gates.reached) == {"fetch-user": 1, "fetch-posts": 1, "process-all": 2}

    asyncio.run(main())
