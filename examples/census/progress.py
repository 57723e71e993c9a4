"""How far a run is, for people who watch it."""

from __future__ import annotations

import time
from typing import TextIO

BAR_WIDTH = 30


class Progress:
    """How many chunks are done: a bar drawn in place on a terminal, otherwise a line for every quarter."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._started = time.monotonic()
        self._quarter = 0
        self._open = False

    @property
    def seconds(self) -> float:
        """Since `begin`."""
        return time.monotonic() - self._started

    def begin(self) -> None:
        """A run starts."""
        self._started, self._quarter = time.monotonic(), 0

    def draw(self, done: int, total: int) -> None:
        """Show that `done` of `total` chunks are done."""
        filled, quarter = BAR_WIDTH * done // total, 4 * done // total
        line = f"  [{'#' * filled:<{BAR_WIDTH}}] {done:>2} of {total} chunks  {self.seconds:4.1f} s"
        if self._live:
            print(f"\r{line}", end="", file=self._stream, flush=True)
            self._open = True
        elif quarter > self._quarter:
            print(line, file=self._stream, flush=True)
        self._quarter = quarter

    def end(self) -> None:
        """Leave the line."""
        if self._open:
            print(file=self._stream, flush=True)
        self._open = False
