"""Who gets what, and what becomes of it: rejects, reports, timeouts, drain, spreading, and what is left behind."""

from __future__ import annotations

import msgspec
import pytest

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import (
    CancelReason,
    Execute,
    HostFrame,
    HostSection,
    Reject,
    RejectReason,
    Report,
)
from stepwire.protocol.plan import StepKind, StepPlanned
from tests.session.desk import Desk, Host, advances, running, task

# ---- rejects and reports


def reject(desk: Desk, host: Host, reason: RejectReason) -> None:
    (execute,) = host.executes()
    host.session.reject("r", execute, reason)
    desk.settle()


def test_no_slot_stops_the_dispatch_until_the_next_report() -> None:
    desk, host = running()
    host.plan(task("t"))
    desk.settle()
    reject(desk, host, RejectReason.NO_SLOT)
    assert host.executes() == []
    desk.pass_time(4.5)
    assert [e.path for e in host.executes()] == ["t"]
    assert desk.core.counters.rejects == 1 and "AttemptLost" not in desk.kinds


def test_not_served_sends_the_step_to_another_host() -> None:
    desk, host = running()
    host.plan(task("t"))
    desk.settle()
    other = desk.host("other", flows=())
    reject(desk, host, RejectReason.NOT_SERVED)
    assert host.executes() == [] and [e.path for e in other.executes()] == ["t"]


def test_draining_sends_the_step_to_another_host() -> None:
    desk, host = running()
    host.plan(task("t"))
    desk.settle()
    reject(desk, host, RejectReason.DRAINING)
    assert host.executes() == []
    other = desk.host("other", flows=())
    assert [e.path for e in other.executes()] == ["t"]


def test_no_body_gives_the_body_again() -> None:
    desk, host = running()
    host.plan("a")
    desk.settle()
    reject(desk, host, RejectReason.NO_BODY)
    sections = host.take()
    assert len(advances(sections)) == 1 and [e.path for s in sections for e in s.executes] == ["a"]


def test_a_step_that_is_planned_as_started_and_given_back_in_one_frame_goes_to_another_host() -> None:
    desk, host = running()
    other = desk.host("other", flows=())
    fence = host.seqs["r"][0]
    host.plan(task("t", started=True))
    host.session.reject("r", Execute("t", 1, fence, StepKind.TASK, "work"), RejectReason.NOT_SERVED)
    desk.settle()
    assert [e.path for e in other.executes()] == ["t"]


def test_a_reject_of_an_older_right_changes_nothing() -> None:
    desk, host = running("a")
    (lease,) = desk.core.sessions["h/0"].leases.values()
    host.raw(HostFrame(runs=[HostSection("r", rejects=[Reject("a", 1, host.seqs["r"][0], RejectReason.NO_SLOT)])]))
    assert lease.step.lease is lease


def test_an_attempt_given_back_carries_the_right_it_has_now() -> None:
    """A second Execute raised it; a Reject under the old one would be ignored until the next Report."""
    desk, host = running()
    host.plan(task("t"))
    desk.settle()
    (execute,) = host.executes()
    (lease,) = desk.core.sessions["h/0"].leases.values()
    raised = desk.core._books.next_fence()
    lease.fence = lease.step.fence = raised
    assert not host.session._execute("r", msgspec.structs.replace(execute, fence=raised), desk.mono)
    host.session.reject("r", execute, RejectReason.NO_SLOT)
    desk.settle()
    assert desk.core.counters.rejects == 1 and desk.core.sessions["h/0"].leases == {}


def test_a_report_finds_dispatches_that_never_arrived() -> None:
    desk, host = running()
    host.plan("a")
    desk._from_hosts()
    desk.commit()
    (lost,) = desk.core.take_frames()
    assert lost[1].runs[0].executes
    host.raw(HostFrame(report=Report(100, last_engine_frame=lost[1].number - 1)))
    desk.settle()
    assert host.executes() == [], "the frame may still be under way"
    host.raw(HostFrame(report=Report(100, last_engine_frame=lost[1].number)))
    desk.settle()
    assert [e.path for e in host.executes()] == ["a"]


def test_a_report_never_ends_what_the_host_started_itself() -> None:
    desk, host = running("a", start=("a",))
    host.raw(HostFrame(report=Report(100, last_engine_frame=99)))
    desk.settle()
    assert host.executes() == [] and len(desk.core.sessions["h/0"].leases) == 1


@pytest.mark.parametrize("start", [("a",), ()], ids=["started", "executed"])
def test_a_slot_is_free_again_when_a_cancelled_attempt_is_simply_gone(start: tuple[str, ...]) -> None:
    """No Result is needed for an abandoned attempt (proto/README 7): the Report says that it is gone."""
    desk, host = running("a", start=start)
    host.plan(abandoned=("a",))
    desk.settle()
    assert len(desk.core.sessions["h/0"].leases) == 1
    host.session._attempts.clear()
    desk.pass_time(5)
    assert desk.core.sessions["h/0"].leases == {}


# ---- timeouts, drain


def test_the_engine_asks_for_an_overdue_attempt_once() -> None:
    desk, host = running(StepPlanned("a", timeout=5.0))
    desk.pass_time(6.5)
    assert [c for s in host.take() for c in s.cancels] == []
    desk.pass_time(1.0)
    assert [(c.path, c.reason) for s in host.take() for c in s.cancels] == [("a", CancelReason.TIMEOUT)]
    desk.pass_time(20)
    assert [c for s in host.take() for c in s.cancels] == []
    assert host.holds("a"), "and starts no other attempt meanwhile"
    host.failed("a", code=ErrorCode.TIMEOUT)
    desk.settle()
    assert desk.core.counters.attempts["run", "timeout"] == 1


