"""State is a fold of the journal (LAW): random histories, rebuilt from bytes after every turn."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from stepwire.protocol import paths
from stepwire.protocol.payload import NULL
from stepwire.protocol.plan import (
    Backoff,
    BodyEnded,
    BranchEnded,
    BranchOutcome,
    FailPolicy,
    GroupOpened,
    ParallelMode,
    RetryPolicy,
)
from stepwire.protocol.verdict import group_verdict
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import Entry, RunState
from stepwire_engine.core.fold import rebuild
from stepwire_engine.core.model import Run, Step, durable_view
from tests.core.given import Event, Given, body_lost, failed, given, group, lost, ok, paused, plan, race, resumed, step

CONFIG = CoreConfig(attempts_lost_max=3, default_retry=RetryPolicy(2, Backoff.FIXED, 0.5))


class Player:
    """Turns numbers into legal events, so that every list of numbers is a history."""

    def __init__(self) -> None:
        self.run = given(plan("first"), config=CONFIG)
        self.names = 0

    def play(self, n: int) -> None:
        if self.run.run.state.terminal:
            return
        event = _EVENTS[n % len(_EVENTS)](self, n // len(_EVENTS))
        if event is not None:
            self.run.when(event)
            self.check()

    def check(self) -> None:
        run = self.run.run
        for scope in run.scopes.values():
            below = [s for s in run.steps.values() if s.scope is scope]
            assert scope.outstanding == sum(not s.released for s in below), scope.path
        for found in run.groups.values():
            members = [s for s in run.steps.values() if s.scope.group is found]
            assert found.unfinished == sum(not s.state.final for s in members), found.opened.path
            assert found.busy == sum(b.busy for b in found.branches), found.opened.path
        released = [p for paths_ in self.run.releases for p in paths_]
        assert len(released) == len(set(released)), "released twice"

    def name(self) -> str:
        self.names += 1
        return f"n{self.names}"

    def open_scopes(self) -> list[str]:
        return [s.path for s in self.run.run.scopes.values() if not s.ended]

    def open_steps(self) -> list[Step]:
        return list(self.run.run.open_steps())


_T = TypeVar("_T")


def pick(items: list[_T], n: int) -> _T | None:
    return items[n % len(items)] if items else None


def _plan_step(p: Player, n: int) -> Event | None:
    scope = pick(p.open_scopes(), n)
    if scope is None or p.run.run.state is RunState.PAUSED:
        return None
    return plan(step(paths.join(scope, p.name()), started=n % 2 == 0))


def _plan_group(p: Player, n: int) -> Event | None:
    scope = pick([s for s in p.open_scopes() if s.count("/") < 6], n)
    if scope is None or p.run.run.state is RunState.PAUSED:
        return None
    path = paths.join(scope, p.name())
    opened = [
        group(path, 2),
        group(path, 3, ParallelMode.RACE),
        race(path, 3),
        GroupOpened(path, 2, fail=FailPolicy.QUORUM, quorum=1, cancel_siblings=True),
        GroupOpened(path, 2, fail=FailPolicy.NEVER),
    ][n % 5]
    steps = [f"{paths.branch_path(path, i)}/s" for i in range(opened.branches) if (n >> i) & 1]
    return plan(*steps, groups=(opened,))


def _result(p: Player, n: int) -> Event | None:
    found = pick(p.open_steps(), n)
    return None if found is None else ok(found.path)


def _failure(p: Player, n: int) -> Event | None:
    found = pick(p.open_steps(), n)
    return None if found is None else failed(found.path)


def _lost(p: Player, n: int) -> Event | None:
    found = pick(p.open_steps(), n)
    return None if found is None else lost(found.path)


def _abandon(p: Player, n: int) -> Event | None:
    found = pick([s for s in p.run.run.steps.values() if not s.scope.ended], n)
    return None if found is None or p.run.run.state is RunState.PAUSED else plan(abandoned=(found.path,))


def _end_branch(p: Player, n: int) -> Event | None:
    run = p.run.run
    open_branches = [s for s in run.scopes.values() if s.group is not None and not s.ended and not s.open_groups]
    branch = pick(open_branches, n)
    if branch is None or run.state is RunState.PAUSED:
        return None
    assert branch.group is not None
    outcome = [BranchOutcome.OK, BranchOutcome.FAILED, BranchOutcome.CANCELLED][n % 3]
    spec = branch.group.opened
    verdict = group_verdict(spec, [*branch.group.ended_branches, (branch.index, outcome)])
    return plan(ended=(BranchEnded(branch.path, outcome),), groups_ended=(verdict,) if verdict else ())


def _pause(p: Player, n: int) -> Event | None:
    return resumed() if p.run.run.state is RunState.PAUSED else paused() if n % 4 == 0 else None


def _body_lost(p: Player, n: int) -> Event | None:
    return None if p.run.run.state is RunState.PAUSED else body_lost()


def _end(p: Player, n: int) -> Event | None:
    if n % 20 or p.run.run.state is RunState.PAUSED:
        return None
    return plan(body_ended=BodyEnded(NULL))


_EVENTS: list[Callable[[Player, int], Event | None]] = [
    _plan_step,
    _plan_group,
    _result,
    _result,
    _failure,
    _lost,
    _abandon,
    _end_branch,
    _end_branch,
    _pause,
    _body_lost,
    _end,
]


@settings(max_examples=150)
@for_all(st.lists(st.integers(0, 12 * 1000), max_size=40))
def test_any_history_rebuilds_to_the_live_state(numbers: list[int]) -> None:
    player = Player()
    for number in numbers:
        player.play(number)
    player.run.assert_rebuilt()


def test_a_history_rebuilds_at_every_row() -> None:
    player = Player()
    for number in range(400):
        player.play(number * 7919)
        player.run.assert_rebuilt()
    assert len(player.run.run.groups) > 5 and len(player.run.releases) > 10


def test_a_rebuilt_run_keeps_no_outcome_that_was_released() -> None:
    """They stand in the journal; a recovered run would carry all its outputs in memory until it ends."""
    run = given(plan("g/[0]/a", "g/[1]/b", "c", groups=(group("g", 2),))).when(ok("g/[0]/a"), ok("c")).then("c")
    again = rebuild(1, run.rows)
    assert [path for path, s in again.steps.items() if s.outcome is not None] == ["g/[0]/a"]


# ---- time is linear


def _calls(action: Callable[[], object]) -> int:
    """How many Python and C functions are called: work without a clock."""
    count = 0

    def note(frame: object, event: str, arg: object) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def _wide(mode: ParallelMode, width: int) -> Callable[[], object]:
    def action() -> Given:
        run = given(plan(*(f"g/[{i}]/s" for i in range(width)), groups=(group("g", width, mode),)))
        for start in range(0, width, 100):
            run.when(*(ok(f"g/[{i}]/s") for i in range(start, min(start + 100, width))))
        run.when(plan(ended=tuple(f"g/[{i}]" for i in range(width)), groups_ended=("g",)))
        return run

    return action


def _race(width: int) -> Callable[[], object]:
    def action() -> Given:
        run = given(plan(*(f"g/[{i}]/s" for i in range(width)), groups=(race("g", width),)))
        run.when(ok("g/[5]/s")).when(plan(ended=("g/[5]",), groups_ended=("g",)))
        return run

    return action


def _many_races(count: int) -> Callable[[], object]:
    def action() -> Given:
        run = given()
        for i in range(count // 4):
            run.when(plan(f"g{i}/[0]/s", f"g{i}/[1]/s", groups=(race(f"g{i}", 2),)))
            run.when(ok(f"g{i}/[1]/s")).when(plan(ended=(f"g{i}/[1]",), groups_ended=(f"g{i}",)))
        return run

    return action


@pytest.mark.parametrize(
    "history",
    [lambda n: _wide(ParallelMode.WAIT, n), lambda n: _wide(ParallelMode.RACE, n), _race, _many_races],
    ids=["wait", "race", "losers", "many races"],
)
def test_work_grows_with_the_number_of_steps_and_not_with_its_square(
    history: Callable[[int], Callable[[], object]],
) -> None:
    small, large = _calls(history(500)), _calls(history(4000))
    assert large <= 10 * small, f"500 steps: {small} calls, 4000: {large}"


def test_rebuilding_is_linear_too() -> None:
    def rows(width: int) -> tuple[list[tuple[Entry, ...]], Run]:
        made = _wide(ParallelMode.WAIT, width)()
        assert isinstance(made, Given)
        return made.rows, made.run

    (small, _), (large, run) = rows(1000), rows(8000)
    assert durable_view(rebuild(1, large)) == durable_view(run)
    assert _calls(lambda: rebuild(1, large)) <= 10 * _calls(lambda: rebuild(1, small))


def test_a_row_is_the_same_after_it_was_bytes() -> None:
    run = given(plan("a")).when(ok("a"))
    packed = [msgspec.msgpack.encode(row) for row in run.rows]
    assert [msgspec.msgpack.decode(p, type=tuple[Entry, ...]) for p in packed] == run.rows
