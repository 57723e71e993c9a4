"""HostService: one bidirectional stream per host, bytes here, frames in the driver (`proto/README.md`, 2 to 4).

Each stream has one reader and one writer and nothing else; the writer sends whatever is queued, without a
delay timer. What a host sends wrongly ends its own stream and nothing more, and no peer is ever told the
text of an exception.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from stepwire.protocol import limits
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import EngineFrame, Fault, Hello, HostFrame
from stepwire.protocol.wire import HostFrameDecoder, WireError, cut_text, encode_engine_frame
from stepwire_engine.scheduler.ports import ENGINE_INSTANCE, Attached, Port
from stepwire_engine.telemetry import Telemetry
from stepwire_engine.transport.run_service import CODE_KEY, REF_KEY
from stepwire_engine.transport.status import stream_status

SERVICE = "stepwire.v1.HostService"
_STATUS_TEXT_BYTES_MAX = 1024
_log = logging.getLogger("stepwire.engine.hosts")

Context = grpc.aio.ServicerContext[bytes, bytes]


class HostDesk(Protocol):
    """What the service asks of the driver."""

    def connect(self, hello: Hello, port: Port) -> Attached | Fault:
        """A stream said Hello."""

    def receive(self, attached: Attached, frame: HostFrame) -> None:
        """A further frame of it."""

    def disconnected(self, attached: Attached) -> None:
        """It ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamBounds:
    """Bounds of one stream. Times in seconds, sizes in bytes.

    Attributes:
        payload_bytes_max: Longest payload a host may send.
        hello_timeout: From the opening of the stream to its Hello.
        write_timeout: How long one message may wait for the host to read.
        frames_queued_max, bytes_queued_max: What may wait behind it; the bytes count payloads only.
    """

    payload_bytes_max: int = limits.PAYLOAD_BYTES_MAX
    hello_timeout: float = 5.0
    write_timeout: float = 10.0
    frames_queued_max: int = 1_000
    bytes_queued_max: int = 64 * 1024 * 1024


class HostService:
    """The handler of the service.

    Args:
        desk: The driver.
        telemetry: Counts frames and their bytes.
        new_ref: Makes references to the log, e.g. 12 random characters.
    """

    def __init__(
        self, desk: HostDesk, telemetry: Telemetry, *, new_ref: Callable[[], str], bounds: StreamBounds | None = None
    ) -> None:
        self._desk = desk
        self._telemetry = telemetry
        self._new_ref = new_ref
        self._bounds = bounds or StreamBounds()

    def handler(self) -> grpc.GenericRpcHandler:
        """What to add to a grpc.aio server."""
        session: Any = grpc.stream_stream_rpc_method_handler(self._session)
        return grpc.method_handlers_generic_handler(SERVICE, {"Session": session})

    async def _session(self, requests: object, context: Context) -> None:
        stream = _Stream(self._desk, self._telemetry, self._bounds, context)
        try:
            end = await stream.serve()
        except WireError as error:
            end = self._refused(error)
        except Exception:
            ref = self._new_ref()
            _log.exception("a stream failed (ref %s)", ref)
            end = _End(Fault(ErrorCode.INTERNAL, f"internal error (ref {ref})"), ref)
        finally:
            await stream.release()
        if end is not None:
            await stream.say(end.fault)
            trailers = [(CODE_KEY, end.fault.code.slug)] + ([(REF_KEY, end.ref)] if end.ref else [])
            message = cut_text(end.fault.message, _STATUS_TEXT_BYTES_MAX)
            await context.abort(stream_status(end.fault.code), message, tuple(trailers))

    def _refused(self, error: WireError) -> _End:
        ref = self._new_ref()
        _log.warning("refused a message of a host (ref %s): %s: %s", ref, error.code.slug, error)
        undecodable = error.code is ErrorCode.UNDECODABLE
        text = f"message could not be decoded (ref {ref})" if undecodable else f"{error} (ref {ref})"
        return _End(Fault(error.code, text), ref)


@dataclass(frozen=True, slots=True)
class _End:
    """What a stream ends with instead of OK."""

    fault: Fault
    ref: str = ""


