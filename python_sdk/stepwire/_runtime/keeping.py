"""Which live bodies a host keeps in memory, and which it gives back to the engine.

A body that was given back is entered again, somewhere, when its run goes on: that costs a replay and decides nothing
(DESIGN 6). This module chooses; it touches neither bodies nor the session. What it does per body and wave is a sum.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

BODY_BYTES = 16 * 1024
"""What a body counts at least: its task, its futures and its journal."""
THREAD_BYTES = 32 * 1024
"""What the thread of a plain flow counts as well: the used part of its stack."""
_SPARE = 10
"""At its bound a host makes room for a tenth, so that it need not choose again for every body."""


_PAUSE_MIN = 0.01
"""Seconds between two looks of which the first found nothing to give back, at least."""


class Held(Protocol):
    """What is known of a live body.

    Attributes:
        size: Bytes that it counts.
        counted: Those that the host's total has of it.
        active: When it last received or decided something, on the loop's clock.
        ended, undoing: It is here only for its undos.
    """

    ended: bool
    undoing: bool
    size: int
    counted: int
    active: float

    @property
    def waits(self) -> bool:
        """It is in no user code, has said everything, and nothing is on its way to it."""


H = TypeVar("H", bound=Held)


class Keeping(Protocol):
    """A policy of one host.

    Attributes:
        replays: Every release, and every undo, is reached by replay: no body is there any more when it comes.
    """

    replays: bool

    @property
    def full(self) -> bool:
        """No body may be taken."""

    def moved(self, body: Held, now: float) -> None:
        """It received or decided something."""

    def left(self, body: Held) -> None:
        """It is no longer here."""

    def surplus(self, bodies: Iterable[H], now: float, busy: Callable[[H], bool]) -> list[H]:
        """Bodies to give back now. `busy` says that attempts of a body's closures are in progress."""

    def look_again(self) -> float | None:
        """After how many seconds to ask again, if nothing moves before; None: not at all."""


class BoundedBodies:
    """Keeps bodies up to a number and a size; beyond, those that waited longest are given back.

    Args:
        count: Most bodies; the engine sends no more. At that number, bodies that waited for `idle` are given back.
        size: Most bytes. Beyond, bodies that wait are given back, however short; if none does, no body is taken.
        idle: Seconds without anything received or decided. A body that will go on at once is not worth a replay.
    """

    replays = False

    def __init__(self, count: int, size: int, idle: float) -> None:
        self._count = count
        self._size = size
        self._idle = idle
        self._pause = max(idle / 4, _PAUSE_MIN)
        self._bodies = 0
        self._total = 0
        self._look_at = 0.0

    @property
    def total(self) -> int:
        """Bytes that all bodies count."""
        return self._total

    @property
    def full(self) -> bool:
        return self._total >= self._size and self._bodies > 0

    def moved(self, body: Held, now: float) -> None:
        body.active = now
        if not body.counted:
            self._bodies += 1
        self._total += body.size - body.counted
        body.counted = body.size

    def left(self, body: Held) -> None:
        if body.counted:
            self._bodies -= 1
            self._total -= body.counted
            body.counted = 0

    def surplus(self, bodies: Iterable[H], now: float, busy: Callable[[H], bool]) -> list[H]:
        crowded, heavy = self._bodies >= self._count, self._total >= self._size
        if not (crowded or heavy) or now < self._look_at:
            return []
        waiting = [(busy(body), body.active, index, body) for index, body in enumerate(bodies) if body.waits]
        count = self._count - max(1, self._count // _SPARE) if crowded else self._count
        size = self._size - self._size // _SPARE if heavy else self._size
        return self._choose(waiting, count, size, now)

    def _choose(self, waiting: list[tuple[bool, float, int, H]], count: int, size: int, now: float) -> list[H]:
        heapq.heapify(waiting)
        left, total = self._bodies, self._total
        chosen: list[H] = []
        while waiting and (left > count or total > size):
            _, active, _, body = heapq.heappop(waiting)
            if total <= size and now - active < self._idle:
                continue  # Only bytes are worth the replay of a body that may go on at any moment.
            chosen.append(body)
            left -= 1
            total -= body.counted
        self._look_at = now if chosen else now + self._pause
        return chosen

    def look_again(self) -> float | None:
        return self._pause if self._bodies >= self._count or self._total >= self._size else None


class NoBodies:
    """Keeps none: what `stepwire.testing` means by replay.

    Every release finds no live body, so each turn of a flow is made by replay; tests of replay need no crashes. Only
    one whose threads are in their code goes on: they would be cut off in the middle of a line, which takes a crash.
    """

    replays = True
    full = False

    def moved(self, body: Held, now: float) -> None:
        """Nothing is counted."""

    def left(self, body: Held) -> None:
        """Nothing is counted."""

    def surplus(self, bodies: Iterable[H], now: float, busy: Callable[[H], bool]) -> list[H]:
        return []

    def look_again(self) -> float | None:
        return None


class Leaving:
    """Of a host that drains: it takes none, and gives each back as soon as nothing of it runs here (MISSION P17)."""

    replays = False
    full = True

    def moved(self, body: Held, now: float) -> None:
        """Nothing is counted."""

    def left(self, body: Held) -> None:
        """Nothing is counted."""

    def surplus(self, bodies: Iterable[H], now: float, busy: Callable[[H], bool]) -> list[H]:
        return [body for body in bodies if (body.waits or body.ended or body.undoing) and not busy(body)]

    def look_again(self) -> float | None:
        return None


def bounded(count: int, size: int, idle: float) -> Keeping:
    """The policy of a host with these bounds; arguments as of `BoundedBodies`."""
    return BoundedBodies(count, size, idle)