def test_an_adopted_attempt_keeps_its_remaining_timeout() -> None:
    desk, host = running(StepPlanned("a", timeout=5.0))
    desk.pass_time(4)
    desk.restart()
    host.connect()
    desk.settle()
    desk.pass_time(2.5)
    assert [c for s in host.take() for c in s.cancels] == []
    desk.pass_time(1)
    assert [c.reason for s in host.take() for c in s.cancels] == [CancelReason.TIMEOUT]


def test_timers_of_finished_attempts_do_not_pile_up() -> None:
    desk, host = running()
    for i in range(30):
        paths = [f"s{i}x{n}" for n in range(100)]
        host.plan(*(StepPlanned(p, timeout=3600.0) for p in paths))
        desk.settle()
        for path in paths:
            host.ok(path)
        desk.settle()
    assert len(desk.core._books.timers._heap) < 2500


def test_a_draining_engine_gives_nothing_new_and_lets_finish() -> None:
    desk, host = running("a")
    desk.core.drain(30.0, desk.now)
    desk.settle()
    assert host.frames[-1].drain is not None
    host.ok("a")
    host.plan("b")
    desk.settle()
    assert host.executes() == [] and "Released" in desk.kinds
    desk.start("r2")
    desk.settle()
    assert host.take() == []
    desk.core.say_goodbye("stop")
    desk.settle()
    assert host.frames[-1].goodbye is not None


def test_a_draining_host_finishes_and_hands_its_body_back() -> None:
    desk, host = running("a")
    other = desk.host("other")
    host.session.drain(30.0)
    desk.settle()
    host.ok("a")
    desk.settle()
    assert host.seqs["r"][1] == 1
    host.session.give_back("r", host.seqs["r"][0])
    desk.settle()
    assert len(advances(other.take())) == 1
    assert "BodyLost" not in desk.kinds


# ---- spreading


def test_registered_steps_go_to_the_host_with_the_most_room() -> None:
    desk = Desk()
    host = desk.host("body", steps=())
    small, large = desk.host("small", flows=(), slots=2), desk.host("large", flows=(), slots=5)
    desk.start()
    desk.settle()
    host.plan(*(task(f"t{i}") for i in range(9)))
    desk.settle()
    assert (len(small.executes()), len(large.executes())) == (2, 5)
    small.ok(next(p for r, p in small.session._attempts))
    desk.settle()
    assert len(small.executes()) == 1
    desk.host("new", flows=(), slots=9)
    assert desk.core.counters.executes == 9


def test_closures_go_only_to_the_host_with_the_body_and_wait_for_its_slots() -> None:
    desk = Desk()
    host = desk.host("body", slots=2)
    other = desk.host("other", slots=50, flows=())
    desk.start()
    desk.settle()
    host.plan(*(f"s{i}" for i in range(5)))
    desk.settle()
    assert other.take() == []
    order = []
    while executes := host.executes():
        order += [e.path for e in executes]
        host.ok(order[-1])
        desk.settle()
    assert order == ["s0", "s1", "s2", "s3", "s4"]
    assert other.take() == []


def test_bodies_are_spread_and_wait_for_room() -> None:
    desk = Desk()
    hosts = [desk.host(f"h{i}", bodies=2) for i in range(2)]
    for i in range(5):
        desk.start(f"r{i}")
    desk.settle()
    assert [len(advances(h.take())) for h in hosts] == [2, 2]
    hosts[0].end(run_id="r0")
    desk.settle()
    assert len(advances(hosts[0].take())) == 1


def test_steps_wait_for_a_host_that_serves_them() -> None:
    desk = Desk()
    host = desk.host("body", steps=())
    desk.start()
    desk.settle()
    host.plan(task("t"))
    desk.settle()
    late = desk.host("late", flows=())
    assert [e.path for e in late.executes()] == ["t"]


def test_nothing_is_written_after_the_end_of_a_run() -> None:
    """The host is lost while the last row is being committed."""
    desk, host = running("a", "b")
    desk.held = True
    host.end()
    desk.settle()
    host.cut()
    desk.pass_time(4, beat=False)
    desk.held = False
    desk.settle()
    assert desk.kinds[-1] == "RunEnded"


def test_a_run_that_ended_leaves_nothing_behind() -> None:
    desk, host = running("a", task("t"), "u", start=("a",))
    host.ok("a")
    host.ok("t")
    desk.settle()
    host.end()
    desk.settle()
    host.ok("u")
    desk.settle()
    books = desk.core._books
    session = books.sessions["h/0"]
    assert (books.runs, books.keys, books.broken, books.last_commit) == ({}, {}, {}, {})
    assert (session.leases, session.bodies, list(session.closures), session.resumed_bodies) == ({}, {}, [], {})
    assert (host.session.attempts, host.session.bodies, host.session.unacked) == (0, 0, 0)


def test_steps_that_nobody_wants_any_more_do_not_wait_for_a_host_for_ever() -> None:
    """Nobody serves them, so nobody ever looks at the queue; behind the first one they would stay in memory."""
    desk = Desk()
    host = desk.host()
    for number in range(20):
        run_id = f"r{number}"
        desk.start(run_id)
        desk.settle()
        host.plan(StepPlanned("s", StepKind.TASK, "nobody"), run_id=run_id)
        desk.settle()
    queues = desk.core._dispatcher.slots._tasks.queues
    assert len(queues["nobody", False]) == 20
    for number in range(1, 20):
        desk.core.cancel_run(number, f"r{number}", None, desk.now)
        desk.settle()
    assert len(queues["nobody", False]) <= 2
    desk.core.cancel_run(0, "r0", None, desk.now)
    desk.settle()
    assert not queues
