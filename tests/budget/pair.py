"""An engine and a host on two loops of one thread, which take turns: the same work is the same calls, every time.

Everything is real (core, scheduler, SQLite, both gRPC services, the wire, the SDK's session and runtime) except what
would make counts depend on luck: the sockets are lists of messages, the clocks stand still until told, a commit is
waited for, and each side runs until it has nothing more to do before the other one goes on. So batches are as large
as they can be, which is what a count per step may assume; how they fall apart under load is for `benchmarks/`.
"""

from __future__ import annotations

import asyncio
import gc
import selectors
import threading
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

import stepwire
from stepwire import _serving
from stepwire._runtime import eager
from stepwire.protocol import limits
from stepwire.protocol.frames import EngineFrame
from stepwire.protocol.wire import EngineFrameDecoder, encode_host_frame
from stepwire.v1 import payload_pb2
from stepwire.v1 import run_service_pb2 as pb
from stepwire_engine.clock import VirtualClock
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.scheduler.driver import Driver
from stepwire_engine.store.base import Receipts, StoreError, Unit
from stepwire_engine.store.sqlite import SqliteStore
from stepwire_engine.telemetry import Telemetry
from stepwire_engine.transport import host_service, run_service
from tests.budget.counter import CallCounter

ROUNDS_MAX = 100_000
CONFIG = CoreConfig(
    silence_timeout=1e9,
    stall_forgiven=1e9,
    adoption_grace=0.0,
    reconcile_interval=1e9,
    heartbeat_interval=60.0,
    live_idle=3600.0,
)
"""Nothing happens by time alone."""


class StillLoop(asyncio.SelectorEventLoop):
    """A loop whose time moves only when told."""

    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())
        self.at = 0.0

    def time(self) -> float:
        return self.at

    def run_ready(self) -> None:
        """Run what is ready, and what that makes ready, and so on."""
        while self._ready or self._is_due():  # type: ignore[attr-defined]
            self.call_soon(self.stop)
            self.run_forever()

    def _is_due(self) -> bool:
        timers = self._scheduled  # type: ignore[attr-defined]
        return bool(timers) and timers[0].when() <= self.at

    def next_timer(self) -> float | None:
        """When the next timer is due."""
        return min([t.when() for t in self._scheduled if not t.cancelled()], default=None)  # type: ignore[attr-defined]


class WaitedStore(SqliteStore):
    """Every commit is waited for, so that what one has does not depend on how long the one before took."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._answers: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._told_on = loop
        super().__init__(path, notify=self._answers.put, on_failed=_raise)

    def submit(self, units: Sequence[Unit], done: Receipts) -> None:
        super().submit(units, done)
        self._told_on.call_soon(self._answers.get())


class InlineLink:
    """What `GrpcLink` is, without gRPC: `deliver` is its reader, `outgoing` its writer."""

    def __init__(
        self,
        address: str,
        port: Any,
        on_frame: Callable[[EngineFrame, list[Any]], None],
        on_reconnect: Callable[[], None],
        on_traffic: Callable[[str, int, int], None],
    ) -> None:
        self.address = address
        self._port = port
        self._on_frame = on_frame
        self._on_traffic = on_traffic
        self._decoder = EngineFrameDecoder(limits.PAYLOAD_BYTES_MAX * 16)
        self._rung = False

    def start(self) -> None:
        self._port.bell = self._ring
        self._port.connect()

    def _ring(self) -> None:
        self._rung = True

    def deliver(self, data: bytes) -> None:
        frame = self._decoder.decode(data)
        self._on_traffic("in", int(frame is not None), len(data))
        if frame is not None:
            self._on_frame(frame, self._port.receive(frame))

    def outgoing(self) -> Iterator[bytes]:
        while (frame := self._port.take_frame()) is not None:
            size = 0
            for message in encode_host_frame(frame, alike=self._port.session.alike):
                size += len(message)
                yield message
            self._on_traffic("out", 1, size)


class Stream:
    """A gRPC stream as its servicer sees it."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.written: deque[bytes] = deque()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def send_initial_metadata(self, metadata: Any) -> None:
        """Nobody here waits for it."""

    async def read(self) -> Any:
        return await self.incoming.get()

    async def write(self, data: bytes) -> None:
        self.written.append(data)

    async def abort(self, code: Any, details: str, trailers: Any = ()) -> None:
        raise AssertionError(f"the engine aborted a call: {code} {details}")


