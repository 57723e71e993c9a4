"""Chance of a flow body, by the rules of `proto/README.md`, "Determinism": other SDKs must make the same numbers."""

from __future__ import annotations

from hashlib import sha256

import pytest

from stepwire._runtime.scope import DeterministicRandom

SPLITMIX64_OF_ZERO = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
"""The first values that the published SplitMix64 makes of state 0."""


def from_zero() -> DeterministicRandom:
    stream = DeterministicRandom(0, "")
    stream._state = 0
    return stream


def test_the_stream_is_splitmix64() -> None:
    stream = from_zero()
    assert tuple(stream.getrandbits(64) for _ in range(3)) == SPLITMIX64_OF_ZERO


def test_floats_are_the_upper_53_bits() -> None:
    assert from_zero().random() == (SPLITMIX64_OF_ZERO[0] >> 11) * 2.0**-53


def test_bits_are_the_upper_ones_the_first_value_highest() -> None:
    first, second, _ = SPLITMIX64_OF_ZERO
    assert from_zero().getrandbits(128) == first << 64 | second
    assert from_zero().getrandbits(8) == first >> 56


@pytest.mark.parametrize(("seed", "path"), [(7, ""), (7, "parallel/[1]"), (2**64 - 1, "p\u00fcnktlich")])
def test_the_state_begins_with_seed_and_path(seed: int, path: str) -> None:
    begun = from_zero()
    begun._state = int.from_bytes(sha256(f"{seed}/{path}".encode()).digest()[:8], "big")
    assert DeterministicRandom(seed, path).getrandbits(64) == begun.getrandbits(64)
