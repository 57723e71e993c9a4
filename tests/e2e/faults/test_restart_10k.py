"""kill -9 of an engine with 10,000 open runs: the next one dispatches again within seconds (MISSION P10)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import pytest

import stepwire
from stepwire.client import RunState
from tests.e2e.faults.insistence import insist
from tests.e2e.processes import Stage, wait_for

WAITING, HELD_RUNS, DORMANT = 8_000, 1_000, 1_000
STARTS_AT_ONCE = 256
DISPATCHING_SECONDS_MAX = 5.0
PROMPTLY = 200
"""Runs that waited for a host and have to end when one comes."""


async def start_many(address: str, flows: dict[str, int]) -> None:
    """Start so many runs of each flow."""
    async with stepwire.Client(address) as client:
        places = asyncio.Semaphore(STARTS_AT_ONCE)

        async def start(flow: str, number: int) -> None:
            async with places:
                await client.start(flow, number, id=f"{flow} {number}")

        async with asyncio.TaskGroup() as group:
            for flow, number in flows.items():
                for each in range(number):
                    group.create_task(start(flow, each))


def ended(stage: Stage, path: str) -> int:
    return sum(line.event == "after" and line.path == path for line in stage.ledger.refresh())


def begun(stage: Stage, path: str) -> int:
    return sum(line.event == "before" and line.path == path for line in stage.ledger.refresh())


@pytest.mark.timeout(120)  # most of it makes the runs
def test_restart_with_ten_thousand_open_runs(stage: Stage, figure: Callable[[str], None]) -> None:
    engine = stage.engine(live_idle=0.2, adoption_grace=20, reconnect_grace=20)
    served_later = stage.host(engine, "later", flows="faults.many_flows", E2E_LATER="1")
    assert served_later.terminate() == 0, "the engine knows its flow from now on"
    stage.hosts(engine, "one", "two", flows="faults.many_flows", slots=HELD_RUNS)
    made = time.monotonic()
    asyncio.run(start_many(engine.address, {"held": HELD_RUNS, "sleeps": DORMANT, "waits_for_host": WAITING}))
    wait_for(lambda: begun(stage, "held") == HELD_RUNS, "steps to be in flight", 30)
    wait_for(lambda: engine.metric('stepwire_runs{state="running"}') == HELD_RUNS, "the sleepers to leave", 30)
    client = stage.client(engine)
    made = time.monotonic() - made

    engine.running.kill()
    killed = time.monotonic()
    engine.start()
    ready = time.monotonic() - killed
    assert insist(lambda: client.start("quick", 1, id="quick")).result(timeout=30) == 1
    dispatching = time.monotonic() - killed
    stage.gates.open("held", "all")
    wait_for(lambda: ended(stage, "held") == HELD_RUNS, "what was in flight to end", 30)
    wait_for(lambda: not list(client.list(flow="held", states=[RunState.RUNNING], limit=1)), "its runs to end", 30)
    stage.host(engine, "later", flows="faults.many_flows", E2E_LATER="1")
    wait_for(lambda: ended(stage, "quick") >= PROMPTLY, "runs that waited for a host to end", 30)
    again = Counter(line.key for line in stage.ledger.refresh() if line.event == "before")
    figure(
        f"{WAITING + HELD_RUNS + DORMANT} open runs (made in {made:.1f} s): engine ready {ready:.2f} s after the kill, "
        f"a new run over after {dispatching:.2f} s, run again {sum(times - 1 for times in again.values())} "
        f"of {HELD_RUNS} attempts in flight"
    )
    assert dispatching <= DISPATCHING_SECONDS_MAX
    assert max(again.values()) == 1
