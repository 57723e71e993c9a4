"""What a host counts of its session and its replays (MISSION V1)."""

from __future__ import annotations

import asyncio
from functools import partial

import stepwire
from stepwire.protocol.frames import CancelReason
from tests.sdk.gates import Gates, until
from tests.sdk.host_desk import HostDesk
from tests.transport.whole_engine import WholeEngine, whole_engine


def value(host: stepwire.Host, name: str, **labels: str) -> float:
    found = host.registry.get_sample_value(f"stepwire_host_{name}", {"service": host.name, **labels})
    assert found is not None
    return found


def told(host: stepwire.Host, direction: str) -> tuple[float, float]:
    frames = value(host, "frames_total", direction=direction)
    return frames, value(host, "frame_bytes_total", direction=direction)


def heard(engine: WholeEngine, direction: str) -> tuple[float, float]:
    return engine.telemetry.frames[direction], engine.telemetry.frame_bytes[direction]


def same(host: stepwire.Host, direction: str, engine: WholeEngine, other: str) -> bool:
    """Both sides counted the same, and something: each counts a frame only once it has sent or decoded it."""
    return told(host, direction) == heard(engine, other) and value(host, "frames_total", direction=direction) > 0


def test_frames_and_their_bytes_are_counted_in_both_directions() -> None:
    async def main() -> None:
        async with whole_engine() as engine:
            host = stepwire.Host("shop")
            host.flow(name="f")(lambda ctx: None)
            assert value(host, "connected") == 0
            running = await host.start(f"127.0.0.1:{engine.port}")
            await running.first_answer(10)
            assert value(host, "connected") == 1
            for direction, other in (("in", "out"), ("out", "in")):
                await until("both sides counted the same", partial(same, host, direction, engine, other))
                assert value(host, "frames_total", direction=direction) < 10
            await host.stop()

    asyncio.run(main())


def test_cancels_are_counted_by_reason() -> None:
    async def main() -> None:
        host = stepwire.Host("shop")
        gates = Gates()

        @host.flow
        async def flow(ctx: stepwire.Context) -> None:
            await ctx.step.run("s", gates.wait, "s")

        async with HostDesk(host) as desk:
            fence = desk.start(flow)
            await until("it runs", lambda: gates.reached)
            desk.cancel("s", fence, CancelReason.RACE_LOST)
            await desk.until_result("s")
        assert value(host, "cancels_total", reason="race_lost") == 1
        assert value(host, "cancels_total", reason="timeout") == 0

    asyncio.run(main())


def test_a_replay_is_measured_until_the_body_has_caught_up() -> None:
    async def main() -> None:
        host = stepwire.Host("shop")
        gates = Gates()
        lives = [1]

        @host.flow
        async def flow(ctx: stepwire.Context) -> None:
            await ctx.step.run("first", lambda: 1)
            if len(lives) > 1:
                await gates.wait("on its way")
            await ctx.step.run("second", lambda: 2)

        async with HostDesk(host) as desk:
            await desk.play(flow)
            assert value(host, "replay_seconds_count") == 0, "nothing was replayed"
            lives.append(2)
            desk.start(flow, desk.journal[:3])
            await until("it is on its way", lambda: gates.reached)
            assert value(host, "replay_seconds_count") == 0
            gates.open("on its way")
            await until("it has caught up", lambda: value(host, "replay_seconds_count"))
        assert value(host, "replays_total") == 1

    asyncio.run(main())
