"""Restate: its server from npm, one Python host of its SDK behind hypercorn, runs started over its HTTP ingress."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.driving import Driven, drive
from benchmarks.lines import Subject
from benchmarks.peers.http_calls import Caller
from benchmarks.peers.peer import Running, free_port, wait_for
from benchmarks.peers.place import NOT_INSTALLED, PLACE, PYTHON, environment, versions
from benchmarks.processes import process

SERVICE = "Bench"
LIBRARIES = ("restate-sdk", "hypercorn")


class Restate:
    """All defaults but ports; telemetry off."""

    name = "restate"

    def missing(self) -> str:
        """Server or SDK."""
        return "" if _binary() and versions(*LIBRARIES) else NOT_INSTALLED

    def subject(self) -> Subject:
        """As of its defaults."""
        sdk, hypercorn = versions(*LIBRARIES)
        return Subject(
            name=self.name,
            version=f"server {_server_version()}, SDK {sdk}, hypercorn {hypercorn}",
            topology="server process, one Python host over HTTP/2, client process over HTTP/1.1 ingress",
            durability="RocksDB write-ahead log with fdatasync, group commit (its default)",
        )

    @contextmanager
    def start(self, folder: Path) -> Iterator[Running]:
        """Server, host, registration."""
        binary = _binary()
        assert binary is not None
        ingress, admin, node, host = (free_port() for _ in range(4))
        settings = {
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_LOG_FILTER": "warn",
        }
        server = [str(binary), "--base-dir", str(folder / "restate"), "--no-logo"]
        serving = [
            str(PYTHON), "-m", "hypercorn", "--bind", f"127.0.0.1:{host}", "benchmarks.peers.restate_host:app",
        ]  # fmt: skip
        with (
            process(server, folder / "server.log", environment(**settings), codes=(0, -signal.SIGTERM)) as engine,
            process(serving, folder / "host.log", environment(), codes=(0, -signal.SIGTERM)) as hypercorn,
        ):
            wait_for(f"http://127.0.0.1:{admin}/health", engine)
            wait_for(f"http://127.0.0.1:{host}/", hypercorn)
            Caller("127.0.0.1", admin).post("/deployments", {"uri": f"http://127.0.0.1:{host}"})
            caller = Caller("127.0.0.1", ingress)

            def runs(flow: str, steps: int, count: int, at_once: int) -> Driven:
                return drive(lambda: int(caller.post(f"/{SERVICE}/{flow}", steps)), count, at_once)

            yield Running({"engine": [engine.pid], "host": [hypercorn.pid]}, runs)


def _binary() -> Path | None:
    """The server itself, without the script of npm around it."""
    found = sorted(PLACE.glob("node_modules/@restatedev/restate-server-*/bin/restate-server"))
    return found[0] if found else None


def _server_version() -> str:
    packages = sorted(PLACE.glob("node_modules/@restatedev/restate-server/package.json"))
    return str(json.loads(packages[0].read_text())["version"]) if packages else "?"
