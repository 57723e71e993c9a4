"""Many dormant runs cost a starting engine nothing but their count, and those that wake nothing of the others.

Counted in rows read and objects kept, with 20,000 runs; `python -m benchmarks.dormant` makes a million.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks import dormant
from stepwire_engine.clock import VirtualClock
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import RunState
from stepwire_engine.scheduler.driver import Driver
from stepwire_engine.store.base import StoreError
from stepwire_engine.store.sqlite import SqliteStore
from stepwire_engine.store.stored import StoredRecord
from stepwire_engine.telemetry import Telemetry

RUNS = 20_000
TOGETHER = 1_000
APART = 60.0
OBJECTS_MORE_MAX = 500
"""Between an engine that finds a few dormant runs and one that finds thousands."""
CONFIG = CoreConfig(adoption_grace=0.0, reconcile_interval=1e9)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dormant") / "original.db"
    made(path, RUNS)
    return path


@pytest.fixture
def database(original: Path, tmp_path: Path) -> Path:
    """20,000 sleeping runs; from an hour after the clock's start a thousand wake every minute."""
    return Path(shutil.copy(original, tmp_path / "many.db"))


def made(path: Path, runs: int) -> None:
    store = opened(path)
    store.open()
    dormant.fill(store, runs, VirtualClock().now().unix_ms + 3_600_000, APART, TOGETHER)
    store.close()


def opened(path: Path) -> SqliteStore:
    return SqliteStore(path, notify=lambda call: call(), on_failed=raised)


def raised(error: StoreError) -> None:
    raise error


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the runs whose records were read, each time."""
    numbers: list[int] = []
    right = StoredRecord.opened

    def noted(self: StoredRecord) -> object:
        numbers.append(self.run)
        return right(self)

    monkeypatch.setattr(StoredRecord, "opened", noted)
    return numbers


@asynccontextmanager
async def engine(path: Path, clock: VirtualClock) -> AsyncIterator[Driver]:
    loop = asyncio.get_running_loop()
    store = SqliteStore(path, notify=lambda call: void(loop.call_soon_threadsafe(call)), on_failed=raised)
    driver = Driver(CONFIG, store, clock, Telemetry(version="test", storage="sqlite"), steady=False)
    await driver.start()
    await driver.settled()
    try:
        yield driver
    finally:
        await driver.stop()


def void(_: object) -> None:
    """For callbacks that give nothing."""


def objects() -> int:
    gc.collect()
    return len(gc.get_objects())


def test_a_start_reads_the_soonest_and_keeps_none(database: Path, tmp_path: Path, read: list[int]) -> None:
    async def grown(path: Path) -> int:
        before = objects()
        async with engine(path, VirtualClock()) as driver:
            core = driver.core
            assert not core.runs and not core.take_loads()
            assert core.next_timer() == pytest.approx(3_600.0)
            return objects() - before

    async def main() -> None:
        made(tmp_path / "few.db", 200)
        few = await grown(tmp_path / "few.db")
        read.clear()
        many = await grown(database)
        assert len(read) <= 500, "one page of those that wake soonest"
        assert many - few < OBJECTS_MORE_MAX

    asyncio.run(main())


def test_a_thousand_that_wake_at_once_leave_the_others_alone(database: Path, read: list[int]) -> None:
    async def main() -> None:
        clock = VirtualClock()
        async with engine(database, clock) as driver:
            read.clear()
            clock.advance(3_600.0)
            most = 0
            while len(driver.core.runs) < TOGETHER:
                driver.tick()
                await driver.settled()
                assert len(driver.core.runs) > most, "every tick brings more"
                most = len(driver.core.runs)
            driver.tick()
            await driver.settled()
            assert set(driver.core.numbers) == set(range(1, TOGETHER + 1))
            assert set(read) <= set(range(1, 2 * TOGETHER + 1)) and len(read) <= 3 * TOGETHER
            assert driver.core.counters.dormant == RUNS - TOGETHER
            assert driver.core.next_timer() == pytest.approx(3_600.0 + APART)

    asyncio.run(main())


def test_a_page_of_the_list_reads_a_page(database: Path, read: list[int]) -> None:
    store = opened(database)
    store.open()
    try:
        page = store.list_runs(states=(RunState.WAITING,), limit=100)
        assert len(page.runs) == 100 and len(read) <= 101
        read.clear()
        store.list_runs(limit=100, page_token=page.next_page_token)
        assert len(read) <= 101
        assert store.list_runs(states=(RunState.PENDING, RunState.RUNNING), limit=100).runs == ()
        read.clear()
        assert [run.number for run in store.due_runs(2**62, 2)] == [1, 2]
        at_ms = page.runs[-1].wake_ms
        assert at_ms is not None
        assert [run.number for run in store.due_runs(at_ms, 2, (at_ms, RUNS - 2))] == [RUNS - 1, RUNS]
        assert len(read) <= 5, "those that wake at the same time are not walked through"
    finally:
        store.close()
