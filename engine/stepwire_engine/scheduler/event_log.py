"""What the engine says of runs and hosts: one line per event, after its commit, and none for a step that goes well.

Ids travel as fields of the records, so that lines for people and for machines are made from the same. Of failures
only code and type are said: messages are those of user code. It decides nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stepwire_engine.core.books import Commit, Repair
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.ending import failure_of
from stepwire_engine.core.entries import AttemptEnded, RunPaused, RunState
from stepwire_engine.core.sessions import Session
from stepwire_engine.core.turn import Turn
from stepwire_engine.core.units import Receipt, UnitOutcome

_log = logging.getLogger("stepwire.engine.events")
_HOST = {"area": "host"}


class EventLog:
    """Says what was committed.

    Args:
        config: Of the core; for the retries of steps that say nothing.
    """

    def __init__(self, config: CoreConfig) -> None:
        self._config = config

    def committed(self, commits: Sequence[Commit], receipts: Sequence[Receipt]) -> None:
        """The fate of commits is known."""
        if not _log.isEnabledFor(logging.INFO):
            return
        debug = _log.isEnabledFor(logging.DEBUG)
        for commit, receipt in zip(commits, receipts, strict=True):
            turn = commit.turn
            if turn is None or receipt.outcome is not UnitOutcome.COMMITTED:
                continue
            if turn.retries:
                self._retries(turn)
            if turn.paused:
                _paused(turn)
            if turn.ended is not None and (debug or turn.ended.state is RunState.FAILED):
                _ended(turn)
            if debug and commit.unit.entries and not commit.unit.expected_seq:
                _say(logging.DEBUG, turn, "accepted")

    def defects(self, incidents: Sequence[tuple[str, Exception]], repairs: Sequence[Repair]) -> None:
        """The core failed on runs, and runs and steps had not exactly one owner."""
        for run_id, incident in incidents:
            _log.error("the core failed on run %s, which is paused now", run_id, exc_info=incident)
        for repair in repairs:
            what = f"step {repair.path!r} of run {repair.run_id}" if repair.path else f"run {repair.run_id}"
            _log.error("%s had not exactly one owner (%s) and was put right; please report this", what, repair.missing)

    def lost(self, sessions: Sequence[tuple[Session, str]]) -> None:
        """Hosts that are gone without a word."""
        for session, cause in sessions:
            _log.warning("host %s lost (%s), instance %s", session.service, cause, session.instance_id, extra=_HOST)

    def _retries(self, turn: Turn) -> None:
        for entry in turn.entries:
            if isinstance(entry, AttemptEnded) and entry.retry_at_ms is not None and entry.failure is not None:
                step = turn.run.steps[entry.path]
                delay = max(0, entry.retry_at_ms - entry.at_ms) / 1000
                most = (step.retry or self._config.default_retry).max_attempts
                fields: dict[str, str | int] = {"step": entry.path, "attempt": entry.attempt, "attempts_max": most}
                text = f"retry in {delay:.3g}s err={_err(entry.failure.code.slug, entry.failure.type)}"
                _say(logging.INFO, turn, text, **fields)


def _paused(turn: Turn) -> None:
    for entry in turn.entries:
        if isinstance(entry, RunPaused):
            _say(logging.INFO, turn, f"paused err={_err(entry.failure.code.slug, entry.failure.type)}")


def _ended(turn: Turn) -> None:
    assert turn.ended is not None
    state = turn.ended.state
    failure = failure_of(turn.run) if state is RunState.FAILED else None
    err = f" err={_err(failure.code.slug, failure.type)}" if failure is not None else ""
    level = logging.INFO if state is RunState.FAILED else logging.DEBUG
    seconds = max(0, turn.unix_ms - turn.run.created_at_ms) / 1000
    _say(level, turn, f"{state.name.lower()} after {seconds:.3g}s{err}")


def _err(code: str, kind: str) -> str:
    return f'"{code} {kind}"'


def _say(level: int, turn: Turn, text: str, **fields: str | int) -> None:
    run = turn.run
    _log.log(level, "%s", text, extra={"area": "run", "run_id": run.run_id, "flow": run.flow, **fields})
