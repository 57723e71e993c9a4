"""The stored form of a unit: packed, sealed, and checked when it is read back.

SQLite's own checks let a flipped bit in a value pass, so every row carries a CRC over its identity and its
content, and a chain value over all rows of the run before it. Payloads too large for the journal path are
moved out of their entries into blobs and put back on reading. No SQL and no I/O here: every store uses it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar
from zlib import crc32

import msgspec

from stepwire.protocol.frames import FlowOptions
from stepwire.protocol.limits import INLINE_BYTES_MAX
from stepwire.protocol.payload import Payload
from stepwire_engine.core.entries import Entry
from stepwire_engine.store.base import EventRecord, InboxRow, JournalRow, RunLines, RunRecord, SessionRecord, Unit
from stepwire_engine.store.payloads import any_larger, map_payloads

INTEGER_MAX = 2**63 - 1
"""Largest number a store can keep."""
FIRST_CHAIN = 0
"""Chain value before a run's first row."""

StoredRow = tuple[int, int, int, bytes]
"""(seq, crc, chain, body) as a store keeps it."""
BlobKey = tuple[int, int]
"""(seq, ordinal) of a blob within its run."""


class Damaged(Exception):
    """Stored bytes are not what was written. The store adds the file and the remedy."""


class Blob(msgspec.Struct, frozen=True, gc=False):
    """A large payload's bytes; `ordinal` counts the payloads of its row from 0."""

    ordinal: int
    encoding: str
    data: bytes


class BlobMark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Left in a row for each payload that was moved out of it."""

    ordinal: int
    length: int


class RowBody(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What `body` encodes."""

    entries: tuple[Entry, ...]
    moved: tuple[BlobMark, ...] = ()


