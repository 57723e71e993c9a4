"""Every workload of the benchmarks, tiny: it runs, and the journal holds what the clients were told. Times nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.__main__ import main
from benchmarks.journal import reread
from benchmarks.measure import run_workload
from benchmarks.workloads import WORKLOADS, Workload
from stepwire_engine.store.base import StoreError


def tiny(workload: Workload) -> Workload:
    return replace(workload, steps=min(workload.steps, 5), runs=min(workload.runs, 3), at_once=min(workload.at_once, 2))


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_workload(workload: Workload, tmp_path: Path) -> None:
    small = tiny(workload)
    outcome = run_workload(small, repeat=1, folder=tmp_path)
    # One run of one step until the host is there, the warm-up if there is one, and one repetition.
    repetitions = 1 + small.warm_up
    assert outcome.acknowledged == 1 + repetitions * small.runs * small.steps
    assert outcome.journal is not None
    assert outcome.journal.steps == outcome.acknowledged
    assert outcome.journal.runs == 1 + repetitions * small.runs
    assert outcome.journal.settings == "journal_mode=wal, synchronous=FULL"
    entries = outcome.journal.driven["body_entries"]
    assert entries > 1 if workload.settings else entries == 1, "naps on disk replay, everything else stays live"
    assert (outcome.measurements[0].floor is not None) == workload.floor
    assert ": equal;" in report.table([outcome])
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_disagrees_is_told(tmp_path: Path) -> None:
    outcome = run_workload(tiny(WORKLOADS[0]), repeat=1, folder=tmp_path)
    lost = replace(outcome, acknowledged=outcome.acknowledged + 1)
    assert not lost.journal_agrees
    assert ": DIFFERENT;" in report.table([lost])


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stepwire.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError):
        reread(tmp_path / "stepwire.db")


def test_unknown_workloads_are_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["nothing"])
    assert stopped.value.code == 2
    assert "group_100" in capsys.readouterr().err
