"""Calls of RunService over a synchronous gRPC channel: the mapping of requests, answers and errors.

Channels are made at the first call and again in a forked child, whose copies of them are unusable. There is
no grpc.aio here: its loop would compete with that of the user's process (DESIGN 6).
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import grpc
from google.protobuf.message import Message

from stepwire._tracing import current_traceparent
from stepwire._transport.explanation import Explanation, explanation_from_pb
from stepwire._transport.run_answers import OneAnswer, Pending, readable
from stepwire._transport.run_errors import refused
from stepwire._transport.run_logs import PAGE_LINES, LogFilter, LogPage, page_from_pb
from stepwire._transport.run_record import RECEIVE_BYTES_MAX, Run, RunState, run_from_pb, state_number
from stepwire.codec import Codec
from stepwire.errors import EngineBusy, ProtocolError, RunError, StepwireError
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Event
from stepwire.protocol.wire import payload_to_pb, timestamp_to_pb
from stepwire.v1 import run_service_pb2 as pb

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
ONE_CALLS_MAX = 500
"""Runs that one client has started and awaits with one call each. What is beyond the streams of a connection, 1,000, is
kept back here: its run would not be there, and nobody would know."""
T = TypeVar("T")
Answer = TypeVar("Answer", bound=Message)


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

    Attributes:
        starts_and_awaits: The engine is not known to be one without StartAndAwait.
        one_calls: Who starts and awaits a run with one call holds it for so long.
    """

    def __init__(self, address: str, codec: Codec) -> None:
        self.address = address
        self._codec = codec
        self._lock = threading.Lock()
        self._channels: dict[str, grpc.Channel] = {}
        self._pid = 0
        self._closed = False
        self._random = random.Random()
        self.starts_and_awaits = True
        self.one_calls = threading.BoundedSemaphore(ONE_CALLS_MAX)

    @property
    def closed(self) -> bool:
        return self._closed

    def start(self, flow: str, payload: Payload, id: str, *, until: float | None = None) -> Pending[tuple[str, bool]]:
        """(run_id, existing)."""
        request = pb.StartRequest()
        _start_to_pb(flow, payload, id, current_traceparent(), request)

        def read(data: bytes) -> tuple[str, bool]:
            answer = pb.StartResponse.FromString(data)
            return answer.run_id, answer.existing

        return self._call("Start", request, read, repeatable=bool(id), until=until)

    def start_many(self, flow: str, payloads: Sequence[Payload], ids: Sequence[str]) -> Pending[list[StartOutcome]]:
        """What became of each."""
        request = pb.StartManyRequest()
        traceparent = current_traceparent()
        for payload, id in zip(payloads, ids, strict=True):
            _start_to_pb(flow, payload, id, traceparent, request.runs.add())

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
        return self._wait("AwaitOne", request, timeout, wait_for_ready, cancellable)

    def ended_one(self, data: bytes) -> tuple[Run, ...]:
        """The record in the answer of `end`. Raises ProtocolError."""
        return (readable(lambda d: run_from_pb(pb.AwaitOneResponse.FromString(d).run, self._codec), data),)

    def start_and_end(
        self, flow: str, payload: Payload, id: str, timeout: float | None, cancellable: bool
    ) -> OneAnswer:
        """Start a run and wait for its end with one call; the answer is for `started_and_ended`."""
        request = pb.StartAndAwaitRequest(include_redacted_output=True)
        _start_to_pb(flow, payload, id, current_traceparent(), request.start)
        return self._wait("StartAndAwait", request, timeout, False, cancellable, use="runs")

    def started_and_ended(self, data: bytes) -> Run:
        """The record in the answer of `start_and_end`. Raises ProtocolError."""
        return readable(lambda d: run_from_pb(pb.StartAndAwaitResponse.FromString(d).run, self._codec), data)

    def close(self) -> None:
        """Close the channels, for good; what is on its way fails. Idempotent."""
        with self._lock:
            channels, self._channels, self._closed = self._channels, {}, True
        if self._pid == os.getpid():
            for channel in channels.values():
                channel.close()

    def _call(
        self,
        name: str,
        request: Message,
        read: Callable[[bytes], T],
        *,
        repeatable: bool = True,
        until: float | None = None,
    ) -> Pending[T]:
        def method() -> Any:
            return self._open("calls").unary_unary(_SERVICE + name)

        return Pending(method, request.SerializeToString(), read, self.address, repeatable, self._random, until)

    def _wait(
        self,
        name: str,
        request: Message,
        timeout: float | None,
        wait_for_ready: bool,
        cancellable: bool,
        use: str = "watches",
    ) -> OneAnswer:
        method: Any = self._open(use).unary_unary(_SERVICE + name)
        options = {"timeout": timeout, "wait_for_ready": wait_for_ready}
        return OneAnswer(method, request.SerializeToString(), options, cancellable)

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


def _start_to_pb(flow: str, payload: Payload, id: str, traceparent: str, request: pb.StartRequest) -> None:
    request.flow, request.id, request.traceparent = flow, id, traceparent
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
