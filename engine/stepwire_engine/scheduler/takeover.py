"""What a starting engine finds in its store: everything that is open, and what of it is damaged.

Damaged rows are set apart here, so that one of them does not keep the engine from all the others. Blocking: it runs in
the reader thread, before anything can reach the core.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from stepwire_engine.core.entries import Entry
from stepwire_engine.store.base import DamagedRow, InboxRow, SessionRecord, Store, StoreCorrupt

_log = logging.getLogger("stepwire.engine.takeover")


@dataclass(slots=True)
class Stock:
    """What there is to take over.

    Attributes:
        journals: Number and rows of each open run that can be read.
        unreadable: Numbers of open runs that cannot, and of runs that miss a row of another table: what is damaged.
        unrecorded: Numbers of runs whose record is damaged and whose journal is not: they go on.
        damage: Every damaged row that was met.
    """

    journals: list[tuple[int, list[tuple[Entry, ...]]]] = field(default_factory=list)
    sessions: Sequence[SessionRecord] = ()
    inbox: Sequence[InboxRow] = ()
    unreadable: dict[int, str] = field(default_factory=dict)
    unrecorded: set[int] = field(default_factory=set)
    damage: list[DamagedRow] = field(default_factory=list)


def take_stock(store: Store) -> Stock:
    """Read everything that is open. Raises StoreError for what is more than a row."""
    stock = Stock()
    numbers = [record.number for record in store.open_runs()]
    stock.sessions = store.sessions()
    stock.inbox = store.inbox()
    stock.damage.extend(store.take_damage())
    for row in stock.damage:
        log_damage(row)
        if not row.run:
            continue
        if row.table == "runs":
            stock.unrecorded.add(row.run)
        else:
            stock.unreadable[row.run] = row.what
    for number in sorted({*numbers, *stock.unrecorded} - stock.unreadable.keys()):
        try:
            if rows := [row.entries for row in store.journal(number)]:
                stock.journals.append((number, rows))
        except StoreCorrupt as error:
            _log.error("run number %d is kept aside: %s", number, error)
            stock.unreadable[number] = error.what
    return stock


def log_damage(row: DamagedRow) -> None:
    """Say which row is damaged and what that means."""
    if row.run:
        _log.error("damaged in the store: %s; run number %d is kept aside if it needs that", row.what, row.run)
    else:
        _log.error("damaged in the store and left out: %s", row.what)
