"""How a database gets to this engine's schema, and that nothing older is lost on the way."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import FlowOptions
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Fence, GroupOpened, ParallelMode, Plan, RetryPolicy, StepKind, StepPlanned
from stepwire_engine.core.entries import AttemptEnded, Entry, Planned, RunEnded, RunPaused, RunState, RunStats
from stepwire_engine.store.base import SchemaEdited, SchemaTooNew, SessionRecord, StoreError, Unit, WaitRow
from stepwire_engine.store.migrate import Migration, bundled, migrate
from stepwire_engine.store.sqlite_connection import connect, make_durable
from tests.store.samples import COMMITTED, Desk, StoreMaker, created, dormant, ended, event, matched, record, session

NEXT = bundled()[-1].version + 1
WRITTEN_BY_0001 = Path(__file__).with_name("written_by_0001.sql")
RELEASED = {"0001_initial.sql": "53d318264db3ad5cf73cc1030e5c425a957dec0cc38807ea8d5cf3ebba83614c"}
"""Checksums of migrations that databases may have been built with; each release adds its own."""


# ---- applying them


def test_migrations_are_applied_once_and_proved(make: StoreMaker, path: Path) -> None:
    for _ in range(2):
        store = make()
        store.open()
        store.close()
    db = sqlite3.connect(path)
    found = db.execute("SELECT version, name, sha256 FROM schema_migrations").fetchall()
    db.close()
    assert found == [(m.version, m.name, m.sha256) for m in bundled()]


def test_released_migrations_are_as_they_were_and_numbered_without_a_gap() -> None:
    assert [migration.version for migration in bundled()] == list(range(1, NEXT))
    found = {migration.name: migration.sha256 for migration in bundled()}
    assert RELEASED.items() <= found.items()


def test_a_missing_migration_is_applied_to_an_old_database(make: StoreMaker) -> None:
    first = make()
    desk = Desk(first).open()
    desk.commit(desk.created(1))
    first.close()
    more = Migration(NEXT, f"{NEXT:04}_more.sql", "ALTER TABLE runs ADD COLUMN more TEXT; -- new")
    newer = make(migrations=[*bundled(), more])
    newer.open()
    assert newer.find_run("run-1") == record(1)


def test_a_newer_schema_is_refused_with_what_to_do(make: StoreMaker, path: Path) -> None:
    newer = make(migrations=[*bundled(), Migration(NEXT, f"{NEXT:04}_more.sql", "CREATE TABLE more (x)")])
    newer.open()
    newer.close()
    named = rf"has schema {NEXT} .* up to {NEXT - 1}: start the newer engine"
    with pytest.raises(SchemaTooNew, match=named) as caught:
        make().open()
    assert str(path) in str(caught.value) and caught.value.exit_code == 65


def test_an_edited_migration_is_refused(make: StoreMaker, path: Path) -> None:
    store = make()
    store.open()
    store.close()
    first, *others = bundled()
    with pytest.raises(SchemaEdited, match=r"another 0001_initial\.sql .* never edited") as caught:
        make(migrations=[Migration(1, first.name, first.sql + "\n-- a remark"), *others]).open()
    assert str(path) in str(caught.value) and caught.value.exit_code == 65


def test_a_failing_migration_leaves_the_database_as_it_was(make: StoreMaker, path: Path) -> None:
    broken = "CREATE TABLE half (x); INSERT INTO nowhere VALUES (1)"
    with pytest.raises(StoreError, match="no such table: nowhere"):
        make(migrations=[*bundled(), Migration(NEXT, f"{NEXT:04}_broken.sql", broken)]).open()
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (0,)
    assert db.execute("SELECT max(version) FROM schema_migrations").fetchone() == (NEXT - 1,)
    db.close()
    make().open()


# ---- a database of schema 0001


@pytest.fixture
def old_journals() -> dict[int, list[tuple[Entry, ...]]]:
    """What `written_by_0001.sql` holds, in today's values."""
    steps = (
        StepPlanned("reserve", started=True),
        StepPlanned("charge", StepKind.TASK, "charge", Payload(b'{"amount":5}'), RetryPolicy(3), 10.0),
    )
    plan = Plan(1, 0, Fence(2, 1), (GroupOpened("parallel", 2, ParallelMode.WAIT),), steps)
    failed = Failure(ErrorCode.USER_ERROR, "LookupError", "no stock")
    diverged = Failure(ErrorCode.NON_DETERMINISTIC_FLOW, "NonDeterministicFlow", "expected a")
    attempt = AttemptEnded("reserve", 1, 1700, 0.5, "host-1", failure=failed, retry_at_ms=2700)
    large = ended(1, b"x" * 70_000)
    return {
        1: [(created(1),), (large,), (RunEnded(RunState.SUCCEEDED, 9000, RunStats(1, 2, 3, 4, 5, 6)),)],
        2: [(created(2),)],
        3: [(created(3, "refund"),), (Planned(plan, 1600, "host-1"), attempt)],
        4: [(created(4),), (RunPaused(diverged, 1650),)],
    }


