"""Whatever peers send wrongly has one answer: status, code, message; and the next good call succeeds (MISSION P14).

`HOST_ROWS` and `CLIENT_ROWS` are the bad-input list of the design, as far as it concerns sessions,
runs and payloads. Rows that need more than one engine in this process stand in `ELSEWHERE` with the test that plays
them. What does not exist yet (tokens, namespaces, TLS, the browser) has no row.
"""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from stepwire.protocol import limits
from stepwire.protocol.frames import AttemptInProgress, HostFrame, HostSection, Reject, RejectReason, Report, Result
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import FailPolicy, Fence, GroupOpened, Plan
from stepwire.protocol.wire import encode_host_frame
from stepwire.v1 import host_service_pb2
from stepwire.v1 import run_service_pb2 as pb
from stepwire_engine.core.entries import RunState
from stepwire_engine.transport.host_service import StreamBounds
from tests.transport.bad_calls import CLIENT_ROWS
from tests.transport.bad_hosts import HOST_ROWS, Row
from tests.transport.bench import CONFIG
from tests.transport.whole_engine import WholeEngine, whole_engine, with_instance

S = grpc.StatusCode
TESTS = Path(__file__).parents[1]


ELSEWHERE = {
    "run state, steps or journal over the cap": "core/test_plan_check.py",
    "group: too many members, quorum beyond them": "core/test_plan_check.py",
    "slow consumer": "transport/test_host_service.py",
    "NaN, surrogates, duplicate keys, depth, integers of the SDK": "unit/test_codec.py",
    "unexpected exception": "transport/test_bad_input_canary.py",
    "every message in every state": "session/test_every_message.py",
    "malformed protobuf, by chance": "protocol/test_wire_refusals.py",
    "the same with processes": "e2e/test_bad_input.py",
}
"""Rows that are played by another file."""


def serve(play: Callable[[WholeEngine], Awaitable[None]], **how: Any) -> None:
    async def main() -> None:
        async with whole_engine(**how) as engine:
            await play(engine)

    asyncio.run(main())


@pytest.mark.parametrize("row", [pytest.param(row, id=row.what) for row in [*HOST_ROWS, *CLIENT_ROWS]])
def test_bad_input_is_answered_as_listed_and_the_next_good_call_succeeds(row: Row) -> None:
    async def play(engine: WholeEngine) -> None:
        if row.serves_on:
            await known_flow(engine)
        answer = await row.play(engine)
        assert (answer.status, answer.code) == (row.status, row.code), answer
        assert row.message in answer.message
        assert "Traceback" not in answer.everything and "Error(" not in answer.message
        if row.serves_on:
            await engine.check_serves()

    serve(play, bounds=row.bounds, sessions_max=row.sessions_max)


async def known_flow(engine: WholeEngine) -> None:
    """The flow "checkout" is registered, by a host that has gone."""
    host = engine.host(with_instance("before"))
    await host.greet()
    await host.call.done_writing()
    await host.status()


def test_rows_that_are_played_elsewhere_are_there() -> None:
    for where in ELSEWHERE.values():
        tree = ast.parse((TESTS / where).read_text())
        assert any(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in tree.body), where


# ---- what is wrong and costs no stream


def test_an_output_over_the_limit_fails_its_step_and_the_stream_stays() -> None:
    async def play(engine: WholeEngine) -> None:
        host = engine.host()
        await host.greet()
        run_id = await engine.start()
        _, advance = await host.advance()
        await host.plan_one_step(run_id, advance.fence)
        size = CONFIG.payload_bytes_max + 1
        await host.say(HostSection(run_id, results=[Result("reserve", 1, advance.fence, Payload(bytes(size)))]))
        await host.until_acked()
        view = pb.GetResponse.FromString(await engine.call("Get", pb.GetRequest(run_id=run_id, include_steps=True))).run
        (attempt,) = view.steps[0].attempts
        message = f"output of step 'reserve' is {size} bytes, limit {CONFIG.payload_bytes_max}"
        assert (attempt.failure.type, attempt.failure.message) == ("PayloadTooLarge", message)
        await host.finish(run_id, advance.fence, 2, 1)
        await host.until_acked()
        await engine.check_serves()

    serve(play)


