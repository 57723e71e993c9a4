"""Calls of RunService over a synchronous gRPC channel: the mapping of requests, answers and errors.

Channels are made at the first call and again in a forked child, whose copies of them are unusable. There is
no grpc.aio here: its loop would compete with that of the user's process (DESIGN 6).
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from stepwire._tracing import current_traceparent
from stepwire._transport.explanation import Explanation, explanation_from_pb
from stepwire._transport.run_errors import CALL_SECONDS, code_of, error_from_rpc, refused, retry_after_of
from stepwire._transport.run_logs import PAGE_LINES, LogFilter, LogPage, page_from_pb
from stepwire._transport.run_record import RECEIVE_BYTES_MAX, Run, RunState, run_from_pb, state_number
from stepwire.codec import Codec
from stepwire.errors import EngineBusy, ProtocolError, RunError, StepwireError
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Event
from stepwire.protocol.wire import WireError, payload_to_pb, timestamp_to_pb
from stepwire.v1 import run_service_pb2 as pb

RECONNECT_SECONDS = 1.0
"""How long a call that may be repeated waits for an engine whose connection turned out to be dead."""
BUSY_TRIES = 5
"""How often a call is made that an engine refuses because too much is in progress; nothing of it was done."""
BUSY_SECONDS_MAX = 5.0
"""Longest pause before the next try, without jitter, whatever the engine asks for."""
_SERVICE = "/stepwire.v1.RunService/"
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # The engine's server permits a ping per 5 s; without any, a peer that vanished is noticed after minutes.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
T = TypeVar("T")
Answer = TypeVar("Answer", bound=Message)


class Pending(Generic[T]):
    """A call to be made, or on its way. Either `result` or `wait` gives its answer.

    Args:
        method: Opens the connection, if there is none.
        repeatable: A connection whose engine was restarted shows only at the next call that it is dead; a call that
            may be repeated does not let anybody see that.
    """

    def __init__(
        self,
        method: Callable[[], Any],
        data: bytes,
        read: Callable[[bytes], T],
        address: str,
        repeatable: bool,
        jitter: random.Random,
    ) -> None:
        self._method = method
        self._data = data
        self._read = read
        self._address = address
        self._repeatable = repeatable
        self._random = jitter
        self._options: dict[str, Any] = {"timeout": CALL_SECONDS}
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
                threading.Event().wait(self._again(error))
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

    def _again(self, error: grpc.RpcError) -> float:
        """How long to pause before the call is made again. Raises StepwireError if it is not."""
        repeatable, self._repeatable = self._repeatable, False
        code = code_of(error)
        if repeatable and error.code() is grpc.StatusCode.UNAVAILABLE and code is None:
            self._first = error  # The engine never had it.
            self._options = {"timeout": RECONNECT_SECONDS, "wait_for_ready": True}
            return 0.0
        wanted = retry_after_of(error)
        if code is ErrorCode.LIMIT_EXCEEDED and wanted is not None and self._tries < BUSY_TRIES:
            self._tries += 1
            self._options = {"timeout": CALL_SECONDS}
            return min(wanted, BUSY_SECONDS_MAX) * self._random.uniform(1.0, 2.0)
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
            await asyncio.sleep(self._again(failed))


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


class StartOutcome(NamedTuple):
    """What became of one run of several that were started together: its id, or why there is none."""

    run_id: str
    existing: bool
    error: StepwireError | None


class RunCalls:
    """The calls one client makes.

    Args:
        address: "host:port" of the engine.
        codec: What reads payloads of records.
    """

    def __init__(self, address: str, codec: Codec) -> None:
        self.address = address
        self._codec = codec
        self._lock = threading.Lock()
        self._channels: dict[str, grpc.Channel] = {}
        self._pid = 0
        self._closed = False
        self._random = random.Random()

    @property
    def closed(self) -> bool:
        return self._closed

    def start(self, flow: str, payload: Payload, id: str) -> Pending[tuple[str, bool]]:
        """(run_id, existing)."""
        request = pb.StartRequest(flow=flow, id=id, traceparent=current_traceparent())
        _input_to_pb(payload, request)

        def read(data: bytes) -> tuple[str, bool]:
            answer = pb.StartResponse.FromString(data)
            return answer.run_id, answer.existing

        return self._call("Start", request, read, repeatable=bool(id))

    def start_many(self, flow: str, payloads: Sequence[Payload], ids: Sequence[str]) -> Pending[list[StartOutcome]]:
        """What became of each."""
        request = pb.StartManyRequest()
        traceparent = current_traceparent()
        for payload, id in zip(payloads, ids, strict=True):
            _input_to_pb(payload, request.runs.add(flow=flow, id=id, traceparent=traceparent))

        def read(data: bytes) -> list[StartOutcome]:
            outcomes = pb.StartManyResponse.FromString(data).outcomes
            if len(outcomes) != len(payloads):
                raise ProtocolError(f"the engine told of {len(outcomes)} runs, and {len(payloads)} were to be started")
            return [_outcome_from_pb(outcome) for outcome in outcomes]

        return self._call("StartMany", request, read, repeatable=all(ids))

    def get(self, run_id: str, steps: bool) -> Pending[Run]:
        request = pb.GetRequest(run_id=run_id, include_steps=steps)
        return self._call("Get", request, lambda data: run_from_pb(pb.GetResponse.FromString(data).run, self._codec))

    def explain(self, run_id: str) -> Pending[Explanation]:
        request = pb.ExplainRequest(run_id=run_id)
        return self._call(
            "Explain", request, lambda data: explanation_from_pb(pb.ExplainResponse.FromString(data), self._codec)
        )

    def list(self, flow: str, states: Sequence[RunState], size: int, token: str) -> Pending[tuple[list[Run], str]]:
        """One page, and the token of the next; an empty one is the last."""
        request: Any = pb.ListRequest(flow=flow, page_size=size, page_token=token)
        request.states.extend(map(state_number, states))

        def read(data: bytes) -> tuple[list[Run], str]:
            answer = pb.ListResponse.FromString(data)
            return [run_from_pb(run, self._codec) for run in answer.runs], answer.next_page_token

        return self._call("List", request, read)

    def resume(self, run_id: str) -> Pending[None]:
        return self._call("Resume", pb.ResumeRequest(run_id=run_id), lambda data: None, repeatable=False)

    def cancel(self, run_id: str, undo: bool | None) -> Pending[None]:
        request = pb.CancelRequest(run_id=run_id)
        if undo is not None:
            request.undo = undo
        # Repeatable: to a run that is being cancelled already it does nothing.
        return self._call("Cancel", request, lambda data: None)

    def send_event(self, event: Event) -> Pending[str]:
        """The event's id. With an id of the client's own the call may be repeated: the engine knows it again."""
        request = pb.SendEventRequest()
        request.event.name = event.name
        request.event.id = event.id
        request.event.data.SetInParent()
        payload_to_pb(event.data, request.event.data)
        if event.at_ms is not None:
            timestamp_to_pb(event.at_ms, request.event.at)
        request.event.traceparent = current_traceparent()

        def read(data: bytes) -> str:
            return pb.SendEventResponse.FromString(data).event_id

        return self._call("SendEvent", request, read, repeatable=bool(event.id))

    def logs(self, wanted: LogFilter, after: int) -> Pending[LogPage]:
        """The next lines after number `after`."""
        request = pb.LogsRequest(
            run_id=wanted.run_id,
            path=wanted.path,
            attempt=wanted.attempt,
            level_min=wanted.level,
            after=after,
            limit=PAGE_LINES,
        )
        return self._call("Logs", request, page_from_pb)

    def watch(self, run_id: str, steps: bool, timeout: float | None, wait_for_ready: bool) -> Any:
        """One stream of WatchResponse bytes, which is also a grpc.Call; it lasts at most `timeout` seconds."""
        return self._stream("Watch", pb.WatchRequest(run_id=run_id, include_steps=steps), timeout, wait_for_ready)

    def watched(self, data: bytes) -> Run:
        """The record in one message of `watch`. Raises ProtocolError."""
        return readable(lambda d: run_from_pb(pb.WatchResponse.FromString(d).run, self._codec), data)

    def ends(self, run_ids: Sequence[str], timeout: float | None, wait_for_ready: bool) -> Any:
        """One stream of AwaitResponse bytes, as of `watch`; for a program, so outputs are there also if redacted."""
        request = pb.AwaitRequest(run_ids=run_ids, include_redacted_output=True)
        return self._stream("Await", request, timeout, wait_for_ready)

    def ended(self, data: bytes) -> tuple[Run, ...]:
        """The records in one message of `ends`. Raises ProtocolError."""

        def read(data: bytes) -> tuple[Run, ...]:
            return tuple(run_from_pb(run, self._codec) for run in pb.AwaitResponse.FromString(data).runs)

        return readable(read, data)

    def end(self, run_id: str, timeout: float | None, wait_for_ready: bool, cancellable: bool) -> OneAnswer:
        """As `ends`, for one run; the answer is for `ended_one`."""
        request = pb.AwaitOneRequest(run_id=run_id, include_redacted_output=True)
        method: Any = self._open("watches").unary_unary(_SERVICE + "AwaitOne")
        options = {"timeout": timeout, "wait_for_ready": wait_for_ready}
        return OneAnswer(method, request.SerializeToString(), options, cancellable)

    def ended_one(self, data: bytes) -> tuple[Run, ...]:
        """The record in the answer of `end`. Raises ProtocolError."""
        return (readable(lambda d: run_from_pb(pb.AwaitOneResponse.FromString(d).run, self._codec), data),)

    def close(self) -> None:
        """Close the channels, for good; what is on its way fails. Idempotent."""
        with self._lock:
            channels, self._channels, self._closed = self._channels, {}, True
        if self._pid == os.getpid():
            for channel in channels.values():
                channel.close()

    def _call(self, name: str, request: Message, read: Callable[[bytes], T], *, repeatable: bool = True) -> Pending[T]:
        def method() -> Any:
            return self._open("calls").unary_unary(_SERVICE + name)

        return Pending(method, request.SerializeToString(), read, self.address, repeatable, self._random)

    def _stream(self, name: str, request: Message, timeout: float | None, wait_for_ready: bool) -> Any:
        stream: Any = self._open("watches").unary_stream(_SERVICE + name)
        return stream(request.SerializeToString(), timeout=timeout, wait_for_ready=wait_for_ready)

    def _open(self, use: str) -> grpc.Channel:
        """A connection per use: the streams of one are limited, and watches must not keep calls waiting."""
        with self._lock:
            if self._closed:
                raise RunError("this client was closed", hint="make a new one")
            if self._pid != os.getpid():
                self._channels, self._pid = {}, os.getpid()
            channel = self._channels.get(use)
            if channel is None:
                channel = self._channels[use] = grpc.insecure_channel(self.address, options=_OPTIONS)
            return channel


def readable(read: Callable[[bytes], T], data: bytes) -> T:
    """What `read` makes of an answer. Raises ProtocolError if it cannot."""
    try:
        return read(data)
    except (DecodeError, WireError) as problem:
        raise ProtocolError("the engine's answer cannot be read", why=str(problem)) from None


def _input_to_pb(payload: Payload, request: pb.StartRequest) -> None:
    request.input.SetInParent()  # An empty payload is one, too.
    payload_to_pb(payload, request.input)


def _outcome_from_pb(outcome: pb.StartOutcome) -> StartOutcome:
    if outcome.run_id:
        return StartOutcome(outcome.run_id, outcome.existing, None)
    try:
        code = ErrorCode(outcome.code)
    except ValueError:
        code = ErrorCode.INTERNAL
    # Of a single run only a read is refused for want of room; limits of the configuration refuse the whole call.
    cls = EngineBusy if code is ErrorCode.LIMIT_EXCEEDED else None
    return StartOutcome("", False, refused(code, outcome.message, cls))
