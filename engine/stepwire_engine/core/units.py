"""What the core wants committed, and what became of it: the values that pass through the store's seam."""

from __future__ import annotations

import enum

import msgspec

from stepwire_engine.core.entries import Entry, RunState


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
    """The whole batch was rolled back before COMMIT (disk full, for example); nothing was stored."""


class Receipt(msgspec.Struct, frozen=True):
    """The fate of one unit. `existing_run` is set for KEY_TAKEN, `reason` for REFUSED."""

    outcome: UnitOutcome
    existing_run: str = ""
    reason: str = ""


class RunRecord(msgspec.Struct, frozen=True):
    """One row of the runs table: what listings show without reading a journal."""

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


class SessionRecord(msgspec.Struct, frozen=True):
    """An instance that may still hold work: written at Hello, deleted at expiry and Goodbye only."""

    instance_id: str
    service: str
    flows: tuple[str, ...]
    at_ms: int


class InboxRow(msgspec.Struct, frozen=True):
    """A fact for a run, written by whoever causes it and consumed by the owner's commit."""

    run: int
    kind: str
    body: bytes
    number: int = 0
    """Assigned by the store on writing."""


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
