"""Retry arithmetic as tables (MISSION S3, proto/README 10), and what a failure does to its step."""

from __future__ import annotations

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Backoff, RetryPolicy
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import AttemptEnded, RunState
from stepwire_engine.core.model import StepState
from stepwire_engine.core.retry import backoff_delay, jitter_chance, retry_delay
from tests.core.given import Given, body_lost, failed, given, lost, ok, paused, plan, resumed, step

INFINITE = float("inf")


def policy(backoff: Backoff = Backoff.FIXED, **how: object) -> RetryPolicy:
    return RetryPolicy(**{"max_attempts": 100, "backoff": backoff, "delay": 2.0, "jitter": 0.0, **how})  # type: ignore[arg-type]


def failure(**how: object) -> Failure:
    return Failure(ErrorCode.USER_ERROR, "ValueError", "no", **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "delays"),
    [
        (policy(Backoff.FIXED), [2, 2, 2, 2]),
        (policy(Backoff.LINEAR), [2, 4, 6, 8]),
        (policy(Backoff.LINEAR, cap=5.0), [2, 4, 5, 5]),
        (policy(Backoff.EXPONENTIAL, factor=2.0), [2, 4, 8, 16]),
        (policy(Backoff.EXPONENTIAL, factor=10.0, cap=60.0), [2, 20, 60, 60]),
        (policy(Backoff.EXPONENTIAL, factor=1.0), [2, 2, 2, 2]),
        (policy(Backoff.FIXED, cap=1.0), [1, 1, 1, 1]),
        (policy(Backoff.FIXED, delay=0.0), [0, 0, 0, 0]),
    ],
)
def test_the_delay_before_each_retry(made: RetryPolicy, delays: list[float]) -> None:
    assert [backoff_delay(made, n) for n in (1, 2, 3, 4)] == delays


def test_an_exponential_delay_never_overflows() -> None:
    assert backoff_delay(policy(Backoff.EXPONENTIAL, factor=1000.0, cap=60.0), 100_000) == 60.0
    assert backoff_delay(policy(Backoff.EXPONENTIAL, factor=2.0, cap=INFINITE), 100_000) < INFINITE


@for_all(st.floats(0, 1), st.floats(0, 1, exclude_max=True), st.integers(1, 99))
def test_jitter_adds_at_most_its_share_after_the_cap(jitter: float, chance: float, attempt: int) -> None:
    made = policy(Backoff.EXPONENTIAL, cap=30.0, jitter=jitter)
    base = backoff_delay(made, attempt)
    found = retry_delay(made, failure(), attempt, chance)
    assert found is not None
    assert base <= found <= base * (1 + jitter) * (1 + 1e-12) <= 60.0 + 1e-9


@for_all(st.integers(0, 2**64 - 1), st.text(max_size=20), st.integers(1, 10_000))
def test_chance_is_a_function_of_seed_path_and_attempt(seed: int, path: str, attempt: int) -> None:
    found = jitter_chance(seed, path, attempt)
    assert 0 <= found < 1
    assert found == jitter_chance(seed, path, attempt)


def test_chance_differs_between_siblings() -> None:
    assert len({jitter_chance(1, f"g/[{i}]/s", 1) for i in range(1000)}) > 990


@pytest.mark.parametrize(
    ("made", "given_failure", "attempt", "expected"),
    [
        (policy(max_attempts=1), failure(), 1, None),
        (policy(max_attempts=3), failure(), 2, 2.0),
        (policy(max_attempts=3), failure(), 3, None),
        (policy(max_attempts=3), failure(), 4, None),
        (policy(), failure(retryable=Retryable.NO), 1, None),
        (policy(max_attempts=1), failure(retryable=Retryable.YES), 1, None),
        (policy(non_retryable_types=("ValueError",)), failure(), 1, None),
        (policy(non_retryable_types=("TypeError",)), failure(), 1, 2.0),
        (policy(non_retryable_types=("ValueError",)), failure(retryable=Retryable.YES), 1, 2.0),
        (policy(), failure(retry_after=9.0), 1, 9.0),
        (policy(), failure(retry_after=1.0), 1, 2.0),
        (policy(cap=3.0), failure(retry_after=9.0), 1, 9.0),
        (policy(), failure(retry_after=0.0), 1, 2.0),
        (policy(), failure(retryable=Retryable.NO, retry_after=1.0), 1, None),
    ],
)
def test_whether_and_when_there_is_another_attempt(
    made: RetryPolicy, given_failure: Failure, attempt: int, expected: float | None
) -> None:
    assert retry_delay(made, given_failure, attempt, 0.0) == expected


