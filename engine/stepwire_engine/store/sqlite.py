"""Durable storage in one SQLite file (DESIGN 5): the store of one engine.

Writes go to the journal thread, reads use a second connection and never wait for a commit. The file belongs to
one engine at a time. Nothing that fails its check values is ever returned.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import starmap
from os import PathLike, fspath
from typing import TypeVar

from stepwire.protocol.frames import FlowOptions
from stepwire_engine.core.entries import RunState
from stepwire_engine.store import rows
from stepwire_engine.store.base import (
    DamagedRow,
    EventRecord,
    InboxRow,
    JournalRow,
    LogPage,
    LogQuery,
    Notify,
    Receipts,
    RunPage,
    RunRecord,
    SessionRecord,
    StoreError,
    StoreFailed,
    Unit,
    WaitRow,
)
from stepwire_engine.store.damage import DamageLog, Sealed, run_of
from stepwire_engine.store.file_lock import FileLock
from stepwire_engine.store.migrate import Migration, check_owner, migrate
from stepwire_engine.store.paging import check_limit, page_token_of, run_before
from stepwire_engine.store.rows import BlobKey, Damaged
from stepwire_engine.store.sqlite_connection import (
    CHECK_SECONDS,
    check_place,
    check_whole,
    connect,
    connect_reader,
    create_private,
    damaged,
    explained,
    make_durable,
)
from stepwire_engine.store.sqlite_journal import Counters, JournalThread, ObserveCommit
from stepwire_engine.store.sqlite_logs import read_logs
from stepwire_engine.store.sqlite_wal import check_log
from stepwire_engine.store.stored import (
    NO_ROWS,
    OPEN_STATES,
    Head,
    StoredEvent,
    StoredFlow,
    StoredInboxRow,
    StoredRecord,
    StoredSession,
    StoredWait,
)

_RECORD = "run, run_id, flow, state, namespace, partition, build_id, head_seq, head_chain, record, wake_ms, crc"
_OPEN_RUNS_PAGE = 500
T = TypeVar("T")


class SqliteStore:
    """The store in one file. Reads block and may be called from several threads; `submit` never waits.

    Args:
        path: The database file; it is created if its directory exists.
        notify: Runs a callable on the engine's loop. Everything the store tells the engine goes through it.
        on_failed: Told that the outcome of a commit is unknown; the engine must end with the error's `exit_code`.
        observe_commit: Told (seconds, units, bytes) of each commit, on the journal thread.
        check_seconds: How long the check of a large file may take when it is opened.
        migrations: For tests; None: those the engine was built with.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        notify: Notify,
        on_failed: Callable[[StoreError], None],
        observe_commit: ObserveCommit | None = None,
        check_seconds: float = CHECK_SECONDS,
        migrations: Sequence[Migration] | None = None,
    ) -> None:
        self._path = fspath(path)
        self._notify = notify
        self._on_failed = on_failed
        self._observe_commit = observe_commit
        self._check_seconds = check_seconds
        self._migrations = migrations
        self._lock = FileLock(self._path)
        self._counters = Counters()
        self._journal_thread: JournalThread | None = None
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._reader_lock = threading.Lock()
        self._damage = DamageLog()

    def open(self) -> None:
        if self._journal_thread is not None:
            raise StoreError(f"{self._path} is open already")
        check_place(self._path)
        self._lock.acquire()
        try:
            check_log(self._path)
            create_private(self._path)
            self._writer = writer = connect(self._path)
            check_owner(writer, self._path)
            check_whole(writer, self._path, self._check_seconds)
            make_durable(writer, self._path)
            migrate(writer, self._path, self._migrations)
            self._reader = connect_reader(self._path)
            thread = JournalThread(
                self._path,
                writer,
                reopen=self._reopen,
                notify=self._notify,
                on_failed=self._on_failed,
                observe_commit=self._observe_commit,
                damage=self._damage,
            )
        except BaseException as error:
            self._close_connections()
            self._lock.release()
            match error:
                case sqlite3.Error():
                    raise explained(error, self._path) from error
                case Damaged() | UnicodeDecodeError():
                    raise damaged(self._path, str(error)) from error
                case OSError():
                    raise StoreFailed(
                        f"{self._path} cannot be read ({error}): check the disk, then start again"
                    ) from error
                case _:
                    raise
        self._counters = thread.counters
        self._journal_thread = thread
        thread.start()

    def close(self) -> None:
        thread, self._journal_thread = self._journal_thread, None
        if thread is not None:
            thread.stop()
        with self._reader_lock:
            self._close_connections()
        self._lock.release()

    def _close_connections(self) -> None:
        reader, self._reader = self._reader, None
        writer, self._writer = self._writer, None
        for db in (reader, writer):
            if db is not None:
                db.close()

    def _reopen(self) -> sqlite3.Connection:
        """Replace the writing connection by one that remembers nothing. Called by the journal thread.

        The reading connection stays: while it is there the WAL and its index stay, so this needs no space.
        """
        if self._writer is not None:
            self._writer.close()
        self._writer = writer = connect(self._path)
        make_durable(writer, self._path)
        return writer

    # ---- writing

    @property
    def accepting(self) -> bool:
        return self._journal_thread is not None and self._journal_thread.accepting

    @property
    def commits(self) -> int:
        """Commits since the store was opened."""
        return self._counters.commits

    @property
    def rows(self) -> int:
        """Journal rows written since the store was opened."""
        return self._counters.rows

    @property
    def bytes(self) -> int:
        """Bytes of journal rows and blobs written since the store was opened."""
        return self._counters.bytes

    def claim(self, partition: int = 0) -> int:
        return self._thread().claim(partition)

    def submit(self, units: Sequence[Unit], done: Receipts) -> None:
        thread = self._journal_thread
        if thread is None:
            thread = self._thread()  # It says what is wrong.
        thread.submit(units, done)

    def _thread(self) -> JournalThread:
        if self._journal_thread is None:
            raise StoreError(f"{self._path} is not open")
        return self._journal_thread

    # ---- reading

    def take_damage(self) -> Sequence[DamagedRow]:
        return self._damage.take()

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """The reading connection in a transaction, so that several statements see one state."""
        with self._reader_lock:
            db = self._reader
            if db is None:
                raise StoreError(f"{self._path} is not open")
            try:
                db.execute("BEGIN")
                yield db
            except sqlite3.Error as error:
                raise explained(error, self._path) from error
            except (Damaged, UnicodeDecodeError) as error:  # SQLite's messages quote what it found
                raise damaged(self._path, str(error)) from error
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    def _sound(
        self, table: str, row: Callable[..., Sealed[T]], found: sqlite3.Cursor, limit: int | None = None
    ) -> list[T]:
        """The rows that are what was written; the others are noted."""
        with closing(found):  # An open cursor would hold its snapshot, and later reads would not see later commits.
            return self._damage.sound(table, starmap(row, found), limit)

    def last_run_number(self) -> int:
        with self._snapshot() as db:
            (last,) = db.execute(
                "SELECT max(coalesce((SELECT max(run) FROM runs), 0), coalesce((SELECT max(run) FROM journal), 0))"
            ).fetchone()
            return int(last)

    def open_runs(self) -> Iterator[RunRecord]:
        after = 0
        while stored := self._open_runs_after(after):
            yield from self._damage.sound("runs", stored)
            after = stored[-1].run

    def _open_runs_after(self, after: int) -> list[StoredRecord]:
        with self._snapshot() as db:
            return _merged(db, "state = ? AND run > ?", [(s, after) for s in OPEN_STATES], "ASC", _OPEN_RUNS_PAGE)

    def count_dormant(self) -> int:
        with self._snapshot() as db:
            (count,) = db.execute("SELECT count(*) FROM runs WHERE state = ?", (int(RunState.WAITING),)).fetchone()
            return int(count)

    def journal(self, run: int) -> Sequence[JournalRow]:
        with self._snapshot() as db:
            found = db.execute("SELECT head_seq, head_chain FROM runs WHERE run = ?", (run,)).fetchone()
            head = NO_ROWS if found is None else Head(*found)
            query = "SELECT seq, crc, chain, body FROM journal WHERE run = ? ORDER BY seq"
            return rows.read_journal(run, db.execute(query, (run,)).fetchall(), _blobs(db, run), head)

    def find_run(self, run_id: str) -> RunRecord | None:
        with self._snapshot() as db:
            return _one(db, f"SELECT {_RECORD} FROM runs WHERE run_id = ?", run_id)

    def record(self, run: int) -> RunRecord | None:
        with self._snapshot() as db:
            return _one(db, f"SELECT {_RECORD} FROM runs WHERE run = ?", run)

    def due_runs(self, until_ms: int, limit: int, after: tuple[int, int] = (0, 0)) -> Sequence[RunRecord]:
        # No LIMIT here and below: rows that are left out do not count, or a page would seem to be the last one.
        together = f"SELECT {_RECORD} FROM runs WHERE wake_ms = ? AND wake_ms <= ? AND run > ? ORDER BY run"
        later = f"SELECT {_RECORD} FROM runs WHERE wake_ms > ? AND wake_ms <= ? ORDER BY wake_ms, run"
        wake_ms, run = after
        with self._snapshot() as db:
            found = self._sound("runs", StoredRecord, db.execute(together, (wake_ms, until_ms, run)), limit)
            return found + self._sound("runs", StoredRecord, db.execute(later, (wake_ms, until_ms)), limit - len(found))

    def waits(self, event: str, after: tuple[int, str], limit: int) -> Sequence[WaitRow]:
        query = "SELECT * FROM waits WHERE event = ? AND (run, path) > (?, ?) ORDER BY run, path"
        with self._snapshot() as db:
            return self._sound("waits", StoredWait, db.execute(query, (event, *after)), limit)

    def events(self, name: str, since_ms: int, limit: int) -> Sequence[EventRecord]:
        condition = "delivered = 1 AND name = ? AND due_ms >= ?"
        with self._snapshot() as db:
            return self._events(db, condition, (name, since_ms), limit)

    def undelivered(self, until_ms: int, limit: int) -> Sequence[EventRecord]:
        with self._snapshot() as db:
            return self._events(db, "delivered = 0 AND due_ms <= ?", (until_ms,), limit)

    def _events(
        self, db: sqlite3.Connection, condition: str, values: tuple[object, ...], limit: int
    ) -> list[EventRecord]:
        query = f"SELECT * FROM events WHERE {condition} ORDER BY due_ms, number"
        return self._sound("events", StoredEvent, db.execute(query, values), limit)

    def find_key(self, key: str) -> RunRecord | None:
        with self._snapshot() as db:
            found = db.execute("SELECT run, crc FROM keys WHERE key = ?", (key,)).fetchone()
            if found is None:
                return None
            run, crc = found
            rows.check_seal(crc, f"the key {key!r}", key, run)
            return _one(db, f"SELECT {_RECORD} FROM runs WHERE run = ?", run)

    def list_runs(
        self, *, flow: str = "", states: Sequence[RunState] = (), limit: int = 100, page_token: str = ""
    ) -> RunPage:
        check_limit(limit)
        before = run_before(page_token)
        wanted = sorted(set(states or RunState))
        with self._snapshot() as db:
            if flow:
                places = [(flow, state, before) for state in wanted]
                found = _merged(db, "flow = ? AND state = ? AND run < ?", places, "DESC", limit + 1)
            elif states:
                found = _merged(db, "state = ? AND run < ?", [(s, before) for s in wanted], "DESC", limit + 1)
            else:
                found = _merged(db, "run < ?", [(before,)], "DESC", limit + 1)
        records, unreadable = self._listed(found[:limit])
        return RunPage(records, page_token_of(found[limit - 1].run) if len(found) > limit else "", unreadable)

    def _listed(self, stored: Sequence[StoredRecord]) -> tuple[tuple[RunRecord, ...], frozenset[int]]:
        """The records, and the numbers of those that are damaged: these are shown as they are stored."""
        records: list[RunRecord] = []
        unreadable: set[int] = set()
        for row in stored:
            try:
                records.append(row.opened())
            except Damaged as error:
                self._damage.note(DamagedRow("runs", str(error), run_of(row)))
                if (record := row.unproved()) is not None:
                    records.append(record)
                    unreadable.add(record.number)
        return tuple(records), frozenset(unreadable)

    def sessions(self) -> Sequence[SessionRecord]:
        with self._snapshot() as db:
            return self._sound("sessions", StoredSession, db.execute("SELECT * FROM sessions"))

    def known_flows(self) -> frozenset[str]:
        with self._snapshot() as db:
            return frozenset(_flows(db))

    def flow_options(self) -> Mapping[str, FlowOptions]:
        with self._snapshot() as db:
            return {flow: options for flow, options in _flows(db).items() if options is not None}

    def inbox(self, after: int = 0) -> Sequence[InboxRow]:
        query = "SELECT * FROM inbox WHERE number > ? ORDER BY number"
        with self._snapshot() as db:
            return self._sound("inbox", StoredInboxRow, db.execute(query, (after,)))

    def logs(self, query: LogQuery) -> LogPage:
        with self._snapshot() as db:
            return read_logs(db, query, self._damage)


