"""The flows of `benchmarks.step_host` as DBOS workflows: `python -m benchmarks.peers.dbos_host DATABASE_URL`.

DBOS is a library: workflows run in the process that starts them, so this process is host and driver in one. It reads a
line of JSON per command, `[flow, steps, runs, at once]`, and answers `[acknowledged, seconds of each run]`. Run by the
private interpreter.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from dbos import DBOS

from benchmarks.work import LARGE, OUTPUT, large_output, nap, no_work


async def _at_once(steps: int, step: Callable[[], Awaitable[Any]]) -> int:
    results = await asyncio.gather(*[DBOS.run_step_async({"name": f"step-{i}"}, step) for i in range(steps)])
    return sum(result == OUTPUT for result in results)


async def _one_by_one(steps: int, step: Callable[[], Awaitable[Any]], output: Any) -> int:
    acknowledged = 0
    for i in range(steps):
        acknowledged += await DBOS.run_step_async({"name": f"step-{i}"}, step) == output
    return acknowledged


@DBOS.workflow()
async def sequence(steps: int) -> int:
    return await _one_by_one(steps, no_work, OUTPUT)


@DBOS.workflow()
async def large_sequence(steps: int) -> int:
    return await _one_by_one(steps, large_output, LARGE)


@DBOS.workflow()
async def group(steps: int) -> int:
    return await _at_once(steps, no_work)


@DBOS.workflow()
async def sleeping_group(steps: int) -> int:
    return await _at_once(steps, nap)


FLOWS = {flow.__name__: flow for flow in (sequence, large_sequence, group, sleeping_group)}


async def _drive(flow: str, steps: int, runs: int, at_once: int) -> tuple[int, list[float]]:
    room = asyncio.Semaphore(at_once)

    async def one() -> tuple[int, float]:
        async with room:
            began = time.perf_counter()
            return await FLOWS[flow](steps), time.perf_counter() - began

    done = await asyncio.gather(*[one() for _ in range(runs)])
    return sum(steps for steps, _ in done), [seconds for _, seconds in done]


async def _serve() -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await _drive(*json.loads(line))), flush=True)


def main(url: str) -> None:
    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR", "run_admin_server": False})
    DBOS.launch()
    print("ready", flush=True)
    asyncio.run(_serve())
    DBOS.destroy()


if __name__ == "__main__":
    main(sys.argv[1])
