"""How a census looks: plain text for a terminal, or JSON. Nothing is measured here.

`python -m examples.census.report DIRECTORY` takes a census in this process, without an engine: what a durable run
must agree with.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from examples.census.analysis import (
    HOT_SPOTS_PER_CHUNK,
    Census,
    FileStats,
    FunctionStats,
    PackageStats,
    Problem,
    analyse,
    list_sources,
    merge,
    split,
)

WIDTH = 100
BAR_WIDTH = 24
PACKAGES_SHOWN = 15
PROBLEMS_SHOWN = 10
DOCUMENTABLE_MIN = 25
"""Packages with fewer public definitions are not listed as badly documented."""


def render(census: Census, title: str = "Python sources") -> str:
    """The report, at most `WIDTH` columns wide; what does not fit is shortened in its middle.

    Args:
        census: From `merge`.
        title: What was counted, for instance the directory.
    """
    sections = (
        _summary(census.total, title),
        _packages(census),
        _complexity(census),
        _hot_spots(census.hot_spots),
        _largest(census.largest_files),
        _least_documented(census.packages),
        _problems("Syntax errors", census.syntax_errors),
        _problems("Unreadable", census.unreadable),
    )
    return "\n\n".join("\n".join(line.rstrip() for line in lines) for lines in sections if lines) + "\n"


def render_json(census: Census) -> str:
    """The whole census as one JSON object with the names of the dataclasses' fields."""
    return json.dumps(dataclasses.asdict(census), indent=2) + "\n"


def _summary(total: PackageStats, title: str) -> list[str]:
    tally = total.tally
    per_function = tally.code_lines / tally.functions if tally.functions else 0.0
    files = "1 file" if tally.files == 1 else f"{tally.files:,} files"
    heading = _fit(_printable(f"Census of {title}"), WIDTH)
    return [
        heading,
        "=" * len(heading),
        f"{files}, {tally.bytes / 1e6:,.1f} MB, {tally.lines:,} lines, {tally.code_lines:,} of them code",
        f"{tally.functions:,} functions, {tally.classes:,} classes, {per_function:.1f} lines of code per function",
        f"mean complexity {total.mean_complexity:.2f}, public definitions with a docstring: {_coverage(total)} "
        f"of {tally.documentable:,}",
    ]


def _packages(census: Census) -> list[str]:
    shown = census.packages[:PACKAGES_SHOWN]
    largest = max((package.tally.code_lines for package in shown), default=0)
    rows = [_package_row(package, largest) for package in shown]
    if rest := census.packages[PACKAGES_SHOWN:]:
        code = sum(package.tally.code_lines for package in rest)
        files = sum(package.tally.files for package in rest)
        rows.append([f"({len(rest)} more)", f"{files:,}", f"{code:,}", "", "", "", "", ""])
    head = ["package", "files", "code", "functions", "classes", "complexity", "docs", "code lines"]
    return _table("Packages by lines of code", head, rows, align="lrrrrrrl")


def _package_row(package: PackageStats, largest: int) -> list[str]:
    tally = package.tally
    return [
        package.name,
        f"{tally.files:,}",
        f"{tally.code_lines:,}",
        f"{tally.functions:,}",
        f"{tally.classes:,}",
        f"{package.mean_complexity:.2f}",
        _coverage(package),
        _bar(tally.code_lines, largest),
    ]


def _complexity(census: Census) -> list[str]:
    bands = census.complexity_bands
    total, largest = sum(bands.values()), max(bands.values(), default=0)
    rows = [
        [label, f"{count:,}", f"{100 * count / total:.1f} %", _bar(count, largest)]
        for label, count in bands.items()
        if total
    ]
    return _table("Functions by complexity", ["complexity", "functions", "share", ""], rows, align="lrrl")


def _hot_spots(spots: Sequence[FunctionStats]) -> list[str]:
    rows = [[str(spot.complexity), str(spot.lines), spot.name, f"{spot.path}:{spot.line}"] for spot in spots]
    return _table("Most complex functions", ["complexity", "lines", "function", "where"], rows, align="rrll")


