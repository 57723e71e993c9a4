"""Groups of bodies that were lost: the order in which branches ended is a fact of the journal (ADR 0016)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import stepwire
from stepwire import testing
from stepwire.protocol.plan import GroupEnded, Verdict
from stepwire.testing import Environment, TestRun
from stepwire_engine.core.entries import Planned, RunState
from stepwire_engine.core.history import StepStateView
from tests.sdk.gates import Gates, until
from tests.sdk.group_records import (
    ASYNC,
    branches_ended,
    ended,
    planned,
    states,
)

# ---- bodies that were lost


class Lives:
    """A flow whose branches wait at gates of their own in every life of the body.

    Attributes:
        entered: How many bodies there were.
    """

    def __init__(self, *, is_async: bool, quorum: int | None = None) -> None:
        self.gates = Gates()
        self.entered = 0
        self.is_async = is_async
        self.options: dict[str, Any] = {"quorum": quorum} if quorum else {"fail": "all"}
        self.host = stepwire.Host("lives")
        self.flow = self.host.flow(self.in_tasks if is_async else self.in_threads)

    async def in_tasks(self, ctx: stepwire.Context) -> list[Any]:
        self.entered += 1
        life = self.entered

        async def branch(name: str) -> str:
            await ctx.step.run(f"{name}1", lambda: 1)
            await self.gates.wait(f"{name} in life {life}")
            return name

        async def loser() -> str:
            await ctx.step.run("z1", lambda: 1)
            await self.gates.wait(f"z in life {life}")
            return await ctx.step.run("z2", asyncio.Event().wait)  # type: ignore[return-value]

        branches = (lambda: branch("a"), lambda: branch("b"), loser)
        results = await ctx.group.parallel(branches, cancel_siblings=True, **self.options)
        told = [[r.outcome, [s.name for s in r.steps]] for r in results]
        return [*told, await ctx.step.run("after", self.gates.wait, "after")]

    def in_threads(self, ctx: stepwire.ContextSync) -> list[Any]:
        self.entered += 1
        life = self.entered

        def branch(name: str) -> str:
            ctx.step.run(f"{name}1", lambda: 1)
            self.gates.wait_sync(f"{name} in life {life}")
            return name

        def loser() -> str:
            ctx.step.run("z1", lambda: 1)
            self.gates.wait_sync(f"z in life {life}")
            return ctx.step.run("z2", asyncio.Event().wait)  # type: ignore[return-value]

        branches = (lambda: branch("a"), lambda: branch("b"), loser)
        results = ctx.group.parallel(branches, cancel_siblings=True, **self.options)
        told = [[r.outcome, [s.name for s in r.steps]] for r in results]
        return [*told, ctx.step.run("after", self.gates.wait, "after")]

    async def reached(self, life: int, names: str) -> None:
        await self.gates.until_reached(*(f"{name} in life {life}" for name in names))

    def open(self, life: int, names: str) -> None:
        self.gates.open(*(f"{name} in life {life}" for name in names))


@pytest.mark.live_bodies
@ASYNC
@pytest.mark.parametrize("quicker", ["nobody", "a", "z", "a and z"])
def test_a_race_that_was_won_is_won_by_the_same_branch_in_replay(quicker: str, is_async: bool) -> None:
    """The body is lost after the group ended, while losers were in user code; now those are quicker."""

    async def main() -> TestRun:
        lives = Lives(is_async=is_async)
        async with testing.environment(lives.host) as env:
            run_id = await env.start(lives.flow)
            await lives.reached(1, "abz")
            lives.open(1, "b")
            await until("the end of the group is recorded", lambda: "after" in planned(env, run_id))
            await env.crash(lives.host)
            lives.open(1, "az")  # for the threads of the first life, which nobody waits for
            finish = asyncio.create_task(env.finish(lives.flow, run_id))
            await lives.reached(2, "abz")
            for name in quicker.split(" and "):
                lives.open(2, name)
            if quicker != "nobody":
                await lives.gates.until_passed(f"{quicker[0]} in life 2")
            lives.open(2, "b")
            lives.gates.open("after")
            run = await finish
            lives.open(2, "az")
            return run

    run = asyncio.run(main())
    assert run.output == [["cancelled", ["a1"]], ["completed", ["b1"]], ["cancelled", ["z1"]], "after"]
    assert ended(run) == [GroupEnded("parallel", Verdict.OK, 2, (0, 2))]
    assert [branch.path for branch in branches_ended(run)] == ["parallel/[1]"]
    assert not [path for path in states(run) if path.endswith("z2")], "what only the second life planned never was"
    assert run.body_entries == 2


@pytest.mark.live_bodies
@ASYNC
def test_a_body_that_was_lost_before_its_group_ended_may_end_it_differently(is_async: bool) -> None:
    """What was not recorded is decided anew; what was recorded stands before it, also if it is slower now."""

    async def main() -> TestRun:
        lives = Lives(is_async=is_async, quorum=2)
        async with testing.environment(lives.host) as env:
            run_id = await env.start(lives.flow)
            await lives.reached(1, "abz")
            lives.open(1, "b")
            await until("the end of b is recorded", lambda: "parallel/[1]" in recorded_ends(env, run_id))
            await env.crash(lives.host)
            lives.open(1, "az")
            finish = asyncio.create_task(env.finish(lives.flow, run_id))
            await lives.reached(2, "abz")
            lives.open(2, "a")
            await lives.gates.until_passed("a in life 2")
            lives.open(2, "b")
            await lives.gates.until_reached("after")
            lives.gates.open("after")
            run = await finish
            lives.open(2, "z")
            return run

    run = asyncio.run(main())
    assert run.output == [["completed", ["a1"]], ["completed", ["b1"]], ["cancelled", ["z1"]], "after"]
    assert [branch.path for branch in branches_ended(run)] == ["parallel/[1]", "parallel/[0]"]
    assert ended(run) == [GroupEnded("parallel", Verdict.OK, 1, (2,))]


def recorded_ends(env: Environment, run_id: str) -> list[str]:
    return [b.path for e in env.journal(run_id) if isinstance(e, Planned) for b in e.plan.branches_ended]


@pytest.mark.live_bodies
@ASYNC
def test_a_decision_that_a_loser_made_is_made_again_before_its_group_ends(is_async: bool) -> None:
    """The loser had planned its step; in the second life the winner is quicker, and the record is the same."""

    async def main() -> TestRun:
        lives = Lives(is_async=is_async)
        async with testing.environment(lives.host) as env:
            run_id = await env.start(lives.flow)
            await lives.reached(1, "abz")
            lives.open(1, "z")
            await until("z2 is recorded", lambda: any(p.endswith("z2") for p in planned(env, run_id)))
            lives.open(1, "b")
            await until("the end of the group is recorded", lambda: "after" in planned(env, run_id))
            await env.crash(lives.host)
            lives.open(1, "a")
            finish = asyncio.create_task(env.finish(lives.flow, run_id))
            await lives.reached(2, "abz")
            lives.open(2, "b")
            await lives.gates.until_passed("b in life 2")
            lives.open(2, "z")
            lives.gates.open("after")
            run = await finish
            lives.open(2, "a")
            return run

    run = asyncio.run(main())
    assert run.output == [["cancelled", ["a1"]], ["completed", ["b1"]], ["cancelled", ["z1", "z2"]], "after"]
    assert states(run)["parallel/[2]/z2"] is StepStateView.CANCELLED


@ASYNC
@pytest.mark.parametrize("wins", [True, False], ids=["group ended", "group open"])
def test_a_branch_that_ends_the_run_sooner_in_replay_does_so_only_if_it_has_not_lost(
    wins: bool, is_async: bool
) -> None:
    """In the first life it was in user code; what that life recorded comes first."""

    async def main() -> TestRun:
        gates = Gates()
        lives: list[int] = []

        async def in_tasks(ctx: stepwire.Context) -> str:
            lives.append(1)
            life = len(lives)

            async def gives_up() -> None:
                await gates.wait(f"code in life {life}")
                ctx.cancel()

            async def goes_on() -> None:
                await ctx.step.run("quick", gates.wait, "quick")

            await ctx.group.race((gives_up, goes_on))
            return await ctx.step.run("after", gates.wait, "after")

        def in_threads(ctx: stepwire.ContextSync) -> str:
            lives.append(1)
            life = len(lives)

            def gives_up() -> None:
                gates.wait_sync(f"code in life {life}")
                ctx.cancel()

            def goes_on() -> None:
                ctx.step.run("quick", gates.wait, "quick")

            ctx.group.race((gives_up, goes_on))
            return ctx.step.run("after", gates.wait, "after")

        host = stepwire.Host("race")
        flow = host.flow(in_tasks if is_async else in_threads)
        async with testing.environment(host) as env:
            run_id = await env.start(flow)
            await gates.until_reached("code in life 1", "quick")
            if wins:
                gates.open("quick")
            last = "after" if wins else "race/[1]/quick"
            await until("the last step is recorded", lambda: last in planned(env, run_id))
            gates.open("code in life 2")
            await env.crash(host)
            gates.open("code in life 1", "after")
            return await env.finish(flow, run_id)

    run = asyncio.run(main())
    if wins:
        assert run.output == "after" and ended(run) == [GroupEnded("race", Verdict.OK, 2, (0,))]
    else:
        assert run.record.state is RunState.CANCELLED and ended(run) == []


@pytest.mark.live_bodies
@ASYNC
def test_a_loser_that_decides_otherwise_in_replay_is_found(is_async: bool) -> None:
    """Losers are no exception to P12: a recorded step that is not planned again pauses the run."""
    entered: list[int] = []

    async def main() -> TestRun:
        gates = Gates()

        async def in_tasks(ctx: stepwire.Context) -> None:
            entered.append(1)

            async def loser() -> None:
                await ctx.step.run(f"lost {len(entered)}", asyncio.Event().wait)

            await ctx.group.race((loser, lambda: ctx.step.run("quick", gates.wait, "quick")))
            await ctx.step.run("after", gates.wait, "after")

        def in_threads(ctx: stepwire.ContextSync) -> None:
            entered.append(1)

            def loser() -> None:
                ctx.step.run(f"lost {len(entered)}", asyncio.Event().wait)

            ctx.group.race((loser, lambda: ctx.step.run("quick", gates.wait, "quick")))
            ctx.step.run("after", gates.wait, "after")

        host = stepwire.Host("race")
        flow = host.flow(in_tasks if is_async else in_threads)
        async with testing.environment(host) as env:
            run_id = await env.start(flow)
            await gates.until_reached("quick")
            gates.open("quick")
            await until("the end of the group is recorded", lambda: "after" in planned(env, run_id))
            await env.crash(host)
            return await env.finish(flow, run_id)

    run = asyncio.run(main())
    assert run.failure is not None
    assert "expected step 'race/[0]/lost 1' (run)" in run.failure.message
