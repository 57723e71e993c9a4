"""Events: who sends one, who is woken or started by it, and what a crash in between repeats (MISSION T1, S18, I15)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import Fault, FlowOptions, Hello, Trigger
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import BodyEnded, Event, SendEvent, StepKind, StepPlanned, WaitEvent
from stepwire_engine.core import causes, delivery
from stepwire_engine.core.books import Commit
from stepwire_engine.core.delivery import FACT_BYTES_PER_UNIT
from stepwire_engine.core.entries import AttemptEnded, RunCreated, RunPaused
from stepwire_engine.core.events import EVENT_AHEAD_MS_MAX
from stepwire_engine.core.units import EventMatched, Receipt
from stepwire_engine.scheduler.reader import answer_of
from tests.core.given import group
from tests.session.desk import REFUSED, Desk, Host, running


def wait(path: str = "w", event: str = "paid", **how: Any) -> StepPlanned:
    return StepPlanned(path, StepKind.WAIT_EVENT, spec=WaitEvent(event, **how))


def send(path: str, *events: Event) -> StepPlanned:
    return StepPlanned(path, StepKind.SEND_EVENT, spec=SendEvent(events))


def triggered(*triggers: Trigger, flow: str = "handler") -> dict[str, Any]:
    """Registers, beside "flow", one that is started by events."""
    return {"flows": ("flow", flow), "flow_options": (FlowOptions(flow, triggers=triggers),)}


def outputs(host: Host) -> dict[str, Any]:
    """What was released to the host's bodies since the last look, decoded."""
    found = [outcome for release in host.releases() for outcome in release.outcomes]
    return {o.path: msgspec.json.decode(o.output.data) if o.output is not None else o.failure for o in found}


def created(desk: Desk) -> list[RunCreated]:
    return [e for rows in desk.rows.rows.values() for row in rows for e in row if isinstance(e, RunCreated)]


def ends(desk: Desk, path: str, run: int = 1) -> list[AttemptEnded]:
    return [e for e in desk.rows.entries(run) if isinstance(e, AttemptEnded) and e.path == path]


# ---- waiting


def test_an_event_ends_the_wait_for_it_and_is_its_output() -> None:
    desk, host = running(wait())
    desk.pass_time(1.5)
    desk.send("paid", {"order": 17}, id="e1")
    desk.settle()
    at = desk.now.unix_ms / 1000
    assert outputs(host) == {"w": {"id": "e1", "name": "paid", "at": at, "data": {"order": 17}}}
    assert desk.rows.store.waits("paid", (0, ""), 10) == []
    assert desk.rows.store.inbox() == []


def test_an_event_of_another_name_or_that_does_not_match_ends_nothing() -> None:
    desk, host = running(wait(match="data.order == `17`"))
    desk.send("shipped", {"order": 17})
    desk.send("paid", {"order": 18})
    desk.send("paid", None, id="nothing")
    desk.settle()
    assert outputs(host) == {}
    desk.send("paid", {"order": 17}, id="the one")
    desk.send("paid", {"order": 17}, id="too late")
    desk.settle()
    assert outputs(host)["w"]["id"] == "the one"


def test_only_events_after_the_plan_count() -> None:
    desk, host = running()
    desk.send("paid")
    desk.settle()
    host.plan(wait())
    desk.settle()
    assert outputs(host) == {}


def test_an_event_that_is_being_delivered_when_the_wait_is_planned_came_before() -> None:
    """Both at the same millisecond: the order of acceptance decides."""
    desk, host = running()
    desk.held = True
    desk.send("paid", id="before")
    host.plan(wait())
    desk.settle()
    desk.send("paid", id="after")
    desk.held = False
    desk.settle()
    assert outputs(host)["w"]["id"] == "after"


def test_two_waits_for_one_event_both_end() -> None:
    desk, host = running()
    desk.start("r2")
    desk.settle()
    host.plan(wait("a"), wait("b"))
    host.plan(wait("c"), run_id="r2")
    desk.settle()
    desk.send("paid")
    desk.settle()
    assert set(outputs(host)) == {"a", "b", "c"}


def test_a_wait_that_times_out_gives_null_and_the_event_after_it_nothing() -> None:
    desk, host = running(wait(timeout=3.0))
    desk.pass_time(3.0)
    assert outputs(host) == {"w": None}
    assert desk.rows.store.waits("paid", (0, ""), 10) == []
    desk.send("paid")
    desk.settle()
    assert len(ends(desk, "w")) == 1


