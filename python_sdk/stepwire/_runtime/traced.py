"""Spans of what runs on this host: flows, groups and steps of a body, and attempts (MISSION V5).

A body makes spans of what it decides for the first time; what is replayed had its span in the life before. The
context of a step's span is part of its plan, so attempts on other hosts and in later lives know their parent.
It decides nothing, and no decision depends on it, whatever the application's provider of spans raises. Only
`tracing.py` may import this module: it needs OpenTelemetry.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from contextvars import Context
from functools import partial
from typing import Any

import msgspec
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
)

from stepwire._replay.journal import Decision, Divergence, Kind
from stepwire._runtime.attempt import RunningAttempt, StepCall
from stepwire._runtime.attempts import Attempts
from stepwire._runtime.body import LiveBody
from stepwire._runtime.body_host import BodyHost
from stepwire._runtime.durable import GroupFuture, StepFuture
from stepwire._runtime.group import GroupRequest
from stepwire._runtime.request import StepRequest
from stepwire._runtime.scope import Scope
from stepwire._runtime.threads import Work
from stepwire._runtime.undo import step_name
from stepwire._tracing import traceparent_of
from stepwire.flow import FlowFunction
from stepwire.protocol import paths
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import Advance, Release, StepOutcome
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded, Fence, GroupEnded, GroupOpened, Plan, StepPlanned, Verdict
from stepwire.protocol.traceparent import derived_traceparent

logger = logging.getLogger("stepwire.host")

LOG_SECONDS = 60.0
"""How often it is logged that the application's provider fails."""
_OUTCOMES = {ErrorCode.TIMEOUT: "timeout", ErrorCode.CANCELLED: "cancelled"}


def traced_makers(tracer: Tracer, service: str) -> tuple[partial[TracedBody], partial[TracedAttempts]]:
    """What makes bodies and attempts with spans of `tracer`."""
    spans = Spans(tracer, service)
    return partial(TracedBody, spans), partial(TracedAttempts, spans)


class Spans:
    """Begins and ends spans. What samplers and processors of the application raise is logged, and harms nobody.

    Args:
        tracer: Makes them.
        service: Name of the host.
    """

    def __init__(self, tracer: Tracer, service: str) -> None:
        self._tracer = tracer
        self._service = service
        self._quiet_until = 0.0

    def begin(
        self,
        name: str,
        above: otel.Context,
        run_id: str,
        flow: str,
        about: Mapping[str, Any],
        link: str = "",
    ) -> Span:
        """A span below that of the context `above`.

        Args:
            about: Attributes, without the prefix.
            link: Context of a span that it has to do with; empty: of none.
        """
        known = {"run_id": run_id, "flow": flow, "host": self._service, **about}
        attributes = {f"stepwire.{what}": value for what, value in known.items()}
        links = [Link(_remote(link))] if link else None
        try:
            return self._tracer.start_span(name, above, attributes=attributes, links=links)
        except Exception:
            self._complain()
            return NonRecordingSpan(trace.get_current_span(above).get_span_context())

    def end(self, span: Span, outcome: str, failure: Failure | None = None, **about: int) -> None:
        """End a span. A failure is an exception event, and an error unless it says that nobody wanted it any more."""
        try:
            if failure is not None:
                outcome = _OUTCOMES.get(failure.code, "failed")
                told = {"type": failure.type, "message": failure.message, "stacktrace": failure.traceback}
                span.add_event("exception", {f"exception.{what}": text for what, text in told.items()})
                if failure.code is not ErrorCode.CANCELLED:
                    span.set_status(Status(StatusCode.ERROR, failure.message))
            span.set_attributes({"stepwire.outcome": outcome, **{f"stepwire.{what}": n for what, n in about.items()}})
            span.end()
        except Exception:
            self._complain()

    def _complain(self) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + LOG_SECONDS
            logger.exception("the provider of spans of host %s failed; its runs go on", self._service)


