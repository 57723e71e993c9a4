"""Compensation through the whole engine: what is undone, in which order, and what survives accidents (S8, O9, O10)."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import Any

import pytest

import stepwire
from stepwire import testing
from stepwire.flow import FlowFunction
from stepwire.protocol.failure import ErrorCode
from stepwire.testing import Environment, TestRun
from stepwire_engine.core.entries import AttemptEnded, RunState
from tests.sdk.gates import Gates, until

ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
REPLAY = pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
AT_ONCE = stepwire.Retry(retries=2, delay=0, jitter=0)
MEMBERS = "abc"


class Order:
    """A step, then a, b and c in a group, then a step that fails. The undo of b is a registered step.

    Args:
        order: In which the members complete.
        fails: Undos that fail, whatever is tried.
        hold: Undos that wait at the gate of their name.

    Attributes:
        undone: What was undone, in order.
        calls: How often each undo began.
    """

    def __init__(self, *, is_async: bool, order: str = "cab", fails: str = "", hold: str = "") -> None:
        self.host = stepwire.Host("order")
        self.order = order
        self.fails = fails
        self.undone: list[str] = []
        self.calls: Counter[str] = Counter()
        self.gates = Gates()
        self.gates.open(*(f"undo {name}" for name in (*MEMBERS, "first") if name not in hold.split()))
        self.registered = self.host.step(name="undo", retries=AT_ONCE)(self.undo)
        self.flow: FlowFunction[..., Any] = self.host.flow(name="order")(self.in_tasks if is_async else self.in_threads)

    def undo(self, name: str) -> None:
        self.calls[name] += 1
        self.gates.wait_sync(f"undo {name}")
        if name in self.fails:
            raise OSError(f"cannot undo {name}")
        self.undone.append(name)

    def how(self, name: str) -> dict[str, Any]:
        closure = stepwire.Compensation(self.undo, retries=AT_ONCE)
        return {"retries": 0, "compensate": self.registered if name == "b" else closure}

    async def member(self, name: str) -> str:
        return str(await self.gates.wait(name))

    def bad(self) -> None:
        raise ValueError("bad")

    async def in_tasks(self, ctx: stepwire.Context) -> None:
        await ctx.step.run("first", lambda: "first", **self.how("first"))
        await ctx.group.parallel([partial(ctx.step.run, n, self.member, n, **self.how(n)) for n in MEMBERS])
        await ctx.step.run("bad", self.bad, **self.how("bad"))

    def in_threads(self, ctx: stepwire.ContextSync) -> None:
        ctx.step.run("first", lambda: "first", **self.how("first"))
        ctx.group.parallel([partial(ctx.step.run, n, self.member, n, **self.how(n)) for n in MEMBERS])
        ctx.step.run("bad", self.bad, **self.how("bad"))

    async def fail(self, env: Environment) -> str:
        """Start a run, let its members complete in order. Returns its id."""
        run_id = await env.start(self.flow)
        await self.gates.until_reached(*MEMBERS)
        for name in self.order:
            self.gates.open(name)
            await until(f"{name} is recorded", partial(self._is_recorded, env, run_id, path_of(name)))
        return run_id

    def _is_recorded(self, env: Environment, run_id: str, path: str) -> bool:
        return path in recorded(env, run_id)


def path_of(name: str) -> str:
    return f"parallel/[{MEMBERS.index(name)}]/{name}" if name in MEMBERS else name


def recorded(env: Environment, run_id: str) -> list[str]:
    """Paths whose outcome is committed, in that order."""
    return [e.path for e in env.journal(run_id) if isinstance(e, AttemptEnded) and e.retry_at_ms is None]


def states(run: TestRun) -> dict[str, str]:
    """States of the undos, by path."""
    return {step.path: step.state.name for step in run.record.steps if step.path.endswith("#undo")}


def failure_code(run: TestRun, path: str) -> ErrorCode:
    (step,) = [step for step in run.record.steps if step.path == path]
    failure = step.attempts[-1].failure
    assert failure is not None
    return failure.code


@ASYNC
@REPLAY
@pytest.mark.parametrize("order", ["cab", "abc", "bca"])
def test_the_last_completed_is_undone_first_whatever_was_declared(order: str, replay: bool, is_async: bool) -> None:
    """Completed c, a, b: undone b, a, c, then the step before them. The step that failed is none of them."""

    async def main() -> None:
        fixture = Order(is_async=is_async, order=order)
        async with testing.environment(fixture.host, replay=replay) as env:
            run = await env.finish(fixture.flow, await fixture.fail(env))
        assert fixture.undone == [*reversed(order), "first"]
        assert set(fixture.calls.values()) == {1}
        assert run.record.state is RunState.FAILED
        assert run.failure is not None and (run.failure.type, run.failure.message) == ("ValueError", "bad")
        assert set(states(run).values()) == {"SUCCEEDED"}

    asyncio.run(main())


@pytest.mark.live_bodies
def test_a_kept_body_is_entered_once_and_one_that_is_gone_once_more() -> None:
    async def main() -> None:
        entries = {}
        for replay in (False, True):
            fixture = Order(is_async=True)
            async with testing.environment(fixture.host, replay=replay) as env:
                run = await env.finish(fixture.flow, await fixture.fail(env))
            entries[replay] = run.body_entries, run.record.stats.releases
        releases = entries[False][1]
        assert entries == {False: (1, releases), True: (1 + releases + 1, releases)}

    asyncio.run(main())


@ASYNC
@REPLAY
@pytest.mark.parametrize("fails", ["a", "b", "abc"])
def test_an_undo_that_fails_after_its_retries_does_not_stop_the_others(
    fails: str, replay: bool, is_async: bool
) -> None:
    async def main() -> None:
        fixture = Order(is_async=is_async, fails=fails)
        async with testing.environment(fixture.host, replay=replay) as env:
            run = await env.finish(fixture.flow, await fixture.fail(env))
        assert fixture.undone == [name for name in ["b", "a", "c", "first"] if name not in fails]
        assert run.failure is not None and run.failure.type == "ValueError", "the run fails for its own reason"
        for name in fails:
            assert states(run)[f"{path_of(name)}#undo"] == "FAILED"
            assert fixture.calls[name] == 3

    asyncio.run(main())


@ASYNC
@pytest.mark.parametrize("at", ["b", "a", "c", "first"])
@pytest.mark.parametrize("accident", ["crash", "cut"])
def test_an_accident_in_the_middle_of_an_undo(accident: str, at: str, is_async: bool) -> None:
    """Each undo runs to success once; one that was in progress when its host died runs again, as every attempt."""

    async def main() -> None:
        fixture = Order(is_async=is_async, hold=at)
        names = ["b", "a", "c", "first"]
        async with testing.environment(fixture.host) as env:
            run_id = await fixture.fail(env)
            await fixture.gates.until_reached(f"undo {at}")
            await getattr(env, accident)(fixture.host)
            fixture.gates.open(f"undo {at}")
            run = await env.finish(fixture.flow, run_id)
            order = [path for path in recorded(env, run_id) if path.endswith("#undo")]
        assert run.record.state is RunState.FAILED
        assert order == [f"{path_of(name)}#undo" for name in names]
        assert set(states(run).values()) == {"SUCCEEDED"}
        assert fixture.calls == {name: 2 if (name, accident) == (at, "crash") else 1 for name in names}
        assert all(len(step.attempts) == 1 for step in run.record.steps), "a loss of infrastructure is no attempt"

    asyncio.run(main())


@ASYNC
@REPLAY
def test_of_a_group_that_failed_only_the_completed_members_are_undone(replay: bool, is_async: bool) -> None:
    """O10."""
    undone: list[str] = []
    host = stepwire.Host("group")

    def good() -> str:
        return "good"

    def bad() -> str:
        raise ValueError

    def members(ctx: Any) -> list[Any]:
        return [partial(ctx.step.run, f.__name__, f, retries=0, compensate=undone.append) for f in (good, bad)]

    async def in_tasks(ctx: stepwire.Context) -> None:
        await ctx.group.parallel(members(ctx))

    def in_threads(ctx: stepwire.ContextSync) -> None:
        ctx.group.parallel(members(ctx))

    run = testing.run(host, host.flow(in_tasks if is_async else in_threads), replay=replay)
    assert undone == ["good"]
    assert run.failure is not None and run.failure.code is ErrorCode.GROUP_FAILED
    assert list(states(run)) == ["parallel/[0]/good#undo"]


@REPLAY
def test_a_group_whose_failure_was_caught_is_undone_by_a_later_failure(replay: bool) -> None:
    undone: list[str] = []
    host = stepwire.Host("group")

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        def step(name: str) -> Any:
            return lambda: ctx.step.run(name, fn, name, retries=0, compensate=undone.append)

        def fn(name: str) -> str:
            if name == "bad":
                raise ValueError
            return name

        try:
            await ctx.group.parallel([step("good"), step("bad")])
        except stepwire.GroupFailed:
            await step("instead")()
        raise RuntimeError("later")

    run = testing.run(host, flow, replay=replay)
    assert undone == ["instead", "good"]
    assert run.failure is not None and run.failure.message == "later"


@REPLAY
def test_a_run_that_succeeds_undoes_nothing(replay: bool) -> None:
    undone: list[str] = []
    host = stepwire.Host("succeeds")

    @host.flow
    async def flow(ctx: stepwire.Context) -> str:
        await ctx.step.run("a", lambda: "a", compensate=undone.append)
        try:
            await ctx.step.run("b", lambda: 1 / 0, retries=0, compensate=undone.append)
        except stepwire.StepError:
            pass
        return "done"

    run = testing.run(host, flow, replay=replay)
    assert run.output == "done" and undone == [] and states(run) == {}


@REPLAY
@pytest.mark.parametrize("undo", [True, False])
def test_a_run_that_cancels_itself_is_undone_if_its_flow_says_so(undo: bool, replay: bool) -> None:
    undone: list[Any] = []
    host = stepwire.Host("cancels")

    def remember(out: str, error: stepwire.StepError | None) -> None:
        undone.append((out, error))

    @host.flow(undo_on_cancel=undo)
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("a", lambda: "a", compensate=remember)
        ctx.cancel()

    run = testing.run(host, flow, replay=replay)
    assert run.record.state is RunState.CANCELLED
    assert undone == ([("a", None)] if undo else [])


@ASYNC
def test_a_run_past_its_deadline_is_undone_while_its_body_still_waits(is_async: bool) -> None:
    undone: list[Any] = []
    host = stepwire.Host("late")

    def remember(out: str, error: stepwire.StepError) -> None:
        undone.append((out, error.code))

    async def in_tasks(ctx: stepwire.Context) -> None:
        await ctx.step.run("a", lambda: "a", compensate=remember)
        await ctx.step.sleep("long", "1h")

    def in_threads(ctx: stepwire.ContextSync) -> None:
        ctx.step.run("a", lambda: "a", compensate=remember)
        ctx.step.sleep("long", "1h")

    flow = host.flow(deadline="1m")(in_tasks if is_async else in_threads)
    run = testing.run(host, flow)
    assert run.record.state is RunState.FAILED
    assert run.failure is not None and run.failure.code is ErrorCode.RUN_TIMEOUT
    assert undone == [("a", ErrorCode.RUN_TIMEOUT)]


class Changed:
    """A service that crashes in the middle of an undo and comes back with other code."""

    def __init__(self, then: str) -> None:
        self.undone: list[str] = []
        self.gates = Gates()
        self.before = self._host("before")
        self.after = self._host(then)

    def _undo(self, code: str, name: str) -> None:
        self.gates.wait_sync("undo")
        if code != "before":
            self.undone.append(name)

    def _host(self, code: str) -> stepwire.Host:
        host = stepwire.Host("changed")
        closure = partial(self._undo, code)
        registered = host.step(name="undo", retries=0)(closure)

        @host.flow(name="flow")
        async def flow(ctx: stepwire.Context) -> None:
            await ctx.step.run("closure", lambda: "closure", compensate=None if code == "without" else closure)
            await ctx.step.run("other name" if code == "astray" else "task", lambda: "task", compensate=registered)
            await ctx.step.run("last", lambda: "last", compensate=closure)
            raise ValueError

        return host

    async def run(self) -> TestRun:
        async with testing.environment(self.before) as env:
            run_id = await env.start(self.before.flows["flow"])
            await self.gates.until_reached("undo")
            await env.crash(self.before, self.after)
            self.gates.open("undo")
            return await env.finish(self.after.flows["flow"], run_id)


@pytest.mark.parametrize(
    ("then", "undone"),
    [("same", ["last", "task", "closure"]), ("without", ["last", "task"]), ("astray", ["task"])],
)
def test_closures_that_new_code_cannot_reach_are_recorded_as_such_and_the_others_run(
    then: str, undone: list[str]
) -> None:
    async def main() -> None:
        changed = Changed(then)
        run = await changed.run()
        assert changed.undone == undone
        assert run.record.state is RunState.FAILED
        assert run.failure is not None and run.failure.type == "ValueError"
        for name in {"last", "task", "closure"} - set(undone):
            assert states(run)[f"{name}#undo"] == "FAILED"
            assert failure_code(run, f"{name}#undo") is ErrorCode.UNDO_UNREACHABLE

    asyncio.run(main())


def test_stubs_stand_in_for_undos() -> None:
    undone: list[str] = []
    stubbed: list[str] = []
    host = stepwire.Host("stubs")

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("a", lambda: "a", compensate=undone.append)
        raise ValueError

    testing.run(host, flow, stubs={"a": "stub", "a#undo": stubbed.append})
    assert (undone, stubbed) == ([], ["stub"])
