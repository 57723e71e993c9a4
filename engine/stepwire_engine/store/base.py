"""The seam between the engine and its durable storage (DESIGN 5).

An implementation stores units and answers each with its own outcome; it decides nothing. A unit is one
packed row of one run's journal and the side-table changes that belong to it. Units of one batch share a
transaction but not their fate: a unit that does not fit is refused alone and changes nothing.
Reads are blocking and are called from the engine's reader thread, `submit` from its loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from stepwire.protocol.frames import FlowOptions
from stepwire_engine.core.entries import Entry, RunState
from stepwire_engine.core.units import EventRecord as EventRecord
from stepwire_engine.core.units import InboxRow as InboxRow
from stepwire_engine.core.units import LogRow as LogRow
from stepwire_engine.core.units import Receipt as Receipt
from stepwire_engine.core.units import RunLines as RunLines
from stepwire_engine.core.units import RunRecord as RunRecord
from stepwire_engine.core.units import SessionRecord as SessionRecord
from stepwire_engine.core.units import Unit as Unit
from stepwire_engine.core.units import UnitOutcome as UnitOutcome
from stepwire_engine.core.units import WaitRow as WaitRow


class JournalRow(msgspec.Struct, frozen=True):
    """One committed row of a run's journal, verified against its CRC and chain value."""

    seq: int
    entries: tuple[Entry, ...]


class RunPage(msgspec.Struct, frozen=True):
    """One page of a listing.

    Attributes:
        unreadable: Numbers of runs whose record is damaged: what `runs` says of them is as it is stored, unproved.
    """

    runs: tuple[RunRecord, ...]
    next_page_token: str = ""
    unreadable: frozenset[int] = frozenset()


class LogQuery(msgspec.Struct, frozen=True):
    """Which lines of a run.

    Attributes:
        run: Its number.
        after: Lines after this number.
        path: Of this step or branch only; empty: all.
        attempt: Of this attempt only; 0: all.
        level_min: Of this level and above.
        limit: 1..1000.
    """

    run: int
    after: int = 0
    path: str = ""
    attempt: int = 0
    level_min: int = 0
    limit: int = 100


class LogPage(msgspec.Struct, frozen=True):
    """The first lines that fit; fewer than asked for: there are no more at this moment.

    Attributes:
        next: What to ask for next, as `after`.
        dropped: Lines of the run that are missing, wherever.
    """

    lines: tuple[LogRow, ...]
    next: int
    dropped: int


class DamagedRow(msgspec.Struct, frozen=True):
    """A row that is not what was written, and was therefore left out of an answer or refused a commit.

    Attributes:
        table: Where it is; empty: a row that a commit of `run` had to read.
        what: The row and what is wrong with it, one line.
        run: Number of the run that it names, as far as that can be believed; 0: of none.
    """

    table: str
    what: str
    run: int = 0


class StoreError(Exception):
    """Base of what a store raises; `exit_code` is what the engine process ends with."""

    exit_code = 74


class StoreLocked(StoreError):
    """Another engine has this database."""

    exit_code = 75


class SchemaTooNew(StoreError):
    """The database was written by a newer engine."""

    exit_code = 65


class StoreCorrupt(StoreError):
    """A row fails its CRC, its chain value or its sequence; it is never served.

    The message names the file, the row and the remedy; `what` is the row and what is wrong with it.
    """

    exit_code = 65

    def __init__(self, message: str, what: str = "") -> None:
        super().__init__(message)
        self.what = what or message


class StoreFailed(StoreError):
    """An I/O error whose effect on a commit is unknown: the engine exits, restart decides."""

    exit_code = 74


class SchemaEdited(StoreError):
    """The database was built by migrations that differ from those of this engine."""

    exit_code = 65


Receipts = Callable[[Sequence[Receipt]], None]

Notify = Callable[[Callable[[], None]], None]
"""Runs a callable on the engine's loop, for example `loop.call_soon_threadsafe`."""


