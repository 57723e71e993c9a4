"""Records of runs as protobuf messages, kept below the size that clients receive.

A run's own output always fits. What does not, in this order, is left out and can be told from its absence:
outputs of steps over 64 KiB, and, once 65 MiB are full, inputs, other outputs, tracebacks and causes.

Records are for human eyes: of a redacted payload they say how long it is (MISSION V7). The one exception is a run's
own output, for a program that awaits it and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from stepwire.protocol import limits
from stepwire.protocol.failure import Failure
from stepwire.protocol.payload import JSON, Payload
from stepwire.protocol.plan import StepKind
from stepwire.protocol.wire import duration_to_pb, failure_to_pb, payload_to_pb, timestamp_to_pb
from stepwire.v1 import failure_pb2, payload_pb2, run_pb2, run_service_pb2
from stepwire_engine.core.explanation import ExplanationView, HolderView, OpenStepView
from stepwire_engine.core.history import AttemptView, GroupView, RunView, StepView
from stepwire_engine.core.reasons import WaitReason
from stepwire_engine.store.base import LogRow, RunRecord

_MIB = 1024 * 1024
ANSWER_BYTES_MAX = 66 * _MIB
"""Largest message of RunService; clients receive at least this much."""
STEP_OUTPUT_BYTES_MAX = limits.INLINE_BYTES_MAX
"""Outputs of steps over this are not part of a record."""
_CONTENT_BYTES_MAX = 65 * _MIB
_SET_COOKIE = "set-cookie"


class _Room:
    """What is left of a message for payloads and failures, in bytes."""

    def __init__(self) -> None:
        self._left = _CONTENT_BYTES_MAX

    def takes(self, size: int) -> bool:
        fits = size <= self._left
        if fits:
            self._left -= size
        return fits


def ends_to_pb(views: Sequence[RunView], *, reveal_output: bool) -> run_service_pb2.AwaitResponse:
    """Runs that have ended, in a message; together they are not much longer than one of them may be."""
    answer = run_service_pb2.AwaitResponse()
    for view in views:
        run_to_pb(view, answer.runs.add(), reveal_output=reveal_output, with_input=False)
    return answer


def run_to_pb(view: RunView, target: run_pb2.Run, *, reveal_output: bool = False, with_input: bool = True) -> None:
    """Fill `target`; with `reveal_output` the run's own output stands there although it is redacted."""
    message: Any = target  # the stubs want their own enum classes, the runtime takes any int
    room = _Room()
    message.run_id = view.run_id
    message.flow = view.flow
    message.state = view.state
    message.id = view.id
    message.reason = view.reason or 0
    message.phase = view.phase or 0
    message.parent_run_id = view.parent_run_id
    message.successor_run_id = view.successor_run_id
    timestamp_to_pb(view.created_at_ms, target.created_at)
    if view.ended_at_ms is not None:
        timestamp_to_pb(view.ended_at_ms, target.ended_at)
    if view.output is not None:
        _payload_to_pb(view.output, target.output, room, reveal=reveal_output)
    if view.failure is not None:
        _failure_to_pb(view.failure, target.failure, room)
    if view.stopping is not None:
        _failure_to_pb(view.stopping, target.stopping, room)
    if with_input:
        _payload_to_pb(view.input, target.input, room)
    for name in view.stats.__struct_fields__:
        setattr(target.stats, name, getattr(view.stats, name))
    for step in view.steps:
        _step_to_pb(step, message.steps.add(), room)
    for group in view.groups:
        _group_to_pb(group, message.groups.add())


def _group_to_pb(group: GroupView, message: Any) -> None:
    message.path = group.path
    message.mode = group.mode
    message.branches = group.branches
    message.verdict = group.verdict or 0
    message.fail = group.fail
    message.quorum = group.quorum
    message.cancel_siblings = group.cancel_siblings
    message.limit = group.limit
    message.names.extend(group.names)
    message.outcomes.extend(outcome or 0 for outcome in group.outcomes)
    message.expired = group.expired


def record_to_pb(record: RunRecord, target: run_pb2.Run, reason: WaitReason | None = None) -> None:
    """Fill `target` with a line of a listing: no payloads, no steps."""
    message: Any = target
    message.reason = reason or 0
    message.run_id = record.run_id
    message.flow = record.flow
    message.state = record.state
    message.id = record.id
    timestamp_to_pb(record.created_at_ms, target.created_at)
    if record.ended_at_ms is not None:
        timestamp_to_pb(record.ended_at_ms, target.ended_at)


