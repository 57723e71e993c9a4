"""What a flow sees: `ctx.step`, `ctx.group`, and time, chance and identity that survive replay (MISSION I1-I5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stepwire._context.base import BaseContext
from stepwire._context.groups import Group
from stepwire._context.groups_sync import GroupSync
from stepwire._context.steps import Step, StepSync
from stepwire._context.waiter import Waiter
from stepwire._runtime.scope import AttemptInfo, attempt_here
from stepwire.protocol.plan import ParallelMode

if TYPE_CHECKING:
    from stepwire._runtime.body import LiveBody
    from stepwire._runtime.durable import DurableFuture


class Context(BaseContext):
    """The first argument of an async flow.

    Attributes:
        step: Durable steps.
        group: Concurrent branches.
    """

    def __init__(self, body: LiveBody, parallel_mode: ParallelMode) -> None:
        super().__init__(body, parallel_mode)
        calls = self._alone()
        self.step = Step(calls)
        self.group = Group(calls)

    def _on_loop(self, action: Callable[[], None]) -> None:
        action()


class ContextSync(BaseContext):
    """The first argument of a plain `def` flow (MISSION I4): the methods of Context, blocking its thread.

    Attributes:
        step: Durable steps.
        group: Concurrent branches.
    """

    def __init__(self, body: LiveBody, parallel_mode: ParallelMode) -> None:
        super().__init__(body, parallel_mode)
        calls = self._alone()
        self.step = StepSync(calls)
        self.group = GroupSync(calls)

    def _wait(self, make: Callable[[], DurableFuture]) -> Any:
        """Make a decision on the loop and block this thread until it is resolved."""
        waiter = Waiter()
        body = self._body

        def begin() -> None:
            try:
                future = make()
            except BaseException as exc:
                waiter.give(None, exc)
                return
            body.wait_for(future, waiter.resolved)

        body.post_decision(begin)
        return waiter.wait()

    def _on_loop(self, action: Callable[[], None]) -> None:
        waiter = Waiter()

        def begin() -> None:
            try:
                action()
            except BaseException as exc:
                waiter.give(None, exc)
            else:
                waiter.give(None, None)

        self._body.post_decision(begin)
        waiter.wait()


def context_of(body: LiveBody, parallel_mode: ParallelMode) -> Context | ContextSync:
    """The first argument of the body's flow."""
    return Context(body, parallel_mode) if body.flow.is_async else ContextSync(body, parallel_mode)


def current_attempt() -> AttemptInfo | None:
    """The attempt this code belongs to, with its number, `idempotency_key` and `cancelled` flag; None outside steps."""
    return attempt_here()
