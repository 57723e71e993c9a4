"""Reads log lines from SQLite: one page and what is missing, in the snapshot of whoever asks."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import starmap

from stepwire_engine.store.base import LogPage, LogQuery
from stepwire_engine.store.damage import DamageLog
from stepwire_engine.store.lines import log_page
from stepwire_engine.store.stored import StoredLog

_LINES = """
SELECT * FROM logs
WHERE run = ?1 AND n > ?2 AND level >= ?3 AND (?4 = '' OR path = ?4) AND (?5 = 0 OR attempt = ?5) ORDER BY n
"""
_COUNT = "SELECT coalesce(max(n), 0), count(*) FILTER (WHERE logger != '') FROM logs WHERE run = ?"


def read_logs(db: sqlite3.Connection, query: LogQuery, damage: DamageLog) -> LogPage:
    """A page; damaged lines are left out and noted. Raises sqlite3.Error.

    Args:
        db: In a transaction.
    """
    values = (query.run, query.after, query.level_min, query.path, query.attempt)
    with closing(db.execute(_LINES, values)) as stored:
        found = damage.sound("logs", starmap(StoredLog, stored), query.limit)
    last, kept = db.execute(_COUNT, (query.run,)).fetchone()
    return log_page(query, found, int(last), int(kept), full=len(found) == query.limit)
