"""The `stepwire` command: the table of its commands, and the one place where an error becomes an exit code.

Every command stands in a module of its own that is imported when it is called, because `stepwire --help` has
to answer at once. Commands parse arguments, print, and use the public SDK; they decide nothing about runs.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

COMMANDS: Mapping[str, tuple[str, str]] = {
    "chaos": ("stepwire_engine.cli.chaos:chaos", "Kill an engine and hosts of its own at random; is anything lost?"),
    "dashboards": (
        "stepwire_engine.cli.dashboards:dashboards",
        "Write dashboards for Grafana, rules and alerts for Prometheus.",
    ),
    "dev": ("stepwire_engine.cli.dev:dev", "Run an engine and hosts in one terminal, with reload."),
    "doctor": (
        "stepwire_engine.cli.doctor:doctor",
        "Check this machine, the configuration, the database and the engine.",
    ),
    "engine": ("stepwire_engine.cli.engine:engine", "Run the engine."),
    "host": ("stepwire_engine.cli.host:host", "Run a host: it serves the flows and steps of TARGET."),
    "run": ("stepwire_engine.cli.run:run", "Start a run of FLOW and follow it to its end."),
    "runs": (
        "stepwire_engine.cli.runs:runs",
        "List runs, show one and its logs, say why it does not move, cancel them, let a paused one go on.",
    ),
    "send": (
        "stepwire_engine.cli.send:send",
        "Send an event to flows that wait for NAME, or start by it.",
    ),
    "version": ("stepwire_engine.cli.version:version", "Print the versions of this installation."),
}
"""Name of each command -> where it is, and the line `stepwire --help` shows for it."""


class LazyGroup(click.Group):
    """A group that imports a command when it is called; its help comes from the table alone."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 ok, 1 run failed or cancelled, 2 usage, 3 not found, 4 engine unreachable, 5 conflict, "
    "6 wait timed out, 7 not authorised, 130 Ctrl-C.",
)
def stepwire() -> None:
    """Flows made of durable steps: run the engine, run hosts, start, watch and cancel runs, send events."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process with its exit code.

    Args:
        arguments: Without the name of the program; None: those of the process.
    """
    sys.exit(_exit_code(arguments))


def _exit_code(arguments: Sequence[str] | None) -> int:
    try:
        result = stepwire.main(arguments, prog_name="stepwire", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        # Imported here: commands that succeed do not need the tables of errors.
        from stepwire_engine.cli.failures import report

        return report(error)
    return result if isinstance(result, int) else 0
