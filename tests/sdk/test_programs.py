"""Random branch trees: every step once, outputs independent of mode, replay decides the same (MISSION 1.3, I11, P7)."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stepwire
from stepwire import ParallelMode, testing
from stepwire.protocol.failure import ErrorCode
from stepwire.testing import TestRun
from stepwire_engine.core.entries import Planned, RunState
from tests import evicting
from tests.evicting import Entries
from tests.sdk.programs import Interpreter, Program, expected, paths_of, random_program

PROGRAMS = 200


def decisions(run: TestRun) -> set[tuple[Any, ...]]:
    """Everything the flow decided, without how and when it was told."""
    found: set[tuple[Any, ...]] = set()
    for entry in run.journal:
        if isinstance(entry, Planned):
            plan = entry.plan
            found |= {("group", g.path, g.branches, g.mode) for g in plan.groups}
            found |= {("step", s.path, s.kind) for s in plan.steps}
            found |= {("branch", b.path, b.outcome) for b in plan.branches_ended}
            found |= {("end", g.path, g.verdict) for g in plan.groups_ended}
    return found


async def check(env: testing.Environment, interpreter: Interpreter, program: Program, mode: ParallelMode) -> TestRun:
    """Run a program as tasks or threads; every step body once, the output as known."""
    interpreter.calls.clear()
    interpreter.program, interpreter.mode = program, mode
    run = await env.execute(interpreter.tasks)
    known = expected(program)
    assert run.output == known, program
    assert interpreter.calls == dict.fromkeys(paths_of(known), 1), program
    stats = run.record.stats
    if not env.replay:
        assert stats.body_entries == Entries(1)
    if not (env.replay or evicting.always()):
        # Replay that gives a body back may have an attempt given out again, never run again.
        assert stats.advances <= len(paths_of(known)) + 1
        assert stats.executes + stats.host_starts == len(paths_of(known))
    return run


@pytest.mark.timeout(90)  # 800 runs: 10 s of a core that is free
def test_modes_and_replay_agree(seed: int) -> None:
    """200 programs, each in WAIT and RACE, live and with every release reached by replay."""
    rng = random.Random(seed)
    interpreter = Interpreter(rng)

    async def main() -> None:
        async with (
            testing.environment(interpreter.host) as live,
            testing.environment(interpreter.host, replay=True) as replayed,
        ):
            for _ in range(PROGRAMS):
                program = random_program(rng)
                for mode in ParallelMode:
                    first = await check(live, interpreter, program, mode)
                    second = await check(replayed, interpreter, program, mode)
                    assert first.output == second.output
                    assert decisions(first) == decisions(second), program

    asyncio.run(main())


def test_sync_flows_agree(seed: int) -> None:
    rng = random.Random(seed)
    interpreter = Interpreter(rng)

    async def main() -> None:
        async with (
            testing.environment(interpreter.host) as live,
            testing.environment(interpreter.host, replay=True) as replayed,
        ):
            for _ in range(12):
                program = random_program(rng)
                for mode in ParallelMode:
                    as_tasks = await check(live, interpreter, program, mode)
                    for env in (live, replayed):
                        interpreter.calls.clear()
                        run = await env.execute(interpreter.threads)
                        assert run.output == expected(program), program
                        assert set(interpreter.calls.values()) <= {1}
                        assert decisions(run) == decisions(as_tasks)

    asyncio.run(main())


STEP = st.tuples(st.sampled_from(["step", "task"]), st.sampled_from("abc"))
WAIT = st.tuples(st.just("wait"), st.integers(0, 3))
branch_programs = st.recursive(
    st.lists(STEP | WAIT, max_size=5),
    lambda inner: st.lists(STEP | st.tuples(st.just("group"), st.lists(inner, max_size=4)), max_size=4),
    max_leaves=12,
)


@pytest.mark.timeout(60)  # 60 environments
@settings(max_examples=30)
@given(program=branch_programs, mode=st.sampled_from(list(ParallelMode)), order=st.integers(0, 2**32))
def test_any_program(program: Program, mode: ParallelMode, order: int) -> None:
    interpreter = Interpreter(random.Random(order))

    async def main() -> None:
        async with testing.environment(interpreter.host) as env:
            live = await check(env, interpreter, program, mode)
        async with testing.environment(interpreter.host, replay=True) as env:
            assert decisions(await check(env, interpreter, program, mode)) == decisions(live)

    asyncio.run(main())


@pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
@pytest.mark.parametrize("mode", list(ParallelMode), ids=lambda m: m.name)
def test_state_shared_across_a_release(mode: ParallelMode, replay: bool) -> None:
    """Branches may share state if a release lies between writing and reading it: replay keeps that order."""
    host = stepwire.Host("programs")

    @host.flow
    async def flow(ctx: stepwire.Context) -> list[list[int]]:
        shared: dict[int, int] = {}

        async def branch(i: int) -> list[int]:
            for _ in range(i):
                await asyncio.sleep(0)
            shared[i] = await ctx.step.run("first", lambda: i)
            await ctx.step.run("barrier", lambda: 1)
            await ctx.group.parallel((), name="turn")
            return [shared[i]]

        firsts = await ctx.group.parallel([lambda i=i: branch(i) for i in range(4)], parallel_mode=mode)
        return [*firsts, sorted(shared)]

    assert testing.run(host, flow, replay=replay).output == [[0], [1], [2], [3], [0, 1, 2, 3]]


@pytest.mark.timeout(60)  # 20 environments
@pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
def test_decision_from_the_order_of_releases(replay: bool) -> None:
    """What user code learns from the order in which outcomes came, it learns again from the journal."""
    host = stepwire.Host("programs")
    rng = random.Random(7)

    async def turns(name: str) -> str:
        for _ in range(rng.randint(0, 5)):
            await asyncio.sleep(0)
        return name

    @host.flow
    async def flow(ctx: stepwire.Context) -> list[str]:
        finished: list[str] = []

        async def branch(name: str) -> None:
            finished.append(await ctx.step.run(name, turns, name))

        await ctx.group.parallel([lambda n=n: branch(n) for n in "abcdef"], parallel_mode=ParallelMode.RACE)
        await ctx.step.run(f"winner {finished[0]}", lambda: 1)
        await ctx.step.run(f"order {''.join(finished)}", lambda: 1)
        return finished

    for _ in range(20):
        run = testing.run(host, flow, replay=replay)
        assert run.succeeded
        assert [s.path for s in run.record.steps][-2:] == [f"winner {run.output[0]}", f"order {''.join(run.output)}"]
        assert run.output == [path.rpartition("/")[2] for path in run.order[:6]]


def test_program_that_breaks_the_rule() -> None:
    """What depends on anything but releases is found by replay, with both paths (P12)."""
    host = stepwire.Host("programs")
    entered: list[int] = []

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        entered.append(1)
        await ctx.step.run("first", lambda: 1)
        await ctx.step.run(f"entry {len(entered)}", lambda: 1)
        await ctx.step.run("last", lambda: 1)

    run = testing.run(host, flow, replay=True)
    assert run.record.state is RunState.PAUSED
    assert run.failure is not None and run.failure.code is ErrorCode.NON_DETERMINISTIC_FLOW
    assert run.failure.message == "expected step 'entry 2' (run), received step 'entry 3' (run)"
