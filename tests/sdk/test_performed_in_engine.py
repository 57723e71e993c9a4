"""Kinds, options and ends of flows together with the engine: what a user sees of them (MISSION S8, S16-S21, T1, U4)."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import stepwire
from stepwire import Event, ParallelMode, Trigger, testing
from stepwire.errors import RunFailed, StepError, StepTimeout
from stepwire.flow import RunFailure
from stepwire.protocol.failure import ErrorCode
from stepwire.testing import Environment
from stepwire_engine.core.entries import RunState
from tests.calls.sites import answering, site
from tests.sdk.gates import Gates, until

REPLAY = pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
DAY = 86_400.0


@dataclasses.dataclass
class Order:
    id: int


def new_host() -> stepwire.Host:
    return stepwire.Host("engine")


async def until_planned(env: Environment, run_id: str, path: str) -> None:
    """Until the step stands in the run's journal."""

    def planned() -> bool:
        plans = [entry.plan for entry in env.journal(run_id) if hasattr(entry, "plan")]
        return any(step.path == path for plan in plans for step in plan.steps)

    await until(f"{path!r} is planned", planned)


# ---- time


@REPLAY
@ASYNC
def test_a_sleep_takes_its_time_and_no_host(is_async: bool, replay: bool) -> None:
    host = new_host()

    async def in_tasks(ctx: stepwire.Context) -> float:
        before = ctx.now()
        await ctx.step.sleep("night", "1d")
        return (ctx.now() - before).total_seconds()

    def in_threads(ctx: stepwire.ContextSync) -> float:
        before = ctx.now()
        ctx.step.sleep("night", "1d")
        return (ctx.now() - before).total_seconds()

    run = testing.run(host, host.flow(name="flow")(in_tasks if is_async else in_threads), replay=replay)
    assert run.output == pytest.approx(DAY, abs=1)
    assert host.telemetry.attempts["run", "ok"] == 0


def test_a_time_that_is_over_is_no_sleep() -> None:
    host = new_host()

    @host.flow
    async def flow(ctx: stepwire.Context) -> list[float]:
        start = ctx.now()
        await ctx.step.sleep_until("past", datetime(1999, 1, 1, tzinfo=UTC))
        past = ctx.now()
        await ctx.step.sleep_until("soon", start + timedelta(hours=2))
        return [(past - start).total_seconds(), (ctx.now() - start).total_seconds()]

    past, soon = testing.run(host, flow).output
    assert past < 1
    assert soon == pytest.approx(7200, abs=1)


# ---- events


def shop(host: stepwire.Host) -> tuple[Any, Any]:
    """A flow that waits for an event of order 17, and one that sends events of several orders."""

    @host.flow
    async def waits(ctx: stepwire.Context) -> list[Any]:
        event = await ctx.step.wait_event("paid", "order/paid", match={"data.order_id": 17}, timeout="1h")
        return ["nothing"] if event is None else [event.name, event.data, event.id, event.at is not None]

    @host.flow
    async def sends(ctx: stepwire.Context, orders: list[int]) -> list[str]:
        events = [Event("order/paid", {"order_id": order}, id=f"paid-{order}") for order in orders]
        return list(await ctx.step.send_event("send", events))

    return waits, sends


@REPLAY
def test_an_event_reaches_the_one_who_waits_for_it(replay: bool) -> None:
    async def main() -> None:
        host = new_host()
        waits, sends = shop(host)
        async with testing.environment(host, replay=replay) as env:
            waiting = await env.start(waits)
            await until_planned(env, waiting, "paid")
            assert (await env.execute(sends, [16, 17, 18])).output == ["paid-16", "paid-17", "paid-18"]
            assert (await env.finish(waits, waiting)).output == ["order/paid", {"order_id": 17}, "paid-17", True]

    asyncio.run(main())


def test_two_who_wait_are_both_woken() -> None:
    async def main() -> None:
        host = new_host()
        waits, sends = shop(host)
        async with testing.environment(host) as env:
            waiting = [await env.start(waits), await env.start(waits)]
            for run_id in waiting:
                await until_planned(env, run_id, "paid")
            await env.execute(sends, [17])
            for run_id in waiting:
                assert (await env.finish(waits, run_id)).output[2] == "paid-17"

    asyncio.run(main())


def test_a_wait_ends_without_an_event() -> None:
    host = new_host()
    waits, _ = shop(host)
    assert testing.run(host, waits).output == ["nothing"]