class TracedBody(LiveBody):
    """A body with a span of its own, and spans for the groups and steps that it plans for the first time."""

    def __init__(
        self, spans: Spans, host: BodyHost, run_id: str, flow: FlowFunction[..., Any], advance: Advance
    ) -> None:
        super().__init__(host, run_id, flow, advance)
        assert advance.start is not None
        self._spans = spans
        self._open: dict[str, Span] = {}
        about: dict[str, str | bool] = {
            "fence": f"{advance.fence.claim_epoch}.{advance.fence.n}",
            "purpose": advance.purpose.name.lower(),
            "replayed": bool(advance.entries),
        }
        above = _under(_remote(advance.start.traceparent or derived_traceparent(run_id)))
        self._span: Span | None = spans.begin(
            f"flow {flow.name}", above, run_id, flow.name, about, _last_step(advance.entries)
        )

    def enter(self, ctx: Any, context: Context) -> None:
        if self._span is not None:
            context.run(_make_current, self._span)
        super().enter(ctx, context)

    # ---- decisions

    def plan_step(self, scope: Scope, name: str, request: StepRequest | StepCall) -> StepFuture:
        future = super().plan_step(scope, name, request)
        span = self._open.get(future.path)
        step = self.steps.get(future.path)
        if span is not None and step is not None:
            step.planned = _with_context(step.planned, span)
        return future

    def open_group(self, scope: Scope, name: str, request: GroupRequest) -> GroupFuture:
        # Its span is made current by `decide`, so that its branches inherit it, and is not any more afterwards.
        token = otel.attach(otel.get_current())
        try:
            return super().open_group(scope, name, request)
        finally:
            otel.detach(token)

    def decide(self, kind: Kind, path: str, decision: Decision) -> bool:
        span = self._begin(kind, path, decision)
        if span is not None and isinstance(decision, StepPlanned):
            decision = _with_context(decision, span)
        if not super().decide(kind, path, decision):
            return False  # A span that nobody ends is told to nobody.
        if span is not None:
            self._open[path] = span
        match decision:
            case GroupOpened() if span is not None:
                _make_current(span)
            case str():
                self._close(path, "abandoned")
            case GroupEnded():
                self._group_ended(path, decision)
            case BodyEnded():
                self._body_ended(decision)
        return True

    def _begin(self, kind: Kind, path: str, decision: Decision) -> Span | None:
        """A span for what is decided now and never was before."""
        if not isinstance(decision, (StepPlanned, GroupOpened)) or self._span is None or self.undoing:
            return None
        # Of a snapshot that is still on its way nobody knows what it says.
        if not self.journal.complete or self.journal.knows(kind, path, decision):
            return None
        about: dict[str, str | int] = {"path": path}
        if isinstance(decision, StepPlanned):
            about["kind"] = decision.kind.name.lower()
            name = f"step {step_name(path)}"
        else:
            about["branches"] = decision.branches
            name = f"group {step_name(path)}"
        above = trace.set_span_in_context(self._around(path), otel.Context())
        return self._spans.begin(name, above, self.run_id, self.flow.name, about)

    def _around(self, path: str) -> Span:
        """The span of the innermost group around `path` that was opened in this life, or the flow's."""
        assert self._span is not None
        above = paths.parent(path)
        while above:
            span = self._open.get(above)
            if span is not None:
                return span
            above = paths.parent(above)
        return self._span

    # ---- ends

    def _release(self, outcome: StepOutcome) -> None:
        if outcome.path in self.steps:
            self._close(outcome.path, "ok", outcome.failure, attempts=outcome.attempts)
        super()._release(outcome)

    def _group_ended(self, path: str, ended: GroupEnded) -> None:
        if ended.losers:
            losers = tuple([f"{paths.branch_path(path, index)}/" for index in ended.losers])
            for inside in [inside for inside in self._open if inside.startswith(losers)]:
                self._close(inside, "cancelled")
        span = self._open.get(path)
        if span is not None and ended.verdict is Verdict.FAILED:
            span.set_status(Status(StatusCode.ERROR, "the group did not reach its verdict"))
        self._close(path, ended.verdict.name.lower())

    def _body_ended(self, ended: BodyEnded) -> None:
        outcome = "cancelled" if ended.cancelled else "restarted" if ended.restart is not None else "ok"
        self._close_all("left")
        if self._span is not None:
            self._spans.end(self._span, outcome, ended.failure)
            self._span = None

    def diverged(self, astray: Divergence) -> None:
        if self._span is not None:
            message = f"expected {astray.expected}, received {astray.received}"
            failure = Failure(ErrorCode.NON_DETERMINISTIC_FLOW, "NonDeterministicFlow", message)
            self._spans.end(self._span, "failed", failure)
            self._span = None
        super().diverged(astray)

    def retire(self) -> None:
        super().retire()
        self._close_all("evicted")
        if self._span is not None:
            self._spans.end(self._span, "evicted")
            self._span = None

    def _close_all(self, outcome: str) -> None:
        for path in list(self._open):
            self._close(path, outcome)

    def _close(self, path: str, outcome: str, failure: Failure | None = None, **about: int) -> None:
        span = self._open.pop(path, None)
        if span is not None:
            self._spans.end(span, outcome, failure, **about)


