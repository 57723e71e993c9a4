"""State is a fold of journal entries: the only code that changes the durable part of a run. LAW (DESIGN 5).

Entries given to `apply` were decided by `machine.py` or read back from the store; both are trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from stepwire.protocol import paths
from stepwire.protocol.frames import CancelReason
from stepwire.protocol.plan import (
    BranchEnded,
    GroupEnded,
    GroupOpened,
    ParallelMode,
    Plan,
    StepPlanned,
)
from stepwire_engine.core.entries import (
    AttemptEnded,
    AttemptLost,
    BodyLost,
    Entry,
    GroupExpired,
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
from stepwire_engine.core.model import Group, Particulars, Run, RunPhase, Scope, Step, StepState


def apply(run: Run, entry: Entry) -> None:
    """Fold one entry into the run."""
    _APPLY[type(entry)](run, entry)


def rebuild(number: int, rows: Iterable[Iterable[Entry]]) -> Run:
    """The run that a journal describes; each item of `rows` is one committed row."""
    run = Run(number)
    for row in rows:
        for entry in row:
            apply(run, entry)
        run.seq += 1
    run.committed_seq = run.seq
    run.recorded = run.state
    # What was decided but not released in the last row can only be left-over bookkeeping of the fold.
    run.fresh.clear()
    run.let_go.clear()
    for group in run.dirty:
        group.dirty = False
    run.dirty.clear()
    for step in run.steps.values():
        if step.released:
            step.outcome = None
    return run


def _created(run: Run, entry: RunCreated) -> None:
    run.run_id = entry.run_id
    run.flow = entry.flow
    run.input = entry.input
    run.id = entry.id
    run.seed = entry.seed
    run.created_at_ms = entry.at_ms
    run.parent = entry.parent
    run.deadline = entry.deadline
    run.undo_on_cancel = entry.undo_on_cancel
    run.traceparent = entry.traceparent


def _body_lost(run: Run, entry: BodyLost) -> None:
    run.body_losses += 1


def _planned(run: Run, entry: Planned) -> None:
    plan = entry.plan
    run.plan_seq = plan.plan_seq
    run.plan_fence = plan.fence
    run.answered = plan.after_release
    run.plan_row = run.seq + 1
    run.state = RunState.RUNNING
    run.body_losses = 0
    run.stats.plans += 1
    if entry.stats is not None:
        _note_driving(run, entry.stats)
    elif not run.stats.body_entries:
        run.stats.body_entries = run.stats.advances = 1  # Whoever planned was entered, by a snapshot.
    _decisions(run, plan, entry.at_ms)


def _decisions(run: Run, plan: Plan, at_ms: int) -> None:
    for group in plan.groups:
        _open_group(run, group, at_ms)
    for step in plan.steps:
        _plan_step(run, step, at_ms)
    if plan.abandoned:
        _abandon(run, plan.abandoned)
    for branch in plan.branches_ended:
        _end_branch(run, branch)
    for ended in plan.groups_ended:
        _end_group(run, ended)
    if plan.body_ended is not None:
        run.body_ended = plan.body_ended


def _open_group(run: Run, opened: GroupOpened, at_ms: int) -> None:
    scope = run.scopes[paths.parent(opened.path)]
    group = Group(run, opened, scope, at_ms)
    limits = (*scope.limits, group) if opened.limit else scope.limits
    scope.open_groups += 1
    _refresh(run, scope)
    run.groups[opened.path] = group
    if scope.groups is None:
        scope.groups = [group]
    else:
        scope.groups.append(group)
    for index in range(opened.branches):
        branch = Scope(paths.branch_path(opened.path, index), group, index, scope.depth + 1, limits)
        group.branches.append(branch)
        run.scopes[branch.path] = branch


def _plan_step(run: Run, planned: StepPlanned, at_ms: int) -> None:
    scope = run.scopes[paths.parent(planned.path)]
    step = Step(run, planned.path, planned.kind, scope, len(run.steps), at_ms)
    step.name = planned.name
    step.input = planned.input
    step.retry = planned.retry
    step.timeout = planned.timeout
    if planned.spec is not None or planned.undo is not None or planned.deadline is not None or planned.traceparent:
        step.particulars = Particulars()
        step.particulars.spec = planned.spec
        step.particulars.undo = planned.undo
        step.particulars.deadline = planned.deadline
        step.particulars.traceparent = planned.traceparent
    run.steps[planned.path] = step
    if scope.steps is None:
        scope.steps = [step]
    else:
        scope.steps.append(step)
    if planned.started:
        run.stats.host_starts += 1
    scope.outstanding += 1
    if scope.group is not None:
        scope.group.unfinished += 1
    _refresh(run, scope)


def _abandon(run: Run, abandoned: Iterable[str]) -> None:
    waves: dict[str, Group] = {}
    for path in abandoned:
        step = run.steps[path]
        if step.released:
            continue
        group = step.scope.group
        if group is not None and group.finished:
            waves[group.path] = group
        _let_go(run, step, CancelReason.ABANDONED)
        _refresh(run, step.scope)
    for group in waves.values():
        group.finished = [step for step in group.finished if not step.released]


def _end_branch(run: Run, ended: BranchEnded) -> None:
    branch = run.scopes[ended.path]
    branch.ended = True
    assert branch.group is not None
    branch.group.ended_branches.append((branch.index, ended.outcome))
    _refresh(run, branch)


def _end_group(run: Run, ended: GroupEnded) -> None:
    group = run.groups[ended.path]
    group.ended = ended
    group.scope.open_groups -= 1
    _refresh(run, group.scope)
    if ended.losers:
        for index in ended.losers:
            _cancel_scope(run, group.branches[index])
        group.finished = [step for step in group.finished if not step.released]
    if group.finished:
        run.fresh.extend(group.finished)  # Left behind by branches that ended: there is no wave any more.
        group.finished = []


def _cancel_scope(run: Run, scope: Scope) -> None:
    """Cancel every open step in `scope` and below it: the branch lost."""
    for step in scope.steps or ():
        if not step.released:
            _let_go(run, step, CancelReason.RACE_LOST)
    for group in scope.groups or ():
        for branch in group.branches:
            _cancel_scope(run, branch)
        group.finished = []
    scope.ended = True
    _refresh(run, scope)


def _let_go(run: Run, step: Step, reason: CancelReason) -> None:
    """The body waits for this step no longer: it is never released, and cancelled if it is open."""
    step.released = True
    step.outcome = None
    step.scope.outstanding -= 1
    if step.state.final:
        return
    step.state = StepState.CANCELLED
    run.let_go.append(step)
    if step.lease is not None:
        run.cancelled_leases.append((step.lease, reason))
    group = step.scope.group
    if group is not None:
        group.unfinished -= 1
        _touch(run, group)


def _attempt_ended(run: Run, entry: AttemptEnded) -> None:
    step = run.steps[entry.path]
    if entry.retry_at_ms is not None:
        step.state = StepState.BACKOFF
        step.attempt += 1
        step.retry_at_ms = entry.retry_at_ms
        step.lost_on = ()  # A host outlived it.
        return
    step.state = StepState.SUCCEEDED if entry.failure is None else StepState.FAILED
    step.retry_at_ms = None
    particulars = step.particulars
    if particulars is not None:
        if particulars.undo_of is not None:
            particulars.output = None
            run.body_losses = 0
            return  # The body knows nothing of it.
        if particulars.undo is not None and step.state is StepState.SUCCEEDED:
            run.completed.append(step)
    step.outcome = entry
    group = step.scope.group
    if group is None:
        run.fresh.append(step)
        return
    group.unfinished -= 1
    if group.opened.mode is ParallelMode.RACE or group.ended is not None:
        run.fresh.append(step)  # What a branch left behind is in no wave any more.
    else:
        group.finished.append(step)
        _touch(run, group)


def _attempt_lost(run: Run, entry: AttemptLost) -> None:
    run.steps[entry.path].losses += 1
    run.steps[entry.path].lost_on += (entry.host,)


def _released(run: Run, entry: Released) -> None:
    run.release_seq = entry.release_seq
    run.stats.releases += 1
    _note_driving(run, entry.stats)
    waves: dict[str, Group] = {}
    for path in entry.paths:
        released = run.steps.get(path)
        if released is None:
            continue  # A group, whose deadline passed.
        step = released
        step.released = True
        step.input = None
        scope = step.scope
        scope.outstanding -= 1
        if scope.group is not None:
            waves[scope.group.opened.path] = scope.group
        _refresh(run, scope)
    for group in waves.values():
        if group.finished:
            group.finished = [s for s in group.finished if not s.released]


def _group_expired(run: Run, entry: GroupExpired) -> None:
    group = run.groups[entry.path]
    group.expired = True
    run.fresh.append(group)


def _stopping(run: Run, entry: RunStopping) -> None:
    run.stopping = entry
    run.phase = RunPhase.CANCELLING
    if run.state is RunState.PAUSED:
        run.state = RunState.RUNNING
    for step in run.steps.values():
        if not step.released:
            _let_go(run, step, CancelReason.RUN_CANCELLED)
    for group in run.groups.values():
        group.finished = []
    for group in run.dirty:
        group.dirty = False
    run.dirty.clear()
    run.fresh.clear()


def _undo_planned(run: Run, entry: UndoPlanned) -> None:
    run.phase = RunPhase.UNDOING
    for path in entry.paths:
        undone = run.steps[path]
        assert undone.particulars is not None and undone.particulars.undo is not None
        undo = undone.particulars.undo
        step = Step(run, paths.undo_path(path), undo.kind, run.scopes[paths.ROOT], len(run.steps), entry.at_ms)
        step.name = undo.name
        step.retry = undo.retry
        step.timeout = undo.timeout
        step.particulars = Particulars()
        step.particulars.undo_of = undone
        step.released = True
        run.steps[step.path] = step
        run.undos.append(step)


def _note_driving(run: Run, stats: RunStats) -> None:
    """Counts of messages are volatile; the journal has those known at its rows."""
    run.stats.advances = max(run.stats.advances, stats.advances)
    run.stats.executes = max(run.stats.executes, stats.executes)
    run.stats.body_entries = max(run.stats.body_entries, stats.body_entries)


def _paused(run: Run, entry: RunPaused) -> None:
    run.state = RunState.PAUSED


def _resumed(run: Run, entry: RunResumed) -> None:
    run.state = RunState.RUNNING if run.plan_seq else RunState.PENDING
    run.body_losses = 0


def _ended(run: Run, entry: RunEnded) -> None:
    run.state = entry.state
    run.stats = RunStats(
        advances=entry.stats.advances,
        executes=entry.stats.executes,
        host_starts=run.stats.host_starts,
        body_entries=entry.stats.body_entries,
        plans=run.stats.plans,
        releases=run.stats.releases,
    )


def _refresh(run: Run, scope: Scope) -> None:
    """A branch is BUSY until it plans a step or ends, and while a group it opened has not ended (DESIGN 4)."""
    busy = not scope.ended and (scope.outstanding == 0 or scope.open_groups > 0)
    if busy is scope.busy:
        return
    scope.busy = busy
    group = scope.group
    if group is not None:
        group.busy += 1 if busy else -1
        if not busy:
            _touch(run, group)


def _touch(run: Run, group: Group) -> None:
    if not group.dirty:
        group.dirty = True
        run.dirty.append(group)


_APPLY: dict[type, Callable[[Run, Any], None]] = {
    RunCreated: _created,
    BodyLost: _body_lost,
    Planned: _planned,
    AttemptEnded: _attempt_ended,
    AttemptLost: _attempt_lost,
    Released: _released,
    GroupExpired: _group_expired,
    RunStopping: _stopping,
    UndoPlanned: _undo_planned,
    RunPaused: _paused,
    RunResumed: _resumed,
    RunEnded: _ended,
}