def test_a_wait_without_time_gives_null_at_once() -> None:
    desk, host = running(wait(timeout=0.0))
    assert outputs(host) == {} and len(desk.rows.rows[1]) == 2
    assert [e.output for e in ends(desk, "w")] == [NULL]


def test_the_first_of_event_and_timeout_wins_and_the_other_is_consumed() -> None:
    desk, host = running(wait(timeout=3.0))
    desk.held = True
    desk.mono += 3.0
    desk.send("paid", id="e1")
    desk.core.tick(desk.now)  # The timeout is decided before the event is stored.
    desk.held = False
    desk.settle()
    assert outputs(host) == {"w": None}
    assert desk.rows.store.inbox() == [] and desk.rows.store.undelivered(2**62, 10) == []


@pytest.mark.parametrize("age", [0.0, 5.0, 9.9])
def test_with_look_back_the_oldest_event_of_that_time_counts(age: float) -> None:
    desk, host = running()
    desk.send("paid", id="too old")
    desk.settle()
    desk.pass_time(2.0)
    desk.send("paid", id="first")
    desk.send("paid", id="second")
    desk.settle()
    desk.pass_time(age)
    host.plan(wait(lookback=age + 1.0))
    desk.settle()
    assert outputs(host)["w"]["id"] == "first"


def test_look_back_finds_nothing_older_and_then_waits() -> None:
    desk, host = running()
    desk.send("paid", id="old")
    desk.settle()
    desk.pass_time(5.0)
    host.plan(wait(lookback=4.0, timeout=2.0))
    desk.settle()
    assert outputs(host) == {}
    desk.send("paid", id="new")
    desk.settle()
    assert outputs(host)["w"]["id"] == "new"


def test_look_back_reads_page_after_page() -> None:
    desk, host = running()
    for n in range(100):
        desk.send("paid", n, id=f"e{n}")
        if n > 60:
            desk.pass_time(0.001, step=0.001)
    desk.settle()
    host.plan(wait("w", match="data == `97`", lookback=60.0))
    desk.settle()
    assert outputs(host)["w"]["data"] == 97


def test_look_back_finds_the_event_that_is_being_delivered() -> None:
    """Those who wait were read before the wait was on record, and the delivery is noted after it."""
    desk, host = running()
    desk.send("paid", id="e1")
    desk.commit()
    (undelivered,) = desk.core.take_reads()
    desk.core.read_done(undelivered, answer_of(desk.rows.store, undelivered), desk.now)
    (open_waits,) = desk.core.take_reads()
    nobody = answer_of(desk.rows.store, open_waits)
    host.plan(wait(lookback=5.0))
    desk.settle()
    desk.core.read_done(open_waits, nobody, desk.now)
    desk.settle()
    assert outputs(host)["w"]["id"] == "e1" and len(ends(desk, "w")) == 1


def test_a_wait_with_look_back_and_no_time_asks_whether_it_happened() -> None:
    desk, host = running()
    desk.send("paid", id="e1")
    desk.settle()
    host.plan(wait("yes", lookback=5.0, timeout=0.0), wait("no", "refunded", lookback=5.0, timeout=0.0))
    desk.settle()
    desk.pass_time(0.5)
    found = outputs(host)
    assert found["yes"]["id"] == "e1" and found["no"] is None


def test_a_wait_survives_the_engine() -> None:
    desk, host = running(wait(timeout=30.0))
    desk.restart()
    host.connect()
    desk.settle()
    desk.send("paid", id="e1")
    desk.settle()
    assert outputs(host)["w"]["id"] == "e1"


def test_an_event_for_a_wait_that_was_abandoned_changes_nothing() -> None:
    desk, host = running(wait())
    host.plan(abandoned=("w",))
    desk.settle()
    assert desk.rows.store.waits("paid", (0, ""), 10) == []
    desk.send("paid")
    desk.settle()
    assert ends(desk, "w") == [] and desk.rows.store.inbox() == []


def test_a_malformed_match_refuses_the_plan_and_names_the_expression() -> None:
    desk, _ = running(wait(match="data.["))
    (paused,) = [e for e in desk.rows.entries() if isinstance(e, RunPaused)]
    assert paused.failure.code is ErrorCode.PLAN_REJECTED and "'data.['" in paused.failure.message


def test_a_match_that_fails_on_the_data_does_not_match() -> None:
    desk, host = running(wait(match="length(data.items) > `1`"))
    desk.send("paid", {"items": 5})
    desk.settle()
    assert outputs(host) == {}
    desk.send("paid", {"items": [1, 2]})
    desk.settle()
    assert outputs(host)["w"]["data"] == {"items": [1, 2]}


