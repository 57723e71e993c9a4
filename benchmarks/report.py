"""Turns outcomes into text for people; the JSON lines carry the same figures."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
from collections.abc import Iterator, Sequence

from benchmarks.measure import Outcome

COLUMNS = {
    "steps/s": ("steps_per_s", 1),
    "engine us": ("engine_cpu_us", 1),
    "host us": ("host_cpu_us", 1),
    "driver us": ("driver_cpu_us", 1),
    "run p50 ms": ("run_p50_ms", 1),
    "run p99 ms": ("run_p99_ms", 1),
    "engine MiB": ("engine_rss_bytes", 2**20),
    "host MiB": ("host_rss_bytes", 2**20),
}
"""Heading -> figure and what it is divided by."""


def heading(place: str, file_system: str, repeat: int) -> str:
    """What every figure below depends on."""
    return (
        f"{os.cpu_count()} cores for engine, host and driver; load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, Linux {platform.release()}\n"
        f"database in {place} ({file_system}); medians of {repeat} repetitions after a warm-up; CPU per step"
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """A line of figures per workload, then what drove its runs, then the proof of durability."""
    width = max((len(outcome.workload.title) for outcome in outcomes), default=0)
    lines = [" " * width + "".join(f"{name:>11}" for name in COLUMNS)]
    for outcome in outcomes:
        values = [(outcome.median(name) or 0) / unit for name, unit in COLUMNS.values()]
        cells = "".join(f"{value:>11,.0f}" if value >= 100 else f"{value:>11.1f}" for value in values)
        lines.append(f"{outcome.workload.title:<{width}}{cells}")
    return "\n".join([*lines, "", *(line for outcome in outcomes for line in _details(outcome))])


def _details(outcome: Outcome) -> Iterator[str]:
    name, ones, journal = outcome.workload.name, outcome.measurements, outcome.journal
    assert journal is not None
    driven = ", ".join(f"{value:.4g} {what}" for what, value in journal.driven.items())
    rows, size = journal.rows / journal.runs, journal.bytes / journal.steps
    yield f"{name}: per run {driven}, {rows:.4g} journal rows; {size:.0f} B per step"
    floors = [one.floor for one in ones if one.floor is not None]
    if floors:
        trip = statistics.median(floor.round_trip for floor in floors) * 1000
        commit = statistics.median(floor.commit for floor in floors) * 1000
        step, ratio = 1000 / (outcome.median("steps_per_s") or 1), outcome.median("floor_ratio")
        yield (
            f"  {step:.2f} ms per step = {ratio:.2f} x "
            f"(raw stream round trip {trip:.2f} ms + raw commit {commit:.2f} ms), interleaved"
        )
        if any((one.floor_ratio or 0) < 1 for one in ones):
            yield "  this ratio is void: in a repetition the floor was above the step, so other work kept the disk busy"
    flushes = sum(one.flushes or 0 for one in ones)
    yield f"  {sum(one.commits for one in ones)} commits while measured; the disk completed {flushes} cache flushes"
    yield (
        f"  clients acknowledged {outcome.acknowledged} steps, the journal holds {journal.steps}: "
        f"{'equal' if outcome.journal_agrees else 'DIFFERENT'}; a second process reads back {journal.settings}"
    )
