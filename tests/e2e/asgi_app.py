"""A web service that is a step host as well: `Starlette(lifespan=host.lifespan)`, served by uvicorn."""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import stepwire

host = stepwire.Host("web")


async def pid_of(ctx_value: int) -> list[int]:
    return [os.getpid(), ctx_value]


@host.flow
async def where(ctx: stepwire.Context, value: int) -> list[int]:
    return await ctx.step.run("pid", pid_of, value)


async def start(request: Request) -> JSONResponse:
    """Start a run from inside the service and wait for it, on the loop that also executes it."""
    async with stepwire.Client() as client:
        handle = await client.start(where, int(request.query_params["value"]))
        return JSONResponse({"run": handle.run_id, "output": await handle.result(timeout=10)})


app = Starlette(routes=[Route("/start", start)], lifespan=host.lifespan)