# ---- sending


def test_a_step_sends_events_in_the_commit_of_its_plan() -> None:
    desk, host = running()
    desk.start("r2")
    desk.settle()
    host.plan(wait(), run_id="r2")
    desk.settle()
    host.plan(send("s", Event("paid", Payload(b"1"), "mine"), Event("paid", Payload(b"2"))))
    desk.settle()
    assert len(desk.rows.rows[1]) == 2
    found = outputs(host)
    assert found["s"] == ["mine", causes.sent_event_id("r", "s", 1)]
    assert found["w"]["data"] == 1


def test_a_step_waits_for_the_event_that_its_sibling_sends() -> None:
    desk, host = running()
    host.plan(wait("g/[0]/w"), send("g/[1]/s", Event("paid")), groups=(group("g", 2),))
    desk.settle()
    assert set(outputs(host)) == {"g/[0]/w", "g/[1]/s"}


def test_an_id_is_sent_once_within_its_window() -> None:
    desk, host = running(wait("a"))
    desk.send("paid", id="e1")
    desk.send("paid", id="e1")
    desk.settle()
    replies = [(r.event_id, r.existing) for r in desk.replies if r.event_id]
    assert replies == [("e1", False), ("e1", True)]
    host.plan(wait("b"))
    desk.settle()
    desk.send("paid", id="e1")
    desk.settle()
    assert len(ends(desk, "a")) == 1 and ends(desk, "b") == []
    desk.jump(desk.config.event_window + 1.0)
    desk.send("paid", id="e1")
    desk.settle()
    assert len(ends(desk, "b")) == 1


def test_an_event_of_the_future_is_delivered_when_it_is_due() -> None:
    desk, host = running(wait())
    desk.send("paid", id="later", at_ms=desk.now.unix_ms + 5000)
    desk.settle()
    desk.pass_time(4.5)
    assert outputs(host) == {}
    assert desk.core.next_timer() == pytest.approx(desk.mono + 0.5)
    desk.pass_time(0.5)
    assert outputs(host)["w"]["id"] == "later"


def test_an_event_of_the_future_survives_the_engine() -> None:
    desk, host = running(wait())
    for n, seconds in enumerate([7, 5, 6]):
        desk.send("paid", id=f"e{n}", at_ms=desk.now.unix_ms + 1000 * seconds)
    desk.settle()
    desk.restart()
    host.connect()
    desk.settle()
    desk.pass_time(4.5)
    assert outputs(host) == {}
    desk.pass_time(0.5)
    assert outputs(host)["w"]["id"] == "e1"


def test_an_event_accepted_before_the_plan_and_due_after_it_counts() -> None:
    desk, host = running()
    desk.send("paid", id="later", at_ms=desk.now.unix_ms + 5000)
    desk.settle()
    host.plan(wait())
    desk.settle()
    desk.pass_time(5.0)
    assert outputs(host)["w"]["id"] == "later"


def test_a_step_sends_nothing_further_ahead_than_a_year() -> None:
    desk, host = running()
    host.plan(send("s", Event("now"), Event("paid", at_ms=desk.now.unix_ms + EVENT_AHEAD_MS_MAX + 1)))
    desk.settle()
    assert outputs(host)["s"].code is ErrorCode.INVALID_ARGUMENT
    assert desk.rows.store.undelivered(2**62, 10) == []


def test_a_refused_event_is_answered_and_may_be_sent_again() -> None:
    desk, host = running(wait())
    desk.held = True
    desk.send("paid", id="e1")
    desk.settle()
    desk.commit(receipt=REFUSED)
    desk.held = False
    desk.settle()
    assert [r.code for r in desk.replies][-1] is ErrorCode.STORE_UNAVAILABLE
    desk.send("paid", id="e1")
    desk.settle()
    assert outputs(host)["w"]["id"] == "e1"


# ---- starting flows


def test_an_event_starts_every_flow_with_a_matching_trigger() -> None:
    desk = Desk()
    options = (
        FlowOptions("a", triggers=(Trigger("paid"), Trigger("paid", "data.big"))),
        FlowOptions("b", triggers=(Trigger("paid", "data.big"),)),
        FlowOptions("c", triggers=(Trigger("shipped"),)),
    )
    desk.host(flows=("a", "b", "c"), flow_options=options)
    desk.send("paid", {"big": True}, id="e1")
    desk.settle()
    assert [(c.flow, msgspec.json.decode(c.input.data)["id"]) for c in created(desk)] == [("a", "e1"), ("b", "e1")]
    desk.send("paid", {"big": False}, id="e2")
    desk.settle()
    assert [c.flow for c in created(desk)] == ["a", "b", "a"]


