"""The body of every declared flow: one step or group after the other, through the same `ctx` that users have.

It decides nothing of its own. What it writes into the Book follows from releases alone, so replay writes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from stepwire._declarative.group import Group
from stepwire._declarative.results import Stored
from stepwire._declarative.state import Book, Settled, View
from stepwire._declarative.step import Step
from stepwire._runtime.durable import StepFuture
from stepwire._runtime.report import step_result
from stepwire.codec import JSON_CODEC
from stepwire.protocol import paths
from stepwire.results import BranchResult, GroupResult, StepResult

if TYPE_CHECKING:
    from stepwire.context import Context


async def run_items(ctx: Context, items: Sequence[Step | Group], book: Book) -> None:
    """Run everything in order; each starts when the one before has settled (MISSION O2).

    Raises:
        StepError: a step failed.
        GroupFailed: a group did, by its policy.
    """
    for place, item in enumerate(items):
        view = View(book, place)
        match item:
            case Step():
                future = item.plan(ctx, view)
                await future
                _settle(book, item, step_result(future))
            case Group():
                await _run_group(ctx, item, view)


async def _run_group(ctx: Context, group: Group, view: View) -> None:
    planned: list[StepFuture | None] = [None] * len(group.steps)

    def branch(index: int) -> StepFuture:
        future = planned[index] = group.steps[index].plan(ctx, view)
        return future

    branches: list[Callable[[], Any]] = [partial(branch, index) for index in range(len(group.steps))]
    ended = await ctx.group.parallel(branches, **group.options)
    for index, step in enumerate(group.steps):
        if isinstance(ended, GroupResult):
            result = _of_branch(step, ended[index], paths.encode_key(group.name))
        else:  # every branch completed, and only values are given
            future = planned[index]
            assert future is not None
            result = step_result(future)
        _settle(view.book, step, result)


def _of_branch(step: Step, branch: BranchResult[Any], group: str) -> StepResult:
    """The result of a member: that of its one step, if it came to plan it."""
    if branch.steps:
        return branch.steps[0]
    path = paths.join(paths.branch_path(group, branch.index), paths.encode_key(step.name))
    return StepResult(name=step.name, path=path, status=branch.outcome, error=branch.error)


def _settle(book: Book, step: Step, result: StepResult) -> None:
    stored = None
    if result.status == "completed":
        stored = Stored(JSON_CODEC.encode(result.output, step.returns), step.returns)
    book.settled[step.name] = Settled(result, stored)
