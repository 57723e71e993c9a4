"""What only the SQLite store does: files, locks, settings, group commit, damage, and how it searches."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue

import pytest

from stepwire.protocol.frames import FlowOptions
from stepwire_engine.core.entries import RunState
from stepwire_engine.store.base import (
    Receipt,
    StoreCorrupt,
    StoreError,
    StoreLocked,
    Unit,
    UnitOutcome,
    WaitRow,
)
from stepwire_engine.store.draft import Draft
from stepwire_engine.store.rows import pack_unit
from stepwire_engine.store.sqlite import SqliteStore
from stepwire_engine.store.sqlite_connection import CHECKPOINT_PAGES
from stepwire_engine.store.sqlite_tables import SqliteTables
from tests.store.processes import environment
from tests.store.samples import (
    COMMITTED,
    WAIT_SECONDS,
    Desk,
    StoreMaker,
    created,
    dormant,
    edit,
    ended,
    event,
    matched,
    record,
    session,
)

# ---- durability


def test_durable_settings_are_read_back(make: StoreMaker, path: Path) -> None:
    store = make()
    store.open()
    writer = store._writer
    assert writer is not None
    settings = [
        writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "auto_vacuum")
    ]
    assert settings == ["wal", 2, 2]
    assert writer.execute("PRAGMA wal_autocheckpoint").fetchone() == (CHECKPOINT_PAGES,)


def test_a_database_without_incremental_vacuum_is_refused(make: StoreMaker, path: Path) -> None:
    edit(path, "PRAGMA application_id = 0x53745770", "CREATE TABLE t (x)")
    with pytest.raises(StoreError, match="does not take the settings that durability needs"):
        make().open()


def test_everything_is_there_after_reopening(make: StoreMaker) -> None:
    first = make()
    desk = Desk(first).open()
    desk.commit(desk.created(1, key="k"), desk.created(2))
    desk.commit(desk.row(1, 1, ended(1, b"x" * 100_000)))
    journal = first.journal(1)
    first.close()
    desk = Desk(make()).open()
    assert desk.epoch == 2
    assert desk.store.journal(1) == journal
    assert desk.store.find_key("k") == record(1)
    assert desk.outcomes(desk.row(1, 1), desk.row(1, 2)) == [UnitOutcome.SEQ_CONFLICT, COMMITTED]


def test_ends_of_runs_that_were_forgotten_are_read_again(path: Path, make: StoreMaker) -> None:
    make().open()
    db = sqlite3.connect(path, isolation_level=None)
    tables = SqliteTables(db, heads_kept=2)
    desk = Desk(make())  # its epoch is 0, that of a partition nobody claimed
    for seq in range(3):
        for run in range(1, 9):
            draft = Draft(tables)
            assert draft.add(pack_unit(desk.row(run, seq + 1))).outcome is UnitOutcome.SEQ_CONFLICT
            assert draft.add(pack_unit(desk.row(run, seq))).outcome is COMMITTED
            db.execute("BEGIN")
            tables.write(draft)
            db.execute("COMMIT")
            tables.adopt(draft)
            assert len(tables._heads) <= 2
    db.close()


# ---- group commit


class Gate:
    """Holds the journal thread after its first commit until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.commits: list[tuple[int, int]] = []

    def observe(self, seconds: float, units: int, size: int) -> None:
        assert seconds > 0
        self.commits.append((units, size))
        self.reached.set()
        assert self.opened.wait(WAIT_SECONDS)


def test_what_is_queued_becomes_one_commit_and_one_callback(make: StoreMaker) -> None:
    gate = Gate()
    told: list[Callable[[], None]] = []
    store = make(observe_commit=gate.observe, notify=told.append)
    store.open()
    desk = Desk(store)
    desk.epoch = store.claim()
    answers: SimpleQueue[Sequence[Receipt]] = SimpleQueue()
    store.submit([desk.created(1)], answers.put)
    assert gate.reached.wait(WAIT_SECONDS)
    for run in range(2, 302):
        store.submit([desk.created(run)], answers.put)
    gate.opened.set()
    store.close()
    assert [units for units, _ in gate.commits] == [1, 300]
    assert (store.commits, store.rows, store.bytes) == (2, 301, sum(size for _, size in gate.commits))
    assert len(told) == 2
    assert answers.empty(), "nothing is answered but through notify"
    for callback in told:
        callback()
    assert [answers.get_nowait()[0].outcome for _ in range(301)] == [COMMITTED] * 301


