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
        redacted: Not for human eyes: records say how long it is and never show it (MISSION V7).
    """

    data: bytes
    encoding: str = JSON
    redacted: bool = False

    def is_same(self, other: Payload) -> bool:
        """Whether it is the same value, whoever marked one of them as redacted."""
        return self.data == other.data and self.encoding == other.encoding

    def marked(self) -> Payload:
        """The same value, not for human eyes."""
        return self if self.redacted else Payload(self.data, self.encoding, True)


NULL = Payload(b"null")
