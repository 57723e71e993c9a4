"""HostService over real sockets: a whole run, an engine restart, and everything a host may send wrongly."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stepwire.protocol import limits
from stepwire.protocol.frames import EngineFrame, EngineSection, Execute, HostFrame, LiveBody, Report, ResumeState
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Fence, StepKind
from stepwire.v1 import host_service_pb2
from stepwire_engine.core.entries import RunState
from stepwire_engine.scheduler.ports import Attached
from stepwire_engine.transport.host_service import StreamBounds
from stepwire_engine.transport.server import GrpcServer, ListenError
from tests.transport.bench import CONFIG, HELLO, INPUT, REF, Bench, Host, serving

UNSET_ENUM = host_service_pb2.HostFrame(
    runs=[host_service_pb2.HostSection(run_id="r1", rejects=[host_service_pb2.Reject(path="a", attempt=1)])]
).SerializeToString()

Scenario = Callable[[Bench], Coroutine[Any, Any, None]]


def play(path: Path, scenario: Scenario, bounds: StreamBounds | None = None) -> None:
    async def main() -> None:
        async with serving(path / "engine.db", bounds) as bench:
            await scenario(bench)

    asyncio.run(main())


async def one_run(bench: Bench, host: Host) -> None:
    """Drive one run of one step to its end: the engine still works."""
    run_id, existing = await bench.driver.runs.start("checkout", INPUT, "")
    assert not existing
    seen, advance = await host.advance()
    assert (seen, advance.start is not None and advance.start.input) == (run_id, INPUT)
    await host.one_step(run_id, advance.fence)
    seen, released = await host.advance()
    assert seen == run_id and released.start is None
    await host.finish(run_id, advance.fence, 2, 1)
    await host.until_acked()
    view = await bench.driver.runs.view(run_id, include_steps=True)
    assert view.state is RunState.SUCCEEDED
    assert [step.path for step in view.steps] == ["reserve"]


def test_a_run_from_hello_to_success(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        host = bench.host()
        frame = await host.greet()
        assert frame.welcome is not None and frame.welcome.heartbeat_interval == CONFIG.heartbeat_interval
        await one_run(bench, host)
        assert host.numbers == list(range(1, len(host.numbers) + 1))
        await host.call.done_writing()
        assert await host.status() == (grpc.StatusCode.OK, "", "")
        assert bench.telemetry.frames["in"] == 3 and bench.telemetry.frames["out"] == len(host.numbers)

    play(tmp_path, scenario)


def test_a_restarted_engine_on_the_same_database_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "engine.db") as bench:
            host = bench.host()
            await host.greet()
            run_id, _ = await bench.driver.runs.start("checkout", INPUT, "order-17")
            _, advance = await host.advance()
            await host.one_step(run_id, advance.fence)
            await host.until_acked()
        assert (await host.status())[0] is grpc.StatusCode.OK

        async with serving(tmp_path / "engine.db") as bench:
            resume = ResumeState(bodies=(LiveBody(run_id, advance.fence, 0, 2),))
            again = bench.host(msgspec.structs.replace(HELLO, resume=resume))
            welcome = await again.greet()
            seen, released = await again.advance(since=welcome)
            assert seen == run_id and released.start is None and released.fence == advance.fence
            again.position = host.position
            await again.finish(run_id, advance.fence, 2, 1)
            await again.until_acked()
            assert (await bench.driver.runs.view(run_id, include_steps=False)).state is RunState.SUCCEEDED
            assert await bench.driver.runs.start("checkout", INPUT, "order-17") == (run_id, True)

    asyncio.run(main())


def test_a_stopping_engine_says_goodbye(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "engine.db") as bench:
            host = bench.host()
            await host.greet()
        last = await host.next()
        assert last is not None and last.goodbye is not None
        assert (await host.status())[0] is grpc.StatusCode.OK

    asyncio.run(main())


def test_a_newer_stream_of_the_instance_replaces_the_older(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        old, new = bench.host(), bench.host()
        await old.greet()
        await new.greet()
        status, message, code = await old.status()
        assert (status, code) == (grpc.StatusCode.ABORTED, "replaced")
        assert message == "session replaced by a newer stream of the same instance"
        await one_run(bench, new)

    play(tmp_path, scenario)


def test_a_host_that_vanishes_is_noticed(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        host = bench.host()
        await host.greet()
        attached = bench.driver._attached[HELLO.instance_id]
        gone = asyncio.create_task(bench.until_disconnected(attached))
        await asyncio.sleep(0)
        host.call.cancel()
        await gone
        assert not attached.session.connected and HELLO.instance_id in bench.driver.core.sessions
        again = bench.host(msgspec.structs.replace(HELLO, resume=ResumeState()))
        await again.greet()
        await one_run(bench, again)

    play(tmp_path, scenario)


# ---- what hosts may send wrongly; after each the engine serves the next host


BAD_HELLOS = [
    ({"protocol_min": 7, "protocol_max": 9}, "FAILED_PRECONDITION", "version", "protocol 7..9 offered"),
    ({"required_features": (12,)}, "FAILED_PRECONDITION", "feature", "feature 12 required"),
    ({"instance_id": ""}, "INVALID_ARGUMENT", "undecodable", "message could not be decoded (ref "),
    ({"service": "s" * 257}, "INVALID_ARGUMENT", "invalid_name", "service name of Hello has 257 bytes"),
    ({"instance_id": "stepwire-engine"}, "INVALID_ARGUMENT", "invalid_name", "'stepwire-engine' is the engine's own"),
]


@pytest.mark.parametrize(("changes", "status", "code", "message"), BAD_HELLOS)
def test_a_bad_hello_is_refused(tmp_path: Path, changes: dict[str, Any], status: str, code: str, message: str) -> None:
    async def scenario(bench: Bench) -> None:
        bad = bench.host(msgspec.structs.replace(HELLO, **changes))
        await bad.send(HostFrame(hello=bad.hello))
        frame = await bad.next()
        assert frame is not None and frame.fault is not None and frame.fault.code.slug == code
        seen_status, seen_message, seen_code = await bad.status()
        assert (seen_status, seen_code) == (grpc.StatusCode[status], code)
        assert message in seen_message
        good = bench.host()
        await good.greet()
        await one_run(bench, good)

    play(tmp_path, scenario)


def test_no_hello_in_time(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        assert await bench.host().status() == (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "expected Hello within 0.05s",
            "timeout",
        )

    play(tmp_path, scenario, StreamBounds(hello_timeout=0.05))


def test_the_default_time_for_hello_is_five_seconds() -> None:
    assert StreamBounds().hello_timeout == 5.0


def test_the_first_message_is_not_hello(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        host = bench.host()
        await host.send(HostFrame(report=Report(free_slots=1)))
        assert await host.status() == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "expected Hello, got Report",
            "protocol",
        )

    play(tmp_path, scenario)


def test_a_second_hello(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        host = bench.host()
        await host.greet()
        await host.send(HostFrame(hello=HELLO))
        status, message, code = await host.status()
        assert (status, code) == (grpc.StatusCode.FAILED_PRECONDITION, "protocol")
        assert message == "expected one Hello per stream, got a second"

    play(tmp_path, scenario)


@pytest.mark.parametrize("greeted", [False, True])
@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"\x0a", UNSET_ENUM], ids=["no protobuf", "truncated", "an enum that is not set"]
)
def test_undecodable_bytes_end_their_stream_only(tmp_path: Path, data: bytes, greeted: bool) -> None:
    async def scenario(bench: Bench) -> None:
        bad, good = bench.host(msgspec.structs.replace(HELLO, instance_id="i2", flows=())), bench.host()
        await good.greet()
        if greeted:
            await bad.greet()
        await bad.call.write(data)
        assert await bad.status() == (
            grpc.StatusCode.INVALID_ARGUMENT,
            f"message could not be decoded (ref {REF})",
            "undecodable",
        )
        await one_run(bench, good)

    play(tmp_path, scenario)


def test_a_message_over_the_limit(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        host = bench.host()
        message = host_service_pb2.HostFrame()
        message.hello.build_id = "b" * limits.MESSAGE_BYTES_MAX
        await host.call.write(message.SerializeToString())
        status, _, code = await host.status()
        assert (status, code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "payload_too_large")

    play(tmp_path, scenario)


def test_a_gap_in_the_positions(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        host = bench.host()
        await host.greet()
        await host.send(HostFrame(position=5))
        status, message, code = await host.status()
        assert (status, code) == (grpc.StatusCode.FAILED_PRECONDITION, "protocol")
        assert message == "frame position 5 is out of order"

    play(tmp_path, scenario)


def test_an_exception_of_the_core_ends_one_stream_and_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(bench: Bench) -> None:
        host = bench.host()
        await host.greet()

        def receive(attached: Attached, frame: HostFrame) -> None:
            raise RuntimeError("secret detail")

        with monkeypatch.context() as patch:
            patch.setattr(bench.driver, "receive", receive)
            await host.send(HostFrame(report=Report(free_slots=1)))
            assert await host.status() == (grpc.StatusCode.INTERNAL, f"internal error (ref {REF})", "internal")
        assert "secret detail" in caplog.text and REF in caplog.text
        again = bench.host()
        await again.greet()
        await one_run(bench, again)

    play(tmp_path, scenario)


# ---- hosts that do not read


async def deaf_host(bench: Bench) -> tuple[Host, Attached]:
    """A host that reads its Welcome and nothing more, and the engine's side of its stream."""
    host = bench.host()
    await host.greet()
    return host, bench.driver._attached[HELLO.instance_id]


