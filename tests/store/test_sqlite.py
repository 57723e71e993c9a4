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
from typing import Any

import pytest
from msgspec import structs

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
from stepwire_engine.store.sqlite_tables import SqliteTables
from tests.store.processes import environment
from tests.store.samples import (
    COMMITTED,
    WAIT_SECONDS,
    Desk,
    StoreMaker,
    edit,
    ended,
    event,
    fill_side_tables,
    record,
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
    assert writer.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,), "it keeps its errors to itself"


def test_its_files_are_for_this_user_alone(make: StoreMaker, path: Path) -> None:
    """What flows recorded is nobody else's to read, however open the umask is (MISSION V7)."""
    before = os.umask(0)
    try:
        store = make()
        store.open()
        files = sorted(path.parent.glob(path.name + "*"))
        modes = {file.name.removeprefix(path.name): file.stat().st_mode & 0o777 for file in files}
    finally:
        os.umask(before)
    assert modes == {"": 0o600, "-shm": 0o600, "-wal": 0o600, ".lock": 0o600}


def test_a_database_that_exists_keeps_its_mode(make: StoreMaker, path: Path) -> None:
    path.touch()
    path.chmod(0o660)
    make().open()
    assert path.stat().st_mode & 0o777 == 0o660


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


@pytest.mark.parametrize("runs", [1, 7, 60])
def test_every_column_of_a_record_follows_it(make: StoreMaker, path: Path, runs: int) -> None:
    store = make()
    desk = Desk(store).open()
    steps: list[dict[str, Any]] = [
        {"state": RunState.PENDING},
        {"state": RunState.RUNNING},
        {"state": RunState.RUNNING, "build_id": "b2"},
        {"state": RunState.WAITING, "build_id": "b2", "wake_ms": 70},
        {"state": RunState.RUNNING, "build_id": "b2"},
        {"state": RunState.SUCCEEDED, "build_id": "b2"},
        {"state": RunState.SUCCEEDED, "build_id": "b2", "flow": "other"},
    ]
    for seq, step in enumerate(steps):
        records = [structs.replace(record(run), **step) for run in range(1, runs + 1)]
        units = [desk.row(new.number, seq, record=new) for new in records]
        assert desk.outcomes(*units) == [COMMITTED] * runs
        assert [store.find_run(new.run_id) for new in records] == records
        assert list(store.list_runs(flow=records[0].flow, states=(step["state"],)).runs) == records[::-1]
        assert list(store.due_runs(100, 100)) == (records if "wake_ms" in step else [])
    store.close()
    db = sqlite3.connect(path)
    columns = "run_id, flow, state, namespace, partition, build_id, head_seq, wake_ms"
    assert db.execute(f"SELECT {columns} FROM runs WHERE run = 1").fetchone() == (
        *("run-1", "other", int(RunState.SUCCEEDED), "default", 0, "b2", len(steps), None),
    )
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_a_record_that_was_lost_is_written_again(make: StoreMaker, path: Path) -> None:
    store = make()
    desk = Desk(store).open()
    desk.commit(desk.created(1), desk.created(2))
    edit(path, "DELETE FROM runs WHERE run = 2")
    ends = [record(run, state=RunState.SUCCEEDED) for run in (1, 2)]
    desk.commit(*[desk.row(end.number, 1, record=end) for end in ends])
    assert [store.find_run(end.run_id) for end in ends] == ends


@pytest.mark.parametrize("change", ["flow = 'x'", "run_id = 'x'", "namespace = 'x'", "partition = 3", "wake_ms = 5"])
def test_a_record_that_was_damaged_is_written_anew(make: StoreMaker, path: Path, change: str) -> None:
    store = make()
    desk = Desk(store).open()
    desk.commit(desk.created(1), desk.created(2))
    edit(path, f"UPDATE runs SET {change} WHERE run = 2")
    ends = [record(run, state=RunState.SUCCEEDED) for run in (1, 2)]
    desk.commit(*[desk.row(end.number, 1, record=end) for end in ends])
    assert [store.find_run(end.run_id) for end in ends] == ends
    assert store.due_runs(100, 100) == []


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


# ---- what a commit is made of


def statements(store: SqliteStore, desk: Desk, *units: Unit) -> list[str]:
    """First words of the statements that a commit of `units` executed."""
    writer = store._writer
    assert writer is not None
    asked: list[str] = []
    writer.set_trace_callback(asked.append)
    assert desk.outcomes(*units) == [COMMITTED] * len(units)
    writer.set_trace_callback(None)
    return [" ".join(sql.replace("OR ROLLBACK ", "").split()[:3]) for sql in asked]


