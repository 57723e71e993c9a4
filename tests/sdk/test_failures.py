"""Failures as flows see them: caught, replayed, and those of groups (MISSION S7, I16, 1.3 surprise 4)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import stepwire
from stepwire import ParallelMode, testing
from stepwire.protocol.failure import ErrorCode
from tests.sdk.gates import Gates, recorded, turns, until

REPLAY = pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
MODES = pytest.mark.parametrize("mode", list(ParallelMode), ids=lambda m: m.name)


def refuse() -> None:
    try:
        raise KeyError("no such card")
    except KeyError as cause:
        raise ValueError("payment refused") from cause


def describe(error: stepwire.StepError) -> dict[str, Any]:
    assert error.cause is not None
    return {
        "class": type(error).__name__,
        "type": error.type,
        "message": error.message,
        "path": error.path,
        "traceback": error.traceback,
        "cause": [error.cause.type, error.cause.message],
        "chained": repr(error.__cause__.type) if isinstance(error.__cause__, stepwire.StepError) else None,
    }


def caught(is_async: bool, replay: bool) -> dict[str, Any]:
    host = stepwire.Host("failures")

    async def in_tasks(ctx: stepwire.Context) -> dict[str, Any]:
        try:
            await ctx.step.run("charge", refuse, retries=1)
        except stepwire.StepError as error:
            found = describe(error)
        await ctx.step.run("next", lambda: None)  # with replay the error above comes from the journal
        return found

    def in_threads(ctx: stepwire.ContextSync) -> dict[str, Any]:
        try:
            ctx.step.run("charge", refuse, retries=1)
        except stepwire.StepError as error:
            found = describe(error)
        ctx.step.run("next", lambda: None)
        return found

    output: dict[str, Any] = testing.run(host, host.flow(in_tasks if is_async else in_threads), replay=replay).output
    return output


@ASYNC
def test_caught_error_survives_replay(is_async: bool) -> None:
    live, replayed = caught(is_async, False), caught(is_async, True)
    assert live == replayed
    assert (live["class"], live["type"], live["message"]) == ("StepError", "ValueError", "payment refused")
    assert live["path"] == "charge"
    assert live["cause"] == ["KeyError", "'no such card'"]
    assert live["chained"] == "'KeyError'"
    assert "in refuse" in live["traceback"] and live["traceback"].endswith("ValueError: payment refused\n")
    assert "stepwire/_runtime" not in live["traceback"], "frames of the SDK are no news"


@ASYNC
@REPLAY
def test_uncaught_error_fails_the_run(replay: bool, is_async: bool) -> None:
    """With the failure of the step itself; what comes later is never dispatched (I16)."""
    host = stepwire.Host("failures")
    later: list[str] = []

    async def in_tasks(ctx: stepwire.Context) -> None:
        await ctx.step.run("charge", refuse, retries=0)
        await ctx.step.run("later", later.append, "ran")

    def in_threads(ctx: stepwire.ContextSync) -> None:
        ctx.step.run("charge", refuse, retries=0)
        ctx.step.run("later", later.append, "ran")

    run = testing.run(host, host.flow(in_tasks if is_async else in_threads), replay=replay)
    assert run.failure is not None
    assert (run.failure.code, run.failure.type) == (ErrorCode.USER_ERROR, "ValueError")
    assert [s.path for s in run.record.steps] == ["charge"]
    assert later == []
    with pytest.raises(stepwire.RunFailed, match="payment refused"):
        _ = run.output


@ASYNC
def test_exception_of_the_flow_itself(is_async: bool) -> None:
    host = stepwire.Host("failures")

    async def in_tasks(ctx: stepwire.Context) -> None:
        raise LookupError("of the flow")

    def in_threads(ctx: stepwire.ContextSync) -> None:
        raise LookupError("of the flow")

    run = testing.run(host, host.flow(in_tasks if is_async else in_threads))
    assert run.failure is not None
    assert (run.failure.type, run.failure.message) == ("LookupError", "of the flow")
    assert "in_t" in run.failure.traceback


# ---- groups


class FailingGroup:
    """One member fails for good while its slow sibling is still at a gate."""

    def __init__(self, *, fails_first: bool, is_async: bool, mode: ParallelMode) -> None:
        self.host = stepwire.Host("failures")
        self.names = ("bad", "slow") if fails_first else ("slow", "bad")
        self.mode = mode
        self.flow = self.host.flow(self.in_tasks if is_async else self.in_threads)
        self.errors: list[stepwire.GroupFailed] = []
        self.gates = Gates()

    def bad(self) -> None:
        raise ValueError("bad")

    async def in_tasks(self, ctx: stepwire.Context) -> list[str]:
        steps = {
            "bad": lambda: ctx.step.run("bad", self.bad, retries=0),
            "slow": lambda: ctx.step.run("slow", self.gates.wait, "slow"),
        }
        try:
            await ctx.group.parallel([steps[n] for n in self.names], parallel_mode=self.mode)
        except stepwire.GroupFailed as error:
            self.errors.append(error)
        return [await ctx.step.run("after", lambda: "after")]

    def in_threads(self, ctx: stepwire.ContextSync) -> list[str]:
        steps = {
            "bad": lambda: ctx.step.run("bad", self.bad, retries=0),
            "slow": lambda: ctx.step.run("slow", self.gates.wait_sync, "slow"),
        }
        try:
            ctx.group.parallel([steps[n] for n in self.names], parallel_mode=self.mode)
        except stepwire.GroupFailed as error:
            self.errors.append(error)
        return [ctx.step.run("after", lambda: "after")]


@MODES
@REPLAY
@ASYNC
@pytest.mark.parametrize("fails_first", [True, False], ids=["bad first", "slow first"])
def test_slow_sibling_of_a_failed_member(fails_first: bool, is_async: bool, replay: bool, mode: ParallelMode) -> None:
    """The group fails after all settled; the sibling's callback runs once and its result is kept (surprise 4)."""

    async def main() -> None:
        fixture = FailingGroup(fails_first=fails_first, is_async=is_async, mode=mode)
        async with testing.environment(fixture.host, replay=replay) as env:
            run_id = await env.start(fixture.flow)
            finish = asyncio.create_task(env.finish(fixture.flow, run_id))
            await fixture.gates.until_reached("slow")
            await until("bad is recorded", lambda: recorded(env, run_id) == ["bad"])
            await turns()
            assert fixture.errors == [], "the group waits for its slow member"
            fixture.gates.open("slow")
            run = await finish
        assert run.output == ["after"]
        assert fixture.gates.reached == ["slow"]
        for error in fixture.errors:  # with replay once per entry of the body
            by_name = dict(zip(fixture.names, error.results, strict=True))
            assert (by_name["slow"].outcome, by_name["slow"].value) == ("completed", "slow")
            assert (by_name["bad"].outcome, by_name["bad"].error) == ("failed", error.__cause__)
            assert [f.message for f in error.failures] == ["bad"]
            assert error.cause is not None and error.cause.type == "ValueError"
        assert fixture.errors
        assert [s.output is not None for s in run.record.steps if s.path.endswith("slow")] == [True]

    asyncio.run(main())


