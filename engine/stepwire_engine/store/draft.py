"""What one commit will change, and the judgement of each unit in it.

Every store uses this, so that memory and databases cannot differ in what they accept. A draft sees the store
through `Facts` and itself: of two units that claim one key in the same commit, the second is refused. It
writes nothing.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from stepwire_engine.store import rows
from stepwire_engine.store.base import Receipt, RunRecord, SessionRecord, Unit, UnitOutcome
from stepwire_engine.store.rows import Damaged, PackedRow, PackedUnit


class Head(NamedTuple):
    """The end of a run's journal: its last seq and that row's chain value."""

    seq: int
    chain: int


NO_ROWS = Head(0, rows.FIRST_CHAIN)


class KeyOwner(NamedTuple):
    """The run that holds an idempotency key."""

    run: int
    run_id: str


class ChainedRow(NamedTuple):
    """A journal row with its place in the chain, as tables keep it."""

    run: int
    seq: int
    crc: int
    chain: int
    body: bytes


class StoredRecord(NamedTuple):
    """A run's record as tables keep it; `crc` seals all other fields."""

    run: int
    run_id: str
    flow: str
    state: int
    namespace: str
    partition: int
    build_id: str
    head_seq: int
    head_chain: int
    record: bytes
    crc: int

    @classmethod
    def of(cls, record: RunRecord, head: Head) -> StoredRecord:
        """Seal a record together with the end of the run's journal."""
        searched = (record.number, record.run_id, record.flow, int(record.state))
        place = (record.namespace, record.partition, record.build_id)
        sealed = (*searched, *place, head.seq, head.chain, rows.encode_record(record))
        return cls(*sealed, crc=rows.seal(*sealed))

    def opened(self) -> RunRecord:
        """The record. Raises Damaged unless it is what was written."""
        rows.check_seal(self.crc, f"the record of run {self.run}", *self[:-1])
        return rows.decode_run(self.record)


class Facts(Protocol):
    """What a draft must know of the store. May raise Damaged."""

    def claim_epoch(self, partition: int) -> int: ...

    def head(self, run: int) -> Head: ...

    def key_owner(self, key: str) -> KeyOwner | None: ...

    def number_of(self, run_id: str) -> int | None: ...


COMMITTED = Receipt(UnitOutcome.COMMITTED)
STALE_CLAIM = Receipt(UnitOutcome.STALE_CLAIM)
SEQ_CONFLICT = Receipt(UnitOutcome.SEQ_CONFLICT)


def refused(reason: str) -> Receipt:
    return Receipt(UnitOutcome.REFUSED, reason=reason)


class Draft:
    """The changes of one commit, collected unit by unit; a refused unit leaves no trace in it."""

    __slots__ = (
        "_facts",
        "_run_ids",
        "blobs",
        "flows",
        "heads",
        "inbox",
        "inbox_done",
        "journal",
        "keys",
        "records",
        "sessions",
        "size",
        "units",
    )

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._run_ids: dict[str, int] = {}
        self.units = 0
        """Units that were accepted."""
        self.size = 0
        """Bytes of journal rows and blobs."""
        self.heads: dict[int, Head] = {}
        self.journal: list[ChainedRow] = []
        self.blobs: list[PackedRow] = []
        """The rows that have blobs."""
        self.records: dict[int, StoredRecord] = {}
        self.keys: dict[str, KeyOwner | None] = {}
        """Owner of each changed key after the commit; None: freed."""
        self.sessions: dict[str, SessionRecord | None] = {}
        self.flows: dict[str, None] = {}
        self.inbox: list[tuple[int, bytes]] = []
        """(run, encoded row)"""
        self.inbox_done: list[int] = []

    def add(self, packed: PackedUnit) -> Receipt:
        """Judge one unit and take its changes in if it fits."""
        if packed.refused:
            return refused(packed.refused)
        try:
            return self._judge(packed)
        except Damaged as error:
            return refused(str(error))

    def _judge(self, packed: PackedUnit) -> Receipt:
        unit = packed.unit
        partition = unit.record.partition if unit.record is not None else 0
        if unit.claim_epoch != self._facts.claim_epoch(partition):
            return STALE_CLAIM
        run = unit.run
        if run is not None:
            head = self.heads.get(run) or self._facts.head(run)
            if head.seq != unit.expected_seq:
                return SEQ_CONFLICT
            if not packed.plain and (refusal := self._conflict(run, unit)) is not None:
                return refusal
            if (row := packed.row) is not None:
                head = self._append(row, head)
            if not packed.plain:
                self._change_run(run, unit, head)
        if not packed.plain:
            self._change_rest(unit)
        self.units += 1
        return COMMITTED

    def _append(self, row: PackedRow, head: Head) -> Head:
        chain = rows.next_chain(head.chain, row.crc)
        self.heads[row.run] = head = Head(row.seq, chain)
        self.journal.append(ChainedRow(row.run, row.seq, row.crc, chain, row.body))
        self.size += len(row.body)
        if row.blobs:
            self.blobs.append(row)
            self.size += sum(len(blob.data) for blob in row.blobs)
        return head

    def _conflict(self, run: int, unit: Unit) -> Receipt | None:
        if unit.record is not None:
            run_id = unit.record.run_id
            number = self._run_ids.get(run_id) or self._facts.number_of(run_id)
            if number is not None and number != run:
                return refused(f"run id {run_id!r} belongs to run {number}")
        if unit.key and unit.key != unit.release_key:
            owner = self._owner(unit.key)
            if owner is not None and owner.run != run:
                return Receipt(UnitOutcome.KEY_TAKEN, existing_run=owner.run_id)
        return None

    def _owner(self, key: str) -> KeyOwner | None:
        return self.keys[key] if key in self.keys else self._facts.key_owner(key)

    def _change_run(self, run: int, unit: Unit, head: Head) -> None:
        record = unit.record
        if record is not None:
            self._run_ids[record.run_id] = run
            self.records[run] = StoredRecord.of(record, head)
        if unit.release_key:
            owner = self._owner(unit.release_key)
            if owner is not None and owner.run == run:
                self.keys[unit.release_key] = None
        if unit.key and record is not None:
            self.keys[unit.key] = KeyOwner(run, record.run_id)

    def _change_rest(self, unit: Unit) -> None:
        for session in unit.sessions:
            self.sessions[session.instance_id] = session
            self.flows.update(dict.fromkeys(session.flows))
        self.sessions.update(dict.fromkeys(unit.sessions_gone))
        self.inbox.extend([(row.run, rows.encode_record(row)) for row in unit.inbox])
        self.inbox_done.extend(unit.inbox_done)
