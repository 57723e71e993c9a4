"""`stepwire runs logs` against a RunService whose engine is a table, and how it follows a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from stepwire_engine.cli.documents import LogLine
from stepwire_engine.cli.logs import LATE_SECONDS, POLL_SECONDS, line_text, until_end
from stepwire_engine.core.units import LogRow
from tests.cli.commands import stepwire
from tests.transport.run_engine import LoopbackEngine, TablePort, open_run

AT_MS = 1_767_225_600_250
AT = datetime.fromtimestamp(AT_MS / 1000, UTC)
ROWS = [
    LogRow(AT_MS, "", 0, 20, "shop", "begins", "one", 3),
    LogRow(AT_MS, "charge", 2, 40, "shop.pay", "declined\nTraceback\x1b[2J", "two", 4),
    LogRow(AT_MS, "", 0, 30, "", "2 lines were dropped here", "", 6),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[LoopbackEngine]:
    engine = LoopbackEngine()
    port = TablePort(open_run("r1"), open_run("r2"))
    port.lines, port.dropped = ROWS, 4
    engine.serve(port)
    yield engine
    engine.stop()
    engine.close()


def test_lines_are_shown_with_step_and_attempt_and_do_nothing_to_the_terminal(
    engine: LoopbackEngine, tmp_path: Path
) -> None:
    done = stepwire("runs", "logs", "r1", "--engine", engine.address, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "2026-01-01 00:00:00.250Z info     (flow)  shop: begins",
        "2026-01-01 00:00:00.250Z error    charge attempt 2  shop.pay: declined",
        "    Traceback[2J",
        "2026-01-01 00:00:00.250Z warning  (flow)  2 lines were dropped here",
    ]
    assert done.stderr.startswith("4 lines of this run are missing")


def test_the_last_lines_as_json(engine: LoopbackEngine, tmp_path: Path) -> None:
    done = stepwire("runs", "logs", "r1", "--tail", "2", "-o", "json", "--engine", engine.address, cwd=tmp_path)
    document = json.loads(done.stdout)
    assert (document["schema"], document["run_id"], document["dropped"]) == ("stepwire.logs/v1", "r1", 4)
    assert document["lines"][0] == {
        "schema": "stepwire.log/v1",
        "number": 4,
        "at": "2026-01-01T00:00:00.250000Z",
        "level": "error",
        "level_number": 40,
        "logger": "shop.pay",
        "message": "declined\nTraceback\x1b[2J",
        "step": "charge",
        "attempt": 2,
        "host": "two",
    }
    assert len(document["lines"]) == 2 and "\x1b" not in done.stdout


def test_a_run_that_there_is_not_is_exit_code_3(engine: LoopbackEngine, tmp_path: Path) -> None:
    done = stepwire("runs", "logs", "nobody", "--engine", engine.address, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "") and done.stderr.startswith("error: ")


def line(message: str, **more: object) -> LogLine:
    values = {"number": 1, "at": AT, "level": "info", "level_number": 20, "logger": "shop", "message": message}
    return LogLine(**(values | more))  # type: ignore[arg-type]


def test_only_warnings_and_errors_are_coloured() -> None:
    assert "\x1b[31m" in line_text(line("no", level="error", level_number=40))
    assert "\x1b[33m" in line_text(line("hm", level="warning", level_number=30))
    plain = line_text(line("ok"))
    assert click.unstyle(plain).endswith("(flow)  shop: ok") and "\x1b[3" not in plain


class Told:
    """A run whose lines come one at a time."""

    def __init__(self, *lines: LogLine, ends_after: int) -> None:
        self.looks = 0
        self._lines = list(lines)
        self._ends_after = ends_after

    @property
    def has_ended(self) -> bool:
        self.looks += 1
        return self.looks > self._ends_after

    def more(self) -> list[LogLine]:
        found, self._lines = self._lines[:1], self._lines[1:]
        return found


def test_following_goes_on_until_the_last_lines_of_an_ended_run_had_time_to_come() -> None:
    clock = 0.0
    shown: list[LogLine] = []

    def pause(seconds: float) -> None:
        nonlocal clock
        assert seconds == POLL_SECONDS
        clock += seconds

    def show(lines: Iterable[LogLine]) -> None:
        shown.extend(lines)

    reading = Told(*(line(str(n)) for n in range(4)), ends_after=2)
    until_end(reading, show, lambda: clock, pause)  # type: ignore[arg-type]
    assert [each.message for each in shown] == ["0", "1", "2", "3"]
    assert reading.looks == 3, "a run that has ended is not asked for again"
    assert clock == 2 * POLL_SECONDS + LATE_SECONDS
