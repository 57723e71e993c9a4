"""HostService: one bidirectional stream per host, bytes here, frames in the driver (`proto/README.md`, 2 to 4).

Each stream has one reader and one writer and nothing else; the writer sends whatever is queued, without a
delay timer. What a host sends wrongly ends its own stream and nothing more, and no peer is ever told the
text of an exception.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from stepwire.protocol import limits
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import EngineFrame, Fault, Feature, Hello, HostFrame
from stepwire.protocol.wire import HostFrameDecoder, WireError, cut_text, encode_engine_frame
from stepwire_engine.scheduler.ports import ENGINE_INSTANCE, Attached, Port
from stepwire_engine.telemetry import Telemetry
from stepwire_engine.transport.offences import OFFENCES, Offences
from stepwire_engine.transport.run_service import CODE_KEY, REF_KEY, RETRY_KEY
from stepwire_engine.transport.status import stream_status
from stepwire_engine.transport.weight import payload_bytes

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

    def congestion(self, attached: Attached, congested: bool) -> None:
        """Much waits to be written to it, or no longer."""

    def disconnected(self, attached: Attached) -> None:
        """It ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamBounds:
    """Bounds of one stream. Times in seconds, sizes in bytes.

    Attributes:
        payload_bytes_max: Longest payload that is read from a host. It is more than a run may have, so that an output
            over the limit fails its step and not the stream that all runs of the host share.
        hello_timeout: From the opening of the stream to its Hello.
        write_timeout: How long one message may wait for the host to read.
        frames_queued_max, bytes_queued_max: What may wait behind the frame that is being written; the bytes are those
            of payloads. From a quarter of it on the host gets no new work; beyond it the stream is closed. One frame
            may wait however long it is, because a release is never cut.
        faults_per_minute_max, faults_backoff: A host that breaks the protocol more often is refused for so long.
    """

    payload_bytes_max: int = limits.PAYLOAD_BYTES_READ_MAX
    hello_timeout: float = 5.0
    write_timeout: float = 10.0
    frames_queued_max: int = 1_000
    bytes_queued_max: int = 4 * 1024 * 1024
    faults_per_minute_max: int = 100
    faults_backoff: float = 30.0

    @property
    def congested_bytes(self) -> int:
        return self.bytes_queued_max // 4

    @property
    def congested_frames(self) -> int:
        return self.frames_queued_max // 4


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
        self._bounds = bounds = bounds or StreamBounds()
        self._offences = Offences(
            time.monotonic, per_minute_max=bounds.faults_per_minute_max, backoff=bounds.faults_backoff
        )

    def handler(self) -> grpc.GenericRpcHandler:
        """What to add to a grpc.aio server."""
        session: Any = grpc.stream_stream_rpc_method_handler(self._session)
        return grpc.method_handlers_generic_handler(SERVICE, {"Session": session})

    async def _session(self, requests: object, context: Context) -> None:
        stream = _Stream(self._desk, self._telemetry, self._bounds, self._offences, context)
        try:
            end = await self._guarded(stream.serve())
        finally:
            failed = await self._guarded(stream.release())
        end = end or failed
        if end is not None and end.fault.code in OFFENCES:
            end = _too_many(self._offences.note(stream.peer)) or end
        if end is not None:
            await stream.say(end.fault)
            trailers = [(CODE_KEY, end.fault.code.slug)] + ([(REF_KEY, end.ref)] if end.ref else [])
            if end.retry_after:
                trailers.append((RETRY_KEY, f"{end.retry_after * 1000:.0f}"))
            message = cut_text(end.fault.message, _STATUS_TEXT_BYTES_MAX)
            await context.abort(stream_status(end.fault.code), message, tuple(trailers))

    async def _guarded(self, part: Coroutine[Any, Any, _End | None]) -> _End | None:
        """How a part of a stream's life ended; a peer never sees the text of what was raised."""
        try:
            return await part
        except WireError as error:
            return self._refused(error)
        except Exception:
            ref = self._new_ref()
            _log.exception("a stream failed (ref %s)", ref)
            return _End(Fault(ErrorCode.INTERNAL, f"internal error (ref {ref})"), ref)

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
    retry_after: float = 0.0


def _too_many(seconds: float) -> _End | None:
    """The end of a stream whose host is refused for so long; None if it is not."""
    if not seconds:
        return None
    return _End(Fault(ErrorCode.LIMIT_EXCEEDED, "too many protocol errors; see the engine's log"), "", seconds)