def bulky(number: int) -> EngineFrame:
    """A frame of about 240 KB on the wire."""
    executes = [Execute(f"s{n}", 1, Fence(1, n + 1), StepKind.TASK, "work", Payload(b"x" * 60_000)) for n in range(4)]
    return EngineFrame(number=number, runs=[EngineSection("r1", executes=executes)])


def test_a_host_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        host, attached = await deaf_host(bench)
        for number in range(2, 200):
            attached.send(bulky(number))
        await bench.until_disconnected(attached)
        status, message, code = await host.status()
        assert (status, code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "limit_exceeded")
        assert message == "slow consumer: host did not read for 0.2s"

    play(tmp_path, scenario, StreamBounds(write_timeout=0.2, bytes_queued_max=1024**3))


@pytest.mark.parametrize(
    "bounds", [StreamBounds(frames_queued_max=3), StreamBounds(bytes_queued_max=700_000)], ids=["frames", "bytes"]
)
def test_what_waits_for_a_host_is_bounded(tmp_path: Path, bounds: StreamBounds) -> None:
    async def scenario(bench: Bench) -> None:
        host, attached = await deaf_host(bench)
        for number in range(2, 8):
            attached.send(bulky(number))
        status, message, code = await host.status()
        assert (status, code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "limit_exceeded")
        assert message.startswith("slow consumer: ") and "wait for the host to read" in message

    play(tmp_path, scenario, bounds)


