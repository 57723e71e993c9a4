"""Opaque values of user code.

The engine stores and forwards payloads and never parses them, so this module knows nothing of JSON.
"""

from __future__ import annotations

import msgspec

JSON = "json"


class Payload(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Bytes of user code and how they are encoded.

    Attributes:
        data: The bytes; at most `Limits.payload_bytes_max`.
        encoding: Name of the encoding; "json" unless a codec says otherwise.
    """

    data: bytes
    encoding: str = JSON


NULL = Payload(b"null")
