"""`python -m benchmarks`: arguments, and where the figures go. Exits with 1 if something could not be measured."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import linux, page, plots, tables
from benchmarks.checkout import other, own, pinned
from benchmarks.lines import Line, Measurement, Skipped, encode, read
from benchmarks.medians import Results, results
from benchmarks.peers import choice
from benchmarks.session import Measured, Plan, Tree, run
from benchmarks.workloads import DEFAULT, SETS, WORKLOADS, named

CLIENTS = {"table": None, "singly": False, "together": True}
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"report": page.main, "plot": plots.main}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; or do with a file of lines what a command says."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        return COMMANDS[given[0]](given[1:])
    options = _parser().parse_args(given)
    try:
        plan, skipped = _plan(options)
        baseline = results(read(options.baseline)) if options.baseline else None
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    measured = Results()
    with open(options.json or os.devnull, "w", encoding="utf-8") as lines:

        def emit(line: Line) -> None:
            measured.add(line)
            print(encode(line), file=lines, flush=True)
            if told := _told(line):
                print(told, file=sys.stderr, flush=True)

        for one in skipped:
            emit(one)
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # processes end with this one
        failed = run(plan, emit)
    print(tables.heading(measured), tables.table(measured, baseline), sep="\n\n")
    if options.plot:
        print("", *plots.plot(measured, options.plot), sep="\n")
    return 1 if failed else 0


def _plan(options: argparse.Namespace) -> tuple[Plan, list[Skipped]]:
    """What to measure, and which peers cannot be. Raises ValueError."""
    kind = linux.file_system(options.dir)
    if kind in IN_MEMORY:
        raise ValueError(f"{options.dir} is a {kind}, where a commit costs nothing: name another --dir")
    subjects: list[Measured] = [Tree(own(options.event_loop), options.slots)]
    skipped: list[Skipped] = []
    names = options.workload or [*DEFAULT, *(["peers"] if options.peers is not None else [])]
    if options.pinned:
        subjects.append(Tree(pinned(options.event_loop), options.slots))
    if options.against:
        subjects.append(Tree(other(options.against, options.event_loop), options.slots))
    if options.peers is not None:
        found, skipped = choice.chosen(options.peers, options.inngest)
        subjects += found
    plan = Plan(
        workloads=[
            workload.scaled(options.scale, options.longer, CLIENTS[options.clients]) for workload in named(names)
        ],
        subjects=subjects,
        repeat=options.repeat,
        folder=options.dir,
        lock=options.lock,
        patience=options.patience,
        again=options.again,
        scale=options.scale,
    )
    return plan, skipped


def _told(line: Line) -> str:
    """Progress, a line for each measurement."""
    match line:
        case Measurement(workload=workload, subject=subject, round=number, size=size, figures=figures):
            shown = [name for name in figures if name not in tables.QUIET][:6]
            text = ", ".join(f"{name} {tables.number(figures[name])}" for name in shown)
            return f"[{number}] {workload}{f' {size}' if size else ''} {subject}: {text}"
        case Skipped(reason=reason):
            return f"skipped {line.text}\n{reason}" if "\n" in reason else f"skipped {line.text}"
        case _:
            return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure the engine and the SDK: throughput, latency, CPU, memory, start-up; peers beside them.",
        epilog=_epilog(),
    )
    add = parser.add_argument
    add("workload", nargs="*", help=f"names or sets, see below; default: {' and '.join(DEFAULT)}")
    add("--repeat", type=_at_least_1, default=5, metavar="N", help="rounds; medians are over them (default 5)")
    add("--json", type=Path, metavar="FILE", help="write every measurement as a JSON line")
    add("--baseline", type=Path, metavar="FILE", help="print ratios to the JSON lines of an earlier session")
    add("--against", type=Path, metavar="DIR", help="measure another checkout of Stepwire in turns with this one")
    add("--pinned", action="store_true", help="measure in turns with engine and hosts each on a core of its own")
    add(
        "--peers", nargs="?", const="all", metavar="NAME,...",
        help=f"measure other engines in turns: {', '.join(choice.NAMES)} (default: all that are installed)",
    )  # fmt: skip
    add("--inngest", type=Path, metavar="FILE", help="the server binary of Inngest; without it that peer is skipped")
    add("--plot", type=Path, metavar="DIR", help="draw curves and peers as SVG (needs matplotlib: the extra bench)")
    add("--dir", type=Path, default=Path("/var/tmp"), help="where databases are put, on a real disk (default /var/tmp)")
    add("--slots", type=_at_least_1, help="slots of the host (default: that of stepwire.Host)")
    add("--event-loop", default="", metavar="NAME", help="of engine and hosts: asyncio or uvloop (default: their own)")
    add(
        "--clients", choices=CLIENTS, default="table",
        help="start and await runs that are in progress at once each by itself, or half of them with one call"
        " (default: as the table of workloads says; engines without StartMany need singly)",
    )  # fmt: skip
    add(
        "--calm", type=float, default=0.0, metavar="SECONDS", dest="patience",
        help="wait so long at most, before each measurement, for a moment in which nothing outside this machine slows"
        " its cores; rounds that found none do not count if there are three others",
    )  # fmt: skip
    add("--again", type=int, default=0, metavar="N", help="with --calm: measure so many times again what was slowed")
    add("--lock", type=Path, metavar="FILE", help="measure while holding a lock on FILE, 40 s at a time: for turns")
    add("--scale", type=float, default=1.0, metavar="X", help="multiply all sizes, for a try (default 1)")
    add("--longer", type=_at_least_1, default=1, metavar="N", help="N times as many measured runs, for a profiler")
    return parser


def _at_least_1(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _epilog() -> str:
    lines = []
    for name, meaning in SETS.items():
        lines.append(f"\n{name}: {meaning}")
        lines += [f"  {workload.name:<16}{workload.title}" for workload in WORKLOADS if workload.set == name]
    return "\n".join(
        [
            "workloads:",
            *lines,
            "\ncommands on a file of JSON lines:",
            "  python -m benchmarks report FILE [--page PAGE]   tables as Markdown, or into a page",
            "  python -m benchmarks plot FILE DIR               curves and peers as SVG",
            "  python -m benchmarks.peers install               install the peers privately",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
