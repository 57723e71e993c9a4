"""Brings a SQLite database to this engine's schema.

Migrations are the numbered SQL files of `schema/sqlite`, each applied once, in one transaction, together with
the row of `schema_migrations` that proves it. They are never edited after a release: the checksum would differ.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Sequence
from importlib import resources

import msgspec

from stepwire_engine.store.base import SchemaEdited, SchemaTooNew, StoreCorrupt

APPLICATION_ID = 0x53745770
"""Marks a database file as Stepwire's ("StWp"); set by the first migration."""

_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql", re.ASCII)
_CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL, applied_at TEXT NOT NULL
) STRICT;
"""


class Migration(msgspec.Struct, frozen=True):
    """One numbered SQL file."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def bundled() -> Sequence[Migration]:
    """The migrations this engine was built with, in order."""
    folder = resources.files("stepwire_engine.store") / "schema" / "sqlite"
    files = sorted((file for file in folder.iterdir() if _FILE_NAME.fullmatch(file.name)), key=lambda file: file.name)
    return [Migration(int(file.name[:4]), file.name, file.read_text("utf-8")) for file in files]


def check_owner(db: sqlite3.Connection, path: str) -> None:
    """Refuse a database of another program before anything is written to it.

    Raises:
        StoreCorrupt: it has tables and is not marked as Stepwire's.
        sqlite3.Error: it cannot be read.
    """
    (mark,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and mark != APPLICATION_ID:
        raise StoreCorrupt(
            f"{path} is a SQLite database, but not one of Stepwire's (application_id {mark:#x}): name another file"
        )


def migrate(db: sqlite3.Connection, path: str, migrations: Sequence[Migration] | None = None) -> None:
    """Apply what is missing.

    Args:
        db: A connection in autocommit mode that may write.
        path: Named in errors.
        migrations: Those of this engine, in order; None: the bundled ones.

    Raises:
        SchemaTooNew: the database has migrations this engine does not know.
        SchemaEdited: an applied migration has another checksum or is missing.
        sqlite3.Error: the database cannot be written.
    """
    known = bundled() if migrations is None else migrations
    applied = _applied(db)
    newest = known[-1].version
    if applied and max(applied) > newest:
        raise SchemaTooNew(
            f"{path} has schema {max(applied)} and this engine knows schemas up to {newest}: "
            "start the newer engine that wrote it, or restore a backup made before the upgrade"
        )
    for migration in known:
        if migration.version in applied:
            _compare(path, migration, applied[migration.version])
        elif applied and migration.version < max(applied):
            raise SchemaEdited(f"{path} has schema {max(applied)} without {migration.name}: restore a backup")
        else:
            _apply(db, migration)


def _applied(db: sqlite3.Connection) -> dict[int, str]:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_migrations'").fetchone():
        return {}
    return dict(db.execute("SELECT version, sha256 FROM schema_migrations"))


def _compare(path: str, migration: Migration, applied_sha256: str) -> None:
    if migration.sha256 != applied_sha256:
        raise SchemaEdited(
            f"{path} was built with another {migration.name} (sha256 {applied_sha256[:12]}, "
            f"this engine has {migration.sha256[:12]}): a released migration is never edited; "
            "install the engine that wrote the file, or put the old file back and add a new migration"
        )


def _apply(db: sqlite3.Connection, migration: Migration) -> None:
    if not _FILE_NAME.fullmatch(migration.name):
        raise ValueError(f"not a migration's name: {migration.name!r}")
    proof = (
        "INSERT INTO schema_migrations VALUES "
        f"({migration.version}, '{migration.name}', '{migration.sha256}', strftime('%Y-%m-%dT%H:%M:%SZ', 'now'));"
    )
    try:
        db.executescript(f"BEGIN IMMEDIATE;\n{_CREATE_TABLE}\n{migration.sql}\n;{proof}\nCOMMIT;")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
