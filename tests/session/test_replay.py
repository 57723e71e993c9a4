"""The journal of a live body (DESIGN 5, proto/README 6): barrier, held-back decisions, proofs of divergence, plans."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from stepwire._replay.journal import PLAN_BYTES_TARGET, BodyJournal, Decision, Divergence, Kind
from stepwire.protocol.frames import Release, StepOutcome
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    BodyEnded,
    BranchEnded,
    BranchOutcome,
    Fence,
    GroupEnded,
    GroupOpened,
    ParallelMode,
    Plan,
    RetryPolicy,
    StepKind,
    StepPlanned,
    Verdict,
)

FENCE = Fence(2, 9)
OLD = Fence(1, 1)
DONE = BodyEnded(Payload(b"1"))


def release(n: int, *steps: str) -> Release:
    return Release(n, 1000 + n, tuple(StepOutcome(p, Payload(b"1")) for p in steps))


def planned(seq: int, after: int, *steps: str | StepPlanned, **what: object) -> Plan:
    made = tuple(s if isinstance(s, StepPlanned) else StepPlanned(s) for s in steps)
    return Plan(seq, after, OLD, steps=made, **what)  # type: ignore[arg-type]


def journal(*entries: Plan | Release, complete: bool = True) -> BodyJournal:
    made = BodyJournal(FENCE)
    made.load(entries, complete=complete)
    return made


def step(made: BodyJournal, *paths: str, **how: object) -> list[bool]:
    return [made.decide(Kind.STEP, p, StepPlanned(p, **how)) for p in paths]  # type: ignore[arg-type]


def delivered(made: BodyJournal) -> list[int]:
    found = []
    while (got := made.deliver()) is not None:
        found.append(got.release_seq)
    return found


# ---- new bodies


def test_everything_a_first_body_decides_is_new() -> None:
    made = journal()
    assert made.caught_up and not made.replaying
    assert step(made, "a", "b") == [True, True]
    assert made.has_new
    (plan,) = made.take_plans()
    assert (plan.plan_seq, plan.after_release, plan.fence) == (1, 0, FENCE)
    assert [s.path for s in plan.steps] == ["a", "b"]
    assert made.take_plans() == [] and not made.has_new


def test_a_plan_carries_the_release_after_which_it_was_decided() -> None:
    made = journal()
    step(made, "a")
    made.take_plans()
    for n, path in ((1, "b"), (2, "c")):
        assert made.add_release(release(n, path))
        assert delivered(made) == [n]
        step(made, path)
    assert [(p.plan_seq, p.after_release, p.steps[0].path) for p in made.take_plans()] == [(2, 1, "b"), (3, 2, "c")]


def test_releases_come_in_order_once_and_a_gap_needs_a_snapshot() -> None:
    made = journal()
    assert not made.add_release(release(2))
    assert made.add_release(release(1)) and made.add_release(release(1)) and made.add_release(release(2))
    assert len(made.undelivered) == 2
    assert delivered(made) == [1, 2] and made.deliver() is None
    assert made.add_release(release(2)) and not made.undelivered


def test_decisions_of_one_turn_stand_in_their_fields() -> None:
    made = journal()
    made.decide(Kind.GROUP, "g", GroupOpened("g", 1))
    step(made, "g/[0]/a", "b")
    made.decide(Kind.ABANDONED, "b", "b")
    made.decide(Kind.BRANCH_ENDED, "g/[0]", BranchEnded("g/[0]", BranchOutcome.OK))
    made.decide(Kind.GROUP_ENDED, "g", GroupEnded("g", Verdict.OK))
    made.decide(Kind.BODY_ENDED, "", DONE)
    (plan,) = made.take_plans()
    assert [g.path for g in plan.groups] == ["g"] and [s.path for s in plan.steps] == ["g/[0]/a", "b"]
    assert plan.abandoned == ("b",) and plan.branches_ended[0].path == "g/[0]"
    assert plan.groups_ended[0].path == "g" and plan.body_ended == DONE


# ---- the barrier


def recorded() -> BodyJournal:
    return journal(
        planned(1, 0, "a", "b"), release(1, "a"), planned(2, 1, "c"), release(2, "b", "c"), planned(3, 2, "d")
    )


def test_a_release_waits_for_every_decision_made_before_it() -> None:
    made = recorded()
    assert delivered(made) == []
    assert step(made, "a") == [False] and delivered(made) == []
    assert step(made, "b") == [False] and delivered(made) == [1]
    assert step(made, "c") == [False] and delivered(made) == [2]
    assert made.replaying
    assert step(made, "d") == [False]
    assert made.caught_up and made.take_plans() == [] and made.next_plan_seq == 4


def test_decisions_between_two_releases_are_a_set() -> None:
    made = recorded()
    assert step(made, "b", "a") == [False, False] and delivered(made) == [1]


def test_a_decision_may_come_earlier_than_it_was_made() -> None:
    """Code that no longer waits for something: identity is by path, not by position."""
    made = recorded()
    assert step(made, "d", "c", "b", "a") == [False] * 4
    assert delivered(made) == [1, 2] and made.caught_up


def test_a_new_decision_is_held_back_until_replay_is_over_and_keeps_its_number() -> None:
    made = recorded()
    assert step(made, "a", "b", "new") == [False, False, True]
    delivered(made)
    assert made.has_new and made.take_plans() == []
    step(made, "c")
    delivered(made)
    assert step(made, "d", "newer") == [False, True]
    assert [(p.plan_seq, p.after_release, [s.path for s in p.steps]) for p in made.take_plans()] == [
        (4, 0, ["new"]),
        (5, 2, ["newer"]),
    ]


def test_a_snapshot_in_parts_is_caught_up_only_with_its_end() -> None:
    made = journal(planned(1, 0, "a"), complete=False)
    step(made, "a", "new")
    assert not made.caught_up and made.take_plans() == [] and made.divergence() is None
    made.load([release(1, "a")], complete=True)
    assert not made.caught_up
    assert delivered(made) == [1] and made.caught_up
    assert [p.plan_seq for p in made.take_plans()] == [2]


def test_a_plan_that_was_held_back_may_stand_behind_later_releases() -> None:
    """Its `after_release` is lower than the release before it; the barrier needs it before release 2."""
    made = journal(planned(1, 0, "a"), release(1, "a"), planned(2, 0, "x"), planned(3, 1, "c"), release(2, "c"))
    assert step(made, "a") == [False] and delivered(made) == []
    assert step(made, "x") == [False] and delivered(made) == [1]
    assert step(made, "c") == [False] and delivered(made) == [2]


def test_releases_that_come_live_during_replay_wait_their_turn() -> None:
    made = recorded()
    made.add_release(release(3, "d"))
    step(made, "a", "b")
    assert delivered(made) == [1]
    step(made, "c")
    assert delivered(made) == [2]
    step(made, "d")
    assert made.caught_up and delivered(made) == [3]


# ---- divergence


DIFFERENT: list[tuple[Kind, str, Decision, Decision, str, str]] = [
    (Kind.STEP, "a", StepPlanned("a"), StepPlanned("a", StepKind.TASK, "w"), "step 'a' (run)", "(task of 'w')"),
    (Kind.STEP, "a", StepPlanned("a", StepKind.TASK, "v"), StepPlanned("a", StepKind.TASK, "w"), "of 'v'", "of 'w'"),
    (Kind.GROUP, "g", GroupOpened("g", 2), GroupOpened("g", 3), "2 branches", "3 branches"),
    (Kind.GROUP, "g", GroupOpened("g", 2), GroupOpened("g", 2, ParallelMode.RACE), "in WAIT", "in RACE"),
    (
        Kind.BRANCH_ENDED,
        "g/[0]",
        BranchEnded("g/[0]", BranchOutcome.OK),
        BranchEnded("g/[0]", BranchOutcome.FAILED),
        "(ok)",
        "(failed)",
    ),
    (
        Kind.GROUP_ENDED,
        "g",
        GroupEnded("g", Verdict.OK),
        GroupEnded("g", Verdict.FAILED),
        "end of group 'g' (ok)",
        "(failed)",
    ),
]
_FIELD = {
    Kind.STEP: "steps",
    Kind.GROUP: "groups",
    Kind.BRANCH_ENDED: "branches_ended",
    Kind.GROUP_ENDED: "groups_ended",
}


@pytest.mark.parametrize(("kind", "path", "was", "made_now", "expected", "received"), DIFFERENT)
def test_another_decision_in_the_same_place_is_named_at_once(
    kind: Kind, path: str, was: Decision, made_now: Decision, expected: str, received: str
) -> None:
    made = journal(Plan(1, 0, OLD, **{_FIELD[kind]: (was,)}))  # type: ignore[arg-type]
    with pytest.raises(Divergence) as caught:
        made.decide(kind, path, made_now)
    assert expected in caught.value.expected and received in caught.value.received
    assert expected in str(caught.value) and received in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [
        StepPlanned("a", input=Payload(b"other")),
        StepPlanned("a", retry=RetryPolicy(9)),
        StepPlanned("a", timeout=5.0),
        StepPlanned("a", started=True),
    ],
)
def test_policies_and_inputs_may_change_with_the_code(changed: StepPlanned) -> None:
    made = journal(planned(1, 0, "a"))
    assert made.decide(Kind.STEP, "a", changed) is False and made.caught_up


def test_a_missing_decision_is_proved_when_every_line_waits() -> None:
    made = recorded()
    step(made, "a")
    found = made.divergence()
    assert found is not None
    assert "step 'b'" in found.expected and "step 'a'" in found.received
    assert made.missing() == "step 'b' (run)"


def test_another_step_in_its_place_is_named_as_received() -> None:
    made = journal(planned(1, 0, "a"))
    step(made, "z")
    found = made.divergence()
    assert found is not None and "'a'" in found.expected and "'z'" in found.received


def test_a_body_that_makes_nothing_has_received_nothing() -> None:
    found = journal(planned(1, 0, "a")).divergence()
    assert found is not None and found.received == "nothing"


def test_decisions_of_later_releases_prove_nothing_yet() -> None:
    made = journal(planned(1, 0, "a"), planned(2, 1, "b"))
    step(made, "a")
    assert made.divergence() is None


def test_a_missing_decision_of_a_concurrent_line_proves_nothing() -> None:
    made = journal(planned(1, 0, StepPlanned("a", concurrent=True)))
    assert made.divergence() is None and made.replaying
    group = Plan(1, 0, OLD, groups=(GroupOpened("g", 1, concurrent=True),))
    assert journal(group).divergence() is None


def test_a_caught_up_body_cannot_diverge() -> None:
    made = recorded()
    step(made, "a", "b", "c", "d")
    delivered(made)
    assert made.divergence() is None


def test_a_body_that_ends_before_a_recorded_decision_diverges() -> None:
    made = recorded()
    step(made, "a")
    with pytest.raises(Divergence, match=r"expects step 'b'.*the end of the flow"):
        made.decide(Kind.BODY_ENDED, "", DONE)


def test_a_body_may_end_before_it_got_recorded_releases_and_says_so_when_it_got_them() -> None:
    """They may be outcomes that nobody waits for any more: of losers, of abandoned steps, of a group that ended."""
    made = journal(planned(1, 0, "a"), planned(2, 0, "b"), release(1, "a"), release(2, "b"))
    step(made, "a", "b")
    assert made.deliver() is not None
    assert made.decide(Kind.BODY_ENDED, "", DONE) is True
    assert made.replaying and made.all_made and made.take_plans() == []
    assert made.deliver() is not None
    (plan,) = made.take_plans()
    assert (plan.plan_seq, plan.after_release, plan.body_ended) == (3, 1, DONE)


def test_a_body_that_caught_up_may_end() -> None:
    made = journal(planned(1, 0, "a"), release(1, "a"))
    step(made, "a")
    delivered(made)
    assert made.decide(Kind.BODY_ENDED, "", DONE) is True
    (plan,) = made.take_plans()
    assert (plan.plan_seq, plan.after_release, plan.body_ended) == (2, 1, DONE)


# ---- plans


def test_a_large_turn_is_cut_into_plans_by_bytes() -> None:
    made = journal()
    big = Payload(b"x" * (PLAN_BYTES_TARGET // 2))
    for i in range(6):
        made.decide(Kind.STEP, f"s{i}", StepPlanned(f"s{i}", StepKind.TASK, "w", big))
    plans = made.take_plans()
    assert [[s.path for s in p.steps] for p in plans] == [["s0", "s1"], ["s2", "s3"], ["s4", "s5"]]
    assert [p.plan_seq for p in plans] == [1, 2, 3] and {p.after_release for p in plans} == {0}


def test_a_thousand_small_decisions_are_one_plan() -> None:
    made = journal()
    step(made, *(f"g/[{i}]/s" for i in range(1000)))
    assert [len(p.steps) for p in made.take_plans()] == [1000]


def test_a_cut_never_separates_a_decision_from_one_it_needs_earlier() -> None:
    made = journal()
    big = Payload(b"x" * PLAN_BYTES_TARGET)
    made.decide(Kind.STEP, "first", StepPlanned("first", StepKind.TASK, "w", big))
    made.decide(Kind.GROUP, "g", GroupOpened("g", 1))
    made.decide(Kind.STEP, "g/[0]/s", StepPlanned("g/[0]/s", StepKind.TASK, "w", big))
    made.decide(Kind.BRANCH_ENDED, "g/[0]", BranchEnded("g/[0]", BranchOutcome.OK))
    plans = made.take_plans()
    assert [(len(p.groups), len(p.steps), len(p.branches_ended)) for p in plans] == [(0, 1, 0), (1, 1, 0), (0, 0, 1)]


def test_started_stands_on_the_steps_the_host_starts() -> None:
    made = journal(planned(1, 0, "a"))
    step(made, "a", "b", "c")
    assert [made.is_new(p) for p in ("a", "b", "z")] == [False, True, True]
    made.mark_started(["b"])
    (plan,) = made.take_plans()
    assert [(s.path, s.started) for s in plan.steps] == [("b", True), ("c", False)]


# ---- time


def _calls(action: Callable[[], object]) -> int:
    """Lines and calls of the interpreter: work without a clock."""
    count = 0

    def note(frame: object, event: str, arg: object) -> object:
        nonlocal count
        count += 1
        return note

    sys.settrace(note)  # type: ignore[arg-type]
    try:
        action()
    finally:
        sys.settrace(None)
    return count


class _Counted(int):
    """A release number that counts how often it is compared: `min` over all of them is work too."""

    compared = 0

    def __lt__(self, other: object) -> bool:
        _Counted.compared += 1
        return int.__lt__(self, other)  # type: ignore[operator]

    def __le__(self, other: object) -> bool:
        _Counted.compared += 1
        return int.__le__(self, other)  # type: ignore[operator]

    def __gt__(self, other: object) -> bool:
        _Counted.compared += 1
        return int.__gt__(self, other)  # type: ignore[operator]

    __hash__ = int.__hash__


def _replay(length: int) -> int:
    entries: list[Plan | Release] = []
    for n in range(length):
        entries += [planned(n + 1, _Counted(n), f"s{n}"), release(n + 1, f"s{n}")]

    def action() -> None:
        made = journal(*entries)
        for n in range(length):
            assert made.divergence() is not None
            step(made, f"s{n}")
            assert delivered(made) == [n + 1]
        assert made.caught_up

    _Counted.compared = 0
    return _calls(action) + _Counted.compared


def test_replay_is_linear_in_the_length_of_the_journal() -> None:
    small, large = _replay(250), _replay(2000)
    assert large <= 10 * small, f"250 steps: {small}, 2000: {large}"


def test_waiting_in_replay_does_not_read_the_rest_of_the_journal() -> None:
    """A line in user code makes the runtime ask again and again."""

    def asks(length: int) -> int:
        made = journal(*(planned(n + 1, n + 1, f"s{n}") for n in range(length)))
        return _calls(lambda: [made.divergence() for _ in range(10)])

    assert asks(2000) <= 2 * asks(100)
