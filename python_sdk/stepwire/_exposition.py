"""Shows a host's metrics on a port of its own, for services that have no web server to show them.

Every process is a target of its own to Prometheus: of several workers of one service each takes the next free port. It
must never keep a service from starting: if no port is free, that is a warning.
"""

from __future__ import annotations

import errno
import logging
import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

logger = logging.getLogger("stepwire.host")

PORTS_TRIED = 16
"""From the wanted port on; so many workers of one service show their metrics."""


class Exposition:
    """`GET /metrics` on a thread of its own.

    Args:
        registry: What is shown.
        address: To listen on; one that other machines reach shows names of flows and services to them.
        port: The first that is tried; 0 takes a free one.
    """

    def __init__(self, registry: CollectorRegistry, address: str, port: int) -> None:
        self._registry = registry
        self._address = address
        self._wanted = port
        self._server: WSGIServer | None = None

    @property
    def url(self) -> str:
        """Where they are shown; empty: nowhere."""
        if self._server is None:
            return ""
        host = f"[{self._address}]" if ":" in self._address else self._address
        return f"http://{host}:{self._server.server_port}/metrics"

    def start(self, service: str) -> None:
        """Listen, and say where. `service` is for the log."""
        ports = [self._wanted + n for n in range(PORTS_TRIED)] if self._wanted else [0]
        for port in ports:
            try:
                self._server, _ = start_http_server(port, self._address, self._registry)
            except OSError as problem:
                if problem.errno != errno.EADDRINUSE:
                    logger.warning("metrics of host %s are not shown: %s", service, problem)
                    return
            else:
                logger.info("metrics of host %s are at %s", service, self.url)
                return
        logger.warning("metrics of host %s are not shown: ports %d to %d are in use", service, ports[0], ports[-1])

    def stop(self) -> None:
        """Close the port; returns at once. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            # Its loop looks whether it is to end every half second, and the application's must not wait for that.
            threading.Thread(target=_close, args=(server,), name="stepwire-metrics-end", daemon=True).start()


def _close(server: WSGIServer) -> None:
    server.shutdown()
    server.server_close()
