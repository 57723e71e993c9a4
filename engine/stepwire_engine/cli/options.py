"""Options that several commands share, so that they are spelt, documented and read from the environment alike."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from stepwire_engine.cli.terminal import Color

DEFAULT_ENGINE = "127.0.0.1:7380"
ENVIRONMENT = frozenset({"STEPWIRE_COLOR", "STEPWIRE_OUTPUT", "STEPWIRE_SLOTS"})
"""Names in the environment that are the command line's alone; the engine's configuration does not know them."""

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?", re.ASCII)
_UNITS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Output(enum.StrEnum):
    """Values of `-o`."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


def duration(text: object) -> float:
    """Seconds from a duration as in the configuration: 10, 250ms, 2m, 1h. The type of such options."""
    found = _DURATION.fullmatch(str(text).strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is no duration; give seconds or a unit, e.g. 10, 250ms, 2m")
    return float(found[1]) * _UNITS[found[2]]


def engine_option(command: _Command) -> _Command:
    """`--engine`: the address to dial."""
    return click.option(
        "--engine",
        "address",
        metavar="HOST:PORT",
        default=DEFAULT_ENGINE,
        envvar="STEPWIRE_ENGINE",
        show_envvar=True,
        show_default=True,
        help="Address of the engine.",
    )(command)


def output_option(command: _Command) -> _Command:
    """`-o`: what is printed on stdout."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice([choice.value for choice in Output], case_sensitive=False),
        callback=lambda _context, _option, value: Output(value),
        default=Output.TABLE.value,
        envvar="STEPWIRE_OUTPUT",
        show_envvar=True,
        show_default=True,
        help="table for people; json is one document; jsonl is one document a line.",
    )(command)


def color_option(command: _Command) -> _Command:
    """`--color`: whether the output for people is coloured."""
    return click.option(
        "--color",
        type=click.Choice([choice.value for choice in Color], case_sensitive=False),
        callback=lambda _context, _option, value: Color(value),
        default=Color.AUTO.value,
        envvar="STEPWIRE_COLOR",
        show_envvar=True,
        show_default=True,
        help="auto: on a terminal, unless NO_COLOR is set.",
    )(command)


def inspection(run_id: str) -> str:
    """The command that shows a run of the engine this command talks to."""
    return here(f"stepwire runs show {run_id}")


def here(command: str) -> str:
    """A command to type next, for the engine this command talks to."""
    context = click.get_current_context()
    given = context.get_parameter_source("address") is click.core.ParameterSource.COMMANDLINE
    return command + (f" --engine {context.params['address']}" if given else "")
