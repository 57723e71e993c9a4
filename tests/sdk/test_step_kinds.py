"""Steps of every kind: what their plans say, what their outcomes become, and what is refused before it is planned."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

import stepwire
from stepwire import Compensation, Event, HttpResult, Retry
from stepwire.codec import JSON_CODEC
from stepwire.errors import (
    AmbiguousStep,
    StepError,
)
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    CALL_STEP,
    Call,
    Invoke,
    RetryPolicy,
    SendEvent,
    Sleep,
    StepKind,
    StepPlanned,
    Undo,
    WaitEvent,
)
from stepwire.protocol.plan import Event as PlannedEvent
from tests.sdk.by_hand import CREATED_MS, asking, by_hand
from tests.sdk.gates import until

ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
ONCE = RetryPolicy(max_attempts=1)
Ask = Callable[[Any], Any]


@dataclasses.dataclass
class Order:
    id: int


@dataclasses.dataclass
class Receipt:
    order: Order


host_of_children = stepwire.Host("children")


@host_of_children.flow
async def pay(ctx: stepwire.Context, order: Order) -> Receipt:
    raise AssertionError("it is only planned here")


@host_of_children.flow
def tick(ctx: stepwire.ContextSync) -> None:
    raise AssertionError("it is only planned here")


def play(is_async: bool, ask: Ask, outcome: Any) -> tuple[StepPlanned, list[Any], Failure | None]:
    """The plan of the one step `s`, what the flow got for it, and what the flow failed with."""
    seen: list[Any] = []

    async def main() -> tuple[StepPlanned, Failure | None]:
        host, flow = asking(is_async, ask, seen)
        async with by_hand(host) as engine:
            await engine.begin(flow)
            assert list(engine.steps) == ["s"]
            assert engine.runtime.busy == 0, "nothing of it executes on this host"
            await engine.release({"s": outcome})
            assert engine.ended is not None
            return engine.steps["s"], engine.ended.failure

    planned, failure = asyncio.run(main())
    return planned, seen, failure


# ---- what is planned, and what comes back

HTTP = {"status": 503, "headers": {"content-type": "text/plain"}, "body": "later", "encoding": "utf-8"}
EVENT = {"id": "e1", "name": "order/paid", "at": CREATED_MS / 1000 + 0.5, "data": {"order_id": 17}}
AT = datetime.fromtimestamp(CREATED_MS / 1000 + 0.5, UTC)
KINDS: dict[str, tuple[Ask, StepPlanned, Any, Any]] = {
    "sleep": (
        lambda step: step.sleep("s", "1.5m"),
        StepPlanned("s", StepKind.SLEEP, spec=Sleep(duration=90.0)),
        None,
        None,
    ),
    "sleep_until": (
        lambda step: step.sleep_until("s", AT.astimezone(timezone(timedelta(hours=-3)))),
        StepPlanned("s", StepKind.SLEEP, spec=Sleep(until_ms=CREATED_MS + 500)),
        None,
        None,
    ),
    "wait_event": (
        lambda step: step.wait_event("s", "order/paid", match={"data.order_id": 17}, timeout="1d", lookback=60),
        StepPlanned("s", StepKind.WAIT_EVENT, spec=WaitEvent("order/paid", "data.order_id == `17`", 86_400.0, 60.0)),
        EVENT,
        Event("order/paid", {"order_id": 17}, "e1", AT),
    ),
    "wait_event in vain": (
        lambda step: step.wait_event("s", "order/paid", match="data.total > `10`", timeout=0),
        StepPlanned("s", StepKind.WAIT_EVENT, spec=WaitEvent("order/paid", "data.total > `10`", 0.0)),
        None,
        None,
    ),
    "send_event": (
        lambda step: step.send_event("s", Event("order/paid", {"order_id": 17}, "e1", AT)),
        StepPlanned(
            "s",
            StepKind.SEND_EVENT,
            spec=SendEvent((PlannedEvent("order/paid", Payload(b'{"order_id":17}'), "e1", CREATED_MS + 500),)),
        ),
        ["e1"],
        ("e1",),
    ),
    "send_event of several": (
        lambda step: step.send_event("s", [Event("a"), Event("b", 2)]),
        StepPlanned("s", StepKind.SEND_EVENT, spec=SendEvent((PlannedEvent("a"), PlannedEvent("b", Payload(b"2"))))),
        ["1", "2"],
        ("1", "2"),
    ),
    "invoke": (
        lambda step: step.invoke("s", pay, Order(7), id="order-7", deadline="1h", retries=2),
        StepPlanned(
            "s",
            StepKind.INVOKE,
            input=Payload(b'{"id":7}'),
            retry=RetryPolicy(max_attempts=3),
            deadline=3600.0,
            spec=Invoke("pay", "order-7"),
        ),
        {"order": {"id": 7}},
        Receipt(Order(7)),
    ),
    "invoke without input": (
        lambda step: step.invoke("s", tick),
        StepPlanned("s", StepKind.INVOKE, input=Payload(b"null"), retry=ONCE, spec=Invoke("tick")),
        None,
        None,
    ),
    "invoke by name": (
        lambda step: step.invoke("s", "elsewhere", {"id": 7}),
        StepPlanned("s", StepKind.INVOKE, input=Payload(b'{"id":7}'), retry=ONCE, spec=Invoke("elsewhere")),
        {"order": {"id": 7}},
        {"order": {"id": 7}},
    ),
    "call": (
        lambda step: step.call("s", "https://example.org/a?b=c"),
        StepPlanned("s", StepKind.CALL, CALL_STEP, retry=ONCE, timeout=30.0, spec=Call("https://example.org/a?b=c")),
        HTTP,
        HttpResult(503, {"content-type": "text/plain"}, b"later"),
    ),
    "call with everything": (
        lambda step: step.call(
            "s",
            "http://localhost:80/",
            method="put",
            headers={"X-A": "b"},
            json=None,
            timeout="2s",
            retries=Retry(retries=1, backoff="fixed"),
            deadline="10s",
        ),
        StepPlanned(
            "s",
            StepKind.CALL,
            CALL_STEP,
            retry=Retry(retries=1, backoff="fixed").policy,
            timeout=2.0,
            deadline=10.0,
            spec=Call("http://localhost:80/", "PUT", (("X-A", "b"),), Payload(b"null")),
        ),
        HTTP,
        HttpResult(503, {"content-type": "text/plain"}, b"later"),
    ),
    "call with text": (
        lambda step: step.call("s", "http://a/", method="POST", body="é"),
        StepPlanned(
            "s",
            StepKind.CALL,
            CALL_STEP,
            retry=ONCE,
            timeout=30.0,
            spec=Call("http://a/", "POST", (), Payload("é".encode(), "text")),
        ),
        HTTP,
        HttpResult(503, {"content-type": "text/plain"}, b"later"),
    ),
    "call with bytes": (
        lambda step: step.call("s", "http://a/", method="POST", body=b"\xff"),
        StepPlanned(
            "s",
            StepKind.CALL,
            CALL_STEP,
            retry=ONCE,
            timeout=30.0,
            spec=Call("http://a/", "POST", (), Payload(b"\xff", "bytes")),
        ),
        HTTP,
        HttpResult(503, {"content-type": "text/plain"}, b"later"),
    ),
}


@ASYNC
@pytest.mark.parametrize(("ask", "expected", "outcome", "value"), KINDS.values(), ids=KINDS)
def test_what_a_step_plans_and_becomes(
    is_async: bool, ask: Ask, expected: StepPlanned, outcome: Any, value: Any
) -> None:
    planned, seen, failure = play(is_async, ask, outcome)
    assert planned == expected
    assert failure is None
    assert seen == [value]
    assert type(seen[0]) is type(value)


@ASYNC
@pytest.mark.parametrize(("ask", "expected", "outcome", "value"), KINDS.values(), ids=KINDS)
def test_the_failure_of_a_step_is_raised_where_it_is_awaited(
    is_async: bool, ask: Ask, expected: StepPlanned, outcome: Any, value: Any
) -> None:
    _, seen, failure = play(is_async, ask, Failure(ErrorCode.CHILD_CANCELLED, "ChildCancelled", "it was cancelled"))
    assert seen == []
    assert failure is not None and failure.code is ErrorCode.CHILD_CANCELLED


@ASYNC
def test_an_output_that_does_not_fit_is_a_failure_of_the_step(is_async: bool) -> None:
    _, seen, failure = play(is_async, lambda step: step.invoke("s", pay, Order(7)), {"order": "gone"})
    assert seen == []
    assert failure is not None and failure.code is ErrorCode.INVALID_INPUT


class Broken(msgspec.Struct):
    """A codec of a user's own that cannot read what it wrote."""

    def encode(self, value: Any, type: Any = Any) -> Payload:
        return JSON_CODEC.encode(value, type)

    def decode(self, payload: Payload, type: Any = Any) -> Any:
        raise ZeroDivisionError("no key")

    def round_trip(self, value: Any, type: Any = Any) -> tuple[Payload, Any]:
        return JSON_CODEC.round_trip(value, type)


