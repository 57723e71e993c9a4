"""The command, tiny: what it measures, it proves, and what it writes can be read. Times nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.checkout import own
from benchmarks.journal import DURABLE, must_hold, reread
from benchmarks.lines import Measurement, Session, Skipped, Subject, read
from benchmarks.medians import Key, results
from benchmarks.processes import BenchmarkError, engine


@pytest.mark.timeout(90)
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.jsonl"
    code = main(["sequence", "spread_4", "--repeat=1", "--scale=0.01", f"--json={file}", f"--dir={tmp_path}"])
    said = capsys.readouterr()
    assert code == 0, said.err
    lines = read(file)
    assert [type(line) for line in lines[:2]] == [Session, Subject]
    assert not [line for line in lines if isinstance(line, Skipped)]
    measured = results(lines)
    sequence = measured.medians(Key("sequence", "stepwire"))
    assert sequence["ratio"] > 1 and sequence["commits_per_step"] >= 1 and sequence["body_entries_per_run"] == 1
    assert measured.medians(Key("spread_4", "stepwire"))["steps"] == 2
    assert "a try, no result" in said.out and "one run, strictly sequential" in said.out
    assert list(tmp_path.iterdir()) == [file], "what was made while measuring is removed"


@pytest.mark.benchmark
@pytest.mark.timeout(300)
def test_every_workload_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not in `make test`: for whoever changes a scenario, `pytest -m benchmark`."""
    assert main(["all", "more", "--repeat=1", "--scale=0.01", f"--dir={tmp_path}"]) == 0, capsys.readouterr().err


@pytest.mark.timeout(60)
def test_a_journal_that_disagrees_is_told(tmp_path: Path) -> None:
    with engine(own(), tmp_path / "stepwire.db"):
        pass
    found = reread(own(), tmp_path / "stepwire.db")
    assert (found.runs, found.steps, found.settings) == (0, 0, DURABLE)
    must_hold(found, 0)
    with pytest.raises(BenchmarkError, match="acknowledged 1 steps, the journal holds 0"):
        must_hold(found, 1)


@pytest.mark.timeout(60)
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stepwire.db").write_bytes(b"no database" * 1000)
    with pytest.raises(BenchmarkError):
        reread(own(), tmp_path / "stepwire.db")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "no such workload: nothing; there are all, curves"),
        (["group_100", "--peers", "nobody"], "no such peer: nobody"),
        (["group_100", "--against", "benchmarks"], "has no engine/stepwire_engine"),
        (["group_100", "--dir", "/dev/shm"], "where a commit costs nothing"),
        (["group_100", "--baseline", "pyproject.toml"], "line 1"),
        (["report", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_misuse(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert says in capsys.readouterr().err


def test_help_names_every_workload(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "group_100 " in said and "wakes_1000 " in said and "--against" in said


def test_measurements_have_figures_of_the_table() -> None:
    with pytest.raises(ValueError, match="no such figures: speed"):
        Measurement(workload="a", subject="b", round=1, figures={"speed": 1.0})
