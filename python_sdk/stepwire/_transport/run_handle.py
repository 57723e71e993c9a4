"""A run in the hands of whoever started it: wait for its result, look at it, cancel it.

`stepwire.client` exports the handles. They decide nothing about runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from stepwire._transport.run_calls import RunCalls, StartOutcome
from stepwire._transport.run_ends import RunEnds
from stepwire._transport.run_logs import LogFilter, LogLines, LogLinesSync, level_number
from stepwire._transport.run_record import Run, RunState
from stepwire.errors import PartlyStarted, RunCancelled, RunFailed, StepwireError, error_from_failure
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.payload import NULL, Payload

T = TypeVar("T")


class _Handle(Generic[T]):
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

    def _outcome(self, ended: Mapping[str, Run]) -> T:
        """What the run returned. Raises RunFailed, RunCancelled."""
        return outcome(ended[self.run_id], self._decode)


class RunHandleSync(_Handle[T]):
    """A run that was started, or named by its id."""

    def result(self, timeout: float | None = None) -> T:
        """Wait until the run has ended; an engine that restarts meanwhile is waited for.

        A run that ended with `ctx.restart_with` is followed: the result is that of its last successor.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Raises:
            RunFailed: see its `.failure` for type, message and traceback.
            RunCancelled: the run was cancelled.
            TimeoutError: it has not ended yet; it goes on.
        """
        return self._outcome(RunEnds(self._calls, (self.run_id,), timeout=timeout).collect())

    def status(self) -> RunState:
        """The state of the run now. Raises RunNotFound, EngineUnavailable."""
        return self._calls.get(self.run_id, False).result().state

    def get(self, *, steps: bool = False) -> Run:
        """The record of the run now. Raises RunNotFound, EngineUnavailable."""
        return self._calls.get(self.run_id, steps).result()

    def logs(self, *, path: str = "", attempt: int = 0, level: int | str = 0, after: int = 0) -> LogLinesSync:
        """What the run logged, see `ClientSync.logs`."""
        wanted = LogFilter(self.run_id, path, attempt, level_number(level))
        return LogLinesSync(lambda number: self._calls.logs(wanted, number).result(), after)

    def cancel(self, *, undo: bool | None = None) -> None:
        """Cancel the run, see `ClientSync.cancel`."""
        self._calls.cancel(self.run_id, undo).result()


class RunHandle(_Handle[T]):
    """A run that was started, or named by its id; for coroutines."""

    async def result(self, timeout: float | None = None) -> T:
        """Wait until the run has ended; an engine that restarts meanwhile is waited for.

        A run that ended with `ctx.restart_with` is followed: the result is that of its last successor. Cancelling
        this does not cancel the run.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Raises:
            RunFailed: see its `.failure` for type, message and traceback.
            RunCancelled: the run was cancelled.
            TimeoutError: it has not ended yet; it goes on.
        """
        return self._outcome(await RunEnds(self._calls, (self.run_id,), timeout=timeout).wait())

    async def status(self) -> RunState:
        """The state of the run now. Raises RunNotFound, EngineUnavailable."""
        return (await self._calls.get(self.run_id, False).wait()).state

    async def get(self, *, steps: bool = False) -> Run:
        """The record of the run now. Raises RunNotFound, EngineUnavailable."""
        return await self._calls.get(self.run_id, steps).wait()

    def logs(self, *, path: str = "", attempt: int = 0, level: int | str = 0, after: int = 0) -> LogLines:
        """What the run logged, see `Client.logs`."""
        wanted = LogFilter(self.run_id, path, attempt, level_number(level))
        return LogLines(lambda number: self._calls.logs(wanted, number).wait(), after)

    async def cancel(self, *, undo: bool | None = None) -> None:
        """Cancel the run, see Client.cancel."""
        await self._calls.cancel(self.run_id, undo).wait()


H = TypeVar("H", bound=_Handle[Any])


def outcomes(handles: Sequence[_Handle[T]], ended: Mapping[str, Run], return_exceptions: bool) -> list[Any]:
    """What runs returned, in the order of their handles.

    Raises:
        StepwireError: of the first that returned nothing, or what cannot be read; unless they are to be returned.
    """
    made: list[Any] = []
    for handle in handles:
        try:
            made.append(handle._outcome(ended))
        except StepwireError as error:
            if not return_exceptions:
                raise
            made.append(error)
    return made


def started(make: Callable[[str, bool], H], told: Iterable[StartOutcome]) -> list[H]:
    """Handles of runs that were started together.

    Raises:
        PartlyStarted: some were refused; it has the handles of the others.
        StepwireError: all were refused, this is the first one's.
    """
    told = list(told)
    errors = [outcome.error for outcome in told]
    refused = [error for error in errors if error is not None]
    handles = [make(outcome.run_id, outcome.existing) if outcome.error is None else None for outcome in told]
    if not refused:
        return [handle for handle in handles if handle is not None]
    if len(refused) == len(told):
        raise refused[0]
    raise PartlyStarted(handles, errors) from refused[0]


def outcome(run: Run, decode: Callable[[Payload], T]) -> T:
    """What an ended run returned. Raises RunFailed, RunCancelled."""
    match run.state:
        case RunState.SUCCEEDED:
            return decode(run.output_payload or NULL)
        case RunState.CANCELLED:
            raise _cancelled(run)
        case _:
            failure = run.failure or Failure(ErrorCode.INTERNAL, "Unknown", "its record has no failure")
            failed = RunFailed(failure, run.run_id)
            if failure.cause is not None:
                failed.__cause__ = error_from_failure(failure.cause)
            raise failed


def _cancelled(run: Run) -> RunCancelled:
    parent = f", or with its parent run {run.parent_run_id}" if run.parent_run_id else ""
    by = f"by a client{',' if parent else ' or'} by the flow itself{parent}"
    return RunCancelled(
        f"run {run.run_id} of flow {run.flow!r} was cancelled",
        why=run.failure.message if run.failure is not None else by,
        hint=f"see what it did and what was undone with `stepwire runs show {run.run_id}`",
    )
