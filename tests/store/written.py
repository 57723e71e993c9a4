"""What the writer process writes, as a function of (run, seq), so that the reader can tell what must be there."""

from __future__ import annotations

import random

from stepwire_engine.core.entries import Entry
from stepwire_engine.store.base import RunRecord
from tests.store.samples import created, ended, record

RUNS = range(1, 9)
_LARGE_EVERY = 17
"""Each so many rows one has a payload that becomes a blob."""


def entries_of(run: int, seq: int) -> tuple[Entry, ...]:
    if seq == 1:
        return (created(run),)
    size = 70_000 if (run + seq) % _LARGE_EVERY == 0 else 300
    return (ended(seq, random.Random(f"{run}.{seq}").randbytes(size)),)


def record_of(run: int) -> RunRecord:
    return record(run)
