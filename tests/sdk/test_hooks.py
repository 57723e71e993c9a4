"""Hooks are told of what happens live, once and in order, and can harm nothing (MISSION V1)."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import contextmanager
from typing import Any

import pytest

import stepwire
from stepwire import testing
from stepwire._runtime.hooks import CALLS_WAITING_MAX, Hooks
from stepwire._runtime.scope import scope_here
from stepwire._runtime.telemetry import HostTelemetry
from stepwire.errors import ConfigurationError
from stepwire.hooks import HOOK_KINDS, Hook, HookCall, HookKind
from stepwire.protocol.failure import ErrorCode, Failure
from tests.sdk.gates import Gates, until

FAILURE = Failure(ErrorCode.USER_ERROR, "ValueError", "no")


def hooks_of(*hooks: Hook, telemetry: HostTelemetry | None = None) -> Hooks:
    return Hooks(asyncio.get_running_loop(), hooks, {}, telemetry or HostTelemetry("test"))


def everything(host: stepwire.Host) -> list[HookCall]:
    """What all hooks of the host are told of, in order: there is one function for all kinds."""
    told: list[HookCall] = []
    for kind in HOOK_KINDS:
        host.on(kind)(told.append)
    return told


def said(told: list[HookCall]) -> list[tuple[str, str, int]]:
    return [(call.kind, call.path, call.attempt) for call in told]


# ---- registering


def test_a_hook_stays_the_function_it_was() -> None:
    host = stepwire.Host("hooks")

    def look(call: HookCall) -> None: ...

    assert host.on("run_failed")(look) is look
    assert host.hooks == [Hook("run_failed", look)]


def test_an_unknown_kind_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="run_begun"):
        stepwire.Host("hooks").on("run_begun")  # type: ignore[arg-type]


def test_a_value_is_no_hook() -> None:
    with pytest.raises(ConfigurationError):
        stepwire.Host("hooks").on("run_failed")(17)  # type: ignore[type-var]


# ---- what is told


def test_a_run_is_told_from_its_start_to_its_end() -> None:
    host = stepwire.Host("hooks")
    told = everything(host)
    tries: list[int] = []

    def flaky() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("once")
        return "step"

    @host.flow
    async def flow(ctx: stepwire.Context) -> str:
        await ctx.step.run("flaky", flaky, retries=1)
        return "run"

    run = testing.run(host, flow)
    assert said(told) == [
        ("run_started", "", 0),
        ("step_started", "flaky", 1),
        ("step_failed", "flaky", 1),
        ("step_started", "flaky", 2),
        ("step_succeeded", "flaky", 2),
        ("run_succeeded", "", 0),
    ]
    assert {(call.run_id, call.flow) for call in told} == {(run.record.run_id, "flow")}
    assert [call.output for call in told] == [None, None, None, None, "step", "run"]
    assert [call.failure.message for call in told if call.failure is not None] == ["once"]


def test_a_failed_run_is_told_with_its_failure() -> None:
    host = stepwire.Host("hooks")
    told = everything(host)

    @host.step(retries=0)
    def registered() -> None:
        raise ValueError("no")

    @host.flow
    def flow(ctx: stepwire.ContextSync) -> None:
        ctx.step.run("s", registered)

    testing.run(host, flow)
    assert [call.kind for call in told] == ["run_started", "step_started", "step_failed", "run_failed"]
    assert [call.failure.type for call in told if call.failure is not None] == ["ValueError", "ValueError"]


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_replay_is_not_told(is_async: bool) -> None:
    """Every release is reached by replay here; each thing still happens once."""
    host = stepwire.Host("hooks")
    told = everything(host)

    async def in_tasks(ctx: stepwire.Context) -> None:
        for name in "abc":
            await ctx.step.run(name, lambda: 1)

    def in_threads(ctx: stepwire.ContextSync) -> None:
        for name in "abc":
            ctx.step.run(name, lambda: 1)

    flow = host.flow(name="flow")(in_tasks if is_async else in_threads)
    run = testing.run(host, flow, replay=True)
    assert run.body_entries > 1
    assert [call.kind for call in told] == ["run_started", *["step_started", "step_succeeded"] * 3, "run_succeeded"]


def test_a_flow_has_hooks_of_its_own() -> None:
    host = stepwire.Host("hooks")
    told: list[str] = []

    @host.flow
    async def one(ctx: stepwire.Context) -> None:
        await ctx.step.run("s", lambda: 1)

    @host.flow
    async def other(ctx: stepwire.Context) -> None: ...

    @one.on("run_started")
    @one.on("step_succeeded")
    async def look(call: HookCall) -> None:
        await asyncio.sleep(0)
        told.append(f"{call.flow} {call.kind}")

    @host.on("run_succeeded")
    def look_at_all(call: HookCall) -> None:
        told.append(f"all {call.flow}")

    async def main() -> None:
        async with testing.environment(host) as env:
            await env.execute(other)
            await env.execute(one)

    asyncio.run(main())
    assert sorted(told) == ["all one", "all other", "one run_started", "one step_succeeded"]


# ---- how it is told


def test_a_slow_hook_holds_up_neither_runs_nor_other_hooks() -> None:
    async def main() -> None:
        gates = Gates()
        host = stepwire.Host("hooks")
        told: list[str] = []
        threads: list[str] = []

        @host.on("step_started")
        async def slow(call: HookCall) -> None:
            await gates.wait("slow")

        @host.on("step_started")
        def slow_on_a_thread(call: HookCall) -> None:
            gates.wait_sync("thread")
            threads.append(threading.current_thread().name)

        @host.on("step_started")
        def quick(call: HookCall) -> None:
            told.append(call.path)

        @host.flow
        async def flow(ctx: stepwire.Context) -> str:
            await ctx.step.run("a", lambda: 1)
            await ctx.step.run("b", lambda: 1)
            return "done"

        async with testing.environment(host) as env:
            run_id = await env.start(flow)
            finish = asyncio.create_task(env.finish(flow, run_id))
            await until("the quick hook was told", lambda: told == ["a", "b"])
            await until("the run ended", lambda: run_id not in env.engine.driver.core.runs)
            gates.open("slow", "thread")
            assert (await finish).output == "done"
        assert len(threads) == 2 and all(name.startswith("stepwire-hook") for name in threads)

    asyncio.run(main())


def test_one_hook_is_told_in_order_and_never_twice_at_once() -> None:
    async def main() -> None:
        running: list[str] = []
        told: list[str] = []

        async def look(call: HookCall) -> None:
            running.append(call.path)
            assert len(running) == 1
            await asyncio.sleep(0)
            told.append(running.pop())

        hooks = hooks_of(Hook("step_started", look))
        for i in range(20):
            hooks.fire("step_started", "run", "flow", f"s{i}", 1)
        await hooks.drained()
        assert told == [f"s{i}" for i in range(20)]
        hooks.close()

    asyncio.run(main())


def test_calls_come_from_any_thread() -> None:
    async def main() -> None:
        told: list[str] = []
        hooks = hooks_of(Hook("step_started", lambda call: told.append(call.path)))
        await asyncio.to_thread(hooks.fire, "step_started", "run", "flow", "s", 1)
        await hooks.drained()
        assert told == ["s"]
        hooks.close()

    asyncio.run(main())


def test_a_lambda_around_async_code_is_awaited() -> None:
    async def main() -> None:
        told: list[str] = []

        async def look(call: HookCall) -> None:
            told.append(call.path)

        hooks = hooks_of(Hook("step_started", lambda call: look(call)))
        hooks.fire("step_started", "run", "flow", "s", 1)
        await hooks.drained()
        assert told == ["s"]
        hooks.close()

    asyncio.run(main())


def test_hooks_are_outside_of_flows_and_steps() -> None:
    """They see neither the flow nor the attempt they are told of as their own."""
    host = stepwire.Host("hooks")
    seen: list[Any] = []

    for kind in ("step_started", "step_succeeded", "run_succeeded"):
        host.on(kind)(lambda call: seen.append((scope_here(), stepwire.current_attempt())))  # type: ignore[arg-type]

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("s", lambda: 1)

    testing.run(host, flow)
    assert seen == [(None, None)] * 3


# ---- what goes wrong


@contextmanager
def logged() -> Any:
    """Messages of errors that the host logs."""
    messages: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger = logging.getLogger("stepwire.host")
    handler = Kept(logging.ERROR)
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def test_a_hook_that_raises_is_counted_and_the_run_goes_on() -> None:
    host = stepwire.Host("hooks")

    @host.on("step_started")
    async def fails(call: HookCall) -> None:
        raise ValueError("hook")

    @host.on("step_started")
    def fails_on_a_thread(call: HookCall) -> None:
        raise ValueError("hook")

    @host.on("step_started")
    async def cancelled(call: HookCall) -> None:
        raise asyncio.CancelledError

    @host.flow
    async def flow(ctx: stepwire.Context) -> int:
        return await ctx.step.run("s", lambda: 1) + await ctx.step.run("t", lambda: 1)

    with logged() as messages:
        assert testing.run(host, flow).output == 2
    assert host.telemetry.hook_failures == {"raised": 6, "dropped": 0}
    assert len(messages) == 3, "one line for each hook, not for each failure"
    assert all("step_started" in message for message in messages)
    exposed = {s.labels["cause"]: s.value for m in host.registry.collect() for s in m.samples if "hook" in s.name}
    assert exposed == {"raised": 6.0, "dropped": 0.0}


def test_a_hook_that_never_ends_costs_bounded_memory() -> None:
    async def main() -> None:
        gates = Gates()
        telemetry = HostTelemetry("test")
        told: list[int] = []

        async def stuck(call: HookCall) -> None:
            await gates.wait("stuck")
            told.append(call.attempt)

        hooks = hooks_of(Hook("step_failed", stuck), telemetry=telemetry)
        with logged() as messages:
            hooks.fire("step_failed", "run", "flow", "s", 0)
            await gates.until_reached("stuck")
            for i in range(CALLS_WAITING_MAX + 5):
                hooks.fire("step_failed", "run", "flow", "s", i + 1, failure=FAILURE)
            await until("the surplus is dropped", lambda: telemetry.hook_failures["dropped"] == 5)
        assert len(messages) == 1
        gates.open("stuck")
        await hooks.drained()
        assert told == list(range(CALLS_WAITING_MAX + 1)), "the oldest are kept"
        hooks.close()

    asyncio.run(main())


def test_after_the_end_of_the_host_nothing_is_told() -> None:
    async def main() -> None:
        gates = Gates()
        told: list[str] = []

        async def stuck(call: HookCall) -> None:
            await gates.wait("never")

        kinds: list[HookKind] = ["run_started", "run_failed"]
        hooks = hooks_of(Hook(kinds[0], stuck), Hook(kinds[1], lambda call: told.append("told")))
        hooks.fire("run_started", "run", "flow")
        await gates.until_reached("never")
        hooks.fire("run_failed", "run", "flow")
        hooks.close()
        hooks.fire("run_failed", "run", "flow")
        await hooks.drained()
        assert told == []

    asyncio.run(main())


def test_a_closed_loop_is_no_error() -> None:
    async def main() -> tuple[Hooks, HostTelemetry]:
        telemetry = HostTelemetry("test")
        return hooks_of(Hook("run_failed", lambda call: None), telemetry=telemetry), telemetry

    hooks, telemetry = asyncio.run(main())
    hooks.fire("run_failed", "run", "flow")
    assert telemetry.hook_failures["dropped"] == 1
    hooks.close()
