"""The guide cannot lie: its code runs, its commands parse, its settings load, and the names it uses exist."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

import stepwire
from scripts import docs
from stepwire._runtime import telemetry as host_telemetry
from stepwire.protocol.failure import ErrorCode
from stepwire_engine import cli, config, telemetry
from tests import evicting
from tests.architecture.source import ROOT
from tests.docs.pages import Block, Entered, Page, blocks_of, guide, loaded, program

EXAMPLES = Page(ROOT / "examples" / "flows" / "README.md")
PAGES = pytest.mark.parametrize("page", guide(), ids=lambda page: page.path.stem)
LANGUAGES = {"python", "console", "text", "json", "toml"}
PUBLIC_NAME = re.compile(r"\bstepwire\.([A-Za-z]\w*)")
CTX_METHOD = re.compile(r"\bctx\.(step|group)\.(\w+)\(")
SETTING = re.compile(r"`([a-z]\w*_(?:allow|grace|idle|max|slots|window))`")
CODE = re.compile(r"code `(\w+)`")
METRIC = re.compile(r"\bstepwire_\w+")


def test_there_is_a_page_for_every_topic() -> None:
    assert [page.path.stem for page in guide()] == sorted(
        [
            "cancellation", "clients", "compensation", "declarative", "events", "failures", "groups", "hosts",
            "http-calls", "logs", "long-lives", "monitoring",
            "secrets", "steps", "testing", "tracing",
        ]
    )  # fmt: skip


@PAGES
@pytest.mark.timeout(60)
def test_its_code_runs_and_runs_every_flow_it_shows(page: Page) -> None:
    if evicting.always() and "body_entries ==" in page.text:
        pytest.skip(evicting.REASON)
    with loaded(page, page.blocks("python")) as module:
        entered = Entered(module)
        proofs = [value for name, value in vars(module).items() if name.startswith("test_")]
        assert proofs, "a page proves what it says: it needs functions named test_..."
        for proof in proofs:
            proof()
        assert entered.missing == [], "nothing on the page runs these flows"


@PAGES
def test_its_blocks_say_what_they_are(page: Page) -> None:
    assert {block.language for block in blocks_of(page.text)} <= LANGUAGES


@PAGES
def test_its_json_is_json_and_its_settings_load(page: Page, tmp_path: Path) -> None:
    for block in page.blocks("json"):
        json.loads(block.text)
    for number, block in enumerate(page.blocks("toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(block.text, encoding="utf-8")
        config.load(file=file)


# ---- commands


def commands(page: Page) -> Iterator[str]:
    for block in page.blocks("console"):
        yield from re.findall(r"^\$ (stepwire .*)$", block.text, re.MULTILINE)


def parse(command: str) -> None:
    """Let click read the arguments of a command, and do nothing. Raises click.UsageError."""
    member: click.Command = cli.stepwire
    name, *words = shlex.split(command)
    context = click.Context(member, info_name=name, **member.context_settings)
    while isinstance(member, click.Group):
        found = member.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"no command {words[0]!r}")
        member, words = found, words[1:]
    member.make_context(member.name, words, parent=context)


@pytest.mark.parametrize("page", [*guide(), EXAMPLES], ids=lambda page: page.path.parent.name + "/" + page.path.stem)
def test_its_commands_parse(page: Page) -> None:
    for command in commands(page):
        parse(command)


@pytest.mark.parametrize("command", ["stepwire dance", "stepwire send a --loudly", "stepwire runs cancel --all=yes x"])
def test_the_rule_sees_a_command_that_does_not_parse(command: str) -> None:
    with pytest.raises(click.UsageError):
        parse(command)


# ---- examples


def test_every_example_flow_has_a_row() -> None:
    rows = re.findall(r"^\| `(\w+\.py)` \| ([^|]+) \|", EXAMPLES.text, re.MULTILINE)
    there = {path.name for path in EXAMPLES.path.parent.glob("*.py")} - {"__init__.py"}
    assert {name for name, _ in rows} == there
    for name, flows in rows:
        host = import_module(f"examples.flows.{name.removesuffix('.py')}").host
        assert sorted(re.findall(r"`([^`]+)`", flows)) == sorted(host.flows)


# ---- names


def unknown_names(text: str) -> Iterator[str]:
    parts = dict(docs.parts_of("Context"))
    for name in PUBLIC_NAME.findall(text):
        if name not in stepwire.__all__ and not (Path(stepwire.__file__).parent / f"{name}.py").exists():
            yield f"stepwire.{name}"
    for part, method in CTX_METHOD.findall(text):
        if method not in dict(docs.members(parts[part])):
            yield f"ctx.{part}.{method}"
    yield from sorted(set(METRIC.findall(text)) - metrics() - {"stepwire_engine"})
    settings = set(config.Config.__dataclass_fields__) | set(inspect.signature(stepwire.Host).parameters)
    yield from sorted(set(SETTING.findall(text)) - settings)
    yield from sorted(set(CODE.findall(text)) - {code.slug for code in ErrorCode})


def metrics() -> set[str]:
    tables = (telemetry.PREFIX, telemetry.METRICS), (host_telemetry.PREFIX, host_telemetry.METRICS)
    return {prefix + metric.name for prefix, table in tables for metric in table}


@PAGES
def test_the_names_it_uses_exist(page: Page) -> None:
    assert list(unknown_names(page.text)) == []


def test_the_rule_sees_a_name_that_does_not_exist() -> None:
    text = "stepwire.Client, stepwire.Clerk, stepwire.errors, ctx.step.walk('a'), stepwire_runs, stepwire_miles_total"
    assert list(unknown_names(text)) == ["stepwire.Clerk", "ctx.step.walk", "stepwire_miles_total"]
    text = "`live_idle` and `luck_max`; with code `timeout` or code `bad_luck`"
    assert list(unknown_names(text)) == ["luck_max", "bad_luck"]


# ---- the mechanism


def test_code_stands_on_the_lines_of_its_page() -> None:
    page = "# a\n\n```python\nx = 1\n```\ntext\n```python\ny = 2\n```\n"
    blocks = list(blocks_of(page))
    assert blocks == [Block("python", "x = 1\n", 3), Block("python", "y = 2\n", 7)]
    assert program(blocks).split("\n")[3] == "x = 1" and program(blocks).split("\n")[7] == "y = 2"


def test_a_flow_that_nothing_runs_is_seen(tmp_path: Path) -> None:
    page = Page(tmp_path / "lazy.md")
    page.path.write_text("```python\nimport stepwire\nhost = stepwire.Host('h')\n@host.flow\ndef f(ctx): ...\n```\n")
    with loaded(page, page.blocks("python")) as module:
        assert Entered(module).missing == ["f"]
