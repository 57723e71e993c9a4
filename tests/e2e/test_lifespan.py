"""A host inside an ASGI service (DESIGN 6): it serves while the service does, and drains with it."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request

from tests.e2e.processes import Process, Stage, free_port, wait_for


def get(url: str) -> dict[str, object] | None:
    try:
        with urllib.request.urlopen(url, timeout=15) as answer:
            found: dict[str, object] = json.load(answer)
            return found
    except (urllib.error.URLError, ConnectionError):
        return None


def test_a_service_under_uvicorn_is_a_host(stage: Stage) -> None:
    engine = stage.engine()
    port = free_port()
    service = Process(
        ["-m", "uvicorn", "tests.e2e.asgi_app:app", "--port", str(port), "--log-level", "warning"],
        stage.directory / "uvicorn.log",
        STEPWIRE_ENGINE=engine.address,
    )
    try:
        answer = wait_for(lambda: get(f"http://127.0.0.1:{port}/start?value=7"), "the service to run a flow")
        assert answer["output"] == [service.pid, 7]
        assert service.pid != os.getpid()
        assert engine.metric('stepwire_sessions_connected{service="web"}') == 1
        assert service.terminate() in (0, -15), service.said()
        wait_for(lambda: engine.metric('stepwire_sessions_connected{service="web"}') == 0, "its Goodbye")
    finally:
        service.kill()
