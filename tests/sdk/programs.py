"""Random flows of branches, steps and awaits, as data; one interpreter runs them as async and one as sync flows.

A program is a list of operations:
    ("step", name)                       a closure whose value is the path the program knows for it
    ("task", name)                       the same as a registered step
    ("wait", turns)                      an await that is no step
    ("group", [program, ...])            a group
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter
from typing import Any

import stepwire
from stepwire import ParallelMode
from stepwire.protocol import paths

Program = list[Any]


def random_program(rng: random.Random, steps_max: int = 10) -> Program:
    """A group of 2-8 branches of 1-5 steps with awaits between them and groups inside, and perhaps steps around it.

    Args:
        steps_max: Steps of the whole program; replaying every release costs its square.
    """
    left = steps_max

    def operations(depth: int) -> Program:
        nonlocal left
        program: Program = []
        for _ in range(rng.randint(1, 5)):
            if left <= 0:
                break
            chance = rng.random()
            if chance < 0.25:
                program.append(("wait", rng.randint(0, 3)))
            elif chance < 0.4 and depth < 3:
                program.append(("group", [operations(depth + 1) for _ in range(rng.randint(0, 3))]))
            else:
                left -= 1
                program.append((rng.choice(["step", "step", "task"]), rng.choice("abc")))
        return program

    before = [("step", "before")] * rng.randint(0, 1)
    group = ("group", [operations(1) for _ in range(rng.randint(2, 8))])
    return [*before, group, *[("step", "after")] * rng.randint(0, 1)]


def expected(program: Program, scope: str = "") -> list[Any]:
    """What the program returns."""
    occurrences = paths.Occurrences(scope)
    values: list[Any] = []
    for op in program:
        match op:
            case ("step" | "task", name):
                values.append(occurrences.next_path(name))
            case ("group", branches):
                path = occurrences.next_path("parallel")
                values.append([expected(b, paths.branch_path(path, i)) for i, b in enumerate(branches)])
    return values


def paths_of(values: list[Any]) -> list[str]:
    """Every step of the program."""
    return [path for value in values for path in (paths_of(value) if isinstance(value, list) else [value])]


class Interpreter:
    """Runs programs; counts each call of each step.

    Attributes:
        calls: How often each step body ran, by path.
        program, mode: What to run next.
    """

    def __init__(self, rng: random.Random) -> None:
        self.host = stepwire.Host("programs")
        self.calls: Counter[str] = Counter()
        self.program: Program = []
        self.mode = ParallelMode.WAIT
        self._rng = rng
        self.registered = self.host.step(name="registered")(self._step)
        self.tasks = self.host.flow(name="tasks")(self._in_tasks)
        self.threads = self.host.flow(name="threads")(self._in_threads)

    async def _step(self, path: str) -> str:
        """Some turns of the loop long, so that outcomes come in any order."""
        for _ in range(self._rng.randint(0, 4)):
            await asyncio.sleep(0)
        self.calls[path] += 1
        return path

    async def _in_tasks(self, ctx: stepwire.Context) -> list[Any]:
        async def run(program: Program, scope: str) -> list[Any]:
            occurrences = paths.Occurrences(scope)
            values: list[Any] = []
            for op in program:
                match op:
                    case ("step" | "task" as kind, name):
                        fn = self.registered if kind == "task" else self._step
                        values.append(await ctx.step.run(name, fn, occurrences.next_path(name)))
                    case ("wait", turns):
                        await self._outside(turns)
                    case ("group", members):
                        path = occurrences.next_path("parallel")
                        branches = [
                            functools.partial(run, b, paths.branch_path(path, i)) for i, b in enumerate(members)
                        ]
                        values.append(list(await ctx.group.parallel(branches, parallel_mode=self.mode)))
            return values

        return await run(self.program, "")

    async def _outside(self, turns: int) -> None:
        """Awaits that are no steps: turns of the loop, or an event that something else sets soon."""
        if turns == 3:
            event = asyncio.Event()
            asyncio.get_running_loop().call_soon(event.set)
            await event.wait()
            return
        for _ in range(turns):
            await asyncio.sleep(0)

    def _in_threads(self, ctx: stepwire.ContextSync) -> list[Any]:
        def run(program: Program, scope: str) -> list[Any]:
            occurrences = paths.Occurrences(scope)
            values: list[Any] = []
            for op in program:
                match op:
                    case ("step" | "task" as kind, name):
                        fn = self.registered if kind == "task" else self._step
                        values.append(ctx.step.run(name, fn, occurrences.next_path(name)))
                    case ("group", members):
                        path = occurrences.next_path("parallel")
                        branches = [
                            functools.partial(run, b, paths.branch_path(path, i)) for i, b in enumerate(members)
                        ]
                        values.append(list(ctx.group.parallel(branches, parallel_mode=self.mode)))
            return values

        return run(self.program, "")
