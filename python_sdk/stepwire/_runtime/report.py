"""How the branches of a group ended, made into values for user code (MISSION S5).

User code may branch on these values, so each follows from the journal: what a branch that lost had decided and no
plan says, is not in them. This module only reads; it changes nothing of the group.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from stepwire.errors import StepError, failure_from_exception
from stepwire.protocol.plan import BranchOutcome
from stepwire.results import BranchResult, Outcome, StepResult

if TYPE_CHECKING:
    from stepwire._runtime.durable import StepFuture
    from stepwire._runtime.group import GroupRun
    from stepwire._runtime.scope import Scope

_OUTCOMES: dict[BranchOutcome | None, Outcome] = {
    BranchOutcome.OK: "completed",
    BranchOutcome.FAILED: "failed",
    BranchOutcome.CANCELLED: "cancelled",
    None: "cancelled",
}


def branch_result(group: GroupRun, index: int) -> BranchResult[Any]:
    """How branch `index` of a group that is over ended."""
    outcome = group.outcomes[index]
    names = group.opened.names
    steps = _steps(group.scopes[index], lost=outcome is None) if index < len(group.scopes) else ()
    name = names[index] if names else ""
    result = group.results[index]
    return BranchResult(
        index=index,
        name=name or (steps[0].name if steps else ""),
        outcome=_OUTCOMES[outcome],
        value=result if outcome is BranchOutcome.OK else None,
        error=_as_step_error(result, group.scopes[index].path) if outcome is BranchOutcome.FAILED else None,
        steps=steps,
    )


def _as_step_error(error: BaseException, path: str) -> StepError:
    if isinstance(error, StepError):
        return error
    wrapped = StepError(failure_from_exception(error), path)
    wrapped.__cause__ = error
    return wrapped


def _steps(scope: Scope, *, lost: bool) -> tuple[StepResult, ...]:
    journal = scope.body.journal
    return tuple(
        [step_result(step) for step in scope.steps if step.done() and not (lost and journal.is_unsaid(step.path))]
    )


def step_result(step: StepFuture) -> StepResult:
    """How a step that is done ended."""
    body = step.scope.body
    recorded = body.journal.decided_after(step.path)
    started_ms = body.time_after(step.made_after if recorded is None else recorded)
    name = unquote(step.path.rpartition("/")[2].partition("#")[0])
    if step.cancelled():
        return StepResult(
            name=name,
            path=step.path,
            status="cancelled",
            started_at=_at(started_ms),
            ended_at=_at(body.now_ms),
        )
    error = step.exception()
    return StepResult(
        name=name,
        path=step.path,
        status="completed" if error is None else "failed",
        attempts=step.attempts,
        started_at=_at(started_ms),
        ended_at=_at(started_ms + step.took_ms),
        duration=step.took_ms / 1000,
        output=step.result() if error is None else None,
        error=_as_step_error(error, step.path) if error is not None else None,
    )


def _at(unix_ms: int) -> datetime:
    return datetime.fromtimestamp(unix_ms / 1000, UTC)
