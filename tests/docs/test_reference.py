"""The documents cannot lie: reference pages are current and complete, links resolve, citations have a target."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import stepwire
from scripts import docs
from stepwire._runtime import telemetry as host_telemetry
from stepwire.protocol.failure import ErrorCode
from stepwire_engine import cli, config, telemetry
from stepwire_engine.transport.status import STATUS
from tests.architecture.source import PACKAGES, ROOT, modules

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)
MISSION = re.compile(r"MISSION ((?:[A-Z]?\d+(?:\.\d+)?(?:-[A-Z]?\d+)?(?:, | and )?)+)")
MISSION_SECTION = re.compile(r"MISSION section (\d+(?:\.\d+)?)")
CAPABILITY = re.compile(r"\b([A-Z])(\d+)(?:-[A-Z]?(\d+))?\b")
DESIGN = re.compile(r"DESIGN (?:section )?(\d)(?:,? rules? ((?:\d(?:, | and )?)+))?")
ABSOLUTE_PATH = re.compile(r"(?:^|[\s(`\"'])(/(?!dev/|proc/)\w[\w.-]*/\w[\w./-]*)", re.MULTILINE)
CODE_ROOTS = (*PACKAGES, "tests", "examples", "benchmarks", "scripts")


def documents() -> list[Path]:
    """Every Markdown file of the project."""
    folders = (ROOT / name for name in ("docs", "proto", "examples", "benchmarks", "engine", "python_sdk"))
    return sorted([*ROOT.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.md"))])


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# ---- generated pages


def test_the_reference_is_current() -> None:
    assert docs.stale() == [], "run `python scripts/docs.py` and read the difference"


def test_pages_do_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: make() for name, make in docs.PAGES.items()}
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("STEPWIRE_DB", "/elsewhere.db")
    monkeypatch.setenv("STEPWIRE_ENGINE", "elsewhere:1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert {name: make() for name, make in docs.PAGES.items()} == before


def test_a_changed_help_makes_its_page_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.stepwire, "help", "Something else.")
    assert docs.stale() == ["cli.md"]


# ---- nothing public without an explanation


def undocumented_names() -> Iterator[str]:
    for name in stepwire.__all__:
        subject = getattr(stepwire, name)
        if not docs.first_line(subject):
            yield name
        if isinstance(subject, type):
            for owner in (subject, *(part for _, part in docs.parts_of(name))):
                yield from (f"{owner.__name__}.{m}" for m, found in docs.members(owner) if not docs.first_line(found))
    yield from (cls.__name__ for cls in [*docs.exceptions(), *docs.store_errors()] if not docs.first_line(cls))


def test_every_public_name_has_a_docstring() -> None:
    assert list(undocumented_names()) == []


def test_every_command_and_option_has_help() -> None:
    commands = list(docs.commands())
    assert len(commands) > len(cli.COMMANDS), "the walk does not reach the members of groups"
    silent = [context.command_path for context, command in commands if not command.help]
    options = [
        f"{context.command_path} {option.opts[0]}"
        for context, command in commands
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert silent + options == []


def test_every_metric_has_help() -> None:
    engine = [metric.name for metric in telemetry.METRICS if not metric.help]
    host = [metric.name for metric in host_telemetry.METRICS if not metric.help]
    assert engine + host == []


def test_every_setting_has_help_and_a_field() -> None:
    assert [setting.key for setting in config.SETTINGS if not setting.help] == []
    assert {setting.field for setting in config.SETTINGS} == set(config.Config.__dataclass_fields__)


def test_every_code_has_a_meaning_and_a_status() -> None:
    meanings = docs.code_meanings()
    assert [code.name for code in ErrorCode if not meanings.get(code.name)] == []
    assert set(STATUS) == set(ErrorCode)


def test_the_rules_see_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepwire.Host.flow, "__doc__", "")
    assert list(undocumented_names()) == ["Host.flow"]


# ---- links


def anchors(text: str) -> set[str]:
    """Anchors of headings as forges make them."""
    plain = (re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(text))
    return set(plain)


def broken_links(path: Path) -> Iterator[str]:
    for target in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = urllib.parse.unquote(target).partition("#")
        found = path.parent / file if file else path
        if not found.exists():
            yield target
        elif anchor and anchor not in anchors(FENCE.sub("", found.read_text(encoding="utf-8"))):
            yield f"{target} (no such heading)"


@pytest.mark.parametrize("path", documents(), ids=name_of)
def test_relative_links_resolve(path: Path) -> None:
    assert list(broken_links(path)) == []


def test_the_rule_sees_a_broken_link(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One thing\n[a](#one-thing) [b](missing.md) [c](#two) [d](https://example.com)\n")
    assert list(broken_links(page)) == ["missing.md", "#two (no such heading)"]


@pytest.mark.parametrize("path", documents(), ids=name_of)
def test_documents_name_no_place_of_one_machine(path: Path) -> None:
    assert ABSOLUTE_PATH.findall(path.read_text(encoding="utf-8")) == []


def test_the_rule_sees_a_path_of_one_machine() -> None:
    assert ABSOLUTE_PATH.findall("see `/home/me/notes.md`, not a/b/c, `parallel/[1]/b`, /metrics or /dev/null") == [
        "/home/me/notes.md"
    ]


@pytest.mark.parametrize("folder", ["docs", "docs/adr", "docs/guide", "docs/reference"])
def test_the_index_names_every_page(folder: str) -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / target).resolve() for target in LINK.findall(index)}
    pages = {path.resolve() for path in (ROOT / folder).glob("*.md")} - {ROOT / "docs" / "README.md"}
    assert sorted(map(name_of, pages - linked)) == []


# ---- citations


def cited_capabilities(text: str) -> set[str]:
    found = set()
    for citation in MISSION.findall(text):
        for letter, first, last in CAPABILITY.findall(citation):
            found |= {f"{letter}{n}" for n in range(int(first), int(last or first) + 1)}
    return found


def cited_sections_of_the_mission(text: str) -> set[str]:
    cited = " ".join([*MISSION.findall(text), *MISSION_SECTION.findall(text)])
    return set(re.findall(r"(?<![A-Z\d.])\d+(?:\.\d+)?", cited))


def cited_sections(text: str) -> set[str]:
    found = set()
    for section, rules in DESIGN.findall(text):
        found |= {section} | {f"{section} rule {n}" for n in re.findall(r"\d", rules)}
    return found


def sources() -> Iterator[tuple[str, str]]:
    yield from ((module.name, module.text) for module in modules(*CODE_ROOTS))
    yield from ((name_of(path), path.read_text(encoding="utf-8")) for path in documents())


def test_every_cited_capability_is_explained() -> None:
    text = (ROOT / "docs" / "mission.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^\| ([A-Z]\d+) \|", text, re.MULTILINE))
    unknown = {name: sorted(cited_capabilities(source) - known) for name, source in sources()}
    assert {name: ids for name, ids in unknown.items() if ids} == {}


def test_every_cited_section_of_the_mission_exists() -> None:
    known = set(re.findall(r'Cited as "MISSION ([\d.]+)"', (ROOT / "docs" / "mission.md").read_text(encoding="utf-8")))
    unknown = {name: sorted(cited_sections_of_the_mission(source) - known) for name, source in sources()}
    assert {name: ids for name, ids in unknown.items() if ids} == {}


def test_every_cited_section_of_the_design_exists() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^## (\d)\. ", text, re.MULTILINE))
    protocol = text[text.index("\n## 3. ") : text.index("\n## 4. ")]
    known |= {f"3 rule {n}" for n in re.findall(r"^(\d)\. ", protocol, re.MULTILINE)}
    unknown = {name: sorted(cited_sections(source) - known) for name, source in sources()}
    assert {name: ids for name, ids in unknown.items() if ids} == {}


def test_the_rules_read_citations() -> None:
    assert cited_capabilities("(MISSION I1-I3, P12) and (MISSION V1, DESIGN 7)") == {"I1", "I2", "I3", "P12", "V1"}
    assert cited_sections_of_the_mission("MISSION S8, 2.2 and P14; (MISSION section 8)") == {"2.2", "8"}
    assert cited_sections("DESIGN 3, rules 3, 4 and 8; DESIGN section 4") == {
        "3", "3 rule 3", "3 rule 4", "3 rule 8", "4",
    }  # fmt: skip


# ---- the map

MAP = ROOT / "ARCHITECTURE.md"
MAP_LINES_MAX = 200


def modules_on_the_map() -> set[str]:
    """What the code map names: first column the folder, second its modules."""
    rows = re.findall(
        r"^\| `((?:engine|python_sdk)/[^`]*/)` \| ([^|]*) \|", MAP.read_text(encoding="utf-8"), re.MULTILINE
    )
    return {f"{folder}{name}.py" for folder, names in rows for name in re.findall(r"`(\w+)`", names)}


def test_the_map_fits_on_a_few_screens() -> None:
    assert len(MAP.read_text(encoding="utf-8").splitlines()) <= MAP_LINES_MAX


def test_the_map_names_every_module_and_no_other() -> None:
    there = {module.name for module in modules(*PACKAGES) if not module.name.endswith("/__init__.py")}
    assert sorted(there - modules_on_the_map()) == [], "name them in the code map of ARCHITECTURE.md"
    assert sorted(modules_on_the_map() - there) == [], "they are gone: remove them from ARCHITECTURE.md"


def test_every_folder_of_tests_is_on_the_map() -> None:
    text = MAP.read_text(encoding="utf-8")
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert sorted(name for name in folders if f"| `{name}` |" not in text) == []
