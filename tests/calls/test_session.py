"""The books of the built-in host: rights, acks, resume, and what it refuses; no loop, no socket."""

from __future__ import annotations

from stepwire.protocol import limits
from stepwire.protocol.frames import (
    AttemptInProgress,
    Cancel,
    CancelReason,
    Drain,
    EngineFrame,
    EngineSection,
    Execute,
    Goodbye,
    Hello,
    HostFrame,
    RejectReason,
    Result,
    ResumeState,
    Welcome,
)
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import CALL_STEP, Call, Fence, StepKind
from stepwire_engine.calls.session import CallSession, Orders

RUN = "run1"
HELLO = Hello("stepwire", "stepwire-engine", steps=(CALL_STEP,), slots=2, bodies=0)
CALL = Call("http://api.example/")


def welcomed(session: CallSession) -> CallSession:
    session.connect(0.0)
    session.receive(EngineFrame(1, Welcome("s", heartbeat_interval=4.0)), 0.0)
    return session


def execute(path: str = "a", attempt: int = 1, n: int = 1, call: Call | None = CALL) -> Execute:
    return Execute(path, attempt, Fence(1, n), StepKind.CALL, CALL_STEP, call=call)


def told(session: CallSession, *executes: Execute, cancels: tuple[Cancel, ...] = (), now: float = 0.0) -> Orders:
    section = EngineSection(RUN, executes=list(executes), cancels=list(cancels))
    return session.receive(EngineFrame(2, runs=[section]), now)


def finish(session: CallSession, path: str = "a", attempt: int = 1, output: Payload = NULL) -> None:
    session.finish((RUN, path), Result(path, attempt, Fence(0, 0), output))


def frames(session: CallSession, now: float = 0.0) -> list[HostFrame]:
    found = []
    while (frame := session.take_frame(now)) is not None:
        found.append(frame)
    return found


def reasons(session: CallSession) -> list[RejectReason]:
    return [r.reason for frame in frames(session) for section in frame.runs for r in section.rejects]


def test_nothing_is_said_before_welcome() -> None:
    session = CallSession(HELLO)
    assert session.connect(0.0) == HELLO
    session.say_goodbye("x")
    assert frames(session, 100.0) == []
    assert session.next_report() is None


def test_an_execute_begins_and_its_result_carries_its_fence() -> None:
    session = welcomed(CallSession(HELLO))
    assert told(session, execute(n=7)).begin == [((RUN, "a"), execute(n=7))]
    finish(session)
    (frame,) = frames(session)
    assert frame.position == 1
    assert [(s.run_id, s.results) for s in frame.runs] == [(RUN, [Result("a", 1, Fence(1, 7), NULL)])]


def test_a_second_execute_replaces_the_right_and_begins_nothing() -> None:
    session = welcomed(CallSession(HELLO))
    told(session, execute(n=1))
    assert told(session, execute(n=5)).begin == []
    assert told(session, execute(n=3)).begin == []
    finish(session)
    assert frames(session)[0].runs[0].results[0].fence == Fence(1, 5)


def test_an_execute_of_a_finished_attempt_is_answered_again() -> None:
    session = welcomed(CallSession(HELLO))
    told(session, execute(n=1))
    finish(session, output=Payload(b"17"))
    assert len(frames(session)) == 1
    assert told(session, execute(n=2)).begin == []
    (frame,) = frames(session)
    assert (frame.position, frame.runs[0].results) == (2, [Result("a", 1, Fence(1, 2), Payload(b"17"))])
    assert told(session, execute(attempt=2, n=3)).begin, "the next attempt is another one"


def test_what_is_no_call_or_too_much_is_given_back() -> None:
    session = welcomed(CallSession(HELLO))
    told(session, execute(call=None))
    told(session, Execute("b", 1, Fence(1, 1), StepKind.TASK, CALL_STEP, call=CALL))
    assert reasons(session) == [RejectReason.NOT_SERVED, RejectReason.NOT_SERVED]
    assert len(told(session, execute("a"), execute("b"), execute("c")).begin) == 2
    told(session, execute("a", attempt=2))
    assert reasons(session) == [RejectReason.NO_SLOT, RejectReason.NO_SLOT]
    finish(session, "b")
    assert told(session, execute("c")).begin
    session.receive(EngineFrame(3, drain=Drain(1.0)), 0.0)
    told(session, execute("d"))
    assert reasons(session) == [RejectReason.DRAINING]


