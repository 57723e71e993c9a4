"""Groups that end before all their branches: who wins, alone and nested (S12, S14, I8)."""

from __future__ import annotations

import asyncio
from typing import Any

import stepwire
from stepwire import ParallelMode, testing
from stepwire.errors import GroupFailed
from stepwire.protocol.plan import GroupEnded, Verdict
from stepwire.results import BranchResult
from stepwire_engine.core.history import StepStateView
from tests.sdk.gates import Gates, until
from tests.sdk.group_records import (
    ASYNC,
    MODES,
    REPLAY,
    drive,
    ended,
    plans,
    states,
    winner,
)

# ---- winning


@REPLAY
@ASYNC
def test_a_race_goes_on_while_the_gate_of_the_loser_is_shut(is_async: bool, replay: bool) -> None:
    """Its step is told to stop, and is not run again (I8)."""
    won: list[BranchResult[str]] = []
    stopped: list[str] = []

    async def main() -> None:
        gates = Gates()

        async def slow() -> str:
            try:
                return await gates.wait("slow")  # type: ignore[no-any-return]
            except asyncio.CancelledError:
                stopped.append("slow")
                raise

        async def in_tasks(ctx: stepwire.Context) -> list[Any]:
            quick: Any = lambda: ctx.step.run("quick", gates.wait, "quick")  # noqa: E731
            won.append(await ctx.group.race((lambda: ctx.step.run("slow", slow), quick)))
            return [*winner(won[-1]), await ctx.step.run("after", gates.wait, "after")]

        def in_threads(ctx: stepwire.ContextSync) -> list[Any]:
            quick: Any = lambda: ctx.step.run("quick", gates.wait, "quick")  # noqa: E731
            won.append(ctx.group.race((lambda: ctx.step.run("slow", slow), quick)))
            return [*winner(won[-1]), ctx.step.run("after", gates.wait, "after")]

        host = stepwire.Host("race")
        flow = host.flow(in_tasks if is_async else in_threads)
        async with testing.environment(host, replay=replay) as env:
            run_id = await env.start(flow)
            finish = asyncio.create_task(env.finish(flow, run_id))
            await gates.until_reached("slow", "quick")
            gates.open("quick")
            await gates.until_reached("after")
            await until("the loser is told to stop", lambda: stopped == ["slow"])
            gates.open("after")
            run = await finish
        assert run.output == [1, "quick", "quick", "after"]
        assert gates.reached.count("slow") == 1 and gates.passed == ["quick", "after"]
        assert ended(run) == [GroupEnded("race", Verdict.OK, 2, (0,))]
        assert states(run) == {
            "race/[0]/slow": StepStateView.CANCELLED,
            "race/[1]/quick": StepStateView.SUCCEEDED,
            "after": StepStateView.SUCCEEDED,
        }

    asyncio.run(main())


@REPLAY
@ASYNC
def test_a_failed_branch_does_not_win(is_async: bool, replay: bool) -> None:
    def fail(name: str) -> str:
        raise ValueError(name)

    async def in_tasks(ctx: stepwire.Context) -> Any:
        steps = [lambda: ctx.step.run("bad", fail, "bad", retries=0), lambda: ctx.step.run("good", lambda: "good")]
        return winner(await ctx.group.race(steps))

    def in_threads(ctx: stepwire.ContextSync) -> Any:
        steps = [lambda: ctx.step.run("bad", fail, "bad", retries=0), lambda: ctx.step.run("good", lambda: "good")]
        return winner(ctx.group.race(steps))

    assert drive(in_tasks if is_async else in_threads, replay=replay).output == [1, "good", "good"]


@REPLAY
@ASYNC
def test_a_race_that_everybody_lost_fails_with_all_failures(is_async: bool, replay: bool) -> None:
    def fail(name: str) -> str:
        raise ValueError(name)

    def told(error: GroupFailed) -> list[str]:
        assert isinstance(error.__cause__, stepwire.StepError)
        return [error.__cause__.message, *(failure.message for failure in error.failures)]

    async def in_tasks(ctx: stepwire.Context) -> Any:
        try:
            await ctx.group.race([lambda n=n: ctx.step.run(n, fail, n, retries=0) for n in "abc"])
        except GroupFailed as error:
            return told(error)

    def in_threads(ctx: stepwire.ContextSync) -> Any:
        try:
            ctx.group.race([lambda n=n: ctx.step.run(n, fail, n, retries=0) for n in "abc"])
        except GroupFailed as error:
            return told(error)

    assert drive(in_tasks if is_async else in_threads, replay=replay).output == ["a", "a", "b", "c"]


