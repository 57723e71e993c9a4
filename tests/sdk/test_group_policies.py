"""Verdict policies: what a group of steps gives or raises, async and sync, live and replayed (S6, S14, S15, O5-O8)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

import stepwire
from stepwire import ConfigurationError, ParallelMode, testing
from stepwire.errors import GroupFailed
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.plan import FailPolicy, GroupEnded, GroupOpened, Verdict
from stepwire.results import GroupResult
from stepwire.testing import TestRun
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.history import StepStateView
from tests.sdk.gates import Gates, until
from tests.sdk.group_records import ASYNC, REPLAY, ended, opened, states

POLICIES: dict[str, tuple[dict[str, Any], Callable[[int], bool]]] = {
    "any": ({"fail": "any"}, lambda ok: ok == 3),
    "all": ({"fail": "all"}, lambda ok: ok >= 1),
    "never": ({"fail": "never"}, lambda ok: True),
    "quorum": ({"quorum": 2}, lambda ok: ok >= 2),
}
"""Options of a group of three, and whether it succeeds with that many of its branches."""


def member(index: int, ok: bool) -> str:
    if not ok:
        raise ValueError(f"no {index}")
    return f"yes {index}"


# ---- the truth table


class Table:
    """A flow with one group of three members, of which some succeed."""

    def __init__(self, members: tuple[bool, ...], options: dict[str, Any], *, caught: bool) -> None:
        self.members = members
        self.options = options
        self.caught = caught
        self.given: Any = None

    async def in_tasks(self, ctx: stepwire.Context) -> str:
        branches = [lambda i=i, ok=ok: ctx.step.run(f"m{i}", member, i, ok, retries=0) for i, ok in self.numbered]
        try:
            self.given = await ctx.group.parallel(branches, **self.options)
        except GroupFailed as error:
            self.given = error
            if not self.caught:
                raise
        return await ctx.step.run("after", lambda: "after")

    def in_threads(self, ctx: stepwire.ContextSync) -> str:
        branches = [lambda i=i, ok=ok: ctx.step.run(f"m{i}", member, i, ok, retries=0) for i, ok in self.numbered]
        try:
            self.given = ctx.group.parallel(branches, **self.options)
        except GroupFailed as error:
            self.given = error
            if not self.caught:
                raise
        return ctx.step.run("after", lambda: "after")

    @property
    def numbered(self) -> list[tuple[int, bool]]:
        return list(enumerate(self.members))


@REPLAY
@ASYNC
@pytest.mark.parametrize("caught", [True, False], ids=["caught", "not caught"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("members", list(itertools.product([True, False], repeat=3)), ids=str)
def test_truth_table(members: tuple[bool, ...], policy: str, caught: bool, is_async: bool, replay: bool) -> None:
    """3 members, each succeeds or fails, x 4 policies x {caught, not caught} (S6)."""
    options, succeeds = POLICIES[policy]
    table = Table(members, options, caught=caught)
    host = stepwire.Host("policies")
    run = testing.run(host, host.flow(table.in_tasks if is_async else table.in_threads), replay=replay)

    verdict = succeeds(sum(members))
    assert [group.verdict for group in ended(run)] == [Verdict.OK if verdict else Verdict.FAILED]
    assert run.record.state is (RunState.SUCCEEDED if verdict or caught else RunState.FAILED)
    assert ("after" in states(run)) is (verdict or caught)
    outcomes = ["completed" if ok else "failed" for ok in members]
    values = [f"yes {i}" if ok else None for i, ok in enumerate(members)]
    if not verdict:
        error = table.given
        assert isinstance(error, GroupFailed)
        assert [branch.outcome for branch in error.results] == outcomes
        assert [branch.value for branch in error.results] == values
        failed = [f"no {i}" for i, ok in enumerate(members) if not ok]
        assert [failure.message for failure in error.failures] == failed
        assert isinstance(error.__cause__, stepwire.StepError) and error.__cause__.message == failed[0]
        assert caught or (run.failure is not None and run.failure.code is ErrorCode.GROUP_FAILED)
    elif policy == "any":
        assert table.given == tuple(values)
    else:
        assert isinstance(table.given, GroupResult)
        assert [branch.outcome for branch in table.given] == outcomes
        assert [branch.value for branch in table.given] == values


@ASYNC
def test_settle_tells_of_every_branch_and_never_raises(is_async: bool) -> None:
    """5 members, 2 failed: 5 results (S15)."""
    told: list[GroupResult[str]] = []

    async def in_tasks(ctx: stepwire.Context) -> None:
        steps = [lambda i=i: ctx.step.run(f"s{i}", member, i, i not in (1, 3), retries=0) for i in range(5)]
        told.append(await ctx.group.settle(steps))

    def in_threads(ctx: stepwire.ContextSync) -> None:
        steps = [lambda i=i: ctx.step.run(f"s{i}", member, i, i not in (1, 3), retries=0) for i in range(5)]
        told.append(ctx.group.settle(steps))

    host = stepwire.Host("policies")
    run = testing.run(host, host.flow(in_tasks if is_async else in_threads))
    assert run.succeeded
    results = told[0]
    assert [branch.index for branch in results] == [0, 1, 2, 3, 4]
    assert [len(branch.steps) for branch in results] == [1] * 5
    assert [branch.index for branch in results.completed] == [0, 2, 4] and results.values == ("yes 0", "yes 2", "yes 4")
    assert [branch.index for branch in results.failed] == [1, 3] and results.cancelled == ()
    assert [str(branch.error.message) for branch in results.failed if branch.error] == ["no 1", "no 3"]
    assert [group.path for group in opened(run)] == ["settle"]


# ---- early ends


class Sibling:
    """A member that fails or succeeds when its gate opens, beside one that would take for ever."""

    def __init__(self, options: dict[str, Any], *, fails: bool) -> None:
        self.gates = Gates()
        self.options = options
        self.fails = fails
        self.stopped: list[str] = []
        self.given: Any = None

    async def decides(self) -> str:
        await self.gates.wait("decides")
        if self.fails:
            raise ValueError("decided")
        return "decided"

    async def endless(self) -> str:
        try:
            await self.gates.wait("endless")
        finally:
            self.stopped.append("endless")
        return "never"

    async def in_tasks(self, ctx: stepwire.Context) -> None:
        branches = (
            lambda: ctx.step.run("decides", self.decides, retries=0),
            lambda: ctx.step.run("endless", self.endless),
        )
        try:
            self.given = await ctx.group.parallel(branches, **self.options)
        except GroupFailed as error:
            self.given = error
        await ctx.step.run("after", self.gates.wait, "after")

    def in_threads(self, ctx: stepwire.ContextSync) -> None:
        branches = (
            lambda: ctx.step.run("decides", self.decides, retries=0),
            lambda: ctx.step.run("endless", self.endless),
        )
        try:
            self.given = ctx.group.parallel(branches, **self.options)
        except GroupFailed as error:
            self.given = error
        ctx.step.run("after", self.gates.wait, "after")


async def run_sibling(options: dict[str, Any], *, fails: bool, is_async: bool, replay: bool) -> tuple[Sibling, TestRun]:
    sibling = Sibling(options, fails=fails)
    host = stepwire.Host("siblings")
    flow = host.flow(sibling.in_tasks if is_async else sibling.in_threads)
    async with testing.environment(host, replay=replay) as env:
        run_id = await env.start(flow)
        finish = asyncio.create_task(env.finish(flow, run_id))
        await sibling.gates.until_reached("decides", "endless")
        sibling.gates.open("decides")
        await sibling.gates.until_reached("after")
        await until("the sibling is told to stop", lambda: sibling.stopped == ["endless"])
        sibling.gates.open("after")
        run = await finish
    assert run.succeeded
    assert sibling.gates.reached.count("endless") == 1, "the loser's step is not run again"
    assert states(run)["parallel/[1]/endless"] is StepStateView.CANCELLED
    return sibling, run


@REPLAY
@ASYNC
def test_cancel_siblings_ends_a_group_at_its_first_failure(is_async: bool, replay: bool) -> None:
    """The flow goes on while the sibling's gate is still shut, and the sibling's attempt is cancelled (O7, S14)."""
    sibling, run = asyncio.run(run_sibling({"cancel_siblings": True}, fails=True, is_async=is_async, replay=replay))
    assert isinstance(sibling.given, GroupFailed)
    assert [branch.outcome for branch in sibling.given.results] == ["failed", "cancelled"]
    assert [failure.message for failure in sibling.given.failures] == ["decided"]
    assert ended(run) == [GroupEnded("parallel", Verdict.FAILED, 0, (1,))]


@REPLAY
@ASYNC
@pytest.mark.parametrize("options", [{"fail": "all"}, {"quorum": 1}], ids=["all", "quorum"])
def test_cancel_siblings_ends_a_group_at_its_success(options: dict[str, Any], is_async: bool, replay: bool) -> None:
    sibling, run = asyncio.run(
        run_sibling({**options, "cancel_siblings": True}, fails=False, is_async=is_async, replay=replay)
    )
    assert [(branch.outcome, branch.value) for branch in sibling.given] == [
        ("completed", "decided"),
        ("cancelled", None),
    ]
    assert ended(run) == [GroupEnded("parallel", Verdict.OK, 1, (1,))]


@ASYNC
def test_without_cancel_siblings_a_group_settles_first(is_async: bool) -> None:
    """The next step is not planned while any member's gate is shut (O2, O5)."""

    async def main() -> None:
        sibling = Sibling({}, fails=True)
        host = stepwire.Host("siblings")
        flow = host.flow(sibling.in_tasks if is_async else sibling.in_threads)
        async with testing.environment(host) as env:
            run_id = await env.start(flow)
            finish = asyncio.create_task(env.finish(flow, run_id))
            await sibling.gates.until_reached("decides", "endless")
            sibling.gates.open("decides")
            await sibling.gates.until_passed("decides")
            assert "after" not in sibling.gates.reached and sibling.given is None
            sibling.gates.open("endless", "after")
            run = await finish
        assert [branch.outcome for branch in sibling.given.results] == ["failed", "completed"]
        assert run.succeeded

    asyncio.run(main())


