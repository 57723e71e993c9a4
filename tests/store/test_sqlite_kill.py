"""kill -9 of the process that writes: what was acknowledged is there after it, whole and in order."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from stepwire_engine.core.units import EventMatched
from stepwire_engine.store.sqlite import SqliteStore
from tests.store.processes import environment
from tests.store.samples import at_once, never_fails
from tests.store.written import RUNS, entries_of, event_of, fact_of, is_bare, record_of, wait_of, whole

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
        ends = {run: len(store.journal(run)) for run in RUNS}
        for run, end in ends.items():
            assert end >= acked.get(run, 0)
            assert [row.entries for row in store.journal(run)] == [entries_of(run, seq) for seq in range(1, end + 1)]
            assert store.find_run(f"run-{run}") == (record_of(run, end) if end else None)
        assert_side_rows_fit(store, {run: end for run, end in ends.items() if end})
    finally:
        store.close()


def assert_side_rows_fit(store: SqliteStore, ends: dict[int, int]) -> None:
    """Of each journal row its event and its fact are there, and of each run's last row the wait and the time.

    Except of rows that came alone.
    """
    rows = [(run, seq) for run, end in ends.items() for seq in range(1, end + 1) if not is_bare(seq)]
    events = store.undelivered(2**62, len(rows) + 1)
    assert {found.id: msgspec.structs.replace(found, number=0) for found in events} == {
        f"{run}.{seq}": event_of(run, seq) for run, seq in rows
    }
    inbox = store.inbox()
    assert sorted([(row.run, row.fact.path) for row in inbox if isinstance(row.fact, EventMatched)]) == sorted(
        [(run, fact.path) for run, seq in rows if isinstance(fact := fact_of(run, seq).fact, EventMatched)]
    )
    for numbers in ([found.number for found in events], [row.number for row in inbox]):
        assert sorted(numbers) == list(range(1, len(rows) + 1)), "no number was given twice or lost"
    assert list(store.waits("paid", (0, ""), 100)) == [wait_of(run, end) for run, end in sorted(ends.items())]
    assert sorted([(run.wake_ms, run.number) for run in store.due_runs(2**62, 100)]) == sorted(
        [(whole(end), run) for run, end in ends.items()]
    )
