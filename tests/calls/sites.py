"""HTTP servers on this machine that answer byte by byte as a test says, and remember who asked."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

TLS = Path(__file__).parent / "tls"
"""A key and a certificate for orders.test that sign themselves and protect nothing; valid for a hundred years."""


@dataclass(slots=True)
class Request:
    """One request as it came."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for found, value in self.headers if found == name]


class Visit:
    """One connection, while a test's handler answers on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def say(self, *parts: bytes) -> None:
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()

    async def gone(self) -> None:
        """Wait until the peer has ended the connection."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while await self._reader.read(65536):
                pass


Handler = Callable[[Request, Visit], Awaitable[None]]


class Site:
    """A server; `requests` are those that came whole, `connections` all connections, `left` those that have ended."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.port = 0
        self.requests: list[Request] = []
        self.connections = 0
        self.left = asyncio.Semaphore(0)
        self.asked = asyncio.Semaphore(0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            request = await _read(reader)
            if request is not None:
                self.requests.append(request)
                self.asked.release()
                await self._handler(request, Visit(reader, writer))
        except ConnectionError:
            pass  # The client left while it was answered; some tests are about that.
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
            self.left.release()

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    pairs = [line.split(":", 1) for line in head[1:] if line]
    headers = [(name.lower(), value.strip()) for name, value in pairs]
    length = int(dict(headers).get("content-length", "0"))
    return Request(head[0], headers, await reader.readexactly(length))


@contextlib.asynccontextmanager
async def site(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    """A server on 127.0.0.1 and a free port."""
    served = Site(handler)
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0, ssl=tls)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        await server.wait_closed()
        for _ in range(served.connections):
            await served.left.acquire()


def answering(head: str, body: bytes = b"", status: str = "200 OK") -> Handler:
    """Always the same answer; `head` is a header a line."""

    async def handler(_: Request, visit: Visit) -> None:
        lines = [f"HTTP/1.1 {status}", *head.splitlines()]
        await visit.say("\r\n".join([*lines, "", ""]).encode(), body)

    return handler


def holding(*parts: bytes) -> Handler:
    """Says this much and then nothing more until the client leaves."""

    async def handler(_: Request, visit: Visit) -> None:
        await visit.say(*parts)
        await visit.gone()

    return handler


def server_tls(on_name: Callable[[str | None], None] = lambda _: None) -> ssl.SSLContext:
    """The TLS of a server for orders.test; `on_name` is told the name a client asks for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    context.sni_callback = lambda _socket, name, _context: on_name(name)
    return context


def client_tls() -> ssl.SSLContext:
    """Trusts the certificate of `server_tls`, and nothing else."""
    return ssl.create_default_context(cafile=TLS / "cert.pem")