class Store(Protocol):
    """Durable storage of one installation.

    What the engine reads for itself (`open_runs`, `due_runs`, `waits`, `events`, `undelivered`, `sessions`, `inbox`)
    leaves damaged rows out, and `take_damage` names them: one row must not stop everybody else. What is asked by
    name raises StoreCorrupt.
    """

    @property
    def accepting(self) -> bool:
        """False while no space is left: every unit is answered NO_SPACE until a probe write of the store succeeds."""

    def open(self) -> None:
        """Open, lock and migrate.

        Raises:
            StoreLocked, SchemaTooNew, SchemaEdited, StoreCorrupt, StoreFailed, StoreError
        """

    def close(self) -> None:
        """Commit what is queued, then release the lock. Idempotent."""

    def claim(self, partition: int = 0) -> int:
        """Take the partition: raise its stored claim epoch by one and return it."""

    def submit(self, units: Sequence[Unit], done: Receipts) -> None:
        """Queue units for the next commit; `done` is called once, with one receipt per unit, in order.

        A unit with a `run` is judged against that run's last seq even if it writes no row, because it was
        decided on that state. Values are taken at the time of the call. Batches are committed in the order of
        submission. The store calls `done` through the `notify` function it was built with (once per commit),
        on the engine's loop. After a StoreFailed nothing is answered any more.
        """

    def take_damage(self) -> Sequence[DamagedRow]:
        """Damaged rows that were met since the last call. Each is told once in the life of the store."""

    def last_run_number(self) -> int:
        """Highest run number in use; 0 if there is none."""

    def open_runs(self) -> Iterator[RunRecord]:
        """Records of every run that is neither terminal nor dormant (state WAITING), oldest first."""

    def count_dormant(self) -> int:
        """How many runs are in state WAITING. It looks at all of them: for the start, not for scrapes."""

    def journal(self, run: int) -> Sequence[JournalRow]:
        """The run's whole journal in order. Raises StoreCorrupt."""

    def find_run(self, run_id: str) -> RunRecord | None:
        """The record of a run by its id. Raises StoreCorrupt."""

    def record(self, run: int) -> RunRecord | None:
        """The record of a run by its number. Raises StoreCorrupt."""

    def due_runs(self, until_ms: int, limit: int, after: tuple[int, int] = (0, 0)) -> Sequence[RunRecord]:
        """Dormant runs whose `wake_ms` is at or before `until_ms`, ordered by (wake_ms, number), after `after`."""

    def waits(self, event: str, after: tuple[int, str], limit: int) -> Sequence[WaitRow]:
        """Open waits for events of this name, ordered by (run, path), from the first after `after`."""

    def events(self, name: str, since_ms: int, limit: int) -> Sequence[EventRecord]:
        """Delivered events of this name with `due_ms` >= `since_ms`, oldest first."""

    def undelivered(self, until_ms: int, limit: int) -> Sequence[EventRecord]:
        """Events with `due_ms` <= `until_ms` whose delivery is not noted (`events_delivered`), soonest first."""

    def flow_options(self) -> Mapping[str, FlowOptions]:
        """The newest options of every flow that has some."""

    def find_key(self, key: str) -> RunRecord | None:
        """The run that holds this idempotency key."""

    def list_runs(
        self, *, flow: str = "", states: Sequence[RunState] = (), limit: int = 100, page_token: str = ""
    ) -> RunPage:
        """Newest first; damaged records are on the page, marked. `limit` 1..1000.

        Raises:
            ValueError: malformed page token.
        """

    def logs(self, query: LogQuery) -> LogPage:
        """Log lines of a run, oldest first; damaged ones are left out."""

    def sessions(self) -> Sequence[SessionRecord]: ...

    def known_flows(self) -> frozenset[str]:
        """Every flow any host ever registered (from the sessions that were written)."""

    def inbox(self, after: int = 0) -> Sequence[InboxRow]: ...
