"""What clients ask of the driver: starts, keys, admission, reads, resume, cancel, events and changes."""

from __future__ import annotations

import asyncio

import pytest

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Event
from stepwire_engine.clock import VirtualClock
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.reasons import WaitReason
from stepwire_engine.core.refusal import CallRefused
from stepwire_engine.scheduler.runs import EVENT_AHEAD_MS_MAX, RunBounds
from tests.scheduler.desk import INPUT, Desk, play, turns


def test_a_key_gives_the_same_run_before_and_after_its_end() -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        host = await desk.host()
        run_id = await desk.start("k")
        assert await runs.start("checkout", INPUT, "k") == (run_id, True)
        host.finish(run_id, host.advances(run_id)[-1].fence)
        await desk.driver.settled()
        assert run_id not in desk.driver.core.runs
        assert await runs.start("checkout", INPUT, "k") == (run_id, True)
        with pytest.raises(CallRefused) as refused:
            await runs.start("checkout", Payload(b"18"), "k")
        assert refused.value.code is ErrorCode.KEY_CONFLICT and run_id in refused.value.message

    play(scenario)


def test_starts_that_are_refused() -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        with pytest.raises(CallRefused) as unknown:
            await runs.start("checkout", INPUT, "")
        assert unknown.value.code is ErrorCode.UNKNOWN_FLOW
        await desk.host()
        with pytest.raises(CallRefused) as large:
            await runs.start("checkout", Payload(b"x" * 11), "")
        assert large.value.code is ErrorCode.PAYLOAD_TOO_LARGE
        await desk.start()
        with pytest.raises(CallRefused) as full:
            await runs.start("checkout", INPUT, "")
        assert full.value.code is ErrorCode.LIMIT_EXCEEDED and "runs_in_memory_max" in full.value.message
        desk.store.accepting = False
        with pytest.raises(CallRefused) as no_space:
            await runs.start("checkout", INPUT, "")
        assert no_space.value.code is ErrorCode.STORE_FULL and no_space.value.retry_after == 1.0

    play(scenario, RunBounds(payload_bytes_max=10, runs_in_memory_max=1))


def test_starts_that_wait_for_their_commit_are_bounded() -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        await desk.host()
        desk.store.gated = True
        waiting = [asyncio.create_task(runs.start("checkout", INPUT, "")) for _ in range(2)]
        await turns()
        with pytest.raises(CallRefused) as refused:
            await runs.start("checkout", INPUT, "")
        assert refused.value.code is ErrorCode.LIMIT_EXCEEDED
        waiting[0].cancel()
        await turns()
        assert runs.pending == 1, "a caller that left waits no more"
        desk.store.gated = False
        desk.store.let_through()
        await asyncio.gather(*waiting, return_exceptions=True)
        await runs.start("checkout", INPUT, "")

    play(scenario, RunBounds(starts_pending_max=2))


def test_reading_and_listing_runs() -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        host = await desk.host()
        first, second = await desk.start(), await desk.start()
        host.plan_closure(first)
        await desk.driver.settled()
        view = await runs.view(first, include_steps=True)
        assert [(step.path, step.reason) for step in view.steps] == [("reserve", WaitReason.LEASE_OF_HOST)]
        page = await runs.list_runs(flow="", states=(), limit=1, page_token="")
        assert [record.run_id for record in page.runs] == [second]
        rest = await runs.list_runs(flow="", states=(), limit=1, page_token=page.next_page_token)
        assert [record.run_id for record in rest.runs] == [first]
        with pytest.raises(CallRefused) as malformed:
            await runs.list_runs(flow="", states=(), limit=1, page_token="?")
        assert malformed.value.code is ErrorCode.INVALID_ARGUMENT
        with pytest.raises(CallRefused) as missing:
            await runs.view("nothing", include_steps=False)
        assert missing.value.code is ErrorCode.RUN_NOT_FOUND

    play(scenario)


