"""Groups that end before all their branches: who wins, and what becomes of the others (S12, S14, I8)."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

import stepwire
from stepwire import ParallelMode, testing
from stepwire.errors import GroupFailed
from stepwire.protocol.plan import BranchEnded, GroupEnded, Plan, Verdict
from stepwire.results import BranchResult
from stepwire.testing import Environment, TestRun
from stepwire_engine.core.entries import Planned
from stepwire_engine.core.history import StepStateView
from tests.sdk.gates import Gates, until

REPLAY = pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])


def plans(run: TestRun) -> list[Plan]:
    return [entry.plan for entry in run.journal if isinstance(entry, Planned)]


def ended(run: TestRun) -> list[GroupEnded]:
    return [group for plan in plans(run) for group in plan.groups_ended]


def branches_ended(run: TestRun) -> list[BranchEnded]:
    return [branch for plan in plans(run) for branch in plan.branches_ended]


def states(run: TestRun) -> dict[str, StepStateView]:
    return {step.path: step.state for step in run.record.steps}


def winner(won: BranchResult[Any]) -> tuple[int, str, Any]:
    return won.index, won.name, won.value


def drive(
    body: Callable[..., Any], script: Callable[[Environment, str], Any] | None = None, *, replay: bool = False
) -> TestRun:
    """Run a flow while `script` opens its gates."""

    async def main() -> TestRun:
        host = stepwire.Host("race")
        flow = host.flow(body)
        async with testing.environment(host, replay=replay) as env:
            run_id = await env.start(flow)
            finish = asyncio.create_task(env.finish(flow, run_id))
            if script is not None:
                await script(env, run_id)
            return await finish

    return asyncio.run(main())


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


# ---- what a loser sees


class Loser:
    """What the code of a branch that lost went through."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def in_task(self, ctx: stepwire.Context, waits: Callable[[], Any]) -> None:
        try:
            await waits()
        except Exception:
            self.log.append("an Exception")
        except asyncio.CancelledError:
            self.log.append("cancelled")
            for call in (lambda: ctx.step.run("late", print), lambda: ctx.group.parallel(()), lambda: ctx.uuid()):
                try:
                    call()
                except asyncio.CancelledError:
                    self.log.append("refused")
            raise
        finally:
            self.log.append("finally")

    def in_thread(self, ctx: stepwire.ContextSync, waits: Callable[[], Any]) -> None:
        try:
            waits()
        except Exception:
            self.log.append("an Exception")
        except asyncio.CancelledError:
            self.log.append("cancelled")
            for call in (lambda: ctx.step.run("late", print), lambda: ctx.group.parallel(()), lambda: ctx.uuid()):
                try:
                    call()
                except asyncio.CancelledError:
                    self.log.append("refused")
            raise
        finally:
            self.log.append("finally")


EXPECTED_LOG = ["cancelled", "refused", "refused", "refused", "finally"]


@pytest.mark.parametrize("waits", ["step", "code", "group", "tasks"])
def test_code_of_a_loser_is_cancelled_where_it_awaits(waits: str) -> None:
    """`except Exception` does not catch it, `finally` runs, and nothing can be decided any more."""
    loser = Loser()

    async def main() -> None:
        gates = Gates()

        async def step(ctx: stepwire.Context, name: str) -> str:
            return await ctx.step.run(name, gates.wait, name)

        async def flow(ctx: stepwire.Context) -> Any:
            async def tasks() -> None:
                async with asyncio.TaskGroup() as group:
                    group.create_task(step(ctx, "first"))
                    group.create_task(step(ctx, "second"))

            awaited: dict[str, Callable[[], Any]] = {
                "step": lambda: step(ctx, "first"),
                "code": lambda: gates.wait("first"),
                "group": lambda: ctx.group.parallel((lambda: step(ctx, "first"), lambda: step(ctx, "second"))),
                "tasks": tasks,
            }
            lost = lambda: loser.in_task(ctx, awaited[waits])  # noqa: E731
            won = await ctx.group.race((lost, lambda: ctx.step.run("quick", gates.wait, "quick")))
            await ctx.step.run("after", gates.wait, "after")
            return winner(won)

        host = stepwire.Host("race")
        registered = host.flow(flow)
        async with testing.environment(host) as env:
            run_id = await env.start(registered)
            finish = asyncio.create_task(env.finish(registered, run_id))
            await gates.until_reached("first", "quick")
            gates.open("quick")
            await until("its cleanup is over", lambda: "finally" in loser.log)
            gates.open("after")
            run = await finish
        assert run.output == [1, "quick", "quick"]
        assert all("late" not in path for path in states(run))
        assert {s for p, s in states(run).items() if p.startswith("race/[0]")} <= {StepStateView.CANCELLED}
        assert [branch.path for branch in branches_ended(run)] == ["race/[1]"]

    asyncio.run(main())
    assert loser.log == EXPECTED_LOG


