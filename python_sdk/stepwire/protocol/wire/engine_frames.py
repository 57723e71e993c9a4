"""Frames of engines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from stepwire.protocol import limits, paths
from stepwire.protocol.bounds import spec_problem
from stepwire.protocol.frames import (
    Advance,
    BodyStart,
    Cancel,
    EngineFrame,
    EngineSection,
    Execute,
    Release,
    StepOutcome,
    Welcome,
)
from stepwire.protocol.plan import Plan, StepKind
from stepwire.protocol.wire.alike import outcomes_alike, told
from stepwire.protocol.wire.farewells import farewell_from_pb, farewell_to_pb
from stepwire.protocol.wire.payloads import failure_to_pb
from stepwire.protocol.wire.plans import (
    only_failure,
    plan_from_pb,
    plan_to_pb,
    retry_policy_from_pb,
    retry_policy_to_pb,
)
from stepwire.protocol.wire.scalars import (
    CANCEL_REASONS,
    KINDS,
    PURPOSES,
    check_paths,
    checked_attempt,
    checked_run_id,
    duration_from_pb,
    duration_to_pb,
    fence_from_pb,
    fence_to_pb,
    limit_from_pb,
    limit_to_pb,
    timestamp_from_pb,
    timestamp_to_pb,
    traceparent_from_pb,
    undecodable,
)
from stepwire.protocol.wire.specs import call_from_pb, call_to_pb, undo_input_from_pb, undo_input_to_pb
from stepwire.protocol.wire.transfers import Inbound, Outgoing, Receiver
from stepwire.v1 import host_service_pb2

_TASK = StepKind.TASK


def encode_engine_frame(
    frame: EngineFrame, transfers: Iterator[int] | None = None, *, alike: bool = False
) -> list[bytes]:
    """The messages of one frame, to be written in this order without others between them.

    Args:
        transfers, alike: As for `encode_host_frame`.
    """
    target = host_service_pb2.EngineFrame()
    target.number = frame.number
    target.acked_position = frame.acked_position
    if frame.welcome is not None:
        _welcome_to_pb(frame.welcome, target.welcome)
    if frame.drain is not None or frame.goodbye is not None or frame.fault is not None:
        farewell_to_pb(frame, target)
    if not frame.runs:
        return [target.SerializeToString()]  # An ack, mostly: far from what a message may have.
    out = Outgoing(host_service_pb2.EngineFrame, transfers, alike=alike)
    add: Any = target.runs.add
    for section in frame.runs:
        _engine_section_to_pb(section, add(), out)
    return out.finish(target)


def _welcome_to_pb(welcome: Welcome, target: Any) -> None:
    target.protocol = welcome.protocol
    target.features.extend(welcome.features)
    target.session_id = welcome.session_id
    duration_to_pb(welcome.heartbeat_interval, target.heartbeat_interval)
    duration_to_pb(welcome.session_ttl, target.session_ttl)
    target.payload_bytes_max = welcome.payload_bytes_max
    target.steps_per_run_max = welcome.steps_per_run_max
    target.branches_per_group_max = welcome.branches_per_group_max
    target.group_depth_max = welcome.group_depth_max
    retry_policy_to_pb(welcome.default_retry, target.default_retry)
    target.peers.extend(welcome.peers)
    target.engine_version = welcome.engine_version


def _engine_section_to_pb(section: EngineSection, target: host_service_pb2.EngineSection, out: Outgoing) -> None:
    target.run_id = section.run_id
    if section.continued is not None:
        fence_to_pb(section.continued, target.continue_body.fence)
    if section.advance is not None:
        _advance_to_pb(section.advance, target.advance, out)
    if section.executes:
        _executes_to_pb(section.executes, target, out)
    if section.cancels:
        _cancels_to_pb(section.cancels, target)
    if section.evict is not None:
        fence_to_pb(section.evict, target.evict.fence)


def _cancels_to_pb(cancels: Iterable[Cancel], target: host_service_pb2.EngineSection) -> None:
    add: Any = target.cancels.add
    for cancel in cancels:
        message = add()
        message.path = cancel.path
        fence_to_pb(cancel.fence, message.fence)
        message.reason = cancel.reason
        duration_to_pb(cancel.grace, message.grace)


def _advance_to_pb(advance: Advance, target: Any, out: Outgoing) -> None:
    fence_to_pb(advance.fence, target.fence)
    target.purpose = advance.purpose
    if advance.hold:
        target.hold = True
    if advance.more:
        target.more = True
    if (start := advance.start) is not None:
        target.start.flow = start.flow
        out.payload(start.input, target.start.input)
        target.start.seed = start.seed
        timestamp_to_pb(start.created_at_ms, target.start.created_at)
        target.start.traceparent = start.traceparent
    for entry in advance.entries:
        message = target.entries.add()
        if isinstance(entry, Release):
            _release_to_pb(entry, message.release, out)
        else:
            plan_to_pb(entry, message.plan, out)


def _release_to_pb(release: Release, target: host_service_pb2.Release, out: Outgoing) -> None:
    target.release_seq = release.release_seq
    timestamp_to_pb(release.released_at_ms, target.released_at)
    add, put = target.outcomes.add, out.payload
    for outcome, like in told(release.outcomes, outcomes_alike, alike=out.alike):
        message = add()
        if like:
            _like_outcome_to_pb(like, message.alike)
        message.path = outcome.path
        if outcome.held:
            message.held = True
        if outcome.output is not None:
            put(outcome.output, message.output)
        if outcome.failure is not None:
            failure_to_pb(outcome.failure, message.failure)
        if outcome.attempts != 1:
            message.attempts = outcome.attempts
        if outcome.took_ms > 0:  # the engine's clock may have been set back
            message.took_ms = min(outcome.took_ms, limits.UINT32_MAX)


def _like_outcome_to_pb(outcomes: Sequence[StepOutcome], target: host_service_pb2.OutcomesAlike) -> None:
    target.paths.extend([outcome.path for outcome in outcomes])
    took = [outcome.took_ms for outcome in outcomes]
    if min(took) < 0 or max(took) > limits.UINT32_MAX:  # the engine's clock may have been set back
        took = [min(max(ms, 0), limits.UINT32_MAX) for ms in took]
    target.took_ms.extend(took)


def _executes_to_pb(executes: Iterable[Execute], target: host_service_pb2.EngineSection, out: Outgoing) -> None:
    add: Any = target.executes.add
    for execute in executes:
        message = add()
        message.path = execute.path
        message.attempt = execute.attempt
        fence_to_pb(execute.fence, message.fence)
        message.kind = execute.kind
        if execute.name:
            message.name = execute.name
        if execute.input is not None:
            out.payload(execute.input, message.input)
        if execute.timeout is not None:
            limit_to_pb(execute.timeout, message.timeout)
        if execute.flow:
            message.flow = execute.flow
        if execute.call is not None:
            call_to_pb(execute.call, message.call, out.payload)
        if execute.undo is not None:
            undo_input_to_pb(execute.undo, message.undo, out.payload)
        if execute.traceparent:
            message.traceparent = execute.traceparent


class EngineFrameDecoder:
    """Decodes the messages of one stream of an engine, in order of arrival.

    Args:
        payload_bytes_max: Limit of one payload, as in Welcome.
        open_bytes_max: Bytes of open transfers kept for this stream.
    """

    def __init__(
        self,
        payload_bytes_max: int = limits.PAYLOAD_BYTES_MAX,
        open_bytes_max: int = limits.TRANSFER_BYTES_OPEN_MAX,
    ) -> None:
        self._receiver: Receiver[host_service_pb2.EngineFrame] = Receiver(
            host_service_pb2.EngineFrame, payload_bytes_max, open_bytes_max
        )

    def decode(self, data: bytes) -> EngineFrame | None:
        """The frame that takes effect with this message; None for a piece of one.

        Raises:
            WireError: the stream must be closed; the decoder is unusable.
        """
        value = self._receiver.receive(data)
        if value is None:
            return None
        inbound = self._receiver.inbound
        runs = [_engine_section_from_pb(section, inbound) for section in value.runs]
        frame = EngineFrame(value.number, acked_position=value.acked_position, runs=runs)
        if value.HasField("welcome"):
            frame.welcome = _welcome_from_pb(value.welcome)
        farewell_from_pb(value, frame)
        return frame


def _welcome_from_pb(value: host_service_pb2.Welcome) -> Welcome:
    if not (value.protocol and all(value.features)):
        undecodable("Welcome has no protocol, or an unset feature")
    return Welcome(
        value.session_id,
        value.protocol,
        tuple(value.features),
        duration_from_pb(value.heartbeat_interval),
        duration_from_pb(value.session_ttl),
        value.payload_bytes_max,
        value.steps_per_run_max,
        value.branches_per_group_max,
        value.group_depth_max,
        retry_policy_from_pb(value.default_retry),
        tuple(value.peers),
        value.engine_version,
    )


def _engine_section_from_pb(value: host_service_pb2.EngineSection, inbound: Inbound) -> EngineSection:
    has = value.HasField
    section = EngineSection(checked_run_id(value.run_id))
    if has("advance"):
        section.advance = _advance_from_pb(value.advance, inbound)
    if executes := value.executes:
        section.executes = _executes_from_pb(executes, inbound)
    if cancels := value.cancels:
        section.cancels = [
            Cancel(item.path, fence_from_pb(item.fence), CANCEL_REASONS[item.reason], duration_from_pb(item.grace))
            for item in cancels
        ]
    if has("continue_body"):
        section.continued = fence_from_pb(value.continue_body.fence)
    if has("evict"):
        section.evict = fence_from_pb(value.evict.fence)
    return section


def _advance_from_pb(value: host_service_pb2.Advance, inbound: Inbound) -> Advance:
    return Advance(
        fence_from_pb(value.fence),
        tuple([_entry_from_pb(entry, inbound) for entry in value.entries]),
        _start_from_pb(value.start, inbound) if value.HasField("start") else None,
        value.hold,
        value.more,
        PURPOSES[value.purpose],
    )


def _start_from_pb(value: host_service_pb2.BodyStart, inbound: Inbound) -> BodyStart:
    if not (value.flow and value.HasField("input")):
        undecodable("the start of a body has no flow or no input")
    return BodyStart(
        value.flow,
        inbound.payload(value.input),
        value.seed,
        timestamp_from_pb(value.created_at),
        traceparent_from_pb(value.traceparent),
    )


def _entry_from_pb(value: host_service_pb2.Entry, inbound: Inbound) -> Plan | Release:
    match value.WhichOneof("entry"):
        case "plan":
            return plan_from_pb(value.plan, inbound)
        case "release":
            return _release_from_pb(value.release, inbound)
        case _:
            undecodable("an entry is neither plan nor release")


def _release_from_pb(value: host_service_pb2.Release, inbound: Inbound) -> Release:
    if not value.release_seq:
        undecodable("a release has no release_seq")
    return Release(value.release_seq, timestamp_from_pb(value.released_at), _outcomes_from_pb(value.outcomes, inbound))


def _outcomes_from_pb(values: Iterable[host_service_pb2.StepOutcome], inbound: Inbound) -> tuple[StepOutcome, ...]:
    take, outcomes = inbound.payload, []
    for value in values:
        has = value.HasField
        output = failure = None
        held = value.held
        if has("failure"):
            failure = only_failure(value, "an outcome")
        elif has("output"):
            output = take(value.output)
        elif not held:
            undecodable("an outcome has neither output nor failure")
        if held and (output is not None or failure is not None):
            undecodable("a held outcome has an output or a failure")
        attempts = value.attempts or 1
        outcomes.append(StepOutcome(value.path, output, failure, held, attempts, value.took_ms))
        if has("alike"):
            if not held:
                undecodable("an outcome that others are like is not held")
            outcomes.extend(_like_outcome(attempts, value.alike))
    check_paths([outcome.path for outcome in outcomes])
    return tuple(outcomes)


def _like_outcome(attempts: int, value: host_service_pb2.OutcomesAlike) -> list[StepOutcome]:
    paths, took = value.paths, value.took_ms
    if len(paths) != len(took):
        undecodable(f"outcomes alike are {len(paths)} paths and {len(took)} times")
    return [StepOutcome(path, None, None, True, attempts, ms) for path, ms in zip(paths, took, strict=True)]


def _executes_from_pb(values: Iterable[host_service_pb2.Execute], inbound: Inbound) -> list[Execute]:
    kinds, executes = KINDS, []
    for value in values:
        has = value.HasField
        path, kind, undo, traceparent = value.path, kinds[value.kind], has("undo"), value.traceparent
        execute = Execute(
            path,
            value.attempt or checked_attempt(0),
            fence_from_pb(value.fence),
            kind,
            value.name,
            inbound.payload(value.input) if has("input") else None,
            limit_from_pb(value.timeout) if has("timeout") else None,
            value.flow,
            call_from_pb(value.call, inbound.payload) if has("call") else None,
            undo_input_from_pb(value.undo, inbound.payload) if undo else None,
            traceparent and traceparent_from_pb(traceparent),
        )
        if kind > _TASK or execute.call is not None:
            _check_call(execute)
        if undo != path.endswith(paths.UNDO_SUFFIX):
            undecodable("an attempt at a path that ends with #undo is an undo, and no other is")
        executes.append(execute)
    check_paths([execute.path for execute in executes])
    return executes


def _check_call(execute: Execute) -> None:
    if execute.call is None:
        undecodable(f"an attempt of kind {execute.kind.name} has no request, or is none that a host executes")
    if execute.kind is not StepKind.CALL:
        undecodable(f"an attempt of kind {execute.kind.name} has a request")
    if (problem := spec_problem(execute.call)) is not None:
        undecodable(problem)
