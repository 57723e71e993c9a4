"""How long a body that replays may make no progress, and what is said when it was longer (DESIGN 5).

Replay goes by the journal, but user code may wait for clocks of its own, which nobody can wind forward. Nothing here
keeps time: it only says how much of it is enough.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stepwire.protocol.failure import ErrorCode, Failure, Retryable

if TYPE_CHECKING:
    from stepwire._runtime.body import LiveBody


OWN_LIMIT_SECONDS_MAX = 3600.0
"""Longest time limit of a flow's own that may pass again in replay. A flow that lost it waits as long to be found."""


def patience(body: LiveBody, stall_timeout: float) -> float:
    """Seconds without progress that prove that user code does something else than it did before.

    If it gave up on a step, a time limit of its own (`asyncio.timeout`) may have to pass again. The first time, that
    took no longer than until the next release, or until now; more than OWN_LIMIT_SECONDS_MAX is not waited for.
    """
    if not body.journal.abandonment_due:
        return stall_timeout
    following = body.journal.undelivered
    # The present time only bounds how long is waited; nothing is decided upon it.
    until_ms = following[0].released_at_ms if following else int(time.time() * 1000)  # noqa: TID251
    return stall_timeout + min(max(0.0, (until_ms - body.now_ms) / 1000), OWN_LIMIT_SECONDS_MAX)


def stalled(body: LiveBody, seconds: float) -> Failure:
    """Why the run is paused."""
    message = f"replay made no progress for {seconds:.3g} s of user code; expected {body.journal.missing()}"
    return Failure(ErrorCode.BODY_STALLED, "BodyStalled", message, retryable=Retryable.NO)
