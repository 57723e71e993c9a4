"""A driver under a virtual clock, a store whose commits can be held back, and an in-process host."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from stepwire.protocol.frames import Advance, EngineFrame, Execute, Fault, Hello, HostFrame, HostSection
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded, Fence, Plan, RetryPolicy, StepPlanned
from stepwire_engine.clock import VirtualClock
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.units import Receipt, Unit, UnitOutcome
from stepwire_engine.scheduler.driver import Driver
from stepwire_engine.scheduler.ports import Attached
from stepwire_engine.scheduler.runs import RunBounds
from stepwire_engine.store.base import JournalRow, Receipts, StoreCorrupt, StoreError
from stepwire_engine.store.memory import MemoryStore
from stepwire_engine.telemetry import Telemetry

CONFIG = CoreConfig(silence_timeout=1e9, adoption_grace=0.0)
HELLO = Hello(service="orders", instance_id="i1", flows=("checkout",), steps=("work",), slots=2, bodies=4)
INPUT = Payload(b"17")


class GatedStore(MemoryStore):
    """Commits wait until the test lets them through, or are answered as the test says."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(notify=lambda call: drop(loop.call_soon(call)))
        self.gated = False
        self.waiting: list[tuple[Sequence[Unit], Receipts]] = []
        self.answer: UnitOutcome | None = None
        self.damaged = False

    def submit(self, units: Sequence[Unit], done: Receipts) -> None:
        if self.answer is not None:
            receipts = [Receipt(self.answer, reason="no space") for _ in units]
            asyncio.get_running_loop().call_soon(lambda: done(receipts))
        elif self.gated:
            self.waiting.append((units, done))
        else:
            super().submit(units, done)

    def let_through(self) -> None:
        waiting, self.waiting = self.waiting, []
        for units, done in waiting:
            super().submit(units, done)

    def journal(self, run: int) -> Sequence[JournalRow]:
        if self.damaged:
            raise StoreCorrupt("row 1 fails its CRC")
        return super().journal(run)


def drop(_: object) -> None:
    """Drop a value."""


class FakeHost:
    """An in-process host: a Port that keeps what it is sent."""

    def __init__(self, driver: Driver, hello: Hello = HELLO) -> None:
        self.driver = driver
        self.frames: list[EngineFrame] = []
        self.closed = False
        self.position = 0
        attached = driver.connect(hello, self)
        assert isinstance(attached, Attached), attached
        self.attached = attached

    def send(self, frame: EngineFrame) -> None:
        assert not self.closed
        self.frames.append(frame)

    def close(self) -> None:
        self.closed = True

    def say(self, *sections: HostSection) -> None:
        self.position += 1
        self.driver.receive(self.attached, HostFrame(position=self.position, runs=list(sections)))

    @property
    def acked(self) -> int:
        return max([frame.acked_position for frame in self.frames], default=0)

    @property
    def last_fault(self) -> Fault | None:
        return self.frames[-1].fault if self.frames else None

    def advances(self, run_id: str) -> list[Advance]:
        sections = [section for frame in self.frames for section in frame.runs if section.run_id == run_id]
        return [section.advance for section in sections if section.advance is not None]

    def executes(self) -> list[Execute]:
        return [execute for frame in self.frames for section in frame.runs for execute in section.executes]

    def plan_closure(self, run_id: str, *, retry: RetryPolicy | None = None) -> Fence:
        """Plan one closure that starts at once."""
        fence = self.advances(run_id)[-1].fence
        step = StepPlanned("reserve", started=True, retry=retry)
        self.say(HostSection(run_id, plans=[Plan(1, 0, fence, steps=(step,))]))
        return fence

    def finish(self, run_id: str, fence: Fence, plan_seq: int = 1, after_release: int = 0) -> None:
        end = BodyEnded(Payload(b'"done"'))
        self.say(HostSection(run_id, plans=[Plan(plan_seq, after_release, fence, body_ended=end)]))


class Desk:
    """A driver under a virtual clock, on a store whose commits can be held back."""

    def __init__(self, driver: Driver, store: GatedStore, telemetry: Telemetry, failures: list[StoreError]) -> None:
        self.driver = driver
        self.store = store
        self.telemetry = telemetry
        self.failures = failures

    async def host(self, hello: Hello = HELLO) -> FakeHost:
        host = FakeHost(self.driver, hello)
        await self.driver.settled()
        return host

    async def start(self, key: str = "") -> str:
        run_id, _ = await self.driver.runs.start("checkout", INPUT, key)
        await self.driver.settled()
        return run_id

    async def state(self, run_id: str) -> RunState:
        return (await self.driver.runs.view(run_id, include_steps=False)).state


@contextlib.asynccontextmanager
async def running(bounds: RunBounds | None = None, **options: Any) -> AsyncIterator[Desk]:
    store = GatedStore()
    telemetry = Telemetry(version="test", storage="memory")
    failures: list[StoreError] = []
    driver = Driver(
        CONFIG, store, VirtualClock(), telemetry, bounds=bounds, steady=False, on_failed=failures.append, **options
    )
    await driver.start()
    try:
        yield Desk(driver, store, telemetry, failures)
    finally:
        await driver.stop()


def play(
    scenario: Callable[[Desk], Coroutine[Any, Any, None]], bounds: RunBounds | None = None, **options: Any
) -> None:
    async def main() -> None:
        async with running(bounds, **options) as desk:
            await scenario(desk)

    asyncio.run(main())


async def turns(count: int = 5) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)
