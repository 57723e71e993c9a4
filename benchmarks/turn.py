"""A lock on a file, for machines on which several people measure: whoever has it has the cores."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

HOLD_SECONDS = 40.0


class Turn:
    """Held from one measurement to the next, until it was held for HOLD_SECONDS; then others may take it.

    Args:
        file: Is made; None: there is nobody else.
    """

    def __init__(self, file: Path | None) -> None:
        self._path = file
        self._held: IO[str] | None = None
        self._since = 0.0

    def take(self) -> None:
        """Wait for it, or keep it; called before every measurement."""
        if self._path is None:
            return
        if self._held is not None and time.monotonic() - self._since > HOLD_SECONDS:
            self.give()
        if self._held is None:
            self._held = self._path.open("a", encoding="utf-8")
            fcntl.flock(self._held, fcntl.LOCK_EX)
            self._since = time.monotonic()

    def give(self) -> None:
        """Let others measure. Idempotent."""
        held, self._held = self._held, None
        if held is not None:
            held.close()


@contextmanager
def turns_of(file: Path | None) -> Iterator[Turn]:
    """A turn that is given at the end."""
    turn = Turn(file)
    try:
        yield turn
    finally:
        turn.give()
