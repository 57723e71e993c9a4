"""A group of branches in a live body: starting them, and applying the verdict the engine will compute too.

Async branches are tasks in their own context; a branch that is one bare step needs none. Sync branches are
threads. Either way a branch is entered once while its body lives (DESIGN 6).

Branches that are in user code at the same time may end in another order when they are replayed. The order is a
fact of the journal: an end is applied when everything is made again that the journal has before it, and one that the
journal does not have waits until the body has caught up. So a race that was won is never lost in replay.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from stepwire._replay.journal import Kind
from stepwire._runtime.durable import DurableFuture, GroupFuture
from stepwire._runtime.report import branch_result
from stepwire._runtime.scope import PLACE, Scope
from stepwire._runtime.tally import Tally
from stepwire.errors import (
    BodyEvicted,
    FlowStopped,
    GroupFailed,
    LimitExceeded,
    StepError,
    error_from_failure,
    failure_from_exception,
)
from stepwire.protocol import paths
from stepwire.protocol.failure import Failure
from stepwire.protocol.frames import StepOutcome
from stepwire.protocol.plan import BranchEnded, BranchOutcome, GroupEnded, GroupOpened, Verdict
from stepwire.results import BranchResult, GroupResult

if TYPE_CHECKING:
    from stepwire._runtime.body import LiveBody

logger = logging.getLogger("stepwire.host")

Branch = Callable[[], Any]
_BRANCH_ENDED, _OK = Kind.BRANCH_ENDED, BranchOutcome.OK


class Shape(enum.Enum):
    """What the await of a group that succeeded gives."""

    VALUES = enum.auto()
    """What its branches returned, as a tuple; for groups in which every branch succeeds."""
    RESULTS = enum.auto()
    WINNER = enum.auto()


class GroupRequest:
    """A group as user code asks for it.

    Args:
        branches: Callables without arguments.
        policy: The GroupOpened to be, still without a path.
        shape: What its await gives.
        bare: Every branch plans one step and returns its future: it needs no thread in a sync flow.
    """

    __slots__ = ("bare", "branches", "policy", "shape")

    def __init__(self, branches: Sequence[Branch], policy: GroupOpened, shape: Shape, *, bare: bool = False) -> None:
        self.branches = branches
        self.policy = policy
        self.shape = shape
        self.bare = bare

    def check_limits(self, body: LiveBody, scope: Scope, name: str) -> None:
        """Raises LimitExceeded if the group is too wide or too deep, or there are not enough threads for it."""
        limits = body.host.limits
        count = len(self.branches)
        if count > limits.branches_per_group_max:
            raise LimitExceeded(f"group {name!r} has {count} branches, limit {limits.branches_per_group_max}")
        if scope.depth + 1 > limits.group_depth_max:
            raise LimitExceeded(f"group {name!r} is nested {scope.depth + 1} deep, limit {limits.group_depth_max}")
        if not self.on_loop(body) and not body.threads.has_room(count):
            raise LimitExceeded(
                f"group {name!r} needs {count} threads, {body.threads.busy} of {body.threads.bound} are in "
                "use; make the flow async, or raise Host(branch_threads=)"
            )

    def on_loop(self, body: LiveBody) -> bool:
        """Whether its branches are called on the loop and not on threads."""
        return self.bare or body.flow.is_async

    def opened(self, path: str, concurrent: bool) -> GroupOpened:
        """The decision to open it at `path`."""
        return msgspec.structs.replace(self.policy, path=path, concurrent=concurrent)


class GroupRun:
    """One open group of a live body.

    Attributes:
        scopes: Of the branches that were started, by index.
        outcomes: Of the branches that ended, by index; None: it has not.
        results: What a branch returned or raised, by index.
        over: It ended, or the branch around it did.
    """

    def __init__(self, body: LiveBody, scope: Scope, opened: GroupOpened, request: GroupRequest) -> None:
        count = len(request.branches)
        self.body = body
        self.opened = opened
        self.request = request
        self.scopes: list[Scope] = []
        self.outcomes: list[BranchOutcome | None] = [None] * count
        self.results: list[Any] = [None] * count
        self.over = False
        self.future = self._future(scope)
        self._tally = Tally(opened)
        self._failures: dict[int, Failure] = {}
        self._lines: list[asyncio.Future[Any]] = []
        self._codes: list[tuple[Scope, Coroutine[Any, Any, Any], Context]] = []
        self._held: dict[int, tuple[BranchOutcome, Any]] = {}
        # A group that is opened after the body has caught up is in no journal.
        self._replayed = body.journal.replaying
        body.groups[opened.path] = self
        if scope.groups is None:
            scope.groups = {}
        scope.groups[opened.path] = self

    def _future(self, scope: Scope) -> GroupFuture:
        future = GroupFuture(loop=self.body.loop)
        future.path = self.opened.path
        future.scope = scope
        future.awaited = False
        future.blocks = future.branch = None
        future.made_after = self.body.journal.delivered
        future.group = self
        return future

    def start(self) -> GroupFuture:
        """Start every branch, in order. Branch i + 1 does not wait for code of branch i outside steps (MISSION 1.3)."""
        outside = self.future.scope
        depth = outside.depth + 1
        limited = outside.limited or self.opened.limit > 0
        on_loop = self.request.on_loop(self.body)
        body, scopes, lines, enter = self.body, self.scopes, self._lines, PLACE.set
        inside = paths.branch_paths(self.opened.path, self.opened.branches)
        try:
            for index, branch in enumerate(self.request.branches):
                if self.over:
                    break  # Those before have decided it already.
                scope = Scope(inside[index], body=body, group=self, index=index, depth=depth, limited=limited)
                scopes.append(scope)
                context = copy_context()
                context.run(enter, scope)
                if not on_loop:
                    self._start_thread(branch, scope, context)
                    continue
                try:
                    made = context.run(branch)
                except (Exception, asyncio.CancelledError) as exc:
                    self.line_ended(scope, None, exc)
                    continue
                if isinstance(made, DurableFuture) and made.scope is scope and not made.done():
                    # The branch is one bare step or group: it ends when that does, and runs no code until then.
                    made.awaited = True
                    made.branch = scope
                    lines.append(made)
                else:
                    self._on_loop(made, scope, context)
        finally:  # Also when a branch ended the run, or the process.
            if self._codes:
                self._begin()
        if not self.request.branches:
            self._settle()
        return self.future

    # ---- branches on the loop

    def _on_loop(self, made: Any, scope: Scope, context: Context) -> None:
        """A branch that is no bare step."""
        if inspect.isawaitable(made):
            self._run_line(scope)
            # Not wrapped if it need not be: a wrapper that is cancelled before it began would never await it.
            self._codes.append((scope, made if inspect.iscoroutine(made) else _drive(made), context))
        else:
            self.line_ended(scope, made, None)

    def _begin(self) -> None:
        """Let the code of branches begin, each up to its first wait, before the call that opens the group returns."""
        codes, self._codes = self._codes, []
        going = []
        for scope, code, context in codes:
            if scope.ended or self.body.closed:
                code.close()  # Others have decided the group already, or the run.
                scope.leave()
            else:
                going.append((scope, code, context))

        def keep(tasks: list[asyncio.Task[Any]]) -> None:
            for (scope, _, _), task in zip(going, tasks, strict=True):
                scope.line = task
                self._lines.append(task)
                task.add_done_callback(partial(self._line_done, scope))

        self.body.host.tasks.start([(code, context, scope.path) for scope, code, context in going], keep)

    def _run_line(self, scope: Scope) -> None:
        scope.running = True
        self.body.lines_running += 1

    def _line_done(self, scope: Scope, done: asyncio.Future[Any]) -> None:
        if done.cancelled():
            self.line_ended(scope, None, asyncio.CancelledError())
        elif (error := done.exception()) is not None:
            self.line_ended(scope, None, error)
        else:
            self.line_ended(scope, done.result(), None)

    # ---- branches on threads

    def _start_thread(self, branch: Branch, scope: Scope, context: Context) -> None:
        body = self.body
        self._run_line(scope)

        def work() -> Callable[[], None]:
            value: Any = None
            error: BaseException | None = None
            try:
                value = context.run(branch)
            except BaseException as exc:
                error = exc

            def tell() -> None:
                if not body.over:  # Nobody asks any more, and the loop may be gone.
                    body.post(lambda: self.line_ended(scope, value, error))

            return tell

        body.threads.start(body, work)

    # ---- ends of branches

    def step_ended(self, scope: Scope, value: Any) -> None:
        """The one step that a branch is has succeeded."""
        body = self.body
        if scope.running or self.over or self._replayed or body.over:
            self.line_ended(scope, value, None)
            return
        # As _apply does it.
        index, path = scope.index, scope.path
        scope.ended = True
        self.outcomes[index] = _OK
        self.results[index] = value
        if body.decide(_BRANCH_ENDED, path, BranchEnded(path, _OK)) and self._tally.add(index, _OK):
            self._settle()

    def line_ended(self, scope: Scope, value: Any, error: BaseException | None) -> None:
        """A branch's line of control, or the one step that it is, came to its end."""
        body = self.body
        if scope.running:
            scope.leave()
        if body.over and not body.ended:
            return
        if error is None and not (self.over or self._replayed):
            self._apply(scope, BranchOutcome.OK, value)
            return
        if self.over:
            if isinstance(error, Exception):
                where = f"branch {scope.path!r} of run {body.run_id}"
                logger.warning("%s raised while it was being cancelled", where, exc_info=error)
            return
        outcome = BranchOutcome.OK
        match error:
            case None:
                pass
            case BodyEvicted() | FlowStopped():
                return
            case asyncio.CancelledError():
                outcome, value = BranchOutcome.CANCELLED, None
            case _:
                outcome, value = BranchOutcome.FAILED, error
        if self._replayed:
            self._held[scope.index] = outcome, value
            self.go_on()
        else:
            self._apply(scope, outcome, value)

    def go_on(self) -> bool:
        """Apply the ends that replay held back, as far as their time has come. False: that of none has."""
        applied = False
        while self._held and not self.over and not self.body.over:
            index = self._next_end()
            if index is None or index not in self._held:
                self.body.holding[self] = None
                return applied
            self._apply(self.scopes[index], *self._held.pop(index))
            applied = True
        self.body.holding.pop(self, None)
        return applied

    def _next_end(self) -> int | None:
        journal = self.body.journal
        return next(iter(self._held)) if journal.caught_up else journal.end_due(self.opened.path)

    def _apply(self, scope: Scope, outcome: BranchOutcome, value: Any) -> None:
        index = scope.index
        scope.ended = True
        self.outcomes[index] = outcome
        self.results[index] = value
        failure = None
        if outcome is BranchOutcome.FAILED:
            failure = self._failures[index] = failure_from_exception(value)
        if self._replayed:
            self.body.journal.end_made(self.opened.path, index)
        path = scope.path
        if self.body.decide(Kind.BRANCH_ENDED, path, BranchEnded(path, outcome, failure)) and self._tally.add(
            index, outcome
        ):
            self._settle()

    # ---- the end of the group

    def expire(self, outcome: StepOutcome) -> None:
        """Its deadline has passed: what has not ended by now is cancelled."""
        assert outcome.failure is not None
        self._settle(error_from_failure(outcome.failure, self.opened.path))

    def _settle(self, timeout: StepError | None = None) -> None:
        ended = self._tally.verdict(expired=timeout is not None)
        if ended is None or self.over or not self.body.decide(Kind.GROUP_ENDED, self.opened.path, ended):
            return
        self._close()
        if ended.losers:
            # A race may be decided before all its branches were started.
            losers = [self.scopes[index] for index in ended.losers if index < len(self.scopes)]
            for scope in losers:
                scope.stop()
            self._resolve(ended, timeout)
            # Last, because what is told of the losers leaves out what they decided and nobody was told.
            self.body.journal.stop([scope.path for scope in losers])
        else:
            self._resolve(ended, timeout)

    def _close(self) -> None:
        self.over = True
        self.body.groups.pop(self.opened.path, None)
        self.body.holding.pop(self, None)
        outside = self.future.scope.groups
        assert outside is not None
        outside.pop(self.opened.path, None)

    def _resolve(self, ended: GroupEnded, timeout: StepError | None) -> None:
        if self.future.done():
            pass  # User code gave up on it.
        elif ended.verdict is Verdict.OK:
            self.future.resolve(self._value())
        else:
            self.future.fail(self._failed(timeout))
        self._forget()

    def _forget(self) -> None:
        """The group, its branches and their steps know each other; without this they would wait for the collector."""
        for scope in self.scopes:
            scope.noted = scope.line = None
        self.future.group = None
        self.scopes = []
        self.results = []
        self.request.branches = ()
        self._lines.clear()
        self._held.clear()

    def _value(self) -> tuple[Any, ...] | GroupResult[Any] | BranchResult[Any]:
        match self.request.shape:
            case Shape.VALUES:
                return tuple(self.results)
            case Shape.RESULTS:
                return self._report()
            case Shape.WINNER:
                assert self._tally.winner is not None
                return branch_result(self, self._tally.winner)

    def _report(self) -> GroupResult[Any]:
        return GroupResult([branch_result(self, index) for index in range(self.opened.branches)])

    def _failed(self, timeout: StepError | None) -> GroupFailed:
        failed = sorted(self._failures)
        error = GroupFailed(
            path=self.opened.path,
            results=self._report(),
            failures=[self._failures[index] for index in failed],
            timeout=timeout.failure if timeout is not None else None,
        )
        error.__cause__ = timeout or (self.results[failed[0]] if failed else None)
        return error

    # ---- from outside

    def withdraw(self) -> None:
        """The branch around it was ended from outside, and so are its own branches."""
        self._close()
        for scope in self.scopes:
            scope.stop()
        self.future.withdraw()
        self._forget()

    def let_go(self) -> None:
        """Its body has no right to anything any more, and its lines were stopped."""
        self._close()
        self._forget()

    def cancel_lines(self) -> None:
        """User code gave up on the group, or the body stops: the code of branches on the loop is cancelled.

        In a body that goes on they end as cancelled, which are decisions.
        """
        for line in list(self._lines):
            line.cancel()


async def _drive(awaitable: Any) -> Any:
    return await awaitable