def test_large_batches_do_not_grow_a_commit_without_bound(make: StoreMaker) -> None:
    gate = Gate()
    store = make(observe_commit=gate.observe)
    store.open()
    desk = Desk(store)
    desk.epoch = store.claim()
    store.submit([desk.created(1)], lambda receipts: None)
    assert gate.reached.wait(WAIT_SECONDS)
    for run in range(2, 12):
        store.submit([desk.row(run, 0, ended(1, b"x" * 400_000))], lambda receipts: None)
    gate.opened.set()
    store.close()
    assert [units for units, _ in gate.commits] == [1, 3, 3, 3, 1]


def test_a_receipt_that_raises_does_not_cost_another_its_answer(make: StoreMaker) -> None:
    gate = Gate()
    told: list[Callable[[], None]] = []
    store = make(observe_commit=gate.observe, notify=told.append)
    store.open()
    desk = Desk(store)
    desk.epoch = store.claim()
    answers: SimpleQueue[Sequence[Receipt]] = SimpleQueue()

    def fail(receipts: Sequence[Receipt]) -> None:
        raise LookupError("from the engine")

    store.submit([desk.created(1)], answers.put)
    assert gate.reached.wait(WAIT_SECONDS)
    store.submit([desk.created(2)], fail)
    store.submit([desk.created(3)], answers.put)
    gate.opened.set()
    store.close()
    told[0]()
    with pytest.raises(LookupError):
        told[1]()
    assert answers.qsize() == 2


def test_a_closed_loop_does_not_end_the_journal_thread(make: StoreMaker, caplog: pytest.LogCaptureFixture) -> None:
    def closed(callback: Callable[[], None]) -> None:
        raise RuntimeError("Event loop is closed")

    store = make(notify=closed)
    store.open()
    desk = Desk(store)
    desk.epoch = store.claim()
    store.submit([desk.created(1)], lambda receipts: None)
    assert store.claim() == 2
    assert store.find_run("run-1") == record(1)
    assert "loop is closed" in caplog.text


def test_readers_do_not_wait_for_a_commit(make: StoreMaker) -> None:
    gate = Gate()
    store = make(observe_commit=gate.observe)
    store.open()
    desk = Desk(store)
    desk.epoch = store.claim()
    store.submit([desk.created(1)], lambda receipts: None)
    assert gate.reached.wait(WAIT_SECONDS)
    assert store.find_run("run-1") == record(1)
    gate.opened.set()


# ---- one engine per file


def test_a_second_store_on_the_file_is_refused(make: StoreMaker, path: Path, tmp_path: Path) -> None:
    make().open()
    link = tmp_path / "link.db"
    link.symlink_to(path)
    for place in (path, link):
        with pytest.raises(
            StoreLocked, match=rf"{place} is in use by another engine, process {os.getpid()} "
        ) as caught:
            make(place).open()
        assert f"{path}.lock" in str(caught.value)
        assert caught.value.exit_code == 75


def test_a_second_process_is_refused_until_the_first_has_closed(make: StoreMaker, path: Path) -> None:
    store = make()
    store.open()
    program = (
        "import sys\n"
        "from stepwire_engine.store.base import StoreError\n"
        "from stepwire_engine.store.sqlite import SqliteStore\n"
        "store = SqliteStore(sys.argv[1], notify=print, on_failed=print)\n"
        "try:\n    store.open()\n"
        "except StoreError as error:\n    print(error, file=sys.stderr)\n    sys.exit(error.exit_code)\n"
        "store.close()\n"
    )

    def second_engine() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, str(path)]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=WAIT_SECONDS)

    refused = second_engine()
    assert refused.returncode == 75
    assert f"process {os.getpid()} (lock file {path}.lock)" in refused.stderr
    store.close()
    assert second_engine().returncode == 0
    store.open()


def test_a_failed_open_leaves_nothing_locked(make: StoreMaker, path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)
    store = make()
    for _ in range(2):
        with pytest.raises(StoreCorrupt):
            store.open()
    path.unlink()
    store.open()


# ---- wrong files


def test_a_file_that_is_no_database_is_refused_and_kept(make: StoreMaker, path: Path) -> None:
    content = b"# a text file\n" * 500
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match="restore the last backup") as caught:
        make().open()
    assert str(path) in str(caught.value) and caught.value.exit_code == 65
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_and_kept(make: StoreMaker, path: Path) -> None:
    edit(path, "CREATE TABLE customers (name)")
    content = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="not one of Stepwire's"):
        make().open()
    assert path.read_bytes() == content


