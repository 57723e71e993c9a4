"""Turns that no host's frame caused: what time, facts and clients bring about, and the creation of runs.

A fault of ours in such a turn takes its run with it and nothing else. What is decided, others say.
"""

from __future__ import annotations

from collections.abc import Callable

from stepwire.protocol.frames import FlowOptions
from stepwire.protocol.payload import Payload
from stepwire_engine.core import machine
from stepwire_engine.core.books import Books, Commit
from stepwire_engine.core.entries import ParentStep, RunCreated
from stepwire_engine.core.model import Run
from stepwire_engine.core.sessions import AckTicket
from stepwire_engine.core.settle import settle
from stepwire_engine.core.turn import Turn


class Decisions:
    """Makes turns and queues them.

    Attributes:
        queue: Queues a turn's commit.
        quarantine: Takes a run on which the core failed out of memory.
    """

    queue: Callable[[Turn, AckTicket | None], Commit | None]
    quarantine: Callable[[Run, Exception], None]

    def __init__(self, books: Books) -> None:
        self._books = books

    def alone(self, run: Run, decide: Callable[[Turn], None]) -> bool:
        """One turn about a run in memory.

        Returns:
            False if nothing was decided, because the run has left memory or the core failed on it.
        """
        if run.broken or run.state.terminal or self._books.by_number.get(run.number) is not run:
            return False
        turn = Turn(run, self._books.now.unix_ms)
        try:
            decide(turn)
            settle(turn)
        except Exception as error:
            self.quarantine(run, error)
            return False
        self.queue(turn, None)
        return True

    def create(
        self,
        *,
        run_id: str,
        flow: str,
        payload: Payload,
        seed: int,
        key: str,
        parent: ParentStep | None = None,
        traceparent: str = "",
        fact: int | None = None,
    ) -> Commit:
        """A new run, with the options that its flow has now.

        Args:
            fact: Number of the inbox row that asks for it.
        """
        books = self._books
        books.last_run_number += 1
        run = Run(books.last_run_number)
        turn = Turn(run, books.now.unix_ms)
        options = books.flow_options.get(flow, FlowOptions(flow))
        machine.create(
            turn,
            RunCreated(
                run_id,
                flow,
                payload.marked() if options.redact_input else payload,
                seed,
                turn.unix_ms,
                key,
                parent,
                options.deadline,
                options.undo_on_cancel,
                traceparent,
            ),
        )
        if fact is not None:
            turn.facts_done.append(fact)
        books.add(run)
        commit = self.queue(turn, None)
        assert commit is not None
        return commit
