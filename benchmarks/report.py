"""Turns outcomes into text for people; the JSON lines carry the same figures."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Sequence

from benchmarks.measure import Outcome

_COLUMNS = ("steps/s", "engine us", "host us", "driver us", "run p50 ms", "run p99 ms", "engine MiB", "host MiB")
_FIGURES = (
    "steps_per_s", "engine_cpu_us", "host_cpu_us", "driver_cpu_us",
    "run_p50_ms", "run_p99_ms", "engine_rss_bytes", "host_rss_bytes",
)  # fmt: skip
_MIB = 1024 * 1024


def heading(place: str, file_system: str, repeat: int) -> str:
    """What every figure below depends on."""
    return (
        f"{os.cpu_count()} cores shared by engine, host and driver; Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, {platform.system()} {platform.release()}\n"
        f"database in {place} ({file_system}); medians of {repeat} repetitions after a warm-up; CPU per step"
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """One line per workload, then what is special to some, then the proof of durability."""
    width = max(len(outcome.workload.title) for outcome in outcomes)
    lines = [" ".join([" " * width, *(f"{name:>10}" for name in _COLUMNS)])]
    for outcome in outcomes:
        cells = [_cell(name, outcome.median(name)) for name in _FIGURES]
        lines.append(" ".join([f"{outcome.workload.title:<{width}}", *cells]))
    lines += ["", *(line for outcome in outcomes for line in _driven(outcome))]
    lines += ["", *(line for outcome in outcomes for line in _floor(outcome))]
    lines += ["", *(_durability(outcome) for outcome in outcomes)]
    settings = ", ".join(sorted({outcome.journal.settings for outcome in outcomes}))
    lines.append(
        f"{settings}: read back by this process through the engine's own connection code; an engine whose own "
        "connection reads back anything else refuses to start"
    )
    return "\n".join(lines)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return f"{'-':>10}"
    if name.endswith("_bytes"):
        value /= _MIB
    return f"{value:>10,.0f}" if value >= 100 or name == "steps_per_s" else f"{value:>10.1f}"


def _driven(outcome: Outcome) -> list[str]:
    counts = ", ".join(f"{value:.4g} {name}" for name, value in outcome.journal.driven.items())
    journal = outcome.journal
    size = f"{journal.rows / max(1, journal.runs):.4g} rows, {journal.bytes / max(1, journal.steps):.0f} B per step"
    return [f"{outcome.workload.name}: per run {counts}; journal {size}"]


def _floor(outcome: Outcome) -> list[str]:
    floors = [one.floor for one in outcome.measurements if one.floor is not None]
    ratio = outcome.median("floor_ratio")
    if not floors or ratio is None:
        return []
    trip, commit = (sorted(getattr(f, name) for f in floors)[len(floors) // 2] for name in ("round_trip", "commit"))
    step = sorted(one.seconds / one.steps for one in outcome.measurements)[len(floors) // 2]
    return [
        f"{outcome.workload.name}: {step * 1000:.2f} ms per step = {ratio:.2f} x (raw stream round trip "
        f"{trip * 1000:.2f} ms + raw commit {commit * 1000:.2f} ms), interleaved"
    ]


def _durability(outcome: Outcome) -> str:
    verdict = "equal" if outcome.journal_agrees else "DIFFERENT"
    commits = sum(one.commits for one in outcome.measurements)
    flushes = [one.flushes for one in outcome.measurements if one.flushes is not None]
    flushed = f", {sum(flushes)} flushes of the disk" if flushes else ""
    return (
        f"{outcome.workload.name}: clients acknowledged {outcome.acknowledged}, journal holds {outcome.journal.steps} "
        f"({verdict}); {commits} commits{flushed} while measured"
    )
