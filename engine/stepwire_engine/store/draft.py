"""What one commit will change, and the judgement of each unit in it.

Every store uses this, so that memory and databases cannot differ in what they accept. A draft sees the store
through `Facts` and itself: of two units that claim one key in the same commit, the second is refused. It
writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from stepwire_engine.store import rows
from stepwire_engine.store.base import DamagedRow, Receipt, SessionRecord, Unit, UnitOutcome
from stepwire_engine.store.lines import LogDraft
from stepwire_engine.store.rows import Damaged, PackedRow, PackedUnit
from stepwire_engine.store.stored import (
    NO_ROWS,
    Head,
    StoredEvent,
    StoredFlow,
    StoredInboxRow,
    StoredRecord,
    StoredWait,
)

EVENTS_PRUNED_PER_UNIT = 20
"""Delivered events that a unit deletes at most: sending one event must not pay for a day of them."""


class KeyOwner(NamedTuple):
    """The run that holds an idempotency key."""

    run: int
    run_id: str


ChainedRow = tuple[int, int, int, int, bytes]
"""(run, seq, crc, chain, body): a journal row with its place in the chain, as tables keep it."""


class Facts(Protocol):
    """What a draft must know of the store. May raise Damaged."""

    def claim_epoch(self, partition: int) -> int: ...

    def head(self, run: int) -> Head: ...

    def key_owner(self, key: str) -> KeyOwner | None: ...

    def number_of(self, run_id: str, guess: int = 0) -> int | None:
        """Number of the run with this id; `guess` is one that may have it."""

    def last_inbox_number(self) -> int:
        """Highest number an inbox row ever had."""

    def last_event_number(self) -> int:
        """Highest number an event ever had."""

    def event(self, event_id: str) -> StoredEvent | None: ...

    def last_log_number(self, run: int) -> int:
        """Number of the run's last log line; 0: it has none."""


COMMITTED = Receipt(UnitOutcome.COMMITTED)
STALE_CLAIM = Receipt(UnitOutcome.STALE_CLAIM)
SEQ_CONFLICT = Receipt(UnitOutcome.SEQ_CONFLICT)
NO_SPACE = Receipt(UnitOutcome.NO_SPACE, reason="the store is full")


def refused(reason: str) -> Receipt:
    return Receipt(UnitOutcome.REFUSED, reason=reason)


