"""Rows as every store keeps them: the values that queries search, what is served, and a seal over both.

`of` makes a row and `opened` gives back what it was made of, or raises Damaged: SQLite serves a flipped bit
without complaint. The order of a row's fields is that of its table's columns. No SQL and no I/O here.
"""

from __future__ import annotations

from typing import NamedTuple

from stepwire.protocol.frames import FlowOptions
from stepwire_engine.core.entries import RunState
from stepwire_engine.store import rows
from stepwire_engine.store.base import EventRecord, InboxRow, LogRow, RunRecord, SessionRecord, WaitRow

OPEN_STATES = tuple([state for state in RunState if not state.terminal and state is not RunState.WAITING])
"""States of runs that an engine must take over at its start; a dormant run is read when something wakes it."""
DELIVERED = 1 << 32
"""Added to an event's `crc` when its delivery is noted, so that the row need not be read for a new seal."""


class Head(NamedTuple):
    """The end of a run's journal: its last seq and that row's chain value."""

    seq: int
    chain: int


NO_ROWS = Head(0, rows.FIRST_CHAIN)


class StoredRecord(NamedTuple):
    """A run's record; `wake_ms` is set for a dormant run that goes on by itself."""

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
    wake_ms: int | None
    crc: int

    @classmethod
    def of(cls, record: RunRecord, head: Head) -> StoredRecord:
        """Seal a record together with the end of the run's journal."""
        searched = (record.number, record.run_id, record.flow, int(record.state))
        place = (record.namespace, record.partition, record.build_id)
        sealed = (*searched, *place, head.seq, head.chain, rows.encode_record(record))
        if record.wake_ms is None or record.state is not RunState.WAITING:
            return cls(*sealed, None, rows.seal(*sealed))
        return cls(*sealed, record.wake_ms, rows.seal(*sealed, record.wake_ms))

    def opened(self) -> RunRecord:
        """The record. Raises Damaged unless it is what was written."""
        wakes = () if self.wake_ms is None else (self.wake_ms,)
        rows.check_seal(self.crc, f"the record of run {self.run}", *self[:-2], *wakes)
        return rows.decode_run(self.record)

    def unproved(self) -> RunRecord | None:
        """What the columns say, for a list of a damaged database; None if they say nothing of use."""
        try:
            state = RunState(self.state)
        except ValueError:
            return None
        return RunRecord(self.run, str(self.run_id), str(self.flow), state, 0)


class StoredSession(NamedTuple):
    """A session and its encoded record."""

    instance_id: str
    crc: int
    record: bytes

    def opened(self) -> SessionRecord:
        """The record. Raises Damaged unless it is what was written."""
        rows.check_seal(self.crc, f"the session {self.instance_id!r}", self.instance_id, self.record)
        return rows.decode_session(self.record)


class StoredFlow(NamedTuple):
    """A flow that some host registered, and its encoded options."""

    flow: str
    crc: int
    options: bytes | None

    @classmethod
    def of(cls, flow: str, options: FlowOptions | None) -> StoredFlow:
        if options is None:
            return cls(flow, rows.seal(flow), None)
        encoded = rows.encode_record(options)
        return cls(flow, rows.seal(flow, encoded), encoded)

    def opened(self) -> FlowOptions | None:
        """The options, if it has some. Raises Damaged unless they are what was written."""
        if self.options is None:
            rows.check_seal(self.crc, f"the flow {self.flow!r}", self.flow)
            return None
        rows.check_seal(self.crc, f"the flow {self.flow!r}", self.flow, self.options)
        return rows.decode_flow_options(self.options)


class StoredInboxRow(NamedTuple):
    """An inbox row with the number it was given."""

    number: int
    run: int
    crc: int
    row: bytes

    @classmethod
    def of(cls, number: int, run: int, row: bytes) -> StoredInboxRow:
        """
        Args:
            number: Given to the row by the store, 1 or more.
            run: Number of the run it is for, or 0.
            row: The encoded row.
        """
        return cls(number, run, rows.seal(number, run, row), row)

    def opened(self) -> InboxRow:
        """The row. Raises Damaged unless it is what was written."""
        rows.check_seal(self.crc, f"the inbox row {self.number}", self.number, self.run, self.row)
        return rows.decode_inbox(self.number, self.row)


class StoredWait(NamedTuple):
    """An open `wait_event` step."""

    run: int
    path: str
    event: str
    match: str
    crc: int

    @classmethod
    def of(cls, wait: WaitRow) -> StoredWait:
        sealed = (wait.run, wait.path, wait.event, wait.match)
        return cls(*sealed, rows.seal(*sealed))

    def opened(self) -> WaitRow:
        """The row. Raises Damaged unless it is what was written."""
        rows.check_seal(self.crc, f"the wait {self.path!r} of run {self.run}", *self[:-1])
        return WaitRow(*self[:-1])


class StoredEvent(NamedTuple):
    """An event with the number it was given; `delivered` is 0 or 1."""

    number: int
    id: str
    name: str
    due_ms: int
    sent_ms: int
    delivered: int
    crc: int
    row: bytes

    @classmethod
    def of(cls, number: int, event: EventRecord, row: bytes) -> StoredEvent:
        """
        Args:
            number: Given to the event by the store, 1 or more.
            event: Not delivered yet.
            row: The encoded event.
        """
        searched = (number, event.id, event.name, event.due_ms, event.sent_ms)
        return cls(*searched, 0, rows.seal(*searched, row), row)

    def noted(self) -> StoredEvent:
        """The row once its delivery is noted."""
        return self if self.delivered else self._replace(delivered=1, crc=self.crc + DELIVERED)

    def opened(self) -> EventRecord:
        """The event. Raises Damaged unless the row is what was written."""
        rows.check(self._fits, f"the event {self.number}")
        return rows.decode_event(self.number, self.row)

    def _fits(self) -> bool:
        if self.delivered not in (0, 1):
            return False
        return rows.seal(*self[:5], self.row) + DELIVERED * self.delivered == self.crc


class StoredLog(NamedTuple):
    """A log line. `number_of_run` is no `run`: a run does not suffer from a damaged line."""

    number_of_run: int
    n: int
    at_ms: int
    path: str
    attempt: int
    level: int
    logger: str
    message: str
    host: str
    crc: int

    @classmethod
    def of(cls, run: int, n: int, line: LogRow) -> StoredLog:
        values = (run, n, line.at_ms, line.path, line.attempt, line.level, line.logger, line.message, line.host)
        return cls(*values, rows.seal(*values))

    def opened(self) -> LogRow:
        """The line. Raises Damaged unless it is what was written."""
        rows.check_seal(self.crc, f"log line {self.n} of run {self.number_of_run}", *self[:-1])
        return LogRow(*self[2:-1], number=self.n)
