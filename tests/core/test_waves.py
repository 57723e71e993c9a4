"""When outcomes are released, and in which order (DESIGN 4, proto/README 8)."""

from __future__ import annotations

from itertools import permutations, product

import pytest

from stepwire.protocol import paths
from stepwire.protocol.plan import BranchEnded, BranchOutcome, ParallelMode
from stepwire_engine.core.model import StepState
from tests.core.given import Given, given, group, ok, plan, race, step

WAIT, RACE = ParallelMode.WAIT, ParallelMode.RACE


def two_by_two(mode: ParallelMode) -> Given:
    return given(plan("g/[0]/a", "g/[1]/x", groups=(group("g", 2, mode),)))


def test_wait_releases_a_x_b_y() -> None:
    run = two_by_two(WAIT)
    run.when(ok("g/[1]/x")).then()
    run.when(ok("g/[0]/a")).then("g/[0]/a", "g/[1]/x")
    run.when(plan("g/[0]/b", "g/[1]/y"), ok("g/[0]/b"), ok("g/[1]/y")).then("g/[0]/b", "g/[1]/y")


def test_race_releases_a_b_x_y() -> None:
    run = two_by_two(RACE)
    run.when(ok("g/[0]/a")).then("g/[0]/a")
    run.when(plan("g/[0]/b"), ok("g/[0]/b")).then("g/[0]/b")
    run.when(ok("g/[1]/x")).then("g/[1]/x")
    run.when(plan("g/[1]/y"), ok("g/[1]/y")).then("g/[1]/y")


def test_race_keeps_the_order_of_one_commit() -> None:
    two_by_two(RACE).when(ok("g/[1]/x"), ok("g/[0]/a")).then("g/[1]/x", "g/[0]/a")


def test_steps_of_the_root_are_released_as_they_come() -> None:
    run = given(plan("a", "b", "c"))
    run.when(ok("c")).then("c")
    run.when(ok("b"), ok("a")).then("b", "a")


def test_a_branch_that_has_planned_nothing_is_busy_and_holds_the_wave() -> None:
    run = given(plan("g/[0]/a", groups=(group("g", 2),)))
    run.when(ok("g/[0]/a")).then()
    run.when(plan("g/[1]/x")).then()
    run.when(ok("g/[1]/x")).then("g/[0]/a", "g/[1]/x")


def test_a_branch_that_ends_holds_the_wave_no_longer() -> None:
    run = two_by_two(WAIT)
    run.when(ok("g/[0]/a"), ok("g/[1]/x")).then("g/[0]/a", "g/[1]/x")
    run.when(plan("g/[1]/y"), ok("g/[1]/y")).then()
    run.when(plan(ended=("g/[0]",))).then("g/[1]/y")


def test_a_waiting_retry_holds_the_wave() -> None:
    from stepwire.protocol.plan import RetryPolicy
    from tests.core.given import failed

    run = given(plan(step("g/[0]/a", retry=RetryPolicy(max_attempts=2)), "g/[1]/x", groups=(group("g", 2),)))
    run.when(failed("g/[0]/a"), ok("g/[1]/x")).then()
    assert run.run.steps["g/[0]/a"].state is StepState.BACKOFF
    run.when(failed("g/[0]/a")).then("g/[0]/a", "g/[1]/x")


def test_steps_gathered_inside_a_branch_belong_to_its_wave_in_order_of_planning() -> None:
    run = given(plan("g/[0]/b", "g/[0]/a", "g/[1]/x", groups=(group("g", 2),)))
    run.when(ok("g/[0]/a"), ok("g/[1]/x")).then()
    run.when(ok("g/[0]/b")).then("g/[0]/b", "g/[0]/a", "g/[1]/x")


def test_declaration_order_is_by_branch_index_not_by_text() -> None:
    run = given(plan(*(f"g/[{i}]/s" for i in range(12)), groups=(group("g", 12),)))
    run.when(*(ok(f"g/[{i}]/s") for i in reversed(range(12)))).then(*(f"g/[{i}]/s" for i in range(12)))


