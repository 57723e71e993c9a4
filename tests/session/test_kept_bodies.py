"""Bodies that ended and are kept for the closures that undo their steps: who lets them go, and when (MISSION S8)."""

from __future__ import annotations

import pytest

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import LiveBody, Purpose
from stepwire.protocol.plan import BodyEnded, RetryPolicy, StepKind, StepPlanned, Undo
from tests.session.desk import Desk, Host, advances, running

CLOSURE = Undo(StepKind.RUN)
FAILED = BodyEnded(failure=Failure(ErrorCode.USER_ERROR, "ValueError", "no"))
ONCE = RetryPolicy(max_attempts=1)


def booked(desk: Desk, host: Host) -> None:
    """A step was completed that a closure undoes."""
    host.plan(StepPlanned("a", undo=CLOSURE, started=True), start=("a",))
    host.ok("a")
    desk.settle()
    host.take()


def undoing() -> tuple[Desk, Host]:
    """A run whose body ended and whose first undo is in progress."""
    desk, host = running()
    booked(desk, host)
    host.plan(body_ended=FAILED)
    desk.settle()
    assert host.holds("a#undo")
    return desk, host


def held(host: Host) -> tuple[LiveBody, ...]:
    """Bodies that the host would list if its stream came back now."""
    resume = host.session._resume(host.desk.mono)
    assert resume is not None
    return resume.bodies


def test_a_kept_body_is_listed_and_reported_after_its_end_is_acked() -> None:
    desk, host = undoing()
    assert host.session.unacked == 0
    fence, released, planned = host.seqs["r"]
    assert held(host) == (LiveBody("r", fence, released, planned + 1),)
    desk.pass_time(5.0)
    assert host.session.bodies == 1
    host.ok("a#undo")
    desk.settle()
    assert desk.run_state() == "FAILED" and host.session.bodies == 0


@pytest.mark.parametrize("ended", [FAILED, BodyEnded(cancelled=True)], ids=["failed", "cancelled"])
@pytest.mark.parametrize("outcome", ["failed", "none"])
def test_a_body_whose_undos_nobody_wants_is_let_go(outcome: str, ended: BodyEnded) -> None:
    """Its step has a closure that undoes it, but was never completed."""
    desk, host = running()
    host.plan(StepPlanned("a", undo=CLOSURE, retry=ONCE, started=True), start=("a",))
    if outcome == "failed":
        host.failed("a")
    desk.settle()
    host.plan(body_ended=ended)
    desk.settle()
    if outcome == "none":
        host.failed("a", code=ErrorCode.CANCELLED)
        desk.settle()
    assert desk.run_state() in ("FAILED", "CANCELLED")
    assert host.session.bodies == 0 and host.session.attempts == 0


def test_a_body_that_succeeded_goes_with_its_ack_whatever_undos_it_had() -> None:
    desk, host = running()
    booked(desk, host)
    host.end()
    assert host.session.bodies == 1
    desk.settle()
    assert host.session.bodies == 0
    assert not any(section.evict for section in host.take())


def test_a_stream_that_breaks_during_an_undo_costs_neither_the_body_nor_the_attempt() -> None:
    desk, host = undoing()
    host.cut()
    host.connect()
    desk.settle()
    assert advances(host.take()) == [] and host.holds("a#undo")
    host.ok("a#undo")
    desk.settle()
    assert desk.run_state() == "FAILED" and host.session.bodies == 0


@pytest.mark.parametrize("when", ["before the undo", "during the undo"])
def test_an_engine_that_restarts_goes_on_with_the_kept_body(when: str) -> None:
    desk, host = running()
    booked(desk, host)
    if when == "before the undo":
        desk.held = True
        host.plan(body_ended=FAILED)
        desk.settle()
        desk.held = False
    else:
        host.plan(body_ended=FAILED)
        desk.settle()
    desk.restart()
    host.connect()
    desk.settle()
    desk.pass_time(1.0)
    assert advances(host.take()) == [], "it is not replayed"
    assert host.holds("a#undo")
    host.ok("a#undo")
    desk.settle()
    assert desk.run_state() == "FAILED" and host.session.bodies == 0


def test_a_kept_body_that_is_given_back_is_replayed_for_its_undos() -> None:
    desk, host = undoing()
    fence = host.seqs["r"][0]
    host.failed("a#undo")
    host.session.give_back("r", fence)
    desk.settle()
    (advance,) = advances(host.take())
    assert advance.purpose is Purpose.UNDO and advance.fence > fence
    desk.pass_time(2.0)
    host.ok("a#undo", attempt=2)
    desk.settle()
    assert desk.run_state() == "FAILED" and host.session.bodies == 0
