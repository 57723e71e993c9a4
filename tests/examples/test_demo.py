"""`make demo` as a real process over real processes, on a small directory; and that its claims could fail."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.census import demo, flow, ledger
from examples.census.analysis import CHUNKS_MIN
from examples.census.progress import Progress
from tests.architecture.source import ROOT

DEMO = ROOT / "examples/census/demo.py"
SOURCES = 30


@pytest.fixture
def sources(tmp_path: Path, rng: random.Random) -> Path:
    """Small files of various sizes, one of them without valid syntax."""
    directory = tmp_path / "sources"
    directory.mkdir()
    for i in range(SOURCES):
        functions = (f"def f{j}(x):\n    return x if x else {j}\n\n\n" for j in range(rng.randrange(1, 40)))
        (directory / f"module_{i}.py").write_text("".join(functions) if i else "def (\n", encoding="utf-8")
    return directory


def start(*arguments: str, temporary: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(DEMO), *arguments],
        cwd=temporary,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.timeout(90)
def test_what_it_claims_is_so(sources: Path, tmp_path: Path) -> None:
    with start(str(sources), "--json", temporary=tmp_path) as process:
        printed, told = process.communicate(timeout=80)
    assert process.returncode == 0, told
    shown: dict[str, Any] = json.loads(printed)
    first, second = shown["first"], shown["second"]
    assert set(first["steps_per_host"]) == {"census-1", "census-2"}
    assert sum(first["steps_per_host"].values()) == CHUNKS_MIN + 2
    assert min(first["steps_per_host"].values()) > 0
    assert first["census"]["total"]["tally"]["files"] == SOURCES
    assert len(first["census"]["syntax_errors"]) == 1
    assert second["results_equal"] is True
    assert second["completed_again"] == 0
    assert second["completed_at_kill"] > CHUNKS_MIN // 3
    # The kill was in the middle: both hosts were at work, and the flow body was lost.
    assert second["in_flight_on_killed"] > 0 and second["in_flight_on_survivor"] > 0
    assert second["body_entries"] > 1
    assert "kill -9" in told and f"0 of {second['completed_at_kill']}" in told
    assert list(tmp_path.glob("stepwire-census-*")) == [], "it cleans up"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_one_leaves_no_process(sources: Path, tmp_path: Path, number: signal.Signals) -> None:
    with start(str(sources), temporary=tmp_path) as process:
        assert process.stdout is not None
        pids = []
        for line in process.stdout:
            if "restarted" in line:
                pids = [int(word.strip("()")) for word in line.split() if word.strip("()").isdigit()]
                process.send_signal(number)
        assert process.wait(30) == 130
    assert len(pids) == 2
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert list(tmp_path.glob("stepwire-census-*")) == []


@pytest.mark.parametrize(
    ("files", "told"), [(CHUNKS_MIN - 1, f"{CHUNKS_MIN - 1} Python files"), (None, "is not a directory")]
)
def test_a_directory_it_cannot_use_is_refused(tmp_path: Path, files: int | None, told: str) -> None:
    directory = tmp_path / "few"
    if files is not None:
        directory.mkdir()
        for i in range(files):
            (directory / f"m{i}.py").touch()
    with start(str(directory), temporary=tmp_path) as process:
        _, error = process.communicate(timeout=15)
    assert process.returncode == 2
    assert told in error


# ---- could it fail?


class Handle:
    """Of a run that needs no engine."""

    run_id = "run"

    def get(self) -> Any:
        class Stats:
            body_entries = 2

        class Run:
            stats = Stats()

        return Run()


def judged(tmp_path: Path, text: str, *, equal: bool = True) -> tuple[demo.Demonstration, demo.SecondRun]:
    (tmp_path / "ledger").write_text(text, encoding="utf-8")
    show = demo.Demonstration(flow.Request("/"), tmp_path, 2, lambda line: None, Progress(sys.stderr))
    in_flight = {"census-1": frozenset({"b"}), "census-2": frozenset({"c"})}
    kill = demo.Kill(host="census-1", completed=frozenset({"a"}), in_flight=in_flight)
    return show, show._judged(Handle(), kill, equal)  # type: ignore[arg-type]


ONCE = "before run a 1 census-1 10\nafter run a 1 census-1 10\nbefore run b 1 census-1 10\nbefore run c 1 census-2 11\n"


def test_a_repeat_of_what_was_in_flight_is_told(tmp_path: Path) -> None:
    show, run = judged(tmp_path, ONCE + "before run b 1 census-2 11\nbefore other a 1 census-2 11\n")
    assert (run.completed_again, run.repeated_on_killed, run.repeated_on_survivor) == (0, 1, 0)
    show._tell(run)


def test_a_repeat_of_what_was_completed_is_a_failure(tmp_path: Path) -> None:
    show, run = judged(tmp_path, ONCE + "before run a 2 census-2 11\n")
    assert run.completed_again == 1
    with pytest.raises(demo.Disproved, match="1 completed steps were executed again"):
        show._tell(run)


def test_another_result_is_a_failure(tmp_path: Path) -> None:
    show, run = judged(tmp_path, ONCE, equal=False)
    with pytest.raises(demo.Disproved, match="differ"):
        show._tell(run)


def test_the_ledger_ignores_a_line_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    assert ledger.read(path) == []
    path.write_text(ONCE + "before run d 1 cen", encoding="utf-8")
    assert [line.path for line in ledger.read(path)] == ["a", "a", "b", "c"]
