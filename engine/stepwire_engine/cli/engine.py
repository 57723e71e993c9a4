"""`stepwire engine`: flags, environment and file become a configuration, the rest is `stepwire_engine.process`.

Options are made from the table of settings, so that a new setting has its flag, its environment name and its
help without a line here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from stepwire_engine import config
from stepwire_engine.cli.options import ENVIRONMENT

ALIASES = {"grpc_host": "--host", "grpc_port": "--port", "log": "--log-level"}
"""Shorter or more usual flags for some settings."""


def _setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    defaults = config.Config()
    for setting in reversed(config.SETTINGS):
        flags = [setting.flag] + ([ALIASES[setting.field]] if setting.field in ALIASES else [])
        # The loader reads the environment itself, so that its errors name the variable and not the flag.
        note = f"  [env var: {setting.env}; default: {_spelt(getattr(defaults, setting.field))}]"
        option = click.option(*flags, setting.field, metavar=_metavar(setting), help=setting.help + note)
        command = option(command)
    return command


def _spelt(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _metavar(setting: config.Setting) -> str:
    return "|".join(setting.choices) or {"db": "FILE"}.get(setting.field, setting.unit.name)


@click.command()
@_setting_options
@click.option(
    "--config",
    "file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Configuration file.  [default: stepwire.toml or the table tool.stepwire of pyproject.toml here]",
)
@click.option("--insecure", is_flag=True, help="Listen on addresses others can reach, though nothing is encrypted yet.")
def engine(file: Path | None, insecure: bool, **flags: str | None) -> int:
    """Run the engine.

    It ends on SIGTERM or Ctrl-C after the attempts in progress, at most 2 s after its drain timeout, with exit code 0;
    a second signal ends the wait. Nothing is lost either way: hosts go on with the next engine.
    Flags win over the environment, the environment over the configuration file.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    settings = config.load(flags, environment, file=file, directory=Path.cwd())
    from stepwire_engine.process import run_engine

    return run_engine(settings, insecure_listen=insecure)
