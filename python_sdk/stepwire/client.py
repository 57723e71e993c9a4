"""Runs and events from outside: `ClientSync` for plain code, `Client` for coroutines (MISSION T1, T2, S20).

Both use the same synchronous gRPC channel, which lives in its own threads, so a client may be made anywhere:
before a fork, at import time, in several loops. Nothing is connected before the first call.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar, overload

from stepwire._transport.explanation import Explanation, Holder, OpenStep, ServiceStatus
from stepwire._transport.run_calls import RunCalls, StartOutcome
from stepwire._transport.run_ends import RunEnds
from stepwire._transport.run_handle import RunHandle, RunHandleSync, outcome, outcomes, started
from stepwire._transport.run_logs import LoggedLine, LogLines, LogLinesSync
from stepwire._transport.run_once import RunOnce
from stepwire._transport.run_record import (
    AttemptRecord,
    GroupRecord,
    Run,
    RunPhase,
    RunState,
    RunStats,
    StepRecord,
    StepState,
    WaitReason,
)
from stepwire._transport.run_requests import (
    OPEN_STATES,
    flow_name,
    open_states,
    page_sizes,
    run_states,
    sent_event,
    start_batches,
    start_ids,
    unless_over,
)
from stepwire._transport.run_watch import RunWatch, records_of
from stepwire.codec import JSON_CODEC, Codec, encode_flow_input
from stepwire.errors import ConfigurationError, StepwireError
from stepwire.events import Event
from stepwire.protocol.payload import Payload
from stepwire.redaction import Redacted

__all__ = (
    "Client",
    "ClientSync",
    "RunHandle",
    "RunHandleSync",
    "Run",
    "RunPhase",
    "RunState",
    "RunStats",
    "StepRecord",
    "StepState",
    "AttemptRecord",
    "GroupRecord",
    "WaitReason",
    "Redacted",
    "Explanation",
    "Holder",
    "OpenStep",
    "ServiceStatus",
    "LoggedLine",
    "LogLines",
    "LogLinesSync",
    "ADDRESS_DEFAULT",
)

ADDRESS_DEFAULT = "127.0.0.1:7380"
ADDRESS_ENV = "STEPWIRE_ENGINE"
PAGE_SIZE = 100
"""Runs asked for at once by `list`, and cancelled at once by `cancel_all`."""

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
        name = flow_name(flow)
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
    """Starts, watches and cancels runs and sends events, from plain code. Safe to use from several threads.

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

    @overload
    def run(
        self, flow: TypedFlow[T], /, *args: Any, id: str = "", timeout: float | None = None, **kwargs: Any
    ) -> T: ...
    @overload
    def run(
        self, flow: str | NamedFlow, /, *args: Any, id: str = "", timeout: float | None = None, **kwargs: Any
    ) -> Any: ...
    def run(self, flow: Any, /, *args: Any, id: str = "", timeout: float | None = None, **kwargs: Any) -> Any:
        """Start a run and wait for what it returns, with one call instead of two.

        The run is durable before anything waits for it. An engine that restarts meanwhile is waited for, and nothing
        is started twice, also without `id`. Whoever stops waiting, by Ctrl-C too, does not stop the run.

        Args:
            flow, args, kwargs, id: As of `start`.
            timeout: Seconds for start and result; None waits as long as it takes.

        Returns:
            What the run returned; of one that ended with `ctx.restart_with`, its last successor.

        Raises:
            UnknownFlow, KeyConflict, InvalidInput, PayloadTooLarge, EngineUnavailable: as `start`.
            RunFailed, RunCancelled: as `result` of a handle.
            TimeoutError: it has not ended, and goes on. The text names the run, or the id with which to ask again.
        """
        name, payload = self._request(flow, args, kwargs)
        return outcome(RunOnce(self._calls, name, payload, id, timeout=timeout).run(), self._decoder(flow))

    @overload
    def start_many(
        self, flow: TypedFlow[T], inputs: Iterable[Any], *, ids: Iterable[str] | None = None
    ) -> builtins.list[RunHandleSync[T]]: ...
    @overload
    def start_many(
        self, flow: str | NamedFlow, inputs: Iterable[Any], *, ids: Iterable[str] | None = None
    ) -> builtins.list[RunHandleSync[Any]]: ...
    def start_many(
        self, flow: Any, inputs: Iterable[Any], *, ids: Iterable[str] | None = None
    ) -> builtins.list[RunHandleSync[Any]]:
        """Start a run for each input, a thousand with one call: several times cheaper than one by one.

        When this returns, every run is durable. Each is a run of its own; nothing ties them together.

        Args:
            flow: A flow, or the name of one.
            inputs: One input value for each run, as the flow's only argument.
            ids: Idempotency keys, one for each input; "" for none.

        Returns:
            Handles in the order of the inputs.

        Raises:
            PartlyStarted: some were refused; it has the handles of those that were not.
            UnknownFlow, KeyConflict, InvalidInput, PayloadTooLarge: no run was started.
            EngineUnavailable: no answer came. A call whose answer is missing, here or in PartlyStarted, may have
                started its runs all the same: with ids it is safe to repeat.
            ConfigurationError: there is not one id for each input.
        """
        name, decode = flow_name(flow), self._decoder(flow)
        payloads = [self._request(flow, (value,), {})[1] for value in inputs]
        given = start_ids(ids, len(payloads))
        told: builtins.list[StartOutcome] = []
        try:
            for part, keys in start_batches(name, payloads, given):
                told += self._calls.start_many(name, part, keys).result()
        except StepwireError as problem:
            told += [StartOutcome("", False, problem)] * (len(payloads) - len(told))
        return started(lambda run_id, known: RunHandleSync(self._calls, run_id, decode, existing=known), told)

    @overload
    def results(
        self,
        runs: Iterable[RunHandleSync[T]],
        *,
        timeout: float | None = None,
        return_exceptions: Literal[False] = False,
    ) -> builtins.list[T]: ...
    @overload
    def results(
        self, runs: Iterable[RunHandleSync[T]], *, timeout: float | None = None, return_exceptions: bool
    ) -> builtins.list[T | StepwireError]: ...
    def results(
        self, runs: Iterable[RunHandleSync[Any]], *, timeout: float | None = None, return_exceptions: bool = False
    ) -> builtins.list[Any]:
        """Wait until all runs have ended, with one stream for a thousand of them.

        Args:
            runs: Handles of this client.
            timeout: Seconds for all of them; None: as long as it takes.
            return_exceptions: What `result` of a handle would raise takes its place, as with `asyncio.gather`.

        Returns:
            What the runs returned, in the order of the handles.

        Raises:
            RunFailed, RunCancelled: of the first such run in that order, once all have ended.
            TimeoutError: not all have ended; they go on.
            RunNotFound: there is no such run; the others are not waited for.
        """
        handles = builtins.list(runs)
        ends = RunEnds(self._calls, [handle.run_id for handle in handles], timeout=timeout)
        return outcomes(handles, ends.collect(), return_exceptions)

    def handle(self, run_id: str, flow: Any = None) -> RunHandleSync[Any]:
        """A handle for a run by its id; with `flow` its result is typed. Asks nobody."""
        return RunHandleSync(self._calls, run_id, self._decoder(flow))

    def get(self, run_id: str, steps: bool = False) -> Run:
        """The record of a run now. Raises RunNotFound, EngineUnavailable."""
        return self._calls.get(run_id, steps).result()

    def explain(self, run_id: str) -> Explanation:
        """Why a run does not move at this moment, with its record and steps. Raises RunNotFound, EngineUnavailable."""
        return self._calls.explain(run_id).result()

    def list(
        self, *, flow: str = "", states: Iterable[RunState | str] = (), limit: int | None = None
    ) -> Generator[Run, None, None]:
        """Runs without steps, inputs and outputs, newest first.

        Args:
            flow: Only of this flow.
            states: Only in these states; none: all.
            limit: At most so many; None: all there are.
        """
        wanted, token = run_states(states), ""
        for size in page_sizes(limit, PAGE_SIZE):
            runs, token = self._calls.list(flow, wanted, size, token).result()
            yield from runs
            if not token:
                return

    def watch(
        self, run_id: str, *, steps: bool = False, timeout: float | None = None, follow: bool = False
    ) -> Generator[Run, None, None]:
        """The run now and after its changes; ends after its terminal state. Slow readers get fewer records.

        Args:
            steps: With steps and groups.
            timeout: Seconds; None: as long as it takes.
            follow: Goes on with the successors of a run that ended with `ctx.restart_with`.

        Raises:
            TimeoutError: `timeout` seconds passed and the run has not ended.
            RunNotFound: there is no such run.
        """
        return RunWatch(self._calls, run_id, steps=steps, timeout=timeout, follow=follow).records()

    def logs(
        self, run_id: str, *, path: str = "", attempt: int = 0, level: int | str = 0, after: int = 0
    ) -> LogLinesSync:
        """What flow and steps of a run logged and the engine has kept, oldest first, up to the newest (MISSION V1).

        The iterator's `dropped` counts lines that are missing, and its `next` is what to give as `after` later.

        Args:
            path: Of this step or branch only.
            attempt: Of this attempt only.
            level: Of this level and above, a number or a name.
            after: Only lines after this number.

        Raises:
            RunNotFound, EngineUnavailable: when it is iterated.
            ValueError: there is no such level.
        """
        return self.handle(run_id).logs(path=path, attempt=attempt, level=level, after=after)

    def resume(self, run_id: str) -> None:
        """Let a PAUSED run go on. Raises RunNotFound, or RunError with code WRONG_STATE."""
        self._calls.resume(run_id).result()

    def cancel(self, run_id: str, *, undo: bool | None = None) -> None:
        """Cancel a run (MISSION S20). When this returns, the decision is durable; the run ends soon after.

        Its attempts in progress are told to stop, nothing new of it begins, and the runs it invoked are cancelled
        with it. Cancelling a run that is being cancelled already changes nothing.

        Args:
            undo: Whether its completed steps are compensated; None: as the flow says (`undo_on_cancel`).

        Raises:
            RunNotFound, EngineUnavailable
            RunError: with code WRONG_STATE: it has ended, or failed and is being compensated.
        """
        self._calls.cancel(run_id, undo).result()

    def cancel_all(
        self,
        *,
        flow: str | NamedFlow,
        states: Iterable[RunState | str] = OPEN_STATES,
        undo: bool | None = None,
    ) -> tuple[str, ...]:
        """Cancel the open runs of a flow, newest first; those that start meanwhile are left alone.

        Args:
            flow: The flow or its name; "" means every flow.
            states: Only runs in these states; by default in any that has not ended.
            undo: As of `cancel`.

        Returns:
            The ids of the runs that were cancelled; without those that ended by themselves meanwhile.

        Raises:
            EngineUnavailable: some may have been cancelled; it is safe to call again.
            ConfigurationError: a state is not that of an open run.
        """
        name, wanted, token = flow_name(flow), open_states(states), ""
        cancelled: list[str] = []
        while True:
            runs, token = self._calls.list(name, wanted, PAGE_SIZE, token).result()
            asked = [(run.run_id, self._calls.cancel(run.run_id, undo).begun()) for run in runs]
            for run_id, pending in asked:
                with unless_over():
                    pending.result()
                    cancelled.append(run_id)
            if not token:
                return tuple(cancelled)

    def send(self, event: Event | str, data: Any = None, *, id: str = "", at: datetime | None = None) -> str:
        """Send an event: flows that wait for it go on, flows that it triggers start (MISSION T1).

        When this returns, the event is durable.

        Args:
            event: The event, or its name, 1..256 bytes.
            data: With a name: any JSON value.
            id: With a name: the engine accepts an id once within its window. Empty: a new one.
            at: With a name: when it is delivered, with time zone, at most 366 days ahead; None or past: at once.

        Returns:
            The event's id.

        Raises:
            ValueError: name or id is out of bounds, or `at` has no time zone.
            ConfigurationError: the data are no JSON, or an Event was given and data, id or at besides.
            PayloadTooLarge, EngineUnavailable, RunError
        """
        return self._calls.send_event(sent_event(event, data, id, at)).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Client(_ClientBase):
    """Starts, watches and cancels runs and sends events, from coroutines in any asyncio loop; no call blocks it.

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

    @overload
    async def run(
        self, flow: TypedFlow[T], /, *args: Any, id: str = "", timeout: float | None = None, **kwargs: Any
    ) -> T: ...
    @overload
    async def run(
        self, flow: str | NamedFlow, /, *args: Any, id: str = "", timeout: float | None = None, **kwargs: Any
    ) -> Any: ...
    async def run(self, flow: Any, /, *args: Any, id: str = "", timeout: float | None = None, **kwargs: Any) -> Any:
        """Start a run and wait for what it returns, with one call; everything as of ClientSync.run.

        Cancelling this does not cancel the run.
        """
        name, payload = self._request(flow, args, kwargs)
        ended = await RunOnce(self._calls, name, payload, id, timeout=timeout).wait_run()
        return outcome(ended, self._decoder(flow))

    @overload
    async def start_many(
        self, flow: TypedFlow[T], inputs: Iterable[Any], *, ids: Iterable[str] | None = None
    ) -> builtins.list[RunHandle[T]]: ...
    @overload
    async def start_many(
        self, flow: str | NamedFlow, inputs: Iterable[Any], *, ids: Iterable[str] | None = None
    ) -> builtins.list[RunHandle[Any]]: ...
    async def start_many(
        self, flow: Any, inputs: Iterable[Any], *, ids: Iterable[str] | None = None
    ) -> builtins.list[RunHandle[Any]]:
        """Start a run for each input, a thousand with one call; everything as of ClientSync.start_many."""
        name, decode = flow_name(flow), self._decoder(flow)
        payloads = [self._request(flow, (value,), {})[1] for value in inputs]
        given = start_ids(ids, len(payloads))
        told: builtins.list[StartOutcome] = []
        try:
            for part, keys in start_batches(name, payloads, given):
                told += await self._calls.start_many(name, part, keys).wait()
        except StepwireError as problem:
            told += [StartOutcome("", False, problem)] * (len(payloads) - len(told))
        return started(lambda run_id, known: RunHandle(self._calls, run_id, decode, existing=known), told)

    @overload
    async def results(
        self, runs: Iterable[RunHandle[T]], *, timeout: float | None = None, return_exceptions: Literal[False] = False
    ) -> builtins.list[T]: ...
    @overload
    async def results(
        self, runs: Iterable[RunHandle[T]], *, timeout: float | None = None, return_exceptions: bool
    ) -> builtins.list[T | StepwireError]: ...
    async def results(
        self, runs: Iterable[RunHandle[Any]], *, timeout: float | None = None, return_exceptions: bool = False
    ) -> builtins.list[Any]:
        """Wait until all runs have ended, with one stream and one thread; everything as of ClientSync.results."""
        handles = builtins.list(runs)
        ends = RunEnds(self._calls, [handle.run_id for handle in handles], timeout=timeout)
        return outcomes(handles, await ends.wait(), return_exceptions)

    def handle(self, run_id: str, flow: Any = None) -> RunHandle[Any]:
        """A handle for a run by its id; with `flow` its result is typed. Asks nobody."""
        return RunHandle(self._calls, run_id, self._decoder(flow))

    async def get(self, run_id: str, steps: bool = False) -> Run:
        """The record of a run now. Raises RunNotFound, EngineUnavailable."""
        return await self._calls.get(run_id, steps).wait()

    async def explain(self, run_id: str) -> Explanation:
        """Why a run does not move at this moment; everything as of ClientSync.explain."""
        return await self._calls.explain(run_id).wait()

    async def list(
        self, *, flow: str = "", states: Iterable[RunState | str] = (), limit: int | None = None
    ) -> AsyncGenerator[Run, None]:
        """Runs without steps, inputs and outputs, newest first; arguments as of ClientSync.list."""
        wanted, token = run_states(states), ""
        for size in page_sizes(limit, PAGE_SIZE):
            runs, token = await self._calls.list(flow, wanted, size, token).wait()
            for run in runs:
                yield run
            if not token:
                return

    def watch(
        self, run_id: str, *, steps: bool = False, timeout: float | None = None, follow: bool = False
    ) -> AsyncGenerator[Run, None]:
        """The run now and after its changes; ends after its terminal state. Slow readers get fewer records.

        It holds a thread of this process until it ends or is closed (`contextlib.aclosing`).

        Args:
            steps, timeout, follow: As of `ClientSync.watch`.

        Raises:
            TimeoutError: `timeout` seconds passed and the run has not ended.
            RunNotFound: there is no such run.
        """
        return records_of(RunWatch(self._calls, run_id, steps=steps, timeout=timeout, follow=follow))

    def logs(self, run_id: str, *, path: str = "", attempt: int = 0, level: int | str = 0, after: int = 0) -> LogLines:
        """What flow and steps of a run logged; everything as of ClientSync.logs."""
        return self.handle(run_id).logs(path=path, attempt=attempt, level=level, after=after)

    async def resume(self, run_id: str) -> None:
        """Let a PAUSED run go on. Raises RunNotFound, or RunError with code WRONG_STATE."""
        await self._calls.resume(run_id).wait()

    async def cancel(self, run_id: str, *, undo: bool | None = None) -> None:
        """Cancel a run; everything as of ClientSync.cancel (MISSION S20)."""
        await self._calls.cancel(run_id, undo).wait()

    async def cancel_all(
        self,
        *,
        flow: str | NamedFlow,
        states: Iterable[RunState | str] = OPEN_STATES,
        undo: bool | None = None,
    ) -> tuple[str, ...]:
        """Cancel the open runs of a flow, newest first; everything as of ClientSync.cancel_all."""
        name, wanted, token = flow_name(flow), open_states(states), ""
        cancelled: list[str] = []
        while True:
            runs, token = await self._calls.list(name, wanted, PAGE_SIZE, token).wait()
            asked = [(run.run_id, self._calls.cancel(run.run_id, undo).begun()) for run in runs]
            for run_id, pending in asked:
                with unless_over():
                    await pending.wait()
                    cancelled.append(run_id)
            if not token:
                return tuple(cancelled)

    async def send(self, event: Event | str, data: Any = None, *, id: str = "", at: datetime | None = None) -> str:
        """Send an event; everything as of ClientSync.send (MISSION T1)."""
        return await self._calls.send_event(sent_event(event, data, id, at)).wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def engine_address(address: str | None = None) -> str:
    """The engine's address: the argument, else the environment's STEPWIRE_ENGINE, else the default."""
    return address or os.environ.get(ADDRESS_ENV) or ADDRESS_DEFAULT
