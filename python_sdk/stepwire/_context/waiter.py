"""How a thread of a sync flow waits for what the loop resolves."""

from __future__ import annotations

import asyncio
import threading
from typing import Any


class Waiter:
    """Hands one outcome from the loop to a waiting thread."""

    __slots__ = ("_done", "_error", "_value")

    def __init__(self) -> None:
        self._done = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None

    def give(self, value: Any, error: BaseException | None) -> None:
        self._value = value
        self._error = error
        self._done.set()

    def resolved(self, future: asyncio.Future[Any]) -> None:
        error = future.exception() if not future.cancelled() else asyncio.CancelledError()
        self.give(None if error is not None else future.result(), error)

    def wait(self) -> Any:
        self._done.wait()
        if self._error is None:
            return self._value
        error, self._error = self._error, None
        try:
            raise error
        finally:
            del error  # It knows this frame.