# ---- on a run


def test_the_decision_stands_in_the_journal_with_its_time() -> None:
    run = given(plan(step("a", retry=policy(max_attempts=3))))
    run.when(failed("a"))
    (ended,) = run.turn.entries
    assert isinstance(ended, AttemptEnded)
    assert (ended.attempt, ended.retry_at_ms) == (1, run.ms + 2000)
    assert run.turn.retries == [run.run.steps["a"]]
    assert (run.run.steps["a"].attempt, run.run.steps["a"].state) == (2, StepState.BACKOFF)
    run.when(failed("a")).then()
    run.when(failed("a")).then("a")
    assert run.run.steps["a"].state is StepState.FAILED
    run.assert_rebuilt()


def test_a_step_without_policy_has_the_default_one() -> None:
    config = CoreConfig(default_retry=policy(max_attempts=2))
    run = given(plan("a"), config=config).when(failed("a")).then()
    run.when(failed("a")).then("a")


def test_an_output_over_the_limit_is_a_failure_that_is_not_retried() -> None:
    config = CoreConfig(payload_bytes_max=10, default_retry=policy())
    run = given(plan("at", "over"), config=config)
    run.when(ok("at", b"x" * 10), ok("over", b"x" * 11)).then("at", "over")
    assert run.run.steps["at"].state is StepState.SUCCEEDED
    over = run.run.steps["over"].outcome
    assert over is not None and over.failure is not None and over.output is None
    assert over.failure.code is ErrorCode.PAYLOAD_TOO_LARGE


# ---- loss and poison


def lossy(times: int) -> Given:
    config = CoreConfig(attempts_lost_max=times, default_retry=policy(max_attempts=3))
    return given(plan("a"), config=config)


def test_a_lost_attempt_consumes_no_retry() -> None:
    run = lossy(5).when(lost("a")).then()
    assert (run.run.steps["a"].attempt, run.run.steps["a"].state) == (1, StepState.PENDING)
    assert run.turn.planned == [run.run.steps["a"]]
    run.assert_rebuilt()


def test_a_step_that_loses_its_host_too_often_is_poison() -> None:
    run = lossy(3).when(lost("a")).when(lost("a")).then()
    run.when(lost("a")).then("a")
    assert run.kinds == ["AttemptLost", "AttemptEnded", "Released"]
    outcome = run.run.steps["a"].outcome
    assert outcome is not None and outcome.failure is not None
    assert outcome.failure.code is ErrorCode.POISON_STEP
    assert "step 'a' lost its host 3 times in a row, on host (3)" in outcome.failure.message
    run.assert_rebuilt()


def state(run: Given) -> RunState:
    return run.run.state


def test_a_body_that_is_lost_again_and_again_without_a_plan_is_paused() -> None:
    run = lossy(3).when(ok("a")).when(body_lost()).when(body_lost())
    assert state(run) is RunState.RUNNING
    run.when(body_lost())
    assert state(run) is RunState.PAUSED
    run.assert_rebuilt()


def test_a_body_that_waits_is_hardly_what_kills_its_hosts() -> None:
    run = lossy(3)
    for _ in range(29):
        run.when(body_lost())
    assert state(run) is RunState.RUNNING
    run.when(body_lost())
    assert state(run) is RunState.PAUSED


def test_a_plan_proves_that_the_body_lives() -> None:
    run = lossy(3).when(ok("a")).when(body_lost()).when(body_lost()).when(plan("b")).when(body_lost())
    assert state(run) is RunState.RUNNING


def test_whoever_resumes_a_poisonous_body_gives_it_all_its_tries_again() -> None:
    run = lossy(3).when(ok("a")).when(body_lost()).when(body_lost()).when(body_lost()).when(resumed()).when(body_lost())
    assert state(run) is RunState.RUNNING
    run.assert_rebuilt()


# ---- pause


def test_a_paused_run_keeps_what_its_attempts_bring() -> None:
    run = given(plan("a")).when(paused())
    assert state(run) is RunState.PAUSED
    run.when(ok("a")).then("a")
    run.when(resumed())
    assert state(run) is RunState.RUNNING
    run.assert_rebuilt()


def test_a_run_paused_before_its_first_plan_is_pending_again() -> None:
    run = given().when(paused()).when(resumed())
    assert state(run) is RunState.PENDING


def test_the_payload_of_a_result_is_kept_until_it_is_released() -> None:
    run = given(plan("a"))
    run.when(ok("a", b"42")).then("a")
    outcome = run.run.steps["a"].outcome
    assert outcome is not None and outcome.output == Payload(b"42")
