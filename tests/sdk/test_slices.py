"""Many attempts that begin together: what a slice of them produced is the engine's before the next one begins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import stepwire
from stepwire._runtime import executor
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import CancelReason
from tests.sdk.gates import until
from tests.sdk.host_desk import HostDesk

SLICE, STEPS = 4, 11
Play = Callable[[HostDesk], Awaitable[None]]


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "SLICE_STEPS", SLICE)


def group_of(count: int) -> tuple[stepwire.Host, list[int]]:
    """A host whose flow has one group of so many steps, and the numbers of those that began."""
    host = stepwire.Host("h")
    begun: list[int] = []

    async def step(number: int) -> int:
        begun.append(number)
        return number

    async def flow(ctx: stepwire.Context) -> int:
        def branch(number: int) -> Callable[[], Any]:
            return lambda: ctx.step.run(f"s{number}", step, number)

        await ctx.group.parallel([branch(number) for number in range(count)])
        return count

    host.flow(flow)
    return host, begun


def played(host: stepwire.Host, play: Play) -> None:
    async def main() -> None:
        async with HostDesk(host) as desk:
            desk.start(host.flows["flow"])
            await play(desk)

    asyncio.run(main())


def test_the_engine_has_each_slice_before_the_next_begins() -> None:
    host, begun = group_of(STEPS)
    seen: list[tuple[int, int, int]] = []

    async def play(desk: HostDesk) -> None:
        def taken() -> None:
            desk.hear()
            seen.append((sum(len(plan.steps) for plan in desk.plans), len(desk.results), len(begun)))

        desk.port.hand_over = taken
        await until("all results", lambda: len(desk.hear().results) == STEPS)

    played(host, play)
    assert seen == [(STEPS, SLICE, SLICE), (STEPS, 2 * SLICE, 2 * SLICE)]
    assert begun == list(range(STEPS))


@pytest.mark.parametrize("steps", [1, SLICE])
def test_one_slice_is_one_frame(steps: int) -> None:
    host, _ = group_of(steps)

    async def play(desk: HostDesk) -> None:
        desk.port.hand_over = lambda: pytest.fail("nothing is to come")
        rung: list[bool] = []
        desk.port.bell = lambda: rung.append(True)
        await until("the first frame", lambda: rung)
        assert len(desk.hear().results) == steps and len(desk.plans[0].steps) == steps

    played(host, play)


def test_what_is_cancelled_while_it_waits_for_its_slice_never_begins() -> None:
    host, begun = group_of(STEPS)

    async def play(desk: HostDesk) -> None:
        def cancel() -> None:
            if len(begun) == SLICE:
                for path in ("parallel/[5]/s5", "parallel/[10]/s10"):  # One of the next slice, one of the last.
                    desk.cancel(path, desk.fence, CancelReason.RUN_CANCELLED)

        desk.port.hand_over = cancel
        await until("all results", lambda: len(desk.hear().results) == STEPS)
        ends = {result.path: result.failure for result in desk.results}
        assert [path for path, failure in ends.items() if failure is not None] == [
            "parallel/[5]/s5",
            "parallel/[10]/s10",
        ]
        assert all(failure is None or failure.code is ErrorCode.CANCELLED for failure in ends.values())

    played(host, play)
    assert begun == [number for number in range(STEPS) if number not in (5, 10)]


def test_steps_of_an_evicted_body_that_wait_for_their_slice_never_begin() -> None:
    host, begun = group_of(STEPS)

    async def play(desk: HostDesk) -> None:
        def evict() -> None:
            if len(begun) == SLICE:
                desk.cancel("", desk.fence, CancelReason.LEASE_LOST)
                desk.evict()

        desk.port.hand_over = evict
        await until("nothing runs", lambda: begun and not desk.runtime.busy)

    played(host, play)
    assert begun == list(range(SLICE))


def test_bodies_share_slices_and_none_is_left_behind() -> None:
    host, begun = group_of(3)

    async def main() -> None:
        async with HostDesk(host) as desk:
            handed: list[int] = []
            desk.port.hand_over = lambda: handed.append(len(desk.hear().results))
            for number in range(5):
                desk.start(host.flows["flow"], run_id=f"r{number}")
            await until("all results", lambda: len(desk.hear().results) == 15)
            assert handed == sorted(handed)
            assert all(step.started for plan in desk.plans for step in plan.steps), "each is said to have begun here"

    asyncio.run(main())
    assert sorted(begun) == sorted(list(range(3)) * 5)
