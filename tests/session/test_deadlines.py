"""Deadlines of steps, groups and runs: the durable forms of a timeout (DESIGN 4)."""

from __future__ import annotations

import pytest

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import BodyFailed, CancelReason, FlowOptions
from stepwire.protocol.plan import (
    BranchEnded,
    BranchOutcome,
    FailPolicy,
    GroupEnded,
    GroupOpened,
    ParallelMode,
    RetryPolicy,
    Sleep,
    StepKind,
    StepPlanned,
    Undo,
    Verdict,
)
from tests.session.desk import Desk, Host, advances, running, task


def test_a_step_that_is_late_fails_at_its_deadline_whatever_its_attempt_does() -> None:
    desk, host = running()
    host.plan(task("a", deadline=5.0))
    desk.settle()
    host.take()
    desk.pass_time(4.0)
    assert host.releases() == []
    desk.pass_time(2.0)
    sections = host.take()
    (release,) = [e for s in sections if s.advance for e in s.advance.entries]
    (outcome,) = release.outcomes  # type: ignore[union-attr]
    assert outcome.failure is not None and outcome.failure.code is ErrorCode.TIMEOUT
    assert [(c.path, c.reason) for s in sections for c in s.cancels] == [("a", CancelReason.TIMEOUT)]
    host.ok("a")
    desk.settle()
    assert desk.kinds.count("AttemptEnded") == 1, "its late result is dropped"


def test_a_deadline_covers_all_attempts_and_their_backoff() -> None:
    desk, host = running()
    host.plan(task("a", deadline=5.0, retry=RetryPolicy(max_attempts=9, delay=60.0)))
    desk.settle()
    host.failed("a")
    desk.settle()
    host.take()
    desk.pass_time(6.0)
    (release,) = host.releases()
    assert release.outcomes[0].failure is not None and release.outcomes[0].failure.code is ErrorCode.TIMEOUT


def test_a_step_that_is_in_time_is_not_touched_by_its_deadline() -> None:
    desk, host = running()
    host.plan(task("a", deadline=5.0))
    desk.settle()
    host.ok("a")
    desk.settle()
    host.take()
    desk.pass_time(10.0)
    assert host.releases() == [] and desk.kinds.count("AttemptEnded") == 1


def grouped(fail: FailPolicy = FailPolicy.ANY) -> tuple[Desk, Host]:
    desk, host = running()
    host.plan(task("g/[0]/a"), task("g/[1]/b"), groups=(GroupOpened("g", 2, fail=fail, deadline=5.0),))
    desk.settle()
    host.take()
    return desk, host


def test_a_group_that_is_late_is_released_to_its_body_which_ends_it() -> None:
    desk, host = grouped()
    desk.pass_time(6.0)
    (release,) = host.releases()
    (outcome,) = release.outcomes
    assert outcome.path == "g" and outcome.failure is not None and outcome.failure.code is ErrorCode.TIMEOUT
    host.plan(groups_ended=(GroupEnded("g", Verdict.FAILED, 0, (0, 1)),))
    desk.settle()
    assert sorted(c.path for s in host.take() for c in s.cancels) == ["g/[0]/a", "g/[1]/b"]
    assert desk.run_state() == "RUNNING"


def test_a_group_that_ended_in_time_has_no_deadline_any_more() -> None:
    desk, host = grouped()
    for path in ("g/[0]/a", "g/[1]/b"):
        host.ok(path)
    desk.settle()
    host.plan(
        branches_ended=tuple(BranchEnded(f"g/[{i}]", BranchOutcome.OK) for i in range(2)),
        groups_ended=(GroupEnded("g", Verdict.OK),),
    )
    desk.settle()
    host.take()
    desk.pass_time(10.0)
    assert "GroupExpired" not in desk.kinds


def test_deadlines_survive_an_engine_restart() -> None:
    desk, host = grouped()
    desk.restart()
    host.connect()
    desk.settle()
    desk.pass_time(6.0)
    assert "GroupExpired" in desk.kinds
    desk, host = running()
    host.plan(task("a", deadline=5.0))
    desk.settle()
    desk.restart()
    host.connect()
    desk.settle()
    desk.pass_time(6.0)
    assert "AttemptEnded" in desk.kinds


