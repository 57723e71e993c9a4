"""Facts that other runs and events caused, each acted on once (DESIGN 5, cross-run facts).

A fact is a row of the store until the commit that acts on it consumes it; whatever crashes in between, it is found
again. Facts about one run are applied in their order, together in one turn. A run that is dormant is woken for its
facts; one that ended makes them moot, but they are consumed all the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire_engine.core import causes
from stepwire_engine.core.books import Books, Commit
from stepwire_engine.core.decisions import Decisions
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.model import Run
from stepwire_engine.core.reads import RunRecords, Unreadable
from stepwire_engine.core.turn import Turn
from stepwire_engine.core.units import (
    CancelRun,
    ChildEnded,
    Fact,
    InboxRow,
    Receipt,
    RunRecord,
    StartRun,
    Unit,
    UnitOutcome,
)

Found = RunRecord | Unreadable | None
FACTS_AT_ONCE = 500
"""Facts that are acted on, and records that are read for them, before others have their turn."""
RETRY_SECONDS = 1.0
"""Pause before a fact whose commit the store refused is acted on again, or that finds no room in memory."""


class Inbox:
    """The facts that were not consumed yet.

    Args:
        apply: Decides what a fact does to the run that it is about.
        wake: Brings a dormant run into memory and gives back the number of the fact then, by `again`.
    """

    def __init__(
        self,
        books: Books,
        decisions: Decisions,
        apply: Callable[[Turn, Fact], None],
        wake: Callable[[RunRecord, int], None],
    ) -> None:
        self._books = books
        self._decisions = decisions
        self._apply = apply
        self._wake = wake
        self._rows: dict[int, InboxRow] = {}
        self._starts: dict[str, int] = {}
        """The facts that start runs, by the run's id."""
        self._pending: dict[int, set[int]] = {}
        """Facts that were not acted on, by the run's number: they have an order, whatever each of them waits for."""
        self._ready: deque[int] = deque()
        self._unknown: deque[int] = deque()
        """Facts about runs that are not in memory."""
        self._asked: tuple[int, ...] = ()
        self._held: dict[int, list[int]] = {}
        """Facts about runs that are about to leave memory or are being read again, by the run's number."""
        self._retries: list[int] = []
        self._retry_at: float | None = None
        self._acting = False

    @property
    def backlog(self) -> int:
        """Facts that were not consumed yet."""
        return len(self._rows)

    def concerns(self, run: int, starts: Iterable[str]) -> bool:
        """Whether a fact about this run was not acted on, or one that starts one of these."""
        return bool(self._pending.get(run) or self._held.get(run)) or any([start in self._starts for start in starts])

    # ---- coming in

    def take(self, rows: Iterable[InboxRow]) -> None:
        """These facts are stored."""
        for row in rows:
            self._rows[row.number] = row
            self._ready.append(row.number)
            if row.run:
                self._pending.setdefault(row.run, set()).add(row.number)
            if isinstance(row.fact, StartRun):
                self._starts[row.fact.run_id] = row.number
        self.act()

    def again(self, numbers: Iterable[int]) -> None:
        """What stood in the way of these facts is gone."""
        self._ready.extend(numbers)
        self.act()

    def release(self, run: Run) -> None:
        """The run left memory for good, or was read again."""
        held = self._held.pop(run.number, ())
        pending = self._pending.get(run.number, ())
        if held or pending:
            # Whatever else they wait for: what came before the time that woke the run counts before it.
            self.again(sorted({*held, *pending}))

    def drop(self, numbers: Iterable[int]) -> None:
        """Nothing can be done about these facts in this engine's life; they stay in the store."""
        for number in numbers:
            row = self._rows.pop(number, None)
            if row is None:
                continue
            pending = self._pending.get(row.run)
            if pending is not None:
                pending.discard(number)
                if not pending:
                    del self._pending[row.run]
            if isinstance(row.fact, StartRun) and self._starts.get(row.fact.run_id) == number:
                del self._starts[row.fact.run_id]

    def unreadable(self, run: Run) -> None:
        """The run cannot be read again."""
        self.drop(self._held.pop(run.number, ()))

    def consumed(self, numbers: Iterable[int]) -> None:
        """A commit consumed these facts."""
        self.drop(numbers)

    def refused(self, numbers: Iterable[int], receipt: Receipt) -> None:
        """A commit that was to consume these facts was refused."""
        for number in numbers:
            row = self._rows.get(number)
            if row is None:
                continue
            if receipt.outcome is UnitOutcome.KEY_TAKEN and isinstance(row.fact, StartRun):
                self._key_taken(row, row.fact, receipt.existing_run)
            else:
                if row.run:
                    self._pending.setdefault(row.run, set()).add(number)
                self._later(number)

    def _later(self, number: int) -> None:
        self._retries.append(number)
        if self._retry_at is None:
            self._retry_at = self._books.now.mono + RETRY_SECONDS

    # ---- time

    def next_due(self) -> float | None:
        """When `tick` has something to do, on the monotonic clock."""
        return self._books.now.mono if self._ready else self._retry_at

    def tick(self) -> None:
        """Time has passed."""
        if self._retry_at is not None and self._retry_at <= self._books.now.mono:
            self._retry_at = None
            retries, self._retries = sorted(self._retries), []
            self._ready.extend(retries)
        if self._ready:
            self.act()

    # ---- acting

    def act(self) -> None:
        """Act on what is ready; a bounded number of facts, `next_due` tells whether there are more."""
        if self._acting:
            return  # Something that a fact caused brought further ones; they are in the queue.
        self._acting = True
        left = FACTS_AT_ONCE
        try:
            while self._ready and left:
                portion = min(len(self._ready), left)
                left -= portion
                self._act_on(portion)
        finally:
            self._acting = False
        self._ask()

    def _act_on(self, count: int) -> None:
        turns: dict[int, tuple[Run, list[InboxRow]]] = {}
        for _ in range(count):
            row = self._rows.get(self._ready.popleft())
            if row is not None:
                self._sort(row, turns)
        for run, rows in turns.values():
            self._decide(run, rows)

    def _sort(self, row: InboxRow, turns: dict[int, tuple[Run, list[InboxRow]]]) -> None:
        run = self._target(row)
        if run is None:
            self._unknown.append(row.number)
        elif run.broken or run.state.terminal:
            self._held.setdefault(run.number, []).append(row.number)
        elif due := self._due_with(row):
            turns.setdefault(run.number, (run, []))[1].extend([self._rows[number] for number in due])

    def _due_with(self, row: InboxRow) -> Sequence[int]:
        """What is acted on together with this fact: all there is about its run; nothing if that has been done."""
        if not row.run:
            return (row.number,)
        return sorted([number for number in self._pending.pop(row.run, ()) if number in self._rows])

    def _target(self, row: InboxRow) -> Run | None:
        match row.fact:
            case StartRun(run_id=run_id) | CancelRun(run_id=run_id):
                return self._books.runs.get(run_id) or self._books.broken.get(run_id)
            case _:
                return self._books.by_number.get(row.run)

    def _decide(self, run: Run, rows: Sequence[InboxRow]) -> None:
        def decide(turn: Turn) -> None:
            for row in rows:
                turn.facts_done.append(row.number)
                self._apply(turn, row.fact)

        if not self._decisions.alone(run, decide):
            # The core failed on them, and would again.
            self.drop([row.number for row in rows])

    # ---- runs that are not in memory

    def _ask(self) -> None:
        if self._asked or not self._unknown:
            return
        count = min(len(self._unknown), FACTS_AT_ONCE)
        self._asked = tuple([self._unknown.popleft() for _ in range(count)])
        run_ids: list[str] = []
        numbers: list[int] = []
        for number in self._asked:
            match self._rows.get(number):
                case InboxRow(fact=StartRun(run_id=run_id) | CancelRun(run_id=run_id)):
                    run_ids.append(run_id)
                case InboxRow(run=run):
                    numbers.append(run)
        self._books.read(RunRecords(tuple(run_ids), tuple(numbers)))

    def records(self, read: RunRecords, answer: tuple[Sequence[Found], Sequence[Found]]) -> None:
        """What is on record of the runs that facts are about."""
        by_id = dict(zip(read.run_ids, answer[0], strict=True))
        by_number = dict(zip(read.numbers, answer[1], strict=True))
        asked, self._asked = self._asked, ()
        moot: list[int] = []
        for number in asked:
            row = self._rows.get(number)
            if row is None:
                continue
            if self._target(row) is not None:
                self._ready.append(number)  # It came into memory meanwhile.
                continue
            match row.fact:
                case StartRun():
                    over = self._start(row, row.fact, by_id[row.fact.run_id])
                case CancelRun():
                    over = self._cancel(row, row.fact, by_id[row.fact.run_id])
                case _:
                    over = self._bring(row, by_number[row.run])
            if over:
                moot.append(number)
        if moot:
            self._books.commits.append(Commit(Unit(self._books.claim_epoch, inbox_done=tuple(moot))))
        self.act()

    def _start(self, row: InboxRow, fact: StartRun, record: Found) -> bool:
        """Start the run unless it exists: then somebody acted on the same cause before. True: the fact is moot."""
        if record is not None:
            return True
        if self._full:
            self._later(row.number)
        else:
            self._decisions.create(
                run_id=fact.run_id,
                flow=fact.flow,
                payload=fact.input,
                seed=causes.seed_of(fact.run_id),
                key=fact.id,
                parent=fact.parent,
                traceparent=fact.traceparent,
                fact=row.number,
            )
        return False

    @property
    def _full(self) -> bool:
        return len(self._books.runs) >= self._books.config.runs_in_memory_max

    def _cancel(self, row: InboxRow, fact: CancelRun, record: Found) -> bool:
        if isinstance(record, RunRecord) and record.state is RunState.SUCCEEDED:
            # Perhaps it ended by starting its successor, which is the child now.
            successor = CancelRun(causes.successor_run_id(fact.run_id), fact.undo)
            self._rows[row.number] = InboxRow(row.run, successor, row.number)
            self._ready.append(row.number)
            return False
        if record is None and fact.run_id in self._starts:
            self._later(row.number)  # It will be there.
            return False
        return self._bring(row, record)

    def _bring(self, row: InboxRow, record: Found) -> bool:
        """Wake the run if it is dormant. True: there is no such run any more, so that the fact is moot."""
        if isinstance(record, Unreadable) or (record is not None and record.number in self._books.unreadable):
            self.drop([row.number])  # It stays in the store for the engine that can read the run.
            return False
        if record is None or record.state.terminal:
            return True
        if record.run_id in self._books.broken:
            self._held.setdefault(record.number, []).append(row.number)  # It is being read again.
        elif record.state is RunState.WAITING:
            if self._full:
                self._later(row.number)
            else:
                self._wake(record, row.number)
        else:
            self._unknown.append(row.number)  # It has moved on since its record was read.
        return False

    def _key_taken(self, row: InboxRow, fact: StartRun, owner: str) -> None:
        parent = fact.parent
        told: tuple[InboxRow, ...] = ()
        if parent is not None:
            message = f"id {fact.id!r} of the run to invoke is in use by run {owner}"
            failure = Failure(ErrorCode.KEY_CONFLICT, "KeyConflict", message, retryable=Retryable.NO)
            told = (InboxRow(parent.run, ChildEnded(parent.path, parent.attempt, None, failure)),)
        self._books.commits.append(Commit(Unit(self._books.claim_epoch, inbox=told, inbox_done=(row.number,))))
