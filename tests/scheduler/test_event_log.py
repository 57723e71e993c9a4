"""The engine says one line per event, after its commit, with ids as fields; nothing of a step that goes well."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator

import pytest

import stepwire
from stepwire import logs, testing
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import HostSection, Result
from stepwire.protocol.plan import BodyEnded, Plan, RetryPolicy
from stepwire_engine.core.entries import RunState
from tests.scheduler.desk import INPUT, Desk, play, turns

EVENTS = "stepwire.engine.events"


class Said(logging.Handler):
    """What the engine says of events, as people see it: without the time, ids as <run>."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logs.TextFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)[9:]
        self.lines.append(re.sub(r"\b01[0-9a-z]{24}\b", "<run>", line))


@pytest.fixture(params=["INFO"])
def said(request: pytest.FixtureRequest) -> Iterator[Said]:
    handler = Said()
    events = logging.getLogger(EVENTS)
    events.addHandler(handler)
    events.setLevel(request.param)
    yield handler
    events.removeHandler(handler)
    events.setLevel(logging.NOTSET)


def test_retries_and_failures_have_a_line_and_what_goes_well_has_none(said: Said) -> None:
    host = stepwire.Host("shop")

    def charge(fails: bool) -> None:
        if fails:
            raise ValueError("a secret of users")

    @host.flow
    async def order(ctx: stepwire.Context, fails: bool) -> None:
        await ctx.step.run("pay", charge, False)
        await ctx.step.run("charge", charge, fails, retries=stepwire.Retry(max_attempts=2, delay=1.5, jitter=0))

    assert testing.run(host, order, False).succeeded
    assert said.lines == []
    assert not testing.run(host, order, True).succeeded
    assert said.lines == [
        'INFO  run  order <run> step charge attempt 1/2  retry in 1.5s err="user_error ValueError"',
        'INFO  run  order <run>  failed after 1.5s err="user_error ValueError"',
    ]


@pytest.mark.parametrize("said", ["DEBUG"], indirect=True)
def test_debug_says_when_runs_begin_and_end(said: Said) -> None:
    host = stepwire.Host("shop")

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        await ctx.step.run("a", int, 1)

    assert testing.run(host, order).succeeded
    assert said.lines == ["DEBUG run  order <run>  accepted", "DEBUG run  order <run>  succeeded after 0s"]


@pytest.mark.parametrize("said", ["WARNING"], indirect=True)
def test_a_lost_host_is_a_warning(said: Said) -> None:
    host = stepwire.Host("shop")

    @host.flow
    async def order(ctx: stepwire.Context) -> None: ...

    async def main() -> None:
        async with testing.environment(host) as env:
            await env.crash(host)

    asyncio.run(main())
    assert [re.sub(r"[0-9a-f]{32}", "<instance>", line) for line in said.lines] == [
        "WARNING host host shop lost (stream_end), instance <instance>"
    ]


def test_a_paused_run_has_a_line(said: Said) -> None:
    host = stepwire.Host("shop")
    lives: list[int] = []

    @host.flow
    async def order(ctx: stepwire.Context) -> None:
        lives.append(1)
        await ctx.step.run(f"step {len(lives)}", int, 1)

    testing.run(host, order, replay=True)
    assert said.lines == ['INFO  run  order <run>  paused err="non_deterministic_flow NonDeterministicFlow"']


def test_nothing_is_said_before_it_is_committed(said: Said) -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        run_id, _ = await desk.driver.runs.start("checkout", INPUT, "")
        await desk.driver.settled()
        fence = host.advances(run_id)[-1].fence
        desk.store.gated = True
        end = BodyEnded(failure=Failure(ErrorCode.USER_ERROR, "ValueError", "no"))
        host.say(HostSection(run_id, plans=[Plan(1, 0, fence, body_ended=end)]))
        await turns()
        assert said.lines == []
        desk.store.gated = False
        desk.store.let_through()
        await desk.driver.settled()
        assert [line.partition("<run>")[2][:9] for line in said.lines] == ["  failed "]

    play(scenario)


def test_an_attempt_that_fails_as_its_run_ends_has_its_line(said: Said) -> None:
    """What a run held is let go with its end, but not before everybody has said what they have to say of it."""

    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        run_id = await desk.start()
        fence = host.plan_closure(run_id, retry=RetryPolicy(delay=1.0, jitter=0.0))
        await desk.driver.settled()
        failed = Result("reserve", 1, fence, failure=Failure(ErrorCode.USER_ERROR, "ValueError", "no"))
        end = Plan(2, 0, fence, body_ended=BodyEnded(INPUT))
        host.say(HostSection(run_id, plans=[end], results=[failed]))
        await desk.driver.settled()
        assert await desk.state(run_id) is RunState.SUCCEEDED
        assert said.lines == [
            'INFO  run  checkout <run> step reserve attempt 1/4  retry in 1s err="user_error ValueError"'
        ]

    play(scenario)


@pytest.mark.parametrize("fails", [False, True])
def test_a_result_that_comes_after_the_end_was_decided_is_counted_and_acked(
    said: Said, fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its row is a commit of its own, behind the one that ends the run and lets go of its steps."""

    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        run_id = await desk.start()
        fence = host.plan_closure(run_id, retry=RetryPolicy(delay=1.0, jitter=0.0))
        await desk.driver.settled()
        desk.store.gated = True
        host.finish(run_id, fence, plan_seq=2)  # while `reserve` executes
        await turns()
        failure = Failure(ErrorCode.USER_ERROR, "ValueError", "no") if fails else None
        host.say(HostSection(run_id, results=[Result("reserve", 1, fence, None if fails else INPUT, failure)]))
        await turns()
        second = desk.store.waiting.pop()
        desk.store.let_through()
        await turns(10)
        desk.store.waiting.append(second)
        desk.store.gated = False
        desk.store.let_through()
        await desk.driver.settled()
        assert await desk.state(run_id) is RunState.SUCCEEDED
        assert host.acked == host.position
        assert len(said.lines) == fails
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

    play(scenario)
