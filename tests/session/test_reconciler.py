"""Every open run and step has exactly one owner; one that lost it gets it again in bounded time.

What is planted here cannot happen: each test takes something out of the books of the core by hand.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from stepwire.protocol.frames import CancelReason
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    BodyEnded,
    GroupOpened,
    Invoke,
    RetryPolicy,
    Sleep,
    StepKind,
    StepPlanned,
    Undo,
    WaitEvent,
)
from stepwire_engine.core.books import Repair
from stepwire_engine.core.model import Run, Step, StepState
from stepwire_engine.core.units import RunRecord, Unit
from tests.session.desk import CONFIG, Desk, Host, task

BOUND = 3.0
"""Within this many seconds everything planted here is found: a round begins each second."""
SLOW = RetryPolicy(max_attempts=3, delay=2.0, jitter=0.0)


def tampered_desk(**how: object) -> Desk:
    """A desk that looks for owners every second."""
    desk = Desk(config=msgspec.structs.replace(CONFIG, reconcile_interval=1.0, **how))
    desk.tampered = True
    return desk


def begin(*steps: StepPlanned | str, slots: int = 100, **what: object) -> tuple[Desk, Host, Run]:
    """A run on one host; its body planned these steps."""
    desk = tampered_desk()
    host = desk.host(slots=slots)
    desk.start()
    desk.settle()
    if steps:
        host.plan(*steps, **what)  # type: ignore[arg-type]
        desk.settle()
    host.take()
    return desk, host, desk.core.runs["r"]


def kinds(desk: Desk) -> list[str]:
    return [repair.missing for repair in desk.core.take_repairs()]


def repaired(desk: Desk, kind: str) -> None:
    """The defect is seen, put right in bounded time, counted once and told once, and nothing else is wrong."""
    assert [found.missing for found in desk.core.unowned()] == [kind]
    desk.pass_time(BOUND)
    assert kinds(desk) == [kind]
    assert desk.core.counters.reconciled == {kind: 1}
    assert desk.core.unowned() == []


# ---- steps


def test_a_lost_entry_of_the_queue_is_found_when_a_host_has_room() -> None:
    desk, host, run = begin(task("a"), task("b"), slots=1)
    desk.core._dispatcher.slots._tasks.queues.clear()
    desk.pass_time(BOUND)
    assert kinds(desk) == [], "nobody has room: the entry makes no difference"
    host.ok("a")
    desk.settle()
    assert run.steps["b"].queued and not host.holds("b")
    repaired(desk, "queue")
    assert host.holds("b")


def test_a_closure_that_the_session_forgot_is_executed() -> None:
    desk, host, run = begin("a", "b", slots=1)
    assert host.engine is not None
    host.engine.closures.clear()
    host.ok("a")
    desk.settle()
    repaired(desk, "queue")
    assert host.holds("b") and run.steps["b"].attempt == 1


def test_a_step_that_is_in_no_queue_is_executed() -> None:
    desk, host, run = begin(task("a"), task("b"), slots=1)
    run.steps["b"].queued = False
    desk.core._dispatcher.slots._tasks.queues.clear()
    repaired(desk, "step")
    host.ok("a")
    desk.settle()
    assert host.holds("b")


def forget_in_step(host: Host, step: Step) -> None:
    step.lease = None


def forget_in_session(host: Host, step: Step) -> None:
    assert host.engine is not None
    lease = host.engine.leases.pop(("r", step.path))
    lease.step.run.leased -= 1


@pytest.mark.parametrize(
    ("forget", "kinds_found"),
    [(forget_in_step, {"step", "slot"}), (forget_in_session, {"lease"})],
    ids=["by the step", "by the session"],
)
def test_a_lease_that_one_side_forgot_is_given_again_and_the_step_has_one_outcome(
    forget: Callable[[Host, Step], None], kinds_found: set[str]
) -> None:
    desk, host, run = begin(task("a"))
    forget(host, run.steps["a"])
    assert {found.missing for found in desk.core.unowned()} == kinds_found
    desk.pass_time(BOUND)
    assert set(kinds(desk)) <= kinds_found
    assert desk.core.unowned() == []
    assert host.holds("a"), "the host goes on with the attempt it has"
    host.ok("a")
    desk.settle()
    assert [kind for kind in desk.kinds if kind == "AttemptEnded"] == ["AttemptEnded"]


def test_a_lost_timer_of_a_sleep_is_made_up_for_when_it_is_due() -> None:
    desk, _, run = begin(StepPlanned("nap", StepKind.SLEEP, spec=Sleep(duration=5.0)))
    desk.core._books.timers._heap.clear()
    desk.pass_time(4.0)
    assert kinds(desk) == []
    desk.pass_time(5.0)
    assert kinds(desk) == ["timer"] and run.steps["nap"].state.final


def test_a_lost_timer_of_a_retry_is_made_up_for() -> None:
    desk, host, _ = begin(task("a", retry=SLOW))
    host.failed("a")
    desk.settle()
    desk.core._books.timers._heap.clear()
    host.take()
    desk.pass_time(2.0 + 1.0 + BOUND)
    assert kinds(desk) == ["timer"]
    assert [(e.path, e.attempt) for e in host.executes()] == [("a", 2)]


def test_a_timer_that_was_never_armed_is_armed() -> None:
    desk, _, run = begin(StepPlanned("w", StepKind.WAIT_EVENT, spec=WaitEvent("paid", timeout=8.0)))
    run.steps["w"].timer_ms = None
    desk.core._books.timers._heap.clear()
    repaired(desk, "timer")
    desk.pass_time(6.0)
    assert run.steps["w"].state.final, "it timed out in time"


def test_a_lost_deadline_of_a_step_and_of_an_attempt_are_made_up_for() -> None:
    desk, host, run = begin(task("a", deadline=3.0), task("b", timeout=3.0))
    desk.core._books.timers._heap.clear()
    desk.pass_time(3.0 + 1.0 + CONFIG.timeout_grace + BOUND)
    assert kinds(desk) == ["timer", "timer"]
    assert run.steps["a"].state.final
    cancels = [(c.path, c.reason) for section in host.take() for c in section.cancels]
    assert sorted(cancels) == [("a", CancelReason.TIMEOUT), ("b", CancelReason.TIMEOUT)]


def test_a_step_that_waits_for_a_place_where_there_is_one_gets_it() -> None:
    desk, host, run = begin(task("g/[0]/s"), task("g/[1]/s"), groups=(GroupOpened("g", 2, limit=1),))
    run.groups["g"].waiting.clear()
    host.ok("g/[0]/s")
    desk.settle()
    assert not host.holds("g/[1]/s")
    repaired(desk, "place")
    assert host.holds("g/[1]/s")


def test_a_place_that_nobody_uses_is_given_to_the_next() -> None:
    desk, host, run = begin(task("g/[0]/s"), task("g/[1]/s"), groups=(GroupOpened("g", 2, limit=1),))
    host.ok("g/[0]/s")
    desk.settle()
    run.steps["g/[0]/s"].admitted = True
    run.groups["g"].executing += 1
    host.ok("g/[1]/s")
    desk.settle()
    desk.pass_time(BOUND)
    assert kinds(desk) == ["place"] and run.groups["g"].executing == 0


def test_a_child_that_was_never_asked_for_is_started() -> None:
    desk, _, run = begin(StepPlanned("c", StepKind.INVOKE, spec=Invoke("flow")))
    particulars = run.steps["c"].particulars
    assert particulars is not None
    particulars.child = ""
    repaired(desk, "child")
    assert particulars.child


def test_an_attempt_that_is_nobodys_any_more_is_stopped() -> None:
    desk, host, run = begin(task("a"))
    step = run.steps["a"]
    lease = step.lease
    assert lease is not None
    step.state = StepState.CANCELLED
    del run.open["a"]
    repaired(desk, "slot")
    assert lease.cancelled is CancelReason.LEASE_LOST
    assert [(c.path, c.reason) for section in host.take() for c in section.cancels] == [("a", CancelReason.LEASE_LOST)]


def test_a_body_that_is_nobodys_any_more_takes_no_room() -> None:
    desk, host, run = begin()
    other = desk.host("other", bodies=1)
    assert other.engine is not None and host.engine is not None
    other.engine.bodies[run.number] = run
    desk.pass_time(BOUND)
    assert kinds(desk) == ["slot"] and other.engine.bodies == {} and run.body is not None


# ---- runs


def test_a_run_whose_wish_for_a_body_was_lost_is_entered() -> None:
    desk = tampered_desk()
    desk.start()
    desk.settle()
    run = desk.core.runs["r"]
    run.body_wanted = False
    desk.core._dispatcher.bodies._wanted.queues.clear()
    repaired(desk, "body")
    host = desk.host()
    assert "r" in host.seqs


def test_a_run_that_its_queue_forgot_is_entered_once_a_host_takes_bodies() -> None:
    desk = tampered_desk()
    desk.start()
    desk.settle()
    desk.core._dispatcher.bodies._wanted.queues.clear()
    host = desk.host()
    assert "r" not in host.seqs
    repaired(desk, "queue")
    assert "r" in host.seqs


def test_a_body_that_its_session_does_not_have_is_entered_again() -> None:
    desk, host, run = begin()
    assert host.engine is not None
    del host.engine.bodies[run.number]
    repaired(desk, "body_holder")
    host.end()
    desk.settle()
    assert desk.run_state() == "SUCCEEDED"


def test_a_journal_that_nobody_reads_is_read() -> None:
    desk, host, run = begin()
    host.cut()
    desk.pass_time(5.0)
    assert run.body is None
    host = desk.host("i", connect=False).connect()
    desk._commits()
    assert desk.core.take_loads() == [run]  # And nobody answers.
    desk.core._books.loading.clear()
    assert [found.missing for found in desk.core.unowned()] == ["read"]
    desk.pass_time(BOUND)
    assert kinds(desk) == ["read"] and "r" in host.seqs


def test_a_read_on_its_way_is_an_owner_however_long_it_takes() -> None:
    desk, host, run = begin()
    host.cut()
    desk.pass_time(5.0)
    host = desk.host("i", connect=False).connect()
    desk._commits()
    assert desk.core.take_loads() == [run]
    desk.pass_time(5 * BOUND)
    assert kinds(desk) == []


def test_hosts_that_nobody_awaits_are_not_waited_for() -> None:
    desk, host, run = begin(task("a"))
    desk.restart()
    run = desk.core.runs["r"]
    assert run.uncertain
    desk.core._liveness._adopt_until = None
    repaired(desk, "adoption")
    host.connect()
    desk.settle()
    assert host.holds("a")


def test_a_run_that_is_over_and_was_not_ended_ends() -> None:
    desk, _, run = begin()
    run.body_ended = BodyEnded(Payload(b"1"))
    repaired(desk, "ending")
    assert desk.run_state() == "SUCCEEDED"


def test_a_run_that_stops_goes_on_when_its_grace_was_forgotten() -> None:
    desk, host, run = begin(task("a", undo=Undo(StepKind.TASK, "work")), task("b"))
    host.ok("a")
    desk.settle()
    desk.core.cancel_run("c", "r", undo=True, now=desk.now)
    desk.settle()
    assert run.stop_waits and host.holds("b")
    desk.core._books.timers._heap.clear()
    desk.pass_time(CONFIG.stop_grace + 1.0 + BOUND)
    assert kinds(desk) == ["timer"] and run.compensates


def test_two_owners_of_a_step_become_one() -> None:
    desk, host, run = begin(task("a"))
    run.steps["a"].queued = True
    repaired(desk, "two")
    assert host.holds("a") and not run.steps["a"].queued


# ---- the portions


def test_a_portion_is_as_small_as_configured_and_everything_has_its_turn() -> None:
    desk = tampered_desk(reconcile_portion=10)
    for number in range(100):
        desk.start(f"r{number}")
    desk.settle()
    desk.core._dispatcher.bodies._wanted.queues.clear()
    for run in desk.core.runs.values():
        run.body_wanted = False
    desk.pass_time(2.0)
    some = len(kinds(desk))
    assert 0 < some <= 60
    desk.pass_time(10.0)
    assert some + len(kinds(desk)) == 100


def test_many_steps_of_one_run_are_looked_at_in_portions_too() -> None:
    desk = tampered_desk(reconcile_portion=100)
    host = desk.host(slots=0)
    desk.start()
    desk.settle()
    host.plan(*[task(f"s{index}") for index in range(600)])
    desk.settle()
    looked = 0
    look = desk.core._reconciler._look_at_step

    def count(step: Step) -> None:
        nonlocal looked
        looked += 1
        look(step)

    desk.core._reconciler._look_at_step = count  # type: ignore[method-assign]
    desk.mono += 1.0
    desk.core.tick(desk.now)
    assert 0 < looked <= 256
    desk.pass_time(3.0)
    assert looked >= 600


def test_a_run_on_which_the_repair_fails_is_quarantined_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, _, run = begin(task("a"))
    desk.start("s")
    desk.settle()
    run.steps["a"].lease = None
    monkeypatch.setattr(desk.core._dispatcher, "enqueue", lambda step: (_ for _ in ()).throw(RuntimeError("broken")))
    desk.core._reconciler._look_at_step(run.steps["a"])
    assert [run_id for run_id, _ in desk.core.take_incidents()] == ["r"]
    monkeypatch.undo()
    desk.settle()
    assert (desk.run_state("r"), desk.run_state("s")) == ("PAUSED", "PENDING")


# ---- on disk


def dormant(step: StepPlanned) -> tuple[Desk, Host]:
    desk, host, _ = begin(step)
    desk.pass_time(2 * CONFIG.live_idle + 1.0)
    assert "r" not in desk.core.runs
    return desk, host


def put(desk: Desk, record: RunRecord) -> None:
    epoch = desk.rows.store.claim_epoch(0)
    seq = len(desk.rows.journal(record.number))
    desk.rows.store.submit([Unit(epoch, record.number, seq, record=record)], lambda receipts: None)


def test_a_dormant_run_with_an_owner_is_left_alone() -> None:
    for spec in (Sleep(duration=600.0), WaitEvent("paid"), WaitEvent("paid", timeout=600.0)):
        kind = StepKind.SLEEP if isinstance(spec, Sleep) else StepKind.WAIT_EVENT
        desk, _ = dormant(StepPlanned("w", kind, spec=spec))
        desk.pass_time(BOUND)
        assert kinds(desk) == [] and desk.core.runs == {}


def test_a_parent_whose_child_goes_on_is_left_alone() -> None:
    desk, _ = dormant(StepPlanned("c", StepKind.INVOKE, spec=Invoke("flow")))
    desk.pass_time(BOUND)
    assert kinds(desk) == [] and "r" not in desk.core.runs


def test_a_dormant_run_whose_wait_is_gone_is_woken_and_gets_its_event() -> None:
    desk, _ = dormant(StepPlanned("w", StepKind.WAIT_EVENT, spec=WaitEvent("paid")))
    desk.rows.store._waits.clear()
    desk.pass_time(BOUND)
    assert desk.core.take_repairs() == [Repair("r", "", "dormant")]
    desk.send("paid")
    desk.settle()
    assert "AttemptEnded" in desk.kinds


def test_a_dormant_run_whose_time_was_forgotten_is_woken() -> None:
    desk, _ = dormant(StepPlanned("nap", StepKind.SLEEP, spec=Sleep(duration=60.0)))
    record = desk.rows.store.find_run("r")
    assert record is not None and record.wake_ms is not None
    put(desk, msgspec.structs.replace(record, wake_ms=None))
    desk.core._performed._dormancy._wake_ms = None
    desk.pass_time(BOUND)
    assert kinds(desk) == ["dormant"]
    desk.pass_time(60.0)
    assert "AttemptEnded" in desk.kinds


def test_a_dormant_run_that_is_late_is_woken() -> None:
    desk, _ = dormant(StepPlanned("nap", StepKind.SLEEP, spec=Sleep(duration=60.0)))
    desk.core._performed._dormancy._wake_ms = None
    desk.pass_time(60.0 + BOUND)
    assert kinds(desk) == ["dormant"] and "AttemptEnded" in desk.kinds


def test_nobody_is_woken_while_there_is_no_room() -> None:
    desk = tampered_desk(runs_in_memory_max=1)
    host = desk.host()
    desk.start()
    desk.settle()
    host.plan(StepPlanned("w", StepKind.WAIT_EVENT, spec=WaitEvent("paid")))
    desk.settle()
    desk.pass_time(2 * CONFIG.live_idle + 1.0)
    desk.start("s")
    desk.settle()
    desk.rows.store._waits.clear()
    desk.pass_time(BOUND)
    assert kinds(desk) == [] and set(desk.core.runs) == {"s"}


def test_what_is_due_since_somebody_set_the_wall_clock_is_done_and_is_no_defect() -> None:
    desk, _, run = begin(StepPlanned("nap", StepKind.SLEEP, spec=Sleep(duration=30.0)))
    desk.ahead_ms = 3_600_000
    desk.pass_time(BOUND)
    assert run.steps["nap"].state.final, "the record says so: its time has come"
    assert kinds(desk) == [] and desk.core.counters.reconciled == {"clock": 1}


def test_a_run_that_memory_lost_is_read_again_and_goes_on() -> None:
    desk, host, run = begin(task("a"))
    desk.core._books.remove(run)
    desk.pass_time(BOUND)
    assert kinds(desk) == ["memory"]
    assert "r" in desk.core.runs and desk.core.runs["r"] is not run
    desk.pass_time(5.0)
    assert host.holds("a")
    host.ok("a")
    desk.settle()
    assert desk.run_state() == "RUNNING" and "AttemptEnded" in desk.kinds


def test_runs_that_begin_rest_and_end_meanwhile_are_not_lost() -> None:
    desk, host, _ = begin(StepPlanned("w", StepKind.WAIT_EVENT, spec=WaitEvent("paid")))
    for number in range(5):
        desk.start(f"r{number}")
        desk.settle()
        host.end(f"r{number}")
        desk.pass_time(4.0)
    assert kinds(desk) == []


def test_a_lost_deadline_of_a_group_is_made_up_for() -> None:
    desk, host, run = begin(task("g/[0]/s"), groups=(GroupOpened("g", 1, deadline=3.0),))
    desk.core._books.timers._heap.clear()
    desk.pass_time(3.0 + 1.0 + BOUND)
    assert kinds(desk) == ["timer"] and run.groups["g"].expired
    assert [outcome.path for release in host.releases() for outcome in release.outcomes] == ["g"]