def limited_run() -> tuple[Desk, Host]:
    desk = Desk()
    host = desk.host(flow_options=(FlowOptions("flow", deadline=10.0),))
    desk.start()
    desk.settle()
    return desk, host


def test_a_run_that_is_late_fails_and_is_compensated() -> None:
    desk, host = limited_run()
    host.plan(task("done", undo=Undo(StepKind.TASK, "work")), task("busy"))
    desk.settle()
    host.ok("done")
    desk.settle()
    host.take()
    desk.pass_time(11.0)
    sections = host.take()
    assert any(s.evict is not None for s in sections), "its body decides nothing any more"
    host.failed("busy", code=ErrorCode.CANCELLED)
    desk.settle()
    (execute,) = host.executes()
    assert execute.path == "done#undo"
    assert execute.undo is not None and execute.undo.failure is not None
    assert execute.undo.failure.code is ErrorCode.RUN_TIMEOUT
    host.ok("done#undo")
    desk.settle()
    assert desk.run_state() == "FAILED"


def test_the_deadline_of_a_run_is_that_of_its_start_also_after_a_restart() -> None:
    desk, host = limited_run()
    host.plan(task("busy"))
    desk.settle()
    desk.restart()
    host.connect()
    desk.settle()
    desk.pass_time(11.0)
    assert desk.run_state() == "FAILED"


def test_outcomes_that_waited_for_their_wave_are_released_before_the_group_and_count() -> None:
    desk, host = grouped(FailPolicy.ALL)
    host.ok("g/[0]/a")
    desk.settle()
    assert host.releases() == [], "its wave waits for b"
    desk.pass_time(5.5)
    (release,) = host.releases()
    assert [o.path for o in release.outcomes] == ["g/[0]/a"]
    host.plan(branches_ended=(BranchEnded("g/[0]", BranchOutcome.OK),))
    desk.settle()
    (release,) = host.releases()
    assert [o.path for o in release.outcomes] == ["g"]
    host.plan(groups_ended=(GroupEnded("g", Verdict.OK, 1, (1,)),))
    desk.settle()
    assert desk.run_state() == "RUNNING", "the engine agrees with this verdict"


def test_a_branch_that_does_not_answer_keeps_a_late_group_open_no_longer_than_the_grace() -> None:
    desk, host = grouped()
    host.ok("g/[0]/a")
    desk.settle()
    desk.pass_time(5.5)
    assert [o.path for r in host.releases() for o in r.outcomes] == ["g/[0]/a"]
    desk.pass_time(desk.config.timeout_grace + 0.5)
    assert [o.path for r in host.releases() for o in r.outcomes] == ["g"]


def test_steps_that_are_late_at_the_same_moment_fail_in_one_row_and_one_release() -> None:
    desk, host = running()
    late = [task(f"g/[{i}]/s", deadline=5.0) for i in range(50)]
    host.plan(*late, groups=(GroupOpened("g", 50, ParallelMode.RACE),))
    desk.settle()
    host.take()
    rows = len(desk.rows.journal(1))
    desk.jump(6.0)
    assert len(desk.rows.journal(1)) == rows + 1
    (release,) = host.releases()
    assert [o.path for o in release.outcomes] == [step.path for step in late]


def test_the_deadline_of_a_step_holds_while_its_run_is_paused_and_while_it_waits_for_a_place_or_a_host() -> None:
    desk, host = running()
    host.plan(
        *(StepPlanned(f"g/[{i}]/s", StepKind.TASK, "nobody", deadline=5.0) for i in range(2)),
        groups=(GroupOpened("g", 2, ParallelMode.RACE, limit=1),),
    )
    desk.settle()
    host.session.fail_body("r", BodyFailed(host.seqs["r"][0], Failure(ErrorCode.BODY_STALLED, "BodyStalled", "no")))
    desk.settle()
    assert desk.run_state() == "PAUSED"
    desk.pass_time(6.0)
    assert desk.run_state() == "PAUSED" and desk.kinds.count("AttemptEnded") == 2
    assert desk.core.runs["r"].groups["g"].executing == 0
    desk.core.resume_run("go", "r", desk.now)
    desk.settle()
    (advance,) = [a for a in advances(host.take()) if a.start is not None]
    assert [type(entry).__name__ for entry in advance.entries] == ["Plan", "Release"]


