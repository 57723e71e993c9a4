"""What contexts of async and sync flows share: identity, time, chance, and the checks before any durable call."""

from __future__ import annotations

import abc
import asyncio
import functools
import inspect
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from datetime import UTC, datetime
from random import Random
from types import FunctionType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from stepwire._runtime.attempt import StepCall
from stepwire._runtime.request import StepRequest
from stepwire._runtime.scope import PLACE, AttemptInfo, Scope
from stepwire._runtime.undo import UndoCall
from stepwire.codec import return_type
from stepwire.compensation import Compensate, compensation
from stepwire.errors import BodyEvicted, ConfigurationError, FlowStopped, NestedStepError, PayloadTooLarge
from stepwire.flow import StepFunction
from stepwire.protocol.plan import BodyEnded, ParallelMode, StepKind
from stepwire.redaction import Parts, Redact, parts_of
from stepwire.retry import Duration, Retry, deadline_of, duration, retry_policy

if TYPE_CHECKING:
    from stepwire._runtime.body import LiveBody

_RUN, _COROUTINE = StepKind.RUN, inspect.CO_COROUTINE
_NO_KWARGS: dict[str, Any] = {}
"""Shared by every call without named arguments; never changed."""


class BaseContext(abc.ABC):
    """What contexts of async and sync flows share."""

    def __init__(self, body: LiveBody, parallel_mode: ParallelMode) -> None:
        self._body = body
        self._parallel_mode = parallel_mode

    def _alone(self) -> Self:
        """The same again, for what this one knows: two that know each other would wait for the garbage collector."""
        alone = object.__new__(type(self))
        BaseContext.__init__(alone, self._body, self._parallel_mode)
        return alone

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

    def cancel(self) -> NoReturn:
        """End this run as cancelled; what it did is undone if the flow says `undo_on_cancel` (MISSION S20).

        From a branch it ends the whole run, too: every other line of control is stopped where it stands. It
        never returns. `finally` blocks run, but durable calls in them have no effect any more.
        """
        self._finish("ctx.cancel", lambda: BodyEnded(cancelled=True))

    def restart_with(self, *args: Any) -> NoReturn:
        """End this run as succeeded and go on as a new run of the same flow with another input.

        The successor starts in the same commit; a client that waits for the result gets the successor's. It
        is how a flow runs for ever without an endless journal. From a branch, see `cancel`.

        Args:
            args: The input, as the flow is annotated; none for a flow without input.

        Raises:
            InvalidInput: it does not fit; the run goes on.
            PayloadTooLarge: it exceeds the engine's limit; the run goes on.
        """
        self._finish("ctx.restart_with", lambda: self._restart(args))

    def _finish(self, what: str, make: Callable[[], BodyEnded]) -> NoReturn:
        scope = self._scope(what)
        ended = make()
        self._on_loop(lambda: self._body.finish(scope, ended))
        raise FlowStopped

    @abc.abstractmethod
    def _on_loop(self, action: Callable[[], None]) -> None:
        """Run `action` on the loop and wait for its end."""

    def _scope(self, what: str, name: str | None = None) -> Scope:
        """The scope this code runs in.

        Args:
            what: The call, for error messages.
            name: Of the step, if the call has one.

        Raises:
            NestedStepError: the call is made inside a step, or on a thread that is not the flow's.
            BodyEvicted: this context belongs to a body that is gone.
            CancelledError: the branch this code belongs to has ended.
        """
        scope = PLACE.get()
        if type(scope) is not Scope:
            raise self._misplaced(_call_text(what, name), scope)
        if scope.body is not self._body or self._body.over:
            raise BodyEvicted(self._body.run_id)
        if scope.ended:
            raise asyncio.CancelledError(f"branch {scope.path!r} has ended")
        return scope

    def _misplaced(self, call: str, place: Scope | AttemptInfo | None) -> NestedStepError:
        if isinstance(place, AttemptInfo):
            return NestedStepError(f"{call} was called inside step {place.path!r}", place.path)
        return NestedStepError(
            f"{call} was called on a thread or task that does not belong to flow {self._body.flow.name!r}: "
            "inside a step, or on a thread the flow started itself"
        )

    def _prepare(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
        deadline: Duration | None = None,
        compensate: Compensate | None = None,
        abandon_after: Duration | None = None,
        redact: Redact = (),
    ) -> StepRequest | StepCall:
        """What `ctx.step.run` plans: a closure, or a registered step if `fn` is one.

        Raises:
            ConfigurationError: `fn` is not callable, or an option is bad.
            InvalidInput: the arguments do not fit a registered step.
        """
        no_option = retries is None and timeout is None and deadline is None and compensate is None
        if type(fn) is FunctionType and no_option and abandon_after is None and not redact and not fn.__dict__:
            # What most steps are: nothing of it is to be checked or derived.
            returns = return_type(fn) if "return" in fn.__annotations__ else Any
            is_async = bool(fn.__code__.co_flags & _COROUTINE)
            codec = self._body.host.codec
            return StepCall(_RUN, fn, args, kwargs or _NO_KWARGS, returns, codec, None, is_async)
        step = fn if isinstance(fn, StepFunction) else None
        if not callable(fn):
            hint = "pass the function and its arguments, not a coroutine" if inspect.isawaitable(fn) else ""
            if inspect.iscoroutine(fn):
                fn.close()
            raise ConfigurationError(f"step {name!r}: {fn!r} is not callable", hint=hint)
        parts = step.redact if step is not None else (parts_of(redact) if redact else None)
        if step is None:
            call = self._call(fn, args, kwargs, retries, abandon_after, parts)
        else:
            call = _task_call(step, args, kwargs)
        if step is not None:
            _check_own(name, "abandon_after", abandon_after is not None)
            _check_own(name, "redact", redact != ())
        undo = undo_call = None
        if compensate is not None:
            made = compensation(compensate)
            undo = made.planned
            if undo.kind is StepKind.RUN:
                undo_call = UndoCall(
                    made.fn, call.codec, call.returns, copy_context(), _is_async(made.fn), made.retries, parts
                )
        return StepRequest(
            call.kind,
            call,
            task="" if step is None else step.name,
            input=None if step is None else step.encode_input(args, kwargs),
            retry=retry_policy(retries) if retries is not None or step is None else step.retry,
            timeout=duration(timeout) if timeout is not None else (None if step is None else step.timeout),
            deadline=None if deadline is None else deadline_of(deadline),
            undo=undo,
            undo_call=undo_call,
        )

    def _call(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        retries: int | Retry | None,
        abandon_after: Duration | None,
        redact: Parts | None,
    ) -> StepCall:
        return StepCall(
            StepKind.RUN,
            fn,
            args,
            kwargs or _NO_KWARGS,
            _returns(fn),
            self._body.host.codec,
            retries,
            _is_async(fn),
            None if abandon_after is None else duration(abandon_after),
            redact,
        )

    def _restart(self, args: tuple[Any, ...]) -> BodyEnded:
        """The end of a run that goes on with another input. Raises InvalidInput, PayloadTooLarge."""
        flow = self._body.flow
        payload = flow.encode_input(*args)
        limit = self._body.host.limits.payload_bytes_max
        if len(payload.data) > limit:
            raise PayloadTooLarge(f"input of flow {flow.name!r} is {len(payload.data)} bytes, limit {limit}")
        return BodyEnded(restart=payload)

    def _branches(self, branches: Iterable[Callable[[], Any]]) -> Sequence[Callable[[], Any]]:
        made = tuple(branches)
        for index, branch in enumerate(made):
            if not callable(branch):
                if inspect.iscoroutine(branch):
                    branch.close()
                raise TypeError(f"branch {index} is {type(branch).__name__}, not a callable without arguments")
        return made


def _call_text(what: str, name: str | None) -> str:
    return what if name is None else f"{what}({name!r})"


def _task_call(step: StepFunction[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepCall:
    return StepCall(
        StepKind.TASK,
        step.fn,
        args,
        kwargs or _NO_KWARGS,
        step.returns,
        step.codec,
        step.retries,
        step.is_async,
        step.abandon_after,
        step.redact,
    )


def _check_own(name: str, option: str, given: bool) -> None:
    """Raises ConfigurationError for an option of a registered step that the flow gives."""
    if given:
        raise ConfigurationError(
            f"step {name!r}: {option} is not for the flow to say",
            why="a registered step may run on any host, and each goes by its own registration",
            hint="set it at @host.step",
        )


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
