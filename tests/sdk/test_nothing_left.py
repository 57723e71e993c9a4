"""What ended is gone at once: neither the collector nor the next wave is needed to let go of it.

Collections are rare in a host (`Host.run` tunes them), and arguments of steps may be large.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

import stepwire
from stepwire import testing
from tests.sdk.gates import until


class Argument:
    """Something that a step is called with."""


@pytest.fixture
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.live_bodies
@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("wide", [True, False])
def test_arguments_of_attempts(is_async: bool, wide: bool, no_collections: None) -> None:
    known: list[weakref.ref[Argument]] = []

    async def in_task(argument: Argument) -> None: ...

    def in_thread(argument: Argument) -> None: ...

    def argument() -> Argument:
        made = Argument()
        known.append(weakref.ref(made))
        return made

    fn = in_task if is_async else in_thread

    async def body(ctx: stepwire.Context) -> None:
        if wide:
            await ctx.group.parallel([lambda: ctx.step.run("s", fn, argument()) for _ in range(3)])
        else:
            for _ in range(3):
                await ctx.step.run("s", fn, argument())
        await ctx.step.wait_event("never", "never")

    async def main() -> None:
        host = stepwire.Host("left")
        flow = host.flow(name="flow")(body)
        async with testing.environment(host) as env:
            await env.start(flow)
            await until("all were called", lambda: len(known) == 3)
            await until("nothing of them is left", lambda: not any(one() for one in known))

    asyncio.run(main())
