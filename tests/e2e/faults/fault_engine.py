"""The engine's own command, with SIGKILL planted around its commits. Runs as `python -m tests.e2e.faults.fault_engine`.

A parent loads everything once and forks the engine; when one has killed itself, the next is forked. So a restart takes
milliseconds instead of the half second of loading, and one history can be killed at each of its commits. What is
killed is a whole process with its threads, its connections and its locks, on the real store. Nothing of this is in the
product: two methods of the store are wrapped, and change nothing but when the process ends.

The parent ends as the first engine does that is not killed by its plant.
"""

from __future__ import annotations

import enum
import gc
import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

PLANTS_ENV = "E2E_PLANTS"
FACTS_ENV = "E2E_FACTS"


class Point(enum.StrEnum):
    """Where in a commit the process ends."""

    BEFORE_WRITE = "before_write"
    BEFORE_SYNC = "before_sync"
    """All statements were executed but the one that writes and syncs the WAL: COMMIT, or the only one."""
    AFTER_SYNC = "after_sync"
    """That one has returned; nobody was told."""
    IN_SYNC = "in_sync"
    """Not by this module but by strace: the process ends as it enters fdatasync, its writes are with the kernel."""
    LIES = "lies"
    """The commit is rolled back and reported as done; the next one is the end. To see that the tests see it."""
    SYNC_FAILS = "sync_fails"
    """By strace: fdatasync gives EIO, and the engine ends by itself."""


COMMIT_POINTS = (Point.BEFORE_WRITE, Point.BEFORE_SYNC, Point.AFTER_SYNC)
_INJECTED = {Point.IN_SYNC: "signal=KILL", Point.SYNC_FAILS: "error=EIO"}
STORE_FAILED = 74
"""Exit code of an engine that does not know what a commit did."""


@dataclass(frozen=True, slots=True)
class Plant:
    """One engine's end.

    Attributes:
        commit: Which commit of that process, from 1; for strace which fdatasync of the thread that writes.
        rows_only: Count only commits with rows of runs, not greetings of hosts.
    """

    commit: int
    point: Point
    rows_only: bool = True

    def __str__(self) -> str:
        return f"{self.commit}:{self.point}:{'rows' if self.rows_only else 'all'}"

    @property
    def exit_code(self) -> int:
        """Of a process that ended by it."""
        return STORE_FAILED if self.point is Point.SYNC_FAILS else -signal.SIGKILL

    @staticmethod
    def parse(text: str) -> Plant:
        commit, point, counted = text.split(":")
        return Plant(int(commit), Point(point), counted == "rows")


def environment(plants: Iterable[Plant], facts: Path) -> dict[str, str]:
    """Variables for an engine whose processes end so, one after the other; further ones live."""
    return {PLANTS_ENV: ",".join(map(str, plants)), FACTS_ENV: str(facts)}


# ---- in the engine process


class Facts:
    """What happened, one line each, with the machine's monotonic time. Read by the test."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, fact: str) -> None:
        os.write(self._fd, f"{fact} {time.monotonic():.6f}\n".encode())


class Planted:
    """Counts the commits of this process, and ends it at the right one."""

    def __init__(self, plant: Plant | None, facts: Facts) -> None:
        self._plant = plant
        self._facts = facts
        self._commits = 0

    def reached(self, point: Point, draft: Any) -> None:
        if self._plant is None or (self._plant.rows_only and not draft.journal):
            return
        self._commits += point is Point.BEFORE_WRITE
        lied = self._plant.point is Point.LIES and (self._commits, point) == (
            self._plant.commit + 1,
            Point.BEFORE_WRITE,
        )
        if lied or (self._commits, point) == (self._plant.commit, self._plant.point):
            self._facts.note(f"killed:{self._plant.point}")
            os.kill(os.getpid(), signal.SIGKILL)

    def lies(self) -> bool:
        """Whether the commit that is about to happen must not."""
        return self._plant is not None and (self._plant.commit, self._plant.point) == (self._commits, Point.LIES)


def plant_in_store(planted: Planted) -> None:
    from stepwire_engine.store.sqlite_journal import JournalThread
    from stepwire_engine.store.sqlite_tables import SqliteTables

    is_one, commit = SqliteTables.writes_at_once, JournalThread._is_committed

    def asking(self: SqliteTables, draft: Any) -> bool:  # Before the first statement of each commit.
        planted.reached(Point.BEFORE_WRITE, draft)
        return is_one(self, draft)

    def committing(self: JournalThread, draft: Any, at_once: bool) -> bool:
        planted.reached(Point.BEFORE_SYNC, draft)
        if planted.lies():
            if not at_once:
                self._db.execute("ROLLBACK")
            self._tables.adopt(draft)
            return True
        stored = commit(self, draft, at_once)
        planted.reached(Point.AFTER_SYNC, draft)
        return stored

    SqliteTables.writes_at_once = asking  # type: ignore[method-assign]
    JournalThread._is_committed = committing  # type: ignore[method-assign]


def note_first_frame(facts: Facts) -> None:
    """Note when the first host is heard: its Hello, which says what it holds."""
    from stepwire_engine.scheduler.driver import Driver
    from stepwire_engine.scheduler.ports import ENGINE_INSTANCE

    connect = Driver.connect
    heard: list[str] = []

    def connecting(self: Driver, hello: Any, port: Any) -> Any:
        found = connect(self, hello, port)
        if not heard and hello.instance_id != ENGINE_INSTANCE:
            heard.append(hello.instance_id)
            facts.note("heard")
        return found

    Driver.connect = connecting  # type: ignore[method-assign]


def live(plant: Plant | None, facts: Facts) -> NoReturn:
    """Be an engine, to its end."""
    from stepwire_engine import cli

    if plant is not None and plant.point in _INJECTED:
        inject = f"inject=fdatasync:{_INJECTED[plant.point]}:when={plant.commit}"
        strace = ["strace", "-f", "-qqq", "-o", os.devnull, "-e", "trace=fdatasync", "-e", inject]
        os.execvp("strace", [*strace, sys.executable, "-m", "tests.e2e.faults.fault_engine", *sys.argv[1:]])
    plant_in_store(Planted(plant, facts))
    note_first_frame(facts)
    cli.main(["engine", *sys.argv[1:]])
    raise AssertionError("the command line ends the process")


def main() -> NoReturn:
    import stepwire_engine.app  # loaded before the fork
    import stepwire_engine.cli.engine  # noqa: F401

    facts = Facts(os.environ[FACTS_ENV])
    planted = os.environ.pop(PLANTS_ENV, None)
    if planted is None:  # a child, under strace
        live(None, facts)
    gc.collect()
    gc.freeze()  # so that the children, which collect as well, find nothing to do
    child = 0

    def pass_on(number: int, _frame: FrameType | None) -> None:
        os.kill(child, number)

    for plant in (*[Plant.parse(text) for text in planted.split(",") if text], None):
        child = os.fork()
        if child == 0:
            live(plant, facts)
        signal.signal(signal.SIGTERM, pass_on)
        _, status = os.waitpid(child, 0)
        exit_code = os.waitstatus_to_exitcode(status)
        if plant is None or exit_code != plant.exit_code:
            break
        if plant.point in _INJECTED:
            facts.note(f"killed:{plant.point}")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
