"""Where in a flow code runs: a context variable that survives tasks, and threads that Stepwire starts.

It answers three questions for every durable call: is this a flow at all, which scope counts its
occurrences, and is it made inside a step (MISSION P13).
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from stepwire.errors import ConfigurationError
from stepwire.protocol.paths import Occurrences

if TYPE_CHECKING:
    from stepwire._runtime.body import LiveBody
    from stepwire._runtime.durable import StepFuture
    from stepwire._runtime.group import GroupRun


class Scope(Occurrences, eq=False, kw_only=True):
    """The root of a body or one branch of a group. A Struct, because every branch is one.

    Attributes:
        line: The task or thread that is the branch's own line of control; None while a branch is one
            bare step.
        running: That line has not come to its end, and counts in `LiveBody.lines_running`.
        ended: The branch ended, by itself or from outside: nothing is decided here any more.
        limited: A group around it has a `limit`: the engine admits its steps, the host begins none by itself.
        groups: Groups opened here that have not ended, by path; None: there was none yet.
        noted: What `steps` gives. Most branches of a wide group have one step, so the first needs no list.
    """

    body: LiveBody
    group: GroupRun | None
    index: int
    depth: int
    limited: bool = False
    line: Any = None
    running: bool = False
    ended: bool = False
    groups: dict[str, GroupRun] | None = None
    noted: StepFuture | list[StepFuture] | None = None
    _random: DeterministicRandom | None = None

    def note(self, step: StepFuture) -> None:
        """A step was planned in this branch."""
        if self.noted is None:
            self.noted = step
        elif type(self.noted) is list:
            self.noted.append(step)
        else:
            self.noted = [self.noted, step]  # type: ignore[list-item]

    def end(self, value: Any, error: BaseException | None) -> None:
        """What the branch is made of came to its end."""
        assert self.group is not None
        self.group.line_ended(self, value, error)

    def leave(self) -> None:
        """Its line of control came to its end, if it has one."""
        if self.running:
            self.running = False
            self.body.line_left()

    def end_soon(self) -> None:
        """What the branch is made of was given up. It does not wait for a release any more, and ends as cancelled.

        Not now: whoever gives up on several branches has not come to the others yet.
        """
        self.running = True
        self.body.lines_running += 1
        self.body.loop.call_soon(self.end, None, asyncio.CancelledError())

    @property
    def steps(self) -> Sequence[StepFuture]:
        """Steps planned in this branch, in order; the root notes none."""
        match self.noted:
            case None:
                return ()
            case list() as steps:
                return steps
            case first:
                return (first,)

    def stop(self) -> None:
        """End the branch from outside (MISSION S12, S14): it lost, or its group's time is over.

        Whatever of it waits is cancelled, groups inside included, and none of that is a decision. Code that runs on
        a thread learns of it at its next call.
        """
        self.ended = True
        for step in self.steps:
            if self.body.steps.pop(step.path, None) is not None:
                step.close()
            if self.body.journal.is_unsaid(step.path):
                self.body.undos.pop(step.path, None)  # It never happened, so no body is kept for its undo.
            step.withdraw()
        if self.groups:
            for group in list(self.groups.values()):
                group.withdraw()
        self.leave()
        if self.line is not None:
            self.line.cancel()

    @property
    def random(self) -> DeterministicRandom:
        """Numbers that are the same when this scope is replayed."""
        if self._random is None:
            self._random = DeterministicRandom(self.body.seed, self.path)
        return self._random


class AttemptInfo(msgspec.Struct, eq=False):
    """The attempt that the current code belongs to.

    Attributes:
        run_id, path: The run, and the step in it.
        attempt: Number of this try, from 1.
        cancelled: It was told to stop: its timeout passed, or nobody needs its outcome any more.
    """

    run_id: str
    path: str
    attempt: int
    cancelled: bool = False
    _told_to_stop: threading.Event | None = None

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Block this thread until the attempt is told to stop (MISSION S20); for plain `def` steps.

        An async step needs no such thing: its task is cancelled.

        Args:
            timeout: Longest wait in seconds; None: no limit.

        Returns:
            Whether it was told to stop.

        Raises:
            ConfigurationError: called on an event loop, which it would block.
        """
        if _on_a_loop():
            raise ConfigurationError(
                f"wait_cancelled would block the event loop in step {self.path!r}",
                hint="an async step is cancelled where it awaits; use wait_cancelled in plain `def` steps",
            )
        with _MAKING_EVENT:
            told = self._told_to_stop = self._told_to_stop or threading.Event()
        return self.cancelled or told.wait(timeout)

    @property
    def idempotency_key(self) -> str:
        """Equal for every attempt of this step, different for every other step."""
        return sha256(f"{self.run_id}/{self.path}".encode()).hexdigest()


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_MAKING_EVENT = threading.Lock()
"""Threads of one step may ask at the same time."""

PLACE: ContextVar[Scope | AttemptInfo | None] = ContextVar("stepwire_place", default=None)
"""The scope of a flow, or the attempt at a step, that this code belongs to; None: it is code of neither."""


def scope_here() -> Scope | None:
    """The scope this code runs in; None: it is no code of a flow."""
    place = PLACE.get()
    return place if isinstance(place, Scope) else None


def attempt_here() -> AttemptInfo | None:
    """The attempt this code belongs to; None: it is no code of a step."""
    place = PLACE.get()
    return place if isinstance(place, AttemptInfo) else None


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
