"""What Stepwire asks OpenTelemetry, if the application uses it (extra `otel`, MISSION V5).

It never imports the package: an application that makes spans has imported it before, and any other one must not pay
for it. Spans are made in `_runtime/traced`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext, Tracer

_API = "opentelemetry.trace"


def configured_tracer() -> Tracer | None:
    """None: the application has not configured a provider of spans by now."""
    api: Any = sys.modules.get(_API)
    if api is None:
        return None
    provider = api.get_tracer_provider()
    if isinstance(provider, (api.ProxyTracerProvider, api.NoOpTracerProvider)):
        return None
    tracer: Tracer = provider.get_tracer("stepwire")
    return tracer


def current_traceparent() -> str:
    """The context of the current span, as W3C says it; empty: there is none."""
    context = _current()
    return "" if context is None else traceparent_of(context)


def current_trace_id() -> str:
    """Trace id of the current span, 32 hexadecimal digits; empty: there is none."""
    context = _current()
    return "" if context is None else f"{context.trace_id:032x}"


def traceparent_of(context: SpanContext) -> str:
    """A span's context as W3C says it."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _current() -> SpanContext | None:
    api: Any = sys.modules.get(_API)
    if api is None:
        return None
    context: SpanContext = api.get_current_span().get_span_context()
    return context if context.is_valid else None
