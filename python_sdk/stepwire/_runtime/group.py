"""A group of branches in a live body: starting them, and applying the verdict the engine will compute too.

Async branches are tasks in their own context; a branch that is one bare step needs none. Sync branches are
threads. Either way a branch is entered once while its body lives (DESIGN 6).
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from stepwire._replay.journal import Kind
from stepwire._runtime.durable import DurableFuture
from stepwire._runtime.scope import SCOPE, Scope
from stepwire.errors import BodyEvicted, GroupFailed, failure_from_exception
from stepwire.protocol import paths
from stepwire.protocol.failure import Failure
from stepwire.protocol.plan import BranchEnded, BranchOutcome, GroupOpened, Verdict
from stepwire.protocol.verdict import group_verdict

if TYPE_CHECKING:
    from stepwire._runtime.body import LiveBody

Branch = Callable[[], Any]


class GroupRun:
    """One open group of a live body."""

    def __init__(self, body: LiveBody, scope: Scope, opened: GroupOpened, branches: Sequence[Branch]) -> None:
        self.body = body
        self.opened = opened
        self.branches = branches
        self.results: list[Any] = [None] * len(branches)
        self.future = DurableFuture(body, opened.path, scope, self)
        self._depth = scope.depth + 1
        self._failures: dict[int, Failure] = {}
        self._ended: list[tuple[int, BranchOutcome]] = []
        self._tasks: dict[int, asyncio.Future[Any]] = {}

    def start(self) -> DurableFuture:
        """Start every branch, in order. Branch i + 1 does not wait for code of branch i outside steps (MISSION 1.3)."""
        for index, branch in enumerate(self.branches):
            path = paths.branch_path(self.opened.path, index)
            scope = Scope(self.body, path, self, index, self._depth)
            context = copy_context()
            context.run(SCOPE.set, scope)
            if self.body.flow.is_async:
                self._start_async(index, branch, scope, context)
            else:
                self._start_thread(index, branch, scope, context)
        self._settle()
        return self.future

    # ---- async branches

    def _start_async(self, index: int, branch: Branch, scope: Scope, context: Context) -> None:
        try:
            made = context.run(branch)
        except Exception as exc:
            self._end(index, exc=exc)
            return
        if isinstance(made, DurableFuture) and made.scope is scope:
            # The branch is one bare step or group: its own future is the branch, and all it waits for.
            self._tasks[index] = made
            self.body.lines_running += 1
            if not made.done():
                self.body.block(made)
            made.add_done_callback(partial(self._line_done, index))
        elif inspect.isawaitable(made):
            self.body.lines_running += 1
            # Not wrapped if it need not be: a wrapper that is cancelled before it began would never await it.
            code = made if inspect.iscoroutine(made) else _drive(made)
            task = self.body.loop.create_task(code, context=context)
            scope.line = task
            self._tasks[index] = task
            task.add_done_callback(partial(self._line_done, index))
        else:
            self._end(index, value=made)

    def _line_done(self, index: int, task: asyncio.Future[Any]) -> None:
        self.body.lines_running -= 1
        self._branch_done(index, task)

    def _branch_done(self, index: int, done: asyncio.Future[Any]) -> None:
        if self.body.over:
            if not done.cancelled():
                done.exception()
            return
        if done.cancelled():
            self._end(index, cancelled=True)
            return
        exc = done.exception()
        if exc is not None:
            self._end(index, exc=exc)
        else:
            self._end(index, value=done.result())

    # ---- sync branches

    def _start_thread(self, index: int, branch: Branch, scope: Scope, context: Context) -> None:
        body = self.body
        body.lines_running += 1

        def work() -> None:
            value: Any = None
            error: BaseException | None = None
            try:
                value = context.run(branch)
            except BaseException as exc:
                error = exc
            body.post(lambda: self._thread_done(index, value, error))

        body.threads.start(work)

    def _thread_done(self, index: int, value: Any, error: BaseException | None) -> None:
        self.body.lines_running -= 1
        if self.body.over:
            return
        if error is not None:
            self._end(index, exc=error)
        else:
            self._end(index, value=value)

    # ---- the end

    def _end(self, index: int, *, value: Any = None, exc: BaseException | None = None, cancelled: bool = False) -> None:
        if isinstance(exc, BodyEvicted):
            return
        path = paths.branch_path(self.opened.path, index)
        failure = None
        if exc is not None:
            outcome = BranchOutcome.FAILED
            failure = failure_from_exception(exc)
            self._failures[index] = failure
            self.results[index] = exc
        elif cancelled:
            outcome = BranchOutcome.CANCELLED
        else:
            outcome = BranchOutcome.OK
            self.results[index] = value
        self._ended.append((index, outcome))
        if self.body.decide(Kind.BRANCH_ENDED, path, BranchEnded(path, outcome, failure)):
            self._settle()

    def _settle(self) -> None:
        if len(self._ended) < len(self.branches) and not self.opened.cancel_siblings:
            return  # It settles first; asking for each branch would cost the square of the width.
        verdict = group_verdict(self.opened, self._ended)
        if verdict is None or self.body.over or not self.body.decide(Kind.GROUP_ENDED, self.opened.path, verdict):
            return
        if verdict.verdict is Verdict.OK:
            self.future.resolve(tuple(self.results))
            return
        failures = [self._failures[i] for i in sorted(self._failures)]
        error = GroupFailed(path=self.opened.path, results=self.results, failures=failures)
        first = next((r for r in self.results if isinstance(r, BaseException)), None)
        error.__cause__ = first
        self.future.fail(error)

    def cancelled(self) -> None:
        """User code gave up on the group: its branches are cancelled and end as such."""
        self.stop()

    def stop(self) -> None:
        """Cancel the code of async branches."""
        for task in self._tasks.values():
            task.cancel()


async def _drive(awaitable: Any) -> Any:
    return await awaitable
