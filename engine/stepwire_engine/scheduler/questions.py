"""What the core asks of the store, and what becomes of answers that cannot be given.

A run whose journal is damaged is kept aside and everything else goes on; damage that concerns everybody ends the
engine. It decides nothing else, and it is used on the engine's loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from stepwire_engine.clock import Clock
from stepwire_engine.core.engine import EngineCore
from stepwire_engine.core.model import Run
from stepwire_engine.core.reads import Read, UndoOutputs
from stepwire_engine.scheduler.reader import Reader, answer_of
from stepwire_engine.scheduler.takeover import log_damage
from stepwire_engine.store.base import Store, StoreCorrupt, StoreError

_log = logging.getLogger("stepwire.engine.questions")


class Questions:
    """Reads that are on their way.

    Args:
        wake: Called when an answer was given.
        failed: Told that the store failed.
    """

    def __init__(
        self,
        core: EngineCore,
        store: Store,
        reader: Reader,
        clock: Clock,
        *,
        wake: Callable[[], None],
        failed: Callable[[StoreError], None],
    ) -> None:
        self._core = core
        self._store = store
        self._reader = reader
        self._clock = clock
        self._wake = wake
        self._failed = failed
        self._open: set[asyncio.Task[None]] = set()

    @property
    def pending(self) -> bool:
        """Some are not answered."""
        return bool(self._open)

    def take(self) -> None:
        """Read what the core asks for."""
        for run in self._core.take_loads():
            self._begin(self._load(run))
        for read in self._core.take_reads():
            self._begin(self._answer(read))

    def note_damage(self) -> None:
        """Rows were left out of answers, or kept a commit from being stored: see what becomes of their runs."""
        for row in self._store.take_damage():
            log_damage(row)
            self._core.counters.damaged_rows += 1
            in_memory = row.run in self._core.numbers
            if row.run and not (row.table == "runs" and in_memory):  # A run in memory writes its record anew.
                self._core.set_aside(row.run, row.what, self._clock.now())

    def _begin(self, question: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(question)
        self._open.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._wake()

    async def _answer(self, read: Read) -> None:
        try:
            answer = await self._reader.read(lambda: answer_of(self._store, read))
            self.note_damage()
            self._core.read_done(read, answer, self._clock.now())
        except StoreError as error:
            if isinstance(read, UndoOutputs) and isinstance(error, StoreCorrupt):
                self._keep_aside(read.run, error)
            else:
                self._failed(error)  # Damaged rows are left out of the other answers, so this is more than a row.
        except Exception:
            _log.exception("the core failed on the answer to %s", type(read).__name__)

    async def _load(self, run: Run) -> None:
        try:
            rows = await self._reader.journal(run.number)
            self._core.journal_loaded(run, rows, self._clock.now())
        except StoreCorrupt as error:
            self._keep_aside(run, error)
        except StoreError as error:
            self._failed(error)
        except Exception:
            _log.exception("the core failed on the journal of run %s", run.run_id)

    def _keep_aside(self, run: Run, error: StoreCorrupt) -> None:
        _log.error("run %s is kept aside: %s", run.run_id, error)
        self._core.journal_unreadable(run, self._clock.now(), error.what)
