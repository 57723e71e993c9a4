"""Whether the engine is well, for probes (MISSION V1): /healthz says live, /readyz says send work here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

_FULL = "the disk of the database is full: nothing is accepted until there is space, which is looked for every second"
_NO_STORE = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class Health:
    """What the engine says about itself.

    Attributes:
        version: Of the engine.
        started: Recovery is over and the gRPC port is open.
        draining: It is stopping and takes no new work.
        store_failure: Why the store takes no commits; empty if it does.
        store_full: It has no space; nothing is accepted until it has.
        quarantined_runs: Runs that are kept aside because what is stored of them is damaged. The engine is well.
    """

    version: str
    started: bool = True
    draining: bool = False
    store_failure: str = ""
    store_full: bool = False
    quarantined_runs: int = 0

    @property
    def status(self) -> str:
        """One word: "ok", "starting", "draining", "store_failed" or "store_full"."""
        if self.store_failure:
            return "store_failed"
        if self.store_full:
            return "store_full"
        if self.draining:
            return "draining"
        return "ok" if self.started else "starting"


HealthSource = Callable[[], Health]


def health_routes(source: HealthSource) -> list[BaseRoute]:
    """/healthz is 503 when the store failed or the engine drains; /readyz also while it starts or its store is full.

    A full store makes no engine unhealthy: a restart would not make room, and could not begin.
    """

    async def healthz(request: Request) -> Response:
        return _answer(source(), healthy=("ok", "starting", "store_full"))

    async def readyz(request: Request) -> Response:
        return _answer(source(), healthy=("ok",))

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


def _answer(health: Health, *, healthy: tuple[str, ...]) -> Response:
    body: dict[str, str | int] = {"status": health.status, "version": health.version}
    if health.store_failure:
        body["detail"] = health.store_failure
    elif health.store_full:
        body["detail"] = _FULL
    if health.quarantined_runs:
        body["quarantined_runs"] = health.quarantined_runs
    return JSONResponse(body, 200 if health.status in healthy else 503, headers=_NO_STORE)
