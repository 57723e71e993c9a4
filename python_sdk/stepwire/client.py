"""Start runs, wait for them and look at them: `ClientSync` for plain code, `Client` for coroutines.

Both use the same synchronous gRPC channel, which lives in its own threads, so a client may be made anywhere:
before a fork, at import time, in several loops. Nothing is connected before the first call.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from contextlib import aclosing, closing
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, overload

from stepwire._transport.run_calls import RunCalls
from stepwire._transport.run_record import (
    AttemptRecord,
    GroupRecord,
    Run,
    RunState,
    RunStats,
    StepRecord,
    StepState,
    WaitReason,
)
from stepwire._transport.run_watch import RunWatch, records_of
from stepwire.codec import JSON_CODEC, Codec, encode_flow_input
from stepwire.errors import ConfigurationError, RunCancelled, RunFailed, error_from_failure
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.payload import NULL, Payload

__all__ = (
    "Client",
    "ClientSync",
    "RunHandle",
    "RunHandleSync",
    "Run",
    "RunState",
    "RunStats",
    "StepRecord",
    "StepState",
    "AttemptRecord",
    "GroupRecord",
    "WaitReason",
    "ADDRESS_DEFAULT",
)

ADDRESS_DEFAULT = "127.0.0.1:7380"
ADDRESS_ENV = "STEPWIRE_ENGINE"
PAGE_SIZE = 100
"""Runs asked for at once by `list`."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class NamedFlow(Protocol):
    """A flow by its name; its output comes back as plain JSON value."""

    @property
    def name(self) -> str:
        """As hosts registered it."""


class TypedFlow(NamedFlow, Protocol[T_co]):
    """A flow that knows its types, e.g. what `@host.flow` makes of a function."""

    def encode_input(self, *args: Any, **kwargs: Any) -> Payload:
        """The input; raises InvalidInput."""

    def decode_output(self, payload: Payload) -> T_co:
        """The output, typed."""


class RunHandleSync(Generic[T]):
    """A run that was started, or named by its id.

    Attributes:
        run_id: Of the run.
        existing: The idempotency key was known: nothing was started.
    """

    def __init__(self, calls: RunCalls, run_id: str, decode: Callable[[Payload], T], *, existing: bool = False) -> None:
        self._calls = calls
        self._decode = decode
        self.run_id = run_id
        self.existing = existing

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.run_id}>"

    def result(self, timeout: float | None = None) -> T:
        """Wait until the run has ended; an engine that restarts meanwhile is waited for.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Raises:
            RunFailed: see its `.failure` for type, message and traceback.
            RunCancelled: the run was cancelled.
            TimeoutError: it has not ended yet; it goes on.
        """
        watch = RunWatch(self._calls, self.run_id, steps=False, timeout=timeout)
        with closing(watch.records()) as records:
            *_, last = records
        return _outcome(last, self._decode)

    def status(self) -> RunState:
        """The state of the run now. Raises RunNotFound, EngineUnavailable."""
        return self._calls.get(self.run_id, False).result().state

    def get(self, *, steps: bool = False) -> Run:
        """The record of the run now. Raises RunNotFound, EngineUnavailable."""
        return self._calls.get(self.run_id, steps).result()


class RunHandle(Generic[T]):
    """A run that was started, or named by its id; for coroutines.

    Attributes:
        run_id: Of the run.
        existing: The idempotency key was known: nothing was started.
    """

    def __init__(self, calls: RunCalls, run_id: str, decode: Callable[[Payload], T], *, existing: bool = False) -> None:
        self._calls = calls
        self._decode = decode
        self.run_id = run_id
        self.existing = existing

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.run_id}>"

    async def result(self, timeout: float | None = None) -> T:
        """Wait until the run has ended; an engine that restarts meanwhile is waited for.

        A waiting result holds a thread of this process. Cancelling it does not cancel the run.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Raises:
            RunFailed: see its `.failure` for type, message and traceback.
            RunCancelled: the run was cancelled.
            TimeoutError: it has not ended yet; it goes on.
        """
        watch = RunWatch(self._calls, self.run_id, steps=False, timeout=timeout)
        async with aclosing(records_of(watch)) as records:
            async for run in records:
                last = run
        return _outcome(last, self._decode)

    async def status(self) -> RunState:
        """The state of the run now. Raises RunNotFound, EngineUnavailable."""
        return (await self._calls.get(self.run_id, False).wait()).state

    async def get(self, *, steps: bool = False) -> Run:
        """The record of the run now. Raises RunNotFound, EngineUnavailable."""
        return await self._calls.get(self.run_id, steps).wait()


