"""The stored form: whatever the core can write is read back equal, and whatever is altered is noticed."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args
from unittest import mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from stepwire.protocol.frames import FlowOptions
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Fence, Plan, StepPlanned, StepSpec
from stepwire_engine.core.entries import Entry, Planned
from stepwire_engine.core.units import LogRow, RunLines, Unit
from stepwire_engine.store import rows
from stepwire_engine.store.base import InboxRow, WaitRow
from stepwire_engine.store.payloads import map_payloads
from stepwire_engine.store.rows import Damaged, StoredRow
from stepwire_engine.store.stored import (
    DELIVERED,
    Head,
    StoredEvent,
    StoredFlow,
    StoredInboxRow,
    StoredRecord,
    StoredWait,
)
from tests.store.samples import created, dormant, ended, event, matched, record, session

DEPTH_MAX = 6
INLINE_MAX = 40
"""Stands in for the real limit, so that random payloads are on both sides of it."""


def values(kind: inspect.Type, depth: int = 0) -> st.SearchStrategy[Any]:
    """Any value of a type, derived from the type itself: a new field or entry is covered at once."""
    match kind:
        case inspect.StrType():
            return st.text(max_size=12)
        case inspect.BytesType():
            return st.binary(max_size=2 * INLINE_MAX)
        case inspect.IntType():
            return st.integers(-(2**63), 2**63 - 1)
        case inspect.FloatType():
            return st.floats(allow_nan=False)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.EnumType():
            return st.sampled_from(list(kind.cls))
        case inspect.TupleType():
            return st.tuples(*[values(item, depth + 1) for item in kind.item_types])
        case inspect.VarTupleType():
            return st.lists(values(kind.item_type, depth + 1), max_size=3).map(tuple)
        case inspect.UnionType():
            options = [t for t in kind.types if depth < DEPTH_MAX or not isinstance(t, inspect.StructType)]
            return st.one_of([values(t, depth + 1) for t in options])
        case inspect.StructType():
            return st.builds(kind.cls, **{field.name: values(field.type, depth + 1) for field in kind.fields})
    raise NotImplementedError(f"no strategy for {kind}")


ENTRY_TYPES = get_args(Entry)
ENTRIES = {entry.__name__: values(inspect.type_info(entry)) for entry in ENTRY_TYPES}
JOURNALS = st.lists(st.lists(st.one_of(*ENTRIES.values()), min_size=1, max_size=3).map(tuple), max_size=5)
small_inline_limit = mock.patch.object(rows, "INLINE_BYTES_MAX", INLINE_MAX)


def store_and_read(run: int, journal: list[tuple[Entry, ...]]) -> list[tuple[Entry, ...]]:
    stored: list[StoredRow] = []
    blobs: dict[rows.BlobKey, bytes] = {}
    chain = rows.FIRST_CHAIN
    for seq, entries in enumerate(journal, start=1):
        packed = rows.pack(run, seq, entries)
        chain = rows.next_chain(chain, packed.crc)
        stored.append((seq, packed.crc, chain, packed.body))
        blobs |= {(seq, blob.ordinal): blob.data for blob in packed.blobs}
        assert all(len(blob.data) > INLINE_MAX for blob in packed.blobs)
    return [row.entries for row in rows.read_journal(run, stored, blobs, (len(stored), chain))]


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_comes_back_equal(name: str) -> None:
    @settings(max_examples=60, deadline=None)
    @given(entry=ENTRIES[name])
    def check(entry: Entry) -> None:
        with small_inline_limit:
            assert store_and_read(3, [(entry,)]) == [(entry,)]

    check()


@settings(max_examples=100, deadline=None)
@given(journal=JOURNALS, run=st.integers(1, 2**63 - 1))
def test_every_journal_comes_back_equal(journal: list[tuple[Entry, ...]], run: int) -> None:
    with small_inline_limit:
        assert store_and_read(run, journal) == journal


@settings(max_examples=200, deadline=None)
@given(entry=st.one_of(*ENTRIES.values()))
def test_the_walk_reaches_every_payload(entry: Entry) -> None:
    assert_all_reached(entry)


@settings(max_examples=200, deadline=None)
@given(spec=st.one_of([values(inspect.type_info(spec)) for spec in get_args(StepSpec)]))
def test_the_walk_reaches_every_payload_of_a_step(spec: StepSpec) -> None:
    step = StepPlanned("a", input=Payload(b"1"), spec=spec)
    assert_all_reached(Planned(Plan(1, 0, Fence(1, 1), steps=(step, step)), 5))


def assert_all_reached(entry: Entry) -> None:
    reached: list[Payload] = []

    def note(payload: Payload) -> Payload:
        reached.append(payload)
        return payload

    assert map_payloads(entry, note) == entry
    assert sorted(map(id, reached)) == sorted(map(id, payloads_in(entry)))


def payloads_in(value: Any) -> list[Payload]:
    if isinstance(value, Payload):
        return [value]
    if isinstance(value, tuple):
        return [payload for item in value for payload in payloads_in(item)]
    if isinstance(value, msgspec.Struct):
        return [found for name in value.__struct_fields__ for found in payloads_in(getattr(value, name))]
    return []


def test_large_payloads_leave_the_row() -> None:
    entries = (created(1, data=b"i" * 100_000), ended(1, b"small"), ended(2, b"o" * 70_000))
    packed = rows.pack(1, 1, entries)
    assert [(blob.ordinal, blob.data[:1], len(blob.data)) for blob in packed.blobs] == [
        (0, b"i", 100_000),
        (2, b"o", 70_000),
    ]
    assert len(packed.body) < 1000
    assert packed.size == len(packed.body) + 170_000


@dataclasses.dataclass
class Stored:
    """A journal of three rows as a store holds it, to be damaged."""

    journal: list[StoredRow]
    blobs: dict[rows.BlobKey, bytes]
    head: tuple[int, int]

    @classmethod
    def sample(cls, run: int = 1) -> Stored:
        stored: list[StoredRow] = []
        blobs: dict[rows.BlobKey, bytes] = {}
        chain = rows.FIRST_CHAIN
        for seq in (1, 2, 3):
            packed = rows.pack(run, seq, (ended(seq, b"x" * 100_000),))
            chain = rows.next_chain(chain, packed.crc)
            stored.append((seq, packed.crc, chain, packed.body))
            blobs[seq, 0] = packed.blobs[0].data
        return cls(stored, blobs, (3, chain))

    def read(self, run: int = 1) -> None:
        rows.read_journal(run, self.journal, self.blobs, self.head)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda s: s.journal.pop(0), "row 1 of run 1 is missing"),
        (lambda s: s.journal.pop(1), "row 2 of run 1 is missing"),
        (lambda s: s.journal.pop(2), "has 2 rows and its record names row 3"),
        (lambda s: s.journal.clear(), "has 0 rows and its record names row 3"),
        (lambda s: s.journal.append(s.journal[2]), "row 4 of run 1 is missing"),
        (lambda s: s.journal.reverse(), "row 1 of run 1 is missing"),
        (lambda s: s.journal.__setitem__(1, (2, *Stored.sample(run=2).journal[1][1:])), "row 2 of run 1 fails its CRC"),
        (
            lambda s: s.journal.__setitem__(1, (2, s.journal[1][1], 7, s.journal[1][3])),
            "row 2 of run 1 breaks the chain",
        ),
        (lambda s: s.blobs.pop((2, 0)), "payload 0 of row 2 of run 1 is missing"),
        (lambda s: s.blobs.__setitem__((2, 0), b"x" * 99_999), "payload 0 of row 2 of run 1 is missing or cut"),
    ],
)
def test_a_damaged_journal_is_named_and_not_served(damage: Any, named: str) -> None:
    stored = Stored.sample()
    stored.read()
    damage(stored)
    with pytest.raises(Damaged, match=named):
        stored.read()


def test_a_row_replaced_by_a_valid_one_breaks_the_chain_of_the_next() -> None:
    stored = Stored.sample()
    other = rows.pack(1, 2, (ended(99),))
    stored.journal[1] = (2, other.crc, rows.next_chain(stored.journal[0][2], other.crc), other.body)
    with pytest.raises(Damaged, match="row 3 of run 1 breaks the chain"):
        stored.read()


def test_every_flipped_bit_of_a_row_is_noticed() -> None:
    packed = rows.pack(5, 1, (ended(1, b"payload"),))
    for bit in range(8 * len(packed.body)):
        body = bytearray(packed.body)
        body[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged, match="fails its CRC"):
            rows.check_row(5, 1, packed.crc, bytes(body))
    rows.check_row(5, 1, packed.crc, packed.body)


def sealed_event(delivered: bool) -> StoredEvent:
    stored = StoredEvent.of(7, event("e"), rows.pack_unit(Unit(1, events=(event("e"),))).events[0])
    return stored.noted() if delivered else stored


def sealed_fact() -> StoredInboxRow:
    return StoredInboxRow.of(7, 3, rows.pack_unit(Unit(1, inbox=(matched(3),))).inbox[0])


SEALED: dict[str, tuple[StoredRecord | StoredFlow | StoredInboxRow | StoredWait | StoredEvent, Any]] = {
    "record": (StoredRecord.of(record(4), Head(2, 77)), record(4)),
    "dormant record": (StoredRecord.of(dormant(4, 9), Head(2, 77)), dormant(4, 9)),
    "flow": (StoredFlow.of("f", None), None),
    "flow with options": (StoredFlow.of("f", FlowOptions("f", 5.0)), FlowOptions("f", 5.0)),
    "inbox row": (sealed_fact(), InboxRow(3, matched(3).fact, number=7)),
    "wait": (StoredWait.of(WaitRow(4, "a", "paid", "data.n")), WaitRow(4, "a", "paid", "data.n")),
    "event": (sealed_event(False), msgspec.structs.replace(event("e"), number=7)),
    "delivered event": (sealed_event(True), msgspec.structs.replace(event("e"), number=7)),
}


@pytest.mark.parametrize("name", SEALED)
def test_every_changed_field_of_a_side_row_is_noticed(name: str) -> None:
    stored, meaning = SEALED[name]
    assert stored.opened() == meaning
    for field, value in stored._asdict().items():
        other = "x" if value is None else value + type(value)(b"1")
        for wrong in {other, -5, 0.5, "x", b"x", None} - {value}:
            with pytest.raises(Damaged, match="fails its CRC"):
                type(stored)(**(stored._asdict() | {field: wrong})).opened()


@pytest.mark.parametrize("delivered", [False, True])
def test_every_flipped_bit_of_an_event_is_noticed(delivered: bool) -> None:
    stored = sealed_event(delivered)
    for field in ("number", "due_ms", "sent_ms", "delivered", "crc"):
        for bit in range(63):
            with pytest.raises(Damaged, match="fails its CRC"):
                stored._replace(**{field: getattr(stored, field) ^ 1 << bit}).opened()


def test_a_delivery_is_noted_once() -> None:
    noted = sealed_event(False).noted()
    assert (noted.delivered, noted.crc) == (1, sealed_event(False).crc + DELIVERED)
    assert noted.noted() == noted


SIDE_CHANGES: dict[str, Any] = {
    "record": record(1),
    "key": "k",
    "release_key": "k",
    "sessions": (session("a"),),
    "sessions_gone": ("a",),
    "inbox": (matched(1),),
    "inbox_done": (1,),
    "events": (event("e"),),
    "events_since_ms": 1,
    "events_delivered": (1,),
    "waits": (WaitRow(1, "a", "paid"),),
    "waits_done": ("a",),
    "logs": (RunLines("run-1", (LogRow(1, "a", 1, 20, "shop", "text", "h"),)),),
}


def test_a_unit_with_any_side_change_is_not_plain() -> None:
    row_only = {"claim_epoch", "run", "expected_seq", "entries", "log_lines_max"}
    assert SIDE_CHANGES.keys() | row_only == set(Unit.__struct_fields__)
    assert rows.pack_unit(Unit(1, 1, 0, (ended(1),))).plain
    for field, change in SIDE_CHANGES.items():
        packed = rows.pack_unit(Unit(1, 1, 0, (ended(1),), **({"record": record(1)} | {field: change})))
        assert not packed.plain and not packed.refused, field
        alone = rows.pack_unit(Unit(1, 1, 0, (ended(1),), **{field: change}))
        assert not alone.plain, field


def test_the_size_of_a_unit_is_that_of_all_it_brings() -> None:
    assert rows.pack_unit(Unit(1)).size == 0
    unit = Unit(1, 1, 0, (ended(1, b"x" * 1000),), inbox=(matched(1),), events=(event("e", data=b"y" * 500_000),))
    packed = rows.pack_unit(unit)
    assert packed.row is not None
    assert packed.size == packed.row.size + len(packed.inbox[0]) + len(packed.events[0]) > 501_000
    assert (
        rows.pack_unit(Unit(1, logs=(RunLines("r", (LogRow(1, "a", 1, 20, "l", "x" * 100, "h"),)),))).size == 102
    )  # path, logger and message


def test_an_entry_of_a_newer_engine_is_refused_and_not_guessed() -> None:
    body = msgspec.msgpack.encode([[["entry_of_tomorrow", 1, 2]], []])
    with pytest.raises(Damaged, match="unknown to this version"):
        rows.unpack(1, 1, body, {})
