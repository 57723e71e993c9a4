"""Log lines are kept as far as there is room, on every store alike, and nothing else depends on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stepwire_engine.core.units import LogRow, RunLines
from stepwire_engine.store.base import LogPage, LogQuery, Unit, UnitOutcome
from tests.store.samples import COMMITTED, Desk, StoreMaker, edit


def line(
    message: str, path: str = "a", attempt: int = 1, level: int = 20, at_ms: int = 1_000, number: int = 0
) -> LogRow:
    return LogRow(at_ms, path, attempt, level, "shop", message, "h", number)


def unit(desk: Desk, *batches: RunLines, lines_max: int = 100) -> Unit:
    return Unit(desk.epoch, logs=batches, log_lines_max=lines_max)


def lines(count: int, first: int = 1, run: int = 1) -> RunLines:
    return RunLines(f"run-{run}", tuple(line(f"line {n}") for n in range(first, first + count)))


def messages(page: LogPage) -> list[str]:
    return [found.message for found in page.lines]


def test_lines_are_numbered_by_run_and_read_back_in_order(desk: Desk) -> None:
    desk.commit(desk.created(1), desk.created(2))
    (receipt,) = desk.commit(unit(desk, lines(2), lines(1, run=2)))
    assert receipt.outcome is COMMITTED and receipt.logs == 3
    desk.commit(unit(desk, lines(1, first=3)))
    page = desk.store.logs(LogQuery(1))
    assert [(found.number, found.message) for found in page.lines] == [(1, "line 1"), (2, "line 2"), (3, "line 3")]
    assert (page.next, page.dropped) == (3, 0)
    assert page.lines[0] == line("line 1", number=1)
    assert messages(desk.store.logs(LogQuery(2))) == ["line 1"]
    assert desk.store.logs(LogQuery(3)) == LogPage((), 0, 0)


def test_a_unit_of_lines_is_none_of_their_runs(desk: Desk) -> None:
    """It expects no sequence, and their journals and records stay as they are."""
    desk.commit(desk.created(1), desk.row(1, 1))
    before = desk.store.journal(1), desk.store.find_run("run-1")
    assert desk.outcomes(unit(desk, lines(2)), desk.row(1, 2)) == [COMMITTED, COMMITTED]
    assert (desk.store.journal(1)[:2], desk.store.find_run("run-1")) == before


def test_the_newest_lines_of_a_run_stay(desk: Desk) -> None:
    desk.commit(desk.created(1), desk.created(2))
    desk.commit(unit(desk, lines(4), lines_max=3))
    desk.commit(unit(desk, lines(1, first=5), lines_max=3), unit(desk, lines(2, run=2), lines_max=3))
    page = desk.store.logs(LogQuery(1))
    assert messages(page) == ["line 3", "line 4", "line 5"]
    assert (page.next, page.dropped) == (5, 2)
    assert messages(desk.store.logs(LogQuery(2))) == ["line 1", "line 2"]


def test_a_row_says_where_lines_are_missing(desk: Desk) -> None:
    desk.commit(desk.created(1))
    desk.commit(unit(desk, RunLines("run-1", (line("before"),), 3, 9)), unit(desk, RunLines("run-1", (), 1)))
    page = desk.store.logs(LogQuery(1))
    assert [(found.number, found.logger, found.message) for found in page.lines] == [
        (1, "shop", "before"),
        (4, "", "3 lines were dropped here"),
        (5, "", "1 line was dropped here"),
    ]
    assert page.dropped == 4


def test_lines_of_runs_that_are_not_on_record_are_left_out(desk: Desk) -> None:
    desk.commit(desk.created(1))
    (receipt,) = desk.commit(unit(desk, lines(2, run=7), lines(1)))
    assert receipt.outcome is COMMITTED and receipt.logs == 1
    assert messages(desk.store.logs(LogQuery(1))) == ["line 1"]


def test_lines_of_a_run_that_the_same_batch_creates_are_kept(desk: Desk) -> None:
    assert desk.outcomes(desk.created(1), unit(desk, lines(1))) == [COMMITTED, COMMITTED]
    assert messages(desk.store.logs(LogQuery(1))) == ["line 1"]


@pytest.mark.parametrize(
    ("query", "found", "ahead"),
    [
        ({}, ["one", "two", "three", "four"], 4),
        ({"path": "a"}, ["one", "two"], 4),
        ({"path": "a", "attempt": 2}, ["two"], 4),
        ({"attempt": 1}, ["one", "three"], 4),
        ({"level_min": 30}, ["two", "four"], 4),
        ({"after": 2}, ["three", "four"], 4),
        ({"limit": 2}, ["one", "two"], 2),
        ({"limit": 2, "after": 2}, ["three", "four"], 4),
        ({"limit": 1, "level_min": 30}, ["two"], 2),
        ({"after": 9}, [], 9),
        ({"path": "nothing"}, [], 4),
    ],
)
def test_pages_and_filters(desk: Desk, query: dict[str, Any], found: list[str], ahead: int) -> None:
    desk.commit(desk.created(1))
    rows = (line("one"), line("two", attempt=2, level=30), line("three", "b"), line("four", "", 0, 40))
    desk.commit(unit(desk, RunLines("run-1", rows)))
    page = desk.store.logs(LogQuery(1, **query))
    assert (messages(page), page.next, page.dropped) == (found, ahead, 0)


@pytest.mark.parametrize("bad", [line("\udc80"), line("", "\ud800"), line("", attempt=2**63), line("", at_ms=-1)])
def test_lines_that_no_store_can_keep_are_refused(desk: Desk, bad: LogRow) -> None:
    desk.commit(desk.created(1))
    assert desk.outcomes(unit(desk, RunLines("run-1", (bad,))), desk.row(1, 1)) == [UnitOutcome.REFUSED, COMMITTED]
    assert desk.store.logs(LogQuery(1)).lines == ()


def test_numbers_go_on_after_reopening(make: StoreMaker) -> None:
    desk = Desk(make()).open()
    desk.commit(desk.created(1), unit(desk, lines(2)))
    desk.store.close()
    desk = Desk(make()).open()
    desk.commit(unit(desk, lines(1, first=3)))
    assert messages(desk.store.logs(LogQuery(1))) == ["line 1", "line 2", "line 3"]


def test_a_damaged_line_is_left_out_and_is_no_damage_of_its_run(make: StoreMaker, path: Path) -> None:
    desk = Desk(make()).open()
    desk.commit(desk.created(1), unit(desk, lines(3)))
    desk.store.close()
    edit(path, "UPDATE logs SET message = 'line 4' WHERE n = 2")
    store = make()
    store.open()
    assert messages(store.logs(LogQuery(1))) == ["line 1", "line 3"]
    (damage,) = store.take_damage()
    assert (damage.table, damage.run) == ("logs", 0) and "log line 2 of run 1" in damage.what
