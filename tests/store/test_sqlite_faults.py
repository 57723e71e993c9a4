"""Failing disks: what was answered is true, what cannot be known is not answered, and nothing wrong is served."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from stepwire_engine.store.base import Receipt, StoreCorrupt, StoreError, StoreFailed, Unit, UnitOutcome, WaitRow
from stepwire_engine.store.sqlite import SqliteStore
from tests.store.processes import environment
from tests.store.samples import COMMITTED, WAIT_SECONDS, Desk, at_once, edit, ended, event, matched, never_fails, record

NO_SPACE = UnitOutcome.NO_SPACE
FULL = sqlite3.SQLITE_FULL
EIO_ON_SYNC = sqlite3.SQLITE_IOERR | (4 << 8)


# ---- damaged files

DAMAGES = int(os.environ.get("STEPWIRE_DAMAGES") or 1000)
"""How many files are damaged; more of them for a longer look."""


@pytest.mark.timeout(max(60, DAMAGES // 10))
def test_damage_is_never_served(tmp_path: Path, seed: int) -> None:
    command = [sys.executable, "-m", "tests.store.flip_process", str(tmp_path), str(seed), str(DAMAGES)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    print(found)
    assert found["wrong"] == []
    outcomes: dict[str, dict[str, int]] = found["outcomes"]
    assert sum([sum(counts.values()) for counts in outcomes.values()]) == DAMAGES
    assert {"not opened", "left out", "refused"} <= outcomes["flip"].keys(), "each way of noticing was needed"
    assert outcomes["flip in log"]["not opened"] > 1 and outcomes["cut"]["not opened"] > 1


# ---- a connection that fails on demand


class FailingConnection:
    """Stands in front of the journal thread's connection and lets what commits fail, before or after it took effect.

    That is COMMIT, or a statement outside of a transaction.
    """

    def __init__(self, db: sqlite3.Connection, code: int, *, takes_effect: bool) -> None:
        self._db = db
        self._code = code
        self._takes_effect = takes_effect
        self.failed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        at_once = statement.startswith("INSERT") and not self._db.in_transaction
        if statement != "COMMIT" and not at_once:
            return self._db.execute(statement, *values)
        self.failed.append(statement)
        if self._takes_effect:
            self._db.execute(statement, *values)
        elif not at_once:
            self._db.execute("ROLLBACK")
        if self._code == sqlite3.SQLITE_NOMEM:
            raise MemoryError
        error = sqlite3.OperationalError("injected")
        error.sqlite_errorcode = self._code
        raise error


@contextmanager
def opened(path: Path, failures: SimpleQueue[StoreError] | None = None) -> Iterator[tuple[Desk, SqliteStore]]:
    on_failed = never_fails if failures is None else failures.put
    store = SqliteStore(path, notify=at_once, on_failed=on_failed)
    try:
        yield Desk(store).open(), store
    finally:
        store.close()


def fail_next_commit(store: SqliteStore, code: int, *, takes_effect: bool) -> FailingConnection:
    """Until the connection is closed."""
    thread = store._journal_thread
    assert thread is not None
    failing = FailingConnection(thread._db, code, takes_effect=takes_effect)
    thread._db = thread._tables._db = failing  # type: ignore[assignment]
    return failing


@pytest.mark.parametrize("takes_effect", [True, False])
@pytest.mark.parametrize("rowless", [True, False])
def test_after_a_full_commit_the_file_is_the_truth(tmp_path: Path, takes_effect: bool, rowless: bool) -> None:
    with opened(tmp_path / "engine.db") as (desk, store):
        desk.commit(desk.created(1))
        fail_next_commit(store, FULL, takes_effect=takes_effect)
        paused = record(1, flow="changed")
        more: dict[str, Any] = {"record": paused, "events": (event("e"),), "inbox": (matched(1),)}
        unit = Unit(desk.epoch, 1, 1, **more) if rowless else desk.row(1, 1, **more)
        receipts = desk.commit(unit, desk.created(1))
        assert [receipt.outcome for receipt in receipts] == (
            [COMMITTED, UnitOutcome.SEQ_CONFLICT] if takes_effect else [NO_SPACE, NO_SPACE]
        )
        assert receipts[0].events == tuple([found.number for found in store.undelivered(100, 10)])
        assert receipts[0].inbox == tuple([found.number for found in store.inbox()])
        assert len(receipts[0].events) == len(receipts[0].inbox) == takes_effect
        (after,) = desk.commit(Unit(desk.epoch, events=(event("f"),), inbox=(matched(1),)))
        assert (after.events, after.inbox) == ((1 + takes_effect,), (1 + takes_effect,)), "numbers are read back, too"
        assert store.find_run("run-1") == (paused if takes_effect else record(1))
        rows = 2 if takes_effect and not rowless else 1
        assert len(store.journal(1)) == rows
        assert desk.outcomes(desk.row(1, rows)) == [COMMITTED], "the probe found space, so units are taken again"
        assert store.accepting


@pytest.mark.parametrize("takes_effect", [True, False])
@pytest.mark.parametrize("runs", [1, 3])
def test_after_a_full_disk_the_file_says_whether_the_one_statement_of_a_commit_is_stored(
    tmp_path: Path, takes_effect: bool, runs: int
) -> None:
    """That it was full before the commit and in it are one error there."""
    with opened(tmp_path / "engine.db") as (desk, store):
        desk.commit(*[desk.created(run) for run in range(1, runs + 1)])
        failing = fail_next_commit(store, FULL, takes_effect=takes_effect)
        assert desk.outcomes(*[desk.row(run, 1) for run in range(1, runs + 1)]) == (
            [COMMITTED if takes_effect else NO_SPACE] * runs
        )
        assert len(failing.failed) == 1 and failing.failed != ["COMMIT"]
        desk.commit(Unit(desk.epoch))  # The probe finds space.
        assert [len(store.journal(run)) for run in range(1, runs + 1)] == [1 + takes_effect] * runs
        assert desk.outcomes(desk.row(1, 1 + takes_effect)) == [COMMITTED]
        assert store.accepting


UNKNOWN = (EIO_ON_SYNC, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_ERROR)
"""What need not come before the last page of a transaction is in the log, or what nobody can tell."""


@pytest.mark.parametrize(
    ("code", "at_once"),
    [*[(code, at_once) for code in UNKNOWN for at_once in (False, True)], (sqlite3.SQLITE_BUSY, False)],
)
def test_an_unknown_outcome_is_never_answered(tmp_path: Path, code: int, at_once: bool) -> None:
    failures: SimpleQueue[StoreError] = SimpleQueue()
    with opened(tmp_path / "engine.db", failures) as (desk, store):
        answers: SimpleQueue[Sequence[Receipt]] = SimpleQueue()
        if at_once:
            desk.commit(desk.created(1))
        failing = fail_next_commit(store, code, takes_effect=True)
        store.submit([desk.row(1, 1) if at_once else desk.created(1)], answers.put)
        error = failures.get(timeout=WAIT_SECONDS)
        assert isinstance(error, StoreFailed) and error.exit_code == 74
        assert "unknown outcome" in str(error)
        assert len(failing.failed) == 1 and (failing.failed != ["COMMIT"]) == at_once
        store.submit([desk.created(2)], answers.put)
        with pytest.raises(StoreFailed):
            store.claim()
        assert not store.accepting
    assert answers.empty() and failures.empty()
    with opened(tmp_path / "engine.db") as (_, store):
        assert store.find_run("run-1") == record(1)
        assert len(store.journal(1)) == 1 + at_once, "restart decides: this time it was stored"
        assert store.find_run("run-2") is None


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_BUSY])
def test_one_statement_that_surely_left_nothing_is_refused(tmp_path: Path, code: int) -> None:
    with opened(tmp_path / "engine.db") as (desk, store):
        desk.commit(desk.created(1))
        failing = fail_next_commit(store, code, takes_effect=False)
        (receipt,) = desk.commit(desk.row(1, 1))
        assert (receipt.outcome, receipt.reason) == (UnitOutcome.REFUSED, "not stored: injected")
        assert "COMMIT" not in failing.failed
        assert len(store.journal(1)) == 1
        assert store.accepting


def test_a_damaged_database_ends_a_commit_of_one_statement(tmp_path: Path) -> None:
    failures: SimpleQueue[StoreError] = SimpleQueue()
    with opened(tmp_path / "engine.db", failures) as (desk, store):
        desk.commit(desk.created(1))
        fail_next_commit(store, sqlite3.SQLITE_CORRUPT, takes_effect=False)
        store.submit([desk.row(1, 1)], never_answered)
        assert isinstance(failures.get(timeout=WAIT_SECONDS), StoreCorrupt)


def never_answered(receipts: Sequence[Receipt]) -> None:
    raise AssertionError(f"answered: {receipts}")


def test_a_row_that_is_there_refuses_only_its_own_unit(tmp_path: Path) -> None:
    """Somebody else has written to the file, and the constraint sees it: each unit gets its own fate."""
    with opened(tmp_path / "engine.db") as (desk, store):
        desk.commit(desk.created(1), desk.created(2))
        edit(tmp_path / "engine.db", "INSERT INTO journal SELECT run, 2, crc, chain, body FROM journal WHERE run = 1")
        receipts = desk.commit(desk.row(1, 1), desk.row(2, 1))
        assert [receipt.outcome for receipt in receipts] == [UnitOutcome.REFUSED, COMMITTED]
        assert "UNIQUE constraint failed" in receipts[0].reason
        assert len(store.journal(2)) == 2


def test_one_statement_waits_for_a_foreign_program_and_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwire_engine.store.sqlite_connection.BUSY_SECONDS", 0.05)
    with opened(tmp_path / "engine.db") as (desk, _):
        desk.commit(desk.created(1))
        other = sqlite3.connect(tmp_path / "engine.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        (receipt,) = desk.commit(desk.row(1, 1))
        assert receipt.outcome is UnitOutcome.REFUSED and "locked" in receipt.reason
        other.close()
        assert desk.outcomes(desk.row(1, 1)) == [COMMITTED]


def test_a_disk_that_is_full_before_commit_refuses_and_recovers(tmp_path: Path) -> None:
    with opened(tmp_path / "engine.db") as (desk, store):
        desk.commit(desk.created(1))
        writer = store._writer
        assert writer is not None
        (pages,) = writer.execute("PRAGMA page_count").fetchone()
        writer.execute(f"PRAGMA max_page_count = {pages}")
        sent = (event("small"), event("large", data=b"y" * 1_000_000))
        large = desk.row(1, 1, ended(1, b"x" * 1_000_000), events=sent, waits=(WaitRow(1, "a", "paid"),))
        (receipt,) = desk.commit(large)
        assert (receipt.outcome, receipt.reason) == (NO_SPACE, "the store is full")
        assert len(store.journal(1)) == 1
        assert [*store.undelivered(100, 10), *store.waits("paid", (0, ""), 10)] == []
        writer.execute("PRAGMA max_page_count = 1000000")
        assert [receipt.events for receipt in desk.commit(large)] == [(1, 2)]
        assert len(store.journal(1)) == 2
        assert len(store.undelivered(100, 10)) == 2


# ---- real file systems


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True) if os.geteuid() == 0 else None
    if mounted is None or mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs" + (f": {mounted.stderr.strip()}" if mounted else ""))
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, spare: int) -> Path:
    """A file that leaves about `spare` bytes on the disk."""
    filler = place / "filler"
    free = os.statvfs(place)
    size = max(free.f_bavail * free.f_bsize - spare, 1)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return filler


@pytest.mark.timeout(60)
def test_a_full_disk_loses_nothing_and_recovers(small_disk: Path, rng: random.Random) -> None:
    path = small_disk / "engine.db"
    truth: dict[int, int] = dict.fromkeys(range(1, 6), 0)

    def submit_until_refused(desk: Desk) -> None:
        for _ in range(10_000):
            run = rng.randrange(1, 6)
            (receipt,) = desk.commit(desk.row(run, truth[run], ended(truth[run], bytes(rng.randrange(1, 4000)))))
            if receipt.outcome is NO_SPACE:
                return
            assert receipt.outcome is COMMITTED
            truth[run] += 1
        raise AssertionError("the disk was never full")

    def assert_truth(store: SqliteStore) -> None:
        assert {run: len(store.journal(run)) for run in truth} == truth

    with opened(path) as (desk, store):
        for _ in range(5):
            filler = fill(small_disk, spare=rng.randrange(0, 400_000))
            submit_until_refused(desk)
            assert_truth(store)
            filler.unlink()
            assert desk.outcomes(desk.row(1, truth[1])) == [COMMITTED]
            truth[1] += 1
            assert store.accepting
            assert_truth(store)
    with opened(path) as (_, store):
        assert_truth(store)


@pytest.mark.timeout(60)
def test_the_store_notices_by_itself_that_there_is_space_again(small_disk: Path) -> None:
    """Nothing is submitted after the disk was full: the journal thread asks for space on its own."""
    probed = threading.Event()
    with opened(small_disk / "engine.db") as (desk, store):
        filler = fill(small_disk, spare=0)
        seq = 0
        while desk.outcomes(desk.row(1, seq, ended(seq, bytes(3000)))) == [COMMITTED]:
            seq += 1
        assert not store.accepting
        thread = store._journal_thread
        assert thread is not None
        probe = thread._probe

        def watched() -> None:
            probe()
            if thread.accepting:
                probed.set()

        thread._probe = watched  # type: ignore[method-assign]
        filler.unlink()
        assert probed.wait(WAIT_SECONDS)
        assert desk.outcomes(desk.row(1, seq)) == [COMMITTED]


LIMITED = """
import os, resource, sys
from queue import SimpleQueue
from stepwire_engine.store.sqlite import SqliteStore
from tests.store.samples import COMMITTED, Desk, at_once, ended

