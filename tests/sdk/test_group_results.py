"""What a group tells of its branches and their steps; the same in every replay (S5, O4, O8)."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import stepwire
from stepwire import testing
from stepwire.errors import GroupFailed, StepError
from stepwire.results import BranchResult, GroupResult, StepResult
from stepwire.testing import TestRun
from tests.sdk.gates import Gates, until
from tests.sdk.group_records import ASYNC, REPLAY


def fixed(retries: int, delay: float) -> stepwire.Retry:
    return stepwire.Retry(retries=retries, backoff="fixed", delay=delay, jitter=0)


class Telling:
    """A flow whose group fails in all the ways a branch can end, and what it was told of it.

    The flaky step takes two retries of 10 s, the failing one three of 1 s; time is the engine's.
    """

    def __init__(self, *, is_async: bool) -> None:
        self.told: list[GroupResult[Any]] = []
        self.started: list[datetime] = []
        self.host = stepwire.Host("results")
        self.flow = self.host.flow(self.in_tasks if is_async else self.in_threads)

    def flaky(self) -> str:
        info = stepwire.current_attempt()
        assert info is not None
        if info.attempt < 3:
            raise ValueError("not yet")
        return "at last"

    def refuse(self) -> None:
        raise ValueError("never")

    async def in_tasks(self, ctx: stepwire.Context) -> list[Any]:
        async def works() -> str:
            first = await ctx.step.run("work", lambda: "first")
            await ctx.group.parallel((lambda: ctx.step.run("inner", lambda: 1),))
            return first + await ctx.step.run("work", lambda: "second")

        async def breaks() -> None:
            await ctx.step.run("fine", lambda: "fine")
            raise LookupError("of the branch")

        await ctx.step.sleep("before", 60)
        self.started.append(ctx.now())
        try:
            await ctx.group.parallel(
                (
                    works,
                    lambda: ctx.step.run("a/b", self.flaky, retries=fixed(2, 10)),
                    lambda: ctx.step.run("bad", self.refuse, retries=fixed(3, 1)),
                    breaks,
                    lambda: "plain",
                    lambda: ctx.step.sleep("nap", "1h"),
                )
            )
        except GroupFailed as error:
            self.told.append(error.results)
        return [await ctx.step.run("after", lambda: "after"), summary(self.told[-1])]

    def in_threads(self, ctx: stepwire.ContextSync) -> list[Any]:
        def works() -> str:
            first = ctx.step.run("work", lambda: "first")
            ctx.group.parallel((lambda: ctx.step.run("inner", lambda: 1),))
            return first + ctx.step.run("work", lambda: "second")

        def breaks() -> None:
            ctx.step.run("fine", lambda: "fine")
            raise LookupError("of the branch")

        ctx.step.sleep("before", 60)
        self.started.append(ctx.now())
        try:
            ctx.group.parallel(
                (
                    works,
                    lambda: ctx.step.run("a/b", self.flaky, retries=fixed(2, 10)),
                    lambda: ctx.step.run("bad", self.refuse, retries=fixed(3, 1)),
                    breaks,
                    lambda: "plain",
                    lambda: ctx.step.sleep("nap", "1h"),
                )
            )
        except GroupFailed as error:
            self.told.append(error.results)
        return [ctx.step.run("after", lambda: "after"), summary(self.told[-1])]


def summary(results: GroupResult[Any]) -> list[Any]:
    """Everything of the results that can be written down."""
    return [
        [
            branch.index,
            branch.name,
            branch.outcome,
            branch.value,
            branch.error.message if branch.error else None,
            [
                [s.name, s.path, s.status, s.attempts, str(s.started_at), str(s.ended_at), s.duration, s.output]
                for s in branch.steps
            ],
        ]
        for branch in results
    ]


def told(*, is_async: bool, replay: bool = False) -> tuple[Telling, TestRun]:
    telling = Telling(is_async=is_async)
    run = testing.run(telling.host, telling.flow, replay=replay)
    assert run.succeeded, run.failure
    return telling, run


@REPLAY
@ASYNC
def test_how_each_branch_and_each_of_its_steps_ended(is_async: bool, replay: bool) -> None:
    telling, _ = told(is_async=is_async, replay=replay)
    results = telling.told[-1]
    assert [branch.outcome for branch in results] == ["completed"] * 2 + ["failed"] * 2 + ["completed"] * 2
    assert [branch.name for branch in results] == ["works", "a/b", "bad", "breaks", "", "nap"]
    assert [branch.index for branch in results] == list(range(6))
    assert [branch.value for branch in results] == ["firstsecond", "at last", None, None, "plain", None]
    assert [branch.ok for branch in results] == [True, True, False, False, True, True]

    works, flaky, bad, breaks, plain, nap = results
    assert [(s.name, s.path, s.output) for s in works.steps] == [
        ("work", "parallel/[0]/work", "first"),
        ("work", "parallel/[0]/work#2", "second"),
    ], "not those of groups inside"
    assert (flaky.steps[0].attempts, flaky.steps[0].status, flaky.steps[0].duration) == (3, "completed", 20.0)
    assert (bad.steps[0].attempts, bad.steps[0].status, bad.steps[0].duration) == (4, "failed", 3.0)
    assert (nap.steps[0].name, nap.steps[0].duration) == ("nap", 3600.0)
    assert plain.steps == ()

    assert bad.error is not None and bad.error is bad.steps[0].error
    assert (bad.error.path, bad.error.type) == ("parallel/[2]/bad", "ValueError")
    assert type(breaks.error) is StepError and isinstance(breaks.error.__cause__, LookupError)
    assert (breaks.error.path, breaks.error.message) == ("parallel/[3]", "of the branch")
    assert [step.status for step in breaks.steps] == ["completed"]


@REPLAY
@ASYNC
def test_times_are_those_of_the_flow(is_async: bool, replay: bool) -> None:
    telling, run = told(is_async=is_async, replay=replay)
    for branch in telling.told[-1]:
        for step in branch.steps:
            assert step.started_at is not None and step.ended_at is not None and step.duration is not None
            assert step.ended_at == step.started_at + timedelta(seconds=step.duration)
            (recorded,) = [s for s in run.record.steps if s.path == step.path]
            assert step.started_at.timestamp() * 1000 == pytest.approx(recorded.planned_at_ms)
            assert step.ended_at.timestamp() * 1000 == pytest.approx(recorded.ended_at_ms)
            assert len(recorded.attempts) == step.attempts
    first = telling.told[-1][0].steps[0]
    assert first.started_at == telling.started[-1] and first.started_at.tzinfo is UTC


def test_every_way_to_run_it_tells_the_same() -> None:
    outputs = [told(is_async=a, replay=r)[1].output for a in (True, False) for r in (False, True)]
    assert outputs[0] == outputs[1] == outputs[2] == outputs[3]


@REPLAY
@ASYNC
def test_steps_of_a_cancelled_branch(is_async: bool, replay: bool) -> None:
    """What had its outcome keeps it; what had not is cancelled when the group ended."""
    results: list[GroupResult[str]] = []

    async def in_tasks(ctx: stepwire.Context) -> None:
        async def loses() -> str:
            await ctx.step.run("done", lambda: "done")
            return await ctx.step.run("open", asyncio.Event().wait)  # type: ignore[return-value]

        async def wins() -> str:
            await ctx.step.sleep("nap", 30)
            return "won"

        results.append(await ctx.group.parallel((loses, wins), fail="all", cancel_siblings=True))
        await ctx.step.run("after", lambda: 1)

    def in_threads(ctx: stepwire.ContextSync) -> None:
        def loses() -> str:
            ctx.step.run("done", lambda: "done")
            return ctx.step.run("open", asyncio.Event().wait)  # type: ignore[return-value]

        def wins() -> str:
            ctx.step.sleep("nap", 30)
            return "won"

        results.append(ctx.group.parallel((loses, wins), fail="all", cancel_siblings=True))
        ctx.step.run("after", lambda: 1)

    async def main() -> None:
        host = stepwire.Host("results")
        flow = host.flow(in_tasks if is_async else in_threads)
        async with testing.environment(host, replay=replay) as env:
            run_id = await env.start(flow)
            finish = asyncio.create_task(env.finish(flow, run_id))
            await until("the step is open", lambda: "parallel/[0]/open" in env.engine.driver.core.runs[run_id].steps)
            await env.engine.driver.settled()
            # The step that is open executes for ever, so the clock does not move by itself.
            await env.engine.advance(30)
            assert (await finish).succeeded

    asyncio.run(main())
    loses, wins = results[-1]
    assert (loses.outcome, loses.name, loses.value, loses.error) == ("cancelled", "loses", None, None)
    done, left = loses.steps
    assert (done.status, done.attempts, done.output) == ("completed", 1, "done")
    assert (left.name, left.status, left.attempts, left.duration, left.output) == ("open", "cancelled", 0, None, None)
    assert left.ended_at == wins.steps[0].ended_at
    assert results[-1].cancelled == (loses,) and results[-1].values == ("won",)


def test_a_step_that_user_code_gave_up_on_is_cancelled_and_one_left_behind_is_not_told() -> None:
    async def flow(ctx: stepwire.Context) -> list[Any]:
        async def branch() -> None:
            given_up = ctx.step.run("given up", asyncio.Event().wait)
            given_up.cancel()
            ctx.step.sleep("left behind", 60)

        results = await ctx.group.settle((branch,))
        return [[step.name, step.status] for step in results[0].steps]

    host = stepwire.Host("results")
    run = testing.run(host, host.flow(flow))
    assert run.failure is not None and "left behind" in run.failure.message, "it is misuse as ever (P13)"

    async def tidy(ctx: stepwire.Context) -> list[Any]:
        left: list[Any] = []

        async def branch() -> None:
            given_up = ctx.step.run("given up", asyncio.Event().wait)
            given_up.cancel()
            left.append(ctx.step.sleep("left behind", 60))

        results = await ctx.group.settle((branch,))
        await left[0]
        return [[step.name, step.status] for step in results[0].steps]

    host = stepwire.Host("results")
    assert testing.run(host, host.flow(tidy)).output == [["given up", "cancelled"]]


@REPLAY
def test_what_a_loser_had_planned_and_nobody_was_told_is_not_in_its_result(replay: bool) -> None:
    """It would not be there in a replay, in which the loser is slower."""

    async def main() -> list[Any]:
        gates = Gates()
        host = stepwire.Host("results")

        @host.flow
        async def flow(ctx: stepwire.Context) -> list[Any]:
            results = await ctx.group.parallel(
                (lambda: ctx.step.run("unsaid", gates.wait, "unsaid"), lambda: 1),  # type: ignore[arg-type, return-value]
                fail="all",
                cancel_siblings=True,
            )
            await ctx.step.run("after", lambda: 1)
            return [[branch.name, branch.outcome, len(branch.steps)] for branch in results]

        async with testing.environment(host, replay=replay) as env:
            return await env.run(flow)  # type: ignore[no-any-return]

    assert asyncio.run(main()) == [["", "cancelled", 0], ["", "completed", 0]]


@pytest.mark.live_bodies
@pytest.mark.parametrize("options", [{}, {"fail": "never"}, {"cancel_siblings": True}], ids=str)
def test_verdict_and_results_cost_no_more_than_the_width(options: Any) -> None:
    """Lines that run per branch do not grow with the width."""

    def calls(width: int) -> int:
        counted: Counter[str] = Counter()

        async def flow(ctx: stepwire.Context) -> None:
            await ctx.group.map("s{i}", abs, range(width), **options)

        host = stepwire.Host("results")
        with Profiled(counted):
            testing.run(host, host.flow(flow))
        return counted["group"]

    assert calls(400) <= 4.5 * calls(100)


class Profiled:
    """Counts lines that run in the modules of groups."""

    def __init__(self, counted: Counter[str]) -> None:
        self._counted = counted

    def __enter__(self) -> None:
        names = (
            "protocol/verdict.py",
            "_runtime/group.py",
            "_runtime/report.py",
            "_runtime/tally.py",
            "_runtime/scope.py",
        )

        def trace(frame: Any, event: str, arg: object) -> Callable[..., Any] | None:
            if not frame.f_code.co_filename.endswith(names):
                return None
            self._counted["group"] += 1
            return trace

        sys.settrace(trace)

    def __exit__(self, *raised: object) -> None:
        sys.settrace(None)


# ---- the values themselves


def branch(index: int, outcome: Any, value: Any = None) -> BranchResult[Any]:
    error = StepError("no") if outcome == "failed" else None
    return BranchResult(index=index, name=f"b{index}", outcome=outcome, value=value, error=error)


def test_a_group_result_is_a_sequence() -> None:
    made = GroupResult([branch(0, "completed", 1), branch(1, "failed"), branch(2, "cancelled"), branch(3, "completed")])
    assert len(made) == 4 and [b.index for b in made] == [0, 1, 2, 3]
    assert made[1].outcome == "failed" and made[-1].index == 3
    assert [b.index for b in made[1:3]] == [1, 2] and made[0] in made
    assert [b.index for b in made.completed] == [0, 3] and made.values == (1, None)
    assert [b.index for b in made.failed] == [1] and [b.index for b in made.cancelled] == [2]
    assert GroupResult() == GroupResult([]) and not GroupResult()
    assert GroupResult([branch(0, "completed")]) == GroupResult([branch(0, "completed")]) != GroupResult()
    assert repr(GroupResult()) == "GroupResult([])"


def test_results_cannot_be_changed_but_copied_and_pickled() -> None:
    step = StepResult(name="s", path="p/[0]/s", status="completed", attempts=1)
    made = GroupResult(
        [branch(0, "completed", 1), BranchResult(index=1, name="", outcome="cancelled", value=None, steps=(step,))]
    )
    with pytest.raises(AttributeError):
        step.attempts = 2  # type: ignore[misc]
    for twin in (copy.copy(made), pickle.loads(pickle.dumps(made))):
        assert twin == made and twin[1].steps == (step,)
