"""A host whose event loop is blocked keeps what it has and gets nothing new until it reports less (DESIGN 3)."""

from __future__ import annotations

import msgspec

from stepwire.protocol.frames import HostFrame, Report
from stepwire_engine.core.reasons import Lacks, WaitReason, Wanted
from tests.session.desk import CONFIG, Desk, Host, running, task


def report(host: Host, lag: float) -> None:
    """What the thread of the session says while the loop is late by `lag` seconds."""
    host.raw(HostFrame(report=Report(1, 1, lag, 0, ())))
    host.desk.settle()


def test_a_lagging_host_gets_no_attempt_until_it_reports_less() -> None:
    desk, host = running()
    report(host, CONFIG.loop_lag_max + 0.1)
    host.plan(task("a"))
    desk.settle()
    assert not host.holds("a")
    report(host, CONFIG.loop_lag_max)
    assert host.holds("a"), "as much lag as is allowed"


def test_a_lagging_host_gets_no_body() -> None:
    desk = Desk()
    host = desk.host()
    report(host, 5.0)
    desk.start()
    desk.settle()
    assert "r" not in host.seqs
    report(host, 0.0)
    assert "r" in host.seqs


def test_work_goes_to_hosts_that_do_not_lag() -> None:
    desk, host = running()
    other = desk.host("other")
    report(host, 5.0)
    host.plan(task("a"))
    desk.settle()
    assert other.holds("a") and not host.holds("a")


def test_a_lagging_host_keeps_its_body_and_its_attempts() -> None:
    desk, host = running(task("a"), task("b"))
    report(host, 60.0)
    desk.pass_time(5.0)
    assert host.holds("a")
    host.ok("a")
    host.ok("b")
    host.end()
    desk.settle()
    assert desk.run_state() == "SUCCEEDED" and desk.core.counters.body_entries == 1


def test_a_new_stream_is_not_held_back_by_what_the_last_one_reported() -> None:
    desk, host = running()
    report(host, 5.0)
    host.cut().connect()
    desk.settle()
    host.plan(task("a"))
    desk.settle()
    assert host.holds("a")


def test_the_bound_is_configured() -> None:
    desk = Desk(config=msgspec.structs.replace(CONFIG, loop_lag_max=10.0))
    host = desk.host()
    report(host, 9.0)
    desk.start()
    desk.settle()
    assert "r" in host.seqs


def test_whoever_waits_for_a_lagging_or_stopping_host_says_so() -> None:
    desk, host = running()
    lacks = Lacks(desk.core.sessions, lambda: False)
    assert host.engine is not None
    asked = ((Wanted.SLOT, "work"), (Wanted.BODY, "flow"), (Wanted.SLOT_OF_BODY, host.engine.id))
    busy = [lacks(*what) for what in asked]
    assert busy == [WaitReason.NO_SLOT, WaitReason.NO_BODY_ROOM, WaitReason.NO_SLOT]
    host.engine.lagging = True
    assert {lacks(*what) for what in asked} == {WaitReason.HOST_LAGGING}
    host.engine.draining = True
    assert {lacks(*what) for what in asked} == {WaitReason.HOST_DRAINING}
    host.cut()
    gone = [lacks(*what) for what in asked]
    assert gone == [WaitReason.NO_HOST, WaitReason.NO_HOST, WaitReason.HOST_AWAY]
    assert lacks(Wanted.MEMORY, "") is WaitReason.READING_JOURNAL
    assert Lacks({}, lambda: True)(Wanted.MEMORY, "") is WaitReason.ENGINE_FULL
