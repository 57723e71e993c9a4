"""Groups with a limit or a deadline, as flow code sees them (S13, O11)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import stepwire
from stepwire import testing
from stepwire.errors import GroupFailed, StepTimeout
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.plan import GroupEnded, StepKind, Verdict
from stepwire.results import GroupResult
from stepwire.testing import TestRun
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import Planned
from stepwire_engine.core.history import StepStateView
from tests.evicting import Entries
from tests.sdk.gates import Gates, turns, until
from tests.sdk.group_records import ASYNC, MODES, REPLAY, ended, planned, states

HOUR = 3600
GRACE = CoreConfig().timeout_grace
"""In WAIT the outcomes of a wave are released first, and the branches get this long to answer."""


# ---- limit


class Busy:
    """Steps that count how many of them execute at once, and wait until as many as may be do so."""

    def __init__(self, expected: int, steps: int) -> None:
        self.most = 0
        self._expected = expected
        self._left = steps
        self._now = 0
        self._lock = threading.Lock()

    async def step(self, value: int) -> int:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        await until("as many steps as may be execute", lambda: self._full)
        await turns(3)
        with self._lock:
            self._now -= 1
            self._left -= 1
        return value

    @property
    def _full(self) -> bool:
        with self._lock:
            return self._now >= min(self._expected, self._left)


@REPLAY
@ASYNC
@pytest.mark.parametrize("limit", [1, 3, 50])
def test_a_limit_bounds_what_executes_at_once(limit: int, is_async: bool, replay: bool) -> None:
    """Never more than the limit, sometimes as many, and all complete (O11)."""
    busy = Busy(limit, steps=8)

    async def in_tasks(ctx: stepwire.Context) -> list[int]:
        return list(
            await ctx.group.parallel([lambda i=i: ctx.step.run("s", busy.step, i) for i in range(8)], limit=limit)
        )

    def in_threads(ctx: stepwire.ContextSync) -> list[int]:
        return list(ctx.group.parallel([lambda i=i: ctx.step.run("s", busy.step, i) for i in range(8)], limit=limit))

    host = stepwire.Host("bounds", slots=16)
    run = testing.run(host, host.flow(in_tasks if is_async else in_threads), replay=replay)
    assert run.output == list(range(8))
    assert busy.most == min(limit, 8)
    planned = [step for entry in run.journal if isinstance(entry, Planned) for step in entry.plan.steps]
    assert not any(step.started for step in planned), "the engine admits them, the host begins none by itself"


@ASYNC
def test_a_limit_holds_for_groups_inside_and_for_map(is_async: bool) -> None:
    busy = Busy(2, steps=9)

    async def in_tasks(ctx: stepwire.Context) -> list[Any]:
        def inner(k: int) -> Any:
            return lambda: ctx.group.parallel(
                [lambda i=i: ctx.step.run("s", busy.step, i) for i in range(3)], name=f"g{k}"
            )

        outer = await ctx.group.parallel([inner(0), inner(1)], limit=2)
        return [*map(list, outer), list(await ctx.group.map("m{i}", busy.step, range(3), limit=2))]

    def in_threads(ctx: stepwire.ContextSync) -> list[Any]:
        def inner(k: int) -> Any:
            return lambda: ctx.group.parallel(
                [lambda i=i: ctx.step.run("s", busy.step, i) for i in range(3)], name=f"g{k}"
            )

        outer = ctx.group.parallel([inner(0), inner(1)], limit=2)
        return [*map(list, outer), list(ctx.group.map("m{i}", busy.step, range(3), limit=2))]

    host = stepwire.Host("bounds", slots=16)
    run = testing.run(host, host.flow(in_tasks if is_async else in_threads))
    assert run.output == [[0, 1, 2]] * 3
    assert busy.most == 2


def test_a_race_with_a_limit_of_one_tries_one_after_the_other() -> None:
    tried: list[int] = []

    def attempt(i: int) -> int:
        tried.append(i)
        if i < 2:
            raise ValueError(f"no {i}")
        return i

    host = stepwire.Host("bounds")

    @host.flow
    async def flow(ctx: stepwire.Context) -> int:
        branches = [lambda i=i: ctx.step.run(f"s{i}", attempt, i, retries=0) for i in range(5)]
        return (await ctx.group.race(branches, limit=1)).value

    run = testing.run(host, flow)
    assert run.output == 2
    assert tried == list(range(len(tried))), "in order; later ones may be admitted before the verdict is known"
    assert set(states(run).values()) <= {StepStateView.FAILED, StepStateView.SUCCEEDED, StepStateView.CANCELLED}


# ---- deadline


class Expiring:
    """A group of a nap of 10 minutes and one of 2 hours, within a deadline of an hour."""

    def __init__(self, options: dict[str, Any], *, is_async: bool) -> None:
        self.options = {"deadline": HOUR, **options}
        self.given: Any = None
        self.host = stepwire.Host("bounds")
        self.flow = self.host.flow(self.in_tasks if is_async else self.in_threads)

    async def in_tasks(self, ctx: stepwire.Context) -> float:
        began = ctx.now()

        async def short() -> str:
            await ctx.step.sleep("nap", 600)
            return "short"

        async def long() -> str:
            await ctx.group.parallel((lambda: ctx.step.sleep("nap", 2 * HOUR),))
            return "long"

        try:
            self.given = await ctx.group.parallel((short, long), **self.options)
        except GroupFailed as error:
            self.given = error
        await ctx.step.run("after", lambda: 1)
        return (ctx.now() - began).total_seconds()

    def in_threads(self, ctx: stepwire.ContextSync) -> float:
        began = ctx.now()

        def short() -> str:
            ctx.step.sleep("nap", 600)
            return "short"

        def long() -> str:
            ctx.group.parallel((lambda: ctx.step.sleep("nap", 2 * HOUR),))
            return "long"

        try:
            self.given = ctx.group.parallel((short, long), **self.options)
        except GroupFailed as error:
            self.given = error
        ctx.step.run("after", lambda: 1)
        return (ctx.now() - began).total_seconds()


@MODES
@REPLAY
@ASYNC
def test_a_group_fails_at_its_deadline(is_async: bool, replay: bool, mode: stepwire.ParallelMode) -> None:
    """What has not ended is cancelled, groups inside included; what succeeded in time keeps its value."""
    expiring = Expiring({"parallel_mode": mode}, is_async=is_async)
    run = testing.run(expiring.host, expiring.flow, replay=replay)
    assert HOUR <= run.output <= HOUR + GRACE
    error = expiring.given
    assert isinstance(error, GroupFailed) and isinstance(error.__cause__, StepTimeout)
    assert error.__cause__.path == "parallel" and error.__cause__.code is ErrorCode.TIMEOUT
    assert error.cause is not None and error.cause.code is ErrorCode.TIMEOUT and "deadline" in error.message
    assert error.failures == ()
    assert [(b.outcome, b.value) for b in error.results] == [("completed", "short"), ("cancelled", None)]
    assert ended(run) == [GroupEnded("parallel", Verdict.FAILED, 0, (1,))]
    assert states(run)["parallel/[1]/parallel/[0]/nap"] is StepStateView.CANCELLED
    assert run.record.steps[-1].kind is StepKind.RUN and states(run)["after"] is StepStateView.SUCCEEDED


@REPLAY
@ASYNC
@pytest.mark.parametrize("options", [{"fail": "never"}, {"fail": "all"}, {"quorum": 1}], ids=str)
def test_a_group_that_has_what_it_needs_succeeds_at_its_deadline(
    options: dict[str, Any], is_async: bool, replay: bool
) -> None:
    expiring = Expiring(options, is_async=is_async)
    run = testing.run(expiring.host, expiring.flow, replay=replay)
    assert HOUR <= run.output <= HOUR + GRACE
    assert isinstance(expiring.given, GroupResult)
    assert [(b.outcome, b.value) for b in expiring.given] == [("completed", "short"), ("cancelled", None)]


@REPLAY
@ASYNC
def test_a_deadline_that_does_not_pass_changes_nothing(is_async: bool, replay: bool) -> None:
    expiring = Expiring({"deadline": 3 * HOUR}, is_async=is_async)
    run = testing.run(expiring.host, expiring.flow, replay=replay)
    assert expiring.given == ("short", "long") and run.output == 2 * HOUR


@REPLAY
@ASYNC
def test_a_race_nobody_wins_in_time(is_async: bool, replay: bool) -> None:
    async def in_tasks(ctx: stepwire.Context) -> Any:
        try:
            await ctx.group.race([lambda n=n: ctx.step.sleep(n, 2 * HOUR) for n in "ab"], deadline=HOUR)
        except GroupFailed as error:
            return [type(error.__cause__).__name__, [b.outcome for b in error.results]]

    def in_threads(ctx: stepwire.ContextSync) -> Any:
        try:
            ctx.group.race([lambda n=n: ctx.step.sleep(n, 2 * HOUR) for n in "ab"], deadline=HOUR)
        except GroupFailed as error:
            return [type(error.__cause__).__name__, [b.outcome for b in error.results]]

    host = stepwire.Host("bounds")
    run = testing.run(host, host.flow(in_tasks if is_async else in_threads), replay=replay)
    assert run.output == ["StepTimeout", ["cancelled", "cancelled"]]


@REPLAY
@ASYNC
def test_the_inner_of_two_deadlines_passes_first(is_async: bool, replay: bool) -> None:
    async def in_tasks(ctx: stepwire.Context) -> Any:
        async def inner() -> str:
            try:
                await ctx.group.parallel((lambda: ctx.step.sleep("long", 9 * HOUR),), deadline=HOUR)
            except GroupFailed:
                return await ctx.step.run("instead", lambda: "instead")
            return "never"

        return list(await ctx.group.parallel((inner, lambda: ctx.step.sleep("nap", 2 * HOUR)), deadline=3 * HOUR))

    def in_threads(ctx: stepwire.ContextSync) -> Any:
        def inner() -> str:
            try:
                ctx.group.parallel((lambda: ctx.step.sleep("long", 9 * HOUR),), deadline=HOUR)
            except GroupFailed:
                return ctx.step.run("instead", lambda: "instead")
            return "never"

        return list(ctx.group.parallel((inner, lambda: ctx.step.sleep("nap", 2 * HOUR)), deadline=3 * HOUR))

    host = stepwire.Host("bounds")
    run = testing.run(host, host.flow(in_tasks if is_async else in_threads), replay=replay)
    assert run.output == ["instead", None]


@ASYNC
def test_attempts_and_user_code_of_an_expired_group_are_stopped(is_async: bool) -> None:
    """And a body that is lost after that ends the group in the same way, however quick its branches are then."""
    stopped: list[str] = []

    async def main() -> TestRun:
        gates = Gates()
        lives: list[int] = []

        async def endless() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append("attempt")

        async def in_tasks(ctx: stepwire.Context) -> list[Any]:
            lives.append(1)
            life = len(lives)

            async def in_code() -> str:
                return await gates.wait(f"code in life {life}")  # type: ignore[no-any-return]

            branches = (lambda: ctx.step.run("endless", endless), in_code)
            results = await ctx.group.settle(branches, deadline=HOUR)
            return [[b.outcome for b in results], await ctx.step.run("after", gates.wait, "after")]

        def in_threads(ctx: stepwire.ContextSync) -> list[Any]:
            lives.append(1)
            life = len(lives)

            def in_code() -> str:
                return gates.wait_sync(f"code in life {life}")  # type: ignore[no-any-return]

            branches = (lambda: ctx.step.run("endless", endless), in_code)
            results = ctx.group.settle(branches, deadline=HOUR)
            return [[b.outcome for b in results], ctx.step.run("after", gates.wait, "after")]

        host = stepwire.Host("bounds")
        flow = host.flow(in_tasks if is_async else in_threads)
        async with testing.environment(host) as env:
            run_id = await env.start(flow)
            await gates.until_reached("code in life 1")
            await until("the group is recorded", lambda: "settle/[0]/endless" in planned(env, run_id))
            await env.engine.driver.settled()
            await env.engine.advance(HOUR)
            await until("the attempt is told to stop", lambda: stopped == ["attempt"])
            await until("its end is recorded", lambda: "after" in planned(env, run_id))
            await env.crash(host)
            gates.open("code in life 1", "code in life 2", "after")
            return await env.finish(flow, run_id)

    run = asyncio.run(main())
    assert run.output == [["cancelled", "cancelled"], "after"]
    assert run.body_entries == Entries(2)
    assert ended(run) == [GroupEnded("settle", Verdict.OK, 0, (0, 1))]
