"""A host that writes its spans into a file, a line each. Runs as `stepwire host tests.e2e.traced_flows:host`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

import stepwire
from stepwire import Context
from tests.e2e.bodies import enter, gated, told
from tests.e2e.ledger import HOST_ENV

SPANS_ENV = "E2E_SPANS"


class FileExporter(SpanExporter):
    """Appends to a file that several processes share."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            told = {
                "name": span.name,
                "trace": f"{span.context.trace_id:032x}",
                "span": f"{span.context.span_id:016x}",
                "parent": "" if span.parent is None else f"{span.parent.span_id:016x}",
                "links": [f"{link.context.span_id:016x}" for link in span.links],
                **(span.attributes or {}),
            }
            os.write(self._file, json.dumps(told).encode() + b"\n")
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(FileExporter(os.environ[SPANS_ENV])))
trace.set_tracer_provider(provider)
host = stepwire.Host(os.environ[HOST_ENV])


@host.step
async def task(value: int) -> int:
    """May run on any host."""
    return int(told(value))


@host.flow
async def double(ctx: Context, value: int) -> int:
    """Invoked by `traced`."""
    return await ctx.step.run("double", told, 2 * value)


@host.flow
async def traced(ctx: Context) -> int:
    """A step, a group of one that waits at its gate and of registered ones, and a child."""
    enter(ctx)
    first = await ctx.step.run("first", told, 1)
    held, *others = await ctx.group.parallel(
        [lambda: ctx.step.run("held", gated, 2), *[lambda i=i: ctx.step.run("task", task, i) for i in range(4)]],
        name="work",
    )
    return int(first + held + sum(others) + await ctx.step.invoke("child", double, 5))