class _Refused(Exception):
    """The stream ends with this fault."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(code, message)


class _Stream:
    """One stream from its first message to its end; the Port of its session."""

    def __init__(self, desk: HostDesk, telemetry: Telemetry, bounds: StreamBounds, context: Context) -> None:
        self._desk = desk
        self._telemetry = telemetry
        self._bounds = bounds
        self._context = context
        self._decoder = HostFrameDecoder(bounds.payload_bytes_max)
        self._attached: Attached | None = None
        self._queue: deque[tuple[EngineFrame, int]] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._closed = False
        self._overrun = False
        self._blocked = False
        self._last_number = 0
        self._last_fault: Fault | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # ---- Port

    def send(self, frame: EngineFrame) -> None:
        """Queue a frame for the writer."""
        if self._closed:
            return
        size = _payload_bytes(frame) if self._queue else 0
        self._queue.append((frame, size))
        self._queued_bytes += size
        bounds = self._bounds
        if len(self._queue) > bounds.frames_queued_max or self._queued_bytes > bounds.bytes_queued_max:
            self._closed = self._overrun = True
            self._queue.clear()
        self._wake.set()

    def close(self) -> None:
        """End the stream after what is queued."""
        self._closed = True
        self._wake.set()

    # ---- life

    async def serve(self) -> _End | None:
        """Until the stream is over. Raises WireError, and whatever is a defect."""
        try:
            hello = await self._greeted()
        except _Refused as refused:
            return _End(refused.fault)
        attached = self._desk.connect(hello, self)
        if isinstance(attached, Fault):
            return _End(attached)
        self._attached = attached
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        self._tasks = [reader, writer]
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        # What the host sent wrongly explains more than that writing to it failed too.
        for task in (reader, writer):
            if task in done:
                try:
                    task.result()
                except _Refused as refused:
                    return _End(refused.fault)
        if writer not in done:
            self.close()
            await asyncio.wait([writer])
        return _End(self._last_fault) if self._last_fault is not None else None

    async def release(self) -> None:
        """Tell the driver, end the tasks."""
        self._closed = True
        if self._attached is not None:
            self._desk.disconnected(self._attached)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def say(self, fault: Fault) -> None:
        """The last frame of a stream that ends by a fault, unless it was said already or nobody reads."""
        if self._last_fault is not None or self._blocked or self._overrun:
            return
        try:
            async with asyncio.timeout(1.0):
                for data in encode_engine_frame(EngineFrame(number=self._last_number + 1, fault=fault)):
                    await self._context.write(data)
        except Exception as error:
            _log.debug("the last words of a stream were not sent: %r", error)

    # ---- reading

    async def _greeted(self) -> Hello:
        """The Hello that must come first."""
        try:
            async with asyncio.timeout(self._bounds.hello_timeout):
                frame = await self._next_frame()
        except TimeoutError:
            raise _Refused(ErrorCode.TIMEOUT, f"expected Hello within {self._bounds.hello_timeout:g}s") from None
        if frame is None:
            raise _Refused(ErrorCode.PROTOCOL, "expected Hello, got the end of the stream")
        if frame.hello is None:
            raise _Refused(ErrorCode.PROTOCOL, f"expected Hello, got {_kind(frame)}")
        if frame.hello.instance_id == ENGINE_INSTANCE:
            raise _Refused(ErrorCode.INVALID_NAME, f"the instance id {ENGINE_INSTANCE!r} is the engine's own")
        return frame.hello

    async def _next_frame(self) -> HostFrame | None:
        """The next whole frame; None at the end of the stream."""
        while True:
            data: Any = await self._context.read()
            if data is grpc.aio.EOF:
                return None
            size = len(data)
            if size > limits.MESSAGE_BYTES_MAX:
                raise WireError(
                    ErrorCode.PAYLOAD_TOO_LARGE, f"message of {size} bytes, limit {limits.MESSAGE_BYTES_MAX}"
                )
            self._telemetry.frame_bytes["in"] += size
            frame = self._decoder.decode(data)
            if frame is not None:
                self._telemetry.frames["in"] += 1
                return frame

    async def _read(self) -> None:
        assert self._attached is not None
        while (frame := await self._next_frame()) is not None:
            self._desk.receive(self._attached, frame)

    # ---- writing

    async def _write(self) -> None:
        telemetry = self._telemetry
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                frame, size = self._queue.popleft()
                self._queued_bytes -= size
                for data in encode_engine_frame(frame):
                    await self._put(data)
                    telemetry.frame_bytes["out"] += len(data)
                telemetry.frames["out"] += 1
                self._last_number = frame.number
                if frame.fault is not None and not frame.fault.run_id:
                    self._last_fault = frame.fault
            if self._overrun:
                raise _Refused(ErrorCode.LIMIT_EXCEEDED, "host reads too slowly: too much is queued for it")
            if self._closed:
                return

    async def _put(self, data: bytes) -> None:
        self._blocked = True
        try:
            async with asyncio.timeout(self._bounds.write_timeout):
                await self._context.write(data)
        except TimeoutError:
            raise _Refused(ErrorCode.LIMIT_EXCEEDED, f"host did not read for {self._bounds.write_timeout:g}s") from None
        self._blocked = False


def _payload_bytes(frame: EngineFrame) -> int:
    """Bytes of the payloads in a frame; asked only for frames that wait behind another."""
    total = 0
    for section in frame.runs:
        total += sum([len(execute.input.data) for execute in section.executes if execute.input is not None])
        if section.advance is not None:
            for entry in section.advance.entries:
                outcomes = getattr(entry, "outcomes", ())
                total += sum([len(outcome.output.data) for outcome in outcomes if outcome.output is not None])
    return total


def _kind(frame: HostFrame) -> str:
    """What a frame that is no Hello begins with, for the message."""
    for section in frame.runs:
        for field in ("plans", "results", "rejects"):
            if getattr(section, field):
                return field.removesuffix("s").capitalize()
    fields = ("report", "drain", "goodbye", "fault")
    return next((field.capitalize() for field in fields if getattr(frame, field) is not None), "an empty frame")
