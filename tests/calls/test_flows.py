"""`ctx.step.call` from a flow to a server and back, in the test environment (MISSION S16, U4)."""

from __future__ import annotations

import asyncio

import pytest

import stepwire
from stepwire import testing
from tests.calls.desk import play
from tests.calls.sites import Request, Visit, answering, site


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
def test_a_flow_calls_a_server(replay: bool) -> None:
    host = stepwire.Host("orders")

    @host.flow
    async def pay(ctx: stepwire.Context, url: str) -> list[object]:
        paid = await ctx.step.call("pay", url, method="POST", headers={"X-Order": "17"}, json={"total": 5})
        kept = await ctx.step.run("keep", lambda: paid.status)
        return [kept, paid.headers["content-type"], paid.json()]

    async def scenario() -> None:
        async with site(answering("Content-Type: application/json\nContent-Length: 11", b'{"paid":17}')) as shop:
            async with testing.environment(host, replay=replay) as env:
                assert await env.run(pay, shop.url()) == [200, "application/json", {"paid": 17}]
            (request,) = shop.requests
            assert (request.body, request.header("x-order")) == (b'{"total":5}', ["17"])

    play(scenario)


def test_the_virtual_clock_waits_for_calls() -> None:
    host = stepwire.Host("orders")

    @host.flow
    async def race(ctx: stepwire.Context, url: str) -> str:
        async def call() -> str:
            return (await ctx.step.call("call", url)).text

        async def sleep() -> str:
            await ctx.step.sleep("a day", "24h")
            return "slept"

        return (await ctx.group.race((call, sleep))).value

    async def scenario() -> None:
        async def slow(_: Request, visit: Visit) -> None:
            for _turn in range(200):
                await asyncio.sleep(0.0005)  # gate: an answer that takes longer than idleness is looked for
            await visit.say(answer(b"answered"))

        async with site(slow) as shop, testing.environment(host) as env:
            assert await env.run(race, shop.url()) == "answered"

    play(scenario)


def test_a_call_that_gets_no_answer_is_tried_again_and_its_error_says_why() -> None:
    host = stepwire.Host("orders")

    @host.flow
    async def pay(ctx: stepwire.Context, url: str) -> str:
        try:
            return (await ctx.step.call("pay", url, retries=2)).text
        except stepwire.StepError as error:
            return str(error)

    async def scenario() -> None:
        async def nothing(_: Request, visit: Visit) -> None:
            pass

        async with site(nothing) as shop, testing.environment(host) as env:
            said = await env.run(pay, shop.url())
            assert "RemoteProtocolError" in said
            assert len(shop.requests) == 3
            said = await env.run(pay, "http://169.254.169.254/latest/meta-data")
            assert "cloud metadata; the engine calls it only if its setting call_allow says so" in said

    play(scenario)
