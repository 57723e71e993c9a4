"""Every figure a measurement may have: its unit, which way is better, what it says. Tables are made from it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Better(enum.Enum):
    """Which direction is good news."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "-"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a measurement.

    Attributes:
        heading: In tables.
    """

    heading: str
    unit: str
    better: Better
    meaning: str


_LOWER, _HIGHER, _NEITHER = Better.LOWER, Better.HIGHER, Better.NEITHER

FIGURES: dict[str, Figure] = {
    "steps": Figure("steps", "", _NEITHER, "Steps that the clients' results acknowledge."),
    "seconds": Figure("s", "s", _LOWER, "Wall time of the measured runs, all of them."),
    "steps_per_s": Figure("steps/s", "1/s", _HIGHER, "`steps` divided by `seconds`."),
    "ms_per_step": Figure("ms/step", "ms", _LOWER, "`seconds` divided by `steps`."),
    "run_p50_ms": Figure("run p50 ms", "ms", _LOWER, "From start to result of a run, median."),
    "run_p99_ms": Figure("run p99 ms", "ms", _LOWER, "The same, 99th percentile."),
    "cpu_us": Figure("CPU us", "us/step", _LOWER, "CPU time of engine and hosts per step; of libraries the process."),
    "engine_cpu_us": Figure("engine us", "us/step", _LOWER, "CPU time of the engine per step, all its threads."),
    "host_cpu_us": Figure("host us", "us/step", _LOWER, "CPU time of the hosts per step."),
    "driver_cpu_us": Figure(
        "driver us", "us/step", _LOWER, "CPU time of the process that starts the runs; it takes part in the two cores."
    ),
    "engine_rss_mib": Figure(
        "engine MiB", "MiB", _LOWER, "Peak resident memory of the engine; of several processes their PSS at the end."
    ),
    "host_rss_mib": Figure("host MiB", "MiB", _LOWER, "The same of the host."),
    "commits_per_step": Figure("commits/step", "", _LOWER, "Commits of the engine, from its own metrics."),
    "disk_flushes": Figure("flushes", "", _NEITHER, "Cache flushes the disk completed meanwhile, whoever asked."),
    "journal_bytes_per_step": Figure("B/step", "B", _LOWER, "Bytes of journal rows, re-read after the engine stopped."),
    "journal_rows_per_step": Figure("rows/step", "", _LOWER, "Journal rows."),
    "body_entries_per_run": Figure("entries/run", "", _LOWER, "How often the body of a run was entered; 1: no replay."),
    "mb_per_s": Figure("MB/s", "MB/s", _HIGHER, "Bytes of outputs journaled, in 10^6, per second."),
    "ratio": Figure("ratio", "x", _LOWER, "What is measured, as a multiple of what its title compares it with."),
    "slots_busy": Figure(
        "slots", "share", _HIGHER, "Of the time of all slots, the share in which they did the work of a step."
    ),
    "slots_nominal": Figure("nominal", "share", _HIGHER, "The same if every step had taken exactly its 10 ms."),
    "step_bytes": Figure("B/open step", "B", _LOWER, "Growth of the engine's resident memory per outstanding step."),
    "run_bytes": Figure("B/live run", "B", _LOWER, "Growth of the engine's resident memory per live run."),
    "growth_mib": Figure("grows MiB", "MiB", _LOWER, "Resident memory beyond that of an engine on an empty database."),
    "database_mib": Figure("db MiB", "MiB", _NEITHER, "Size of the database."),
    "ready_s": Figure("ready s", "s", _LOWER, "From starting the process to an engine that serves."),
    "import_s": Figure("import s", "s", _LOWER, "`import stepwire` in a fresh interpreter."),
    "help_s": Figure("help s", "s", _LOWER, "`stepwire --help`, the whole process."),
    "round_trip_ms": Figure("trip ms", "ms", _NEITHER, "Floor: a raw gRPC stream round trip of 100 bytes, median."),
    "commit_ms": Figure("commit ms", "ms", _NEITHER, "Floor: a raw commit of a row of 100 bytes, WAL, FULL, median."),
    "spin_ms": Figure("spin ms", "ms", _NEITHER, "Speed of the machine: a fixed loop of Python, best of 3."),
    "slowed": Figure(
        "slowed", "x", _NEITHER, "The spin on the slowest core, before or after, as a multiple of the fastest one seen."
    ),
    "foreign_cores": Figure("foreign", "cores", _NEITHER, "CPU that other processes took meanwhile."),
}
"""In the order of tables. A name that is not here is no figure."""


def check(figures: dict[str, float]) -> None:
    """Raises ValueError: a figure has no line in the table."""
    if unknown := figures.keys() - FIGURES.keys():
        raise ValueError(f"no such figures: {', '.join(sorted(unknown))}")
