"""`stepwire run`: start a run by the name of its flow, show it, print its output.

stdout carries the output alone (or the documents of `-o`); everything said about the run goes to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from stepwire_engine.cli.failures import CommandError, ExitCode
from stepwire_engine.cli.json_input import json_value
from stepwire_engine.cli.options import Output, color_option, duration, engine_option, here, inspection, output_option
from stepwire_engine.cli.terminal import Color, data, printable, talk, wants_color

if TYPE_CHECKING:
    from stepwire_engine.cli.connection import Connection
    from stepwire_engine.cli.documents import Run
    from stepwire_engine.cli.follow import Screen


@click.command()
@click.argument("flow")
@click.option(
    "-i",
    "--input",
    "given",
    metavar="JSON|@FILE|-",
    help="Input of the flow: JSON, a file of JSON, or stdin.  [default: null]",
)
@click.option("--id", "key", metavar="KEY", default="", help="Idempotency key: the same key gives the same run.")
@click.option("--detach", is_flag=True, help="Print the id of the run and leave it alone.")
@click.option(
    "--timeout", type=duration, metavar="DURATION", help="Stop waiting after this long, exit code 6; the run goes on."
)
@engine_option
@output_option
@color_option
def run(
    flow: str,
    given: str | None,
    key: str,
    detach: bool,
    timeout: float | None,
    address: str,
    output: Output,
    color: Color,
) -> int:
    """Start a run of FLOW and follow it to its end.

    Exit code 0 if it succeeded, 1 if it failed or was cancelled. Ctrl-C detaches: the run goes on. A run that
    restarts itself is followed through its successors.
    """
    value = json_value(given, "input", "--input", "stepwire run")
    from stepwire_engine.cli.connection import connect
    from stepwire_engine.cli.documents import line

    with connect(address) as engine:
        run_id, existing = engine.start(flow, value, key)
        if existing:
            talk(f"run {run_id} has this id already; nothing was started")
        if not detach:
            return _followed(engine, run_id, timeout, output, color)
        if output is Output.TABLE:
            data(run_id)
        else:
            data(line(engine.get(run_id)))
        return ExitCode.OK


# ---- following


def _followed(engine: Connection, run_id: str, timeout: float | None, output: Output, color: Color) -> int:
    from stepwire_engine.cli.follow import follow

    latest = run_id

    def watch() -> Iterator[Run]:
        nonlocal latest
        for view in engine.watch(run_id):
            latest = view.run_id
            yield view

    try:
        ended = follow(watch, _screen(output, color), timeout)
    except KeyboardInterrupt:
        talk(f"detached: the run goes on\nnext:  {inspection(latest)}")
        talk(f"stop:  {here(f'stepwire runs cancel {latest}')}")
        return ExitCode.INTERRUPTED
    if ended is None:
        raise CommandError(
            f"run {latest} has not ended within {timeout:g} s",
            why=_why_waiting(engine.get(latest)),
            next_command=inspection(latest),
            exit_code=ExitCode.TIMED_OUT,
        )
    return _result(ended, output, color)


def _screen(output: Output, color: Color) -> Screen:
    from stepwire_engine.cli.follow import JsonlScreen, LineScreen, LiveScreen
    from stepwire_engine.clock import SystemClock

    clock = SystemClock()

    def unix_ms() -> int:
        return clock.now().unix_ms

    if output is Output.JSONL:
        return JsonlScreen(unix_ms)
    if sys.stderr.isatty():
        return LiveScreen(unix_ms, color=wants_color(color, sys.stderr))
    return LineScreen(unix_ms)


def _why_waiting(found: Run) -> str:
    from stepwire_engine.cli.tree import explained

    reason = f", {explained(found.reason)}" if found.reason else ""
    return f"it is {found.state}{reason}; it goes on"


def _result(ended: Run, output: Output, color: Color) -> int:
    from stepwire_engine.cli.documents import line, page, value_text

    match output:
        case Output.JSONL:
            data(line(ended))
        case Output.JSON:
            data(page(ended))
        case Output.TABLE if ended.state == "SUCCEEDED":
            data(value_text(ended.output, ended.output_redacted_bytes))
        case _:
            pass
    if ended.state == "SUCCEEDED":
        return ExitCode.OK
    raise _not_succeeded(ended)


def _not_succeeded(ended: Run) -> CommandError:
    from stepwire_engine.cli.record import not_undone_lines
    from stepwire_engine.cli.tree import failure_text

    failure = ended.failure
    if failure is not None and failure.traceback:
        talk(printable(failure.traceback.rstrip(), "\n"))
    for text in not_undone_lines(ended):
        talk(text)
    return CommandError(
        f"run {ended.run_id} is {ended.state}",
        why=failure_text(failure) if failure is not None else "it was told to stop",
        next_command=inspection(ended.run_id),
        exit_code=ExitCode.RUN_FAILED,
    )
