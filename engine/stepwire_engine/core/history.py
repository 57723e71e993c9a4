"""From a journal to the record that people read: runs, steps, attempts, groups.

The journal says what happened; the run in memory, if there is one, adds what is never journaled (who
executes a step now, why another one waits: `core/reasons.py`). This module decides nothing and changes neither.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from stepwire.protocol.failure import Failure
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import (
    BodyEnded,
    BranchOutcome,
    Call,
    FailPolicy,
    Invoke,
    ParallelMode,
    SendEvent,
    Sleep,
    StepKind,
    Verdict,
    WaitEvent,
)
from stepwire_engine.core import causes, ending
from stepwire_engine.core.deadlines import step_due_ms
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
    RunStopping,
    UndoPlanned,
)
from stepwire_engine.core.fold import apply
from stepwire_engine.core.model import Group, Run, RunPhase, Step, StepState
from stepwire_engine.core.reasons import Lack, WaitReason, dormant_reason, present_undo, run_reason, step_reason


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
    """One step; times are the engine's.

    Attributes:
        name: The registered step; the event that is waited for, the flow that is invoked, the events that are sent,
            or method and address of a request. Empty for a closure.
        lost: Tries whose host was lost.
        undoes: Path of the step that this one compensates; empty: none.
        child_run_id: The run of an `invoke` step; empty: not known.
        due_at_ms: When an open step goes on by itself: a sleep, a backoff, a timeout.
    """

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
    undoes: str = ""
    child_run_id: str = ""
    due_at_ms: int | None = None


class GroupView(msgspec.Struct, frozen=True):
    """One group; its policies as in GroupOpened.

    Attributes:
        verdict: None while it is open.
        outcomes: Of its branches, by index, None for one that has not ended; empty while none has.
        expired: Its deadline passed.
    """

    path: str
    mode: ParallelMode
    branches: int
    verdict: Verdict | None = None
    fail: FailPolicy = FailPolicy.ANY
    quorum: int = 0
    cancel_siblings: bool = False
    limit: int = 0
    names: tuple[str, ...] = ()
    outcomes: tuple[BranchOutcome | None, ...] = ()
    expired: bool = False


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """One run as of a commit.

    Attributes:
        failure: Of a FAILED run, or why a PAUSED one was paused.
        reason: Why it does not move at this moment; None if it has ended.
        live_body: A host holds its body.
        steps: In order of planning; empty unless asked for, like `groups`.
        phase: What it is doing; None if it has ended.
        parent_run_id: The run that invoked it; empty: none.
        successor_run_id: The run that goes on after `ctx.restart_with`; empty: none.
        stopping: Why an open run will fail; None: it will not, or it was cancelled (`phase` says that).
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
    phase: RunPhase | None = None
    parent_run_id: str = ""
    successor_run_id: str = ""
    stopping: Failure | None = None


def run_view(
    number: int,
    rows: Iterable[Iterable[Entry]],
    *,
    live: Run | None,
    now_unix_ms: int,
    include_steps: bool,
    lacks: Lack,
    waiting: bool = False,
) -> RunView:
    """The record of a run.

    Args:
        number: The run's number in the store.
        rows: Entries of its committed rows in order.
        live: The run in memory, or None.
        now_unix_ms: The present, to tell a backoff from a retry that is due.
        include_steps: Whether steps and groups are wanted; they cost a fold of the whole journal.
        lacks: See Lack.
        waiting: The store lists it as WAITING: it is dormant, unless it is in memory.

    Raises:
        ValueError: the journal does not begin with RunCreated.
    """
    if live is not None and live.broken:
        live = None  # It is being read; until then memory knows less than the journal.
    dormant = waiting and live is None
    journal = _Journal(Run(number) if include_steps or dormant else None)
    for row in rows:
        for entry in row:
            journal.add(entry)
    created = journal.created
    if created is None:
        raise ValueError(f"journal of run number {number} has no beginning")
    state = RunState.WAITING if dormant and journal.state is RunState.RUNNING else journal.state
    live = None if state.terminal else live
    return RunView(
        run_id=created.run_id,
        flow=created.flow,
        state=state,
        input=created.input,
        created_at_ms=created.at_ms,
        id=created.id,
        output=journal.output,
        failure=journal.failure,
        ended_at_ms=journal.ended_at_ms,
        stats=journal.stats if live is None else _newest(journal.stats, live.stats),
        reason=journal.reason(live, now_unix_ms, lacks, dormant=dormant),
        live_body=live is not None and live.body is not None,
        steps=tuple(journal.step_views(live, now_unix_ms, lacks)) if include_steps else (),
        groups=tuple(journal.group_views()) if include_steps else (),
        phase=None if state.terminal else journal.phase,
        parent_run_id=created.parent.run_id if created.parent is not None else "",
        successor_run_id=journal.successor,
        stopping=journal.stopping,
    )


