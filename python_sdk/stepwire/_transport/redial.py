"""When a host dials its engine again (DESIGN 3 rule 6): at once, then with full jitter, for ever. Pure."""

from __future__ import annotations

from collections.abc import Callable

QUICK_SECONDS = 10.0
"""How long an outage counts as short."""
QUICK_CAP = 0.5
"""Longest pause before a dial in a short outage, in seconds. Well below the engine's reconnect grace."""
SLOW_CAP = 5.0
"""The same in a long one: a thousand hosts then make 400 dials a second."""
AT_ONCE_SECONDS = 1.0
"""Least time between two dials without a pause, for engines that end every stream that they welcome."""


class Redial:
    """The pauses of one link.

    Args:
        uniform: A random number between its two arguments.
        now: When the link begins, in seconds on the monotonic clock, as all times here.
    """

    def __init__(self, uniform: Callable[[float, float], float], now: float) -> None:
        self._uniform = uniform
        self._down_since = now
        self._at_once: float | None = None

    def pause(self, now: float, *, served: bool) -> float:
        """Seconds to wait before the next dial.

        Args:
            served: The stream that ended was welcomed, and not ended by a Fault: a new outage begins now.
        """
        if served:
            self._down_since = now
            if self._at_once is None or now - self._at_once >= AT_ONCE_SECONDS:
                self._at_once = now
                return 0.0
        short = now - self._down_since < QUICK_SECONDS
        return self._uniform(0.0, QUICK_CAP if short else SLOW_CAP)
