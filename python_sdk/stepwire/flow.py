"""What users register: flows and steps, as objects that stay callable for unit tests."""

from __future__ import annotations

import inspect
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

import msgspec

from stepwire.codec import (
    JSON_CODEC,
    Codec,
    call_types,
    decode_call,
    decode_flow_input,
    encode_call,
    encode_flow_input,
    flow_types,
    return_type,
)
from stepwire.errors import ConfigurationError, InvalidInput
from stepwire.events import Event, Trigger, TriggerLike, planned_trigger, triggers
from stepwire.hooks import Hook, HookFunction, HookKind, registering
from stepwire.protocol import paths
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import FlowOptions
from stepwire.protocol.payload import JSON, Payload
from stepwire.protocol.plan import RESERVED_PREFIX, ParallelMode
from stepwire.redaction import Parts, Redact, marked, parts_of, redacts
from stepwire.retry import Duration, Retry, deadline_of, duration, retry_policy

P = ParamSpec("P")
T = TypeVar("T")
H = TypeVar("H", bound=Callable[..., Any])
F = TypeVar("F", bound=HookFunction)

FAILED_EVENT = "stepwire/run.failed"
"""What the engine sends when a run fails and a flow wants to know (MISSION S21)."""


class StepFunction(Generic[P, T]):
    """A registered step: any host that serves its name may run it (DESIGN 4, kind `task`).

    Calling it calls the function itself, without durability.
    """

    def __init__(
        self,
        fn: Callable[P, T],
        *,
        name: str | None = None,
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
        abandon_after: Duration | None = None,
        redact: Redact = (),
        codec: Codec = JSON_CODEC,
    ) -> None:
        self.fn = fn
        self.name = name or _function_name(fn)
        _check_name("step", self.name)
        self.redact = parts_of(redact)
        self.retries = retries
        self.retry = retry_policy(retries)
        self.timeout = None if timeout is None else duration(timeout)
        self.abandon_after = None if abandon_after is None else duration(abandon_after)
        self.is_async = inspect.iscoroutinefunction(fn)
        self.codec = codec
        self.returns = return_type(fn)
        call_types(fn)
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<step {self.name!r}>"

    def encode_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
        """The input of a call. Raises InvalidInput if it does not fit the annotations."""
        payload = encode_call(args, kwargs, self.fn, codec=self.codec)
        return marked(payload, self.codec, Parts.INPUT) if redacts(self.redact, Parts.INPUT) else payload

    def decode_input(self, payload: Payload) -> tuple[list[Any], dict[str, Any]]:
        """Arguments of a call. Raises InvalidInput."""
        try:
            return decode_call(payload, self.fn, codec=self.codec)
        except InvalidInput as error:
            raise InvalidInput(f"input of step {self.name!r}: {error.failure.message}") from None


class FlowFunction(Generic[P, T]):
    """A registered flow: an async or plain function whose first parameter is its context."""

    def __init__(
        self,
        fn: Callable[P, T],
        *,
        name: str | None = None,
        parallel_mode: ParallelMode | None = None,
        deadline: Duration | None = None,
        undo_on_cancel: bool = False,
        on: TriggerLike = (),
        redact: Redact = (),
        codec: Codec = JSON_CODEC,
        add: Callable[[FlowFunction[..., Any]], None] | None = None,
    ) -> None:
        self.fn = fn
        self.name = name or _function_name(fn)
        _check_name("flow", self.name)
        self.redact = parts_of(redact)
        self.parallel_mode = parallel_mode
        self.deadline = None if deadline is None else deadline_of(deadline)
        self.undo_on_cancel = undo_on_cancel
        self.triggers = triggers(on)
        self.hooks: list[Hook] = []
        self.is_async = inspect.iscoroutinefunction(fn)
        self.codec = codec
        self.returns = return_type(fn)
        flow_types(fn)
        self._add = add
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<flow {self.name!r}>"

    def encode_input(self, *args: Any) -> Payload:
        """The input of a run, for clients. Raises InvalidInput if it does not fit the annotation."""
        payload = encode_flow_input(args, self.fn, codec=self.codec)
        return marked(payload, self.codec, Parts.INPUT) if redacts(self.redact, Parts.INPUT) else payload

    def decode_input(self, payload: Payload) -> tuple[Any, ...]:
        """Arguments after the context. Raises InvalidInput."""
        # The engine writes the event that starts a run; it does not know the flow's codec.
        codec = JSON_CODEC if self.triggers and payload.encoding == JSON else self.codec
        try:
            return decode_flow_input(payload, self.fn, codec=codec)
        except InvalidInput as error:
            raise InvalidInput(f"input of flow {self.name!r}: {error.failure.message}") from None

    def decode_output(self, payload: Payload) -> Any:
        """What the flow returned, by its annotation."""
        return self.codec.decode(payload, self.returns)

    @property
    def options(self) -> FlowOptions:
        """What the engine must know of it."""
        planned = tuple(map(planned_trigger, self.triggers))
        redact_input = redacts(self.redact, Parts.INPUT)
        return FlowOptions(self.name, self.deadline, self.undo_on_cancel, planned, redact_input)

    # ---- beside its runs

    def on(self, kind: HookKind) -> Callable[[F], F]:
        """Register a hook for runs of this flow; see `Host.on`."""
        return registering(self.hooks, kind)

    def on_failure(self, handler: H) -> H:
        """Register what happens, durably, after a run of this flow failed (MISSION S21).

        It is a run of its own, of the flow `<name>.on_failure`: once for each failed run, never for cancelled
        ones, nor for failures of the handler.

        Args:
            handler: `handler(failed)`, run as one step with the default retries, or `handler(ctx, failed)`, a
                flow body. `failed` is a RunFailure. Async or plain; a registered step may be a `handler(failed)`.

        Raises:
            ConfigurationError: it takes neither one nor two arguments, or the flow has a handler already.
        """
        if self._add is None:
            raise ConfigurationError(f"flow {self.name!r} belongs to no host, nothing would run its failure handler")
        trigger = Trigger(FAILED_EVENT, {"data.flow": self.name})
        self._add(
            FlowFunction(_failure_body(self, handler), name=f"{self.name}.on_failure", on=trigger, codec=self.codec)
        )
        return handler


