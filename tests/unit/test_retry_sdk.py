"""Policies and durations as users write them (MISSION S3, O4)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from stepwire.errors import ConfigurationError
from stepwire.protocol.plan import Backoff, RetryPolicy
from stepwire.retry import Retry, duration, retry_policy


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("10s", 10), ("1.5m", 90), ("2h", 7200), ("1d", 86_400), ("1w", 604_800), ("250ms", 0.25), (" 3 s ", 3),
        (0, 0), (2, 2), (0.5, 0.5), (timedelta(minutes=1), 60), ("366d", 366 * 86_400), ("0s", 0),
    ],
)  # fmt: skip
def test_durations(value: Any, seconds: float) -> None:
    assert duration(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "", "10", "s", "10 parsecs", "-1s", "1h30m", "1e3s", "\u0661s", "367d", "9" * 400 + "d", "nan", "10S",
        -1, 1e300, 10**400, float("nan"), float("inf"), True, None, [], timedelta(days=-1), timedelta(days=367),
    ],
    ids=lambda v: str(v)[:12],
)  # fmt: skip
def test_what_is_no_duration_says_what_is(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r'0\.\.366 days.*"1\.5m"') as caught:
        duration(value)
    assert len(str(caught.value)) < 400


def test_retries_are_tries_after_the_first() -> None:
    assert retry_policy(3) == RetryPolicy(max_attempts=4)
    assert retry_policy(0) == RetryPolicy(max_attempts=1)
    assert retry_policy(None) is None
    assert Retry(retries=3).policy == Retry(max_attempts=4).policy
    assert Retry().policy == RetryPolicy()


def test_every_field_reaches_the_policy() -> None:
    retry = Retry(
        retries=5,
        backoff="linear",
        delay="2s",
        factor=3,
        cap="1h",
        jitter=0.5,
        non_retryable=(KeyError, "CardDeclined"),
    )
    assert retry_policy(retry) == RetryPolicy(6, Backoff.LINEAR, 2.0, 3.0, 3600.0, 0.5, ("KeyError", "CardDeclined"))


def test_types_also_forbid_their_subclasses() -> None:
    retry = Retry(non_retryable=OSError)  # type: ignore[arg-type]
    assert retry.forbids(ConnectionResetError())
    assert not retry.forbids(ValueError())
    assert not Retry(non_retryable=("ValueError",)).forbids(ValueError())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"retries": 3, "max_attempts": 4}, "not both"),
        ({"retries": -1}, r"retries is a whole number, 0\.\."),
        ({"retries": True}, "retries is a whole number"),
        ({"max_attempts": 0}, r"max_attempts is a whole number, 1\.\."),
        ({"max_attempts": 1.5}, "max_attempts is a whole number"),
        ({"backoff": "cubic"}, "one of fixed, linear, exponential"),
        ({"backoff": []}, "one of fixed"),
        ({"factor": 0.5}, r"factor is a number, 1\.\."),
        ({"factor": float("nan")}, "factor is a number"),
        ({"jitter": 2}, r"jitter is a number, 0\.\.1"),
        ({"delay": "soon"}, "not a duration: 'soon'"),
        ({"cap": "400d"}, "not a duration: '400d'"),
        ({"non_retryable": (1,)}, "exception types or their names"),
        ({"non_retryable": (int,)}, "exception types or their names"),
    ],
)
def test_bad_policies_are_refused_when_declared(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        Retry(**options)


def test_a_bad_retries_option() -> None:
    with pytest.raises(ConfigurationError, match="retries is a whole number"):
        retry_policy("3")  # type: ignore[arg-type]
