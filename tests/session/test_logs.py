"""Log lines pass through the core without touching a run: bounded, stamped, and the first to go."""

from __future__ import annotations

import msgspec
import pytest

from stepwire.protocol.frames import HostFrame, LogLine, RunLogs
from stepwire_engine.core.logs import LINES_PER_UNIT
from stepwire_engine.core.units import Receipt, UnitOutcome
from stepwire_engine.store.base import LogPage, LogQuery
from tests.session.desk import CONFIG, REFUSED, Desk, Host, running, task


def said(count: int, run_id: str = "r", *, dropped: int = 0, age: float = 0.0, first: int = 1) -> HostFrame:
    """A frame with nothing but lines of one run."""
    lines = [LogLine("a", 1, age, 20, "shop", f"line {n}") for n in range(first, first + count)]
    return HostFrame(logs=[RunLogs(run_id, tuple(lines), dropped)])


def kept(desk: Desk, run: int = 1) -> LogPage:
    return desk.rows.store.logs(LogQuery(run, limit=1000))


def messages(desk: Desk) -> list[str]:
    return [line.message for line in kept(desk).lines]


def bounded(**bounds: int) -> tuple[Desk, Host]:
    """A run on its only host, and an engine with these bounds."""
    desk = Desk(config=msgspec.structs.replace(CONFIG, **bounds))
    host = desk.host()
    desk.start()
    return desk.settle(), host


def counted(desk: Desk) -> tuple[int, int]:
    return desk.core.counters.log_lines["stored"], desk.core.counters.log_lines["dropped"]


def test_lines_get_the_time_of_the_engine_and_the_name_of_their_host() -> None:
    desk, host = running()
    host.raw(said(1, age=0.25))
    desk.settle()
    (line,) = kept(desk).lines
    assert (line.at_ms, line.host, line.path, line.attempt) == (desk.now.unix_ms - 250, host.name, "a", 1)
    assert counted(desk) == (1, 0)


def test_lines_change_nothing_of_their_run() -> None:
    """No row, no ack, no frame: replay and resume cannot depend on them."""
    desk, host = running(task("a"))
    rows, frames, acked = desk.rows.entries(), len(host.frames), host.acked
    host.raw(said(3))
    desk.settle()
    assert (desk.rows.entries(), len(host.frames), host.acked) == (rows, frames, acked)


def test_lines_of_a_run_that_has_ended_are_kept() -> None:
    """The last ones come after the outcome that ends it."""
    desk, host = running()
    host.end()
    desk.settle()
    host.raw(said(1))
    desk.settle()
    assert messages(desk) == ["line 1"] and "r" not in desk.core.runs


def test_lines_of_unknown_runs_are_dropped_and_counted() -> None:
    desk, host = running()
    host.raw(said(2, "nobody"))
    desk.settle()
    assert counted(desk) == (0, 2) and not host.faults


def test_too_many_lines_are_dropped_and_their_place_is_told() -> None:
    desk, host = bounded(log_lines_waiting_max=3)
    desk.held = True
    host.raw(said(2))
    host.raw(said(4, first=3))
    desk.held = False
    desk.settle()
    assert [line.message for line in kept(desk).lines] == ["line 1", "line 2", "line 3", "3 lines were dropped here"]
    assert counted(desk) == (3, 3) and kept(desk).dropped == 3


def test_one_unit_of_lines_is_under_way_at_a_time() -> None:
    """Commits of runs must not wait behind a thousand lines."""
    desk, host = running()
    desk.held = True
    host.raw(said(LINES_PER_UNIT + 1))
    host.raw(said(1, first=LINES_PER_UNIT + 2))
    desk.settle()
    assert desk.commit() == 1 and len(kept(desk).lines) == LINES_PER_UNIT
    desk.held = False
    desk.settle()
    assert len(kept(desk).lines) == LINES_PER_UNIT + 2


def test_what_the_host_dropped_is_told_where_it_is_missing() -> None:
    desk, host = running()
    host.raw(said(1, dropped=2))
    host.raw(said(0, dropped=5))
    desk.settle()
    assert kept(desk).dropped == 7


@pytest.mark.parametrize("receipt", [REFUSED, Receipt(UnitOutcome.NO_SPACE, reason="full")], ids=["refused", "full"])
def test_lines_that_the_store_refuses_are_forgotten_and_harm_nobody(receipt: Receipt) -> None:
    desk, host = running(task("a"))
    desk.held = True
    host.raw(said(2))
    desk.settle()
    desk.commit(receipt=receipt)
    desk.held = False
    host.raw(said(1, first=3))
    host.ok("a")
    host.end()
    desk.settle()
    assert messages(desk) == ["line 3"] and counted(desk) == (1, 2)
    assert desk.run_state() == "SUCCEEDED" and not host.faults


def test_with_a_bound_of_0_nothing_is_kept() -> None:
    desk, host = bounded(log_lines_per_run_max=0)
    host.raw(said(2))
    desk.settle()
    assert kept(desk).lines == () and counted(desk) == (0, 2)


def test_lines_beside_a_goodbye_are_kept() -> None:
    desk, host = running()
    host.session.say_goodbye("stops")
    frame = host.session.take_frame(desk.mono)
    assert frame is not None and frame.goodbye is not None
    frame.logs = said(1).logs
    host.raw(frame)
    desk.settle()
    assert messages(desk) == ["line 1"]


def test_odd_values_are_put_right() -> None:
    desk, host = running()
    lines = (LogLine("", 2**32 - 1, 10.0**9 * 2, 2**32 - 1, "", "old"),)
    host.raw(HostFrame(logs=[RunLogs("r", lines)]))
    desk.settle()
    (line,) = kept(desk).lines
    assert (line.at_ms, line.logger, line.attempt, line.level) == (0, "root", 2**31 - 1, 2**31 - 1)
