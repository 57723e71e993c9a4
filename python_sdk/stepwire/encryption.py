"""Payloads that only hosts and clients can read: AES-256-GCM around another codec (MISSION V7, ADR 0022).

Keys stay with hosts and clients; the engine stores and forwards what it cannot read. Needs the extra `encryption`.
A sealed payload is `version, length of the key's id, the id, nonce, ciphertext with its tag`. What is authenticated
beside the value is the encoding and the key's id: a codec is not told whose value it encodes, so that somebody who
can write to the database can still exchange two sealed values of the same key.
"""

from __future__ import annotations

import hmac
import os
import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError as missing:
    raise ImportError(
        "stepwire.encryption needs the extra `encryption`: pip install 'stepwire[encryption]'"
    ) from missing

from stepwire.codec import JSON_CODEC, Codec
from stepwire.errors import ConfigurationError, UnreadablePayload
from stepwire.protocol.payload import Payload

ENCODING = "stepwire/aes256gcm+"
"""Encodings of sealed payloads begin with it; the encoding of what is inside follows."""
KEYS_ENV = "STEPWIRE_ENCRYPTION_KEYS"
KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_VERSION = 1
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Keyring:
    """Keys by their ids; what is written is encrypted with one of them, what is read with the one it names.

    To rotate: first every host and client gets the new key beside the old one, then it becomes current.

    Args:
        keys: 32 random bytes each, as of `secrets.token_bytes(32)`; ids of 1..64 letters, digits and `._-`.
        current: Id of the key to encrypt with; may be left out if there is one key.

    Raises:
        ConfigurationError: there is no key, or a key or an id is bad.
    """

    __slots__ = ("_nonce_keys", "_sealers", "current")

    def __init__(self, keys: Mapping[str, bytes], current: str = "") -> None:
        if not current and len(keys) == 1:
            current = next(iter(keys))
        if current not in keys:
            raise ConfigurationError(
                f"the keyring has no key {current!r:.80} to encrypt with", hint="name one of its keys as current"
            )
        for key_id, key in keys.items():
            if not _ID.fullmatch(key_id):
                raise ConfigurationError(f"not the id of a key: {key_id!r:.80}", why="it is 1 to 64 of A-Za-z0-9._-")
            if len(key) != KEY_BYTES:
                raise ConfigurationError(f"key {key_id!r} is not {KEY_BYTES} bytes", hint="secrets.token_bytes(32)")
        self.current = current
        self._sealers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._nonce_keys = {key_id: hmac.digest(key, b"stepwire nonce", sha256) for key_id, key in keys.items()}

    def __repr__(self) -> str:
        return f"<Keyring of {', '.join(self._sealers)}; current {self.current}>"

    @classmethod
    def from_env(cls, name: str = KEYS_ENV, env: Mapping[str, str] | None = None) -> Keyring:
        """Keys of an environment variable: `id=key,...` in base64, the current one first.

        Raises:
            ConfigurationError: it is not set or not of that form; the message holds nothing of its value.
        """
        text = (os.environ if env is None else env).get(name, "")
        keys: dict[str, bytes] = {}
        for number, part in enumerate(filter(None, (part.strip() for part in text.split(","))), 1):
            key_id, _, encoded = part.partition("=")
            key = _decoded(encoded)
            # Not by its id: where the id is missing, the key stands in its place.
            if not _ID.fullmatch(key_id) or len(key) != KEY_BYTES:
                raise ConfigurationError(
                    f"{name}: key number {number} is not of the form id=BASE64 with {KEY_BYTES} bytes"
                )
            keys[key_id] = key
        if not keys:
            raise ConfigurationError(f"{name} has no keys", hint="set it to id=BASE64, for example k1=...")
        return cls(keys, next(iter(keys)))

    def seal(self, data: bytes, encoding: str, *, repeatable: bool) -> bytes:
        """Encrypt with the current key.

        Args:
            encoding: Of the result; it is authenticated.
            repeatable: The same data give the same bytes, which lets equal values be told to be equal.
        """
        key_id = self.current
        bound = _bound(encoding, key_id)
        # Of a keyed digest a nonce is as good as a random one: it is used again only for the same data.
        nonce = (
            hmac.digest(self._nonce_keys[key_id], bound + data, sha256)[:_NONCE_BYTES]
            if repeatable
            else os.urandom(_NONCE_BYTES)
        )
        name = key_id.encode()
        return bytes((_VERSION, len(name))) + name + nonce + self._sealers[key_id].encrypt(nonce, data, bound)

    def open(self, sealed: bytes, encoding: str) -> bytes:
        """Decrypt what `seal` made.

        Raises:
            UnreadablePayload: names the key; holds nothing of the data.
        """
        start = 2 + sealed[1] if len(sealed) > 1 else 2
        if len(sealed) < start + _NONCE_BYTES + _TAG_BYTES or sealed[0] != _VERSION:
            raise UnreadablePayload(f"an encrypted payload is cut or of another version ({len(sealed)} bytes)")
        key_id = sealed[2:start].decode("ascii", "replace")
        sealer = self._sealers.get(key_id)
        if sealer is None:
            raise UnreadablePayload(f"a payload is encrypted with key {key_id!r:.80}, which the keyring does not have")
        nonce, data = sealed[start : start + _NONCE_BYTES], sealed[start + _NONCE_BYTES :]
        try:
            return sealer.decrypt(nonce, data, _bound(encoding, key_id))
        except InvalidTag:
            raise UnreadablePayload(
                f"a payload of key {key_id!r} does not fit it", why="the payload was changed, or the key is another one"
            ) from None


