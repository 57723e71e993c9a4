"""What `-o json` prints, as values: the schemas `stepwire.run/v1`, `stepwire.runs/v1`, `stepwire.step/v1`,
`stepwire.event/v1`, `stepwire.log/v1`, `stepwire.logs/v1` and `stepwire.cancelled/v1`.

Scripts depend on these fields; they are only added to. Everything the commands show, the tree included, is drawn
from these values, so that people and scripts see the same facts. Times are the engine's, in UTC; durations are
seconds. States and modes are spelt as everywhere (`SUCCEEDED`, `WAIT`); reasons, kinds and codes are lower case.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from stepwire_engine.cli.terminal import safe_json

RUN_SCHEMA = "stepwire.run/v1"
RUNS_SCHEMA = "stepwire.runs/v1"
STEP_SCHEMA = "stepwire.step/v1"
EVENT_SCHEMA = "stepwire.event/v1"
LOG_SCHEMA = "stepwire.log/v1"
LOGS_SCHEMA = "stepwire.logs/v1"
CANCELLED_SCHEMA = "stepwire.cancelled/v1"
FINAL_STATES = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong, in a flow or an attempt."""

    code: str
    type: str
    message: str
    traceback: str = ""
    cause: Failure | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try at a step; `failure` is null for a success."""

    number: int
    elapsed_seconds: float
    ended_at: datetime | None = None
    host: str = ""
    failure: Failure | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A step; `reason` says why it does not move, `lost` counts tries whose host was lost.

    `name` is the registered step, the event waited for, the flow invoked, the events sent, or the request made.
    `undoes` is the path of the step that it compensates, `due_at` when it goes on by itself. `output` is null and
    `output_redacted_bytes` a number for an output that is not for human eyes.
    """

    path: str
    kind: str
    name: str
    state: str
    reason: str | None = None
    planned_at: datetime | None = None
    ended_at: datetime | None = None
    released_at: datetime | None = None
    duration_seconds: float | None = None
    lost: int = 0
    attempts: tuple[Attempt, ...] = ()
    output: msgspec.Raw | None = None
    undoes: str = ""
    child_run_id: str = ""
    due_at: datetime | None = None
    output_redacted_bytes: int | None = None


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A group; `verdict` is `OK` or `FAILED`, and null while it is open.

    `fail` is `any`, `all`, `never` or `quorum`; `limit` 0 is none. `outcomes` are by branch `OK`, `FAILED`,
    `CANCELLED` or null, and empty while no branch has ended. `expired` says that its deadline passed.
    """

    path: str
    mode: str
    branches: int
    verdict: str | None = None
    fail: str = "any"
    quorum: int = 0
    cancel_siblings: bool = False
    limit: int = 0
    names: tuple[str, ...] = ()
    outcomes: tuple[str | None, ...] = ()
    expired: bool = False


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """How much driving the run took."""

    advances: int = 0
    executes: int = 0
    host_starts: int = 0
    body_entries: int = 0
    plans: int = 0
    releases: int = 0


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A run as lists show it; `id` is the idempotency key it was started with."""

    schema: str = RUN_SCHEMA
    run_id: str
    flow: str
    id: str = ""
    state: str
    reason: str | None = None
    created_at: datetime | None = None
    ended_at: datetime | None = None
    duration_seconds: float | None = None
    failure: Failure | None = None

    @property
    def final(self) -> bool:
        """Nothing about the run changes any more."""
        return self.state in FINAL_STATES


