"""Sealed payloads: what they hide, what they notice, and what must stay equal (MISSION V7)."""

from __future__ import annotations

import base64
import builtins
import importlib
import sys
from typing import Any

import pytest

from stepwire.codec import JSON_CODEC
from stepwire.encryption import ENCODING, EncryptedCodec, Keyring
from stepwire.errors import ConfigurationError, UnreadablePayload
from stepwire.protocol.payload import NULL, Payload
from stepwire.redaction import Parts, marked

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
CANARY = "canary-4711"


def codec(**options: Any) -> EncryptedCodec:
    return EncryptedCodec(Keyring({"k1": OLD}), **options)


def test_a_sealed_payload_holds_nothing_of_its_value_and_comes_back() -> None:
    payload, back = codec().round_trip({"card": CANARY})
    assert back == {"card": CANARY}
    assert payload.encoding == ENCODING + "json"
    assert CANARY.encode() not in payload.data
    assert codec().decode(payload, dict[str, str]) == {"card": CANARY}


def test_equal_inputs_are_equal_payloads_and_equal_outputs_are_not() -> None:
    assert codec().encode(CANARY) == codec().encode(CANARY)
    assert codec().encode(CANARY) != codec().encode(CANARY + "!")
    assert codec().round_trip(CANARY)[0] != codec().round_trip(CANARY)[0]


def test_what_was_stored_before_encryption_is_still_read() -> None:
    assert codec().decode(JSON_CODEC.encode(CANARY)) == CANARY
    assert codec().decode(NULL) is None


def test_after_a_rotation_old_payloads_are_read_and_new_ones_use_the_new_key() -> None:
    old = codec().encode(CANARY)
    rotated = EncryptedCodec(Keyring({"k1": OLD, "k2": NEW}, current="k2"))
    assert rotated.decode(old) == CANARY
    new = rotated.encode(CANARY)
    assert b"k2" in new.data[:8]
    with pytest.raises(UnreadablePayload, match="'k2'"):
        codec().decode(new)


def test_only_what_is_marked_is_encrypted_if_so_asked() -> None:
    sparing = codec(only_redacted=True)
    plain = sparing.encode(CANARY)
    assert plain == JSON_CODEC.encode(CANARY)
    sealed = marked(plain, sparing, Parts.INPUT)
    assert sealed.redacted
    assert CANARY.encode() not in sealed.data
    assert sparing.decode(sealed) == CANARY


@pytest.mark.parametrize("part", [Parts.INPUT, Parts.OUTPUT])
def test_marking_encrypts_once(part: Parts) -> None:
    sealed = codec().encode(CANARY)
    assert marked(sealed, codec(), part) == sealed.marked()


def test_every_changed_byte_is_noticed() -> None:
    sealed = codec().encode(CANARY)
    for place in range(len(sealed.data)):
        changed = bytearray(sealed.data)
        changed[place] ^= 1
        with pytest.raises(UnreadablePayload) as noticed:
            codec().decode(Payload(bytes(changed), sealed.encoding))
        assert CANARY not in str(noticed.value)


def test_every_cut_is_noticed() -> None:
    sealed = codec().encode(CANARY)
    for size in range(len(sealed.data)):
        with pytest.raises(UnreadablePayload):
            codec().decode(Payload(sealed.data[:size], sealed.encoding))


def test_the_encoding_is_authenticated() -> None:
    sealed = codec().encode(CANARY)
    with pytest.raises(UnreadablePayload, match="'k1'"):
        codec().decode(Payload(sealed.data, ENCODING + "other"))


def test_another_key_of_the_same_id_is_noticed_and_named() -> None:
    with pytest.raises(UnreadablePayload, match="key 'k1' does not fit"):
        EncryptedCodec(Keyring({"k1": NEW})).decode(codec().encode(CANARY))


@pytest.mark.parametrize(
    ("keys", "current"),
    [({}, ""), ({"k1": OLD[:31]}, "k1"), ({"k1": OLD}, "k2"), ({"k 1": OLD}, "k 1"), ({"k1": OLD, "k2": NEW}, "")],
)
def test_a_bad_keyring_is_refused_without_telling_a_key(keys: dict[str, bytes], current: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Keyring(keys, current)
    assert str(OLD[:31]) not in str(refused.value)


def test_keys_come_from_the_environment_the_current_one_first() -> None:
    text = ", ".join(f"{name}={base64.b64encode(key).decode()}" for name, key in (("k2", NEW), ("k1", OLD)))
    keys = Keyring.from_env("KEYS", {"KEYS": text})
    assert keys.current == "k2"
    assert repr(keys) == "<Keyring of k2, k1; current k2>"
    assert EncryptedCodec(keys).decode(codec().encode(CANARY)) == CANARY


@pytest.mark.parametrize("text", ["", f"k1={CANARY}", CANARY, f"k1={base64.b64encode(CANARY.encode()).decode()}"])
def test_a_bad_environment_is_refused_without_telling_it(text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Keyring.from_env("KEYS", {"KEYS": text})
    assert CANARY not in str(refused.value)


def test_without_the_extra_the_import_says_which_one_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_import = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return plain_import(name, *rest)

    monkeypatch.delitem(sys.modules, "stepwire.encryption")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'stepwire\[encryption\]'"):
        importlib.import_module("stepwire.encryption")
