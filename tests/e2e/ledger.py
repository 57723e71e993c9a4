"""Ground truth: a file that step bodies append to, one line per event. Never the journal, never a metric.

Each line is one write to a descriptor opened with O_APPEND, so lines of several processes never mix, and
the order of lines is the order of the events. A line is `event run path attempt host pid at`, the last one in
seconds of the machine's monotonic clock, which every process here reads.

Events: `body` (user code of a flow was entered), `before` and `after` (around a step body), `cancelled` (a step body
was told to stop), `acked` (the host received the engine's Ack for the step's result: only now the step counts as
completed), `draining` (the host was told to stop; it has no run), `hook:<kind>` (a hook was called).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import stepwire

FILE_ENV = "E2E_LEDGER"
HOST_ENV = "E2E_HOST"


# ---- in the host process


class Pen:
    """Appends lines for one host process."""

    def __init__(self, path: str, host: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._host = host

    @staticmethod
    def from_environment() -> Pen:
        return Pen(os.environ[FILE_ENV], os.environ[HOST_ENV])

    def write(self, event: str, run_id: str, path: str, attempt: int) -> None:
        line = f"{event} {run_id} {path} {attempt} {self._host} {os.getpid()} {time.monotonic():.6f}\n".encode()
        assert os.write(self._fd, line) == len(line)

    @contextmanager
    def attempt(self) -> Iterator[str]:
        """Around a step body; gives `run path`."""
        info = stepwire.current_attempt()
        assert info is not None
        self.write("before", info.run_id, info.path, info.attempt)
        try:
            yield f"{info.run_id} {info.path}"
        except asyncio.CancelledError:
            self.write("cancelled", info.run_id, info.path, info.attempt)
            raise
        self.write("after", info.run_id, info.path, info.attempt)


# ---- in the test process


@dataclass(frozen=True, slots=True)
class Line:
    """One event."""

    event: str
    run_id: str
    path: str
    attempt: int
    host: str
    pid: int
    at: float

    @property
    def step(self) -> tuple[str, str]:
        return self.run_id, self.path

    @property
    def key(self) -> tuple[str, str, int]:
        return self.run_id, self.path, self.attempt


class Ledger:
    """Reads the file; `lines` grows with every `refresh`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self.lines: list[Line] = []
        self._offset = 0

    def refresh(self) -> list[Line]:
        """Read what is new; returns all lines. Half a line at the end waits for its rest."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for text in whole.decode().splitlines():
            event, run_id, path, attempt, host, pid, at = text.split(" ")
            self.lines.append(Line(event, run_id, path, int(attempt), host, int(pid), float(at)))
        return self.lines

    def of(self, run_id: str, *events: str) -> list[Line]:
        """Lines of one run, in order."""
        return [line for line in self.refresh() if line.run_id == run_id and line.event in events]

    def count(self, event: str, run_id: str) -> Counter[str]:
        """How often each path of the run has this event."""
        return Counter(line.path for line in self.of(run_id, event))


def repeats(lines: list[Line]) -> list[Line]:
    """Every `before` of a step that was begun before."""
    seen: set[tuple[str, str]] = set()
    again = []
    for line in lines:
        if line.event == "before":
            if line.step in seen:
                again.append(line)
            seen.add(line.step)
    return again


def lost_work(lines: list[Line]) -> list[Line]:
    """Every `before` of a step whose result was acked before: each of these is a broken promise."""
    acked: set[tuple[str, str]] = set()
    broken = []
    for line in lines:
        if line.event == "acked":
            acked.add(line.step)
        elif line.event == "before" and line.step in acked:
            broken.append(line)
    return broken


def most_at_once(lines: Iterable[Line]) -> dict[int, int]:
    """The largest number of step bodies each process was in at the same time."""
    inside: Counter[int] = Counter()
    most: dict[int, int] = {}
    for line in lines:
        if line.event in ("before", "after", "cancelled"):
            inside[line.pid] += 1 if line.event == "before" else -1
            most[line.pid] = max(most.get(line.pid, 0), inside[line.pid])
    return most


def most_together(lines: Iterable[Line]) -> int:
    """The largest number of step bodies all processes were in at the same time."""
    return max(most_at_once([replace(line, pid=0) for line in lines]).values(), default=0)