class PackedRow(msgspec.Struct, frozen=True, gc=False):
    """One journal row ready to be written; its chain value is known only when it is committed."""

    run: int
    seq: int
    crc: int
    body: bytes
    blobs: tuple[Blob, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of user content this row adds to a commit."""
        return len(self.body) + (sum([len(blob.data) for blob in self.blobs]) if self.blobs else 0)


class PackedUnit(msgspec.Struct, frozen=True, gc=False):
    """A unit with what it writes packed.

    Attributes:
        plain: It has nothing but its row.
        size: Bytes of user content it adds to a commit.
        refused: Why it can never be stored.
        inbox, events: The unit's inbox rows and events, encoded, in order.
    """

    unit: Unit
    row: PackedRow | None
    plain: bool
    size: int = 0
    refused: str = ""
    inbox: tuple[bytes, ...] = ()
    events: tuple[bytes, ...] = ()


_encoder = msgspec.msgpack.Encoder()
_body_decoder = msgspec.msgpack.Decoder(RowBody)
_record_decoder = msgspec.msgpack.Decoder(RunRecord)
_session_decoder = msgspec.msgpack.Decoder(SessionRecord)
_inbox_decoder = msgspec.msgpack.Decoder(InboxRow)
_event_decoder = msgspec.msgpack.Decoder(EventRecord)
_options_decoder = msgspec.msgpack.Decoder(FlowOptions)
_identity = struct.Struct(">qq")
_link = struct.Struct(">II")
T = TypeVar("T")


# ---- units


def pack_unit(unit: Unit) -> PackedUnit:
    """Pack a unit at the moment it is submitted, so that later changes to its values cannot reach the store.

    Never raises: what cannot be stored is answered in its own receipt and does not hurt its neighbours.
    """
    plain = not (
        unit.record
        or unit.inbox
        or unit.inbox_done
        or unit.key
        or unit.release_key
        or unit.events
        or unit.events_since_ms
        or unit.events_delivered
        or unit.waits
        or unit.waits_done
        or unit.sessions
        or unit.sessions_gone
        or unit.logs
    )
    try:
        row = None
        size = 0
        if unit.entries:
            if unit.run is None:
                raise ValueError("entries need a run")
            row = pack(unit.run, unit.expected_seq + 1, unit.entries)
            size = row.size if row.blobs else len(row.body)
        if plain:
            return PackedUnit(unit, row, plain, size)
        _check_side_changes(unit)
        inbox = _encode_all(unit.inbox)
        events = _encode_all(unit.events)
    except (ValueError, TypeError, OverflowError, struct.error) as error:
        return PackedUnit(unit, None, plain, refused=f"the unit cannot be stored: {error}")
    size += sum(map(len, inbox + events)) + sum([_lines_size(batch) for batch in unit.logs])
    return PackedUnit(unit, row, plain, size, "", inbox, events)


def _lines_size(batch: RunLines) -> int:
    return sum([len(line.path) + len(line.logger) + len(line.message) for line in batch.lines])


def _encode_all(records: tuple[InboxRow, ...] | tuple[EventRecord, ...]) -> tuple[bytes, ...]:
    return tuple([_encoder.encode(record) for record in records]) if records else ()


def _check_side_changes(unit: Unit) -> None:
    """Raise for what a database would refuse: text that is not Unicode, numbers out of range, a foreign record."""
    record = unit.record
    if unit.run is None and (record or unit.key or unit.release_key or unit.waits or unit.waits_done):
        raise ValueError("a record, a key and a wait need a run")
    if unit.key and record is None:
        raise ValueError("a key is claimed together with the run's record")
    if record is not None and record.number != unit.run:
        raise ValueError(f"the record is that of run {record.number}")
    for wait in unit.waits:
        if wait.run != unit.run:
            raise ValueError(f"the wait {wait.path!r} is that of run {wait.run}")
    for event in unit.events:
        if not event.id:
            raise ValueError("an event needs an id")
    numbers = _numbers(unit)
    if min(numbers) < 0 or max(numbers) > INTEGER_MAX:
        raise ValueError(f"a number is outside 0..{INTEGER_MAX}")
    names = (record, unit.key, unit.release_key, unit.sessions, unit.sessions_gone, unit.waits, unit.waits_done)
    _encoder.encode((*names, unit.logs))


def _numbers(unit: Unit) -> list[int]:
    numbers = [unit.events_since_ms, *unit.inbox_done, *unit.events_delivered]
    if unit.run is not None:
        numbers.append(unit.run)
    if (record := unit.record) is not None:
        numbers += (record.partition, record.wake_ms or 0)
    for row in unit.inbox:
        numbers.append(row.run)
    for event in unit.events:
        numbers += (event.due_ms, event.sent_ms)
    for batch in unit.logs:
        numbers += (batch.dropped, batch.at_ms)
        for line in batch.lines:
            numbers += (line.at_ms, line.attempt, line.level)
    return numbers


# ---- journal rows


def pack(run: int, seq: int, entries: tuple[Entry, ...]) -> PackedRow:
    """Pack the entries of one commit of one run.

    Args:
        run: Number of the run, 1 or more.
        seq: Position of the row in the run's journal, from 1.
        entries: At least one.

    Raises:
        ValueError, TypeError, OverflowError, struct.error: a value cannot be encoded, such as text with a
            lone surrogate.
    """
    body = _encoder.encode(RowBody(entries))
    blobs: tuple[Blob, ...] = ()
    # A shorter row has no payload that is over the limit.
    if len(body) > INLINE_BYTES_MAX and any_larger(entries, INLINE_BYTES_MAX):
        body, blobs = _pack_large(entries)
    return PackedRow(run, seq, crc32(body, crc32(_identity.pack(run, seq))), body, blobs)


def _pack_large(entries: tuple[Entry, ...]) -> tuple[bytes, tuple[Blob, ...]]:
    blobs: list[Blob] = []
    ordinal = -1

    def move_out(payload: Payload) -> Payload:
        nonlocal ordinal
        ordinal += 1
        if len(payload.data) <= INLINE_BYTES_MAX:
            return payload
        blobs.append(Blob(ordinal, payload.encoding, payload.data))
        return Payload(b"", payload.encoding, payload.redacted)

    emptied = tuple([map_payloads(entry, move_out) for entry in entries])
    marks = tuple([BlobMark(blob.ordinal, len(blob.data)) for blob in blobs])
    return _encoder.encode(RowBody(emptied, marks)), tuple(blobs)


def unpack(run: int, seq: int, body: bytes, blobs: Mapping[BlobKey, bytes]) -> tuple[Entry, ...]:
    """The entries of a verified row, with the moved payloads put back.

    Raises:
        Damaged: the body is no row of this version, or a payload is missing or has another length.
    """
    try:
        row = _body_decoder.decode(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Damaged(
            f"row {seq} of run {run} is intact but unknown to this version of the engine ({error}); "
            "a newer one may have written it"
        ) from error
    if not row.moved:
        return row.entries
    return _put_back(run, seq, row, blobs)


def _put_back(run: int, seq: int, row: RowBody, blobs: Mapping[BlobKey, bytes]) -> tuple[Entry, ...]:
    moved = {mark.ordinal: mark.length for mark in row.moved}
    ordinal = -1

    def put_back(payload: Payload) -> Payload:
        nonlocal ordinal
        ordinal += 1
        if ordinal not in moved:
            return payload
        data = blobs.get((seq, ordinal))
        if data is None or len(data) != moved[ordinal]:
            raise Damaged(f"payload {ordinal} of row {seq} of run {run} is missing or cut")
        return Payload(data, payload.encoding, payload.redacted)

    return tuple([map_payloads(entry, put_back) for entry in row.entries])


# ---- check values


def row_crc(run: int, seq: int, body: bytes) -> int:
    """CRC over the row's identity and content, so that a row served under another identity is noticed too."""
    return crc32(body, crc32(_identity.pack(run, seq)))


def blob_crc(run: int, seq: int, ordinal: int, data: bytes) -> int:
    return crc32(data, crc32(ordinal.to_bytes(8, "big"), crc32(_identity.pack(run, seq))))


def next_chain(chain: int, crc: int) -> int:
    """Chain value of the row with `crc` that follows the row with `chain`."""
    return crc32(_link.pack(chain, crc))


def seal(*values: str | int | bytes) -> int:
    """CRC of a side table's row, over the values that give it its meaning."""
    return crc32(_encoder.encode(values))


def check_seal(crc: int, what: str, *values: str | int | bytes) -> None:
    """Raise Damaged, naming the row as `what`, unless `crc` seals `values`."""
    check(lambda: seal(*values) == crc, what)


def check_blob(run: int, seq: int, ordinal: int, crc: int, data: bytes) -> None:
    """Raise Damaged unless `crc` is that of this payload at this place."""
    check(lambda: blob_crc(run, seq, ordinal, data) == crc, f"payload {ordinal} of row {seq} of run {run}")


def check_row(run: int, seq: int, crc: int, body: bytes) -> None:
    """Raise Damaged unless `crc` is that of this row at this place."""
    check(lambda: row_crc(run, seq, body) == crc, f"row {seq} of run {run}")


def check(fits: Callable[[], bool], what: str) -> None:
    """Raise Damaged, naming the row as `what`, unless it fits."""
    try:
        if fits():
            return
    except (TypeError, ValueError, OverflowError, struct.error):
        pass  # a damaged database can give a value of any type
    raise Damaged(f"{what} fails its CRC")


def read_journal(
    run: int, stored: Iterable[StoredRow], blobs: Mapping[BlobKey, bytes], head: tuple[int, int] = (0, FIRST_CHAIN)
) -> tuple[JournalRow, ...]:
    """Verify and unpack a run's rows.

    Args:
        run: Number of the run.
        stored: All its rows in order.
        blobs: Its moved payloads, each verified.
        head: (seq, chain) that the run's record names: the journal must reach it.

    Raises:
        Damaged: a row fails its CRC, its chain value or its sequence, or the tail is missing.
    """
    rows: list[JournalRow] = []
    chains = [FIRST_CHAIN]
    for seq, crc, chain, body in stored:
        if seq != len(chains):
            raise Damaged(f"row {len(chains)} of run {run} is missing")
        check_row(run, seq, crc, body)
        if next_chain(chains[-1], crc) != chain:
            raise Damaged(f"row {seq} of run {run} breaks the chain")
        chains.append(chain)
        rows.append(JournalRow(seq, unpack(run, seq, body, blobs)))
    head_seq, head_chain = head
    if len(rows) < head_seq or chains[head_seq] != head_chain:
        raise Damaged(f"the journal of run {run} has {len(rows)} rows and its record names row {head_seq}")
    return tuple(rows)


# ---- records of side tables


def encode_record(record: RunRecord | SessionRecord | FlowOptions) -> bytes:
    return _encoder.encode(record)


def decode_run(record: bytes) -> RunRecord:
    """Raises Damaged."""
    return _decode(_record_decoder, record)


def decode_session(record: bytes) -> SessionRecord:
    """Raises Damaged."""
    return _decode(_session_decoder, record)


def decode_inbox(number: int, row: bytes) -> InboxRow:
    """Raises Damaged."""
    return msgspec.structs.replace(_decode(_inbox_decoder, row), number=number)


def decode_event(number: int, row: bytes) -> EventRecord:
    """Raises Damaged."""
    return msgspec.structs.replace(_decode(_event_decoder, row), number=number)


def decode_flow_options(options: bytes) -> FlowOptions:
    """Raises Damaged."""
    return _decode(_options_decoder, options)


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Damaged(f"a record cannot be read: {error}") from error
