"""What the store's tests share: a desk that waits for receipts, and units to hand in."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from stepwire.protocol.frames import FlowOptions
from stepwire.protocol.payload import Payload
from stepwire_engine.core.entries import AttemptEnded, Entry, RunCreated, RunState
from stepwire_engine.core.units import EventMatched
from stepwire_engine.store.base import (
    EventRecord,
    InboxRow,
    LogRow,
    Receipt,
    RunLines,
    RunRecord,
    SessionRecord,
    Store,
    StoreError,
    Unit,
    UnitOutcome,
    WaitRow,
)
from stepwire_engine.store.sqlite import SqliteStore

StoreMaker = Callable[..., SqliteStore]
COMMITTED = UnitOutcome.COMMITTED
WAIT_SECONDS = 15.0


class Desk:
    """A store in use: `commit` hands units in and waits for their receipts."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.epoch = 0

    def open(self) -> Desk:
        self.store.open()
        self.epoch = self.store.claim()
        return self

    def commit(self, *units: Unit) -> list[Receipt]:
        answers: SimpleQueue[list[Receipt]] = SimpleQueue()
        self.store.submit(units, lambda receipts: answers.put(list(receipts)))
        return answers.get(timeout=WAIT_SECONDS)

    def outcomes(self, *units: Unit) -> list[UnitOutcome]:
        return [receipt.outcome for receipt in self.commit(*units)]

    def created(self, run: int, flow: str = "checkout", state: RunState = RunState.PENDING, **more: Any) -> Unit:
        """The unit that creates a run."""
        return Unit(self.epoch, run, 0, (created(run, flow),), record(run, flow, state), **more)

    def row(self, run: int, expected_seq: int, *entries: Entry, **more: Any) -> Unit:
        return Unit(self.epoch, run, expected_seq, entries or (ended(expected_seq),), **more)


def at_once(callback: Callable[[], None]) -> None:
    """A `notify` without a loop."""
    callback()


def never_fails(error: StoreError) -> None:
    raise AssertionError(f"the store failed: {error}")


def edit(path: Path, *statements: str) -> None:
    """Change a closed database behind the store's back."""
    db = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        db.execute(statement)
    db.close()


def record(
    run: int,
    flow: str = "checkout",
    state: RunState = RunState.PENDING,
    run_id: str = "",
    wake_ms: int | None = None,
) -> RunRecord:
    ended_at_ms = 2_000 + run if state.terminal else None
    return RunRecord(
        run, run_id or f"run-{run}", flow, state, 1_000 + run, ended_at_ms, id=f"order-{run}", wake_ms=wake_ms
    )


def dormant(run: int, wake_ms: int | None) -> RunRecord:
    return record(run, state=RunState.WAITING, wake_ms=wake_ms)


def created(run: int, flow: str = "checkout", data: bytes = b'{"order":17}') -> RunCreated:
    return RunCreated(f"run-{run}", flow, Payload(data), seed=run, at_ms=1_000 + run)


def ended(n: int, data: bytes = b'"done"') -> AttemptEnded:
    return AttemptEnded(f"step#{n + 2}", 1, 1_500 + n, 0.25, "host-1", output=Payload(data))


def session(instance_id: str, *flows: str, at_ms: int = 1, **more: Any) -> SessionRecord:
    return SessionRecord(instance_id, "orders", flows, at_ms, **more)


def event(
    event_id: str, name: str = "paid", *, due_ms: int = 100, sent_ms: int = 100, data: bytes = b"1"
) -> EventRecord:
    return EventRecord(event_id, name, Payload(data), due_ms, sent_ms)


def matched(run: int, n: int = 0) -> InboxRow:
    """A fact for a run; `n` tells it from others."""
    return InboxRow(run, EventMatched(f"wait-{n}", Payload(str(n).encode())))


def fill_side_tables(desk: Desk) -> None:
    """Something in every side table: runs 1 to 3, the events `due` and `done`, a wait, a fact, a key, two flows,
    a log line of run 1."""
    registered = session("host-1", "f", "g", flow_options=(FlowOptions("g", 5.0),))
    wait = WaitRow(2, "a", "paid", "data.n > `3`")
    desk.commit(
        desk.created(1, key="k", sessions=(registered,), inbox=(matched(1),), events=(event("due"), event("done"))),
        desk.created(2, waits=(wait,)),
        Unit(desk.epoch, 3, 0, (created(3),), dormant(3, 50)),
    )
    line = LogRow(1_000, "a", 1, 20, "shop", "charged", "host-1")
    desk.commit(Unit(desk.epoch, events_delivered=(2,), logs=(RunLines("run-1", (line,)),), log_lines_max=10))
