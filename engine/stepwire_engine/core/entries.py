"""Journal entries: the only truth about a run. Its state is the fold of these (`core/fold.py`).

Entries are never edited or reordered; a new field gets a default at the end, a new entry a new tag.
Times are milliseconds since the Unix epoch as the engine saw them, durations seconds.
"""

from __future__ import annotations

import enum

import msgspec

from stepwire.protocol.failure import Failure
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Plan


class RunState(enum.IntEnum):
    """States of a run; the same spelling everywhere (DESIGN 1)."""

    PENDING = 1
    RUNNING = 2
    WAITING = 3
    PAUSED = 4
    SUCCEEDED = 5
    FAILED = 6
    CANCELLED = 7

    terminal: bool
    """The run is over. Stored, for it is asked several times per wave."""

    def __init__(self, number: int) -> None:
        self.terminal = number >= 5


class RunStats(msgspec.Struct, array_like=True, gc=False):
    """How much driving a run took (MISSION P9). Counts of messages are those known when the row was committed."""

    advances: int = 0
    executes: int = 0
    host_starts: int = 0
    body_entries: int = 0
    plans: int = 0
    releases: int = 0


class ParentStep(msgspec.Struct, frozen=True, array_like=True):
    """The `invoke` step that a run is the child of (MISSION S19).

    Attributes:
        run: Number of the parent run.
        depth: Runs above the child, at least 1.
    """

    run: int
    run_id: str
    path: str
    attempt: int
    depth: int


class RunCreated(msgspec.Struct, frozen=True, array_like=True, tag="run_created"):
    """First entry of every run; `deadline` (seconds) and `undo_on_cancel` as its flow was registered then.

    `traceparent` is where its spans belong; empty: nobody said so.
    """

    run_id: str
    flow: str
    input: Payload
    seed: int
    at_ms: int
    id: str = ""
    parent: ParentStep | None = None
    deadline: float | None = None
    undo_on_cancel: bool = False
    traceparent: str = ""


class BodyLost(msgspec.Struct, frozen=True, array_like=True, tag="body_lost"):
    """A body of the run was lost. So many in a row, without a plan or the end of an undo, are poison."""

    at_ms: int


class Planned(msgspec.Struct, frozen=True, array_like=True, tag="planned"):
    """The body's decisions, exactly as the host sent them.

    `stats` stands in the plans of bodies that were entered again: a run that goes to rest has no release after them.
    """

    plan: Plan
    at_ms: int
    host: str = ""
    stats: RunStats | None = None


class AttemptEnded(msgspec.Struct, frozen=True, array_like=True, tag="attempt_ended", gc=False):
    """Outcome of an attempt: `output` for success, otherwise `failure`.

    A failure with `retry_at_ms` is followed by another attempt; without, it is the step's outcome.
    """

    path: str
    attempt: int
    at_ms: int
    elapsed: float
    host: str = ""
    output: Payload | None = None
    failure: Failure | None = None
    retry_at_ms: int | None = None


class AttemptLost(msgspec.Struct, frozen=True, array_like=True, tag="attempt_lost", gc=False):
    """The host of an attempt was lost. It consumes no retry, but counts towards POISON_STEP."""

    path: str
    attempt: int
    at_ms: int
    host: str = ""
    failure: Failure | None = None


class Released(msgspec.Struct, frozen=True, array_like=True, tag="released"):
    """Committed outcomes handed to the body, in this order; written with the result that causes it."""

    release_seq: int
    paths: tuple[str, ...]
    at_ms: int
    stats: RunStats


class GroupExpired(msgspec.Struct, frozen=True, array_like=True, tag="group_expired", gc=False):
    """The deadline of an open group passed; the body learns it by a release of the group's path."""

    path: str
    at_ms: int


class RunStopping(msgspec.Struct, frozen=True, array_like=True, tag="run_stopping"):
    """The body decides nothing more: everything open is cancelled, then completed steps are compensated.

    Attributes:
        state: FAILED or CANCELLED; how the run will end.
        undo: Whether completed steps are compensated.
        failure: Why, if not the body said so in its last plan.
    """

    state: RunState
    at_ms: int
    undo: bool
    failure: Failure | None = None


class UndoPlanned(msgspec.Struct, frozen=True, array_like=True, tag="undo_planned"):
    """Completed steps that are compensated one after the other, in this order (MISSION S8)."""

    paths: tuple[str, ...]
    at_ms: int


class RunPaused(msgspec.Struct, frozen=True, array_like=True, tag="run_paused"):
    failure: Failure
    at_ms: int


class RunResumed(msgspec.Struct, frozen=True, array_like=True, tag="run_resumed"):
    at_ms: int


class RunEnded(msgspec.Struct, frozen=True, array_like=True, tag="run_ended"):
    """The terminal state. Output and failure of the body stand in its last Plan; `failure` here is the engine's own.

    Attributes:
        successor: Id of the run that goes on after `ctx.restart_with`.
    """

    state: RunState
    at_ms: int
    stats: RunStats
    failure: Failure | None = None
    successor: str = ""


Entry = (
    RunCreated
    | BodyLost
    | Planned
    | AttemptEnded
    | AttemptLost
    | Released
    | GroupExpired
    | RunStopping
    | UndoPlanned
    | RunPaused
    | RunResumed
    | RunEnded
)