# ---- options


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ({}, ParallelMode.WAIT),
        ({"fail": "never"}, ParallelMode.WAIT),
        ({"cancel_siblings": True}, ParallelMode.RACE),
        ({"cancel_siblings": True, "parallel_mode": ParallelMode.WAIT}, ParallelMode.WAIT),
    ],
)
def test_a_group_that_may_end_early_releases_as_in_race(options: dict[str, Any], mode: ParallelMode) -> None:
    """In WAIT the outcome that decides would be held back by the very siblings it makes superfluous."""
    host = stepwire.Host("options")

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.group.parallel([lambda: ctx.step.run("s", lambda: 1)], **options)

    assert opened(testing.run(host, flow))[0].mode is mode


@ASYNC
def test_options_stand_in_the_journal(is_async: bool) -> None:
    host = stepwire.Host("options")
    options: dict[str, Any] = {"name": "pay", "quorum": 1, "cancel_siblings": True, "deadline": "1.5h"}

    async def charge(ctx: stepwire.Context) -> int:
        return await ctx.step.run("s", lambda: 1)

    async def in_tasks(ctx: stepwire.Context) -> None:
        async def labelled() -> int:
            return await charge(ctx)

        await ctx.group.parallel([lambda: charge(ctx), labelled], **options)

    def in_threads(ctx: stepwire.ContextSync) -> None:
        def labelled() -> int:
            return ctx.step.run("s", lambda: 1)

        ctx.group.parallel([lambda: ctx.step.run("s", lambda: 1), labelled], **options)

    (group,) = opened(testing.run(host, host.flow(in_tasks if is_async else in_threads)))
    expected = GroupOpened(
        "pay", 2, ParallelMode.RACE, FailPolicy.QUORUM, 1, True, names=("", "labelled"), deadline=5400.0
    )
    assert group == expected


