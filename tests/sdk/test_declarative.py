"""Declared flows run: rules O1-O8 and O11 under their ids, in the whole engine, live and replayed (MISSION S9)."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import stepwire
from stepwire import Flow, Step, testing
from stepwire.declarative import FlowResult, FlowState
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.plan import FailPolicy
from stepwire.testing import TestRun
from stepwire_engine.core.entries import AttemptEnded, RunState
from tests.sdk.declared import Gated, opened, raises, returns, run_once, states
from tests.sdk.gates import Gates, turns, until, until_recorded

REPLAY = pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async steps", "plain steps"])


# ---- the seed's two blocks


@REPLAY
@ASYNC
@pytest.mark.parametrize("fail_fast", [False, True], ids=["first block", "second block"])
def test_the_seed_blocks_run_as_they_stand(fail_fast: bool, is_async: bool, replay: bool) -> None:
    calls: Counter[str] = Counter()

    def fetch_user_plain(state: FlowState) -> dict[str, Any]:
        calls["fetch-user"] += 1
        return {"id": 1}

    async def fetch_user(state: FlowState) -> dict[str, Any]:
        return fetch_user_plain(state)

    def fetch_posts() -> list[str]:
        calls["fetch-posts"] += 1
        return ["hello"]

    def process_all(state: FlowState) -> str:
        calls["process-all"] += 1
        user, posts = state.result("fetch-user").output, state.result("fetch-posts").output
        return f"user {user['id']} wrote {len(posts)}"

    members = [
        Step("fetch-user", fetch_user if is_async else fetch_user_plain),
        Step("fetch-posts", fetch_posts),
    ]
    flow = Flow("flow")
    flow.parallel("fetch-data", members, fail_fast=fail_fast)
    flow.step("process-all", process_all)

    run = run_once(flow, replay=replay)
    assert run.succeeded
    assert run.output.result("process-all").output == "user 1 wrote 1"
    assert calls == {"fetch-user": 1, "fetch-posts": 1, "process-all": 1}
    assert run.order[-1] == "process-all" and len(run.order) == 3
    assert [group.fail for group in opened(run)] == [FailPolicy.ANY if fail_fast else FailPolicy.ALL]


# ---- O1 to O8


@REPLAY
@pytest.mark.parametrize("fail", ["all", "any", "never", "quorum"])
def test_o1_the_group_keeps_its_name_and_its_members_their_order(fail: str, replay: bool) -> None:
    options: dict[str, Any] = {"quorum": 2} if fail == "quorum" else {"fail": fail}
    members = [Step(name, returns(name)) for name in "cab"]
    run = run_once(Flow("f").parallel("fetch-data", members, **options).step("after", returns(1)), replay=replay)
    result = run.output
    assert isinstance(result, FlowResult)
    assert [step.name for step in result.groups["fetch-data"].steps] == ["c", "a", "b"]
    assert [step.output for step in result.groups["fetch-data"].steps] == ["c", "a", "b"]
    assert result.group_result("fetch-data").fail == fail
    assert [step.name for step in result.steps] == ["c", "a", "b", "after"]
    assert [group.path for group in run.record.groups] == ["fetch-data"]
    assert list(states(run)) == ["fetch-data/[0]/c", "fetch-data/[1]/a", "fetch-data/[2]/b", "after"]


@REPLAY
@ASYNC
@pytest.mark.parametrize("fail_fast", [False, True])
def test_o2_the_next_step_waits_for_every_member(fail_fast: bool, is_async: bool, replay: bool) -> None:
    async def main() -> None:
        fixture = Gated(is_async=is_async, fail_fast=fail_fast)
        async with testing.environment(fixture.host, replay=replay) as env:
            run_id = await env.start(fixture.flow)
            finish = asyncio.create_task(env.finish(fixture.flow, run_id))
            await fixture.gates.until_reached("fetch-user", "fetch-posts")
            fixture.gates.open("fetch-user")
            await until_recorded(env, run_id, fixture.gates, "fetch-user")
            await turns()
            assert "process-all" not in fixture.gates.reached
            fixture.gates.open("fetch-posts", "process-all")
            assert (await finish).succeeded
        assert fixture.gates.reached[-1] == "process-all"

    asyncio.run(main())


@REPLAY
@ASYNC
def test_o3_all_members_are_started_before_any_ends(is_async: bool, replay: bool) -> None:
    async def main() -> None:
        gates = Gates()
        names = [f"m{i}" for i in range(20)]

        def gated(name: str) -> Callable[..., Any]:
            async def in_task() -> str:
                return str(await gates.wait(name))

            return in_task if is_async else lambda: gates.wait_sync(name)

        host = stepwire.Host("declared")
        flow = host.add(Flow("f").parallel("many", [Step(name, gated(name)) for name in names]))
        async with testing.environment(host, replay=replay) as env:
            run_id = await env.start(flow)
            finish = asyncio.create_task(env.finish(flow, run_id))
            await gates.until_reached(*names)
            assert gates.passed == []
            gates.open(*names)
            assert (await finish).output.group_result("many").ok == names

    asyncio.run(main())


@REPLAY
@ASYNC
def test_o4_each_member_keeps_its_own_retries_and_result(is_async: bool, replay: bool) -> None:
    """Members that succeed at once, at the third try, and never."""
    calls: Counter[str] = Counter()

    def flaky() -> str:
        calls["flaky"] += 1
        if calls["flaky"] < 3:
            raise ValueError("not yet")
        return "at last"

    async def never() -> str:
        calls["never"] += 1
        raise KeyError("never")

    def once() -> int:
        calls["once"] += 1
        return 1

    async def flaky_async() -> str:
        return flaky()

    steps = [
        Step("once", once),
        Step("flaky", flaky_async if is_async else flaky, retries=2, retry_delay="10s", backoff="fixed", jitter=False),
        Step("never", never, retries=1, retry_delay="1s", backoff="fixed", jitter=False),
    ]
    run = run_once(Flow("f").parallel("group", steps), replay=replay)
    told = run.output.group_result("group").steps
    assert [(step.name, step.status, step.attempts) for step in told] == [
        ("once", "completed", 1),
        ("flaky", "completed", 3),
        ("never", "failed", 2),
    ]
    assert calls == {"once": 1, "flaky": 3, "never": 2}
    assert [step.ok for step in told] == [True, True, False]
    assert told[0].output == 1 and told[1].output == "at last"
    assert told[2].error is not None and told[2].error.type == "KeyError"
    for step in told:
        assert isinstance(step, stepwire.StepResult)
        assert step.started_at is not None and step.ended_at is not None and step.duration is not None
        assert (step.ended_at - step.started_at).total_seconds() == pytest.approx(step.duration)
    assert told[1].duration == pytest.approx(20, abs=0.5), "two fixed delays of 10 s"
    assert told[2].duration == pytest.approx(1, abs=0.5)


def test_o4_delays_grow_as_declared() -> None:
    """Linear d * n and exponential d * 2 ** (n - 1), capped, without jitter."""

    def delays(**options: Any) -> list[float]:
        run = run_once(Flow("f").step("s", raises("no"), retries=4, jitter=False, **options))
        ended = [e for e in run.journal if isinstance(e, AttemptEnded)]
        retries = [(e.retry_at_ms, e.at_ms) for e in ended if e.retry_at_ms is not None]
        return [round((due - at) / 1000, 1) for due, at in retries if due is not None]

    assert delays(retry_delay=2, backoff="fixed") == [2, 2, 2, 2]
    assert delays(retry_delay=2, backoff="linear") == [2, 4, 6, 8]
    assert delays(retry_delay=2, backoff="exponential") == [2, 4, 8, 16]
    assert delays(retry_delay=2, backoff="exponential", max_retry_delay=5) == [2, 4, 5, 5]
    assert delays() == [1, 2, 4, 8]


def test_o4_an_attempt_that_timed_out_has_ended_before_the_next_begins() -> None:
    running: list[int] = []
    at_once: list[int] = []

    async def slow() -> None:
        running.append(1)
        at_once.append(len(running))
        try:
            await asyncio.Event().wait()
        finally:
            running.pop()

    steps = [
        Step("slow", slow, timeout="50ms", retries=2, retry_delay=0, jitter=0),
        Step("fast", returns(1)),
    ]
    host = stepwire.Host("declared")
    run = testing.run(host, host.add(Flow("f").parallel("group", steps)), virtual_clock=False)
    told = run.output.result("slow")
    assert (told.status, told.attempts) == ("failed", 3)
    assert told.error is not None and told.error.code is ErrorCode.TIMEOUT
    assert at_once == [1, 1, 1], "never two attempts at once"


@REPLAY
@ASYNC
@pytest.mark.parametrize("fail_fast", [False, True])
def test_o5_a_group_with_an_early_failure_settles_first(fail_fast: bool, is_async: bool, replay: bool) -> None:
    async def main() -> TestRun:
        fixture = Gated(is_async=is_async, fails=("fetch-posts",), fail_fast=fail_fast)
        async with testing.environment(fixture.host, replay=replay) as env:
            run_id = await env.start(fixture.flow)
            finish = asyncio.create_task(env.finish(fixture.flow, run_id))
            await fixture.gates.until_reached("fetch-user", "fetch-posts")
            fixture.gates.open("fetch-posts")
            await until_recorded(env, run_id, fixture.gates, "fetch-posts")
            await turns()
            assert not finish.done() and "process-all" not in fixture.gates.reached
            fixture.gates.open("fetch-user", "process-all")
            return await finish

    run = asyncio.run(main())
    assert run.record.state is (RunState.FAILED if fail_fast else RunState.SUCCEEDED)
    assert states(run)["fetch-data/[0]/fetch-user"] == "SUCCEEDED", "its result is kept either way"


@REPLAY
@ASYNC
def test_o6_by_default_one_success_is_enough(is_async: bool, replay: bool) -> None:
    members = [
        Step("fetch-user", returns("user", is_async=is_async)),
        Step("fetch-posts", raises("down", is_async=is_async), retries=0),
    ]
    run = run_once(Flow("f").parallel("fetch-data", members).step("process-all", returns("done")), replay=replay)
    assert run.record.state is RunState.SUCCEEDED
    assert run.output.result("process-all").output == "done"
    failed = run.output.result("fetch-posts")
    assert (failed.status, failed.attempts, failed.group) == ("failed", 1, "fetch-data")
    assert failed.error is not None
    assert (failed.error.type, failed.error.message, failed.error.code) == ("ValueError", "down", ErrorCode.USER_ERROR)
    with pytest.raises(stepwire.StepError, match=r"failed with ValueError: down") as unavailable:
        _ = failed.output
    assert unavailable.value.cause == failed.error.failure


@REPLAY
@ASYNC
def test_o6_by_default_the_group_fails_when_all_fail(is_async: bool, replay: bool) -> None:
    """The error is that of the first member in order of declaration; the next step never runs."""
    members = [
        Step("fetch-user", raises("first declared", is_async=is_async), retries=1, retry_delay="1h"),
        Step("fetch-posts", raises("first to fail", is_async=is_async), retries=0),
    ]
    run = run_once(Flow("f").parallel("fetch-data", members).step("process-all", returns("done")), replay=replay)
    assert run.record.state is RunState.FAILED
    assert run.failure is not None and run.failure.code is ErrorCode.GROUP_FAILED
    assert run.failure.cause is not None and run.failure.cause.message == "first declared"
    assert "process-all" not in states(run)
    assert run.order == ["fetch-data/[1]/fetch-posts", "fetch-data/[0]/fetch-user"]


@REPLAY
@ASYNC
def test_o7_fail_fast_decides_how_a_group_ends_and_not_when(is_async: bool, replay: bool) -> None:
    members = [
        Step("fetch-user", returns("user", is_async=is_async)),
        Step("fetch-posts", raises("down", is_async=is_async), retries=0),
    ]
    flow = Flow("f").parallel("fetch-data", members, fail_fast=True).step("process-all", returns("done"))
    run = run_once(flow, replay=replay)
    assert run.record.state is RunState.FAILED
    assert run.failure is not None and run.failure.cause is not None and run.failure.cause.message == "down"
    assert states(run) == {"fetch-data/[0]/fetch-user": "SUCCEEDED", "fetch-data/[1]/fetch-posts": "FAILED"}


@REPLAY
def test_o7_cancel_siblings_cuts_the_group_short(replay: bool) -> None:
    """The sibling's gate is never opened: the run ends because the sibling is cancelled."""

    async def main() -> None:
        fixture = Gated(fails=("fetch-posts",), fail_fast=True, cancel_siblings=True)
        async with testing.environment(fixture.host, replay=replay) as env:
            run_id = await env.start(fixture.flow)
            finish = asyncio.create_task(env.finish(fixture.flow, run_id))
            await fixture.gates.until_reached("fetch-user", "fetch-posts")
            fixture.gates.open("fetch-posts")
            run = await finish
            await until("the sibling is told to stop", lambda: fixture.stopped == ["fetch-user"])
        assert run.record.state is RunState.FAILED
        assert states(run)["fetch-data/[0]/fetch-user"] == "CANCELLED"

    asyncio.run(main())


