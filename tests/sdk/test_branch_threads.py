"""Threads of plain flows: bounded are those of living bodies whose end nobody was told yet (docs/adr/0007)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

import stepwire
from stepwire._runtime.durable import StepFuture
from stepwire._runtime.threads import BranchThreads
from stepwire.errors import BodyEvicted, UnreadablePayload
from stepwire.protocol.frames import Release, StepOutcome
from tests.sdk.by_hand import CREATED_MS, by_hand, payload
from tests.sdk.gates import PATIENCE_SECONDS, Gates, until
from tests.sdk.host_desk import HostDesk


def test_a_thread_is_free_before_its_end_is_told() -> None:
    """Who hears it may begin what needs every thread there is."""
    pool = BranchThreads(1)
    told: SimpleQueue[int] = SimpleQueue()

    def work() -> Callable[[], None]:
        assert pool.busy == 1
        return lambda: told.put(pool.busy)

    for _ in range(2):
        pool.start("body", work)
        assert told.get(timeout=PATIENCE_SECONDS) == 0
    pool.close()


def test_threads_of_a_body_that_is_gone_count_no_more_and_are_used_again() -> None:
    async def main() -> None:
        pool, gates = BranchThreads(2), Gates()
        names: list[str] = []

        def start(body: str, gate: str) -> None:
            def work() -> Callable[[], None]:
                names.append(gate)
                gates.wait_sync(gate)
                return lambda: names.remove(gate)

            pool.start(body, work)

        start("gone", "a")
        start("stays", "b")
        assert pool.busy == 2 and not pool.has_room(1)
        pool.give_up("gone")
        assert pool.busy == 1 and pool.has_room(1)
        start("stays", "c")
        gates.open("a")
        await until("the one that was given up comes back", lambda: sorted(names) == ["b", "c"])
        assert pool.busy == 2
        gates.open("b", "c")
        await until("all come back", lambda: not names)
        assert pool.busy == 0
        pool.give_up("stays")
        assert pool.busy == 0
        pool.close()

    asyncio.run(main())


def test_a_body_is_not_refused_the_threads_that_its_former_life_has_yet_to_leave() -> None:
    """Its group is on record: to be refused it now would be another decision than that."""

    async def main() -> None:
        gates = Gates()
        host = stepwire.Host("shop", branch_threads=3)

        @host.flow
        def flow(ctx: stepwire.ContextSync) -> None:
            def branch() -> None:
                try:
                    ctx.step.run("s", gates.wait, "s")
                except BodyEvicted:
                    gates.wait_sync("cleaned up")
                    raise

            ctx.group.parallel((branch, branch))

        async with HostDesk(host) as desk:
            desk.start(flow)
            await until("both began", lambda: gates.reached == ["s", "s"])
            desk.journal += desk.hear().plans
            desk.plans.clear()
            desk.evict()
            await gates.until_reached("cleaned up")
            desk.start(flow, desk.journal)
            (body,) = desk.runtime._bodies.values()
            await until("it is where it was", lambda: body.at_frontier and len(body.steps) == 2)
            assert desk.failed == []
            gates.open("s", "cleaned up")

    asyncio.run(main())


@pytest.mark.parametrize("held", [True, False])
def test_no_thread_waits_for_ever_for_an_output_that_its_body_could_not_get(
    held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process never had it, or lacks the key to read it: the body is given back, and its threads leave."""

    def unreadable(step: StepFuture, output: Any) -> Any:
        raise UnreadablePayload("no key")

    monkeypatch.setattr(StepFuture, "decoded", unreadable)
    left: list[str] = []

    def flow(ctx: stepwire.ContextSync) -> None:
        def branch() -> None:
            try:
                ctx.step.sleep("long", "1h")
            except BodyEvicted:
                left.append("branch")
                raise

        try:
            ctx.group.parallel((branch, branch))
        except BodyEvicted:
            left.append("flow")
            raise

    async def main() -> None:
        host = stepwire.Host("threads")
        registered = host.flow(name="flow")(flow)
        async with by_hand(host) as engine:
            await engine.begin(registered)
            await until("both are planned", lambda: len(engine.steps) == 2)
            first = StepOutcome("parallel/[0]/long", None if held else payload(None), held=held)
            engine.say(Release(1, CREATED_MS, (first,)))
            await until("all threads left", lambda: sorted(left) == ["branch", "branch", "flow"])
            assert len(engine.failed) == (0 if held else 1)

    asyncio.run(main())
