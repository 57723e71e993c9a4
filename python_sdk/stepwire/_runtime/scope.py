"""Where in a flow code runs: context variables that survive tasks, and threads that Stepwire starts.

They answer three questions for every durable call: is this a flow at all, which scope counts its
occurrences, and is it made inside a step (MISSION P13).
"""

from __future__ import annotations

import random
from contextvars import ContextVar
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from stepwire.protocol.paths import Occurrences

if TYPE_CHECKING:
    from stepwire._runtime.body import LiveBody
    from stepwire._runtime.group import GroupRun


class Scope(Occurrences):
    """The root of a body or one branch of a group.

    Attributes:
        line: The task or thread that is the branch's own line of control; None while a branch is one
            bare step.
    """

    __slots__ = ("_random", "body", "depth", "group", "index", "line")

    def __init__(self, body: LiveBody, path: str, group: GroupRun | None, index: int, depth: int) -> None:
        super().__init__(path)
        self.body = body
        self.group = group
        self.index = index
        self.depth = depth
        self.line: Any = None
        self._random: DeterministicRandom | None = None

    @property
    def random(self) -> DeterministicRandom:
        """Numbers that are the same when this scope is replayed."""
        if self._random is None:
            self._random = DeterministicRandom(self.body.seed, self.path)
        return self._random


class AttemptInfo:
    """The attempt that the current code belongs to."""

    __slots__ = ("attempt", "cancelled", "path", "run_id")

    def __init__(self, run_id: str, path: str, attempt: int) -> None:
        self.run_id = run_id
        self.path = path
        self.attempt = attempt
        self.cancelled = False

    @property
    def idempotency_key(self) -> str:
        """Equal for every attempt of this step, different for every other step."""
        return sha256(f"{self.run_id}/{self.path}".encode()).hexdigest()


SCOPE: ContextVar[Scope | None] = ContextVar("stepwire_scope", default=None)
ATTEMPT: ContextVar[AttemptInfo | None] = ContextVar("stepwire_attempt", default=None)


class DeterministicRandom(random.Random):
    """SplitMix64, seeded by run and path (`proto/README.md`, "Determinism"): easy to write in every language."""

    def __init__(self, seed: int, path: str) -> None:
        digest = sha256(f"{seed}/{path}".encode()).digest()
        self._state = int.from_bytes(digest[:8], "big")
        super().__init__(0)

    def _next(self) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        return z ^ (z >> 31)

    def random(self) -> float:
        """A number in [0, 1) with 53 bits."""
        return (self._next() >> 11) * 2.0**-53

    def getrandbits(self, k: int, /) -> int:
        """`k` bits, from as many 64-bit values as needed, the first one highest."""
        words = (k + 63) // 64
        value = 0
        for _ in range(words):
            value = value << 64 | self._next()
        return value >> (words * 64 - k)

    def seed(self, *args: Any, **kwargs: Any) -> None:
        """The seed is fixed by run and path."""
