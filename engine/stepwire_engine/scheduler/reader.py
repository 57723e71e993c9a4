"""Blocking reads of the store, in one thread of their own: the loop never waits for the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from stepwire_engine.core.entries import Entry
from stepwire_engine.core.reads import (
    DormantRun,
    DormantRuns,
    OpenWaits,
    PastEvents,
    Read,
    RunRecords,
    UndeliveredEvents,
    UndoOutputs,
)
from stepwire_engine.store.base import Store

T = TypeVar("T")
_END_OF_TIME_MS = 2**62


def answer_of(store: Store, read: Read) -> object:
    """What the store says to a question of the core; blocking. Raises StoreError."""
    match read:
        case UndoOutputs():
            return [row.entries for row in store.journal(read.run.number)]
        case RunRecords(run_ids, numbers):
            return [store.find_run(run_id) for run_id in run_ids], [store.record(number) for number in numbers]
        case DormantRun(run_id):
            return store.find_run(run_id)
        case OpenWaits(event, after, limit):
            return store.waits(event, after, limit)
        case PastEvents():
            return store.events(read.event, read.since_ms, read.limit)
        case UndeliveredEvents(until_ms, limit):
            return store.undelivered(until_ms, limit)
        case DormantRuns(limit):
            return store.due_runs(_END_OF_TIME_MS, limit)


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
