"""Sessions, leases and who is alive (DESIGN 3 rules 4 to 7, proto/README 3 and 7)."""

from __future__ import annotations

import msgspec
import pytest

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import (
    CancelReason,
    EngineSection,
    Execute,
    Fault,
    Hello,
    HostFrame,
    HostSection,
    Reject,
    RejectReason,
    Report,
)
from stepwire.protocol.plan import RetryPolicy, StepKind, StepPlanned
from stepwire_engine.core.model import Lease
from tests.session.desk import REFUSED, Desk, Host, task
from tests.session.test_commit import running


def advances(sections: list[EngineSection]) -> list[EngineSection]:
    return [s for s in sections if s.advance is not None]


# ---- hello


@pytest.mark.parametrize(
    ("hello", "code", "text"),
    [
        (Hello("h", "i", protocol_min=2, protocol_max=3), ErrorCode.VERSION, "2..3 offered, engine speaks 1..1"),
        (Hello("h", "i", protocol_min=0, protocol_max=0), ErrorCode.VERSION, "upgrade the host"),
        (Hello("h", "i", required_features=(1, 77)), ErrorCode.FEATURE, "feature 1"),
        (Hello("h", "", flows=("flow",)), ErrorCode.INVALID_NAME, "instance_id"),
        (Hello("", "i"), ErrorCode.INVALID_NAME, "1..256 bytes"),
        (Hello("x" * 257, "i"), ErrorCode.INVALID_NAME, "1..256 bytes"),
    ],
)
def test_a_hello_is_refused_and_leaves_nothing(hello: Hello, code: ErrorCode, text: str) -> None:
    desk = Desk()
    found = desk.core.open_session(hello, desk.now)
    assert isinstance(found, Fault)
    assert found.code is code and text in found.message
    assert desk.core.sessions == {} and desk.core.take_commits() == []


def test_a_service_name_of_256_bytes_is_fine() -> None:
    assert Desk().host("x" * 256).session.connected


def test_a_welcomed_session_is_on_record() -> None:
    desk = Desk()
    desk.held = True
    host = desk.host()
    desk.settle()
    assert host.frames == [] and desk.rows.sessions == {}
    desk.held = False
    desk.settle()
    assert host.session.connected and list(desk.rows.sessions) == ["h/0"]


def test_a_second_hello_on_a_stream_is_a_fault() -> None:
    desk, host = running()
    host.raw(HostFrame(hello=Hello("h", "h/0")))
    desk.settle()
    assert [f.code for f in host.faults] == [ErrorCode.PROTOCOL]


def test_a_gap_in_positions_is_a_fault_and_the_frame_has_no_effect() -> None:
    desk, host = running("a")
    host.raw(HostFrame(position=7, runs=[HostSection("r", need_snapshot=host.seqs["r"][0])]))
    desk.settle()
    assert [f.code for f in host.faults] == [ErrorCode.PROTOCOL]
    assert desk.core.runs["r"].body is not None


def test_frames_of_a_replaced_stream_are_ignored() -> None:
    desk, host = running("a")
    old, stream = host.engine, host.stream
    fence = host.seqs["r"][0]
    host.session.disconnect()
    host.connect()
    desk.settle()
    assert old is not None
    desk.core.receive(old, stream, HostFrame(runs=[HostSection("r", need_snapshot=fence)]), desk.now)
    desk.core.close_stream(old, stream, desk.now)
    desk.settle()
    assert host.session.connected and desk.core.runs["r"].body is not None
    desk.pass_time(20)
    assert list(desk.core.sessions) == ["h/0"]


# ---- resume


def test_a_cut_loses_nothing_and_unacked_frames_come_again() -> None:
    desk, host = running("a", "b")
    host.cut()
    host.ok("a")
    host.connect()
    desk.settle()
    (section,) = [s for s in host.take() if s.continued]
    assert section.continued == host.seqs["r"][0]
    assert host.session.unacked == 0
    assert host.seqs["r"][1] == 1, "the release of `a`"
    assert desk.core.counters.body_entries == 1 and desk.core.counters.executes == 2


