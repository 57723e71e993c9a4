"""A run drawn as a tree of its steps, and as lines of what changed. Pure: values to text.

A state is always shown by a sign and, unless all is well, by its word, never by colour alone. Lines may hold
colours of `click.style`; whoever prints them removes them where they are not wanted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import click

from stepwire_engine.cli.documents import Failure, Group, Run, Step, seconds_between
from stepwire_engine.cli.terminal import printable

SIGNS = {
    "PENDING": ("○", "bright_black"),
    "RUNNING": ("●", "cyan"),
    "WAITING": ("◌", "blue"),
    "PAUSED": ("‖", "yellow"),
    "BACKOFF": ("↻", "yellow"),
    "SUCCEEDED": ("✔", "green"),
    "FAILED": ("✘", "red"),
    "CANCELLED": ("⊘", "bright_black"),
}
REASONS = {
    "no_host": "no connected host serves it",
    "no_slot": "every host that serves it is busy",
    "backoff_until": "waits for its next attempt",
    "sleeping_until": "sleeps",
    "event": "waits for an event",
    "sibling_in_wave": "its wave waits for another branch",
    "group_limit": "the limit of its group is reached",
    "limit_key": "the limit of its key is reached",
    "paused": "stopped until somebody decides (stepwire runs resume RUN)",
    "lease_of_host": "executing on a host",
    "user_code": "code of the flow between steps is running",
    "adoption": "the engine restarted and waits for hosts that may be executing it",
}
_UNREMARKABLE = frozenset({"lease_of_host", "user_code"})
_MESSAGE_COLUMNS_MAX = 160


def run_title(run: Run, now: datetime) -> str:
    """One line about the run as a whole."""
    parts = [f"run {run.run_id}", printable(run.flow), run.state, *_timing(run.duration_seconds, run.created_at, now)]
    if run.reason and not run.final and run.reason not in _UNREMARKABLE:
        parts.append(explained(run.reason))
    return f"{_sign(run.state)} {'  '.join(parts)}"


def tree_lines(run: Run, now: datetime, *, siblings_max: int | None = None) -> list[str]:
    """The run's title and a line for each group and step.

    Args:
        now: For the durations of what has not ended.
        siblings_max: Shows at most so many members of one scope, those that have not succeeded first, and sums
            up the rest; None shows all.
    """
    rows = list(_rows(_scope(run), "", siblings_max))
    width = max((len(row.lead) + len(row.label) for row in rows), default=0)
    return [run_title(run, now), *(_drawn(row, width, now) for row in rows)]


def change_line(step: Step, clock: str, now: datetime) -> str:
    """What a step's change looks like where there is no terminal: time, path, state, attempt, duration.

    Args:
        clock: Time of day to show.
    """
    attempts = len(step.attempts) + (step.state == "RUNNING")
    parts = [clock, printable(step.path), step.state, f"attempt {max(1, attempts)}"]
    if step.ended_at:
        parts += _timing(step.duration_seconds, step.planned_at, now)
    return "  ".join(parts + _remarks(step))


def changed_steps(before: Run | None, after: Run) -> list[Step]:
    """The steps of `after` that are new or have moved since `before`, in order of planning."""
    known = {step.path: _progress(step) for step in before.steps} if before else {}
    return [step for step in after.steps if known.get(step.path) != _progress(step)]


def explained(reason: str) -> str:
    """A reason for waiting, as code and words."""
    return f"{reason}: {REASONS[reason]}" if reason in REASONS else printable(reason)


def duration_text(seconds: float) -> str:
    """A duration in at most six characters, e.g. 41ms, 1.24s, 2m03s, 3h20m, 4d05h."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.2f}s" if seconds < 9.995 else f"{seconds:.1f}s"
    whole = round(seconds)
    days, hours = ("d", "h", 86_400, 3_600), ("h", "m", 3_600, 60)
    large, small, large_s, small_s = days if whole >= 86_400 else hours if whole >= 3_600 else ("m", "s", 60, 1)
    return f"{whole // large_s}{large}{whole % large_s // small_s:02d}{small}"


# ---- from paths to rows


