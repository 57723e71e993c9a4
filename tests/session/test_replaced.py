"""A host takes a new name, because another process says its old one: it offers what it holds, and fences decide."""

from __future__ import annotations

from stepwire.protocol.frames import CancelReason
from tests.session.desk import Desk, Host, running, task


def renamed(host: Host, name: str = "new name") -> Host:
    """It lost its stream to another process, and dials as somebody else."""
    host.session.disconnect()
    host.engine = None
    host.session.rename(name)
    return host.connect()


def twin(desk: Desk, host: Host) -> Host:
    """A fresh process with the instance id of this one."""
    other = desk.host("twin", connect=False)
    other.session.rename(host.session.instance_id)
    other.connect()
    host.session.disconnect()
    host.engine = None
    desk.settle()
    return other


def test_a_renamed_host_goes_on_with_its_attempt_when_nobody_else_has_it() -> None:
    desk, host = running(task("t"))
    host.cut()
    renamed(host)
    desk.settle()
    assert desk.core.counters.attempts_adopted == 1
    host.ok("t")
    desk.settle()
    assert desk.kinds.count("AttemptEnded") == 1 and desk.core.counters.stale_results == 0


def test_what_the_twin_was_given_meanwhile_is_stale_at_the_renamed_host() -> None:
    desk, host = running(task("t"))
    other = twin(desk, host)
    assert other.holds("t"), "a process without memory of it holds nothing, so it was given away"
    renamed(host)
    desk.settle()
    assert [c.reason for s in host.take() for c in s.cancels] == [CancelReason.LEASE_LOST]
    host.ok("t", data=b"old")
    desk.settle()
    assert desk.core.counters.stale_results == 1 and "AttemptEnded" not in desk.kinds
    other.ok("t", data=b"new")
    desk.settle()
    assert desk.kinds.count("AttemptEnded") == 1


def test_both_have_sessions_of_their_own_from_then_on() -> None:
    desk, host = running()
    other = twin(desk, host)
    renamed(host)
    desk.settle()
    assert len(desk.core.sessions) == 2
    desk.pass_time(60)
    assert len(desk.core.sessions) == 2 and host.session.connected and other.session.connected


def test_results_that_were_not_acked_are_delivered_under_the_new_name() -> None:
    desk, host = running(task("t"))
    desk.held = True
    host.ok("t")
    desk.settle()
    host.cut()
    renamed(host)
    desk.held = False
    desk.settle()
    assert desk.kinds.count("AttemptEnded") == 1
    assert host.session.settled
