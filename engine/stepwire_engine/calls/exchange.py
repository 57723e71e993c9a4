"""From a planned call to the request that is sent, and from the answer to the step's output. Pure.

Headers that frame the message, name its destination or govern the connection are this module's to set, never the
user's. It knows nothing of sockets; whether a destination may be reached is decided in `destinations.py`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType

import httpx
import msgspec

from stepwire.protocol import limits
from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.payload import JSON, Payload
from stepwire.protocol.plan import Call, SecretHeader

Headers = tuple[tuple[bytes, bytes], ...]
NO_SECRETS: Mapping[str, str] = MappingProxyType({})

IDEMPOTENCY_KEY = b"idempotency-key"
TRACEPARENT = b"traceparent"
OWN_HEADERS = frozenset(
    {
        b"connection", b"content-length", b"host", b"http2-settings", b"keep-alive", b"proxy-connection", b"te",
        b"trailer", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
"""Headers that a call must not set: they would say something else than the request that is sent."""
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}")
_DEFAULTS: Headers = (
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip"),
    (b"user-agent", b"stepwire"),
)


class CallFailed(Exception):
    """The attempt ends without an answer, for this reason."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def invalid(message: str) -> CallFailed:
    """The call itself is wrong; no attempt can succeed."""
    return CallFailed(Failure(ErrorCode.INVALID_INPUT, "InvalidInput", message, retryable=Retryable.NO))


def refused(message: str) -> CallFailed:
    """The policy does not let the engine make this call."""
    return CallFailed(Failure(ErrorCode.DESTINATION_REFUSED, "DestinationRefused", message, retryable=Retryable.NO))


def too_large(message: str) -> CallFailed:
    """The answer does not fit."""
    return CallFailed(Failure(ErrorCode.PAYLOAD_TOO_LARGE, "PayloadTooLarge", message, retryable=Retryable.NO))


def unanswered(message: str) -> CallFailed:
    """There was no whole answer; the step's policy decides whether to try again."""
    return CallFailed(Failure(ErrorCode.CALL_FAILED, "CallFailed", message))


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request that is ready to be sent to whichever address its host has.

    Attributes:
        url: http or https, without user information.
        headers: All except `content-length`; `host` names the host of the URL.
        content: The body.
    """

    method: str
    url: httpx.URL
    headers: Headers
    content: bytes

    @property
    def host(self) -> str:
        """The host of the URL: an address without brackets, or a name in its ASCII form."""
        return self.url.raw_host.decode("ascii")

    @property
    def origin(self) -> str:
        """Where it goes, for messages: paths and queries may hold secrets."""
        return f"{self.url.scheme}://{self.url.netloc.decode('ascii')}"


def idempotency_key(run_id: str, path: str) -> str:
    """Equal for every attempt of a step, different for every other step; the same that hosts give to user code."""
    return sha256(f"{run_id}/{path}".encode()).hexdigest()


def outgoing(call: Call, key: str, traceparent: str = "", secrets: Mapping[str, str] = NO_SECRETS) -> Outgoing:
    """The request of a call.

    Args:
        key: Value of `idempotency-key`, unless the call sets one.
        traceparent: Value of that header, unless the call sets one; empty: there is none.
        secrets: What its secret headers may name, by name.

    Raises:
        CallFailed: the URL, the method or a header is not allowed, or the engine has no such secret.
    """
    method = call.method.upper() or "GET"
    if not _METHOD.fullmatch(method) or method == "CONNECT":
        raise invalid(f"{call.method[:32]!r} is no method of a call")
    url = _url(call.url)
    given = _given([*call.headers, *_with_secrets(call.secret_headers, secrets)])
    content = call.body.data if call.body is not None else b""
    names = {name for name, _ in given}
    made = [(b"host", url.netloc), *(header for header in _DEFAULTS if header[0] not in names)]
    if call.body is not None and call.body.encoding == JSON and b"content-type" not in names:
        made.append((b"content-type", b"application/json"))
    if IDEMPOTENCY_KEY not in names:
        made.append((IDEMPOTENCY_KEY, key.encode()))
    if traceparent and TRACEPARENT not in names:
        made.append((TRACEPARENT, traceparent.encode()))
    return Outgoing(method, url, (*made, *given, (b"connection", b"close")), content)


def _url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise invalid(f"the URL cannot be read: {error}") from None
    if not url.scheme or not url.raw_host:
        raise invalid("the URL needs a scheme and a host, as in https://api.example/orders")
    if url.scheme not in ("http", "https"):
        raise refused(f"only http and https are called, not {url.scheme[:32]!r}")
    if url.userinfo:
        raise refused("a URL with a user name or password is not called; send an authorization header instead")
    if url.port is not None and not 0 < url.port < 65536:
        raise invalid(f"{url.port} is no port")
    return url


def _with_secrets(headers: Iterable[SecretHeader], secrets: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for header in headers:
        secret = secrets.get(header.secret)
        if secret is None:
            raise CallFailed(
                Failure(
                    ErrorCode.INVALID_INPUT,
                    "UnknownSecret",
                    f"the engine has no secret {header.secret!r} for header {header.name!r}; "
                    f"start it with STEPWIRE_SECRET_{header.secret}",
                    retryable=Retryable.NO,
                )
            )
        yield header.name, header.prefix + secret


def _given(headers: Iterable[tuple[str, str]]) -> Headers:
    """The user's headers as they are sent."""
    given = tuple((name.lower().encode(), value.strip(" \t").encode()) for name, value in headers)
    if len(given) > limits.HEADERS_MAX:
        raise invalid(f"{len(given)} headers, at most {limits.HEADERS_MAX} are sent")
    for name, value in given:
        if not _TOKEN.fullmatch(name):
            raise invalid(f"{name[:64]!r} is no name of a header")
        if name in OWN_HEADERS:
            raise invalid(f"header {name.decode()!r} is set by the engine; leave it out")
        if not _VALUE.fullmatch(value):
            raise invalid(f"the value of header {name.decode()!r} holds control characters")
    return given


# ---- the answer


def answer(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, *, decoded: bool) -> Payload:
    """The output of the step: JSON with `status`, `headers`, `body` and `encoding` (`proto/README.md`, section 7).

    Args:
        decoded: A content encoding was removed, so headers that speak of it are left out.
    """
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = _text(raw_name).lower(), _text(raw_value)
        if not (decoded and name in ("content-encoding", "content-length")):
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
    try:
        text, encoding = body.decode(), "utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(body).decode(), "base64"
    return Payload(msgspec.json.encode({"status": status, "headers": joined, "body": text, "encoding": encoding}))


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