def test_the_newest_registration_of_a_flow_counts() -> None:
    desk = Desk()
    desk.host("old", **triggered(Trigger("paid")))
    desk.host("new", **triggered(Trigger("shipped")))
    desk.send("paid")
    desk.send("shipped")
    desk.settle()
    assert [msgspec.json.decode(c.input.data)["name"] for c in created(desk)] == ["shipped"]


def test_triggers_survive_the_engine_and_need_no_host() -> None:
    desk = Desk()
    desk.host(**triggered(Trigger("paid"))).cut()
    desk.pass_time(10.0)
    desk.restart()
    desk.settle()
    desk.send("paid", id="e1")
    desk.settle()
    assert [c.flow for c in created(desk)] == ["handler"]


def test_a_malformed_trigger_refuses_the_host_and_names_flow_and_expression() -> None:
    desk = Desk()
    hello = Hello("h", "h/0", **triggered(Trigger("paid", "data ==")))
    refused = desk.core.open_session(hello, desk.now)
    assert isinstance(refused, Fault) and refused.code is ErrorCode.INVALID_ARGUMENT
    assert "'handler'" in refused.message and "'data =='" in refused.message


def test_events_of_no_interest_are_delivered_to_nobody() -> None:
    desk, _ = running()
    desk.send("paid")
    desk.settle()
    assert desk.rows.store.undelivered(2**62, 10) == []
    assert len(desk.rows.store.events("paid", 0, 10)) == 1


@pytest.mark.parametrize("restart", [False, True])
def test_events_that_were_stored_at_once_are_delivered_portion_by_portion(restart: bool) -> None:
    desk, host = running()
    host.plan(*[wait(f"w{n}", match=f"data == `{n}`") for n in range(150)])
    desk.settle()
    desk.held = True
    for n in range(150):
        desk.send("paid", n)
    desk.commit()
    if restart:
        desk.restart()
        host.connect()
    desk.held = False
    desk.settle()
    assert len(outputs(host)) == 150 and desk.rows.store.undelivered(2**62, 1) == []


def test_large_data_go_to_many_in_units_of_bounded_size() -> None:
    desk, host = running()
    host.plan(*[wait(f"w{n}") for n in range(30)])
    desk.settle()
    sizes = []
    commit = desk.rows.commit

    def measured(unit: Commit) -> Receipt:
        sizes.append(sum([len(row.fact.output.data) for row in unit.unit.inbox if isinstance(row.fact, EventMatched)]))
        return commit(unit)

    desk.rows.commit = measured  # type: ignore[method-assign]
    desk.send("paid", "x" * 1024 * 1024)
    desk.settle()
    assert len(outputs(host)) == 30
    assert max(sizes) <= FACT_BYTES_PER_UNIT + 1025 * 1024 and sum(sizes) > 30 * 1024 * 1024


def test_many_events_wake_many_waits_in_bounded_portions() -> None:
    desk, host = running()
    names = [f"w{n}" for n in range(1500)]
    host.plan(*[wait(name, match="data.n > `5`") for name in names])
    desk.settle()
    for n in range(10):
        desk.send("paid", {"n": n}, id=f"e{n}")
    desk.settle()
    while desk.core.next_timer() is not None:
        desk.jump(0.0)
    found = outputs(host)
    assert {found[name]["id"] for name in names} == {"e6"} and len(found) == 1500


# ---- failed runs


def test_a_failed_run_tells_those_who_asked_for_it() -> None:
    desk = Desk()
    host = desk.host(**triggered(Trigger("stepwire/run.failed", "data.flow == 'flow'")))
    desk.start()
    desk.settle()
    host.plan(body_ended=BodyEnded(failure=_failure("out of stock")))
    desk.settle()
    (told,) = [c for c in created(desk) if c.flow == "handler"]
    event = msgspec.json.decode(told.input.data)
    assert event["name"] == "stepwire/run.failed"
    failure = {"code": "user_error", "type": "ValueError", "message": "out of stock", "traceback": ""}
    assert event["data"] == {"run_id": "r", "flow": "flow", "input": {"n": 1}, "failure": failure}