def test_a_truncated_database_is_refused(make: StoreMaker, path: Path) -> None:
    store = make()
    desk = Desk(store).open()
    desk.commit(*[desk.created(run) for run in range(1, 200)])
    store.close()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StoreCorrupt, match=r"engine\.db is damaged"):
        make().open()


@pytest.mark.parametrize(
    ("place", "named"),
    [("missing/engine.db", "the directory .*missing does not exist: create it"), (".", "is a directory: name a file")],
)
def test_a_place_without_room_for_a_file_is_refused(make: StoreMaker, tmp_path: Path, place: str, named: str) -> None:
    with pytest.raises(StoreError, match=named):
        make(tmp_path / place).open()


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE journal SET body = x'00' WHERE run = 1 AND seq = 2", "row 2 of run 1 fails its CRC"),
        ("UPDATE journal SET seq = 9 WHERE run = 1 AND seq = 2", "row 2 of run 1 is missing"),
        ("UPDATE journal SET chain = chain + 1 WHERE run = 1 AND seq = 2", "row 2 of run 1 breaks the chain"),
        ("UPDATE journal SET run = 9 WHERE run = 1 AND seq = 3", "has 2 rows and its record names row 3"),
        ("UPDATE blobs SET data = x'00' WHERE run = 1", "payload 0 of row 3 of run 1 fails its CRC"),
        ("DELETE FROM blobs", "payload 0 of row 3 of run 1 is missing"),
    ],
)
def test_damage_of_a_journal_is_named_and_other_runs_are_served(
    make: StoreMaker, path: Path, statement: str, named: str
) -> None:
    store = make()
    desk = Desk(store).open()
    done = desk.row(1, 2, ended(2, b"x" * 100_000), record=record(1))
    desk.commit(desk.created(1), desk.created(2), desk.row(1, 1), done)
    other = store.journal(2)
    store.close()
    edit(path, statement)
    desk = Desk(make()).open()
    with pytest.raises(StoreCorrupt, match=named) as caught:
        desk.store.journal(1)
    assert str(path) in str(caught.value)
    assert desk.store.journal(2) == other
    assert desk.outcomes(desk.row(2, 1)) == [COMMITTED]


def test_a_run_with_a_damaged_end_is_not_extended(make: StoreMaker, path: Path) -> None:
    store = make()
    desk = Desk(store).open()
    desk.commit(desk.created(1), desk.row(1, 1))
    store.close()
    edit(path, "UPDATE journal SET body = x'00' WHERE run = 1 AND seq = 2")
    desk = Desk(make()).open()
    (receipt, other) = desk.commit(desk.row(1, 2), desk.created(2))
    assert receipt.outcome is UnitOutcome.REFUSED and "row 2 of run 1 fails its CRC" in receipt.reason
    assert other.outcome is COMMITTED


