"""What a flow says of itself beside its code: options, triggers, failure handlers, reserved names (MISSION T1, S21)."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from base64 import b64encode
from typing import Any

import msgspec
import pytest

import stepwire
from stepwire import Event, Trigger
from stepwire.codec import JSON_CODEC
from stepwire.errors import ConfigurationError
from stepwire.flow import FAILED_EVENT, RunFailure
from stepwire.protocol import frames, limits
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import FlowOptions
from stepwire.protocol.payload import Payload
from tests.sdk.by_hand import by_hand
from tests.sdk.gates import until

ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
AT = 1_700_000_000.5
PAID = {"id": "e1", "name": "order/paid", "at": AT, "data": {"order_id": 17}}


@dataclasses.dataclass
class Order:
    id: int


async def nothing(ctx: stepwire.Context) -> None: ...


# ---- options


def test_a_flow_without_options_says_nothing() -> None:
    host = stepwire.Host("options")
    host.flow(nothing)
    assert host.hello().flows == ("nothing",)
    assert host.hello().flow_options == ()


def test_options_stand_in_the_greeting() -> None:
    host = stepwire.Host("options")
    host.flow(name="plain")(nothing)
    host.flow(name="short", deadline="10m")(nothing)
    host.flow(name="careful", undo_on_cancel=True)(nothing)
    host.flow(name="one", on="order/paid")(nothing)
    host.flow(name="several", on=["a", Trigger("b", {"data.x": 1}), Trigger("c", "data.y > `1`")])(nothing)
    assert host.hello().flow_options == (
        FlowOptions("short", deadline=600.0),
        FlowOptions("careful", undo_on_cancel=True),
        FlowOptions("one", triggers=(frames.Trigger("order/paid"),)),
        FlowOptions(
            "several",
            triggers=(frames.Trigger("a"), frames.Trigger("b", "data.x == `1`"), frames.Trigger("c", "data.y > `1`")),
        ),
    )


def test_an_engine_that_would_ignore_the_options_is_refused() -> None:
    def needed(**options: Any) -> tuple[int, ...]:
        host = stepwire.Host("options")
        host.flow(**options)(nothing)
        return host.hello().required_features

    assert needed(name="plain") == ()
    assert needed(on="order/paid") == (1,)
    assert needed(deadline="1h") == needed(undo_on_cancel=True) == (2,)
    assert needed(on="order/paid", deadline="1h") == (1, 2)


@pytest.mark.parametrize(
    "options",
    [
        {"deadline": 0},
        {"deadline": "soon"},
        {"deadline": -1},
        {"on": ""},
        {"on": 17},
        {"on": [Trigger("a"), None]},
        {"on": ["e"] * (limits.TRIGGERS_PER_FLOW_MAX + 1)},
        {"name": "stepwire:mine"},
    ],
    ids=repr,
)
def test_bad_options_are_refused_where_the_flow_is_declared(options: dict[str, Any]) -> None:
    host = stepwire.Host("options")
    with pytest.raises(ConfigurationError):
        host.flow(**options)(nothing)
    assert host.flows == {}


def test_names_of_the_engine_are_not_for_steps_either() -> None:
    host = stepwire.Host("options")
    with pytest.raises(ConfigurationError, match="stepwire:"):
        host.step(name="stepwire:call")(lambda: None)
    assert host.steps == {}


# ---- started by events


@ASYNC
def test_the_event_is_the_input(is_async: bool) -> None:
    async def in_tasks(ctx: stepwire.Context, event: Event) -> list[Any]:
        return [event.name, event.id, event.data, event.at.timestamp() if event.at else None]

    def in_threads(ctx: stepwire.ContextSync, event: Event) -> list[Any]:
        return [event.name, event.id, event.data, event.at.timestamp() if event.at else None]

    async def main() -> None:
        host = stepwire.Host("options")
        flow = host.flow(name="flow", on="order/paid")(in_tasks if is_async else in_threads)
        async with by_hand(host) as engine:
            await engine.begin(flow, PAID)
            await until("the flow ended", lambda: engine.ended)
            assert engine.output == ["order/paid", "e1", {"order_id": 17}, AT]

    asyncio.run(main())


def test_without_annotation_the_event_is_plain() -> None:
    async def main() -> None:
        host = stepwire.Host("options")

        @host.flow(on="order/paid")
        async def flow(ctx: stepwire.Context, event: dict[str, Any]) -> Any:
            return event

        async with by_hand(host) as engine:
            await engine.begin(flow, PAID)
            assert engine.output == PAID

    asyncio.run(main())


class Secret(msgspec.Struct):
    """A codec that writes an encoding of its own."""

    def encode(self, value: Any, type: Any = Any) -> Payload:
        return self._hidden(JSON_CODEC.encode(value, type))

    def decode(self, payload: Payload, type: Any = Any) -> Any:
        assert payload.encoding == "reversed", f"this codec does not read {payload.encoding!r}"
        return JSON_CODEC.decode(Payload(payload.data[::-1]), type)

    def round_trip(self, value: Any, type: Any = Any) -> tuple[Payload, Any]:
        payload, back = JSON_CODEC.round_trip(value, type)
        return self._hidden(payload), back

    def _hidden(self, payload: Payload) -> Payload:
        return Payload(payload.data[::-1], "reversed")


def test_the_engine_writes_events_without_the_codec_of_the_flow() -> None:
    """A run started by a client and one started by an event both find their way in."""
    host = stepwire.Host("options", codec=Secret())

    @host.flow(on="order/paid")
    async def flow(ctx: stepwire.Context, event: Event) -> str:
        return event.name

    by_event = Payload(json.dumps(PAID).encode())
    by_client = flow.encode_input(Event("by/client"))
    assert by_client.encoding == "reversed"
    assert [flow.decode_input(payload)[0].name for payload in (by_event, by_client)] == ["order/paid", "by/client"]


def test_a_restart_of_a_flow_with_events() -> None:
    """`restart_with` takes what the annotation says, here an Event."""

    async def main() -> None:
        host = stepwire.Host("options")

        @host.flow(on="order/paid")
        async def flow(ctx: stepwire.Context, event: Event) -> None:
            ctx.restart_with(dataclasses.replace(event, data="again"))

        async with by_hand(host) as engine:
            await engine.begin(flow, PAID)
            assert engine.ended is not None and engine.ended.restart is not None
            (event,) = flow.decode_input(engine.ended.restart)
            assert (event.data, event.at.timestamp()) == ("again", AT)

    asyncio.run(main())


# ---- failure handlers

WHY = {"code": "user_error", "type": "ValueError", "message": "no", "traceback": "Traceback"}
FAILURE = Failure(ErrorCode.USER_ERROR, "ValueError", "no", "Traceback")


def told(input: Any) -> dict[str, Any]:
    """The event that a run of `orders` failed."""
    data = {"run_id": "r1", "flow": "orders", "input": input, "failure": WHY}
    return {"id": "e1", "name": FAILED_EVENT, "at": AT, "data": data}


def orders(host: stepwire.Host) -> Any:
    @host.flow(name="orders")
    async def flow(ctx: stepwire.Context, order: Order) -> None: ...

    return flow


def test_a_handler_is_a_flow_of_its_own() -> None:
    host = stepwire.Host("options")

    def handler(failed: RunFailure) -> None: ...

    assert orders(host).on_failure(handler) is handler
    assert host.hello().flows == ("orders", "orders.on_failure")
    assert host.hello().flow_options == (
        FlowOptions("orders.on_failure", triggers=(frames.Trigger(FAILED_EVENT, 'data.flow == `"orders"`'),)),
    )


@pytest.mark.parametrize("registered", [False, True], ids=["closure", "registered"])
@ASYNC
def test_a_handler_of_one_argument_is_one_step(is_async: bool, registered: bool) -> None:
    got: list[RunFailure] = []

    async def handler(failed: RunFailure) -> None:
        got.append(failed)

    def handler_sync(failed: RunFailure) -> None:
        got.append(failed)

    async def main() -> None:
        host = stepwire.Host("options")
        made: Any = handler if is_async else handler_sync
        orders(host).on_failure(host.step(made) if registered else made)
        async with by_hand(host) as engine:
            await engine.begin(host.flows["orders.on_failure"], told({"id": 7}))
            await until("it ran", lambda: engine.results)
            (step,) = engine.steps.values()
            assert (step.path, step.retry) == ("on_failure", None), "with the default retries"
            assert engine.results[0].failure is None

    asyncio.run(main())
    input = {"id": 7} if registered else Order(7)
    assert got == [RunFailure("r1", "orders", input, FAILURE)]


@ASYNC
def test_a_handler_of_two_arguments_is_a_flow_body(is_async: bool) -> None:
    async def in_tasks(ctx: stepwire.Context, failed: RunFailure) -> str:
        await ctx.step.sleep("first", 1)
        return failed.failure.message

    def in_threads(ctx: stepwire.ContextSync, failed: RunFailure) -> str:
        ctx.step.sleep("first", 1)
        return failed.failure.message

    async def main() -> None:
        host = stepwire.Host("options")
        orders(host).on_failure(in_tasks if is_async else in_threads)
        async with by_hand(host) as engine:
            await engine.begin(host.flows["orders.on_failure"], told({"id": 7}))
            await engine.release({"first": None})
            await until("the flow ended", lambda: engine.ended)
            assert engine.output == "no"

    asyncio.run(main())


@pytest.mark.parametrize("given", [{"id": "not a number"}, None, [1]], ids=repr)
def test_an_input_that_never_fitted_comes_as_it_is(given: Any) -> None:
    """Perhaps it is why the run failed."""

    async def main() -> None:
        host = stepwire.Host("options")
        got: list[Any] = []

        async def handler(ctx: stepwire.Context, failed: RunFailure) -> None:
            got.append(failed.input)

        orders(host).on_failure(handler)
        async with by_hand(host) as engine:
            await engine.begin(host.flows["orders.on_failure"], told(given))
            assert got == [given]

    asyncio.run(main())


def test_an_input_in_an_encoding_of_its_own_is_read_with_the_codec_of_the_flow() -> None:
    async def main() -> None:
        host = stepwire.Host("options", codec=Secret())
        got: list[Any] = []

        async def handler(ctx: stepwire.Context, failed: RunFailure) -> None:
            got.append(failed.input)

        flow = orders(host)
        flow.on_failure(handler)
        sealed = flow.encode_input(Order(7))
        given = {"encoding": sealed.encoding, "base64": b64encode(sealed.data).decode()}
        async with by_hand(host) as engine:
            await engine.begin(host.flows["orders.on_failure"], told(given))
        assert got == [Order(7)]

    asyncio.run(main())


@pytest.mark.parametrize("bad", [lambda: None, lambda a, b, c: None, "handler"], ids=["none", "three", "text"])
def test_what_cannot_handle_failures_is_refused(bad: Any) -> None:
    host = stepwire.Host("options")
    with pytest.raises(ConfigurationError):
        orders(host).on_failure(bad)
    assert list(host.flows) == ["orders"]


def test_a_flow_has_one_handler() -> None:
    host = stepwire.Host("options")
    flow = orders(host)
    flow.on_failure(lambda failed: None)
    with pytest.raises(ConfigurationError, match="twice"):
        flow.on_failure(lambda failed: None)


def test_a_handler_has_no_handler() -> None:
    """The engine never tells of its failure, so nothing would call it."""
    host = stepwire.Host("options")
    orders(host).on_failure(lambda failed: None)
    with pytest.raises(ConfigurationError):
        host.flows["orders.on_failure"].on_failure(lambda failed: None)


def test_a_name_with_quotes_matches_itself() -> None:
    """Names of flows are free text; the trigger quotes them."""
    import jmespath

    host = stepwire.Host("options")
    name = 'it\'s `quoted` "twice"'

    @host.flow(name=name)
    async def flow(ctx: stepwire.Context) -> None: ...

    flow.on_failure(lambda failed: None)
    (options,) = host.hello().flow_options
    match = options.triggers[0].match
    assert jmespath.search(match, {"data": {"flow": name}}) is True
    assert jmespath.search(match, {"data": {"flow": "other"}}) is False