def test_a_failed_handler_tells_nobody() -> None:
    desk = Desk()
    host = desk.host(**triggered(Trigger("stepwire/run.failed")))
    desk.start()
    desk.settle()
    host.plan(body_ended=BodyEnded(failure=_failure("no")))
    desk.settle()
    (told,) = [c for c in created(desk) if c.flow == "handler"]
    host.plan(run_id=told.run_id, body_ended=BodyEnded(failure=_failure("no again")))
    desk.settle()
    assert desk.run_state(told.run_id) == "FAILED" and len(created(desk)) == 2
    desk.start("by hand", flow="handler")
    desk.settle()
    host.plan(run_id="by hand", body_ended=BodyEnded(failure=_failure("no")))
    desk.settle()
    assert len(created(desk)) == 4, "the event did not start this one"


def test_a_cancelled_run_tells_nobody_and_neither_does_a_failed_one_without_listeners() -> None:
    desk = Desk()
    host = desk.host(**triggered(Trigger("stepwire/run.failed")))
    desk.start()
    desk.settle()
    desk.core.cancel_run("t", "r", None, desk.now)
    desk.settle()
    assert desk.run_state() == "CANCELLED" and len(created(desk)) == 1

    silent, host = running()
    host.plan(body_ended=BodyEnded(failure=_failure("no")))
    silent.settle()
    assert silent.rows.store.events("stepwire/run.failed", 0, 10) == []


def _failure(message: str) -> Any:
    return Failure(ErrorCode.USER_ERROR, "ValueError", message)


# ---- crashes


@pytest.mark.parametrize("commits", range(8))
def test_a_crash_between_any_two_commits_starts_each_flow_once_and_wakes_each_wait_once(commits: int) -> None:
    desk = Desk()
    host = desk.host(**triggered(Trigger("paid")))
    desk.start()
    desk.settle()
    host.plan(wait("a"), wait("b"))
    desk.settle()
    desk.held = True
    desk.send("paid", id="e1")
    for _ in range(commits):
        desk.settle()
        desk.commit(1)
    desk.restart()
    desk.held = False
    host.connect()
    desk.settle()
    if commits == 0:
        assert len(created(desk)) == 1, "it was never accepted"
        desk.send("paid", id="e1")
        desk.settle()
    assert [c.flow for c in created(desk)] == ["flow", "handler"]
    assert len(ends(desk, "a")) == len(ends(desk, "b")) == 1
    assert desk.rows.store.inbox() == [] and desk.rows.store.undelivered(2**62, 10) == []


@pytest.mark.parametrize("commits", range(2, 16))
def test_a_delivery_in_several_portions_that_is_cut_short_starts_nothing_twice(
    commits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flow that it started may even be over."""
    monkeypatch.setattr(delivery, "FACTS_PER_UNIT", 1)
    desk = Desk()
    host = desk.host(**triggered(Trigger("paid")))
    desk.start()
    desk.settle()
    names = [f"w{n}" for n in range(20)]
    host.plan(*[wait(name) for name in names])
    desk.settle()
    desk.held = True
    desk.send("paid", id="e1")
    for _ in range(commits):
        desk.settle()
        desk.commit(1)
        desk.settle()
        for run_id in [run_id for run_id in host.seqs if run_id != "r" and host.seqs[run_id][2] == 0]:
            host.end(run_id)
    assert desk.rows.store.undelivered(2**62, 1) != []
    desk.restart()
    desk.held = False
    host.connect()
    desk.settle()
    assert [c.flow for c in created(desk)] == ["flow", "handler"]
    assert {name for name in names if len(ends(desk, name)) == 1} == set(names)
    assert desk.rows.store.inbox() == [] and desk.rows.store.undelivered(2**62, 10) == []


@pytest.mark.parametrize("refused", range(1, 6))
def test_a_refused_commit_anywhere_is_made_up_for(refused: int) -> None:
    desk = Desk()
    host = desk.host(**triggered(Trigger("paid")))
    desk.start()
    desk.settle()
    host.plan(wait("a"))
    desk.settle()
    desk.held = True
    desk.send("paid", id="e1")
    desk.settle()
    desk.commit(1)
    for n in range(1, 6):
        desk.settle()
        desk.commit(1, REFUSED if n == refused else None)
    desk.held = False
    desk.settle()
    if host.engine is None:
        host.connect()
    desk.pass_time(3.0)
    assert [c.flow for c in created(desk)] == ["flow", "handler"]
    assert len(ends(desk, "a")) == 1
    assert desk.rows.store.inbox() == [] and desk.rows.store.undelivered(2**62, 10) == []