def live_view(live: Run, *, now_unix_ms: int, lacks: Lack) -> RunView | None:
    """The record of an open run without its steps, and without reading its journal.

    It never shows an outcome that is not committed: while a commit is in flight the run counts as RUNNING.

    Returns:
        None if only the journal can tell: the run is not committed yet, is being read again, is being stopped
        or has ended (of which the last part may not be committed), or is PAUSED (whose failure stands in the
        journal).
    """
    if not live.committed_seq or live.broken or live.stopping is not None:
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
        reason=run_reason(state, live, now_unix_ms, lacks),
        live_body=live.body is not None,
        phase=RunPhase.BODY,
        parent_run_id=live.parent.run_id if live.parent is not None else "",
    )


def ended_view(ended: Run, at_ms: int) -> RunView:
    """The record, without steps, of a run whose end was just committed at `at_ms`."""
    body_ended = ended.body_ended
    restarted = ended.state is RunState.SUCCEEDED and body_ended is not None and body_ended.restart is not None
    return RunView(
        run_id=ended.run_id,
        flow=ended.flow,
        state=ended.state,
        input=ended.input,
        created_at_ms=ended.created_at_ms,
        id=ended.id,
        output=_output(body_ended) if body_ended is not None else None,
        failure=ending.failure_of(ended),
        ended_at_ms=at_ms,
        stats=_newest(RunStats(), ended.stats),
        parent_run_id=ended.parent.run_id if ended.parent is not None else "",
        successor_run_id=causes.successor_run_id(ended.run_id) if restarted else "",
    )


def _newest(journal: RunStats, live: RunStats) -> RunStats:
    """A copy that shows messages sent since the last row."""
    counts = zip(msgspec.structs.astuple(journal), msgspec.structs.astuple(live), strict=True)
    return RunStats(*(max(pair) for pair in counts))


def _output(ended: BodyEnded) -> Payload | None:
    """Of a body that returned; a flow that restarts itself returns nothing."""
    return ended.output if ended.restart is None else NULL


# ---- journal


