"""The body of an answer, read no further than its bound. Pure.

A few bytes of gzip can stand for gigabytes, so what is counted is what comes out of it, and never more than the bound
is taken out at once.
"""

from __future__ import annotations

import zlib

from stepwire_engine.calls.exchange import CallFailed, too_large, unanswered

_GZIP = 16 + zlib.MAX_WBITS
_OVERHEAD = 1024
"""Gzip may be longer than what it holds, but not without end: it may also hold nothing for ever."""
_NAMES = frozenset({"gzip", "x-gzip"})


class BodyReader:
    """Collects a body.

    Args:
        encoding: The header `content-encoding`. Gzip is taken off; everything else is kept as it came.
        limit: Longest body in bytes, decoded.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        self._limit = limit
        self._came = 0
        self._body = bytearray()
        self._gzip = encoding.strip().lower() in _NAMES
        self._member: zlib._Decompress | None = None

    def feed(self, chunk: bytes) -> None:
        """Take bytes of the connection. Raises CallFailed: over the limit, or broken gzip."""
        self._came += len(chunk)
        if self._came > 2 * self._limit + _OVERHEAD:
            raise self._too_large()
        if not self._gzip:
            self._keep(chunk)
            return
        try:
            while chunk:
                chunk = self._inflate(chunk)
        except zlib.error as error:
            raise unanswered(f"the answer is said to be gzip and cannot be read: {error}") from None

    def _inflate(self, chunk: bytes) -> bytes:
        """Decode a part of `chunk`; returns the rest."""
        if self._member is None or self._member.eof:
            self._member = zlib.decompressobj(_GZIP)
        self._keep(self._member.decompress(chunk, self._limit - len(self._body) + 1))
        return self._member.unused_data if self._member.eof else self._member.unconsumed_tail

    def _keep(self, part: bytes) -> None:
        if len(self._body) + len(part) > self._limit:
            raise self._too_large()
        self._body += part

    def _too_large(self) -> CallFailed:
        return too_large(f"the answer is longer than {self._limit} bytes (call_response_bytes_max)")

    @property
    def decoded(self) -> bool:
        """Gzip was taken off."""
        return self._member is not None

    def end(self) -> bytes:
        """The whole body. Raises CallFailed: gzip ended too early."""
        if self._member is not None and not self._member.eof:
            raise unanswered("the answer ended before its gzip did")
        return bytes(self._body)