class _ClientBase:
    """What both clients are made of."""

    def __init__(self, address: str | None = None, *, codec: Codec = JSON_CODEC) -> None:
        self._codec = codec
        self._calls = RunCalls(engine_address(address), codec)

    @property
    def address(self) -> str:
        """Where the engine is looked for."""
        return self._calls.address

    def close(self) -> None:
        """Close the connection; calls on their way fail. Idempotent."""
        self._calls.close()

    def _request(self, flow: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Payload]:
        name = flow if isinstance(flow, str) else getattr(flow, "name", None)
        if not isinstance(name, str):
            raise ConfigurationError(
                f"cannot start {flow!r}", why="it is neither a flow nor the name of one", hint="give a flow or its name"
            )
        encode = None if isinstance(flow, str) else getattr(flow, "encode_input", None)
        if encode is not None:
            return name, encode(*args, **kwargs)
        if kwargs:
            raise ConfigurationError(
                f"flow {name!r} is given by name, but with named inputs {sorted(kwargs)}",
                why="only a flow object knows its parameters",
                hint="give one input value, for example a dict",
            )
        return name, encode_flow_input(args, codec=self._codec)

    def _decoder(self, flow: Any) -> Callable[[Payload], Any]:
        decode: Callable[[Payload], Any] | None = getattr(flow, "decode_output", None)
        return self._codec.decode if decode is None else decode


