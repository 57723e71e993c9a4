"""Log lines on their way to the engine: bounded, sent with whatever else is sent, never twice (MISSION V1).

User code puts lines in, from any thread, and never waits for the network; the session's own thread takes them out.
What does not fit is dropped and counted. Nothing here is durable, and no ack, replay or journal depends on it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import MutableMapping
from typing import NamedTuple
from weakref import WeakSet

from stepwire.protocol.frames import LogLine, RunLogs

LINES_MAX = 1_000
"""Lines that wait for the engine, in one host."""
BYTES_MAX = 1024 * 1024
"""Their size."""
FRAME_BYTES_MAX = 64 * 1024
"""Lines that one frame takes along: plans and results must not wait behind them."""
SEND_WITHIN_SECONDS = 0.5
"""Lines that no frame took along are sent on their own after this long."""
LINE_BYTES = 64
"""What a line takes besides its texts."""


class Waiting(NamedTuple):
    """A line that waits; `at` is on the monotonic clock."""

    run_id: str
    path: str
    attempt: int
    at: float
    level: int
    logger: str
    message: str
    size: int


_queues: WeakSet[LogQueue] = WeakSet()


def clear_all() -> None:
    """In a forked child: lines are the parent's to send, and a lock that was held then would be held for ever."""
    for queue in list(_queues):
        queue.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=clear_all)


class LogQueue:
    """Lines of one host. Thread-safe, also for code that logs while it is interrupted in here.

    Args:
        counts: Gets 1 more under "shipped" or "dropped" for each line.
    """

    def __init__(self, counts: MutableMapping[str, int]) -> None:
        self._counts = counts
        self.clear()
        _queues.add(self)

    def clear(self) -> None:
        """Forget everything, whoever holds the lock."""
        self._lock = threading.RLock()
        self._lines: deque[Waiting] = deque()
        self._bytes = 0
        self._dropped: dict[str, int] = {}
        self._hurried = False

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, line: Waiting) -> None:
        """Queue a line, or drop it if too much waits."""
        with self._lock:
            if len(self._lines) >= LINES_MAX or self._bytes + line.size > BYTES_MAX:
                self._drop(line.run_id)
                return
            self._lines.append(line)
            self._bytes += line.size

    def _drop(self, run_id: str) -> None:
        self._counts["dropped"] += 1
        if run_id in self._dropped or len(self._dropped) < LINES_MAX:
            self._dropped[run_id] = self._dropped.get(run_id, 0) + 1

    def hurry(self) -> None:
        """What waits is due now."""
        self._hurried = bool(self._lines)

    def due_at(self) -> float | None:
        """When what waits is to be sent on its own; None: nothing waits."""
        try:
            oldest = self._lines[0].at
        except IndexError:
            return None
        return 0.0 if self._hurried else oldest + SEND_WITHIN_SECONDS

    def take(self, now: float, *, everything: bool = False) -> list[RunLogs]:
        """The oldest lines, by run, about as many as one frame takes along; `everything`: all of them.

        With the last ones it is said how many were dropped after them.
        """
        taken: dict[str, list[LogLine]] = {}
        with self._lock:
            size = 0
            while self._lines and (everything or not size or size + self._lines[0].size <= FRAME_BYTES_MAX):
                line = self._lines.popleft()
                size += line.size
                age = max(0.0, now - line.at)
                taken.setdefault(line.run_id, []).append(
                    LogLine(line.path, line.attempt, age, line.level, line.logger, line.message)
                )
                self._counts["shipped"] += 1
            self._bytes -= size
            self._hurried = self._hurried and bool(self._lines)
            dropped: dict[str, int] = {}
            if not self._lines:  # What was dropped came after everything that waited.
                dropped, self._dropped = self._dropped, dropped
        for run_id in dropped:
            taken.setdefault(run_id, [])
        return [RunLogs(run_id, tuple(lines), dropped.get(run_id, 0)) for run_id, lines in taken.items()]
