"""The session over gRPC, on threads of its own (docs/adr/0003).

The stream is the synchronous one: a blocked application loop loses neither heartbeats nor results of sync
steps, and the SDK puts no grpc.aio loop into the user's process. One thread reads, gRPC's own thread writes
what it takes from the session, and the loop gets one hand-over per received frame.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from stepwire._transport.log_queue import SEND_WITHIN_SECONDS
from stepwire._transport.port import SessionPort
from stepwire._transport.redial import Redial
from stepwire.protocol import limits
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import EngineFrame
from stepwire.protocol.wire import EngineFrameDecoder, WireError, encode_host_frame

logger = logging.getLogger("stepwire.host")

METHOD = "/stepwire.v1.HostService/Session"
_CANCELLED_SECONDS = 0.2
"""What a cancelled stream gets to end; its thread is a daemon."""
_WELCOME_SECONDS = 10.0
"""A stream without Welcome for this long is given up: whatever holds it, the next one may fare better."""
_TAKEN_SECONDS = 0.001
"""How long a loop with more to do lets the writer take what it has so far."""
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", limits.MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", limits.MESSAGE_BYTES_MAX),
    # A link that went dead is noticed within 8 s, so that the host is back before the engine gives it up (P10): the
    # engine may have heard it last one heartbeat before. gRPC ignores a name it does not know; tests/transport/
    # test_keepalive.py proves each of these by its effect.
    ("grpc.keepalive_time_ms", 4_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.http2.ping_timeout_ms", 4_000),
    ("grpc.http2.max_pings_without_data", 0),
    # How long one dial may take. gRPC's 20 s would outlast the reconnect grace where packets are dropped.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    # Every reconnect dials anew; a shared subchannel would sit out gRPC's own backoff.
    ("grpc.use_local_subchannel_pool", 1),
    # gRPC's own retry of a stream that an ending engine never accepted can wait for ever; this link dials again itself.
    ("grpc.enable_retries", 0),
)
_FINAL = frozenset({ErrorCode.VERSION, ErrorCode.FEATURE, ErrorCode.INVALID_NAME})


class GrpcLink:
    """Keeps one stream to one engine, for ever.

    Args:
        address: host:port.
        port: The shared session.
        on_frame: Called on the reader thread with every frame, after the session booked it.
        on_reconnect: Called when a stream ended and the next is due.
        on_traffic: Called with "in" or "out", the frames and the bytes of them; by both threads of the stream.
    """

    def __init__(
        self,
        address: str,
        port: SessionPort,
        on_frame: Callable[[EngineFrame, list[Any]], None],
        on_reconnect: Callable[[], None],
        on_traffic: Callable[[str, int, int], None],
    ) -> None:
        self.address = address
        self.refused = threading.Event()
        self._port = port
        self._on_frame = on_frame
        self._on_reconnect = on_reconnect
        self._on_traffic = on_traffic
        # Held until it rings. A Condition would make a lock and a queue for every sleep of the writer.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._stopping = threading.Event()
        self._leaving = False
        self._missed = False
        self._stream = 0
        self._thread = threading.Thread(target=self._run, name="stepwire-session", daemon=True)
        self._call: Any = None
        self._random = random.Random()
        self._taken = threading.Event()
        port.bell = self._ring
        port.hand_over = self._hand_over

    def start(self) -> None:
        self._thread.start()

    def leave(self) -> None:
        """The next end of the stream is the last: Goodbye is about to be said."""
        self._leaving = True

    def stop(self, timeout: float) -> None:
        """End the stream and the thread; what was queued before is sent first."""
        self._stopping.set()
        self._ring()
        call = self._call
        self._thread.join(timeout)
        if self._thread.is_alive() and call is not None:
            call.cancel()
            self._thread.join(_CANCELLED_SECONDS)

    def _ring(self) -> None:
        if self._bell.locked():
            try:
                self._bell.release()
            except RuntimeError:
                pass  # Another thread rang it meanwhile.

    def _hand_over(self) -> None:
        """Ring, and let the writer's thread run: the interpreter would only ask for that after 5 ms."""
        self._taken.clear()
        self._ring()
        if self._port.session.connected:
            self._taken.wait(_TAKEN_SECONDS)

    # ---- the reader thread

    def _run(self) -> None:
        try:
            self._keep_dialling()
        except BaseException:
            # Nothing else would say so: the process would seem to serve, and have no session.
            self.refused.set()
            logger.critical("the session thread of this host ended; it serves nothing any more", exc_info=True)

    def _keep_dialling(self) -> None:
        redial = Redial(self._random.uniform, time.monotonic())
        while not self._stopping.is_set():
            served = self._one_stream()
            if self._stopping.is_set() or self._leaving or self.refused.is_set():
                return
            if pause := redial.pause(time.monotonic(), served=served):
                self._stopping.wait(pause)
            self._on_reconnect()

    def _one_stream(self) -> bool:
        """Dial and serve one stream. True if the engine welcomed it and did not close it with a Fault."""
        welcomed = False
        decoder = EngineFrameDecoder(limits.PAYLOAD_BYTES_MAX * 16)
        with grpc.insecure_channel(self.address, options=OPTIONS) as channel:
            dial: Any = channel.stream_stream(METHOD, request_serializer=None, response_deserializer=None)
            with self._port.lock:
                self._stream += 1
                self._port.connect()
            try:
                self._call = dial(self._outgoing(self._stream))
                for data in self._call:
                    frame = decoder.decode(data)
                    self._on_traffic("in", int(frame is not None), len(data))
                    if frame is None:
                        continue
                    sections = self._port.receive(frame)
                    welcomed = welcomed or frame.welcome is not None
                    self._missed = self._missed and not welcomed
                    self._on_frame(frame, sections)
                    if frame.fault is not None and not frame.fault.run_id:
                        self._fault(frame.fault.code, frame.fault.message)
                        # What made the engine close it may still be so: do not dial again at once.
                        welcomed = False
                        break
            except grpc.RpcError as error:
                self._log_end(error, welcomed)
            except WireError as error:
                logger.error("engine %s sent what cannot be decoded: %s", self.address, error)
                welcomed = False
            except Exception:
                # A defect of ours must not end the thread: nothing would report, and the process would seem to serve.
                logger.exception("the stream to engine %s failed; dialling again", self.address)
                welcomed = False
            finally:
                with self._port.lock:
                    self._stream += 1
                    self._port.disconnect()
                self._ring()
                if self._call is not None:
                    self._call.cancel()
        return welcomed

    def _fault(self, code: ErrorCode, message: str) -> None:
        level = logging.DEBUG if code is ErrorCode.DRAINING and self._is_missed() else logging.WARNING
        logger.log(level, "engine %s closed the session (%s): %s", self.address, code.slug, message)
        if code in _FINAL:
            self.refused.set()
        elif code is ErrorCode.REPLACED:
            self._take_new_name()

    def _take_new_name(self) -> None:
        """Another process says the same instance id, e.g. of a copied machine: two that take turns would never work.

        What this host holds it offers again under its new name; fences decide what it still owns.
        """
        name = secrets.token_hex(16)
        with self._port.lock:
            self._port.session.rename(name)
        logger.warning("another process has the instance id of this host; it goes on as instance %s", name)

    def _log_end(self, error: grpc.RpcError, welcomed: bool) -> None:
        if self._stopping.is_set():
            return
        code = error.code() if hasattr(error, "code") else None
        details = error.details() if hasattr(error, "details") else str(error)
        if welcomed:
            logger.info("stream to engine %s ended (%s): %s; dialling again", self.address, code, details)
        else:
            level = logging.DEBUG if self._is_missed() else logging.WARNING
            logger.log(level, "no engine at %s (%s): %s; dialling until one answers", self.address, code, details)

    def _is_missed(self) -> bool:
        """Whether it was said before, since the last Welcome, that there is no engine: nobody reads it every second."""
        missed, self._missed = self._missed, True
        return missed

    # ---- gRPC's writer thread

    def _outgoing(self, stream: int) -> Iterator[bytes]:
        dialled = time.monotonic()
        while True:
            with self._port.lock:
                if stream != self._stream:
                    self._ring()  # It may have rung for the writer of the next one.
                    return  # This stream has ended; what is queued is the next one's to say.
                frame, alike = self._port.take_frame(), self._port.session.alike
            if not self._port.session.connected and time.monotonic() - dialled > _WELCOME_SECONDS:
                logger.warning("no Welcome from engine %s for %g s; dialling again", self.address, _WELCOME_SECONDS)
                self._call.cancel()
                return
            if frame is None:
                if self._stopping.is_set():
                    return
                self._sleep()
                continue
            size = 0
            for message in encode_host_frame(frame, alike=alike):
                size += len(message)
                self._taken.set()
                yield message
            self._on_traffic("out", 1, size)

    def _sleep(self) -> None:
        """Until something may be sent or a Report is due."""
        due = self._port.next_due()
        idle = 1.0 if self._port.logs is None else SEND_WITHIN_SECONDS  # Code that logs does not ring.
        timeout = idle if due is None else min(idle, max(0.0, due - self._port.clock()))
        self._bell.acquire(timeout=timeout)
