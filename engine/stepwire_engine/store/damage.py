"""Rows that are not what was written: left out of answers, and told to the engine once each.

One damaged row must not keep the engine from everything else that is stored. Nothing here repairs or judges: what
becomes of a run whose row is damaged is decided by the engine.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from stepwire_engine.store.base import DamagedRow
from stepwire_engine.store.rows import INTEGER_MAX, Damaged

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Sealed(Protocol[T_co]):
    """A row as it is stored."""

    def opened(self) -> T_co:
        """What it was made of. Raises Damaged."""


class DamageLog:
    """Damaged rows that were met. Thread-safe; it holds each row once, and a file has only so many."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: set[DamagedRow] = set()
        self._new: list[DamagedRow] = []

    def note(self, row: DamagedRow) -> None:
        with self._lock:
            if row not in self._known:
                self._known.add(row)
                self._new.append(row)

    def take(self) -> Sequence[DamagedRow]:
        """What was noted since the last call."""
        if not self._new:
            return ()
        with self._lock:
            new, self._new = self._new, []
            return new

    def sound(self, table: str, stored: Iterable[Sealed[T]], limit: int | None = None) -> list[T]:
        """The rows that are what was written, at most `limit`; the others are noted."""
        found: list[T] = []
        for row in stored:
            if limit is not None and len(found) >= limit:
                break
            try:
                found.append(row.opened())
            except Damaged as error:
                self.note(DamagedRow(table, str(error), run_of(row)))
        return found


def run_of(row: object) -> int:
    """The run that a damaged row names; 0 if it names none that could be."""
    run = getattr(row, "run", 0)
    return run if isinstance(run, int) and 0 < run <= INTEGER_MAX else 0
