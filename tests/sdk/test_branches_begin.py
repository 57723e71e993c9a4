"""When code of steps and branches begins: in order, usually at once, and never many at the loop's expense.

Code of a branch usually begins inside the call that opens the group, where asyncio's own tasks begin a tick later.
Where somebody could tell it from a task of asyncio by anything else than that, it begins a tick later as well.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

import stepwire
from stepwire import testing
from stepwire._runtime import eager
from stepwire._runtime.eager import DEPTH_MAX, LOOK_EVERY, EagerTasks
from stepwire.errors import RunFailed
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import RunState
from tests.sdk.test_eager_semantics import LOOPS, MODES, Flow, run


@LOOPS
@MODES
def test_branches_begin_in_the_order_of_their_declaration(mode: str, choice: str) -> None:
    lives: list[list[str]] = []

    async def flow(ctx: stepwire.Context) -> None:
        begun: list[str] = []
        lives.append(begun)

        async def branch(name: str) -> None:
            begun.append(name)
            await ctx.step.run("s", int)

        group = ctx.group.parallel([lambda name=name: branch(name) for name in "abc"])
        begun.append("opened")
        await group

    run(flow, choice, mode)
    expected = ["opened", "a", "b", "c"] if mode == "factory" else ["a", "b", "c", "opened"]
    assert lives == [expected] * len(lives)


@LOOPS
@MODES
def test_the_task_that_opens_a_group_stays_the_current_one(mode: str, choice: str) -> None:
    async def flow(ctx: stepwire.Context) -> list[Any]:
        task = asyncio.current_task()
        seen: list[Any] = []

        async def branch() -> None:
            seen.append(asyncio.current_task() is task)

        async def outer() -> None:
            mine = asyncio.current_task()
            group = ctx.group.parallel((branch, branch))
            seen.append(asyncio.current_task() is mine)
            await group
            seen.append(asyncio.current_task() is mine)

        group = ctx.group.parallel((outer,))
        seen.append(asyncio.current_task() is task)
        await group
        return [*sorted(seen), asyncio.current_task() is task]

    assert run(flow, choice, mode).output == [False, False, True, True, True, True]


# ---- one within another


@LOOPS
@MODES
@pytest.mark.parametrize("depth", [1, DEPTH_MAX - 1, DEPTH_MAX, DEPTH_MAX + 1, 100])
def test_groups_in_the_first_lines_of_branches(depth: int, mode: str, choice: str) -> None:
    """As deep as an engine may allow, on any stack: what is deep begins a tick later."""

    async def flow(ctx: stepwire.Context) -> Any:
        async def nested(left: int) -> Any:
            if left == 0:
                return [await ctx.step.run("s", int)]
            return (await ctx.group.parallel((lambda: nested(left - 1),)))[0]

        return await nested(depth)

    if choice == "uvloop":
        pytest.importorskip("uvloop")
    host = stepwire.Host("deep")
    registered = host.flow(name="flow")(flow)
    if mode == "live":
        config = CoreConfig(group_depth_max=100)
        assert testing.run(host, registered, config=config).output == [0]
    elif depth <= DEPTH_MAX + 1:
        assert run(flow, choice, mode).output == [0]


@LOOPS
@MODES
def test_a_branch_whose_group_ends_before_it_waits(mode: str, choice: str) -> None:
    """Groups inside groups that need no step at all are over before the loop turns, whoever opened them."""

    async def flow(ctx: stepwire.Context) -> list[Any]:
        async def leaf() -> int:
            return 1

        async def branch() -> int:
            return sum(await ctx.group.parallel((leaf, leaf)))

        raced = await ctx.group.race((branch, leaf))
        return [*await ctx.group.parallel((branch, branch)), raced.value, await ctx.step.run("s", int)]

    assert run(flow, choice, mode).output in ([2, 2, 1, 0], [2, 2, 2, 0])


# ---- what is handled around the call


@LOOPS
@MODES
def test_no_branch_finds_the_exception_that_the_flow_handles(mode: str, choice: str) -> None:
    """Otherwise its failures would have a cause they do not have."""
    seen: list[Any] = []

    async def flow(ctx: stepwire.Context) -> list[Any]:
        async def fails() -> None:
            seen.append(sys.exc_info()[0])
            raise ValueError("of the branch")

        try:
            raise KeyError("of the flow")
        except KeyError:
            settled = await ctx.group.settle((fails, fails))
        return [str(branch.error.cause) for branch in settled if branch.error is not None]

    assert run(flow, choice, mode).output == ["None", "None"]
    assert seen == [None] * len(seen)


@LOOPS
@MODES
def test_a_branch_may_cancel_who_opened_it(mode: str, choice: str) -> None:
    """By a scope of anyio or by its task: the code that opens the group learns of it where it waits next."""

    async def flow(ctx: stepwire.Context) -> list[Any]:
        task = asyncio.current_task()
        assert task is not None
        seen: list[Any] = []

        with anyio.CancelScope() as scope:

            async def by_scope() -> None:
                scope.cancel()
                await ctx.step.run("s", int)

            group = ctx.group.parallel((by_scope,), name="one")
            seen.append("opened")
            await group
            seen.append("never")

        async def by_task() -> None:
            task.cancel()
            await ctx.step.run("s", int)

        group = ctx.group.parallel((by_task,), name="two")
        seen.append("opened")
        try:
            await group
        except asyncio.CancelledError:
            seen.append(task.uncancel())
        return [*seen, await ctx.step.run("after", int)]

    assert run(flow, choice, mode).output == ["opened", "opened", 0, 0]


# ---- what outlives its branch, and what ends others


@LOOPS
@MODES
def test_a_task_that_outlives_its_branch(mode: str, choice: str) -> None:
    """It goes on as a task of asyncio does; the branch has ended, and it decides nothing there any more."""

    async def flow(ctx: stepwire.Context) -> list[Any]:
        ended = asyncio.Event()
        tasks: list[asyncio.Task[Any]] = []

        async def late() -> str:
            await ended.wait()
            try:
                await ctx.step.run("late", int)
            except asyncio.CancelledError as error:
                return str(error)
            return "went on"

        async def branch() -> str:
            tasks.append(asyncio.create_task(late()))
            return "ended"

        found = await ctx.group.parallel((branch,))
        ended.set()
        return [*found, await tasks[0], await ctx.step.run("after", int)]

    assert run(flow, choice, mode).output == ["ended", "branch 'parallel/[0]' has ended", 0]


@LOOPS
@MODES
def test_a_run_that_ends_while_its_branches_are_started(mode: str, choice: str) -> None:
    """Code that has not begun by then never does, and is not forgotten either."""
    begun: list[str] = []

    async def flow(ctx: stepwire.Context) -> None:
        async def waits() -> None:
            begun.append("waits")
            await ctx.step.run("s", int)

        await ctx.group.parallel((waits, lambda: ctx.cancel(), waits))

    assert run(flow, choice, mode).record.state is RunState.CANCELLED
    assert begun == []


@LOOPS
@MODES
def test_a_race_that_is_decided_while_its_branches_are_started(mode: str, choice: str) -> None:
    begun: list[str] = []

    async def flow(ctx: stepwire.Context) -> Any:
        async def waits() -> str:
            begun.append("waits")
            return await ctx.step.run("s", str)

        at_once: Any = lambda: "at once"  # noqa: E731
        winner = await ctx.group.race((waits, at_once, waits))
        return [winner.index, winner.value, await ctx.step.run("after", int)]

    assert run(flow, choice, mode).output == [1, "at once", 0]
    assert begun == []


@LOOPS
@pytest.mark.parametrize("mode", ["live", "factory"])
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_loop_ends_it_from_a_step(error: type[BaseException], mode: str, choice: str) -> None:
    """The others are tasks as any: who runs the loop cancels them. Some have begun, and none is left behind."""
    ended: list[str] = []

    async def step(name: str) -> None:
        if not name:
            raise error("enough")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async def flow(ctx: stepwire.Context) -> None:
        await ctx.group.map("s{i}", step, ["first", "", "last"])

    with pytest.raises(error):
        run(flow, choice, mode)
    assert "first" in ended  # Whether a loop lets others begin before it ends is its own affair.
    gc.collect()  # A task that nobody ended, or code that nobody awaited, would be told here.


@LOOPS
@pytest.mark.parametrize("mode", ["live", "factory"])
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("wrapped", [False, True], ids=["code", "lambda"])
def test_what_ends_the_loop_ends_it_from_a_branch(
    wrapped: bool, error: type[BaseException], mode: str, choice: str
) -> None:
    ended: list[str] = []

    async def flow(ctx: stepwire.Context) -> None:
        async def waits(name: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(name)

        async def leaves() -> None:
            raise error("enough")

        def leaves_at_once() -> Any:
            raise error("enough")

        last = leaves_at_once if wrapped else leaves
        await ctx.group.parallel((lambda: waits("first"), last, lambda: waits("last")))

    with pytest.raises(error):
        run(flow, choice, mode)
    assert set(ended) <= {"first", "last"}
    gc.collect()


# ---- many at once


def slices(monkeypatch: pytest.MonkeyPatch, flow: Flow, begun: list[int]) -> None:
    """Run it with a clock that stands still but for the code that begins; note the turn of the loop each begins in."""
    turn = [0]
    now = [0.0]
    monkeypatch.setattr(eager, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def begins() -> None:
        now[0] += eager.SLICE_SECONDS / 2
        begun.append(turn[0])

    async def main() -> None:
        async def ticks() -> None:
            while True:
                turn[0] += 1
                await asyncio.sleep(0)

        host = stepwire.Host("slices")
        registered = host.flow(name="flow")(flow)
        ticking = asyncio.create_task(ticks())
        async with testing.environment(host, stubs={"step": begins}) as env:
            run = await env.execute(registered)
        ticking.cancel()
        assert run.output == list(range(1000))

    BEGINS.append(begins)
    try:
        asyncio.run(main())
    finally:
        BEGINS.clear()


BEGINS: list[Callable[[], None]] = []


async def begins(number: int) -> int:
    BEGINS[0]()
    return number


def in_steps(ctx: stepwire.Context) -> Any:
    return ctx.group.map("s{i}", begins, range(1000))


def in_branches(ctx: stepwire.Context) -> Any:
    return ctx.group.parallel([lambda i=i: begins(i) for i in range(1000)])


@pytest.mark.parametrize("opens", [in_steps, in_branches])
def test_code_that_takes_long_leaves_the_loop_its_turns(
    opens: Callable[[stepwire.Context], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio's own tasks all begin in one turn; here no turn has more than can be begun between two looks."""
    begun: list[int] = []

    async def flow(ctx: stepwire.Context) -> list[int]:
        return list(await opens(ctx))

    slices(monkeypatch, flow, begun)
    assert (len(begun), begun) == (1000, sorted(begun))
    assert max(begun.count(turn) for turn in set(begun)) <= LOOK_EVERY


