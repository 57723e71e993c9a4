"""From a journal to the record that people read: runs, steps, attempts, groups, and why something waits.

The journal says what happened; the run in memory, if there is one, adds what is never journaled (who
executes a step now, why another one waits). This module decides nothing and changes neither.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from stepwire.protocol.failure import Failure
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import ParallelMode, StepKind, Verdict
from stepwire_engine.core.entries import (
    AttemptEnded,
    Entry,
    Planned,
    Released,
    RunCreated,
    RunEnded,
    RunPaused,
    RunResumed,
    RunState,
    RunStats,
)
from stepwire_engine.core.fold import apply
from stepwire_engine.core.model import Run, Step, StepState

Serves = Callable[[str, str], bool]
"""Whether a connected session serves `("flow" | "step", name)`."""


class WaitReason(enum.IntEnum):
    """Why a run or step does not move; the numbers are those of `run.proto` (DESIGN 7)."""

    NO_HOST = 1
    NO_SLOT = 2
    BACKOFF_UNTIL = 3
    SLEEPING_UNTIL = 4
    EVENT = 5
    SIBLING_IN_WAVE = 6
    GROUP_LIMIT = 7
    LIMIT_KEY = 8
    PAUSED = 9
    LEASE_OF_HOST = 10
    USER_CODE = 11
    ADOPTION = 12


class StepStateView(enum.IntEnum):
    """States of a step as people see them; the numbers are those of `run.proto`."""

    PENDING = 1
    RUNNING = 2
    BACKOFF = 3
    SUCCEEDED = 4
    FAILED = 5
    CANCELLED = 6


class AttemptView(msgspec.Struct, frozen=True):
    """One try at a step. `elapsed` in seconds as the host measured it, `failure` None for success."""

    number: int
    elapsed: float
    ended_at_ms: int
    failure: Failure | None = None
    host: str = ""


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """One step; times are the engine's. `lost` counts tries whose host was lost."""

    path: str
    kind: StepKind
    name: str
    state: StepStateView
    planned_at_ms: int
    attempts: tuple[AttemptView, ...] = ()
    ended_at_ms: int | None = None
    released_at_ms: int | None = None
    reason: WaitReason | None = None
    output: Payload | None = None
    lost: int = 0


class GroupView(msgspec.Struct, frozen=True):
    """One group; `verdict` None while it is open."""

    path: str
    mode: ParallelMode
    branches: int
    verdict: Verdict | None = None


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """One run as of a commit.

    Attributes:
        failure: Of a FAILED run, or why a PAUSED one was paused.
        reason: Why it does not move at this moment; None if it has ended, or if nobody can say.
        live_body: A host holds its body.
        steps: In order of planning; empty unless asked for, like `groups`.
    """

    run_id: str
    flow: str
    state: RunState
    input: Payload
    created_at_ms: int
    id: str = ""
    output: Payload | None = None
    failure: Failure | None = None
    ended_at_ms: int | None = None
    stats: RunStats = msgspec.field(default_factory=RunStats)
    reason: WaitReason | None = None
    live_body: bool = False
    steps: tuple[StepView, ...] = ()
    groups: tuple[GroupView, ...] = ()


def run_view(
    number: int,
    rows: Iterable[Iterable[Entry]],
    *,
    live: Run | None,
    now_unix_ms: int,
    include_steps: bool,
    serves: Serves,
) -> RunView:
    """The record of a run.

    Args:
        number: The run's number in the store.
        rows: Entries of its committed rows in order. Of a run that has ended the first and the last row are
            enough without `include_steps`.
        live: The run in memory, or None.
        now_unix_ms: The present, to tell a backoff from a retry that is due.
        include_steps: Whether steps and groups are wanted; they cost a fold of the whole journal.
        serves: See Serves.

    Raises:
        ValueError: the journal does not begin with RunCreated.
    """
    journal = _Journal(Run(number) if include_steps else None)
    for row in rows:
        for entry in row:
            journal.add(entry)
    created = journal.created
    if created is None:
        raise ValueError(f"journal of run number {number} has no beginning")
    if journal.state.terminal:
        live = None
    return RunView(
        run_id=created.run_id,
        flow=created.flow,
        state=journal.state,
        input=created.input,
        created_at_ms=created.at_ms,
        id=created.id,
        output=journal.output,
        failure=journal.failure,
        ended_at_ms=journal.ended_at_ms,
        stats=journal.stats if live is None else _newest(journal.stats, live.stats),
        reason=run_reason(journal.state, live, now_unix_ms, serves),
        live_body=live is not None and live.body is not None,
        steps=tuple(journal.step_views(live, now_unix_ms, serves)),
        groups=tuple(journal.group_views()),
    )