def _one(db: sqlite3.Connection, query: str, value: str | int) -> RunRecord | None:
    found = db.execute(query, (value,)).fetchone()
    return None if found is None else StoredRecord(*found).opened()


def _flows(db: sqlite3.Connection) -> dict[str, FlowOptions | None]:
    flows = [StoredFlow(*found) for found in db.execute("SELECT * FROM flows")]
    return {flow.flow: flow.opened() for flow in flows}


def _merged(
    db: sqlite3.Connection, condition: str, places: Sequence[tuple[object, ...]], order: str, limit: int
) -> list[StoredRecord]:
    """Runs at any of `places`, ordered by number; each place is one walk along an index, at most `limit` long."""
    walk = f"SELECT * FROM (SELECT {_RECORD} FROM runs WHERE {condition} ORDER BY run {order} LIMIT {limit})"
    query = f"{' UNION ALL '.join([walk] * len(places))} ORDER BY run {order} LIMIT {limit}"
    values = [value for place in places for value in place]
    return [StoredRecord(*found) for found in db.execute(query, values)]


def _blobs(db: sqlite3.Connection, run: int) -> dict[BlobKey, bytes]:
    found = db.execute("SELECT seq, ordinal, crc, data FROM blobs WHERE run = ?", (run,)).fetchall()
    blobs: dict[BlobKey, bytes] = {}
    for seq, ordinal, crc, data in found:
        rows.check_blob(run, seq, ordinal, crc, data)
        blobs[seq, ordinal] = data
    return blobs
