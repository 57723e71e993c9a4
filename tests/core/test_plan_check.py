"""Which plans are refused, and with which code: every one changes nothing (proto/README 5, rule 4; MISSION P14)."""

from __future__ import annotations

import pytest

from stepwire.protocol.failure import ErrorCode, Retryable
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    BranchEnded,
    BranchOutcome,
    FailPolicy,
    GroupEnded,
    GroupOpened,
    Plan,
    Sleep,
    StepKind,
    StepPlanned,
    Verdict,
)
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.model import Run, durable_view
from stepwire_engine.core.plan_check import is_repeat, refusal
from tests.core.given import FENCE, Given, given, group, ok, plan, race, step

SMALL = CoreConfig(payload_bytes_max=10, steps_per_run_max=5, branches_per_group_max=4, group_depth_max=3)
OK, FAILED = BranchOutcome.OK, BranchOutcome.FAILED


def started() -> Given:
    """A run with root step `a`, WAIT group `g` of two branches: [0] planned `x`, [1] has ended."""
    return given(plan("a", "g/[0]/x", groups=(group("g", 2),), ended=("g/[1]",)), config=SMALL)


def next_plan(run: Run, **what: object) -> Plan:
    return Plan(run.plan_seq + 1, run.release_seq, FENCE, **what)  # type: ignore[arg-type]


REJECTED: list[tuple[str, dict[str, object], str]] = [
    ("a step that exists", {"steps": (step("a"),)}, "'a' was planned already"),
    ("a step twice in one plan", {"steps": (step("b"), step("b"))}, "'b' was planned already"),
    ("a step where a group is", {"steps": (step("g"),)}, "'g' was planned already"),
    ("a step where a group opens", {"groups": (group("h", 1),), "steps": (step("h"),)}, "'h' was planned already"),
    ("a group that exists", {"groups": (group("g", 1),)}, "'g' exists already"),
    ("a group twice in one plan", {"groups": (group("h", 1), group("h", 1))}, "'h' exists already"),
    ("a group where a step is", {"groups": (group("a", 1),)}, "'a' exists already"),
    ("a step in an ended branch", {"steps": (step("g/[1]/y"),)}, "'g/[1]' has ended"),
    ("a group in an ended branch", {"groups": (group("g/[1]/h", 1),)}, "'g/[1]' has ended"),
    ("a step in no scope", {"steps": (step("nowhere/[0]/y"),)}, "'nowhere/[0]' does not exist"),
    ("a step in a step", {"steps": (step("a/y"),)}, "'a' does not exist"),
    ("a step in a group, not in a branch", {"steps": (step("g/y"),)}, "'g' does not exist"),
    ("a branch beyond the group", {"steps": (step("g/[2]/y"),)}, "'g/[2]' does not exist"),
    (
        "a branch beyond a new group",
        {"groups": (group("h", 2),), "steps": (step("h/[2]/y"),)},
        "'h' has 2 branches; there is no 'h/[2]'",
    ),
    ("not a branch of a new group", {"groups": (group("h", 2),), "steps": (step("h/x/y"),)}, "not a branch path"),
    ("a branch that is no number", {"groups": (group("h", 2),), "steps": (step("h/[x]/y"),)}, "h/[x]"),
    ("a branch with a sign", {"groups": (group("h", 2),), "steps": (step("h/[-1]/y"),)}, "'h/[-1]'"),
    ("a branch with zeros", {"groups": (group("h", 2),), "steps": (step("h/[00]/y"),)}, "'h/[00]'"),
    ("a branch with blanks", {"groups": (group("h", 2),), "steps": (step("h/[ 1]/y"),)}, "'h/[ 1]'"),
    ("a branch with another digit", {"groups": (group("h", 2),), "steps": (step("h/[\u0661]/y"),)}, "'h/["),
    ("a group in no branch", {"groups": (group("h", 2), group("h/[01]/i", 1))}, "'h/[01]'"),
    ("an end with zeros", {"groups": (group("h", 2),), "branches_ended": (BranchEnded("h/[01]", OK),)}, "'h/[01]'"),
    ("a nested group before its outer one", {"groups": (group("h/[0]/i", 1), group("h", 1))}, "does not exist"),
    ("a kind of the future", {"steps": (step("b", kind=StepKind.SLEEP),)}, "SLEEP"),
    (
        "a started sleep",
        {"steps": (step("b", kind=StepKind.SLEEP, spec=Sleep(1.0), started=True),)},
        "'b' of kind SLEEP was started",
    ),
    ("a step with the path of an undo", {"steps": (step("b#undo"),)}, "'b#undo' has the path of a compensation"),
    ("a group with the path of an undo", {"groups": (group("b#undo", 1),)}, "'b#undo' has the path of a compensation"),
    ("a task without a name", {"steps": (step("b", kind=StepKind.TASK),)}, "without a name"),
    ("an unknown step abandoned", {"abandoned": ("b",)}, "'b' was never planned"),
    ("the end of the root", {"branches_ended": (BranchEnded("", OK),)}, "the root is not a branch"),
    ("a branch ended again", {"branches_ended": (BranchEnded("g/[1]", OK),)}, "'g/[1]' has ended"),
    (
        "a branch ended twice in one plan",
        {"branches_ended": (BranchEnded("g/[0]", OK), BranchEnded("g/[0]", OK))},
        "'g/[0]' ended twice",
    ),
    ("an unknown branch ended", {"branches_ended": (BranchEnded("g/[2]", OK),)}, "'g/[2]' does not exist"),
    ("an unknown group ended", {"groups_ended": (GroupEnded("h", Verdict.OK),)}, "'h' is not open"),
    ("a group ended too early", {"groups_ended": (GroupEnded("g", Verdict.OK),)}, "its branches say None"),
    (
        "a wrong verdict",
        {"branches_ended": (BranchEnded("g/[0]", FAILED),), "groups_ended": (GroupEnded("g", Verdict.OK),)},
        "verdict of group 'g'",
    ),
    (
        "a wrong winner",
        {"branches_ended": (BranchEnded("g/[0]", OK),), "groups_ended": (GroupEnded("g", Verdict.OK, 1, (1,)),)},
        "verdict of group 'g'",
    ),
    (
        "a group ended twice in one plan",
        {
            "branches_ended": (BranchEnded("g/[0]", OK),),
            "groups_ended": (GroupEnded("g", Verdict.OK), GroupEnded("g", Verdict.OK)),
        },
        "'g' is not open",
    ),
    ("no quorum", {"groups": (GroupOpened("h", 2, fail=FailPolicy.QUORUM, quorum=0),)}, "quorum 0 of 2"),
    ("a quorum over the group", {"groups": (GroupOpened("h", 2, fail=FailPolicy.QUORUM, quorum=3),)}, "quorum 3 of 2"),
]


