"""Opens SQLite the one way the engine uses it, and gives its errors a meaning.

The settings are read back, because a store that believes it is durable and is not loses acknowledged work.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator

from stepwire_engine.store.base import StoreCorrupt, StoreError, StoreFailed, StoreLocked

LIBRARY_MIN = (3, 37, 0)
"""The first SQLite with STRICT tables."""
BUSY_SECONDS = 5.0
"""How long to wait for a foreign program (a SQLite shell, a backup) that has the file locked."""
CHECKPOINT_PAGES = 1000
"""The WAL is recycled at about this size: appending to a growing one makes every commit half as dear again."""
CACHE_KIB = 16 * 1024
WAL_BYTES_KEPT = 64 * 1024 * 1024
"""A WAL that a burst made larger is cut back to this."""
CHECKED_BYTES_MAX = 64 * 1024 * 1024
"""Files up to this size are checked whole at every start, in about 0.2 s when cached."""
CHECK_SECONDS = 2.0
"""How long the check of a larger one may take."""
LOOKED_UP = ("partitions", "bookkeeping", "keys", "waits", "inbox", "flows", "sessions", "runs", "events", "journal")
"""Tables with the rows that a damaged index could hide, the most important and smallest first."""

_log = logging.getLogger(__name__)
_PROBE_BYTES = 64 * 1024
_INTERRUPT_SECONDS = 0.05
_FULL_SYNC = 2
_INCREMENTAL = 2


class Trouble(enum.Enum):
    """What an SQLite error means to a commit."""

    NO_SPACE = enum.auto()
    """A write did not fit, so the last page of the transaction, which makes it valid, is not in the WAL."""
    UNAVAILABLE = enum.auto()
    """Nothing was written; the next try may succeed."""
    DEVICE = enum.auto()
    """The file cannot be trusted to hold what was written."""
    DAMAGED = enum.auto()
    """The file is no database, or a broken one."""
    CONTENT = enum.auto()
    """What was to be written does not fit the schema."""


_TROUBLES = {
    sqlite3.SQLITE_FULL: Trouble.NO_SPACE,
    sqlite3.SQLITE_BUSY: Trouble.UNAVAILABLE,
    sqlite3.SQLITE_LOCKED: Trouble.UNAVAILABLE,
    sqlite3.SQLITE_NOMEM: Trouble.UNAVAILABLE,
    sqlite3.SQLITE_INTERRUPT: Trouble.UNAVAILABLE,
    sqlite3.SQLITE_READONLY: Trouble.DEVICE,
    sqlite3.SQLITE_PERM: Trouble.DEVICE,
    sqlite3.SQLITE_AUTH: Trouble.DEVICE,
    sqlite3.SQLITE_CANTOPEN: Trouble.DEVICE,
    sqlite3.SQLITE_IOERR: Trouble.DEVICE,
    sqlite3.SQLITE_CORRUPT: Trouble.DAMAGED,
    sqlite3.SQLITE_NOTADB: Trouble.DAMAGED,
}


def trouble_of(error: sqlite3.Error) -> Trouble:
    """Classify an error by its code; one without a known code is CONTENT."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    return _TROUBLES.get(code & 0xFF, Trouble.CONTENT)


def explained(error: sqlite3.Error, path: str) -> StoreError:
    """The store's error for one that SQLite raised while opening or reading `path`."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    match trouble_of(error), code & 0xFF:
        case Trouble.UNAVAILABLE, sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreLocked(f"{path} is locked by another program ({error}): close it and try again")
        case Trouble.DEVICE, sqlite3.SQLITE_IOERR:
            return StoreFailed(f"{path} cannot be read or written ({error}): check the disk, then start again")
        case Trouble.DEVICE, _:
            return _not_writable(path, str(error))
        case ((Trouble.NO_SPACE | Trouble.UNAVAILABLE), _):
            return StoreFailed(f"{path}: {error}: make room on its disk, then start again")
        case _:
            return damaged(path, str(error))


def _not_writable(path: str, why: str) -> StoreError:
    return StoreError(
        f"{path} cannot be opened for writing ({why}): the engine needs to read and write the file and its directory"
    )


def damaged(path: str, what: str) -> StoreCorrupt:
    """The error for content that is not what was written."""
    return StoreCorrupt(
        f"{path} is damaged or no Stepwire database: {what}. Nothing of it was served. Keep a copy of the file "
        f"with its -wal file, check the disk, see `stepwire doctor {path}`, and restore the last backup",
        what,
    )


def checkpoint(db: sqlite3.Connection) -> None:
    """Copy the log into the database as far as readers let it, and sync that. Raises sqlite3.Error."""
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


def probe(db: sqlite3.Connection) -> None:
    """Write something of a useful size and remove it. Raises sqlite3.Error if there is no space for it."""
    for statement in (
        f"INSERT OR REPLACE INTO bookkeeping VALUES ('probe', zeroblob({_PROBE_BYTES}))",
        "DELETE FROM bookkeeping WHERE name = 'probe'",
    ):
        db.execute(statement)  # Each is its own transaction.


def check_place(path: str) -> None:
    """Raise StoreError unless a database can be kept at `path` with this SQLite library."""
    if sqlite3.sqlite_version_info < LIBRARY_MIN:
        wanted = ".".join(map(str, LIBRARY_MIN))
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: use a Python with SQLite {wanted} or newer")
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise StoreError(f"{path} is a directory: name a file in it")
    if not os.path.isdir(folder):
        raise StoreError(f"the directory {folder} does not exist: create it first")
    # SQLite would open a file that can only be read, and fail at the first commit.
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        raise _not_writable(path, "permission denied")


def create_private(path: str) -> None:
    """Make an empty database that only this user may read: it holds what flows recorded (MISSION V7).

    One that exists keeps its mode; its log and index get the same from SQLite. Raises OSError.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def connect(path: str) -> sqlite3.Connection:
    """A connection in autocommit mode, used by one thread at a time. Raises sqlite3.Error."""
    db = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        db.execute("PRAGMA cell_size_check = ON")
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    except BaseException:
        db.close()  # Otherwise it, and its locks, stay as long as the traceback.
        raise
    return db


