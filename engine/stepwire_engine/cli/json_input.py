"""JSON that is given on the command line: as it is, in a file, or on stdin."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from stepwire_engine.cli.failures import CommandError


def json_value(given: str | None, what: str, flag: str, command: str) -> Any:
    """The value of an option `JSON|@FILE|-`; None without one.

    Args:
        what: What it is for people, e.g. "input".
        flag: How it is given, e.g. "--input".
        command: Whose option it is, e.g. "stepwire run".

    Raises:
        CommandError: it cannot be read, or is no JSON.
    """
    if given is None:
        return None
    try:
        text = _text(given)
    except (OSError, UnicodeDecodeError) as problem:
        raise CommandError(
            f"cannot read the {what} {given}", why=str(problem), next_command=f"{command} --help"
        ) from None
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as problem:
        raise CommandError(
            f"the {what} is not JSON",
            why=str(problem),
            next_command=f"""quote it for the shell, e.g. {flag} '{{"a": 1}}'""",
        ) from None


def _text(given: str) -> str:
    if given == "-":
        return sys.stdin.read()
    return Path(given[1:]).read_text(encoding="utf-8") if given.startswith("@") else given


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")
