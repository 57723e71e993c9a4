"""One step of a declared flow: its function and options, all checked where it is declared (MISSION S9, O4).

A declared step becomes one `ctx.step.run`. This module knows nothing of the flow around it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypedDict

from stepwire._declarative.state import FlowState, View
from stepwire._runtime.durable import StepFuture
from stepwire.codec import return_type
from stepwire.compensation import Compensate, Compensation, compensation
from stepwire.errors import ConfigurationError
from stepwire.flow import StepFunction
from stepwire.protocol import paths
from stepwire.protocol.plan import RESERVED_PREFIX
from stepwire.redaction import Redact, parts_of
from stepwire.retry import BackoffName, Duration, Retry, deadline_of, duration, retry_policy

if TYPE_CHECKING:
    from stepwire.context import Context


class StepOptions(TypedDict, total=False):
    """Options of `Step`, which explains them."""

    retries: int | Retry | None
    retry_delay: Duration | None
    backoff: BackoffName | None
    jitter: bool | float | None
    max_retry_delay: Duration | None
    timeout: Duration | None
    deadline: Duration | None
    abandon_after: Duration | None
    compensate: Compensate | None
    redact: Redact
    argument: Callable[[FlowState], Any] | None
    needs: Iterable[str]
    in_result: bool


class Step:
    """A step of a declared flow (MISSION S9, O4).

    Args:
        name: Unique in its flow, among steps and groups; 1..256 bytes.
        fn: Async or plain function of one argument, a read-only FlowState, or of none; parameters with a default
            are left alone. A registered step gets what `argument` makes, or nothing.
        retries: Tries after the first, or a Retry; None: 3, or the registered step's own.
        retry_delay: Before the first retry; default 1 s. This and the next three replace the whole policy of a
            registered step, and are not for a Retry, which has its own.
        backoff: How that delay grows: "fixed", "linear" or "exponential" (doubles); default exponential.
        jitter: Share of the delay, 0..1, that is added at random; True is 1, False is 0; default 0.1.
        max_retry_delay: Longest delay before jitter; default 60 s, or `retry_delay` if that is longer.
        timeout: Longest duration of one attempt; None: no limit, or the registered step's own.
        deadline: Time within which it must succeed, all attempts and delays included; more than 0.
        abandon_after: As of `ctx.step.run`; not for registered steps.
        compensate: Undoes the step if the run fails after it completed: a function of (output), (output, error) or
            (state, output, error), a registered step of the first two kinds, or a Compensation (MISSION O9).
            `state` is what the step saw; `error` is None for a run that was cancelled.
        redact: As of `ctx.step.run`; not for registered steps, which say it themselves. If its output is redacted and
            part of the FlowResult, that is redacted as well.
        argument: Makes the one argument of `fn` from the FlowState, instead of the state itself. It is code of
            the flow, not of the step: fast, without effects, the same for the same state.
        needs: Names of steps and groups that must be declared before. Nothing is awaited for that: a step or group
            starts when the one before it has settled.
        in_result: False leaves its output out of the FlowResult, for outputs that would make that too large.

    Raises:
        ConfigurationError: the name, the function or an option is bad.
    """

    def __init__(
        self,
        name: str,
        fn: Callable[..., Any],
        *,
        retries: int | Retry | None = None,
        retry_delay: Duration | None = None,
        backoff: BackoffName | None = None,
        jitter: bool | float | None = None,
        max_retry_delay: Duration | None = None,
        timeout: Duration | None = None,
        deadline: Duration | None = None,
        abandon_after: Duration | None = None,
        compensate: Compensate | None = None,
        redact: Redact = (),
        argument: Callable[[FlowState], Any] | None = None,
        needs: Iterable[str] = (),
        in_result: bool = True,
    ) -> None:
        self.name = checked_name("step", name)
        self.fn = fn
        self.retries = _retries(self.name, retries, retry_delay, backoff, jitter, max_retry_delay)
        self.timeout = None if timeout is None else duration(timeout)
        self.deadline = None if deadline is None else deadline_of(deadline)
        self.abandon_after = None if abandon_after is None else duration(abandon_after)
        self.compensate = None if compensate is None else compensation(compensate)
        self.redact: Redact = tuple(redact) if isinstance(redact, Iterator) else redact
        self.redacted = fn.redact if isinstance(fn, StepFunction) else parts_of(self.redact)
        self.argument = argument
        self.needs = _needs(self.name, needs)
        self.in_result = in_result
        self._function = _function(self)
        self._undo_sees_state = self.compensate is not None and _undo_sees_state(self.name, self.compensate)
        self.returns = fn.returns if isinstance(fn, StepFunction) else return_type(fn)

    def __repr__(self) -> str:
        return f"<declared step {self.name!r}>"

    def plan(self, ctx: Context, view: View) -> StepFuture:
        """Ask for it, with what it may see."""
        future = ctx.step.run(
            self.name,
            self._function,
            *self._arguments(view),
            retries=self.retries,
            timeout=self.timeout,
            deadline=self.deadline,
            compensate=self._undo(view),
            abandon_after=self.abandon_after,
            redact=self.redact,
        )
        assert isinstance(future, StepFuture)
        return future

    def _arguments(self, view: View) -> tuple[Any, ...]:
        state = FlowState(view)
        if self.argument is not None:
            return (self.argument(state),)
        return () if self._function is self.fn else (state,)

    def _undo(self, view: View) -> Compensation | None:
        undo = self.compensate
        if undo is None or not self._undo_sees_state:
            return undo
        return Compensation(_undo_with_state(undo.fn, view), retries=undo.retries, timeout=undo.timeout)


def checked_name(what: str, name: str) -> str:
    """Raises ConfigurationError."""
    if not isinstance(name, str):
        raise ConfigurationError(f"the name of a {what} is text, not {name!r:.80}")
    if name.startswith(RESERVED_PREFIX):
        raise ConfigurationError(f"{what} name {name!r}: names with {RESERVED_PREFIX!r} are the engine's own")
    try:
        paths.encode_key(name)
    except paths.InvalidName as error:
        raise ConfigurationError(f"{what} name: {error}") from None
    return name


def _needs(name: str, needs: Iterable[str]) -> tuple[str, ...]:
    if isinstance(needs, str):
        raise ConfigurationError(f"step {name!r}: needs= takes several names", hint=f"write needs=({needs!r},)")
    return tuple(needs)


def _retries(
    name: str,
    retries: int | Retry | None,
    retry_delay: Duration | None,
    backoff: BackoffName | None,
    jitter: bool | float | None,
    max_retry_delay: Duration | None,
) -> int | Retry | None:
    """One policy of options in Orchestrix's words and Stepwire's."""
    shape: dict[str, Any] = {
        "delay": retry_delay,
        "backoff": backoff,
        "jitter": float(jitter) if isinstance(jitter, bool) else jitter,
        "cap": max_retry_delay,
    }
    given = {option: value for option, value in shape.items() if value is not None}
    if given and isinstance(retries, Retry):
        raise ConfigurationError(f"step {name!r}: retries= is a Retry, which says all of that itself")
    if given:
        assert not isinstance(retries, Retry)
        return Retry(retries=retries, **given)
    retry_policy(retries)  # for its checks
    return retries


# ---- functions


def _function(step: Step) -> Callable[..., Any]:
    """What is handed to `ctx.step.run`: the function itself, or one that gives it its state.

    Raises:
        ConfigurationError: it cannot be called with what it would get.
    """
    fn, where = step.fn, f"step {step.name!r}"
    if not callable(fn):
        raise ConfigurationError(f"{where}: {fn!r:.80} is not callable")
    if step.abandon_after is not None and isinstance(fn, StepFunction):
        raise ConfigurationError(f"{where}: abandon_after is said where a step is registered, at @host.step")
    if step.redact != () and isinstance(fn, StepFunction):
        raise ConfigurationError(f"{where}: redact is said where a step is registered, at @host.step")
    needed = _needed(where, fn)
    argument: Any = step.argument
    if argument is not None:
        if not callable(argument) or inspect.iscoroutinefunction(argument):
            raise ConfigurationError(f"{where}: argument= is a plain function of the state")
        if not _takes_one(fn):
            raise ConfigurationError(f"{where}: argument= makes one argument, {fn!r:.80} does not take one")
        return fn
    if needed == 0:
        return fn
    if isinstance(fn, StepFunction):
        raise ConfigurationError(
            f"{where}: a registered step takes values, not the state of this flow",
            hint="say which: argument=lambda state: state.input",
        )
    if needed > 1:
        raise ConfigurationError(
            f"{where}: {fn!r:.80} takes {needed} arguments",
            why="a declared step gets one, its state, or none",
        )
    return _with_state(fn)


def _needed(where: str, fn: Callable[..., Any]) -> int:
    """How many positional arguments a function must get. A default means that it needs none, as in `lambda i=i: i`."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except ValueError:  # some builtins do not say
        return 0
    if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        raise ConfigurationError(f"{where}: {fn!r:.80} needs a named argument, and gets none")
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return sum(p.default is p.empty for p in positional)


