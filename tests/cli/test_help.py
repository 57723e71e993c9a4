"""Help is quick, complete, and shows each environment variable."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from stepwire_engine import cli, config
from tests.cli.commands import environment, stepwire_command

GOLDEN = Path(__file__).parent / "golden"
HELP_SECONDS_MAX = 0.3


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command, with the words that call it."""
    for name in cli.COMMANDS:
        command = cli.stepwire.get_command(click.Context(cli.stepwire), name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", found) for sub, found in command.commands.items())


ALL = dict(commands())


def help_of(words: str) -> str:
    variables = environment(COLUMNS="100")
    done = subprocess.run(
        [*stepwire_command(), *words.split(), "--help"], capture_output=True, text=True, env=variables
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_is_the_golden_text() -> None:
    """Update with `python -m tests.cli.test_help > tests/cli/golden/help.txt`, and read the difference."""
    assert all_help() == (GOLDEN / "help.txt").read_text(encoding="utf-8")


def all_help() -> str:
    texts = {words: help_of(words) for words in ("", *ALL)}
    return "\n".join(f"$ stepwire {words} --help".replace("  ", " ") + f"\n{text}" for words, text in texts.items())


@pytest.mark.parametrize("words", ALL)
def test_every_option_and_command_says_what_it_does(words: str) -> None:
    command = ALL[words]
    assert command.help
    undocumented = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert undocumented == []


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_table_says_the_same_as_the_command(name: str) -> None:
    assert (ALL[name].help or "").partition("\n")[0] == cli.COMMANDS[name][1]


def test_every_setting_of_the_engine_has_its_flag_and_environment_name() -> None:
    text = " ".join(help_of("engine").split())
    missing = [s.field for s in config.SETTINGS if s.flag not in text or f"[env var: {s.env};" not in text]
    assert missing == []


def test_help_answers_at_once() -> None:
    """The best of several, in seconds of a core, so that a busy machine does not fail it."""
    assert min(_seconds_of_help() for _ in range(5)) < HELP_SECONDS_MAX


def _seconds_of_help() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    help_of("")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def test_help_imports_neither_grpc_nor_rich_nor_the_sdk() -> None:
    code = (
        "import sys, stepwire_engine.cli; print(*{'grpc', 'rich', 'stepwire', 'anyio', 'msgspec'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr


if __name__ == "__main__":
    print(all_help(), end="")