def _largest(files: Sequence[FileStats]) -> list[str]:
    rows = [
        [f"{file.tally.lines:,}", f"{file.tally.code_lines:,}", f"{file.tally.functions:,}", file.path]
        for file in files
    ]
    return _table("Largest files", ["lines", "code", "functions", "file"], rows, align="rrrl")


def _least_documented(packages: Sequence[PackageStats]) -> list[str]:
    counted = [package for package in packages if package.tally.documentable >= DOCUMENTABLE_MIN]
    counted.sort(key=lambda package: (package.docstring_coverage, package.name))
    rows = [
        [_coverage(package), f"{package.tally.documented:,} of {package.tally.documentable:,}", package.name]
        for package in counted[:PROBLEMS_SHOWN]
    ]
    title = f"Least documented packages (of those with at least {DOCUMENTABLE_MIN} public definitions)"
    return _table(title, ["docs", "with docstring", "package"], rows, align="rrl")


def _problems(title: str, problems: Sequence[Problem]) -> list[str]:
    rows = [
        [f"{problem.path}:{problem.line}" if problem.line else problem.path, problem.reason]
        for problem in problems[:PROBLEMS_SHOWN]
    ]
    lines = _table(f"{title} ({len(problems):,})", ["where", "reason"], rows, align="ll")
    if (more := len(problems) - PROBLEMS_SHOWN) > 0:
        lines.append(f"  ... and {more:,} more")
    return lines


def _coverage(package: PackageStats) -> str:
    return f"{100 * package.docstring_coverage:.0f} %" if package.tally.documentable else "-"


def _bar(count: int, largest: int) -> str:
    return "#" * max(1, round(BAR_WIDTH * count / largest)) if count else ""


_ALIGN: dict[str, Callable[[str, int], str]] = {"l": str.ljust, "r": str.rjust}


def _table(title: str, head: list[str], rows: list[list[str]], *, align: str) -> list[str]:
    """Title, heading and rows with aligned columns, indented by two; no lines at all where there are no rows."""
    if not rows:
        return []
    cells = [head, *([_printable(cell) for cell in row] for row in rows)]
    widths = _shrink([max(map(len, column)) for column in zip(*cells, strict=True)])
    lines = [
        "  ".join(_ALIGN[a](_fit(cell, w), w) for cell, w, a in zip(row, widths, align, strict=True)) for row in cells
    ]
    return [title, *(f"  {line}" for line in lines)]


def _shrink(widths: list[int]) -> list[int]:
    """Take from the widest column until a row fits."""
    room = WIDTH - 2 * len(widths)
    while sum(widths) > room:
        widest = widths.index(max(widths))
        widths[widest] -= 1
    return widths


def _fit(text: str, width: int) -> str:
    """`text`, without its middle if it is too long: both ends of a path say more than its middle."""
    if len(text) <= width:
        return text
    kept = max(width - 3, 0)
    return text[: kept // 2] + "..."[:width] + text[len(text) - (kept - kept // 2) :]


def _printable(text: str) -> str:
    """File names and parser messages may hold anything; a terminal must not obey it."""
    return "".join(char if char.isprintable() else "?" for char in text)


def main(arguments: Iterable[str] | None = None) -> int:
    """Take a census in this process and print it; exit code 0, or 2 for a directory that is none."""
    parser = argparse.ArgumentParser(prog="python -m examples.census.report", description=main.__doc__)
    parser.add_argument("directory", type=Path, help="directory of Python sources")
    parser.add_argument("--include-tests", action="store_true", help="look into test directories too")
    parser.add_argument("--json", action="store_true", help="print the census as JSON")
    parser.add_argument(
        "--top",
        type=int,
        default=10,
        choices=range(1, HOT_SPOTS_PER_CHUNK + 1),
        metavar="N",
        help=f"length of the lists, 1 to {HOT_SPOTS_PER_CHUNK} (default 10)",
    )
    options = parser.parse_args(None if arguments is None else list(arguments))
    try:
        files = list_sources(options.directory, include_tests=options.include_tests)
    except NotADirectoryError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    census = merge([analyse(chunk, str(options.directory)) for chunk in split(files)], options.top)
    print(render_json(census) if options.json else render(census, str(options.directory.absolute())), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