class _Journal:
    """What entries say about a run; with `folded` also about its steps and groups."""

    def __init__(self, folded: Run | None) -> None:
        self.created: RunCreated | None = None
        self.state = RunState.PENDING
        self.phase = RunPhase.BODY
        self.output: Payload | None = None
        self.ended_at_ms: int | None = None
        self.successor = ""
        self.stats = RunStats()
        self._body_failure: Failure | None = None
        self._paused_by: Failure | None = None
        self._stopping: RunStopping | None = None
        self._end_failure: Failure | None = None
        self._folded = folded
        self._attempts: dict[str, list[AttemptView]] = {}
        self._outputs: dict[str, Payload] = {}
        self._ended_at: dict[str, int] = {}
        self._released_at: dict[str, int] = {}

    def add(self, entry: Entry) -> None:
        if self._folded is not None:
            apply(self._folded, entry)
            for step in self._folded.let_go:
                self._ended_at[step.path] = entry.at_ms
            self._folded.let_go.clear()
        read = _READ.get(type(entry))
        if read is not None:
            read(self, entry)

    @property
    def failure(self) -> Failure | None:
        match self.state:
            case RunState.FAILED:
                return self._end_failure or self._body_failure
            case RunState.PAUSED:
                return self._paused_by
            case _:
                return self._end_failure

    @property
    def stopping(self) -> Failure | None:
        stopping = self._stopping
        if stopping is None or self.state.terminal:
            return None
        return stopping.failure or (self._body_failure if stopping.state is RunState.FAILED else None)

    def _created(self, entry: RunCreated) -> None:
        self.created = entry

    def _planned(self, entry: Planned) -> None:
        plan = entry.plan
        self.state = RunState.RUNNING
        self.stats.plans += 1
        if plan.body_ended is not None:
            self.output = _output(plan.body_ended)
            self._body_failure = plan.body_ended.failure
        for step in plan.steps:
            self.stats.host_starts += step.started

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

    def _stopped(self, entry: RunStopping) -> None:
        self._stopping = entry
        self.phase = RunPhase.CANCELLING
        if self.state is RunState.PAUSED:
            self.state = RunState.RUNNING

    def _undoing(self, entry: UndoPlanned) -> None:
        self.phase = RunPhase.UNDOING

    def _paused(self, entry: RunPaused) -> None:
        self.state = RunState.PAUSED
        self._paused_by = entry.failure

    def _resumed(self, entry: RunResumed) -> None:
        self.state = RunState.RUNNING if self.stats.plans else RunState.PENDING

    def _ended(self, entry: RunEnded) -> None:
        self.state = entry.state
        self.ended_at_ms = entry.at_ms
        self.stats = entry.stats
        self.successor = entry.successor
        self._end_failure = entry.failure

    # ---- views

    def reason(self, live: Run | None, now_unix_ms: int, lacks: Lack, *, dormant: bool) -> WaitReason | None:
        """Why the run does not move."""
        if dormant and self._folded is not None and self.state is RunState.RUNNING:
            return dormant_reason(self._folded, now_unix_ms, lacks)
        return run_reason(self.state, live, now_unix_ms, lacks)

    def step_views(self, live: Run | None, now_unix_ms: int, lacks: Lack) -> Iterator[StepView]:
        """Every step in order of planning."""
        undo = present_undo(live) if live is not None else None
        for step in self._folded.steps.values() if self._folded is not None else ():
            current = live.steps.get(step.path) if live is not None else None
            path = step.path
            closed = step.state.final or self.state.terminal
            yield StepView(
                path=path,
                kind=step.kind,
                name=_name_of(step),
                state=self._step_state(step, current),
                planned_at_ms=step.planned_ms,
                attempts=tuple(self._attempts.get(path, ())),
                ended_at_ms=self._ended_at.get(path) or (None if step.state.final else self.ended_at_ms),
                released_at_ms=self._released_at.get(path),
                reason=step_reason(step, current, undo, now_unix_ms, lacks, self.state),
                output=self._outputs.get(path),
                lost=step.losses,
                undoes=step.undo_of.path if step.undo_of is not None else "",
                child_run_id=_child_of(step, current),
                due_at_ms=None if closed else _due_ms(step, current),
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
            opened = group.opened
            yield GroupView(
                path,
                opened.mode,
                opened.branches,
                group.ended.verdict if group.ended is not None else None,
                opened.fail,
                opened.quorum,
                opened.cancel_siblings,
                opened.limit,
                opened.names,
                _outcomes(group),
                group.expired,
            )


_READ: dict[type, Callable[[_Journal, Any], None]] = {
    RunCreated: _Journal._created,
    Planned: _Journal._planned,
    AttemptEnded: _Journal._attempt_ended,
    Released: _Journal._released,
    RunStopping: _Journal._stopped,
    UndoPlanned: _Journal._undoing,
    RunPaused: _Journal._paused,
    RunResumed: _Journal._resumed,
    RunEnded: _Journal._ended,
}


def _name_of(step: Step) -> str:
    """What the step is about, see StepView."""
    match step.spec:
        case WaitEvent(event=event):
            return event
        case Invoke(flow=flow):
            return flow
        case SendEvent(events=events):
            return ", ".join(dict.fromkeys(event.name for event in events))
        case Call(method=method, url=url):
            return f"{method} {_without_secrets(url)}"
        case _:
            return step.name


def _without_secrets(url: str) -> str:
    """The address without user, query and fragment, where secrets stand."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    except ValueError:
        return "(an address that cannot be read)"


def _child_of(step: Step, current: Step | None) -> str:
    """The run that an `invoke` step waits for or waited for last."""
    if not isinstance(step.spec, Invoke):
        return ""
    known = current.particulars.child if current is not None and current.particulars is not None else ""
    if known or step.spec.id:
        # A run that had the key already cannot be told from the journal.
        return known
    last = step.attempt - 1 if step.state is StepState.BACKOFF else step.attempt
    return causes.child_run_id(step.run.run_id, step.path, last)


def _due_ms(step: Step, current: Step | None) -> int | None:
    due = [step_due_ms(step)]
    if step.state is StepState.BACKOFF:
        due.append(step.retry_at_ms)
    elif current is not None and current.due_ms is not None:
        due.append(current.due_ms)
    else:
        due.append(_planned_due_ms(step))
    return min((at_ms for at_ms in due if at_ms is not None), default=None)


def _planned_due_ms(step: Step) -> int | None:
    """What follows from the plan alone, for a run that is not in memory."""
    match step.spec:
        case Sleep(until_ms=int(until_ms)):
            return until_ms
        case Sleep(duration=float(seconds)) | WaitEvent(timeout=float(seconds)):
            return step.planned_ms + round(seconds * 1000)
        case _:
            return None


def _outcomes(group: Group) -> tuple[BranchOutcome | None, ...]:
    found = dict(group.ended_branches)
    if group.ended is not None:
        found.update(dict.fromkeys(group.ended.losers, BranchOutcome.CANCELLED))
    return tuple(found.get(index) for index in range(group.opened.branches)) if found else ()