def test_a_branch_that_is_not_needed_before_its_slice_never_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    now = [0.0]
    monkeypatch.setattr(eager, "time", SimpleNamespace(monotonic=lambda: now[0]))

    async def flow(ctx: stepwire.Context) -> int:
        async def branch(number: int) -> int:
            begun.append(number)
            now[0] += 1.0
            return number

        return (await ctx.group.race([lambda i=i: branch(i) for i in range(100)])).value

    assert run(flow, "asyncio").output == 0
    assert begun == list(range(LOOK_EVERY))


# ---- loops that somebody else has a hand in


async def nothing() -> None:
    pass


def test_a_loop_whose_call_soon_is_somebody_elses() -> None:
    """It is neither used nor lost, whenever it came."""

    async def main() -> list[Any]:
        loop: Any = asyncio.get_running_loop()
        before = EagerTasks(loop)
        seen: list[Any] = [before.works]
        called: list[Any] = []

        def call_soon(callback: Any, *args: Any, **options: Any) -> Any:
            called.append(callback)
            return type(loop).call_soon(loop, callback, *args, **options)

        loop.call_soon = call_soon
        after = EagerTasks(loop)
        kept: list[asyncio.Task[Any]] = []
        for tasks in (before, after):
            tasks.start([(nothing(), eager.copy_context(), "made")], kept.extend)
        seen += [before.works, after.works, loop.call_soon is call_soon, [task.done() for task in kept]]
        await asyncio.gather(*kept)
        return [*seen, len(called) > 1]

    assert asyncio.run(main()) == [True, False, False, True, [False, False], True]


