"""`stepwire dashboards`: files for Grafana and Prometheus. It talks to no engine."""

from __future__ import annotations

from pathlib import Path

import click

from stepwire_engine.cli.failures import CommandError
from stepwire_engine.cli.terminal import data


@click.group()
def dashboards() -> None:
    """Write dashboards for Grafana, rules and alerts for Prometheus."""


@dashboards.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("monitoring"),
    show_default=True,
    help="Where the files are put; older ones are replaced.",
)
@click.option("--provisioning", is_flag=True, help="With a file that makes Grafana load the dashboards by itself.")
def export(folder: Path, provisioning: bool) -> None:
    """Write the dashboards for Grafana, and the rules and alerts for Prometheus."""
    # Imported here: `stepwire dashboards --help` does not need every board.
    from stepwire_engine.monitoring.export import write

    try:
        written = write(folder, provisioning=provisioning)
    except OSError as problem:
        raise CommandError(
            f"cannot write to {folder}", why=problem.strerror or str(problem), next_command="choose another --dir"
        ) from None
    data("\n".join(map(str, written)))
