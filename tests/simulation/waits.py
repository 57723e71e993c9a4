"""What must hold of waits: which events end them, which they must not miss, and when dormant runs go on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stepwire.protocol import paths
from stepwire.protocol.payload import NULL
from stepwire.protocol.plan import Invoke, Sleep, WaitEvent
from stepwire_engine.core.entries import AttemptEnded
from stepwire_engine.core.units import EventRecord
from tests.simulation.clocks import EPOCH_MS
from tests.simulation.oracle import Story

if TYPE_CHECKING:
    from tests.simulation.simulator import World

DELIVERY_SECONDS = 1.5
"""Within this time a healthy engine delivers an event."""


def wants(match: str, event: EventRecord) -> bool:
    """Whether an event fits one of the few expressions that programs use."""
    data = json.loads(event.data.data)
    if not match:
        return True
    left, _, right = match.partition(" == ")
    return data.get(left.removeprefix("data.")) == json.loads(right.strip("`'") if "`" in right else f'"{right[1:-1]}"')


def check_waits(world: World, run_id: str, story: Story) -> None:
    """I10: a wait takes one event, the first that fits, and misses none that came in time."""
    facts = world.truth.runs[run_id]
    for path, (step, planned_ms) in story.planned.items():
        spec = step.spec
        ended = story.outcomes.get(path)
        if not isinstance(spec, WaitEvent) or ended is None or ended.failure is not None:
            continue
        assert ended.output is not None
        index = facts.planned_at[path]
        fitting = [e for e in world.truth.accepted if e[2].name == spec.event and wants(spec.match, e[2])]
        if ended.output == NULL and not world.clock.jumped:
            _check_missed_nothing(world, fitting, index, planned_ms, spec, f"{run_id} {path}")
        elif ended.output != NULL:
            _check_taken(world, fitting, index, planned_ms, ended, spec, f"{run_id} {path}")


def _check_taken(
    world: World,
    fitting: list[tuple[int, float, EventRecord]],
    index: int,
    planned_ms: int,
    ended: AttemptEnded,
    spec: WaitEvent,
    where: str,
) -> None:
    """The event that ended the wait fits, was not too old, and none that fits came before it."""
    assert ended.output is not None
    document = json.loads(ended.output.data)
    taken = [e for e in fitting if e[2].id == document["id"]]
    assert len(taken) == 1, f"{where} took {document}"
    accepted, _, event = taken[0]
    assert document == {
        "id": event.id,
        "name": event.name,
        "at": event.due_ms / 1000,
        "data": json.loads(event.data.data),
    }
    if world.clock.jumped:
        return  # Which of two events is older, nobody can say.
    assert event.due_ms <= ended.at_ms, f"{where}: taken before its time"
    if accepted < index and event.due_ms < planned_ms:
        assert spec.lookback and event.due_ms >= planned_ms - spec.lookback * 1000, f"{where} took an older event"
        world.note("event of the past taken")
        return
    before = [e for i, _, e in fitting if index < i < accepted and (e.due_ms, e.number) < (event.due_ms, event.number)]
    assert not before, f"{where} missed {before[0]}, took {event}"


def _check_missed_nothing(
    world: World,
    fitting: list[tuple[int, float, EventRecord]],
    index: int,
    planned_ms: int,
    spec: WaitEvent,
    where: str,
) -> None:
    """A wait that timed out had no event in time, if the engine was there to deliver it."""
    assert spec.timeout is not None
    until = (planned_ms - EPOCH_MS) / 1000 + spec.timeout
    for i, at, event in fitting:
        there = max(at, (event.due_ms - EPOCH_MS) / 1000)
        disturbed = any(down < until and up > there for down, up in world.outages)
        if i > index and there + DELIVERY_SECONDS < until and not disturbed:
            raise AssertionError(f"{where} timed out at {until:.3f} and missed {event} of {at:.3f}")


def check_rest(world: World, run_id: str, wake_ms: int | None) -> None:
    """A run that became dormant has nothing in progress, and goes on when the first of its times has come."""
    facts = world.truth.runs[run_id]
    story = Story([entry for row in facts.rows for entry in row])
    due: list[float] = []
    created = facts.created
    if created.deadline is not None:
        due.append(created.at_ms + created.deadline * 1000)
    for path, (step, planned_ms) in story.planned.items():
        if path in story.outcomes or path in story.abandoned or _lost(story, path):
            continue
        if step.deadline is not None:
            due.append(planned_ms + step.deadline * 1000)
        attempts = story.attempts.get(path, [])
        spec = step.spec
        if attempts:
            assert attempts[-1].retry_at_ms is not None
            due.append(attempts[-1].retry_at_ms)
        elif isinstance(spec, Sleep):
            assert spec.duration is not None
            due.append(planned_ms + spec.duration * 1000)
        elif isinstance(spec, WaitEvent):
            due.extend([] if spec.timeout is None else [planned_ms + spec.timeout * 1000])
        else:
            assert isinstance(spec, Invoke), f"{run_id} rests while {path} is to be executed"
    for path, (group, opened_ms) in story.opened.items():
        over = path in story.groups or path in story.expired or _lost(story, path)
        if group.deadline is not None and not over:
            due.append(opened_ms + group.deadline * 1000)
    first = min([round(at) for at in due], default=None)
    assert wake_ms == first, f"{run_id} wakes at {wake_ms}, must at {first}"


def _lost(story: Story, path: str) -> bool:
    """Whether a step or group stands in a branch that lost, at any depth."""
    above = paths.parent(path)
    while above:
        group = paths.parent(above)
        ended = story.groups.get(group)
        if ended is not None and paths.branch_index(above) in ended.losers:
            return True
        above = paths.parent(group)
    return False
