"""What becomes of a branch that lost: its code, its steps, and what it left behind (S12, S14)."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

import stepwire
from stepwire import testing
from stepwire.protocol.plan import GroupEnded, Verdict
from stepwire_engine.core.history import StepStateView
from tests.sdk.gates import Gates, until
from tests.sdk.group_records import (
    REPLAY,
    branches_ended,
    drive,
    ended,
    states,
    winner,
)

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


@pytest.mark.live_bodies
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


@pytest.mark.live_bodies
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


@pytest.mark.live_bodies
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
