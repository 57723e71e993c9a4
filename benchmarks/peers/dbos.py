"""DBOS: a library; flows and load share a process, and every step is a commit of its own in SQLite or PostgreSQL."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.driving import Driven
from benchmarks.lines import Subject
from benchmarks.peers import postgres
from benchmarks.peers.peer import Running
from benchmarks.peers.place import NOT_INSTALLED, PYTHON, environment, versions
from benchmarks.processes import BenchmarkError, process, tail

_ENDS = (0, -signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Dbos:
    """With its default settings.

    Attributes:
        on_postgres: Its state is in a PostgreSQL server; otherwise in a file of SQLite.
    """

    name: str
    on_postgres: bool = False

    def missing(self) -> str:
        """The library, or the server."""
        if not versions("dbos"):
            return NOT_INSTALLED
        if self.on_postgres and postgres.binaries() is None:
            return "no PostgreSQL server: install Debian's package postgresql"
        return ""

    def subject(self) -> Subject:
        """As of its defaults."""
        (library,) = versions("dbos")
        if self.on_postgres:
            return Subject(
                name=self.name,
                version=f"{library}, PostgreSQL {postgres.version()}",
                topology="library in the client's process, database process over TCP",
                durability="fsync and synchronous_commit on (the defaults): a commit per step",
            )
        return Subject(
            name=self.name,
            version=f"{library}, SQLite {sqlite3.sqlite_version}",
            topology="library in the client's process, no process besides it",
            durability="SQLite rollback journal, synchronous=FULL (its default): a commit per step",
        )

    @contextmanager
    def start(self, folder: Path) -> Iterator[Running]:
        """Database and process."""
        if not self.on_postgres:
            with _host(folder, f"sqlite:///{folder / 'dbos.db'}", {}) as running:
                yield running
            return
        with postgres.cluster(folder) as (server, url), _host(folder, url, {"engine": [server]}) as running:
            yield running


@contextmanager
def _host(folder: Path, url: str, groups: dict[str, list[int]]) -> Iterator[Running]:
    command, log = [str(PYTHON), "-m", "benchmarks.peers.dbos_host", url], folder / "host.log"
    with process(command, log, environment(), piped=True, codes=_ENDS) as host:
        commands, answers = host.stdin, host.stdout
        assert commands is not None and answers is not None

        def answer() -> str:
            if line := answers.readline():
                return line.decode()
            raise BenchmarkError(f"DBOS ended:\n{tail(log)}")

        def runs(flow: str, steps: int, count: int, at_once: int) -> Driven:
            commands.write(json.dumps([flow, steps, count, at_once]).encode() + b"\n")
            commands.flush()
            acknowledged, seconds = json.loads(answer())
            return Driven(acknowledged, tuple(seconds))

        answer()
        yield Running({**groups, "host": [host.pid]}, runs)
        commands.close()
