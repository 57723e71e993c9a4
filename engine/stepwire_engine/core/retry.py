"""Retry arithmetic (MISSION S3, O4): whether and when a failed step is tried again. Chance is an argument."""

from __future__ import annotations

import zlib

from stepwire.protocol.failure import Failure, Retryable
from stepwire.protocol.plan import Backoff, RetryPolicy


def retry_delay(policy: RetryPolicy, failure: Failure, attempt: int, chance: float) -> float | None:
    """Seconds until the next attempt, or None if there is none.

    Args:
        policy: The step's policy.
        failure: How attempt number `attempt` (from 1) failed.
        attempt: The attempt that failed.
        chance: A number in [0, 1) for the jitter.
    """
    if attempt >= policy.max_attempts or failure.retryable is Retryable.NO:
        return None
    if failure.retryable is not Retryable.YES and failure.type in policy.non_retryable_types:
        return None
    delay = backoff_delay(policy, attempt)
    delay += delay * policy.jitter * chance
    return max(delay, failure.retry_after or 0.0)


def backoff_delay(policy: RetryPolicy, retry: int) -> float:
    """Seconds before retry number `retry` (1 follows the first attempt), capped, before jitter."""
    match policy.backoff:
        case Backoff.FIXED:
            delay = policy.delay
        case Backoff.LINEAR:
            delay = policy.delay * retry
        case Backoff.EXPONENTIAL:
            # 2.0 ** 1024 overflows; beyond 64 doublings every cap is reached.
            delay = policy.delay * policy.factor ** min(retry - 1, 64)
    return min(delay, policy.cap)


def jitter_chance(seed: int, path: str, attempt: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments, so that replayed decisions are equal."""
    digest = zlib.crc32(f"{seed}/{path}/{attempt}".encode())
    return digest / 2**32
