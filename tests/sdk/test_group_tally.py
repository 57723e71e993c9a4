"""The incremental verdict of a live body says what the normative function says, after every end (S6)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwire._runtime.tally import Tally
from stepwire.protocol.plan import BranchOutcome, FailPolicy, GroupOpened
from stepwire.protocol.verdict import EndedBranch, group_verdict

BRANCHES_MAX = 3


def groups(branches: int) -> Iterator[GroupOpened]:
    policies = [(FailPolicy.ANY, 0), (FailPolicy.ALL, 0), (FailPolicy.NEVER, 0)]
    policies += [(FailPolicy.QUORUM, quorum) for quorum in range(1, branches + 2)]
    for (fail, quorum), cancel in itertools.product(policies, (False, True)):
        yield GroupOpened("g", branches, fail=fail, quorum=quorum, cancel_siblings=cancel)


def assert_agrees(group: GroupOpened, ended: list[EndedBranch]) -> None:
    tally = Tally(group)
    for length in range(len(ended) + 1):
        known = ended[:length]
        assert tally.verdict() == group_verdict(group, known), (group, known)
        assert tally.verdict(expired=True) == group_verdict(group, known, expired=True), (group, known)
        if length < len(ended):
            tally.add(*ended[length])


@pytest.mark.parametrize("branches", range(BRANCHES_MAX + 1))
def test_the_tally_of_small_groups_is_the_verdict_in_every_order(branches: int) -> None:
    for group in groups(branches):
        for order in itertools.permutations(range(branches)):
            for outcomes in itertools.product(BranchOutcome, repeat=branches):
                assert_agrees(group, list(zip(order, outcomes, strict=True)))


@given(st.data())
def test_the_tally_of_any_group_is_the_verdict(data: st.DataObject) -> None:
    branches = data.draw(st.integers(0, 40))
    group = data.draw(st.sampled_from(list(groups(branches))))
    order = data.draw(st.permutations(range(branches)))
    assert_agrees(group, [(index, data.draw(st.sampled_from(BranchOutcome))) for index in order])


def test_the_winner_is_the_branch_that_decided() -> None:
    tally = Tally(GroupOpened("g", 3, fail=FailPolicy.QUORUM, quorum=2))
    for index, outcome in ((2, BranchOutcome.OK), (0, BranchOutcome.FAILED), (1, BranchOutcome.OK)):
        assert tally.winner is None
        tally.add(index, outcome)
    assert tally.winner == 1
