"""What becomes of journals that were read: runs come into memory, bodies are entered or get what they missed.

A run that was read has no timer, no lease and no body; whatever of it waits for time is armed here. Which journal is to
be read is decided elsewhere, and nothing here reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stepwire_engine.core import ending, machine
from stepwire_engine.core.books import Books, arm_deadline
from stepwire_engine.core.commits import Commits
from stepwire_engine.core.dispatch import Dispatcher
from stepwire_engine.core.entries import Entry, RunState
from stepwire_engine.core.fold import rebuild
from stepwire_engine.core.liveness import Liveness
from stepwire_engine.core.model import PERFORMED, Run
from stepwire_engine.core.performed import Performed
from stepwire_engine.core.snapshot import body_entries
from stepwire_engine.core.turn import Turn

Rows = Sequence[Iterable[Entry]]
"""The entries of a run's committed rows, from the first."""


class Journals:
    """Turns journals into runs in memory and into what hosts get of them."""

    def __init__(
        self, books: Books, dispatcher: Dispatcher, liveness: Liveness, performed: Performed, commits: Commits
    ) -> None:
        self._books = books
        self._dispatcher = dispatcher
        self._liveness = liveness
        self._performed = performed
        self._commits = commits

    def take_over(self, number: int, rows: Rows, *, recorded: bool) -> None:
        """The engine starts, and this run is open: what hosts may execute of it is uncertain.

        Args:
            recorded: Its record is sound. Otherwise its next commit writes it anew.
        """
        run = rebuild(number, rows)
        if run.state.terminal:
            return  # Only a damaged record takes it for open.
        if not recorded:
            run.recorded = None
        run.uncertain = True
        self._into_memory(run)
        undo = ending.present_undo(run)
        for step in run.open_steps():
            # Nobody was given a retry that is not due yet, or an undo whose turn has not come.
            due = step.retry_at_ms is None or step.retry_at_ms <= self._books.now.unix_ms
            has_turn = step.undo_of is None or step is undo
            step.uncertain = due and has_turn and step.kind not in PERFORMED
            self._dispatcher.enqueue(step)

    def loaded(self, run: Run, rows: Rows) -> None:
        """A journal that was asked for: of a run that is not in memory as it should be, or for a body."""
        if run.number in self._books.unreadable:
            self._commits.forget(run)  # Some other row of it was found damaged meanwhile.
            self._performed.unreadable(run)
            return
        if run.broken:
            self._read_again(run, rows)
            return
        body = run.body
        if body is None or body.ready or run.run_id not in self._books.runs:
            return
        if len(rows) < run.committed_seq:
            self._books.loads.append(run)
            return
        session = self._books.sessions[body.session_id]
        resumed = session.resumed_bodies.pop(run.number, None)
        if resumed is None:
            self._dispatcher.bodies.enter(run, body, body_entries(rows), hold=True)
        else:
            self._dispatcher.bodies.catch_up(run, body, body_entries(rows, after_release=resumed))
        self._dispatcher.enqueue_closures(run)

    def _read_again(self, run: Run, rows: Rows) -> None:
        if run.gone or len(rows) < run.committed_seq:
            return  # Asked for before it left memory; what it is to be read again for is another answer.
        run.gone = True
        self._books.broken.pop(run.run_id, None)
        fresh = rebuild(run.number, rows)
        self._books.changed.add(fresh.run_id)
        if fresh.state.terminal:
            self._performed.over(fresh)
            return
        fresh.recorded = None  # What the store has on record may be older, or newer, than the journal's end.
        fresh.waking = run.waking
        fresh.resting = run.resting
        self._into_memory(fresh)
        self._performed.read_again(fresh)
        if run.quarantine is not None and fresh.state is not RunState.PAUSED:
            turn = Turn(fresh, self._books.now.unix_ms)
            machine.pause(turn, run.quarantine)
            self._commits.queue(turn, None)
        else:
            self._liveness.reclaim(fresh, run.awaited)
        self._performed.back(fresh)

    def _into_memory(self, run: Run) -> None:
        self._books.add(run)
        arm_deadline(self._books, run)
        for group in run.groups.values():
            arm_deadline(self._books, group)
        for step in run.open_steps():
            arm_deadline(self._books, step)
