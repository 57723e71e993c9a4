"""The output of a declared flow as JSON, and the FlowResult that comes of it (MISSION S9).

The JSON is for people and for other languages, too: names instead of numbers, and each output as plain JSON.
Tracebacks are left out, because many tolerated failures must fit into one output; the record of the run has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from stepwire._declarative.results import (
    FlowGroupResult,
    FlowResult,
    FlowStatus,
    FlowStepResult,
    Stored,
    stored_output,
)
from stepwire._declarative.state import Book, step_names
from stepwire.codec import Codec
from stepwire.errors import error_from_failure
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.payload import JSON, Payload
from stepwire.results import StepStatus

Types = Mapping[str, Any]
"""What each step returns, by its name."""


# ---- to JSON


def output_json(book: Book, left_out: frozenset[str]) -> dict[str, Any]:
    """The output of a run that succeeded.

    Args:
        left_out: Steps whose outputs are not part of it.
    """
    return {
        "name": book.flow,
        "status": "completed",
        "steps": [_step_json(book.step(name), name in left_out) for name in step_names(book.names)],
        "groups": {
            name: {"fail": standing.fail, "steps": list(standing.members)}
            for name, standing in book.names.items()
            if standing.members is not None
        },
    }


def _step_json(step: FlowStepResult, left_out: bool) -> dict[str, Any]:
    stored = stored_output(step)
    return {
        "name": step.name,
        "group": step.group,
        "path": step.path,
        "status": step.status,
        "attempts": step.attempts,
        "started_at": _time_json(step.started_at),
        "ended_at": _time_json(step.ended_at),
        "duration": step.duration,
        **({} if stored is None or left_out else {"output": stored.plain()}),
        **({} if step.error is None else {"error": _failure_json(step.error.failure)}),
    }


def _time_json(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _failure_json(failure: Failure) -> dict[str, Any]:
    return {
        "code": failure.code.slug,
        "type": failure.type,
        "message": failure.message,
        **({} if failure.cause is None else {"cause": _failure_json(failure.cause)}),
    }


# ---- from JSON


class _Failure(msgspec.Struct):
    code: str
    type: str
    message: str
    cause: _Failure | None = None

    def failure(self) -> Failure:
        code = ErrorCode.__members__.get(self.code.upper(), ErrorCode.INTERNAL)
        cause = None if self.cause is None else self.cause.failure()
        return Failure(code, self.type, self.message, cause=cause)


class _Step(msgspec.Struct):
    name: str
    path: str
    status: StepStatus
    group: str = ""
    attempts: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration: float | None = None
    output: Any = msgspec.UNSET
    error: _Failure | None = None


class _Group(msgspec.Struct):
    fail: str
    steps: list[str]


class _Result(msgspec.Struct):
    name: str
    status: FlowStatus
    steps: list[_Step]
    groups: dict[str, _Group]


def result_from_json(payload: Payload, codec: Codec, types: Types) -> FlowResult:
    """The FlowResult that a run returned.

    Args:
        types: A step that is not among them, of another version of the flow, has plain JSON as output.

    Raises:
        InvalidInput: it is not the output of a declared flow.
    """
    told: _Result = codec.decode(payload, _Result)
    steps = {step.name: _step_result(step, types.get(step.name, Any)) for step in told.steps}
    groups = {
        name: FlowGroupResult(name, group.fail, tuple([steps[member] for member in group.steps]))
        for name, group in told.groups.items()
    }
    return FlowResult(name=told.name, status=told.status, steps=tuple(steps.values()), groups=groups)


def _step_result(told: _Step, type: Any) -> FlowStepResult:
    stored = None
    if told.status == "completed":
        left_out = told.output is msgspec.UNSET
        stored = Stored(None if left_out else Payload(msgspec.json.encode(told.output), JSON), type)
    return FlowStepResult(
        name=told.name,
        path=told.path,
        status=told.status,
        group=told.group,
        attempts=told.attempts,
        started_at=told.started_at,
        ended_at=told.ended_at,
        duration=told.duration,
        output=stored,
        error=None if told.error is None else error_from_failure(told.error.failure(), told.path),
    )
