"""What the writer process writes, as a function of (run, seq), so that the reader can tell what must be there.

Each unit brings a row of every side table, so that a commit that is there in part is noticed.
"""

from __future__ import annotations

import random

from stepwire_engine.core.entries import Entry
from stepwire_engine.store.base import EventRecord, InboxRow, RunRecord, Unit, WaitRow
from tests.store.samples import created, dormant, ended, event, matched

RUNS = range(1, 9)
_LARGE_EVERY = 17
"""Each so many rows one has a payload that becomes a blob."""


def entries_of(run: int, seq: int) -> tuple[Entry, ...]:
    if seq == 1:
        return (created(run),)
    size = 70_000 if (run + seq) % _LARGE_EVERY == 0 else 300
    return (ended(seq, random.Random(f"{run}.{seq}").randbytes(size)),)


def unit_of(epoch: int, run: int, seq: int) -> Unit:
    return Unit(
        epoch,
        run,
        seq - 1,
        entries_of(run, seq),
        record_of(run, seq),
        inbox=(fact_of(run, seq),),
        events=(event_of(run, seq),),
        waits=(wait_of(run, seq),),
        waits_done=(wait_of(run, seq - 1).path,),
    )


def record_of(run: int, seq: int) -> RunRecord:
    """The record after this row."""
    return dormant(run, seq)


def wait_of(run: int, seq: int) -> WaitRow:
    """The one wait that is open after this row."""
    return WaitRow(run, f"wait#{seq + 2}", "paid")


def fact_of(run: int, seq: int) -> InboxRow:
    return matched(run, seq)


def event_of(run: int, seq: int) -> EventRecord:
    return event(f"{run}.{seq}", due_ms=seq, sent_ms=run)