class Draft:
    """The changes of one commit, collected unit by unit; a refused unit leaves no trace in it."""

    __slots__ = ("_facts", "blobs", "damaged", "heads", "journal", "side", "size", "units")

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.units = 0
        """Units that were accepted."""
        self.size = 0
        """Bytes of journal rows and blobs."""
        self.damaged: list[DamagedRow] = []
        """Rows that units had to read, and that are not what was written."""
        self.heads: dict[int, Head] = {}
        self.journal: list[ChainedRow] = []
        self.blobs: list[PackedRow] = []
        """The rows that have blobs."""
        self.side: SideChanges | None = None
        """What changes beside the journal; most commits have nothing of it."""

    def add_all(self, units: Iterable[PackedUnit]) -> list[Receipt]:
        """Judge units in order. Most have nothing but a row, and those cost no call of `add` each."""
        facts, heads, journal = self._facts, self.heads, self.journal
        epoch = facts.claim_epoch(0)
        next_chain = rows.next_chain
        size = accepted = 0
        receipts: list[Receipt] = []
        for packed in units:
            row = packed.row
            if row is None or row.blobs or not packed.plain:
                receipts.append(self.add(packed))
                continue
            unit, run, crc, body = packed.unit, row.run, row.crc, row.body
            try:
                head = heads.get(run) or facts.head(run)
            except Damaged:
                receipts.append(self.add(packed))
                continue
            if unit.claim_epoch != epoch:
                receipts.append(STALE_CLAIM)
            elif head.seq != unit.expected_seq:
                receipts.append(SEQ_CONFLICT)
            else:
                seq, chain = row.seq, next_chain(head.chain, crc)
                heads[run] = tuple.__new__(Head, (seq, chain))
                journal.append((run, seq, crc, chain, body))
                size += len(body)
                accepted += 1
                receipts.append(COMMITTED)
        self.size += size
        self.units += accepted
        return receipts

    def add(self, packed: PackedUnit) -> Receipt:
        """Judge one unit and take its changes in if it fits."""
        if packed.refused:
            return refused(packed.refused)
        try:
            return self._judge(packed)
        except Damaged as error:
            # A run that is only being created is not there to be kept aside.
            run = packed.unit.run if packed.unit.expected_seq else None
            self.damaged.append(DamagedRow("", str(error), run or 0))
            return refused(str(error))

    def _judge(self, packed: PackedUnit) -> Receipt:
        unit = packed.unit
        run, record = unit.run, unit.record
        if unit.claim_epoch != self._facts.claim_epoch(record.partition if record is not None else 0):
            return STALE_CLAIM
        head = NO_ROWS
        if run is not None:
            head = self.heads.get(run) or self._facts.head(run)
            if head.seq != unit.expected_seq:
                return SEQ_CONFLICT
        if not packed.plain:
            return self._judge_side_changes(packed, head)
        if (row := packed.row) is not None:
            self._append(row, head)
        self.units += 1
        return COMMITTED

    def _judge_side_changes(self, packed: PackedUnit, head: Head) -> Receipt:
        unit = packed.unit
        run = unit.run
        side = self.side
        if side is None:
            side = self.side = SideChanges(self._facts)
        # Whatever may refuse the unit or raise Damaged comes before its first change.
        if run is not None and (refusal := side.conflict(run, unit)) is not None:
            return refusal
        freed = unit.release_key if unit.release_key and side.holds(run, unit.release_key) else ""
        events, numbers = side.new_events(packed) if unit.events else ({}, ())
        if (row := packed.row) is not None:
            head = self._append(row, head)
        if run is not None:
            side.change_run(run, unit, head, freed)
        if events or unit.events_delivered or unit.events_since_ms:
            side.change_events(unit, events)
        if unit.sessions or unit.sessions_gone:
            side.change_sessions(unit)
        inbox = side.change_inbox(packed) if unit.inbox or unit.inbox_done else ()
        logs = side.change_logs(unit) if unit.logs else 0
        self.units += 1
        if inbox or numbers or logs:
            return Receipt(UnitOutcome.COMMITTED, inbox=inbox, events=numbers, logs=logs)
        return COMMITTED

    def _append(self, row: PackedRow, head: Head) -> Head:
        run, seq, crc, body = row.run, row.seq, row.crc, row.body
        chain = rows.next_chain(head.chain, crc)
        self.heads[run] = head = Head(seq, chain)
        self.journal.append((run, seq, crc, chain, body))
        self.size += len(body)
        if row.blobs:
            self.blobs.append(row)
            self.size += sum(len(blob.data) for blob in row.blobs)
        return head


