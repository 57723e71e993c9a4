"""Reads everything in a SQLite database and checks it: pages and indexes, CRCs, chains and seals of all rows.

For people who ask whether a file is whole (`stepwire doctor`). It writes nothing, repairs nothing, and holds no
snapshot for longer than one run, so that an engine that has the file open can go on recycling its log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import starmap
from pathlib import Path
from typing import Any

import msgspec

from stepwire_engine.store import rows
from stepwire_engine.store.base import DamagedRow
from stepwire_engine.store.damage import DamageLog, run_of
from stepwire_engine.store.migrate import APPLICATION_ID, bundled
from stepwire_engine.store.rows import Damaged
from stepwire_engine.store.stored import (
    OPEN_STATES,
    Head,
    StoredEvent,
    StoredFlow,
    StoredInboxRow,
    StoredLog,
    StoredRecord,
    StoredSession,
    StoredWait,
)

RUNS_PAGE = 500
"""Runs that are looked for at once; each is read in a snapshot of its own."""
FAULTS_SHOWN_MAX = 100
"""What SQLite's own check names at most; it says so if there is more."""

_RECORD = "run, run_id, flow, state, namespace, partition, build_id, head_seq, head_chain, record, wake_ms, crc"
_SEALED: dict[str, tuple[str, Callable[..., Any]]] = {
    "events": ("SELECT * FROM events", StoredEvent),
    "flows": ("SELECT * FROM flows", StoredFlow),
    "inbox": ("SELECT * FROM inbox", StoredInboxRow),
    "logs": ("SELECT * FROM logs", StoredLog),
    "sessions": ("SELECT * FROM sessions", StoredSession),
    "waits": ("SELECT * FROM waits", StoredWait),
}


class Overview(msgspec.Struct, frozen=True):
    """What a database is, before anything in it is checked.

    Attributes:
        application_id: Whose it is.
        schema: Of the newest migration; 0: none.
        runs: On record.
        open_runs: Neither over nor dormant.
        late_runs: Dormant, and to be woken before the time that was asked for.
        newest_ms: When the newest run was created.
    """

    application_id: int
    schema: int
    bytes: int
    runs: int = 0
    open_runs: int = 0
    late_runs: int = 0
    newest_ms: int = 0

    @property
    def ours(self) -> bool:
        return self.application_id == APPLICATION_ID

    @property
    def known_schema(self) -> bool:
        """Its schema is that of this engine; an older one is brought to it by the first start."""
        return self.schema == bundled()[-1].version


class Verified(msgspec.Struct, frozen=True):
    """What was read, and everything that is not what was written."""

    runs: int
    rows: int
    damage: tuple[DamagedRow, ...]
    complete: bool


def open_read_only(path: str, *, alone: bool) -> sqlite3.Connection:
    """A connection that changes nothing, not even the log. Raises sqlite3.Error.

    Args:
        alone: Nobody has the database open, and it has no log: then nothing is created beside it either.
    """
    mode = "immutable=1" if alone else "mode=ro"
    db = sqlite3.connect(f"{Path(path).absolute().as_uri()}?{mode}", uri=True, isolation_level=None)
    db.text_factory = lambda text: text.decode("utf-8", "replace")
    return db


def overview(db: sqlite3.Connection, late_ms: int) -> Overview:
    """Raises sqlite3.Error, Damaged.

    Args:
        late_ms: Dormant runs that were to be woken before this are late.
    """
    application_id, pages, page_bytes = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("application_id", "page_count", "page_size")
    )
    size = pages * page_bytes
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if application_id != APPLICATION_ID or "schema_migrations" not in tables:
        return Overview(application_id, 0, size)
    (schema,) = db.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").fetchone()
    if schema != bundled()[-1].version:
        return Overview(application_id, schema, size)
    states = ", ".join(str(int(state)) for state in OPEN_STATES)
    (runs,) = db.execute("SELECT count(*) FROM runs").fetchone()
    (open_runs,) = db.execute(f"SELECT count(*) FROM runs WHERE state IN ({states})").fetchone()
    (late,) = db.execute("SELECT count(*) FROM runs WHERE wake_ms < ?", (late_ms,)).fetchone()
    newest = db.execute(f"SELECT {_RECORD} FROM runs ORDER BY run DESC LIMIT 1").fetchone()
    newest_ms = 0 if newest is None else StoredRecord(*newest).opened().created_at_ms
    return Overview(application_id, schema, size, runs, open_runs, late, newest_ms)


