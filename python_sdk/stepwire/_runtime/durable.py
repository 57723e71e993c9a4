"""What flow code awaits: futures of steps and groups that know whether they were awaited and by which line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepwire._runtime.attempt import StepCall
    from stepwire._runtime.group import GroupRun
    from stepwire._runtime.request import Decode
    from stepwire._runtime.scope import Scope
    from stepwire.protocol.payload import Payload
    from stepwire.protocol.plan import StepPlanned


class DurableFuture(asyncio.Future[Any]):
    """The outcome of a step or group, resolved by a release.

    Whoever makes one sets its attributes: one call less for every step.

    Attributes:
        path: Of the step or group.
        scope: Where it was made.
        awaited: Somebody waits, or waited, for it.
        blocks: The line of control that waits for it directly, so that nothing else of it can run.
        branch: The branch that is nothing but this: it ends with it. Nobody else need await it.
        made_after: Number of the last release that user code had been given when it made this.
    """

    __slots__ = ("awaited", "blocks", "branch", "made_after", "path", "scope")

    path: str
    scope: Scope
    awaited: bool
    blocks: Scope | None
    branch: Scope | None
    made_after: int

    def __await__(self) -> Generator[Any, None, Any]:
        if not self.awaited:
            self.mark_awaited()
        scope = self.scope
        if not self.done() and asyncio.current_task(scope.body.loop) is scope.line:
            scope.body.block(self)
        try:
            return (yield from super().__await__())
        finally:
            del self, scope  # An error that this raises knows its frames, and this knows the error.

    __iter__ = __await__

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Any = None) -> None:
        if not self.awaited:
            self.mark_awaited()
        super().add_done_callback(fn, context=context)

    def mark_awaited(self) -> None:
        """Somebody waits for it."""
        if not self.awaited:
            self.awaited = True
            if self.done():
                self.scope.body.unawaited.discard(self)

    def cancel(self, msg: Any | None = None) -> bool:
        if not super().cancel(msg):
            return False
        self.mark_awaited()  # To give it up is no way of forgetting it.
        body = self.scope.body
        body.unblock(self)
        self._given_up()
        if self.branch is not None:
            branch, self.branch = self.branch, None
            branch.end_soon()
        return True

    def _given_up(self) -> None:
        """User code gave up on it, and that is a decision."""
        raise NotImplementedError

    def withdraw(self) -> None:
        """Its branch was ended from outside: whoever waits for it is cancelled, and that is no decision."""
        self.branch = None
        self.mark_awaited()
        self.silence()
        if super().cancel():
            self.scope.body.unblock(self)

    def resolve(self, value: Any) -> None:
        """Hand over a value, unless user code gave up on it."""
        if self.done():
            return
        if self.blocks is not None:
            self.scope.body.unblock(self)
        self.set_result(value)
        if not self.awaited:
            self.scope.body.unawaited.add(self)
        branch = self.branch
        if branch is not None:
            self.branch = None
            assert branch.group is not None
            branch.group.step_ended(branch, value)

    def fail(self, error: BaseException) -> None:
        """Hand over an error, unless user code gave up on it."""
        if self.done():
            return
        if isinstance(error, StopIteration):
            error = _carried(error)
        self.scope.body.unblock(self)
        self.set_exception(error)
        if not self.awaited:
            self.scope.body.unawaited.add(self)
        branch = self.branch
        if branch is not None:
            self.branch = None
            self.silence()
            branch.end(None, error)

    def silence(self) -> None:
        """Nobody will look at it any more, and that is no news."""
        self._log_traceback = False


class StepFuture(DurableFuture):
    """A planned step of a live body. It is open, and in `LiveBody.steps`, until its release.

    Attributes:
        name: As the flow named it.
        planned: The decision.
        call: What an attempt on this host calls; None: the engine performs the step.
        decode: Reads an output that the engine produced; None: `call` knows how.
        context: Of the call that planned it: its first attempt runs in it, every other one in a copy.
        attempts, took_ms: As its release says; set by that.
    """

    __slots__ = ("attempts", "call", "context", "decode", "name", "planned", "took_ms")

    name: str
    planned: StepPlanned
    call: StepCall | None
    decode: Decode | None
    context: Context | None
    attempts: int
    took_ms: int

    def _given_up(self) -> None:
        self.scope.body.abandon(self.path)

    def decoded(self, output: Payload) -> Any:
        """What user code gets. Raises StepError if it does not fit, or what a codec of the user's own raises."""
        call = self.call
        if call is not None:
            return call.codec.decode(output, call.returns)
        assert self.decode is not None
        return self.decode(output)

    def close(self) -> None:
        """It is open no more. Its context knows its branch, which knows it: nobody should have to collect that."""
        self.call = self.context = self.decode = None


class GroupFuture(DurableFuture):
    """The outcome of a group.

    Attributes:
        group: Whose outcome it is; None: it has its outcome.
    """

    __slots__ = ("group",)

    group: GroupRun | None

    def _given_up(self) -> None:
        if self.group is not None:
            self.group.cancel_lines()


def _carried(stop: StopIteration) -> RuntimeError:
    """Futures take no StopIteration, nor does a coroutine let one out; a codec or validator may raise it."""
    error = RuntimeError("StopIteration was raised where an output is decoded")
    error.__cause__ = stop
    return error
