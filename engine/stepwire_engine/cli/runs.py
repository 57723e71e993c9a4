"""`stepwire runs list|show|why|logs|resume|cancel`: what the engine has on record, what runs wait for, ending them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from stepwire_engine.cli.failures import CommandError
from stepwire_engine.cli.logs import logs
from stepwire_engine.cli.options import Output, color_option, engine_option, here, inspection, output_option
from stepwire_engine.cli.terminal import Color, data, printable, talk, wants_color

if TYPE_CHECKING:
    from stepwire_engine.cli.connection import Connection
    from stepwire_engine.cli.documents import Listed

OPEN_STATES = ("PENDING", "RUNNING", "WAITING", "PAUSED")
STATES = (*OPEN_STATES, "SUCCEEDED", "FAILED", "CANCELLED")
CONFIRMED_RUNS_MAX = 1_000
"""Runs that are counted before somebody is asked; of more it is only said that there are more."""
HEADINGS = ("RUN", "FLOW", "STATE", "CREATED", "DURATION", "REMARK")


@click.group()
def runs() -> None:
    """List runs, show one and its logs, say why it does not move, cancel them, let a paused one go on."""


@runs.command("list")
@click.option("--flow", default="", help="Only runs of this flow.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES, case_sensitive=False),
    help="Only runs in this state; may be repeated.",
)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many, the newest."
)
@engine_option
@output_option
@color_option
def list_runs(flow: str, states: Sequence[str], limit: int, address: str, output: Output, color: Color) -> None:
    """List runs, newest first."""
    from stepwire_engine.cli.connection import connect
    from stepwire_engine.cli.documents import Runs, line, page

    with connect(address) as engine:
        found, complete = engine.list(flow, states, limit)
    match output:
        case Output.JSON:
            data(page(Runs(runs=found, complete=complete)))
        case Output.JSONL:
            for run in found:
                data(line(run))
        case Output.TABLE:
            _print_table(found, color)
            if not found:
                talk("no runs" + (" that fit" if flow or states else " yet; start one with: stepwire run FLOW"))
    if not complete:
        talk(f"there are more than {limit}; see them with --limit")


def _print_table(found: Sequence[Listed], color: Color) -> None:
    rows = [HEADINGS, *(_row(run) for run in found)] if found else []
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))] if rows else []
    colored = wants_color(color, sys.stdout)
    for row in rows:
        text = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        data(click.style(text, bold=True) if row is HEADINGS else text, color=colored)


def _row(run: Listed) -> tuple[str, ...]:
    from stepwire_engine.cli.tree import duration_text, failure_text

    created = f"{run.created_at:%Y-%m-%d %H:%M:%SZ}" if run.created_at else ""
    duration = duration_text(run.duration_seconds) if run.duration_seconds is not None else ""
    remark = failure_text(run.failure) if run.failure is not None else "" if run.final else run.reason or ""
    return run.run_id, printable(run.flow), run.state, created, duration, remark


@runs.command()
@click.argument("run_id", metavar="RUN")
@engine_option
@output_option
@color_option
def show(run_id: str, address: str, output: Output, color: Color) -> None:
    """Show a run: its steps, attempts, hosts, errors, output, and how much driving it took."""
    from stepwire_engine.cli.connection import connect
    from stepwire_engine.cli.documents import line, moment, page
    from stepwire_engine.cli.record import record_lines
    from stepwire_engine.clock import SystemClock

    with connect(address) as engine:
        found = engine.get(run_id)
    match output:
        case Output.JSON:
            data(page(found))
        case Output.JSONL:
            data(line(found))
        case Output.TABLE:
            now = moment(SystemClock().now().unix_ms)
            assert now is not None, "the present is not the epoch"
            data("\n".join(record_lines(found, now)), color=wants_color(color, sys.stdout))


@runs.command()
@click.argument("run_id", metavar="RUN")
@engine_option
@output_option
def why(run_id: str, address: str, output: Output) -> None:
    """Say why a run does not move: what each open step waits for, who has it, until when, and what to do."""
    from stepwire_engine.cli.connection import connect
    from stepwire_engine.cli.documents import line, page
    from stepwire_engine.cli.why import why_lines
    from stepwire_engine.cli.why_document import why_document

    with connect(address) as engine:
        found = why_document(engine.explain(run_id))
    match output:
        case Output.JSON:
            data(page(found))
        case Output.JSONL:
            data(line(found))
        case Output.TABLE:
            data("\n".join(why_lines(found)))


runs.add_command(logs)


@runs.command()
@click.argument("run_id", metavar="RUN")
@engine_option
def resume(run_id: str, address: str) -> None:
    """Let a paused run go on: its body is entered again."""
    from stepwire_engine.cli.connection import connect

    with connect(address) as engine:
        engine.resume(run_id)
    talk(f"run {printable(run_id)} goes on\nnext:  {inspection(run_id)}")


@runs.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--all", "every", is_flag=True, help="All open runs of the flow of --flow, instead of one.")
@click.option("--flow", default="", metavar="FLOW", help="For --all: whose runs.")
@click.option(
    "--undo/--no-undo", default=None, help="Whether completed steps are compensated.  [default: as the flow says]"
)
@click.option("-y", "--yes", is_flag=True, help="For --all: do not ask.")
@engine_option
@output_option
def cancel(
    run_id: str | None, every: bool, flow: str, undo: bool | None, yes: bool, address: str, output: Output
) -> None:
    """Cancel a run, or all open runs of a flow.

    What they are executing is told to stop, the runs they invoked are cancelled with them, and completed steps are
    compensated if asked for. The command does not wait for that. The ids of the cancelled runs are printed.
    """
    if every is (run_id is not None):
        raise click.UsageError("give either RUN, or --all and --flow", click.get_current_context())
    if every is not bool(flow):
        raise click.UsageError("--all and --flow belong together", click.get_current_context())
    from stepwire_engine.cli.connection import connect
    from stepwire_engine.cli.documents import Cancelled, line, page

    with connect(address) as engine:
        if run_id is not None:
            engine.cancel(run_id, undo)
            cancelled: tuple[str, ...] = (run_id,)
        else:
            cancelled = engine.cancel_all(flow, undo) if yes or _confirmed(engine, flow) else ()
    match output:
        case Output.JSON:
            data(page(Cancelled(run_ids=cancelled)))
        case Output.JSONL:
            data(line(Cancelled(run_ids=cancelled)))
        case Output.TABLE:
            for each in cancelled:
                data(printable(each))
    if run_id is not None:
        talk(f"run {printable(run_id)} is being cancelled\nnext:  {inspection(run_id)}")
    else:
        talk(f"{len(cancelled) or 'no'} runs of {printable(flow)} are being cancelled")


def _confirmed(engine: Connection, flow: str) -> bool:
    """Say how many runs it is about, and ask. Raises CommandError where nobody can answer."""
    found, complete = engine.list(flow, OPEN_STATES, CONFIRMED_RUNS_MAX)
    if not found:
        return False
    count = f"{len(found)}" if complete else f"more than {len(found)}"
    if not sys.stdin.isatty():
        raise CommandError(
            f"{count} open runs of {printable(flow)} would be cancelled",
            why="nobody can be asked: stdin is no terminal",
            next_command=here(f"stepwire runs cancel --all --flow {printable(flow)} --yes"),
        )
    return click.confirm(f"cancel {count} open runs of {printable(flow)}?", err=True)
