"""What the store's tests share: a desk that waits for receipts, and units to hand in."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from stepwire.protocol.payload import Payload
from stepwire_engine.core.entries import AttemptEnded, Entry, RunCreated, RunState
from stepwire_engine.store.base import Receipt, RunRecord, Store, StoreError, Unit, UnitOutcome

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


def record(run: int, flow: str = "checkout", state: RunState = RunState.PENDING, run_id: str = "") -> RunRecord:
    ended_at_ms = 2_000 + run if state.terminal else None
    return RunRecord(run, run_id or f"run-{run}", flow, state, 1_000 + run, ended_at_ms, id=f"order-{run}")


def created(run: int, flow: str = "checkout", data: bytes = b'{"order":17}') -> RunCreated:
    return RunCreated(f"run-{run}", flow, Payload(data), seed=run, at_ms=1_000 + run)


def ended(n: int, data: bytes = b'"done"') -> AttemptEnded:
    return AttemptEnded(f"step#{n + 2}", 1, 1_500 + n, 0.25, "host-1", output=Payload(data))
