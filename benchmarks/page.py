"""Results as Markdown, and the page that holds them: `python -m benchmarks report FILE [--page PAGE]`.

A page has two marks; what stands between them is made here and nowhere else, so a test can compare it with the file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.checkout import OWN, PINNED
from benchmarks.figures import FIGURES
from benchmarks.goals import Verdict, verdicts
from benchmarks.lines import read
from benchmarks.medians import FOREIGN_CORES_MAX, Key, Results, results
from benchmarks.pace import SLOWED_MAX
from benchmarks.tables import number
from benchmarks.workloads import WORKLOADS, title

BEGIN, END = "<!-- figures: made by `python -m benchmarks report`, do not edit -->", "<!-- end of figures -->"
SPEED = (
    "steps_per_s",
    "run_p50_ms",
    "run_p99_ms",
    "engine_cpu_us",
    "host_cpu_us",
    "commits_per_step",
    "engine_rss_mib",
)
PEERS = ("steps_per_s", "run_p50_ms", "run_p99_ms", "cpu_us", "engine_rss_mib", "host_rss_mib")
CURVE = ("run_p50_ms", "steps_per_s", "engine_cpu_us", "host_cpu_us")


def main(arguments: Sequence[str]) -> int:
    """Print the tables, or write them into a page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description="Results as Markdown.")
    parser.add_argument("file", type=Path, help="JSON lines")
    parser.add_argument("--page", type=Path, help="a Markdown file with the two marks; replaces what is between them")
    options = parser.parse_args(arguments)
    try:
        made = markdown(results(read(options.file)))
        if options.page:
            options.page.write_text(placed(options.page.read_text(encoding="utf-8"), made), encoding="utf-8")
        else:
            print(made)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def placed(page: str, made: str) -> str:
    """The page with `made` between its marks.

    Raises:
        ValueError: it has not exactly one of each.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs one line {BEGIN!r} and one line {END!r}")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def markdown(measured: Results) -> str:
    """All tables for which something was measured."""
    parts = [_setting(measured), _goals(measured), _speed(measured), *_curves(measured), *_peers(measured)]
    return "\n\n".join(part for part in parts if part)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""


def _setting(measured: Results) -> str:
    session = measured.session
    if session is None:
        return ""
    machine = ", ".join(f"{name} {value}" for name, value in session.machine.items())
    tried = f" **Sizes were scaled by {session.scale:g}: a try, no result.**" if session.scale != 1 else ""
    rounds = "One round." if session.repeat == 1 else f"Medians of {session.repeat} interleaved rounds."
    where = f"Measured on {session.date}: {machine}; databases on {session.file_system}."
    return f"{where} {rounds}{tried}{_waited(measured)}{_disturbed(measured)}"


def _waited(measured: Results) -> str:
    """How many measurements waited for calm cores in vain, if they waited at all."""
    if measured.session is None or not measured.session.patience:
        return ""
    slowed = [figures["slowed"] for rounds in measured.rounds.values() for figures in rounds if "slowed" in figures]
    count = sum(times > SLOWED_MAX for times in slowed)
    return (
        f" Each measurement waited up to {measured.session.patience:g} s for a moment in which nothing outside this "
        f"machine slowed its cores; {count} of {len(slowed)} were slowed all the same."
    )


def _disturbed(measured: Results) -> str:
    """A warning if others used the machine meanwhile."""
    foreign = [measured.medians(key).get("foreign_cores", 0.0) for key in measured.rounds]
    count = sum(cores > FOREIGN_CORES_MAX for cores in foreign)
    if not count:
        return ""
    return (
        f" **While {count} of {len(foreign)} were measured, other processes used more than {FOREIGN_CORES_MAX:g} "
        "cores: these figures are rough.**"
    )


def _goals(measured: Results) -> str:
    rows = [[title(v.goal.workload), v.goal.text, *_said(v)] for v in verdicts(measured)]
    head = ["work", "goal", "measured", ""]
    if own_cores := {v.goal: v for v in verdicts(measured, PINNED)}:
        head += ["own cores", ""]
        for row, verdict in zip(rows, verdicts(measured), strict=True):
            row += _said(own_cores.get(verdict.goal))
    return _section("Goals", _table(head, rows))


def _said(verdict: Verdict | None) -> tuple[str, str]:
    return ("", "") if verdict is None else (_value(verdict), "met" if verdict.met else "missed")


def _value(verdict: Verdict) -> str:
    return number(verdict.value) + ("x" if verdict.goal.peer else "")


def _section(name: str, table: str) -> str:
    return f"### {name}\n\n{table}" if table else ""


def _cells(figures: dict[str, float], columns: Sequence[str]) -> list[str]:
    return [number(figures.get(name)) for name in columns]


def _heads(columns: Sequence[str]) -> list[str]:
    return [FIGURES[name].heading for name in columns]


def _speed(measured: Results) -> str:
    rows = []
    for workload in WORKLOADS:
        for subject, mark in ((OWN, ""), (PINNED, ", own cores")):
            figures = measured.medians(Key(workload.name, subject))
            if workload.set != "peers" and "steps_per_s" in figures:
                rows.append((workload.title + mark, *_cells(figures, SPEED)))
    return _section("Speed and cost", _table(("work", *_heads(SPEED)), rows))


def _curves(measured: Results) -> Iterator[str]:
    for workload in WORKLOADS:
        keys = [key for key in measured.keys(workload.name) if key.size and key.subject == OWN]
        rows = [(f"{key.size:,}", *_cells(measured.medians(key), CURVE)) for key in keys]
        yield _section(f"Cost by size: {workload.title}", _table(("steps", *_heads(CURVE)), rows))


def _peers(measured: Results) -> Iterator[str]:
    peers = {key.subject for key in measured.rounds} - {OWN, PINNED, "against"}
    if not peers:
        return
    rows = []
    for name in measured.workloads():
        keys = measured.keys(name)
        if not peers & {key.subject for key in keys}:
            continue
        own = measured.medians(Key(name, OWN))
        for key in sorted(keys, key=lambda key: key.subject != OWN):
            figures = measured.medians(key)
            rows.append((f"{title(name)}: **{key.subject}**", *_cells(figures, PEERS), *_faster(own, figures)))
    yield _section("Beside other engines", _table(("work", *_heads(PEERS), "we are faster by", "our CPU is"), rows))
    about = [(s.name, s.version, s.topology, s.durability) for s in measured.subjects.values()]
    head = "| engine | version | processes | durability of a step's outcome |\n|---|---|---|---|"
    yield "\n".join([head, *(f"| {' | '.join(row)} |" for row in about)])
    yield "\n".join(f"- Not measured: {skipped.text}" for skipped in measured.skipped)


def _faster(own: dict[str, float], peer: dict[str, float]) -> tuple[str, str]:
    if not own or own == peer:
        return "", ""
    faster = f"{number(peer['seconds'] / peer['steps'] / (own['seconds'] / own['steps']))}x"
    return faster, f"{number(own['cpu_us'] / peer['cpu_us'])}x" if peer.get("cpu_us") else ""
