"""The journal thread: the only writer of the database, and its group commit.

Whatever is queued when the previous commit ends becomes the next transaction; there is no delay timer. One
callback per commit goes back to the engine. Nothing is answered before the statement that commits returned, and a
commit whose effect is unknown is never answered at all.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from time import perf_counter

import msgspec

from stepwire_engine.store import rows
from stepwire_engine.store.base import Notify, Receipt, Receipts, StoreError, StoreFailed, Unit
from stepwire_engine.store.damage import DamageLog
from stepwire_engine.store.draft import NO_SPACE, Draft, refused
from stepwire_engine.store.rows import PackedUnit
from stepwire_engine.store.sqlite_connection import (
    CHECKPOINT_PAGES,
    Trouble,
    checkpoint,
    damaged,
    explained,
    probe,
    trouble_of,
)
from stepwire_engine.store.sqlite_outcome import LeftNothing, left_nothing, read_back
from stepwire_engine.store.sqlite_tables import SqliteTables
from stepwire_engine.store.sqlite_wal import LogLength

COMMIT_BYTES_TARGET = 1024 * 1024
"""A commit takes no further batch once it has this much: everything behind it would wait for the disk."""
PROBE_SECONDS = 1.0
"""How often the thread asks for space while the disk is full."""
_LOOKS = 8
"""How often the length of the log is looked at until it is recycled."""
_PAGES_MIN, _PAGE_BITS = 3, 12
"""Pages that a commit adds to the log at least, and their size. Of short rows some share one."""

_log = logging.getLogger(__name__)


class Batch(msgspec.Struct, frozen=True):
    """What one `submit` brought."""

    units: list[PackedUnit]
    done: Receipts
    size: int


class Claim(msgspec.Struct, frozen=True):
    """A partition to claim; the epoch or the error goes into `epoch`."""

    partition: int
    epoch: Future[int]


class Stop(msgspec.Struct, frozen=True):
    """Ends the thread after everything queued before it."""


class Counters(msgspec.Struct):
    """What the thread did since it was started; written by it alone."""

    commits: int = 0
    rows: int = 0
    bytes: int = 0


ObserveCommit = Callable[[float, int, int], None]
"""Told (seconds, units, bytes) of each commit, on the journal thread."""


class JournalThread:
    """Takes batches from a queue and commits them.

    Args:
        path: The database, named in errors.
        db: The connection that writes, used by nobody else from `start` to `stop`.
        reopen: Closes `db` and returns a new connection for writing.
        notify: Runs a callable on the engine's loop.
        on_failed: Told once, through `notify`, that the outcome of a commit is unknown: the engine must exit.
        observe_commit: Told of each commit, on the thread itself.
        damage: Told of damaged rows that commits had to read.
    """

    def __init__(
        self,
        path: str,
        db: sqlite3.Connection,
        *,
        reopen: Callable[[], sqlite3.Connection],
        notify: Notify,
        on_failed: Callable[[StoreError], None],
        observe_commit: ObserveCommit | None,
        damage: DamageLog,
    ) -> None:
        self.counters = Counters()
        self.accepting = True
        self._path = path
        self._db = db
        self._tables = SqliteTables(db)
        self._reopen = reopen
        self._notify = notify
        self._on_failed = on_failed
        self._observe_commit = observe_commit
        self._damage = damage
        self._unsettled: tuple[SqliteTables, Draft, float] | None = None
        """The last commit, the tables that wrote it, and its seconds."""
        self._log_length = LogLength(path)
        self._log_grows = False
        self._written_pages = 0  # About how many, since the log was last looked at.
        self._queue: SimpleQueue[Batch | Claim | Stop] = SimpleQueue()
        self._ahead: Claim | Stop | None = None
        """Taken from the queue while a commit was collected; it comes next."""
        self._thread = threading.Thread(target=self._main, name="stepwire-journal", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, units: Sequence[Unit], done: Receipts) -> None:
        """Pack units and queue them. Callable from any thread."""
        packed = list(map(rows.pack_unit, units))
        self._queue.put(Batch(packed, done, sum([unit.size for unit in packed])))

    def claim(self, partition: int) -> int:
        """Claim a partition and wait for it. Raises StoreError."""
        epoch: Future[int] = Future()
        self._queue.put(Claim(partition, epoch))
        return epoch.result()

    def stop(self) -> None:
        """Commit what is queued and end the thread."""
        self._queue.put(Stop())
        self._thread.join()

    # ---- the loop

    def _main(self) -> None:
        try:
            self._work()
        except StoreError as error:
            self._fail(error)
        except Exception as error:  # an answer nobody gets would stop the engine silently
            _log.exception("the journal thread failed")
            self._fail(StoreFailed(f"{self._path}: the journal thread failed: {error!r}"))
        finally:
            self._log_length.close()

    def _work(self) -> None:
        while True:
            item = self._next()
            if not self.accepting:
                self._probe()
            match item:
                case Batch():
                    self._commit([item] if self._queue.empty() else self._everything_queued(item))
                    if self._written_pages * _LOOKS >= CHECKPOINT_PAGES:
                        self._checkpoint()
                case Claim():
                    self._claim(item)
                case Stop():
                    return
                case None:
                    pass

    def _next(self) -> Batch | Claim | Stop | None:
        """The next item; None when it is time to ask for space."""
        if (ahead := self._ahead) is not None:
            self._ahead = None
            return ahead
        try:
            return self._queue.get(timeout=None if self.accepting else PROBE_SECONDS)
        except Empty:
            return None

    def _everything_queued(self, first: Batch) -> list[Batch]:
        batches = [first]
        size = first.size
        queue = self._queue
        while size < COMMIT_BYTES_TARGET and not queue.empty():  # This thread alone takes from it.
            match queue.get_nowait():
                case Batch() as batch:
                    batches.append(batch)
                    size += batch.size
                case other:
                    self._ahead = other
                    break
        return batches

    # ---- one commit

    def _commit(self, batches: list[Batch]) -> None:
        self._written_pages += sum([batch.size for batch in batches]) >> _PAGE_BITS
        if len(batches) == 1:
            self._tell(partial(batches[0].done, self._store(batches[0].units)))
        else:
            receipts = iter(self._store([unit for batch in batches for unit in batch.units]))
            answers = [(batch.done, list(islice(receipts, len(batch.units)))) for batch in batches]
            self._tell(partial(_call_all, answers))
        self._settle()

    def _store(self, units: list[PackedUnit], *, warily: bool = False) -> list[Receipt]:
        """Judge units and commit those that fit in one transaction. Raises StoreError if the outcome is unknown.

        Args:
            units: Packed.
            warily: Look up what the constraints of the tables would find as well, so that a refusal says what it is.
        """
        if not self.accepting:
            return [NO_SPACE] * len(units)
        if self._unsettled is not None:
            self._settle()
        started = perf_counter()
        tables = self._tables
        tables.wary = warily
        draft = Draft(tables)
        try:
            receipts = draft.add_all(units)
            for row in draft.damaged:
                self._damage.note(row)
            if not draft.units:
                return receipts
            if not (at_once := tables.writes_at_once(draft)):
                self._db.execute("BEGIN IMMEDIATE")
                tables.write(draft)
        except Exception as error:
            self._rollback()
            return self._refuse(units, error, warily)
        try:
            if not self._is_committed(draft, at_once):
                return [NO_SPACE] * len(units)
        except LeftNothing as nothing:
            return self._refuse(units, nothing.error, warily)
        self._unsettled = (tables, draft, perf_counter() - started)
        return receipts

    def _settle(self) -> None:
        """Take in the last commit. After the answers: whoever waits for them need not wait for this."""
        if self._unsettled is None:
            return
        tables, draft, seconds = self._unsettled
        self._unsettled = None
        tables.adopt(draft)
        self._count(draft, seconds)

    def _is_committed(self, draft: Draft, at_once: bool) -> bool:
        """Commit, and whether that happened.

        Args:
            draft: What is written, or if `at_once` is to be written by a statement that is its own transaction.

        Raises:
            StoreError: it cannot be known.
            LeftNothing: that statement stored nothing, for another reason than a full disk.
        """
        try:
            if at_once:
                self._tables.write(draft)
            else:
                self._db.execute("COMMIT")
        except Exception as error:
            if at_once and left_nothing(error):
                raise LeftNothing(error) from error
            if isinstance(error, sqlite3.Error) and trouble_of(error) is Trouble.NO_SPACE:
                return self._read_back(draft)
            raise StoreFailed(f"{self._path}: a commit has an unknown outcome ({error}): restart decides") from error
        return True

    def _read_back(self, draft: Draft) -> bool:
        """After a commit that reported a full disk: what the file says is the truth."""
        self.accepting = False
        self._db, self._tables, stored = read_back(self._path, self._reopen, draft, self._tables.rowless_commits)
        _log.warning(
            "%s: the disk is full; nothing is taken until a write succeeds, tried every %g s", self._path, PROBE_SECONDS
        )
        return stored

    def _refuse(self, units: list[PackedUnit], error: Exception, warily: bool) -> list[Receipt]:
        """What to answer to a transaction of which nothing is stored."""
        match trouble_of(error) if isinstance(error, sqlite3.Error) else Trouble.CONTENT:
            case Trouble.DEVICE:
                raise StoreFailed(f"{self._path} cannot be written ({error}): restart decides") from error
            case Trouble.DAMAGED:
                raise damaged(self._path, str(error)) from error
            case Trouble.CONTENT if not warily:
                # One of them does not fit the tables: alone, each gets its own fate.
                return [receipt for unit in units for receipt in self._store([unit], warily=True)]
            case Trouble.NO_SPACE:
                return [NO_SPACE] * len(units)
            case _:
                return _all_refused(units, f"not stored: {error}")

    def _rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _count(self, draft: Draft, seconds: float) -> None:
        counters = self.counters
        counters.commits += 1
        counters.rows += len(draft.journal)
        counters.bytes += draft.size
        self._written_pages += _PAGES_MIN + (len(draft.journal) >> 1)
        if self._observe_commit is not None:
            self._observe_commit(seconds, draft.units, draft.size)

    def _checkpoint(self) -> None:
        """Recycle the log when it has become long. After the answers: whoever waits need not wait for this.

        To see how long it is, the file is read, and that gives the GIL away to the loop that just got its answers.
        So it looks again when as much may have been written as is a small part of it.

        What is in the log is durable whether this works or not, so a full disk only lets it grow on. An error of the
        device ends the engine: a sync that is tried again may succeed without having written anything.
        """
        if not self.accepting:
            return
        self._written_pages = 0
        if not self._log_length.has(CHECKPOINT_PAGES):
            return
        try:
            checkpoint(self._db)
        except sqlite3.Error as error:
            match trouble_of(error):
                case Trouble.NO_SPACE | Trouble.UNAVAILABLE:
                    if not self._log_grows:
                        _log.warning("%s: its log cannot be recycled (%s) and grows until it can", self._path, error)
                    self._log_grows = True
                case Trouble.DAMAGED:
                    raise damaged(self._path, str(error)) from error
                case _:
                    raise StoreFailed(
                        f"{self._path}: its log cannot be copied into it ({error}); what was acknowledged is in "
                        "the log, and restart decides: check the disk"
                    ) from error
        else:
            self._log_grows = False

    # ---- answers

    def _tell(self, callback: Callable[[], None]) -> None:
        try:
            self._notify(callback)
        except RuntimeError as error:  # the engine's loop is closed: nobody is left to be told
            _log.warning("the engine's loop does not take receipts any more: %s", error)

    def _claim(self, claim: Claim) -> None:
        try:
            claim.epoch.set_result(self._tables.claim(claim.partition))
        except sqlite3.Error as error:
            why = explained(error, self._path)
            why.add_note(f"while claiming partition {claim.partition}")
            claim.epoch.set_exception(why)

    def _probe(self) -> None:
        """Take units again if there is space."""
        try:
            probe(self._db)
        except sqlite3.Error as error:
            self._rollback()
            if trouble_of(error) not in (Trouble.NO_SPACE, Trouble.UNAVAILABLE):
                raise StoreFailed(f"{self._path} cannot be written ({error}): restart decides") from error
            return
        self.accepting = True
        _log.warning("%s: there is space again", self._path)

    def _fail(self, error: StoreError) -> None:
        """Tell the engine, then drop whatever still comes: its outcome is for the restart to find."""
        self.accepting = False
        self._tell(lambda: self._on_failed(error))
        item = self._ahead or self._queue.get()
        while not isinstance(item, Stop):
            if isinstance(item, Claim):
                item.epoch.set_exception(error)
            item = self._queue.get()


def _all_refused(units: list[PackedUnit], reason: str) -> list[Receipt]:
    return [refused(reason)] * len(units)


def _call_all(answers: list[tuple[Receipts, list[Receipt]]]) -> None:
    """Call each; one that raises does not keep the others from their answers."""
    errors: list[Exception] = []
    for done, receipts in answers:
        try:
            done(receipts)
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
