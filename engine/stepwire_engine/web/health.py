"""Whether the engine is well, for probes (MISSION V1): /healthz says live, /readyz says send work here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

_NO_STORE = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class Health:
    """What the engine says about itself.

    Attributes:
        version: Of the engine.
        started: Recovery is over and the gRPC port is open.
        draining: It is stopping and takes no new work.
        store_failure: Why the store takes no commits; empty if it does.
    """

    version: str
    started: bool = True
    draining: bool = False
    store_failure: str = ""

    @property
    def status(self) -> str:
        """One word: "ok", "starting", "draining" or "store_failed"."""
        if self.store_failure:
            return "store_failed"
        if self.draining:
            return "draining"
        return "ok" if self.started else "starting"


HealthSource = Callable[[], Health]


def health_routes(source: HealthSource) -> list[BaseRoute]:
    """/healthz is 503 when the store failed or the engine drains; /readyz also while it starts."""

    async def healthz(request: Request) -> Response:
        return _answer(source(), healthy=("ok", "starting"))

    async def readyz(request: Request) -> Response:
        return _answer(source(), healthy=("ok",))

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


def _answer(health: Health, *, healthy: tuple[str, ...]) -> Response:
    body = {"status": health.status, "version": health.version}
    if health.store_failure:
        body["detail"] = health.store_failure
    return JSONResponse(body, 200 if health.status in healthy else 503, headers=_NO_STORE)