def test_a_nested_group_runs_its_own_waves_and_holds_the_outer_one() -> None:
    """Outer WAIT, inner RACE: inner steps never wait for outer siblings; the outer wave waits for the inner group."""
    run = given(plan("g/[1]/x", "g/[0]/h/[0]/a", groups=(group("g", 2), group("g/[0]/h", 1, RACE))))
    run.when(ok("g/[1]/x")).then()
    run.when(ok("g/[0]/h/[0]/a")).then("g/[0]/h/[0]/a")
    run.when(plan(ended=("g/[0]/h/[0]",), groups_ended=("g/[0]/h",))).then()
    run.when(plan("g/[0]/b")).then()
    run.when(ok("g/[0]/b")).then("g/[0]/b", "g/[1]/x")


def test_an_inner_wait_group_in_an_outer_race_waits_only_for_itself() -> None:
    run = given(plan("g/[1]/x", "g/[0]/h/[0]/a", "g/[0]/h/[1]/b", groups=(group("g", 2, RACE), group("g/[0]/h", 2))))
    run.when(ok("g/[0]/h/[1]/b")).then()
    run.when(ok("g/[0]/h/[0]/a")).then("g/[0]/h/[0]/a", "g/[0]/h/[1]/b")
    run.when(ok("g/[1]/x")).then("g/[1]/x")


def test_a_step_beside_a_group_in_the_same_branch_waits_until_the_group_ended() -> None:
    """gather(step, group) inside a branch: the branch is BUSY while its group is open."""
    run = given(plan("g/[0]/a", "g/[0]/h/[0]/b", groups=(group("g", 1), group("g/[0]/h", 1))))
    run.when(ok("g/[0]/a")).then()
    run.when(ok("g/[0]/h/[0]/b")).then("g/[0]/h/[0]/b")
    run.when(plan(ended=("g/[0]/h/[0]",), groups_ended=("g/[0]/h",))).then("g/[0]/a")


def test_one_commit_makes_one_release_root_and_race_first_then_waves() -> None:
    run = given(plan("g/[0]/a", "h/[0]/b", "c", groups=(group("g", 1), group("h", 1, RACE))))
    run.when(ok("g/[0]/a"), ok("h/[0]/b"), ok("c")).then("h/[0]/b", "c", "g/[0]/a")
    assert len(run.releases) == 1


def test_an_abandoned_step_leaves_its_wave_and_is_never_released() -> None:
    run = given(plan("g/[0]/a", "g/[0]/slow", "g/[1]/x", groups=(group("g", 2),)))
    run.when(ok("g/[0]/a"), ok("g/[1]/x")).then()
    run.when(plan(abandoned=("g/[0]/slow",))).then("g/[0]/a", "g/[1]/x")
    assert run.run.steps["g/[0]/slow"].state is StepState.CANCELLED


def test_abandoning_the_only_step_makes_the_branch_busy() -> None:
    run = given(plan("g/[0]/slow", "g/[1]/x", groups=(group("g", 2),)))
    run.when(plan(abandoned=("g/[0]/slow",)), ok("g/[1]/x")).then()
    run.when(plan("g/[0]/b"), ok("g/[0]/b")).then("g/[0]/b", "g/[1]/x")


def test_an_outcome_that_waits_for_its_wave_may_be_abandoned() -> None:
    run = given(plan("g/[0]/a", "g/[1]/x", groups=(group("g", 2),)))
    run.when(ok("g/[0]/a")).then()
    run.when(plan(abandoned=("g/[0]/a",))).then()
    run.when(plan("g/[0]/b"), ok("g/[0]/b"), ok("g/[1]/x")).then("g/[0]/b", "g/[1]/x")


def test_abandoning_a_released_step_changes_nothing() -> None:
    run = given(plan("a")).when(ok("a")).then("a")
    run.when(plan("b", abandoned=("a",))).then()
    assert run.run.scopes[""].outstanding == 1


