"""Log lines of runs as clients read them: pages of the engine, one line after the other.

`stepwire.client` exports what is public here. It waits for nothing: lines that come later are asked for again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from stepwire._transport.run_record import time_from_pb
from stepwire.v1 import run_service_pb2 as pb

PAGE_LINES = 500
"""Lines asked for at once."""


@dataclass(frozen=True, slots=True)
class LoggedLine:
    """A line that a flow or step logged.

    Attributes:
        number: Counts the lines of the run from 1, those included that are missing.
        at: When, by the engine's clock.
        path: Of the step, or of the branch whose own code it was; empty: the flow's own code.
        attempt: Of the step; 0: the flow's own code.
        level: As `logging` numbers them.
        logger: Its name; empty: nobody logged this line, it says that others are missing here.
        message: With the traceback, if there was one; at most 8 KiB.
        host: Name of the host.
    """

    number: int
    at: datetime
    path: str
    attempt: int
    level: int
    logger: str
    message: str
    host: str

    @property
    def level_name(self) -> str:
        """The name of the level, for example INFO."""
        return logging.getLevelName(self.level)


@dataclass(frozen=True, slots=True)
class LogPage:
    """One answer of the engine: `next` is what to ask for next, as `after`."""

    lines: tuple[LoggedLine, ...]
    next: int
    dropped: int


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which lines of one run; see `ClientSync.logs`."""

    run_id: str
    path: str
    attempt: int
    level: int


def page_from_pb(data: bytes) -> LogPage:
    """One page."""
    answer = pb.LogsResponse.FromString(data)
    lines = [
        LoggedLine(
            line.number,
            time_from_pb(line.at),
            line.path,
            line.attempt,
            line.level,
            line.logger,
            line.message,
            line.host,
        )
        for line in answer.lines
    ]
    return LogPage(tuple(lines), answer.next, answer.dropped)


def level_number(level: int | str) -> int:
    """The number of a level. Raises ValueError for a name that `logging` does not know."""
    if isinstance(level, int):
        return level
    numbers = logging.getLevelNamesMapping()
    if level.upper() not in numbers:
        raise ValueError(f"{level!r} is no level; there are {', '.join(numbers)}")
    return numbers[level.upper()]


class _LinesBase:
    """Where reading stands.

    Attributes:
        next: Number of the last line looked at: with it as `after`, reading goes on there.
        dropped: Lines of the run that are missing, as the engine said last.
    """

    def __init__(self, after: int) -> None:
        self.next = after
        self.dropped = 0
        self._left: deque[LoggedLine] = deque()
        self._over = False

    def _take(self, page: LogPage) -> None:
        self._left.extend(page.lines)
        self.next = page.next
        self.dropped = page.dropped
        self._over = len(page.lines) < PAGE_LINES


class LogLinesSync(_LinesBase):
    """Lines of a run, oldest first, up to the newest; an iterator."""

    def __init__(self, read: Callable[[int], LogPage], after: int) -> None:
        super().__init__(after)
        self._read = read

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> LoggedLine:
        while not self._left:
            if self._over:
                raise StopIteration
            self._take(self._read(self.next))
        return self._left.popleft()


class LogLines(_LinesBase):
    """Lines of a run, oldest first, up to the newest; an async iterator."""

    def __init__(self, read: Callable[[int], Awaitable[LogPage]], after: int) -> None:
        super().__init__(after)
        self._read = read

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LoggedLine:
        while not self._left:
            if self._over:
                raise StopAsyncIteration
            self._take(await self._read(self.next))
        return self._left.popleft()
