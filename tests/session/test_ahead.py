"""Registered steps that a busy host is given ahead of a free slot (docs/adr/0025): they begin there, or go back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepwire.protocol import limits
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import Execute, Hello, RejectReason, Result
from stepwire.protocol.plan import Fence, GroupOpened, StepKind
from stepwire_engine.core.config import CoreConfig
from tests.session.desk import CONFIG, Desk, Host, task

TOO_LONG = 2 * limits.AHEAD_SECONDS


def busy(*, slots: int = 1, ahead: int = 1, pace: float = 1.0, **more: Any) -> tuple[Desk, Host, Host]:
    """A run on a host that executes nothing, and a worker. Nothing is known of the worker: that counts as 1 s."""
    desk = Desk(config=msgspec.structs.replace(CONFIG, ahead_pace=pace, **more))
    body = desk.host("body", steps=())
    worker = desk.host("worker", flows=(), slots=slots, ahead=ahead)
    desk.start()
    desk.settle()
    return desk, body, worker


def alone() -> tuple[Desk, Host]:
    """A run on a host with one slot that executes its registered steps as well."""
    desk = Desk(config=msgspec.structs.replace(CONFIG, ahead_pace=1.0))
    host = desk.host(slots=1, ahead=1)
    desk.start()
    desk.settle()
    return desk, host


def planned(body: Host, count: int, **how: Any) -> None:
    body.plan(*[task(f"t{index}", **how) for index in range(count)])
    body.desk.settle()


def begun(worker: Host) -> list[str]:
    """What begins because slots are free, as the runtime asks for it."""
    return [execute.path for _, execute in worker.session.begin_waiting(worker.desk.mono)]


def paths(host: Host) -> list[str]:
    return [execute.path for execute in host.executes()]


def leased(host: Host) -> list[str]:
    assert host.engine is not None
    return [path for _, path in host.engine.leases]


# ---- the way it is meant


def test_a_busy_host_has_the_next_step_and_begins_it_before_the_engine_hears_of_the_free_slot() -> None:
    desk, body, worker = busy()
    planned(body, 3)
    assert paths(worker) == ["t0"] and leased(worker) == ["t0", "t1"]
    assert not worker.holds("t1") and begun(worker) == [], "no slot is free"
    worker.ok("t0")
    assert begun(worker) == ["t1"] and worker.holds("t1")
    desk.settle()
    assert leased(worker) == ["t1", "t2"]
    worker.ok("t1")
    assert begun(worker) == ["t2"]
    worker.ok("t2")
    desk.settle()
    assert leased(worker) == [] and desk.core.counters.rejects == 0 and desk.core.counters.executes == 3


@pytest.mark.parametrize(("slots", "ahead", "given"), [(1, 0, 1), (1, 1, 2), (4, 2, 6), (2, 9, 4)])
def test_never_more_are_given_than_slots_and_ahead_and_never_more_ahead_than_slots(
    slots: int, ahead: int, given: int
) -> None:
    _, body, worker = busy(slots=slots, ahead=ahead)
    planned(body, 20)
    assert len(leased(worker)) == given and worker.session.attempts == len(paths(worker)) == slots


def test_free_slots_come_first() -> None:
    desk, body, worker = busy(slots=2, ahead=2)
    other = desk.host("other", flows=(), slots=3, ahead=3)
    planned(body, 5)
    assert (len(leased(worker)), len(leased(other))) == (2, 3)


def test_what_waits_begins_in_its_order_and_nothing_overtakes_it() -> None:
    desk, body, worker = busy(slots=2, ahead=2)
    planned(body, 5)
    worker.ok("t0")
    desk.settle()
    assert paths(worker) == ["t0", "t1"], "t4 came while a slot was free, but others had come before"
    assert begun(worker) == ["t2"]
    worker.ok("t1")
    worker.ok("t2")
    assert begun(worker) == ["t3", "t4"]


def test_a_host_does_not_start_itself_what_its_body_plans_before_what_waits() -> None:
    desk, host = alone()
    planned(host, 2)
    host.ok("t0")
    assert host.session.start_all("r", ("c",), host.seqs["r"][0], desk.mono) == []
    assert begun(host) == ["t1"]


# ---- who goes ahead


def test_hosts_of_which_nothing_is_known_or_whose_attempts_are_long_get_nothing_ahead() -> None:
    desk, body, worker = busy(pace=CoreConfig().ahead_pace)
    planned(body, 40)
    for index in range(30):
        if len(leased(worker)) > 1:
            break
        worker.ok(f"t{index}")
        desk.settle()
    assert 10 < index < 30, "after some short ones it is known"
    assert worker.engine is not None
    result = worker.session.attempt_fence("r", f"t{index}")
    assert result is not None
    long = msgspec.structs.replace(worker.ok(f"t{index}"), elapsed=3600.0)
    worker.engine.keep_pace([long])
    assert 0.05 < worker.engine.pace < 0.2, "one hour is not remembered for days"


def test_a_step_that_lost_a_host_waits_for_a_free_slot() -> None:
    desk, body, worker = busy(slots=2, ahead=2)
    lost = desk.host("lost", flows=(), slots=9)
    planned(body, 3)
    assert len(leased(lost)) == 3
    lost.cut()
    desk.pass_time(4)
    assert len(leased(worker)) == 2


def test_a_step_that_may_kill_its_host_gets_the_next_slot_though_others_of_its_name_could_go_ahead() -> None:
    desk = Desk(config=msgspec.structs.replace(CONFIG, ahead_pace=1.0))
    body = desk.host("body", steps=())
    lost = desk.host("lost", flows=(), slots=1)
    desk.start()
    desk.start("r2")
    desk.settle()
    body.plan(task("bad"))
    desk.settle()
    lost.cut()
    desk.pass_time(4)
    again = desk.host("again", flows=(), slots=1)
    worker = desk.host("worker", flows=(), slots=2, ahead=2)
    desk.settle()
    body.plan(*[task(f"before-{index}") for index in range(10)], run_id="r2")
    desk.settle()
    again.cut()
    desk.pass_time(4)
    body.plan(*[task(f"after-{index}") for index in range(90)], run_id="r2")
    desk.settle()
    bad = desk.core.runs["r"].steps["bad"]
    assert len(bad.lost_on) == 2 and bad.lease is None and worker.engine is not None
    for _ in range(20):
        begun(worker)
        if ("r", "bad") in worker.engine.leases:
            return
        worker.ok(next(path for run_id, path in worker.engine.leases if worker.holds(path, run_id)), "r2")
        desk.settle()
    pytest.fail("it is never given out while there are others")


def test_cancelled_attempts_say_nothing_about_how_long_others_take() -> None:
    _, body, worker = busy()
    planned(body, 1)
    assert worker.engine is not None
    before = worker.engine.pace
    cancelled = Failure(ErrorCode.CANCELLED, "Cancelled", "it lost a race")
    worker.engine.keep_pace([Result("t0", 1, Fence(1, 1), None, cancelled)])
    assert worker.engine.pace == before


def test_steps_of_a_group_with_a_limit_wait_for_a_free_slot_which_nobody_keeps_from_them() -> None:
    desk, body, worker = busy()
    limited = [task(f"parallel/[{index}]/t") for index in range(2)]
    body.plan(*limited, groups=(GroupOpened("parallel", 2, limit=2),))
    desk.settle()
    assert leased(worker) == ["parallel/[0]/t"]
    body.plan(task("t0"))
    desk.settle()
    assert leased(worker) == ["parallel/[0]/t"], "it would take the slot of what came before"
    worker.ok("parallel/[0]/t")
    desk.settle()
    assert leased(worker) == ["parallel/[1]/t", "t0"]


def test_a_limited_step_of_another_name_is_not_kept_away() -> None:
    desk = Desk(config=msgspec.structs.replace(CONFIG, ahead_pace=1.0))
    body = desk.host("body", steps=())
    worker = desk.host("worker", flows=(), slots=1, ahead=1, steps=("work", "rare"))
    desk.start()
    desk.settle()
    rare = [msgspec.structs.replace(task(f"parallel/[{index}]/t"), name="rare") for index in range(2)]
    body.plan(*rare, groups=(GroupOpened("parallel", 2, limit=2),))
    planned(body, 9)
    assert leased(worker) == ["parallel/[0]/t"]
    worker.ok("parallel/[0]/t")
    desk.settle()
    assert leased(worker) == ["parallel/[1]/t", "t0"]


def test_closures_wait_for_a_free_slot_which_nobody_keeps_from_them() -> None:
    """They take turns at it with registered steps, of which none goes ahead while a closure waits."""
    desk, host = alone()
    planned(host, 6)
    host.plan("c1", "c2")
    desk.settle()
    order = ["t0"]
    while len(order) < 6:
        host.ok(order[-1])
        host.take()
        order += begun(host)
        desk.settle()
        order += paths(host)
    assert order == ["t0", "t1", "c1", "t2", "c2", "t3"]


@pytest.mark.parametrize("kind", [StepKind.RUN, StepKind.TASK])
def test_a_host_keeps_registered_steps_only_and_as_many_as_it_said(kind: StepKind) -> None:
    desk, body, worker = busy(ahead=1)
    planned(body, 1)
    fence = desk.core._books.next_fence()
    sessions = worker.session
    for path in ("a", "b"):
        assert not sessions._execute("r", Execute(path, 1, fence, kind, "work"), desk.mono)
    frame = sessions.take_frame(desk.mono)
    assert frame is not None
    rejected = [(reject.path, reject.reason) for reject in frame.runs[0].rejects]
    closures = [("a", RejectReason.NO_BODY), ("b", RejectReason.NO_BODY)]
    assert rejected == ([("b", RejectReason.NO_SLOT)] if kind is StepKind.TASK else closures)


# ---- the other ways it ends


def test_what_waits_too_long_goes_back_and_to_another_host() -> None:
    desk, body, worker = busy()
    planned(body, 2)
    other = desk.host("other", flows=())
    assert paths(other) == []
    assert worker.session.next_due() == pytest.approx(desk.mono + limits.AHEAD_SECONDS)
    desk.jump(TOO_LONG)
    assert paths(other) == ["t1"] and leased(worker) == ["t0"]
    assert desk.core.counters.rejects == 1 and "AttemptLost" not in desk.kinds
    assert worker.engine is not None and not worker.engine.saturated


def test_after_that_nothing_goes_ahead_until_attempts_were_short_again() -> None:
    desk, body, worker = busy()
    planned(body, 20)
    desk.jump(TOO_LONG)
    assert leased(worker) == ["t0"]
    done = 0
    while len(leased(worker)) == 1:
        worker.ok(*leased(worker))
        desk.settle()
        done += 1
    assert 4 <= done < 11 and len(leased(worker)) == 2, "a slot that gets free is used at once all the same"


def test_a_report_lists_what_waits_so_that_it_is_not_given_out_again() -> None:
    desk, body, worker = busy()
    planned(body, 2)
    worker.session.report_now(desk.mono)
    report = worker.session._take_report(desk.mono)
    assert report is not None and report.free_slots == 0
    assert [(attempt.path, attempt.elapsed) for attempt in report.attempts] == [("t0", 0.0), ("t1", 0.0)]
    worker.session.report_now(desk.mono)
    desk.settle()
    assert leased(worker) == ["t0", "t1"] and desk.core.counters.executes == 2


def test_what_waited_at_the_end_of_a_stream_is_forgotten_and_given_out_again() -> None:
    desk, body, worker = busy()
    planned(body, 2)
    worker.cut()
    assert begun(worker) == []
    worker.session.submit_result("r", worker.ok("t0"))
    assert begun(worker) == [], "it may be somebody else's by now"
    worker.take()
    worker.connect()
    desk.settle()
    assert paths(worker) == ["t1"] and "AttemptLost" not in desk.kinds


def test_another_engine_gives_out_again_what_waited() -> None:
    desk, body, worker = busy()
    planned(body, 2)
    desk.restart()
    other = desk.host("other", flows=())
    body.connect()
    worker.connect()
    desk.settle()
    assert leased(worker) == ["t0"] and paths(other) == ["t1"]


@pytest.mark.parametrize("leaves", ["drain", "goodbye"])
def test_a_host_that_leaves_gives_back_what_waits(leaves: str) -> None:
    desk, body, worker = busy()
    planned(body, 2)
    if leaves == "drain":
        worker.session.drain(30.0)
    else:
        worker.session.say_goodbye("drained")
    assert begun(worker) == []
    other = desk.host("other", flows=())
    assert "t1" in paths(other)


def test_a_cancelled_run_ends_although_something_waits_for_a_slot() -> None:
    desk, body, worker = busy()
    planned(body, 2)
    desk.core.cancel_run(0, "r", None, desk.now)
    desk.settle()
    assert not worker.session.waiting
    worker.failed("t0", code=ErrorCode.CANCELLED)
    desk.settle()
    assert leased(worker) == [] and desk.run_state() == "CANCELLED"


def test_a_step_that_nobody_waits_for_any_more_does_not_begin() -> None:
    desk, body, worker = busy()
    planned(body, 2)
    body.plan(abandoned=("t1",))
    desk.settle()
    assert not worker.session.waiting and leased(worker) == ["t0"]
    worker.ok("t0")
    assert begun(worker) == []


def test_a_newer_right_replaces_that_of_what_waits() -> None:
    desk, body, worker = busy()
    planned(body, 2)
    assert worker.engine is not None
    lease = worker.engine.leases["r", "t1"]
    lease.fence = lease.step.fence = raised = desk.core._books.next_fence()
    older, newer = [Execute("t1", 1, fence, StepKind.TASK, "work") for fence in (desk.core._books.next_fence(), raised)]
    assert not worker.session._execute("r", msgspec.structs.replace(newer), desk.mono)
    worker.ok("t0")
    assert begun(worker) == ["t1"] and worker.session.attempt_fence("r", "t1") == raised < older.fence


# ---- what is said of it


def test_only_what_has_begun_is_busy() -> None:
    _, body, worker = busy(slots=2, ahead=2)
    planned(body, 9)
    assert worker.engine is not None
    assert (len(worker.engine.leases), worker.engine.busy_slots, worker.engine.free_slots) == (4, 2, -2)
    assert (worker.session.attempts, worker.session.free_slots) == (2, -2)


def test_the_engine_asks_for_an_overdue_attempt_long_after_it_may_have_waited() -> None:
    """Its timer begins when it is given, that of the host when it begins."""
    assert limits.AHEAD_SECONDS <= CoreConfig().timeout_grace / 10


def test_hosts_of_other_languages_say_nothing_and_see_no_difference() -> None:
    assert Hello("h", "i").ahead == 0


def test_the_end_of_a_run_whose_closures_waited_lets_others_go_ahead() -> None:
    desk, host = alone()
    planner = desk.host("planner", flows=("g",), steps=())
    desk.core.known_flows.add("g")
    desk.start("q", flow="g")
    desk.settle()
    host.plan("c1", "c2")
    planner.plan(task("t"), run_id="q")
    desk.settle()
    assert leased(host) == ["c1"], "the next slot is a closure's"
    desk.core.cancel_run("x", "r", None, desk.now)
    desk.settle()
    assert leased(host) == ["c1", "t"]
