"""What the writer process writes, as a function of (run, seq), so that the reader can tell what must be there.

Most units bring a row of every side table, so that a commit that is there in part is noticed. The others bring only
a row of the journal; as all runs go on together, there are commits of nothing else, which are one statement each.
"""

from __future__ import annotations

import random

from stepwire_engine.core.entries import Entry
from stepwire_engine.store.base import EventRecord, InboxRow, RunRecord, Unit, WaitRow
from tests.store.samples import created, dormant, ended, event, matched

RUNS = range(1, 9)
_LARGE_EVERY = 17
"""Each so many rows one has a payload that becomes a blob."""


def is_bare(seq: int) -> bool:
    """Whether this row comes alone. Two at a time, as some runs may be one row ahead of others."""
    return seq % 4 in (2, 3)


def whole(seq: int) -> int:
    """The last row until this one that did not come alone."""
    return max(n for n in range(max(seq - 2, 1), seq + 1) if not is_bare(n))


def entries_of(run: int, seq: int) -> tuple[Entry, ...]:
    if seq == 1:
        return (created(run),)
    size = 70_000 if (run + seq) % _LARGE_EVERY == 0 and not is_bare(seq) else 300
    return (ended(seq, random.Random(f"{run}.{seq}").randbytes(size)),)


def unit_of(epoch: int, run: int, seq: int) -> Unit:
    if is_bare(seq):
        return Unit(epoch, run, seq - 1, entries_of(run, seq))
    return Unit(
        epoch,
        run,
        seq - 1,
        entries_of(run, seq),
        record_of(run, seq),
        inbox=(fact_of(run, seq),),
        events=(event_of(run, seq),),
        waits=(wait_of(run, seq),),
        waits_done=(wait_of(run, seq - 1).path,) if seq > 1 else (),
    )


def record_of(run: int, seq: int) -> RunRecord:
    """The record after this row."""
    return dormant(run, whole(seq))


def wait_of(run: int, seq: int) -> WaitRow:
    """The one wait that is open after this row."""
    return WaitRow(run, f"wait#{whole(seq) + 2}", "paid")


def fact_of(run: int, seq: int) -> InboxRow:
    return matched(run, seq)


def event_of(run: int, seq: int) -> EventRecord:
    return event(f"{run}.{seq}", due_ms=seq, sent_ms=run)
