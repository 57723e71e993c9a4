"""Bodies of answers are read up to their bound, whatever they were packed in."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib

import pytest

from stepwire.protocol.failure import ErrorCode, Retryable
from stepwire_engine.calls.body import BodyReader
from stepwire_engine.calls.exchange import CallFailed

KIB = 1024


def read(encoding: str, limit: int, *chunks: bytes) -> bytes:
    reader = BodyReader(encoding, limit)
    for chunk in chunks:
        reader.feed(chunk)
    return reader.end()


def failure(encoding: str, limit: int, *chunks: bytes) -> tuple[ErrorCode, Retryable]:
    with pytest.raises(CallFailed) as caught:
        read(encoding, limit, *chunks)
    return caught.value.failure.code, caught.value.failure.retryable


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def test_a_body_may_be_as_long_as_the_limit_and_no_longer() -> None:
    assert read("", 4, b"ab", b"cd") == b"abcd"
    assert failure("", 4, b"abcd", b"e") == (ErrorCode.PAYLOAD_TOO_LARGE, Retryable.NO)
    assert read("", 0) == b""
    assert failure("", 0, b"a") == (ErrorCode.PAYLOAD_TOO_LARGE, Retryable.NO)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", " GZIP "])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_gzip_is_taken_off(encoding: str, size: int) -> None:
    text = b"orders " * 500
    assert read(encoding, len(text), *pieces(gzip.compress(text), size)) == text
    assert failure(encoding, len(text) - 1, *pieces(gzip.compress(text), size))[0] is ErrorCode.PAYLOAD_TOO_LARGE


def test_gzip_may_have_several_members() -> None:
    packed = gzip.compress(b"one") + gzip.compress(b"") + gzip.compress(b"two")
    assert read("gzip", 6, packed) == b"onetwo"
    assert read("gzip", 6, *pieces(packed, 1)) == b"onetwo"
    assert failure("gzip", 5, packed)[0] is ErrorCode.PAYLOAD_TOO_LARGE


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip", "identity"])
def test_what_was_not_asked_for_is_kept_as_it_came(encoding: str) -> None:
    reader = BodyReader(encoding, 100)
    reader.feed(b"\x1f\x8b...")
    assert (reader.end(), reader.decoded) == (b"\x1f\x8b...", False)


def test_an_empty_body_is_no_gzip() -> None:
    reader = BodyReader("gzip", 100)
    assert (reader.end(), reader.decoded) == (b"", False)


@pytest.mark.parametrize(
    "packed", [b"plain text", gzip.compress(b"x" * 100, mtime=0)[:-9], gzip.compress(b"x", mtime=0)[:-8] + b"\0" * 8]
)
def test_broken_gzip_is_no_answer(packed: bytes) -> None:
    assert failure("gzip", 1000, packed) == (ErrorCode.CALL_FAILED, Retryable.POLICY)


def bomb() -> bytes:
    """A quarter of a gigabyte of zeros."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(1024 * KIB)) for _ in range(256)) + packer.flush()


def test_a_bomb_costs_no_more_than_its_limit() -> None:
    chunks = pieces(bomb(), 64 * KIB)
    tracemalloc.start()
    try:
        assert failure("gzip", 100 * KIB, *chunks) == (ErrorCode.PAYLOAD_TOO_LARGE, Retryable.NO)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1024 * KIB


def test_gzip_that_holds_nothing_has_an_end_too() -> None:
    nothing = gzip.compress(b"")
    assert read("gzip", KIB, *[nothing] * 50) == b""
    assert failure("gzip", KIB, *[nothing] * 1000) == (ErrorCode.PAYLOAD_TOO_LARGE, Retryable.NO)


def test_a_body_in_tiny_pieces_costs_no_more_than_in_large_ones() -> None:
    reader = BodyReader("", 128 * KIB)
    tracemalloc.start()
    try:
        for i in range(64 * KIB):
            reader.feed(i.to_bytes(2, "big"))
        assert len(reader.end()) == 128 * KIB
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1024 * KIB


def test_what_cannot_be_packed_may_still_be_as_long_as_the_limit() -> None:
    noise = random.Random(17).randbytes(64 * KIB)
    assert read("gzip", 64 * KIB, *pieces(gzip.compress(noise), 1000)) == noise


def test_only_the_outer_gzip_is_taken_off() -> None:
    packed = bomb()
    assert read("gzip", len(packed), gzip.compress(packed)) == packed
