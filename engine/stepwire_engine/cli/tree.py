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
    "attempt_not_stopping": "its attempt was told to stop and has not",
    "child_run": "waits for the run it invoked",
    "in_commit": "what was decided is being written",
    "reading_journal": "its journal is being read",
    "host_lagging": "the event loop of every host that serves it is blocked",
    "host_draining": "every host that serves it is stopping",
    "host_away": "the host of its body is disconnected and may come back",
    "no_body_room": "every host that serves it holds as many runs as it takes",
    "other_undo": "another compensation comes first",
    "host_congested": "every host that serves it is too slow to read what it is sent",
    "engine_full": "it is due, and the engine has no room in memory",
    "journal_unreadable": "what is stored of it is damaged (see: stepwire doctor)",
}
PHASES = {
    "CANCELLING": "cancelling: what is in progress is told to stop",
    "UNDOING": "undoing: completed steps are compensated",
}
_UNREMARKABLE = frozenset({"lease_of_host", "user_code", "in_commit", "reading_journal"})
_ENDS_OF_BRANCHES = {"OK": "SUCCEEDED", "FAILED": "FAILED", "CANCELLED": "CANCELLED"}
_UNDO = "#undo"
"""Where an undo stands below its step; no segment of a path."""
_MESSAGE_COLUMNS_MAX = 160


def run_title(run: Run, now: datetime) -> str:
    """One line about the run as a whole."""
    parts = [f"run {run.run_id}", printable(run.flow), run.state, *_timing(run.duration_seconds, run.created_at, now)]
    if run.phase in PHASES and not run.final:
        parts.append(PHASES[run.phase])
    if run.reason and not run.final and run.reason not in _UNREMARKABLE:
        parts.append(explained(run.reason))
    if run.stopping is not None:
        parts.append(failure_text(run.stopping))
    if run.successor_run_id:
        parts.append(f"goes on as run {run.successor_run_id}")
    if run.not_undone:
        parts.append(_loud(f"{len(run.not_undone)} NOT UNDONE"))
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
    parts = [clock, printable(step.path), _state_text(step), f"attempt {max(1, attempts)}"]
    if step.ended_at:
        parts += _timing(step.duration_seconds, step.planned_at, now)
    return "  ".join(parts + _remarks(step))


