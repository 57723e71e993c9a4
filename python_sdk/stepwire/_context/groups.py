"""`ctx.group` of async flows: concurrent branches (MISSION S2, S6, S10, S12-S15).

The docstrings hold for sync flows as well, whose `ctx.group` is in `groups_sync`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, overload

from stepwire._context import branches as requests
from stepwire._context.branches import FailName, Policy
from stepwire._runtime.group import GroupRequest
from stepwire.compensation import Compensate
from stepwire.protocol.plan import ParallelMode
from stepwire.redaction import Redact
from stepwire.results import BranchResult, GroupResult
from stepwire.retry import Duration, Retry

if TYPE_CHECKING:
    from stepwire.context import Context

T = TypeVar("T")
A = TypeVar("A")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")


class GroupOptions(TypedDict, total=False):
    """Options of `parallel` that do not change the type of its result."""

    name: str
    parallel_mode: ParallelMode | None
    cancel_siblings: bool
    limit: int | None
    deadline: Duration | None


class MapOptions(GroupOptions, total=False):
    """Options of `map` that do not change the type of its result."""

    retries: int | Retry | None
    timeout: Duration | None
    compensate: Compensate | None
    redact: Redact


class AnyOptions(GroupOptions, total=False):
    """For groups in which every branch must succeed."""

    fail: Literal["any"]
    quorum: None


class MapAnyOptions(MapOptions, total=False):
    """As AnyOptions, for `map`."""

    fail: Literal["any"]


class Group:
    """`ctx.group` of an async flow."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    @overload
    def parallel(
        self, branches: tuple[Callable[[], Awaitable[T1]]], **options: Unpack[AnyOptions]
    ) -> asyncio.Future[tuple[T1]]: ...

    @overload
    def parallel(
        self, branches: tuple[Callable[[], Awaitable[T1]], Callable[[], Awaitable[T2]]], **options: Unpack[AnyOptions]
    ) -> asyncio.Future[tuple[T1, T2]]: ...

    @overload
    def parallel(
        self,
        branches: tuple[Callable[[], Awaitable[T1]], Callable[[], Awaitable[T2]], Callable[[], Awaitable[T3]]],
        **options: Unpack[AnyOptions],
    ) -> asyncio.Future[tuple[T1, T2, T3]]: ...

    @overload
    def parallel(
        self,
        branches: tuple[
            Callable[[], Awaitable[T1]],
            Callable[[], Awaitable[T2]],
            Callable[[], Awaitable[T3]],
            Callable[[], Awaitable[T4]],
        ],
        **options: Unpack[AnyOptions],
    ) -> asyncio.Future[tuple[T1, T2, T3, T4]]: ...

    @overload
    def parallel(
        self,
        branches: tuple[
            Callable[[], Awaitable[T1]],
            Callable[[], Awaitable[T2]],
            Callable[[], Awaitable[T3]],
            Callable[[], Awaitable[T4]],
            Callable[[], Awaitable[T5]],
        ],
        **options: Unpack[AnyOptions],
    ) -> asyncio.Future[tuple[T1, T2, T3, T4, T5]]: ...

    @overload
    def parallel(
        self, branches: Iterable[Callable[[], Awaitable[T]]], **options: Unpack[AnyOptions]
    ) -> asyncio.Future[tuple[T, ...]]: ...

    @overload
    def parallel(
        self,
        branches: Iterable[Callable[[], Awaitable[T]]],
        *,
        fail: Literal["all", "never"],
        **options: Unpack[GroupOptions],
    ) -> asyncio.Future[GroupResult[T]]: ...

    @overload
    def parallel(
        self, branches: Iterable[Callable[[], Awaitable[T]]], *, quorum: int, **options: Unpack[GroupOptions]
    ) -> asyncio.Future[GroupResult[T]]: ...

    def parallel(
        self,
        branches: Iterable[Callable[[], Any]],
        *,
        name: str = "parallel",
        parallel_mode: ParallelMode | None = None,
        fail: FailName = "any",
        quorum: int | None = None,
        cancel_siblings: bool = False,
        limit: int | None = None,
        deadline: Duration | None = None,
    ) -> asyncio.Future[Any]:
        """Run branches concurrently and await how they end (MISSION S2, S6, I2, I3).

        Branches of an async flow are tasks that begin in declaration order. They usually begin inside this call, each
        up to its first await, where `asyncio.create_task` would begin them a tick later; a flow must not rely on
        either, nor hold a lock here that a branch takes.

        Args:
            branches: Callables without arguments; each may run any number of steps.
            name: Names the group within its branch.
            parallel_mode: WAIT or RACE; None: the flow's, then the host's, then WAIT. It changes when
                branches go on, never the result. With `cancel_siblings` None is RACE: a wave of WAIT would hold back
                the very outcome that decides.
            fail: The group fails if "any" branch fails, or only if "all" do, or "never".
            quorum: Instead of `fail`: the group succeeds if this many branches do, 1 to their number.
            cancel_siblings: The group ends once its verdict is certain, either way, and cancels the branches that
                are not needed any more. Otherwise it ends when all branches ended.
            limit: Most of its steps that execute at once, those of groups inside included; at least 1. Waiting steps
                are admitted in the order they were planned.
            deadline: Longest duration of the group, more than 0 s. Then what has not ended is cancelled and
                counts as not succeeded.

        Returns:
            With `fail="any"` what the branches returned, a tuple in declaration order; otherwise a GroupResult.

        Raises:
            TypeError: a branch is not callable; nothing was planned.
            ConfigurationError: an option is out of its bounds; nothing was planned.
            LimitExceeded: too many branches, or too deep; nothing was planned.
            GroupFailed: when awaited, by the rules above.
        """
        policy = Policy(parallel_mode, fail, quorum, cancel_siblings, limit, deadline)
        return self._open(name, requests.parallel(self._ctx, branches, policy))

    @overload
    def map(
        self,
        template: str,
        fn: Callable[[A], Awaitable[T]],
        items: Iterable[A],
        **options: Unpack[MapAnyOptions],
    ) -> asyncio.Future[tuple[T, ...]]: ...

    @overload
    def map(
        self,
        template: str,
        fn: Callable[[A], T],
        items: Iterable[A],
        **options: Unpack[MapAnyOptions],
    ) -> asyncio.Future[tuple[T, ...]]: ...

    @overload
    def map(
        self,
        template: str,
        fn: Callable[[A], Awaitable[T]],
        items: Iterable[A],
        *,
        fail: Literal["all", "never"],
        **options: Unpack[MapOptions],
    ) -> asyncio.Future[GroupResult[T]]: ...

    @overload
    def map(
        self,
        template: str,
        fn: Callable[[A], T],
        items: Iterable[A],
        *,
        fail: Literal["all", "never"],
        **options: Unpack[MapOptions],
    ) -> asyncio.Future[GroupResult[T]]: ...

    def map(
        self,
        template: str,
        fn: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        name: str = "map",
        parallel_mode: ParallelMode | None = None,
        fail: FailName = "any",
        cancel_siblings: bool = False,
        limit: int | None = None,
        deadline: Duration | None = None,
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
        compensate: Compensate | None = None,
        redact: Redact = (),
    ) -> asyncio.Future[Any]:
        """Run `fn(item)` as one step for each item, all in one group (MISSION S10, I13).

        Costs no task and no thread per item, and each step gets its own item, whatever a loop variable does.

        Args:
            template: Names the steps; `{i}` becomes the index of the item, from 0.
            fn: Async or plain function, or a registered step.
            items: Any number up to the engine's limit of branches, 10,000 by default.
            retries, timeout, compensate, redact: Of each step, as in `ctx.step.run`.
            name, parallel_mode, fail, cancel_siblings, limit, deadline: Of the group, as in `parallel`.

        Returns, Raises: As `parallel`.
        """
        policy = Policy(parallel_mode, fail, None, cancel_siblings, limit, deadline)
        request = requests.mapped(self._ctx, template, fn, items, policy, retries, timeout, compensate, redact)
        return self._open(name, request)

    def race(
        self,
        branches: Iterable[Callable[[], Awaitable[T]]],
        *,
        name: str = "race",
        limit: int | None = None,
        deadline: Duration | None = None,
    ) -> asyncio.Future[BranchResult[T]]:
        """Run branches concurrently until the first one succeeds, and cancel the others (MISSION S12, I8).

        A cancelled branch gets `asyncio.CancelledError` where it awaits, its `finally` blocks run, and the attempts of
        its steps are cancelled. It can decide nothing any more.

        Args:
            branches: At least one callable without arguments.
            name, limit, deadline: As in `parallel`.

        Returns:
            The branch that won: `.index`, `.name`, `.value`.

        Raises:
            TypeError, ConfigurationError, LimitExceeded: As `parallel`.
            GroupFailed: when awaited, if every branch failed, or none succeeded by the deadline.
        """
        return self._open(name, requests.race(self._ctx, branches, limit, deadline))

    def settle(
        self,
        branches: Iterable[Callable[[], Awaitable[T]]],
        *,
        name: str = "settle",
        parallel_mode: ParallelMode | None = None,
        limit: int | None = None,
        deadline: Duration | None = None,
    ) -> asyncio.Future[GroupResult[T]]:
        """Run branches concurrently and await how each of them ends; never raises for a failed one (MISSION S15).

        Args:
            branches, name, parallel_mode, limit, deadline: As in `parallel`.
        """
        policy = Policy(parallel_mode, "never", None, False, limit, deadline)
        return self._open(name, requests.parallel(self._ctx, branches, policy))

    def _open(self, name: str, request: GroupRequest) -> asyncio.Future[Any]:
        scope = self._ctx._scope(f"ctx.group.{name}")
        return self._ctx._body.open_group(scope, name, request)
