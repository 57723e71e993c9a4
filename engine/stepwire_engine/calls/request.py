"""One HTTP request of a call: to a checked address, bounded in time and size, and never anywhere else.

The name is resolved once, every address it has is judged, and the connection is made to one of exactly these: what a
second lookup would say does not matter. There are no redirects, proxies, cookies or reused connections. It must not
retry: whether a request may be sent again is the step's policy. An exception is an address that did not answer at
all, for then the request was not sent.
"""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import httpx

from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Call
from stepwire_engine.calls.body import BodyReader
from stepwire_engine.calls.destinations import Destinations
from stepwire_engine.calls.exchange import (
    CallFailed,
    Outgoing,
    answer,
    invalid,
    outgoing,
    refused,
    too_large,
    unanswered,
)
from stepwire_engine.calls.resolver import Resolve

CONNECT_SECONDS = 10.0
"""For one address: to connect, and again for the TLS handshake."""
ADDRESSES_MAX = 4
"""Addresses of a host that are tried in one attempt."""
Trace = Callable[[str, dict[str, Any]], Awaitable[None]]
_TIMEOUTS = {"connect": CONNECT_SECONDS, "read": None, "write": None, "pool": None}


class Caller:
    """Makes requests.

    Args:
        destinations: Which addresses may be reached.
        resolve: Finds them.
        response_bytes_max: Longest body of an answer.
        payload_bytes_max: Longest output of a step.
        secrets: What headers may name, by name.
        tls: What is trusted; None: what this machine trusts.
    """

    def __init__(
        self,
        destinations: Destinations,
        resolve: Resolve,
        *,
        response_bytes_max: int,
        payload_bytes_max: int,
        secrets: Mapping[str, str],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._destinations = destinations
        self._resolve = resolve
        self._response_bytes_max = response_bytes_max
        self._payload_bytes_max = payload_bytes_max
        self._secrets = secrets
        # The transport, not a client: a client would share cookies between runs, follow the environment's proxies
        # and log whole URLs.
        self._transport = httpx.AsyncHTTPTransport(
            verify=tls or ssl.create_default_context(),
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def perform(self, call: Call, key: str, traceparent: str = "") -> Payload:
        """Make the request. Returns the output of the step; any answer of the server is one.

        Args:
            key: The idempotency key of the step.
            traceparent: The context of its span; empty: it has none.

        Raises:
            CallFailed: there is no answer, it is too long, or the call is not allowed.
        """
        request = outgoing(call, key, traceparent, self._secrets)
        output = await self._first_answer(request, await self._checked(request))
        return output.marked() if call.redact_output else output

    async def _first_answer(self, request: Outgoing, addresses: list[str]) -> Payload:
        *others, last = addresses
        for address in others:
            with contextlib.suppress(_Unreachable):
                return await self._exchange(request, address)
        return await self._exchange(request, last)

    async def close(self) -> None:
        """End every connection."""
        await self._transport.aclose()

    async def _checked(self, request: Outgoing) -> list[str]:
        """The addresses of the request's host, if every one of them may be reached."""
        host = request.host
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        addresses = list(dict.fromkeys([host] if _is_address(host) else await self._resolve(host, port)))
        if not addresses:
            raise unanswered(f"{host} has no address")
        for address in addresses:
            why = self._destinations.refusal(host, address)
            if why:
                named = host if host == address else f"{host} is {address}, which"
                raise refused(f"{named} is {why}; the engine calls it only if its setting call_allow says so")
        return addresses[:ADDRESSES_MAX]

    async def _exchange(self, request: Outgoing, address: str) -> Payload:
        """Send the request to this address and read the answer; everything is closed at the end."""
        streams: list[Any] = []

        async def note(event: str, info: dict[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                streams.append(info["return_value"])

        try:
            response = await self._transport.handle_async_request(_addressed(request, address, note))
            try:
                return await self._output(response)
            finally:
                await response.aclose()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _Unreachable(unanswered(_described(request, address, error)).failure) from None
        except httpx.LocalProtocolError as error:
            raise invalid(f"the request cannot be sent: {error}") from None
        except httpx.TransportError as error:
            raise unanswered(_described(request, address, error)) from None
        finally:
            # A handshake that is cancelled leaves its socket open, and the loop would keep it as long as the peer does.
            with anyio.CancelScope(shield=True):
                for stream in streams:
                    await stream.aclose()

    async def _output(self, response: httpx.Response) -> Payload:
        body = BodyReader(response.headers.get("content-encoding", ""), self._response_bytes_max)
        async for chunk in response.aiter_raw():
            body.feed(chunk)
        output = answer(response.status_code, response.headers.raw, body.end(), decoded=body.decoded)
        if len(output.data) > self._payload_bytes_max:
            raise too_large(f"the answer is {len(output.data)} bytes as an output, limit {self._payload_bytes_max}")
        return output


class _Unreachable(CallFailed):
    """No connection, so nothing was sent."""


def _addressed(request: Outgoing, address: str, trace: Trace) -> httpx.Request:
    """The request for one address of its host. The name stays in `host`, and in the TLS handshake."""
    extensions = {"timeout": _TIMEOUTS, "trace": trace}
    if not _is_address(request.host):
        extensions["sni_hostname"] = request.host.rstrip(".")
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=list(request.headers),
        content=request.content,
        extensions=extensions,
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _described(request: Outgoing, address: str, error: httpx.TransportError) -> str:
    """Where it happened and what, in a line. Errors of httpx may have no text; then their cause has."""
    cause: BaseException = error
    while not str(cause) and (deeper := cause.__cause__ or cause.__context__) is not None:
        cause = deeper
    text = f"{request.origin} at {address}: {type(error).__name__}"
    return f"{text}: {cause}" if str(cause) else text
