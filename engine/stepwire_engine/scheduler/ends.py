"""Who waits for the ends of runs: one `Wait` per call, however many runs it names.

A run that changes without ending costs nothing here. Records that are not too large are kept for whoever waits, up to
a bound for all of them; of the others only the name, and they are read when it is their turn. So a caller that reads
slowly, or not at all, holds little memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager

from stepwire.protocol import limits
from stepwire.protocol.failure import Failure
from stepwire_engine.core.history import RunView
from stepwire_engine.core.refusal import CallRefused, busy

Ended = Callable[[], Awaitable[Sequence[RunView]]]
"""Returns runs that ended and were not told yet: at least one, and more while they are 1 MiB together."""

WAITED_FOR_MAX = 1_000_000
"""Runs that are waited for at once, each counted once per call; some 300 bytes each."""
_PORTION_BYTES = 1024 * 1024
_HELD_BYTES_MAX = 64 * 1024 * 1024
"""Records kept for all who wait."""
_RECORD_BYTES = 1024
"""Of a record besides its contents, about."""


class Wait:
    """One caller's wait, made by `Ends`."""

    __slots__ = ("_ends", "_left", "_names", "_queue", "_woken")

    def __init__(self, ends: Ends, run_ids: Iterable[str]) -> None:
        self._ends = ends
        self._left = set(run_ids)
        """Not told yet."""
        self._queue: deque[RunView | str] = deque()
        """What ended, or by its name what may have: it is read."""
        self._names: set[str] = set()
        """Of the queue, each once: a run may leave memory often before its caller reads again."""
        self._woken = asyncio.Event()

    async def ended(self) -> Sequence[RunView]:
        """See `Ended`. Call it only while there are runs left.

        Raises:
            CallRefused: RUN_NOT_FOUND, and what reading a run raises; or the engine stops.
        """
        found: list[RunView] = []
        size = 0
        while not found:
            if self._ends.refusal is None:
                await self._woken.wait()
            if self._ends.refusal is not None:
                raise self._ends.refusal
            while self._queue:
                try:
                    view = await self._next()
                except CallRefused:
                    if not found:
                        raise
                    break  # Those that were read are told first; the next call says so.
                if view is None:
                    continue
                more = record_bytes(view)
                if found and size + more > _PORTION_BYTES:
                    self._queue.appendleft(view)
                    self._ends.held += more
                    break
                self._left.discard(view.run_id)
                found.append(view)
                size += more
            else:
                self._woken.clear()
        return found

    async def _next(self) -> RunView | None:
        """The first of the queue; None if it has not ended, or was told before."""
        first = self._queue.popleft()
        if isinstance(first, str):
            self._names.discard(first)  # First: it may end while it is read.
            if first not in self._left:
                return None
            try:
                view = await self._ends.read(first)
            except CallRefused:
                self._names.add(first)
                self._queue.appendleft(first)
                raise
        else:
            view = first
            self._ends.held -= record_bytes(view)
        return view if view.state.terminal and view.run_id in self._left else None

    def add(self, view: RunView) -> None:
        """A run has ended."""
        size = record_bytes(view)
        if size <= limits.INLINE_BYTES_MAX and self._ends.held + size <= _HELD_BYTES_MAX:
            self._ends.held += size
            self._queue.append(view)
            self._woken.set()
        else:
            self.look(view.run_id)

    def look(self, run_id: str) -> None:
        """A run may have ended, if there is one."""
        if run_id not in self._names:
            self._names.add(run_id)
            self._queue.append(run_id)
            self._woken.set()

    def wake(self) -> None:
        """Something else has changed."""
        self._woken.set()

    def close(self) -> None:
        """Give up what is kept."""
        self._ends.held -= sum(record_bytes(one) for one in self._queue if not isinstance(one, str))
        self._queue.clear()


class Ends:
    """The waits by run. Used on the engine's loop only.

    Args:
        read: The record of a run now, without steps. Raises CallRefused.

    Attributes:
        held: Bytes of records that are kept for those who wait.
        refusal: The engine stops, and nothing is told any more.
    """

    def __init__(self, read: Callable[[str], Awaitable[RunView]]) -> None:
        self.read = read
        self.held = 0
        self.refusal: CallRefused | None = None
        self._waits: dict[str, list[Wait]] = {}
        self._waited_for = 0

    @contextmanager
    def wait(self, run_ids: Sequence[str], in_memory: Container[str]) -> Iterator[Ended]:
        """No end after entering is missed.

        Args:
            run_ids: Each once.
            in_memory: Runs that have not ended, or whose end is told of later. The others are read.

        Raises:
            CallRefused: LIMIT_EXCEEDED.
        """
        if self._waited_for + len(run_ids) > WAITED_FOR_MAX:
            raise busy(f"{self._waited_for} ends of runs are waited for")
        wait = Wait(self, run_ids)
        self._waited_for += len(run_ids)
        for run_id in run_ids:
            self._waits.setdefault(run_id, []).append(wait)
            if run_id not in in_memory:
                wait.look(run_id)
        try:
            yield wait.ended
        finally:
            self._waited_for -= len(run_ids)
            for run_id in run_ids:
                self._leave(run_id, wait)
            wait.close()

    def _leave(self, run_id: str, wait: Wait) -> None:
        waits = self._waits.get(run_id)
        if waits is not None and wait in waits:
            waits.remove(wait)
            if not waits:
                del self._waits[run_id]

    def note(self, view: RunView) -> None:
        """A run has ended, durably."""
        for wait in self._waits.pop(view.run_id, ()):
            wait.add(view)

    def look(self, run_ids: Iterable[str]) -> None:
        """These runs have left memory: also one that ended unseen, or was damaged, is told of."""
        for run_id in run_ids:
            for wait in self._waits.get(run_id, ()):
                wait.look(run_id)

    def waited_for(self, run_ids: set[str]) -> set[str]:
        """Those of these runs whose end somebody waits for."""
        return run_ids & self._waits.keys() if self._waits else set()

    def refuse(self, refusal: CallRefused) -> None:
        """The engine stops."""
        self.refusal = refusal
        for waits in self._waits.values():
            for wait in waits:
                wait.wake()


def record_bytes(view: RunView) -> int:
    """What a record without steps takes in memory, about."""
    size = _RECORD_BYTES + len(view.input.data)
    if view.output is not None:
        size += len(view.output.data)
    failure: Failure | None = view.failure
    while failure is not None:
        size += len(failure.message) + len(failure.traceback)
        failure = failure.cause
    return size