def test_rows_alone_are_one_statement(make: StoreMaker) -> None:
    """Around each the thread gives the GIL away, and a busy loop gives it back when it likes."""
    store = make()
    desk = Desk(store).open()
    runs = range(1, 151)
    desk.commit(*[desk.created(run) for run in runs])
    rows = "INSERT INTO journal"
    assert statements(store, desk, desk.row(1, 1)) == [rows]
    assert statements(store, desk, desk.row(1, 2, ended(1, b"x" * 60_000))) == [rows]
    assert statements(store, desk, *[desk.row(run, 1) for run in range(2, 102)]) == [rows]
    assert statements(store, desk, *[desk.row(run, 2) for run in range(2, 103) if run != 102]) == [rows]
    assert statements(store, desk, *[desk.row(run, 3) for run in range(1, 102)]) == [
        "BEGIN IMMEDIATE",
        rows,
        rows,
        "COMMIT",
    ]
    large = [desk.row(run, 4, *[ended(n, b"x" * 60_000) for n in range(9)]) for run in (1, 2)]
    assert statements(store, desk, *large) == ["BEGIN IMMEDIATE", rows, rows, "COMMIT"], "copied one by one"
    blob = desk.row(1, 5, ended(1, b"x" * 100_000))
    assert statements(store, desk, blob) == ["BEGIN IMMEDIATE", rows, "INSERT INTO blobs", "COMMIT"]
    assert [len(store.journal(run)) for run in (1, 2, 101, 102)] == [6, 5, 4, 1]


@pytest.mark.parametrize("runs", [1, 25])
def test_the_commits_of_a_short_run(make: StoreMaker, runs: int) -> None:
    store = make()
    desk = Desk(store).open()
    numbers = range(1, runs + 1)
    started = [desk.created(run, state=RunState.RUNNING) for run in numbers]
    went_on = [desk.row(run, 1, record=record(run, state=RunState.RUNNING)) for run in numbers]
    over = [desk.row(run, 2, record=record(run, state=RunState.SUCCEEDED)) for run in numbers]
    change = "UPDATE runs SET" if runs == 1 else "INSERT INTO runs"
    begin = ["BEGIN IMMEDIATE", "INSERT INTO journal"]
    assert statements(store, desk, *started) == [*begin, "INSERT INTO runs", "COMMIT"]
    assert statements(store, desk, *went_on) == [*begin, change, "COMMIT"]
    assert statements(store, desk, *over) == [*begin, change, "COMMIT"]


def test_an_id_of_another_run_is_refused_by_name_and_costs_nobody_else(make: StoreMaker) -> None:
    """The id of a new run is not looked up: the constraint of the table sees it."""
    store = make()
    desk = Desk(store).open()
    desk.commit(desk.created(1))
    twin = desk.row(9, 0, record=record(9, run_id="run-1"))
    receipts = desk.commit(desk.created(3), twin, desk.created(4))
    assert [receipt.outcome for receipt in receipts] == [COMMITTED, UnitOutcome.REFUSED, COMMITTED]
    assert receipts[1].reason == "run id 'run-1' belongs to run 1"
    (alone,) = desk.commit(twin)
    assert alone == receipts[1]
    assert [len(store.journal(run)) for run in (1, 3, 4, 9)] == [1, 1, 1, 0]
    assert store.find_run("run-1") == record(1)


def test_waits_of_a_run_are_gone_when_it_ends_however_old_they_are(make: StoreMaker) -> None:
    """Those of a run that never had one since it is known are not looked for."""
    ends = [record(run, state=RunState.SUCCEEDED) for run in range(1, 7)]

    def waits(store: SqliteStore) -> list[int]:
        return [wait.run for wait in store.waits("paid", (0, ""), 10)]

    first = make()
    desk = Desk(first).open()
    desk.commit(*[desk.created(run) for run in (1, 2)])
    desk.commit(desk.row(1, 1, waits=(WaitRow(1, "a", "paid"),)), desk.row(2, 1, waits=(WaitRow(2, "a", "paid"),)))
    desk.commit(desk.row(1, 2, record=ends[0]))
    assert waits(first) == [2]
    desk.commit(
        desk.created(3, waits=(WaitRow(3, "a", "paid"),)), Unit(desk.epoch, 5, 0, waits=(WaitRow(5, "a", "paid"),))
    )
    first.close()
    second = make()
    desk = Desk(second).open()
    desk.commit(Unit(desk.epoch, 6, 0, waits=(WaitRow(6, "a", "paid"),)))
    desk.commit(desk.created(4), desk.created(5), desk.created(6))
    assert waits(second) == [2, 3, 5, 6]
    seqs = {2: 2, 3: 1, 4: 1, 5: 1, 6: 1}
    desk.commit(*[desk.row(run, seq, record=ends[run - 1]) for run, seq in seqs.items()])
    assert waits(second) == []


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
