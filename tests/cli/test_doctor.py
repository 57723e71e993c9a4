"""`stepwire doctor` sees what is wrong with a database, a configuration and an engine, and changes nothing."""

from __future__ import annotations

import fcntl
import json
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from stepwire_engine.cli.checkup import Finding, Status, check_disk, check_place
from stepwire_engine.cli.checkup_database import check_database, lock_owner
from stepwire_engine.cli.checkup_engine import check_engine
from stepwire_engine.config import Config
from stepwire_engine.store.base import Unit
from stepwire_engine.store.file_lock import FileLock
from stepwire_engine.store.sqlite import SqliteStore
from tests.cli.commands import stepwire
from tests.store.samples import Desk, at_once, dormant, edit, ended, event, matched, never_fails, session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with something in every table, 40 runs among it."""
    place = tmp_path / "engine.db"
    store = SqliteStore(place, notify=at_once, on_failed=never_fails)
    desk = Desk(store).open()
    desk.commit(*[desk.created(run, key=f"key-{run}") for run in range(1, 41)])
    desk.commit(
        *[desk.row(run, 1, ended(1, b"x" * 100)) for run in range(1, 41)], desk.row(1, 2, ended(2, bytes(70_000)))
    )
    desk.commit(
        Unit(desk.epoch, sessions=(session("host-1", "f"),), inbox=(matched(1),), events=(event("e"),)),
        Unit(desk.epoch, 41, 0, record=dormant(41, 50)),
    )
    store.close()
    edit(place, "UPDATE runs SET wake_ms = wake_ms")
    place.chmod(0o600)
    return place


def looked_at(path: Path, limit: int | None = None) -> list[Finding]:
    return list(check_database(str(path), limit=limit, progress=lambda runs, rows: None))


def of(findings: Sequence[Finding], status: Status) -> list[Finding]:
    return [finding for finding in findings if finding.status is status]


def test_a_sound_database_is_sound_and_stays_as_it_is(path: Path) -> None:
    before = {place.name: place.read_bytes() for place in path.parent.iterdir()}
    findings = looked_at(path)
    assert of(findings, Status.FAIL) == []
    seen = {finding.check: finding.what for finding in findings}
    assert seen["rows"].startswith("read 81 journal rows of 41 runs") and "whole" in seen["pages"]
    assert seen["lock"] == "no engine has the database open"
    (late,) = of(findings, Status.WARN)
    assert "1 dormant runs are overdue" in late.what
    assert {place.name: place.read_bytes() for place in path.parent.iterdir()} == before


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE journal SET body = x'00' WHERE run = 7", "of run 7 fails its CRC (table journal)"),
        ("UPDATE journal SET chain = 1 WHERE run = 7 AND seq = 2", "row 2 of run 7 breaks the chain"),
        ("DELETE FROM journal WHERE run = 7", "the journal of run 7 has 0 rows"),
        ("UPDATE blobs SET data = x'00'", "payload 0 of row 3 of run 1 fails its CRC (table blobs)"),
        ("UPDATE runs SET state = 5 WHERE run = 7", "the record of run 7 fails its CRC (table runs)"),
        ("DELETE FROM runs WHERE run = 7", "the record of run 7 is missing"),
        ("UPDATE keys SET run = 8 WHERE key = 'key-7'", "the key 'key-7' fails its CRC"),
        ("UPDATE sessions SET record = x'00'", "the session 'host-1' fails its CRC"),
        ("UPDATE inbox SET row = x'00'", "the inbox row 1 fails its CRC"),
        ("UPDATE events SET id = 'other'", "the event 1 fails its CRC"),
        ("UPDATE flows SET flow = 'other'", "the flow 'other' fails its CRC"),
        ("UPDATE partitions SET claim_epoch = 9", "the claim epoch of partition 0 fails its CRC"),
    ],
)
def test_each_damaged_row_is_named_with_what_follows_and_what_to_do(path: Path, statement: str, what: str) -> None:
    edit(path, statement)
    failed = of(looked_at(path), Status.FAIL)
    assert any(what in finding.what for finding in failed), failed
    assert all(finding.why and "restore the last backup" in finding.next for finding in failed)


def test_what_a_limit_leaves_out_is_said(path: Path) -> None:
    edit(path, "UPDATE journal SET body = x'00' WHERE run = 1")
    findings = looked_at(path, limit=10)
    assert of(findings, Status.FAIL) == []
    assert any("--limit" in finding.why and finding.check == "rows" for finding in of(findings, Status.WARN))
    assert any("--limit 0" in finding.what for finding in of(looked_at(path, limit=0), Status.WARN))


def test_a_damaged_page_and_a_damaged_log_are_found(path: Path, tmp_path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.index(b"key-7", content.index(b"key-7") + 1)
    damaged = tmp_path / "damaged.db"
    content[place + 4 : place + 5] = b"Z"
    damaged.write_bytes(content)
    assert any(finding.check == "pages" for finding in of(looked_at(damaged), Status.FAIL))
    killed = after_kill(path, tmp_path)
    assert of(looked_at(killed), Status.FAIL) == [] and Path(f"{killed}-wal").exists(), "nothing was recovered by it"
    log = bytearray(Path(f"{killed}-wal").read_bytes())
    log[500] ^= 1
    Path(f"{killed}-wal").write_bytes(log)
    (finding, *_) = of(looked_at(killed), Status.FAIL)
    assert finding.check == "log" and "frame 1 of its -wal file is damaged" in finding.what


def after_kill(path: Path, place: Path) -> Path:
    """A copy of the database as a killed engine leaves it, with commits in its log only."""
    store = SqliteStore(path, notify=at_once, on_failed=never_fails)
    desk = Desk(store).open()
    for seq in (2, 3, 4):
        desk.commit(desk.row(7, seq))
    for ending in ("", "-wal"):
        subprocess.run(["cp", f"{path}{ending}", f"{place / 'killed.db'}{ending}"], check=True)
    store.close()
    return place / "killed.db"


def test_files_that_are_no_database_of_ours(path: Path, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database, but long enough to be looked at as one" * 100)
    (finding,) = of(looked_at(tmp_path / "text.db"), Status.FAIL)
    assert "cannot be read" in finding.what
    edit(tmp_path / "other.db", "CREATE TABLE t (x)")
    (finding,) = of(looked_at(tmp_path / "other.db"), Status.FAIL)
    assert finding.check == "schema" and "no database of Stepwire" in finding.what
    edit(path, "INSERT INTO schema_migrations VALUES (9999, '9999_later.sql', 'x', 'now')")
    (finding,) = of(looked_at(path), Status.FAIL)
    assert finding.what == "schema 9999" and "newer engine" in finding.next
    assert of(looked_at(tmp_path / "absent.db"), Status.FAIL) == []
    assert not (tmp_path / "absent.db").exists()


def test_the_engine_that_has_the_file_is_named(path: Path) -> None:
    lock = FileLock(str(path))
    lock.acquire()
    try:
        found = subprocess.run(
            [sys.executable, "-c", "import sys; from stepwire_engine.cli.checkup_database import lock_owner; "
             "print(lock_owner(sys.argv[1]))", str(path)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert found.stdout.strip().startswith(", process ")
    finally:
        lock.release()
    assert lock_owner(str(path)) is None
    with open(f"{path}.lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_place_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 256))
    findings = {finding.check: finding for finding in check_place(Config())}
    assert {"python", "packages", "sqlite", "loop", "files"} == findings.keys()
    assert findings["files"].status is Status.WARN and "1064" in findings["files"].next
    for free, status in ((0, Status.FAIL), (10**8, Status.WARN), (10**12, Status.OK)):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr("shutil.disk_usage", lambda _, usage=usage: usage)
        assert check_disk(str(tmp_path)).status is status


# ---- a running engine

METRICS = """
stepwire_sessions_connected{service="orders"} %d
stepwire_quarantined_runs %d
stepwire_damaged_rows_total 0
stepwire_reconciled_total{kind="step"} %d
stepwire_waiting_runs{reason="no_host"} 0
stepwire_waiting_runs{reason="event"} 4
"""


class Pages(BaseHTTPRequestHandler):
    """What an engine answers over HTTP."""

    health = '{"status": "ok", "version": "1.2"}'
    metrics = METRICS % (2, 0, 0)

    def do_GET(self) -> None:
        body = (self.health if self.path == "/healthz" else self.metrics).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def pages() -> Iterator[tuple[type[Pages], str]]:
    handler = type("Served", (Pages,), {})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield handler, f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_engine_that_is_well(pages: tuple[type[Pages], str]) -> None:
    findings = list(check_engine("127.0.0.1:1", pages[1]))
    assert {finding.status for finding in findings} == {Status.OK}
    assert [finding.check for finding in findings] == ["engine", "clocks", "hosts", "damage", "owners", "served"]
    assert "2 connected: 2 orders" == findings[2].what


def test_an_engine_that_is_not_well(pages: tuple[type[Pages], str]) -> None:
    handler, place = pages
    handler.health = '{"status": "store_full", "version": "1.2", "detail": "the disk is full"}'
    handler.metrics = METRICS % (0, 3, 1)
    findings = {finding.check: finding for finding in check_engine("127.0.0.1:1", place)}
    assert [findings[check].status.value for check in ("engine", "hosts", "damage", "owners")] == [
        "fail", "warn", "fail", "warn",
    ]  # fmt: skip
    assert findings["engine"].why == "the disk is full" and "3 runs are kept aside" in findings["damage"].what
    handler.metrics = METRICS.replace('"no_host"} 0', '"no_host"} 5') % (1, 0, 0)
    (*_, unreachable) = check_engine("127.0.0.1:1", place)
    assert unreachable.check == "calls" and unreachable.status is Status.FAIL


def test_without_an_engine_its_ports_are_looked_at() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
        other.close()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        findings = list(check_engine(address, f"127.0.0.1:{free}"))
    assert [finding.status.value for finding in findings] == ["warn", "fail", "ok"]
    assert address in findings[1].what and "in use" in findings[1].what


# ---- the command


def test_the_command_prints_a_line_for_each_thing_and_ends_with_what_it_found(path: Path, tmp_path: Path) -> None:
    done = stepwire("doctor", str(path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(line[:4].strip() in ("ok", "warn") for line in done.stdout.splitlines())
    edit(path, "UPDATE journal SET body = x'00' WHERE run = 7")
    done = stepwire("doctor", str(path), "-o", "json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (done.returncode, found["schema"], found["ok"]) == (1, "stepwire.doctor/v1", False)
    failed = [finding for finding in found["findings"] if finding["status"] == "fail"]
    assert [finding["check"] for finding in failed] == ["rows"] and "run 7" in failed[0]["what"]


def test_a_project_is_looked_at_with_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "stepwire.toml").write_text('db = "here.db"\n[grpc]\nprot = 1\n')
    done = stepwire("doctor", ".", "--engine", "127.0.0.1:1", "--http", "127.0.0.1:1", "-o", "jsonl", cwd=tmp_path)
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert findings[0]["check"] == "config" and "did you mean grpc.port" in findings[0]["next"]
    assert {"python", "sqlite", "files", "disk", "engine", "ports"} <= {finding["check"] for finding in findings}


def test_an_older_schema_is_a_warning(path: Path, tmp_path: Path) -> None:
    place = tmp_path / "old.db"
    db = sqlite3.connect(place)
    db.executescript(
        "PRAGMA application_id = 1400133488; CREATE TABLE schema_migrations (version, name, sha256, applied_at);"
        "INSERT INTO schema_migrations VALUES (1, '0001_first.sql', 'x', 'now');"
    )
    db.close()
    place.chmod(0o600)
    findings = looked_at(place)
    assert of(findings, Status.FAIL) == []
    (finding,) = of(findings, Status.WARN)
    assert finding.what == "schema 1" and "backup" in finding.next
