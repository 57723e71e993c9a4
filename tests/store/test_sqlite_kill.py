"""kill -9 of the process that writes: what was acknowledged is there after it, whole and in order."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from stepwire_engine.store.sqlite import SqliteStore
from tests.store.processes import environment
from tests.store.samples import at_once, never_fails
from tests.store.written import RUNS, entries_of, record_of

KILLS = 12


@pytest.mark.timeout(60)
def test_acknowledged_rows_survive_kill_9(tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "engine.db"
    acked: dict[int, int] = {}
    for _ in range(KILLS):
        acked |= write_and_kill(path, acks=rng.randrange(1, 250))
        assert_all_there(path, acked)
    assert sum(acked.values()) > KILLS


def write_and_kill(path: Path, acks: int) -> dict[int, int]:
    """Highest acknowledged seq of each run, as the writer said before it was killed."""
    command = [sys.executable, "-m", "tests.store.writer_process", str(path)]
    highest: dict[int, int] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, env=environment()) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        lines = [writer.stdout.readline() for _ in range(acks)]
        writer.kill()
        lines += writer.stdout.readlines()  # what it wrote before the signal arrived was acknowledged too
    for line in lines:
        if line.endswith(b"\n"):
            run, seq = map(int, line.split())
            assert seq == highest.get(run, seq - 1) + 1
            highest[run] = seq
    assert highest
    return highest


def assert_all_there(path: Path, acked: dict[int, int]) -> None:
    store = SqliteStore(path, notify=at_once, on_failed=never_fails)
    store.open()
    try:
        for run in RUNS:
            journal = store.journal(run)
            assert len(journal) >= acked.get(run, 0)
            assert [row.entries for row in journal] == [entries_of(run, row.seq) for row in journal]
            assert store.find_run(f"run-{run}") == (record_of(run) if journal else None)
    finally:
        store.close()
