"""What a flow sees: `ctx.step`, `ctx.group`, and time, chance and identity that survive replay (MISSION I1-I5)."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from random import Random
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from stepwire._runtime.attempts import StepCall
from stepwire._runtime.scope import ATTEMPT, SCOPE, AttemptInfo, Scope
from stepwire.codec import return_type
from stepwire.errors import BodyEvicted, ConfigurationError, NestedStepError
from stepwire.flow import StepFunction
from stepwire.protocol.plan import ParallelMode, RetryPolicy, StepKind
from stepwire.retry import Duration, Retry, duration, retry_policy

if TYPE_CHECKING:
    from stepwire._runtime.body import LiveBody
    from stepwire._runtime.durable import DurableFuture

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")


_NO_KWARGS: dict[str, Any] = {}
"""Shared by every call without named arguments; never changed."""


class _Base:
    """What contexts of async and sync flows share."""

    def __init__(self, body: LiveBody, parallel_mode: ParallelMode) -> None:
        self._body = body
        self._parallel_mode = parallel_mode

    @property
    def run_id(self) -> str:
        """Identity of the run."""
        return self._body.run_id

    @property
    def flow(self) -> str:
        """Name of the flow."""
        return self._body.flow.name

    @property
    def random(self) -> Random:
        """Random numbers of this branch, the same on every replay."""
        return self._scope("ctx.random").random

    def uuid(self) -> uuid.UUID:
        """A random UUID, the same on every replay."""
        return uuid.UUID(int=self._scope("ctx.uuid").random.getrandbits(128), version=4)

    def now(self) -> datetime:
        """Time of the last release, in UTC; the same on every replay."""
        return datetime.fromtimestamp(self._body.now_ms / 1000, UTC)

    def _scope(self, what: str) -> Scope:
        """The scope this code runs in.

        Raises:
            NestedStepError: the call is made inside a step, or on a thread that is not the flow's.
            BodyEvicted: this context belongs to a body that is gone.
        """
        attempt = ATTEMPT.get()
        if attempt is not None:
            raise NestedStepError(f"{what} was called inside step {attempt.path!r}", attempt.path)
        scope = SCOPE.get()
        if scope is None:
            raise NestedStepError(
                f"{what} was called on a thread or task that does not belong to flow {self._body.flow.name!r}: "
                "inside a step, or on a thread the flow started itself"
            )
        if scope.body is not self._body or self._body.over:
            raise BodyEvicted(self._body.run_id)
        return scope

    def _prepare(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        retries: int | Retry | None,
        timeout: Duration | None,
    ) -> tuple[StepCall, StepFunction[..., Any] | None, RetryPolicy | None, float | None]:
        """What is planned: the call, the registered step if it is one, its policy and its timeout in seconds."""
        step = fn if isinstance(fn, StepFunction) else None
        if not callable(fn):
            hint = "pass the function and its arguments, not a coroutine" if inspect.isawaitable(fn) else ""
            if inspect.iscoroutine(fn):
                fn.close()
            raise ConfigurationError(f"step {name!r}: {fn!r} is not callable", hint=hint)
        if retries is None and step is not None:
            retries = step.retries
        seconds = duration(timeout) if timeout is not None else (step.timeout if step is not None else None)
        call = StepCall(
            StepKind.TASK if step is not None else StepKind.RUN,
            step.fn if step is not None else fn,
            args,
            kwargs or _NO_KWARGS,
            step.returns if step is not None else _returns(fn),
            step.codec if step is not None else self._body.host.codec,
            retries,
            _is_async(step.fn if step is not None else fn),
        )
        return call, step, retry_policy(retries), seconds

    def _branches(self, branches: Iterable[Callable[[], Any]]) -> Sequence[Callable[[], Any]]:
        made = tuple(branches)
        for index, branch in enumerate(made):
            if not callable(branch):
                if inspect.iscoroutine(branch):
                    branch.close()
                raise TypeError(f"branch {index} is {type(branch).__name__}, not a callable without arguments")
        return made


def _is_async(fn: Callable[..., Any]) -> bool:
    while isinstance(fn, functools.partial):
        fn = fn.func
    if type(fn) is FunctionType and not fn.__dict__:
        # The common case, and ten times faster than asking inspect.
        return bool(fn.__code__.co_flags & inspect.CO_COROUTINE)
    # An object whose class defines `async def __call__` counts as well.
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__dict__.get("__call__"))


def _returns(fn: Callable[..., Any]) -> Any:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return return_type(fn)


# ---- async flows


class Step:
    """`ctx.step` of an async flow."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    @overload
    def run(
        self,
        name: str,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
        **kwargs: Any,
    ) -> asyncio.Future[T]: ...

    @overload
    def run(
        self,
        name: str,
        fn: Callable[..., T],
        /,
        *args: Any,
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
        **kwargs: Any,
    ) -> asyncio.Future[T]: ...

    def run(
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
        **kwargs: Any,
    ) -> asyncio.Future[Any]:
        """Run `fn(*args, **kwargs)` as a durable step (MISSION S1).

        The step is planned at the call; await the result, alone or with others. A registered step
        (`@host.step`) may run on any host that serves it, anything else runs in this process.

        Args:
            name: Names the step within its branch, 1..256 bytes; repeats get `#2`, `#3`, ...
            fn: Async or plain function; a plain one runs on a thread.
            retries: Tries after the first, or a Retry; None: 3, exponential from 1 s, or the step's own.
            timeout: Longest duration of one attempt; None: no limit, or the step's own.

        Raises:
            StepError: when awaited, if the step failed after its retries.
            NestedStepError, AmbiguousStep, InvalidStepName, LimitExceeded: at the call; nothing was planned.
        """
        scope = self._ctx._scope(f"ctx.step.run({name!r})")
        return self._ctx._body.plan_step(scope, name, *self._ctx._prepare(name, fn, args, kwargs, retries, timeout))