def test_what_a_codec_raises_reaches_the_flow() -> None:
    async def main() -> Failure | None:
        host = stepwire.Host("kinds", codec=Broken())

        @host.flow
        async def flow(ctx: stepwire.Context) -> None:
            await ctx.step.invoke("s", "elsewhere")

        async with by_hand(host) as engine:
            await engine.begin(flow)
            await engine.release({"s": 1})
            assert engine.ended is not None
            return engine.ended.failure

    # The input of the flow itself is read by the same codec, so it fails before its first step, or at the step.
    failure = asyncio.run(main())
    assert failure is not None and failure.type == "ZeroDivisionError"


# ---- options of run

RELEASED: list[Any] = []


def undo(output: Any) -> None:
    RELEASED.append(output)


def test_options_of_run_stand_in_its_plan() -> None:
    host = stepwire.Host("kinds")

    @host.step(retries=1, timeout="9s")
    def give_back(output: Any) -> None: ...

    @host.step(timeout="5s", abandon_after="1s")
    async def registered() -> None:
        await asyncio.Event().wait()

    async def slow() -> None:
        await asyncio.Event().wait()

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        run = ctx.step.run
        await asyncio.gather(
            run("deadline", slow, deadline="1m", timeout="2s", retries=2),
            run("closure", slow, compensate=undo),
            run("policies", slow, compensate=Compensation(undo, retries=5, timeout="3s")),
            run("task", slow, compensate=give_back),
            run("own", slow, compensate=Compensation(give_back, retries=0)),
            run("registered", registered, compensate=undo, timeout="6s", retries=0),
            run("given up", slow, abandon_after="4s"),
        )

    async def main() -> dict[str, StepPlanned]:
        async with by_hand(host) as engine:
            await engine.begin(flow, settle=False)
            await until("everything is planned", lambda: len(engine.steps) == 7)
            body = engine.runtime._bodies["run-1"]
            assert list(body.undos) == ["closure", "policies", "registered"], "closures are kept by path"
            assert body.undos["closure"].fn is undo
            assert body.steps["given up"].call.abandon_after == 4.0
            assert body.steps["registered"].call.abandon_after == 1.0
            return engine.steps

    steps = asyncio.run(main())
    deadline = steps["deadline"]
    assert (deadline.deadline, deadline.timeout, deadline.retry) == (60.0, 2.0, RetryPolicy(max_attempts=3))
    assert {path: step.undo for path, step in steps.items() if step.undo is not None} == {
        "closure": Undo(),
        "policies": Undo(retry=RetryPolicy(max_attempts=6), timeout=3.0),
        "task": Undo(StepKind.TASK, "give_back", RetryPolicy(max_attempts=2), 9.0),
        "own": Undo(StepKind.TASK, "give_back", ONCE, 9.0),
        "registered": Undo(),
    }
    registered_step = steps["registered"]
    assert (registered_step.name, registered_step.timeout, registered_step.retry) == ("registered", 6.0, ONCE)


