"""The journal of a live body knows in which order branches ended, and drops what branches that lost had decided."""

from __future__ import annotations

import pytest

from stepwire._replay.journal import PLAN_BYTES_TARGET, BodyJournal, Divergence, Kind
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import Release, StepOutcome
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    BranchEnded,
    BranchOutcome,
    FailPolicy,
    Fence,
    GroupEnded,
    GroupOpened,
    ParallelMode,
    Plan,
    StepKind,
    StepPlanned,
    Verdict,
)

FENCE = Fence(2, 9)
OLD = Fence(1, 1)
RACE = GroupOpened("race", 3, ParallelMode.RACE, FailPolicy.ALL, cancel_siblings=True)


def end(path: str, outcome: BranchOutcome = BranchOutcome.OK) -> BranchEnded:
    return BranchEnded(path, outcome)


def release(n: int, *steps: str) -> Release:
    return Release(n, 1000 + n, tuple(StepOutcome(path, Payload(b"1")) for path in steps))


def journal(*entries: Plan | Release, complete: bool = True) -> BodyJournal:
    made = BodyJournal(FENCE)
    made.load(entries, complete=complete)
    return made


def steps(made: BodyJournal, *paths: str) -> None:
    for path in paths:
        made.decide(Kind.STEP, path, StepPlanned(path))


def delivered(made: BodyJournal) -> list[int]:
    found = []
    while (got := made.deliver()) is not None:
        found.append(got.release_seq)
    return found


def won_race() -> BodyJournal:
    """Branch 1 won after release 1, when branch 0 had planned one more step and opened a group."""
    return journal(
        Plan(1, 0, OLD, groups=(RACE,), steps=(StepPlanned("race/[0]/a"), StepPlanned("race/[1]/b"))),
        release(1, "race/[0]/a", "race/[1]/b"),
        Plan(
            2,
            1,
            OLD,
            groups=(GroupOpened("race/[0]/parallel", 1),),
            steps=(StepPlanned("race/[0]/a2"), StepPlanned("race/[0]/parallel/[0]/deep"), StepPlanned("after")),
            branches_ended=(end("race/[1]"),),
            groups_ended=(GroupEnded("race", Verdict.OK, 2, (0, 2)),),
        ),
    )


# ---- the order of ends


def test_the_end_of_a_branch_is_due_when_everything_before_it_is_made_again() -> None:
    made = won_race()
    made.decide(Kind.GROUP, "race", RACE)
    assert made.end_due("race") is None, "it ended after release 1"
    steps(made, "race/[0]/a", "race/[1]/b")
    assert delivered(made) == [1]
    assert made.end_due("race") is None, "branch 0 had decided more before it lost"
    steps(made, "race/[0]/a2")
    made.decide(Kind.GROUP, "race/[0]/parallel", GroupOpened("race/[0]/parallel", 1))
    assert made.end_due("race") is None
    steps(made, "race/[0]/parallel/[0]/deep")
    assert made.end_due("race") == 1, "what the flow decided after the group is not waited for"
    made.decide(Kind.BRANCH_ENDED, "race/[1]", end("race/[1]"))
    made.end_made("race", 1)
    assert made.end_due("race") is None


def test_ends_of_one_group_are_due_in_their_order() -> None:
    opened = GroupOpened("g", 2)
    made = journal(Plan(1, 0, OLD, groups=(opened,), branches_ended=(end("g/[1]"), end("g/[0]"))))
    assert made.end_due("g") == 1
    made.end_made("g", 0)
    assert made.end_due("g") == 1, "only the next one can be made"
    made.end_made("g", 1)
    assert made.end_due("g") == 0


def test_nothing_is_due_before_the_whole_snapshot_is_there() -> None:
    made = journal(Plan(1, 0, OLD, groups=(RACE,), branches_ended=(end("race/[1]"),)), complete=False)
    assert made.end_due("race") is None
    made.load([Plan(2, 0, OLD, groups_ended=(GroupEnded("race", Verdict.OK, 2, (0, 2)),))], complete=True)
    assert made.end_due("race") == 1


def test_no_release_is_delivered_before_the_whole_snapshot_is_there() -> None:
    """A plan with a lower `after_release` may be still to come."""
    made = journal(Plan(1, 0, OLD, steps=(StepPlanned("a"),)), release(1, "a"), complete=False)
    steps(made, "a")
    assert delivered(made) == []
    made.load([Plan(2, 0, OLD, steps=(StepPlanned("late"),))], complete=True)
    assert delivered(made) == []
    steps(made, "late")
    assert delivered(made) == [1]


def test_a_live_group_has_no_ends_to_wait_for() -> None:
    made = journal()
    assert made.caught_up and made.end_due("g") is None
    made.end_made("g", 0)


def test_another_policy_is_another_group() -> None:
    made = journal(Plan(1, 0, OLD, groups=(RACE,)))
    with pytest.raises(Divergence) as caught:
        made.decide(Kind.GROUP, "race", GroupOpened("race", 3, ParallelMode.RACE, FailPolicy.QUORUM, 2))
    assert caught.value.expected == "group 'race' with 3 branches in RACE, all, cancel_siblings"
    assert caught.value.received == "group 'race' with 3 branches in RACE, quorum=2"


# ---- what losers had decided


