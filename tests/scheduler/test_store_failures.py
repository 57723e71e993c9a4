"""A failing disk and damaged rows, as clients and hosts of one engine see them: on the real store."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import Fault, HostSection, NeedSnapshot
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded, Event, Invoke, Plan, SendEvent, StepKind, StepPlanned, WaitEvent
from stepwire_engine.clock import VirtualClock
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.reasons import WaitReason
from stepwire_engine.core.refusal import CallRefused
from stepwire_engine.scheduler.driver import Driver
from stepwire_engine.store.base import StoreCorrupt, StoreError, StoreFailed, StoreLocked
from stepwire_engine.store.sqlite import SqliteStore
from stepwire_engine.telemetry import Telemetry
from tests.scheduler.desk import CONFIG, HELLO, INPUT, FakeHost
from tests.store.samples import edit
from tests.store.test_sqlite_faults import EIO_ON_SYNC, FULL, fail_next_commit

_SEEDS = itertools.count()


class Site:
    """An engine on a SQLite file."""

    def __init__(self, path: Path) -> None:
        loop = asyncio.get_running_loop()
        self.failures: list[StoreError] = []
        self.telemetry = Telemetry(version="test", storage="sqlite")
        self.store = SqliteStore(path, notify=loop.call_soon_threadsafe, on_failed=self._failed)
        self.clock = VirtualClock(seed=next(_SEEDS))  # Ids of runs differ between engines.
        self.driver = Driver(CONFIG, self.store, self.clock, self.telemetry, steady=False, on_failed=self._ended)

    def _failed(self, error: StoreError) -> None:
        self.driver.store_failed(error)

    def _ended(self, error: StoreError) -> None:
        self.failures.append(error)

    async def host(self) -> FakeHost:
        host = FakeHost(self.driver)
        await self.driver.settled()
        return host

    async def start(self, key: str = "") -> str:
        run_id, _ = await self.driver.runs.start("checkout", INPUT, key)
        await self.driver.settled()
        return run_id

    async def refused(self, call: Coroutine[Any, Any, object]) -> CallRefused:
        with pytest.raises(CallRefused) as caught:
            await call
        return caught.value

    async def state(self, run_id: str) -> RunState:
        return (await self.driver.runs.view(run_id, include_steps=False)).state

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.driver.tick()
        await self.driver.settled()

    async def finish(self, host: FakeHost, run_id: str) -> None:
        """The body of the run ends, and that is committed."""
        host.finish(run_id, host.advances(run_id)[-1].fence)
        await self.driver.settled()
        assert await self.state(run_id) is RunState.SUCCEEDED


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Site]:
    site = Site(path)
    await site.driver.start()
    try:
        yield site
    finally:
        await site.driver.stop()


def play(path: Path, *scenarios: Callable[[Site], Coroutine[Any, Any, None]]) -> None:
    """Each scenario with an engine of its own, one after the other on the same file."""

    async def main() -> None:
        for scenario in scenarios:
            async with opened(path) as site:
                await scenario(site)

    asyncio.run(main())


def writer_of(site: Site) -> sqlite3.Connection:
    assert site.store._writer is not None
    return site.store._writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engine.db"


# ---- the three ways in which a batch fails


def test_a_disk_full_before_commit_refuses_the_call_and_the_run_goes_on_afterwards(path: Path) -> None:
    async def scenario(site: Site) -> None:
        host = await site.host()
        run_id = await site.start()
        (pages,) = writer_of(site).execute("PRAGMA page_count").fetchone()
        writer_of(site).execute(f"PRAGMA max_page_count = {pages}")
        refused = await site.refused(site.driver.runs.send_event(Event("paid", Payload(b"x" * 1_000_000))))
        assert (refused.code, refused.message) == (ErrorCode.STORE_FULL, "the store is full; nothing was accepted")
        assert refused.retry_after == 1.0
        large = BodyEnded(Payload(b'"' + b"x" * 1_000_000 + b'"'))
        host.say(HostSection(run_id, plans=[Plan(1, 0, host.advances(run_id)[-1].fence, body_ended=large)]))
        await site.driver.settled()
        assert host.closed and host.acked == 0, "the host is to send it again"
        assert await site.state(run_id) is not RunState.SUCCEEDED
        writer_of(site).execute("PRAGMA max_page_count = 1000000")
        host = await site.host()
        await site.finish(host, run_id)

    play(path, scenario)


@pytest.mark.parametrize("takes_effect", [True, False])
def test_a_disk_full_by_the_commit_closes_the_intake_until_there_is_space(path: Path, takes_effect: bool) -> None:
    async def scenario(site: Site) -> None:
        host = await site.host()
        run_id = await site.start()
        thread = site.store._journal_thread
        assert thread is not None
        thread._probe = lambda: None  # type: ignore[method-assign]  # There is no space yet.
        fail_next_commit(site.store, FULL, takes_effect=takes_effect)
        if takes_effect:
            await site.start("order-1")
        else:
            assert (
                await site.refused(site.driver.runs.start("checkout", INPUT, "order-1"))
            ).code is ErrorCode.STORE_FULL
        assert not site.driver.accepting
        for call in (site.driver.runs.start("checkout", INPUT, ""), site.driver.runs.cancel(run_id, None)):
            refused = await site.refused(call)
            assert (refused.code, refused.retry_after) == (ErrorCode.STORE_FULL, 1.0)
        newcomer = site.driver.connect(msgspec.structs.replace(HELLO, instance_id="i2"), host)
        assert isinstance(newcomer, Fault) and newcomer.code is ErrorCode.STORE_FULL
        assert await site.state(run_id) is not None, "what is stored can be read"
        del thread._probe
        thread._probe()
        assert site.driver.accepting
        again = await site.start("order-1")
        assert len((await site.driver.runs.list_runs()).runs) == 2, "the file is the truth about what was accepted"
        if not host.closed:
            await site.finish(host, again)

    play(path, scenario)


def test_no_host_is_lost_while_the_store_is_full(path: Path) -> None:
    async def scenario(site: Site) -> None:
        host = await site.host()
        run_id = await site.start()
        fence = host.plan_closure(run_id)
        await site.driver.settled()
        thread = site.store._journal_thread
        assert thread is not None
        thread.accepting = False
        site.driver.disconnected(host.attached)
        for _ in range(4):
            site.clock.advance(600.0)
            site.driver.tick()
        thread.accepting = True
        await site.pass_time(0.1)
        assert site.driver.core.sessions["i1"].leases, "it had no way to be heard"
        assert site.driver.core.runs[run_id].body is not None and fence

    play(path, scenario)


def test_an_io_error_of_a_commit_is_answered_to_nobody_as_done_and_ends_the_engine(path: Path) -> None:
    async def scenario(site: Site) -> None:
        await site.host()
        fail_next_commit(site.store, EIO_ON_SYNC, takes_effect=True)
        refused = await site.refused(site.driver.runs.start("checkout", INPUT, "order-1"))
        assert refused.code is ErrorCode.STORE_UNAVAILABLE and "unknown" in refused.message
        (failure,) = site.failures
        assert isinstance(failure, StoreFailed) and failure.exit_code == 74

    async def restart(site: Site) -> None:
        assert len(site.driver.core.runs) == 1, "restart decides: this time it was stored"
        run_id, existing = await site.driver.runs.start("checkout", INPUT, "order-1")
        assert existing and run_id in site.driver.core.runs

    play(path, scenario, restart)


def test_a_foreign_program_that_holds_the_lock_refuses_commits_and_ends_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwire_engine.store.sqlite_connection.BUSY_SECONDS", 0.05)

    async def scenario(site: Site) -> None:
        await site.host()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        refused = await site.refused(site.driver.runs.start("checkout", INPUT, ""))
        assert refused.code is ErrorCode.STORE_UNAVAILABLE and "locked" in refused.message
        other.execute("ROLLBACK")
        other.close()
        await site.start()
        assert site.failures == []

    play(path, scenario)


def test_a_claim_that_finds_the_database_locked_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwire_engine.store.sqlite_connection.BUSY_SECONDS", 0.05)
    play(path, _nothing)

    async def main() -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreLocked, match="locked by another program"):
            await Site(path).driver.start()
        other.close()

    asyncio.run(main())


async def _nothing(site: Site) -> None:
    pass


# ---- damaged rows


def two_runs(path: Path) -> list[str]:
    """Two open runs on record, and an engine that has ended."""
    started: list[str] = []

    async def scenario(site: Site) -> None:
        await site.host()
        started.extend([await site.start("order-1"), await site.start("order-2")])

    play(path, scenario)
    return started


def test_a_run_whose_journal_is_damaged_is_kept_aside_at_the_start_and_everything_else_works(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = two_runs(path)
    edit(path, "UPDATE journal SET body = x'00' WHERE run = 1")

    async def scenario(site: Site) -> None:
        runs = site.driver.runs
        host = await site.host()
        assert list(site.driver.core.runs) == [second]
        assert f"{path} is damaged" in caplog.text and "row 1 of run 1 fails its CRC" in caplog.text
        for call in (
            runs.view(first, include_steps=True),
            runs.view(first, include_steps=False),
            runs.cancel(first, None),
            runs.resume(first),
            runs.start("checkout", INPUT, "order-1"),
        ):
            refused = await site.refused(call)
            assert refused.code is ErrorCode.RUN_UNREADABLE, refused
            assert first in refused.message and "stepwire doctor" in refused.message
            assert str(path) not in refused.message and "CRC" not in refused.message
        page = await runs.list_runs()
        assert [run.run_id for run in page.runs] == [second, first] and page.unreadable == {1}
        await site.finish(host, second)
        await site.finish(host, await site.start())
        for refresh in site.telemetry.refresh:
            refresh()
        assert site.telemetry.quarantined_runs == site.telemetry.waiting_runs["journal_unreadable"] == 1

    play(path, scenario, scenario_again(first))


def scenario_again(run_id: str) -> Callable[[Site], Coroutine[Any, Any, None]]:
    async def scenario(site: Site) -> None:
        refused = await site.refused(site.driver.runs.view(run_id, include_steps=False))
        assert refused.code is ErrorCode.RUN_UNREADABLE, "no engine loops over it, and none takes it for gone"

    return scenario


def test_a_run_whose_record_is_damaged_goes_on_from_its_journal_and_is_whole_again(path: Path) -> None:
    first, _ = two_runs(path)
    edit(path, "UPDATE runs SET record = x'00' WHERE run = 1")

    async def scenario(site: Site) -> None:
        host = await site.host()
        page = await site.driver.runs.list_runs()
        assert page.unreadable == {1} and len(site.driver.core.runs) == 2
        await site.finish(host, first)
        assert (await site.driver.runs.list_runs()).unreadable == set()
        view = await site.driver.runs.view(first, include_steps=True)
        assert view.state is RunState.SUCCEEDED
        assert site.driver.core.counters.damaged_rows == 1

    play(path, scenario)


@pytest.mark.parametrize("table", ["inbox", "waits"])
def test_a_run_that_misses_a_row_of_another_table_is_kept_aside(path: Path, table: str) -> None:
    """It would otherwise take its timeout, or wait for ever, for something that was accepted."""
    waiting: list[str] = []

    async def before(site: Site) -> None:
        host = await site.host()
        waiting.append(await site.start())
        fence = host.advances(waiting[0])[-1].fence
        step = StepPlanned("w", kind=StepKind.WAIT_EVENT, spec=WaitEvent("paid", timeout=1e6))
        host.say(HostSection(waiting[0], plans=[Plan(1, 0, fence, steps=(step,))]))
        await site.driver.settled()

    async def after(site: Site) -> None:
        if table == "waits":
            await site.driver.runs.send_event(Event("paid", Payload(b"1")))
            await site.driver.settled()
        (run_id,) = waiting
        assert run_id not in site.driver.core.runs
        view = await site.driver.runs.view(run_id, include_steps=True)
        assert (view.state, view.reason) == (RunState.RUNNING, WaitReason.JOURNAL_UNREADABLE)
        assert (await site.refused(site.driver.runs.cancel(run_id, None))).code is ErrorCode.RUN_UNREADABLE
        await site.host()
        await site.start()

    play(path, before)
    if table == "waits":
        edit(path, "UPDATE waits SET match = 'x'")
    else:
        edit(path, "INSERT INTO inbox VALUES (1, 1, 7, x'00')")
    play(path, after)


def test_a_fact_for_a_run_that_is_kept_aside_is_kept_as_well(path: Path) -> None:
    """The child of a damaged run ends: asking for the run again and again would not make it readable."""
    started: list[str] = []

    async def before(site: Site) -> None:
        host = await site.host()
        started.append(await site.start())
        fence = host.advances(started[0])[-1].fence
        step = StepPlanned("child", kind=StepKind.INVOKE, spec=Invoke("checkout"), input=INPUT)
        host.say(HostSection(started[0], plans=[Plan(1, 0, fence, steps=(step,))]))
        await site.driver.settled()

    async def after(site: Site) -> None:
        (child,) = site.driver.core.runs
        host = await site.host()
        await site.finish(host, child)
        assert site.driver.idle and len(site.store.inbox()) == 1

    play(path, before)
    edit(path, "UPDATE journal SET body = x'00' WHERE run = 1 AND seq = 1")
    play(path, after)


def test_a_journal_that_turns_out_damaged_while_the_run_goes_on(path: Path) -> None:
    async def scenario(site: Site) -> None:
        host = await site.host()
        run_id = await site.start()
        other = await site.start()
        writer_of(site).execute("UPDATE journal SET body = x'00' WHERE run = 1")
        host.say(HostSection(run_id, need_snapshot=NeedSnapshot(host.advances(run_id)[-1].fence)))
        await site.driver.settled()
        assert list(site.driver.core.runs) == [other]
        page = await site.driver.runs.list_runs()
        assert page.unreadable == {1}
        host.finish(run_id, host.advances(run_id)[-1].fence)
        await site.driver.settled()
        assert not host.closed, "a host that still speaks of it is told to forget it"
        await site.finish(host, other)

    play(path, scenario)


def test_a_damaged_event_does_not_keep_others_from_being_delivered(path: Path) -> None:
    async def before(site: Site) -> None:
        soon = site.clock.now().unix_ms + 60_000
        await site.driver.runs.send_event(Event("paid", Payload(b"1"), "bad", at_ms=soon))
        await site.driver.runs.send_event(Event("paid", Payload(b"2"), "good", at_ms=soon))

    async def after(site: Site) -> None:
        await site.pass_time(0.0)
        await site.pass_time(120.0)
        (delivered,) = site.store.events("paid", 0, 10)
        assert delivered.id == "good"
        assert site.driver.core.counters.damaged_rows == 1 and site.failures == []

    play(path, before)
    edit(path, "UPDATE events SET row = x'00' WHERE id = 'bad'")
    play(path, after)


def test_a_run_whose_commits_meet_a_damaged_row_is_kept_aside_instead_of_being_read_again_for_ever(path: Path) -> None:
    async def scenario(site: Site) -> None:
        host = await site.host()
        run_id = await site.start()
        await site.driver.runs.send_event(Event("paid", Payload(b"1"), "e-1"))
        await site.driver.settled()
        writer_of(site).execute("UPDATE events SET sent_ms = 0")
        send = SendEvent((Event("paid", Payload(b"1"), "e-1"),))
        step = StepPlanned("tell", kind=StepKind.SEND_EVENT, spec=send)
        fence = host.advances(run_id)[-1].fence
        host.say(HostSection(run_id, plans=[Plan(1, 0, fence, steps=(step,))]))
        await site.driver.settled()
        assert host.closed, "the commit was refused"
        await site.pass_time(0.3)
        view = await site.driver.runs.view(run_id, include_steps=True)
        assert view.reason is WaitReason.JOURNAL_UNREADABLE and run_id not in site.driver.core.runs
        host = await site.host()
        await site.finish(host, await site.start())

    play(path, scenario)


def test_damage_that_concerns_everybody_ends_the_engine_and_says_why(path: Path) -> None:
    """A table that cannot be walked is more than a row: nothing may be decided without it."""

    async def scenario(site: Site) -> None:
        await site.host()

        def broken(*_: object) -> Any:
            raise StoreCorrupt(f"{path} is damaged: database disk image is malformed")

        site.store.undelivered = broken  # type: ignore[method-assign]
        await site.driver.runs.send_event(Event("paid", Payload(b"1")))
        await site.driver.settled()
        (failure,) = site.failures
        assert failure.exit_code == 65 and str(path) in str(failure)

    play(path, scenario)
