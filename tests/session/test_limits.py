"""Limits of groups: how many attempts execute at once, nested groups included, by order of planning (MISSION S13)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import HostFrame, HostSection, Result
from stepwire.protocol.plan import GroupOpened, RetryPolicy, StepPlanned
from tests.session.desk import Desk, Host, running, task

FAST = RetryPolicy(max_attempts=2, delay=5.0, jitter=0.0)


def opened(limit: int, branches: int = 6, path: str = "g") -> GroupOpened:
    return GroupOpened(path, branches, limit=limit)


def begin(limit: int, count: int) -> tuple[Desk, Host]:
    desk, host = running()
    host.plan(*(task(f"g/[{i}]/s") for i in range(count)), groups=(opened(limit, count),))
    desk.settle()
    return desk, host


def paths(host: Host) -> list[str]:
    return [e.path for e in host.executes()]


def test_only_as_many_attempts_as_the_limit_execute_and_the_next_follows_each_end() -> None:
    desk, host = begin(2, 4)
    assert paths(host) == ["g/[0]/s", "g/[1]/s"]
    host.ok("g/[1]/s")
    desk.settle()
    assert paths(host) == ["g/[2]/s"]
    host.ok("g/[0]/s")
    host.ok("g/[2]/s")
    desk.settle()
    assert paths(host) == ["g/[3]/s"]


def test_steps_wait_for_the_group_and_say_so() -> None:
    desk, _ = begin(1, 2)
    run = desk.core.runs["r"]
    assert not run.steps["g/[0]/s"].waits_for_group
    assert run.steps["g/[1]/s"].waits_for_group


def test_a_step_that_waits_for_its_retry_gives_its_place_to_another() -> None:
    desk, host = running()
    host.plan(task("g/[0]/s", retry=FAST), task("g/[1]/s"), groups=(opened(1, 2),))
    desk.settle()
    assert paths(host) == ["g/[0]/s"]
    host.failed("g/[0]/s")
    desk.settle()
    assert paths(host) == ["g/[1]/s"]
    desk.pass_time(6.0)
    assert paths(host) == [], "the retry is due, but the place is taken"
    host.ok("g/[1]/s")
    desk.settle()
    assert paths(host) == ["g/[0]/s"]


def test_the_limit_counts_steps_of_nested_groups_and_both_limits_hold() -> None:
    desk, host = running()
    inner = opened(1, 3, "g/[0]/in")
    host.plan(
        *(task(f"g/[0]/in/[{i}]/s") for i in range(3)),
        *(task(f"g/[{i}]/s") for i in (1, 2)),
        groups=(opened(2, 3), inner),
    )
    desk.settle()
    assert paths(host) == ["g/[0]/in/[0]/s", "g/[1]/s"]
    host.ok("g/[1]/s")
    desk.settle()
    assert paths(host) == ["g/[2]/s"]
    host.ok("g/[0]/in/[0]/s")
    desk.settle()
    assert paths(host) == ["g/[0]/in/[1]/s"]


def test_closures_of_a_limited_group_are_executed_by_order_of_the_engine() -> None:
    desk, host = running()
    host.plan("g/[0]/s", "g/[1]/s", groups=(opened(1, 2),))
    desk.settle()
    assert paths(host) == ["g/[0]/s"]
    host.ok("g/[0]/s")
    desk.settle()
    assert paths(host) == ["g/[1]/s"]


def test_a_lost_attempt_gives_its_place_back() -> None:
    desk, host = begin(1, 2)
    other = desk.host("other")
    host.take()
    host.cut()
    desk.pass_time(4.0)
    assert len(paths(other)) == 1


def test_a_cancelled_attempt_keeps_its_place_until_it_has_stopped() -> None:
    desk, host = running()
    host.plan(task("g/[0]/s"), task("g/[1]/s"), task("g/[2]/s"), groups=(opened(1, 3),))
    desk.settle()
    host.take()
    host.plan(abandoned=("g/[0]/s",))
    desk.settle()
    assert paths(host) == []
    host.failed("g/[0]/s", code=ErrorCode.CANCELLED)
    desk.settle()
    assert paths(host) == ["g/[1]/s"]


def test_a_waiting_step_that_nobody_wants_any_more_is_never_executed() -> None:
    desk, host = begin(1, 3)
    host.take()
    host.plan(abandoned=("g/[1]/s",))
    host.ok("g/[0]/s")
    desk.settle()
    assert paths(host) == ["g/[2]/s"]


def test_after_an_engine_restart_adopted_attempts_count() -> None:
    desk, host = begin(2, 4)
    host.take()
    desk.restart()
    host.connect()
    desk.settle()
    desk.pass_time(1.0)
    assert paths(host) == [], "the two it executes still fill the group"
    host.ok("g/[0]/s")
    desk.settle()
    assert paths(host) == ["g/[2]/s"]


def test_a_group_waits_for_nobody_when_its_limit_is_wider_than_it_is() -> None:
    _, host = begin(10, 4)
    assert len(paths(host)) == 4


@settings(max_examples=60, deadline=None)
@given(limit=st.integers(1, 4), inner=st.integers(1, 3), order=st.randoms(use_true_random=False))
def test_never_more_than_the_limit_and_everything_ends(limit: int, inner: int, order: object) -> None:
    desk, host = running()
    steps: list[StepPlanned] = [task(f"g/[{i}]/s", retry=FAST) for i in range(1, 6)]
    steps += [task(f"g/[0]/in/[{i}]/s", retry=FAST) for i in range(4)]
    host.plan(*steps, groups=(opened(limit, 6), opened(inner, 4, "g/[0]/in")))
    desk.settle()
    executing: set[str] = set()
    done = 0
    for _ in range(200):
        executing.update(paths(host))
        assert len(executing) <= limit
        assert sum(path.startswith("g/[0]/in") for path in executing) <= inner
        if not executing:
            if done == len(steps):
                break
            desk.pass_time(6.0)
            continue
        path = order.choice(sorted(executing))  # type: ignore[attr-defined]
        executing.discard(path)
        attempt = desk.core.runs["r"].steps[path].attempt
        if attempt == 1 and order.random() < 0.3:  # type: ignore[attr-defined]
            host.failed(path)
        else:
            host.ok(path, attempt=attempt)
            done += 1
        desk.settle()
    assert done == len(steps)


def test_a_result_for_a_step_that_waits_for_a_host_again_gives_its_place_back_and_its_retry_waits() -> None:
    desk, host = running()
    bystander = desk.host("bystander", steps=())
    host.plan(task("g/[0]/s", retry=FAST), groups=(opened(1, 2),))
    desk.settle()
    fence = host.session.attempt_fence("r", "g/[0]/s")
    assert fence is not None
    host.cut()
    desk.pass_time(4.0)
    step = desk.core.runs["r"].steps["g/[0]/s"]
    assert step.queued and step.admitted
    late = Result("g/[0]/s", 1, fence, None, Failure(ErrorCode.USER_ERROR, "ValueError", "no"))
    bystander.raw(HostFrame(runs=[HostSection("r", [], [late], [])]))
    bystander.plan(task("g/[1]/s"))
    desk.settle()
    other = desk.host("other")
    assert paths(other) == ["g/[1]/s"], "the retry is not due"


def test_a_retry_is_admitted_before_steps_that_were_planned_later() -> None:
    desk, host = running()
    host.plan(task("g/[0]/s", retry=FAST), *(task(f"g/[{i}]/s") for i in (1, 2, 3)), groups=(opened(1, 4),))
    desk.settle()
    assert paths(host) == ["g/[0]/s"]
    host.failed("g/[0]/s")
    desk.settle()
    assert paths(host) == ["g/[1]/s"]
    desk.pass_time(6.0)
    host.ok("g/[1]/s")
    desk.settle()
    assert paths(host) == ["g/[0]/s"]


def test_a_closure_whose_body_is_gone_takes_no_place() -> None:
    desk, host = running()
    worker = desk.host("worker", flows=())
    host.plan("g/[0]/s", task("g/[1]/s", retry=FAST), groups=(opened(1, 2),))
    desk.settle()
    assert paths(host) == ["g/[0]/s"]
    host.cut()
    desk.pass_time(4.0)
    assert paths(worker) == ["g/[1]/s"]
    worker.failed("g/[1]/s")
    desk.pass_time(6.0)
    assert paths(worker) == ["g/[1]/s"], "its retry is due, and nothing else can be executed"
    other = desk.host("other")
    assert paths(other) == []
    worker.ok("g/[1]/s", attempt=2)
    desk.settle()
    assert paths(other) == ["g/[0]/s"]


def test_a_closure_that_waited_for_a_slot_of_a_host_that_is_lost_gives_its_place_back() -> None:
    desk = Desk()
    host = desk.host(slots=1)
    desk.start()
    desk.settle()
    host.plan(task("busy"))
    desk.settle()
    worker = desk.host("worker", flows=())
    host.plan("g/[0]/s", task("g/[1]/s"), groups=(opened(1, 2),))
    desk.settle()
    assert paths(worker) == []
    host.cut()
    desk.pass_time(4.0)
    assert sorted(paths(worker)) == ["busy", "g/[1]/s"]


def test_a_retry_that_becomes_due_while_hosts_are_awaited_does_not_exceed_the_limit() -> None:
    desk, host = running()
    host.plan(task("g/[0]/s", retry=FAST), task("g/[1]/s"), groups=(opened(1, 2),))
    desk.settle()
    host.failed("g/[0]/s")
    desk.settle()
    assert paths(host)[-1] == "g/[1]/s"
    other = desk.host("other")
    desk.restart()
    other.connect()
    desk.settle()
    desk.pass_time(6.0)
    assert paths(other) == [], "the host that is awaited may execute the other step"
    host.connect()
    desk.settle()
    host.ok("g/[1]/s")
    desk.settle()
    assert paths(host) + paths(other) == ["g/[0]/s"]


def test_an_attempt_that_does_not_stop_keeps_its_place_over_an_engine_restart() -> None:
    desk, host = running()
    host.plan(task("g/[0]/s"), task("g/[1]/s"), groups=(opened(1, 2),))
    desk.settle()
    host.take()
    host.plan(abandoned=("g/[0]/s",))
    desk.settle()
    desk.restart()
    host.connect()
    desk.settle()
    desk.pass_time(1.0)
    assert paths(host) == []
    host.failed("g/[0]/s", code=ErrorCode.CANCELLED)
    desk.settle()
    assert paths(host) == ["g/[1]/s"]
