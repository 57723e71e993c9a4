"""What is certain of a commit that failed: that it left nothing, what the file says, or nothing at all."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable

from stepwire_engine.store.base import StoreFailed
from stepwire_engine.store.draft import Draft
from stepwire_engine.store.rows import Damaged
from stepwire_engine.store.sqlite_connection import Trouble, trouble_of
from stepwire_engine.store.sqlite_tables import SqliteTables

_BEFORE_WRITING = frozenset(
    {
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_BUSY,  # It waits for the right to write; with a WAL no lock is needed after that.
        sqlite3.SQLITE_LOCKED,
    }
)


class LeftNothing(Exception):
    """A statement that was its own transaction has failed, and surely nothing of it is stored."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def left_nothing(error: Exception) -> bool:
    """Whether a statement that was its own transaction surely stored nothing, or the file is known to be broken.

    Such a statement reports in one code what else INSERT and COMMIT report in two. Out of memory, for example, can
    come after the last page is in the log.
    """
    if not isinstance(error, sqlite3.Error):
        return isinstance(error, OverflowError)  # A value was not even bound.
    code = getattr(error, "sqlite_errorcode", None)
    return code is None or code & 0xFF in _BEFORE_WRITING or trouble_of(error) is Trouble.DAMAGED


def read_back(
    path: str, reopen: Callable[[], sqlite3.Connection], draft: Draft, rowless_before: int
) -> tuple[sqlite3.Connection, SqliteTables, bool]:
    """Ask the file whether `draft` is in it, and if so make that durable.

    Args:
        path: The database.
        reopen: Closes the connection that was to commit, and returns a new one.
        draft: What was to be committed.
        rowless_before: `rowless_commits` of the tables that wrote it.

    Returns:
        A new connection, its tables, and the answer.

    Raises:
        StoreFailed: the file does not say.
    """
    try:
        db = reopen()
        tables = SqliteTables(db)
        stored = tables.has_committed(draft, rowless_before)
        if stored:
            _sync(path + "-wal")
    except (sqlite3.Error, Damaged, OSError) as error:
        raise StoreFailed(f"{path}: full disk, and the last commit cannot be read back ({error})") from error
    return db, tables, stored


def _sync(path: str) -> None:
    if os.path.exists(path):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
