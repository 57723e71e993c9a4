"""Retries on the virtual clock: how often, how long between, and what forbids them (MISSION S3, S22, I1)."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

import stepwire
from stepwire import NonRetryable, Retry, RetryAfter, testing
from stepwire.protocol.failure import ErrorCode
from stepwire.testing import TestRun
from stepwire_engine.core.entries import AttemptEnded

ASYNC = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])


def delays(run: TestRun, path: str = "step") -> list[float]:
    """Seconds between the end of an attempt and when the next one was due, from the record."""
    ended = [e for e in run.journal if isinstance(e, AttemptEnded) and e.path == path]
    return [(e.retry_at_ms - e.at_ms) / 1000 for e in ended if e.retry_at_ms is not None]


def failing(
    retries: int | Retry | None, error: Any = ValueError, *, fails: int = 10**6, replay: bool = False
) -> TestRun:
    """Run one step that raises `error` in its first `fails` attempts."""
    host = stepwire.Host("retries")
    attempts = [0]

    @host.flow
    async def flow(ctx: stepwire.Context) -> str:
        def step() -> str:
            attempts[0] += 1
            if attempts[0] <= fails:
                raise error() if isinstance(error, type) else error
            return "done"

        return await ctx.step.run("step", step, retries=retries)

    run = testing.run(host, flow, replay=replay)
    assert attempts[0] == len(run.record.steps[0].attempts)
    return run


@pytest.mark.parametrize(
    ("retry", "expected"),
    [
        (Retry(retries=4, backoff="fixed", delay=2, jitter=0), [2, 2, 2, 2]),
        (Retry(retries=4, backoff="linear", delay=2, jitter=0), [2, 4, 6, 8]),
        (Retry(retries=4, backoff="exponential", delay=2, factor=3, jitter=0), [2, 6, 18, 54]),
        (Retry(retries=4, backoff="exponential", delay=2, factor=3, jitter=0, cap=10), [2, 6, 10, 10]),
        (Retry(retries=3, backoff="linear", delay="1m", jitter=0, cap="90s"), [60, 90, 90]),
        (Retry(retries=3, backoff="fixed", delay=0, jitter=0), [0, 0, 0]),
        (Retry(max_attempts=2, backoff="fixed", delay="1d", cap="1d", jitter=0), [86_400]),
    ],
)
def test_delays(retry: Retry, expected: list[float]) -> None:
    run = failing(retry)
    assert delays(run) == expected
    ended = [a.ended_at_ms for a in run.record.steps[0].attempts]
    due = [b - a for a, b in pairwise(ended)]
    assert due == [1000 * d for d in expected], "each attempt ran when it was due"


def test_jitter_bounds() -> None:
    """Up to `jitter` of the delay is added, never taken off, and the draws differ."""
    run = failing(Retry(retries=40, backoff="fixed", delay=100, cap=100, jitter=0.5))
    drawn = delays(run)
    assert len(drawn) == 40
    assert all(100 <= d <= 150 for d in drawn)
    assert len(set(drawn)) > 30
    assert max(drawn) - min(drawn) > 20


def test_default_policy() -> None:
    """Three retries, exponential from 1 s with jitter of 0.1 (section 6)."""
    drawn = delays(failing(None))
    assert [low <= d <= low * 1.1 for d, low in zip(drawn, (1, 2, 4), strict=True)] == [True] * 3


@pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
def test_success_after_failures(replay: bool) -> None:
    run = failing(5, fails=3, replay=replay)
    assert run.output == "done"
    assert [a.number for a in run.record.steps[0].attempts] == [1, 2, 3, 4]
    assert [a.failure is None for a in run.record.steps[0].attempts] == [False, False, False, True]


@pytest.mark.parametrize("retry", [0, Retry(retries=0), Retry(max_attempts=1)], ids=["0", "retries", "max_attempts"])
def test_no_retries(retry: int | Retry) -> None:
    run = failing(retry)
    assert len(run.record.steps[0].attempts) == 1
    assert run.failure is not None
    assert (run.failure.code, run.failure.type) == (ErrorCode.USER_ERROR, "ValueError")


# ---- what forbids, and what asks for, another attempt


class PaymentRefused(Exception):
    pass


class CardExpired(PaymentRefused):
    pass


@pytest.mark.parametrize(
    ("retry", "error", "attempts"),
    [
        (Retry(retries=2, non_retryable=[PaymentRefused]), PaymentRefused, 1),
        (Retry(retries=2, non_retryable=[PaymentRefused]), CardExpired, 1),
        (Retry(retries=2, non_retryable=PaymentRefused), CardExpired, 1),
        (Retry(retries=2, non_retryable=["PaymentRefused"]), PaymentRefused, 1),
        (Retry(retries=2, non_retryable=[PaymentRefused]), ValueError, 3),
        (Retry(retries=2, non_retryable=[CardExpired]), PaymentRefused, 3),
    ],
)
def test_non_retryable_types(retry: Retry, error: type[Exception], attempts: int) -> None:
    run = failing(retry, error)
    assert len(run.record.steps[0].attempts) == attempts
    assert run.failure is not None and run.failure.type == error.__name__


def test_non_retryable_types_of_a_registered_step() -> None:
    host = stepwire.Host("retries")

    @host.step(retries=Retry(retries=2, non_retryable=[PaymentRefused]))
    def charge() -> None:
        raise CardExpired("12/20")

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("charge", charge)

    assert len(testing.run(host, flow).record.steps[0].attempts) == 1


@ASYNC
def test_non_retryable_ends_the_step_and_can_be_caught(is_async: bool) -> None:
    host = stepwire.Host("retries")

    async def in_tasks(ctx: stepwire.Context) -> str:
        try:
            await ctx.step.run("step", raises)
        except stepwire.StepError as error:
            return f"{error.type}: {error.message}"
        return ""

    def in_threads(ctx: stepwire.ContextSync) -> str:
        try:
            ctx.step.run("step", raises)
        except stepwire.StepError as error:
            return f"{error.type}: {error.message}"
        return ""

    def raises() -> None:
        raise NonRetryable("never again")

    run = testing.run(host, host.flow(in_tasks if is_async else in_threads))
    assert run.output == "NonRetryable: never again"
    assert len(run.record.steps[0].attempts) == 1


@pytest.mark.parametrize("wanted", [5.0, timedelta(seconds=5)], ids=["seconds", "timedelta"])
def test_retry_after(wanted: Any) -> None:
    run = failing(Retry(retries=2, backoff="fixed", delay=1, jitter=0), RetryAfter(wanted))
    assert delays(run) == [5, 5]
    assert len(run.record.steps[0].attempts) == 3, "it counts, and the step fails when none is left"


def test_retry_after_a_datetime() -> None:
    """Honoured within 10 % (S22)."""
    run = failing(Retry(retries=1, delay=0, jitter=0), RetryAfter(datetime.now(UTC) + timedelta(hours=1)))
    assert delays(run) == [pytest.approx(3600, rel=0.1)]


def test_retry_after_never_shortens_the_policy() -> None:
    assert delays(failing(Retry(retries=1, backoff="fixed", delay=10, jitter=0), RetryAfter(1))) == [10]


# ---- in groups


@ASYNC
@pytest.mark.parametrize("mode", ["WAIT", "RACE"])
def test_only_the_failed_member_is_retried(mode: str, is_async: bool) -> None:
    """Siblings keep their results (I1)."""
    calls: Counter[str] = Counter()
    host = stepwire.Host("retries")

    def member(name: str, fails: int) -> str:
        calls[name] += 1
        if calls[name] <= fails:
            raise ValueError(name)
        return name

    async def in_tasks(ctx: stepwire.Context) -> Any:
        members = [("a", 0), ("flaky", 2), ("c", 0)]
        steps = [lambda m=m: ctx.step.run(m[0], member, *m) for m in members]
        return await ctx.group.parallel(steps, parallel_mode=stepwire.ParallelMode[mode])

    def in_threads(ctx: stepwire.ContextSync) -> Any:
        members = [("a", 0), ("flaky", 2), ("c", 0)]
        steps = [lambda m=m: ctx.step.run(m[0], member, *m) for m in members]
        return ctx.group.parallel(steps, parallel_mode=stepwire.ParallelMode[mode])

    run = testing.run(host, host.flow(in_tasks if is_async else in_threads))
    assert run.output == ["a", "flaky", "c"]
    assert calls == {"a": 1, "flaky": 3, "c": 1}
    attempts = {s.path: len(s.attempts) for s in run.record.steps}
    assert attempts == {"parallel/[0]/a": 1, "parallel/[1]/flaky": 3, "parallel/[2]/c": 1}


@pytest.mark.parametrize(("mode", "first"), [("WAIT", "flaky"), ("RACE", "after")])
def test_waiting_retries_hold_a_wait_wave(mode: str, first: str) -> None:
    """A backoff belongs to the wave: its siblings go on after it in WAIT, before it in RACE (S3)."""
    host = stepwire.Host("retries")
    calls: list[str] = []

    def flaky() -> None:
        if calls.count("try") < 2:
            calls.append("try")
            raise ValueError
        calls.append("flaky")

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        async def other() -> None:
            await ctx.step.run("before", lambda: calls.append("before"))
            await ctx.step.run("after", lambda: calls.append("after"))

        branches = (lambda: ctx.step.run("flaky", flaky), other)
        await ctx.group.parallel(branches, parallel_mode=stepwire.ParallelMode[mode])

    run = testing.run(host, flow)
    assert run.succeeded
    assert next(c for c in calls if c in ("flaky", "after")) == first
    assert {s.path.rpartition("/")[2]: len(s.attempts) for s in run.record.steps} == {
        "flaky": 3, "before": 1, "after": 1,
    }  # fmt: skip


def test_retries_inside_gather() -> None:
    """A flow that awaits a gather is idle as well: its backoffs cost no real time."""
    host = stepwire.Host("retries")
    calls: Counter[str] = Counter()

    def flaky(name: str) -> str:
        calls[name] += 1
        if calls[name] < 3:
            raise ValueError
        return name

    @host.flow
    async def flow(ctx: stepwire.Context) -> list[str]:
        return list(await asyncio.gather(*(ctx.step.run(n, flaky, n, retries=3) for n in "abc")))

    run = testing.run(host, flow)
    assert run.output == ["a", "b", "c"]
    assert all(len(s.attempts) == 3 for s in run.record.steps)
