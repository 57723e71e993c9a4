"""What a host does with its bodies and attempts when it drains: given back as soon as nothing of them runs here."""

from __future__ import annotations

import asyncio

import pytest

import stepwire
from stepwire import ConfigurationError, Context, ContextSync, Host
from stepwire.flow import FlowFunction
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import Execute, Purpose, RejectReason, StepOutcome
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import StepKind
from tests.sdk.gates import Gates, turns, until
from tests.sdk.host_desk import HostDesk, ran


async def until_given_back(desk: HostDesk) -> None:
    await until("the body is given back", lambda: desk.hear().given_back)


def test_a_body_that_waits_goes_at_once_and_its_code_is_told() -> None:
    async def scenario() -> None:
        host = Host("h")
        left: list[str] = []

        @host.flow
        async def flow(ctx: Context) -> None:
            try:
                await ctx.step.sleep("nap", "1h")
            finally:
                left.append("cleaned up")

        async with HostDesk(host) as desk:
            desk.start(flow)
            await desk.until_planned("nap")
            desk.runtime.drain()
            await until_given_back(desk)
            await turns(5)
            assert left == ["cleaned up"] and desk.failed == []

    asyncio.run(scenario())


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_a_body_stays_as_long_as_a_closure_of_it_runs(mode: str) -> None:
    async def scenario() -> None:
        host = Host("h")
        gates = Gates()

        async def slow() -> str:
            return str(await gates.wait("slow"))

        @host.flow(name="async")
        async def flow(ctx: Context) -> str:
            return await ctx.step.run("slow", slow)

        @host.flow(name="sync")
        def flow_sync(ctx: ContextSync) -> str:
            return ctx.step.run("slow", gates.wait_sync, "slow")

        async with HostDesk(host) as desk:
            desk.start(host.flows[mode])
            await desk.until_planned("slow")
            await until("it runs", lambda: gates.reached)
            desk.runtime.drain()
            await turns()
            assert desk.hear().given_back == []
            gates.open("slow")
            await until_given_back(desk)
            assert (await desk.until_result("slow")).failure is None
            assert desk.port.session.attempts == 0

    asyncio.run(scenario())


def test_a_body_that_comes_too_late_is_not_entered() -> None:
    async def scenario() -> None:
        host = Host("h")
        entered: list[str] = []

        @host.flow
        async def flow(ctx: Context) -> None:
            entered.append("entered")

        async with HostDesk(host) as desk:
            desk.runtime.drain()
            desk.start(flow)
            await until_given_back(desk)
            assert entered == []

    asyncio.run(scenario())


def test_a_step_that_its_body_has_yet_to_reach_is_refused() -> None:
    async def scenario() -> None:
        host = Host("h")
        gates = Gates()

        @host.flow
        async def flow(ctx: Context) -> None:
            await gates.wait("before")
            await ctx.step.run("late", lambda: None)

        async with HostDesk(host) as desk:
            desk.start(flow)
            await until("the body is entered", lambda: gates.reached)
            desk.say(executes=[Execute("late", 1, desk.next_fence(), StepKind.RUN, "", NULL)])
            desk.runtime.drain()
            await until("it is refused", lambda: desk.hear().rejects)
            assert [(r.path, r.reason) for r in desk.rejects] == [("late", RejectReason.DRAINING)]
            assert desk.port.session.attempts == 0

    asyncio.run(scenario())


def test_what_has_not_ended_is_told_to_stop_and_that_is_no_outcome() -> None:
    async def scenario() -> None:
        host = Host("h")
        gates = Gates()
        seen: list[bool] = []

        def patient() -> str:
            gates.wait_sync("patient")
            attempt = stepwire.current_attempt()
            assert attempt is not None
            seen.append(attempt.cancelled)
            return "half of it"

        @host.flow
        async def flow(ctx: Context) -> None:
            await ctx.group.parallel(
                (lambda: ctx.step.run("async", gates.wait, "never"), lambda: ctx.step.run("sync", patient))
            )

        async with HostDesk(host) as desk:
            desk.start(flow)
            await until("both run", lambda: len(gates.reached) == 2)
            desk.runtime.drain()
            desk.runtime.stop_attempts()
            gates.open("patient")
            for path in ("parallel/[0]/async", "parallel/[1]/sync"):
                result = await desk.until_result(path)
                assert result.failure is not None and result.failure.code is ErrorCode.CANCELLED
                assert result.failure.message.endswith("cancelled: drain")
            assert seen == [True]

    asyncio.run(scenario())


