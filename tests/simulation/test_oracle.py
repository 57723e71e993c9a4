"""The oracle says no: journals that were tampered with, of histories that are right as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import pytest

from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded, BranchOutcome, FailPolicy, ParallelMode, Verdict
from stepwire_engine.core.entries import AttemptEnded, Entry, Planned
from tests.simulation.endings import check_journal, check_times, check_undos
from tests.simulation.oracle import Story, body_end, verdict_of
from tests.simulation.programs import GroupOp, SimFlow
from tests.simulation.simulator import World
from tests.simulation.truth import RunFacts

replace = msgspec.structs.replace
Change = Callable[[Entry], Entry]


def other_output(entry: Entry) -> Entry:
    if isinstance(entry, AttemptEnded) and entry.output is not None:
        return replace(entry, output=Payload(b'"something else"'))
    return entry


def other_verdict(entry: Entry) -> Entry:
    if isinstance(entry, Planned) and entry.plan.groups_ended:
        turned = [replace(g, verdict=Verdict(3 - g.verdict)) for g in entry.plan.groups_ended]
        return replace(entry, plan=replace(entry.plan, groups_ended=tuple(turned)))
    return entry


def other_branch_end(entry: Entry) -> Entry:
    if isinstance(entry, Planned) and entry.plan.branches_ended:
        turned = [replace(b, outcome=BranchOutcome.CANCELLED) for b in entry.plan.branches_ended]
        return replace(entry, plan=replace(entry.plan, branches_ended=tuple(turned)))
    return entry


def other_end(entry: Entry) -> Entry:
    if isinstance(entry, Planned) and entry.plan.body_ended is not None:
        return replace(entry, plan=replace(entry.plan, body_ended=BodyEnded(Payload(b"[]"))))
    return entry


def too_early(entry: Entry) -> Entry:
    if isinstance(entry, AttemptEnded):
        return replace(entry, at_ms=entry.at_ms - 10)
    return entry


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    """Histories without faults, each with its runs."""
    found = [World(seed, faults=0.0) for seed in range(40)]
    for world in found:
        world.run()
    return found


def entries(facts: RunFacts, change: Change) -> list[Entry]:
    return [change(entry) for row in facts.rows for entry in row]


def changed(worlds: list[World], change: Change) -> Iterator[tuple[World, RunFacts, Story]]:
    """Runs whose journals are other ones after `change`."""
    for world in worlds:
        for facts in world.truth.runs.values():
            tampered = entries(facts, change)
            if tampered != entries(facts, lambda entry: entry):
                yield world, facts, Story(tampered)


def is_accepted(flow: SimFlow, story: Story) -> bool:
    try:
        return body_end(flow, story) == story.body_ended
    except AssertionError:
        return False


@pytest.mark.parametrize("change", [other_output, other_verdict, other_branch_end, other_end])
def test_a_journal_that_was_tampered_with_is_not_what_its_flow_does(worlds: list[World], change: Change) -> None:
    ended = [
        (w, f, s) for w, f, s in changed(worlds, change) if s.body_ended is not None and not s.body_ended.cancelled
    ]
    refused = [f for w, f, s in ended if not is_accepted(w.flows[f.created.flow], s)]
    assert len(refused) > 10
    # Outputs that nobody saw, of losers and undos, change nothing; everything else does.
    assert change is other_output or len(refused) == len(ended)


def test_what_ends_before_its_time_is_noticed(worlds: list[World]) -> None:
    noticed = 0
    for _, _, story in changed(worlds, too_early):
        try:
            check_times(story)
        except AssertionError:
            noticed += 1
    assert noticed > 5


def test_an_undo_that_is_missing_or_comes_too_early_is_noticed(worlds: list[World]) -> None:
    noticed = 0
    for world in worlds:
        for facts in world.truth.runs.values():
            story = Story(entries(facts, lambda entry: entry))
            undone = [path for path in story.outcomes if path.endswith("#undo")]
            if len(undone) < 2:
                continue
            check_journal(world, facts, story)
            swapped = dict(reversed(story.outcomes.items()))
            for outcomes in (swapped, {p: e for p, e in story.outcomes.items() if p != undone[0]}):
                story.outcomes = outcomes
                with pytest.raises(AssertionError):
                    check_undos(facts, story)
                noticed += 1
    assert noticed > 5


def group(branches: int, fail: FailPolicy, *, quorum: int = 0, cancel_siblings: bool = False) -> GroupOp:
    programs = ((),) * branches
    return GroupOp("g", ParallelMode.RACE, fail, quorum, cancel_siblings, 0, None, False, programs)


def test_verdicts_of_the_oracle_follow_the_policies() -> None:
    race = group(3, FailPolicy.ALL, cancel_siblings=True)
    assert verdict_of(race, [(2, False), (1, True)], expired=False) == (Verdict.OK, 2, [0])
    assert verdict_of(race, [(0, False), (1, False), (2, False)], expired=False) == (Verdict.FAILED, 0, [])
    any_fails = group(2, FailPolicy.ANY, cancel_siblings=True)
    assert verdict_of(any_fails, [(1, False)], expired=False) == (Verdict.FAILED, 0, [0])
    never = group(2, FailPolicy.NEVER)
    assert verdict_of(never, [(1, False)], expired=True) == (Verdict.OK, 0, [0])
    quorum = group(3, FailPolicy.QUORUM, quorum=2)
    assert verdict_of(quorum, [(0, True), (2, True)], expired=True) == (Verdict.OK, 3, [1])


def test_groups_that_end_too_early_or_too_late_are_noticed() -> None:
    with pytest.raises(AssertionError, match="should go on"):
        verdict_of(group(2, FailPolicy.ANY), [(0, True)], expired=False)
    with pytest.raises(AssertionError, match="should have ended before"):
        verdict_of(group(2, FailPolicy.ALL, cancel_siblings=True), [(0, True), (1, True)], expired=False)