def test_resume_needs_a_paused_run() -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        host = await desk.host()
        run_id = await desk.start()
        with pytest.raises(CallRefused) as open_run:
            await runs.resume(run_id)
        host.finish(run_id, host.advances(run_id)[-1].fence)
        await desk.driver.settled()
        with pytest.raises(CallRefused) as ended:
            await runs.resume(run_id)
        with pytest.raises(CallRefused) as missing:
            await runs.resume("nothing")
        codes = [refused.value.code for refused in (open_run, ended, missing)]
        assert codes == [ErrorCode.WRONG_STATE, ErrorCode.WRONG_STATE, ErrorCode.RUN_NOT_FOUND]

    play(scenario)


def test_a_cancelled_run_ends_with_the_commit_that_answers_the_client() -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        await desk.host()
        run_id = await desk.start("k")
        desk.store.gated = True
        cancelling = asyncio.create_task(runs.cancel(run_id, None))
        await turns()
        assert not cancelling.done()
        assert (await runs.view(run_id, include_steps=True)).state is not RunState.CANCELLED
        desk.store.gated = False
        desk.store.let_through()
        await cancelling
        await desk.driver.settled()
        assert await desk.state(run_id) is RunState.CANCELLED
        other = await desk.start("k")
        assert other != run_id, "its key is free again"

    play(scenario)


def test_what_cannot_be_cancelled() -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        host = await desk.host()
        run_id = await desk.start()
        host.finish(run_id, host.advances(run_id)[-1].fence)
        await desk.driver.settled()
        with pytest.raises(CallRefused) as ended:
            await runs.cancel(run_id, True)
        assert ended.value.code is ErrorCode.WRONG_STATE
        assert ended.value.message == f"run {run_id} has ended: it is SUCCEEDED"
        with pytest.raises(CallRefused) as missing:
            await runs.cancel("nothing", None)
        assert missing.value.code is ErrorCode.RUN_NOT_FOUND

    play(scenario)


def test_an_event_is_accepted_once_per_id() -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        event_id, existing = await runs.send_event(Event("paid", Payload(b"1"), "e1"))
        assert (event_id, existing) == ("e1", False)
        assert await runs.send_event(Event("paid", Payload(b"1"), "e1")) == ("e1", True)

    play(scenario)


def test_an_event_without_id_gets_one() -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        answers = [await runs.send_event(Event("paid")) for _ in range(2)]
        assert [existing for _, existing in answers] == [False, False]
        assert len({event_id for event_id, _ in answers}) == 2

    play(scenario)


def test_an_event_is_due_within_a_year_and_the_past_is_now() -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        now_ms = VirtualClock().now().unix_ms
        latest = now_ms + EVENT_AHEAD_MS_MAX
        await runs.send_event(Event("past", id="e1", at_ms=1))
        await runs.send_event(Event("later", id="e2", at_ms=latest))
        due = {event.id: event.due_ms for event in desk.store.undelivered(latest, 10)}
        assert due.get("e1", now_ms) == now_ms and due["e2"] == latest
        with pytest.raises(CallRefused) as refused:
            await runs.send_event(Event("too late", at_ms=latest + 1))
        assert refused.value.code is ErrorCode.INVALID_ARGUMENT and "366 days" in refused.value.message

    play(scenario)


def test_events_keep_to_the_limits_of_inputs() -> None:
    async def scenario(desk: Desk) -> None:
        runs = desk.driver.runs
        with pytest.raises(CallRefused) as large:
            await runs.send_event(Event("paid", Payload(b"x" * 11)))
        assert large.value.code is ErrorCode.PAYLOAD_TOO_LARGE
        desk.store.accepting = False
        for call in (runs.send_event(Event("paid")), runs.cancel("r1", None)):
            with pytest.raises(CallRefused) as no_space:
                await call
            assert no_space.value.code is ErrorCode.STORE_FULL and no_space.value.retry_after == 1.0

    play(scenario, RunBounds(payload_bytes_max=10))


def test_changes_miss_no_commit_after_entering() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        run_id = await desk.start()
        with desk.driver.runs.changes(run_id) as changed:
            host.finish(run_id, host.advances(run_id)[-1].fence)
            await desk.driver.settled()
            await changed()
            waiting = asyncio.create_task(changed())  # type: ignore[arg-type]
            await turns()
            assert not waiting.done()
            await desk.driver.stop()
            with pytest.raises(CallRefused) as refused:
                await waiting
            assert refused.value.code is ErrorCode.DRAINING

    play(scenario)
