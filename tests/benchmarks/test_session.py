"""The order of rounds, and what happens to those who cannot: nothing is measured here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import session
from benchmarks.floor import Floor
from benchmarks.lines import Line, Measurement, Skipped, Subject
from benchmarks.peers import choice, place
from benchmarks.processes import BenchmarkError
from benchmarks.stage import Point
from benchmarks.workloads import Workload, named
from tests.benchmarks.made import subject


@dataclass
class Pretended:
    """A subject that measures nothing; `fails` at these workloads, `skips` those."""

    name: str
    fails: tuple[str, ...] = ()
    skips: tuple[str, ...] = ()

    def subject(self) -> Subject:
        return subject(self.name)

    def does(self, workload: Workload) -> bool:
        return workload.name not in self.skips

    def prepare(self, workload: Workload, kept: Path) -> None:
        assert kept.is_dir()

    def measure(self, workload: Workload, folder: Path, kept: Path, floor: Floor) -> list[Point]:
        if workload.name in self.fails:
            raise BenchmarkError("it broke")
        assert kept.is_dir() and list(folder.iterdir()) == []
        return [Point({"steps": 1.0})]


def plan(tmp_path: Path, *subjects: Pretended, repeat: int = 2) -> session.Plan:
    workloads = named(["w1", "w3"])
    return session.Plan(workloads=workloads, subjects=subjects, repeat=repeat, folder=tmp_path, lock=tmp_path / "lock")


def test_workloads_take_turns_in_rounds_and_subjects_within(tmp_path: Path) -> None:
    made = session.turns(plan(tmp_path, Pretended("a"), Pretended("b", skips=("w3",))))
    assert [(number, workload.name, subject.name) for number, workload, subject in made] == [
        (1, "w1", "b"), (1, "w1", "a"), (1, "w3", "a"), (2, "w1", "a"), (2, "w1", "b"), (2, "w3", "a"),
    ]  # fmt: skip


def test_who_fails_is_told_once_and_not_asked_again(tmp_path: Path) -> None:
    lines: list[Line] = []
    failed = session.run(plan(tmp_path, Pretended("a"), Pretended("b", fails=("w3",))), lines.append)
    assert failed == [Skipped(subject="b", workload="w3", reason="BenchmarkError: it broke")]
    assert [line for line in lines if isinstance(line, Skipped)] == failed
    assert len([line for line in lines if isinstance(line, Measurement)]) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


def test_peers_that_are_not_installed_are_skipped_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "PYTHON", tmp_path / "python")
    able, skipped = choice.chosen("dbos-sqlite,inngest")
    assert able == []
    assert [(one.subject, one.reason) for one in skipped] == [
        ("dbos-sqlite", place.NOT_INSTALLED),
        ("inngest", "no server binary: name it with --inngest FILE"),
    ]
