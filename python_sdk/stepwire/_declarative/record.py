"""FlowResults from the records of runs: also of those that failed or were cancelled (MISSION S5).

A declared flow decides alone where its steps stand, so their paths say which is which. This module only reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwire._declarative.results import (
    FlowGroupResult,
    FlowResult,
    FlowStatus,
    FlowStepResult,
    Stored,
    UndoStatus,
)
from stepwire._declarative.state import Names, step_names
from stepwire._transport.run_record import Run, RunState, StepRecord, StepState
from stepwire.errors import RunError, error_from_failure
from stepwire.protocol import paths
from stepwire.results import StepStatus

_FLOW_STATUS: dict[RunState, FlowStatus] = {
    RunState.SUCCEEDED: "completed",
    RunState.FAILED: "failed",
    RunState.CANCELLED: "cancelled",
}
_STEP_STATUS: dict[StepState, UndoStatus] = {StepState.SUCCEEDED: "completed", StepState.FAILED: "failed"}
"""Others were given up with their run or branch."""


def result_of_run(run: Run, names: Names, types: Mapping[str, Any]) -> FlowResult:
    """The FlowResult of a run that ended.

    Raises:
        RunError: it has not.
    """
    status = _FLOW_STATUS.get(run.state)
    if status is None:
        raise RunError(f"run {run.run_id} has not ended: it is {run.state}", hint="wait for it: `await run.result()`")
    record = _Record(run, names, types)
    steps = {name: record.step(name) for name in step_names(names)}
    groups = {
        name: FlowGroupResult(name, standing.fail, tuple([steps[member] for member in standing.members]))
        for name, standing in names.items()
        if standing.members is not None
    }
    return FlowResult(name=run.flow, status=status, steps=tuple(steps.values()), groups=groups, failure=run.failure)


class _Record:
    """A run, by the names of its flow."""

    def __init__(self, run: Run, names: Names, types: Mapping[str, Any]) -> None:
        self._names = names
        self._types = types
        self._steps = {step.path: step for step in run.steps}
        self._undos = {step.undoes: step for step in run.steps if step.undoes}
        self._outcomes = {group.path: group.outcomes for group in run.groups}

    def step(self, name: str) -> FlowStepResult:
        path = self._path(name)
        group = self._names[name].group
        step = self._steps.get(path)
        if step is None:
            return FlowStepResult(name=name, path=path, status=self._unplanned(name), group=group)
        status = _STEP_STATUS.get(step.state, "cancelled")
        failure = step.attempts[-1].failure if status == "failed" and step.attempts else None
        started, ended = step.planned_at, step.ended_at
        return FlowStepResult(
            name=name,
            path=path,
            status=status,
            group=group,
            attempts=len(step.attempts),
            started_at=started,
            ended_at=ended,
            duration=(ended - started).total_seconds() if started is not None and ended is not None else None,
            output=Stored(step.output_payload, self._types[name], step.codec) if status == "completed" else None,
            error=None if failure is None else error_from_failure(failure, path),
            undo=self._undo(path),
        )

    def _path(self, name: str) -> str:
        """Names are unique in a declared flow, so nothing is a second occurrence."""
        standing = self._names[name]
        scope = paths.branch_path(paths.encode_key(standing.group), standing.index) if standing.group else paths.ROOT
        return paths.join(scope, paths.encode_key(name))

    def _unplanned(self, name: str) -> StepStatus:
        """A step that was never planned: the flow did not come to it, or its branch ended before it did."""
        standing = self._names[name]
        outcomes = self._outcomes.get(paths.encode_key(standing.group)) if standing.group else None
        if outcomes is None:
            return "skipped"
        outcome = outcomes[standing.index] if standing.index < len(outcomes) else None
        return "failed" if outcome == "FAILED" else "cancelled"

    def _undo(self, path: str) -> UndoStatus | None:
        undo: StepRecord | None = self._undos.get(path)
        return None if undo is None else _STEP_STATUS.get(undo.state, "cancelled")
