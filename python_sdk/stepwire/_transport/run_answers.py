"""A call of RunService until its answer is here, made again where that is safe: for threads and for coroutines."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError

from stepwire._transport.run_errors import CALL_SECONDS, code_of, error_from_rpc, retry_after_of
from stepwire.errors import ProtocolError
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.wire import WireError

RECONNECT_SECONDS = 1.0
"""How long a call that may be repeated waits for an engine whose connection turned out to be dead."""
BUSY_TRIES = 5
"""How often a call is made that an engine refuses because too much is in progress; nothing of it was done."""
BUSY_SECONDS_MAX = 5.0
"""Longest pause before the next try, without jitter, whatever the engine asks for."""
T = TypeVar("T")


class Pending(Generic[T]):
    """A call to be made, or on its way. Either `result` or `wait` gives its answer.

    Args:
        method: Opens the connection, if there is none.
        repeatable: A connection whose engine was restarted shows only at the next call that it is dead; a call that
            may be repeated does not let anybody see that.
        until: When somebody's patience ends, by the monotonic clock; each try has a second all the same. None: never.
    """

    def __init__(
        self,
        method: Callable[[], Any],
        data: bytes,
        read: Callable[[bytes], T],
        address: str,
        repeatable: bool,
        jitter: random.Random,
        until: float | None = None,
    ) -> None:
        self._method = method
        self._data = data
        self._read = read
        self._address = address
        self._repeatable = repeatable
        self._random = jitter
        self._until = until
        self._options = self._patiently()
        self._tries = 1
        self._future: Any = None
        self._first: grpc.RpcError | None = None

    def begun(self) -> Self:
        """Make the call, and let it be on its way while others are made."""
        if self._future is None:
            self._future = self._method().future(self._data, **self._options)
        return self

    def result(self) -> T:
        """Block until the answer is here. Raises StepwireError."""
        while True:
            try:
                data = self._answer()
            except grpc.RpcError as error:
                threading.Event().wait(self.again(error))
            else:
                return readable(self._read, data)

    def _answer(self) -> bytes:
        if self._future is None:
            # Read by this thread itself: a future needs another one, which would be made for this call.
            answer: bytes = self._method()(self._data, **self._options)
            return answer
        future, self._future = self._future, None
        answer = future.result()
        return answer

    def _patiently(self) -> dict[str, Any]:
        left = CALL_SECONDS if self._until is None else self._until - time.monotonic()
        return {"timeout": min(CALL_SECONDS, max(RECONNECT_SECONDS, left))}

    def again(self, error: grpc.RpcError) -> float:
        """How long to pause before the call is made again that ended so. Raises StepwireError if it is not."""
        code = code_of(error)
        if self._repeatable and error.code() is grpc.StatusCode.UNAVAILABLE and code is None:
            self._repeatable = False
            self._first = error  # The engine never had it.
            self._options = {"timeout": RECONNECT_SECONDS, "wait_for_ready": True}
            return 0.0
        wanted = retry_after_of(error)
        if code is ErrorCode.LIMIT_EXCEEDED and wanted is not None and self._tries < BUSY_TRIES:
            self._tries += 1
            self._options = self._patiently()
            pause = min(wanted, BUSY_SECONDS_MAX) * self._random.uniform(1.0, 2.0)
            if self._until is None or time.monotonic() + pause < self._until:
                return pause
        if self._first is not None and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            error = self._first  # Nobody came back; that is what there is to say.
        raise error_from_rpc(error, self._address) from None

    async def wait(self) -> T:
        """The same for a coroutine; cancelling it cancels the call. Raises StepwireError."""
        while True:
            future = self.begun()._future
            await over(future)
            failed = future.exception() if not future.cancelled() else None
            if not isinstance(failed, grpc.RpcError):
                return self.result()
            self._future = None
            await asyncio.sleep(self.again(failed))


async def over(future: Any) -> None:
    """Wait until a call of gRPC is over; cancelling that cancels the call."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def notify(_: object) -> None:
        try:
            loop.call_soon_threadsafe(done.set)
        except RuntimeError:
            pass  # the loop was closed; nobody waits any more

    future.add_done_callback(notify)
    try:
        await done.wait()
    finally:
        future.cancel()  # of no effect once it is done


class OneAnswer:
    """A call with a single answer, read as a stream of that answer; it raises what a stream would.

    Args:
        cancellable: `cancel` may be called, by another thread. Otherwise the thread that reads needs no help.

    Attributes:
        future: The call itself, if it is cancellable.
    """

    def __init__(self, method: Any, data: bytes, options: dict[str, Any], cancellable: bool) -> None:
        self._method = method
        self._data = data
        self._options = options
        self.future: Any = method.future(data, **options) if cancellable else None

    def __iter__(self) -> Iterator[bytes]:
        try:
            if self.future is None:
                yield self._method(self._data, **self._options)
            else:
                yield self.future.result()
        except grpc.FutureCancelledError:
            pass  # Whoever did that knows.

    def cancel(self) -> None:
        if self.future is not None:
            self.future.cancel()


def readable(read: Callable[[bytes], T], data: bytes) -> T:
    """What `read` makes of an answer. Raises ProtocolError if it cannot."""
    try:
        return read(data)
    except (DecodeError, WireError) as problem:
        raise ProtocolError("the engine's answer cannot be read", why=str(problem)) from None
