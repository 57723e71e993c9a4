"""`stepwire.testing` itself: stubs, the virtual clock, and a run that nothing can move (MISSION V6)."""

from __future__ import annotations

import asyncio
import time

import pytest

import stepwire
from stepwire import Retry, testing
from stepwire._transport.local import LocalLink
from stepwire._transport.port import SessionPort
from stepwire._transport.session import HostSession
from stepwire.protocol.frames import EngineFrame, Hello, HostFrame
from tests.sdk.gates import turns

REPLAY = pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])


@REPLAY
def test_stubs(replay: bool) -> None:
    host = stepwire.Host("stubbed")
    calls: list[object] = []

    @host.step(retries=0)
    def charge(amount: int) -> str:
        raise AssertionError("the real one")

    def real() -> str:
        raise AssertionError("the real one")

    @host.flow
    async def flow(ctx: stepwire.Context) -> list[str]:
        found = [await ctx.step.run("value", real), await ctx.step.run("callable", real)]
        found.append(await ctx.step.run("charge", charge, 7))
        try:
            await ctx.step.run("raises", real, retries=0)
        except stepwire.StepError as error:
            found.append(error.message)
        return found

    def charged(amount: int) -> str:
        calls.append(amount)
        return f"charged {amount}"

    stubs = {"value": "v", "callable": lambda: "c", "charge": charged, "raises": ValueError("stub")}
    assert testing.run(host, flow, replay=replay, stubs=stubs).output == ["v", "c", "charged 7", "stub"]
    assert calls == [7]


def test_stub_outputs_are_encoded_as_well() -> None:
    host = stepwire.Host("stubbed")

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("value", lambda: 1)

    with pytest.raises(stepwire.RunFailed, match="not portable"):
        _ = testing.run(host, flow, stubs={"value": object()}).output


def test_backoffs_cost_no_time() -> None:
    host = stepwire.Host("clock")

    @host.flow
    async def flow(ctx: stepwire.Context) -> str:
        failed: list[int] = []

        def flaky() -> str:
            if len(failed) < 5:
                failed.append(1)
                raise ValueError
            return ctx.run_id

        before = ctx.now()
        await ctx.step.run("flaky", flaky, retries=Retry(retries=5, backoff="fixed", delay="7d", cap="7d", jitter=0))
        return str(ctx.now() - before)

    began = time.monotonic()
    assert testing.run(host, flow).output == "35 days, 0:00:00"
    assert time.monotonic() - began < 5


def test_run_that_nothing_can_move() -> None:
    """A step that no host serves is said so, instead of a hang."""
    host, elsewhere = stepwire.Host("here"), stepwire.Host("elsewhere")

    @elsewhere.step
    def remote() -> None: ...

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("remote", remote)

    with pytest.raises(testing.Stuck, match="remote"):
        testing.run(host, flow)


def test_two_hosts() -> None:
    """A registered step runs where it is served."""
    flows, steps = stepwire.Host("flows"), stepwire.Host("steps")

    @steps.step
    def remote(n: int) -> int:
        return n + 1

    @flows.flow
    async def flow(ctx: stepwire.Context) -> list[int]:
        return list(await ctx.group.parallel([lambda i=i: ctx.step.run(f"s{i}", remote, i) for i in range(3)]))

    async def main() -> None:
        async with testing.environment(flows, steps) as env:
            run = await env.execute(flow)
            assert run.output == [1, 2, 3]
            assert {a.host for s in run.record.steps for a in s.attempts} == {"steps"}

    asyncio.run(main())


def test_same_id_same_run() -> None:
    host = stepwire.Host("ids")
    calls: list[int] = []

    @host.flow
    async def flow(ctx: stepwire.Context, n: int) -> int:
        return await ctx.step.run("s", lambda: calls.append(n) or n)

    async def main() -> None:
        async with testing.environment(host) as env:
            first = await env.execute(flow, 1, id="order-17")
            again = await env.execute(flow, 1, id="order-17")
            assert first.record.run_id == again.record.run_id
            assert calls == [1]

    asyncio.run(main())


class SilentEngine:
    """Welcomes nobody; the test sends frames itself."""

    def connect(self, hello: Hello, port: LocalLink) -> object:
        return object()

    def receive(self, stream: object, frame: HostFrame) -> None: ...

    def disconnected(self, stream: object) -> None: ...


def test_frames_of_a_broken_stream_never_arrive() -> None:
    """A stale Ack would make the host forget frames that its new Hello has just named as kept."""

    async def main() -> list[EngineFrame]:
        arrived: list[EngineFrame] = []
        port = SessionPort(HostSession(stepwire.Host("link").hello()), time.monotonic)
        loop = asyncio.get_running_loop()
        link = LocalLink(SilentEngine(), port, loop, lambda frame, _: arrived.append(frame))
        link.start()
        link.send(EngineFrame(number=1))
        link.cut()
        link.start()
        await turns()
        return arrived

    assert asyncio.run(main()) == []
