"""A host that reads nothing: little waits for it, others are not slowed, it is cut off, and its work goes elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from stepwire.protocol.frames import EngineFrame, EngineSection
from stepwire.protocol.payload import Payload
from stepwire_engine.config import SETTINGS, Config
from stepwire_engine.core.entries import RunState
from stepwire_engine.scheduler.ports import Attached
from stepwire_engine.transport.host_service import StreamBounds
from tests.transport.bench import HELLO, Bench, Host, serving

SIZE = 200_000
INPUT = Payload(b'"' + b"x" * SIZE + b'"')
RUNS = 60
"""12 MB of inputs: much more than gRPC and the kernel take for a stream that nobody reads."""
OTHERS = 40
MIB = 1024 * 1024


def play(path: Path, scenario: Callable[[Bench], Coroutine[Any, Any, None]], bounds: StreamBounds) -> None:
    async def main() -> None:
        async with serving(path / "engine.db", bounds) as bench:
            await scenario(bench)

    asyncio.run(main())


class Worker:
    """A host that does what it is given, one step for each run, until its stream ends."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.finished: set[str] = set()
        self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while (frame := await self.host.next()) is not None:
            for section in frame.runs:
                if section.advance is not None:
                    await self._go_on(section)

    async def _go_on(self, section: EngineSection) -> None:
        advance = section.advance
        assert advance is not None
        if advance.start is not None:
            await self.host.one_step(section.run_id, advance.fence)
        else:
            await self.host.finish(section.run_id, advance.fence, 2, 1)
            self.finished.add(section.run_id)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def started(bench: Bench, count: int) -> list[str]:
    return [(await bench.driver.runs.start("checkout", INPUT, ""))[0] for _ in range(count)]


async def until_ended(bench: Bench, runs: list[str]) -> None:
    for run_id in runs:
        with bench.driver.runs.changes(run_id) as changed:
            while (await bench.driver.runs.view(run_id, include_steps=False)).state is not RunState.SUCCEEDED:
                await changed()


async def until_congested(bench: Bench, attached: Attached) -> None:
    """Start runs until the host that does not read gets nothing new."""
    for _ in range(RUNS):
        if attached.session.congested:
            return
        await bench.driver.runs.start("checkout", INPUT, "")
    raise AssertionError("it was never congested")


def test_a_slow_reader_is_given_nothing_new_slows_nobody_and_is_cut_off(tmp_path: Path) -> None:
    bounds = StreamBounds(write_timeout=3.0, bytes_queued_max=4 * MIB)

    async def scenario(bench: Bench) -> None:
        slow = bench.host(msgspec.structs.replace(HELLO, bodies=1000, slots=1000))
        await slow.greet()
        attached = bench.driver._attached[HELLO.instance_id]
        await until_congested(bench, attached)
        held = len(attached.session.bodies)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{bench.port}") as channel:
            good = Host(channel, msgspec.structs.replace(HELLO, instance_id="good", bodies=4, slots=4))
            await good.greet()
            worker = Worker(good)
            others = await started(bench, OTHERS)
            await until_ended(bench, others)
            assert bench.driver._attached[HELLO.instance_id] is attached, "all of that while the other one is there"
            assert set(others) <= worker.finished
            assert len(attached.session.bodies) == held, "it got nothing new"
            assert attached.port._queued_bytes <= bounds.congested_bytes + SIZE + 2

            if attached.session.connected:
                await bench.until_disconnected(attached)
            status, message, code = await slow.status()
            assert (status, code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "limit_exceeded")
            assert message == "slow consumer: host did not read for 3s"
            everything = [record.run_id for record in (await bench.driver.runs.list_runs(
                flow="", states=(), limit=200, page_token="")).runs]  # fmt: skip
            await until_ended(bench, everything)
            assert worker.finished == set(everything), "its work went elsewhere"
            await worker.stop()

    play(tmp_path, scenario, bounds)


def test_a_host_that_reads_again_gets_work_again(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        slow = bench.host(msgspec.structs.replace(HELLO, bodies=1000, slots=1000))
        await slow.greet()
        attached = bench.driver._attached[HELLO.instance_id]
        await until_congested(bench, attached)
        late = await started(bench, 3)
        assert len(attached.session.bodies) < len(bench.driver.core.runs)
        worker = Worker(slow)
        await until_ended(bench, late)
        assert not attached.session.congested
        assert bench.driver._attached[HELLO.instance_id] is attached
        await worker.stop()

    play(tmp_path, scenario, StreamBounds(write_timeout=10.0, bytes_queued_max=4 * MIB))


def test_one_frame_may_be_larger_than_the_bound(tmp_path: Path) -> None:
    """A release is never cut, so one that alone exceeds the bound must get through to a host that reads."""

    async def scenario(bench: Bench) -> None:
        host = bench.host()
        await host.greet()
        attached = bench.driver._attached[HELLO.instance_id]
        await bench.driver.runs.start("checkout", Payload(b'"' + b"x" * 3_000_000 + b'"'), "")
        await bench.driver.runs.start("checkout", Payload(b'"' + b"y" * 3_000_000 + b'"'), "")
        seen = {(await host.advance())[0], (await host.advance())[0]}
        assert len(seen) == 2 and bench.driver._attached[HELLO.instance_id] is attached

    play(tmp_path, scenario, StreamBounds(bytes_queued_max=64 * 1024))


def test_so_many_frames_wait_and_no_more_even_while_one_is_being_written(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        host = bench.host(msgspec.structs.replace(HELLO, bodies=1000))
        await host.greet()
        attached = bench.driver._attached[HELLO.instance_id]
        await until_congested(bench, attached)
        gone = asyncio.create_task(bench.until_disconnected(attached))
        for number in range(2000):
            attached.send(EngineFrame(number=1_000_000 + number))
        await gone
        status, message, _ = await host.status()
        assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert message.startswith("slow consumer: 1001 frames"), "at once, not when the write times out"

    play(tmp_path, scenario, StreamBounds(write_timeout=60.0, bytes_queued_max=4 * MIB))


def test_the_defaults_bound_the_memory_and_the_time_of_a_slow_reader() -> None:
    config, bounds = Config(), StreamBounds()
    assert (config.write_timeout, config.queue_frames_max, config.queue_bytes_max) == (
        bounds.write_timeout, bounds.frames_queued_max, bounds.bytes_queued_max)  # fmt: skip
    assert bounds.bytes_queued_max <= 4 * MIB, "with the 4 MiB of gRPC that is at most 8 MiB for each host"
    assert bounds.write_timeout + config.reconnect_grace < 30, "closed, and its work elsewhere, within 30 s"


@pytest.mark.parametrize("field", ["write_timeout", "queue_frames_max", "queue_bytes_max"])
def test_the_bounds_are_settings(field: str) -> None:
    assert [setting.key for setting in SETTINGS if setting.field == field] == [f"sessions.{field}"]