class Side:
    """One loop with what is counted of it.

    Attributes:
        calls: Of functions.
        bytes, objects: What ran here has allocated and kept since `start_measuring`; objects are those that the
            garbage collector watches.
    """

    def __init__(self) -> None:
        self.loop = StillLoop()
        self.calls = CallCounter()
        self.bytes = self.objects = 0
        self._measures = False

    def start_measuring(self) -> None:
        """Measure what is kept. tracemalloc must be on."""
        self.bytes = self.objects = 0
        self._measures = True

    @contextmanager
    def running(self) -> Iterator[None]:
        """What is called here is this side's."""
        before = _kept() if self._measures else (0, 0)
        with self.calls.counting():
            yield
        if self._measures:
            after = _kept()
            self.bytes += after[0] - before[0]
            self.objects += after[1] - before[1]

    def settle(self) -> None:
        with self.running():
            self.loop.run_ready()

    def do(self, coroutine: Any) -> Any:
        """Run until the coroutine has ended."""
        with self.running():
            return self.loop.run_until_complete(coroutine)


class Pair:
    """An engine and one host of it.

    Attributes:
        rounds: How often the host had something to say.
    """

    def __init__(self, folder: Path, host: stepwire.Host) -> None:
        self.engine, self.host = Side(), Side()
        self.rounds = 0
        self.clock = VirtualClock()
        self.engine.calls.watch_new_threads()
        self.telemetry = Telemetry(version="budget", storage="sqlite")
        self.store = WaitedStore(folder / "budget.db", self.engine.loop)
        self.driver = Driver(CONFIG, self.store, self.clock, self.telemetry, steady=False)
        self.engine.do(self.driver.start())
        threading.setprofile(None)  # type: ignore[arg-type]
        hosts = host_service.HostService(self.driver, self.telemetry, new_ref=lambda: "ref")
        clients = run_service.RunService(self.driver.runs, payload_bytes_max=2**22, new_ref=lambda: "ref")
        self._start = _method(clients, run_service.SERVICE, "Start").unary_unary
        self._stream = Stream()
        serve = _method(hosts, host_service.SERVICE, "Session").stream_stream
        self._served = self.engine.loop.create_task(serve(None, self._stream))
        self._running = self.host.do(_connected(host))
        self._running.port.clock = self.host.loop.time
        self._link: InlineLink = self._running._link
        self.settle()

    def close(self) -> None:
        self.host.do(_left(self._running))
        self.engine.do(self.driver.stop())
        self._stream.incoming.put_nowait(grpc.aio.EOF)
        self.engine.loop.run_ready()
        self.engine.loop.run_until_complete(asyncio.wait_for(self._served, None))
        for side in (self.engine, self.host):
            side.loop.run_until_complete(side.loop.shutdown_default_executor())
            side.loop.close()

    # ---- work

    def start(self, flow: str, data: bytes, runs: int = 1) -> None:
        """Clients start so many runs, all at once."""
        request = pb.StartRequest(flow=flow, input=payload_pb2.Payload(data=data, encoding="json"))
        message = request.SerializeToString()

        async def calls() -> None:
            answers = await asyncio.gather(*[self._start(message, Stream()) for _ in range(runs)])
            assert all(pb.StartResponse.FromString(answer).run_id for answer in answers)

        self.engine.do(calls())

    def settle(self) -> None:
        """Carry messages until nobody has anything to say."""
        for _ in range(ROUNDS_MAX):
            self.engine.settle()
            if not (self._to_host() | self._to_engine()):
                return
        raise AssertionError("engine and host never come to rest")

    def _to_host(self) -> bool:
        written = self._stream.written
        some = bool(written)
        with self.host.running():
            while written:
                self._link.deliver(written.popleft())
            self.host.loop.run_ready()
        return some

    def _to_engine(self) -> bool:
        with self.host.running():
            messages = list(self._link.outgoing())
        for message in messages:
            self._stream.incoming.put_nowait(message)
        self.rounds += bool(messages)
        return bool(messages)

    def finish(self) -> None:
        """Let every run end; time passes when nothing else happens."""
        self.settle()
        while self.driver.core.runs:
            due = self.host.loop.next_timer()
            assert due is not None, "a run does not go on"
            self.host.loop.at = max(self.host.loop.at, due)
            self.settle()
        with self.engine.running():
            self.driver.tick()
        self.settle()


def _kept() -> tuple[int, int]:
    gc.collect()
    return tracemalloc.get_traced_memory()[0], len(gc.get_objects())


async def _connected(host: stepwire.Host) -> Any:
    return await host.start("inline:0")


async def _left(running: Any) -> None:
    running.runtime.close()
    running.host.log_handler.detach()
    if running._lag is not None:
        running._lag.cancel()


def _method(service: Any, name: str, method: str) -> Any:
    return service.handler().service(SimpleNamespace(method=f"/{name}/{method}", invocation_metadata=()))


def _raise(error: StoreError) -> None:
    raise error


@contextmanager
def pair(folder: Path, host: stepwire.Host) -> Iterator[Pair]:
    """A connected pair; the folder is for its database."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_serving, "GrpcLink", InlineLink)
        patched.setattr(eager, "SLICE_SECONDS", 1e9)  # How far a slice of time reaches depends on the machine.
        made = Pair(folder, host)
        try:
            yield made
        finally:
            made.close()