def changed_steps(before: Run | None, after: Run) -> list[Step]:
    """The steps of `after` that are new or have moved since `before`, in order of planning."""
    same_run = before is not None and before.run_id == after.run_id
    known = {step.path: _progress(step) for step in before.steps} if before is not None and same_run else {}
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
    """One segment of a path: a scope, a group, a step, or a step that is a scope as well.

    Attributes:
        state: How a group or a branch ended; empty while it has not.
        name: Label of a branch.
    """

    segment: str
    step: Step | None = None
    group: Group | None = None
    state: str = ""
    name: str = ""
    members: dict[str, _Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Row:
    lead: str
    label: str
    step: Step | None = None
    group: Group | None = None
    state: str = ""


def _scope(run: Run) -> _Node:
    root = _Node("")
    for step in run.steps:
        if step.undoes:
            _at(root, step.undoes).members[_UNDO] = _Node("undo", step)
        else:
            _at(root, step.path).step = step
    for group in run.groups:
        node = _at(root, group.path)
        node.group = group
        node.state = _ENDS_OF_BRANCHES.get(group.verdict or "", "CANCELLED" if run.final else "")
        _label_branches(node, group)
    return _in_order(root, {step.path: i for i, step in enumerate(run.steps)}, "")[1]


def _label_branches(node: _Node, group: Group) -> None:
    """Branches without steps get a row only if they have ended: a wide group has many."""
    for index, outcome in enumerate(group.outcomes):
        if outcome is not None:
            segment = f"[{index}]"
            node.members.setdefault(segment, _Node(segment)).state = _ENDS_OF_BRANCHES.get(outcome, outcome)
    for index, name in enumerate(group.names):
        branch = node.members.get(f"[{index}]")
        if branch is not None:
            branch.name = name


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
        yield _Row(lead + ("└─ " if last else "├─ "), label, member.step, member.group, member.state)
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
    elif node.state and not node.members:
        yield node.state  # a branch that ended before its first step
    for member in node.members.values():
        yield from _states(member)


def _merged(node: _Node) -> tuple[str, _Node]:
    """A branch of a single step takes one row together with it."""
    label = printable(node.segment)
    if node.segment.startswith("[") and node.step is None:
        only = next(iter(node.members.values())) if len(node.members) == 1 else None
        named = f"{label} {printable(node.name)}" if node.name else label
        if only is None or only.step is None or only.members.keys() - {_UNDO}:
            return named, node
        known = node.name in ("", only.segment)
        only.state = "" if node.state == only.step.state else node.state
        return f"{label if known else f'{named}:'} {printable(only.segment)}", only
    return label, node


# ---- from rows to lines


def _drawn(row: _Row, width: int, now: datetime) -> str:
    padding = " " * (width - len(row.lead) - len(row.label))
    lead = click.style(row.lead, dim=True)
    if row.step is not None:
        branch = f"  branch {row.state}" if row.state else ""
        return f"{lead}{_sign(row.step.state)} {row.label}{padding}  {_step_text(row.step, now)}{branch}".rstrip()
    if row.group is not None:
        return f"{lead}{_sign(row.state or 'RUNNING')} {row.label}{padding}  {_group_text(row.group, row.state)}"
    word = "" if row.state in ("", "SUCCEEDED") else f"{padding}  {row.state}"
    return f"{lead}{_sign(row.state) if row.state else click.style('·', dim=True)} {row.label}{word}"


def _group_text(group: Group, state: str) -> str:
    """Mode and policies of a group, how its branches ended, and its own end unless all is well."""
    policies = [group.mode, f"{group.branches} branches"]
    if group.fail != "any":
        policies.append(f"quorum={group.quorum}" if group.fail == "quorum" else f"fail={group.fail}")
    if group.cancel_siblings:
        policies.append("cancel_siblings")
    if group.limit:
        policies.append(f"limit={group.limit}")
    parts = [", ".join(policies)]
    if state not in ("", "SUCCEEDED"):
        parts.append(state)
    ended = Counter(outcome for outcome in group.outcomes if outcome is not None)
    if ended:
        parts.append(", ".join(f"{ended[outcome]} {outcome}" for outcome in _ENDS_OF_BRANCHES if ended[outcome]))
    if group.expired:
        parts.append("deadline passed")
    return "  ".join(parts)


def _sign(state: str) -> str:
    sign, colour = SIGNS.get(state, ("?", "white"))
    return click.style(sign, fg=colour)


def _step_text(step: Step, now: datetime) -> str:
    parts = [f"{text:>6}" for text in _timing(step.duration_seconds, step.planned_at, now)]
    if step.state != "SUCCEEDED":
        parts.append(_state_text(step))
    if len(step.attempts) > 1:
        parts.append(f"{len(step.attempts)} attempts")
    if step.attempts and step.attempts[-1].host:
        parts.append(f"on {printable(step.attempts[-1].host)}")
    return "  ".join(parts + _remarks(step))


def _remarks(step: Step) -> list[str]:
    remarks = [f"host lost {step.lost} times" if step.lost > 1 else "host lost once"] if step.lost else []
    if (
        step.reason
        and step.reason not in _UNREMARKABLE
        and (step.ended_at is None or step.reason == "attempt_not_stopping")
    ):
        remarks.append(_waiting_text(step, step.reason))
    elif step.child_run_id:
        remarks.append(f"run {printable(step.child_run_id)}")
    if step.attempts and step.attempts[-1].failure is not None:
        remarks.append(failure_text(step.attempts[-1].failure))
    return remarks


def _waiting_text(step: Step, reason: str) -> str:
    """Why a step waits, for what, and until when."""
    until = f" until {step.due_at:%Y-%m-%d %H:%M:%SZ}" if step.due_at else ""
    match reason:
        case "backoff_until" | "sleeping_until":
            return explained(reason) + until
        case "event":
            return f"event: waits for {printable(step.name) or 'an event'}{until}"
        case "child_run" if step.child_run_id:
            return f"child_run: waits for run {printable(step.child_run_id)}"
        case _:
            return explained(reason)


def _state_text(step: Step) -> str:
    return _loud("UNDO FAILED") if step.undoes and step.state == "FAILED" else step.state


def _loud(text: str) -> str:
    return click.style(text, fg="red", bold=True)


def failure_text(failure: Failure) -> str:
    """A failure on one line."""
    text = " ".join(printable(f"{failure.type}: {failure.message}").split())
    return text if len(text) <= _MESSAGE_COLUMNS_MAX else text[: _MESSAGE_COLUMNS_MAX - 1] + "…"


def _timing(seconds: float | None, start: datetime | None, now: datetime) -> list[str]:
    elapsed = seconds if seconds is not None else seconds_between(start, now)
    return [] if elapsed is None else [duration_text(max(0.0, elapsed))]


def _progress(step: Step) -> tuple[str, int, int]:
    return step.state, len(step.attempts), step.lost
