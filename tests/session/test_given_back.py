"""Bodies that a host gives back because it needs the room: wanted again when there is something to do, not before."""

from __future__ import annotations

import pytest

from stepwire.protocol.plan import Fence, RetryPolicy, StepKind, StepPlanned, WaitEvent
from tests.session.desk import Desk, Host, advances, running, task

RETRY = RetryPolicy(max_attempts=2, delay=5.0, jitter=0.0)


def waiting(path: str = "wait") -> StepPlanned:
    return StepPlanned(path, StepKind.WAIT_EVENT, spec=WaitEvent("go"))


def give_back(host: Host, run_id: str = "r", *, waits_after: int | None = None, no_room: bool = False) -> Fence:
    """The host drops the body; by default it waits, and was given everything it was sent."""
    fence, released, _ = host.seqs[run_id]
    after = released if waits_after is None and not no_room else waits_after
    host.session.give_back(run_id, fence, waits_after=after, no_room=no_room)
    host.desk.settle()
    return fence


def test_a_body_that_waits_is_sent_again_with_its_next_release() -> None:
    desk, host = running(waiting())
    old = give_back(host)
    desk.pass_time(3)
    assert advances(host.take()) == [] and host.session.bodies == 0
    desk.send("go")
    desk.settle()
    (advance,) = advances(host.take())
    assert advance.start is not None and advance.fence > old
    assert "BodyLost" not in desk.kinds


def test_a_release_that_crossed_the_body_on_its_way_back_makes_the_engine_send_it_at_once() -> None:
    desk, host = running(waiting(), waiting("other"))
    desk.send("go")
    desk.settle()
    assert len(host.releases()) == 1
    give_back(host, waits_after=0)
    assert [advance.start is not None for advance in advances(host.take())] == [True]


def test_a_body_that_does_not_say_that_it_waits_is_sent_at_once() -> None:
    desk, host = running(waiting())
    host.session.give_back("r", host.seqs["r"][0])
    desk.settle()
    assert len(advances(host.take())) == 1


def test_a_closure_that_has_yet_to_be_executed_keeps_its_body_wanted() -> None:
    """Every slot was taken, so nobody was told to execute it."""
    desk = Desk()
    host = desk.host(slots=1)
    desk.start()
    desk.settle()
    host.plan("a", "b", start=("a",))
    desk.settle()
    host.take()
    give_back(host)
    assert len(advances(host.take())) == 1
    host.ok("a")
    desk.settle()
    assert [execute.path for execute in host.executes()] == ["b"]


def test_a_closure_whose_retry_is_due_later_asks_for_the_body_then() -> None:
    desk, host = running(StepPlanned("a", retry=RETRY), start=("a",))
    host.failed("a")
    desk.settle()
    host.take()
    give_back(host)
    desk.pass_time(3)
    assert advances(host.take()) == []
    desk.pass_time(3)
    sections = host.take()
    assert len(advances(sections)) == 1 and [e.path for s in sections for e in s.executes] == ["a"]


def test_a_closure_that_runs_needs_no_body_to_be_accepted() -> None:
    """The output is not kept for the body any more: the next one gets its bytes."""
    desk, host = running("a", start=("a",))
    give_back(host)
    assert advances(host.take()) == []
    host.ok("a", data=b"42")
    desk.settle()
    (advance,) = advances(host.take())
    (release,) = [entry for entry in advance.entries if hasattr(entry, "outcomes")]
    assert release.outcomes[0].output is not None and release.outcomes[0].output.data == b"42"
    assert not release.outcomes[0].held


def test_an_execute_that_crossed_the_body_on_its_way_back_is_given_out_again() -> None:
    desk, host = running(task("t"))
    other = desk.host("other", flows=())
    desk.settle()
    give_back(host)
    desk.pass_time(1)
    holder = host if host.holds("t") else other
    holder.ok("t")
    desk.settle()
    assert len(advances(host.take())) == 1


@pytest.mark.parametrize("seen", [True, False], ids=["acked", "cut"])
def test_a_body_given_back_is_not_adopted_after_a_resume(seen: bool) -> None:
    desk, host = running(waiting())
    if seen:
        give_back(host)
    else:
        fence, released, _ = host.seqs["r"]
        host.cut()
        host.session.give_back("r", fence, waits_after=released)
    if seen:
        host.cut()
    host.connect()
    desk.settle()
    host.take()
    assert desk.core.runs["r"].body is None
    desk.send("go")
    desk.settle()
    assert [advance.start is not None for advance in advances(host.take())] == [True]


def test_a_body_without_room_goes_to_another_host_and_none_comes_before_the_next_report() -> None:
    desk = Desk()
    full, other = desk.host("full"), None
    desk.start()
    desk.settle()
    give_back(full, no_room=True)
    assert len(advances(full.take())) == 1, "the one that was refused"
    desk.start("second")
    desk.settle()
    assert advances(full.take()) == []
    other = desk.host("other")
    desk.settle()
    assert len(advances(other.take())) == 2
    desk.start("third")
    desk.start("fourth")
    desk.settle()
    assert advances(full.take()) == []
    desk.pass_time(5)
    desk.start("fifth")
    desk.settle()
    assert len(advances(full.take())) == 1, "it has the fewest, and reported since"


def test_room_is_reported_at_once() -> None:
    desk = Desk()
    host = desk.host()
    desk.start()
    desk.settle()
    give_back(host, no_room=True)
    host.take()
    host.session.report_now(desk.mono)
    desk.settle()
    assert len(advances(host.take())) == 1


def test_a_cancelled_run_whose_body_was_given_back_ends() -> None:
    desk, host = running(waiting())
    give_back(host)
    desk.core.cancel_run("c", "r", None, desk.now)
    desk.settle()
    assert desk.run_state() == "CANCELLED" and advances(host.take()) == []


def test_a_given_back_body_becomes_dormant_like_any_other() -> None:
    desk, host = running(waiting())
    give_back(host)
    desk.pass_time(30)
    assert "r" not in desk.core.runs and desk.run_state() == "WAITING"
    desk.send("go")
    desk.settle()
    assert len(advances(host.take())) == 1