@pytest.fixture
def old(path: Path) -> Path:
    """A database as an engine with the first schema left it."""
    db = connect(str(path))
    make_durable(db, str(path))
    migrate(db, str(path), bundled()[:1])
    db.executescript(WRITTEN_BY_0001.read_text("utf-8"))
    db.close()
    return path


def test_a_database_of_schema_0001_is_served_whole(
    old: Path, make: StoreMaker, old_journals: dict[int, list[tuple[Entry, ...]]]
) -> None:
    store = make(old)
    store.open()
    assert {run: [row.entries for row in store.journal(run)] for run in old_journals} == old_journals
    records = [
        record(1, state=RunState.SUCCEEDED),
        record(2),
        record(3, "refund", RunState.RUNNING),
        record(4, state=RunState.PAUSED),
    ]
    assert list(store.list_runs().runs) == records[::-1]
    assert list(store.open_runs()) == records[1:]
    assert [store.record(run) for run in old_journals] == records
    assert [store.find_key(key) for key in ("order-1", "order-2")] == records[:2]
    assert store.sessions() == [
        SessionRecord("host-1", "orders", ("checkout", "refund"), 1000),
        SessionRecord("host-2", "orders", ("checkout",), 1001),
    ]
    assert store.known_flows() == {"checkout", "refund"}
    assert store.flow_options() == {}
    assert [*store.due_runs(2**62, 10), *store.undelivered(2**62, 10), *store.inbox()] == []


def test_a_database_of_schema_0001_is_written_on(old: Path, make: StoreMaker) -> None:
    store = make(old)
    desk = Desk(store).open()
    assert desk.epoch == 3, "a claim follows the old engine's"
    options = FlowOptions("refund", deadline=5.0)
    receipts = desk.commit(
        desk.row(2, 1, record=dormant(2, 50), waits=(WaitRow(2, "paid?", "paid"),), inbox=(matched(2),)),
        desk.row(4, 2, record=record(4, state=RunState.CANCELLED), release_key="order-2"),
        Unit(desk.epoch, events=(event("e"),), sessions=(session("host-3", "refund", flow_options=(options,)),)),
        desk.created(5, key="order-1"),
    )
    assert [(receipt.outcome.value, receipt.inbox, receipt.events) for receipt in receipts] == [
        ("committed", (1,), ()),
        ("committed", (), ()),
        ("committed", (), (1,)),
        ("key_taken", (), ()),
    ]
    store.close()
    store = make(old)
    store.open()
    assert [found.number for found in store.open_runs()] == [3]
    assert store.due_runs(50, 10) == [dormant(2, 50)]
    assert store.waits("paid", (0, ""), 10) == [WaitRow(2, "paid?", "paid")]
    assert [found.id for found in store.undelivered(100, 10)] == ["e"]
    assert store.known_flows() == {"checkout", "refund"}
    assert store.flow_options() == {"refund": options}


def test_a_run_of_schema_0001_goes_on_where_it_was(old: Path, make: StoreMaker) -> None:
    desk = Desk(make(old)).open()
    before = desk.store.journal(3)
    assert desk.outcomes(desk.row(3, 2, ended(1), record=record(3, "refund", RunState.SUCCEEDED))) == [COMMITTED]
    assert desk.store.journal(3)[:-1] == before
    assert desk.store.find_run("run-3") == record(3, "refund", RunState.SUCCEEDED)