def test_an_ack_that_was_lost_makes_a_repeated_plan_and_a_repeated_result() -> None:
    desk, host = running()
    desk.held = True
    host.plan("a", start=("a",))
    host.ok("a")
    desk._from_hosts()
    desk.commit()
    host.cut()
    desk.held = False
    host.connect()
    desk.settle()
    assert (desk.core.counters.repeated_plans, desk.core.counters.repeated_results) == (1, 1)
    assert host.session.unacked == 0
    assert desk.kinds.count("AttemptEnded") == 1
    assert host.seqs["r"][1] == 1, "the missed release was read from the journal"


def test_an_execute_that_was_under_way_when_the_stream_ended_is_sent_again() -> None:
    desk, host = running()
    host.plan("a")
    desk._from_hosts()
    desk.commit()
    desk.core.take_frames()
    host.cut().connect()
    desk.settle()
    assert [e.path for e in host.executes()] == ["a"]
    assert host.session.attempts == 1


def test_a_body_whose_advance_was_under_way_when_the_stream_ended_is_given_again() -> None:
    desk = Desk()
    host = desk.host()
    desk.start()
    desk.commit()
    desk.core.take_frames()
    host.cut().connect()
    desk.settle()
    assert len(advances(host.take())) == 1
    assert desk.kinds == ["RunCreated"], "nothing was lost"


def test_a_cancel_that_was_under_way_when_the_stream_ended_is_sent_again() -> None:
    desk, host = running("a")
    host.plan(abandoned=("a",))
    desk._from_hosts()
    desk.commit()
    desk.core.take_frames()
    host.cut().connect()
    desk.settle()
    assert [(c.path, c.reason) for s in host.take() for c in s.cancels] == [("a", CancelReason.ABANDONED)]


def test_a_process_that_forgot_everything_loses_what_it_had_without_a_grace() -> None:
    desk, host = running("a")
    host.cut()
    fresh = Host(desk, Hello("h", "h/0", ("flow",), ("work",), 100, 100))
    desk.hosts = [fresh]
    fresh.connect()
    desk.settle()
    sections = fresh.take()
    assert len(advances(sections)) == 1 and [e.path for s in sections for e in s.executes] == ["a"]


# ---- goodbye, end of stream, silence


def test_after_goodbye_others_go_on_at_once_and_nothing_is_lost() -> None:
    desk, host = running("a", task("t"))
    other = desk.host("other")
    host.session.say_goodbye("stop")
    desk.settle()
    assert list(desk.core.sessions) == ["other/1"] and list(desk.rows.sessions) == ["other/1"]
    sections = other.take()
    assert len(advances(sections)) == 1
    assert {e.path for s in sections for e in s.executes} == {"a", "t"}
    assert "AttemptLost" not in desk.kinds and "BodyLost" not in desk.kinds


def test_the_end_of_a_stream_means_nothing_within_the_grace() -> None:
    desk, host = running("a")
    other = desk.host("other")
    host.cut()
    desk.pass_time(2.9)
    assert other.take() == []
    host.connect()
    desk.settle()
    assert host.holds("a") and "AttemptLost" not in desk.kinds


def test_after_the_grace_the_host_is_lost_and_a_retry_is_not_consumed() -> None:
    desk, host = running("a")
    other = desk.host("other")
    host.cut()
    desk.pass_time(4)
    sections = other.take()
    (advance,) = [s.advance for s in advances(sections) if s.advance]
    assert advance.hold
    assert [(e.path, e.attempt) for s in sections for e in s.executes] == [("a", 1)]
    assert desk.kinds.count("AttemptLost") == 1 and desk.kinds.count("BodyLost") == 1
    assert desk.core.counters.attempts_lost == {"stream_end": 1}


