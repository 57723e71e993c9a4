"""A web service that is a step host as well: `Starlette(lifespan=...)` around `host.lifespan`, served by uvicorn."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import stepwire
from tests.e2e.bodies import enter, gated, pen

host = stepwire.Host("web", drain_timeout="10s")
version = 1


async def pid_of(ctx_value: int) -> list[int]:
    return [os.getpid(), ctx_value]


@host.flow
async def where(ctx: stepwire.Context, value: int) -> list[int]:
    return await ctx.step.run("pid", pid_of, value)


@host.flow
async def patient(ctx: stepwire.Context, value: int) -> list[int]:
    """A step at a gate, and one after it; the versions of the code that ran them."""
    enter(ctx)
    first = await ctx.step.run("gated", gated, version)
    return [first, await ctx.step.run("after", lambda: version)]


async def start(request: Request) -> JSONResponse:
    """Start a run from inside the service and wait for it, on the loop that also executes it."""
    async with stepwire.Client() as client:
        handle = await client.start(where, int(request.query_params["value"]))
        return JSONResponse({"run": handle.run_id, "output": await handle.result(timeout=10)})


async def about(request: Request) -> JSONResponse:
    for look in host.telemetry.refresh:
        look()
    # A body is listed until its last words are acked.
    counts = {"dials": host.telemetry.reconnects, "bodies": host.telemetry.bodies_live}
    return JSONResponse({"pid": os.getpid(), "version": version, **counts})


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """The service's own, with the host inside: what its steps need is there before and after them."""
    pen.write("service-up", "-", "-", 0)
    try:
        async with host.lifespan(app):
            yield
    finally:
        pen.write("service-down", "-", "-", 0)


app = Starlette(routes=[Route("/start", start), Route("/about", about)], lifespan=lifespan)
