"""What step bodies really did: a file to which they append, independent of the engine, its journal and its metrics.

Two lines per execution, each in one write to a file opened for appending, so that lines of several processes never
mix and those written before a `kill -9` stay:

    before RUN PATH ATTEMPT HOST PID
    after  RUN PATH ATTEMPT HOST PID

Where no ledger is wanted (`CENSUS_LEDGER` is not set) nothing is written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import stepwire

LEDGER_ENV = "CENSUS_LEDGER"
HOLD_ENV = "CENSUS_HOLD"
HOST_ENV = "CENSUS_HOST"
HOST_DEFAULT = "census"
ENCODING = "utf-8"
_HOLD_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Line:
    """One line; `moment` is "before" or "after"."""

    moment: str
    run_id: str
    path: str
    attempt: int
    host: str
    pid: int


@contextmanager
def execution() -> Iterator[None]:
    """Frame the body of a step with its two lines; no "after" if it raises."""
    _append("before")
    yield
    _append("after")


def hold() -> None:
    """Wait while the file named by CENSUS_HOLD exists and the ledger has as many "after" lines as it says.

    The demonstration uses it so that its kill meets attempts in progress however fast the machine is.
    """
    gate, ledger = os.environ.get(HOLD_ENV), os.environ.get(LEDGER_ENV)
    while gate and ledger and (bound := _bound(Path(gate))) is not None:
        if sum(line.moment == "after" for line in read(Path(ledger))) < bound:
            return
        time.sleep(_HOLD_POLL_SECONDS)


def read(path: Path) -> list[Line]:
    """All complete lines, in the order in which they were written; none if there is no ledger yet."""
    try:
        text = path.read_text(ENCODING)
    except FileNotFoundError:
        return []
    return [_parsed(line) for line in text.split("\n")[:-1]]


def _parsed(line: str) -> Line:
    moment, run_id, path, attempt, host, pid = line.split(" ")
    return Line(moment, run_id, path, int(attempt), host, int(pid))


def _append(moment: str) -> None:
    ledger, attempt = os.environ.get(LEDGER_ENV), stepwire.current_attempt()
    if not ledger or attempt is None:
        return
    host = os.environ.get(HOST_ENV, HOST_DEFAULT)
    line = f"{moment} {attempt.run_id} {attempt.path} {attempt.attempt} {host} {os.getpid()}\n"
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode(ENCODING))
    finally:
        os.close(file)


def _bound(gate: Path) -> int | None:
    try:
        return int(gate.read_text(ENCODING))
    except FileNotFoundError:
        return None
