"""Why a run or a step does not move at this moment, from the run in memory or, for a dormant one, from its journal.

Computed when somebody asks, never stored and never decided upon.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from stepwire.protocol.plan import StepKind
from stepwire_engine.core.entries import RunState
from stepwire_engine.core.model import PERFORMED, Run, RunPhase, Step, StepState

Serves = Callable[[str, str], bool]
"""Whether a connected session serves `("flow" | "step", name)`."""


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


_OF_KIND = {
    StepKind.SLEEP: WaitReason.SLEEPING_UNTIL,
    StepKind.WAIT_EVENT: WaitReason.EVENT,
    StepKind.INVOKE: WaitReason.CHILD_RUN,
}
_SERVED_BY_NAME = frozenset({StepKind.TASK, StepKind.CALL})


def run_reason(state: RunState, live: Run | None, now_unix_ms: int, serves: Serves) -> WaitReason | None:
    """What a run in memory waits for: its body, or else its open step that was planned first."""
    if state is RunState.PAUSED:
        return WaitReason.PAUSED
    if live is None or live.state.terminal:
        return None
    if live.uncertain:
        return WaitReason.ADOPTION
    match live.phase:
        case RunPhase.CANCELLING:
            return WaitReason.ATTEMPT_NOT_STOPPING if live.leased else None
        case RunPhase.UNDOING:
            undo = present_undo(live)
            return None if undo is None else _open_reason(undo, now_unix_ms, serves)
        case RunPhase.BODY:
            return _body_reason(live, now_unix_ms, serves)


def dormant_reason(run: Run, now_unix_ms: int) -> WaitReason | None:
    """What a run waits for that is not in memory; `run` is the fold of its journal."""
    first = next(run.open_steps(), None)
    return None if first is None else _own_reason(first, now_unix_ms)


def step_reason(
    step: Step,
    current: Step | None,
    undo: Step | None,
    now_unix_ms: int,
    serves: Serves,
    state: RunState,
) -> WaitReason | None:
    """Why a step waits.

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
        return None
    if state is RunState.PAUSED and (current is None or current.lease is None):
        return WaitReason.PAUSED
    if current is None:
        return _own_reason(step, now_unix_ms)
    if current.undo_of is not None and current is not undo:
        return None
    return _open_reason(current, now_unix_ms, serves)


def present_undo(live: Run) -> Step | None:
    """The compensation whose turn it is; the others wait for it."""
    return next((undo for undo in live.undos if not undo.state.final), None)


def _body_reason(live: Run, now_unix_ms: int, serves: Serves) -> WaitReason | None:
    first = next(live.open_steps(), None)
    if first is not None and first.kind in PERFORMED:
        return _open_reason(first, now_unix_ms, serves)
    if live.body is None and not serves("flow", live.flow):
        return WaitReason.NO_HOST
    if first is not None:
        return _open_reason(first, now_unix_ms, serves)
    return WaitReason.USER_CODE if live.body is not None else WaitReason.NO_SLOT


def _open_reason(step: Step, now_unix_ms: int, serves: Serves) -> WaitReason | None:
    """Why a step in memory has no outcome yet."""
    if step.lease is not None:
        return WaitReason.ATTEMPT_NOT_STOPPING if _does_not_stop(step) else WaitReason.LEASE_OF_HOST
    own = _own_reason(step, now_unix_ms)
    if own is not None or step.kind in PERFORMED:
        return own
    if step.row > step.run.committed_seq:
        return None  # Its plan is being committed.
    if step.uncertain:
        return WaitReason.ADOPTION
    if step.waits_for_group:
        return WaitReason.GROUP_LIMIT
    by_name = step.kind in _SERVED_BY_NAME
    served = serves("step", step.name) if by_name else serves("flow", step.run.flow)
    return WaitReason.NO_SLOT if served else WaitReason.NO_HOST


def _own_reason(step: Step, now_unix_ms: int) -> WaitReason | None:
    """What an open step waits for whoever is connected; this much its journal tells, too."""
    if step.state is StepState.BACKOFF and (step.retry_at_ms or 0) > now_unix_ms:
        return WaitReason.BACKOFF_UNTIL
    return _OF_KIND.get(step.kind)


def _does_not_stop(step: Step) -> bool:
    return step.lease is not None and step.lease.cancelled is not None
