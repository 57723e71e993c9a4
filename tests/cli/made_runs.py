"""Runs as documents, made by hand: every state, groups, branches, retries, compensation, waiting, hostile names."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec

from stepwire_engine.cli.documents import Attempt, Failure, Group, Run, Stats, Step, moment

_found = moment(1_767_225_600_000)
assert _found is not None
CREATED: datetime = _found
NOW = CREATED + timedelta(seconds=5)
BAD = Failure(code="user_error", type="ValueError", message="no\nstock", traceback="Traceback:\n  somewhere\n")


def succeeded(path: str, seconds: float = 0.041, **more: Any) -> Step:
    attempts = (Attempt(number=1, elapsed_seconds=seconds, ended_at=CREATED, host="orders"),)
    step = Step(
        path=path, kind="run", name=path.rpartition("/")[2], state="SUCCEEDED", planned_at=CREATED,
        ended_at=CREATED + timedelta(seconds=seconds), duration_seconds=seconds, attempts=attempts,
        output=msgspec.Raw(b'"ok"'),
    )  # fmt: skip
    return msgspec.structs.replace(step, **more)


def unfinished(path: str, state: str, reason: str | None = None, **more: Any) -> Step:
    values: dict[str, Any] = {"kind": "run", "name": path.rpartition("/")[2], "planned_at": CREATED}
    return Step(path=path, state=state, reason=reason, **values | more)


def cancelled(path: str, **more: Any) -> Step:
    """Cancelled after a second."""
    ended_at = CREATED + timedelta(seconds=1)
    return unfinished(path, "CANCELLED", ended_at=ended_at, duration_seconds=1.0, **more)


def run_of(*steps: Step, groups: tuple[Group, ...] = (), **more: Any) -> Run:
    values: dict[str, Any] = {
        "run_id": "01kdw0", "flow": "checkout", "id": "order-17", "state": "RUNNING", "created_at": CREATED,
        "input": msgspec.Raw(b'{"sku": "A1"}'), "steps": steps, "groups": groups,
        "stats": Stats(advances=3, executes=1, host_starts=4, body_entries=1, plans=3, releases=2),
    }  # fmt: skip
    return Run(**values | more)


def undo(path: str, *, failed: bool = False) -> Step:
    """The compensation of the step at `path`."""
    done = succeeded(f"{path}#undo", 0.01, undoes=path, output=None)
    if not failed:
        return done
    attempt = msgspec.structs.replace(done.attempts[0], failure=BAD)
    return msgspec.structs.replace(done, state="FAILED", attempts=(attempt,))


def compensated() -> Run:
    """A run that failed and could undo only one of two steps."""
    return run_of(
        succeeded("reserve"),
        succeeded("parallel/[0]/charge", 0.12),
        unfinished("parallel/[1]/label", "FAILED", ended_at=NOW, duration_seconds=5.0),
        undo("parallel/[0]/charge"),
        undo("reserve", failed=True),
        groups=(Group(path="parallel", mode="WAIT", branches=2, verdict="FAILED", outcomes=("OK", "FAILED")),),
        state="FAILED", ended_at=NOW, duration_seconds=5.0, failure=BAD,
    )  # fmt: skip


def checkout() -> Run:
    """A run in the middle: a group with a finished and an executing branch, a retry, a step that waits."""
    failed = Attempt(number=1, elapsed_seconds=0.02, ended_at=CREATED, host="orders", failure=BAD)
    return run_of(
        succeeded("reserve"),
        succeeded("parallel/[0]/charge", 0.12),
        unfinished("parallel/[1]/label", "RUNNING", "lease_of_host"),
        unfinished("notify", "BACKOFF", "backoff_until", attempts=(failed,), lost=1),
        unfinished("ship", "PENDING", "no_host"),
        groups=(Group(path="parallel", mode="WAIT", branches=2),),
    )