def _decoded(text: str) -> bytes:
    """Bytes of base64; none if it is not."""
    try:
        return b64decode(text, validate=True)
    except (NotBase64, ValueError):
        return b""


def _bound(encoding: str, key_id: str) -> bytes:
    """What is authenticated beside the data."""
    return f"{encoding}\n{key_id}\n".encode()


class EncryptedCodec:
    """Encrypts what another codec made (MISSION V7).

    `Host(codec=EncryptedCodec(keys))`, and a client of the same codec. It still reads what is not encrypted, so that
    it can be turned on while runs are in progress. What the engine itself reads or writes stays plain: requests and
    answers of `call` steps, data of events that are not redacted, texts of failures, None.

    Args:
        keys: The keys.
        inner: Makes the bytes that are encrypted.
        only_redacted: Payloads that no `redact=` names are stored as `inner` makes them.
    """

    __slots__ = ("_inner", "_keys", "_only_redacted")

    def __init__(self, keys: Keyring, inner: Codec = JSON_CODEC, *, only_redacted: bool = False) -> None:
        self._keys = keys
        self._inner = inner
        self._only_redacted = only_redacted

    def encode(self, value: Any, type: Any = Any) -> Payload:
        """The payload of an input. Equal inputs give equal payloads: a start that is repeated with its id is known.

        Raises:
            OutputUnserializable: names the place.
        """
        payload = self._inner.encode(value, type)
        return payload if self._only_redacted else self._sealed(payload, repeatable=True)

    def round_trip(self, value: Any, type: Any = Any) -> tuple[Payload, Any]:
        """The payload of an output, and the value that `decode` makes of it. Raises OutputUnserializable."""
        payload, back = self._inner.round_trip(value, type)
        return (payload if self._only_redacted else self._sealed(payload, repeatable=False)), back

    def decode(self, payload: Payload, type: Any = Any) -> Any:
        """The value as `type`.

        Raises:
            InvalidInput: it does not fit.
            UnreadablePayload: it cannot be decrypted.
        """
        return self._inner.decode(self.opened(payload), type)

    def seal(self, payload: Payload, *, repeatable: bool) -> Payload:
        """Encrypt a payload that a `redact=` names, unless it is encrypted already."""
        return payload if payload.encoding.startswith(ENCODING) else self._sealed(payload, repeatable=repeatable)

    def opened(self, payload: Payload) -> Payload:
        """The payload as `inner` made it. Raises UnreadablePayload."""
        encoding = payload.encoding
        if not encoding.startswith(ENCODING):
            return payload
        return Payload(self._keys.open(payload.data, encoding), encoding[len(ENCODING) :], payload.redacted)

    def _sealed(self, payload: Payload, *, repeatable: bool) -> Payload:
        encoding = ENCODING + payload.encoding
        return Payload(self._keys.seal(payload.data, encoding, repeatable=repeatable), encoding, payload.redacted)
