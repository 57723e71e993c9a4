"""A host without tracing runs the same code as if there were none, call by call (MISSION V5: off costs nothing)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from types import FrameType

from opentelemetry import trace

import stepwire
from stepwire._runtime.attempts import Attempts
from stepwire._runtime.body import LiveBody
from stepwire._runtime.tracing import PLAIN, makers_of
from tests.sdk.host_desk import HostDesk
from tests.sdk.spans import provided, recorded

STEPS = 20


def calls_of_a_run(host: stepwire.Host) -> Counter[str]:
    """Calls of Stepwire's and OpenTelemetry's code on the loop while a run of async steps is played, by function."""
    calls: Counter[str] = Counter()

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        async def work() -> None: ...

        for _ in range(STEPS):
            await ctx.step.run("alone", work)
        await ctx.group.parallel([lambda: ctx.step.run("together", work) for _ in range(3)], name="group")

    def look(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        # Not the session: its Reports go by the clock.
        stepwires = "/stepwire/_" in name and "/_transport/" not in name
        if event == "call" and (stepwires or "opentelemetry" in name):
            calls[f"{name}:{frame.f_code.co_qualname}"] += 1

    async def main() -> None:
        async with HostDesk(host) as desk:
            desk.runtime._new_body, attempts = makers_of(host.name, host.tracing)
            assert attempts is Attempts
            sys.setprofile(look)
            try:
                await desk.play(flow)
            finally:
                sys.setprofile(None)

    asyncio.run(main())
    return calls


def test_without_a_provider_every_call_is_as_with_tracing_off() -> None:
    with provided(None):
        by_default = calls_of_a_run(stepwire.Host("shop"))
        off = calls_of_a_run(stepwire.Host("shop", tracing=False))
    assert by_default == off
    assert sum(off.values()) > STEPS
    assert not [name for name in off if "opentelemetry" in name or "trac" in name.rpartition("/")[2]]


def test_only_a_configured_provider_turns_it_on() -> None:
    with provided(None):
        assert makers_of("shop", True) is PLAIN
    with recorded():
        assert makers_of("shop", False) is PLAIN
        assert makers_of("shop", True).body is not LiveBody
    with provided(trace.NoOpTracerProvider()):  # type: ignore[arg-type]
        assert makers_of("shop", True) is PLAIN


def test_a_process_that_does_not_use_it_never_imports_it() -> None:
    program = """
import sys, stepwire
from stepwire import testing
host = stepwire.Host("shop")
@host.flow
async def flow(ctx: stepwire.Context) -> None:
    await ctx.step.run("s", lambda: 1)
assert testing.run(host, flow).succeeded
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=15)