class Run(Listed, frozen=True, kw_only=True):
    """A run with all that is known of it; steps are in order of planning.

    `phase` is `BODY`, `CANCELLING` or `UNDOING`, and null once it has ended; `stopping` is why it will fail. `input`
    and `output` are null where `input_redacted_bytes` and `output_redacted_bytes` are numbers.
    """

    input: msgspec.Raw | None = None
    output: msgspec.Raw | None = None
    stats: Stats = Stats()
    steps: tuple[Step, ...] = ()
    groups: tuple[Group, ...] = ()
    phase: str | None = None
    stopping: Failure | None = None
    parent_run_id: str = ""
    successor_run_id: str = ""
    input_redacted_bytes: int | None = None
    output_redacted_bytes: int | None = None

    @property
    def not_undone(self) -> tuple[Step, ...]:
        """Compensations that failed: the effects of their steps are still there."""
        return tuple(step for step in self.steps if step.undoes and step.state == "FAILED")


class Runs(msgspec.Struct, frozen=True, kw_only=True):
    """Runs, newest first. `complete` is false if the limit left some out."""

    schema: str = RUNS_SCHEMA
    runs: tuple[Listed, ...]
    complete: bool = True


class StepChange(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `stepwire run -o jsonl`: a step as it is after a change."""

    schema: str = STEP_SCHEMA
    run_id: str
    step: Step


class SentEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was accepted."""

    schema: str = EVENT_SCHEMA
    event_id: str
    name: str


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line that a flow or step logged; `number` counts those of the run.

    `step` is empty for the flow's own code, or its branch. Without a logger it says that lines are missing here.
    """

    schema: str = LOG_SCHEMA
    number: int
    at: datetime
    level: str
    level_number: int
    logger: str
    message: str
    step: str = ""
    attempt: int = 0
    host: str = ""


class LogLines(msgspec.Struct, frozen=True, kw_only=True):
    """Lines of a run, oldest first; `dropped` counts those that are missing."""

    schema: str = LOGS_SCHEMA
    run_id: str
    lines: tuple[LogLine, ...]
    dropped: int = 0


class Cancelled(msgspec.Struct, frozen=True, kw_only=True):
    """Runs that were told to end."""

    schema: str = CANCELLED_SCHEMA
    run_ids: tuple[str, ...]


def line(document: msgspec.Struct | Mapping[str, object]) -> str:
    """The document as JSON on one line."""
    # Formatted, because a payload is what a host in any language wrote, line breaks included.
    return _formatted(msgspec.json.encode(document), -1)


def page(document: msgspec.Struct | Mapping[str, object]) -> str:
    """The document as indented JSON."""
    return _formatted(msgspec.json.encode(document), 2)


def value(content: bytes, encoding: str) -> msgspec.Raw:
    """A payload inside a document: JSON as it is, anything else as `{"encoding": ..., "base64": ...}`."""
    if encoding == "json":
        try:
            msgspec.json.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        else:
            return msgspec.Raw(content)
    other = {"encoding": encoding, "base64": base64.b64encode(content).decode()}
    return msgspec.Raw(msgspec.json.encode(other))


def value_text(content: msgspec.Raw | None, redacted_bytes: int | None = None) -> str:
    """A value of a document as indented JSON; `null` if there is none.

    Args:
        redacted_bytes: Of a value that is not for human eyes.
    """
    if redacted_bytes is not None:
        return redacted_text(redacted_bytes)
    return _formatted(bytes(content), 2) if content is not None else "null"


def value_line(content: msgspec.Raw | None, redacted_bytes: int | None = None) -> str:
    """The same on one line; empty if there is none.

    Args:
        redacted_bytes: Of a value that is not for human eyes.
    """
    if redacted_bytes is not None:
        return redacted_text(redacted_bytes)
    return _formatted(bytes(content), 0) if content is not None else ""


def redacted_text(size: int) -> str:
    """What stands for a value of `size` bytes that is not for human eyes."""
    return f"(redacted, {size} bytes)"


def _formatted(json: bytes, indent: int) -> str:
    return safe_json(msgspec.json.format(json, indent=indent).decode())


def moment(unix_ms: int | None) -> datetime | None:
    """A time of the record, from milliseconds since the Unix epoch; 0 and None mean: not yet."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC) if unix_ms else None


def seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    """How long it took; None while one of both is unknown."""
    return round((end - start).total_seconds(), 6) if start and end else None
