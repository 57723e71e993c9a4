"""Random flow programs and a pure interpreter that drives the SDK's replay core with them.

A program is a list of operations: `("step", name, fails)`, `("task", name, fails)` or
`("group", mode, [program, ...])`. Its output is known in advance, so the simulator has an oracle.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Any

from stepwire._replay.journal import BodyJournal, Kind
from stepwire.protocol import paths
from stepwire.protocol.frames import Release
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    Backoff,
    BodyEnded,
    BranchEnded,
    BranchOutcome,
    GroupOpened,
    ParallelMode,
    RetryPolicy,
    StepKind,
    StepPlanned,
)
from stepwire.protocol.verdict import group_verdict

Program = list[Any]
Line = Generator[str, Any, Any]

RETRY = RetryPolicy(max_attempts=10, backoff=Backoff.FIXED, delay=0.3, jitter=0.5)


def random_program(rng: random.Random, *, depth: int = 0, length: int = 4) -> Program:
    """A program of up to `length` operations with groups nested at most three deep."""
    program: Program = []
    for _ in range(rng.randint(1, length)):
        if depth < 3 and rng.random() < 0.35:
            mode = rng.choice([ParallelMode.WAIT, ParallelMode.RACE])
            branches = [random_program(rng, depth=depth + 1, length=3) for _ in range(rng.randint(0, 4))]
            program.append(("group", mode, branches))
        else:
            fails = rng.choice([0, 0, 0, 0, 1, 2])
            program.append((rng.choice(["step", "step", "task"]), rng.choice("abc"), fails))
    return program


def expected_output(program: Program, scope: str = "") -> Any:
    """What the program returns: every step's value is its own path."""
    occurrences = paths.Occurrences(scope)
    values: list[Any] = []
    for op in program:
        if op[0] == "group":
            path = occurrences.next_path("parallel")
            values.append([expected_output(b, paths.branch_path(path, i)) for i, b in enumerate(op[2])])
        else:
            values.append(occurrences.next_path(op[1]))
    return values


def step_count(program: Program) -> int:
    return sum(sum(step_count(b) for b in op[2]) if op[0] == "group" else 1 for op in program)


def steps_by_path(program: Program, scope: str = "") -> dict[str, int]:
    """How often each step fails before it succeeds, by path."""
    occurrences = paths.Occurrences(scope)
    found: dict[str, int] = {}
    for op in program:
        if op[0] == "group":
            path = occurrences.next_path("parallel")
            for i, branch in enumerate(op[2]):
                found |= steps_by_path(branch, paths.branch_path(path, i))
        else:
            found[occurrences.next_path(op[1])] = op[2]
    return found


class ProgramBody:
    """A live body that runs a program: every line of control is a generator that waits for a path."""

    def __init__(self, journal: BodyJournal, program: Program) -> None:
        self.journal = journal
        self.reached: set[str] = set()
        self.ended = False
        self._waiting: dict[str, Line] = {}
        self._program = program
        self._results: dict[str, Any] = {}

    def enter(self) -> None:
        self._step(self._root(), None)

    def deliver(self, release: Release, outputs: dict[str, Payload]) -> None:
        """Hand a release to the lines that wait for it."""
        for outcome in release.outcomes:
            payload = outputs[outcome.path] if outcome.held else outcome.output
            assert payload is not None, outcome
            line = self._waiting.pop(outcome.path)
            self._step(line, payload.data.decode())

    def _root(self) -> Line:
        output = yield from self._line("", self._program)
        self.ended = True
        self.journal.decide(Kind.BODY_ENDED, "", BodyEnded(Payload(repr(output).encode())))
        return output

    def _line(self, scope: str, program: Program) -> Line:
        occurrences = paths.Occurrences(scope)
        values: list[Any] = []
        for op in program:
            if op[0] == "group":
                values.append((yield from self._group(occurrences.next_path("parallel"), op[1], op[2])))
            else:
                kind = StepKind.RUN if op[0] == "step" else StepKind.TASK
                path = occurrences.next_path(op[1])
                name = "work" if kind is StepKind.TASK else ""
                given = Payload(path.encode()) if kind is StepKind.TASK else None
                self.journal.decide(Kind.STEP, path, StepPlanned(path, kind, name, given, RETRY))
                self.reached.add(path)
                values.append((yield path))
        return values

    def _group(self, path: str, mode: ParallelMode, branches: list[Program]) -> Line:
        opened = GroupOpened(path, len(branches), mode)
        self.journal.decide(Kind.GROUP, path, opened)
        results: list[Any] = [None] * len(branches)
        ended: list[tuple[int, BranchOutcome]] = []

        def branch(index: int, program: Program) -> Line:
            results[index] = yield from self._line(paths.branch_path(path, index), program)
            ended.append((index, BranchOutcome.OK))
            branch_path = paths.branch_path(path, index)
            self.journal.decide(Kind.BRANCH_ENDED, branch_path, BranchEnded(branch_path, BranchOutcome.OK))
            if len(ended) == len(branches) and path in self._waiting:
                self._step(self._waiting.pop(path), None)

        for index, program in enumerate(branches):
            self._step(branch(index, program), None)
        if len(ended) < len(branches):
            yield path
        verdict = group_verdict(opened, ended)
        assert verdict is not None
        self.journal.decide(Kind.GROUP_ENDED, path, verdict)
        return results

    def _step(self, line: Line, value: Any) -> None:
        try:
            waits_for = line.send(value)
        except StopIteration:
            return
        self._waiting[waits_for] = line
