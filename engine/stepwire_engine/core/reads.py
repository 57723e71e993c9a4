"""What the core must know of the store before it can decide: questions that the shell answers by reading.

A question is asked at most once at a time, and its answer may be late: whoever gets it checks that it still
matters. Answers are what `Store` gives; nothing here reads.
"""

from __future__ import annotations

import msgspec

from stepwire_engine.core.model import Run, Step
from stepwire_engine.core.units import RunRecord


class Unreadable(msgspec.Struct, frozen=True):
    """In place of a record that is damaged: the run exists, and nothing else is known of it."""


class UndoOutputs(msgspec.Struct, frozen=True):
    """The journal of a run in memory whose completed steps are compensated, for their outputs."""

    run: Run


class RunRecords(msgspec.Struct, frozen=True):
    """What is on record of runs that are not in memory: `(by id, by number)`, None for those that do not exist, or
    Unreadable."""

    run_ids: tuple[str, ...]
    numbers: tuple[int, ...]


class OpenWaits(msgspec.Struct, frozen=True):
    """One page of the waits for an event: the WaitRows after `after`."""

    event: str
    after: tuple[int, str]
    limit: int


class PastEvents(msgspec.Struct, frozen=True):
    """Delivered events that a `wait_event` step with look-back may still take, oldest first."""

    step: Step
    event: str
    since_ms: int
    limit: int


class UndeliveredEvents(msgspec.Struct, frozen=True):
    """Accepted events that were not delivered and are due by `until_ms`, soonest first."""

    until_ms: int
    limit: int


class DormantRuns(msgspec.Struct, frozen=True):
    """Records of dormant runs that go on by themselves, soonest first, after `after`: time and number of the last."""

    after: tuple[int, int]
    limit: int


class DormantRun(msgspec.Struct, frozen=True):
    """The record of a run that is not in memory, which a client cancels or a host speaks of; or Unreadable."""

    run_id: str


class OpenPage(msgspec.Struct, frozen=True):
    """Records of open runs that are not dormant, newest first; answered with `(records, next page)`.

    Attributes:
        page: Where to go on; empty: from the beginning.
    """

    page: str
    limit: int


class DormantPage(msgspec.Struct, frozen=True):
    """Some dormant runs, for the question whether anything would wake them; answered with `DormantFound`.

    Attributes:
        page: Where to go on; empty: from the beginning.
        late_ms: A run that was to go on by itself before this has been forgotten.
    """

    page: str
    late_ms: int
    limit: int


class DormantFound(msgspec.Struct, frozen=True):
    """Dormant runs of one page that nothing in the store would wake.

    Attributes:
        forgotten: Each with the ids of the runs that it waits for, none of which goes on in the store: they have ended
            or do not exist. Those that went on in their place, or would, are among them.
        next_page: Empty: that was the last.
    """

    forgotten: tuple[tuple[RunRecord, tuple[str, ...]], ...]
    next_page: str


Read = (
    UndoOutputs
    | RunRecords
    | DormantRun
    | OpenWaits
    | PastEvents
    | UndeliveredEvents
    | DormantRuns
    | DormantPage
    | OpenPage
)
