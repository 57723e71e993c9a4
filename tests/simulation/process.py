"""A process that can be stopped (SIGSTOP, or the GIL held) and goes on: what would have happened to it waits.

Nothing is lost by that: frames stand in the socket's buffers, timers fire late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.simulator import World

CALLS = "calls"
"""The host inside the engine, which executes calls; what it says is never on a wire."""

Action = Callable[[], None]


class Gate:
    """Lets actions through in order, unless it is shut; then they wait until it opens.

    Attributes:
        opened_at: When that was the last time.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._shut_until = 0.0
        self.opened_at = 0.0
        self._waiting: list[Action] = []

    @property
    def shut(self) -> bool:
        return self._world.now < self._shut_until

    def shut_for(self, seconds: float) -> None:
        """Nothing passes for so long, or longer if it was shut for longer."""
        until = self._world.now + seconds
        if until > self._shut_until:
            self._shut_until = until
            self._world.at(seconds, self._open)

    def _open(self) -> None:
        if self.shut:
            return
        self.opened_at = self._world.now
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            self._world.at(0.0, lambda action=action: self.act(action))

    def act(self, action: Action) -> None:
        """Do it now, or in its turn once the gate is open."""
        if self.shut or self._waiting:
            self._waiting.append(action)
        else:
            action()
