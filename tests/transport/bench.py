"""A real engine behind a real gRPC port, and a host that speaks frames through the wire mapping and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from stepwire.protocol.frames import Advance, EngineFrame, Hello, HostFrame, HostSection, Result
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded, Fence, Plan, StepPlanned
from stepwire.protocol.wire import EngineFrameDecoder, encode_host_frame
from stepwire_engine.clock import SystemClock
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.scheduler.driver import Driver
from stepwire_engine.scheduler.ports import Attached
from stepwire_engine.store.base import StoreError
from stepwire_engine.store.sqlite import SqliteStore
from stepwire_engine.telemetry import Telemetry
from stepwire_engine.transport.host_service import SERVICE, HostService, StreamBounds
from stepwire_engine.transport.server import GrpcServer

CONFIG = CoreConfig(reconnect_grace=0.2, adoption_grace=2.0)
HELLO = Hello(service="orders", instance_id="i1", flows=("checkout",), slots=4, bodies=4)
INPUT = Payload(b'{"order":17}')
REF = "ref0123456789"
METHOD = f"/{SERVICE}/Session"


class Bench:
    """One running engine."""

    def __init__(self, driver: Driver, telemetry: Telemetry, port: int, channel: grpc.aio.Channel) -> None:
        self.driver = driver
        self.telemetry = telemetry
        self.port = port
        self.channel = channel

    async def until_disconnected(self, attached: Attached) -> None:
        """Wait until the engine has given up a stream."""
        gone = asyncio.Event()
        disconnected = self.driver.disconnected

        def noted(stream: Attached) -> None:
            disconnected(stream)
            if stream is attached:
                gone.set()

        self.driver.disconnected = noted  # type: ignore[method-assign]
        await gone.wait()

    def host(self, hello: Hello = HELLO) -> Host:
        return Host(self.channel, hello)


@contextlib.asynccontextmanager
async def serving(path: Path, bounds: StreamBounds | None = None) -> AsyncIterator[Bench]:
    """An engine on a database, from its start to its stop."""
    loop = asyncio.get_running_loop()
    telemetry = Telemetry(version="test", storage="sqlite")

    def failed(error: StoreError) -> None:
        raise AssertionError(f"the store failed: {error}")

    store = SqliteStore(path, notify=lambda call: void(loop.call_soon_threadsafe(call)), on_failed=failed)
    driver = Driver(CONFIG, store, SystemClock(), telemetry)
    await driver.start()
    service = HostService(driver, telemetry, new_ref=lambda: REF, bounds=bounds)
    server = GrpcServer("127.0.0.1", 0, [(SERVICE, service.handler())])
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Bench(driver, telemetry, server.port, channel)
    finally:
        await driver.stop()
        await server.stop(1)


def void(_: object) -> None:
    """Drop a value."""


class Host:
    """One stream. Frames are sent as they are; nothing is remembered but the last position."""

    def __init__(self, channel: grpc.aio.Channel, hello: Hello = HELLO) -> None:
        self.hello = hello
        self.call: Any = channel.stream_stream(METHOD)()
        self.decoder = EngineFrameDecoder(CONFIG.payload_bytes_max)
        self.position = 0
        self.acked = 0
        self.numbers: list[int] = []

    async def send(self, frame: HostFrame) -> None:
        for data in encode_host_frame(frame):
            await self.call.write(data)

    async def say(self, section: HostSection) -> None:
        """Send a durable frame about one run."""
        self.position += 1
        await self.send(HostFrame(position=self.position, runs=[section]))

    async def next(self) -> EngineFrame | None:
        """The next frame; None at the end of the stream."""
        while True:
            data = await self.call.read()
            if data is grpc.aio.EOF:
                return None
            frame = self.decoder.decode(data)
            if frame is not None:
                self.numbers.append(frame.number)
                self.acked = max(self.acked, frame.acked_position)
                return frame

    async def greet(self) -> EngineFrame:
        """Hello, and the frame with the Welcome."""
        await self.send(HostFrame(hello=self.hello))
        frame = await self.next()
        assert frame is not None and frame.welcome is not None, frame
        return frame

    async def advance(self, *, since: EngineFrame | None = None) -> tuple[str, Advance]:
        """The next Advance; `since` is a frame that may hold it already."""
        frame = since
        while True:
            for section in frame.runs if frame is not None else ():
                if section.advance is not None:
                    return section.run_id, section.advance
            frame = await self.next()
            assert frame is not None, "the stream ended"

    async def until_acked(self) -> None:
        """Wait until everything sent is durable."""
        while self.acked < self.position:
            assert await self.next() is not None, "the stream ended"

    async def status(self) -> tuple[grpc.StatusCode, str, str]:
        """How the stream ends: status, message, and the code in the trailing metadata."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await self.next() is not None:
                pass
        trailers = {key: value for key, value in await self.call.trailing_metadata()}
        return await self.call.code(), await self.call.details(), str(trailers.get("stepwire-code", ""))

    async def one_step(self, run_id: str, fence: Fence) -> None:
        """Plan one closure, started here, with its result."""
        plan = Plan(1, 0, fence, steps=(StepPlanned("reserve", started=True),))
        result = Result("reserve", 1, fence, Payload(b'"r-1"'), elapsed=0.01)
        await self.say(HostSection(run_id, plans=[plan], results=[result]))

    async def plan_one_step(self, run_id: str, fence: Fence) -> None:
        """Plan one closure, started here; its result follows with `end_one_step`."""
        await self.say(HostSection(run_id, plans=[Plan(1, 0, fence, steps=(StepPlanned("reserve", started=True),))]))

    async def end_one_step(self, run_id: str, fence: Fence) -> None:
        """The result of that closure."""
        await self.say(HostSection(run_id, results=[Result("reserve", 1, fence, Payload(b'"r-1"'), elapsed=0.01)]))

    async def finish(self, run_id: str, fence: Fence, plan_seq: int, after_release: int) -> None:
        """Plan the end of the body."""
        plan = Plan(plan_seq, after_release, fence, body_ended=BodyEnded(Payload(b'"done"')))
        await self.say(HostSection(run_id, plans=[plan]))
