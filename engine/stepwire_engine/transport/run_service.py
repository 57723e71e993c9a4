"""RunService: how clients start, watch and cancel runs, and send events (`proto/stepwire/v1/run_service.proto`).

It checks what a request says, asks the driver, and answers. It decides nothing about runs, keeps no state
of its own, and tells a peer never more than a code, a stable message and a reference to the engine's log.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from stepwire.protocol import limits
from stepwire.protocol.bounds import RESERVED_EVENTS, has_control_characters
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import Event
from stepwire.protocol.wire import WireError, cut_text, payload_from_pb, timestamp_from_pb, traceparent_from_pb
from stepwire.v1 import payload_pb2
from stepwire.v1 import run_service_pb2 as pb
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.explanation import ExplanationView
from stepwire_engine.core.history import RunView
from stepwire_engine.core.reasons import WaitReason
from stepwire_engine.core.refusal import CallRefused
from stepwire_engine.scheduler.ends import Ended
from stepwire_engine.scheduler.starts import StartCall, Started
from stepwire_engine.store.base import LogPage, RunPage
from stepwire_engine.store.paging import LIMIT_MAX, run_before
from stepwire_engine.store.rows import INTEGER_MAX
from stepwire_engine.transport.named_run import RUN_KEY, NamedRun
from stepwire_engine.transport.run_checks import check_count, check_json, check_text, refuse, wanted_states
from stepwire_engine.transport.run_messages import (
    ANSWER_BYTES_MAX,
    ends_to_pb,
    explanation_to_pb,
    log_to_pb,
    record_to_pb,
    run_to_pb,
)
from stepwire_engine.transport.status import STATUS

SERVICE = "stepwire.v1.RunService"
CODE_KEY = "stepwire-code"
"""Trailing metadata: slug of the ErrorCode."""
REF_KEY = "stepwire-ref"
"""Trailing metadata: what the engine's log calls this error."""
RETRY_KEY = "stepwire-retry-after-ms"
"""Trailing metadata: when it is worth trying again, in milliseconds."""
PAGE_SIZE_DEFAULT = 100
_MESSAGE_BYTES_MAX = 1024
"""A status travels in headers, which are small."""
OK = "ok"
"""Stands for a code where a call succeeded."""
_log = logging.getLogger("stepwire.engine.calls")

Changed = Callable[[], Awaitable[None]]
"""Returns after the next commits that changed the run; several in the meantime count as one."""
Context = grpc.aio.ServicerContext[bytes, bytes]
Answer = TypeVar("Answer", bound=Message)


class RunPort(Protocol):
    """What the service asks of the engine. Every method raises CallRefused for what cannot be done."""

    async def start(self, flow: str, payload: Payload, key: str, traceparent: str) -> tuple[str, bool]:
        """Start a run, or find the one that has the key: (run_id, existing), once that is durable."""

    async def start_many(self, calls: Sequence[StartCall]) -> Sequence[Started | CallRefused]:
        """Start runs, each by itself; what became of each, once that is durable."""

    async def view(self, run_id: str, *, include_steps: bool) -> RunView:
        """The run as of its last commit; RUN_NOT_FOUND."""

    async def explain(self, run_id: str) -> ExplanationView:
        """The run and why it does not move; RUN_NOT_FOUND."""

    async def list_runs(self, *, flow: str, states: Sequence[RunState], limit: int, page_token: str) -> RunPage:
        """One page, newest first. `limit` and `page_token` are checked already."""

    async def resume(self, run_id: str) -> None:
        """Let a PAUSED run go on; RUN_NOT_FOUND, WRONG_STATE."""

    async def cancel(self, run_id: str, undo: bool | None) -> None:
        """Cancel a run; `undo` None: as its flow was registered. RUN_NOT_FOUND, WRONG_STATE for one that ended."""

    async def send_event(self, event: Event) -> tuple[str, bool]:
        """Accept an event: (its id, whether the id was known), once that is durable; INVALID_ARGUMENT."""

    async def logs(self, run_id: str, *, path: str, attempt: int, level_min: int, after: int, limit: int) -> LogPage:
        """What flow and steps of a run logged; `limit` is checked already. RUN_NOT_FOUND."""

    def changes(self, run_id: str) -> AbstractContextManager[Changed]:
        """Watch a run: no commit after entering is missed. An unknown run never changes."""

    def ends(self, run_ids: Sequence[str]) -> AbstractContextManager[Ended]:
        """Wait for the ends of runs; RUN_NOT_FOUND."""