@pytest.mark.parametrize(
    ("statement", "ask"),
    [
        ("UPDATE runs SET state = 6 WHERE run = 1", lambda store: store.find_run("run-1")),
        ("UPDATE runs SET flow = 'other' WHERE run = 1", lambda store: store.list_runs(flow="other")),
        ("UPDATE runs SET state = 2 WHERE run = 3", lambda store: list(store.open_runs())),
        ("UPDATE runs SET wake_ms = 40 WHERE run = 3", lambda store: store.due_runs(45, 10)),
        ("UPDATE runs SET wake_ms = 40 WHERE run = 1", lambda store: store.due_runs(45, 10)),
        ("UPDATE runs SET wake_ms = NULL WHERE run = 3", lambda store: store.record(3)),
        ("UPDATE keys SET run = 2", lambda store: store.find_key("k")),
        ("UPDATE sessions SET record = x'00'", lambda store: store.sessions()),
        ("UPDATE flows SET flow = 'other' WHERE flow = 'f'", lambda store: store.known_flows()),
        ("UPDATE flows SET flow = 'other' WHERE flow = 'g'", lambda store: store.known_flows()),
        ("UPDATE flows SET options = NULL WHERE flow = 'g'", lambda store: store.flow_options()),
        ("UPDATE flows SET options = x'91a166' WHERE flow = 'f'", lambda store: store.flow_options()),
        ("UPDATE inbox SET run = 3", lambda store: store.inbox()),
        ("UPDATE inbox SET number = 8", lambda store: store.inbox()),
        ("UPDATE inbox SET row = x'00'", lambda store: store.inbox()),
        ("UPDATE waits SET run = 4", lambda store: store.waits("paid", (0, ""), 10)),
        ("UPDATE waits SET path = 'b'", lambda store: store.waits("paid", (0, ""), 10)),
        ("UPDATE waits SET event = 'other'", lambda store: store.waits("other", (0, ""), 10)),
        ("UPDATE waits SET match = ''", lambda store: store.waits("paid", (0, ""), 10)),
        ("UPDATE events SET number = 9 WHERE id = 'due'", lambda store: store.undelivered(100, 10)),
        ("UPDATE events SET due_ms = 50 WHERE id = 'due'", lambda store: store.undelivered(100, 10)),
        ("UPDATE events SET sent_ms = 50 WHERE id = 'due'", lambda store: store.undelivered(100, 10)),
        ("UPDATE events SET row = x'00' WHERE id = 'due'", lambda store: store.undelivered(100, 10)),
        ("UPDATE events SET delivered = 1 WHERE id = 'due'", lambda store: store.events("paid", 0, 10)),
        ("UPDATE events SET delivered = 0 WHERE id = 'done'", lambda store: store.undelivered(100, 10)),
        ("UPDATE events SET name = 'other' WHERE id = 'done'", lambda store: store.events("other", 0, 10)),
        ("UPDATE events SET id = 'other' WHERE id = 'done'", lambda store: store.events("paid", 0, 10)),
    ],
)
def test_a_changed_side_row_is_not_served(
    make: StoreMaker, path: Path, statement: str, ask: Callable[[SqliteStore], object]
) -> None:
    store = make()
    desk = Desk(store).open()
    fill_side_tables(desk)
    store.close()
    edit(path, statement)
    again = make()
    again.open()
    with pytest.raises(StoreCorrupt, match="fails its CRC"):
        ask(again)


def test_an_event_is_not_taken_for_a_known_one_whose_row_is_damaged(make: StoreMaker, path: Path) -> None:
    store = make()
    fill_side_tables(Desk(store).open())
    store.close()
    edit(path, "UPDATE events SET sent_ms = 0 WHERE id = 'due'", "UPDATE keys SET run = 2")
    desk = Desk(make()).open()
    again = (event("new"), event("due", sent_ms=300))
    receipts = desk.commit(
        desk.row(1, 1, events=again, events_since_ms=50),
        desk.row(1, 1, release_key="k"),
        Unit(desk.epoch, events=again[:1]),
    )
    assert [receipt.outcome for receipt in receipts] == [UnitOutcome.REFUSED, UnitOutcome.REFUSED, COMMITTED]
    assert "the event 1 fails its CRC" in receipts[0].reason and "the key 'k' fails its CRC" in receipts[1].reason
    assert receipts[2].events == (3,), "the refused unit took no number and left no event"
    assert len(desk.store.journal(1)) == 1, "nor a row"


def test_numbers_go_on_where_they_were_after_reopening(make: StoreMaker) -> None:
    store = make()
    desk = Desk(store).open()
    first = Unit(desk.epoch, inbox=(matched(1), matched(2)), events=(event("a", due_ms=5, sent_ms=5),))
    desk.commit(first)
    desk.commit(Unit(desk.epoch, inbox_done=(1, 2), events_delivered=(1,)), Unit(desk.epoch, events_since_ms=10))
    assert [*store.inbox(), *store.events("paid", 0, 10)] == [], "the tables are empty"
    store.close()
    desk = Desk(make()).open()
    (receipt,) = desk.commit(Unit(desk.epoch, inbox=(matched(3),), events=(event("a"),)))
    assert (receipt.inbox, receipt.events) == ((3,), (2,))


def test_a_key_that_a_flipped_bit_hides_is_noticed(make: StoreMaker, path: Path) -> None:
    """Nothing would be found under the key, so no row's CRC could tell: an index does."""
    store = make()
    desk = Desk(store).open()
    desk.commit(desk.created(1, key="only-here"))
    store.close()
    content = path.read_bytes()
    for place in (content.index(b"only-here"), content.rindex(b"only-here")):
        path.write_bytes(content[: place + 8] + b"g" + content[place + 9 :])
        with pytest.raises(StoreCorrupt, match=r"engine\.db is damaged"):
            make().open()


