"""Flows that do something, fail or are cancelled, and are undone. Runs as `stepwire host tests.e2e.saga_flows:host`."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import stepwire
from stepwire import Compensation, Context, StepError
from tests.e2e.bodies import enter, gated, pen, refused, told
from tests.e2e.gates import pass_gate_sync
from tests.e2e.ledger import HOST_ENV

CODE_ENV = "E2E_CODE"
"""Which version of the code of `order` this process has: "", "no step b", "no undo of a"."""
CODE = os.environ.get(CODE_ENV, "")

host = stepwire.Host(os.environ[HOST_ENV])


async def gated_undo(output: Any, why: StepError | None) -> None:
    """Undoes at a gate; wants to know what, and why."""
    assert why is not None and why.type == "ValueError"
    await gated(output)


@host.step
async def refund(output: str) -> None:
    """An undo that any host can do, for a step that returned "c"."""
    assert output == "c"
    await gated(output)


@host.flow
async def order(ctx: Context) -> None:
    """A step, a group of four of which one fails, and a step that fails: all closures but one undo."""
    enter(ctx)

    async def undo_a(output: str, why: StepError | None) -> None:
        assert output == "a"
        await gated_undo(output, why)

    def undo_b(output: str) -> None:
        assert output == "b"
        with pen.attempt() as key:
            pass_gate_sync(key)

    async def reserved(output: str, why: StepError | None) -> None:
        assert output == "reserve"
        await gated_undo(output, why)

    def branch(name: str, undo: Callable[..., Any] | None) -> Callable[[], Awaitable[str]]:
        return lambda: ctx.step.run(name, gated, name, compensate=undo)

    await ctx.step.run("reserve", told, "reserve", compensate=reserved)
    b = branch("other" if CODE == "no step b" else "b", undo_b)
    await ctx.group.settle(
        (
            branch("a", None if CODE == "no undo of a" else undo_a),
            b,
            branch("c", refund),
            lambda: ctx.step.run("d", refused, "d is out of stock", retries=0, compensate=undo_a),
        )
    )
    await ctx.step.run("ship", refused, "no lorry", retries=0)


@host.flow
async def stumbling(ctx: Context) -> None:
    """Its undos: one that always fails, one that fails twice, one that does not."""
    enter(ctx)

    def third_time(output: str) -> None:
        attempt = stepwire.current_attempt()
        assert attempt is not None
        if attempt.attempt < 3:
            refused(f"attempt {attempt.attempt}")
        told(output)

    patient = stepwire.Retry(retries=3, delay="10ms", jitter=0)
    await ctx.step.run("good", told, "good", compensate=told)
    await ctx.step.run("flaky", told, "flaky", compensate=Compensation(third_time, retries=patient))
    await ctx.step.run("bad", told, "bad", compensate=Compensation(refused, retries=0))
    await ctx.step.run("ship", refused, "no lorry", retries=0)