class RunService:
    """The handlers of the service.

    Args:
        port: The engine.
        payload_bytes_max: Longest input of a run, in bytes.
        new_ref: Makes references to the log, e.g. 12 random characters.
        answered: Told the method and the code of every call that was answered.
    """

    def __init__(
        self,
        port: RunPort,
        *,
        payload_bytes_max: int,
        new_ref: Callable[[], str],
        answered: Callable[[str, str], None] = lambda method, code: None,
    ) -> None:
        self._port = port
        self._payload_bytes_max = payload_bytes_max
        self._new_ref = new_ref
        self._answered = answered

    def handler(self) -> grpc.GenericRpcHandler:
        """What to add to a grpc.aio server. Its receive limit must admit an input and 64 KiB more."""
        handlers: dict[str, Any] = {
            "Start": self._unary("Start", pb.StartRequest, self._start),
            "StartMany": self._unary("StartMany", pb.StartManyRequest, self._start_many),
            "Get": self._unary("Get", pb.GetRequest, self._get),
            "Explain": self._unary("Explain", pb.ExplainRequest, self._explain),
            "List": self._unary("List", pb.ListRequest, self._list),
            "Resume": self._unary("Resume", pb.ResumeRequest, self._resume),
            "Cancel": self._unary("Cancel", pb.CancelRequest, self._cancel),
            "SendEvent": self._unary("SendEvent", pb.SendEventRequest, self._send_event),
            "Logs": self._unary("Logs", pb.LogsRequest, self._logs),
            "AwaitOne": self._unary("AwaitOne", pb.AwaitOneRequest, self._await_one),
            "StartAndAwait": grpc.unary_unary_rpc_method_handler(self._start_and_await),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            "Await": grpc.unary_stream_rpc_method_handler(self._await),
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    # ---- calls

    async def _start(self, request: pb.StartRequest) -> pb.StartResponse:
        call = self._start_call(request)
        run_id, existing = await self._port.start(call.flow, call.payload, call.key, call.traceparent)
        return pb.StartResponse(run_id=run_id, existing=existing)

    async def _start_many(self, request: pb.StartManyRequest) -> pb.StartManyResponse:
        check_count("runs", len(request.runs))
        calls = [self._start_call(run, f"runs[{index}].") for index, run in enumerate(request.runs)]
        answer = pb.StartManyResponse()
        for outcome in await self._port.start_many(calls):
            if isinstance(outcome, Started):
                answer.outcomes.add(run_id=outcome.run_id, existing=outcome.existing)
            else:
                message = cut_text(outcome.message, _MESSAGE_BYTES_MAX)
                answer.outcomes.add(code=int(outcome.code), message=message)
        return answer

    def _start_call(self, request: pb.StartRequest, where: str = "") -> StartCall:
        check_text(f"{where}flow", request.flow)
        if request.id:
            check_text(f"{where}id", request.id)
        payload = self._payload(f"{where}input", request.input) if request.HasField("input") else NULL
        return StartCall(request.flow, payload, request.id, traceparent_from_pb(request.traceparent))

    async def _get(self, request: pb.GetRequest) -> pb.GetResponse:
        check_text("run_id", request.run_id)
        view = await self._port.view(request.run_id, include_steps=request.include_steps)
        answer = pb.GetResponse()
        run_to_pb(view, answer.run, reveal_output=request.include_redacted_output)
        return answer

    async def _explain(self, request: pb.ExplainRequest) -> pb.ExplainResponse:
        check_text("run_id", request.run_id)
        answer = pb.ExplainResponse()
        explanation_to_pb(await self._port.explain(request.run_id), answer)
        return answer

    async def _list(self, request: pb.ListRequest) -> pb.ListResponse:
        if request.flow:
            check_text("flow", request.flow)
        if request.page_size > LIMIT_MAX:
            refuse(f"page_size is {request.page_size}; 1..{LIMIT_MAX} are allowed")
        try:
            run_before(request.page_token)
        except ValueError:
            refuse("page_token was not made by this service")
        page = await self._port.list_runs(
            flow=request.flow,
            states=wanted_states(request.states),
            limit=request.page_size or PAGE_SIZE_DEFAULT,
            page_token=request.page_token,
        )
        answer = pb.ListResponse(next_page_token=page.next_page_token)
        for record in page.runs:
            unreadable = record.number in page.unreadable
            record_to_pb(record, answer.runs.add(), WaitReason.JOURNAL_UNREADABLE if unreadable else None)
        return answer

    async def _resume(self, request: pb.ResumeRequest) -> pb.ResumeResponse:
        check_text("run_id", request.run_id)
        await self._port.resume(request.run_id)
        return pb.ResumeResponse()

    async def _cancel(self, request: pb.CancelRequest) -> pb.CancelResponse:
        check_text("run_id", request.run_id)
        await self._port.cancel(request.run_id, request.undo if request.HasField("undo") else None)
        return pb.CancelResponse()

    async def _send_event(self, request: pb.SendEventRequest) -> pb.SendEventResponse:
        if not request.HasField("event"):
            refuse("event is not set")
        event = request.event
        check_text("event.name", event.name)
        if event.name.startswith(RESERVED_EVENTS):
            refuse(f"events named {RESERVED_EVENTS}... are the engine's own")
        if event.id:
            check_text("event.id", event.id)
        data = self._payload("event.data", event.data) if event.HasField("data") else NULL
        check_json("event.data", data)
        at_ms = timestamp_from_pb(event.at) if event.HasField("at") else None
        sent = Event(event.name, data, event.id, at_ms, traceparent_from_pb(event.traceparent))
        event_id, existing = await self._port.send_event(sent)
        return pb.SendEventResponse(event_id=event_id, existing=existing)

    async def _logs(self, request: pb.LogsRequest) -> pb.LogsResponse:
        check_text("run_id", request.run_id)
        if len(request.path) > limits.PATH_BYTES_MAX or has_control_characters(request.path):
            refuse(f"path is longer than {limits.PATH_BYTES_MAX} characters, or has control characters")
        if request.limit > LIMIT_MAX:
            refuse(f"limit is {request.limit}; 1..{LIMIT_MAX} are allowed")
        if request.after > INTEGER_MAX:
            refuse(f"after is {request.after}; 0..{INTEGER_MAX} are allowed")
        page = await self._port.logs(
            request.run_id,
            path=request.path,
            attempt=request.attempt,
            level_min=request.level_min,
            after=request.after,
            limit=request.limit or PAGE_SIZE_DEFAULT,
        )
        answer = pb.LogsResponse(next=page.next, dropped=page.dropped)
        for line in page.lines:
            log_to_pb(line, answer.lines.add())
        return answer

    async def _await_one(self, request: pb.AwaitOneRequest) -> pb.AwaitOneResponse:
        check_text("run_id", request.run_id)
        with self._port.ends((request.run_id,)) as ended:
            [view] = await ended()
        answer = pb.AwaitOneResponse()
        run_to_pb(view, answer.run, reveal_output=request.include_redacted_output, with_input=False)
        return answer

    async def _start_and_await(self, data: bytes, context: Context) -> bytes:
        named = NamedRun(context)
        try:
            answer = _serialized(await self._started_and_ended(_parsed(pb.StartAndAwaitRequest, data), named))
        except Exception as problem:
            await self._abort("StartAndAwait", problem, context, named.run_id)
        self._count("StartAndAwait", OK)
        return answer

    async def _started_and_ended(self, request: pb.StartAndAwaitRequest, named: NamedRun) -> Message:
        if not request.HasField("start"):
            refuse("start is not set")
        call = self._start_call(request.start, "start.")
        named.run_id, existing = await self._port.start(call.flow, call.payload, call.key, call.traceparent)
        with self._port.ends((named.run_id,)) as ended:
            async with named:
                [view] = await ended()
        answer = pb.StartAndAwaitResponse(run_id=named.run_id, existing=existing)
        run_to_pb(view, answer.run, reveal_output=request.include_redacted_output, with_input=False)
        return answer

    def _payload(self, field: str, value: payload_pb2.Payload) -> Payload:
        payload = payload_from_pb(value, self._payload_bytes_max)
        check_text(f"{field}.encoding", payload.encoding)
        return payload

    async def _watch(self, data: bytes, context: Context) -> None:
        try:
            request = _parsed(pb.WatchRequest, data)
            check_text("run_id", request.run_id)
            with self._port.changes(request.run_id) as changed:
                await self._send_changes(request, changed, context)
        except Exception as problem:
            await self._abort("Watch", problem, context)
        self._count("Watch", OK)

    async def _send_changes(self, request: pb.WatchRequest, changed: Changed, context: Context) -> None:
        """Send the run now and after changes. `write` returns when the peer took it, so nothing piles up."""
        sent: RunView | None = None
        while True:
            view = await self._port.view(request.run_id, include_steps=request.include_steps)
            if sent is None or (view != sent if request.include_steps else view.state is not sent.state):
                answer = pb.WatchResponse()
                run_to_pb(view, answer.run, reveal_output=request.include_redacted_output)
                await context.write(_serialized(answer))
                sent = view
            if view.state.terminal:
                return
            await changed()

    async def _await(self, data: bytes, context: Context) -> None:
        try:
            request = _parsed(pb.AwaitRequest, data)
            check_count("run_ids", len(request.run_ids))
            for index, run_id in enumerate(request.run_ids):
                check_text(f"run_ids[{index}]", run_id)
            if len(set(request.run_ids)) != len(request.run_ids):
                refuse("run_ids names a run twice")
            await self._send_ends(request, context)
        except Exception as problem:
            await self._abort("Await", problem, context)
        self._count("Await", OK)

    async def _send_ends(self, request: pb.AwaitRequest, context: Context) -> None:
        """Send runs as they end. `write` returns when the peer took it; those that end meanwhile go together."""
        left = len(request.run_ids)
        with self._port.ends(tuple(request.run_ids)) as ended:
            while left > 0:
                views = await ended()
                left -= len(views)
                answer = ends_to_pb(views, reveal_output=request.include_redacted_output)
                await context.write(_serialized(answer))

    # ---- wrapping

    def _unary(self, name: str, request_type: type[Any], call: Callable[[Any], Awaitable[Message]]) -> Any:
        async def answered(data: bytes, context: Context) -> bytes:
            try:
                answer = _serialized(await call(_parsed(request_type, data)))
            except Exception as problem:
                await self._abort(name, problem, context)
            self._count(name, OK)
            return answer

        return grpc.unary_unary_rpc_method_handler(answered)

    def _count(self, name: str, code: str) -> None:
        """What was answered stands, whatever becomes of its count."""
        try:
            self._answered(name, code)
        except Exception:
            _log.exception("a call of %s was not counted", name)

    async def _abort(self, name: str, problem: Exception, context: Context, run_id: str = "") -> NoReturn:
        ref = self._new_ref()
        match problem:
            case CallRefused():
                code, message = problem.code, problem.message
                _log.info("%s refused with %s: %s (ref %s)", name, code.slug, message, ref)
            case WireError():
                code, message = problem.code, str(problem)
                _log.info("%s refused with %s: %s (ref %s)", name, code.slug, message, ref)
            case _:
                code, message = ErrorCode.INTERNAL, f"internal error (ref {ref})"
                _log.error("%s failed (ref %s)", name, ref, exc_info=problem)
        trailers = [(CODE_KEY, code.slug), (REF_KEY, ref)]
        if isinstance(problem, CallRefused) and problem.retry_after is not None:
            trailers.append((RETRY_KEY, f"{problem.retry_after * 1000:.0f}"))
        if run_id:
            trailers.append((RUN_KEY, run_id))
        self._count(name, code.slug)
        await context.abort(STATUS[code].grpc, cut_text(message, _MESSAGE_BYTES_MAX), tuple(trailers))


Request = TypeVar("Request", bound=Message)


def _parsed(request_type: type[Request], data: bytes) -> Request:
    try:
        return request_type.FromString(data)
    except DecodeError:
        name = request_type.DESCRIPTOR.name
        raise CallRefused(ErrorCode.UNDECODABLE, f"the request is not a {name} of this protocol") from None


def _serialized(answer: Message) -> bytes:
    size = answer.ByteSize()
    if size > ANSWER_BYTES_MAX:
        message = f"the answer has {size} bytes, the limit is {ANSWER_BYTES_MAX}; ask without include_steps"
        raise CallRefused(ErrorCode.LIMIT_EXCEEDED, message)
    return answer.SerializeToString()
