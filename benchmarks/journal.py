"""Re-reads the journal of a stopped engine: what is durable, to be compared with what clients were told.

`python -m benchmarks.journal FILE` prints it as JSON; that is how another checkout reads a database of its own.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.checkout import Checkout
from benchmarks.processes import BenchmarkError
from stepwire_engine.core.entries import AttemptEnded, RunEnded
from stepwire_engine.store.base import JournalRow, StoreError
from stepwire_engine.store.sqlite import SqliteStore
from stepwire_engine.store.sqlite_connection import connect, make_durable

LEVELS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}
DURABLE = "journal_mode=wal, synchronous=FULL"
READ_SECONDS = 300.0


class JournalFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal of one measurement says.

    Attributes:
        runs: That ended.
        steps: Successful AttemptEnded entries.
        rows, bytes: Of the table `journal`.
        body_entries: Of all ended runs.
        settings: `journal_mode` and `synchronous` as another process reads them back.
    """

    runs: int
    steps: int
    rows: int
    bytes: int
    body_entries: int
    settings: str

    def figures(self) -> dict[str, float]:
        """For the lines; nothing if no step was made."""
        if not self.steps or not self.runs:
            return {}
        return {
            "journal_bytes_per_step": self.bytes / self.steps,
            "journal_rows_per_step": self.rows / self.steps,
            "body_entries_per_run": self.body_entries / self.runs,
        }


def reread(checkout: Checkout, database: Path) -> JournalFigures:
    """Read every run in a process of the checkout that wrote it.

    Raises:
        BenchmarkError: a row is damaged, or an engine still has the file.
    """
    command = checkout.command("benchmarks.journal", str(database))
    read = subprocess.run(
        command, env=checkout.environment(), cwd=database.parent, capture_output=True, text=True, timeout=READ_SECONDS
    )
    if read.returncode != 0:
        raise BenchmarkError(f"the journal cannot be read again: {read.stderr[-2000:]}")
    return msgspec.json.decode(read.stdout, type=JournalFigures)


def must_hold(found: JournalFigures, acknowledged: int) -> None:
    """Durable is exactly what clients were told, and the disk was asked for it.

    Raises:
        BenchmarkError: it is not.
    """
    if found.steps != acknowledged:
        raise BenchmarkError(f"clients acknowledged {acknowledged} steps, the journal holds {found.steps}")
    if found.settings != DURABLE:
        raise BenchmarkError(f"another process reads back {found.settings}, not {DURABLE}")


def read_all(database: Path) -> JournalFigures:
    """Read every run; each row is verified by the store. Raises StoreError."""
    counts: Counter[str] = Counter()
    for row in _rows(database):
        for entry in row.entries:
            match entry:
                case AttemptEnded(failure=None):
                    counts["steps"] += 1
                case RunEnded(stats=stats):
                    counts["runs"] += 1
                    counts["body_entries"] += stats.body_entries
    rows, size, settings = _file_figures(str(database))
    return JournalFigures(
        runs=counts["runs"],
        steps=counts["steps"],
        rows=rows,
        bytes=size,
        body_entries=counts["body_entries"],
        settings=settings,
    )


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


if __name__ == "__main__":
    print(msgspec.json.encode(read_all(Path(sys.argv[1]))).decode())
