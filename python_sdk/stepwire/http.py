"""What an HTTP step comes back with (MISSION S16, U4). The request is made by the engine; this module does no I/O."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from stepwire.codec import JSON_CODEC
from stepwire.protocol.payload import Payload

_CHARSET = re.compile(r"""charset\s*=\s*"?([^\s";]+)""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class EngineSecret:
    """Stands in `headers` of a call for a value that only the engine has (MISSION V7).

    The engine takes it from its environment, where it is called STEPWIRE_SECRET_ and this name, each time it makes the
    request. Nothing of it is recorded. Every flow of every host may name every secret of its engine.

    Args:
        name: A-Z, 0-9 and _, not beginning with a digit; at most 256.
        prefix: What stands before the secret, as "Bearer ".
    """

    name: str
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class HttpResult:
    """The answer of a server, whatever its status.

    Attributes:
        status: For example 200.
        headers: By name in lower case; several of one name are joined with ", ".
        body: As the server sent it.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text, by the charset of its content type or UTF-8; what does not fit is replaced."""
        named = _CHARSET.search(self.headers.get("content-type", ""))
        try:
            return self.body.decode(named[1] if named else "utf-8", "replace")
        except (LookupError, ValueError):  # a charset that Python does not know, or that is none for text
            return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON. Raises ValueError if it is none."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as problem:
            raise ValueError(f"the body of the answer (status {self.status}) is not JSON: {problem}") from None


class _Answer(msgspec.Struct, frozen=True):
    """As the engine writes it: text where the body is text, so that people can read it in the record."""

    status: int
    headers: dict[str, str]
    body: str
    encoding: Literal["utf-8", "base64"]


def http_result(payload: Payload) -> HttpResult:
    """The output of a `call` step. Raises InvalidInput if it is none."""
    answer: _Answer = JSON_CODEC.decode(payload, _Answer)
    body = answer.body.encode() if answer.encoding == "utf-8" else base64.b64decode(answer.body)
    return HttpResult(answer.status, answer.headers, body)
