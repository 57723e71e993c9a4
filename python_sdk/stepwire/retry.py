"""Retry policies and durations as users write them; the engine does the arithmetic (MISSION S3, O4).

Pure: no clock, no random numbers. Everything is checked when it is declared, never in the middle of a run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from stepwire.errors import ConfigurationError
from stepwire.protocol.plan import DEFAULT_RETRY, Backoff, RetryPolicy

Duration = str | int | float | timedelta
BackoffName = Literal["fixed", "linear", "exponential"]

DURATION_SECONDS_MAX = 366 * 86_400.0
ATTEMPTS_MAX = 1_000_000
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|w)", re.ASCII)
_ALLOWED = (
    'a duration is 0..366 days: seconds as a number, a timedelta, or text like "250ms", "10s", "1.5m", "2h", "1d", "1w"'
)


def duration(value: Duration) -> float:
    """Seconds of a duration as users write it.

    Args:
        value: A number of seconds, a timedelta, or a number with one unit: ms, s, m, h, d, w.

    Raises:
        ConfigurationError: anything else, or outside 0..366 days.
    """
    match value:
        case bool():
            raise _bad_duration(value)
        case int() | float():
            seconds = _as_float(value)
        case timedelta():
            seconds = value.total_seconds()
        case str():
            found = _DURATION.fullmatch(value.strip())
            if found is None:
                raise _bad_duration(value)
            seconds = float(found[1]) * _UNITS[found[2]]
        case _:
            raise _bad_duration(value)
    if not 0 <= seconds <= DURATION_SECONDS_MAX:
        raise _bad_duration(value)
    return seconds


def deadline_of(value: Duration) -> float:
    """Seconds of a deadline, which are more than none.

    Raises:
        ConfigurationError: as `duration`, or zero.
    """
    seconds = duration(value)
    if not seconds:
        raise ConfigurationError("a deadline of 0 leaves no time", hint="leave it out for no deadline")
    return seconds


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _bad_duration(value: object) -> ConfigurationError:
    text = repr(value) if isinstance(value, str | float | timedelta) else type(value).__name__
    return ConfigurationError(f"not a duration: {text[:80]}", why=_ALLOWED, hint="correct the value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """How often and when a failed step is tried again.

    The n-th retry waits `delay` (fixed), `delay * n` (linear) or `delay * factor ** (n - 1)` (exponential),
    at most `cap`, plus a random share of up to `jitter` of it.

    Args:
        max_attempts: All tries, the first included, at least 1. Give this or `retries`, not both; default 4.
        retries: Tries after the first, at least 0.
        backoff: "fixed", "linear" or "exponential".
        delay: Before the first retry, 0..366 days.
        factor: Growth for exponential, at least 1.
        cap: Longest delay before jitter, 0..366 days; None: 60 s, or `delay` if that is longer.
        jitter: Share of the delay, 0..1.
        non_retryable: Exception types (subclasses count) or type names that end the step at once.

    Raises:
        ConfigurationError: a value outside its bounds.
    """

    max_attempts: int | None = None
    retries: int | None = None
    backoff: BackoffName = "exponential"
    delay: Duration = DEFAULT_RETRY.delay
    factor: float = DEFAULT_RETRY.factor
    cap: Duration | None = None
    jitter: float = DEFAULT_RETRY.jitter
    non_retryable: Iterable[type[BaseException] | str] = ()
    policy: RetryPolicy = field(init=False, repr=False, compare=False)
    """The same as the protocol says it."""
    _types: tuple[type[BaseException], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        non_retryable = _members(self.non_retryable)
        delay = duration(self.delay)
        policy = RetryPolicy(
            max_attempts=_attempts(self.max_attempts, self.retries),
            backoff=_backoff(self.backoff),
            delay=delay,
            factor=_number("factor", self.factor, 1.0, 1000.0),
            cap=max(DEFAULT_RETRY.cap, delay) if self.cap is None else duration(self.cap),
            jitter=_number("jitter", self.jitter, 0.0, 1.0),
            non_retryable_types=tuple(t if isinstance(t, str) else t.__name__ for t in non_retryable),
        )
        object.__setattr__(self, "non_retryable", non_retryable)
        object.__setattr__(self, "policy", policy)
        object.__setattr__(self, "_types", tuple(t for t in non_retryable if not isinstance(t, str)))

    def forbids(self, exc: BaseException) -> bool:
        """Whether `exc` is one of the non-retryable types or a subclass, which a name alone cannot tell."""
        return isinstance(exc, self._types)


def retry_policy(value: Retry | int | None) -> RetryPolicy | None:
    """The policy of a `retries=` option: a count of retries, a Retry, or None for the engine's default."""
    match value:
        case None:
            return None
        case Retry():
            return value.policy
        case _:
            return Retry(retries=value).policy


def _attempts(max_attempts: int | None, retries: int | None) -> int:
    if max_attempts is not None and retries is not None:
        raise ConfigurationError("give max_attempts or retries, not both", why="max_attempts = retries + 1")
    if max_attempts is not None:
        return _count("max_attempts", max_attempts, 1)
    if retries is not None:
        return _count("retries", retries, 0) + 1
    return DEFAULT_RETRY.max_attempts


def _count(name: str, value: object, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value < ATTEMPTS_MAX:
        raise ConfigurationError(f"{name} is a whole number, {low}..{ATTEMPTS_MAX - 1}, not {value!r}")
    return value


def _number(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigurationError(f"{name} is a number, {low:g}..{high:g}, not {value!r}")
    return float(value)


def _backoff(name: str) -> Backoff:
    try:
        return _BACKOFFS[name]
    except (KeyError, TypeError):
        raise ConfigurationError(f"backoff is one of {', '.join(_BACKOFFS)}, not {name!r}") from None


_BACKOFFS = {"fixed": Backoff.FIXED, "linear": Backoff.LINEAR, "exponential": Backoff.EXPONENTIAL}


def _members(non_retryable: Iterable[type[BaseException] | str]) -> tuple[type[BaseException] | str, ...]:
    given = (non_retryable,) if isinstance(non_retryable, str | type) else tuple(non_retryable)
    members: tuple[object, ...] = given
    for member in members:
        if not isinstance(member, str) and not (isinstance(member, type) and issubclass(member, BaseException)):
            raise ConfigurationError(f"non_retryable takes exception types or their names, not {member!r}")
    return given
