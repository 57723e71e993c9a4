"""A store that forgets everything: for tests, the in-process engine and `stepwire.testing`.

It keeps exactly what a database would keep (packed rows with their check values, encoded records) and judges
units with the same code, so whatever works on it works on SQLite. It must never hold on to a live value.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from stepwire_engine.core.entries import RunState
from stepwire_engine.store import rows
from stepwire_engine.store.base import (
    InboxRow,
    JournalRow,
    Notify,
    Receipt,
    Receipts,
    RunPage,
    RunRecord,
    SessionRecord,
    StoreCorrupt,
    StoreError,
    Unit,
)
from stepwire_engine.store.draft import NO_ROWS, Draft, Head, KeyOwner, StoredRecord
from stepwire_engine.store.paging import check_limit, page_token_of, run_before
from stepwire_engine.store.rows import BlobKey, Damaged, PackedUnit, StoredRow


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
        self._flows: set[str] = set()
        self._inbox: dict[int, bytes] = {}
        self._inbox_number = 0

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
            receipts: list[Receipt] = [draft.add(unit) for unit in packed]
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

    def number_of(self, run_id: str) -> int | None:
        return self._run_ids.get(run_id)

    def _apply(self, draft: Draft) -> None:
        for row in draft.journal:
            self._journal.setdefault(row.run, []).append((row.seq, row.crc, row.chain, row.body))
        for packed in draft.blobs:
            blobs = self._blobs.setdefault(packed.run, {})
            blobs.update({(packed.seq, blob.ordinal): blob.data for blob in packed.blobs})
        for run, record in draft.records.items():
            if (before := self._records.get(run)) is not None:
                del self._run_ids[before.run_id]
            self._records[run] = record
            self._run_ids[record.run_id] = run
        for key, owner in draft.keys.items():
            self._keys.pop(key, None)
            if owner is not None:
                self._keys[key] = owner.run
        for instance_id, session in draft.sessions.items():
            self._sessions.pop(instance_id, None)
            if session is not None:
                self._sessions[instance_id] = rows.encode_record(session)
        self._flows.update(draft.flows)
        for _, body in draft.inbox:
            self._inbox_number += 1
            self._inbox[self._inbox_number] = body
        for number in draft.inbox_done:
            self._inbox.pop(number, None)
        self.commits += 1
        self.rows += len(draft.journal)
        self.bytes += draft.size

    # ---- reads

    def last_run_number(self) -> int:
        with self._lock:
            return max([0, *self._records, *self._journal])

    def open_runs(self) -> Iterator[RunRecord]:
        with self._lock:
            records = [self._record(run) for run in sorted(self._records)]
        return iter([record for record in records if not record.state.terminal])

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
        return RunPage(tuple(wanted[:limit]), page_token_of(wanted[limit - 1]) if len(wanted) > limit else "")

    def sessions(self) -> Sequence[SessionRecord]:
        with self._lock:
            return [rows.decode_session(record) for _, record in sorted(self._sessions.items())]

    def known_flows(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._flows)

    def inbox(self, after: int = 0) -> Sequence[InboxRow]:
        with self._lock:
            return [rows.decode_inbox(number, row) for number, row in self._inbox.items() if number > after]

    def _record(self, run: int) -> RunRecord:
        return self._records[run].opened()


def _readable(packed: PackedUnit) -> PackedUnit:
    """Refuse a unit that could be written but not read back; a database finds this only on recovery."""
    if packed.row is None:
        return packed
    row = packed.row
    try:
        rows.unpack(row.run, row.seq, row.body, {(row.seq, blob.ordinal): blob.data for blob in row.blobs})
    except Damaged as error:
        return PackedUnit(packed.unit, None, packed.plain, refused=str(error))
    return packed
