"""Errors say what, why and what to do next, and failures are data (DESIGN 3 rule 9, aesthetics of errors)."""

from __future__ import annotations

import asyncio
import copy
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import stepwire.codec
from stepwire import errors
from stepwire.errors import (
    BodyEvicted,
    ConfigurationError,
    GroupFailed,
    InvalidInput,
    KeyConflict,
    NonDeterministicFlow,
    NonRetryable,
    PartlyStarted,
    RetryAfter,
    RunFailed,
    RunNotFound,
    StepError,
    StepTimeout,
    StepwireError,
    UnawaitedStep,
    error_from_failure,
    failure_from_exception,
)
from stepwire.protocol.failure import CAUSE_DEPTH_MAX, TRACEBACK_BYTES_MAX, ErrorCode, Failure, Retryable
from stepwire.protocol.payload import Payload
from stepwire.results import BranchResult, GroupResult, Outcome


def raised(exc: BaseException) -> BaseException:
    try:
        raise exc
    except BaseException as caught:
        return caught


def tree(cls: type[StepwireError]) -> list[type[StepwireError]]:
    return [cls, *(sub for child in cls.__subclasses__() for sub in tree(child))]


PUBLIC = [cls for cls in tree(StepwireError) if cls.__module__ == errors.__name__]
FAILURE = Failure(ErrorCode.USER_ERROR, "ValueError", "bad card", "stack")


def branches(*outcomes: Outcome) -> GroupResult[int]:
    return GroupResult(
        [
            BranchResult(index=i, name="", outcome=o, value=i, error=StepError(FAILURE) if o == "failed" else None)
            for i, o in enumerate(outcomes)
        ]
    )


@pytest.mark.parametrize("cls", [cls for cls in PUBLIC if cls not in (RunFailed, RetryAfter, PartlyStarted)])
def test_every_error_has_a_default_message_and_code(cls: type[StepwireError]) -> None:
    error = cls()
    assert error.message == (cls.__doc__ or "").splitlines()[0].rstrip(".")
    assert error.message in str(error)
    assert isinstance(error.code, ErrorCode)


def test_text_says_what_why_and_next() -> None:
    assert str(ConfigurationError("what", why="because", hint="do this")) == "what\n  why: because\n  next: do this"
    assert str(StepwireError("what")) == "what"
    assert "stepwire runs list" in str(RunNotFound("run r1 does not exist"))


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("x", why="y", hint="z"),
        RunFailed(FAILURE, "r1"),
        StepError(FAILURE, "a/b"),
        GroupFailed(path="p", results=branches("completed", "failed"), failures=(FAILURE,)),
        NonDeterministicFlow(path="p", expected="a", received="b"),
        RetryAfter(30, "busy"),
        BodyEvicted("r1"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_errors_survive_pickle_and_copy(error: BaseException) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        # By their text: an error inside a result equals no other error.
        assert {name: repr(value) for name, value in vars(twin).items()} == {
            name: repr(value) for name, value in vars(error).items()
        }


def test_runs_that_started_partly_name_the_first_that_did_not() -> None:
    conflict = KeyConflict("id 'a' is in use")
    error = PartlyStarted(["handle", None, None], [None, conflict, RunNotFound()])
    assert error.message == "2 of 3 runs were not started; the first is number 1: id 'a' is in use"
    assert (error.code, error.handles, error.errors[1]) == (ErrorCode.KEY_CONFLICT, ["handle", None, None], conflict)
    assert ".handles" in str(error)


def test_a_failure_of_user_code() -> None:
    failure = failure_from_exception(raised(KeyError("id")))
    assert (failure.code, failure.type, failure.message) == (ErrorCode.USER_ERROR, "KeyError", "'id'")
    assert failure.retryable is Retryable.POLICY
    assert failure.traceback.startswith("Traceback (most recent call last):\n")
    assert "in raised" in failure.traceback
    assert failure.traceback.endswith("KeyError: 'id'\n")
    timeout = failure_from_exception(TimeoutError(), code=ErrorCode.TIMEOUT, retryable=Retryable.NO)
    assert (timeout.code, timeout.retryable) == (ErrorCode.TIMEOUT, Retryable.NO)


def test_tracebacks_leave_out_frames_of_the_sdk() -> None:
    class Boom:
        def __eq__(self, other: object) -> bool:
            raise AssertionError

        def __hash__(self) -> int:
            raise LookupError("from user code, below the SDK")

    with pytest.raises(LookupError) as caught:
        stepwire.codec.decode_call(Payload(b"[[],{}]"), Boom())  # type: ignore[arg-type]
    failure = failure_from_exception(caught.value)
    assert "in __hash__" in failure.traceback
    assert "stepwire/codec.py" not in failure.traceback


def test_long_and_invalid_text_is_cut_in_the_middle_and_made_valid() -> None:
    failure = failure_from_exception(raised(ValueError("begin" + "é\ud800" * 20_000 + "end")))
    assert failure.message.startswith("begin")
    assert failure.message.endswith("end")
    assert "bytes cut" in failure.message
    assert len(failure.message.encode()) <= errors.MESSAGE_BYTES_MAX
    assert len(failure.traceback.encode()) <= TRACEBACK_BYTES_MAX
    assert failure_from_exception(ValueError("a\ud800b")).message == "a\\ud800b"

    lines = [f"def f{i}(): f{i + 1}()" for i in range(900)]
    functions: dict[str, Any] = {}
    exec("\n".join([*lines, "def f900(): 1 / 0"]), functions)
    with pytest.raises(ZeroDivisionError) as caught:
        functions["f0"]()
    text = failure_from_exception(caught.value).traceback
    assert len(text.encode()) <= TRACEBACK_BYTES_MAX
    assert "in f0" in text
    assert "in f900" in text
    assert "bytes cut" in text


def test_an_exception_whose_text_cannot_be_read() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert failure_from_exception(Broken()).message == "<Broken whose text cannot be read>"


def causes(failure: Failure | None) -> list[str]:
    found = []
    while failure is not None:
        found.append(failure.type)
        failure = failure.cause
    return found


def test_cause_chains() -> None:
    explicit = ValueError("outer")
    explicit.__cause__ = KeyError("inner")
    assert causes(failure_from_exception(explicit)) == ["ValueError", "KeyError"]

    implicit = ValueError("outer")
    implicit.__context__ = KeyError("inner")
    assert causes(failure_from_exception(implicit)) == ["ValueError", "KeyError"]
    implicit.__suppress_context__ = True
    assert causes(failure_from_exception(implicit)) == ["ValueError"]

    endless = ValueError("a")
    endless.__cause__ = TypeError("b")
    endless.__cause__.__cause__ = endless
    assert len(causes(failure_from_exception(endless))) == 1 + CAUSE_DEPTH_MAX


def test_chains_that_contain_failures_stay_within_the_depth() -> None:
    chain = FAILURE
    for _ in range(20):
        chain = Failure(ErrorCode.USER_ERROR, "ValueError", "x", cause=chain)
    outer = RuntimeError("outer")
    outer.__cause__ = StepError(chain)
    assert len(causes(failure_from_exception(outer))) == 1 + CAUSE_DEPTH_MAX
    assert len(causes(failure_from_exception(RunFailed(chain)))) == 1 + CAUSE_DEPTH_MAX
    assert len(causes(GroupFailed(failures=[chain]).failure)) == 1 + CAUSE_DEPTH_MAX


def test_an_exception_group_shows_its_first_member() -> None:
    async def flow() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    async def fail() -> None:
        raise StepError(FAILURE, "charge")

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(flow())
    assert causes(failure_from_exception(caught.value)) == ["ExceptionGroup", "ValueError"]


def test_a_step_error_that_leaves_the_flow_keeps_its_failure() -> None:
    failure = Failure(ErrorCode.TIMEOUT, "TimeoutError", "too slow", "remote stack", cause=FAILURE)
    error = raised(error_from_failure(failure, "a"))
    assert failure_from_exception(error) == failure


def test_what_users_raise_decides_on_retries() -> None:
    class CardDeclined(NonRetryable):
        """The card was declined."""

    declined = failure_from_exception(CardDeclined())
    assert (declined.type, declined.message, declined.retryable) == (
        "CardDeclined",
        "The card was declined",
        Retryable.NO,
    )
    for delay in (30, 30.0, timedelta(seconds=30)):
        busy = failure_from_exception(RetryAfter(delay, "busy"))
        assert (busy.retryable, busy.retry_after, busy.message) == (Retryable.YES, 30.0, "busy")
    at = datetime.now(UTC) + timedelta(hours=1)
    assert 3590 < RetryAfter(at).seconds <= 3600
    assert RetryAfter(datetime(2020, 1, 1, tzinfo=UTC)).seconds == 0


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), timedelta(days=367), datetime(2026, 1, 1)])
def test_retry_after_refuses_impossible_delays(delay: float) -> None:
    with pytest.raises(ValueError, match=r"0\.\.366 days|time zone"):
        RetryAfter(delay)


