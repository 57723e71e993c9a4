"""The driver with an in-process host: the order decide, commit, perform; hosts; time; what failures do."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import Fault, HostFrame, HostSection, NeedSnapshot, Result
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import RetryPolicy, StepKind
from stepwire_engine.clock import VirtualClock
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.refusal import CallRefused
from stepwire_engine.core.units import UnitOutcome
from stepwire_engine.embedded import EmbeddedEngine
from stepwire_engine.scheduler.driver import ARM_INTERVAL, Driver
from stepwire_engine.store.base import StoreFailed, StoreLocked
from stepwire_engine.telemetry import Telemetry
from tests.scheduler.desk import CONFIG, HELLO, INPUT, Desk, FakeHost, GatedStore, play, turns

# ---- decide, commit, perform


def test_nothing_leaves_before_its_commit() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        desk.store.gated = True
        starting = asyncio.create_task(desk.driver.runs.start("checkout", INPUT, ""))
        await turns()
        assert len(desk.store.waiting) == 1
        assert not starting.done() and len(host.frames) == 1, "only the Welcome was sent"
        desk.store.let_through()
        run_id, _ = await starting
        await turns()
        fence = host.advances(run_id)[-1].fence

        host.finish(run_id, fence)
        await turns()
        assert host.acked == 0 and await desk.state(run_id) is RunState.RUNNING
        desk.store.gated = False
        desk.store.let_through()
        await desk.driver.settled()
        assert host.acked == 1, "the ack of the last frame needs no further frame of the host"
        assert await desk.state(run_id) is RunState.SUCCEEDED

    play(scenario)


def test_the_welcome_follows_the_record_of_the_session() -> None:
    async def scenario(desk: Desk) -> None:
        desk.store.gated = True
        host = FakeHost(desk.driver)
        await turns()
        assert host.frames == []
        desk.store.gated = False
        desk.store.let_through()
        await desk.driver.settled()
        assert host.frames[0].welcome is not None
        assert [session.instance_id for session in desk.store.sessions()] == ["i1"]

    play(scenario)


def test_what_is_ready_together_is_submitted_and_sent_together() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        before = desk.store.commits
        starts = [desk.driver.runs.start("checkout", INPUT, "") for _ in range(4)]
        run_ids = [run_id for run_id, _ in await asyncio.gather(*starts)]
        await desk.driver.settled()
        assert desk.store.commits == before + 1
        assert len(host.frames) == 2 and {section.run_id for section in host.frames[1].runs} == set(run_ids)

    play(scenario)


def test_what_one_commit_answers_is_sent_together() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        desk.store.gated = True
        starts = []
        for _ in range(3):
            starts.append(asyncio.create_task(desk.driver.runs.start("checkout", INPUT, "")))
            await turns()
        assert len(desk.store.waiting) == 3
        desk.store.let_through()
        run_ids = [run_id for run_id, _ in await asyncio.gather(*starts)]
        await desk.driver.settled()
        assert len(host.frames) == 2 and {section.run_id for section in host.frames[1].runs} == set(run_ids)

    play(scenario)


def test_what_the_last_receipts_cause_does_not_wait_for_the_next_turn_of_the_loop() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        desk.store.gated = True
        starting = asyncio.create_task(desk.driver.runs.start("checkout", INPUT, ""))
        await turns()
        desk.store.let_through()
        await turns(1)
        assert len(host.frames) == 2
        await starting

    play(scenario)


# ---- hosts


def test_a_newer_stream_replaces_the_older() -> None:
    async def scenario(desk: Desk) -> None:
        old = await desk.host()
        new = await desk.host()
        assert old.closed and old.last_fault is not None and old.last_fault.code is ErrorCode.REPLACED
        assert [frame.number for frame in old.frames] == [1, 2]
        desk.driver.disconnected(old.attached)
        run_id = await desk.start()
        assert new.advances(run_id) and not new.closed

    play(scenario)


def test_sessions_are_bounded_but_a_known_instance_may_return() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        other = desk.driver.connect(msgspec.structs.replace(HELLO, instance_id="i2"), host)
        assert isinstance(other, Fault) and other.code is ErrorCode.LIMIT_EXCEEDED
        await desk.host()

    play(scenario, sessions_max=1)


def test_a_goodbye_of_the_host_ends_its_stream() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        from stepwire.protocol.frames import Goodbye

        desk.driver.receive(host.attached, HostFrame(goodbye=Goodbye()))
        assert host.closed
        await desk.driver.settled()
        assert desk.driver.core.sessions == {} and not desk.store.sessions()

    play(scenario)


def test_drain_waits_for_attempts_and_takes_nothing_new() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        run_id = await desk.start()
        fence = host.plan_closure(run_id)
        await desk.driver.settled()
        draining = asyncio.create_task(desk.driver.drain(60.0))
        await turns()
        assert any(frame.drain is not None for frame in host.frames) and not draining.done()
        with pytest.raises(CallRefused) as refused:
            await desk.driver.runs.start("checkout", INPUT, "")
        assert refused.value.code is ErrorCode.DRAINING
        newcomer = desk.driver.connect(msgspec.structs.replace(HELLO, instance_id="i2"), host)
        assert isinstance(newcomer, Fault) and newcomer.code is ErrorCode.DRAINING
        host.say(HostSection(run_id, results=[Result("reserve", 1, fence, Payload(b"1"))]))
        await draining
        await desk.driver.stop()
        assert host.acked == host.position and host.frames[-1].goodbye is not None and host.closed

    play(scenario)


def test_drain_ends_at_its_deadline() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        host.plan_closure(await desk.start())
        await desk.driver.settled()
        await desk.driver.drain(0.01)
        assert desk.driver.core.sessions["i1"].leases

    play(scenario)


# ---- failures


def test_a_refused_commit_answers_the_caller_and_the_host_starts_over() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        run_id = await desk.start()
        desk.store.answer = UnitOutcome.REFUSED
        with pytest.raises(CallRefused) as refused:
            await desk.driver.runs.start("checkout", INPUT, "")
        assert refused.value.code is ErrorCode.STORE_UNAVAILABLE and "no space" in refused.value.message
        host.finish(run_id, host.advances(run_id)[-1].fence)
        await desk.driver.settled()
        assert host.closed and host.last_fault is not None
        assert host.last_fault.code is ErrorCode.STORE_UNAVAILABLE and host.acked == 0
        desk.store.answer = None
        assert await desk.state(run_id) in (RunState.PENDING, RunState.RUNNING)

    play(scenario)


def test_a_superseded_claim_ends_the_engine() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.host()
        desk.store.claim()
        with pytest.raises(CallRefused) as refused:
            await desk.driver.runs.start("checkout", INPUT, "")
        assert refused.value.code is ErrorCode.STORE_UNAVAILABLE
        assert [type(error) for error in desk.failures] == [StoreLocked]
        assert not desk.driver.accepting

    play(scenario)


def test_after_a_failed_store_nothing_is_accepted_or_sent() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        desk.store.gated = True
        waiting = asyncio.create_task(desk.driver.runs.start("checkout", INPUT, ""))
        await turns()
        desk.driver.store_failed(StoreFailed("fsync: input/output error"))
        with pytest.raises(CallRefused) as refused:
            await waiting
        assert refused.value.code is ErrorCode.STORE_UNAVAILABLE
        frames = len(host.frames)
        host.say()
        await turns()
        assert len(host.frames) == frames and len(desk.failures) == 1
        newcomer = desk.driver.connect(HELLO, host)
        assert isinstance(newcomer, Fault) and newcomer.code is ErrorCode.STORE_UNAVAILABLE

    play(scenario)


def test_an_exception_on_one_receipt_keeps_the_others() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        commits = desk.driver.core._commits
        work_off = commits.done
        failed: list[object] = []

        def first_fails(commit: Any, receipt: Any) -> None:
            if not failed:
                failed.append(commit)
                raise RuntimeError("defect")
            work_off(commit, receipt)

        commits.done = first_fails  # type: ignore[method-assign]
        starts = [asyncio.create_task(desk.driver.runs.start("checkout", INPUT, "")) for _ in range(2)]
        done, _ = await asyncio.wait(starts, return_when=asyncio.FIRST_COMPLETED)
        (second,) = done
        await desk.driver.settled()
        assert host.advances((await second)[0])
        starts[0].cancel()

    play(scenario)


def test_a_damaged_journal_keeps_its_run_from_going_on_and_nothing_else() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        run_id = await desk.start()
        fence = host.advances(run_id)[-1].fence
        desk.store.damaged = True
        host.say(HostSection(run_id, need_snapshot=NeedSnapshot(fence)))
        await desk.driver.settled()
        assert len(host.advances(run_id)) == 1
        with pytest.raises(CallRefused) as refused:
            await desk.driver.runs.view(run_id, include_steps=True)
        assert refused.value.code is ErrorCode.RUN_UNREADABLE and "CRC" not in refused.value.message
        assert host.advances(await desk.start())

    play(scenario)


# ---- time and numbers


def test_a_virtual_clock_jumps_to_the_retry() -> None:
    async def main() -> None:
        async with EmbeddedEngine(VirtualClock()) as engine:
            host = FakeHost(engine.driver)
            run_id, _ = await engine.driver.runs.start("checkout", INPUT, "")
            await engine.driver.settled()
            fence = host.plan_closure(run_id, retry=RetryPolicy(delay=90.0, cap=90.0, jitter=0.0))
            failure = Failure(ErrorCode.USER_ERROR, "ValueError", "no")
            host.say(HostSection(run_id, results=[Result("reserve", 1, fence, None, failure)]))
            await engine.driver.settled()
            assert host.executes() == []
            assert await engine.advance_to_next_timer()
            assert [(e.path, e.attempt, e.kind) for e in host.executes()] == [("reserve", 2, StepKind.RUN)]
            assert engine.clock.now().mono == pytest.approx(90.0)
            assert not await engine.advance_to_next_timer()
            assert host.attached.session.connected, "a jump is no silence"

    asyncio.run(main())


def test_a_real_clock_ticks_by_itself() -> None:
    async def main() -> None:
        from stepwire_engine.clock import SystemClock

        async with EmbeddedEngine(SystemClock(), CoreConfig(reconnect_grace=0.02, tick_interval=0.01)) as engine:
            host = FakeHost(engine.driver)
            await engine.driver.settled()
            lost = asyncio.Event()
            absorb = engine.driver._gauges.absorb

            def noted() -> None:
                absorb()
                if host.attached.session.id not in engine.driver.core.sessions:
                    lost.set()

            engine.driver._gauges.absorb = noted  # type: ignore[method-assign]
            engine.driver.disconnected(host.attached)
            await lost.wait()

    asyncio.run(main())


def test_the_timer_is_set_anew_after_the_receipts_or_soon_enough() -> None:
    async def main() -> None:
        store, clock = GatedStore(), VirtualClock()
        config = CoreConfig(silence_timeout=1e9, adoption_grace=0.0, tick_interval=3600.0)
        driver = Driver(config, store, clock, Telemetry(version="test", storage="memory"))
        await driver.start()
        try:
            host = FakeHost(driver)
            await driver.settled()
            looks: list[float | None] = []
            next_due = driver.core.next_due

            def looked() -> float | None:
                looks.append(next_due())
                return looks[-1]

            driver.core.next_due = looked  # type: ignore[method-assign]
            store.gated = True
            starting = asyncio.create_task(driver.runs.start("checkout", INPUT, ""))
            await turns()
            assert store.waiting and not looks, "the receipts come, and then it is looked at"
            clock.advance(2 * ARM_INTERVAL)
            driver.receive(host.attached, HostFrame())
            await turns()
            assert len(looks) == 1, "a commit that takes long keeps nothing from its time"
            store.gated = False
            store.let_through()
            await starting
            await driver.settled()
            assert len(looks) > 1
        finally:
            await driver.stop()

    asyncio.run(main())


def test_a_restart_takes_over_open_runs() -> None:
    async def main() -> None:
        store = GatedStore()
        async with EmbeddedEngine(config=CONFIG, store=store) as engine:
            host = FakeHost(engine.driver)
            run_id, _ = await engine.driver.runs.start("checkout", INPUT, "")
            await engine.driver.settled()
            assert host.advances(run_id)
        async with EmbeddedEngine(config=CONFIG, store=store) as engine:
            assert list(engine.driver.core.runs) == [run_id]
            host = FakeHost(engine.driver, msgspec.structs.replace(HELLO, instance_id="i9"))
            await engine.driver.settled()
            (advance,) = host.advances(run_id)
            assert advance.start is not None and advance.fence.claim_epoch == 2

    asyncio.run(main())


def test_numbers_at_a_scrape() -> None:
    async def scenario(desk: Desk) -> None:
        host = await desk.host()
        run_id, _ = await desk.start(), await desk.start()
        host.plan_closure(run_id)
        await desk.driver.settled()
        desk.driver.commits.observe(0.003, 2, 100)
        for refresh in desk.telemetry.refresh:
            refresh()
        telemetry = desk.telemetry
        assert telemetry.runs_started["checkout"] == 2
        assert telemetry.runs["running"] == 2 - telemetry.runs["pending"]
        assert telemetry.sessions_connected["orders"] == 1
        assert (telemetry.session_slots["orders", "busy"], telemetry.session_slots["orders", "free"]) == (1, 1)
        assert telemetry.commit_bytes == 100
        desk.driver.disconnected(host.attached)
        for refresh in desk.telemetry.refresh:
            refresh()
        assert telemetry.sessions_connected["orders"] == 0
        assert (telemetry.session_slots["orders", "busy"], telemetry.session_slots["orders", "free"]) == (0, 0)

    play(scenario)
