"""A run that is started and awaited with one call: what that call leaves open is asked for with others.

The run has a key in any case, so that Start says what became of a call that was cut, and starts nothing twice. Once
its id is known everything goes on as in `RunEnds`.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from typing import NoReturn

import grpc

from stepwire._transport.run_answers import OneAnswer, Pending, over
from stepwire._transport.run_calls import RunCalls
from stepwire._transport.run_ends import RunEnds
from stepwire._transport.run_errors import code_of, run_id_of
from stepwire._transport.run_record import Run
from stepwire.errors import EngineUnavailable
from stepwire.protocol.payload import Payload


class RunOnce(RunEnds):
    """How one run ended.

    Args:
        id: Idempotency key; empty: one is made up.
        timeout: Seconds for start and end; None: no limit.
    """

    def __init__(self, calls: RunCalls, flow: str, payload: Payload, id: str, *, timeout: float | None) -> None:
        super().__init__(calls, (), timeout=timeout)
        self._flow = flow
        self._payload = payload
        self._key = id or secrets.token_hex(16)
        self._run_id = ""
        self._start: Pending[tuple[str, bool]] | None = None

    def run(self) -> Run:
        """Block until it has ended; of a chain of successors the last record.

        Raises:
            TimeoutError: the time is over and it has not ended.
            StepwireError: the engine refuses to start it, or to say how it ended.
        """
        while (call := self._one_call(cancellable=False)) is not None:
            try:
                for data in call:
                    self._take(data)
                break
            except grpc.RpcError as error:
                if (pause := self._pause_after(error)) is None:
                    break
            finally:
                self._calls.one_calls.release()
            threading.Event().wait(pause)
        if not self._run_id:
            try:
                self._await(self._plain_start().result()[0])
            except EngineUnavailable as problem:
                self._raise_unknown(problem)
        return self.collect()[self._run_id]

    async def wait_run(self) -> Run:
        """`run` for a coroutine; cancelling it ends the wait."""
        while (call := self._one_call(cancellable=True)) is not None:
            try:
                await over(call.future)
            finally:
                self._calls.one_calls.release()
            failed = call.future.exception()
            if not isinstance(failed, grpc.RpcError):
                self._take(call.future.result())
                break
            if (pause := self._pause_after(failed)) is None:
                break
            await asyncio.sleep(pause)
        if not self._run_id:
            try:
                self._await((await self._plain_start().wait())[0])
            except EngineUnavailable as problem:
                self._raise_unknown(problem)
        return (await self.wait())[self._run_id]

    def _one_call(self, cancellable: bool) -> OneAnswer | None:
        """None: there is no time for it, there are very many already, or the engine does not know it."""
        left = None if self._deadline is None else self._deadline - time.monotonic()
        if not self._calls.starts_and_awaits or (left is not None and left <= 0):
            return None
        if not self._calls.one_calls.acquire(blocking=False):
            return None
        try:
            return self._calls.start_and_end(self._flow, self._payload, self._key, left, cancellable)
        except BaseException:
            self._calls.one_calls.release()
            raise

    def _take(self, data: bytes) -> None:
        run = self._calls.started_and_ended(data)
        self._await(run.run_id)
        self._note(run)

    def _await(self, run_id: str) -> None:
        self._run_id = run_id
        self._left = {run_id: {run_id}}

    def _pause_after(self, error: grpc.RpcError) -> float | None:
        """How long to pause before the one call again; None: others go on. Raises what Start would."""
        if run_id := run_id_of(error):
            self._await(run_id)
            return None
        if code_of(error) is not None:
            return self._plain_start().again(error)
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            self._calls.starts_and_awaits = False
        return None

    def _plain_start(self) -> Pending[tuple[str, bool]]:
        if self._start is None:
            self._start = self._calls.start(self._flow, self._payload, self._key, until=self._deadline)
        return self._start

    def _raise_unknown(self, problem: EngineUnavailable) -> NoReturn:
        """Whether a run was started cannot be known now."""
        again = f"ask again with id={self._key!r}, which gives the same run"
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise TimeoutError(
                f"flow {self._flow!r} gave no result within {self._timeout:g} s; the engine at {self._calls.address} "
                f"has not said whether a run was started\n  next: {again}"
            ) from problem
        problem.add_note(f"if a run was started all the same: {again}")
        raise problem