class SideChanges:
    """What one commit changes beside the journal."""

    __slots__ = (
        "_facts",
        "_run_ids",
        "events",
        "events_delivered",
        "flows",
        "inbox",
        "inbox_done",
        "keys",
        "last_event_number",
        "last_inbox_number",
        "logs",
        "prune_before_ms",
        "prune_count_max",
        "records",
        "sessions",
        "waits",
        "waits_over",
    )

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._run_ids: dict[str, int] = {}
        self.records: dict[int, StoredRecord] = {}
        self.keys: dict[str, KeyOwner | None] = {}
        """Owner of each changed key after the commit; None: freed."""
        self.sessions: dict[str, SessionRecord | None] = {}
        self.flows: dict[str, StoredFlow] = {}
        self.inbox: list[StoredInboxRow] = []
        self.inbox_done: list[int] = []
        self.last_inbox_number = facts.last_inbox_number()
        self.events: dict[str, StoredEvent] = {}
        """New events by id; each replaces the stored one with its id."""
        self.events_delivered: list[int] = []
        self.last_event_number = facts.last_event_number()
        self.logs = LogDraft(facts.last_log_number)
        self.prune_count_max = 0
        """How many delivered events are deleted at most: oldest first, due and sent before `prune_before_ms`."""
        self.prune_before_ms = 0
        self.waits_over: set[int] = set()
        """Runs that lose every stored wait."""
        self.waits: dict[int, dict[str, StoredWait | None]] = {}
        """Changed waits of each run by path, after `waits_over`; None: over."""

    def conflict(self, run: int, unit: Unit) -> Receipt | None:
        if unit.record is not None:
            run_id = unit.record.run_id
            number = self._run_ids.get(run_id) or self._facts.number_of(run_id, run)
            if number is not None and number != run:
                return refused(f"run id {run_id!r} belongs to run {number}")
        if unit.key:
            owner = self._owner(unit.key)
            if owner is not None and owner.run != run:
                return Receipt(UnitOutcome.KEY_TAKEN, existing_run=owner.run_id)
        return None

    def _owner(self, key: str) -> KeyOwner | None:
        return self.keys[key] if key in self.keys else self._facts.key_owner(key)

    def holds(self, run: int | None, key: str) -> bool:
        owner = self._owner(key)
        return owner is not None and owner.run == run

    def new_events(self, packed: PackedUnit) -> tuple[dict[str, StoredEvent], tuple[int, ...]]:
        """The unit's events that are to be written, by id, and the number of each; 0: its id is known."""
        since_ms = packed.unit.events_since_ms
        last_number = self.last_event_number
        new: dict[str, StoredEvent] = {}
        numbers = []
        for event, row in zip(packed.unit.events, packed.events, strict=True):
            known = new.get(event.id) or self.events.get(event.id) or self._facts.event(event.id)
            if known is not None and known.sent_ms >= since_ms:
                numbers.append(0)
                continue
            last_number += 1
            numbers.append(last_number)
            new[event.id] = StoredEvent.of(last_number, event, row)
        return new, tuple(numbers)

    def change_run(self, run: int, unit: Unit, head: Head, freed: str) -> None:
        record = unit.record
        if freed:
            self.keys[freed] = None
        if unit.waits or unit.waits_done:
            waits = self.waits.setdefault(run, {})
            waits.update({wait.path: StoredWait.of(wait) for wait in unit.waits})
            waits.update(dict.fromkeys(unit.waits_done))
        if record is None:
            return
        self._run_ids[record.run_id] = run
        self.records[run] = StoredRecord.of(record, head)
        if unit.key:
            self.keys[unit.key] = KeyOwner(run, record.run_id)
        if record.state.terminal:
            self.waits.pop(run, None)
            self.waits_over.add(run)

    def change_events(self, unit: Unit, new: dict[str, StoredEvent]) -> None:
        if new:
            self.events.update(new)
            self.last_event_number = max([event.number for event in new.values()])
        self.events_delivered.extend(unit.events_delivered)
        if since_ms := unit.events_since_ms:
            self.prune_before_ms = min(self.prune_before_ms, since_ms) if self.prune_count_max else since_ms
            self.prune_count_max += EVENTS_PRUNED_PER_UNIT

    def change_sessions(self, unit: Unit) -> None:
        for session in unit.sessions:
            self.sessions[session.instance_id] = session
            options = {flow_options.flow: flow_options for flow_options in session.flow_options}
            self.flows.update({flow: StoredFlow.of(flow, options.get(flow)) for flow in session.flows})
        self.sessions.update(dict.fromkeys(unit.sessions_gone))

    def change_logs(self, unit: Unit) -> int:
        """How many lines are of runs on record."""
        stored = 0
        for batch in unit.logs:
            run = self._run_ids.get(batch.run_id) or self._facts.number_of(batch.run_id)
            if run is not None:
                stored += self.logs.add(run, batch, unit.log_lines_max)
        return stored

    def change_inbox(self, packed: PackedUnit) -> tuple[int, ...]:
        """The numbers of the unit's inbox rows."""
        self.inbox_done.extend(packed.unit.inbox_done)
        if not packed.inbox:
            return ()
        numbered = enumerate(zip(packed.unit.inbox, packed.inbox, strict=True), start=self.last_inbox_number + 1)
        new = [StoredInboxRow.of(number, fact.run, row) for number, (fact, row) in numbered]
        self.inbox.extend(new)
        self.last_inbox_number += len(new)
        return tuple([row.number for row in new])
