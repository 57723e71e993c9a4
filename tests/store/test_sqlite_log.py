"""SQLite's log: it is recycled, errors of that are not kept quiet, and damage in it is seen before it is opened."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from stepwire_engine.store import sqlite_journal
from stepwire_engine.store.base import StoreCorrupt, StoreError, StoreFailed, Unit
from stepwire_engine.store.rows import Damaged
from stepwire_engine.store.sqlite_wal import LogLength, check_log, wal_path
from tests.store.samples import COMMITTED, WAIT_SECONDS, Desk, StoreMaker, ended, event
from tests.store.test_sqlite_faults import opened

FRAME = 24 + 4096
HEADER = 32


# ---- recycling


def test_the_log_is_recycled_and_does_not_grow(make: StoreMaker, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_journal, "CHECKPOINT_PAGES", 20)
    desk = Desk(make()).open()
    desk.commit(desk.created(1))
    for seq in range(1, 200):
        desk.commit(desk.row(1, seq, ended(seq, bytes(1000))))
    assert Path(wal_path(str(path))).stat().st_size < 60 * FRAME


def test_the_length_of_the_log_is_looked_at_now_and_then(
    make: StoreMaker, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_journal, "CHECKPOINT_PAGES", 200)
    looks: list[int] = []
    has = LogLength.has

    def counted(self: LogLength, frames: int) -> bool:
        looks.append(frames)
        return has(self, frames)

    monkeypatch.setattr(LogLength, "has", counted)
    desk = Desk(make()).open()
    desk.commit(desk.created(1))
    for seq in range(1, 400):
        desk.commit(desk.row(1, seq, ended(seq, bytes(100))))
    assert 8 < len(looks) < 100, "reading it costs each commit more than it is worth"
    assert Path(wal_path(str(path))).stat().st_size < 300 * FRAME, "and it is recycled at about its length"


def test_the_log_is_recycled_in_time_whatever_commits_are_made_of(make: StoreMaker, path: Path) -> None:
    desk = Desk(make()).open()
    for number in range(60):
        desk.commit(Unit(desk.epoch, events=(event(f"event-{number}", data=b"1" * 300_000),), events_since_ms=1))
    size = Path(wal_path(str(path))).stat().st_size
    assert size < 2 * sqlite_journal.CHECKPOINT_PAGES * FRAME, "a commit without journal rows can be large as well"


def test_an_io_error_while_the_log_is_recycled_ends_the_engine_and_nothing_is_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit itself is durable and answered; only copying the log failed, and may not be tried again."""
    monkeypatch.setattr(sqlite_journal, "CHECKPOINT_PAGES", 1)
    monkeypatch.setattr(sqlite_journal, "checkpoint", failing(sqlite3.SQLITE_IOERR | (4 << 8)))
    failures: SimpleQueue[StoreError] = SimpleQueue()
    with opened(path, failures) as (desk, _):
        assert desk.outcomes(desk.created(1)) == [COMMITTED]
        error = failures.get(timeout=WAIT_SECONDS)
        assert isinstance(error, StoreFailed) and error.exit_code == 74 and "what was acknowledged is in" in str(error)
    monkeypatch.undo()
    with opened(path) as (_, store):
        assert len(store.journal(1)) == 1


def test_a_full_disk_while_the_log_is_recycled_refuses_nothing_and_is_said_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_journal, "CHECKPOINT_PAGES", 1)
    with opened(path) as (desk, store):
        with monkeypatch.context() as patch:
            patch.setattr(sqlite_journal, "checkpoint", failing(sqlite3.SQLITE_FULL))
            for run in range(1, 5):
                assert desk.outcomes(desk.created(run)) == [COMMITTED]
        for run in range(5, 8):
            assert desk.outcomes(desk.created(run)) == [COMMITTED]
        assert store.accepting
    assert caplog.text.count("grows until it can") == 1