def test_what_a_stopped_branch_decided_and_no_plan_says_never_happened() -> None:
    made = journal()
    made.decide(Kind.GROUP, "race", RACE)
    steps(made, "race/[0]/a", "race/[1]/b", "race/[10]/other")
    made.decide(Kind.GROUP, "race/[0]/parallel", GroupOpened("race/[0]/parallel", 1))
    steps(made, "race/[0]/parallel/[0]/deep")
    made.decide(Kind.ABANDONED, "race/[0]/a", "race/[0]/a")
    made.decide(Kind.BRANCH_ENDED, "race/[0]/parallel/[0]", end("race/[0]/parallel/[0]"))
    made.decide(Kind.GROUP_ENDED, "race/[0]/parallel", GroupEnded("race/[0]/parallel", Verdict.OK))
    made.decide(Kind.BRANCH_ENDED, "race/[1]", end("race/[1]"))
    made.decide(Kind.GROUP_ENDED, "race", GroupEnded("race", Verdict.OK, 2, (0, 2)))
    assert made.is_unsaid("race/[0]/a")
    made.stop(["race/[0]", "race/[2]"])
    assert [step.path for step in made.new_steps] == ["race/[1]/b", "race/[10]/other"]
    (plan,) = made.take_plans()
    assert [group.path for group in plan.groups] == ["race"] == [ended.path for ended in plan.groups_ended]
    assert [step.path for step in plan.steps] == ["race/[1]/b", "race/[10]/other"]
    assert [branch.path for branch in plan.branches_ended] == ["race/[1]"] and plan.abandoned == ()
    assert made.steps == 2


def test_a_step_that_runs_is_told_with_the_groups_it_stands_in() -> None:
    made = journal()
    made.decide(Kind.GROUP, "race", RACE)
    made.decide(Kind.GROUP, "race/[0]/parallel", GroupOpened("race/[0]/parallel", 2))
    made.decide(Kind.GROUP, "race/[0]/empty", GroupOpened("race/[0]/empty", 0))
    made.decide(Kind.GROUP_ENDED, "race/[0]/empty", GroupEnded("race/[0]/empty", Verdict.OK))
    steps(made, "race/[0]/parallel/[0]/runs", "race/[0]/parallel/[1]/waits")
    made.mark_started(["race/[0]/parallel/[0]/runs"])
    assert not made.is_unsaid("race/[0]/parallel/[0]/runs") and made.is_unsaid("race/[0]/parallel/[1]/waits")
    made.stop(["race/[0]"])
    (plan,) = made.take_plans()
    assert [group.path for group in plan.groups] == ["race", "race/[0]/parallel"] and plan.groups_ended == ()
    assert [(step.path, step.started) for step in plan.steps] == [("race/[0]/parallel/[0]/runs", True)]


def test_what_is_in_a_plan_stays_there() -> None:
    made = journal()
    made.decide(Kind.GROUP, "race", RACE)
    steps(made, "race/[0]/said")
    made.take_plans()
    assert not made.is_unsaid("race/[0]/said")
    steps(made, "race/[0]/unsaid")
    made.stop(["race/[0]"])
    assert not made.has_new and made.take_plans() == []
    assert made.steps == 1


def test_what_is_held_back_in_replay_is_dropped_as_well() -> None:
    made = won_race()
    made.decide(Kind.GROUP, "race", RACE)
    steps(made, "race/[0]/a", "race/[1]/b", "race/[2]/quicker now")
    assert made.is_unsaid("race/[2]/quicker now") and made.decided_after("race/[2]/quicker now") is None
    made.stop(["race/[0]", "race/[2]"])
    assert made.new_steps == [] and made.decided_after("race/[0]/a2") == 1


def test_marking_a_step_as_started_keeps_the_rest_of_it() -> None:
    made = journal()
    planned = StepPlanned("s", StepKind.RUN, deadline=3.0, timeout=2.0)
    made.decide(Kind.STEP, "s", planned)
    made.mark_started(["s"])
    (plan,) = made.take_plans()
    assert plan.steps == (StepPlanned("s", StepKind.RUN, deadline=3.0, timeout=2.0, started=True),)


# ---- plans


def test_the_end_of_a_group_is_in_the_plan_of_the_end_that_decided_it() -> None:
    """A host that died between the two would leave a group that is decided and open."""
    made = journal()
    made.decide(Kind.GROUP, "race", RACE)
    big = Payload(b"x" * PLAN_BYTES_TARGET)
    failure = Failure(ErrorCode.USER_ERROR, "ValueError", "x", "t" * PLAN_BYTES_TARGET)
    made.decide(Kind.STEP, "race/[1]/b", StepPlanned("race/[1]/b", StepKind.TASK, "w", big))
    made.decide(Kind.BRANCH_ENDED, "race/[0]", BranchEnded("race/[0]", BranchOutcome.FAILED, failure))
    made.decide(Kind.BRANCH_ENDED, "race/[1]", BranchEnded("race/[1]", BranchOutcome.FAILED, failure))
    made.decide(Kind.GROUP_ENDED, "race", GroupEnded("race", Verdict.FAILED, 0, (2,)))
    plans = made.take_plans()
    shape = [(len(p.steps), [b.path for b in p.branches_ended], len(p.groups_ended)) for p in plans]
    assert shape == [(1, [], 0), (0, ["race/[0]"], 0), (0, ["race/[1]"], 1)]
