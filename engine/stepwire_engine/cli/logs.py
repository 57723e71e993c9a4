"""`stepwire runs logs`: what flow and steps of a run logged, now or while it goes on."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import click

from stepwire_engine.cli.options import Output, color_option, engine_option, output_option
from stepwire_engine.cli.terminal import Color, data, printable, talk, wants_color

if TYPE_CHECKING:
    from stepwire_engine.cli.connection import Connection
    from stepwire_engine.cli.documents import LogLine

POLL_SECONDS = 0.5
LATE_SECONDS = 1.5
"""After the end of a run, how long its last lines may be under way."""
LEVELS = ("debug", "info", "warning", "error", "critical")
_COLOURS = ((logging.ERROR, "red"), (logging.WARNING, "yellow"))


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--step", "path", default="", metavar="PATH", help="Only of this step, or of this branch's own code.")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="Only of this attempt.")
@click.option("--level", type=click.Choice(LEVELS, case_sensitive=False), help="Only of this level and above.")
@click.option("--tail", type=click.IntRange(1, 100_000), metavar="N", help="Only the last so many lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@engine_option
@output_option
@color_option
def logs(
    run_id: str,
    path: str,
    attempt: int | None,
    level: str | None,
    tail: int | None,
    follow: bool,
    address: str,
    output: Output,
    color: Color,
) -> None:
    """Show what flow and steps of a run logged.

    Hosts send it as far as loggers let it pass and there is room, and the engine keeps the newest lines of each run.
    """
    if follow and output is Output.JSON:
        raise click.UsageError("--follow prints line by line: use -o jsonl", click.get_current_context())
    from stepwire_engine.cli.connection import connect
    from stepwire_engine.cli.documents import LogLines, page

    level_min = logging.getLevelNamesMapping()[level.upper()] if level else 0
    with connect(address) as engine:
        reading = Reading(engine, run_id, path, attempt or 0, level_min)
        found = deque(reading.more(), tail)
        if output is Output.JSON:
            data(page(LogLines(run_id=run_id, lines=tuple(found), dropped=reading.dropped)))
            return
        show = _shower(output, wants_color(color, sys.stdout))
        show(found)
        if follow:
            until_end(reading, show)
    if not reading.shown and output is Output.TABLE:
        talk(f"run {printable(run_id)} has logged nothing" + (" that fits" if path or attempt or level else ""))
    if reading.dropped:
        talk(f"{reading.dropped} lines of this run are missing: they were dropped under way, or too old to be kept")


class Reading:
    """Where reading the lines of one run stands.

    Attributes:
        shown: Lines that were read.
        dropped: Lines of the run that are missing.
    """

    def __init__(self, engine: Connection, run_id: str, path: str, attempt: int, level_min: int) -> None:
        self._engine = engine
        self._run_id = run_id
        self._wanted = (path, attempt, level_min)
        self._after = 0
        self.shown = 0
        self.dropped = 0

    @property
    def has_ended(self) -> bool:
        """Whether the run is over."""
        return self._engine.has_ended(self._run_id)

    def more(self) -> Sequence[LogLine]:
        """Lines that came since the last call."""
        lines, self._after, self.dropped = self._engine.logs(self._run_id, *self._wanted, self._after)
        self.shown += len(lines)
        return lines


def until_end(
    reading: Reading,
    show: Callable[[Iterable[LogLine]], None],
    mono: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Show lines as they come, until the run has ended and its last ones had time to arrive."""
    ended: float | None = None
    while ended is None or mono() < ended + LATE_SECONDS:
        if ended is None and reading.has_ended:
            ended = mono()
        pause(POLL_SECONDS)
        show(reading.more())


def _shower(output: Output, color: bool) -> Callable[[Iterable[LogLine]], None]:
    from stepwire_engine.cli.documents import line

    def show(lines: Iterable[LogLine]) -> None:
        for each in lines:
            if output is Output.JSONL:
                data(line(each))
            else:
                data(line_text(each), color=color)

    return show


def line_text(line: LogLine) -> str:
    """A line for people; further lines of its message are indented."""
    at = f"{line.at:%Y-%m-%d %H:%M:%S}.{line.at.microsecond // 1000:03d}Z"
    attempt = f" attempt {line.attempt}" if line.attempt > 1 else ""
    whose = f"{printable(line.step)}{attempt}" or "(flow)"
    message = printable(line.message, "\n").replace("\n", "\n    ")
    colour = next((colour for level, colour in _COLOURS if line.level_number >= level), None)
    level = click.style(f"{printable(line.level):<8}", fg=colour)
    return f"{at} {level} {whose}  {printable(line.logger)}{': ' if line.logger else ''}{message}"
