"""`ctx.group.map`: one step for each item, without a task or a thread for each (S10, I13)."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest

import stepwire
from stepwire import ConfigurationError, testing
from stepwire.errors import GroupFailed, InvalidInput, InvalidStepName, LimitExceeded
from stepwire.protocol.plan import StepKind
from stepwire.results import GroupResult
from stepwire.testing import TestRun
from stepwire_engine.core.entries import Planned
from tests.evicting import Entries
from tests.sdk.group_records import ASYNC, REPLAY, steps_planned

WIDE = 10_000
MANY = 1_000


def mapped(template: str, fn: Any, items: Any, *, is_async: bool, replay: bool = False, **options: Any) -> TestRun:
    """Run a flow that maps and tells what it got."""
    host = stepwire.Host("map")

    async def in_tasks(ctx: stepwire.Context) -> Any:
        return told(await ctx.group.map(template, fn, items, **options))

    def in_threads(ctx: stepwire.ContextSync) -> Any:
        return told(ctx.group.map(template, fn, items, **options))

    return testing.run(host, host.flow(in_tasks if is_async else in_threads), replay=replay)


def told(given: Any) -> Any:
    return [[b.index, b.name, b.outcome, b.value] for b in given] if isinstance(given, GroupResult) else given


@REPLAY
@ASYNC
def test_a_hundred_chunks_each_once_in_order(is_async: bool, replay: bool) -> None:
    """100 distinct ids, each item passed once, the reduce step sees them in input order (I13)."""
    calls: Counter[str] = Counter()
    seen: list[list[str]] = []

    def summarize(chunk: str) -> str:
        calls[chunk] += 1
        return chunk.upper()

    def reduce(parts: list[str]) -> str:
        seen.append(parts)
        return "".join(parts)

    chunks = [f"chunk{i};" for i in range(100)]
    host = stepwire.Host("map")

    async def in_tasks(ctx: stepwire.Context) -> str:
        parts = await ctx.group.map("summarize-chunk-{i}", summarize, chunks)
        return await ctx.step.run("reduce", reduce, list(parts))

    def in_threads(ctx: stepwire.ContextSync) -> str:
        parts = ctx.group.map("summarize-chunk-{i}", summarize, chunks)
        return ctx.step.run("reduce", reduce, list(parts))

    run = testing.run(host, host.flow(in_tasks if is_async else in_threads), replay=replay)
    assert run.output == "".join(chunks).upper()
    assert seen == [[chunk.upper() for chunk in chunks]]
    assert calls == dict.fromkeys(chunks, 1)
    assert steps_planned(run) == [*(f"map/[{i}]/summarize-chunk-{i}" for i in range(100)), "reduce"]


@ASYNC
def test_an_item_costs_no_task_and_no_thread(is_async: bool) -> None:
    tasks: list[int] = []
    threads: list[int] = []

    async def count(item: int) -> int:
        names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
        tasks.append(sum(name.startswith(("_drive", "mapped")) for name in names))
        threads.append(sum(thread.name.startswith("stepwire-branch") for thread in threading.enumerate()))
        return item

    before = sum(thread.name.startswith("stepwire-branch") for thread in threading.enumerate())
    assert mapped("s", count, range(100), is_async=is_async).output == list(range(100))
    assert max(tasks) == 0 if not is_async else max(tasks) <= 1
    assert max(threads) <= before + 1, "the flow's own"


@ASYNC
def test_more_items_than_a_host_has_threads(is_async: bool) -> None:
    assert mapped("s{i}", abs, range(MANY), is_async=is_async).output == list(range(MANY))


@pytest.mark.timeout(120)
def test_ten_thousand_items() -> None:
    run = mapped("s{i}", lambda item: item, range(WIDE), is_async=True)
    assert run.output == list(range(WIDE))
    assert run.record.stats.releases == 1 and run.body_entries == Entries(1)


def test_too_many_items_plan_nothing() -> None:
    host = stepwire.Host("map")

    @host.flow
    async def flow(ctx: stepwire.Context) -> str:
        try:
            ctx.group.map("s", abs, range(WIDE + 1))
        except LimitExceeded as error:
            return error.message
        return ""

    run = testing.run(host, flow)
    assert run.output == f"group 'map' has {WIDE + 1} branches, limit {WIDE}"
    assert steps_planned(run) == []


@ASYNC
def test_a_loop_variable_that_changes_later_changes_nothing(is_async: bool) -> None:
    """`lambda: f(i)` in a loop would see the last item in every branch."""
    items = [{"n": i} for i in range(3)]

    def take(item: dict[str, int]) -> int:
        return item["n"]

    host = stepwire.Host("map")

    async def in_tasks(ctx: stepwire.Context) -> list[int]:
        given = list(items)
        group = ctx.group.map("s{i}", take, (item for item in given))
        given.clear()
        return list(await group)

    def in_threads(ctx: stepwire.ContextSync) -> list[int]:
        return list(ctx.group.map("s{i}", take, (item for item in items)))

    assert testing.run(host, host.flow(in_tasks if is_async else in_threads)).output == [0, 1, 2]


@pytest.mark.parametrize(
    ("template", "second"),
    [
        ("s-{i}", "s-1"),
        ("{i}/{i}", "1%2F1"),
        ("same", "same"),
        ("{item} {j} {", "{item} {j} {"),
        ("%s", "%25s"),
    ],
)
def test_a_template_knows_the_index_and_nothing_else(template: str, second: str) -> None:
    assert steps_planned(mapped(template, abs, [1, 2], is_async=True))[1] == f"map/[1]/{second}"


@REPLAY
@ASYNC
def test_registered_steps_are_mapped_as_tasks(is_async: bool, replay: bool) -> None:
    host = stepwire.Host("map")

    @host.step
    async def double(item: int) -> int:
        return 2 * item

    async def in_tasks(ctx: stepwire.Context) -> list[int]:
        return list(await ctx.group.map("d{i}", double, [1, 2, 3]))

    def in_threads(ctx: stepwire.ContextSync) -> list[int]:
        return list(ctx.group.map("d{i}", double, [1, 2, 3]))

    run = testing.run(host, host.flow(in_tasks if is_async else in_threads), replay=replay)
    assert run.output == [2, 4, 6]
    assert {step.kind for step in run.record.steps} == {StepKind.TASK}


@REPLAY
@ASYNC
def test_an_empty_map(is_async: bool, replay: bool) -> None:
    assert mapped("s{i}", abs, [], is_async=is_async, replay=replay).output == []


# ---- policies


def odd_fails(item: int) -> int:
    if item % 2:
        raise ValueError(f"odd {item}")
    return item


@REPLAY
@ASYNC
def test_map_settles(is_async: bool, replay: bool) -> None:
    run = mapped("s{i}", odd_fails, range(4), is_async=is_async, replay=replay, fail="never", retries=0)
    assert run.output == [
        [0, "s0", "completed", 0],
        [1, "s1", "failed", None],
        [2, "s2", "completed", 2],
        [3, "s3", "failed", None],
    ]


@REPLAY
@ASYNC
def test_map_fails_by_its_policy(is_async: bool, replay: bool) -> None:
    run = mapped("s{i}", odd_fails, range(4), is_async=is_async, replay=replay, retries=0)
    assert run.failure is not None and run.failure.cause is not None
    assert "2 of 4 branches failed" in run.failure.message and run.failure.cause.message == "odd 1"
    assert mapped("s{i}", odd_fails, [1, 2], is_async=is_async, replay=replay, fail="all", retries=0).succeeded
    assert not mapped("s{i}", odd_fails, [1, 3], is_async=is_async, replay=replay, fail="all", retries=0).succeeded


@ASYNC
def test_map_with_cancel_siblings(is_async: bool) -> None:
    async def fail_or_wait(item: int) -> None:
        if item == 2:
            raise ValueError("two")
        await asyncio.Event().wait()

    run = mapped("s{i}", fail_or_wait, range(4), is_async=is_async, cancel_siblings=True, retries=0)
    assert run.failure is not None and "1 of 4 branches failed" in run.failure.message


@ASYNC
def test_policies_of_its_steps(is_async: bool) -> None:
    attempts: Counter[int] = Counter()

    def flaky(item: int) -> int:
        attempts[item] += 1
        if attempts[item] < 3:
            raise ValueError("not yet")
        return item

    retry = stepwire.Retry(retries=2, delay=1)
    run = mapped("s{i}", flaky, [1, 2], is_async=is_async, retries=retry, timeout="5s")
    assert run.output == [1, 2] and attempts == {1: 3, 2: 3}
    (planned, *_) = [e.plan.steps for e in run.journal if isinstance(e, Planned)]
    assert {step.timeout for step in planned} == {5.0}


# ---- mistakes


@ASYNC
@pytest.mark.parametrize(
    ("template", "fn", "options", "refusal"),
    [
        ("s", 17, {}, ConfigurationError),
        ("s", abs, {"retries": -1}, ConfigurationError),
        ("s", abs, {"timeout": "soon"}, ConfigurationError),
        ("s", abs, {"compensate": 17}, ConfigurationError),
        ("s", abs, {"limit": 0}, ConfigurationError),
        ("s", abs, {"fail": "some"}, ConfigurationError),
        ("", abs, {}, InvalidStepName),
        ("x" * 300, abs, {}, InvalidStepName),
    ],
)
def test_a_mistake_plans_nothing(
    template: str, fn: Any, options: Any, refusal: type[Exception], is_async: bool
) -> None:
    run = mapped(template, fn, [1, 2], is_async=is_async, **options)
    assert run.failure is not None and run.failure.type == refusal.__name__
    assert steps_planned(run) == [] and run.record.groups == ()


def test_an_item_that_does_not_fit_a_registered_step_plans_nothing() -> None:
    host = stepwire.Host("map")

    @host.step
    async def double(item: int) -> int:
        return 2 * item

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.group.map("d{i}", double, [1, "two"])

    run = testing.run(host, flow)
    assert run.failure is not None and run.failure.type == InvalidInput.__name__
    assert run.record.groups == ()


@REPLAY
def test_steps_over_the_limit_of_a_run_fail_as_branches(replay: bool) -> None:
    """The first of two maps fits; of the second one only what is left is planned (P14)."""

    async def main() -> TestRun:
        host = stepwire.Host("map")

        @host.flow
        async def flow(ctx: stepwire.Context) -> list[str]:
            await ctx.group.map("a{i}", abs, range(6))
            try:
                await ctx.group.map("b{i}", abs, range(6))
            except GroupFailed as error:
                return [branch.error.type if branch.error else "" for branch in error.results]
            return []

        config = testing.CoreConfig(steps_per_run_max=10)
        async with testing.environment(host, replay=replay, config=config) as env:
            return await env.execute(flow)

    run = asyncio.run(main())
    assert run.output == [""] * 4 + ["LimitExceeded"] * 2
    assert len(steps_planned(run)) == 10
