"""`stepwire host`: a host process without a service around it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from stepwire_engine.cli.options import duration, engine_option
from stepwire_engine.cli.terminal import printable, talk


@click.command()
@click.argument("target")
@engine_option
@click.option(
    "--slots",
    type=click.IntRange(1, 10_000),
    envvar="STEPWIRE_SLOTS",
    show_envvar=True,
    help="Steps it executes at once, instead of what the Host was made with.",
)
@click.option(
    "--drain-timeout",
    type=duration,
    metavar="DURATION",
    envvar="STEPWIRE_DRAIN_TIMEOUT",
    show_envvar=True,
    help="How long attempts in progress may go on after SIGTERM, instead of what the Host was made with.",
)
@click.option(
    "--event-loop",
    type=click.Choice(("auto", "asyncio", "uvloop")),
    default="auto",
    show_default=True,
    envvar="STEPWIRE_EVENT_LOOP",
    show_envvar=True,
    help="auto: uvloop if it is installed.",
)
@click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning", "error")),
    default="info",
    show_default=True,
    envvar="STEPWIRE_LOG",
    show_envvar=True,
    help="Least severe level that is logged, if the module does not set up logging itself.",
)
@click.option(
    "--log-format",
    type=click.Choice(("auto", "text", "json")),
    default="auto",
    show_default=True,
    envvar="STEPWIRE_LOG_FORMAT",
    show_envvar=True,
    help="auto: text on a terminal, otherwise JSON.",
)
def host(
    target: str,
    address: str,
    slots: int | None,
    drain_timeout: float | None,
    event_loop: str,
    log_level: str,
    log_format: str,
) -> int:
    """Run a host: it serves the flows and steps of TARGET.

    TARGET is module:attr or file.py:attr; without attr it is the only stepwire.Host of the module. The host
    dials the engine for as long as it lives. SIGTERM and Ctrl-C let attempts in progress end first; what is not
    finished after the drain timeout is handed back. A second signal hands back at once.

    Exit codes: 0 all finished or handed back, 1 ended by force because code did not stop, 4 refused by the engine,
    130 second signal.
    """
    from stepwire.logs import formatter_for
    from stepwire_engine.cli.target import load_host

    found = load_host(target, Path.cwd())
    # After the import, so that a module's own logging.basicConfig wins.
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(formatter_for(log_format, sys.stderr))
    logging.basicConfig(level=log_level.upper(), handlers=[lines])
    if slots is not None:
        found.slots = slots
    talk(f"host {found.name}: flows {_names(found.flows)}; steps {_names(found.steps)}; slots {found.slots}")
    return found.run(engine=address, drain_timeout=drain_timeout, event_loop=event_loop)


def _names(names: Iterable[str]) -> str:
    return printable(", ".join(names)) or "none"
