"""Both services of one engine on one port, in this process, spoken to with plain bytes and frames."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import grpc
import msgspec
from google.protobuf.message import Message

from stepwire.protocol.frames import Hello
from stepwire.v1 import payload_pb2
from stepwire.v1 import run_service_pb2 as pb
from stepwire_engine.clock import SystemClock
from stepwire_engine.core.entries import RunState
from stepwire_engine.scheduler.driver import Driver
from stepwire_engine.scheduler.runs import RunBounds
from stepwire_engine.store.memory import MemoryStore
from stepwire_engine.telemetry import Telemetry
from stepwire_engine.transport import host_service, run_service
from stepwire_engine.transport.host_service import HostService, StreamBounds
from stepwire_engine.transport.run_service import RunService
from stepwire_engine.transport.server import GrpcServer
from tests.transport.bench import CONFIG, HELLO, REF, Bench, Host, void

GOOD = Hello(service="good", instance_id="good", flows=("good",), slots=4, bodies=4)
RUNS = f"/{run_service.SERVICE}"


class Answer(NamedTuple):
    """How a call or a stream ended.

    Attributes:
        code: Slug in the trailing metadata.
        everything: All text that the peer got: details, trailers.
    """

    status: grpc.StatusCode
    code: str
    message: str
    everything: str = ""


class WholeEngine(Bench):
    """One running engine with both services.

    Attributes:
        store: In memory, so that a test can fill it.
        calls: The service of clients.
    """

    store: MemoryStore
    calls: RunService

    async def call(self, method: str, request: Message | bytes, *, path: str = RUNS) -> bytes:
        """One call of a client."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        unary: Any = self.channel.unary_unary(f"{path}/{method}")
        answer: bytes = await unary(data, timeout=10)
        return answer

    async def refusal(self, method: str, request: Message | bytes, *, path: str = RUNS) -> Answer:
        """A call that must not succeed."""
        try:
            if method in ("Watch", "Await"):
                await self.watch(request, method)
            else:
                await self.call(method, request, path=path)
        except grpc.aio.AioRpcError as error:
            trailers = {key: value for key, value in error.trailing_metadata() or ()}
            told = repr((error.details(), error.debug_error_string(), trailers))
            return Answer(error.code(), str(trailers.get("stepwire-code", "")), error.details() or "", told)
        raise AssertionError(f"{method} was answered")

    async def watch(self, request: Message | bytes, method: str = "Watch") -> list[bytes]:
        """Everything that Watch, or Await, sends."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        stream: Any = self.channel.unary_stream(f"{RUNS}/{method}")
        return [answer async for answer in stream(data, timeout=10)]

    async def start(self, flow: str = "checkout", key: str = "", data: bytes = b"1") -> str:
        request = pb.StartRequest(flow=flow, id=key, input=payload_pb2.Payload(data=data))
        return pb.StartResponse.FromString(await self.call("Start", request)).run_id

    async def ended(self, host: Host) -> Answer:
        """How the engine ended a host's stream."""
        said: list[Any] = []
        with contextlib.suppress(grpc.aio.AioRpcError):
            while (frame := await host.next()) is not None:
                said.append(frame)
        trailers = {key: value for key, value in await host.call.trailing_metadata()}
        code, details = await host.call.code(), await host.call.details()
        return Answer(code, str(trailers.get("stepwire-code", "")), details, repr((details, trailers, said)))

    async def finished_run(self, host: Host, flow: str = "checkout", key: str = "") -> str:
        """A run that a greeted host drives from start to end."""
        run_id = await self.start(flow, key)
        await self.drive(host, run_id)
        return run_id

    async def drive(self, host: Host, run_id: str) -> None:
        """One step, and the end of the body."""
        seen, advance = await host.advance()
        assert seen == run_id
        await host.one_step(run_id, advance.fence)
        await host.advance()
        await host.finish(run_id, advance.fence, 2, 1)
        await host.until_acked()

    async def check_serves(self) -> None:
        """The next good calls succeed: another host connects, and another run ends well."""
        good = self.host(GOOD)
        await good.greet()
        run_id = await self.finished_run(good, "good")
        view = pb.GetResponse.FromString(await self.call("Get", pb.GetRequest(run_id=run_id))).run
        assert int(view.state) == RunState.SUCCEEDED
        assert len(await self.watch(pb.WatchRequest(run_id=run_id))) == 1
        assert len(await self.watch(pb.AwaitRequest(run_ids=[run_id]), "Await")) == 1
        await good.call.done_writing()


def with_instance(instance_id: str, **changes: Any) -> Hello:
    return msgspec.structs.replace(HELLO, instance_id=instance_id, **changes)


@contextlib.asynccontextmanager
async def whole_engine(
    bounds: StreamBounds | None = None, *, sessions_max: int = 1000, run_bounds: RunBounds | None = None
) -> AsyncIterator[WholeEngine]:
    """An engine, from its start to its stop."""
    loop = asyncio.get_running_loop()
    telemetry = Telemetry(version="test", storage="memory")
    store = MemoryStore(notify=lambda call: void(loop.call_soon_threadsafe(call)))
    driver = Driver(CONFIG, store, SystemClock(), telemetry, bounds=run_bounds, sessions_max=sessions_max)
    await driver.start()
    hosts = HostService(driver, telemetry, new_ref=lambda: REF, bounds=bounds)
    calls = RunService(driver.runs, payload_bytes_max=CONFIG.payload_bytes_max, new_ref=lambda: REF)
    services = [(host_service.SERVICE, hosts.handler()), (run_service.SERVICE, calls.handler())]
    server = GrpcServer("127.0.0.1", 0, services)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            engine = WholeEngine(driver, telemetry, server.port, channel)
            engine.store, engine.calls = store, calls
            yield engine
    finally:
        await driver.stop()
        await server.stop(1)


Scenario = Callable[[WholeEngine], Awaitable[Answer]]


def payload(data: bytes, encoding: str = "json") -> payload_pb2.Payload:
    return payload_pb2.Payload(data=data, encoding=encoding)