def explanation_to_pb(explanation: ExplanationView, target: run_service_pb2.ExplainResponse) -> None:
    """Fill `target`."""
    message: Any = target
    run_to_pb(explanation.run, target.run)
    timestamp_to_pb(explanation.at_ms, target.at)
    if explanation.body is not None:
        _holder_to_pb(explanation.body, target.body)
    for step in explanation.open_steps:
        _open_step_to_pb(step, message.open_steps.add())
    message.open_steps_count = explanation.open_steps_count
    for service in explanation.services:
        added = message.services.add()
        for name in ("service", "hosts", "serving_flow", "busy", "slots", "lagging", "draining"):
            setattr(added, name, getattr(service, name))
        added.serving_steps.extend(service.serving_steps)


def _holder_to_pb(holder: HolderView, target: run_pb2.Holder) -> None:
    target.SetInParent()
    for name in ("service", "instance_id", "attempt", "connected", "stopping"):
        setattr(target, name, getattr(holder, name))
    if holder.since_ms is not None:
        timestamp_to_pb(holder.since_ms, target.since)


def _open_step_to_pb(step: OpenStepView, message: Any) -> None:
    view = step.view
    message.path = view.path
    message.kind = view.kind
    message.name = view.name
    message.reason = view.reason or 0
    timestamp_to_pb(view.planned_at_ms, message.planned_at)
    if view.due_at_ms is not None:
        timestamp_to_pb(view.due_at_ms, message.due_at)
    message.attempt = step.attempt
    message.lost = view.lost
    if step.holder is not None:
        _holder_to_pb(step.holder, message.holder)
    message.match = step.match
    message.child_run_id = view.child_run_id
    message.group = step.group
    message.group_limit = step.group_limit
    message.group_holders.extend(step.group_holders)


def _step_to_pb(step: StepView, message: Any, room: _Room) -> None:
    message.path = step.path
    message.kind = step.kind
    message.name = step.name
    message.state = step.state
    message.reason = step.reason or 0
    message.lost = step.lost
    message.undoes = step.undoes
    message.child_run_id = step.child_run_id
    timestamp_to_pb(step.planned_at_ms, message.planned_at)
    if step.ended_at_ms is not None:
        timestamp_to_pb(step.ended_at_ms, message.ended_at)
    if step.released_at_ms is not None:
        timestamp_to_pb(step.released_at_ms, message.released_at)
    if step.due_at_ms is not None:
        timestamp_to_pb(step.due_at_ms, message.due_at)
    for attempt in step.attempts:
        _attempt_to_pb(attempt, message.attempts.add(), room)
    if step.output is not None and (step.output.redacted or len(step.output.data) <= STEP_OUTPUT_BYTES_MAX):
        shown = _without_cookies(step.output) if step.kind is StepKind.CALL else step.output
        _payload_to_pb(shown, message.output, room)


def _attempt_to_pb(attempt: AttemptView, message: Any, room: _Room) -> None:
    message.number = attempt.number
    message.host = attempt.host
    message.elapsed.SetInParent()
    duration_to_pb(attempt.elapsed, message.elapsed)
    timestamp_to_pb(attempt.ended_at_ms, message.ended_at)
    if attempt.failure is not None:
        _failure_to_pb(attempt.failure, message.failure, room)


def _payload_to_pb(payload: Payload, target: payload_pb2.Payload, room: _Room, *, reveal: bool = False) -> None:
    if payload.redacted and not reveal:
        target.redacted = True
        target.redacted_bytes = len(payload.data)
        target.encoding = "" if payload.encoding == JSON else payload.encoding
    elif room.takes(len(payload.data)):
        payload_to_pb(payload, target)


def _without_cookies(answer: Payload) -> Payload:
    """The output of a call, which this engine wrote, without what a server gives to be recognized by."""
    if answer.redacted or answer.encoding != JSON or _SET_COOKIE.encode() not in answer.data:
        return answer
    told = msgspec.json.decode(answer.data)
    if _SET_COOKIE in told["headers"]:
        told["headers"][_SET_COOKIE] = "(redacted)"
    return Payload(msgspec.json.encode(told))


def _failure_to_pb(failure: Failure, target: failure_pb2.Failure, room: _Room) -> None:
    failure_to_pb(failure, target)
    if not room.takes(target.ByteSize()):
        target.ClearField("traceback")
        target.ClearField("cause")


def log_to_pb(line: LogRow, target: run_service_pb2.LogRecord) -> None:
    """A log line as it is kept."""
    target.number = line.number
    timestamp_to_pb(line.at_ms, target.at)
    target.path = line.path
    target.attempt = line.attempt
    target.level = line.level
    target.logger = line.logger
    target.message = line.message
    target.host = line.host
