"""Flows that invoke those of another service. Runs as `stepwire host tests.e2e.parent_flows:host`."""

from __future__ import annotations

import os
from typing import Any

import stepwire
from stepwire import Context, ContextSync
from tests.e2e.bodies import enter, told
from tests.e2e.ledger import HOST_ENV

host = stepwire.Host(os.environ[HOST_ENV])


@host.flow
async def asks(ctx: Context, flow: str) -> list[Any]:
    """What a child comes back with: its output, or the code and message of its failure."""
    enter(ctx)
    try:
        answer: list[Any] = [await ctx.step.invoke("child", flow, 21)]
    except stepwire.StepError as error:
        answer = [error.code.name, error.message]
    return await ctx.step.run("after", told, answer)


@host.flow
def asks_sync(ctx: ContextSync, flow: str) -> list[Any]:
    """The same as a plain function."""
    enter(ctx)
    try:
        answer: list[Any] = [ctx.step.invoke("child", flow, 21)]
    except stepwire.StepError as error:
        answer = [error.code.name, error.message]
    return ctx.step.run("after", told, answer)


@host.flow
async def asks_in_vain(ctx: Context, flow: str) -> None:
    """Does not catch what its child fails with."""
    enter(ctx)
    await ctx.step.run("reserve", told, "reserve", compensate=told)
    await ctx.step.invoke("child", flow, 21)


@host.flow
async def asks_many(ctx: Context, children: int) -> int:
    """A group of children."""
    enter(ctx)
    made = [lambda i=i: ctx.step.invoke("child", "quick", i) for i in range(children)]
    return sum(await ctx.group.parallel(made))


@host.flow
async def asks_by_key(ctx: Context, key: str) -> Any:
    """Its child has an id: only one run may start it."""
    enter(ctx)
    try:
        return await ctx.step.invoke("child", "double", 21, id=key)
    except stepwire.StepError as error:
        return error.code.name


@host.flow
async def asks_in_time(ctx: Context, seconds: float) -> str:
    """The step has a deadline that its child does not keep."""
    enter(ctx)
    try:
        await ctx.step.invoke("child", "double", 21, deadline=seconds)
    except stepwire.StepTimeout:
        return "late"
    raise AssertionError("the child must not complete")
