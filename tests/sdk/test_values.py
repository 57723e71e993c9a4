"""Inputs and outputs: typed by annotation, equal live and replayed, never aliased, bounded (MISSION P14, S23, 1.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, TypedDict
from uuid import UUID

import msgspec
import pytest

import stepwire
from stepwire import testing
from stepwire.protocol.failure import ErrorCode
from stepwire.testing import TestRun
from stepwire_engine.core.config import CoreConfig

REPLAY = pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])


class Colour(Enum):
    RED = "red"


@dataclass
class Line:
    article: str
    price: Decimal
    tags: set[str] = field(default_factory=set)


class Order(msgspec.Struct):
    id: UUID
    lines: list[Line]
    at: datetime
    colour: Colour = Colour.RED


class Address(TypedDict):
    street: str
    since: date


VALUES: list[tuple[Any, Any]] = [
    (Line, Line("tea", Decimal("3.50"), {"hot"})),
    (Order, Order(UUID(int=7), [Line("tea", Decimal(1))], datetime(2026, 1, 2, tzinfo=UTC))),
    (Address, {"street": "Rue", "since": date(2020, 2, 29)}),
    (datetime, datetime(2026, 5, 17, 12, 30, 1, 250, tzinfo=UTC)),
    (timedelta, timedelta(hours=1, microseconds=3)),
    (tuple[int, str], (1, "a")),
    (dict[int, str], {1: "a"}),
    (set[int], {1, 2}),
    (bytes, b"\x00\xff"),
    (Line | None, None),
    (Any, {"a": [1, 2.5, None, True, "ü"]}),
]


@REPLAY
@ASYNC
@pytest.mark.parametrize(
    ("annotation", "value"), VALUES, ids=lambda v: getattr(v, "__name__", None) or type(v).__name__
)
def test_round_trip(annotation: Any, value: Any, is_async: bool, replay: bool) -> None:
    """Flow input, input and output of a registered step, output of a closure, output of the flow."""
    host = stepwire.Host("values")
    seen: list[Any] = []

    def closure():  # type: ignore[no-untyped-def]
        return value

    def registered(given):  # type: ignore[no-untyped-def]
        seen.append(given)
        return given

    async def in_tasks(ctx, given):  # type: ignore[no-untyped-def]
        seen.append(given)
        seen.append(await ctx.step.run("closure", closure))
        seen.append(await ctx.step.run("task", step, given))
        return given

    def in_threads(ctx, given):  # type: ignore[no-untyped-def]
        seen.append(given)
        seen.append(ctx.step.run("closure", closure))
        seen.append(ctx.step.run("task", step, given))
        return given

    closure.__annotations__ = {"return": annotation}
    for fn in (registered, in_tasks, in_threads):
        fn.__annotations__ = {"given": annotation, "return": annotation}
    step = host.step(registered)
    flow = host.flow(in_tasks if is_async else in_threads)
    run = testing.run(host, flow, value, replay=replay)
    assert run.output == value
    assert len(seen) >= 4
    for got in [*seen, run.output]:
        assert got == value
        assert type(got) is type(value)
        if isinstance(value, list | dict | set | Line | Order):
            assert got is not value, "user code gets a value decoded from the stored bytes"


@REPLAY
@ASYNC
def test_values_are_not_aliased(is_async: bool, replay: bool) -> None:
    """What a step or flow does to a value never shows elsewhere."""
    host = stepwire.Host("values")
    kept: list[Any] = [1]

    def give() -> list[Any]:
        return kept

    @host.step
    def grow(items: list[Any]) -> list[Any]:
        items.append("step")
        return items

    async def in_tasks(ctx: stepwire.Context) -> list[Any]:
        first = await ctx.step.run("give", give)
        first.append("flow")
        second = await ctx.step.run("give", give)
        third = await ctx.step.run("grow", grow, second)
        return [first, second, third]

    def in_threads(ctx: stepwire.ContextSync) -> list[Any]:
        first = ctx.step.run("give", give)
        first.append("flow")
        second = ctx.step.run("give", give)
        third = ctx.step.run("grow", grow, second)
        return [first, second, third]

    run = testing.run(host, host.flow(in_tasks if is_async else in_threads), replay=replay)
    assert run.output == [[1, "flow"], [1], [1, "step"]]
    assert kept == [1]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ((1, 2), [1, 2]),
        ({7}, [7]),
        (Line("tea", Decimal("3.50")), {"article": "tea", "price": "3.50", "tags": []}),
        (date(2026, 1, 2), "2026-01-02"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"a", "YQ=="),
    ],
    ids=lambda v: type(v).__name__,
)
def test_without_an_annotation_values_are_plain_json(value: Any, plain: Any) -> None:
    """The same live and replayed: the live value is decoded from the stored bytes, too."""
    seen: list[Any] = []
    host = stepwire.Host("values")

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        seen.append(await ctx.step.run("plain", lambda: value))
        await ctx.step.run("next", lambda: 1)

    for replay in (False, True):
        seen.clear()
        assert testing.run(host, flow, replay=replay).succeeded
        assert seen == [plain] * len(seen) and seen


# ---- inputs


def flow_run(body: Callable[..., Any], *args: Any, config: CoreConfig | None = None) -> TestRun:
    host = stepwire.Host("values")
    return testing.run(host, host.flow(name="flow")(body), *args, config=config)


@ASYNC
def test_input_that_does_not_fit(is_async: bool) -> None:
    """Typed failure, zero steps (S23); another service may have started the run, so its SDK could not check."""
    host = stepwire.Host("values")
    untyped = stepwire.Host("elsewhere")
    ran: list[str] = []

    async def in_tasks(ctx: stepwire.Context, order: Line) -> None:
        await ctx.step.run("s", ran.append, "s")

    def in_threads(ctx: stepwire.ContextSync, order: Line) -> None:
        ctx.step.run("s", ran.append, "s")

    flow = host.flow(name="flow")(in_tasks if is_async else in_threads)
    loose = untyped.flow(name="flow")(lambda ctx, order: None)

    async def main() -> TestRun:
        async with testing.environment(host) as env:
            return await env.execute(loose, {"article": "tea", "price": "cheap"})

    run = asyncio.run(main())
    assert run.failure is not None
    assert run.failure.code is ErrorCode.INVALID_INPUT
    assert "price" in run.failure.message and "Line" in run.failure.message
    assert run.record.steps == () and ran == []
    with pytest.raises(stepwire.InvalidInput, match="price"):
        flow.encode_input({"article": "tea", "price": "cheap"})


def test_argument_of_a_registered_step_that_does_not_fit() -> None:
    host = stepwire.Host("values")
    ran: list[int] = []

    @host.step
    def double(n: int) -> int:
        ran.append(n)
        return 2 * n

    @host.flow
    async def flow(ctx: stepwire.Context) -> list[str]:
        found = []
        for args in (("two",), (), (1, 2)):
            try:
                await ctx.step.run("double", double, *args)
            except stepwire.InvalidInput as error:
                found.append(error.code.slug)
        return [*found, str(await ctx.step.run("double", double, 2))]

    run = testing.run(host, flow)
    assert run.output == ["invalid_input"] * 3 + ["4"]
    assert ran == [2]
    assert [s.path for s in run.record.steps] == ["double"], "a refused call is no occurrence"


@ASYNC
def test_flow_without_input_and_with_a_default(is_async: bool) -> None:
    host = stepwire.Host("values")

    if is_async:

        @host.flow(name="none")
        async def none(ctx: stepwire.Context) -> str:
            return "none"

        @host.flow(name="default")
        async def default(ctx: stepwire.Context, n: int = 7) -> int:
            return n

        @host.flow(name="optional")
        async def optional(ctx: stepwire.Context, n: int | None) -> int | None:
            return n
    else:

        @host.flow(name="none")
        def none(ctx: stepwire.ContextSync) -> str:
            return "none"

        @host.flow(name="default")
        def default(ctx: stepwire.ContextSync, n: int = 7) -> int:
            return n

        @host.flow(name="optional")
        def optional(ctx: stepwire.ContextSync, n: int | None) -> int | None:
            return n

    async def main() -> list[Any]:
        async with testing.environment(host) as env:
            return [
                await env.run(none),
                await env.run(default),
                await env.run(default, 8),
                await env.run(optional, None),
                await env.run(optional, 0),
            ]

    assert asyncio.run(main()) == ["none", 7, 8, None, 0]
    with pytest.raises(stepwire.InvalidInput, match="takes no input"):
        host.flows["none"].encode_input(1)


# ---- outputs that do not survive


class Opaque:
    pass


def loop() -> list[Any]:
    knot: list[Any] = []
    knot.append(knot)
    return knot


UNSERIALISABLE: list[tuple[str, Callable[[], Any]]] = [
    ("object", lambda: Opaque()),
    ("nested object", lambda: {"a": [Opaque()]}),
    ("nan", lambda: float("nan")),
    ("infinity", lambda: [1.0, float("inf")]),
    ("int keys", lambda: {1: "a"}),
    ("long int", lambda: 2**64),
    ("surrogate", lambda: "\ud800"),
    ("knot", loop),
    ("function", lambda: len),
]


@REPLAY
@pytest.mark.parametrize("value", [v for _, v in UNSERIALISABLE], ids=[n for n, _ in UNSERIALISABLE])
def test_unserialisable_output_of_a_step(value: Callable[[], Any], replay: bool) -> None:
    """Named, not retried, catchable, and the next step runs (1.3)."""
    host = stepwire.Host("values")
    calls: list[int] = []

    @host.flow
    async def flow(ctx: stepwire.Context) -> str:
        def step() -> Any:
            calls.append(1)
            return value()

        try:
            await ctx.step.run("bad", step)
        except stepwire.errors.OutputUnserializable as error:
            assert error.code is ErrorCode.OUTPUT_UNSERIALIZABLE
            assert error.path == "bad"
        else:
            return "passed"
        return await ctx.step.run("good", lambda: "good")

    run = testing.run(host, flow, replay=replay)
    assert run.output == "good"
    assert calls == [1], "not retried"


@ASYNC
def test_unserialisable_output_of_a_flow(is_async: bool) -> None:
    async def in_tasks(ctx: stepwire.Context) -> Any:
        return Opaque()

    def in_threads(ctx: stepwire.ContextSync) -> Any:
        return Opaque()

    run = flow_run(in_tasks if is_async else in_threads)
    assert run.failure is not None and run.failure.code is ErrorCode.OUTPUT_UNSERIALIZABLE


def test_output_that_does_not_fit_its_annotation() -> None:
    async def flow(ctx: stepwire.Context) -> Any:
        def wrong() -> int:
            return "text"  # type: ignore[return-value]

        return await ctx.step.run("wrong", wrong)

    run = flow_run(flow)
    assert run.failure is not None and run.failure.code is ErrorCode.OUTPUT_UNSERIALIZABLE
    assert "does not fit int" in run.failure.message
    assert len(run.record.steps[0].attempts) == 1


# ---- limits

LIMIT = 1000
SMALL = CoreConfig(payload_bytes_max=LIMIT, steps_per_run_max=20, branches_per_group_max=10, group_depth_max=3)


def text_of(payload_bytes: int) -> str:
    return "x" * (payload_bytes - 2)


@ASYNC
@pytest.mark.parametrize(("size", "fits"), [(LIMIT, True), (LIMIT + 1, False)])
def test_output_limit_of_a_step(size: int, fits: bool, is_async: bool) -> None:
    calls: list[int] = []

    def big() -> str:
        calls.append(1)
        return text_of(size)

    async def in_tasks(ctx: stepwire.Context) -> int:
        return len(await ctx.step.run("big", big))

    def in_threads(ctx: stepwire.ContextSync) -> int:
        return len(ctx.step.run("big", big))

    run = flow_run(in_tasks if is_async else in_threads, config=SMALL)
    assert calls == [1], "not retried"
    if fits:
        assert run.output == size - 2
    else:
        assert run.failure is not None and run.failure.code is ErrorCode.PAYLOAD_TOO_LARGE
        assert "'big'" in run.failure.message and f"{size} bytes, limit {LIMIT}" in run.failure.message


@pytest.mark.parametrize(("size", "fits"), [(LIMIT, True), (LIMIT + 1, False)])
def test_output_limit_of_a_flow(size: int, fits: bool) -> None:
    async def flow(ctx: stepwire.Context) -> str:
        return text_of(size)

    run = flow_run(flow, config=SMALL)
    assert run.succeeded is fits
    if not fits:
        assert run.failure is not None and run.failure.code is ErrorCode.PAYLOAD_TOO_LARGE


@pytest.mark.parametrize(("size", "fits"), [(LIMIT, True), (LIMIT + 1, False)])
def test_input_limit_of_a_registered_step(size: int, fits: bool) -> None:
    host = stepwire.Host("values")
    wrapping = len(b'[[""],{}]')

    @host.step
    def measure(text: str) -> int:
        return len(text)

    @host.flow
    async def flow(ctx: stepwire.Context) -> int:
        return await ctx.step.run("measure", measure, "x" * (size - wrapping))

    run = testing.run(host, flow, config=SMALL)
    assert run.succeeded is fits
    if not fits:
        assert run.failure is not None and run.failure.code is ErrorCode.PAYLOAD_TOO_LARGE
        assert run.record.steps == (), "refused at the call, before anything was planned"


@ASYNC
@pytest.mark.parametrize(("steps", "fits"), [(20, True), (21, False)])
def test_steps_per_run(steps: int, fits: bool, is_async: bool) -> None:
    ran: list[int] = []

    async def in_tasks(ctx: stepwire.Context) -> int:
        for i in range(steps):
            await ctx.step.run("s", ran.append, i)
        return steps

    def in_threads(ctx: stepwire.ContextSync) -> int:
        for i in range(steps):
            ctx.step.run("s", ran.append, i)
        return steps

    run = flow_run(in_tasks if is_async else in_threads, config=SMALL)
    assert len(ran) == 20
    assert run.succeeded is fits
    if not fits:
        assert run.failure is not None
        assert (run.failure.code, run.failure.message) == (ErrorCode.LIMIT_EXCEEDED, "run exceeds 20 steps")


@ASYNC
@pytest.mark.parametrize(("branches", "fits"), [(10, True), (11, False)])
def test_branches_per_group(branches: int, fits: bool, is_async: bool) -> None:
    async def in_tasks(ctx: stepwire.Context) -> int:
        return len(await ctx.group.parallel([lambda: None] * branches))  # type: ignore[list-item]

    def in_threads(ctx: stepwire.ContextSync) -> int:
        return len(ctx.group.parallel([lambda: None] * branches))

    run = flow_run(in_tasks if is_async else in_threads, config=SMALL)
    assert run.succeeded is fits
    if not fits:
        assert run.failure is not None and run.failure.code is ErrorCode.LIMIT_EXCEEDED
        assert run.record.groups == ()


@ASYNC
@pytest.mark.parametrize(("depth", "fits"), [(3, True), (4, False)])
def test_group_depth(depth: int, fits: bool, is_async: bool) -> None:
    async def in_tasks(ctx: stepwire.Context) -> Any:
        async def nest(left: int) -> int:
            return 1 + (await ctx.group.parallel((lambda: nest(left - 1),)))[0] if left else 0

        return await nest(depth)

    def in_threads(ctx: stepwire.ContextSync) -> Any:
        def nest(left: int) -> int:
            return 1 + ctx.group.parallel((lambda: nest(left - 1),))[0] if left else 0

        return nest(depth)

    run = flow_run(in_tasks if is_async else in_threads, config=SMALL)
    assert run.succeeded is fits
    failure = run.failure
    while failure is not None and failure.cause is not None:
        failure = failure.cause
    assert fits or (failure is not None and failure.code is ErrorCode.LIMIT_EXCEEDED)


def test_limit_can_be_caught_in_the_flow() -> None:
    async def flow(ctx: stepwire.Context) -> str:
        try:
            await ctx.step.run("big", lambda: text_of(LIMIT + 1))
        except stepwire.errors.PayloadTooLarge:
            return await ctx.step.run("small", lambda: "small")
        return ""

    assert flow_run(flow, config=SMALL).output == "small"
