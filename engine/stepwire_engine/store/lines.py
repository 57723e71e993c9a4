"""Log lines in a store: which numbers they get, which of them stay, and what is asked of them.

Shared by every store, as the draft is. Lines are droppable: nothing here may refuse a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from stepwire_engine.core.units import LogRow, RunLines
from stepwire_engine.store.base import LogPage, LogQuery
from stepwire_engine.store.stored import StoredLog

WARNING = 30
"""Level of a row that says that lines are missing."""


class LogDraft:
    """Lines of one commit: their rows, and up to which number each run forgets older ones.

    Args:
        last_number: Number of a run's last stored line; 0: it has none.
    """

    __slots__ = ("_last", "_last_number", "forgotten", "rows")

    def __init__(self, last_number: Callable[[int], int]) -> None:
        self._last_number = last_number
        self._last: dict[int, int] = {}
        self.rows: list[StoredLog] = []
        self.forgotten: dict[int, int] = {}
        """Lines of a run up to this number go."""

    def add(self, run: int, batch: RunLines, lines_max: int) -> int:
        """Take lines of a run in; how many that were."""
        last = self._last[run] if run in self._last else self._last_number(run)
        self.rows += [StoredLog.of(run, n, line) for n, line in enumerate(batch.lines, last + 1)]
        last += len(batch.lines)
        if batch.dropped:
            last += batch.dropped
            self.rows.append(StoredLog.of(run, last, _gap(batch)))
        self._last[run] = last
        self.forgotten[run] = last - lines_max
        return len(batch.lines)


def _gap(batch: RunLines) -> LogRow:
    noun = "line was" if batch.dropped == 1 else "lines were"
    return LogRow(batch.at_ms, "", 0, WARNING, "", f"{batch.dropped} {noun} dropped here", "")


def _wants(query: LogQuery, line: StoredLog) -> bool:
    """Whether a line fits, the limit aside."""
    return (
        line.n > query.after
        and line.level >= query.level_min
        and (not query.path or line.path == query.path)
        and (not query.attempt or line.attempt == query.attempt)
    )


def log_page(query: LogQuery, found: Sequence[LogRow], last: int, kept: int, *, full: bool) -> LogPage:
    """
    Args:
        found: Lines that fit, at most the limit.
        last: Number of the run's last line; 0: it has none.
        kept: Lines of the run that are stored, without rows that say that some are missing.
        full: There may be more that fit.
    """
    ahead = found[-1].number if full and found else max(query.after, last)
    return LogPage(tuple(found), ahead, max(0, last - kept))


def is_line(line: StoredLog) -> bool:
    """Whether somebody logged it; otherwise it says that lines are missing."""
    return bool(line.logger)


def page_of(query: LogQuery, stored: Iterable[StoredLog]) -> LogPage:
    """The answer from all lines of a run, in order."""
    lines = list(stored)
    fitting = [line.opened() for line in lines if _wants(query, line)]
    last = lines[-1].n if lines else 0
    kept = sum(map(is_line, lines))
    return log_page(query, fitting[: query.limit], last, kept, full=len(fitting) >= query.limit)