def live_view(live: Run, *, now_unix_ms: int, serves: Serves) -> RunView | None:
    """The record of an open run without its steps, and without reading its journal.

    It never shows an outcome that is not committed: while a commit is in flight the run counts as RUNNING.

    Returns:
        None if only the journal can tell: the run is not committed yet, is being read again, has ended, or
        is PAUSED (whose failure stands in the journal).
    """
    if not live.committed_seq or live.broken:
        return None
    state = RunState.RUNNING if live.in_flight else live.state
    if state.terminal or state is RunState.PAUSED:
        return None
    return RunView(
        run_id=live.run_id,
        flow=live.flow,
        state=state,
        input=live.input,
        created_at_ms=live.created_at_ms,
        id=live.id,
        stats=_newest(RunStats(), live.stats),
        reason=run_reason(state, live, now_unix_ms, serves),
        live_body=live.body is not None,
    )


def ended_view(ended: Run, at_ms: int) -> RunView:
    """The record, without steps, of a run whose end was just committed at `at_ms`."""
    body_ended = ended.body_ended
    return RunView(
        run_id=ended.run_id,
        flow=ended.flow,
        state=ended.state,
        input=ended.input,
        created_at_ms=ended.created_at_ms,
        id=ended.id,
        output=body_ended.output if body_ended is not None else None,
        failure=body_ended.failure if body_ended is not None else None,
        ended_at_ms=at_ms,
        stats=_newest(RunStats(), ended.stats),
    )


def _newest(journal: RunStats, live: RunStats) -> RunStats:
    """A copy that shows messages sent since the last row."""
    counts = zip(msgspec.structs.astuple(journal), msgspec.structs.astuple(live), strict=True)
    return RunStats(*(max(pair) for pair in counts))


# ---- journal


class _Journal:
    """What entries say about a run; with `folded` also about its steps and groups."""

    def __init__(self, folded: Run | None) -> None:
        self.created: RunCreated | None = None
        self.state = RunState.PENDING
        self.output: Payload | None = None
        self.failure: Failure | None = None
        self.ended_at_ms: int | None = None
        self.stats = RunStats()
        self._folded = folded
        self._attempts: dict[str, list[AttemptView]] = {}
        self._outputs: dict[str, Payload] = {}
        self._planned_at: dict[str, int] = {}
        self._ended_at: dict[str, int] = {}
        self._released_at: dict[str, int] = {}

    def add(self, entry: Entry) -> None:
        if self._folded is not None:
            apply(self._folded, entry)
        read = _READ.get(type(entry))
        if read is not None:
            read(self, entry)

    def _created(self, entry: RunCreated) -> None:
        self.created = entry

    def _planned(self, entry: Planned) -> None:
        plan = entry.plan
        self.state = RunState.RUNNING
        self.stats.plans += 1
        if plan.body_ended is not None:
            self.output = plan.body_ended.output
            self.failure = plan.body_ended.failure
        for step in plan.steps:
            self.stats.host_starts += step.started
            self._planned_at[step.path] = entry.at_ms
        if plan.abandoned or any(ended.losers for ended in plan.groups_ended):
            self._note_cancelled(entry.at_ms)

    def _note_cancelled(self, at_ms: int) -> None:
        if self._folded is not None:
            for step in self._folded.steps.values():
                if step.state is StepState.CANCELLED:
                    self._ended_at.setdefault(step.path, at_ms)

    def _attempt_ended(self, entry: AttemptEnded) -> None:
        if self._folded is None:
            return
        attempt = AttemptView(entry.attempt, entry.elapsed, entry.at_ms, entry.failure, entry.host)
        self._attempts.setdefault(entry.path, []).append(attempt)
        if entry.retry_at_ms is None:
            self._ended_at[entry.path] = entry.at_ms
            if entry.output is not None:
                self._outputs[entry.path] = entry.output

    def _released(self, entry: Released) -> None:
        self.stats.releases += 1
        for name in ("advances", "executes", "body_entries"):
            setattr(self.stats, name, max(getattr(self.stats, name), getattr(entry.stats, name)))
        if self._folded is not None:
            self._released_at.update(dict.fromkeys(entry.paths, entry.at_ms))

    def _paused(self, entry: RunPaused) -> None:
        self.state = RunState.PAUSED
        self.failure = entry.failure

    def _resumed(self, entry: RunResumed) -> None:
        self.state = RunState.RUNNING if self.stats.plans else RunState.PENDING
        self.failure = None

    def _ended(self, entry: RunEnded) -> None:
        self.state = entry.state
        self.ended_at_ms = entry.at_ms
        self.stats = entry.stats
        self.failure = entry.failure or self.failure

    # ---- views

    def step_views(self, live: Run | None, now_unix_ms: int, serves: Serves) -> Iterator[StepView]:
        """Every step in order of planning."""
        for step in self._folded.steps.values() if self._folded is not None else ():
            current = live.steps.get(step.path) if live is not None else None
            path = step.path
            yield StepView(
                path=path,
                kind=step.kind,
                name=step.name,
                state=self._step_state(step, current),
                planned_at_ms=self._planned_at[path],
                attempts=tuple(self._attempts.get(path, ())),
                ended_at_ms=self._ended_at.get(path) or (None if step.state.final else self.ended_at_ms),
                released_at_ms=self._released_at.get(path),
                reason=_reason_of(step, current, now_unix_ms, serves, self.state),
                output=self._outputs.get(path),
                lost=step.losses,
            )

    def _step_state(self, step: Step, current: Step | None) -> StepStateView:
        if step.state.final:
            return StepStateView(step.state)
        if self.state.terminal:
            return StepStateView.CANCELLED
        # An outcome that memory has and the journal has not is being committed.
        if current is not None and (current.lease is not None or current.state.final):
            return StepStateView.RUNNING
        return StepStateView(step.state)

    def group_views(self) -> Iterator[GroupView]:
        """Every group in order of planning."""
        for path, group in self._folded.groups.items() if self._folded is not None else ():
            verdict = group.ended.verdict if group.ended is not None else None
            yield GroupView(path, group.opened.mode, group.opened.branches, verdict)


