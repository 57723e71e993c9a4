"""The built-in host and a whole engine: calls of runs, retries, restarts, a store that refuses (MISSION S16, U4)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import EngineFrame, Fault, HostSection, LiveBody, ResumeState, StepOutcome
from stepwire.protocol.plan import CALL_STEP, Call, Fence, Plan, RetryPolicy, StepKind, StepPlanned
from stepwire_engine.calls import host as built_in
from stepwire_engine.calls.host import CallHost, CallSettings
from stepwire_engine.clock import VirtualClock
from stepwire_engine.core.entries import AttemptEnded, AttemptLost, RunState
from stepwire_engine.core.units import UnitOutcome
from stepwire_engine.embedded import EmbeddedEngine
from stepwire_engine.scheduler.driver import Driver
from stepwire_engine.scheduler.ports import ENGINE_INSTANCE
from stepwire_engine.store.base import StoreError
from stepwire_engine.telemetry import Telemetry
from tests.calls.desk import decoded, play
from tests.calls.sites import Handler, Request, Site, Visit, answering, holding, site
from tests.scheduler.desk import CONFIG, HELLO, INPUT, FakeHost, GatedStore
from tests.sdk.gates import until

SETTINGS = CallSettings(allow=("127.0.0.1",))
ONCE = RetryPolicy(max_attempts=1)
SPAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01"


class Checkout:
    """A run whose body plans one call."""

    def __init__(self, driver: Driver, host: FakeHost, run_id: str, fence: Fence) -> None:
        self.driver = driver
        self.host = host
        self.run_id = run_id
        self.fence = fence

    def plan_call(self, url: str, retry: RetryPolicy = ONCE) -> None:
        step = StepPlanned("pay", StepKind.CALL, CALL_STEP, retry=retry, timeout=30.0, spec=Call(url), traceparent=SPAN)
        self.host.say(HostSection(self.run_id, plans=[Plan(1, 0, self.fence, steps=(step,))]))

    @property
    def outcomes(self) -> list[StepOutcome]:
        entries = [entry for advance in self.host.advances(self.run_id) for entry in advance.entries]
        return [outcome for entry in entries if not isinstance(entry, Plan) for outcome in entry.outcomes]

    async def outcome(self) -> StepOutcome:
        await until("the call has an outcome", lambda: self.outcomes)
        return self.outcomes[0]

    async def status(self) -> int:
        output = (await self.outcome()).output
        assert output is not None
        status: int = decoded(output)["status"]
        return status


async def checkout(driver: Driver, host: FakeHost) -> Checkout:
    run_id, _ = await driver.runs.start("checkout", INPUT, "")
    await driver.settled()
    return Checkout(driver, host, run_id, host.advances(run_id)[-1].fence)


@contextlib.asynccontextmanager
async def engine(store: GatedStore | None = None) -> AsyncIterator[EmbeddedEngine]:
    async with EmbeddedEngine(config=CONFIG, store=store or GatedStore(), calls=SETTINGS) as running:
        await running.driver.settled()
        yield running


class Unheard:
    """A port whose frames nobody reads."""

    def send(self, frame: EngineFrame) -> None:
        pass

    def close(self) -> None:
        pass


def gated(gate: asyncio.Event) -> Handler:
    async def handler(_: Request, visit: Visit) -> None:
        await gate.wait()
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    return handler


def failing_first(times: int) -> Handler:
    asked = 0

    async def handler(_: Request, visit: Visit) -> None:
        nonlocal asked
        asked += 1
        if asked > times:
            await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    return handler


def test_the_engine_makes_the_call_and_no_slot_of_a_host_is_held() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        async with site(gated(gate)) as shop, engine() as running:
            run = await checkout(running.driver, FakeHost(running.driver))
            run.plan_call(shop.url("/pay"))
            await shop.asked.acquire()
            assert running.calls_in_progress == 1
            assert run.host.attached.session.leases == {}
            assert len(running.driver.core.sessions[ENGINE_INSTANCE].leases) == 1
            gate.set()
            assert await run.status() == 200
            assert shop.requests[0].header("traceparent") == [SPAN]
            assert running.calls_in_progress == 0
            assert running.driver.core.sessions[ENGINE_INSTANCE].leases == {}
            run.host.finish(run.run_id, run.fence, 2, 1)
            await running.driver.settled()
            assert (await running.driver.runs.view(run.run_id, include_steps=False)).state is RunState.SUCCEEDED

    play(scenario)


def test_a_server_error_is_an_output_and_needs_no_retry() -> None:
    async def scenario() -> None:
        async with site(answering("Content-Length: 0", status="500 No")) as shop, engine() as running:
            run = await checkout(running.driver, FakeHost(running.driver))
            run.plan_call(shop.url(), RetryPolicy(max_attempts=5))
            assert await run.status() == 500
            assert len(shop.requests) == 1

    play(scenario)


def test_no_answer_is_retried_by_the_policy_with_the_same_key() -> None:
    async def scenario() -> None:
        async with site(failing_first(2)) as shop, engine() as running:
            run = await checkout(running.driver, FakeHost(running.driver))
            run.plan_call(shop.url(), RetryPolicy(max_attempts=3, delay=60.0, jitter=0.0))
            for asked in (1, 2):
                await shop.asked.acquire()
                await until("the attempt failed", lambda: running.driver.idle and not running.calls_in_progress)
                assert len(shop.requests) == asked, "the next one waits for its time"
                while not running.calls_in_progress:
                    assert await running.advance_to_next_timer()
            assert await run.status() == 200
            assert run.outcomes[0].attempts == 3
            keys = [request.header("idempotency-key") for request in shop.requests]
            assert len(keys) == 3 and keys[0] == keys[1] == keys[2]

    play(scenario)


def test_a_refused_destination_ends_the_step_whatever_its_policy() -> None:
    async def scenario() -> None:
        async with site(answering("Content-Length: 0")) as shop, engine() as running:
            run = await checkout(running.driver, FakeHost(running.driver))
            run.plan_call(shop.url(host="127.0.0.2"), RetryPolicy(max_attempts=5))
            outcome = await run.outcome()
            assert outcome.failure is not None
            assert (outcome.failure.code, outcome.attempts) == (ErrorCode.DESTINATION_REFUSED, 1)

    play(scenario)


def test_a_cancelled_step_ends_its_request() -> None:
    async def scenario() -> None:
        async with site(holding()) as shop, engine() as running:
            run = await checkout(running.driver, FakeHost(running.driver))
            run.plan_call(shop.url())
            await shop.asked.acquire()
            run.host.finish(run.run_id, run.fence, 2)
            await shop.left.acquire()
            shop.left.release()
            await until("its slot is free", lambda: not running.driver.core.sessions[ENGINE_INSTANCE].leases)

    play(scenario)


def test_an_embedded_engine_may_call_this_machine() -> None:
    async def scenario() -> None:
        async with site(answering("Content-Length: 0")) as shop, EmbeddedEngine() as running:
            run = await checkout(running.driver, FakeHost(running.driver))
            run.plan_call(shop.url())
            assert await run.status() == 200

    play(scenario)


# ---- ends and returns


def journal(store: GatedStore, run_id: str) -> list[object]:
    record = store.find_run(run_id)
    assert record is not None
    return [entry for row in store.journal(record.number) for entry in row.entries]


async def returned(driver: Driver, run: Checkout) -> Checkout:
    """The host of the body resumes, once more if it is told that its run is still being read again."""
    hello = msgspec.structs.replace(HELLO, resume=ResumeState((LiveBody(run.run_id, run.fence, 0, 2),)))
    host = FakeHost(driver, hello)
    await driver.settled()
    while host.closed:
        host = FakeHost(driver, hello)
        await driver.settled()
    host.position = run.host.position
    return Checkout(driver, host, run.run_id, run.fence)


def test_a_stopped_engine_gives_the_call_back_and_the_next_one_makes_it() -> None:
    async def scenario() -> None:
        store = GatedStore()
        async with site(holding()) as shop:
            async with engine(store) as running:
                run = await checkout(running.driver, FakeHost(running.driver))
                run.plan_call(shop.url())
                await shop.asked.acquire()
            await shop.left.acquire()
            shop.left.release()
            assert not any(isinstance(e, AttemptEnded | AttemptLost) for e in journal(store, run.run_id))
            first = shop.requests[0].header("idempotency-key")
        async with site(answering("Content-Length: 0")) as other, _redirected(shop, other), engine(store) as running:
            again = await returned(running.driver, run)
            assert await again.status() == 200
            assert again.outcomes[0].attempts == 1, "the call that was given back was no attempt"
            assert [request.header("idempotency-key") for request in other.requests] == [first]

    play(scenario)


@contextlib.asynccontextmanager
async def _redirected(gone: Site, to: Site) -> AsyncIterator[None]:
    """Connections to the port of a site that is gone reach another one."""
    server = await asyncio.start_server(to.serve, "127.0.0.1", gone.port)
    async with server:
        yield


def started(store: GatedStore, *, adoption_grace: float) -> Driver:
    config = msgspec.structs.replace(CONFIG, adoption_grace=adoption_grace)
    return Driver(config, store, VirtualClock(), Telemetry(version="test", storage="memory"), steady=False)


def test_after_a_crash_nothing_waits_for_the_built_in_host_and_its_call_is_made_again() -> None:
    async def scenario() -> None:
        store = GatedStore()
        async with site(failing_first(0)) as shop:
            crashed = started(store, adoption_grace=0.0)
            await crashed.start()
            calls = CallHost(crashed, CallSettings(allow=("127.0.0.1",)), resolve=None)
            calls.start()
            await crashed.settled()
            run = await checkout(crashed, FakeHost(crashed))
            store.gated = True  # The plan is committed, but never the outcome of its call.
            run.plan_call(shop.url())
            await until("the plan waits for the store", lambda: store.waiting)
            store.let_through()
            await shop.asked.acquire()
            await until("its outcome waits for the store", lambda: store.waiting)
            crashed.store_failed(StoreError("killed"))
            await calls.stop()
            await crashed.stop()
            store.waiting.clear()
            store.gated = False
            assert ENGINE_INSTANCE in [record.instance_id for record in store.sessions()], "it said no goodbye"

            driver = started(store, adoption_grace=1e9)
            await driver.start()
            again = await returned(driver, run)
            await driver.settled()
            assert driver.core.adopting, "the built-in host of the engine before may still hold something"
            calls = CallHost(driver, SETTINGS)
            calls.start()
            await driver.settled()
            assert not driver.core.adopting
            assert await again.status() == 200
            assert (len(shop.requests), again.outcomes[0].attempts) == (2, 1)
            await calls.stop()
            await driver.stop()

    play(scenario)


def test_an_outcome_that_the_store_refused_is_said_again_and_the_call_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(built_in, "REDIAL_SECONDS", 0.001)

    async def scenario() -> None:
        gate = asyncio.Event()
        store = GatedStore()
        async with site(gated(gate)) as shop, engine(store) as running:
            run = await checkout(running.driver, FakeHost(running.driver))
            run.plan_call(shop.url())
            await shop.asked.acquire()
            store.answer = UnitOutcome.REFUSED
            gate.set()
            await until("the host of the body was told", lambda: run.host.closed)
            store.answer = None
            again = await returned(running.driver, run)
            assert await again.status() == 200
            assert len(shop.requests) == 1
            assert running.driver.core.sessions[ENGINE_INSTANCE].stream > 1

    play(scenario)


def test_a_draining_engine_waits_for_its_calls() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        store = GatedStore()
        async with site(gated(gate)) as shop, engine(store) as running:
            run = await checkout(running.driver, FakeHost(running.driver))
            run.plan_call(shop.url())
            await shop.asked.acquire()
            draining = asyncio.create_task(running.driver.drain(15.0))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not draining.done()
            gate.set()
            await draining
            await running.driver.settled()
            assert any(isinstance(entry, AttemptEnded) for entry in journal(store, run.run_id))

    play(scenario)


def test_the_built_in_host_takes_no_place_of_another_one() -> None:
    async def scenario() -> None:
        driver = Driver(
            CONFIG, GatedStore(), VirtualClock(), Telemetry(version="t", storage="memory"), steady=False, sessions_max=1
        )
        await driver.start()
        calls = CallHost(driver, SETTINGS)
        calls.start()
        FakeHost(driver)
        second = driver.connect(msgspec.structs.replace(HELLO, instance_id="i2"), Unheard())
        assert isinstance(second, Fault) and second.message.startswith("1 hosts are connected")
        assert not isinstance(driver.connect(HELLO, Unheard()), Fault), "a known instance comes back"
        await calls.stop()
        calls = CallHost(driver, SETTINGS)
        calls.start()
        await driver.settled()
        assert driver.core.sessions[ENGINE_INSTANCE].connected, "it finds room among as many hosts as may be"
        await calls.stop()
        await driver.stop()

    play(scenario)
