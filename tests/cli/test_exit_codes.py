"""One table of exit codes, and errors of three lines: what, why, next command."""

from __future__ import annotations

import click
import pytest

from stepwire import errors
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire_engine.cli.failures import CommandError, ExitCode, exit_code, report
from stepwire_engine.config import ConfigError
from stepwire_engine.transport import status

FAILURE = Failure(ErrorCode.TIMEOUT, "StepTimeout", "too slow")


def test_the_command_line_and_the_table_agree() -> None:
    assert (
        ExitCode.RUN_FAILED, ExitCode.USAGE, ExitCode.NOT_FOUND, ExitCode.UNREACHABLE, ExitCode.CONFLICT,
    ) == (
        status.EXIT_RUN_FAILED, status.EXIT_USAGE, status.EXIT_NOT_FOUND, status.EXIT_UNREACHABLE, status.EXIT_CONFLICT,
    )  # fmt: skip


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.slug)
def test_every_code_of_a_refused_call_has_its_exit_code(code: ErrorCode) -> None:
    error = errors.RunError("refused")
    error.code = code
    assert exit_code(error) == status.STATUS[code].exit_code in set(ExitCode) - {ExitCode.OK}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.RunFailed(FAILURE, "01k"), 1),
        (errors.RunCancelled("cancelled"), 1),
        (errors.InvalidInput("no"), 2),
        (errors.ConfigurationError("no"), 2),
        (ConfigError("no"), 2),
        (click.UsageError("no"), 2),
        (errors.RunNotFound("no"), 3),
        (errors.UnknownFlow("no"), 3),
        (errors.EngineUnavailable("no"), 4),
        (errors.KeyConflict("no"), 5),
        (CommandError("no", why="because", next_command="try", exit_code=ExitCode.TIMED_OUT), 6),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_errors_say_what_why_and_what_next(error: Exception, expected: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(error) == expected
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line[:7] for line in shown.err.splitlines()] == ["error: ", "why:   ", "next:  "]
    assert all(len(line) > 7 for line in shown.err.splitlines())


def test_ctrl_c_is_130() -> None:
    assert report(KeyboardInterrupt()) == 130


def test_bugs_are_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError):
        report(ZeroDivisionError())


def test_messages_of_others_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report(errors.UnknownFlow("no\x1b[2J flow\nsecond\x9b line"))
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 3 and shown.replace("\n", "").isprintable()
