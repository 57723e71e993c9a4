"""What clients ask for: runs that start, go on and are cancelled. Answers follow the commit of what was decided."""

from __future__ import annotations

from collections.abc import Callable

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.payload import Payload
from stepwire_engine.core import ending, machine
from stepwire_engine.core.books import Books, Reply
from stepwire_engine.core.decisions import Decisions
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.model import Run
from stepwire_engine.core.turn import Turn


class Requests:
    """Decides requests about runs in memory."""

    def __init__(self, books: Books, decisions: Decisions) -> None:
        self._books = books
        self._decisions = decisions

    def start(
        self, token: object, *, run_id: str, seed: int, flow: str, payload: Payload, key: str, traceparent: str
    ) -> None:
        """Start a run, or answer with the one that has its key (MISSION T2)."""
        if flow not in self._books.known_flows:
            known = ", ".join(sorted(self._books.known_flows)[:20]) or "none"
            message = f"no host has registered flow {flow!r} (known: {known})"
            self._refuse(token, "", ErrorCode.UNKNOWN_FLOW, message)
            return
        holder = self._books.keys.get(key) if key else None
        if holder is not None:
            self._answer_key(token, holder, flow, payload)
            return
        commit = self._decisions.create(
            run_id=run_id, flow=flow, payload=payload, seed=seed, key=key, traceparent=traceparent
        )
        commit.replies.append(Reply(token, run_id))

    def _answer_key(self, token: object, holder: Run, flow: str, payload: Payload) -> None:
        if holder.flow != flow or not holder.input.is_same(payload):
            message = f"id {holder.id!r} is in use by run {holder.run_id} with another flow or input"
            self._books.replies.append(Reply(token, holder.run_id, True, ErrorCode.KEY_CONFLICT, message))
            return
        reply = Reply(token, holder.run_id, True)
        waiting = self._books.last_commit.get(holder.number) if holder.committed_seq == 0 else None
        (waiting.replies if waiting is not None else self._books.replies).append(reply)

    def resume(self, token: object, run_id: str) -> None:
        """Let a paused run go on."""
        run = self._books.runs.get(run_id)
        if run is None or run.state is not RunState.PAUSED:
            state = "not open" if run is None else run.state.name
            self._refuse(token, run_id, ErrorCode.WRONG_STATE, f"run is {state}")
            return
        self._decide(token, run, machine.resume)

    def cancel(self, token: object, run_id: str, undo: bool | None) -> None:
        """Cancel a run in memory (MISSION S20)."""
        run = self._books.runs[run_id]
        if run.stopping is not None and run.stopping.state is RunState.CANCELLED:
            self._answer(run, Reply(token, run_id))
        elif run.stopping is not None or run.body_ended is not None:
            message = "the run is ending already: its flow has ended, or it is being compensated"
            self._answer(run, Reply(token, run_id, code=ErrorCode.WRONG_STATE, message=message))
        else:
            undone = run.undo_on_cancel if undo is None else undo
            self._decide(token, run, lambda turn: ending.stop(turn, RunState.CANCELLED, undo=undone))

    def _decide(self, token: object, run: Run, decide: Callable[[Turn], None]) -> None:
        if self._decisions.alone(run, decide):
            self._answer(run, Reply(token, run.run_id))
        else:
            self._refuse(token, run.run_id, ErrorCode.INTERNAL, "the engine failed on this run; its log says why")

    def _answer(self, run: Run, reply: Reply) -> None:
        """Answer when everything that was decided about the run is durable."""
        commit = self._books.last_commit.get(run.number)
        (commit.replies if commit is not None else self._books.replies).append(reply)

    def _refuse(self, token: object, run_id: str, code: ErrorCode, message: str) -> None:
        self._books.replies.append(Reply(token, run_id, code=code, message=message))