@pytest.mark.parametrize(("what", "text"), [(w, t) for _, w, t in REJECTED], ids=[name for name, _, _ in REJECTED])
def test_a_plan_that_contradicts_the_run_is_refused(what: dict[str, object], text: str) -> None:
    run = started().run
    before = durable_view(run)
    failure = refusal(run, next_plan(run, **what), SMALL)
    assert failure is not None
    assert (failure.code, failure.retryable) == (ErrorCode.PLAN_REJECTED, Retryable.NO)
    assert text in failure.message
    assert durable_view(run) == before


OVER: list[tuple[str, dict[str, object], ErrorCode]] = [
    ("steps", {"steps": tuple(step(f"s{i}") for i in range(4))}, ErrorCode.LIMIT_EXCEEDED),
    ("branches", {"groups": (group("h", 5),)}, ErrorCode.LIMIT_EXCEEDED),
    (
        "depth",
        {"groups": (group("h", 1), group("h/[0]/i", 1), group("h/[0]/i/[0]/j", 1), group("h/[0]/i/[0]/j/[0]/k", 1))},
        ErrorCode.LIMIT_EXCEEDED,
    ),
    ("input", {"steps": (step("b", input=Payload(b"x" * 11)),)}, ErrorCode.PAYLOAD_TOO_LARGE),
]
AT: list[tuple[str, dict[str, object]]] = [
    ("steps", {"steps": tuple(step(f"s{i}") for i in range(3))}),
    ("branches", {"groups": (group("h", 4),)}),
    ("depth", {"groups": (group("h", 1), group("h/[0]/i", 1), group("h/[0]/i/[0]/j", 1))}),
    ("input", {"steps": (step("b", input=Payload(b"x" * 10)),)}),
]