def test_tasks_that_are_written_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their first step is a bound method as any other callback; one that has arguments is none of theirs."""
    python_task: Any = vars(asyncio.tasks)["_PyTask"]
    called: list[int] = []

    class Finalized:
        def tell(self, number: int) -> None:
            called.append(number)

        def __del__(self) -> None:
            asyncio.get_running_loop().call_soon(self.tell, 1)

    class Collecting(python_task):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            Finalized()
            super().__init__(*args, **options)

    async def main() -> None:
        monkeypatch.setattr(asyncio, "Task", python_task)
        tasks = EagerTasks(asyncio.get_running_loop())
        monkeypatch.setattr(asyncio, "Task", Collecting)
        kept: list[asyncio.Task[Any]] = []
        tasks.start([(nothing(), eager.copy_context(), "made") for _ in range(3)], kept.extend)
        monkeypatch.undo()
        assert [task.done() for task in kept] == [tasks.works] * 3
        await asyncio.gather(*kept)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert called == [1, 1, 1]


def test_a_failed_run_names_no_cause_of_the_hosts() -> None:
    async def fails() -> None:
        raise ValueError("no")

    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("s", fails, retries=0)

    failed = run(flow, "asyncio")
    with pytest.raises(RunFailed):
        failed.output  # noqa: B018
    assert failed.failure is not None
    assert failed.failure.cause is None