def structural_faults(db: sqlite3.Connection) -> list[str]:
    """What SQLite finds in pages and indexes; empty: nothing. Raises sqlite3.Error."""
    found = [str(line) for (line,) in db.execute(f"PRAGMA integrity_check({FAULTS_SHOWN_MAX})")]
    return [] if found == ["ok"] else found


def verify(db: sqlite3.Connection, *, limit: int | None, progress: Callable[[int, int], None]) -> Verified:
    """Read every row and check it. Raises sqlite3.Error.

    Args:
        limit: Runs whose journal is read, the newest first; None: all.
        progress: Told now and then: runs read, journal rows read.
    """
    damage = DamageLog()
    runs = journal_rows = 0
    complete = True
    for run in _runs(db):
        if limit is not None and runs >= limit:
            complete = False
            break
        journal_rows += _verify_run(db, run, damage)
        runs += 1
        if runs % RUNS_PAGE == 0:
            progress(runs, journal_rows)
    for table, (query, row) in _SEALED.items():
        damage.sound(table, starmap(row, db.execute(query)))
    _verify_small(db, damage)
    if complete:
        _verify_orphans(db, damage)
    return Verified(runs, journal_rows, tuple(damage.take()), complete)


def _runs(db: sqlite3.Connection) -> Iterator[int]:
    before = rows.INTEGER_MAX
    query = "SELECT run FROM runs WHERE run < ? ORDER BY run DESC LIMIT ?"
    while found := db.execute(query, (before, RUNS_PAGE)).fetchall():
        for (before,) in found:
            yield before


def _verify_run(db: sqlite3.Connection, run: int, damage: DamageLog) -> int:
    """Check a run's record and journal; returns how many rows that has."""
    db.execute("BEGIN")
    try:
        found = db.execute(f"SELECT {_RECORD} FROM runs WHERE run = ?", (run,)).fetchone()
        if found is None:
            return 0
        record = StoredRecord(*found)
        damage.sound("runs", [record])
        stored = db.execute("SELECT seq, crc, chain, body FROM journal WHERE run = ? ORDER BY seq", (run,)).fetchall()
        blobs = {}
        with closing(db.execute("SELECT seq, ordinal, crc, data FROM blobs WHERE run = ?", (run,))) as pieces:
            for seq, ordinal, crc, data in pieces:
                blobs[seq, ordinal] = data
                _note(damage, "blobs", run, lambda: rows.check_blob(run, seq, ordinal, crc, data))  # noqa: B023
        head = Head(record.head_seq, record.head_chain)
        _note(damage, "journal", run, lambda: rows.read_journal(run, stored, blobs, head))
        return len(stored)
    finally:
        db.execute("ROLLBACK")


def _note(damage: DamageLog, table: str, run: int, check: Callable[[], object]) -> None:
    try:
        check()
    except Damaged as error:
        damage.note(DamagedRow(table, str(error), run))


def _verify_small(db: sqlite3.Connection, damage: DamageLog) -> None:
    for key, run, crc in db.execute("SELECT key, run, crc FROM keys"):
        _note(damage, "keys", 0, lambda: rows.check_seal(crc, f"the key {key!r}", key, run))  # noqa: B023
    for partition, epoch, crc in db.execute("SELECT partition, claim_epoch, crc FROM partitions"):
        what = f"the claim epoch of partition {partition}"
        _note(damage, "partitions", 0, lambda: rows.check_seal(crc, what, partition, epoch))  # noqa: B023


def _verify_orphans(db: sqlite3.Connection, damage: DamageLog) -> None:
    """Every journal has a record: both are written by the same commit."""
    query = "SELECT DISTINCT run FROM journal WHERE run NOT IN (SELECT run FROM runs)"
    for (run,) in db.execute(query):
        damage.note(DamagedRow("runs", f"the record of run {run} is missing", run_of(run) or 0))
