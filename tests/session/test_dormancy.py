"""Runs that only wait leave memory, and come back in time, for events, facts and clients (DESIGN 5)."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import BodyFailed, FlowOptions
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    Fence,
    Invoke,
    ParallelMode,
    Plan,
    RetryPolicy,
    Sleep,
    StepKind,
    StepPlanned,
    WaitEvent,
)
from stepwire_engine.core import causes
from stepwire_engine.core.entries import AttemptEnded, GroupExpired, Planned, RunCreated, RunState
from stepwire_engine.core.model import Run
from stepwire_engine.core.reads import DormantRuns
from stepwire_engine.core.units import RunRecord, Unit
from tests.core.given import group
from tests.session.desk import INPUT, REFUSED, Desk, Host, advances, running, task

DAY = 86_400.0
IDLE = 10.0
STALE_TIMERS_MAX = 1024
CHILD = causes.child_run_id("r", "i", 1)


def sleeping(path: str = "nap", seconds: float = DAY) -> StepPlanned:
    return StepPlanned(path, StepKind.SLEEP, spec=Sleep(seconds))


def wait(path: str = "w", *, deadline: float | None = None, **how: Any) -> StepPlanned:
    return StepPlanned(path, StepKind.WAIT_EVENT, spec=WaitEvent("paid", **how), deadline=deadline)


def record(desk: Desk, run_id: str = "r") -> RunRecord:
    found = desk.rows.store.find_run(run_id)
    assert found is not None
    return found


def dormant(desk: Desk, run_id: str = "r") -> bool:
    """It is on disk and nowhere else."""
    away = run_id not in desk.core.runs
    assert away is (record(desk, run_id).state is RunState.WAITING)
    return away


def at_rest(*steps: StepPlanned, **what: Any) -> tuple[Desk, Host]:
    """A run that became dormant with these open steps."""
    desk, host = running(*steps, **what)
    desk.pass_time(IDLE + 1.0)
    assert dormant(desk)
    return desk, host


def ends(desk: Desk, path: str, run: int = 1) -> list[AttemptEnded]:
    return [e for e in desk.rows.entries(run) if isinstance(e, AttemptEnded) and e.path == path]


# ---- going


def test_a_run_that_only_waits_leaves_memory_when_it_has_done_so_for_a_while() -> None:
    desk, host = running(sleeping())
    due_ms = desk.now.unix_ms + round(DAY * 1000)
    desk.pass_time(IDLE - 0.5)
    assert not dormant(desk)
    desk.pass_time(1.0)
    assert dormant(desk) and record(desk).wake_ms == due_ms
    assert [s.evict is not None for s in host.take()] == [True]
    assert not desk.core.sessions["h/0"].bodies and len(desk.rows.rows[1]) == 2


def test_a_wait_for_an_event_without_end_has_no_time_to_wake() -> None:
    desk, _ = at_rest(wait())
    assert record(desk).wake_ms is None and desk.core.next_timer() is None


@pytest.mark.parametrize(
    "steps",
    [
        (sleeping(seconds=IDLE * 1.9),),
        (sleeping(), wait(timeout=IDLE * 1.9)),
        (sleeping(), task("t")),
        (sleeping(), StepPlanned("t", StepKind.TASK, "nobody serves it")),
        (sleeping(), StepPlanned("closure")),
        (sleeping(), wait(deadline=IDLE * 1.9)),
    ],
)
def test_a_run_with_something_else_to_do_stays(steps: tuple[StepPlanned, ...]) -> None:
    desk, _ = running(*steps)
    desk.pass_time(IDLE * 1.5)
    assert not dormant(desk)


def test_a_run_whose_body_still_decides_stays() -> None:
    desk, _ = running(sleeping("g/[0]/nap"), groups=(group("g", 2),))
    desk.pass_time(IDLE * 3)
    assert not dormant(desk), "branch 1 did not plan anything"


def test_a_run_whose_body_has_not_answered_the_last_release_stays() -> None:
    """Perhaps some coroutine beside the sleep works with what it was given."""
    desk, host = running(sleeping(), "a", start=("a",))
    host.ok("a")
    desk.settle()
    desk.pass_time(IDLE * 3)
    assert not dormant(desk)
    host.plan(wait())
    desk.settle()
    desk.pass_time(IDLE * 7)
    assert dormant(desk)


def test_a_paused_run_stays() -> None:
    desk, host = running(sleeping())
    host.session.fail_body("r", _body_failed(host))
    desk.settle()
    desk.pass_time(IDLE * 3)
    assert record(desk).state is RunState.PAUSED and "r" in desk.core.runs


def test_a_group_at_rest_in_every_branch_leaves_memory() -> None:
    branches = (sleeping("g/[0]/nap"), wait("g/[1]/w"), sleeping("g/[2]/h/[0]/nap"))
    desk, _ = at_rest(*branches, groups=(group("g", 3), group("g/[2]/h", 1)))
    assert record(desk).wake_ms is not None


def test_what_happens_while_the_rest_is_committed_keeps_the_run_in_memory() -> None:
    desk, host = running(wait())
    desk.pass_time(IDLE - 0.5)
    desk.held = True
    desk.pass_time(1.0)
    assert len(desk.in_flight) == 1
    desk.send("paid")
    desk.held = False
    desk.settle()
    assert not dormant(desk) or len(ends(desk, "w")) == 1
    assert [r.outcomes[0].path for r in host.releases()] == ["w"]


def test_a_refused_rest_leaves_the_run_where_it_was() -> None:
    desk, host = running(sleeping(seconds=60.0))
    desk.pass_time(IDLE - 0.5)
    desk.held = True
    desk.pass_time(1.0)
    desk.commit(receipt=REFUSED)
    desk.held = False
    desk.settle()
    host.connect()
    desk.settle()
    assert "r" in desk.core.runs
    desk.pass_time(IDLE + 1)
    assert dormant(desk)
    desk.pass_time(60.0)
    assert len(ends(desk, "nap")) == 1


def test_a_run_that_was_read_again_is_on_record_as_what_it_is() -> None:
    """Its rest was committed and what came after was refused: the record must not say WAITING for ever."""
    desk, host = running(wait())
    desk.pass_time(IDLE - 0.5)
    desk.held = True
    desk.pass_time(1.0)
    host.plan(sleeping(), wait("other"))
    desk.settle()
    desk.commit(1)
    desk.commit(1, REFUSED)
    desk.held = False
    desk.settle()
    host.connect()
    desk.settle()
    assert len(desk.rows.rows[1]) == 3 and record(desk).state is RunState.RUNNING
    desk.restart()
    assert "r" in desk.core.runs


def test_a_run_without_any_host_leaves_memory_and_the_queue_for_bodies() -> None:
    others = _runs_alive()
    desk, host = _sleeping(1500)
    host.cut()
    desk.pass_time(30.0)
    assert not desk.core.runs and _runs_alive() - others <= STALE_TIMERS_MAX


# ---- coming back


def test_a_sleep_ends_in_time_and_its_body_is_entered_by_a_snapshot() -> None:
    desk, host = at_rest(sleeping(seconds=60.0))
    host.take()
    assert desk.core.next_timer() == pytest.approx(desk.mono + 60.0 - IDLE - 1.0, abs=0.01)
    desk.pass_time(60.0 - IDLE - 1.5)
    assert dormant(desk)
    desk.pass_time(0.5)
    (advance,) = advances(host.take())
    assert advance.start is not None and advance.hold
    assert record(desk).state is RunState.RUNNING and record(desk).wake_ms is None
    host.end()
    desk.settle()
    assert desk.run_state() == "SUCCEEDED"


def test_an_event_wakes_a_run() -> None:
    desk, host = at_rest(wait(match="data == `1`"))
    host.take()
    desk.send("paid", 2)
    desk.settle()
    assert dormant(desk) and advances(host.take()) == []
    desk.send("paid", 1)
    desk.settle()
    assert advances(host.take())[0].start is not None and len(ends(desk, "w")) == 1


def test_the_end_of_a_child_wakes_its_parents_in_turn() -> None:
    desk = Desk()
    host = desk.host()
    desk.start()
    desk.settle()
    host.plan(_invoke())
    desk.settle()
    host.plan(_invoke(), run_id=CHILD)
    desk.settle()
    last = causes.child_run_id(CHILD, "i", 1)
    host.plan("a", start=("a",), run_id=last)
    desk.settle()
    desk.pass_time(IDLE + 1.0)
    assert dormant(desk) and dormant(desk, CHILD) and last in desk.core.runs
    for run_id in (last, CHILD, "r"):
        host.end(run_id)
        desk.settle()
    assert [r.state.name for r in desk.rows.store.list_runs().runs] == ["SUCCEEDED"] * 3


def test_a_client_cancels_a_dormant_run_and_its_dormant_child() -> None:
    desk = Desk()
    host = desk.host()
    desk.start()
    desk.settle()
    host.plan(_invoke())
    desk.settle()
    host.plan(sleeping(), run_id=CHILD)
    desk.settle()
    desk.pass_time(IDLE + 1.0)
    assert dormant(desk) and dormant(desk, CHILD)
    desk.core.cancel_run("mine", "r", None, desk.now)
    desk.settle()
    assert [(r.token, r.code) for r in desk.replies][-1] == ("mine", None)
    assert (desk.run_state(), desk.run_state(CHILD)) == ("CANCELLED", "CANCELLED")
    assert desk.rows.store.inbox() == []


def test_cancelling_a_run_that_ended_or_never_was_is_refused() -> None:
    desk, host = running()
    host.end()
    desk.settle()
    for run_id in ("r", "unknown"):
        desk.core.cancel_run(run_id, run_id, None, desk.now)
    desk.settle()
    assert [r.code for r in desk.replies[-2:]] == [ErrorCode.WRONG_STATE] * 2


def test_two_who_wake_a_run_at_once_find_one_run() -> None:
    desk, _ = at_rest(wait("a"), wait("b"))
    desk.send("paid")
    desk.core.cancel_run("mine", "r", None, desk.now)
    desk.settle()
    assert desk.run_state() == "CANCELLED" and desk.rows.store.inbox() == []


def test_a_plan_of_a_body_that_was_just_evicted_brings_the_run_back() -> None:
    """It decided something while it was put to rest, so it was not waiting after all."""
    desk, host = running(sleeping())
    desk.pass_time(IDLE - 0.5)
    desk.held = True
    desk.mono += 1.0
    desk.core.tick(desk.now)
    desk._commits()
    frame = host.plan(wait())
    taken = host.session.take_frame(desk.mono)
    assert taken is not None
    desk.held = False
    desk.settle()
    assert dormant(desk)
    host.raw(taken)
    desk.settle()
    (advance,) = [a for a in advances(host.take()) if a.start is not None]
    assert not dormant(desk) and frame.plan_seq == 2 and len(advance.entries) == 1


def test_a_run_that_wakes_only_to_wait_on_needs_no_body() -> None:
    """A registered step is tried again beside the sleep; whoever serves it does, and the body sleeps on."""
    retry = RetryPolicy(5, delay=30.0, factor=1.0, jitter=0.0)
    desk, host = running(
        sleeping("g/[0]/nap"), task("g/[1]/t", retry=retry), groups=(group("g", 2, ParallelMode.WAIT),)
    )
    host.take()
    for attempt in (1, 2, 3):
        host.failed("g/[1]/t", attempt=attempt)
        desk.settle()
        desk.pass_time(IDLE + 1.0)
        assert dormant(desk)
        desk.pass_time(30.0 - IDLE - 1.0)
        sections = host.take()
        assert [e.attempt for s in sections for e in s.executes] == [attempt + 1]
        assert advances(sections) == []
    host.ok("g/[1]/t", attempt=4)
    desk.settle()
    desk.pass_time(IDLE + 1.0)
    assert dormant(desk) and advances(host.take()) == []
    desk.jump(DAY)
    assert [a.start is not None for a in advances(host.take())] == [True]


def test_a_closure_that_is_tried_again_brings_its_body_back() -> None:
    retry = RetryPolicy(5, delay=30.0, jitter=0.0)
    desk, host = running(
        sleeping("g/[0]/nap"), StepPlanned("g/[1]/c", retry=retry, started=True), groups=(group("g", 2),), start=()
    )
    assert host.session.start_all("r", ("g/[1]/c",), host.seqs["r"][0], desk.mono)
    host.failed("g/[1]/c")
    desk.settle()
    desk.pass_time(IDLE + 1.0)
    assert dormant(desk)
    host.take()
    desk.pass_time(30.0)
    sections = host.take()
    assert advances(sections)[0].start is not None
    assert [e.attempt for s in sections for e in s.executes] == [2]


def test_deadlines_of_steps_groups_and_runs_wake() -> None:
    desk, _ = at_rest(wait(deadline=60.0))
    desk.pass_time(60.0)
    (ended,) = ends(desk, "w")
    assert ended.failure is not None and ended.failure.code is ErrorCode.TIMEOUT

    desk, _ = at_rest(wait("g/[0]/w"), groups=(group("g", 1, deadline=60.0),))
    desk.pass_time(60.0)
    assert any(isinstance(e, GroupExpired) for e in desk.rows.entries())

    desk = Desk()
    host = desk.host(flow_options=(FlowOptions("flow", deadline=60.0),))
    desk.start()
    desk.settle()
    host.plan(wait())
    desk.settle()
    desk.pass_time(IDLE + 1.0)
    assert dormant(desk)
    desk.pass_time(60.0)
    assert desk.run_state() == "FAILED"


def test_a_start_with_the_key_of_a_dormant_run_names_it() -> None:
    desk = Desk()
    host = desk.host()
    desk.start(key="once")
    desk.settle()
    host.plan(sleeping())
    desk.settle()
    desk.pass_time(IDLE + 1.0)
    desk.start("again", key="once")
    desk.settle()
    assert desk.replies[-1].key_taken_by == "r" and dormant(desk)


def test_a_journal_that_cannot_be_read_is_told_to_whoever_asks_and_does_not_stop_others() -> None:
    desk, _ = at_rest(sleeping(seconds=60.0))
    desk.core.cancel_run("mine", "r", None, desk.now)
    (read,) = desk.core.take_reads()
    desk.core.read_done(read, record(desk), desk.now)
    (run,) = desk.core.take_loads()
    desk.core.journal_unreadable(run, desk.now)
    desk.settle()
    assert desk.replies[-1].code is ErrorCode.RUN_UNREADABLE
    desk.pass_time(60.0)
    assert "r" not in desk.core.runs and ends(desk, "nap") == []


# ---- engines come and go


def test_an_engine_starts_without_reading_dormant_runs_and_wakes_them_in_time() -> None:
    desk, host = at_rest(sleeping(seconds=60.0))
    desk.restart()
    host.connect()
    desk.settle()
    assert dormant(desk)
    desk.pass_time(60.0 - IDLE - 1.5)
    assert dormant(desk)
    desk.pass_time(0.5)
    assert len(ends(desk, "nap")) == 1


def test_what_became_due_while_the_engine_was_down_wakes_at_once() -> None:
    desk, _ = at_rest(sleeping(seconds=60.0))
    desk.mono += 100.0
    desk.restart()
    desk.settle()
    assert len(ends(desk, "nap")) == 1


@pytest.mark.parametrize("commits", range(5))
@pytest.mark.parametrize("by", ["time", "event", "cancel"])
def test_a_crash_between_any_two_commits_of_resting_and_waking_loses_nothing(commits: int, by: str) -> None:
    desk, host = running(wait(timeout=60.0))
    desk.pass_time(IDLE - 0.5)
    desk.held = True
    desk.jump(1.0)
    done = 0

    def on(count: int) -> None:
        nonlocal done
        while done < min(count, commits):
            desk.settle()
            desk.commit(1)
            done += 1
        desk.settle()

    on(1)
    match by:
        case "time":
            desk.jump(60.0)
        case "event":
            desk.send("paid")
        case "cancel":
            desk.core.cancel_run("mine", "r", None, desk.now)
    on(commits)
    desk.restart()
    desk.held = False
    host.connect()
    desk.settle()
    desk.jump(60.0)
    if desk.run_state() == "CANCELLED":
        assert by == "cancel"
        return
    assert len(ends(desk, "w")) == 1
    host.end()
    desk.settle()
    assert desk.run_state() == "SUCCEEDED" and desk.rows.store.inbox() == []


@pytest.mark.parametrize("refused", range(4))
def test_a_refused_commit_of_waking_is_made_up_for(refused: int) -> None:
    desk, host = at_rest(wait())
    desk.held = True
    desk.send("paid", id="e1")
    for n in range(4):
        desk.settle()
        desk.commit(1, REFUSED if n == refused else None)
    desk.held = False
    desk.settle()
    if host.engine is None:
        host.connect()
    desk.pass_time(3.0)
    if refused == 0:
        desk.send("paid", id="e1")
        desk.settle()
    assert len(ends(desk, "w")) == 1 and desk.rows.store.inbox() == []


# ---- many


def _planted(desk: Desk, count: int, seconds: float) -> None:
    """Dormant runs as an earlier engine left them."""
    now_ms = desk.now.unix_ms
    units = []
    for n in range(1, count + 1):
        run_id, wake_ms = f"run {n}", now_ms + round(1000 * seconds) + n
        plan = Plan(1, 0, Fence(1, n), steps=(sleeping(seconds=seconds + n / 1000),))
        created = RunCreated(run_id, "flow", INPUT, n, now_ms)
        row = RunRecord(n, run_id, "flow", RunState.WAITING, now_ms, wake_ms=wake_ms)
        units.append(Unit(1, n, 0, (created, Planned(plan, now_ms)), row))
    desk.rows.store.submit(units, lambda _: None)
    desk.restart()


def test_ten_thousand_dormant_runs_cost_no_memory_and_wake_in_time() -> None:
    others = _runs_alive()
    desk = Desk()
    _planted(desk, 10_000, DAY)
    desk.settle()
    assert not desk.core.runs and _runs_alive() <= others
    assert desk.core.next_timer() == pytest.approx(desk.mono + DAY, abs=0.1)
    desk.jump(DAY + 3.0)
    over = [n for n, rows in desk.rows.rows.items() if any(isinstance(e, AttemptEnded) for e in rows[-1])]
    assert len(over) == 3000
    assert len(desk.core.runs) == 3000, "their bodies want a host"


def test_runs_are_woken_a_portion_at_a_time() -> None:
    desk = Desk()
    _planted(desk, 1000, 60.0)
    desk.settle()
    desk.mono += 100.0
    desk.core.tick(desk.now)
    (read,) = [read for read in desk.core.take_reads() if isinstance(read, DormantRuns)]
    desk.core.read_done(read, desk.rows.store.due_runs(2**62, read.limit, read.after), desk.now)
    assert len(desk.core.take_loads()) == 200 and desk.core.take_reads() == []


def test_thousands_of_runs_that_go_to_rest_leave_nothing_behind() -> None:
    others = _runs_alive()
    desk, _ = _sleeping(3000)
    desk.pass_time(IDLE * 2)
    assert not desk.core.runs and _runs_alive() - others <= STALE_TIMERS_MAX
    assert desk.core.next_due() is not None and len(desk.rows.store.due_runs(2**62, 3001)) == 3000


def _sleeping(count: int) -> tuple[Desk, Host]:
    desk = Desk()
    host = desk.host(bodies=count)
    for n in range(count):
        desk.start(f"run {n}")
    desk.settle()
    for n in range(count):
        host.plan(sleeping(), run_id=f"run {n}")
    return desk.settle(), host


def _runs_alive() -> int:
    """Of every test of this process: a test that failed, or one still held by a frame, keeps its runs."""
    gc.collect()
    return sum([isinstance(found, Run) for found in gc.get_objects()])


def _invoke() -> StepPlanned:
    return StepPlanned("i", StepKind.INVOKE, input=Payload(b"1"), spec=Invoke("flow"))


def _body_failed(host: Host) -> Any:
    return BodyFailed(
        host.seqs["r"][0], Failure(ErrorCode.NON_DETERMINISTIC_FLOW, "NonDeterministicFlow", "went astray")
    )
