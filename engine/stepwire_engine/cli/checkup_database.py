"""What `stepwire doctor` says about a database file. It opens the file read-only, and changes nothing beside it either.

The file may be that of a running engine: that is another process, and SQLite keeps the two apart.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

from stepwire_engine.cli.checkup import Finding, check_disk, fail, ok, size_text, warn
from stepwire_engine.clock import SystemClock
from stepwire_engine.store.base import DamagedRow
from stepwire_engine.store.migrate import bundled
from stepwire_engine.store.rows import Damaged
from stepwire_engine.store.sqlite_connection import WAL_BYTES_KEPT
from stepwire_engine.store.sqlite_wal import check_log, wal_path
from stepwire_engine.store.verify import Overview, open_read_only, overview, structural_faults, verify

LATE_SECONDS = 60.0
"""A dormant run this long overdue has not been woken."""
AHEAD_SECONDS = 60.0
"""A record this far in the future says that the clock was put back."""
SHOWN_MAX = 20
"""Damaged rows that are named; of more the number is told."""
RESTORE = "keep a copy of the file with its -wal file, check the disk, and restore the last backup"
Progress = Callable[[int, int], None]


def check_database(path: str, *, limit: int | None, progress: Progress) -> Iterator[Finding]:
    """Everything about one file.

    Args:
        limit: Runs whose journal is verified, the newest first; None: all; 0: none.
        progress: Told runs and journal rows read so far.
    """
    directory = os.path.dirname(os.path.abspath(path))
    yield check_disk(directory)
    if not os.path.exists(path):
        yield ok("database", f"{path} does not exist; the engine creates it at its first start")
        return
    yield _access(path, directory)
    owner = lock_owner(path)
    yield ok("lock", "no engine has the database open" if owner is None else f"an engine has it open{owner}")
    yield from _log(path, live=owner is not None)
    try:
        alone = owner is None and _log_bytes(path) == 0
        with closing(open_read_only(path, alone=alone)) as db:
            yield from _content(db, path, limit, progress)
    except (sqlite3.Error, Damaged) as error:
        yield fail("database", f"{path} cannot be read: {error}", "it is damaged, or no database", RESTORE)


def _access(path: str, directory: str) -> Finding:
    missing = [place for place in (path, directory) if not os.access(place, os.R_OK | os.W_OK, effective_ids=True)]
    mode = f"{os.stat(path).st_mode & 0o777:o}"
    if missing:
        why = "the engine needs to read and write the file and its directory"
        return fail("access", f"{' and '.join(missing)} cannot be written by this user", why, "change the permissions")
    if os.stat(path).st_mode & 0o007:
        why = "every user of this machine can read or change what your flows recorded"
        return warn("access", f"{path} has mode {mode}", why, f"chmod o-rwx {path}")
    return ok("access", f"{path} can be read and written (mode {mode})")


def lock_owner(path: str) -> str | None:
    """Who has the database open, for people: ", process 17"; None: no engine has."""
    try:
        fd = os.open(os.path.realpath(path) + ".lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        return f", process {text}" if text.isdigit() else ""
    finally:
        os.close(fd)
    return None


def _log(path: str, *, live: bool) -> Iterator[Finding]:
    """The write-ahead log: its size, and of a file that nobody has open whether a damaged frame hides commits."""
    size = _log_bytes(path)
    if size > 2 * WAL_BYTES_KEPT:
        why = "it is not recycled: another program reads the database for long, or the disk is full"
        yield warn("log", f"the -wal file has {size_text(size)}", why, "close that program, or make room")
    else:
        yield ok("log", f"the -wal file has {size_text(size)}")
    if not live and size:
        try:
            check_log(path)
        except (Damaged, OSError) as error:
            yield fail("log", str(error), "SQLite would drop acknowledged commits without a word", RESTORE)


def _log_bytes(path: str) -> int:
    try:
        return os.path.getsize(wal_path(path))
    except FileNotFoundError:
        return 0


def _content(db: sqlite3.Connection, path: str, limit: int | None, progress: Progress) -> Iterator[Finding]:
    now_ms = SystemClock().now().unix_ms
    seen = overview(db, now_ms - round(LATE_SECONDS * 1000))
    yield _schema(path, seen)
    if not (seen.ours and seen.known_schema):
        return
    yield ok("runs", f"{seen.runs} on record, {seen.open_runs} in progress, in {size_text(seen.bytes)}")
    if seen.late_runs:
        why = f"they were to go on more than {LATE_SECONDS:g} s ago"
        yield warn("late", f"{seen.late_runs} dormant runs are overdue", why, "start the engine, or read its log")
    yield _clock(seen, now_ms)
    faults = structural_faults(db)
    for fault in faults[:SHOWN_MAX]:
        yield fail("pages", fault, "SQLite finds the file damaged", RESTORE)
    if not faults:
        yield ok("pages", "SQLite finds pages and indexes whole")
    yield from _rows(db, limit, progress)


def _schema(path: str, seen: Overview) -> Finding:
    newest = bundled()[-1].version
    if not seen.ours:
        why = f"its application_id is {seen.application_id:#x}"
        return fail("schema", f"{path} is no database of Stepwire", why, "name another file")
    if seen.schema > newest:
        why = f"this engine knows schemas up to {newest}"
        return fail("schema", f"schema {seen.schema}", why, "run the newer engine that wrote it")
    if seen.schema < newest:
        why = f"this engine brings it to schema {newest} at its first start; an older one cannot read it then"
        return warn("schema", f"schema {seen.schema}", why, "make a backup first")
    return ok("schema", f"schema {seen.schema}")


def _clock(seen: Overview, now_ms: int) -> Finding:
    ahead = (seen.newest_ms - now_ms) / 1000
    if ahead > AHEAD_SECONDS:
        why = "sleeps, deadlines and retries are kept by the wall clock"
        return warn("clock", f"the newest run was created {ahead:.0f} s in the future", why, "set the clock (NTP)")
    return ok("clock", "no run was created in the future")


def _rows(db: sqlite3.Connection, limit: int | None, progress: Progress) -> Iterator[Finding]:
    if limit == 0:
        yield warn("rows", "no row was verified (--limit 0)", "damage would not be seen", "leave out --limit")
        return
    found = verify(db, limit=limit, progress=progress)
    for row in found.damage[:SHOWN_MAX]:
        yield fail("rows", f"{row.what} (table {row.table})", _consequence(row), RESTORE)
    if len(found.damage) > SHOWN_MAX:
        yield fail("rows", f"{len(found.damage) - SHOWN_MAX} more rows are damaged", "see above", RESTORE)
    read = f"{found.rows} journal rows of {found.runs} runs, and all rows of other tables"
    if not found.complete:
        yield warn("rows", f"read {read}", "--limit left the older runs out", "leave out --limit")
    elif not found.damage:
        yield ok("rows", f"read {read}: each is what was written")


def _consequence(row: DamagedRow) -> str:
    match row.table:
        case "journal" | "blobs" | "inbox" | "waits" if row.run:
            return f"run number {row.run} is kept aside, every other one goes on"
        case "runs":
            return "a run in progress goes on from its journal and writes its record anew"
        case "events" | "sessions":
            return "the row is left out, everything else goes on"
        case "keys":
            return "starts and ends of the run that has this key are refused"
        case _:
            return "the engine does not start with it"
