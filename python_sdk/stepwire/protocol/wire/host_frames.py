"""Frames of hosts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from stepwire.protocol import limits
from stepwire.protocol.bounds import cut_text, options_problem
from stepwire.protocol.frames import (
    AttemptInProgress,
    BodyFailed,
    FlowOptions,
    Hello,
    HostFrame,
    HostSection,
    LiveBody,
    LogLine,
    NeedSnapshot,
    Reject,
    Report,
    ResumeState,
    RunLogs,
    Trigger,
)
from stepwire.protocol.plan import RESERVED_PREFIX
from stepwire.protocol.wire.farewells import farewell_from_pb, farewell_to_pb
from stepwire.protocol.wire.payloads import failure_from_pb, failure_to_pb
from stepwire.protocol.wire.plans import plan_from_pb, plan_to_pb
from stepwire.protocol.wire.results import results_from_pb, results_to_pb
from stepwire.protocol.wire.scalars import (
    REJECT_REASONS,
    checked_attempt,
    checked_path,
    checked_run_id,
    duration_from_pb,
    duration_to_pb,
    fence_from_pb,
    fence_to_pb,
    limit_from_pb,
    limit_to_pb,
    undecodable,
)
from stepwire.protocol.wire.transfers import Inbound, Outgoing, Receiver
from stepwire.v1 import host_service_pb2


def encode_host_frame(frame: HostFrame, transfers: Iterator[int] | None = None, *, alike: bool = False) -> list[bytes]:
    """The messages of one frame, to be written in this order; only Reports may be written between them.

    Args:
        transfers: Numbers for transfers, one iterator per stream, for a writer that interleaves the chunks
            of several frames. None: numbers from 1, which are free again after this frame.
        alike: The receiver has FEATURE_ALIKE.
    """
    target = host_service_pb2.HostFrame()
    out = Outgoing(host_service_pb2.HostFrame, transfers, alike=alike)
    target.position = frame.position
    if frame.hello is not None:
        _hello_to_pb(frame.hello, target.hello)
    for section in frame.runs:
        _host_section_to_pb(section, target.runs.add(), out)
    if frame.report is not None:
        _report_to_pb(frame.report, target.report)
    farewell_to_pb(frame, target)
    for logs in frame.logs:
        _logs_to_pb(logs, target.logs.add())
    return out.finish(target)


def _hello_to_pb(hello: Hello, target: Any) -> None:
    target.protocol_min = hello.protocol_min
    target.protocol_max = hello.protocol_max
    target.required_features.extend(hello.required_features)
    target.service = hello.service
    target.instance_id = hello.instance_id
    target.build_id = hello.build_id
    target.sdk_language = hello.sdk_language
    target.sdk_version = hello.sdk_version
    target.flows.extend(hello.flows)
    target.steps.extend(hello.steps)
    target.slots = hello.slots
    target.bodies = hello.bodies
    target.ahead = hello.ahead
    target.features.extend(hello.features)
    for options in hello.flow_options:
        _options_to_pb(options, target.flow_options.add())
    if (resume := hello.resume) is not None:
        target.resume.first_unacked = resume.first_unacked
        target.resume.SetInParent()
        _attempts_to_pb(resume.attempts, target.resume.attempts)
        for body in resume.bodies:
            message = target.resume.bodies.add()
            message.run_id = body.run_id
            fence_to_pb(body.fence, message.fence)
            message.last_release = body.last_release
            message.next_plan_seq = body.next_plan_seq


def _options_to_pb(options: FlowOptions, target: host_service_pb2.FlowOptions) -> None:
    target.flow = options.flow
    target.undo_on_cancel = options.undo_on_cancel
    target.redact_input = options.redact_input
    if options.deadline is not None:
        limit_to_pb(options.deadline, target.deadline)
    for trigger in options.triggers:
        target.triggers.add(event=trigger.event, match=trigger.match)


def _attempts_to_pb(attempts: Iterable[AttemptInProgress], target: Any) -> None:
    for attempt in attempts:
        message = target.add()
        message.run_id = attempt.run_id
        message.path = attempt.path
        message.attempt = attempt.attempt
        fence_to_pb(attempt.fence, message.fence)
        duration_to_pb(attempt.elapsed, message.elapsed)


def _report_to_pb(report: Report, target: host_service_pb2.Report) -> None:
    target.SetInParent()
    target.free_slots = report.free_slots
    target.live_bodies = report.live_bodies
    target.last_engine_frame = report.last_engine_frame
    duration_to_pb(report.loop_lag, target.loop_lag)
    _attempts_to_pb(report.attempts, target.attempts)


def _host_section_to_pb(section: HostSection, target: host_service_pb2.HostSection, out: Outgoing) -> None:
    target.run_id = section.run_id
    for plan in section.plans:
        plan_to_pb(plan, target.plans.add(), out)
    if section.results:
        results_to_pb(section.results, target, out)
    for reject in section.rejects:
        message: Any = target.rejects.add()
        message.path = reject.path
        message.attempt = reject.attempt
        fence_to_pb(reject.fence, message.fence)
        message.reason = reject.reason
    if section.need_snapshot is not None:
        _need_snapshot_to_pb(section.need_snapshot, target.need_snapshot)
    if section.body_failed is not None:
        fence_to_pb(section.body_failed.fence, target.body_failed.fence)
        failure_to_pb(section.body_failed.failure, target.body_failed.failure)


def _need_snapshot_to_pb(needed: NeedSnapshot, target: host_service_pb2.NeedSnapshot) -> None:
    fence_to_pb(needed.fence, target.fence)
    if needed.waits_after is not None:
        target.waits_after = needed.waits_after
    target.no_room = needed.no_room


def _logs_to_pb(logs: RunLogs, target: Any) -> None:
    target.run_id = logs.run_id
    target.dropped = min(logs.dropped, limits.UINT32_MAX)
    for line in logs.lines:
        message = target.lines.add()
        message.path = line.path
        message.attempt = line.attempt
        duration_to_pb(line.age, message.age)
        message.level = min(max(line.level, 0), limits.UINT32_MAX)
        message.logger = cut_text(line.logger, limits.NAME_BYTES_MAX)
        message.message = cut_text(line.message, limits.LOG_MESSAGE_BYTES_MAX)


def _logs_from_pb(value: host_service_pb2.RunLogs) -> RunLogs:
    lines = [
        LogLine(
            checked_path(line.path) if line.path else "",
            line.attempt,
            duration_from_pb(line.age),
            line.level,
            cut_text(line.logger, limits.NAME_BYTES_MAX),
            cut_text(line.message, limits.LOG_MESSAGE_BYTES_MAX),
        )
        for line in value.lines
    ]
    return RunLogs(checked_run_id(value.run_id), tuple(lines), value.dropped)


class HostFrameDecoder:
    """Decodes the messages of one stream of a host, in order of arrival.

    Args:
        payload_bytes_max: Limit of one payload, as in Welcome.
        open_bytes_max: Bytes of open transfers kept for this stream.
    """

    def __init__(
        self,
        payload_bytes_max: int = limits.PAYLOAD_BYTES_MAX,
        open_bytes_max: int = limits.TRANSFER_BYTES_OPEN_MAX,
    ) -> None:
        self._receiver: Receiver[host_service_pb2.HostFrame] = Receiver(
            host_service_pb2.HostFrame, payload_bytes_max, open_bytes_max
        )

    def decode(self, data: bytes) -> HostFrame | None:
        """The frame that takes effect with this message; None for a piece of one.

        Raises:
            WireError: the stream must be closed; the decoder is unusable.
        """
        value = self._receiver.receive(data)
        if value is None:
            return None
        inbound = self._receiver.inbound
        frame = HostFrame(value.position, runs=[_host_section_from_pb(section, inbound) for section in value.runs])
        if value.HasField("hello"):
            frame.hello = _hello_from_pb(value.hello)
        if value.HasField("report"):
            frame.report = _report_from_pb(value.report)
        farewell_from_pb(value, frame)
        if value.logs:
            frame.logs = [_logs_from_pb(logs) for logs in value.logs]
        return frame


def _hello_from_pb(value: host_service_pb2.Hello) -> Hello:
    if not (value.protocol_min and value.protocol_max and all(value.required_features)):
        undecodable("Hello has no protocol_min or protocol_max, or an unset feature")
    if not value.instance_id:
        undecodable("Hello has no instance_id")
    if any(step.startswith(RESERVED_PREFIX) for step in value.steps):
        undecodable(f"Hello serves a step whose name begins with {RESERVED_PREFIX}, which is the engine's")
    return Hello(
        value.service,
        value.instance_id,
        tuple(value.flows),
        tuple(value.steps),
        value.slots,
        value.bodies,
        value.protocol_min,
        value.protocol_max,
        tuple(value.required_features),
        value.build_id,
        value.sdk_language,
        value.sdk_version,
        _resume_from_pb(value.resume) if value.HasField("resume") else None,
        _options_from_pb(value),
        value.ahead,
        tuple(value.features),
    )


def _options_from_pb(hello: host_service_pb2.Hello) -> tuple[FlowOptions, ...]:
    found: dict[str, FlowOptions] = {}
    flows = frozenset(hello.flows)
    for value in hello.flow_options:
        triggers = tuple(Trigger(trigger.event, trigger.match) for trigger in value.triggers)
        deadline = limit_from_pb(value.deadline)
        options = FlowOptions(value.flow, deadline, value.undo_on_cancel, triggers, value.redact_input)
        if (problem := options_problem(options)) is not None:
            undecodable(problem)
        if options.flow in found or options.flow not in flows:
            undecodable(f"Hello has options twice, or of a flow that it does not list: {options.flow[:80]!r}")
        found[options.flow] = options
    return tuple(found.values())


def _resume_from_pb(value: host_service_pb2.ResumeState) -> ResumeState:
    bodies = tuple(
        LiveBody(checked_run_id(body.run_id), fence_from_pb(body.fence), body.last_release, body.next_plan_seq)
        for body in value.bodies
    )
    return ResumeState(bodies, _attempts_from_pb(value.attempts), value.first_unacked)


def _attempts_from_pb(values: Iterable[host_service_pb2.AttemptInProgress]) -> tuple[AttemptInProgress, ...]:
    return tuple(
        [
            AttemptInProgress(
                checked_run_id(value.run_id),
                checked_path(value.path),
                checked_attempt(value.attempt),
                fence_from_pb(value.fence),
                duration_from_pb(value.elapsed),
            )
            for value in values
        ]
    )


def _report_from_pb(value: host_service_pb2.Report) -> Report:
    return Report(
        value.free_slots,
        value.live_bodies,
        duration_from_pb(value.loop_lag),
        value.last_engine_frame,
        _attempts_from_pb(value.attempts),
    )


def _host_section_from_pb(value: host_service_pb2.HostSection, inbound: Inbound) -> HostSection:
    section = HostSection(value.run_id or checked_run_id(""))
    for plan in value.plans:
        section.plans.append(plan_from_pb(plan, inbound))
    if results := value.results:
        section.results = results_from_pb(results, inbound)
    if rejects := value.rejects:
        section.rejects = [_reject_from_pb(reject) for reject in rejects]
    if value.HasField("need_snapshot"):
        section.need_snapshot = _need_snapshot_from_pb(value.need_snapshot)
    if value.HasField("body_failed"):
        body = value.body_failed
        section.body_failed = BodyFailed(fence_from_pb(body.fence), failure_from_pb(body.failure))
    return section


def _need_snapshot_from_pb(value: host_service_pb2.NeedSnapshot) -> NeedSnapshot:
    waits_after = value.waits_after if value.HasField("waits_after") else None
    return NeedSnapshot(fence_from_pb(value.fence), waits_after, value.no_room)


def _reject_from_pb(value: host_service_pb2.Reject) -> Reject:
    return Reject(
        checked_path(value.path),
        checked_attempt(value.attempt),
        fence_from_pb(value.fence),
        REJECT_REASONS[value.reason],
    )