def test_a_lowered_claim_epoch_is_refused(make: StoreMaker, path: Path) -> None:
    store = make()
    Desk(store).open()
    store.claim()
    store.close()
    edit(path, "UPDATE partitions SET claim_epoch = 1")
    with pytest.raises(StoreCorrupt, match="the claim epoch of partition 0 fails its CRC"):
        make().open()


def test_a_unit_that_the_tables_do_not_take_fails_alone(make: StoreMaker, path: Path) -> None:
    """The one check the draft cannot make: the schema refuses, and the batch is split to find the unit."""
    store = make()
    store.open()
    store.close()
    edit(path, "CREATE TRIGGER t BEFORE INSERT ON journal WHEN NEW.run = 2 BEGIN SELECT RAISE(ABORT, 'not run 2'); END")
    desk = Desk(make()).open()
    receipts = desk.commit(desk.created(1), desk.created(2), desk.row(1, 1), desk.created(3))
    assert [receipt.outcome for receipt in receipts] == [COMMITTED, UnitOutcome.REFUSED, COMMITTED, COMMITTED]
    assert "not run 2" in receipts[1].reason
    assert [len(desk.store.journal(run)) for run in (1, 2, 3)] == [2, 0, 1]
    assert desk.store.find_run("run-2") is None


def test_numbers_told_are_those_stored_when_a_neighbour_fails(make: StoreMaker, path: Path) -> None:
    """The batch is judged anew without the unit that the tables do not take."""
    store = make()
    store.open()
    store.close()
    refusing = "BEFORE INSERT ON waits BEGIN SELECT RAISE(ABORT, 'no waits'); END"
    edit(path, f"CREATE TRIGGER t {refusing}")
    desk = Desk(make()).open()
    receipts = desk.commit(
        desk.created(1, events=(event("a"),), inbox=(matched(1),)),
        desk.created(2, events=(event("b"),), inbox=(matched(2),), waits=(WaitRow(2, "w", "paid"),)),
        desk.created(3, events=(event("b"),), inbox=(matched(3),)),
    )
    assert [(receipt.outcome, receipt.inbox, receipt.events) for receipt in receipts] == [
        (COMMITTED, (1,), (1,)),
        (UnitOutcome.REFUSED, (), ()),
        (COMMITTED, (2,), (2,)),
    ]
    assert [(row.number, row.run) for row in desk.store.inbox()] == [(1, 1), (2, 3)]
    assert [(found.number, found.id) for found in desk.store.undelivered(100, 10)] == [(1, "a"), (2, "b")]


def fill_side_tables(desk: Desk) -> None:
    """Something in every side table: runs 1 to 3, the events `due` and `done`, a wait, a fact, a key, two flows."""
    registered = session("host-1", "f", "g", flow_options=(FlowOptions("g", 5.0),))
    wait = WaitRow(2, "a", "paid", "data.n > `3`")
    desk.commit(
        desk.created(1, key="k", sessions=(registered,), inbox=(matched(1),), events=(event("due"), event("done"))),
        desk.created(2, waits=(wait,)),
        Unit(desk.epoch, 3, 0, (created(3),), dormant(3, 50)),
    )
    desk.commit(Unit(desk.epoch, events_delivered=(2,)))


# ---- reads


def test_every_read_walks_along_an_index(make: StoreMaker) -> None:
    """Each statement of the readers and of pruning costs by what it returns, not by what the tables hold."""
    store = make()
    desk = Desk(store).open()
    fill_side_tables(desk)
    reader, writer = store._reader, store._writer
    assert reader is not None and writer is not None
    asked: list[str] = []
    reader.set_trace_callback(asked.append)
    writer.set_trace_callback(asked.append)
    store.due_runs(100, 10)
    store.waits("paid", (1, "a"), 10)
    store.events("paid", 0, 10)
    store.undelivered(100, 10)
    store.record(1)
    store.inbox(after=3)
    desk.commit(Unit(desk.epoch, events=(event("due"),), events_since_ms=10, events_delivered=(1,)))
    desk.commit(Unit(desk.epoch, 2, 1, record=record(2, state=RunState.FAILED), waits_done=("a",)))
    store.close()
    db = sqlite3.connect(store._path)
    plans = {sql: [step[3] for step in db.execute(f"EXPLAIN QUERY PLAN {sql}")] for sql in asked if " " in sql.strip()}
    db.close()
    walked = {sql: [s for s in steps if "SCAN" in s or "TEMP B-TREE" in s] for sql, steps in plans.items()}
    assert len(walked) > 10
    assert {sql: steps for sql, steps in walked.items() if steps} == {}
