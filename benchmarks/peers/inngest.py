"""Inngest: its server binary, given by path, in `dev` mode; a Python host of its SDK behind uvicorn."""

from __future__ import annotations

import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.driving import Driven, drive
from benchmarks.lines import Subject
from benchmarks.peers.http_calls import Caller
from benchmarks.peers.peer import Running, free_port, wait_for
from benchmarks.peers.place import NOT_INSTALLED, PYTHON, environment, versions
from benchmarks.processes import process

LIBRARIES = ("inngest", "fastapi", "uvicorn")
_ENDS = (0, 1, -signal.SIGTERM)


class Inngest:
    """A run ends when the host has returned: there is no call that waits for the server's own word."""

    name = "inngest"

    def __init__(self, binary: Path | None) -> None:
        self._binary = None if binary is None else binary.resolve()

    def missing(self) -> str:
        """No registry of packages has its server for sure, so it is named."""
        if self._binary is None:
            return "no server binary: name it with --inngest FILE"
        if not self._binary.is_file():
            return f"{self._binary} is no file"
        return "" if versions(*LIBRARIES) else NOT_INSTALLED

    def subject(self) -> Subject:
        """As of `dev --persist`."""
        said = subprocess.run([str(self._binary), "version"], capture_output=True, text=True)
        server = (said.stdout.strip() or "?").splitlines()[-1]
        return Subject(
            name=self.name,
            version=f"server {server}, SDK {versions(*LIBRARIES)[0]}",
            topology="server process (dev), one Python host over HTTP/1.1, events over HTTP",
            durability="run state in memory, history in SQLite (dev --persist)",
        )

    @contextmanager
    def start(self, folder: Path) -> Iterator[Running]:
        """Host first: the server asks it for its functions."""
        port, host = free_port(), free_port()
        settings = {"INNGEST_DEV": f"http://127.0.0.1:{port}"}
        serving = [str(PYTHON), "-m", "uvicorn", "--port", str(host), "benchmarks.peers.inngest_host:app"]
        server = [
            str(self._binary), "dev", "--persist", "--no-discovery", "--port", str(port),
            "-u", f"http://127.0.0.1:{host}/api/inngest",
        ]  # fmt: skip
        with (
            process(serving, folder / "host.log", environment(**settings), codes=_ENDS) as uvicorn,
            process(server, folder / "server.log", environment(), codes=_ENDS) as engine,
        ):
            wait_for(f"http://127.0.0.1:{host}/api/inngest", uvicorn)
            wait_for(f"http://127.0.0.1:{port}/health", engine)
            events, answers = Caller("127.0.0.1", port), Caller("127.0.0.1", host)
            answers.put("/api/inngest")  # registers the functions

            def one_run(flow: str, steps: int) -> int:
                run = uuid.uuid4().hex
                events.post("/e/bench", {"name": f"bench/{flow}", "data": {"id": run, "steps": steps}})
                return int(answers.get(f"/done/{run}"))

            def runs(flow: str, steps: int, count: int, at_once: int) -> Driven:
                return drive(lambda: one_run(flow, steps), count, at_once)

            yield Running({"engine": [engine.pid], "host": [uvicorn.pid]}, runs)
