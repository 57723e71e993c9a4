"""Map and reduce: a step per chunk of a text, a few at a time, then one that needs all of them in order.

stepwire dev examples/flows/summarize.py:host
stepwire run summarize --input '"one. two. three."'
"""

from __future__ import annotations

import stepwire

host = stepwire.Host("summarize")

AT_ONCE = 4
INPUT = "Steps are durable. Groups are concurrent. Results come in order. Nothing is lost. Everything is seen."


def summarize_chunk(chunk: str) -> str:
    """Stands for a call to a model."""
    return chunk.split()[0].lower()


def join(summaries: list[str]) -> str:
    """The summary of the summaries."""
    return ", ".join(summaries)


@host.flow
async def summarize(ctx: stepwire.Context, text: str) -> str:
    """Each chunk is retried by itself; the results come in the order of the chunks."""
    chunks = [chunk.strip() for chunk in text.split(".") if chunk.strip()]
    summaries = await ctx.group.map("summarize-chunk-{i}", summarize_chunk, chunks, limit=AT_ONCE)
    return await ctx.step.run("summarize-summaries", join, list(summaries))
