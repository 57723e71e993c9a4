"""State is a fold of journal entries: the only code that changes the durable part of a run. LAW (DESIGN 5).

Entries given to `apply` were decided by `machine.py` or read back from the store; both are trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from stepwire.protocol import paths
from stepwire.protocol.frames import CancelReason
from stepwire.protocol.plan import (
    BranchEnded,
    GroupEnded,
    GroupOpened,
    ParallelMode,
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
    APPLY[type(entry)](run, entry)


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
    for group in plan.groups:
        _open_group(run, group, entry.at_ms)
    if plan.steps:
        _plan_steps(run, plan.steps, entry.at_ms)
    if plan.abandoned:
        _abandon(run, plan.abandoned)
    if plan.branches_ended:
        _end_branches(run, plan.branches_ended)
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
    branches = paths.branch_paths(opened.path, opened.branches)
    depth = scope.depth + 1
    group.branches = [Scope(path, group, index, depth, limits) for index, path in enumerate(branches)]
    run.scopes.update(zip(branches, group.branches, strict=True))


def _plan_steps(run: Run, plan: Iterable[StepPlanned], at_ms: int) -> None:
    """All steps of a plan in one go: a wide group plans thousands."""
    scopes, steps, still_open = run.scopes, run.steps, run.open
    order = len(steps)
    host_starts = 0
    for planned in plan:
        path = planned.path
        scope = scopes[path.rpartition("/")[0]]
        step = Step(
            run,
            path,
            planned.kind,
            scope,
            order,
            at_ms,
            planned.name,
            planned.input,
            planned.retry,
            planned.timeout,
        )
        order += 1
        steps[path] = still_open[path] = step
        if planned.spec is not None or planned.undo is not None or planned.deadline is not None or planned.traceparent:
            step.particulars = _particulars(planned)
        if scope.steps is None:
            scope.steps = [step]
        else:
            scope.steps.append(step)
        if planned.started:
            host_starts += 1
        scope.outstanding += 1
        group = scope.group
        blocks = scope.busy and not scope.open_groups  # As `_refresh` sees it.
        if blocks:
            scope.busy = False
        if group is not None:
            group.unfinished += 1
            if blocks:
                group.busy -= 1
                if not group.dirty:
                    _touch(run, group)
    run.stats.host_starts += host_starts


def _particulars(planned: StepPlanned) -> Particulars:
    return Particulars(planned.spec, planned.undo, planned.deadline, traceparent=planned.traceparent)


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


def _end_branches(run: Run, branches_ended: Iterable[BranchEnded]) -> None:
    scopes = run.scopes
    for ended in branches_ended:
        branch = scopes[ended.path]
        group = branch.group
        assert group is not None
        branch.ended = True
        group.ended_branches.append((branch.index, ended.outcome))
        if branch.busy:
            branch.busy = False
            group.busy -= 1
            if not group.dirty:
                _touch(run, group)


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
    run.open.pop(step.path, None)
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
    run.open.pop(entry.path, None)
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
        if not group.dirty:
            _touch(run, group)


def _attempt_lost(run: Run, entry: AttemptLost) -> None:
    run.steps[entry.path].losses += 1
    run.steps[entry.path].lost_on += (entry.host,)


def _released(run: Run, entry: Released) -> None:
    run.release_seq = entry.release_seq
    run.stats.releases += 1
    known, stats = run.stats, entry.stats
    if stats.advances > known.advances or stats.executes > known.executes or stats.body_entries > known.body_entries:
        _note_driving(run, stats)
    steps = run.steps
    waves: set[Group] = set()
    for path in entry.paths:
        step = steps.get(path)
        if step is None:
            continue  # A group, whose deadline passed.
        step.released = True
        step.input = None
        scope = step.scope
        scope.outstanding -= 1
        group = scope.group
        if group is not None and group.finished:
            waves.add(group)
        if not (scope.outstanding or scope.busy or scope.ended):
            scope.busy = True  # It got the last of what it waited for.
            if group is not None:
                group.busy += 1
    for group in waves:
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
        path = paths.undo_path(path)
        root = run.scopes[paths.ROOT]
        step = Step(run, path, undo.kind, root, len(run.steps), entry.at_ms, undo.name, None, undo.retry, undo.timeout)
        step.particulars = Particulars(undo_of=undone)
        step.released = True
        run.steps[path] = run.open[path] = step
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
    """Its wave may have closed; `settle` looks at the end of the turn."""
    if not group.dirty:
        group.dirty = True
        run.dirty.append(group)


APPLY: Mapping[type, Callable[[Run, Any], None]] = {
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
