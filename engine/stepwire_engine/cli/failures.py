"""Errors for people and scripts: one line what, one line why, one line with the next command, and an exit code.

The codes are those of `stepwire --help`. What the engine refuses gets its exit code from the same table that
gives it its gRPC status (`transport.status`); this module adds only what never crosses the wire.
"""

from __future__ import annotations

import enum
import os
import sys
from typing import TYPE_CHECKING

import click

from stepwire_engine.cli.terminal import printable, talk

if TYPE_CHECKING:
    from stepwire.errors import StepwireError


class ExitCode(enum.IntEnum):
    """What the process ends with."""

    OK = 0
    RUN_FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    CONFLICT = 5
    TIMED_OUT = 6
    NOT_AUTHORISED = 7
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot do what it was asked.

    Args:
        what: What happened, one line.
        why: What caused it.
        next_command: What to type or do next.
        exit_code: What the process ends with.
    """

    def __init__(self, what: str, *, why: str, next_command: str, exit_code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.next_command = next_command
        self.exit_code = exit_code


def report(error: BaseException) -> int:
    """Say on stderr what went wrong; returns the exit code. Unknown errors are raised again: they are bugs."""
    match error:
        case KeyboardInterrupt() | click.Abort():
            return ExitCode.INTERRUPTED
        case BrokenPipeError():
            # The reader of our output left, as in `| head`. Nothing may be flushed into the pipe any more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ExitCode.RUN_FAILED
        case CommandError():
            return _say(error.what, error.why, error.next_command, error.exit_code)
        case click.ClickException():
            return _say(*_usage(error), ExitCode.USAGE)
        case _:
            return _report_other(error)


def _report_other(error: BaseException) -> int:
    # Imported here: a usage error must not take as long as a connection.
    from stepwire.errors import StepwireError
    from stepwire_engine.config import ConfigError

    match error:
        case ConfigError():
            what, why, following = _three_lines(str(error))
            return _say(
                what, why or "the configuration is wrong", following or "stepwire engine --help", error.exit_code
            )
        case StepwireError():
            why = error.why or f"code {error.code.slug}"
            return _say(error.message, why, error.hint or "stepwire runs list", exit_code(error))
        case _:
            raise error


def exit_code(error: StepwireError) -> int:
    """The exit code for an error of the SDK: that of its ErrorCode, except for the end of a run."""
    from stepwire.errors import RunCancelled, RunFailed
    from stepwire_engine.transport.status import STATUS

    # Their code is that of the failure inside the flow, whatever it was.
    if isinstance(error, RunFailed | RunCancelled):
        return ExitCode.RUN_FAILED
    return STATUS[error.code].exit_code


def _usage(error: click.ClickException) -> tuple[str, str, str]:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "stepwire"
    usage = context.get_usage().removeprefix("Usage: ") if context is not None else "stepwire COMMAND"
    return error.format_message(), f"usage: {' '.join(usage.split())}", f"{path} --help"


def _three_lines(text: str) -> tuple[str, str, str]:
    """Take apart a text of the form "what / why: ... / next: ..."."""
    what, *rest = (line.strip() for line in text.splitlines() or [""])
    parts = dict(line.split(": ", 1) for line in rest if ": " in line)
    return what, parts.get("why", ""), parts.get("next", "")


def _say(what: str, why: str, following: str, code: int) -> int:
    for label, text in (("error:", what), ("why:  ", why), ("next: ", following)):
        talk(f"{label} {' '.join(printable(text).split())}")
    return int(code)