@MODES
@REPLAY
@ASYNC
def test_failures_in_declaration_order(is_async: bool, replay: bool, mode: ParallelMode) -> None:
    """Whichever failed first in time (section 6)."""

    async def main() -> None:
        gates = Gates()
        host = stepwire.Host("failures")
        found: list[Any] = []

        async def fail(name: str) -> None:
            await gates.wait(name)
            raise ValueError(name)

        def note(error: stepwire.GroupFailed) -> None:
            cause = error.cause.message if error.cause else ""
            results = [r.error.message if r.error is not None else r.value for r in error.results]
            found.append((error.path, [f.message for f in error.failures], results, cause, error.code))

        async def in_tasks(ctx: stepwire.Context) -> None:
            try:
                await ctx.group.parallel(
                    (
                        lambda: ctx.step.run("a", fail, "a", retries=0),
                        lambda: ctx.step.run("b", lambda: "b"),
                        lambda: ctx.step.run("c", fail, "c", retries=0),
                    ),
                    name="pay",
                    parallel_mode=mode,
                )
            except stepwire.GroupFailed as error:
                note(error)

        def in_threads(ctx: stepwire.ContextSync) -> None:
            try:
                ctx.group.parallel(
                    (
                        lambda: ctx.step.run("a", fail, "a", retries=0),
                        lambda: ctx.step.run("b", lambda: "b"),
                        lambda: ctx.step.run("c", fail, "c", retries=0),
                    ),
                    name="pay",
                    parallel_mode=mode,
                )
            except stepwire.GroupFailed as error:
                note(error)

        flow = host.flow(in_tasks if is_async else in_threads)
        async with testing.environment(host, replay=replay) as env:
            run_id = await env.start(flow)
            finish = asyncio.create_task(env.finish(flow, run_id))
            await gates.until_reached("a", "c")
            gates.open("c")
            await until("c is recorded", lambda: "c" in recorded(env, run_id))
            gates.open("a")
            assert (await finish).succeeded
        assert found[-1] == ("pay", ["a", "c"], ["a", "b", "c"], "a", ErrorCode.GROUP_FAILED)

    asyncio.run(main())


@REPLAY
def test_code_of_a_branch_may_fail_and_nest(replay: bool) -> None:
    host = stepwire.Host("failures")

    @host.flow
    async def flow(ctx: stepwire.Context) -> list[str]:
        async def branch() -> None:
            await ctx.step.run("fine", lambda: 1)
            raise LookupError("of the branch")

        def at_once() -> None:
            raise LookupError("before any step")

        async def nested() -> None:
            await ctx.group.parallel((branch, at_once), name="inner")

        try:
            await ctx.group.parallel((nested, lambda: ctx.step.run("sibling", lambda: "kept")), name="outer")
        except stepwire.GroupFailed as error:
            inner, sibling = error.results
            assert isinstance(inner.error, stepwire.GroupFailed)
            return [f.message for f in inner.error.failures] + [sibling.value]
        return []

    run = testing.run(host, flow, replay=replay)
    assert run.output == ["of the branch", "before any step", "kept"]


@REPLAY
def test_uncaught_group_failure(replay: bool) -> None:
    host = stepwire.Host("failures")

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.group.parallel((lambda: ctx.step.run("a", refuse, retries=0), lambda: ctx.step.run("b", lambda: 1)))

    run = testing.run(host, flow, replay=replay)
    assert run.failure is not None and run.failure.cause is not None
    assert run.failure.code is ErrorCode.GROUP_FAILED
    assert "1 of 2 branches failed, the first with ValueError: payment refused" in run.failure.message
    assert run.failure.cause.type == "ValueError"
    assert run.failure.cause.cause is not None and run.failure.cause.cause.type == "KeyError"
