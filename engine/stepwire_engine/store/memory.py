"""A store that forgets everything: for tests, the in-process engine and `stepwire.testing`.

It keeps exactly what a database would keep (packed rows with their check values, encoded records) and judges
units with the same code, so whatever works on it works on SQLite. It must never hold on to a live value.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from heapq import heappop, heappush

from stepwire.protocol.frames import FlowOptions
from stepwire_engine.core.entries import RunState
from stepwire_engine.store import rows
from stepwire_engine.store.base import (
    DamagedRow,
    EventRecord,
    InboxRow,
    JournalRow,
    LogPage,
    LogQuery,
    Notify,
    Receipts,
    RunPage,
    RunRecord,
    SessionRecord,
    StoreCorrupt,
    StoreError,
    Unit,
    WaitRow,
)
from stepwire_engine.store.draft import Draft, KeyOwner, SideChanges
from stepwire_engine.store.lines import page_of
from stepwire_engine.store.paging import check_limit, page_token_of, run_before
from stepwire_engine.store.rows import BlobKey, Damaged, PackedUnit, StoredRow
from stepwire_engine.store.stored import (
    NO_ROWS,
    OPEN_STATES,
    Head,
    StoredEvent,
    StoredFlow,
    StoredInboxRow,
    StoredLog,
    StoredRecord,
    StoredWait,
)


class MemoryStore:
    """Storage of one engine in its own memory. Thread-safe; every submit is one commit."""

    accepting = True
    """Whether units are taken; memory always does."""

    def __init__(self, *, notify: Notify) -> None:
        """
        Args:
            notify: Runs a callable on the engine's loop, for example `loop.call_soon_threadsafe`.
        """
        self.commits = 0
        self.rows = 0
        self.bytes = 0
        self._notify = notify
        self._lock = threading.RLock()
        self._is_open = False
        self._epochs: dict[int, int] = {}
        self._journal: dict[int, list[StoredRow]] = {}
        self._blobs: dict[int, dict[BlobKey, bytes]] = {}
        self._records: dict[int, StoredRecord] = {}
        self._run_ids: dict[str, int] = {}
        self._keys: dict[str, int] = {}
        self._sessions: dict[str, bytes] = {}
        self._flows: dict[str, StoredFlow] = {}
        self._inbox: dict[int, StoredInboxRow] = {}
        self._last_inbox_number = 0
        self._wakes: dict[int, int] = {}
        """When each dormant run goes on by itself."""
        self._waits: dict[int, dict[str, StoredWait]] = {}
        """By run and path."""
        self._event_numbers: dict[str, int] = {}
        self._undelivered: dict[int, StoredEvent] = {}
        self._delivered: dict[int, StoredEvent] = {}
        self._oldest: list[tuple[int, int]] = []
        """Heap of (age, number) of delivered events; some are gone."""
        self._last_event_number = 0
        self._logs: dict[int, dict[int, StoredLog]] = {}
        """By run and number, in order."""

    def open(self) -> None:
        self._is_open = True

    def close(self) -> None:
        self._is_open = False

    def claim(self, partition: int = 0) -> int:
        with self._lock:
            self._require_open()
            epoch = self._epochs[partition] = self.claim_epoch(partition) + 1
            return epoch

    def submit(self, units: Sequence[Unit], done: Receipts) -> None:
        packed = [_readable(rows.pack_unit(unit)) for unit in units]
        with self._lock:
            self._require_open()
            draft = Draft(self)
            receipts = draft.add_all(packed)
            if draft.units:
                self._apply(draft)
        self._notify(lambda: done(receipts))

    def _require_open(self) -> None:
        if not self._is_open:
            raise StoreError("the store is not open")

    # ---- what a draft asks

    def claim_epoch(self, partition: int) -> int:
        return self._epochs.get(partition, 0)

    def head(self, run: int) -> Head:
        stored = self._journal.get(run)
        return Head(stored[-1][0], stored[-1][2]) if stored else NO_ROWS

    def key_owner(self, key: str) -> KeyOwner | None:
        run = self._keys.get(key)
        if run is None:
            return None
        return KeyOwner(run, self._records[run].run_id if run in self._records else "")

    def number_of(self, run_id: str, guess: int = 0) -> int | None:
        return self._run_ids.get(run_id)

    def last_inbox_number(self) -> int:
        return self._last_inbox_number

    def last_event_number(self) -> int:
        return self._last_event_number

    def event(self, event_id: str) -> StoredEvent | None:
        number = self._event_numbers.get(event_id)
        return None if number is None else self._undelivered.get(number) or self._delivered[number]

    def last_log_number(self, run: int) -> int:
        return next(reversed(self._logs[run]), 0) if run in self._logs else 0

    # ---- writing

    def _apply(self, draft: Draft) -> None:
        for run, seq, crc, chain, body in draft.journal:
            self._journal.setdefault(run, []).append((seq, crc, chain, body))
        for packed in draft.blobs:
            blobs = self._blobs.setdefault(packed.run, {})
            blobs.update({(packed.seq, blob.ordinal): blob.data for blob in packed.blobs})
        if draft.side is not None:
            self._apply_side(draft.side)
        self.commits += 1
        self.rows += len(draft.journal)
        self.bytes += draft.size

    def _apply_side(self, side: SideChanges) -> None:
        for record in side.records.values():
            self._apply_record(record)
        for key, owner in side.keys.items():
            self._keys.pop(key, None)
            if owner is not None:
                self._keys[key] = owner.run
        for instance_id, session in side.sessions.items():
            self._sessions.pop(instance_id, None)
            if session is not None:
                self._sessions[instance_id] = rows.encode_record(session)
        self._flows.update(side.flows)
        self._inbox.update({row.number: row for row in side.inbox})
        for number in side.inbox_done:
            self._inbox.pop(number, None)
        self._last_inbox_number = side.last_inbox_number
        self._apply_waits(side)
        self._apply_events(side)
        self._apply_logs(side)

    def _apply_record(self, record: StoredRecord) -> None:
        run = record.run
        if (before := self._records.get(run)) is not None:
            del self._run_ids[before.run_id]
        self._records[run] = record
        self._run_ids[record.run_id] = run
        self._wakes.pop(run, None)
        if record.wake_ms is not None:
            self._wakes[run] = record.wake_ms

    def _apply_waits(self, side: SideChanges) -> None:
        for run in side.waits_over:
            self._waits.pop(run, None)
        for run, changed in side.waits.items():
            waits = self._waits.pop(run, {}) | changed
            if left := {path: wait for path, wait in waits.items() if wait is not None}:
                self._waits[run] = left

    def _apply_events(self, side: SideChanges) -> None:
        for event in side.events.values():
            if (known := self._event_numbers.get(event.id)) is not None:
                self._undelivered.pop(known, None)
                self._delivered.pop(known, None)
            self._event_numbers[event.id] = event.number
            self._undelivered[event.number] = event
        self._last_event_number = side.last_event_number
        for number in side.events_delivered:
            if (noted := self._undelivered.pop(number, None)) is not None:
                self._delivered[number] = noted.noted()
                heappush(self._oldest, (max(noted.due_ms, noted.sent_ms), number))
        self._prune(side.prune_before_ms, side.prune_count_max)

    def _apply_logs(self, side: SideChanges) -> None:
        for line in side.logs.rows:
            self._logs.setdefault(line.number_of_run, {})[line.n] = line
        for run, number in side.logs.forgotten.items():
            self._logs[run] = {n: line for n, line in self._logs.get(run, {}).items() if n > number}

    def _prune(self, before_ms: int, count_max: int) -> None:
        while count_max and self._oldest and self._oldest[0][0] < before_ms:
            _, number = heappop(self._oldest)
            if (event := self._delivered.pop(number, None)) is not None:
                del self._event_numbers[event.id]
                count_max -= 1

    # ---- reads

    def take_damage(self) -> Sequence[DamagedRow]:
        return ()  # Its rows cannot change by themselves.

    def last_run_number(self) -> int:
        with self._lock:
            return max([0, *self._records, *self._journal])

    def open_runs(self) -> Iterator[RunRecord]:
        with self._lock:
            stored = [self._records[run] for run in sorted(self._records)]
        return iter([record.opened() for record in stored if record.state in OPEN_STATES])

    def count_dormant(self) -> int:
        with self._lock:
            return sum([record.state is RunState.WAITING for record in self._records.values()])

    def journal(self, run: int) -> Sequence[JournalRow]:
        with self._lock:
            record = self._records.get(run)
            head = (record.head_seq, record.head_chain) if record is not None else NO_ROWS
            try:
                return rows.read_journal(run, self._journal.get(run, ()), self._blobs.get(run, {}), head)
            except Damaged as error:
                raise StoreCorrupt(f"the store in memory: {error}") from error

    def find_run(self, run_id: str) -> RunRecord | None:
        with self._lock:
            run = self._run_ids.get(run_id)
            return None if run is None else self._record(run)

    def record(self, run: int) -> RunRecord | None:
        with self._lock:
            return self._record(run) if run in self._records else None

    def due_runs(self, until_ms: int, limit: int, after: tuple[int, int] = (0, 0)) -> Sequence[RunRecord]:
        with self._lock:
            wakes = [(wake_ms, run) for run, wake_ms in self._wakes.items() if wake_ms <= until_ms]
            due = sorted([wake for wake in wakes if wake > after])
            return [self._record(run) for _, run in due[:limit]]

    def waits(self, event: str, after: tuple[int, str], limit: int) -> Sequence[WaitRow]:
        with self._lock:
            waits = [wait for waits in self._waits.values() for wait in waits.values()]
        found = sorted([wait for wait in waits if wait.event == event and (wait.run, wait.path) > after])
        return [wait.opened() for wait in found[:limit]]

    def events(self, name: str, since_ms: int, limit: int) -> Sequence[EventRecord]:
        with self._lock:
            delivered = list(self._delivered.values())
        return _soonest([event for event in delivered if event.name == name and event.due_ms >= since_ms], limit)

    def undelivered(self, until_ms: int, limit: int) -> Sequence[EventRecord]:
        with self._lock:
            undelivered = list(self._undelivered.values())
        return _soonest([event for event in undelivered if event.due_ms <= until_ms], limit)

    def find_key(self, key: str) -> RunRecord | None:
        with self._lock:
            run = self._keys.get(key)
            return self._record(run) if run in self._records else None

    def list_runs(
        self, *, flow: str = "", states: Sequence[RunState] = (), limit: int = 100, page_token: str = ""
    ) -> RunPage:
        check_limit(limit)
        before = run_before(page_token)
        with self._lock:
            numbers = sorted((run for run in self._records if run < before), reverse=True)
            records = [self._record(run) for run in numbers]
        wanted = [r for r in records if (not flow or r.flow == flow) and (not states or r.state in states)]
        return RunPage(tuple(wanted[:limit]), page_token_of(wanted[limit - 1].number) if len(wanted) > limit else "")

    def sessions(self) -> Sequence[SessionRecord]:
        with self._lock:
            return [rows.decode_session(record) for _, record in sorted(self._sessions.items())]

    def known_flows(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._flows)

    def flow_options(self) -> Mapping[str, FlowOptions]:
        with self._lock:
            found = {flow: stored.opened() for flow, stored in self._flows.items()}
        return {flow: options for flow, options in found.items() if options is not None}

    def inbox(self, after: int = 0) -> Sequence[InboxRow]:
        with self._lock:
            return [row.opened() for row in self._inbox.values() if row.number > after]

    def logs(self, query: LogQuery) -> LogPage:
        with self._lock:
            return page_of(query, self._logs.get(query.run, {}).values())

    def _record(self, run: int) -> RunRecord:
        return self._records[run].opened()


def _soonest(events: list[StoredEvent], limit: int) -> Sequence[EventRecord]:
    events.sort(key=lambda event: (event.due_ms, event.number))
    return [event.opened() for event in events[:limit]]


def _readable(packed: PackedUnit) -> PackedUnit:
    """Refuse a unit that could be written but not read back; a database finds this only on recovery."""
    try:
        if (row := packed.row) is not None:
            rows.unpack(row.run, row.seq, row.body, {(row.seq, blob.ordinal): blob.data for blob in row.blobs})
        for fact in packed.inbox:
            rows.decode_inbox(0, fact)
        for event in packed.events:
            rows.decode_event(0, event)
    except Damaged as error:
        return PackedUnit(packed.unit, None, packed.plain, refused=str(error))
    return packed
