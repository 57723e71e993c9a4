"""/metrics in the Prometheus text format, or in OpenMetrics if the scraper's Accept header asks for it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route


def metrics_routes(registry: CollectorRegistry) -> list[BaseRoute]:
    """The scrape runs on the engine's loop, so that it reads numbers nobody is changing."""

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return [Route("/metrics", metrics)]
