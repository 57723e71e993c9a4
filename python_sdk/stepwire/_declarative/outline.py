"""What a declared flow says of itself, for `flow.show()` and tools: above all when each group fails (MISSION O13)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from stepwire._declarative.group import Group
from stepwire._declarative.step import Step
from stepwire.flow import StepFunction
from stepwire.protocol.plan import DEFAULT_RETRY, RetryPolicy
from stepwire.retry import retry_policy


def outline(name: str, items: Sequence[Step | Group]) -> dict[str, Any]:
    """The flow as JSON; durations in seconds, null: no limit."""
    return {"name": name, "items": [_group(item) if isinstance(item, Group) else _step(item) for item in items]}


def shown(name: str, items: Sequence[Step | Group]) -> str:
    """The flow as text."""
    return "\n".join([f"flow {name}", *_lines(items)])


def _lines(items: Sequence[Step | Group]) -> Iterator[str]:
    width = len(str(len(items)))
    for number, item in enumerate(items, 1):
        match item:
            case Step():
                yield f"  {number:>{width}}. {item.name}: {_policies(item)}"
            case Group():
                yield f"  {number:>{width}}. {item.name}: {item.policy}"
                for member in item.steps:
                    yield f"  {'':{width}}    - {member.name}: {_policies(member)}"


def _policies(step: Step) -> str:
    retry = _retry(step)
    parts = [
        "no retries" if retry.max_attempts == 1 else f"up to {retry.max_attempts} attempts, {_delay(retry)}",
        *([] if step.timeout is None else [f"timeout {step.timeout:g} s each"]),
        *([] if step.deadline is None else [f"deadline {step.deadline:g} s"]),
        *([] if step.compensate is None else ["compensated"]),
        *([] if not step.redacted else [f"redacted {', '.join(_redacted(step))}"]),
        *([] if not step.needs else [f"needs {', '.join(step.needs)}"]),
    ]
    return "; ".join(parts)


def _redacted(step: Step) -> list[str]:
    return [] if step.redacted is None else [str(part.name).lower() for part in step.redacted]


def _delay(retry: RetryPolicy) -> str:
    return f"{retry.backoff.name.lower()} delay from {retry.delay:g} s"


def _retry(step: Step) -> RetryPolicy:
    own = step.fn.retry if isinstance(step.fn, StepFunction) and step.retries is None else retry_policy(step.retries)
    return own or DEFAULT_RETRY


def _step(step: Step) -> dict[str, Any]:
    retry = _retry(step)
    return {
        "step": step.name,
        "retries": retry.max_attempts - 1,
        "retry_delay": retry.delay,
        "backoff": retry.backoff.name.lower(),
        "jitter": retry.jitter,
        "max_retry_delay": retry.cap,
        "timeout": step.timeout,
        "deadline": step.deadline,
        "compensated": step.compensate is not None,
        "redacted": _redacted(step),
        "needs": list(step.needs),
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "group": group.name,
        "fail": group.fail,
        "quorum": group.quorum,
        "policy": group.policy,
        "cancel_siblings": group.cancel_siblings,
        "limit": group.limit,
        "deadline": group.deadline,
        "steps": [_step(step) for step in group.steps],
    }
