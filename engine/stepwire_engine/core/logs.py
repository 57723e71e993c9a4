"""Log lines of hosts on their way to the store: stamped, bounded, and the first to go when there is too much.

No decision depends on a line. They are written in units of their own, one at a time, so that commits of runs never
wait behind more than a few of them; what is refused is counted and forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from stepwire.protocol.frames import RunLogs
from stepwire_engine.core.books import Books, Commit
from stepwire_engine.core.sessions import Session
from stepwire_engine.core.units import LogRow, Receipt, RunLines, Unit

LINES_PER_UNIT = 500
INTEGER_MAX = 2**31 - 1


class Logs:
    """Lines that wait. At most `log_lines_waiting_max`, and one unit in flight."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._waiting: deque[tuple[str, LogRow]] = deque()
        self._dropped: dict[str, int] = {}
        self._in_flight = 0

    def take(self, session: Session, logs: Sequence[RunLogs]) -> None:
        """Lines that a host sent."""
        room = self._books.config.log_lines_waiting_max - self._in_flight
        if not self._books.config.log_lines_per_run_max:
            room = 0
        for batch in logs:
            for line in batch.lines:
                if len(self._waiting) >= room:
                    self._books.counters.log_lines["dropped"] += 1
                    self._miss(batch.run_id, 1)
                    continue
                at_ms = max(0, self._books.now.unix_ms - round(line.age * 1000))
                row = LogRow(
                    at_ms,
                    line.path,
                    min(line.attempt, INTEGER_MAX),
                    min(max(line.level, 0), INTEGER_MAX),
                    line.logger or "root",
                    line.message,
                    session.service,
                )
                self._waiting.append((batch.run_id, row))
            if batch.dropped:
                self._miss(batch.run_id, batch.dropped)
        self._books.lines = bool(self._waiting or self._dropped)

    def _miss(self, run_id: str, count: int) -> None:
        """Told after what waits; of more runs than there may be lines it is only counted."""
        if run_id in self._dropped or len(self._dropped) < self._books.config.log_lines_waiting_max:
            self._dropped[run_id] = min(self._dropped.get(run_id, 0) + count, INTEGER_MAX)

    def flush(self) -> None:
        """Queue a unit, unless one is on its way: its receipt is followed by the next."""
        self._books.lines = False
        if self._in_flight or not (self._waiting or self._dropped):
            return
        lines: dict[str, list[LogRow]] = {}
        count = min(LINES_PER_UNIT, len(self._waiting))
        for _ in range(count):
            run_id, row = self._waiting.popleft()
            lines.setdefault(run_id, []).append(row)
        gaps: dict[str, int] = {}
        if not self._waiting:  # What was dropped came after everything that waited.
            gaps = {run_id: self._dropped[run_id] for run_id in list(islice(self._dropped, LINES_PER_UNIT))}
        for run_id in gaps:
            del self._dropped[run_id]
            lines.setdefault(run_id, [])
        at_ms = self._books.now.unix_ms
        batches = [RunLines(run_id, tuple(rows), gaps.get(run_id, 0), at_ms) for run_id, rows in lines.items()]
        self._in_flight = max(1, count)
        lines_max = self._books.config.log_lines_per_run_max
        unit = Unit(self._books.claim_epoch, logs=tuple(batches), log_lines_max=lines_max)
        self._books.commits.append(Commit(unit, after=lambda receipt: self._stored(count, receipt)))

    def _stored(self, count: int, receipt: Receipt) -> None:
        self._in_flight = 0
        self._books.lines = bool(self._waiting or self._dropped)
        self._books.counters.log_lines["stored"] += receipt.logs
        self._books.counters.log_lines["dropped"] += count - receipt.logs
