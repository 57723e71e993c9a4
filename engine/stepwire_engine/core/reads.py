"""What the core must know of the store before it can decide: questions that the shell answers by reading.

A question is asked at most once at a time, and its answer may be late: whoever gets it checks that it still
matters. Answers are what `Store` gives; nothing here reads.
"""

from __future__ import annotations

import msgspec

from stepwire_engine.core.model import Run, Step


class UndoOutputs(msgspec.Struct, frozen=True):
    """The journal of a run in memory whose completed steps are compensated, for their outputs."""

    run: Run


class RunRecords(msgspec.Struct, frozen=True):
    """What is on record of runs that are not in memory: `(by id, by number)`, None for those that do not exist."""

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
    """Records of dormant runs that go on by themselves, soonest first."""

    limit: int


class DormantRun(msgspec.Struct, frozen=True):
    """The record of a run that is not in memory, which a client cancels or a host speaks of."""

    run_id: str


Read = UndoOutputs | RunRecords | DormantRun | OpenWaits | PastEvents | UndeliveredEvents | DormantRuns