@REPLAY
@pytest.mark.parametrize("options", [{}, {"quorum": 1}], ids=["all", "quorum"])
def test_o7_cancel_siblings_also_ends_a_group_that_has_succeeded(options: dict[str, Any], replay: bool) -> None:
    async def main() -> None:
        fixture = Gated(cancel_siblings=True, **options)
        async with testing.environment(fixture.host, replay=replay) as env:
            run_id = await env.start(fixture.flow)
            finish = asyncio.create_task(env.finish(fixture.flow, run_id))
            await fixture.gates.until_reached("fetch-user", "fetch-posts")
            fixture.gates.open("fetch-posts", "process-all")
            result = (await finish).output
        group = result.group_result("fetch-data")
        assert (group.ok, group.failed, group.cancelled) == (["fetch-posts"], [], ["fetch-user"])
        cancelled = result.result("fetch-user")
        assert (cancelled.status, cancelled.attempts, cancelled.error) == ("cancelled", 0, None)
        with pytest.raises(stepwire.StepError, match="it is cancelled"):
            _ = cancelled.output

    asyncio.run(main())


@REPLAY
@ASYNC
def test_o8_later_steps_see_what_is_missing(is_async: bool, replay: bool) -> None:
    seen: list[Any] = []

    def look(state: FlowState) -> str:
        group = state.group_result("fetch-data")
        posts = state.result("fetch-posts")
        try:
            _ = posts.output
        except stepwire.StepError as error:
            seen.append((group.ok, group.failed, posts.status, posts.ok, error.cause))
        return "degraded"

    async def look_async(state: FlowState) -> str:
        return look(state)

    members = [
        Step("fetch-user", returns("user", is_async=is_async)),
        Step("fetch-posts", raises("down", is_async=is_async), retries=0),
    ]
    flow = Flow("f").parallel("fetch-data", members).step("process-all", look_async if is_async else look)
    run = run_once(flow, replay=replay)
    assert run.output.result("process-all").output == "degraded"
    ((ok, failed, status, posts_ok, cause),) = seen
    assert ok == ["fetch-user"] and failed == ["fetch-posts"]
    assert (status, posts_ok) == ("failed", False)
    assert (cause.type, cause.message) == ("ValueError", "down")