class _Refused(Exception):
    """The stream ends with this fault."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(code, message)


class _Stream:
    """One stream from its first message to its end; the Port of its session."""

    def __init__(
        self, desk: HostDesk, telemetry: Telemetry, bounds: StreamBounds, offences: Offences, context: Context
    ) -> None:
        self.peer = context.peer().rpartition(":")[0]
        """Whose faults are counted together: an address, then the instance that said Hello."""
        self._desk = desk
        self._telemetry = telemetry
        self._bounds = bounds
        self._offences = offences
        self._context = context
        self._decoder = HostFrameDecoder(bounds.payload_bytes_max)
        self._attached: Attached | None = None
        self._alike = False
        self._queue: deque[tuple[EngineFrame, int]] = deque()
        self._queued_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._idle: asyncio.Future[None] | None = None
        """What the writer waits for while nothing is queued."""
        self._closed = False
        self._overrun = ""
        self._blocked = False
        self._writing = False
        self._congested = False
        self._write_by = 0.0
        """When the host must have read what is being written."""
        self._patience: asyncio.TimerHandle | None = None
        self._last_number = 0
        self._last_fault: Fault | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # ---- Port

    def send(self, frame: EngineFrame) -> None:
        """Queue a frame for the writer."""
        if self._closed:
            return
        if self._writing or self._queue:
            size = payload_bytes(frame)
            self._queue.append((frame, size))
            self._queued_bytes += size
            self._measure()
        else:
            self._queue.append((frame, 0))
        if (idle := self._idle) is not None and not idle.done():
            idle.set_result(None)

    def _measure(self) -> None:
        """Whether too much waits for the host, or so much that it should get nothing new."""
        bounds, frames, size = self._bounds, len(self._queue), self._queued_bytes
        if frames > bounds.frames_queued_max or (size > bounds.bytes_queued_max and frames > 1):
            self._closed = True
            self._overrun = f"slow consumer: {frames} frames with {size} bytes of payloads wait for the host to read"
            self._queue.clear()
            if self._blocked:
                self._writer.cancel()  # What is being written is not waited for either.
            return
        congested = size > bounds.congested_bytes or frames > bounds.congested_frames
        if congested is not self._congested and self._attached is not None:
            self._congested = congested
            self._desk.congestion(self._attached, congested)

    def close(self) -> None:
        """End the stream after what is queued."""
        self._closed = True
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    # ---- life

    async def serve(self) -> _End | None:
        """Until the stream is over. Raises WireError, and whatever is a defect."""
        # Otherwise the first message carries it, and a stream that ends while that is being written cannot say why.
        await self._context.send_initial_metadata(())
        try:
            hello = await self._greeted()
        except _Refused as refused:
            return _End(refused.fault)
        self.peer = hello.instance_id
        self._alike = Feature.ALIKE in hello.features
        if (refused_for := self._offences.refused_for(self.peer)) > 0:
            return _too_many(refused_for)
        attached = self._desk.connect(hello, self)
        if isinstance(attached, Fault):
            return _End(attached)
        self._attached = attached
        reader = asyncio.create_task(self._read())
        writer = self._writer = asyncio.create_task(self._write())
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

    async def release(self) -> _End | None:
        """End the tasks, tell the driver."""
        self._closed = True
        if self._patience is not None:
            self._patience.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._attached is not None:
            self._desk.disconnected(self._attached)
        return None

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
        while True:
            self._writing = True
            while self._queue:
                await self._write_frame(*self._queue.popleft())
            self._writing = False
            if self._overrun:
                raise _Refused(ErrorCode.LIMIT_EXCEEDED, self._overrun)
            if self._closed:
                return
            self._idle = self._loop.create_future()
            await self._idle

    async def _write_frame(self, frame: EngineFrame, size: int) -> None:
        assert self._attached is not None
        self._queued_bytes -= size
        if self._congested:
            self._measure()
        for data in encode_engine_frame(frame, alike=self._alike):
            self._write_by = self._loop.time() + self._bounds.write_timeout
            if self._patience is None:
                self._patience = self._loop.call_at(self._write_by, self._look)
            self._blocked = True
            try:
                await self._context.write(data)
            except asyncio.CancelledError:
                if not self._overrun:
                    raise
                raise _Refused(ErrorCode.LIMIT_EXCEEDED, self._overrun) from None
            self._blocked = False
            self._telemetry.frame_bytes["out"] += len(data)
        self._telemetry.frames["out"] += 1
        self._last_number = self._attached.written = frame.number
        if frame.fault is None:
            return
        if not frame.fault.run_id:
            self._last_fault = frame.fault
        elif frame.fault.code in OFFENCES and (end := _too_many(self._offences.note(self.peer))) is not None:
            raise _Refused(end.fault.code, end.fault.message)

    def _look(self) -> None:
        """Whether the host has read in time: one timer for many messages."""
        self._patience = None
        if not self._blocked:
            return
        if self._loop.time() < self._write_by:
            self._patience = self._loop.call_at(self._write_by, self._look)
            return
        self._overrun = self._overrun or f"slow consumer: host did not read for {self._bounds.write_timeout:g}s"
        self._writer.cancel()


def _kind(frame: HostFrame) -> str:
    """What a frame that is no Hello begins with, for the message."""
    for section in frame.runs:
        for field in ("plans", "results", "rejects"):
            if getattr(section, field):
                return field.removesuffix("s").capitalize()
    fields = ("report", "drain", "goodbye", "fault")
    return next((field.capitalize() for field in fields if getattr(frame, field) is not None), "an empty frame")