def test_an_event_of_before_counts_only_if_asked_for() -> None:
    async def main() -> None:
        host = new_host()
        _, sends = shop(host)

        @host.flow
        async def late(ctx: stepwire.Context, lookback: str | None) -> str:
            event = await ctx.step.wait_event("paid", "order/paid", timeout="1m", lookback=lookback)
            return "nothing" if event is None else event.id

        async with testing.environment(host) as env:
            await env.execute(sends, [1, 2])
            assert await env.run(late, None) == "nothing"
            assert await env.run(late, "1h") == "paid-1", "the oldest comes first"

    asyncio.run(main())


def test_an_event_starts_every_flow_that_wants_it() -> None:
    async def main() -> None:
        host = new_host()
        _, sends = shop(host)
        seen: list[tuple[str, Any]] = []

        @host.flow(on="order/paid")
        async def all_orders(ctx: stepwire.Context, event: Event) -> None:
            seen.append(("all", event.data["order_id"]))

        @host.flow(on=[Trigger("order/paid", {"data.order_id": 17}), "order/shipped"])
        def one_order(ctx: stepwire.ContextSync, event: dict[str, Any]) -> None:
            seen.append(("one", event["data"]["order_id"]))

        @host.flow(on="order/cancelled")
        async def none(ctx: stepwire.Context, event: Event) -> None:
            seen.append(("none", event))

        async with testing.environment(host) as env:
            await env.execute(sends, [16, 17])
            await env.execute(sends, [16])  # the same id again: nothing starts
            await until("the runs ended", lambda: len(seen) == 3 and not env.engine.driver.core.runs)
        assert sorted(seen) == [("all", 16), ("all", 17), ("one", 17)]

    asyncio.run(main())


# ---- other flows


@REPLAY
@ASYNC
def test_a_child_gives_its_result_or_its_failure(is_async: bool, replay: bool) -> None:
    host = new_host()

    @host.flow
    async def child(ctx: stepwire.Context, order: Order) -> Order:
        if order.id < 0:
            raise ValueError("below zero")
        return Order(await ctx.step.run("double", lambda: 2 * order.id))

    async def in_tasks(ctx: stepwire.Context) -> list[Any]:
        typed = await ctx.step.invoke("typed", child, Order(4))
        plain = await ctx.step.invoke("plain", "child", {"id": 5})
        try:
            await ctx.step.invoke("fails", child, Order(-1))
        except StepError as error:
            return [typed.id, plain, error.type, "below zero" in error.message]
        return []

    def in_threads(ctx: stepwire.ContextSync) -> list[Any]:
        typed = ctx.step.invoke("typed", child, Order(4))
        plain = ctx.step.invoke("plain", "child", {"id": 5})
        try:
            ctx.step.invoke("fails", child, Order(-1))
        except StepError as error:
            return [typed.id, plain, error.type, "below zero" in error.message]
        return []

    parent = host.flow(name="parent")(in_tasks if is_async else in_threads)
    assert testing.run(host, parent, replay=replay).output == [8, {"id": 10}, "ValueError", True]


def test_a_child_may_live_elsewhere() -> None:
    async def main() -> None:
        here, there = stepwire.Host("here"), stepwire.Host("there")

        @there.flow
        async def child(ctx: stepwire.Context) -> str:
            return await ctx.step.run("s", lambda: "from there")

        @here.flow
        async def parent(ctx: stepwire.Context) -> str:
            return await ctx.step.invoke("child", "child")  # type: ignore[no-any-return]

        async with testing.environment(here, there) as env:
            assert await env.run(parent) == "from there"

    asyncio.run(main())


def test_a_child_that_cancels_itself_is_an_error_of_its_own() -> None:
    host = new_host()

    @host.flow
    async def child(ctx: stepwire.Context) -> None:
        ctx.cancel()

    @host.flow
    async def parent(ctx: stepwire.Context) -> str:
        try:
            await ctx.step.invoke("child", child)
        except StepError as error:
            return error.code.slug
        return ""

    assert testing.run(host, parent).output == "child_cancelled"


# ---- HTTP


