"""The census as a durable flow: one step lists, one step per chunk measures, one step adds up.

All steps are registered, so any host that serves this module may run them. Start as many as you like:

    stepwire host examples.census.flow
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import stepwire
from examples.census import analysis, ledger
from examples.census.analysis import Census, ChunkStats

SLOTS = 4

host = stepwire.Host(os.environ.get(ledger.HOST_ENV, ledger.HOST_DEFAULT), slots=SLOTS)


@dataclass(frozen=True, slots=True)
class Request:
    """What to count.

    Attributes:
        root: Absolute path of a directory, the same on every host.
        include_tests: Whether to look into test directories.
        top: Length of the lists of the report.
    """

    root: str
    include_tests: bool = False
    top: int = 10


@host.step
def list_chunks(request: Request) -> list[list[str]]:
    """Find the sources and cut them into chunks of about equal size."""
    with ledger.execution():
        return analysis.split(analysis.list_sources(Path(request.root), include_tests=request.include_tests))


@host.step
def analyse_chunk(chunk: list[str], root: str) -> ChunkStats:
    """Read and parse the files of one chunk."""
    with ledger.execution():
        ledger.hold()
        return analysis.analyse(chunk, root)


@host.step
def merge_chunks(chunks: list[ChunkStats], top: int) -> Census:
    """Add up the chunks."""
    with ledger.execution():
        return analysis.merge(chunks, top)


@host.flow
async def census(ctx: stepwire.Context, request: Request) -> Census:
    """Count everything under a directory."""
    chunks = await ctx.step.run("list", list_chunks, request)
    branches = [partial(ctx.step.run, "analyse", analyse_chunk, chunk, request.root) for chunk in chunks]
    counted = await ctx.group.parallel(branches, name="chunks")
    return await ctx.step.run("merge", merge_chunks, list(counted), request.top)
