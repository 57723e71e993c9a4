"""Results as Markdown and as pictures; the page of the documentation is made from the committed lines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import page, plots
from benchmarks.checkout import PINNED
from benchmarks.lines import encode, read
from benchmarks.medians import Results, results
from benchmarks.pace import SLOWED_MAX
from benchmarks.workloads import named
from tests.architecture.source import ROOT
from tests.benchmarks.made import measured, session, some, subject

ROUNDS_MIN = 3
DOCS = ROOT / "docs"
FIGURES, CALM = DOCS / "benchmarks" / "figures.jsonl", DOCS / "benchmarks" / "calm.jsonl"


@pytest.mark.parametrize(("shown", "figures"), [("performance.md", FIGURES), ("benchmarks/calm.md", CALM)])
def test_the_page_shows_the_committed_figures(shown: str, figures: Path) -> None:
    text = (DOCS / shown).read_text(encoding="utf-8")
    made = page.placed(text, page.markdown(results(read(figures))))
    command = f"python -m benchmarks report {figures.relative_to(ROOT)} --page docs/{shown}"
    assert made == text, f"run `{command}`"


def test_figures_of_calm_cores_are_of_calm_cores() -> None:
    found = results(read(CALM))
    assert all(figures["slowed"] <= SLOWED_MAX for rounds in found.rounds.values() for figures in rounds)
    assert min(len(rounds) for rounds in found.rounds.values()) >= ROUNDS_MIN


def test_committed_figures_are_no_try() -> None:
    found = results(read(FIGURES))
    assert found.session is not None and found.session.scale == 1
    assert min(len(rounds) for rounds in found.rounds.values()) == found.session.repeat >= ROUNDS_MIN
    missing = {workload.name for workload in named(["all"])} - set(found.workloads())
    assert missing == set(), "measure `all --peers`"


def test_sections_are_of_what_was_measured() -> None:
    made = page.markdown(some())
    assert made.startswith("Measured on 2026-11-21: cores 2, python 3.11.7; databases on ext4. Medians of 3 interl")
    assert "| groups of 100, 10 runs at once | ≥ 40,000 steps/s | 50,000 | met |" in made
    assert "### Cost by size: one sequence, by length" in made and "one group, by size" not in made
    assert "W3: groups of 100, 4 runs at once: **restate** | 167 | 6,000 |  | 400 |  |  | 12.0x | 0.05x |" in made
    assert "| restate | 1.0 | a process | durable as restate is |" in made
    assert "- Not measured: inngest: no server binary" in made


def test_what_had_cores_of_its_own_stands_beside_it_and_is_no_peer() -> None:
    lines = [session(), measured("group_100", steps_per_s=30_000), measured("startup", import_s=0.1)]
    pinned = measured("group_100", PINNED, steps_per_s=45_000)
    made = page.markdown(results([*lines, subject(PINNED), pinned]))
    assert "| work | goal | measured |  | own cores |  |" in made
    assert "| groups of 100, 10 runs at once | ≥ 40,000 steps/s | 30,000 | missed | 45,000 | met |" in made
    assert "| import, command, engine | ≤ 0.35 import s | 0.10 | met |  |  |" in made
    assert "| groups of 100, 10 runs at once, own cores | 45,000 |" in made and "Beside other engines" not in made


def test_without_peers_there_is_no_comparison() -> None:
    made = page.markdown(results([session(), measured("group_100", steps_per_s=1)]))
    assert "Beside other engines" not in made and "Cost by size" not in made
    assert page.markdown(Results()) == ""


def test_figures_that_others_disturbed_are_called_rough() -> None:
    lines = [session(), measured("w1", foreign_cores=0.4), measured("w2", foreign_cores=0.2)]
    assert "**While 1 of 2 were measured, other processes used more than 0.3 cores" in page.markdown(results(lines))
    assert "rough" not in page.markdown(results([session(), measured("w2", foreign_cores=0.2)]))


def test_it_says_how_many_waited_for_calm_cores_in_vain() -> None:
    lines = [measured("w1", slowed=1.1), measured("w1", slowed=1.9), measured("w2", slowed=1.0)]
    assert "waited up to 20 s" in (made := page.markdown(results([session(patience=20.0), *lines])))
    assert "1 of 3 were slowed all the same." in made
    assert "slowed" not in page.markdown(results([session(), *lines]))


def test_a_page_keeps_what_stands_around_the_marks(tmp_path: Path) -> None:
    old = f"# Title\n\n{page.BEGIN}\n\nold\n\n{page.END}\n\nmore\n"
    assert page.placed(old, "new") == f"# Title\n\n{page.BEGIN}\n\nnew\n\n{page.END}\n\nmore\n"
    with pytest.raises(ValueError, match="needs one line"):
        page.placed("# Title\n", "new")
    lines, target = tmp_path / "lines.jsonl", tmp_path / "page.md"
    lines.write_text(encode(session()) + "\n" + encode(measured("group_100", steps_per_s=1)) + "\n")
    target.write_text(old)
    assert page.main([str(lines), "--page", str(target)]) == 0
    assert "| groups of 100, 10 runs at once | 1.00 |" in target.read_text()


def test_pictures_are_svg(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra bench is not installed")
    assert plots.plot(some(), tmp_path) == [f"wrote {tmp_path / name}.svg" for name in ("curves", "peers")]
    first = [(tmp_path / f"{name}.svg").read_text() for name in ("curves", "peers")]
    assert all("<svg" in text and not any(line != line.rstrip() for line in text.splitlines()) for text in first)
    plots.plot(some(), tmp_path)
    assert [(tmp_path / f"{name}.svg").read_text() for name in ("curves", "peers")] == first


def test_without_matplotlib_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    assert plots.plot(some(), tmp_path) == [plots.MISSING]
    assert list(tmp_path.iterdir()) == []