_READ: dict[type, Callable[[_Journal, Any], None]] = {
    RunCreated: _Journal._created,
    Planned: _Journal._planned,
    AttemptEnded: _Journal._attempt_ended,
    Released: _Journal._released,
    RunPaused: _Journal._paused,
    RunResumed: _Journal._resumed,
    RunEnded: _Journal._ended,
}


# ---- reasons


def run_reason(state: RunState, live: Run | None, now_unix_ms: int, serves: Serves) -> WaitReason | None:
    """What the run waits for: its body, or else its open step that was planned first."""
    if state is RunState.PAUSED:
        return WaitReason.PAUSED
    if live is None or live.state.terminal:
        return None
    if live.uncertain:
        return WaitReason.ADOPTION
    if live.body is None and not serves("flow", live.flow):
        return WaitReason.NO_HOST
    first = next(live.open_steps(), None)
    if first is not None:
        return _open_reason(first, now_unix_ms, serves)
    return WaitReason.USER_CODE if live.body is not None else WaitReason.NO_SLOT


def _reason_of(
    step: Step, current: Step | None, now_unix_ms: int, serves: Serves, state: RunState
) -> WaitReason | None:
    """Why the step of the journal waits; `current` is the same step in memory."""
    if state.terminal:
        return None
    if step.state.final:
        waits = not step.released and step.scope.group is not None
        return WaitReason.SIBLING_IN_WAVE if waits else None
    if current is not None and current.state.final:
        return None
    if state is RunState.PAUSED and (current is None or current.lease is None):
        return WaitReason.PAUSED
    return _open_reason(current, now_unix_ms, serves) if current is not None else None


_OF_KIND = {StepKind.SLEEP: WaitReason.SLEEPING_UNTIL, StepKind.WAIT_EVENT: WaitReason.EVENT}


def _open_reason(step: Step, now_unix_ms: int, serves: Serves) -> WaitReason:
    """Why a step in memory has no outcome yet."""
    if step.lease is not None:
        return WaitReason.LEASE_OF_HOST
    if step.uncertain:
        return WaitReason.ADOPTION
    if step.state is StepState.BACKOFF and (step.retry_at_ms or 0) > now_unix_ms:
        return WaitReason.BACKOFF_UNTIL
    of_kind = _OF_KIND.get(step.kind)
    if of_kind is not None:
        return of_kind
    served = serves("step", step.name) if step.kind is StepKind.TASK else serves("flow", step.run.flow)
    return WaitReason.NO_SLOT if served else WaitReason.NO_HOST
