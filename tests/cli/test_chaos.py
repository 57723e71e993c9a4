"""`stepwire chaos`: a real storm that loses nothing, one whose truth is falsified, and the judgement by itself."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stepwire_engine.cli import chaos_truth
from stepwire_engine.cli.chaos_storm import engine_recoveries
from stepwire_engine.cli.chaos_truth import Absence, Findings, Line, Pen, judge, read_lines
from tests.cli.commands import environment, stepwire_command

SECONDS_MAX = 75
"""Of a whole storm; it gives its runs a minute to end."""


def storm(tmp_path: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    """Run the command; its exit code, its document, and what it said."""
    done = subprocess.run(
        [*stepwire_command(), "chaos", "-o", "json", *options],
        capture_output=True, text=True, cwd=tmp_path, stdin=subprocess.DEVNULL, env=environment(),
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.timeout(SECONDS_MAX)
def test_a_storm_loses_nothing(tmp_path: Path, seed: int) -> None:
    code, verdict, said = storm(tmp_path, "--seconds", "6", "--seed", str(seed), "--directory", "kept")
    assert (code, verdict["ok"], verdict["problems"]) == (0, True, []), said
    assert verdict["runs"] > 0 and verdict["steps"] > verdict["runs"]
    assert verdict["runs_failed_and_undone"] > 0
    assert sum(verdict["faults"].values()) > 0 and verdict["seed"] == seed
    assert said.count("(pid ") == sum(verdict["faults"].values()), "a line for each fault"
    assert (tmp_path / "kept" / "engine.db").exists()


@pytest.mark.timeout(SECONDS_MAX)
def test_a_storm_with_gaps_in_the_truth_is_no_success(tmp_path: Path) -> None:
    code, verdict, said = storm(tmp_path, "--seconds", "100ms", "--forget", "20", "--directory", "kept")
    assert (code, verdict["ok"]) == (1, False), said
    assert verdict["lost"] > 0 and "no host made it" in str(verdict["problems"])


# ---- the judgement


RUN = "run-1"


def step(path: str, output: str, *attempts: int, state: str = "SUCCEEDED") -> Any:
    tries = [SimpleNamespace(number=number, failure=None) for number in attempts or (1,)]
    return SimpleNamespace(path=path, kind="run", output=output, attempts=tries, state=state)


def line(event: str, path: str, pid: int, at: float, *stamps: str) -> Line:
    return Line(event, RUN, path, 1, pid, at, stamps)


def history(*more: Line) -> list[Line]:
    """Step b is given the result of step a."""
    return [
        line("begun", "a", 7, 1.0),
        line("ended", "a", 7, 2.0, "7-1"),
        line("begun", "b", 7, 3.0, "7-1"),
        line("ended", "b", 7, 4.0, "7-2"),
        *more,
    ]


def findings(lines: list[Line], *absences: Absence, a: str = "7-1", attempts: tuple[int, ...] = (1,)) -> Findings:
    record: Any = SimpleNamespace(run_id=RUN, steps=[step("a", a, *attempts), step("b", "7-2")])
    return judge([record], lines, absences)


def test_a_history_without_faults_is_fine() -> None:
    assert findings(history()) == Findings(steps=2)


def test_a_result_that_was_used_and_is_not_on_record_is_lost() -> None:
    again = [line("begun", "a", 8, 2.5), line("ended", "a", 8, 2.6, "8-1")]
    found = findings(history(*again), Absence(7, 2.4), a="8-1")
    assert found.lost == ["result 7-1 of step a of run run-1 was used, and is not on record"]


def test_a_result_that_no_host_made_is_lost() -> None:
    found = findings(history(), a="9-9")
    assert "step a of run run-1 has a result on record that its attempt did not make" in found.lost


def test_two_successes_of_a_step_are_applied_twice() -> None:
    assert findings(history(), attempts=(1, 2)).twice == ["step a of run run-1"]


def test_an_attempt_that_its_killed_host_did_not_end_may_be_repeated() -> None:
    lines = [line("begun", "a", 6, 0.5), *history()]
    found = findings(lines, Absence(6, 0.75))
    assert (found.repeated, found.slowest_repeat, found.causeless) == (1, 0.25, [])


def test_an_attempt_whose_host_lives_may_not_be_repeated() -> None:
    lines = [line("begun", "a", 6, 0.5), *history()]
    assert findings(lines).causeless == ["step a of run run-1 was executed again though its host lived"]
    later = Absence(6, 1.5)
    assert findings(lines, later).causeless, "its host was killed only after the repetition"


def test_a_step_whose_result_was_used_may_not_be_repeated() -> None:
    found = findings(history(line("begun", "a", 8, 5.0)), Absence(7, 4.5))
    assert found.lost == ["step a of run run-1 was executed again after its result was used"]


def test_a_host_that_was_stopped_may_begin_late_what_others_did() -> None:
    found = findings(history(line("begun", "a", 8, 5.0)), Absence(8, 0.5, 4.9))
    assert (found.lost, found.repeated) == ([], 1)
    much_later = 4.9 - chaos_truth.LATE_SECONDS
    assert findings(history(line("begun", "a", 8, 5.0)), Absence(8, 0.5, much_later)).lost


def test_recovery_is_from_the_kill_to_the_first_step_after_the_start() -> None:
    assert engine_recoveries([(1.0, 2.0), (8.0, 9.0)], [1.5, 2.5, 9.5]) == [1.5, 1.5]
    assert engine_recoveries([(1.0, 2.0)], []) == []


def test_what_hosts_write_is_read_back(tmp_path: Path) -> None:
    pen = Pen(str(tmp_path / "truth"), forget=2)
    pen.begun(RUN, "parallel/[0]/one", 1, ["7-1", "7-2"])
    stamps = [pen.ended(RUN, "parallel/[0]/one", 1) for _ in range(2)]
    begun, ended = read_lines(tmp_path / "truth")
    assert (begun.event, begun.key, begun.stamps) == ("begun", (RUN, "parallel/[0]/one", 1), ("7-1", "7-2"))
    assert ended.stamps == (stamps[0],), "the second one was forgotten"