@dataclass(slots=True)
class _Node:
    """One segment of a path: a scope, a group, a step, or a step that is a scope as well."""

    segment: str
    step: Step | None = None
    group: Group | None = None
    members: dict[str, _Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Row:
    lead: str
    label: str
    step: Step | None = None
    group: Group | None = None


def _scope(run: Run) -> _Node:
    root = _Node("")
    for group in run.groups:
        _at(root, group.path).group = group
    for step in run.steps:
        _at(root, step.path).step = step
    return _in_order(root, {step.path: i for i, step in enumerate(run.steps)}, "")[1]


def _at(root: _Node, path: str) -> _Node:
    node = root
    for segment in path.split("/"):
        node = node.members.setdefault(segment, _Node(segment))
    return node


def _in_order(node: _Node, planned: dict[str, int], path: str) -> tuple[int, _Node]:
    """Sort members by the step planned first in them; branches of a group by their index."""
    ranked = []
    for segment, member in node.members.items():
        first, _ = _in_order(member, planned, f"{path}/{segment}" if path else segment)
        index = int(segment[1:-1]) if node.group and segment.startswith("[") else first
        ranked.append((index, first, segment, member))
    ranked.sort(key=lambda rank: rank[:2])
    node.members = {segment: member for _, _, segment, member in ranked}
    own = planned.get(path, len(planned))
    return min([own, *(first for _, first, _, _ in ranked)]), node


def _rows(node: _Node, lead: str, siblings_max: int | None) -> Iterator[_Row]:
    shown, folded = _folded(list(node.members.values()), siblings_max)
    for i, member in enumerate(shown):
        last = i == len(shown) - 1 and not folded
        label, member = _merged(member)
        yield _Row(lead + ("└─ " if last else "├─ "), label, member.step, member.group)
        yield from _rows(member, lead + ("   " if last else "│  "), siblings_max)
    if folded:
        states = Counter(state for member in folded for state in _states(member))
        sums = ", ".join(f"{n} {state}" for state, n in states.items())
        yield _Row(lead + "└─ ", f"{len(folded)} more: {sums}")


def _folded(members: list[_Node], siblings_max: int | None) -> tuple[list[_Node], list[_Node]]:
    if siblings_max is None or len(members) <= siblings_max:
        return members, []
    interesting = sorted(range(len(members)), key=lambda i: (set(_states(members[i])) <= {"SUCCEEDED", "PENDING"}, i))
    kept = set(interesting[: siblings_max - 1])
    shown = [member for i, member in enumerate(members) if i in kept]
    return shown, [member for i, member in enumerate(members) if i not in kept]


def _states(node: _Node) -> Iterator[str]:
    if node.step is not None:
        yield node.step.state
    for member in node.members.values():
        yield from _states(member)


def _merged(node: _Node) -> tuple[str, _Node]:
    """A branch of a single step takes one row together with it."""
    label = printable(node.segment)
    if node.segment.startswith("[") and node.step is None and len(node.members) == 1:
        (only,) = node.members.values()
        if only.step is not None and not only.members:
            return f"{label} {printable(only.segment)}", only
    return label, node


# ---- from rows to lines


def _drawn(row: _Row, width: int, now: datetime) -> str:
    padding = " " * (width - len(row.lead) - len(row.label))
    lead = click.style(row.lead, dim=True)
    if row.step is not None:
        return f"{lead}{_sign(row.step.state)} {row.label}{padding}  {_step_text(row.step, now)}".rstrip()
    if row.group is not None:
        return f"{lead}{_group_sign(row.group)} {row.label}{padding}  {row.group.mode}, {row.group.branches} branches"
    return f"{lead}{click.style('·', dim=True)} {row.label}"


def _group_sign(group: Group) -> str:
    return _sign({"OK": "SUCCEEDED", "FAILED": "FAILED"}.get(group.verdict or "", "RUNNING"))


def _sign(state: str) -> str:
    sign, colour = SIGNS.get(state, ("?", "white"))
    return click.style(sign, fg=colour)


def _step_text(step: Step, now: datetime) -> str:
    parts = [f"{text:>6}" for text in _timing(step.duration_seconds, step.planned_at, now)]
    if step.state != "SUCCEEDED":
        parts.append(step.state)
    if len(step.attempts) > 1:
        parts.append(f"{len(step.attempts)} attempts")
    if step.attempts and step.attempts[-1].host:
        parts.append(f"on {printable(step.attempts[-1].host)}")
    return "  ".join(parts + _remarks(step))


def _remarks(step: Step) -> list[str]:
    remarks = [f"host lost {step.lost} times" if step.lost > 1 else "host lost once"] if step.lost else []
    if step.reason and step.reason not in _UNREMARKABLE and step.ended_at is None:
        remarks.append(explained(step.reason))
    if step.attempts and step.attempts[-1].failure is not None:
        remarks.append(failure_text(step.attempts[-1].failure))
    return remarks


def failure_text(failure: Failure) -> str:
    """A failure on one line."""
    text = " ".join(printable(f"{failure.type}: {failure.message}").split())
    return text if len(text) <= _MESSAGE_COLUMNS_MAX else text[: _MESSAGE_COLUMNS_MAX - 1] + "…"


def _timing(seconds: float | None, start: datetime | None, now: datetime) -> list[str]:
    elapsed = seconds if seconds is not None else seconds_between(start, now)
    return [] if elapsed is None else [duration_text(max(0.0, elapsed))]


def _progress(step: Step) -> tuple[str, int, int]:
    return step.state, len(step.attempts), step.lost
