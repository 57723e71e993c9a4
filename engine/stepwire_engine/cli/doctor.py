"""`stepwire doctor`: is this machine, this configuration, this database and this engine well, and if not, what to do.

It only looks, and prints one line per thing it looked at. The checks stand in `checkup*.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stepwire_engine.cli.options import ENVIRONMENT, Output, color_option, output_option
from stepwire_engine.cli.terminal import Color, data, printable, talk, wants_color

if TYPE_CHECKING:
    from stepwire_engine.cli.checkup import Finding
    from stepwire_engine.config import Config

MARKS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.argument("path", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--config",
    "file",
    metavar="CONFIG",
    type=click.Path(path_type=Path),
    help="Configuration of the engine.  [default: stepwire.toml or the table tool.stepwire of pyproject.toml here]",
)
@click.option(
    "--engine",
    "address",
    metavar="HOST:PORT",
    envvar="STEPWIRE_ENGINE",
    show_envvar=True,
    help="gRPC address of a running engine.  [default: as configured]",
)
@click.option("--http", "http_address", metavar="HOST:PORT", help="Its HTTP address.  [default: as configured]")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    metavar="RUNS",
    help="Verify the journals of so many runs, the newest; the rest is named as not verified.  [default: all]",
)
@output_option
@color_option
def doctor(
    path: Path | None,
    file: Path | None,
    address: str | None,
    http_address: str | None,
    limit: int | None,
    output: Output,
    color: Color,
) -> int:
    """Check this machine, the configuration, the database and the engine.

    FILE is a database, or the directory of a project. With a database only that is checked: its pages, indexes, and
    the check values of every row. It is opened read-only, also while an engine has it open. Exit code 1 if something
    fails.
    """
    findings = _shown(_findings(path, file, address, http_address, limit), output, color)
    from stepwire_engine.cli.checkup import Findings, Status
    from stepwire_engine.cli.documents import line, page

    well = all(finding.status is not Status.FAIL for finding in findings)
    match output:
        case Output.JSON:
            data(page(Findings(ok=well, findings=tuple(findings))))
        case Output.JSONL:
            for finding in findings:
                data(line(finding))
        case Output.TABLE:
            counts = [sum(finding.status is status for finding in findings) for status in Status]
            talk("{} ok, {} warn, {} fail".format(*counts))
    return 0 if well else 1


def _findings(
    path: Path | None, file: Path | None, address: str | None, http_address: str | None, limit: int | None
) -> Iterator[Finding]:
    from stepwire_engine.cli.checkup import check_place
    from stepwire_engine.cli.checkup_database import check_database

    if path is not None and not path.is_dir():
        yield from check_database(str(path), limit=limit, progress=_progress)
        return
    directory = path or Path.cwd()
    config, problem = _configured(file, directory)
    yield problem
    yield from check_place(config)
    database = config.db if config.db == ":memory:" else str(directory / config.db)
    if database != ":memory:":
        yield from check_database(database, limit=limit, progress=_progress)
    from stepwire_engine.cli.checkup_engine import addresses, check_engine

    grpc, http = addresses(config)
    yield from check_engine(address or grpc, http_address or http)


def _configured(file: Path | None, directory: Path) -> tuple[Config, Finding]:
    """The configuration, or the defaults and what is wrong with it."""
    from stepwire_engine import config
    from stepwire_engine.cli.checkup import fail, ok

    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    try:
        found = config.load(None, environment, file=file, directory=directory)
    except config.ConfigError as error:
        what, *rest = str(error).splitlines()
        parts = dict(text.strip().split(": ", 1) for text in rest if ": " in text)
        why = parts.get("why", "the engine does not start with it")
        return config.Config(), fail("config", what, why, parts.get("next", "stepwire engine --help"))
    return found, ok("config", "the configuration is understood")


def _progress(runs: int, rows: int) -> None:
    if sys.stderr.isatty():
        talk(f"  verified {rows} rows of {runs} runs ...")


def _shown(findings: Iterable[Finding], output: Output, color: Color) -> list[Finding]:
    """All findings; for people each is shown when it is there."""
    seen = []
    colored = wants_color(color, sys.stdout)
    for finding in findings:
        seen.append(finding)
        if output is Output.TABLE:
            data(_line(finding), color=colored)
    return seen


def _line(finding: Finding) -> str:
    mark = click.style(f"{finding.status.value:<4}", fg=MARKS[finding.status.value])
    text = f"{mark}  {finding.check:<9} {printable(finding.what)}"
    for label, more in (("why", finding.why), ("next", finding.next)):
        if more:
            text += f"; {label}: {printable(more)}"
    return text