failed = SimpleQueue()
store = SqliteStore(sys.argv[1], notify=at_once, on_failed=failed.put)
desk = Desk(store).open()
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))

def submit(seq):
    def done(receipts):
        assert receipts[0].outcome is COMMITTED, receipts
        print(seq + 1, flush=True)
        submit(seq + 1)

    store.submit([desk.row(1, seq, ended(seq, bytes(3000)))], done)

submit(0)
error = failed.get(timeout=15)
print(error, file=sys.stderr, flush=True)
os._exit(error.exit_code)
"""


def test_an_io_error_ends_the_engine_with_74_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    command = [sys.executable, "-c", LIMITED, str(path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert done.returncode == 74, done.stderr[-2000:]
    assert str(path) in done.stderr and "restart decides" in done.stderr
    acked = [int(line) for line in done.stdout.split()]
    assert acked == list(range(1, len(acked) + 1)) and acked
    with opened(path) as (desk, store):
        stored = len(store.journal(1))
        assert stored in (acked[-1], acked[-1] + 1), "the commit with the unknown outcome may be there"
        assert desk.outcomes(desk.row(1, stored)) == [COMMITTED]


READ_ONLY = """
import os, sys
from stepwire_engine.store.base import StoreError
from stepwire_engine.store.sqlite import SqliteStore
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
try:
    SqliteStore(sys.argv[1], notify=print, on_failed=print).open()
except StoreError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("folder_mode", "file_mode", "named"),
    [
        (0o777, 0o444, r"engine\.db cannot be opened for writing"),
        (0o777, 0o000, r"engine\.db cannot be opened for writing"),
        (0o555, 0o666, r"engine\.db\.lock cannot be created"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(folder_mode: int, file_mode: int, named: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="stepwire-read-only-"))
    try:
        path = folder / "engine.db"
        with opened(path):
            pass
        path.with_name("engine.db.lock").unlink()
        path.chmod(file_mode)
        folder.chmod(folder_mode)
        command = [sys.executable, "-c", READ_ONLY, str(path)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=WAIT_SECONDS)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.startswith("StoreError ") and re.search(named, done.stdout), done.stdout
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)