@REPLAY
def test_a_branch_without_steps_wins_at_once_and_nothing_of_the_others_is_planned(replay: bool) -> None:
    """A step planned in the tick in which its branch lost is neither begun nor sent; later branches are not called."""
    called: list[str] = []

    async def flow(ctx: stepwire.Context) -> Any:
        def third() -> str:
            called.append("third")
            return "third"

        won = await ctx.group.race((lambda: ctx.step.run("never", called.append, "step"), lambda: "plain", third))
        return [*winner(won), await ctx.step.run("after", lambda: "after")]

    run = drive(flow, replay=replay)
    assert run.output == [1, "", "plain", "after"]
    assert called == []
    assert list(states(run)) == ["after"]
    assert ended(run) == [GroupEnded("race", Verdict.OK, 2, (0, 2))]


def test_steps_that_run_when_their_branch_loses_in_the_same_frame_are_recorded_and_cancelled() -> None:
    """Of what the loser had planned, the plan names what runs already, and that is told to stop; the rest never was."""
    stopped: list[str] = []

    async def endless(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(name)

    async def flow(ctx: stepwire.Context) -> Any:
        async def busy() -> None:
            for i in range(10):
                ctx.step.run(f"s{i}", endless, f"s{i}")
                await asyncio.sleep(0)

        async def some_turns() -> str:
            for _ in range(3):
                await asyncio.sleep(0)
            return "turns"

        won = await ctx.group.race((busy, some_turns))
        # The virtual clock moves on only if no attempt runs any more.
        await ctx.step.sleep("until they stopped", "1h")
        return [*winner(won), sorted(stopped)]

    run = drive(flow)
    (first, *_) = plans(run)
    assert first.groups_ended, "the whole race is one plan"
    begun = [step.path for step in first.steps if step.path.startswith("race")]
    assert 0 < len(begun) < 10 and all(step.started for step in first.steps if step.path in begun)
    assert {p: s for p, s in states(run).items() if p.startswith("race")} == dict.fromkeys(
        begun, StepStateView.CANCELLED
    )
    assert run.output == [1, "some_turns", "turns", [path.rpartition("/")[2] for path in begun]]


# ---- nesting


@REPLAY
@ASYNC
def test_groups_inside_a_loser_stop_with_it(is_async: bool, replay: bool) -> None:
    stopped: list[str] = []

    async def main() -> None:
        gates = Gates()

        async def held(name: str) -> str:
            try:
                return await gates.wait(name)  # type: ignore[no-any-return]
            except asyncio.CancelledError:
                stopped.append(name)
                raise

        async def in_tasks(ctx: stepwire.Context) -> Any:
            inner = lambda: ctx.group.parallel((lambda: ctx.step.run("x", held, "x"), deep))  # noqa: E731
            deep = lambda: ctx.group.race([lambda n=n: ctx.step.run(n, held, n) for n in "yz"])  # noqa: E731
            won = await ctx.group.race((inner, lambda: ctx.step.run("quick", gates.wait, "quick")))
            return [*winner(won), await ctx.step.run("after", gates.wait, "after")]

        def in_threads(ctx: stepwire.ContextSync) -> Any:
            inner = lambda: ctx.group.parallel((lambda: ctx.step.run("x", held, "x"), deep))  # noqa: E731
            deep = lambda: ctx.group.race([lambda n=n: ctx.step.run(n, held, n) for n in "yz"])  # noqa: E731
            won = ctx.group.race((inner, lambda: ctx.step.run("quick", gates.wait, "quick")))
            return [*winner(won), ctx.step.run("after", gates.wait, "after")]

        host = stepwire.Host("race")
        flow = host.flow(in_tasks if is_async else in_threads)
        async with testing.environment(host, replay=replay) as env:
            run_id = await env.start(flow)
            finish = asyncio.create_task(env.finish(flow, run_id))
            await gates.until_reached("x", "y", "z", "quick")
            gates.open("quick")
            await until("all of them are told to stop", lambda: sorted(stopped) == ["x", "y", "z"])
            await gates.until_reached("after")
            gates.open("after")
            run = await finish
        assert run.output == [1, "quick", "quick", "after"]
        assert [group.path for group in ended(run)] == ["race"], "groups of the loser have no end of their own"
        assert {s for p, s in states(run).items() if p.startswith("race/[0]/")} == {StepStateView.CANCELLED}

    asyncio.run(main())


@REPLAY
@ASYNC
def test_a_race_inside_a_parallel_and_a_race_inside_a_race(is_async: bool, replay: bool) -> None:
    async def main() -> None:
        gates = Gates()

        async def in_tasks(ctx: stepwire.Context) -> Any:
            def step(name: str) -> Any:
                return lambda: ctx.step.run(name, gates.wait, name)

            async def race(*names: str) -> Any:
                return winner(await ctx.group.race([step(n) for n in names]))

            first = await ctx.group.parallel((lambda: race("a", "b"), lambda: race("c", "d")))
            second = await ctx.group.race((lambda: race("e", "f"), lambda: race("g", "h")))
            return [list(map(list, first)), list(winner(second))]

        def in_threads(ctx: stepwire.ContextSync) -> Any:
            def step(name: str) -> Any:
                return lambda: ctx.step.run(name, gates.wait, name)

            def race(*names: str) -> Any:
                return winner(ctx.group.race([step(n) for n in names]))

            first = ctx.group.parallel((lambda: race("a", "b"), lambda: race("c", "d")))
            second = ctx.group.race((lambda: race("e", "f"), lambda: race("g", "h")))
            return [list(map(list, first)), list(winner(second))]

        host = stepwire.Host("race")
        flow = host.flow(in_tasks if is_async else in_threads)
        async with testing.environment(host, replay=replay) as env:
            run_id = await env.start(flow)
            finish = asyncio.create_task(env.finish(flow, run_id))
            await gates.until_reached(*"abcd")
            gates.open("d")
            await gates.until_passed("d")
            gates.open("a")
            await gates.until_reached(*"efgh")
            gates.open("g")
            run = await finish
        first, second = run.output
        assert first == [[0, "a", "a"], [1, "d", "d"]]
        assert second == [1, "", [0, "g", "g"]]
        assert {p: s.name for p, s in states(run).items() if s is StepStateView.SUCCEEDED} == {
            f"{path}": "SUCCEEDED"
            for path in ("parallel/[0]/race/[0]/a", "parallel/[1]/race/[1]/d", "race/[1]/race/[0]/g")
        }

    asyncio.run(main())


@REPLAY
def test_a_race_that_user_code_gave_up_on(replay: bool) -> None:
    async def flow(ctx: stepwire.Context) -> str:
        async def race() -> None:
            await ctx.group.race([lambda n=n: ctx.step.run(n, asyncio.Event().wait) for n in "ab"])

        task = asyncio.create_task(race())
        await ctx.step.run("meanwhile", lambda: 1)
        task.cancel()
        await asyncio.wait([task])
        return await ctx.step.run("after", lambda: "after")

    run = drive(flow, replay=replay)
    assert run.output == "after"
    assert states(run)["race/[0]/a"] is states(run)["race/[1]/b"] is StepStateView.CANCELLED


@MODES
def test_many_races_at_once_win_once_each(mode: ParallelMode, seed: int) -> None:
    """A wide group of races, replayed at every release: every verdict the same (seed sets who is quick)."""
    width = 20

    async def flow(ctx: stepwire.Context) -> list[int]:
        async def contender(i: int, k: int) -> int:
            for _ in range((i * 7 + k * 3 + seed) % 4):
                await asyncio.sleep(0)
            return await ctx.step.run(f"s{k}", lambda: k)

        async def race(i: int) -> int:
            return (await ctx.group.race([lambda k=k: contender(i, k) for k in range(3)])).value  # type: ignore[misc]

        return list(await ctx.group.parallel([lambda i=i: race(i) for i in range(width)], parallel_mode=mode))

    for replay in (False, True):
        run = drive(flow, replay=replay)
        assert run.succeeded, run.failure
        by_path = {group.path: group.winner for group in ended(run)}
        # A winner is recorded as its number from 1, or as 0 if there was no branch left that could lose.
        for i, value in enumerate(run.output):
            assert by_path[f"parallel/[{i}]/race"] in (value + 1, 0)