@pytest.mark.parametrize(("what", "code"), [(w, c) for _, w, c in OVER], ids=[n for n, _, _ in OVER])
def test_a_plan_over_a_limit_has_the_code_of_the_limit(what: dict[str, object], code: ErrorCode) -> None:
    run = started().run
    failure = refusal(run, next_plan(run, **what), SMALL)
    assert failure is not None and failure.code is code


@pytest.mark.parametrize("what", [w for _, w in AT], ids=[n for n, _ in AT])
def test_a_plan_at_a_limit_is_fine(what: dict[str, object]) -> None:
    run = started().run
    assert refusal(run, next_plan(run, **what), SMALL) is None


def test_the_depth_counts_over_plans() -> None:
    run = given(plan(groups=(group("h", 1), group("h/[0]/i", 1))), config=SMALL)
    run.when(plan(groups=(group("h/[0]/i/[0]/j", 1),)))
    failure = refusal(run.run, next_plan(run.run, groups=(group("h/[0]/i/[0]/j/[0]/k", 1),)), SMALL)
    assert failure is not None and "4 deep" in failure.message


@pytest.mark.parametrize(
    "what",
    [
        {"steps": (step("a#2"),)},
        {"steps": (step("b", kind=StepKind.TASK, name="work"),)},
        {"steps": (step("b"),), "abandoned": ("b",)},
        {"abandoned": ("a", "a")},
        {"groups": (group("h", 0),), "groups_ended": (GroupEnded("h", Verdict.OK),)},
        {"groups": (GroupOpened("h", 2, fail=FailPolicy.QUORUM, quorum=2),)},
        {"branches_ended": (BranchEnded("g/[0]", OK),), "groups_ended": (GroupEnded("g", Verdict.OK),)},
        {"branches_ended": (BranchEnded("g/[0]", FAILED),), "groups_ended": (GroupEnded("g", Verdict.FAILED),)},
        {
            "groups": (race("h", 2),),
            "branches_ended": (BranchEnded("h/[1]", OK),),
            "groups_ended": (GroupEnded("h", Verdict.OK, 2, (0,)),),
        },
    ],
)
def test_a_plan_that_fits_is_accepted(what: dict[str, object]) -> None:
    run = started().run
    assert refusal(run, next_plan(run, **what), SMALL) is None


def test_the_losers_of_a_group_plan_nothing_more() -> None:
    run = given(plan("g/[1]/h/[0]/x", groups=(race("g", 2), group("g/[1]/h", 1))))
    run.when(plan(ended=("g/[0]",), groups_ended=("g",)))
    for path in ("g/[1]/y", "g/[1]/h/[0]/y", "g/[0]/y"):
        failure = refusal(run.run, next_plan(run.run, steps=(step(path),)), run.config)
        assert failure is not None and "has ended" in failure.message
    again = refusal(run.run, next_plan(run.run, groups_ended=(GroupEnded("g", Verdict.OK),)), run.config)
    assert again is not None and "is not open" in again.message


def test_a_repeated_plan_says_only_what_is_known() -> None:
    run = started().run
    assert is_repeat(run, Plan(1, 0, FENCE, groups=(group("g", 2),), steps=(step("a"), step("g/[0]/x"))))
    assert is_repeat(run, Plan(1, 0, FENCE, steps=(step("a"),)))
    assert not is_repeat(run, Plan(1, 0, FENCE, steps=(step("b"),)))
    assert not is_repeat(run, Plan(1, 0, FENCE, steps=(StepPlanned("a", StepKind.TASK, "work"),)))
    assert not is_repeat(run, Plan(1, 0, FENCE, groups=(group("h", 1),)))


def test_results_do_not_open_what_a_plan_closed() -> None:
    run = started().when(ok("g/[0]/x")).then("g/[0]/x")
    run.when(plan(ended=("g/[0]",), groups_ended=("g",)))
    run.assert_rebuilt()
