"""How fast the cores run just now.

A virtual machine shares its cores with others, whose work shows in nothing but that everything takes up to twice as
long, from one second to the next. So a fixed loop of Python is timed on every core, beside its fastest time so far.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SLOWED_MAX = 1.25
"""A core is calm up to this multiple of the fastest loop."""
LOOK_SECONDS = 0.05
"""Between two looks while it is waited for calm cores."""
SPIN_ADDITIONS = 200_000
_SPINS = 3


class Pace:
    """Looks at the cores.

    Args:
        spin: Seconds that the loop takes on a core, by its number.
        cores: All there are.
        sleep, clock: In seconds.
    """

    def __init__(
        self,
        spin: Callable[[int], float] | None = None,
        cores: Callable[[], list[int]] = lambda: sorted(os.sched_getaffinity(0)),
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spin = spin or spin_on
        self._cores = cores
        self._sleep = sleep
        self._clock = clock
        self.fastest = float("inf")
        """Seconds of the fastest loop so far."""

    def slowed(self) -> float:
        """The slowest core's loop, as a multiple of the fastest that was seen; 1: all are as fast as ever."""
        taken = [self._spin(core) for core in self._cores()]
        self.fastest = min(self.fastest, *taken)
        return max(taken) / self.fastest

    def wait(self, seconds: float) -> float:
        """Wait until all cores are calm, at most so long. Returns how slowed they are then."""
        until = self._clock() + seconds
        while (slowed := self.slowed()) > SLOWED_MAX and self._clock() < until:
            self._sleep(LOOK_SECONDS)
        return slowed


def spin_on(core: int) -> float:
    """Best of three on this core, in seconds."""
    with _moved_to(core):
        return spin()


def spin() -> float:
    """Best of three where the calling thread runs, in seconds."""
    return min(_loop() for _ in range(_SPINS))


def _loop() -> float:
    began = time.perf_counter()
    total = 0
    for number in range(SPIN_ADDITIONS):
        total += number & 7
    return time.perf_counter() - began


@contextmanager
def _moved_to(core: int) -> Iterator[None]:
    """The calling thread, and no other, runs on this core for so long."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