def test_silence_is_tolerated_for_its_time_and_then_a_fault_says_so() -> None:
    desk, host = running("a")
    desk.pass_time(14.5, beat=False)
    assert desk.core.sessions
    desk.pass_time(1.5, beat=False)
    assert desk.core.sessions == {} and [f.code for f in host.faults] == [ErrorCode.STALE]
    host.connect()
    desk.settle()
    assert host.session.connected


def test_a_stall_of_the_engine_expires_no_lease() -> None:
    desk, _ = running("a")
    desk.pass_time(1)
    desk.mono += 60
    desk.core.tick(desk.now)
    assert list(desk.core.sessions) == ["h/0"]


def test_a_stall_is_forgiven_only_once() -> None:
    """Forgiving must not put a session's last sign of life into the future."""
    desk, host = running("a")
    desk.pass_time(1)
    desk.mono += 60
    host.raw(HostFrame(report=Report(1)))
    desk.core.tick(desk.now)
    desk.pass_time(16, beat=False)
    assert desk.core.sessions == {}


def test_a_held_body_starts_nothing_by_itself_until_it_planned() -> None:
    """Every Advance of a body that follows a lost one says `hold` until a plan of it is committed."""
    desk, host = running(task("t"), task("u"))
    worker = desk.host("worker", flows=())
    desk.pass_time(1)
    host.cut()
    desk.pass_time(4)
    desk.pass_time(1)
    heir = desk.host("heir")
    (advance,) = [s.advance for s in advances(heir.take()) if s.advance]
    assert advance.hold
    worker.ok("t")
    desk.settle()
    (advance,) = [s.advance for s in advances(heir.take()) if s.advance]
    assert advance.hold, "no plan yet"
    heir.plan("b")
    desk.settle()
    worker.ok("u")
    desk.settle()
    (advance,) = [s.advance for s in advances(heir.take()) if s.advance]
    assert not advance.hold


def test_a_step_that_kills_every_host_is_poison() -> None:
    desk, _ = running(task("t"))
    for attempt in range(3):
        assert "AttemptEnded" not in desk.kinds, attempt
        holder = next(h for h in desk.hosts if h.holds("t"))
        desk.host(f"h{attempt}", flows=())
        holder.cut()
        desk.pass_time(4)
        desk.hosts.remove(holder)
    ended = [e for e in desk.rows.entries() if type(e).__name__ == "AttemptEnded"]
    assert [e.failure.code for e in ended] == [ErrorCode.POISON_STEP]  # type: ignore[union-attr]


def test_losing_a_host_whose_right_was_given_on_counts_for_nothing() -> None:
    """An old holder that was told LEASE_LOST is lost: the step is executed elsewhere and goes on."""
    desk, host = running()
    desk.host("w1", flows=())
    host.plan(task("t"))
    desk.settle()
    first = next(h for h in desk.hosts if h.holds("t"))
    other = next(h for h in desk.hosts if h is not first)
    step = desk.core.runs["r"].steps["t"]
    assert first.engine is not None and step.lease is not None
    # The engine concludes that the Execute never arrived, and gives the step to another host.
    desk.core._dispatcher.cancel(step.lease, CancelReason.LEASE_LOST)
    assert other.engine is not None
    other.engine.hold(Lease(step, other.engine.id, desk.core._books.next_fence(), desk.mono))
    first.cut()
    desk.pass_time(4)
    assert "AttemptLost" not in desk.kinds
    assert step.lease is not None and step.lease.session_id == other.engine.id


# ---- restart


def restarted() -> tuple[Desk, Host, Host]:
    desk, host = running("a", task("t"))
    other = desk.host("other")
    desk.restart()
    return desk, host, other