class TracedAttempts(Attempts):
    """Attempts with a span each, which is the current one while user code runs."""

    def __init__(self, spans: Spans, *args: Any) -> None:
        super().__init__(*args)
        self._spans = spans
        self._open: dict[tuple[str, str], Span] = {}

    def start(
        self,
        run_id: str,
        path: str,
        attempt: int,
        fence: Fence,
        call: StepCall,
        context: Context,
        timeout: float | None,
        flow: str = "",
        traceparent: str = "",
    ) -> None:
        context = self._spanned(run_id, path, attempt, call, context, flow, traceparent)
        super().start(run_id, path, attempt, fence, call, context, timeout, flow, traceparent)

    def continued(self, running: RunningAttempt, call: StepCall, context: Context, traceparent: str) -> Work:
        context = self._spanned(running.run_id, running.path, running.attempt, call, context, running.flow, traceparent)
        return super().continued(running, call, context, traceparent)

    def _spanned(
        self, run_id: str, path: str, attempt: int, call: StepCall, context: Context, flow: str, traceparent: str
    ) -> Context:
        what = "attempt" if paths.undone_path(path) is None else "undo"
        above = _under(_remote(traceparent or derived_traceparent(run_id)))
        about: dict[str, str | int] = {"path": path, "attempt": attempt, "kind": call.kind.name.lower()}
        span = self._open[run_id, path] = self._spans.begin(f"{what} {step_name(path)}", above, run_id, flow, about)
        context = context.copy()  # It may be that of the host, or of the body.
        context.run(_make_current, span)
        return context

    def _hand_over(self, running: RunningAttempt, output: Payload | None, failure: Failure | None, value: Any) -> None:
        # First: once the outcome is handed over, the next attempt may begin.
        span = self._open.pop((running.run_id, running.path), None)
        if span is not None:
            self._spans.end(span, "ok", failure)
        super()._hand_over(running, output, failure, value)


def _make_current(span: Span) -> None:
    """For the rest of the context that it is called in."""
    otel.attach(trace.set_span_in_context(span))


def _with_context(planned: StepPlanned, span: Span) -> StepPlanned:
    return msgspec.structs.replace(planned, traceparent=traceparent_of(span.get_span_context()))


def _remote(traceparent: str) -> SpanContext:
    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def _under(parent: SpanContext) -> otel.Context:
    return trace.set_span_in_context(NonRecordingSpan(parent), otel.Context())


def _last_step(entries: Iterable[Plan | Release]) -> str:
    """The context of the last step that a life before planned; empty: none has one."""
    plans = [entry for entry in entries if isinstance(entry, Plan)]
    steps = (step for plan in reversed(plans) for step in reversed(plan.steps))
    return next((step.traceparent for step in steps if step.traceparent), "")
