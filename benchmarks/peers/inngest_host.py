"""The flows of `benchmarks.step_host` as Inngest functions: an ASGI app for uvicorn. Run by the private interpreter.

Inngest has no call that waits for a run, so the host says when a function has returned: GET /done/ID answers then.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import fastapi
import inngest
import inngest.fast_api

from benchmarks.work import LARGE, OUTPUT, large_output, nap, no_work

client = inngest.Inngest(app_id="bench", is_production=False)
app = fastapi.FastAPI()
_results: defaultdict[str, asyncio.Future[int]] = defaultdict(lambda: asyncio.get_running_loop().create_future())


def function(name: str, step: Callable[[], Awaitable[Any]], output: Any, *, at_once: bool) -> inngest.Function[Any]:
    async def body(ctx: inngest.Context) -> int:
        steps = int(str(ctx.event.data["steps"]))
        if at_once:
            branches = tuple((lambda i=i: ctx.step.run(f"step-{i}", step)) for i in range(steps))
            results = list(await ctx.group.parallel(branches))
        else:
            results = [await ctx.step.run(f"step-{i}", step) for i in range(steps)]
        acknowledged = sum(result == output for result in results)
        done = _results[str(ctx.event.data["id"])]
        if not done.done():
            done.set_result(acknowledged)
        return acknowledged

    return client.create_function(fn_id=name, trigger=inngest.TriggerEvent(event=f"bench/{name}"))(body)


@app.get("/done/{run}")
async def done(run: str) -> int:
    """How many steps the function acknowledges, once it has returned."""
    return await asyncio.shield(_results[run])


inngest.fast_api.serve(
    app,
    client,
    [
        function("sequence", no_work, OUTPUT, at_once=False),
        function("large_sequence", large_output, LARGE, at_once=False),
        function("group", no_work, OUTPUT, at_once=True),
        function("sleeping_group", nap, OUTPUT, at_once=True),
    ],
)
