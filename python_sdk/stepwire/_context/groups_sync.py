"""`ctx.group` of plain `def` flows: the methods of `Group`, without await (MISSION I4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from stepwire._context import branches as requests
from stepwire._context.branches import FailName, Policy
from stepwire._context.groups import AnyOptions, GroupOptions, MapAnyOptions, MapOptions
from stepwire._runtime.group import GroupRequest
from stepwire.compensation import Compensate
from stepwire.protocol.plan import ParallelMode
from stepwire.redaction import Redact
from stepwire.results import BranchResult, GroupResult
from stepwire.retry import Duration, Retry

if TYPE_CHECKING:
    from stepwire.context import ContextSync

T = TypeVar("T")
A = TypeVar("A")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")


class GroupSync:
    """`ctx.group` of a plain `def` flow: branches run on threads of their own, except those of `map`."""

    def __init__(self, ctx: ContextSync) -> None:
        self._ctx = ctx

    @overload
    def parallel(self, branches: tuple[Callable[[], T1]], **options: Unpack[AnyOptions]) -> tuple[T1]: ...

    @overload
    def parallel(
        self, branches: tuple[Callable[[], T1], Callable[[], T2]], **options: Unpack[AnyOptions]
    ) -> tuple[T1, T2]: ...

    @overload
    def parallel(
        self, branches: tuple[Callable[[], T1], Callable[[], T2], Callable[[], T3]], **options: Unpack[AnyOptions]
    ) -> tuple[T1, T2, T3]: ...

    @overload
    def parallel(self, branches: Iterable[Callable[[], T]], **options: Unpack[AnyOptions]) -> tuple[T, ...]: ...

    @overload
    def parallel(
        self,
        branches: Iterable[Callable[[], T]],
        *,
        fail: Literal["all", "never"],
        **options: Unpack[GroupOptions],
    ) -> GroupResult[T]: ...

    @overload
    def parallel(
        self, branches: Iterable[Callable[[], T]], *, quorum: int, **options: Unpack[GroupOptions]
    ) -> GroupResult[T]: ...

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
    ) -> Any:
        """Run branches concurrently, each on its own thread, and wait for how they end; see `Group.parallel`.

        A branch that is cancelled gets `asyncio.CancelledError` from the call it waits in, or from its next one.
        """
        policy = Policy(parallel_mode, fail, quorum, cancel_siblings, limit, deadline)
        return self._run(name, requests.parallel(self._ctx, branches, policy))

    @overload
    def map(
        self, template: str, fn: Callable[[A], T], items: Iterable[A], **options: Unpack[MapAnyOptions]
    ) -> tuple[T, ...]: ...

    @overload
    def map(
        self,
        template: str,
        fn: Callable[[A], T],
        items: Iterable[A],
        *,
        fail: Literal["all", "never"],
        **options: Unpack[MapOptions],
    ) -> GroupResult[T]: ...

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
    ) -> Any:
        """Run `fn(item)` as one step for each item and wait for how they end; see `Group.map`. Needs no threads."""
        policy = Policy(parallel_mode, fail, None, cancel_siblings, limit, deadline)
        request = requests.mapped(self._ctx, template, fn, items, policy, retries, timeout, compensate, redact)
        return self._run(name, request)

    def race(
        self,
        branches: Iterable[Callable[[], T]],
        *,
        name: str = "race",
        limit: int | None = None,
        deadline: Duration | None = None,
    ) -> BranchResult[T]:
        """Run branches concurrently until the first one succeeds, and cancel the others; see `Group.race`."""
        return self._run(name, requests.race(self._ctx, branches, limit, deadline))  # type: ignore[no-any-return]

    def settle(
        self,
        branches: Iterable[Callable[[], T]],
        *,
        name: str = "settle",
        parallel_mode: ParallelMode | None = None,
        limit: int | None = None,
        deadline: Duration | None = None,
    ) -> GroupResult[T]:
        """Run branches concurrently and wait for how each of them ends; see `Group.settle`."""
        policy = Policy(parallel_mode, "never", None, False, limit, deadline)
        return self._run(name, requests.parallel(self._ctx, branches, policy))  # type: ignore[no-any-return]

    def _run(self, name: str, request: GroupRequest) -> Any:
        scope = self._ctx._scope(f"ctx.group.{name}")
        return self._ctx._wait(lambda: self._ctx._body.open_group(scope, name, request))