@REPLAY
def test_every_kind_in_one_group(replay: bool) -> None:
    """U4: call, run, sleep, wait, send and invoke are branches like any other."""

    async def main() -> None:
        host = new_host()

        @host.flow
        async def child(ctx: stepwire.Context) -> str:
            return "child"

        @host.flow
        async def flow(ctx: stepwire.Context, url: str) -> list[Any]:
            step = ctx.step
            results = await ctx.group.parallel(
                (
                    lambda: step.call("call", url, method="POST", json={"a": 1}),
                    lambda: step.run("run", lambda: "ran"),
                    lambda: step.sleep("sleep", "1h"),
                    lambda: step.wait_event("wait", "never", timeout="2h"),
                    lambda: step.send_event("send", Event("sent", id="e1")),
                    lambda: step.invoke("invoke", child),
                ),
                parallel_mode=ParallelMode.WAIT,
            )
            answer = results[0]
            return [answer.status, answer.text, *results[1:4], list(results[4]), results[5]]

        handler = answering("content-type: text/plain", b"out of order", "500 Internal Server Error")
        async with site(handler) as server, testing.environment(host, replay=replay) as env:
            output = await env.run(flow, server.url("/"))
        assert output == [500, "out of order", "ran", None, None, ["e1"], "child"]
        assert host.telemetry.attempts["run", "ok"] == 1, "only the closure took a slot of this host"

    asyncio.run(main())


# ---- deadlines


def test_a_deadline_of_a_step_bounds_all_its_attempts() -> None:
    host = new_host()
    tries: list[int] = []

    def fails() -> None:
        tries.append(1)
        raise ValueError("again")

    @host.flow
    async def flow(ctx: stepwire.Context) -> list[Any]:
        before = ctx.now()
        try:
            retry = stepwire.Retry(retries=100, backoff="fixed", delay=10, jitter=0)
            await ctx.step.run("never", fails, retries=retry, deadline="35s")
        except StepTimeout as error:
            return [error.path, (ctx.now() - before).total_seconds()]
        return []

    path, seconds = testing.run(host, flow).output
    assert (path, len(tries)) == ("never", 4)
    assert seconds == pytest.approx(35, abs=1)


def test_a_deadline_of_a_flow_ends_its_run() -> None:
    host = new_host()

    @host.flow(deadline="1h")
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.sleep("too long", "1d")

    run = testing.run(host, flow)
    assert run.failure is not None and run.failure.code is ErrorCode.RUN_TIMEOUT


# ---- own ends


@ASYNC
def test_a_cancelled_run_is_undone_if_the_flow_says_so(is_async: bool) -> None:
    host = new_host()
    undone: list[str] = []

    async def in_tasks(ctx: stepwire.Context) -> None:
        await ctx.step.run("reserve", lambda: "seat", compensate=undone.append)
        ctx.cancel()

    def in_threads(ctx: stepwire.ContextSync) -> None:
        ctx.step.run("reserve", lambda: "seat", compensate=undone.append)
        ctx.cancel()

    body = in_tasks if is_async else in_threads
    kept = testing.run(host, host.flow(name="kept")(body))
    assert kept.record.state is RunState.CANCELLED and undone == []
    gone = testing.run(host, host.flow(name="gone", undo_on_cancel=True)(body))
    assert gone.record.state is RunState.CANCELLED and undone == ["seat"]


def test_a_cancel_from_a_branch_is_undone_too() -> None:
    host = new_host()
    undone: list[str] = []

    @host.flow(undo_on_cancel=True)
    async def flow(ctx: stepwire.Context) -> None:
        async def ends() -> None:
            await ctx.step.run("reserve", lambda: "seat", compensate=undone.append)
            ctx.cancel()

        await ctx.group.parallel((ends, lambda: ctx.step.sleep("long", "1d")), parallel_mode=ParallelMode.RACE)

    for replay in (False, True):
        run = testing.run(host, flow, replay=replay)
        assert run.record.state is RunState.CANCELLED
    assert undone == ["seat", "seat"]


@ASYNC
def test_a_flow_goes_on_as_its_successor(is_async: bool) -> None:
    async def main() -> None:
        host = new_host()
        seen: list[int] = []

        async def in_tasks(ctx: stepwire.Context, order: Order) -> str:
            seen.append(await ctx.step.run("id", lambda: order.id))
            if order.id < 3:
                ctx.restart_with(Order(order.id + 1))
            return "done"

        def in_threads(ctx: stepwire.ContextSync, order: Order) -> str:
            seen.append(ctx.step.run("id", lambda: order.id))
            if order.id < 3:
                ctx.restart_with(Order(order.id + 1))
            return "done"

        flow = host.flow(name="flow")(in_tasks if is_async else in_threads)
        async with testing.environment(host) as env:
            run = await env.execute(flow, Order(1))
            assert run.record.state is RunState.SUCCEEDED
            second = await env.finish(flow, run.record.successor_run_id)
            third = await env.finish(flow, second.record.successor_run_id)
            assert third.output == "done" and third.record.successor_run_id == ""
        assert seen == [1, 2, 3]

    asyncio.run(main())


