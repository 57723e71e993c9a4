"""The clocks of one process: a monotonic one that drifts a little, and a wall clock that is wrong and jumps.

The time of the world is none of them. Durations that the protocol compares come from monotonic clocks; the record has
times of the engine's wall clock, and nothing may depend on the wall clock of a host.
"""

from __future__ import annotations

import random

EPOCH_MS = 1_700_000_000_000
DRIFT_MAX = 1e-3
"""Of a monotonic clock; ten times what quartz does."""
JUMP_SECONDS_MAX = 3600.0


class Clock:
    """What one process reads.

    Args:
        drifts: Its monotonic clock is faster or slower than the world's time.
    """

    def __init__(self, rng: random.Random, *, drifts: bool) -> None:
        self._rate = 1.0 + (rng.uniform(-DRIFT_MAX, DRIFT_MAX) if drifts else 0.0)
        self._start = rng.uniform(0.0, 1000.0) if drifts else 0.0
        self._ahead_ms = 0
        self._most_ahead_ms = 0
        self.jumped = False
        self.set_at = -1.0

    def mono(self, now: float) -> float:
        """Seconds, since whenever."""
        return self._start + now * self._rate

    def unix_ms(self, now: float) -> int:
        return EPOCH_MS + round(now * 1000) + self._ahead_ms

    def jump(self, seconds: float) -> None:
        """Somebody set the wall clock."""
        self.jumped = True
        self._ahead_ms += round(seconds * 1000)
        self._most_ahead_ms = max(self._most_ahead_ms, self._ahead_ms)

    def settle(self) -> None:
        """The wall clock shows what it showed when it was most ahead; from now on nobody sets it.

        Otherwise what was recorded while it was ahead would be due only after an hour of the world's time.
        """
        self._ahead_ms = self._most_ahead_ms
