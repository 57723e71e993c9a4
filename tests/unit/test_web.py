"""Metrics and health over a real socket (MISSION V1)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from stepwire_engine.telemetry import Telemetry, metrics_registry
from stepwire_engine.web.health import Health
from stepwire_engine.web.server import AddressUnavailable, HttpServer

OK = Health("1.2")


class Probe:
    """A running server, a client for it, and the health it reports."""

    def __init__(self) -> None:
        self.health = OK
        self.telemetry = Telemetry(version="1.2", storage="memory")
        self.client: httpx.AsyncClient

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers=headers)


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Probe]:
    probe = Probe()
    server = HttpServer(
        "127.0.0.1", 0, health=lambda: probe.health, registry=metrics_registry(probe.telemetry), **options
    )
    await server.start()
    try:
        base = f"http://127.0.0.1:{server.port}"
        async with httpx.AsyncClient(base_url=base, trust_env=False) as probe.client:
            yield probe
    finally:
        await server.stop()


def test_health_and_readiness() -> None:
    async def scenario() -> None:
        async with serving() as probe:
            seen = {}
            for health in (
                OK,
                replace(OK, started=False),
                replace(OK, draining=True),
                replace(OK, store_full=True),
                replace(OK, store_failure="fsync failed", quarantined_runs=2),
            ):
                probe.health = health
                live, ready = await probe.get("/healthz"), await probe.get("/readyz")
                assert live.json() == ready.json()
                assert live.headers["cache-control"] == "no-store"
                seen[live.json()["status"]] = (live.status_code, ready.status_code)
                if health.store_full:
                    assert "the disk of the database is full" in live.json()["detail"]
            assert seen == {
                "ok": (200, 200),
                "starting": (200, 503),
                "draining": (503, 503),
                "store_full": (200, 503),
                "store_failed": (503, 503),
            }
            assert live.json() == {
                "status": "store_failed", "version": "1.2", "detail": "fsync failed", "quarantined_runs": 2,
            }  # fmt: skip

    asyncio.run(scenario())


def test_metrics_in_both_formats() -> None:
    async def scenario() -> None:
        async with serving() as probe:
            probe.telemetry.frames["in"] += 3
            text = await probe.get("/metrics")
            assert text.status_code == 200
            assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert 'stepwire_frames_total{direction="in"} 3.0\n' in text.text
            assert "# EOF" not in text.text
            opened = await probe.get("/metrics", accept="application/openmetrics-text; version=1.0.0")
            assert opened.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
            assert opened.text.endswith("# EOF\n")
            assert "# TYPE stepwire_frames counter\n" in opened.text

    asyncio.run(scenario())


def test_what_is_not_there() -> None:
    async def scenario() -> None:
        async with serving() as probe:
            assert (await probe.get("/nothing")).status_code == 404
            assert (await probe.client.post("/metrics")).status_code == 405
            assert (await probe.client.head("/healthz")).status_code == 200

    asyncio.run(scenario())


def test_a_taken_port_is_named_with_the_flag() -> None:
    async def scenario(port: int) -> None:
        server = HttpServer("127.0.0.1", port, health=lambda: OK, registry=CollectorRegistry())
        with pytest.raises(
            AddressUnavailable, match=rf"127\.0\.0\.1:{port}\n  why: Address already in use\n.*--http-port"
        ):
            await server.start()
        await server.stop()
        with pytest.raises(RuntimeError, match="not started"):
            assert server.port

    with socket.create_server(("127.0.0.1", 0)) as taken:
        asyncio.run(scenario(taken.getsockname()[1]))


def test_an_address_of_another_machine() -> None:
    async def scenario() -> None:
        with pytest.raises(AddressUnavailable, match=r"192\.0\.2\.1:0"):
            await HttpServer("192.0.2.1", 0, health=lambda: OK, registry=CollectorRegistry()).start()

    asyncio.run(scenario())


def test_signal_handlers_are_left_alone_and_the_port_is_freed() -> None:
    async def scenario() -> None:
        server = HttpServer("127.0.0.1", 0, health=lambda: OK, registry=CollectorRegistry())
        before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
        await server.start()
        assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
        port = server.port
        await server.stop()
        await server.stop()
        again = HttpServer("127.0.0.1", port, health=lambda: OK, registry=CollectorRegistry())
        await again.start()
        assert again.port == port
        await again.stop()

    asyncio.run(scenario())


def test_stopping_waits_for_open_requests() -> None:
    async def scenario() -> None:
        entered, gate = asyncio.Event(), asyncio.Event()

        async def slow(request: Request) -> Response:
            entered.set()
            await gate.wait()
            return PlainTextResponse("done")

        server = HttpServer(
            "127.0.0.1", 0, health=lambda: OK, registry=CollectorRegistry(), routes=[Route("/slow", slow)]
        )
        await server.start()
        port = server.port
        async with httpx.AsyncClient(trust_env=False) as client:
            request = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/slow"))
            await entered.wait()
            stopping = asyncio.create_task(server.stop())
            with pytest.raises(ConnectionError):
                while True:  # until the server no longer listens
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
            assert not stopping.done()
            gate.set()
            assert (await request).text == "done"
            await stopping

    asyncio.run(scenario())
