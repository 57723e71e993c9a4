"""The verdict function against golden vectors and against an oracle that knows only the sentence it comes from.

The oracle: a group's verdict is decided as soon as every possible rest gives the same one. When its deadline passes,
the rest is known: it did not succeed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from stepwire.protocol.plan import BranchOutcome, FailPolicy, GroupEnded, GroupOpened, Verdict
from stepwire.protocol.verdict import EndedBranch, group_verdict
from tests.protocol.protos import VECTORS

GOLDEN: list[dict[str, Any]] = [
    case
    for name in ("verdicts.json", "verdicts-expired.json")
    for case in json.loads((VECTORS / name).read_text(encoding="utf-8"))
]


def succeeds(group: GroupOpened, oks: int) -> bool:
    """The policy, applied to a group whose branches all ended."""
    return {
        FailPolicy.ANY: oks == group.branches,
        FailPolicy.ALL: oks > 0 or group.branches == 0,
        FailPolicy.NEVER: True,
        FailPolicy.QUORUM: oks >= group.quorum,
    }[group.fail]


def decided(group: GroupOpened, ended: Sequence[EndedBranch]) -> Verdict | None:
    """The verdict that every rest of the group would give, if there is only one."""
    oks = sum(outcome is BranchOutcome.OK for _, outcome in ended)
    rests = itertools.product((False, True), repeat=group.branches - len(ended))
    possible = {succeeds(group, oks + sum(rest)) for rest in rests}
    return {True: Verdict.OK, False: Verdict.FAILED}[possible.pop()] if len(possible) == 1 else None


def oracle(group: GroupOpened, ended: Sequence[EndedBranch]) -> GroupEnded | None:
    known = {index for index, _ in ended}
    losers = tuple(index for index in range(group.branches) if index not in known)
    for length in range(len(ended) + 1):
        verdict = decided(group, ended[:length])
        if verdict is None:
            continue
        certain_from_the_start = length == 0 and verdict is Verdict.OK
        if losers and (certain_from_the_start or not group.cancel_siblings):
            return None
        early = losers and verdict is Verdict.OK
        return GroupEnded(group.path, verdict, ended[length - 1][0] + 1 if early else 0, losers)
    return None


def expired_oracle(group: GroupOpened, ended: Sequence[EndedBranch]) -> GroupEnded:
    known = {index for index, _ in ended}
    losers = tuple(index for index in range(group.branches) if index not in known)
    if not succeeds(group, sum(outcome is BranchOutcome.OK for _, outcome in ended)):
        return GroupEnded(group.path, Verdict.FAILED, 0, losers)
    length = next(n for n in range(len(ended) + 1) if decided(group, ended[:n]) is Verdict.OK)
    return GroupEnded(group.path, Verdict.OK, ended[length - 1][0] + 1 if length and losers else 0, losers)


def groups(branches: int) -> Iterator[GroupOpened]:
    policies = [(FailPolicy.ANY, 0), (FailPolicy.ALL, 0), (FailPolicy.NEVER, 0)]
    policies += [(FailPolicy.QUORUM, quorum) for quorum in range(branches + 2)]
    for (fail, quorum), cancel in itertools.product(policies, (False, True)):
        yield GroupOpened("g", branches, fail=fail, quorum=quorum, cancel_siblings=cancel)


def endings(branches: int) -> Iterator[tuple[EndedBranch, ...]]:
    for length in range(branches + 1):
        for order in itertools.permutations(range(branches), length):
            for outcomes in itertools.product(BranchOutcome, repeat=length):
                yield tuple(zip(order, outcomes, strict=True))


@pytest.mark.parametrize("branches", range(5))
def test_every_group_of_up_to_four_branches(branches: int) -> None:
    for ended in endings(branches):
        for group in groups(branches):
            assert group_verdict(group, ended) == oracle(group, ended), (group, ended)


@pytest.mark.parametrize("branches", range(5))
def test_every_group_of_up_to_four_branches_whose_deadline_passed(branches: int) -> None:
    for ended in endings(branches):
        for group in groups(branches):
            assert group_verdict(group, ended, expired=True) == expired_oracle(group, ended), (group, ended)


def test_a_deadline_changes_nothing_that_is_decided() -> None:
    for ended in endings(3):
        for group in groups(3):
            before = group_verdict(group, ended)
            assert before is None or before == group_verdict(group, ended, expired=True)


def test_a_settled_group_has_a_verdict() -> None:
    for ended in endings(3):
        if len(ended) == 3:
            assert all(group_verdict(group, ended) is not None for group in groups(3))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["title"])
def test_golden_verdicts(case: dict[str, Any]) -> None:
    group = GroupOpened(
        "g",
        case["branches"],
        fail=FailPolicy[case["fail"]],
        quorum=case.get("quorum", 0),
        cancel_siblings=case["cancel_siblings"],
    )
    ended = [(index, BranchOutcome[outcome]) for index, outcome in case["ended"]]
    expected = case["group_ended"]
    if expected is not None:
        expected = GroupEnded("g", Verdict[expected["verdict"]], expected["winner"], tuple(expected["losers"]))
    assert group_verdict(group, ended, expired=case.get("expired", False)) == expected
