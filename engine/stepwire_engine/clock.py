"""The engine's only source of time and identifiers; the composition root hands it in (DESIGN 2).

Nothing else in the engine reads a clock or draws random numbers, so that tests and the simulation decide
both. Times of the record are wall-clock milliseconds, leases and timers use monotonic seconds.
"""

from __future__ import annotations

import os
import random
import time
from typing import Protocol

from stepwire_engine.core.books import Now

RUN_ID_LENGTH = 26
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_RANDOM_BITS = 80
_POOL_BYTES = 4096
_VIRTUAL_START_MS = 1_767_225_600_000


class Clock(Protocol):
    """Time and identifiers."""

    def now(self) -> Now:
        """Monotonic seconds, and milliseconds since the Unix epoch."""

    def run_id(self) -> str:
        """A new run id: 26 lower-case characters that sort by time of creation."""

    def session_id(self) -> str:
        """A new session id; it cannot be guessed."""

    def seed(self) -> int:
        """Seed for a run's ctx.random and ctx.uuid, 0..2^63 - 1."""


class _Bits(Protocol):
    """A source of random bits."""

    def getrandbits(self, k: int, /) -> int:
        """`k` random bits."""


_forks = 0
"""Between this process and the first one that imported this. To ask for the process id is a system call."""


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


class _KernelBits:
    """Random bits of the kernel, a few hundred draws with one call: every run that starts takes two."""

    def __init__(self) -> None:
        self._pool = b""
        self._used = 0
        self._forks = 0

    def getrandbits(self, k: int, /) -> int:
        size = (k + 7) // 8
        start = self._used
        if start + size > len(self._pool) or self._forks != _forks:  # A fork must not draw the same.
            self._pool, self._forks, start = os.urandom(max(_POOL_BYTES, size)), _forks, 0
        self._used = start + size
        return int.from_bytes(self._pool[start : start + size]) >> (8 * size - k)


class _Identifiers:
    """Identifiers of one process, in the layout of ULIDs: 48 bits of time, 80 random bits, base 32."""

    def __init__(self, source: _Bits) -> None:
        self._random = source
        self._last = 0

    def run_id(self, unix_ms: int) -> str:
        """Larger than every id before, also within a millisecond and if the wall clock goes back."""
        self._last = max(self._last + 1, (unix_ms << _RANDOM_BITS) | self._random.getrandbits(_RANDOM_BITS))
        value = self._last
        return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])

    def session_id(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def seed(self) -> int:
        return self._random.getrandbits(63)


class SystemClock:
    """The clocks of this machine and the random numbers of its kernel."""

    def __init__(self) -> None:
        self._ids = _Identifiers(_KernelBits())

    def now(self) -> Now:
        return Now(time.monotonic(), time.time_ns() // 1_000_000)

    def run_id(self) -> str:
        return self._ids.run_id(self.now().unix_ms)

    def session_id(self) -> str:
        return self._ids.session_id()

    def seed(self) -> int:
        return self._ids.seed()


class VirtualClock:
    """Time that moves only when told to, and identifiers that follow from a seed.

    Args:
        seed: Same seed, same identifiers.
        unix_ms: The wall clock at the start; monotonic time starts at 0.
    """

    def __init__(self, seed: int = 0, unix_ms: int = _VIRTUAL_START_MS) -> None:
        self._ids = _Identifiers(random.Random(seed))
        self._start_ms = unix_ms
        self._mono = 0.0

    def now(self) -> Now:
        return Now(self._mono, self._start_ms + round(self._mono * 1000))

    def advance(self, seconds: float) -> Now:
        """Move time on by `seconds`, at least 0; returns the new present. Raises ValueError."""
        if not seconds >= 0:
            raise ValueError(f"time does not go back: {seconds}")
        self._mono += seconds
        return self.now()

    def run_id(self) -> str:
        return self._ids.run_id(self.now().unix_ms)

    def session_id(self) -> str:
        return self._ids.session_id()

    def seed(self) -> int:
        return self._ids.seed()