def undone(host: Host, gates: Gates) -> FlowFunction[..., None]:
    async def undo(taken: str) -> None:
        await gates.wait("undo")

    @host.flow
    async def flow(ctx: Context) -> None:
        await ctx.step.run("take", lambda: "taken", compensate=undo)
        raise ValueError("no")

    return flow


def test_a_body_that_is_kept_for_its_undos_goes_between_two_of_them() -> None:
    async def scenario() -> None:
        host = Host("h")
        gates = Gates()
        flow = undone(host, gates)
        async with HostDesk(host) as desk:
            ended = await desk.play(flow)
            assert ended.failure is not None and ran(desk.journal) == ["take"]
            desk.undo("take", b'"taken"')
            await until("the undo runs", lambda: gates.reached)
            desk.runtime.drain()
            await turns()
            assert desk.hear().given_back == []
            gates.open("undo")
            await until_given_back(desk)
            assert (await desk.until_result("take#undo")).failure is None

    asyncio.run(scenario())


def test_a_body_that_was_entered_to_be_undone_goes_as_well() -> None:
    async def scenario() -> None:
        host = Host("h")
        flow = undone(host, Gates())
        async with HostDesk(host) as desk:
            await desk.play(flow)
            desk.evict()
            desk.start(flow, desk.journal, purpose=Purpose.UNDO)
            await turns()
            desk.runtime.drain()
            await until_given_back(desk)

    asyncio.run(scenario())


def test_a_result_that_comes_while_it_leaves_is_released_to_whoever_has_the_body() -> None:
    async def scenario() -> None:
        host = Host("h")

        @host.flow
        async def flow(ctx: Context) -> int:
            return await ctx.step.run("one", lambda: 1) + await ctx.step.run("two", lambda: 2)

        async with HostDesk(host) as desk, HostDesk(host) as other:
            desk.start(flow)
            result = await desk.until_result("one")
            desk.journal += desk.plans
            desk.runtime.drain()
            await until_given_back(desk)
            desk.release(StepOutcome("one", result.output, None))
            await turns()
            assert [s.path for p in desk.hear().plans for s in p.steps] == ["one"], "the release is not for it any more"
            other.start(flow, desk.journal)
            assert (await other.until_result("two")).output == Payload(b"2")

    asyncio.run(scenario())


# ---- how long it may take


@pytest.mark.parametrize(
    ("environment", "seconds"), [("", 7.0), ("12", 12.0), ("1.5", 1.5), ("250ms", 0.25), (" 2m ", 120.0)]
)
def test_the_environment_wins_over_what_the_host_was_made_with(
    monkeypatch: pytest.MonkeyPatch, environment: str, seconds: float
) -> None:
    monkeypatch.setenv("STEPWIRE_DRAIN_TIMEOUT", environment)
    host = Host("h", drain_timeout="7s")
    assert host._drain_seconds(None) == seconds
    assert host._drain_seconds(3) == 3, "and what is said at the call over both"


@pytest.mark.parametrize("text", ["soon", "-1", "1 fortnight", "nan"])
def test_a_bad_drain_timeout_is_told(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("STEPWIRE_DRAIN_TIMEOUT", text)
    with pytest.raises(ConfigurationError):
        Host("h")._drain_seconds(None)
    with pytest.raises(ConfigurationError):
        Host("h", drain_timeout=text)


def test_a_bad_drain_timeout_is_told_before_anything_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWIRE_DRAIN_TIMEOUT", "soon")
    host = Host("h")
    host.step(undone)

    async def service() -> None:
        async with host.lifespan():
            raise AssertionError("it started")

    with pytest.raises(ConfigurationError):
        asyncio.run(service())
