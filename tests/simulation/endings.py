"""What must hold when a history is over: every journal against its oracle, runs against each other, nothing left.

`check` raises on the first invariant that does not hold. What can be seen while a history is played is in `truth.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from stepwire.protocol import paths
from stepwire.protocol.failure import ErrorCode, Retryable
from stepwire.protocol.payload import NULL
from stepwire.protocol.plan import Invoke, Sleep, StepKind, WaitEvent
from stepwire_engine.core import causes
from stepwire_engine.core.entries import AttemptEnded, Entry, Planned, Released, RunCreated, RunEnded, RunState
from stepwire_engine.core.fold import rebuild
from tests.simulation.clients import CLIENT_KEY
from tests.simulation.invariants import guarding
from tests.simulation.leftovers import check_nothing_left
from tests.simulation.oracle import Story, body_end
from tests.simulation.truth import RunFacts
from tests.simulation.waits import check_waits, wants

if TYPE_CHECKING:
    from tests.simulation.simulator import World

QUIET_SECONDS = 7.0
"""Virtual time after the last run ended, in which attempts stop, frames are acked and sessions are lost."""


def check(world: World) -> None:
    """Every invariant of a history that is over."""
    stories: dict[str, Story] = {}
    for run_id, facts in world.truth.runs.items():
        with guarding("I5"):
            story = stories[run_id] = Story([entry for row in facts.rows for entry in row])
        if facts.ended is None and run_id in world.truth.stuck():
            world.note("run that stays as it is")
            continue
        check_attempts(world, run_id, story)
        check_journal(world, facts, story)
        with guarding("I8"):
            check_undos(facts, story)
        with guarding("I7"):
            check_times(story, clock_was_set=world.clock.jumped)
        with guarding("I2"):
            _check_outputs(world, run_id, story)
    for run_id, story in stories.items():
        if world.truth.runs[run_id].ended is None:
            continue
        with guarding("I11"):
            _check_children(world, run_id, story, stories)
        with guarding("I10"):
            check_waits(world, run_id, story)
    with guarding("I11"):
        _check_causes(world, stories)
    calm = not (world.faults or world.refusals)
    assert not (calm and world.disturbances), f"I9: hosts were given up {world.disturbances} times, and nothing failed"
    with guarding("I13"):
        check_nothing_left(world)


# ---- one journal


def check_journal(world: World, facts: RunFacts, story: Story) -> None:
    """The run ended once, as its flow says, and its rows are what was committed."""
    run_id = facts.created.run_id
    entries = [entry for row in facts.rows for entry in row]
    with guarding("I5"):
        _check_numbers(world, facts, entries)
    with guarding("I6"):
        expected = body_end(world.flows[facts.created.flow], story)
        if story.body_ended is not None:
            assert story.body_ended == expected, f"{run_id}: {story.body_ended} instead of {expected}"
    with guarding("I12", "I5"):
        final = rebuild(facts.number, facts.rows)
        assert final.state is _state_of(facts, story), f"{run_id}: {final.state.name}"
    if run_id in world.clients.cancelled:
        lost = f"I1: {run_id} was cancelled for its client, yet it is {final.state.name}"
        assert final.state is RunState.CANCELLED, lost


def _check_numbers(world: World, facts: RunFacts, entries: list[Entry]) -> None:
    """Rows as they were committed, one end, plans and releases without a gap."""
    run_id = facts.created.run_id
    assert [tuple(row) for row in world.rows(facts.number)] == facts.rows, run_id
    assert isinstance(entries[0], RunCreated) and isinstance(entries[-1], RunEnded)
    assert sum(isinstance(entry, RunEnded) for entry in entries) == 1
    plan_seqs = [entry.plan.plan_seq for entry in entries if isinstance(entry, Planned)]
    assert plan_seqs == list(range(1, len(plan_seqs) + 1)), run_id
    release_seqs = [entry.release_seq for entry in entries if isinstance(entry, Released)]
    assert release_seqs == list(range(1, len(release_seqs) + 1)), run_id
    codes = {pause.failure.code for pause in facts.pauses}
    assert codes <= {ErrorCode.BODY_STALLED}, f"{run_id} was paused: {facts.pauses}"


def check_attempts(world: World, run_id: str, story: Story) -> None:
    """Attempts are counted one by one and not beyond their policy; each was executed, and not more than was lost."""
    executed = Counter([(e.path, e.attempt) for e in world.executions if e.run_id == run_id])
    for path, attempts in story.attempts.items():
        numbers = [ended.attempt for ended in attempts]
        assert numbers == list(range(1, 1 + len(numbers))), f"I5: {run_id} {path} has attempts {numbers}"
        final = [a for a in attempts[:-1] if a.failure is not None and a.failure.retryable is Retryable.NO]
        assert not final, f"I9: {run_id} {path} was tried again after it failed for good: {final}"
        for ended in attempts:
            by_host = ended.host and (ended.failure is None or ended.failure.code is ErrorCode.USER_ERROR)
            where = f"{run_id} {path} attempt {ended.attempt}"
            assert executed[path, ended.attempt] or not by_host, f"I2: nobody executed {where}"
        limit = world.config.default_retry.max_attempts
        planned = story.planned.get(path)
        if planned is not None and planned[0].retry is not None:
            limit = planned[0].retry.max_attempts
        if planned is not None:
            assert len(numbers) <= limit, f"I9: {run_id} {path} has {len(numbers)} attempts of {limit}"
    for (path, attempt), times in executed.items():
        where = f"{run_id} {path} attempt {attempt}"
        assert times <= 1 + world.disturbances, (
            f"I9: {where} was executed {times} times, {world.disturbances} disturbances"
        )


def _state_of(facts: RunFacts, story: Story) -> RunState:
    """The state in which the run must have ended."""
    if facts.stopping is not None:
        return facts.stopping.state
    assert story.body_ended is not None, facts.created.run_id
    if story.body_ended.cancelled:
        return RunState.CANCELLED
    return RunState.SUCCEEDED if story.body_ended.failure is None else RunState.FAILED


def check_undos(facts: RunFacts, story: Story) -> None:
    """Every completed step of a run that is compensated has one outcome of its undo, in reverse order."""
    run_id = facts.created.run_id
    undone = [path for path in story.outcomes if path.endswith(paths.UNDO_SUFFIX)]
    due = [path for path in story.completed if path in story.planned and story.planned[path][0].undo is not None]
    stopping = facts.stopping
    failed = facts.ended is not None and facts.ended.state is RunState.FAILED
    if failed or (stopping is not None and stopping.undo):
        order = [paths.undo_path(path) for path in reversed(due)]
        assert (facts.undo_order or ()) == tuple(order), f"{run_id}: {facts.undo_order} of {due}"
        # Closures of a body that cannot be replayed are given up at once, before it is their turn.
        executed = [path for path in undone if story.outcomes[path].host]
        assert executed == [path for path in order if path in executed], f"{run_id}: {undone} of {due}"
        assert sorted(undone) == sorted(order), f"{run_id}: {undone} of {due}"
    else:
        assert not undone, f"{run_id}: {undone}"
    for path in undone:
        ended = story.outcomes[path]
        if ended.failure is not None:
            expected = (ErrorCode.USER_ERROR, ErrorCode.UNDO_UNREACHABLE)
            assert ended.failure.code in expected, f"{run_id} {path}: {ended.failure}"


def check_times(story: Story, *, clock_was_set: bool = False) -> None:
    """Nothing that waits for its time came before it."""
    for path, (step, planned_ms) in story.planned.items():
        ended = story.outcomes.get(path)
        if ended is None:
            continue
        due_ms = None
        if ended.failure is not None and ended.failure.type == "StepTimeout":
            assert step.deadline is not None, path
            due_ms = planned_ms + step.deadline * 1000
        elif isinstance(step.spec, Sleep):
            assert step.spec.duration is not None
            due_ms = planned_ms + step.spec.duration * 1000
        elif isinstance(step.spec, WaitEvent) and ended.output == NULL:
            assert step.spec.timeout is not None, path
            due_ms = planned_ms + step.spec.timeout * 1000
        assert due_ms is None or ended.at_ms >= round(due_ms), f"{path} ended {due_ms - ended.at_ms} ms before its time"
    if clock_was_set:
        return  # The deadline of a group may have passed before that, and its last wave been answered after it.
    for path, at_ms in story.expired.items():
        opened, opened_ms = story.opened[path]
        assert opened.deadline is not None and at_ms >= opened_ms + round(opened.deadline * 1000), path


def _check_outputs(world: World, run_id: str, story: Story) -> None:
    """Outputs are those of executions that came to their end, and their numbers stand for the right step."""
    for path, ended in story.outcomes.items():
        undo = path.endswith(paths.UNDO_SUFFIX)
        kind = StepKind.RUN if undo else story.planned[path][0].kind
        if ended.output is None or kind not in (StepKind.RUN, StepKind.TASK, StepKind.CALL):
            continue
        made, _, number = json.loads(ended.output.data).rpartition("@")
        execution = world.executions_by_number[int(number)]
        assert (execution.run_id, execution.path, made) == (run_id, path, path)
        assert execution.completed and execution.attempt == ended.attempt, f"{run_id} {path}"


# ---- runs that cause runs


def _check_children(world: World, run_id: str, story: Story, stories: dict[str, Story]) -> None:
    """Each attempt of an invoke that has an outcome is answered for by one child, or by what stood in its way."""
    for path, (step, _) in story.planned.items():
        if not isinstance(step.spec, Invoke):
            continue
        for ended in story.attempts.get(path, []):
            if ended.failure is not None and ended.failure.code in (ErrorCode.KEY_CONFLICT, ErrorCode.TIMEOUT):
                if ended.failure.code is ErrorCode.KEY_CONFLICT:
                    world.note("key of a child in use")
                continue
            child = causes.child_run_id(run_id, path, ended.attempt)
            assert child in stories, f"{run_id} {path}: attempt {ended.attempt} has no child"
            last = _last_of_line(world, child)
            _check_answer(ended, world.truth.runs[last], stories[last], f"{run_id} {path}")


def _last_of_line(world: World, run_id: str) -> str:
    """The run that answers: the last one of those that `restart` joins."""
    ended = world.truth.runs[run_id].ended
    assert ended is not None
    if not ended.successor:
        return run_id
    assert ended.successor == causes.successor_run_id(run_id)
    world.note("restarted")
    return _last_of_line(world, ended.successor)


def _check_answer(ended: AttemptEnded, child: RunFacts, story: Story, where: str) -> None:
    assert child.ended is not None
    match child.ended.state:
        case RunState.SUCCEEDED:
            assert story.body_ended is not None
            assert ended.output == story.body_ended.output, where
        case RunState.CANCELLED:
            assert ended.failure is not None and ended.failure.code is ErrorCode.CHILD_CANCELLED, where
        case _:
            assert ended.failure is not None and ended.failure.code is not ErrorCode.CHILD_CANCELLED, where


def _check_causes(world: World, stories: dict[str, Story]) -> None:
    """Every run has one cause that is on record, and every cause its one run."""
    started_by_events = _runs_by_events(world)
    successors = {facts.ended.successor for facts in world.truth.runs.values() if facts.ended and facts.ended.successor}
    assert successors <= stories.keys()
    for run_id, story in stories.items():
        created = story.created
        assert created is not None
        parent = created.parent
        by_client = created.id == CLIENT_KEY + run_id.rstrip("'").removeprefix("r")
        if run_id in successors or run_id in started_by_events or by_client:
            continue
        assert parent is not None, f"nobody asked for {run_id} of {created.flow}"
        assert run_id == causes.child_run_id(parent.run_id, parent.path, parent.attempt)
        assert parent.path in stories[parent.run_id].planned
    for run_id, flow in started_by_events.items():
        assert run_id in stories, f"an event did not start {flow}"
        assert stories[run_id].created.flow == flow
    _check_keys(world)
    _check_failures_told(world)


def _check_keys(world: World) -> None:
    """A key stands for one run, unless that was cancelled: then it is free again."""
    kept = [f for f in world.truth.runs.values() if f.ended is not None and f.ended.state is not RunState.CANCELLED]
    keys = Counter([facts.created.id for facts in kept if facts.created.id])
    assert not [key for key, times in keys.items() if times > 1], keys


def _runs_by_events(world: World) -> dict[str, str]:
    """Runs that events must have started, with their flows."""
    ready = world.truth.flows_stored_at
    runs: dict[str, str] = {}
    for _, at, event in world.truth.accepted:
        for flow in world.flows.values():
            if any(t.event == event.name and wants(t.match, event) for t in flow.options.triggers):
                run_id = causes.triggered_run_id(event.id, flow.name, event.due_ms)
                if run_id in world.truth.runs or (ready is not None and at > ready):
                    runs[run_id] = flow.name  # Before hosts say what they serve, an event may find no flow.
    if runs:
        world.note("run started by an event")
    return runs


def _check_failures_told(world: World) -> None:
    """A run that failed is told of once, if some flow is started by that and it is none of those itself."""
    told_of = [event for _, _, event in world.truth.accepted if event.name == causes.RUN_FAILED_EVENT]
    sent = Counter([event.id for event in told_of])
    handlers = [flow.name for flow in world.flows.values() if flow.is_handler]
    handling = {causes.triggered_run_id(event.id, name, event.due_ms) for event in told_of for name in handlers}
    for run_id, facts in world.truth.runs.items():
        failed = facts.ended is not None and facts.ended.state is RunState.FAILED
        told = failed and bool(handlers) and run_id not in handling
        assert sent.pop(causes.failed_event_id(run_id), 0) == told, run_id
        if told:
            world.note("failure told")
    assert not sent, sent
