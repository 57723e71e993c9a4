"""Runs that wait, over engines that come and go on one database file, with one clock (MISSION S17 to S19)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from stepwire.protocol.frames import FlowOptions, HostSection, Trigger
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded, Event, Invoke, Plan, Sleep, StepKind, StepPlanned, StepSpec, WaitEvent
from stepwire_engine.clock import VirtualClock
from stepwire_engine.core.entries import RunState
from stepwire_engine.embedded import EmbeddedEngine
from stepwire_engine.store.sqlite import SqliteStore
from tests.scheduler.desk import CONFIG, HELLO, INPUT, FakeHost

DAY = 86_400.0
_KINDS: dict[type, StepKind] = {Sleep: StepKind.SLEEP, WaitEvent: StepKind.WAIT_EVENT, Invoke: StepKind.INVOKE}


@contextlib.asynccontextmanager
async def engine(path: Path, clock: VirtualClock) -> AsyncIterator[EmbeddedEngine]:
    loop = asyncio.get_running_loop()

    def notify(call: object) -> None:
        loop.call_soon_threadsafe(call)  # type: ignore[arg-type]

    def failed(error: Exception) -> None:
        raise AssertionError(error)

    store = SqliteStore(path / "engine.db", notify=notify, on_failed=failed)
    async with EmbeddedEngine(clock, CONFIG, store) as running:
        yield running


async def waiting(running: EmbeddedEngine, host: FakeHost, *specs: StepSpec) -> str:
    """A run that planned these steps and became dormant."""
    run_id, _ = await running.driver.runs.start("checkout", INPUT, "")
    await running.driver.settled()
    fence = host.advances(run_id)[-1].fence
    steps = tuple([StepPlanned(f"s{n}", _KINDS[type(spec)], spec=spec) for n, spec in enumerate(specs)])
    host.say(HostSection(run_id, plans=[Plan(1, 0, fence, steps=steps)]))
    await running.driver.settled()
    await running.advance(CONFIG.live_idle + 1.0)
    return run_id


async def state(running: EmbeddedEngine, run_id: str) -> RunState:
    return (await running.driver.runs.view(run_id, include_steps=False)).state


def finish(host: FakeHost, run_id: str, output: bytes = b"1") -> None:
    """The body ends with its next plan, having seen every release."""
    advance = host.advances(run_id)[-1]
    released = max([getattr(entry, "release_seq", 0) for entry in advance.entries])
    end = BodyEnded(Payload(output))
    host.say(HostSection(run_id, plans=[Plan(2, released, advance.fence, body_ended=end)]))


def test_a_dormant_run_outlives_engines_and_wakes_in_time(tmp_path: Path) -> None:
    async def main() -> None:
        clock = VirtualClock()
        async with engine(tmp_path, clock) as first:
            host = FakeHost(first.driver)
            run_id = await waiting(first, host, Sleep(30 * DAY))
            assert run_id not in first.driver.core.runs and await state(first, run_id) is RunState.WAITING
        clock.advance(10 * DAY)
        async with engine(tmp_path, clock) as second:
            host = FakeHost(second.driver)
            await second.driver.settled()
            assert second.driver.core.runs == {} and await state(second, run_id) is RunState.WAITING
            assert await second.advance_to_next_timer()
            assert clock.now().mono == pytest.approx(30 * DAY)
            assert await state(second, run_id) is RunState.RUNNING
            finish(host, run_id)
            await second.driver.settled()
            assert await state(second, run_id) is RunState.SUCCEEDED

    asyncio.run(main())


def test_an_event_and_a_trigger_of_an_earlier_engine(tmp_path: Path) -> None:
    async def main() -> None:
        clock = VirtualClock()
        hello = msgspec.structs.replace(
            HELLO, flows=("checkout", "refund"), flow_options=(FlowOptions("refund", triggers=(Trigger("paid"),)),)
        )
        async with engine(tmp_path, clock) as first:
            host = FakeHost(first.driver, hello)
            run_id = await waiting(first, host, WaitEvent("paid", "data.order == `17`"))
        async with engine(tmp_path, clock) as second:
            for order in (16, 17, 18):
                event = Event("paid", Payload(b'{"order": %d}' % order), f"e{order}")
                assert await second.driver.runs.send_event(event) == (f"e{order}", False)
            assert await second.driver.runs.send_event(Event("paid", id="e17")) == ("e17", True)
            await second.driver.settled()
            view = await second.driver.runs.view(run_id, include_steps=True)
            (step,) = view.steps
            assert step.output is not None and msgspec.json.decode(step.output.data)["id"] == "e17"
            started = (await second.driver.runs.list_runs(flow="refund")).runs
            assert len(started) == 3

    asyncio.run(main())


def test_a_client_cancels_a_dormant_run_of_an_earlier_engine_with_its_child(tmp_path: Path) -> None:
    async def main() -> None:
        clock = VirtualClock()
        async with engine(tmp_path, clock) as first:
            run_id = await waiting(first, FakeHost(first.driver), Invoke("checkout"), Sleep(DAY))
        async with engine(tmp_path, clock) as second:
            await second.driver.runs.cancel(run_id, None)
            await second.driver.settled()
            assert [record.state for record in (await second.driver.runs.list_runs()).runs] == [RunState.CANCELLED] * 2
            await second.driver.runs.cancel(run_id, None)  # The first answer may have been lost.

    asyncio.run(main())
