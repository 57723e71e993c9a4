"""What the core wants committed, and what became of it: the values that pass through the store's seam."""

from __future__ import annotations

import enum

import msgspec

from stepwire.protocol.failure import Failure
from stepwire.protocol.frames import FlowOptions
from stepwire.protocol.payload import NULL, Payload
from stepwire_engine.core.entries import Entry, ParentStep, RunState


class UnitOutcome(enum.Enum):
    """What became of one unit."""

    COMMITTED = "committed"
    STALE_CLAIM = "stale_claim"
    """Another engine claimed the partition with a higher epoch."""
    SEQ_CONFLICT = "seq_conflict"
    """The run's last seq is not the expected one."""
    KEY_TAKEN = "key_taken"
    """The idempotency key belongs to another run, named in the receipt."""
    REFUSED = "refused"
    """The unit cannot be stored, or the whole batch was rolled back before COMMIT; nothing was stored."""
    NO_SPACE = "no_space"
    """The disk of the store is full; nothing was stored."""


class Receipt(msgspec.Struct, frozen=True):
    """The fate of one unit.

    Attributes:
        existing_run: For KEY_TAKEN.
        reason: For REFUSED and NO_SPACE.
        inbox: Numbers that the store gave to the unit's inbox rows, in order.
        events: Numbers that the store gave to the unit's events, in order; 0: its id is known, it was left out.
        logs: How many of the unit's log lines were stored; those of runs that are not on record are left out.
    """

    outcome: UnitOutcome
    existing_run: str = ""
    reason: str = ""
    inbox: tuple[int, ...] = ()
    events: tuple[int, ...] = ()
    logs: int = 0


class RunRecord(msgspec.Struct, frozen=True):
    """One row of the runs table: what listings show without reading a journal.

    Attributes:
        wake_ms: Of a dormant run (state WAITING): when it goes on by itself. None: only something else wakes it.
    """

    number: int
    run_id: str
    flow: str
    state: RunState
    created_at_ms: int
    ended_at_ms: int | None = None
    id: str = ""
    partition: int = 0
    build_id: str = ""
    namespace: str = "default"
    wake_ms: int | None = None


class SessionRecord(msgspec.Struct, frozen=True):
    """An instance that may still hold work: written at Hello, deleted at expiry and Goodbye only.

    Attributes:
        flow_options: Stored with the flows' names for as long as the database lives; a flow of `flows` that is not
            among them has none, and loses those it had.
    """

    instance_id: str
    service: str
    flows: tuple[str, ...]
    at_ms: int
    flow_options: tuple[FlowOptions, ...] = ()


class EventRecord(msgspec.Struct, frozen=True):
    """An accepted event (MISSION T1).

    Attributes:
        due_ms: When it is delivered; not before.
        sent_ms: When the engine accepted it.
        number: Assigned by the store on writing.
        traceparent: Where the sender's span belongs; empty: nowhere.
    """

    id: str
    name: str
    data: Payload
    due_ms: int
    sent_ms: int
    number: int = 0
    traceparent: str = ""


class WaitRow(msgspec.Struct, frozen=True):
    """An open `wait_event` step of a run."""

    run: int
    path: str
    event: str
    match: str = ""


class StartRun(msgspec.Struct, frozen=True, array_like=True, tag="start_run"):
    """A run that an event, an `invoke` step or a predecessor starts. Its id is derived from its cause, so that it
    starts once."""

    run_id: str
    flow: str
    input: Payload
    id: str = ""
    parent: ParentStep | None = None
    traceparent: str = ""


class EventMatched(msgspec.Struct, frozen=True, array_like=True, tag="event_matched"):
    """An event for the waiting step at `path`; `output` is the step's. `due_ms` says when it was delivered: whether a
    dormant run waited then is known when it is read."""

    path: str
    output: Payload = NULL
    due_ms: int | None = None


class ChildEnded(msgspec.Struct, frozen=True, array_like=True, tag="child_ended"):
    """The run invoked by the step at `path` ended: `output`, or `failure`."""

    path: str
    attempt: int
    output: Payload | None = None
    failure: Failure | None = None


class CancelRun(msgspec.Struct, frozen=True, array_like=True, tag="cancel_run"):
    """The run must be cancelled, because its parent is (`undo` None: as its flow was registered)."""

    run_id: str
    undo: bool | None = None


Fact = StartRun | EventMatched | ChildEnded | CancelRun


class InboxRow(msgspec.Struct, frozen=True):
    """A fact for a run, written by whoever causes it and consumed by the owner's commit."""

    run: int
    """Number of the run; 0 for StartRun and CancelRun, which name theirs by id."""
    fact: Fact
    number: int = 0
    """Assigned by the store on writing."""


class LogRow(msgspec.Struct, frozen=True, gc=False):
    """A line that a flow or step logged.

    Attributes:
        host: Name of the service whose host said so.
        logger: Empty in a row that the store made: lines are missing here, and `message` says how many.
        number: Assigned by the store on writing; it counts the lines of a run, missing ones included.
    """

    at_ms: int
    path: str
    attempt: int
    level: int
    logger: str
    message: str
    host: str
    number: int = 0


class RunLines(msgspec.Struct, frozen=True):
    """Lines of one run, oldest first, and how many after them were dropped, as was noticed at `at_ms`."""

    run_id: str
    lines: tuple[LogRow, ...]
    dropped: int = 0
    at_ms: int = 0


class Unit(msgspec.Struct, frozen=True):
    """What is committed together for one run, or for none (sessions only).

    Attributes:
        claim_epoch: Of the engine that decided it; refused if it is not the partition's.
        run: Number of the run; None for a unit without journal row.
        expected_seq: The run's last seq before this row; 0 for the first.
        entries: The packed row, seq `expected_seq + 1`; empty: no row is written.
        record: Inserted with the first row, replaced afterwards; None: unchanged.
        key: Idempotency key to claim for this run, with (flow, digest of input) to compare.
        release_key: Frees the key of this run.
        events: Accepted events. One whose id is known and not older than `events_since_ms` is left out.
        events_since_ms: Start of the window in which event ids are compared; delivered events before it may be deleted.
        events_delivered: Numbers of events whose inbox rows are all written.
        waits: Open `wait_event` steps of this run, added.
        waits_done: Paths of this run's waits that are over. A terminal record ends all of them.
        logs: Lines of any runs; this does not make the unit one of theirs.
        log_lines_max: How many lines of a run are kept, the newest.
    """

    claim_epoch: int
    run: int | None = None
    expected_seq: int = 0
    entries: tuple[Entry, ...] = ()
    record: RunRecord | None = None
    key: str = ""
    release_key: str = ""
    sessions: tuple[SessionRecord, ...] = ()
    sessions_gone: tuple[str, ...] = ()
    inbox: tuple[InboxRow, ...] = ()
    inbox_done: tuple[int, ...] = ()
    events: tuple[EventRecord, ...] = ()
    events_since_ms: int = 0
    events_delivered: tuple[int, ...] = ()
    waits: tuple[WaitRow, ...] = ()
    waits_done: tuple[str, ...] = ()
    logs: tuple[RunLines, ...] = ()
    log_lines_max: int = 0
