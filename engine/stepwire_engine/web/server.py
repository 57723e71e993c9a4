"""The HTTP server: uvicorn on the engine's own loop, without its signal handlers, lifespan and logging.

The engine decides when it starts and stops; this module never ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Sequence

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from stepwire_engine.web.health import HealthSource, health_routes
from stepwire_engine.web.metrics import metrics_routes

STOP_SECONDS = 5
"""How long open requests may take when the server stops."""
_BACKLOG = 512


class AddressUnavailable(Exception):
    """The HTTP address cannot be listened on. The text says why and which flag changes it."""

    exit_code = 1


class HttpServer:
    """Serves metrics, health and further routes.

    Args:
        host: Address to listen on.
        port: 0..65535; 0 takes a free one, see `port`.
        health: Asked at every probe.
        registry: Scraped at /metrics.
        routes: Served beside them.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        health: HealthSource,
        registry: CollectorRegistry,
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        self._host, self._wanted_port = host, port
        self._app = Starlette(routes=[*health_routes(health), *metrics_routes(registry), *routes])
        self._socket: socket.socket | None = None
        self._server: _EmbeddedServer | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port in use. Raises RuntimeError before `start`."""
        if self._socket is None:
            raise RuntimeError("the HTTP server was not started")
        port: int = self._socket.getsockname()[1]
        return port

    async def start(self) -> None:
        """Listen and serve; returns when requests are answered.

        Raises:
            AddressUnavailable: the port is taken, or the address is not one of this machine.
        """
        self._socket = await _listening_socket(self._host, self._wanted_port)
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self._server = _EmbeddedServer(config)
        self._serving = asyncio.create_task(self._server.serve([self._socket]), name="stepwire-http")
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait((ready, self._serving), return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            self._socket.close()
            await self._serving

    async def stop(self) -> None:
        """Close the port, let open requests finish for at most 5 s. Idempotent."""
        if self._server is None or self._serving is None:
            return
        self._server.should_exit = True
        await self._serving
        self._server = self._serving = None


class _EmbeddedServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the engine."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


async def _listening_socket(host: str, port: int) -> socket.socket:
    """Bind here instead of in uvicorn, which ends the process if it cannot."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as problem:
        raise AddressUnavailable(
            f"cannot listen on http://{host}:{port}\n"
            f"  why: {_reason(problem)}\n"
            "  next: stop what uses the port, or choose another with --http-host and --http-port"
        ) from problem


def _reason(problem: Exception) -> str:
    """What the system says, without what asyncio and socket add to it."""
    if isinstance(problem, OSError) and problem.errno is not None and problem.errno in errno.errorcode:
        return os.strerror(problem.errno)
    return str(problem)
