"""Re-reads the journal of a stopped engine: what is durable, to be compared with what clients were told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stepwire_engine.core.entries import AttemptEnded, Entry, RunEnded
from stepwire_engine.store.base import RunRecord, StoreError
from stepwire_engine.store.sqlite import SqliteStore
from stepwire_engine.store.sqlite_connection import connect, make_durable

PAGE = 1000
DRIVEN = ("advances", "executes", "host_starts", "body_entries")


@dataclass(frozen=True, slots=True)
class JournalFigures:
    """What the journal of one workload says.

    Attributes:
        runs: All there are.
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
    store = SqliteStore(database, notify=_call, on_failed=_raise)
    store.open()
    try:
        counts: Counter[str] = Counter()
        for record in _records(store):
            counts["runs"] += 1
            for row in store.journal(record.number):
                for entry in row.entries:
                    _count(entry, counts)
    finally:
        store.close()
    rows, size, settings = _file_figures(database)
    driven = {name: counts[name] / max(1, counts["runs"]) for name in DRIVEN}
    return JournalFigures(counts["runs"], counts["steps"], rows, size, driven, settings)


def _count(entry: Entry, counts: Counter[str]) -> None:
    match entry:
        case AttemptEnded(failure=None):
            counts["steps"] += 1
        case RunEnded(stats=stats):
            counts.update({name: getattr(stats, name) for name in DRIVEN})
        case _:
            pass


def _records(store: SqliteStore) -> Iterator[RunRecord]:
    token = ""
    while True:
        page = store.list_runs(limit=PAGE, page_token=token)
        yield from page.runs
        token = page.next_page_token
        if not token:
            return


def _file_figures(database: Path) -> tuple[int, int, str]:
    """SQLite keeps `synchronous` per connection, so it is read from one that is opened as the engine opens its own."""
    db = connect(str(database))
    try:
        make_durable(db, str(database))
        (mode,), (synchronous,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "synchronous"))
        rows, size = db.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM journal").fetchone()
    finally:
        db.close()
    level = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}[synchronous]
    return rows, size, f"journal_mode={mode}, synchronous={level}"


def _call(action: Callable[[], None]) -> None:
    action()


def _raise(error: StoreError) -> None:
    raise error