# ---- as any other step


def test_every_kind_may_be_a_branch() -> None:
    host = stepwire.Host("kinds")

    @host.flow
    async def flow(ctx: stepwire.Context) -> list[Any]:
        step = ctx.step
        done = await ctx.group.parallel(
            (
                lambda: step.sleep("sleep", "1h"),
                lambda: step.wait_event("wait", "e"),
                lambda: step.send_event("send", Event("e")),
                lambda: step.invoke("invoke", "other"),
                lambda: step.call("call", "http://a/"),
            )
        )
        waited, result = done[1], done[4]
        assert waited is not None
        return [done[0], waited.id, list(done[2]), done[3], result.status]

    async def main() -> None:
        async with by_hand(host) as engine:
            await engine.begin(flow)
            names = ["sleep", "wait", "send", "invoke", "call"]
            assert list(engine.steps) == [f"parallel/[{i}]/{name}" for i, name in enumerate(names)]
            outcomes = [None, {"id": "e1", "name": "e", "at": 1.0, "data": 1}, ["e2"], "child", HTTP]
            await engine.release(dict(zip(engine.steps, outcomes, strict=True)))
            assert engine.output == [None, "e1", ["e2"], "child", 503]

    asyncio.run(main())


def test_every_kind_may_be_a_branch_of_a_sync_flow() -> None:
    host = stepwire.Host("kinds")

    @host.flow
    def flow(ctx: stepwire.ContextSync) -> list[Any]:
        return list(
            ctx.group.parallel((lambda: ctx.step.sleep("sleep", "1h"), lambda: ctx.step.call("call", "http://a/").text))
        )

    async def main() -> None:
        async with by_hand(host) as engine:
            await engine.begin(flow)
            await engine.release({"parallel/[0]/sleep": None, "parallel/[1]/call": HTTP})
            assert engine.output == [None, "later"]

    asyncio.run(main())