def connect_reader(path: str) -> sqlite3.Connection:
    """A connection that cannot write. Raises sqlite3.Error."""
    db = connect(path)
    # Damaged text fails the seal of its row; it must not fail the whole statement.
    db.text_factory = lambda text: text.decode("utf-8", "replace")
    db.execute("PRAGMA query_only = ON")
    return db


def check_whole(db: sqlite3.Connection, path: str, seconds: float) -> None:
    """Check a database for what row CRCs cannot see: an index that no longer finds a row.

    A small one is checked whole. Of a larger one the tables are checked that are looked up in, the most important
    first, until the time is over; the log says what was left, and `stepwire doctor` checks all of it.

    Args:
        seconds: How long the check of a large database may take.

    Raises:
        StoreCorrupt: SQLite found something.
        sqlite3.Error: the file cannot be read.
    """
    pages, page_bytes = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if pages * page_bytes <= CHECKED_BYTES_MAX:
        _check(db, path, "1")
        return
    left = list(LOOKED_UP)
    with _interrupted_after(db, seconds) as over:
        while left and not over.is_set():
            try:
                _check(db, path, left[0])
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                    raise
            except StoreCorrupt:
                if not over.is_set():  # A tree that was left half way seems to be damaged.
                    raise
            if not over.is_set():
                del left[0]
    if left:
        _log.warning(
            "%s: of the indexes, those of %s were not checked within %g s; see `stepwire doctor`",
            path,
            ", ".join(left),
            seconds,
        )


@contextlib.contextmanager
def _interrupted_after(db: sqlite3.Connection, seconds: float) -> Iterator[threading.Event]:
    """Interrupts what `db` does after so long, again and again until it ends; the event is set before.

    A progress handler would not be asked while a whole tree is read from a cold disk; every page looks at this.
    """
    over, ended = threading.Event(), threading.Event()
    if seconds <= 0:
        over.set()

    def interrupt() -> None:
        pause = seconds
        while not ended.wait(pause):
            over.set()
            db.interrupt()
            pause = _INTERRUPT_SECONDS

    timer = threading.Thread(target=interrupt, name="stepwire-check", daemon=True)
    timer.start()
    try:
        yield over
    finally:
        ended.set()
        timer.join()


def _check(db: sqlite3.Connection, path: str, what: str) -> None:
    (found,) = db.execute(f"PRAGMA integrity_check({what})").fetchone()
    if found != "ok":
        raise damaged(path, found)


def make_durable(db: sqlite3.Connection, path: str) -> None:
    """Set what durability rests on, and read it back.

    Args:
        db: The connection that will write.
        path: Named in errors.

    Raises:
        StoreError: a setting did not take, for example because the file system has no shared memory.
        sqlite3.Error: the file cannot be read or written.
    """
    if db.execute("PRAGMA auto_vacuum").fetchone() != (_INCREMENTAL,):  # setting it writes, even if it is set already
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has an effect only before the first table
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    db.execute("PRAGMA synchronous = FULL")
    # SQLite's own checkpoints keep their errors to themselves, and a failed fsync that is tried again can seem to work.
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
    (synchronous,) = db.execute("PRAGMA synchronous").fetchone()
    (auto_vacuum,) = db.execute("PRAGMA auto_vacuum").fetchone()
    found = (mode, synchronous, auto_vacuum)
    if found != ("wal", _FULL_SYNC, _INCREMENTAL):
        raise StoreError(
            f"{path} does not take the settings that durability needs (journal_mode, synchronous, auto_vacuum are "
            f"{found}): keep the database on a local disk and do not change its settings"
        )
