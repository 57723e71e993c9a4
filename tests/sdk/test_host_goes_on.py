"""What goes wrong in one body is an error there, or a loud defect: the host goes on with it and with all others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import stepwire
from stepwire._runtime.body import LiveBody
from stepwire._runtime.durable import StepFuture
from tests.sdk.by_hand import by_hand


@pytest.mark.parametrize("bare", [True, False])
def test_a_decoder_that_raises_stop_iteration_fails_the_step(bare: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`next()` in a validator does that, and no future takes such an exception."""

    def decoded(step: StepFuture, output: Any) -> Any:
        return next(iter(()))

    monkeypatch.setattr(StepFuture, "decoded", decoded)

    async def body(ctx: stepwire.Context) -> None:
        if bare:
            await ctx.group.parallel((lambda: ctx.step.sleep("nap", 1),))
        else:
            await ctx.step.sleep("nap", 1)

    async def main() -> None:
        host = stepwire.Host("decodes")
        flow = host.flow(name="flow")(body)
        async with by_hand(host) as engine:
            await engine.begin(flow)
            await engine.release(dict.fromkeys(engine.steps))
            assert engine.ended is not None and engine.ended.failure is not None
            assert "StopIteration" in engine.ended.failure.traceback or "StopIteration" in engine.ended.failure.message

    asyncio.run(main())


@pytest.mark.parametrize("turn", [1, 2])
def test_a_defect_in_one_turn_of_a_body_does_not_stop_the_host(turn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[LiveBody] = []
    go_on = LiveBody.go_on

    def breaks(body: LiveBody) -> None:
        turns.append(body)
        if len(turns) == turn:
            raise RuntimeError("a defect")
        go_on(body)

    monkeypatch.setattr(LiveBody, "go_on", breaks)

    async def body(ctx: stepwire.Context) -> None:
        await ctx.step.sleep("nap", 1)

    async def main() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))
        host = stepwire.Host("breaks")
        flow = host.flow(name="flow")(body)
        async with by_hand(host) as engine:
            await engine.begin(flow)
            await engine.begin(flow)
            await engine.release({"nap": None})
            assert engine.ended is not None and engine.ended.failure is None
        assert [str(what["exception"]) for what in told] == ["a defect"]

    asyncio.run(main())