class ClientSync(_ClientBase):
    """Starts and watches runs from plain code. Safe to use from several threads.

    Args:
        address: "host:port" of the engine; by default the environment's STEPWIRE_ENGINE, else 127.0.0.1:7380.
        codec: Must be that of the hosts if they have their own.
    """

    @overload
    def start(self, flow: TypedFlow[T], /, *args: Any, id: str = "", **kwargs: Any) -> RunHandleSync[T]: ...
    @overload
    def start(self, flow: str | NamedFlow, /, *args: Any, id: str = "", **kwargs: Any) -> RunHandleSync[Any]: ...
    def start(self, flow: Any, /, *args: Any, id: str = "", **kwargs: Any) -> RunHandleSync[Any]:
        """Start a run; when this returns, the run is durable (MISSION T2).

        Args:
            flow: A flow, or the name of one.
            args, kwargs: The input: for a name at most one value that JSON can carry.
            id: Idempotency key, at most 256 bytes: starting again with it gives the same run.

        Raises:
            UnknownFlow, KeyConflict, InvalidInput, PayloadTooLarge, EngineUnavailable
        """
        name, payload = self._request(flow, args, kwargs)
        run_id, existing = self._calls.start(name, payload, id).result()
        return RunHandleSync(self._calls, run_id, self._decoder(flow), existing=existing)

    def handle(self, run_id: str, flow: Any = None) -> RunHandleSync[Any]:
        """A handle for a run by its id; with `flow` its result is typed. Asks nobody."""
        return RunHandleSync(self._calls, run_id, self._decoder(flow))

    def get(self, run_id: str, steps: bool = False) -> Run:
        """The record of a run now. Raises RunNotFound, EngineUnavailable."""
        return self._calls.get(run_id, steps).result()

    def list(
        self, *, flow: str = "", states: Iterable[RunState | str] = (), limit: int | None = None
    ) -> Generator[Run, None, None]:
        """Runs without steps, inputs and outputs, newest first.

        Args:
            flow: Only of this flow.
            states: Only in these states; none: all.
            limit: At most so many; None: all there are.
        """
        wanted, token = _states(states), ""
        for size in _page_sizes(limit):
            runs, token = self._calls.list(flow, wanted, size, token).result()
            yield from runs
            if not token:
                return

    def watch(self, run_id: str, *, steps: bool = False, timeout: float | None = None) -> Generator[Run, None, None]:
        """The run now and after its changes; ends after its terminal state. Slow readers get fewer records.

        Raises:
            TimeoutError: `timeout` seconds passed and the run has not ended.
            RunNotFound: there is no such run.
        """
        return RunWatch(self._calls, run_id, steps=steps, timeout=timeout).records()

    def resume(self, run_id: str) -> None:
        """Let a PAUSED run go on. Raises RunNotFound, or RunError with code WRONG_STATE."""
        self._calls.resume(run_id).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Client(_ClientBase):
    """Starts and watches runs from coroutines, in any asyncio loop; no call blocks the loop.

    Args:
        address: "host:port" of the engine; by default the environment's STEPWIRE_ENGINE, else 127.0.0.1:7380.
        codec: Must be that of the hosts if they have their own.
    """

    @overload
    async def start(self, flow: TypedFlow[T], /, *args: Any, id: str = "", **kwargs: Any) -> RunHandle[T]: ...
    @overload
    async def start(self, flow: str | NamedFlow, /, *args: Any, id: str = "", **kwargs: Any) -> RunHandle[Any]: ...
    async def start(self, flow: Any, /, *args: Any, id: str = "", **kwargs: Any) -> RunHandle[Any]:
        """Start a run; when this returns, the run is durable (MISSION T2).

        Args:
            flow: A flow, or the name of one.
            args, kwargs: The input: for a name at most one value that JSON can carry.
            id: Idempotency key, at most 256 bytes: starting again with it gives the same run.

        Raises:
            UnknownFlow, KeyConflict, InvalidInput, PayloadTooLarge, EngineUnavailable
        """
        name, payload = self._request(flow, args, kwargs)
        run_id, existing = await self._calls.start(name, payload, id).wait()
        return RunHandle(self._calls, run_id, self._decoder(flow), existing=existing)

    def handle(self, run_id: str, flow: Any = None) -> RunHandle[Any]:
        """A handle for a run by its id; with `flow` its result is typed. Asks nobody."""
        return RunHandle(self._calls, run_id, self._decoder(flow))

    async def get(self, run_id: str, steps: bool = False) -> Run:
        """The record of a run now. Raises RunNotFound, EngineUnavailable."""
        return await self._calls.get(run_id, steps).wait()

    async def list(
        self, *, flow: str = "", states: Iterable[RunState | str] = (), limit: int | None = None
    ) -> AsyncGenerator[Run, None]:
        """Runs without steps, inputs and outputs, newest first; arguments as of ClientSync.list."""
        wanted, token = _states(states), ""
        for size in _page_sizes(limit):
            runs, token = await self._calls.list(flow, wanted, size, token).wait()
            for run in runs:
                yield run
            if not token:
                return

    def watch(self, run_id: str, *, steps: bool = False, timeout: float | None = None) -> AsyncGenerator[Run, None]:
        """The run now and after its changes; ends after its terminal state. Slow readers get fewer records.

        It holds a thread of this process until it ends or is closed (`contextlib.aclosing`).

        Raises:
            TimeoutError: `timeout` seconds passed and the run has not ended.
            RunNotFound: there is no such run.
        """
        return records_of(RunWatch(self._calls, run_id, steps=steps, timeout=timeout))

    async def resume(self, run_id: str) -> None:
        """Let a PAUSED run go on. Raises RunNotFound, or RunError with code WRONG_STATE."""
        await self._calls.resume(run_id).wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def engine_address(address: str | None = None) -> str:
    """The engine's address: the argument, else the environment's STEPWIRE_ENGINE, else the default."""
    return address or os.environ.get(ADDRESS_ENV) or ADDRESS_DEFAULT


def _outcome(run: Run, decode: Callable[[Payload], T]) -> T:
    match run.state:
        case RunState.SUCCEEDED:
            return decode(run.output_payload or NULL)
        case RunState.CANCELLED:
            raise RunCancelled(f"run {run.run_id} was cancelled")
        case _:
            failure = run.failure or Failure(ErrorCode.INTERNAL, "Unknown", "its record has no failure")
            failed = RunFailed(failure, run.run_id)
            if failure.cause is not None:
                failed.__cause__ = error_from_failure(failure.cause)
            raise failed


def _states(states: Iterable[RunState | str]) -> tuple[RunState, ...]:
    try:
        return tuple(RunState(state) for state in states)
    except ValueError as unknown:
        names = ", ".join(RunState)
        raise ConfigurationError(f"{unknown}", why="runs have other states", hint=f"use {names}") from None


def _page_sizes(limit: int | None) -> Iterator[int]:
    """How many runs to ask for next, for ever or until there are `limit`."""
    left = limit
    while left is None or left > 0:
        size = PAGE_SIZE if left is None else min(PAGE_SIZE, left)
        yield size
        left = None if left is None else left - size
