"""Files and rows that are not what was written: seen, named, and kept from everything else."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from stepwire_engine.store import sqlite_connection
from stepwire_engine.store.base import (
    StoreCorrupt,
    StoreError,
    Unit,
    UnitOutcome,
    WaitRow,
)
from stepwire_engine.store.sqlite import SqliteStore
from tests.store.samples import (
    COMMITTED,
    Desk,
    StoreMaker,
    edit,
    ended,
    event,
    fill_side_tables,
    matched,
    record,
)


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


@pytest.mark.parametrize("table", ["journal", "blobs", "waits"])
def test_an_error_that_somebody_keeps_does_not_keep_readers_from_seeing_later_commits(
    make: StoreMaker, path: Path, table: str
) -> None:
    """A cursor in its traceback that is not at its end would hold the snapshot of that moment."""
    store = make()
    desk = Desk(store).open()
    waits = [WaitRow(1, f"w{n}", "paid") for n in range(3)]
    desk.commit(desk.created(1, waits=tuple(waits)))
    desk.commit(*[desk.row(1, seq, ended(seq, b"x" * 100_000)) for seq in (1, 2)])
    store.close()
    edit(path, f"UPDATE {table} SET crc = crc + 1 WHERE rowid = 1" if table != "waits" else "SELECT 1")
    desk = Desk(make()).open()
    kept: list[StoreCorrupt] = []
    if table == "waits":
        desk.store.waits("paid", (0, ""), 1)
    else:
        with pytest.raises(StoreCorrupt) as caught:
            desk.store.journal(1)
        kept.append(caught.value)
    desk.commit(desk.created(2))
    assert desk.store.find_run("run-2") == record(2)
    assert len(kept) == (table != "waits")


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
        ("UPDATE runs SET wake_ms = NULL WHERE run = 3", lambda store: store.record(3)),
        ("UPDATE keys SET run = 2", lambda store: store.find_key("k")),
        ("UPDATE flows SET flow = 'other' WHERE flow = 'f'", lambda store: store.known_flows()),
        ("UPDATE flows SET flow = 'other' WHERE flow = 'g'", lambda store: store.known_flows()),
        ("UPDATE flows SET options = NULL WHERE flow = 'g'", lambda store: store.flow_options()),
        ("UPDATE flows SET options = x'91a166' WHERE flow = 'f'", lambda store: store.flow_options()),
    ],
)
def test_a_changed_side_row_is_not_served(
    make: StoreMaker, path: Path, statement: str, ask: Callable[[SqliteStore], object]
) -> None:
    again = altered(make, path, statement)
    with pytest.raises(StoreCorrupt, match="fails its CRC"):
        ask(again)


@pytest.mark.parametrize(
    ("statement", "ask"),
    [
        ("UPDATE runs SET state = 2 WHERE run = 3", lambda store: list(store.open_runs())),
        ("UPDATE runs SET wake_ms = 40 WHERE run = 3", lambda store: store.due_runs(45, 10)),
        ("UPDATE runs SET wake_ms = 40 WHERE run = 1", lambda store: store.due_runs(45, 10)),
        ("UPDATE sessions SET record = x'00'", lambda store: store.sessions()),
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
def test_a_changed_row_is_left_out_of_what_the_engine_reads_and_told_once(
    make: StoreMaker, path: Path, statement: str, ask: Callable[[SqliteStore], Sequence[Any]]
) -> None:
    again = altered(make, path, statement)
    found = [ask(again), ask(again)]
    (damage,) = again.take_damage()
    assert damage.table == statement.split()[1] and "fails its CRC" in damage.what
    truth = altered(make, path.with_name("sound.db"), "SELECT 1")
    assert found[0] == found[1] and all(row in ask(truth) for row in found[0])
    assert (again.take_damage(), truth.take_damage()) == ((), ())


def test_a_page_is_full_even_if_rows_of_it_are_left_out(make: StoreMaker, path: Path) -> None:
    """Who reads in pages takes one that is not full for the last."""
    store = make()
    desk = Desk(store).open()
    waits = [WaitRow(run, "w", "paid") for run in range(1, 6)]
    desk.commit(*[desk.created(wait.run, waits=(wait,)) for wait in waits])
    store.close()
    edit(path, "UPDATE waits SET match = 'x' WHERE run IN (2, 3)")
    store = make()
    store.open()
    assert [wait.run for wait in store.waits("paid", (0, ""), 2)] == [1, 4]
    assert [(row.table, row.run) for row in store.take_damage()] == [("waits", 2), ("waits", 3)]


def test_a_damaged_record_is_listed_as_it_is_stored_and_marked(make: StoreMaker, path: Path) -> None:
    store = make()
    desk = Desk(store).open()
    desk.commit(desk.created(1), desk.created(2), desk.created(3))
    store.close()
    edit(path, "UPDATE runs SET record = x'00' WHERE run = 2", "UPDATE runs SET state = 77 WHERE run = 3")
    store = make()
    store.open()
    page = store.list_runs(limit=2)
    assert [(run.number, run.run_id, run.flow) for run in page.runs] == [(2, "run-2", "checkout")]
    assert page.unreadable == {2} and page.next_page_token
    assert store.list_runs(page_token=page.next_page_token).runs == (record(1),)
    assert [row.run for row in store.take_damage()] == [3, 2]


def altered(make: StoreMaker, path: Path, statement: str) -> SqliteStore:
    """A store with something in every side table, of which one row was changed behind its back."""
    store = make(path)
    fill_side_tables(Desk(store).open())
    store.close()
    edit(path, statement)
    again = make(path)
    again.open()
    return again


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


def test_a_large_database_is_checked_where_it_is_looked_up_until_the_time_is_over(
    make: StoreMaker, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_connection, "CHECKED_BYTES_MAX", 0)
    store = make()
    desk = Desk(store).open()
    desk.commit(desk.created(1, key="only-here"))
    store.close()
    content = path.read_bytes()
    place = content.index(b"only-here")
    path.write_bytes(content[: place + 8] + b"g" + content[place + 9 :])
    with pytest.raises(StoreCorrupt, match=r"engine\.db is damaged.*keys"):
        make().open()
    assert caplog.text == ""
    make(check_seconds=0.0).open()
    assert "those of partitions, bookkeeping, keys" in caplog.text and "stepwire doctor" in caplog.text


@pytest.mark.parametrize("found", ["nothing", "damage"])
def test_a_check_that_takes_too_long_is_given_up(
    found: str, make: StoreMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also in the middle of a tree; then what it seems to have found means nothing."""
    monkeypatch.setattr(sqlite_connection, "CHECKED_BYTES_MAX", 0)
    store = make()
    store.open()
    store.close()

    def endless(db: sqlite3.Connection, path: str, what: str) -> None:
        try:
            db.execute("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")
        except sqlite3.OperationalError:
            if found == "nothing":
                raise
            raise StoreCorrupt("child page depth differs") from None

    monkeypatch.setattr(sqlite_connection, "_check", endless)
    make(check_seconds=0.05).open()
    assert "those of partitions, bookkeeping, keys" in caplog.text
    assert not [thread for thread in threading.enumerate() if thread.name == "stepwire-check"]


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