# ---- failure handlers


@pytest.mark.parametrize("as_body", [False, True], ids=["step", "body"])
def test_a_failed_run_is_handled_once(as_body: bool) -> None:
    async def main() -> None:
        host = new_host()
        handled: list[RunFailure] = []
        tries: list[int] = []

        @host.flow
        async def flow(ctx: stepwire.Context, order: Order) -> None:
            if order.id == 0:
                ctx.cancel()
            raise ValueError(f"order {order.id}")

        def one_step(failed: RunFailure) -> None:
            tries.append(1)
            if len(tries) == 1:
                raise ConnectionError("the handler is retried")
            handled.append(failed)

        async def body(ctx: stepwire.Context, failed: RunFailure) -> None:
            await ctx.step.run("note", one_step, failed)

        if as_body:
            flow.on_failure(body)
        else:
            flow.on_failure(one_step)
        async with testing.environment(host) as env:
            run_id = await env.start(flow, Order(7))
            await env.finish(flow, run_id)
            await env.execute(flow, Order(0))
            handlers = [run for run in env.engine.driver.core.runs.values() if run.flow == "flow.on_failure"]
            for run in handlers:
                await env.finish(host.flows["flow.on_failure"], run.run_id)
        (failed,) = handled
        assert (failed.run_id, failed.flow, failed.input) == (run_id, "flow", Order(7))
        assert (failed.failure.code, failed.failure.type) == (ErrorCode.USER_ERROR, "ValueError")
        assert failed.failure.message == "order 7"
        assert len(tries) == 2

    asyncio.run(main())


def test_a_handler_that_fails_is_not_handled() -> None:
    async def main() -> None:
        host = new_host()
        handled: list[int] = []

        @host.flow
        async def flow(ctx: stepwire.Context) -> None:
            raise ValueError("first")

        @flow.on_failure
        async def handler(ctx: stepwire.Context, failed: RunFailure) -> None:
            handled.append(1)
            raise ValueError("second")

        async with testing.environment(host) as env:
            await env.execute(flow)
            await until("it was handled", lambda: handled)
            await until("all runs ended", lambda: not env.engine.driver.core.runs)
        assert handled == [1]

    asyncio.run(main())


# ---- hooks of undos


def test_undos_are_told_of_as_undos() -> None:
    host = new_host()
    told: list[tuple[str, str]] = []
    tries: list[int] = []

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        def give_back(output: str) -> None:
            tries.append(1)
            if len(tries) == 1:
                raise ConnectionError("once")

        await ctx.step.run("reserve", lambda: "seat", compensate=stepwire.Compensation(give_back, retries=1))
        raise ValueError("no")

    for kind in ("undo_started", "undo_succeeded", "undo_failed", "step_succeeded", "run_failed"):
        host.on(kind)(lambda call: told.append((call.kind, call.path)))  # type: ignore[arg-type]

    with pytest.raises(RunFailed):
        testing.run(host, flow).output  # noqa: B018 - it raises
    assert ("step_succeeded", "reserve") in told
    assert [entry for entry in told if entry[0].startswith("undo")] == [
        ("undo_started", "reserve#undo"),
        ("undo_failed", "reserve#undo"),
        ("undo_started", "reserve#undo"),
        ("undo_succeeded", "reserve#undo"),
    ]


# ---- abandoned awaits, with real outcomes around them


def test_a_scope_with_a_limit_is_replayed_after_a_crash() -> None:
    async def main() -> None:
        gates = Gates()
        host = new_host()

        @host.flow
        async def flow(ctx: stepwire.Context) -> list[str]:
            found = []
            try:
                async with asyncio.timeout(0.03):
                    await ctx.step.run("slow", asyncio.Event().wait)
            except TimeoutError:
                found.append("too late")
            return [*found, await ctx.step.run("held", gates.wait, "held")]

        async with testing.environment(host) as env:
            run_id = await env.start(flow)
            await gates.until_reached("held")
            await env.crash(host)
            gates.open("held")
            assert (await env.finish(flow, run_id)).output == ["too late", "held"]

    asyncio.run(main())