class Group:
    """`ctx.group` of an async flow."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    @overload
    def parallel(
        self,
        branches: tuple[Callable[[], Awaitable[T1]]],
        *,
        name: str = ...,
        parallel_mode: ParallelMode | None = ...,
    ) -> asyncio.Future[tuple[T1]]: ...

    @overload
    def parallel(
        self,
        branches: tuple[Callable[[], Awaitable[T1]], Callable[[], Awaitable[T2]]],
        *,
        name: str = ...,
        parallel_mode: ParallelMode | None = ...,
    ) -> asyncio.Future[tuple[T1, T2]]: ...

    @overload
    def parallel(
        self,
        branches: tuple[Callable[[], Awaitable[T1]], Callable[[], Awaitable[T2]], Callable[[], Awaitable[T3]]],
        *,
        name: str = ...,
        parallel_mode: ParallelMode | None = ...,
    ) -> asyncio.Future[tuple[T1, T2, T3]]: ...

    @overload
    def parallel(
        self,
        branches: Iterable[Callable[[], Awaitable[T]]],
        *,
        name: str = ...,
        parallel_mode: ParallelMode | None = ...,
    ) -> asyncio.Future[tuple[T, ...]]: ...

    def parallel(
        self,
        branches: Iterable[Callable[[], Any]],
        *,
        name: str = "parallel",
        parallel_mode: ParallelMode | None = None,
    ) -> asyncio.Future[Any]:
        """Run branches concurrently and await their results, a tuple in declaration order (MISSION S2, I2, I3).

        Args:
            branches: Callables without arguments; each may run any number of steps.
            name: Names the group within its branch.
            parallel_mode: WAIT or RACE; None: the flow's, then the host's, then WAIT. It changes when
                branches go on, never the result.

        Raises:
            TypeError: a branch is not callable; nothing was planned.
            GroupFailed: when awaited, if a branch failed; raised after all branches ended.
        """
        made = self._ctx._branches(branches)
        scope = self._ctx._scope(f"ctx.group.{name}")
        return self._ctx._body.open_group(scope, name, made, parallel_mode or self._ctx._parallel_mode)


class Context(_Base):
    """The first argument of an async flow.

    Attributes:
        step: Durable steps.
        group: Concurrent branches.
    """

    def __init__(self, body: LiveBody, parallel_mode: ParallelMode) -> None:
        super().__init__(body, parallel_mode)
        self.step = Step(self)
        self.group = Group(self)


# ---- sync flows


class StepSync:
    """`ctx.step` of a plain `def` flow: the same, without await."""

    def __init__(self, ctx: ContextSync) -> None:
        self._ctx = ctx

    def run(
        self,
        name: str,
        fn: Callable[..., T],
        /,
        *args: Any,
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
        **kwargs: Any,
    ) -> T:
        """Run `fn(*args, **kwargs)` as a durable step and wait for its result; see `Step.run`."""
        scope = self._ctx._scope(f"ctx.step.run({name!r})")
        prepared = self._ctx._prepare(name, fn, args, kwargs, retries, timeout)
        return self._ctx._wait(lambda: self._ctx._body.plan_step(scope, name, *prepared))  # type: ignore[no-any-return]


class GroupSync:
    """`ctx.group` of a plain `def` flow: the same, without await."""

    def __init__(self, ctx: ContextSync) -> None:
        self._ctx = ctx

    def parallel(
        self,
        branches: Iterable[Callable[[], T]],
        *,
        name: str = "parallel",
        parallel_mode: ParallelMode | None = None,
    ) -> tuple[T, ...]:
        """Run branches concurrently, each on its own thread, and wait for their results; see `Group.parallel`."""
        made = self._ctx._branches(branches)
        scope = self._ctx._scope(f"ctx.group.{name}")
        mode = parallel_mode or self._ctx._parallel_mode
        return self._ctx._wait(  # type: ignore[no-any-return]
            lambda: self._ctx._body.open_group(scope, name, made, mode)
        )


class ContextSync(_Base):
    """The first argument of a plain `def` flow (MISSION I4): the methods of Context, blocking its thread.

    Attributes:
        step: Durable steps.
        group: Concurrent branches.
    """

    def __init__(self, body: LiveBody, parallel_mode: ParallelMode) -> None:
        super().__init__(body, parallel_mode)
        self.step = StepSync(self)
        self.group = GroupSync(self)

    def _wait(self, make: Callable[[], DurableFuture]) -> Any:
        """Make a decision on the loop and block this thread until it is resolved."""
        waiter = _Waiter()
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


class _Waiter:
    """Hands one outcome from the loop to a waiting thread."""

    __slots__ = ("_done", "_error", "_value")

    def __init__(self) -> None:
        self._done = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None

    def give(self, value: Any, error: BaseException | None) -> None:
        self._value = value
        self._error = error
        self._done.set()

    def resolved(self, future: asyncio.Future[Any]) -> None:
        error = future.exception() if not future.cancelled() else asyncio.CancelledError()
        self.give(None if error is not None else future.result(), error)

    def wait(self) -> Any:
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value


def context_of(body: LiveBody, parallel_mode: ParallelMode) -> Context | ContextSync:
    """The first argument of the body's flow."""
    return Context(body, parallel_mode) if body.flow.is_async else ContextSync(body, parallel_mode)


def current_attempt() -> AttemptInfo | None:
    """The attempt this code belongs to, with its number, `idempotency_key` and `cancelled` flag; None outside steps."""
    return ATTEMPT.get()
