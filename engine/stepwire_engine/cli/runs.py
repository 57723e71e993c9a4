"""`stepwire runs list|show|resume`: what the engine has on record, and letting a paused run go on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from stepwire_engine.cli.options import Output, color_option, engine_option, inspection, output_option
from stepwire_engine.cli.terminal import Color, data, printable, talk, wants_color

if TYPE_CHECKING:
    from stepwire_engine.cli.documents import Listed

STATES = ("PENDING", "RUNNING", "WAITING", "PAUSED", "SUCCEEDED", "FAILED", "CANCELLED")
HEADINGS = ("RUN", "FLOW", "STATE", "CREATED", "DURATION", "REMARK")


@click.group()
def runs() -> None:
    """List runs, show one, let a paused one go on."""


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
def resume(run_id: str, address: str) -> None:
    """Let a paused run go on: its body is entered again."""
    from stepwire_engine.cli.connection import connect

    with connect(address) as engine:
        engine.resume(run_id)
    talk(f"run {printable(run_id)} goes on\nnext:  {inspection(run_id)}")
