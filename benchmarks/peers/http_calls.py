"""HTTP with one connection per thread that stays open: what a driver of an HTTP engine costs at the least."""

from __future__ import annotations

import http.client
import json
import threading
from typing import Any

from benchmarks.processes import BenchmarkError

SECONDS = 300.0
JSON = {"content-type": "application/json"}


class Caller:
    """Sends JSON to one address and reads JSON, from any thread."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._local = threading.local()

    def get(self, path: str) -> Any:
        """Raises BenchmarkError: another status than 2xx."""
        return self._call("GET", path, None)

    def put(self, path: str) -> Any:
        """Without a body. Raises BenchmarkError: another status than 2xx."""
        return self._call("PUT", path, None)

    def post(self, path: str, document: Any) -> Any:
        """Raises BenchmarkError: another status than 2xx."""
        return self._call("POST", path, json.dumps(document))

    def _call(self, method: str, path: str, body: str | None) -> Any:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection(*self._address, timeout=SECONDS)
        connection.request(method, path, body, JSON if body else {})
        answer = connection.getresponse()
        text = answer.read()
        if not 200 <= answer.status < 300:
            raise BenchmarkError(f"{method} {path}: {answer.status} {text[:500]!r}")
        return json.loads(text) if text else None