def _takes_one(fn: Callable[..., Any]) -> bool:
    try:
        inspect.signature(fn).bind(None)
    except TypeError:
        return False
    except ValueError:  # some builtins do not say
        pass
    return True


def _with_state(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` with a state of its own for every attempt, whatever an earlier one did to the values of its own.

    `fn` is a default and not closed over, because the annotations of closures are resolved at every call.
    """

    async def in_task(state: FlowState, fn: Callable[..., Any] = fn) -> Any:
        return await fn(state.fresh())

    def on_thread(state: FlowState, fn: Callable[..., Any] = fn) -> Any:
        return fn(state.fresh())

    made: Callable[..., Any] = in_task if _is_async(fn) else on_thread
    made.__annotations__ = {"return": return_type(fn)}
    return made


def _undo_sees_state(name: str, undo: Compensation) -> bool:
    """Raises ConfigurationError for a function that takes more than (state, output, error)."""
    where = f"compensation of step {name!r}"
    needed = _needed(where, undo.fn)
    if needed > 3:
        raise ConfigurationError(
            f"{where}: {undo.fn!r:.80} takes {needed} arguments", why="there are the state, the output and the error"
        )
    if needed == 3 and isinstance(undo.fn, StepFunction):
        raise ConfigurationError(
            f"{where}: a registered step takes values, not the state of this flow",
            why="it gets the output and the error",
        )
    return needed == 3


def _undo_with_state(fn: Callable[..., Any], view: View) -> Callable[..., Any]:
    async def in_task(output: Any, error: Any) -> Any:
        return await fn(FlowState(view), output, error)

    def on_thread(output: Any, error: Any) -> Any:
        return fn(FlowState(view), output, error)

    return in_task if _is_async(fn) else on_thread


def _is_async(fn: Callable[..., Any]) -> bool:
    # An object whose class defines `async def __call__` counts as well.
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__dict__.get("__call__"))
