"""The work that is counted, and what is counted of it. Nothing here looks at a clock."""

from __future__ import annotations

import asyncio
import gc
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path

import stepwire
from stepwire import ParallelMode
from tests.budget.counter import Name
from tests.budget.pair import Pair, pair

OUTPUT = {"order": 17, "state": "accepted", "note": "x" * 56}
"""About 100 bytes as JSON."""
_TASK_MADE = "WeakSet.add"
"""asyncio notes every task that is made in a WeakSet."""


async def no_work() -> dict[str, object]:
    """The step."""
    return OUTPUT


async def nap(seconds: float) -> None:
    """A step that sleeps in the host."""
    await asyncio.sleep(seconds)  # gate: of the loop's own time, which moves when told


async def group(ctx: stepwire.Context, steps: int) -> int:
    """All steps at once, a branch each."""
    return len(await ctx.group.parallel([lambda i=i: ctx.step.run(f"step-{i}", no_work) for i in range(steps)]))


async def race(ctx: stepwire.Context, steps: int) -> int:
    """The same, each branch going on when its own step has ended."""
    branches = [lambda i=i: ctx.step.run(f"step-{i}", no_work) for i in range(steps)]
    return len(await ctx.group.parallel(branches, parallel_mode=ParallelMode.RACE))


async def sequence(ctx: stepwire.Context, steps: int) -> int:
    """Every step after the one before."""
    for i in range(steps):
        await ctx.step.run(f"step-{i}", no_work)
    return steps


async def dribble(ctx: stepwire.Context, steps: int) -> int:
    """All at once, but each ends by itself, in a frame of its own."""
    branches = [lambda i=i: ctx.step.run(f"step-{i}", nap, 1.0 + i / 1000) for i in range(steps)]
    return len(await ctx.group.parallel(branches, parallel_mode=ParallelMode.RACE))


async def sleeps(ctx: stepwire.Context, steps: int) -> int:
    """All at once, and all sleep equally long."""
    return len(await ctx.group.parallel([lambda i=i: ctx.step.run(f"nap-{i}", nap, 0.1) for i in range(steps)]))


async def rests(ctx: stepwire.Context, steps: int) -> None:
    """A sleep in the engine that does not end."""
    await ctx.step.sleep("rest", 86_400.0)


FLOWS = (group, race, sequence, dribble, sleeps, rests)


@dataclass(frozen=True, slots=True)
class Work:
    """What one scenario does.

    Attributes:
        flow: Of FLOWS; its input is `steps`.
        runs: Started together.
        held: It does not end: what it keeps in memory is measured.
    """

    flow: Callable[..., object]
    steps: int
    runs: int = 1
    held: bool = False


SCENARIOS = {
    "group_1000": Work(group, 1000),
    "group_100": Work(group, 100, runs=10),
    "race_1000": Work(race, 1000),
    "sequence_10": Work(sequence, 10, runs=50),
    "one_step": Work(sequence, 1, runs=1),
    "one_step_100": Work(sequence, 1, runs=100),
    "sleeps_100": Work(sleeps, 100),
    "group_200": Work(group, 200),
    "group_2000": Work(group, 2000),
    "dribble_50": Work(dribble, 50),
    "dribble_200": Work(dribble, 200),
    "held_group": Work(dribble, 1000, held=True),
    "held_runs": Work(rests, 1, runs=500, held=True),
}


@dataclass(slots=True)
class Counted:
    """What one scenario cost; everything but the functions is per step.

    Attributes:
        frames_in, frames_out: To and from the engine.
        bytes: Of journal rows and payloads.
        tasks: Made on the host.
        garbage: Objects of both sides that only the garbage collector finds.
        engine_objects, engine_bytes, host_objects, host_bytes: Kept while the work is held: what the garbage collector
            watches, and what was allocated by Python.
    """

    steps: int
    engine_calls: float = 0.0
    host_calls: float = 0.0
    frames_in: float = 0.0
    frames_out: float = 0.0
    commits: float = 0.0
    rows: float = 0.0
    bytes: float = 0.0
    tasks: float = 0.0
    garbage: float = 0.0
    engine_objects: float = 0.0
    engine_bytes: float = 0.0
    host_objects: float = 0.0
    host_bytes: float = 0.0
    engine_functions: Counter[Name] = field(default_factory=Counter)
    host_functions: Counter[Name] = field(default_factory=Counter)


def count(scenario: str) -> Counted:
    """Do the work twice, the first time to warm up, and count the second time.

    In a context without variables: every step has a context of its own, and other tests leave theirs in this one.
    """
    return Context().run(_in_context, scenario)


def _in_context(scenario: str) -> Counted:
    work = SCENARIOS[scenario]
    host = stepwire.Host("budget", slots=10_000, bodies=10_000)
    for flow in FLOWS:
        host.flow(flow)
    if work.held:
        # Measuring collects at every turn, and need not walk through what was there before.
        gc.collect()
        gc.freeze()
    with tempfile.TemporaryDirectory() as folder, pair(Path(folder), host) as made, no_collections():
        if work.held:
            return _hold(made, work)
        _do(made, work)
        return _count(made, work)


def _do(made: Pair, work: Work) -> None:
    made.start(work.flow.__name__, str(work.steps).encode(), work.runs)
    made.finish()


def _count(made: Pair, work: Work) -> Counted:
    steps = work.steps * work.runs
    before = _totals(made)
    sides = (made.engine, made.host)
    gc.collect()
    for side in sides:
        side.calls.start()
    _do(made, work)
    engine, host = (side.calls.stop() for side in sides)
    totals = {name: (value - before[name]) / steps for name, value in _totals(made).items()}
    return Counted(
        steps,
        engine_calls=engine.total() / steps,
        host_calls=host.total() / steps,
        tasks=_tasks(host) / steps,
        garbage=gc.collect() / steps,
        engine_functions=engine,
        host_functions=host,
        **totals,
    )


def _totals(made: Pair) -> dict[str, int]:
    frames = made.telemetry.frames
    return {
        "frames_in": frames["in"],
        "frames_out": frames["out"],
        "commits": made.store.commits,
        "rows": made.store.rows,
        "bytes": made.store.bytes,
    }


def _tasks(functions: Counter[Name]) -> int:
    return sum(n for name, n in functions.items() if getattr(name, "co_qualname", "") == _TASK_MADE)


def _hold(made: Pair, work: Work) -> Counted:
    """What is kept while the work does not go on."""
    made.start(work.flow.__name__, b"1")
    made.settle()
    gc.collect()
    tracemalloc.start()
    try:
        for side in (made.engine, made.host):
            side.start_measuring()
        made.start(work.flow.__name__, str(work.steps).encode(), work.runs)
        made.settle()
        steps = work.steps * work.runs
        return Counted(
            steps,
            engine_objects=made.engine.objects / steps,
            engine_bytes=made.engine.bytes / steps,
            host_objects=made.host.objects / steps,
            host_bytes=made.host.bytes / steps,
        )
    finally:
        tracemalloc.stop()


@contextmanager
def no_collections() -> Iterator[None]:
    """A collection calls functions of its own, whenever it happens."""
    on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
