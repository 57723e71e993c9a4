"""A power cut at any moment: the files that it leaves are opened, and hold every commit that was acknowledged.

The writes of a real process are recorded once; the files are made from them, with what was not synced lost or torn.
`STEPWIRE_IMAGES=20000 pytest tests/store/test_power_cut.py` looks at more of them.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.store.disk_trace import DIRECTORY, Disk, Event, Said, Synced, Write, record
from tests.store.processes import environment
from tests.store.test_sqlite_kill import assert_all_there

IMAGES = int(os.environ.get("STEPWIRE_IMAGES") or 300)
ROWS = 120
LOG_PAGES = 30
"""The log is recycled after so many, so that this is among what is cut."""


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    if shutil.which("strace") is None:
        pytest.skip("needs strace to see what is written and when it is synced")
    place = tmp_path_factory.mktemp("recorded")
    database = place / "engine.db"
    command = [sys.executable, "-m", "tests.store.writer_process", str(database), str(ROWS), str(LOG_PAGES)]
    try:
        return record(command, database, place / "trace", environment())
    except Exception as error:
        if "ptrace" in str(error).lower():
            pytest.skip(f"strace may not trace here: {error}")
        raise


def test_the_recording_has_what_is_to_be_cut(events: list[Event]) -> None:
    synced = {event.name for event in events if isinstance(event, Synced)}
    written = [event for event in events if isinstance(event, Write)]
    assert synced == {"", "-wal", "-journal", DIRECTORY}, "commits, checkpoints, and how it was made"
    assert sum(event.name == "-wal" and event.offset == 0 for event in written) > 2, "the log was recycled"
    said = "".join([event.text for event in events if isinstance(event, Said)])
    assert len(said.splitlines()) >= ROWS


def moments(events: Sequence[Event]) -> Iterator[Disk]:
    """The disk before each event that changes it, and at the end."""
    disk = Disk()
    for event in events:
        if not isinstance(event, Said):
            yield disk
        disk.take(event)
    yield disk


@pytest.mark.timeout(max(60, IMAGES // 10))
def test_a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged(
    events: list[Event], tmp_path: Path, rng: random.Random
) -> None:
    count = sum(not isinstance(event, Said) for event in events) + 1
    wanted = set(rng.sample(range(count), min(count, IMAGES // 3)))
    images = 0
    for n, disk in enumerate(moments(events)):
        if n not in wanted:
            continue
        for chance in (None, random.Random(rng.random()), random.Random(rng.random())):
            place = tmp_path / f"image-{images}"
            place.mkdir()
            for name, content in disk.after_power_cut(chance).items():
                (place / f"engine.db{name}").write_bytes(content)
            try:
                assert_all_there(place / "engine.db", acked(disk))
            except Exception as error:
                error.add_note(
                    f"power cut before change {n} of {count}, {'lost' if chance is None else 'torn'}: {place}"
                )
                raise
            shutil.rmtree(place)
            images += 1
    print(f"{images} images of {count} moments, 0 acknowledged commits lost")
    assert images >= min(count, IMAGES // 3) * 3


def acked(disk: Disk) -> dict[int, int]:
    """Highest acknowledged seq of each run."""
    lines = [line.split() for line in "".join(disk.said).splitlines() if line != "ready"]
    return {int(run): int(seq) for run, seq in lines}
