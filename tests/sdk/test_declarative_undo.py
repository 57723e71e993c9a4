"""Compensation of declared flows: O9 and O10, and runs that are cancelled in the middle (MISSION S8, 2.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import stepwire
from stepwire import Compensation, Flow, Step, StepError, testing
from stepwire.declarative import FlowState
from stepwire.protocol.failure import ErrorCode
from stepwire.testing import Environment, TestRun
from stepwire_engine.core.entries import AttemptEnded, RunState
from tests.sdk.gates import Gates, recorded, until, until_recorded

REPLAY = pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async undos", "plain undos"])
AT_ONCE = stepwire.Retry(retries=2, delay=0, jitter=0)


def no() -> None:
    raise ValueError("no")


def states(run: TestRun) -> dict[str, str]:
    return {step.path: step.state.name for step in run.record.steps}


class Orders:
    """Two steps, then a, b and c in a group that complete in the order of their gates, then one that fails.

    Args:
        last: What ends the run; None: it waits at its gate.
        undo_on_cancel: Of the flow.
    """

    def __init__(
        self, *, is_async: bool = True, fails: str = "", last: Callable[..., Any] | None = no, **options: Any
    ) -> None:
        self.gates = Gates()
        self.is_async = is_async
        self.fails = fails
        self.undone: list[str] = []
        members = [Step(name, self._gated(name), compensate=self._undo(name)) for name in "abc"]
        self.flow = (
            Flow("orders", **options)
            .step("s0", lambda: "s0", compensate=self._undo("s0"))
            .step("s1", lambda: "s1", compensate=self._undo("s1"))
            .parallel("group", members)
            .step("last", last or self._gated("last"), retries=0, compensate=self._undo("last"))
        )
        self.host = stepwire.Host("declared")
        self.host.add(self.flow)

    def _gated(self, name: str) -> Callable[..., Any]:
        async def in_task() -> str:
            return str(await self.gates.wait(name))

        return in_task

    def _undo(self, name: str) -> Compensation:
        def on_thread(output: str) -> None:
            assert output == name
            self.undone.append(name)
            if name in self.fails:
                raise OSError(f"cannot undo {name}")

        async def in_task(output: str) -> None:
            on_thread(output)

        return Compensation(in_task if self.is_async else on_thread, retries=AT_ONCE)

    async def complete(self, env: Environment, run_id: str, order: str) -> None:
        await self.gates.until_reached(*order)
        for name in order:
            self.gates.open(name)
            await until_recorded(env, run_id, self.gates, name)


@REPLAY
@ASYNC
@pytest.mark.parametrize("order", ["cab", "abc"])
def test_o9_undo_is_in_reverse_order_of_completion_over_the_whole_run(order: str, is_async: bool, replay: bool) -> None:
    """Members first, then the sequential steps before them; the step that failed is not among them."""

    async def main() -> None:
        orders = Orders(is_async=is_async)
        async with testing.environment(orders.host, replay=replay) as env:
            run_id = await env.start(orders.flow)
            await orders.complete(env, run_id, order)
            run = await env.finish(orders.flow, run_id)
        assert orders.undone == [*reversed(order), "s1", "s0"]
        assert run.record.state is RunState.FAILED
        assert run.failure is not None and run.failure.message == "no"
        assert "last#undo" not in states(run)

    asyncio.run(main())


@REPLAY
@ASYNC
def test_o9_an_undo_that_fails_is_recorded_and_the_others_still_run(is_async: bool, replay: bool) -> None:
    async def main() -> None:
        orders = Orders(is_async=is_async, fails="a")
        async with testing.environment(orders.host, replay=replay) as env:
            run_id = await env.start(orders.flow)
            await orders.complete(env, run_id, "cab")
            run = await env.finish(orders.flow, run_id)
        assert orders.undone == ["b", "a", "a", "a", "c", "s1", "s0"], "two retries of a"
        undos = {path: state for path, state in states(run).items() if path.endswith("#undo")}
        assert undos.pop("group/[0]/a#undo") == "FAILED"
        assert set(undos.values()) == {"SUCCEEDED"} and len(undos) == 4
        assert run.failure is not None and run.failure.message == "no", "the run fails for its own reason"

    asyncio.run(main())


@REPLAY
@ASYNC
def test_o9_what_an_undo_gets(is_async: bool, replay: bool) -> None:
    """By the number of its parameters: nothing, the output, the error too, or the state before both."""
    seen: dict[str, tuple[Any, ...]] = {}

    def of_nothing() -> None:
        seen["nothing"] = ()

    def of_output(output: str) -> None:
        seen["output"] = (output,)

    def of_error(output: str, error: StepError | None) -> None:
        seen["error"] = (output, error and error.message)

    def of_state(state: FlowState, output: str, error: StepError | None) -> None:
        before = state.result("error").output, state.group_result("group").ok, state.input
        seen["state"] = (before, output, error and error.message)
        with pytest.raises(StepError, match="declared later"):
            state.result("bad")

    async def of_state_async(state: FlowState, output: str, error: StepError | None) -> None:
        of_state(state, output, error)

    flow = (
        Flow("f", input=int)
        .step("nothing", lambda: "1", compensate=of_nothing)
        .parallel("group", [Step("output", lambda: "2", compensate=of_output)])
        .step("error", lambda: "3", compensate=of_error)
        .step("state", lambda: "4", compensate=Compensation(of_state_async if is_async else of_state, retries=0))
        .step("bad", no, retries=0)
    )
    host = stepwire.Host("declared")
    run = testing.run(host, host.add(flow), 5, replay=replay)
    assert {path: state for path, state in states(run).items() if path.endswith("#undo")} == {
        "nothing#undo": "SUCCEEDED",
        "group/[0]/output#undo": "SUCCEEDED",
        "error#undo": "SUCCEEDED",
        "state#undo": "SUCCEEDED",
    }
    assert seen == {
        "nothing": (),
        "output": ("2",),
        "error": ("3", "no"),
        "state": (("3", ["output"], 5), "4", "no"),
    }


def test_o9_a_registered_step_undoes_on_any_host() -> None:
    worker = stepwire.Host("worker")
    undone: list[Any] = []

    @worker.step(retries=0)
    def release(output: str, error: StepError | None = None) -> None:
        undone.append((output, error and error.type))

    flow = Flow("f").parallel("g", [Step("book", lambda: "seat", compensate=release)]).step("bad", no, retries=0)
    host = stepwire.Host("declared")
    host.add(flow)

    async def main() -> TestRun:
        async with testing.environment(host, worker) as env:
            return await env.execute(flow)

    assert asyncio.run(main()).record.state is RunState.FAILED
    assert undone == [("seat", "ValueError")]


@pytest.mark.parametrize("at", ["b", "s1"])
def test_o9_a_host_that_dies_during_undo_loses_none_of_it(at: str) -> None:
    """Each undo runs to success once; the one that was in progress runs again."""

    async def main() -> None:
        gates = Gates()
        tries: list[str] = []

        def undo(name: str) -> Callable[..., Any]:
            async def in_task() -> None:
                tries.append(name)
                await gates.wait(f"undo {name}")

            return in_task

        members = [Step(name, gates.wait, argument=lambda s, n=name: n, compensate=undo(name)) for name in "ab"]
        flow = Flow("f").step("s1", lambda: 1, compensate=undo("s1")).parallel("g", members).step("bad", no, retries=0)
        host = stepwire.Host("declared")
        host.add(flow)
        gates.open(*(f"undo {name}" for name in ("a", "b", "s1") if name != at))
        async with testing.environment(host) as env:
            run_id = await env.start(flow)
            await gates.until_reached("a", "b")
            for name in "ab":
                gates.open(name)
                await until_recorded(env, run_id, gates, name)
            await gates.until_reached(f"undo {at}")
            await env.crash(host)
            gates.open(f"undo {at}")
            run = await env.finish(flow, run_id)
            undone = [e.path for e in env.journal(run_id) if isinstance(e, AttemptEnded) and e.path.endswith("#undo")]
        assert run.record.state is RunState.FAILED
        assert undone == ["g/[1]/b#undo", "g/[0]/a#undo", "s1#undo"]
        assert sorted(tries) == sorted(["a", "b", "s1", at])

    asyncio.run(main())


@REPLAY
@pytest.mark.parametrize("fail_fast", [True, False], ids=["the group fails", "a later step fails"])
def test_o10_of_a_mixed_group_only_completed_members_are_undone(fail_fast: bool, replay: bool) -> None:
    undone: list[str] = []
    members = [
        Step("ok", lambda: "ok", compensate=undone.append),
        Step("bad", no, retries=0, compensate=undone.append),
    ]
    flow = Flow("f").parallel("group", members, fail_fast=fail_fast).step("after", no, retries=0)
    host = stepwire.Host("declared")
    run = testing.run(host, host.add(flow), replay=replay)
    assert run.record.state is RunState.FAILED
    assert undone == ["ok"]
    assert ("after" in states(run)) is not fail_fast
    assert [path for path in states(run) if path.endswith("#undo")] == ["group/[0]/ok#undo"]


@REPLAY
def test_a_run_that_succeeds_undoes_nothing(replay: bool) -> None:
    undone: list[str] = []
    members = [Step("ok", lambda: "ok", compensate=undone.append), Step("bad", no, retries=0, compensate=undone.append)]
    host = stepwire.Host("declared")
    run = testing.run(host, host.add(Flow("f").parallel("group", members)), replay=replay)
    assert run.succeeded and undone == []


# ---- 2.2: cancelled in the middle


@REPLAY
@pytest.mark.parametrize("undo", [True, False])
def test_a_run_cancelled_in_a_group_is_cancelled_and_undone_if_its_flow_says_so(undo: bool, replay: bool) -> None:
    """The completed member and the steps before are undone; the one that was told to stop is not."""

    async def main() -> None:
        orders = Orders(undo_on_cancel=undo)
        async with testing.environment(orders.host, replay=replay) as env:
            run_id = await env.start(orders.flow)
            await orders.gates.until_reached("a", "b", "c")
            orders.gates.open("b")
            await until_recorded(env, run_id, orders.gates, "b")
            await env.engine.driver.runs.cancel(run_id, None)
            run = await env.finish(orders.flow, run_id)
        assert run.record.state is RunState.CANCELLED
        assert orders.undone == (["b", "s1", "s0"] if undo else [])
        assert states(run)["group/[0]/a"] == "CANCELLED"
        assert "last" not in states(run)

    asyncio.run(main())


def test_a_run_cancelled_while_a_retry_waits_is_cancelled_and_not_failed() -> None:
    async def main() -> TestRun:
        flow = Flow("f").parallel("g", [Step("bad", no, retries=3, retry_delay="10d")], fail_fast=True)
        host = stepwire.Host("declared")
        host.add(flow)
        async with testing.environment(host) as env:
            run_id = await env.start(flow)
            await until("the first try failed", lambda: any(isinstance(e, AttemptEnded) for e in env.journal(run_id)))
            assert recorded(env, run_id) == [], "it waits for its retry"
            await env.engine.driver.runs.cancel(run_id, None)
            return await env.finish(flow, run_id)

    run = asyncio.run(main())
    assert run.record.state is RunState.CANCELLED
    assert states(run) == {"g/[0]/bad": "CANCELLED"}


@REPLAY
def test_a_run_past_its_deadline_fails_and_is_undone(replay: bool) -> None:
    async def main() -> tuple[TestRun, list[str]]:
        orders = Orders(last=None, deadline="1h")
        async with testing.environment(orders.host, replay=replay) as env:
            run_id = await env.start(orders.flow)
            await orders.complete(env, run_id, "abc")
            await orders.gates.until_reached("last")
            await env.engine.advance(3600.0)
            return await env.finish(orders.flow, run_id), orders.undone

    run, undone = asyncio.run(main())
    assert run.record.state is RunState.FAILED
    assert run.failure is not None and run.failure.code is ErrorCode.RUN_TIMEOUT
    assert undone == ["c", "b", "a", "s1", "s0"]


def test_a_key_is_free_again_after_every_end() -> None:
    """Ours differs from the seed's system: a key of a cancelled run is not stuck."""

    async def main() -> list[bool]:
        orders = Orders(last=None)
        async with testing.environment(orders.host) as env:
            run_id = await env.start(orders.flow, id="order-17")
            assert await env.start(orders.flow, id="order-17") == run_id
            await orders.gates.until_reached("a")
            await env.engine.driver.runs.cancel(run_id, None)
            assert (await env.finish(orders.flow, run_id)).record.state is RunState.CANCELLED
            again = await env.start(orders.flow, id="order-17")
            return [again == run_id]

    assert asyncio.run(main()) == [False]
