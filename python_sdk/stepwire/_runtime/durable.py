"""What flow code awaits: futures of steps and groups that know whether they were awaited and by which line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepwire._runtime.body import LiveBody
    from stepwire._runtime.group import GroupRun
    from stepwire._runtime.scope import Scope


class DurableFuture(asyncio.Future[Any]):
    """The outcome of a step or group, resolved by a release.

    Attributes:
        path: Of the step or group.
        scope: Where it was made.
        awaited: Somebody waits, or waited, for it.
        blocks: The line of control that waits for it directly, so that nothing else of it can run.
        group: Whose outcome it is; None: a step's.
        made_after: Number of the last release that user code had been given when it made this.
        attempts, took_ms: Of the step, as its release says.
    """

    __slots__ = ("attempts", "awaited", "blocks", "group", "made_after", "path", "scope", "took_ms")

    def __init__(self, body: LiveBody, path: str, scope: Scope, group: GroupRun | None = None) -> None:
        super().__init__(loop=body.loop)
        self.path = path
        self.scope = scope
        self.awaited = False
        self.blocks: Scope | None = None
        self.group = group
        self.made_after = body.journal.delivered
        self.attempts = 0
        self.took_ms = 0
        if group is None and scope.group is not None:
            scope.note(self)

    def __await__(self) -> Generator[Any, None, Any]:
        self.mark_awaited()
        if not self.done() and asyncio.current_task() is self.scope.line:
            self.scope.body.block(self)
        return (yield from super().__await__())

    __iter__ = __await__

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Any = None) -> None:
        self.mark_awaited()
        super().add_done_callback(fn, context=context)

    def mark_awaited(self) -> None:
        """Somebody waits for it."""
        if not self.awaited:
            self.awaited = True
            self.scope.body.unawaited.discard(self)

    def cancel(self, msg: Any | None = None) -> bool:
        if not super().cancel(msg):
            return False
        self.mark_awaited()  # To give it up is no way of forgetting it.
        self.scope.body.unblock(self)
        if self.group is None:
            self.scope.body.abandon(self.path)
        else:
            self.group.cancel_lines()
        return True

    def withdraw(self) -> None:
        """Its branch was ended from outside: whoever waits for it is cancelled, and that is no decision."""
        self.mark_awaited()
        self.silence()
        if super().cancel():
            self.scope.body.unblock(self)

    def resolve(self, value: Any) -> None:
        """Hand over a value, unless user code gave up on it."""
        if not self.done():
            self.scope.body.unblock(self)
            self.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Hand over an error, unless user code gave up on it."""
        if not self.done():
            self.scope.body.unblock(self)
            self.set_exception(error)

    def silence(self) -> None:
        """Nobody will look at it any more, and that is no news."""
        self._log_traceback = False