@dataclass(frozen=True, slots=True)
class RunFailure:
    """A run that failed, as its failure handler gets it (MISSION S21).

    Attributes:
        run_id, flow: The run.
        input: What it was started with, by the annotation of its flow; plain JSON if it does not fit that, or
            where the handler is a registered step, which may run on a host that does not know the flow.
        failure: Why it failed.
    """

    run_id: str
    flow: str
    input: Any
    failure: Failure


def _failure_body(flow: FlowFunction[..., Any], handler: Callable[..., Any]) -> Callable[..., Any]:
    """The body of the flow that runs a failure handler."""
    match _positional(handler):
        case 1:

            async def one_step(ctx: Any, event: Event) -> None:
                await ctx.step.run("on_failure", handler, _run_failure(flow, event))

            return one_step
        case 2 if inspect.iscoroutinefunction(handler):

            async def in_tasks(ctx: Any, event: Event) -> Any:
                return await handler(ctx, _run_failure(flow, event))

            return in_tasks
        case 2:

            def in_threads(ctx: Any, event: Event) -> Any:
                return handler(ctx, _run_failure(flow, event))

            return in_threads
        case _:
            raise ConfigurationError(
                f"{handler!r:.80} cannot handle failures",
                why="a failure handler takes the RunFailure, or the context and the RunFailure",
            )


def _positional(fn: Callable[..., Any]) -> int:
    """How many positional arguments a function must get."""
    if not callable(fn):
        return 0
    parameters = inspect.signature(fn).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return sum(p.default is p.empty for p in positional)


def _run_failure(flow: FlowFunction[..., Any], event: Event) -> RunFailure:
    """What the engine says of a failed run, with its input as the failed flow would have got it."""
    told = event.data
    given = told["input"]
    try:
        arguments = flow.decode_input(_input_payload(given))
    except Exception:  # a misfit, or what a codec of the user's own raises; perhaps that is why the run failed
        pass
    else:
        given = arguments[0] if arguments else None
    why = told["failure"]
    code = ErrorCode.__members__.get(why["code"].upper(), ErrorCode.INTERNAL)  # an engine may know more codes
    failure = Failure(code, why["type"], why["message"], why["traceback"])
    return RunFailure(told["run_id"], told["flow"], given, failure)


def _input_payload(told: Any) -> Payload:
    """The payload that the engine tells as event data: JSON as it is, anything else as base64."""
    match told:
        case {"encoding": str() as encoding, "base64": str() as data} if len(told) == 2:
            return Payload(b64decode(data), encoding)
        case _:
            return Payload(msgspec.json.encode(told))


def _function_name(fn: Callable[..., Any]) -> str:
    name = getattr(fn, "__name__", "")
    if not name or name == "<lambda>":
        raise ConfigurationError(f"{fn!r} has no name of its own; pass name=")
    return str(name)


def _check_name(what: str, name: str) -> None:
    if name.startswith(RESERVED_PREFIX):
        raise ConfigurationError(f"{what} name {name!r}: names with {RESERVED_PREFIX!r} are the engine's own")
    try:
        paths.encode_key(name)
    except paths.InvalidName as error:
        raise ConfigurationError(f"{what} name: {error}") from None