# ---- the server


def server(host: str, port: int, **options: Any) -> GrpcServer:
    return GrpcServer(host, port, [], **options)


def test_a_port_that_is_taken_is_named_with_its_flag() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ListenError, match=rf"cannot listen on grpc 127\.0\.0\.1:{port}") as refused:
                await server("127.0.0.1", port).start()
            assert "already in use" in str(refused.value) and "--grpc-port" in str(refused.value)

    asyncio.run(main())


def test_two_servers_never_share_a_port() -> None:
    async def main() -> None:
        first = server("127.0.0.1", 0)
        await first.start()
        try:
            with pytest.raises(ListenError):
                await server("127.0.0.1", first.port).start()
        finally:
            await first.stop(0)

    asyncio.run(main())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_an_address_others_can_reach_needs_a_flag(host: str) -> None:
    async def main() -> None:
        with pytest.raises(ListenError, match="refused to listen"):
            await server(host, 0).start()

    asyncio.run(main())


def test_the_flag_allows_it() -> None:
    async def main() -> None:
        open_server = server("0.0.0.0", 0, insecure_listen=True)
        await open_server.start()
        assert open_server.port > 0
        await open_server.stop(0)

    asyncio.run(main())


def test_the_health_service_answers_and_follows_a_drain() -> None:
    async def main() -> None:
        serving_health = server("127.0.0.1", 0)
        await serving_health.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{serving_health.port}") as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                serving = await stub.Check(health_pb2.HealthCheckRequest())
                assert serving.status == health_pb2.HealthCheckResponse.SERVING
                await serving_health.drain()
                drained = await stub.Check(health_pb2.HealthCheckRequest())
                assert drained.status == health_pb2.HealthCheckResponse.NOT_SERVING
        finally:
            await serving_health.stop(0)

    asyncio.run(main())
