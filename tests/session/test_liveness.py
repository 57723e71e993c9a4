"""Sessions, leases and who is alive (DESIGN 3 rules 4 to 7, proto/README 3 and 7)."""

from __future__ import annotations

import pytest

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import (
    CancelReason,
    Execute,
    Fault,
    Hello,
    HostFrame,
    HostSection,
    NeedSnapshot,
    Report,
)
from stepwire.protocol.plan import RetryPolicy, StepKind
from stepwire_engine.core.model import Lease
from tests.session.desk import REFUSED, Desk, Host, advances, running, task

# ---- hello


@pytest.mark.parametrize(
    ("hello", "code", "text"),
    [
        (Hello("h", "i", protocol_min=2, protocol_max=3), ErrorCode.VERSION, "2..3 offered, engine speaks 1..1"),
        (Hello("h", "i", protocol_min=0, protocol_max=0), ErrorCode.VERSION, "upgrade the host"),
        (Hello("h", "i", required_features=(1, 77)), ErrorCode.FEATURE, "feature 77"),
        (Hello("h", "", flows=("flow",)), ErrorCode.INVALID_NAME, "instance_id"),
        (Hello("", "i"), ErrorCode.INVALID_NAME, "service name of Hello has 0 bytes; 1 to 256 are allowed"),
        (Hello("x" * 257, "i"), ErrorCode.INVALID_NAME, "has 257 bytes; 1 to 256 are allowed"),
        (Hello("h", "i" * 513), ErrorCode.INVALID_NAME, "instance_id of Hello has 513 bytes"),
        (Hello("h", "i", flows=("a", "")), ErrorCode.INVALID_NAME, "name of a flow has 0 bytes"),
        (Hello("h", "i", steps=("a", "b\n")), ErrorCode.INVALID_NAME, "name of a step has control characters"),
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
    host.raw(HostFrame(position=7, runs=[HostSection("r", need_snapshot=NeedSnapshot(host.seqs["r"][0]))]))
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
    desk.core.receive(old, stream, HostFrame(runs=[HostSection("r", need_snapshot=NeedSnapshot(fence))]), desk.now)
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
    (advance,) = advances(sections)
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
    (advance,) = advances(heir.take())
    assert advance.hold
    worker.ok("t")
    desk.settle()
    (advance,) = advances(heir.take())
    assert advance.hold, "no plan yet"
    heir.plan("b")
    desk.settle()
    worker.ok("u")
    desk.settle()
    (advance,) = advances(heir.take())
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
    assert step.lease is not None
    # The engine concludes that the Execute never arrived, and gives the step to another host.
    desk.core._dispatcher.slots.cancel(step.lease, CancelReason.LEASE_LOST)
    assert other.engine is not None
    other.engine.hold(Lease(step, other.engine.id, desk.core._books.next_fence(), desk.mono, step.attempt))
    first.cut()
    desk.pass_time(4)
    assert "AttemptLost" not in desk.kinds
    assert step.lease.session_id == other.engine.id


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


def test_an_instance_that_never_came_back_is_waited_for_once() -> None:
    desk, host, other = restarted()
    other.connect()
    desk.pass_time(10.5)
    assert set(desk.rows.sessions) == {"other/1"}
    other.ok("t")
    desk.restart()
    other.connect()
    desk.settle()
    assert not desk.core.adopting
    host.connect()
    desk.settle()
    assert len(desk.rows.sessions) == 2, "it may come back at any time"


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
    second.engine.hold(Lease(step, second.engine.id, fence, desk.mono, step.attempt))
    second.session._execute("r", Execute("t", 1, fence, StepKind.TASK, "work"), desk.mono)
    first.failed("t")
    desk.settle()
    desk.pass_time(3)
    assert step.attempt == 2 and not [h for h in desk.hosts if h.executes()], "never two attempts at once"
    second.failed("t", code=ErrorCode.CANCELLED)
    desk.settle()
    assert [e.attempt for h in desk.hosts for e in h.executes()] == [2]


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
