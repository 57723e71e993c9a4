"""Following a run: until its end, until a deadline, until the watch fails. Views are handed in by hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import pytest

from stepwire.errors import RunNotFound
from stepwire_engine.cli.documents import Run
from stepwire_engine.cli.follow import JsonlScreen, LineScreen, follow
from tests.cli.made_runs import CREATED, run_of, succeeded, unfinished

UNIX_MS = int(CREATED.timestamp() * 1000) + 5000
FIRST = run_of(unfinished("a", "RUNNING"))
LAST = run_of(succeeded("a"), state="SUCCEEDED", ended_at=CREATED, duration_seconds=0.5)


class Recorder:
    """A screen that remembers, and moves a clock by a second at each tick."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.now = 0.0
        self.left = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.left = True

    def update(self, run: Run) -> None:
        self.seen.append(run.state)

    def tick(self) -> None:
        self.now += 1.0


def test_to_the_end() -> None:
    screen = Recorder()
    assert follow(lambda: iter([FIRST, LAST]), screen, None) == LAST
    assert screen.seen == ["RUNNING", "SUCCEEDED"] and screen.left


def test_through_the_successors_of_a_run_that_restarts_itself() -> None:
    screen = Recorder()
    restarted = run_of(state="SUCCEEDED", successor_run_id="01kds0", ended_at=CREATED)
    last = run_of(run_id="01kds0", state="FAILED", ended_at=CREATED)
    assert follow(lambda: iter([FIRST, restarted, last]), screen, None) == last
    assert screen.seen == ["RUNNING", "SUCCEEDED", "FAILED"]


def test_until_the_deadline() -> None:
    gate, screen = threading.Event(), Recorder()

    def watch() -> Iterator[Run]:
        yield FIRST
        gate.wait()

    try:
        assert follow(watch, screen, 3.0, lambda: screen.now) is None
        assert screen.seen == ["RUNNING"] and screen.left
    finally:
        gate.set()


def test_until_the_watch_fails() -> None:
    screen = Recorder()

    def watch() -> Iterator[Run]:
        yield FIRST
        raise RunNotFound("gone")

    with pytest.raises(RunNotFound):
        follow(watch, screen, None)
    assert screen.left


def test_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.localtime", lambda seconds: __import__("time").gmtime(seconds))
    waiting = run_of(unfinished("a", "RUNNING"), reason="no_host")
    busy = run_of(unfinished("a", "RUNNING"), reason="user_code")
    follow(lambda: iter([FIRST, busy, waiting, LAST]), LineScreen(lambda: UNIX_MS), None)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "00:00:05  a  RUNNING  attempt 1",
        "00:00:05  run 01kdw0  checkout  RUNNING  5.00s",
        "00:00:05  run 01kdw0  checkout  RUNNING  5.00s  no_host: no connected host serves it",
        "00:00:05  a  SUCCEEDED  attempt 1  41ms",
        "00:00:05  run 01kdw0  checkout  SUCCEEDED  500ms",
    ]


def test_lines_of_a_run_that_is_cancelled(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.localtime", lambda seconds: __import__("time").gmtime(seconds))
    views = [run_of(phase="BODY"), run_of(phase="CANCELLING"), run_of(state="CANCELLED", ended_at=CREATED)]
    follow(lambda: iter(views), LineScreen(lambda: UNIX_MS), None)
    assert [line.split("  ")[3:] for line in capsys.readouterr().err.splitlines()] == [
        ["RUNNING", "5.00s"],
        ["RUNNING", "5.00s", "cancelling: what is in progress is told to stop"],
        ["CANCELLED", "5.00s"],
    ]


def test_jsonl(capsys: pytest.CaptureFixture[str]) -> None:
    follow(lambda: iter([FIRST, FIRST, LAST]), JsonlScreen(lambda: UNIX_MS), None)
    shown = capsys.readouterr()
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert [(line["schema"], line["step"]["state"]) for line in lines] == [
        ("stepwire.step/v1", "RUNNING"), ("stepwire.step/v1", "SUCCEEDED"),
    ]  # fmt: skip
    assert shown.err == ""
