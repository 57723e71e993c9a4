"""What is too large for one message travels as chunks: payloads over the inline limit, and whole frames.

The only state of the mapping: the open transfers of one stream, bounded in number and bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import DecodeError

from stepwire.protocol import limits
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.payload import JSON, Payload
from stepwire.protocol.wire.payloads import too_large
from stepwire.protocol.wire.scalars import WireError, undecodable
from stepwire.v1 import payload_pb2

_MESSAGE_BYTES = limits.FRAME_BYTES_TARGET + limits.INLINE_BYTES_MAX
"""Frames over this travel as chunks; a writer that cuts at the target does not get there by a small last item."""
_SMALL_PIECE_BYTES = 4096
"""Pieces below this are kept together until their transfer is complete."""
_CHUNK_FIELDS_BYTES = 20
"""What a chunk adds to its data, at most."""
MOVABLE_BYTES = 16 * 1024
"""A payload from here on travels by itself if its frame would be cut otherwise: a large frame is copied as a whole,
several times and past every cache, while pieces stay in it."""


class Outgoing:
    """The messages of one frame: chunks first, then the frame itself.

    Attributes:
        alike: The receiver has FEATURE_ALIKE.
    """

    __slots__ = (
        "_ids",
        "_message",
        "_messages",
        "_movable",
        "_movable_bytes",
        "_shared",
        "_shared_bytes",
        "_transfers",
        "alike",
    )

    def __init__(self, message: type[Any], ids: Iterator[int] | None, *, alike: bool = False) -> None:
        self.alike = alike
        self._message = message
        self._messages: list[bytes] = []
        self._ids = ids
        self._transfers = 0
        self._shared: Any = None
        """The message with chunks that takes more of them."""
        self._shared_bytes = 0
        self._movable: list[tuple[bytes, payload_pb2.Payload]] = []
        """Large payloads that are neither in the frame nor in a chunk yet."""
        self._movable_bytes = 0

    def payload(self, payload: Payload, target: payload_pb2.Payload) -> None:
        data = payload.data
        if len(data) > limits.INLINE_BYTES_MAX:
            target.transfer_id = self._transfer(data, frame=False)
        elif len(data) >= MOVABLE_BYTES:
            self._movable.append((data, target))
            self._movable_bytes += len(data)
        elif data:
            target.data = data
        else:
            target.SetInParent()
        if payload.encoding != JSON:
            target.encoding = payload.encoding
        if payload.redacted:
            target.redacted = True

    def finish(self, frame: Any) -> list[bytes]:
        if self._movable:
            self._place_movable()
        if self._shared is not None:
            self._end_shared()
        data: bytes = frame.SerializeToString()
        if len(data) <= _MESSAGE_BYTES:
            self._messages.append(data)
        else:
            self._transfer(data, frame=True)
        return self._messages

    def _place_movable(self) -> None:
        """Into the frame if all fit there, otherwise into chunks, as far as a receiver keeps transfers open."""
        inline = self._movable_bytes <= limits.FRAME_BYTES_TARGET
        for data, target in self._movable:
            if inline or self._transfers >= limits.TRANSFERS_OPEN_MAX - 1:  # one may be the frame
                target.data = data
            else:
                target.transfer_id = self._transfer(data, frame=False)

    def _transfer(self, data: bytes, *, frame: bool) -> int:
        if self._ids is None:
            self._ids = itertools.count(1)
        self._transfers += 1
        transfer_id, step = next(self._ids), limits.CHUNK_BYTES_MAX
        if len(data) <= step and not frame:
            self._share(transfer_id, data)
            return transfer_id
        for start in range(0, len(data), step):
            message = self._message()
            piece = data[start : start + step]
            message.chunks.add(transfer_id=transfer_id, data=piece, last=start + step >= len(data), frame=frame)
            self._messages.append(message.SerializeToString())
        return transfer_id

    def _share(self, transfer_id: int, data: bytes) -> None:
        """Payloads of one chunk share messages, because a message costs more than its bytes."""
        size = len(data) + _CHUNK_FIELDS_BYTES
        if self._shared is not None and self._shared_bytes + size > _MESSAGE_BYTES:
            self._end_shared()
        if self._shared is None:
            self._shared = self._message()
        self._shared.chunks.add(transfer_id=transfer_id, data=data, last=True)
        self._shared_bytes += size

    def _end_shared(self) -> None:
        self._messages.append(self._shared.SerializeToString())
        self._shared = None
        self._shared_bytes = 0


class _Transfer:
    __slots__ = ("frame", "last", "pieces", "size")

    def __init__(self, *, frame: bool) -> None:
        self.pieces: list[bytes | bytearray] = []
        self.size = 0
        self.frame = frame
        self.last = False

    def add(self, data: bytes) -> None:
        """Keep a piece. Small ones together: each costs memory besides its bytes, which nobody counts."""
        if len(data) >= _SMALL_PIECE_BYTES:
            self.pieces.append(data)
        elif self.pieces and isinstance(small := self.pieces[-1], bytearray):
            small += data
        else:
            self.pieces.append(bytearray(data))


class Inbound:
    """Open transfers of one stream, bounded in number and bytes."""

    __slots__ = ("_open", "_open_bytes", "_open_bytes_max", "_payload_bytes_max")

    def __init__(self, payload_bytes_max: int, open_bytes_max: int) -> None:
        self._payload_bytes_max = payload_bytes_max
        self._open_bytes_max = open_bytes_max
        self._open: dict[int, _Transfer] = {}
        self._open_bytes = 0

    def add(self, chunk: payload_pb2.Chunk) -> bytes | None:
        """Take a chunk; the bytes of a whole frame if this was its last one."""
        transfer = self._find(chunk)
        data = chunk.data
        if transfer.last or transfer.frame != chunk.frame:
            undecodable(f"chunk does not continue transfer {chunk.transfer_id}")
        if not 0 < len(data) <= limits.CHUNK_BYTES_MAX:
            undecodable(f"chunk has {len(data)} bytes; 1 to {limits.CHUNK_BYTES_MAX} are allowed")
        self._open_bytes += len(data)
        size = transfer.size + len(data)
        limit = limits.FRAME_BYTES_MAX if transfer.frame else self._payload_bytes_max
        if size > limit or self._open_bytes > self._open_bytes_max:
            raise too_large(size, min(limit, self._open_bytes_max))
        transfer.add(data)
        transfer.size = size
        transfer.last = chunk.last
        return self._take(chunk.transfer_id, transfer) if chunk.last and transfer.frame else None

    def payload(self, value: payload_pb2.Payload) -> Payload:
        data = value.data
        transfer_id = value.transfer_id
        if transfer_id:
            transfer = self._open.get(transfer_id)
            if transfer is None or not transfer.last or data:
                undecodable(f"payload names transfer {transfer_id}, which is not complete")
            data = self._take(transfer_id, transfer)
        elif len(data) > limits.INLINE_BYTES_MAX:
            raise too_large(len(data), limits.INLINE_BYTES_MAX)
        return Payload(data, value.encoding or JSON, value.redacted)

    def _find(self, chunk: payload_pb2.Chunk) -> _Transfer:
        transfer = self._open.get(chunk.transfer_id)
        if transfer is None:
            if not chunk.transfer_id:
                undecodable("a chunk has no transfer_id")
            if len(self._open) >= limits.TRANSFERS_OPEN_MAX:
                raise WireError(ErrorCode.PAYLOAD_TOO_LARGE, f"over {limits.TRANSFERS_OPEN_MAX} open transfers")
            transfer = self._open[chunk.transfer_id] = _Transfer(frame=chunk.frame)
        return transfer

    def _take(self, transfer_id: int, transfer: _Transfer) -> bytes:
        del self._open[transfer_id]
        self._open_bytes -= transfer.size
        return b"".join(transfer.pieces)


class _FrameMessage(Protocol):
    """What both frame messages have, for the part of decoding that does not depend on the direction."""

    def ClearField(self, field_name: Any, /) -> None: ...
    def ByteSize(self) -> int: ...
    @property
    def chunks(self) -> Any: ...


M = TypeVar("M", bound=_FrameMessage)


class Receiver(Generic[M]):
    """From bytes to the frame message that takes effect now, if any."""

    __slots__ = ("_message", "inbound")

    def __init__(self, message: Any, payload_bytes_max: int, open_bytes_max: int) -> None:
        self._message = message
        self.inbound = Inbound(payload_bytes_max, open_bytes_max)

    def receive(self, data: bytes) -> M | None:
        message = self._parse(data)
        if not message.chunks:
            return message
        whole = [frame for chunk in message.chunks if (frame := self.inbound.add(chunk)) is not None]
        message.ClearField("chunks")
        alone = message.ByteSize() == 0
        if not whole:
            return None if alone else message
        if len(whole) > 1 or not alone:
            undecodable("the message that completes a frame carries something else")
        inner = self._parse(whole[0])
        if inner.chunks:
            undecodable("a frame that travelled as chunks carries chunks")
        return inner

    def _parse(self, data: bytes) -> M:
        try:
            message: M = self._message.FromString(data)
        except DecodeError as error:
            raise WireError(ErrorCode.UNDECODABLE, f"not a message of this protocol: {error}") from None
        return message
