"""Re-reads the journal of a stopped engine: what is durable, to be compared with what clients were told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stepwire_engine.core.entries import AttemptEnded, RunEnded
from stepwire_engine.store.base import JournalRow, StoreError
from stepwire_engine.store.sqlite import SqliteStore
from stepwire_engine.store.sqlite_connection import connect, make_durable

DRIVEN = ("advances", "executes", "host_starts", "body_entries")
LEVELS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}


@dataclass(frozen=True, slots=True)
class JournalFigures:
    """What the journal of one workload says.

    Attributes:
        steps: Successful AttemptEnded entries.
        rows, bytes: Of the table `journal`.
        driven: Per run, what RunStats counts.
        settings: `journal_mode` and `synchronous` as a second process reads them back.
    """

    runs: int
    steps: int
    rows: int
    bytes: int
    driven: dict[str, float]
    settings: str


def reread(database: Path) -> JournalFigures:
    """Read every run; each row is verified by the store.

    Raises:
        StoreError: the engine still has the file, or a row is damaged.
    """
    counts: Counter[str] = Counter()
    for row in _rows(database):
        for entry in row.entries:
            match entry:
                case AttemptEnded(failure=None):
                    counts["steps"] += 1
                case RunEnded(stats=stats):
                    counts["runs"] += 1
                    counts.update({name: getattr(stats, name) for name in DRIVEN})
    runs = counts["runs"]
    rows, size, settings = _file_figures(str(database))
    driven = {name: counts[name] / max(1, runs) for name in DRIVEN}
    return JournalFigures(runs, counts["steps"], rows, size, driven, settings)


def _rows(database: Path) -> Iterator[JournalRow]:
    store = SqliteStore(database, notify=lambda call: call(), on_failed=_raise)
    store.open()
    try:
        for number in range(1, store.last_run_number() + 1):
            yield from store.journal(number)
    finally:
        store.close()


def _file_figures(path: str) -> tuple[int, int, str]:
    """SQLite keeps `synchronous` per connection: it is read from one that is opened as the engine opens its own."""
    db = connect(path)
    try:
        make_durable(db, path)
        (mode,), (level,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "synchronous"))
        rows, size = db.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM journal").fetchone()
    finally:
        db.close()
    return rows, size, f"journal_mode={mode}, synchronous={LEVELS[level]}"


def _raise(error: StoreError) -> None:
    raise error
