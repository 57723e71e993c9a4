"""A PostgreSQL server from the system's packages, on a fresh cluster, with its default settings."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.peer import free_port
from benchmarks.peers.place import environment
from benchmarks.processes import POLL_SECONDS, START_SECONDS, BenchmarkError, process, tail

USER = "postgres"
"""Whose server it is when this process is root's: PostgreSQL refuses to be that."""


def binaries() -> Path | None:
    """Folder of `initdb` and `postgres`: that of the path, or Debian's newest."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


def version() -> str:
    """Of the server."""
    place = binaries()
    assert place is not None
    said = subprocess.run([str(place / "postgres"), "--version"], capture_output=True, text=True).stdout
    found = re.search(r"\d+(\.\d+)*", said)
    return found[0] if found else "?"


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[int, str]]:
    """A server on a new cluster in `folder`; gives its process and the address of its database.

    Raises:
        BenchmarkError: it does not start.
    """
    place = binaries()
    assert place is not None
    data, port = folder / "cluster", free_port()
    data.mkdir(mode=0o700)
    become: list[str] = []
    if os.geteuid() == 0:
        become = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--"]
        shutil.chown(data, USER, USER)
        _open_the_way(folder)
    create = [str(place / "initdb"), "-D", str(data), "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C"]
    made = subprocess.run([*become, *create], cwd=folder, env=environment(), capture_output=True, text=True)
    if made.returncode != 0:
        raise BenchmarkError(f"initdb: {made.stderr[-1000:]}")
    command = [*become, str(place / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", ""]
    log = folder / "postgres.log"
    with process(command, log, environment(), stop=signal.SIGINT) as server:
        _wait_until_ready(log)
        yield server.pid, f"postgresql://bench@127.0.0.1:{port}/postgres"


def _open_the_way(folder: Path) -> None:
    """Let the server's user through to its cluster."""
    for place in (folder, folder.parent):
        place.chmod(0o711)


def _wait_until_ready(log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while "ready to accept connections" not in log.read_text():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"PostgreSQL does not start:\n{tail(log)}")
        time.sleep(POLL_SECONDS)