def test_after_a_restart_nothing_is_repeated_until_every_instance_spoke() -> None:
    desk, host, other = restarted()
    assert desk.core.adopting
    other.connect()
    desk.settle()
    assert other.take() == []
    host.connect()
    desk.settle()
    assert not desk.core.adopting
    assert desk.core.counters.attempts_adopted == 2 and desk.core.counters.bodies_adopted == 1
    assert desk.core.counters.executes == 0 and desk.core.counters.body_entries == 0
    host.ok("a")
    host.ok("t")
    desk.settle()
    host.end()
    desk.settle()
    assert desk.run_state() == "SUCCEEDED"


def test_after_a_restart_the_grace_ends_the_waiting() -> None:
    desk, _, other = restarted()
    other.connect()
    desk.pass_time(9.5)
    assert other.executes() == []
    desk.pass_time(1)
    assert {e.path for e in other.executes()} == {"a", "t"}
    assert "AttemptLost" not in desk.kinds


def test_an_instance_that_says_goodbye_is_waited_for_no_longer() -> None:
    desk, host, other = restarted()
    other.connect()
    desk.settle()
    host.connect()
    host.session.say_goodbye("stop")
    desk.settle()
    assert not desk.core.adopting
    assert {e.path for e in other.executes()} == {"a", "t"}


def test_work_that_becomes_due_after_a_restart_goes_out_at_once() -> None:
    desk, host = running(task("t", retry=RetryPolicy(3, delay=5.0, jitter=0.0)))
    host.failed("t")
    desk.settle()
    desk.restart()
    other = desk.host("other", flows=())
    assert desk.core.adopting and other.executes() == []
    desk.pass_time(5.5)
    assert desk.core.adopting
    assert [(e.path, e.attempt) for e in other.executes()] == [("t", 2)]


def test_an_attempt_that_was_given_to_another_host_is_told_so_when_it_comes_back() -> None:
    desk, host = running(task("t"))
    other = desk.host("other", flows=())
    host.cut()
    desk.pass_time(4)
    assert other.holds("t")
    host.connect()
    desk.settle()
    assert [c.reason for s in host.take() for c in s.cancels] == [CancelReason.LEASE_LOST]
    host.ok("t")
    desk.settle()
    assert desk.core.counters.stale_results == 1 and "AttemptEnded" not in desk.kinds
    other.ok("t")
    desk.settle()
    assert "Released" in desk.kinds


def test_a_retry_is_not_forgotten_when_the_old_holder_answers_after_its_time() -> None:
    """Two hosts execute one attempt; the first answer decides, and the second must not block the retry."""
    desk, host = running()
    desk.host("w", flows=())
    retry = RetryPolicy(3, delay=1.0, jitter=0.0)
    host.plan(task("t", retry=retry))
    desk.settle()
    first = next(h for h in desk.hosts if h.holds("t"))
    second = next(h for h in desk.hosts if h is not first)
    first.take()
    step = desk.core.runs["r"].steps["t"]
    assert second.engine is not None and step.lease is not None
    # `second` holds the right now, but `first` has the same one (adopted under equal fences).
    fence = step.lease.fence
    second.engine.hold(Lease(step, second.engine.id, fence, desk.mono))
    second.session._execute("r", Execute("t", 1, fence, StepKind.TASK, "work"), desk.mono)
    first.failed("t")
    desk.settle()
    desk.pass_time(3)
    assert step.attempt == 2 and not [h for h in desk.hosts if h.executes()], "never two attempts at once"
    second.failed("t", code=ErrorCode.CANCELLED)
    desk.settle()
    assert [e.attempt for h in desk.hosts for e in h.executes()] == [2]


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


def test_a_lost_sessions_refused_record_does_no_harm() -> None:
    desk, host = running("a")
    host.cut()
    desk.held = True
    desk.pass_time(4)
    desk.commit(receipt=REFUSED)
    desk.held = False
    desk.settle()
    host.connect()
    desk.settle()
    assert host.session.connected
    assert host.holds("a")


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
