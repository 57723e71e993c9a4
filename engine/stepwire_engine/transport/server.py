"""The gRPC server: its address, its limits and its health service. It knows no frame and no run.

Limits are set here because gRPC's defaults either cut healthy streams (pings) or have no bound (streams).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_health.v1.health import aio as health  # type: ignore[import-untyped]

from stepwire.protocol import limits

STREAMS_PER_CONNECTION_MAX = 1_000
"""A client may watch that many runs over one connection."""
CALLS_BESIDE_SESSIONS_MAX = 4_096
_HEADER_BYTES = 64 * 1024


class ListenError(Exception):
    """The gRPC address cannot be listened on. The text says what, why and which flag changes it."""

    exit_code = 1


class GrpcServer:
    """Serves handlers on one address.

    Args:
        host: Address to listen on; must be a loopback one unless `insecure_listen`.
        port: 0..65535; 0 takes a free one, see `port`.
        handlers: The services, with their full names.
        payload_bytes_max: Longest input of a run; calls carry it inline, so messages may be that long.
        sessions_max: Hosts connected at once; each holds one call.
        insecure_listen: Allow an address that others can reach, though nothing is encrypted or authenticated.
    """

    def __init__(
        self,
        host: str,
        port: int,
        handlers: Sequence[tuple[str, grpc.GenericRpcHandler]],
        *,
        payload_bytes_max: int = limits.PAYLOAD_BYTES_MAX,
        sessions_max: int = 1000,
        insecure_listen: bool = False,
    ) -> None:
        self._host = host
        self._port = port
        self._handlers = handlers
        self._payload_bytes_max = payload_bytes_max
        self._sessions_max = sessions_max
        self._insecure_listen = insecure_listen
        self._server: grpc.aio.Server | None = None
        self._health = health.HealthServicer()

    @property
    def port(self) -> int:
        """The port in use, once started."""
        return self._port

    async def start(self) -> None:
        """Listen and serve. Raises ListenError."""
        if not self._insecure_listen and not is_loopback(self._host):
            raise ListenError(
                f"refused to listen on {authority(self._host, self._port)}\n"
                "  why: the address can be reached from other machines, and the port has no encryption and no "
                "authentication\n"
                "  next: listen on 127.0.0.1 (--grpc-host), or allow it with --insecure on a trusted network"
            )
        _check_free(self._host, self._port)
        server = grpc.aio.server(
            options=options(self._payload_bytes_max),
            maximum_concurrent_rpcs=self._sessions_max + CALLS_BESIDE_SESSIONS_MAX,
        )
        server.add_generic_rpc_handlers([handler for _, handler in self._handlers])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        try:
            self._port = server.add_insecure_port(authority(self._host, self._port))
        except RuntimeError:
            raise _unavailable(self._host, self._port, "the address cannot be bound") from None
        await server.start()
        self._server = server
        for name in ("", *(name for name, _ in self._handlers)):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        """Say NOT_SERVING to whoever asks for health; calls go on."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Close the port; calls in progress have `grace` seconds. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace)


def authority(host: str, port: int) -> str:
    """`host:port`, with brackets around IPv6 addresses."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def options(payload_bytes_max: int) -> list[tuple[str, int]]:
    """How gRPC serves. It ignores names it does not know: tests/transport/test_keepalive.py proves their effects."""
    return [
        ("grpc.max_receive_message_length", max(limits.MESSAGE_BYTES_MAX, payload_bytes_max + _HEADER_BYTES)),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
        # A second line only: the core knows sooner which host is silent. It frees what dead connections hold. The
        # timeout is also how long the kernel keeps unacknowledged data: a link that drops all for 5 s is not cut here.
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.ping_timeout_ms", 10_000),
        # Hosts ping every 4 s when they hear nothing; a healthy one must never be cut off for it.
        ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.server_handshake_timeout_ms", 10_000),
        # Otherwise a second engine would share the port and take half of the hosts.
        ("grpc.so_reuseport", 0),
    ]


def _check_free(host: str, port: int) -> None:
    """Bind once with a plain socket, because gRPC does not say why it cannot."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as problem:
        number = problem.errno if isinstance(problem, OSError) else None
        known = number is not None and number in errno.errorcode
        raise _unavailable(host, port, os.strerror(number) if known and number else str(problem)) from None


def _unavailable(host: str, port: int, why: str) -> ListenError:
    return ListenError(
        f"cannot listen on grpc {authority(host, port)}\n"
        f"  why: {why}\n"
        f"  next: stop what uses port {port}, or choose another with --grpc-host and --grpc-port"
    )