def test_an_output_beyond_all_limits_ends_the_stream() -> None:
    async def play(engine: WholeEngine) -> None:
        host = engine.host()
        await host.greet()
        run_id = await engine.start()
        _, advance = await host.advance()
        await host.plan_one_step(run_id, advance.fence)
        huge = Payload(bytes(300_000))
        section = HostSection(run_id, results=[Result("reserve", 1, advance.fence, huge)])
        first, second, *_ = encode_host_frame(HostFrame(position=host.position + 1, runs=[section]))
        # Two are too much. A write after them may meet an ended stream, and then gRPC forgets what the engine said.
        for chunk in (first, second):
            await host.call.write(chunk)
        answer = await engine.ended(host)
        assert (answer.status, answer.code) == (S.RESOURCE_EXHAUSTED, "payload_too_large")
        await engine.check_serves()

    serve(play, bounds=StreamBounds(payload_bytes_max=200_000))


@pytest.mark.parametrize(
    ("group", "why"),
    [
        (GroupOpened("g", 3, fail=FailPolicy.QUORUM, quorum=4), "quorum 4 of 3 branches"),
        (GroupOpened("g", 10_001), "10001 branches, limit 10000"),
        (GroupOpened("nowhere/[0]/g", 1), "scope 'nowhere/[0]' does not exist"),
    ],
)
def test_a_group_that_cannot_be_pauses_its_run_and_says_why(group: GroupOpened, why: str) -> None:
    async def play(engine: WholeEngine) -> None:
        host = engine.host()
        await host.greet()
        run_id = await engine.start()
        _, advance = await host.advance()
        await host.say(HostSection(run_id, plans=[Plan(1, 0, advance.fence, groups=(group,))]))
        await host.until_acked()
        view = await engine.driver.runs.view(run_id, include_steps=True)
        assert view.state is RunState.PAUSED
        rows = [entry for row in engine.store.journal(1) for entry in row.entries]
        assert why in rows[-1].failure.message  # type: ignore[union-attr]
        await engine.check_serves()

    serve(play)


WRONG_BUT_HARMLESS: dict[str, Callable[[str, Fence], HostSection]] = {
    "result of an older fence": lambda r, _: HostSection(r, results=[Result("reserve", 1, Fence(1, 0), Payload(b"2"))]),
    "result of an unknown step": lambda r, f: HostSection(r, results=[Result("nothing", 1, f, Payload(b"2"))]),
    "result of an unknown run": lambda _, f: HostSection("nobody", results=[Result("a", 1, f, Payload(b"2"))]),
    "result again, equal": lambda r, f: HostSection(r, results=[Result("reserve", 1, f, Payload(b'"r-1"'))]),
    "result again, different": lambda r, f: HostSection(r, results=[Result("reserve", 1, f, Payload(b"other"))]),
    "result of attempt 2^31": lambda r, f: HostSection(r, results=[Result("reserve", 2**31, f, Payload(b"2"))]),
    "reject of an unknown lease": lambda r, f: HostSection(r, rejects=[Reject("nothing", 1, f, RejectReason.NO_SLOT)]),
}


@pytest.mark.parametrize("what", WRONG_BUT_HARMLESS)
def test_what_an_unlucky_host_may_say_is_acked_and_changes_nothing(what: str) -> None:
    """After a cut these are normal; the session stays, the first outcome stands, the repetition is counted."""

    async def play(engine: WholeEngine) -> None:
        host = engine.host()
        await host.greet()
        run_id = await engine.start()
        _, advance = await host.advance()
        await host.one_step(run_id, advance.fence)
        await host.until_acked()
        before = engine.store.journal(1)
        await host.say(WRONG_BUT_HARMLESS[what](run_id, advance.fence))
        await host.until_acked()
        assert engine.store.journal(1) == before
        counters = engine.driver.core.counters
        assert counters.stale_results + counters.repeated_results + counters.rejects == 1
        await host.finish(run_id, advance.fence, 2, 1)
        await host.until_acked()
        await engine.check_serves()

    serve(play)


def test_a_report_of_a_million_strangers_is_too_long_for_a_message_and_a_short_one_is_ignored() -> None:
    async def play(engine: WholeEngine) -> None:
        host = engine.host()
        await host.greet()
        strangers = tuple([AttemptInProgress(f"r{n}", "x", 2**31, Fence(9, 9)) for n in range(10_000)])
        await host.send(HostFrame(report=Report(1, attempts=strangers)))
        await engine.finished_run(host)
        many = host_service_pb2.HostFrame()
        one = many.report.attempts.add(run_id="r", path="x", attempt=1)
        one.fence.claim_epoch = 1
        size = len(one.SerializeToString()) + 2
        many.report.attempts.extend([one] * (limits.MESSAGE_BYTES_MAX // size + 1))
        await host.call.write(many.SerializeToString())
        answer = await engine.ended(host)
        assert (answer.status, answer.code) == (S.RESOURCE_EXHAUSTED, "payload_too_large")
        await engine.check_serves()

    serve(play)