def test_failures_become_errors_by_code() -> None:
    error = error_from_failure(
        Failure(ErrorCode.TIMEOUT, "TimeoutError", "10 s passed", cause=FAILURE), "parallel/[0]/charge"
    )
    assert type(error) is StepTimeout
    assert (error.type, error.message, error.path) == ("TimeoutError", "10 s passed", "parallel/[0]/charge")
    assert error.cause == FAILURE
    assert isinstance(error.__cause__, StepError)
    assert str(error).startswith("step 'parallel/[0]/charge': 10 s passed\n  next: ")
    plain = error_from_failure(FAILURE, "charge")
    assert type(plain) is StepError
    assert str(plain).startswith("step 'charge' failed with ValueError: bad card\n")
    poison = error_from_failure(Failure(ErrorCode.POISON_STEP, "PoisonStep", "lost 20 hosts"), "x")
    assert (type(poison), poison.code) == (StepError, ErrorCode.POISON_STEP)


@pytest.mark.parametrize("cls", [cls for cls in PUBLIC if issubclass(cls, StepError)])
def test_every_step_error_comes_back_as_itself(cls: type[StepError]) -> None:
    error = cls("text", "a/b")
    back = error_from_failure(failure_from_exception(error), "a/b")
    assert type(back) is cls
    assert str(back) == str(error)


def test_misuse_is_not_retried_but_timeouts_are() -> None:
    assert UnawaitedStep("x").failure.retryable is Retryable.NO
    assert InvalidInput("x").failure.retryable is Retryable.NO
    assert StepTimeout("x").failure.retryable is Retryable.POLICY


def test_group_failed_tells_of_its_branches() -> None:
    error = GroupFailed(path="parallel", results=branches("failed", "completed", "failed"), failures=(FAILURE, FAILURE))
    assert error.message == "2 of 3 branches failed, the first with ValueError: bad card"
    assert error.failure.cause == FAILURE
    assert error.failures == (FAILURE, FAILURE)


def test_non_deterministic_flow_shows_both_sides() -> None:
    error = NonDeterministicFlow(path="b", expected="step 'a'", received="step 'b'")
    assert "replay expected step 'a', the flow decided step 'b'" in str(error)


def test_body_evicted_passes_except_exception() -> None:
    assert not issubclass(BodyEvicted, Exception)
    assert "bare `except:`" in str(BodyEvicted("r1"))