@REPLAY
def test_o8_a_step_that_reads_a_missing_output_fails_with_its_cause_and_is_not_tried_again(replay: bool) -> None:
    tries: list[int] = []

    def careless(state: FlowState) -> Any:
        tries.append(1)
        return state.result("fetch-posts").output

    members = [Step("fetch-user", returns("user")), Step("fetch-posts", raises("down"), retries=0)]
    run = run_once(Flow("f").parallel("fetch-data", members).step("process-all", careless), replay=replay)
    assert run.failure is not None and run.failure.type == "ResultUnavailable"
    assert run.failure.message == "step 'fetch-posts' has no output: it failed with ValueError: down"
    assert run.failure.cause is not None and run.failure.cause.message == "down"
    assert tries == [1]


# ---- O11


@REPLAY
@ASYNC
def test_o11_a_limit_bounds_the_members_that_run_at_once(is_async: bool, replay: bool) -> None:
    async def main() -> None:
        gates = Gates()
        names = [f"m{i}" for i in range(7)]
        lock, running, most = threading.Lock(), 0, 0

        def enter(change: int) -> None:
            nonlocal running, most
            with lock:
                running += change
                most = max(most, running)

        def gated(name: str) -> Callable[..., Any]:
            async def in_task() -> str:
                enter(1)
                await gates.wait(name)
                enter(-1)
                return name

            def on_thread() -> str:
                enter(1)
                gates.wait_sync(name)
                enter(-1)
                return name

            return in_task if is_async else on_thread

        host = stepwire.Host("declared")
        flow = host.add(Flow("f").parallel("many", [Step(name, gated(name)) for name in names], limit=3))
        async with testing.environment(host, replay=replay) as env:
            run_id = await env.start(flow)
            finish = asyncio.create_task(env.finish(flow, run_id))
            await gates.until_reached(*names[:3])
            await turns()
            assert gates.reached == names[:3] and running == 3
            gates.open(*names)
            run = await finish
        assert run.output.group_result("many").ok == names
        assert most == 3

    asyncio.run(main())