@pytest.mark.parametrize("waits", ["step", "code", "group"])
def test_a_thread_of_a_loser_is_cancelled_in_its_call_or_at_its_next_one(waits: str) -> None:
    loser = Loser()

    async def main() -> None:
        gates = Gates()
        done = threading.Event()

        def flow(ctx: stepwire.ContextSync) -> Any:
            def step(name: str) -> str:
                return ctx.step.run(name, gates.wait, name)

            def code() -> None:
                gates.wait_sync("first")
                step("second")

            awaited: dict[str, Callable[[], Any]] = {
                "step": lambda: step("first"),
                "code": code,
                "group": lambda: ctx.group.parallel((lambda: step("first"), lambda: step("second"))),
            }

            def lost() -> None:
                try:
                    loser.in_thread(ctx, awaited[waits])
                finally:
                    done.set()

            won = ctx.group.race((lost, lambda: ctx.step.run("quick", gates.wait, "quick")))
            ctx.step.run("after", gates.wait, "after")
            return winner(won)

        host = stepwire.Host("race")
        registered = host.flow(flow)
        async with testing.environment(host) as env:
            run_id = await env.start(registered)
            finish = asyncio.create_task(env.finish(registered, run_id))
            await gates.until_reached("first", "quick")
            gates.open("quick")
            await gates.until_reached("after")
            gates.open("first")
            await until("the thread has ended", done.is_set)
            gates.open("after")
            run = await finish
        assert run.output == [1, "quick", "quick"]
        assert all(not path.endswith("late") for path in states(run))
        assert [branch.path for branch in branches_ended(run)] == ["race/[1]"]

    asyncio.run(main())
    assert loser.log == EXPECTED_LOG


def test_a_loser_that_catches_its_cancellation_changes_nothing() -> None:
    log: list[str] = []

    async def flow(ctx: stepwire.Context) -> Any:
        gate = asyncio.Event()

        async def stubborn() -> str:
            for name in "ab":
                try:
                    await ctx.step.run(name, gate.wait)
                except asyncio.CancelledError:
                    log.append(name)
            return "I won"

        async def quick() -> str:
            return await ctx.step.run("quick", lambda: "quick")

        won = await ctx.group.race((stubborn, quick))
        return [won.value, await ctx.step.run("after", lambda: "after")]

    run = drive(flow)
    assert run.output == ["quick", "after"]
    assert log == ["a", "b"]
    assert ended(run) == [GroupEnded("race", Verdict.OK, 2, (0,))]


def test_an_error_in_the_cleanup_of_a_loser_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def flow(ctx: stepwire.Context) -> Any:
        async def careless() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise LookupError("in the cleanup")

        return (await ctx.group.race((careless, lambda: ctx.step.run("quick", lambda: "quick")))).value

    with caplog.at_level(logging.WARNING, "stepwire.host"):
        assert drive(flow).output == "quick"
    (record,) = [r for r in caplog.records if "while it was being cancelled" in r.message]
    assert record.exc_info is not None and isinstance(record.exc_info[1], LookupError)


def test_a_step_that_a_loser_never_awaited_is_no_misuse() -> None:
    async def flow(ctx: stepwire.Context) -> Any:
        async def forgetful() -> None:
            ctx.step.run("forgotten", asyncio.Event().wait)
            ctx.group.parallel((lambda: ctx.step.run("inner", asyncio.Event().wait),))
            await asyncio.Event().wait()

        async def quick() -> str:
            await asyncio.sleep(0)
            return await ctx.step.run("quick", lambda: "quick")

        return (await ctx.group.race((forgetful, quick))).value

    run = drive(flow)
    assert run.output == "quick"
    assert states(run)["race/[0]/forgotten"] is StepStateView.CANCELLED
    assert states(run)["race/[0]/parallel/[0]/inner"] is StepStateView.CANCELLED


@REPLAY
def test_code_that_a_branch_left_behind_cannot_decide_after_its_end(replay: bool) -> None:
    """Also if the branch ended by itself: the engine knows no such scope any more."""
    log: list[str] = []

    async def flow(ctx: stepwire.Context) -> str:
        gate = asyncio.Event()
        tasks: list[asyncio.Task[Any]] = []

        async def left_behind() -> None:
            await gate.wait()
            try:
                await ctx.step.run("late", lambda: 1)
            except asyncio.CancelledError:
                log.append("refused")
                raise

        async def branch() -> str:
            tasks.append(asyncio.create_task(left_behind()))
            return await ctx.step.run("in time", lambda: "in time")

        (value,) = await ctx.group.parallel((branch,))
        gate.set()
        await asyncio.wait(tasks)
        return value

    run = drive(flow, replay=replay)
    assert run.output == "in time"
    assert set(log) == {"refused"} and list(states(run)) == ["parallel/[0]/in time"]


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


def planned(env: Environment, run_id: str) -> list[str]:
    return [s.path for e in env.journal(run_id) if isinstance(e, Planned) for s in e.plan.steps]


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


@pytest.mark.parametrize("mode", list(ParallelMode), ids=lambda m: m.name)
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