def failing(code: int) -> Callable[[sqlite3.Connection], None]:
    def fail(_: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("injected")
        error.sqlite_errorcode = code
        raise error

    return fail


def test_the_length_of_a_recycled_log_is_that_of_its_present_use(path: Path) -> None:
    with opened(path) as (desk, store):
        length = LogLength(str(path))
        desk.commit(desk.created(1))
        for seq in range(1, 30):
            desk.commit(desk.row(1, seq))
        assert length.has(10) and not length.has(10_000)
        assert store._writer is not None
        store._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        desk.commit(desk.created(2))
        assert Path(wal_path(str(path))).stat().st_size > 10 * FRAME
        assert length.has(1) and not length.has(10), "the rest is of its former use"
        length.close()
    assert not LogLength(str(path)).has(1), "a closed database has none"


# ---- damage


@pytest.fixture
def log(path: Path, tmp_path: Path) -> Iterator[Path]:
    """The log of a writer that was killed after several commits, its database beside it."""
    with opened(path) as (desk, _):
        desk.commit(*[desk.created(run) for run in range(1, 9)])
        for seq in range(1, 9):
            desk.commit(desk.row(1, seq, ended(seq, bytes(1000))))
        for end in ("", "-wal"):
            subprocess.run(["cp", f"{path}{end}", f"{tmp_path / 'killed.db'}{end}"], check=True)
    check_log(str(tmp_path / "killed.db"))
    yield tmp_path / "killed.db-wal"


def database_of(log: Path) -> str:
    return str(log).removesuffix("-wal")


def ends(content: bytes) -> list[int]:
    """Places of the frames that end a transaction."""
    frames = range(HEADER, len(content) - FRAME + 1, FRAME)
    return [place for place in frames if content[place + 4 : place + 8] != bytes(4)]


@pytest.mark.parametrize("offset", [1, 5, 9, 13, 17, 22, 24, 4000])
def test_a_damaged_frame_that_hides_commits_is_refused_and_the_log_is_kept(
    log: Path, make: StoreMaker, offset: int
) -> None:
    """Whichever part of a frame it is: number, end, salts, checksum or page."""
    content = bytearray(log.read_bytes())
    content[ends(content)[-4] + offset] ^= 4
    log.write_bytes(content)
    with pytest.raises(StoreCorrupt, match="commits behind it would be lost"):
        make(Path(database_of(log))).open()
    assert log.read_bytes() == content, "SQLite would have deleted it"


def test_the_end_of_the_one_before_the_last_commit_is_seen_as_well(log: Path) -> None:
    content = bytearray(log.read_bytes())
    content[ends(content)[-2] + 2000] ^= 1
    log.write_bytes(content)
    with pytest.raises(Damaged):
        check_log(database_of(log))


@pytest.mark.parametrize("offset", [0, 5, 9, 17, 25])
def test_a_damaged_header_is_refused(log: Path, offset: int) -> None:
    content = bytearray(log.read_bytes())
    content[offset] ^= 1
    log.write_bytes(content)
    with pytest.raises(Damaged, match="header"):
        check_log(database_of(log))


def test_what_a_power_cut_leaves_is_not_taken_for_damage(log: Path, make: StoreMaker) -> None:
    content = log.read_bytes()
    last = ends(content)[-2] + FRAME
    torn = bytearray(content)
    torn[last + 600 : last + 1112] = b"\xff" * 512
    leftover = content + bytes(FRAME) + content[HEADER : HEADER + 3 * FRAME].replace(content[16:24], b"12345678")
    for left in (bytes(torn), content[: last + 100], content[:HEADER], content[:20], b"", bytes(HEADER), leftover):
        log.write_bytes(left)
        check_log(database_of(log))
    log.write_bytes(bytes(torn))
    store = make(Path(database_of(log)))
    store.open()
    assert len(store.journal(1)) == 8, "all but the commit that was cut"
    log.unlink(missing_ok=True)
    check_log(database_of(log))
