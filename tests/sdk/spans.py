"""Spans that a test can look at: a provider in memory, for the hosts that start while a fixture holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler


class Spans:
    """Every span that ended, in this order."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def all(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        found = self.named(name)
        assert len(found) == 1, f"{len(found)} spans {name!r} of {self.names}"
        return found[0]

    @property
    def names(self) -> list[str]:
        return sorted(span.name for span in self.all)

    @property
    def traces(self) -> set[str]:
        return {trace_id(span) for span in self.all}


def trace_id(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def span_id(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


def traceparent(span: ReadableSpan) -> str:
    return f"00-{trace_id(span)}-{span_id(span)}-{span.context.trace_flags:02x}"


def parent_id(span: ReadableSpan) -> str:
    return "" if span.parent is None else f"{span.parent.span_id:016x}"


def about(span: ReadableSpan) -> Mapping[str, Any]:
    """Its attributes, without the prefix."""
    return {name.removeprefix("stepwire."): value for name, value in (span.attributes or {}).items()}


@contextmanager
def provided(provider: TracerProvider | None) -> Iterator[None]:
    """The application has configured this provider; None: none."""
    with pytest.MonkeyPatch.context() as patch:
        # The package lets a provider be set once per process, and tests share one.
        patch.setattr(trace, "_TRACER_PROVIDER", provider)
        yield


@contextmanager
def recorded() -> Iterator[Spans]:
    """Spans of everything that starts meanwhile."""
    spans = Spans()
    with provided(spans.provider):
        yield spans
