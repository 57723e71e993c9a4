"""`python -m benchmarks`: arguments, and where the figures go. Exits with 1 if a journal disagrees with the clients."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from benchmarks import report
from benchmarks.measure import Measurement, run_workload
from benchmarks.processes import BenchmarkError, file_system
from benchmarks.workloads import WORKLOADS

IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the JSON lines go before the table or, with `--json`, to a file."""
    options = _parser().parse_args(arguments)
    kind = file_system(options.dir)
    if kind in IN_MEMORY:
        print(f"error: {options.dir} is a {kind}, where a commit costs nothing: name another --dir", file=sys.stderr)
        return 2
    print(report.heading(str(options.dir), kind, options.repeat), flush=True)
    outcomes = []
    with options.json.open("w") if options.json else nullcontext(sys.stdout) as lines:
        for workload in WORKLOADS:
            if options.workload and workload.name not in options.workload:
                continue
            about = {"workload": workload.name, "file_system": kind, "host_slots": options.slots}

            def note(measured: Measurement, about: dict[str, object] = about) -> None:
                print(json.dumps({**about, **asdict(measured)}), file=lines, flush=True)

            try:
                outcome = run_workload(
                    workload, repeat=options.repeat, folder=options.dir, slots=options.slots, report=note
                )
            except BenchmarkError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            print(json.dumps({**asdict(outcome), "measurements": None, **about}), file=lines, flush=True)
            outcomes.append(outcome)
    print(report.table(outcomes))
    return 0 if all(outcome.journal_agrees for outcome in outcomes) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure throughput and latency.")
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("workload", nargs="*", choices=[*names, []], help=f"{', '.join(names)}; default: all")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="measured repetitions (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON lines to FILE (default: print them)")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="where databases are put (default /var/tmp)")
    parser.add_argument("--slots", type=int, help="slots of the host (default: that of stepwire.Host)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