BAD_OPTIONS: list[dict[str, Any]] = [
    {"quorum": 0},
    {"quorum": 3},
    {"quorum": -1},
    {"quorum": True},
    {"quorum": 1.0},
    {"quorum": 1, "fail": "all"},
    {"fail": "some"},
    {"fail": None},
    {"fail": 2},
    {"limit": 0},
    {"limit": -1},
    {"limit": True},
    {"limit": "2"},
    {"deadline": 0},
    {"deadline": -1},
    {"deadline": "soon"},
]


@ASYNC
@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
def test_a_bad_option_is_refused_at_the_call_and_plans_nothing(options: dict[str, Any], is_async: bool) -> None:
    called: list[int] = []
    refused: list[ConfigurationError] = []

    def branches() -> list[Any]:
        return [lambda i=i: called.append(i) for i in range(2)]

    async def in_tasks(ctx: stepwire.Context) -> None:
        try:
            ctx.group.parallel(branches(), **options)
        except ConfigurationError as error:
            refused.append(error)

    def in_threads(ctx: stepwire.ContextSync) -> None:
        try:
            ctx.group.parallel(branches(), **options)
        except ConfigurationError as error:
            refused.append(error)

    host = stepwire.Host("options")
    run = testing.run(host, host.flow(in_tasks if is_async else in_threads))
    assert run.succeeded
    assert len(refused) == 1 and called == [] and opened(run) == []


@ASYNC
def test_a_race_needs_a_branch(is_async: bool) -> None:
    async def in_tasks(ctx: stepwire.Context) -> None:
        await ctx.group.race(())

    def in_threads(ctx: stepwire.ContextSync) -> None:
        ctx.group.race(())

    host = stepwire.Host("options")
    run = testing.run(host, host.flow(in_tasks if is_async else in_threads))
    assert run.failure is not None and "without branches" in run.failure.message and opened(run) == []


@REPLAY
@ASYNC
@pytest.mark.parametrize("options", [{"fail": "all"}, {"fail": "never"}, {"fail": "any"}], ids=str)
def test_an_empty_group_succeeds(options: dict[str, Any], is_async: bool, replay: bool) -> None:
    given: list[Any] = []

    async def in_tasks(ctx: stepwire.Context) -> None:
        given.append(await ctx.group.parallel((), **options))
        await ctx.step.run("s", lambda: 1)

    def in_threads(ctx: stepwire.ContextSync) -> None:
        given.append(ctx.group.parallel((), **options))
        ctx.step.run("s", lambda: 1)

    host = stepwire.Host("options")
    run = testing.run(host, host.flow(in_tasks if is_async else in_threads), replay=replay)
    assert run.succeeded and len(given[-1]) == 0
