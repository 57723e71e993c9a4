"""The commands' way to an engine: the public client, with its records turned into documents."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from stepwire import client
from stepwire.protocol import failure as protocol
from stepwire.protocol.payload import Payload
from stepwire_engine.cli import documents
from stepwire_engine.cli.documents import seconds_between


@contextmanager
def connect(address: str) -> Iterator[Connection]:
    """A connection for one command. Nothing is dialled before its first call."""
    with client.ClientSync(address) as opened:
        yield Connection(opened)


class Connection:
    """What the commands ask of an engine. Every method raises StepwireError."""

    def __init__(self, opened: client.ClientSync) -> None:
        self._client = opened

    def start(self, flow: str, value: Any, key: str) -> tuple[str, bool]:
        """Start a run; its id, and whether it was there already."""
        handle = self._client.start(flow, value, id=key)
        return handle.run_id, handle.existing

    def watch(self, run_id: str) -> Iterator[documents.Run]:
        """The run now and after each change, until its terminal state; an engine that restarts is waited for.

        A run that restarted itself is followed by its successors.
        """
        return map(run_document, self._client.watch(run_id, steps=True, follow=True))

    def get(self, run_id: str) -> documents.Run:
        """The run now, with its steps."""
        return run_document(self._client.get(run_id, steps=True))

    def explain(self, run_id: str) -> client.Explanation:
        """Why the run does not move now."""
        return self._client.explain(run_id)

    def list(self, flow: str, states: Sequence[str], limit: int) -> tuple[tuple[documents.Listed, ...], bool]:
        """The newest runs without their steps, and whether these are all."""
        found = list(itertools.islice(self._client.list(flow=flow, states=states, limit=limit + 1), limit + 1))
        return tuple(map(listed_document, found[:limit])), len(found) <= limit

    def logs(
        self, run_id: str, path: str, attempt: int, level_min: int, after: int
    ) -> tuple[Sequence[documents.LogLine], int, int]:
        """Log lines up to the newest, what to give as `after` next, and how many lines of the run are missing."""
        lines = self._client.logs(run_id, path=path, attempt=attempt, level=level_min, after=after)
        return [log_document(line) for line in lines], lines.next, lines.dropped

    def has_ended(self, run_id: str) -> bool:
        """Whether the run is over."""
        return self._client.get(run_id).state.value in documents.FINAL_STATES

    def resume(self, run_id: str) -> None:
        """Let a paused run go on."""
        self._client.resume(run_id)

    def cancel(self, run_id: str, undo: bool | None) -> None:
        """Cancel a run; `undo` None: as its flow says."""
        self._client.cancel(run_id, undo=undo)

    def cancel_all(self, flow: str, undo: bool | None) -> tuple[str, ...]:
        """Cancel the open runs of a flow; their ids."""
        return self._client.cancel_all(flow=flow, undo=undo)

    def send(self, name: str, value: Any, event_id: str, at: datetime | None) -> str:
        """Send an event; its id."""
        return self._client.send(name, value, id=event_id, at=at)


def run_document(run: client.Run) -> documents.Run:
    """A record with its steps."""
    return documents.Run(
        **_facts(run),
        input=_value(run.input_payload),
        output=_value(run.output_payload),
        input_redacted_bytes=run.input_redacted.size if run.input_redacted else None,
        output_redacted_bytes=run.output_redacted.size if run.output_redacted else None,
        stats=documents.Stats(**{name: getattr(run.stats, name) for name in documents.Stats.__struct_fields__}),
        steps=tuple(map(_step, run.steps)),
        groups=tuple(map(_group, run.groups)),
        phase=run.phase.value if run.phase else None,
        stopping=_failure(run.stopping) if run.stopping is not None else None,
        parent_run_id=run.parent_run_id,
        successor_run_id=run.successor_run_id,
    )


def listed_document(run: client.Run) -> documents.Listed:
    """A record as lists have it."""
    return documents.Listed(**_facts(run))


def log_document(line: client.LoggedLine) -> documents.LogLine:
    """A log line."""
    return documents.LogLine(
        number=line.number,
        at=line.at,
        level=line.level_name.lower(),
        level_number=line.level,
        logger=line.logger,
        message=line.message,
        step=line.path,
        attempt=line.attempt,
        host=line.host,
    )


def _facts(run: client.Run) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "flow": run.flow,
        "id": run.id,
        "state": run.state.value,
        "reason": run.reason.value if run.reason else None,
        "created_at": run.created_at,
        "ended_at": run.ended_at,
        "duration_seconds": seconds_between(run.created_at, run.ended_at),
        "failure": _failure(run.failure) if run.failure is not None else None,
    }


def _step(step: client.StepRecord) -> documents.Step:
    return documents.Step(
        path=step.path,
        kind=step.kind,
        name=step.name,
        state=step.state.value,
        reason=step.reason.value if step.reason else None,
        planned_at=step.planned_at,
        ended_at=step.ended_at,
        released_at=step.released_at,
        duration_seconds=seconds_between(step.planned_at, step.ended_at),
        lost=step.lost,
        attempts=tuple(map(_attempt, step.attempts)),
        output=_value(step.output_payload),
        output_redacted_bytes=step.output_redacted.size if step.output_redacted else None,
        undoes=step.undoes,
        child_run_id=step.child_run_id,
        due_at=step.due_at,
    )


def _group(group: client.GroupRecord) -> documents.Group:
    return documents.Group(**{name: getattr(group, name) for name in documents.Group.__struct_fields__})


def _attempt(attempt: client.AttemptRecord) -> documents.Attempt:
    return documents.Attempt(
        number=attempt.number,
        elapsed_seconds=round(attempt.elapsed, 6),
        ended_at=attempt.ended_at,
        host=attempt.host,
        failure=_failure(attempt.failure) if attempt.failure is not None else None,
    )


def _failure(failure: protocol.Failure) -> documents.Failure:
    return documents.Failure(
        code=failure.code.slug,
        type=failure.type,
        message=failure.message,
        traceback=failure.traceback,
        cause=_failure(failure.cause) if failure.cause is not None else None,
    )


def _value(payload: Payload | None) -> Any:
    return documents.value(payload.data, payload.encoding) if payload is not None else None
