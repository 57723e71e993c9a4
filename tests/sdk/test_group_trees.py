"""Random trees of groups with policies: live, replayed and as threads they leave one record, the one a model predicts.

Every sleep has a duration of its own, so that the virtual clock alone says what ends before what. The model knows only
times and the verdict function; it holds for RACE, where a branch never waits for its siblings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stepwire
from stepwire import ParallelMode, testing
from stepwire.errors import GroupFailed
from stepwire.protocol.plan import BranchOutcome, FailPolicy, GroupOpened, Verdict
from stepwire.protocol.verdict import group_verdict
from stepwire.results import GroupResult
from stepwire.testing import TestRun
from stepwire_engine.core.entries import Planned

EXAMPLES = 25
DEPTH_MAX = 3


class Sleep(NamedTuple):
    """A step that ends after a time of its own.

    Attributes:
        seconds: Different from those of every other sleep and deadline, also in sums.
    """

    seconds: int


class Run(NamedTuple):
    """A step that ends at once."""


class Group(NamedTuple):
    """Branches with a policy.

    Attributes:
        options: Of `ctx.group.parallel`.
        caught: The branch around it survives its failure.
    """

    options: dict[str, Any]
    branches: list[Branch]
    caught: bool


class Branch(NamedTuple):
    """Operations, a last sleep, and then success or failure."""

    operations: list[Any]
    last: Sleep
    fails: bool


# ---- programs


@st.composite
def programs(draw: st.DrawFn) -> Group:
    """A tree of groups. Durations are distinct powers of two, shuffled: no two sums of them are equal."""
    bits = iter(draw(st.permutations(range(24))))
    return draw_group(draw, bits, 1)


def draw_group(draw: st.DrawFn, bits: Iterator[int], depth: int) -> Group:
    count = draw(st.integers(1, 3))
    options: dict[str, Any] = {}
    match draw(st.sampled_from(["any", "any", "all", "never", "quorum"])):
        case "quorum":
            options["quorum"] = draw(st.integers(1, count))
        case fail:
            options["fail"] = fail
    if draw(st.booleans()):
        options["cancel_siblings"] = True
    branches = [branch for _ in range(count) if (branch := draw_branch(draw, bits, depth)) is not None]
    if draw(st.integers(0, 3)) == 0 and (bit := next(bits, None)) is not None:
        options["deadline"] = 2**bit
    if options.get("quorum", 0) > len(branches):
        del options["quorum"]
    return Group(options, branches, draw(st.booleans()))


def draw_branch(draw: st.DrawFn, bits: Iterator[int], depth: int) -> Branch | None:
    operations: list[Any] = []
    for kind in draw(st.lists(st.sampled_from(["sleep", "run", "group"]), max_size=3)):
        match kind:
            case "run":
                operations.append(Run())
            case "sleep" if (bit := next(bits, None)) is not None:
                operations.append(Sleep(2**bit))
            case "group" if depth < DEPTH_MAX:
                operations.append(draw_group(draw, bits, depth + 1))
    bit = next(bits, None)
    return Branch(operations, Sleep(2**bit), draw(st.booleans())) if bit is not None else None


# ---- the model


class Ended(NamedTuple):
    """When something ended, how, and what it told."""

    at: int
    ok: bool
    told: Any


def predict_branch(branch: Branch, at: int) -> Ended:
    told: list[Any] = []
    for operation in branch.operations:
        match operation:
            case Sleep(seconds):
                at += seconds
            case Group():
                ended = predict_group(operation, at)
                at = ended.at
                told.append(ended.told)
                if not ended.ok and not operation.caught:
                    return Ended(at, False, None)
    return Ended(at + branch.last.seconds, not branch.fails, None if branch.fails else told)


def predict_group(group: Group, at: int) -> Ended:
    quorum = group.options.get("quorum", 0)
    fail = FailPolicy.QUORUM if quorum else FailPolicy[group.options.get("fail", "any").upper()]
    cancel = group.options.get("cancel_siblings", False)
    opened = GroupOpened("g", len(group.branches), fail=fail, quorum=quorum, cancel_siblings=cancel)
    due = at + group.options["deadline"] if "deadline" in group.options else None
    branches = [predict_branch(branch, at) for branch in group.branches]
    order = sorted(range(len(branches)), key=lambda index: branches[index].at)
    known: list[tuple[int, BranchOutcome]] = []
    verdict = group_verdict(opened, known)
    for index in order:
        if verdict is not None:
            break
        if due is not None and branches[index].at > due:
            at, verdict = due, group_verdict(opened, known, expired=True)
            break
        at = branches[index].at
        known.append((index, BranchOutcome.OK if branches[index].ok else BranchOutcome.FAILED))
        verdict = group_verdict(opened, known)
    assert verdict is not None
    outcomes = ["cancelled"] * len(branches)
    for index, outcome in known:
        outcomes[index] = "completed" if outcome is BranchOutcome.OK else "failed"
    values = [branch.told if outcomes[index] == "completed" else None for index, branch in enumerate(branches)]
    ok = verdict.verdict is Verdict.OK
    if ok and fail is FailPolicy.ANY:
        return Ended(at, ok, values)
    return Ended(at, ok, [ok, [list(pair) for pair in zip(outcomes, values, strict=True)]])


# ---- the interpreters


class Interpreter:
    """Runs a program as tasks or as threads; both tell the same."""

    def __init__(self, program: Group, mode: ParallelMode) -> None:
        self.host = stepwire.Host("trees")
        self._program = program
        self._mode = mode
        self.tasks = self.host.flow(name="tasks")(self._in_tasks)
        self.threads = self.host.flow(name="threads")(self._in_threads)

    async def _in_tasks(self, ctx: stepwire.Context) -> list[Any]:
        async def run(branch: Branch) -> list[Any]:
            told: list[Any] = []
            for operation in branch.operations:
                match operation:
                    case Sleep(seconds):
                        await ctx.step.sleep("sleep", seconds)
                    case Run():
                        await ctx.step.run("run", lambda: 1)
                    case Group():
                        told.append(await open_group(operation))
            await ctx.step.sleep("last", branch.last.seconds)
            if branch.fails:
                raise ValueError("as told")
            return told

        async def open_group(group: Group) -> Any:
            branches = [lambda b=b: run(b) for b in group.branches]
            try:
                given = await ctx.group.parallel(branches, **self._options(group))
            except GroupFailed as error:
                if not group.caught:
                    raise
                return [False, told_of(error.results)]
            return [True, told_of(given)] if isinstance(given, GroupResult) else list(given)

        try:
            return [await open_group(self._program), (ctx.now().timestamp())]
        except GroupFailed as error:
            return [[False, told_of(error.results)], ctx.now().timestamp()]

    def _in_threads(self, ctx: stepwire.ContextSync) -> list[Any]:
        def run(branch: Branch) -> list[Any]:
            told: list[Any] = []
            for operation in branch.operations:
                match operation:
                    case Sleep(seconds):
                        ctx.step.sleep("sleep", seconds)
                    case Run():
                        ctx.step.run("run", lambda: 1)
                    case Group():
                        told.append(open_group(operation))
            ctx.step.sleep("last", branch.last.seconds)
            if branch.fails:
                raise ValueError("as told")
            return told

        def open_group(group: Group) -> Any:
            branches = [lambda b=b: run(b) for b in group.branches]
            try:
                given = ctx.group.parallel(branches, **self._options(group))
            except GroupFailed as error:
                if not group.caught:
                    raise
                return [False, told_of(error.results)]
            return [True, told_of(given)] if isinstance(given, GroupResult) else list(given)

        try:
            return [open_group(self._program), ctx.now().timestamp()]
        except GroupFailed as error:
            return [[False, told_of(error.results)], ctx.now().timestamp()]

    def _options(self, group: Group) -> dict[str, Any]:
        # What may end early is RACE anyhow; in WAIT a deadline lets branches answer for some seconds of the clock.
        mode = ParallelMode.RACE if group.options.get("cancel_siblings") or "deadline" in group.options else self._mode
        return {**group.options, "parallel_mode": mode}


def told_of(results: GroupResult[Any]) -> list[Any]:
    return [[branch.outcome, branch.value] for branch in results]


def steps_of(results: GroupResult[Any]) -> list[Any]:
    return [[(step.path, step.status, step.started_at) for step in branch.steps] for branch in results]


# ---- the test


def record(run: TestRun) -> dict[str, Any]:
    """Everything of a run that must not depend on how it was driven."""
    plans = [entry.plan for entry in run.journal if isinstance(entry, Planned)]
    ends: dict[str, list[Any]] = {}
    for plan in plans:
        for branch in plan.branches_ended:
            group, _, index = branch.path.rpartition("/")
            ends.setdefault(group, []).append((index, branch.outcome))
    return {
        "output": run.output,
        "groups": {group.path: group for plan in plans for group in plan.groups},
        "ends": {group: sorted(of) for group, of in ends.items()},
        "verdicts": {ended.path: ended for plan in plans for ended in plan.groups_ended},
        "steps": {step.path: (step.kind, step.state) for step in run.record.steps},
    }


async def record_of(program: Group, mode: ParallelMode, *, is_async: bool, replay: bool) -> dict[str, Any]:
    interpreter = Interpreter(program, mode)
    async with testing.environment(interpreter.host, replay=replay) as env:
        run = await env.execute(interpreter.tasks if is_async else interpreter.threads)
    assert run.succeeded, run.failure
    return record(run)


@pytest.mark.timeout(90)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs(), st.sampled_from(ParallelMode))
def test_live_replayed_and_as_threads_they_leave_one_record(program: Group, mode: ParallelMode) -> None:
    records = [
        asyncio.run(record_of(program, mode, is_async=is_async, replay=replay))
        for is_async in (True, False)
        for replay in (False, True)
    ]
    live, *others = records
    for other in others:
        assert other == live
    if mode is ParallelMode.RACE:
        predicted = predict_group(program, 0)
        given_back, at = live["output"]
        assert given_back == predicted.told
        assert at - 1767225600 == predicted.at, "the virtual clock begins there"