def test_the_losers_of_a_race_are_cancelled_with_all_that_is_below_them() -> None:
    run = given(
        plan(
            "g/[0]/a",
            "g/[1]/h/[0]/b",
            "g/[1]/h/[1]/c",
            "other",
            groups=(race("g", 3), group("g/[1]/h", 2)),
        )
    )
    run.when(ok("g/[1]/h/[0]/b")).then()
    run.when(ok("g/[0]/a")).then("g/[0]/a")
    run.when(plan(ended=("g/[0]",), groups_ended=("g",))).then()
    states = {p: s.state for p, s in run.run.steps.items()}
    assert states == {
        "g/[0]/a": StepState.SUCCEEDED,
        "g/[1]/h/[0]/b": StepState.SUCCEEDED,
        "g/[1]/h/[1]/c": StepState.CANCELLED,
        "other": StepState.PENDING,
    }
    assert [p for p, s in run.run.scopes.items() if s.ended] == [
        "g/[0]",
        "g/[1]",
        "g/[2]",
        "g/[1]/h/[0]",
        "g/[1]/h/[1]",
    ]
    run.when(ok("other")).then("other")
    run.assert_rebuilt()


def test_a_group_whose_name_begins_like_a_loser_is_not_cancelled() -> None:
    run = given(plan("g/[1]/a", "g/[10]/b", groups=(race("g", 11),)))
    run.when(plan(ended=(BranchEnded("g/[1]", BranchOutcome.OK),), groups_ended=("g",)))
    assert run.run.steps["g/[1]/a"].state is StepState.PENDING
    assert run.run.steps["g/[10]/b"].state is StepState.CANCELLED


def _interleavings(lengths: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All orders in which branches with so many steps can finish them: branch indexes."""
    return sorted(set(permutations([i for i, n in enumerate(lengths) for _ in range(n)])))


_SHAPES = [lengths for n in (2, 3, 4) for lengths in product((1, 2), repeat=n)]


def _opened(mode: ParallelMode, lengths: tuple[int, ...]) -> Given:
    return given(plan(*(f"g/[{i}]/s" for i in range(len(lengths))), groups=(group("g", len(lengths), mode),)))


def _next(path: str, lengths: tuple[int, ...]) -> str | None:
    branch = paths.branch_index(paths.parent(path))
    return f"g/[{branch}]/s#2" if lengths[branch] == 2 and not path.endswith("#2") else None


def _continue(run: Given, released: tuple[str, ...], lengths: tuple[int, ...]) -> None:
    """What a body decides after a release: each resumed branch plans its next step or ends, the last ends the group."""
    following = [(p, _next(p, lengths)) for p in released]
    steps = [n for _, n in following if n is not None]
    ended = tuple(paths.parent(p) for p, n in following if n is None)
    done = len(run.run.groups["g"].ended_branches) + len(ended) == len(lengths)
    run.when(plan(*steps, ended=ended, groups_ended=("g",) if done else ()))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_completion_order_in_race_is_the_release_order(count: int) -> None:
    for lengths in (s for s in _SHAPES if len(s) == count):
        for order in _interleavings(lengths):
            run = _opened(RACE, lengths)
            current = {i: f"g/[{i}]/s" for i in range(count)}
            for branch in order:
                path = current[branch]
                run.when(ok(path)).then(path)
                _continue(run, (path,), lengths)
                run.then()
                current[branch] = f"g/[{branch}]/s#2"
            assert run.run.groups["g"].ended is not None, (lengths, order)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_completion_order_in_wait_gives_the_same_two_releases(count: int) -> None:
    """Oracle: release k holds the k-th steps by branch index, and comes with the last outcome of its wave."""
    for lengths in (s for s in _SHAPES if len(s) == count):
        first = tuple(f"g/[{i}]/s" for i in range(count))
        second = tuple(f"g/[{i}]/s#2" for i, n in enumerate(lengths) if n == 2)
        for orders in product(permutations(first), permutations(second)):
            run = _opened(WAIT, lengths)
            for wave, order in zip((first, second), orders, strict=True):
                for path in order[:-1]:
                    run.when(ok(path)).then()
                for path in order[-1:]:
                    run.when(ok(path)).then(*wave)
                    _continue(run, wave, lengths)
            assert run.releases == [w for w in (first, second) if w]
            assert run.run.groups["g"].ended is not None, (lengths, orders)