@pytest.mark.parametrize("state", ["PENDING", "PAUSED"])
def test_a_run_that_is_late_fails_also_if_nobody_works_on_it(state: str) -> None:
    desk, host = limited_run()
    host.plan(task("done", undo=Undo(StepKind.TASK, "work")))
    desk.settle()
    if state == "PAUSED":
        host.ok("done")
        failed = BodyFailed(host.seqs["r"][0], Failure(ErrorCode.BODY_STALLED, "BodyStalled", "no"))
        host.session.fail_body("r", failed)
        desk.settle()
        assert desk.run_state() == "PAUSED"
        desk.pass_time(11.0)
        host.ok("done#undo")
        desk.settle()
        assert desk.run_state() == "FAILED"
        return
    host.cut()
    desk.pass_time(4.0)
    desk.start("late")
    desk.settle()
    assert desk.run_state("late") == "PENDING"
    desk.pass_time(11.0)
    assert desk.run_state("late") == "FAILED"


def test_a_group_whose_branch_lost_is_not_released_at_its_deadline() -> None:
    desk, host = running()
    host.plan(
        task("r/[0]/a"),
        task("r/[1]/in/[0]/b"),
        groups=(
            GroupOpened("r", 2, ParallelMode.RACE, FailPolicy.ALL, cancel_siblings=True),
            GroupOpened("r/[1]/in", 1, deadline=5.0),
        ),
    )
    desk.settle()
    host.ok("r/[0]/a")
    desk.settle()
    host.plan(
        branches_ended=(BranchEnded("r/[0]", BranchOutcome.OK),),
        groups_ended=(GroupEnded("r", Verdict.OK, 1, (1,)),),
    )
    desk.settle()
    host.take()
    desk.pass_time(10.0)
    assert "GroupExpired" not in desk.kinds and host.releases() == []


@pytest.mark.parametrize("committed", [True, False])
def test_a_group_that_its_body_ended_while_its_deadline_passed_ends_as_the_body_says(committed: bool) -> None:
    """The host decided without knowing of the deadline; the plan crosses the release."""
    desk, host = grouped(FailPolicy.ALL)
    for path in ("g/[0]/a", "g/[1]/b"):
        host.ok(path)
    desk.settle()
    desk.held = not committed
    desk.jump(6.0)
    host.plan(
        branches_ended=(BranchEnded("g/[0]", BranchOutcome.FAILED), BranchEnded("g/[1]", BranchOutcome.OK)),
        groups_ended=(GroupEnded("g", Verdict.OK),),
    )
    desk.settle()
    desk.held = False
    desk.settle()
    assert "GroupExpired" in desk.kinds
    assert desk.run_state() == "RUNNING" and desk.core.runs["r"].groups["g"].ended is not None
    host.end()
    desk.settle()
    assert desk.run_state() == "SUCCEEDED"


def test_the_deadline_of_a_group_whose_branch_lost_does_not_keep_its_run_in_memory() -> None:
    desk, host = running()
    host.plan(
        task("r/[0]/a"),
        task("r/[1]/in/[0]/b"),
        groups=(
            GroupOpened("r", 2, ParallelMode.RACE, FailPolicy.ALL, cancel_siblings=True),
            GroupOpened("r/[1]/in", 1, deadline=5.0),
        ),
    )
    desk.settle()
    host.ok("r/[0]/a")
    desk.settle()
    host.plan(
        StepPlanned("nap", StepKind.SLEEP, spec=Sleep(600.0)),
        branches_ended=(BranchEnded("r/[0]", BranchOutcome.OK),),
        groups_ended=(GroupEnded("r", Verdict.OK, 1, (1,)),),
    )
    host.failed("r/[1]/in/[0]/b", code=ErrorCode.CANCELLED)
    desk.settle()
    desk.pass_time(40.0)
    assert desk.run_state() == "WAITING"
