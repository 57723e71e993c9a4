"""Blocking reads of the store, in one thread of their own: the loop never waits for the disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from stepwire_engine.core.entries import Entry
from stepwire_engine.core.reads import (
    DormantPage,
    DormantRun,
    DormantRuns,
    OpenPage,
    OpenWaits,
    PastEvents,
    Read,
    RunRecords,
    UndeliveredEvents,
    UndoOutputs,
    Unreadable,
)
from stepwire_engine.scheduler.dormant import forgotten, in_progress
from stepwire_engine.store.base import RunRecord, Store, StoreCorrupt

T = TypeVar("T")
K = TypeVar("K", int, str)
_log = logging.getLogger("stepwire.engine.reader")
_END_OF_TIME_MS = 2**62


def answer_of(store: Store, read: Read) -> object:
    """What the store says to a question of the core; blocking. Raises StoreError."""
    match read:
        case UndoOutputs():
            return [row.entries for row in store.journal(read.run.number)]
        case RunRecords(run_ids, numbers):
            return [_found(store.find_run, run_id) for run_id in run_ids], [_found(store.record, n) for n in numbers]
        case DormantRun(run_id):
            return _found(store.find_run, run_id)
        case OpenWaits(event, after, limit):
            return store.waits(event, after, limit)
        case PastEvents():
            return store.events(read.event, read.since_ms, read.limit)
        case UndeliveredEvents(until_ms, limit):
            return store.undelivered(until_ms, limit)
        case DormantRuns(after, limit):
            return store.due_runs(_END_OF_TIME_MS, limit, after)
        case DormantPage():
            return forgotten(store, read)
        case OpenPage():
            return in_progress(store, read)


def _found(find: Callable[[K], RunRecord | None], key: K) -> RunRecord | Unreadable | None:
    """What is on record; one damaged record must not keep the others from being answered."""
    try:
        return find(key)
    except StoreCorrupt as error:
        _log.error("%s", error)
        return Unreadable()


class Reader:
    """The reader thread.

    Args:
        store: Read only.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stepwire-reader")

    async def read(self, what: Callable[[], T]) -> T:
        """What the callable returns, called in the reader thread, in the order of the calls."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, what)

    async def journal(self, number: int) -> Sequence[Sequence[Entry]]:
        """The entries of a run's committed rows. Raises StoreError."""
        return await self.read(lambda: [row.entries for row in self._store.journal(number)])

    def close(self) -> None:
        """Take no further reads; the one in progress is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)
