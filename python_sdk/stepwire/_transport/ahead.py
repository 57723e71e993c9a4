"""Registered steps that a host was given ahead of a free slot (docs/adr/0025): none of them was begun."""

from __future__ import annotations

import math

import msgspec

from stepwire.protocol.frames import AttemptInProgress, Cancel, Execute
from stepwire.protocol.limits import AHEAD_SECONDS
from stepwire.protocol.plan import StepKind

_Key = tuple[str, str]


class _Waiting(msgspec.Struct, eq=False, gc=False):
    execute: Execute
    until: float


class Ahead:
    """First come, first served; whoever has waited too long goes back to the engine.

    Attributes:
        waiting: What waits. Always the same dict.
    """

    def __init__(self) -> None:
        self.waiting: dict[_Key, _Waiting] = {}

    @property
    def until(self) -> float | None:
        """When the first of them has waited too long; None: nothing waits."""
        return next(iter(self.waiting.values())).until if self.waiting else None

    @property
    def first(self) -> tuple[str, Execute]:
        """Whoever has waited longest. Raises StopIteration if nobody waits."""
        (run_id, _), waiting = next(iter(self.waiting.items()))
        return run_id, waiting.execute

    def add(self, run_id: str, execute: Execute, now: float) -> bool:
        """Let it wait. False: it is no registered step."""
        if execute.kind is not StepKind.TASK:
            return False
        self.waiting[run_id, execute.path] = _Waiting(execute, now + AHEAD_SECONDS)
        return True

    def renew(self, key: _Key, execute: Execute) -> bool:
        """A newer right replaces that of what waits already. False: it does not wait."""
        waiting = self.waiting.get(key)
        if waiting is None:
            return False
        if execute.fence > waiting.execute.fence:
            waiting.execute = execute
        return True

    def take(self, slots: int) -> list[tuple[str, Execute]]:
        """So many of them get a slot."""
        return [self._pop(key) for key in list(self.waiting)[: max(0, slots)]]

    def take_late(self, now: float = math.inf) -> list[tuple[str, Execute]]:
        """Those that have waited too long by then."""
        return [self._pop(key) for key in [key for key, waiting in self.waiting.items() if waiting.until <= now]]

    def take_cancelled(self, run_id: str, cancel: Cancel) -> list[tuple[str, Execute]]:
        """Those that nobody wants any more."""
        if not cancel.path:
            return [self._pop(key) for key in [key for key in self.waiting if key[0] == run_id]]
        waiting = self.waiting.get((run_id, cancel.path))
        return [self._pop((run_id, cancel.path))] if waiting and waiting.execute.fence <= cancel.fence else []

    def _pop(self, key: _Key) -> tuple[str, Execute]:
        return key[0], self.waiting.pop(key).execute

    def held(self) -> tuple[AttemptInProgress, ...]:
        """As a Report lists them."""
        held = [(run_id, waiting.execute) for (run_id, _), waiting in self.waiting.items()]
        return tuple([AttemptInProgress(run_id, given.path, given.attempt, given.fence, 0.0) for run_id, given in held])

    def clear(self) -> None:
        """The stream ended: the engine gives them out again."""
        self.waiting.clear()
