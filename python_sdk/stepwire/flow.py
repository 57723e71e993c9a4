"""What users register: flows and steps, as objects that stay callable for unit tests."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

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
from stepwire.protocol import paths
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import ParallelMode
from stepwire.retry import Duration, Retry, duration, retry_policy

P = ParamSpec("P")
T = TypeVar("T")


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
        codec: Codec = JSON_CODEC,
    ) -> None:
        self.fn = fn
        self.name = name or _function_name(fn)
        _check_name("step", self.name)
        self.retries = retries
        self.retry = retry_policy(retries)
        self.timeout = None if timeout is None else duration(timeout)
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
        return encode_call(args, kwargs, self.fn, codec=self.codec)

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
        codec: Codec = JSON_CODEC,
    ) -> None:
        self.fn = fn
        self.name = name or _function_name(fn)
        _check_name("flow", self.name)
        self.parallel_mode = parallel_mode
        self.is_async = inspect.iscoroutinefunction(fn)
        self.codec = codec
        self.returns = return_type(fn)
        flow_types(fn)
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<flow {self.name!r}>"

    def encode_input(self, *args: Any) -> Payload:
        """The input of a run, for clients. Raises InvalidInput if it does not fit the annotation."""
        return encode_flow_input(args, self.fn, codec=self.codec)

    def decode_input(self, payload: Payload) -> tuple[Any, ...]:
        """Arguments after the context. Raises InvalidInput."""
        try:
            return decode_flow_input(payload, self.fn, codec=self.codec)
        except InvalidInput as error:
            raise InvalidInput(f"input of flow {self.name!r}: {error.failure.message}") from None

    def decode_output(self, payload: Payload) -> Any:
        """What the flow returned, by its annotation."""
        return self.codec.decode(payload, self.returns)


def _function_name(fn: Callable[..., Any]) -> str:
    name = getattr(fn, "__name__", "")
    if not name or name == "<lambda>":
        raise ConfigurationError(f"{fn!r} has no name of its own; pass name=")
    return str(name)


def _check_name(what: str, name: str) -> None:
    try:
        paths.encode_key(name)
    except paths.InvalidName as error:
        raise ConfigurationError(f"{what} name: {error}") from None
