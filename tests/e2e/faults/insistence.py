"""A client that asks again until an engine answers: what users do whose engine is being restarted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from stepwire.errors import EngineUnavailable

INSIST_SECONDS = 60.0
PAUSE_SECONDS = 0.005

T = TypeVar("T")


def insist(call: Callable[[], T]) -> T:
    """Repeat a call that may be repeated while no engine answers."""
    deadline = time.monotonic() + INSIST_SECONDS
    while True:
        try:
            return call()
        except EngineUnavailable:
            if time.monotonic() > deadline:
                raise
        time.sleep(PAUSE_SECONDS)  # gate: the pause between two calls
