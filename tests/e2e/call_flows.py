"""Flows whose steps are performed by the engine, beside ordinary ones.

Runs as `stepwire host tests.e2e.call_flows:host`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import stepwire
from stepwire import Context, ContextSync, ParallelMode
from tests.e2e.bodies import enter, gated, told
from tests.e2e.ledger import HOST_ENV

host = stepwire.Host(os.environ[HOST_ENV])


@dataclass(frozen=True)
class Mixture:
    """Where to call, how long to sleep (seconds), and the mode of the group."""

    url: str
    seconds: float
    mode: str


@host.flow
async def brief(ctx: Context, value: int) -> int:
    """The child of the mixtures."""
    enter(ctx)
    return int(await ctx.step.run("step", told, value))


@host.flow
async def mixture(ctx: Context, mixed: Mixture) -> list[Any]:
    """A group with a step of every kind."""
    enter(ctx)
    answer, ran, slept, event, child, sent = await ctx.group.parallel(
        [
            lambda: ctx.step.call("call", mixed.url, method="POST", json={"from": "a flow"}),
            lambda: ctx.step.run("run", gated, "ran"),
            lambda: ctx.step.sleep("sleep", mixed.seconds),
            lambda: ctx.step.wait_event("wait", "go", match={"data.run": ctx.run_id}),
            lambda: ctx.step.invoke("invoke", brief, 5),
            lambda: ctx.step.send_event("send", stepwire.Event("gone", id=f"gone-{ctx.run_id}")),
        ],
        parallel_mode=ParallelMode[mixed.mode],
    )
    told_all = [answer.status, answer.json(), ran, slept, event.data["text"], child, list(sent)]
    return await ctx.step.run("after", told, told_all)


@host.flow
def mixture_sync(ctx: ContextSync, mixed: Mixture) -> list[Any]:
    """The same as a plain function."""
    enter(ctx)
    answer, ran, slept, event, child, sent = ctx.group.parallel(
        [
            lambda: ctx.step.call("call", mixed.url, method="POST", json={"from": "a flow"}),
            lambda: ctx.step.run("run", gated, "ran"),
            lambda: ctx.step.sleep("sleep", mixed.seconds),
            lambda: ctx.step.wait_event("wait", "go", match={"data.run": ctx.run_id}),
            lambda: ctx.step.invoke("invoke", brief, 5),
            lambda: ctx.step.send_event("send", stepwire.Event("gone", id=f"gone-{ctx.run_id}")),
        ],
        parallel_mode=ParallelMode[mixed.mode],
    )
    told_all = [answer.status, answer.json(), ran, slept, event.data["text"], child, list(sent)]
    return ctx.step.run("after", told, told_all)


@host.flow
async def fetch(ctx: Context, url: str) -> list[Any]:
    """One request; whatever is answered is a result."""
    enter(ctx)
    answer = await ctx.step.call("call", url)
    return await ctx.step.run("after", told, [answer.status, answer.text])


@host.flow
async def fetch_patiently(ctx: Context, url: str) -> list[Any]:
    """Attempts of at most 300 ms, and three of them."""
    enter(ctx)
    patient = stepwire.Retry(retries=2, delay="10ms", jitter=0)
    try:
        answer = await ctx.step.call("call", url, timeout="300ms", retries=patient)
    except stepwire.StepError as error:
        return [error.code.name]
    return [answer.status, answer.text]
