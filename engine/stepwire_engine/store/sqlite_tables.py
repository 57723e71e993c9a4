"""The statements of the journal thread: what a draft asks of the tables, and how it is written to them.

Owned by one thread. The hot case, many runs with one row each, is a few statements, and heads come from memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain as concatenated
from itertools import islice
from typing import TypeVar

from stepwire_engine.store import rows
from stepwire_engine.store.draft import Draft, KeyOwner, SideChanges
from stepwire_engine.store.stored import DELIVERED, NO_ROWS, OPEN_STATES, Head, StoredEvent, StoredRecord

HEADS_KEPT = 65_536
"""Runs whose end is remembered; of any other the last row is read and verified. Of open ones their place, too."""
Place = tuple[str, str, str, int, str]
"""(run_id, flow, namespace, partition, build_id) of a record."""
_BYTES_AT_ONCE = 1024 * 1024
"""sqlite3 copies what it binds to one statement."""
_JOURNAL_ROWS_AT_ONCE, _RECORDS_AT_ONCE = 100, 25
"""A statement of each size is kept prepared once it was needed: some 400 bytes per row and 1 KB per record."""
T = TypeVar("T")
_OPEN_STATES = frozenset(map(int, OPEN_STATES))


class SqliteTables:
    """The tables as their only writer sees them. Implements `draft.Facts`; raises sqlite3.Error and Damaged."""

    def __init__(self, db: sqlite3.Connection, heads_kept: int = HEADS_KEPT) -> None:
        self._db = db
        self._heads: dict[int, Head] = {}
        self._heads_kept = heads_kept
        self.wary = False
        """Whether ids of new runs are looked up as well; otherwise the constraint of the table refuses a second one."""
        self._highest_run: int = max(
            [db.execute(f"SELECT coalesce(max(run), 0) FROM {table}").fetchone()[0] for table in ("journal", "waits")]
        )
        """No run with a higher number has a row of the journal or a wait."""
        self._places: dict[int, Place] = {}
        self._waitless: set[int] = set()
        """Those of them that are new since the start and never had a wait: at their end none need be deleted."""
        self._rowless: int = self._rowless_commits()
        self._last_inbox_number: int = self._last_number("inbox")
        self._last_event_number: int = self._last_number("events")
        self._epochs: dict[int, int] = {}
        for partition, epoch, crc in db.execute("SELECT partition, claim_epoch, crc FROM partitions"):
            rows.check_seal(crc, f"the claim epoch of partition {partition}", partition, epoch)
            self._epochs[partition] = epoch

    # ---- what a draft asks

    def claim_epoch(self, partition: int) -> int:
        return self._epochs.get(partition, 0)

    def head(self, run: int) -> Head:
        if (head := self._heads.get(run)) is not None:
            return head
        if run > self._highest_run:
            return NO_ROWS
        head = self._heads[run] = self._read_head(run)
        return head

    def key_owner(self, key: str) -> KeyOwner | None:
        found = self._db.execute(
            "SELECT keys.run, keys.crc, coalesce(runs.run_id, '') FROM keys LEFT JOIN runs USING (run) WHERE key = ?",
            (key,),
        ).fetchone()
        if found is None:
            return None
        run, crc, run_id = found
        rows.check_seal(crc, f"the key {key!r}", key, run)
        return KeyOwner(run, run_id)

    def number_of(self, run_id: str, guess: int = 0) -> int | None:
        if (place := self._places.get(guess)) is not None and place[0] == run_id:
            return guess
        if guess > self._highest_run and not self.wary:
            return None
        found = self._db.execute("SELECT run FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        return None if found is None else found[0]

    def last_inbox_number(self) -> int:
        return self._last_inbox_number

    def last_event_number(self) -> int:
        return self._last_event_number

    def event(self, event_id: str) -> StoredEvent | None:
        found = self._db.execute("SELECT * FROM events WHERE id = ?", (event_id,)).fetchone()
        if found is None:
            return None
        event = StoredEvent(*found)
        event.opened()  # an id must not be taken for known because its row is damaged
        return event

    def last_log_number(self, run: int) -> int:
        (last,) = self._db.execute("SELECT coalesce(max(n), 0) FROM logs WHERE run = ?", (run,)).fetchone()
        return int(last)

    def _last_number(self, table: str) -> int:
        """Highest number ever given in an AUTOINCREMENT table."""
        (last,) = self._db.execute(
            f"SELECT max(coalesce((SELECT max(number) FROM {table}), 0), "
            f"coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{table}'), 0))"
        ).fetchone()
        return int(last)

    def _read_head(self, run: int) -> Head:
        found = self._db.execute(
            "SELECT seq, crc, chain, body FROM journal WHERE run = ? ORDER BY seq DESC LIMIT 1", (run,)
        ).fetchone()
        if found is None:
            return NO_ROWS
        seq, crc, chain, body = found
        rows.check_row(run, seq, crc, body)
        return Head(seq, chain)

    def _remember(self, record: StoredRecord, is_new: bool) -> None:
        """Of an open run: its next record is coming, and to look the id up costs more than all else of a unit."""
        if record.state in _OPEN_STATES:
            self._places[record.run] = _place(record)
            if is_new:
                self._waitless.add(record.run)
        else:
            self._places.pop(record.run, None)
            self._waitless.discard(record.run)

    # ---- writing

    def claim(self, partition: int) -> int:
        """Raise the stored claim epoch of a partition by one and return it. The statement is its own transaction."""
        epoch = self.claim_epoch(partition) + 1
        self._db.execute(
            "INSERT INTO partitions (partition, claim_epoch, crc) VALUES (?1, ?2, ?3) "
            "ON CONFLICT (partition) DO UPDATE SET claim_epoch = ?2, crc = ?3",
            (partition, epoch, rows.seal(partition, epoch)),
        )
        self._epochs[partition] = epoch
        return epoch

    def writes_at_once(self, draft: Draft) -> bool:
        """Whether a draft is one statement: most are, and that needs no BEGIN and COMMIT around it."""
        return draft.side is None and not draft.blobs and _JOURNAL.is_one(draft.journal, draft.size)

    def write(self, draft: Draft) -> None:
        """Write a draft inside the open transaction; without one, each statement is its own."""
        if draft.journal:
            _JOURNAL.insert(self._db, draft.journal, draft.size)
        else:
            self._db.execute("UPDATE bookkeeping SET value = value + 1 WHERE name = 'rowless_commits'")
        if draft.blobs:
            self._db.executemany("INSERT INTO blobs VALUES (?, ?, ?, ?, ?, ?)", _blob_rows(draft))
        if draft.side is not None:
            self._write_side(draft.side)

    def _write_side(self, side: SideChanges) -> None:
        many = self._db.executemany
        if side.records:
            self._write_records(side)
        if side.keys:
            self._write_keys(side)
        if side.sessions:
            self._write_sessions(side)
        if side.inbox:
            many("INSERT INTO inbox VALUES (?, ?, ?, ?)", side.inbox)
        if side.inbox_done:
            many("DELETE FROM inbox WHERE number = ?", [(number,) for number in side.inbox_done])
        if side.waits_over or side.waits:
            self._write_waits(side)
        if side.events or side.events_delivered or side.prune_count_max:
            self._write_events(side)
        if side.logs.rows:
            many("INSERT INTO logs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", side.logs.rows)
            many("DELETE FROM logs WHERE run = ? AND n <= ?", side.logs.forgotten.items())

    def _write_records(self, side: SideChanges) -> None:
        """Where only the state and what is served have changed, only they are written, and two of four indexes."""
        changed: list[StoredRecord] = []
        others: list[StoredRecord] = []
        for record in side.records.values():
            # No run that is in `_places` is dormant in the table.
            known = record.wake_ms is None and self._places.get(record.run) == _place(record)
            (changed if known else others).append(record)
        if changed and self._change_records(changed) != len(changed):
            others = list(side.records.values())  # One is not in the table any more, or is damaged there.
        _RECORDS.insert(self._db, others)

    def _change_records(self, changed: list[StoredRecord]) -> int:
        """How many of them were written; not those that the table has in another place."""
        if len(changed) == 1:
            return self._db.execute(_CHANGE_RECORD, changed[0]).rowcount
        return _CHANGE_RECORDS.insert(self._db, changed)

    def _write_keys(self, side: SideChanges) -> None:
        freed = [(key,) for key, owner in side.keys.items() if owner is None]
        self._db.executemany("DELETE FROM keys WHERE key = ?", freed)
        owners = [(key, owner.run) for key, owner in side.keys.items() if owner is not None]
        _KEYS.insert(self._db, [(key, run, rows.seal(key, run)) for key, run in owners])

    def _write_sessions(self, side: SideChanges) -> None:
        self._db.executemany("DELETE FROM sessions WHERE instance_id = ?", [(key,) for key in side.sessions])
        encoded = [(key, rows.encode_record(record)) for key, record in side.sessions.items() if record is not None]
        sealed = [(key, rows.seal(key, record), record) for key, record in encoded]
        self._db.executemany("INSERT INTO sessions VALUES (?, ?, ?)", sealed)
        self._db.executemany("INSERT OR REPLACE INTO flows VALUES (?, ?, ?)", side.flows.values())

    def _write_waits(self, side: SideChanges) -> None:
        ended = [(run,) for run in side.waits_over if run not in self._waitless]
        self._db.executemany("DELETE FROM waits WHERE run = ?", ended)
        changed = [(run, path, wait) for run, waits in side.waits.items() for path, wait in waits.items()]
        over = [(run, path) for run, path, wait in changed if wait is None]
        self._db.executemany("DELETE FROM waits WHERE run = ? AND path = ?", over)
        opened = [wait for _, _, wait in changed if wait is not None]
        self._db.executemany("INSERT OR REPLACE INTO waits VALUES (?, ?, ?, ?, ?)", opened)

    def _write_events(self, side: SideChanges) -> None:
        many = self._db.executemany
        many("INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", side.events.values())
        noted = [(DELIVERED, number) for number in side.events_delivered]
        many("UPDATE events SET delivered = 1, crc = crc + ? WHERE number = ? AND delivered = 0", noted)
        if side.prune_count_max:
            self._db.execute(_PRUNE_EVENTS, (side.prune_before_ms, side.prune_count_max))

    # ---- after COMMIT

    def adopt(self, draft: Draft) -> None:
        """Take in that `draft` is committed."""
        highest_before = self._highest_run
        if draft.heads:
            self._heads.update(draft.heads)
            if len(self._heads) > self._heads_kept:
                _forget_oldest(self._heads, self._heads_kept)
            self._highest_run = max(highest_before, *draft.heads)
        else:
            self._rowless += 1
        if (side := draft.side) is not None:
            for record in side.records.values():
                self._remember(record, record.run > highest_before)
            for run in side.waits:
                self._waitless.discard(run)
                self._highest_run = max(self._highest_run, run)
            if len(self._places) > self._heads_kept:
                _forget_oldest(self._places, self._heads_kept)
                self._waitless.intersection_update(self._places)
            self._last_inbox_number = side.last_inbox_number
            self._last_event_number = side.last_event_number

    def has_committed(self, draft: Draft, rowless_before: int) -> bool:
        """Whether the transaction that wrote `draft` is in the file.

        Args:
            draft: What COMMIT was called for.
            rowless_before: `rowless_commits` of the tables that wrote it.

        Raises:
            Damaged: a part of the transaction is there and a part is not.
        """
        if not draft.journal:
            return self._rowless > rowless_before
        found = {self._has_row(run, seq, crc) for run, seq, crc, _, _ in draft.journal}
        if len(found) > 1:
            raise rows.Damaged("a commit was stored in part")
        return found.pop()

    @property
    def rowless_commits(self) -> int:
        """How many commits wrote no journal row: the proof of such a commit."""
        return self._rowless

    def _has_row(self, run: int, seq: int, crc: int) -> bool:
        found = self._db.execute("SELECT crc FROM journal WHERE run = ? AND seq = ?", (run, seq)).fetchone()
        return found is not None and bool(found[0] == crc)

    def _rowless_commits(self) -> int:
        found = self._db.execute("SELECT value FROM bookkeeping WHERE name = 'rowless_commits'").fetchone()
        if found is None or not isinstance(found[0], int):
            raise rows.Damaged("the table bookkeeping has lost a row")
        return found[0]


class Insert:
    """Inserts many rows by few statements: around each, the thread gives the GIL away and must get it back.

    Args:
        into: The table and its columns.
        width: How many columns.
        rows_max: How many rows one statement inserts.
        otherwise: What to do with a row that is there already.
    """

    def __init__(self, into: str, width: int, rows_max: int, otherwise: str = "") -> None:
        # Whatever fails costs the transaction, so SQLite need not be able to undo one statement of it.
        self._insert = f"INSERT OR ROLLBACK INTO {into} VALUES "
        self._row = f"({', '.join('?' * width)})"
        self._otherwise = otherwise
        self._rows_max = rows_max
        self._one = f"{self._insert}{self._row} {otherwise}"
        self._several: dict[int, str] = {}

    def is_one(self, rows: Sequence[tuple[object, ...]], size: int) -> bool:
        """Whether `insert` of these is one statement."""
        count = len(rows)
        return count == 1 or (0 < count <= self._rows_max and size <= _BYTES_AT_ONCE)

    def insert(self, db: sqlite3.Connection, rows: Sequence[tuple[object, ...]], size: int = 0) -> int:
        """Insert `rows` and return how many have been inserted or changed.

        Args:
            size: Their bytes together, where they may be large.
        """
        if len(rows) == 1:
            return db.execute(self._one, rows[0]).rowcount
        if size > _BYTES_AT_ONCE:
            return db.executemany(self._one, rows).rowcount
        done = 0
        for first in range(0, len(rows), self._rows_max):
            part = rows[first : first + self._rows_max]
            count = len(part)
            if count not in self._several:
                self._several[count] = f"{self._insert}{', '.join([self._row] * count)} {self._otherwise}"
            done += db.execute(self._several[count], list(concatenated.from_iterable(part))).rowcount
        return done


def _updated(names: Sequence[str]) -> str:
    return f"DO UPDATE SET {', '.join([f'{name} = excluded.{name}' for name in names])}"


_JOURNAL = Insert("journal (run, seq, crc, chain, body)", 5, _JOURNAL_ROWS_AT_ONCE)
_KEYS = Insert("keys (key, run, crc)", 3, _RECORDS_AT_ONCE, f"ON CONFLICT (key) {_updated(('run', 'crc'))}")
_PLACE = ("run_id", "flow", "namespace", "partition", "build_id")
_SERVED = ("state", "head_seq", "head_chain", "record", "crc")
_RECORDS = Insert(
    f"runs ({', '.join(StoredRecord._fields)})",
    len(StoredRecord._fields),
    _RECORDS_AT_ONCE,
    f"ON CONFLICT (run) {_updated(StoredRecord._fields[1:])}",
)
_CHANGE_RECORDS = Insert(
    f"runs ({', '.join(StoredRecord._fields)})",
    len(StoredRecord._fields),
    _RECORDS_AT_ONCE,
    f"ON CONFLICT (run) {_updated(_SERVED)} "
    f"WHERE {' AND '.join([f'{name} = excluded.{name}' for name in _PLACE])} AND wake_ms IS NULL",
)
_CHANGE_RECORD = """
UPDATE runs SET state = ?4, head_seq = ?8, head_chain = ?9, record = ?10, crc = ?12
WHERE run = ?1 AND run_id = ?2 AND flow = ?3 AND namespace = ?5 AND partition = ?6 AND build_id = ?7 AND wake_ms IS ?11
"""
"""Of one record, whose `wake_ms` is NULL: half as dear as the same by `_CHANGE_RECORDS`."""
_PRUNE_EVENTS = """
DELETE FROM events WHERE number IN (
    SELECT number FROM events WHERE delivered = 1 AND max(due_ms, sent_ms) < ?
    ORDER BY max(due_ms, sent_ms), number LIMIT ?
)
"""


def _place(record: StoredRecord) -> Place:
    return (record.run_id, record.flow, record.namespace, record.partition, record.build_id)


def _forget_oldest(known: dict[int, T], kept: int) -> None:
    """Many at once: to find the first of a dictionary that lost its first ones takes as long as there were."""
    if (excess := len(known) - kept) > 0:
        for run in list(islice(known, excess + kept // 8)):
            del known[run]


def _blob_rows(draft: Draft) -> list[tuple[int, int, int, int, str, bytes]]:
    found = [(row.run, row.seq, blob) for row in draft.blobs for blob in row.blobs]
    return [
        (run, seq, blob.ordinal, rows.blob_crc(run, seq, blob.ordinal, blob.data), blob.encoding, blob.data)
        for run, seq, blob in found
    ]
