"""Blocking reads of the store, in one thread of their own: the loop never waits for the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from stepwire_engine.core.entries import Entry
from stepwire_engine.store.base import Store

T = TypeVar("T")


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
