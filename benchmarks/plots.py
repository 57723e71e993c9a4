"""Results as pictures: `python -m benchmarks plot FILE DIR` writes SVG. matplotlib is the extra `bench`, no more."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.checkout import OWN
from benchmarks.figures import FIGURES
from benchmarks.lines import read
from benchmarks.medians import Key, Results, results
from benchmarks.workloads import WORKLOADS, title

MISSING = "no plots: matplotlib is not installed (pip install 'stepwire[bench]')"
COLOURS = {
    OWN: "#1f6feb",
    "against": "#8250df",
    "restate": "#d1242f",
    "dbos-sqlite": "#bf8700",
    "dbos-postgres": "#9a6700",
}
CURVES = ("#1f6feb", "#bc4c00", "#1a7f37", "#8250df")
OTHER_COLOUR = "#57606a"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d8dee4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "stepwire",  # the same figures give the same file
    "svg.fonttype": "none",
    "font.family": "sans-serif",
}


def main(arguments: Sequence[str]) -> int:
    """Draw what a file holds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks plot", description="Curves and peers as SVG.")
    parser.add_argument("file", type=Path, help="JSON lines")
    parser.add_argument("folder", type=Path, help="where the pictures are put")
    options = parser.parse_args(arguments)
    try:
        told = plot(results(read(options.file)), options.folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*told, sep="\n")
    return 1 if told == [MISSING] else 0


def plot(measured: Results, folder: Path) -> list[str]:
    """Draw what was measured; says what was written, or why nothing was."""
    if find_spec("matplotlib") is None:
        return [MISSING]
    import matplotlib

    matplotlib.use("svg")
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        return [f"wrote {path}" for path in _all(measured, folder)]


def _all(measured: Results, folder: Path) -> Iterator[Path]:
    curves = [w.name for w in WORKLOADS if any(key.size for key in measured.keys(w.name))]
    if curves:
        yield _written(_curves(measured, curves), folder / "curves.svg")
    peers = [w.name for w in WORKLOADS if len({key.subject for key in measured.keys(w.name)} - {"against"}) > 1]
    if peers:
        yield _written(_peers(measured, peers), folder / "peers.svg")


def _written(figure: Any, path: Path) -> Path:
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    # matplotlib ends lines with blanks; a file in a repository should not.
    path.write_text("\n".join(line.rstrip() for line in path.read_text(encoding="utf-8").splitlines()) + "\n")
    return path


def _curves(measured: Results, names: Sequence[str]) -> Any:
    """Time of a run, and CPU per step of each side, over the number of its steps."""
    from matplotlib import pyplot

    figure, (times, costs) = pyplot.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    for name, marker, colour in zip(names, "os^D", CURVES, strict=False):
        keys = sorted((key for key in measured.keys(name) if key.subject == OWN), key=lambda key: key.size)
        sizes = [key.size for key in keys]
        medians = [measured.medians(key) for key in keys]
        times.plot(sizes, [m["run_p50_ms"] for m in medians], marker=marker, label=title(name), color=colour)
        for figure_name, line in (("engine_cpu_us", "-"), ("host_cpu_us", "--")):
            side = figure_name.partition("_")[0]
            values = [m[figure_name] for m in medians]
            costs.plot(sizes, values, marker=marker, linestyle=line, color=colour, label=f"{title(name)}: {side}")
    for axes, text in ((times, "ms from start to result"), (costs, "CPU us per step")):
        axes.set(xscale="log", yscale="log", xlabel="steps of the run")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,.0f}")
        axes.set_title(text, loc="left", fontsize=9)
        axes.legend(fontsize=7)
    return figure


def _peers(measured: Results, names: Sequence[str]) -> Any:
    """Steps per second of everybody, a panel for each work; the longest bar is the fastest."""
    from matplotlib import pyplot

    columns = 2
    rows = -(-len(names) // columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(8.4, 1.5 * rows), layout="constrained", squeeze=False)
    panels = list(grid.flat)
    for axes, name in zip(panels, names, strict=False):
        subjects = [key.subject for key in measured.keys(name) if key.subject != "against"]
        subjects.sort(key=lambda subject: subject != OWN)
        values = [measured.median(Key(name, subject), "steps_per_s") or 0.0 for subject in subjects]
        colours = [COLOURS.get(subject, OTHER_COLOUR) for subject in subjects]
        bars = axes.barh(subjects, values, color=colours)
        axes.bar_label(bars, labels=[f"{value:,.0f}" for value in values], padding=3, fontsize=7)
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(pyplot.MaxNLocator(4))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_title(f"{title(name)}, {FIGURES['steps_per_s'].heading}", loc="left", fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    return figure
