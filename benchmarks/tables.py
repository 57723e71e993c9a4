"""Results as text for a terminal: a row per workload, subject and size; goals; ratios to a file measured before."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.checkout import OWN
from benchmarks.figures import FIGURES, Better
from benchmarks.goals import verdicts
from benchmarks.medians import Results
from benchmarks.workloads import title

COLUMNS = (
    "steps_per_s", "run_p50_ms", "run_p99_ms", "engine_cpu_us", "host_cpu_us", "driver_cpu_us", "engine_rss_mib",
    "host_rss_mib", "ratio", "round_trip_ms", "commit_ms", "spin_ms", "foreign_cores",
)  # fmt: skip
"""Of the table; every other figure that is not one of `QUIET` stands below its row."""
QUIET = frozenset({"steps", "seconds", "ms_per_step", "cpu_us", "disk_flushes", "slowed"})
TITLE_WIDTH, CELL_WIDTH = 52, 11


def number(value: float | None) -> str:
    """With as many digits as one can use; nothing for nothing."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def heading(results: Results) -> str:
    """What every figure depends on."""
    session = results.session
    lines = []
    if session is not None:
        lines.append(", ".join(f"{name} {value}" for name, value in session.machine.items()))
        lines.append(
            f"{session.date}; databases on {session.file_system}; medians of {session.repeat} rounds; "
            "CPU in us per step; MiB are peaks"
        )
        if session.scale != 1:
            lines.append(f"sizes scaled by {session.scale:g}: a try, no result")
    lines += [f"{s.name} {s.version}: {s.topology}; durability: {s.durability}" for s in results.subjects.values()]
    lines += [f"skipped: {skipped.text}" for skipped in results.skipped]
    return "\n".join(lines)


def table(results: Results, baseline: Results | None = None) -> str:
    """Everything that was measured, then the goals."""
    head = " " * TITLE_WIDTH + "".join(f"{FIGURES[name].heading:>{CELL_WIDTH}}" for name in COLUMNS)
    rows = [row for name in results.workloads() for row in _rows(results, name, baseline)]
    return "\n".join([head, *rows, "", *_goals(results)])


def _rows(results: Results, workload: str, baseline: Results | None) -> Iterator[str]:
    keys = results.keys(workload)
    subjects = {key.subject for key in keys}
    for key in keys:
        figures = results.medians(key)
        about = f" [{key.size:,}]" if key.size else ""
        if len(subjects) > 1 or key.subject != OWN:
            about += f" · {key.subject}"
        cells = "".join(f"{number(figures.get(column)):>{CELL_WIDTH}}" for column in COLUMNS)
        yield f"{title(workload)[: TITLE_WIDTH - len(about)] + about:<{TITLE_WIDTH}}{cells}"
        rest = [f for f in figures if f not in COLUMNS and f not in QUIET]
        if rest:
            yield "    " + ", ".join(f"{FIGURES[f].heading} {number(figures[f])}" for f in rest)
        if key.subject != OWN and (own := results.medians(key._replace(subject=OWN))):
            yield f"    {OWN} is {_ratios(own, figures)} of {key.subject}"
        if baseline is not None and (before := baseline.medians(key)):
            yield f"    now {_ratios(figures, before)} of the baseline"


def ratios(now: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """Of every figure that has a good direction and is there on both sides."""
    return {
        name: value / before[name]
        for name, value in now.items()
        if FIGURES[name].better is not Better.NEITHER and before.get(name)
    }


def _ratios(now: dict[str, float], before: dict[str, float]) -> str:
    found = ratios(now, before)
    shown = [name for name in found if name in COLUMNS or name not in QUIET]
    return ", ".join(f"{FIGURES[name].heading} {found[name]:.2f}x" for name in shown)


def _goals(results: Results) -> Iterator[str]:
    for verdict in verdicts(results):
        goal = verdict.goal
        unit = "x" if goal.peer else f" {FIGURES[goal.figure].heading}"
        said = "met" if verdict.met else "MISSED"
        yield f"{said:<7}{title(goal.workload):<{TITLE_WIDTH}} {goal.text:<32} {number(verdict.value)}{unit}"
