"""Why a run or a step does not move at this moment, from the run in memory or, for a dormant one, from its journal.

Every open run and every open step has a reason. Computed when somebody asks, never stored and never decided upon.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping

from stepwire.protocol.plan import StepKind
from stepwire_engine.core.deadlines import goes_on_ms
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.model import PERFORMED, Run, RunPhase, Step, StepState
from stepwire_engine.core.sessions import Session


class WaitReason(enum.IntEnum):
    """Why a run or step does not move; the numbers are those of `run.proto` (DESIGN 7)."""

    NO_HOST = 1
    NO_SLOT = 2
    BACKOFF_UNTIL = 3
    SLEEPING_UNTIL = 4
    EVENT = 5
    SIBLING_IN_WAVE = 6
    GROUP_LIMIT = 7
    LIMIT_KEY = 8
    PAUSED = 9
    LEASE_OF_HOST = 10
    USER_CODE = 11
    ADOPTION = 12
    ATTEMPT_NOT_STOPPING = 13
    CHILD_RUN = 14
    JOURNAL_UNREADABLE = 15
    IN_COMMIT = 16
    READING_JOURNAL = 17
    HOST_LAGGING = 18
    HOST_DRAINING = 19
    HOST_AWAY = 20
    NO_BODY_ROOM = 21
    OTHER_UNDO = 22
    ENGINE_FULL = 23
    HOST_CONGESTED = 24


class Wanted(enum.Enum):
    """What a run or step wants of whom it waits for."""

    BODY = "body"
    """A host that takes a body of the named flow."""
    SLOT = "slot"
    """A host with a slot for the named step."""
    SLOT_OF_BODY = "slot_of_body"
    """A slot of the named session, which has the body."""
    MEMORY = "memory"
    """Room in the engine."""


Lack = Callable[[Wanted, str], WaitReason]
"""Why nobody gives what is wanted, by the name that Wanted says."""


class Lacks:
    """Answers `Lack` from the sessions as they are.

    Args:
        sessions: By id.
        full: Whether the engine takes no further runs into memory.
    """

    def __init__(self, sessions: Mapping[str, Session], full: Callable[[], bool]) -> None:
        self._sessions = sessions
        self._full = full

    def __call__(self, wanted: Wanted, name: str) -> WaitReason:
        if wanted is Wanted.MEMORY:
            return WaitReason.ENGINE_FULL if self._full() else WaitReason.READING_JOURNAL
        connected = [session for session in self.serving(wanted, name) if session.connected]
        if not connected:
            return WaitReason.HOST_AWAY if wanted is Wanted.SLOT_OF_BODY else WaitReason.NO_HOST
        staying = [session for session in connected if not session.draining]
        if not staying:
            return WaitReason.HOST_DRAINING
        if all([session.lagging for session in staying]):
            return WaitReason.HOST_LAGGING
        if all([session.lagging or session.congested for session in staying]):
            return WaitReason.HOST_CONGESTED
        return WaitReason.NO_BODY_ROOM if wanted is Wanted.BODY else WaitReason.NO_SLOT

    def serving(self, wanted: Wanted, name: str) -> list[Session]:
        """The sessions that can give it, connected or not."""
        match wanted:
            case Wanted.BODY:
                return [session for session in self._sessions.values() if name in session.flows]
            case Wanted.SLOT:
                return [session for session in self._sessions.values() if name in session.steps]
            case Wanted.SLOT_OF_BODY:
                return [self._sessions[name]] if name in self._sessions else []
            case Wanted.MEMORY:
                return []


_OF_KIND = {
    StepKind.SLEEP: WaitReason.SLEEPING_UNTIL,
    StepKind.WAIT_EVENT: WaitReason.EVENT,
    StepKind.INVOKE: WaitReason.CHILD_RUN,
}
_SERVED_BY_NAME = frozenset({StepKind.TASK, StepKind.CALL})


def run_reason(state: RunState, live: Run | None, now_unix_ms: int, lacks: Lack) -> WaitReason | None:
    """What a run waits for: its body, or else its open step that was planned first. None if it has ended.

    Args:
        live: In memory; None: it is being read. A dormant one has `dormant_reason`.
    """
    if state.terminal:
        return None
    if state is RunState.PAUSED:
        return WaitReason.PAUSED
    if live is None:
        return WaitReason.READING_JOURNAL
    if live.state.terminal:
        return WaitReason.IN_COMMIT
    if live.uncertain:
        return WaitReason.ADOPTION
    match live.phase:
        case RunPhase.CANCELLING:
            return WaitReason.ATTEMPT_NOT_STOPPING if live.leased else WaitReason.IN_COMMIT
        case RunPhase.UNDOING:
            undo = present_undo(live)
            return WaitReason.IN_COMMIT if undo is None else _open_reason(undo, now_unix_ms, lacks)
        case RunPhase.BODY:
            return _body_reason(live, now_unix_ms, lacks)


def dormant_reason(run: Run, now_unix_ms: int, lacks: Lack) -> WaitReason:
    """What a run waits for that is not in memory; `run` is the fold of its journal."""
    first = run.first_open()
    return lacks(Wanted.MEMORY, "") if first is None else _dormant_step_reason(first, now_unix_ms, lacks)


def step_reason(
    step: Step,
    current: Step | None,
    undo: Step | None,
    now_unix_ms: int,
    lacks: Lack,
    state: RunState,
) -> WaitReason | None:
    """Why a step waits; None if nothing is awaited of it any more.

    Args:
        step: As the journal has it.
        current: The same step in memory, if the run is there.
        undo: Of the run in memory, see `present_undo`.
        state: Of the run, as the journal has it.
    """
    if state.terminal:
        return None
    if current is not None and _does_not_stop(current):
        return WaitReason.ATTEMPT_NOT_STOPPING
    if step.state.final:
        waits = not step.released and step.scope.group is not None
        return WaitReason.SIBLING_IN_WAVE if waits else None
    if current is not None and current.state.final:
        return WaitReason.IN_COMMIT
    if state is RunState.PAUSED and (current is None or current.lease is None):
        return WaitReason.PAUSED
    if current is None:
        return _dormant_step_reason(step, now_unix_ms, lacks)
    if current.undo_of is not None and current is not undo:
        return WaitReason.OTHER_UNDO
    return _open_reason(current, now_unix_ms, lacks)


def present_undo(live: Run) -> Step | None:
    """The compensation whose turn it is; the others wait for it."""
    return next((undo for undo in live.undos if not undo.state.final), None)


def _body_reason(live: Run, now_unix_ms: int, lacks: Lack) -> WaitReason:
    first = live.first_open()
    if first is not None and first.kind in PERFORMED:
        return _open_reason(first, now_unix_ms, lacks)
    body = live.body
    if body is None and not live.in_flight:
        lack = lacks(Wanted.BODY, live.flow)
        if first is None or lack is WaitReason.NO_HOST:
            return lack
    if first is not None:
        return _open_reason(first, now_unix_ms, lacks)
    if body is None:
        return WaitReason.IN_COMMIT
    return WaitReason.USER_CODE if body.ready else WaitReason.READING_JOURNAL


def _open_reason(step: Step, now_unix_ms: int, lacks: Lack) -> WaitReason:
    """Why a step in memory has no outcome yet."""
    if step.lease is not None:
        return WaitReason.ATTEMPT_NOT_STOPPING if _does_not_stop(step) else WaitReason.LEASE_OF_HOST
    own = _own_reason(step, now_unix_ms)
    if own is not None:
        return own
    run = step.run
    if step.kind in PERFORMED or step.row > run.committed_seq:
        return WaitReason.IN_COMMIT
    if step.uncertain:
        return WaitReason.ADOPTION
    if step.waits_for_group:
        return WaitReason.GROUP_LIMIT
    if run.in_flight and not step.queued:
        return WaitReason.IN_COMMIT
    if step.kind in _SERVED_BY_NAME:
        return lacks(Wanted.SLOT, step.name)
    if run.body is None:
        return lacks(Wanted.BODY, run.flow)
    return lacks(Wanted.SLOT_OF_BODY, run.body.session_id) if run.body.ready else WaitReason.READING_JOURNAL


def _dormant_step_reason(step: Step, now_unix_ms: int, lacks: Lack) -> WaitReason:
    due_ms = goes_on_ms(step)
    own = None if due_ms is not None and due_ms <= now_unix_ms else _own_reason(step, now_unix_ms)
    return lacks(Wanted.MEMORY, "") if own is None else own


def _own_reason(step: Step, now_unix_ms: int) -> WaitReason | None:
    """What an open step waits for whoever is connected; this much its journal tells, too."""
    if step.state is StepState.BACKOFF and (step.retry_at_ms or 0) > now_unix_ms:
        return WaitReason.BACKOFF_UNTIL
    return _OF_KIND.get(step.kind)


def _does_not_stop(step: Step) -> bool:
    return step.lease is not None and step.lease.cancelled is not None