def test_a_reject_alone_is_not_durable() -> None:
    session = welcomed(CallSession(HELLO))
    told(session, execute(call=None))
    assert [frame.position for frame in frames(session)] == [0]


def test_a_cancel_stops_what_its_fence_reaches() -> None:
    session = welcomed(CallSession(HELLO))
    told(session, execute("a", n=5), execute("b", n=6))

    def stopped(path: str, n: int) -> list[str]:
        cancel = Cancel(path, Fence(1, n), CancelReason.RACE_LOST)
        return [key[1] for key, _ in told(session, cancels=(cancel,)).stop]

    assert stopped("a", 4) == []
    assert stopped("a", 5) == ["a"]
    assert stopped("absent", 9) == []
    assert stopped("", 1) == ["a", "b"]


def test_results_are_kept_until_they_are_acked_and_sent_again() -> None:
    session = welcomed(CallSession(HELLO))
    told(session, execute("a"), execute("b", n=2))
    finish(session, "a")
    (first,) = frames(session)
    finish(session, "b")
    (second,) = frames(session)
    session.disconnect()
    assert frames(session) == []
    resume = session.connect(9.0).resume
    assert resume is not None and resume.first_unacked == 1
    session.receive(EngineFrame(1, Welcome("s")), 9.0)
    again = [(frame.position, frame.runs) for frame in frames(session, 9.0)]
    assert again == [(1, first.runs), (2, second.runs)]
    session.receive(EngineFrame(2, acked_position=1), 9.0)
    session.disconnect()
    resume = session.connect(9.0).resume
    assert resume == ResumeState((), (AttemptInProgress(RUN, "b", 1, Fence(1, 2)),), 2)
    session.receive(EngineFrame(1, Welcome("s")), 9.0)
    assert [(frame.position, frame.runs) for frame in frames(session, 9.0)] == [(2, second.runs)]


def test_a_resume_lists_what_is_in_progress_with_its_time() -> None:
    session = welcomed(CallSession(HELLO))
    told(session, execute("a", n=3), now=1.0)
    session.disconnect()
    resume = session.connect(5.0).resume
    assert resume == ResumeState((), (AttemptInProgress(RUN, "a", 1, Fence(1, 3), 4.0),), 0)
    finish(session, "a")
    assert session.in_progress == 1, "its outcome is not said yet"
    session.receive(EngineFrame(1, Welcome("s")), 5.0)
    assert [frame.position for frame in frames(session, 5.0)] == [1]
    assert session.in_progress == 0


def test_a_stream_that_was_never_welcomed_leaves_nothing_to_resume() -> None:
    session = CallSession(HELLO)
    session.connect(0.0)
    session.disconnect()
    assert session.connect(0.0) == HELLO


def test_reports_come_at_the_heartbeat_and_list_everything() -> None:
    session = welcomed(CallSession(HELLO))
    told(session, execute("a", n=3), now=1.0)
    assert session.next_report() == 4.0
    assert frames(session, 3.9) == []
    (frame,) = frames(session, 5.0)
    assert frame.report is not None
    assert (frame.position, frame.report.free_slots, frame.report.last_engine_frame) == (0, 1, 2)
    assert frame.report.attempts == (AttemptInProgress(RUN, "a", 1, Fence(1, 3), 4.0),)
    assert session.next_report() == 9.0
    finish(session)
    (frame,) = frames(session, 9.0)
    assert frame.report is not None and frame.runs[0].results
    assert [a.path for a in frame.report.attempts] == ["a"]


def test_frames_are_cut_and_the_report_lists_what_must_wait() -> None:
    session = welcomed(CallSession(HELLO))
    told(session, execute("a"), execute("b"))
    large = Payload(bytes(limits.FRAME_BYTES_TARGET))
    finish(session, "a", output=large)
    finish(session, "b", output=large)
    session.say_goodbye("engine stops")
    first, second = frames(session, 4.0)
    assert [[r.path for s in f.runs for r in s.results] for f in (first, second)] == [["a"], ["b"]]
    assert first.report is not None and [a.path for a in first.report.attempts] == ["a", "b"]
    assert (first.goodbye, second.goodbye) == (None, Goodbye("engine stops"))
    assert (first.position, second.position) == (1, 2)
