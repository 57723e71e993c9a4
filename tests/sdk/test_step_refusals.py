"""What `ctx.step` refuses: at the call, before anything is planned, with a name for each mistake (MISSION S23)."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

import stepwire
from stepwire import Compensation, Event
from stepwire.errors import ConfigurationError, InvalidInput, InvalidStepName, NestedStepError, PayloadTooLarge
from stepwire.protocol import limits
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import Welcome
from tests.sdk.by_hand import EngineByHand, asking, by_hand

ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
Ask = Callable[[Any], Any]


@dataclasses.dataclass
class Order:
    id: int


children = stepwire.Host("children")


@children.flow
async def pay(ctx: stepwire.Context, order: Order) -> None: ...


def undo(output: Any) -> None: ...


TOO_MANY = [Event("e")] * (limits.EVENTS_PER_STEP_MAX + 1)
REFUSED: dict[str, tuple[Ask, type[Exception]]] = {
    "sleep of text": (lambda s: s.sleep("s", "soon"), ConfigurationError),
    "sleep below zero": (lambda s: s.sleep("s", -1), ConfigurationError),
    "sleep_until without zone": (lambda s: s.sleep_until("s", datetime(2026, 1, 1)), ValueError),
    "sleep_until a number": (lambda s: s.sleep_until("s", 17), ConfigurationError),
    "wait for nothing": (lambda s: s.wait_event("s", ""), ConfigurationError),
    "wait with a bad match": (lambda s: s.wait_event("s", "e", match={"x": 1}), ConfigurationError),
    "wait with a bad timeout": (lambda s: s.wait_event("s", "e", timeout="x"), ConfigurationError),
    "wait with a bad lookback": (lambda s: s.wait_event("s", "e", lookback=-1), ConfigurationError),
    "send no event": (lambda s: s.send_event("s", []), ConfigurationError),
    "send too many": (lambda s: s.send_event("s", TOO_MANY), ConfigurationError),
    "send a name": (lambda s: s.send_event("s", "order/paid"), ConfigurationError),
    "send no JSON": (lambda s: s.send_event("s", Event("e", object())), ConfigurationError),
    "send too much": (lambda s: s.send_event("s", Event("e", "x" * 2000)), PayloadTooLarge),
    "invoke nothing": (lambda s: s.invoke("s", ""), ConfigurationError),
    "invoke with a misfit": (lambda s: s.invoke("s", pay, {"id": "x"}), InvalidInput),
    "invoke with too many": (lambda s: s.invoke("s", "e", 1, 2), InvalidInput),
    "invoke with too much": (lambda s: s.invoke("s", "e", "x" * 2000), PayloadTooLarge),
    "invoke with a long id": (lambda s: s.invoke("s", "e", id="x" * 300), ConfigurationError),
    "invoke without time": (lambda s: s.invoke("s", "e", deadline=0), ConfigurationError),
    "call no URL": (lambda s: s.call("s", "example.org"), ConfigurationError),
    "call a file": (lambda s: s.call("s", "file:///etc/passwd"), ConfigurationError),
    "call no host": (lambda s: s.call("s", "http:///x"), ConfigurationError),
    "call a bad port": (lambda s: s.call("s", "http://a:x/"), ConfigurationError),
    "call two lines": (lambda s: s.call("s", "http://a/\r\nx"), ConfigurationError),
    "call a long URL": (lambda s: s.call("s", "http://a/" + "x" * limits.URL_BYTES_MAX), ConfigurationError),
    "call with a bad method": (lambda s: s.call("s", "http://a/", method="GET /"), ConfigurationError),
    "call with json and body": (lambda s: s.call("s", "http://a/", json=1, body=b""), ConfigurationError),
    "call with no JSON": (lambda s: s.call("s", "http://a/", json=object()), ConfigurationError),
    "call with a dict": (lambda s: s.call("s", "http://a/", body={}), ConfigurationError),
    "call with a number": (lambda s: s.call("s", "http://a/", headers={"a": 1}), ConfigurationError),
    "call with a bad header": (lambda s: s.call("s", "http://a/", headers={"a b": "1"}), ConfigurationError),
    "call with two headers": (lambda s: s.call("s", "http://a/", headers={"a": "1\r\nb: 2"}), ConfigurationError),
    "call with too many headers": (
        lambda s: s.call("s", "http://a/", headers={f"h{i}": "" for i in range(limits.HEADERS_MAX + 1)}),
        ConfigurationError,
    ),
    "call with too much": (lambda s: s.call("s", "http://a/", body=b"x" * 2000), PayloadTooLarge),
    "run without time": (lambda s: s.run("s", undo, 1, deadline=0), ConfigurationError),
    "run undone by a value": (lambda s: s.run("s", undo, 1, compensate="undo"), ConfigurationError),
    "run with a reserved name": (lambda s: s.run("stepwire:s", undo, 1), InvalidStepName),
    "sleep with a reserved name": (lambda s: s.sleep("stepwire:s", 1), InvalidStepName),
    "sleep without a name": (lambda s: s.sleep("", 1), InvalidStepName),
}


@ASYNC
@pytest.mark.parametrize(("ask", "error"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_raised_at_the_call(is_async: bool, ask: Ask, error: type[Exception]) -> None:
    caught: list[Exception] = []

    def trying(step: Any) -> Any:
        try:
            return ask(step)
        except Exception as exc:
            caught.append(exc)
            raise

    async def main() -> EngineByHand:
        host, flow = asking(is_async, trying)
        async with by_hand(host, welcome=Welcome("session", payload_bytes_max=1000)) as engine:
            await engine.begin(flow)
            return engine

    engine = asyncio.run(main())
    assert [type(exc) for exc in caught] == [error], "already at the call, not only when awaited"
    assert engine.steps == {}
    assert engine.ended is not None and engine.ended.failure is not None


def test_a_registered_step_gives_up_attempts_where_it_is_registered() -> None:
    host = stepwire.Host("kinds")

    @host.step
    def registered() -> None: ...

    async def main() -> Failure | None:
        @host.flow
        async def flow(ctx: stepwire.Context) -> None:
            await ctx.step.run("s", registered, abandon_after="1s")

        async with by_hand(host) as engine:
            await engine.begin(flow)
            assert engine.ended is not None and engine.steps == {}
            return engine.ended.failure

    failure = asyncio.run(main())
    assert failure is not None and failure.type == "ConfigurationError"


@pytest.mark.parametrize("bad", [lambda: Compensation("x"), lambda: Compensation(undo, retries=-1)])  # type: ignore[arg-type]
def test_a_bad_compensation_is_refused_where_it_is_made(bad: Any) -> None:
    with pytest.raises(ConfigurationError):
        bad()


@ASYNC
def test_a_step_does_not_sleep_durably(is_async: bool) -> None:
    """Inside a step every kind is as wrong as `run`."""
    caught: list[str] = []
    host = stepwire.Host("kinds")

    async def in_tasks(ctx: stepwire.Context) -> None:
        await ctx.step.run("outer", inner, ctx, retries=0)

    def in_threads(ctx: stepwire.ContextSync) -> None:
        ctx.step.run("outer", inner, ctx, retries=0)

    def inner(ctx: Any) -> None:
        for ask in (
            lambda: ctx.step.sleep("s", 1),
            lambda: ctx.step.wait_event("s", "e"),
            lambda: ctx.step.send_event("s", Event("e")),
            lambda: ctx.step.invoke("s", "f"),
            lambda: ctx.step.call("s", "http://a/"),
            ctx.cancel,
            ctx.restart_with,
        ):
            with pytest.raises(NestedStepError) as error:
                ask()
            caught.append(error.value.path)

    async def main() -> None:
        flow = host.flow(name="flow")(in_tasks if is_async else in_threads)
        async with by_hand(host) as engine:
            await engine.begin(flow)
            await engine.settled()

    asyncio.run(main())
    assert caught == ["outer"] * 7


def test_input_of_a_flow_is_checked_before_any_step() -> None:
    """Bad input: the run fails with INVALID_INPUT and no step was planned (MISSION S23)."""
    host = stepwire.Host("kinds")

    @host.flow
    async def in_tasks(ctx: stepwire.Context, order: Order) -> None:
        await ctx.step.sleep("s", 1)

    @host.flow
    def in_threads(ctx: stepwire.ContextSync, order: Order) -> None:
        ctx.step.sleep("s", 1)

    async def main() -> None:
        for flow in (in_tasks, in_threads):
            async with by_hand(host) as engine:
                await engine.begin(flow, {"id": "seven"})
                assert engine.steps == {} and engine.ended is not None and engine.ended.failure is not None
                assert engine.ended.failure.code is ErrorCode.INVALID_INPUT
                assert flow.name in engine.ended.failure.message

    asyncio.run(main())