def test_kinds_share_one_name_space() -> None:
    host = stepwire.Host("kinds")

    @host.flow
    async def flow(ctx: stepwire.Context) -> list[str]:
        await ctx.step.sleep("a", 1)
        waiting = ctx.step.sleep("a", 2)
        with pytest.raises(AmbiguousStep):
            ctx.step.call("a", "http://a/")
        await waiting
        return []

    async def main() -> None:
        async with by_hand(host) as engine:
            await engine.begin(flow)
            await engine.release({"a": None})
            await engine.release({"a#2": None})
            assert engine.output == []

    asyncio.run(main())


def test_replay_takes_outcomes_from_the_journal() -> None:
    host = stepwire.Host("kinds")

    @host.flow
    async def flow(ctx: stepwire.Context) -> list[Any]:
        await ctx.step.sleep("nap", "1h")
        event = await ctx.step.wait_event("wait", "e")
        assert event is not None
        answer = await ctx.step.call("call", "http://a/")
        return [event.data, answer.text, await ctx.step.invoke("child", "other")]

    async def main() -> None:
        async with by_hand(host) as engine:
            await engine.begin(flow)
            await engine.release({"nap": None})
            await engine.release({"wait": EVENT})
            await engine.release({"call": HTTP})
            planned = list(engine.plans)
            await engine.begin(flow, entries=list(engine.entries))
            assert engine.plans == planned, "nothing is decided twice"
            await engine.release({"child": [1]})
            assert engine.output == [{"order_id": 17}, "later", [1]]

    asyncio.run(main())


def test_another_kind_in_its_place_is_found() -> None:
    host = stepwire.Host("kinds")
    changed: list[bool] = []

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        if changed:
            await ctx.step.wait_event("nap", "e")
        else:
            await ctx.step.sleep("nap", "1h")

    async def main() -> None:
        async with by_hand(host) as engine:
            await engine.begin(flow)
            changed.append(True)
            await engine.begin(flow, entries=list(engine.entries))
            (failed,) = engine.failed
            assert failed.failure.code is ErrorCode.NON_DETERMINISTIC_FLOW
            assert "sleep" in failed.failure.message and "wait_event" in failed.failure.message

    asyncio.run(main())


def test_a_step_that_is_never_awaited_is_named() -> None:
    host = stepwire.Host("kinds")

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        ctx.step.sleep("forgotten", 1)

    async def main() -> Failure | None:
        async with by_hand(host) as engine:
            await engine.begin(flow)
            assert engine.ended is not None
            return engine.ended.failure

    failure = asyncio.run(main())
    assert failure is not None and failure.code is ErrorCode.UNAWAITED_STEP and "forgotten" in failure.message


def test_a_flow_may_handle_what_a_step_fails_with() -> None:
    host = stepwire.Host("kinds")

    @host.flow
    async def flow(ctx: stepwire.Context) -> list[str]:
        try:
            await ctx.step.invoke("child", "other")
        except StepError as error:
            return [error.code.slug, error.path]
        return []

    async def main() -> None:
        async with by_hand(host) as engine:
            await engine.begin(flow)
            await engine.release({"child": Failure(ErrorCode.USER_ERROR, "ValueError", "no")})
            assert engine.output == ["user_error", "child"]

    asyncio.run(main())
