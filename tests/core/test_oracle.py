"""Groups against an independent oracle: every policy, every outcome of every member, every order (MISSION S6).

The oracle knows nothing of scopes, waves or fences. It is told in which order members come to an end and says
what must be true afterwards: the verdict, when it falls, and what became of each member's step. The core is
driven through whole turns by a host that ends a branch when its step is released.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

import pytest

from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BranchEnded, BranchOutcome, FailPolicy, GroupOpened, ParallelMode, Verdict
from stepwire.protocol.verdict import group_verdict
from stepwire_engine.core.model import StepState
from tests.core.given import Given, given, plan, step

OK, FAIL, TIMEOUT, CANCEL = "ok", "fail", "timeout", "cancel"
OUTCOMES = (OK, FAIL, TIMEOUT, CANCEL)
Policy = tuple[FailPolicy, int]


def policies(members: int) -> Iterator[Policy]:
    yield FailPolicy.ANY, 0
    yield FailPolicy.ALL, 0
    yield FailPolicy.NEVER, 0
    for quorum in range(1, members + 1):
        yield FailPolicy.QUORUM, quorum


# ---- the oracle


def wins(policy: Policy, members: int, oks: int) -> bool:
    """Whether the group has succeeded for good with so many successes."""
    fail, quorum = policy
    needed = {FailPolicy.ANY: members, FailPolicy.ALL: 1, FailPolicy.NEVER: 0, FailPolicy.QUORUM: quorum}[fail]
    return oks >= needed


def hopeless(policy: Policy, members: int, bad: int) -> bool:
    """Whether the group cannot succeed any more with so many that did not."""
    return not wins(policy, members, members - bad)


def decided_after(policy: Policy, cut: bool, outcomes: list[str]) -> int:
    """After how many ends (in the order given) the group ends."""
    if not cut or policy[0] is FailPolicy.NEVER:
        return len(outcomes)
    for count in range(len(outcomes) + 1):
        oks = outcomes[:count].count(OK)
        if wins(policy, len(outcomes), oks) or hopeless(policy, len(outcomes), count - oks):
            return count
    raise AssertionError("every group is decided when all have ended")


def oracle(policy: Policy, cut: bool, ends: list[tuple[int, str]]) -> tuple[Verdict, set[int]]:
    """The verdict, and the members that lost because the group ended before they did."""
    count = decided_after(policy, cut, [outcome for _, outcome in ends])
    oks = sum(outcome == OK for _, outcome in ends[:count])
    verdict = Verdict.OK if wins(policy, len(ends), oks) else Verdict.FAILED
    return verdict, {member for member, _ in ends[count:]}


# ---- the verdict function


@pytest.mark.parametrize("members", [1, 2, 3, 4])
def test_the_verdict_function_agrees_with_the_oracle_for_every_order(members: int) -> None:
    for policy, cut in product(policies(members), (False, True)):
        group = GroupOpened("g", members, fail=policy[0], quorum=policy[1], cancel_siblings=cut)
        for outcomes in product((BranchOutcome.OK, BranchOutcome.FAILED, BranchOutcome.CANCELLED), repeat=members):
            words = {BranchOutcome.OK: OK, BranchOutcome.FAILED: FAIL, BranchOutcome.CANCELLED: CANCEL}
            for order in permutations(range(members)):
                ends = [(member, words[outcomes[member]]) for member in order]
                verdict, losers = oracle(policy, cut, ends)
                seen = [(member, outcomes[member]) for member in order]
                first = next(n for n in range(members + 1) if group_verdict(group, seen[:n]) is not None)
                found = group_verdict(group, seen[:first])
                assert found is not None
                assert (found.verdict, set(found.losers)) == (verdict, losers), (policy, cut, seen)


# ---- the run machine


class Host:
    """Ends a branch when its step's outcome is released, and the group when the protocol's function says so."""

    def __init__(self, scene: Given, opened: GroupOpened, outcomes: tuple[str, ...]) -> None:
        self.scene = scene
        self.opened = opened
        self.outcomes = outcomes
        self.ended: list[tuple[int, BranchOutcome]] = []
        self.verdict: Verdict | None = None

    def member_ends(self, member: int) -> None:
        """The world gives one member its outcome."""
        path = f"g/[{member}]/s"
        if self.scene.run.steps[path].state.final:
            return
        if self.outcomes[member] == CANCEL:
            self.decide([(member, BranchOutcome.CANCELLED)], (path,))
        else:
            self.scene.when(lambda scene, turn: scene.result(turn, path, *result(self.outcomes[member])))
        self.take_releases()

    def take_releases(self) -> None:
        while (released := self.scene.turn.released) is not None:
            ends = []
            for path in released.paths:
                member = int(path[3:-3])
                outcome = BranchOutcome.OK if self.outcomes[member] == OK else BranchOutcome.FAILED
                ends.append((member, outcome))
            self.decide(ends)

    def decide(self, ends: list[tuple[int, BranchOutcome]], abandoned: tuple[str, ...] = ()) -> None:
        """One plan: branches that ended, up to the one that ends the group."""
        if self.verdict is not None:
            self.scene.turn.released = None
            return
        told = []
        group_ended: tuple[str, ...] = ()
        for member, outcome in ends:
            self.ended.append((member, outcome))
            told.append(BranchEnded(f"g/[{member}]", outcome, BROKEN if outcome is BranchOutcome.FAILED else None))
            ended = group_verdict(self.opened, self.ended)
            if ended is not None:
                self.verdict = ended.verdict
                group_ended = ("g",)
                break
        self.scene.when(plan(ended=tuple(told), abandoned=abandoned, groups_ended=group_ended))


BROKEN = Failure(ErrorCode.USER_ERROR, "ValueError", "no", retryable=Retryable.NO)
LATE = Failure(ErrorCode.TIMEOUT, "StepTimeout", "late", retryable=Retryable.NO)


def result(outcome: str) -> tuple[Payload | None, Failure | None]:
    return {OK: (Payload(b"1"), None), FAIL: (None, BROKEN), TIMEOUT: (None, LATE)}[outcome]


def play(policy: Policy, cut: bool, mode: ParallelMode, outcomes: tuple[str, ...], order: tuple[int, ...]) -> Host:
    members = len(outcomes)
    opened = GroupOpened("g", members, mode, policy[0], policy[1], cut)
    scene = given(plan(*(step(f"g/[{i}]/s") for i in range(members)), groups=(opened,)))
    host = Host(scene, opened, outcomes)
    for member in order:
        host.member_ends(member)
    return host


def seen_by_the_body(mode: ParallelMode, outcomes: tuple[str, ...], order: tuple[int, ...]) -> list[tuple[int, str]]:
    """The order in which branches end: a cancelled one at once, the others when they are released."""
    if mode is ParallelMode.RACE:
        return [(member, outcomes[member]) for member in order]
    cancelled = [member for member in order if outcomes[member] == CANCEL]
    wave = [member for member in range(len(outcomes)) if outcomes[member] != CANCEL]
    return [(member, outcomes[member]) for member in cancelled + wave]


def check(policy: Policy, cut: bool, mode: ParallelMode, outcomes: tuple[str, ...], order: tuple[int, ...]) -> None:
    host = play(policy, cut, mode, outcomes, order)
    ends = seen_by_the_body(mode, outcomes, order)
    verdict, losers = oracle(policy, cut, ends)
    about = (policy, cut, mode.name, outcomes, order)
    assert host.verdict is verdict, about
    run = host.scene.run
    group = run.groups["g"]
    assert group.ended is not None and set(group.ended.losers) == losers, about
    arrived = {member for member, _ in ends[: len(ends) - len(losers)]}
    for member, outcome in enumerate(outcomes):
        state = run.steps[f"g/[{member}]/s"].state
        if outcome == CANCEL:
            assert state is StepState.CANCELLED, about
        elif member in arrived:
            assert state is (StepState.SUCCEEDED if outcome == OK else StepState.FAILED), about
        else:
            # A loser: it was cancelled, unless its outcome was already on record when the group ended.
            assert state.final, about
    assert not list(run.open_steps()), about


@pytest.mark.parametrize("mode", list(ParallelMode))
@pytest.mark.parametrize("members", [1, 2, 3])
def test_the_run_machine_agrees_with_the_oracle_for_every_order(members: int, mode: ParallelMode) -> None:
    for policy, cut in product(policies(members), (False, True)):
        for outcomes in product(OUTCOMES, repeat=members):
            for order in permutations(range(members)):
                check(policy, cut, mode, outcomes, order)


@pytest.mark.parametrize("mode", list(ParallelMode))
@pytest.mark.parametrize("policy", list(policies(4)))
def test_four_members_in_every_order_up_to_renaming(mode: ParallelMode, policy: Policy) -> None:
    """Members that behave alike are interchangeable, so orders are tried on sorted outcomes only."""
    for outcomes in product(OUTCOMES, repeat=4):
        if list(outcomes) != sorted(outcomes):
            continue
        for order in permutations(range(4)):
            for cut in (False, True):
                check(policy, cut, mode, outcomes, order)


@pytest.mark.parametrize("mode", list(ParallelMode))
def test_four_members_with_every_assignment_of_outcomes(mode: ParallelMode) -> None:
    for policy, cut in product(policies(4), (False, True)):
        for number, outcomes in enumerate(product(OUTCOMES, repeat=4)):
            order = list(permutations(range(4)))[number * 7 % 24]
            check(policy, cut, mode, outcomes, order)
