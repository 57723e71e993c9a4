"""What a body decides: the kinds of decisions, when two of them are the same, and how to name one (proto/README 6).

Identity is kind and path, and what `is_same` compares; policies and inputs may change with the code.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

from stepwire.protocol import paths
from stepwire.protocol.failure import Failure
from stepwire.protocol.frames import Release
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    BodyEnded,
    BranchEnded,
    Call,
    FailPolicy,
    GroupEnded,
    GroupOpened,
    Plan,
    SendEvent,
    StepPlanned,
)


class Kind(enum.IntEnum):
    """What a decision is; with its path it is the decision's identity."""

    GROUP = 1
    STEP = 2
    ABANDONED = 3
    BRANCH_ENDED = 4
    GROUP_ENDED = 5
    BODY_ENDED = 6


Decision = StepPlanned | GroupOpened | str | BranchEnded | GroupEnded | BodyEnded
Key = tuple[Kind, str]


def decisions_of(plan: Plan) -> Iterable[tuple[Kind, str, Decision]]:
    """Every decision of a plan."""
    for group in plan.groups:
        yield Kind.GROUP, group.path, group
    for step in plan.steps:
        yield Kind.STEP, step.path, step
    for path in plan.abandoned:
        yield Kind.ABANDONED, path, path
    for branch in plan.branches_ended:
        yield Kind.BRANCH_ENDED, branch.path, branch
    for ended in plan.groups_ended:
        yield Kind.GROUP_ENDED, ended.path, ended
    if plan.body_ended is not None:
        yield Kind.BODY_ENDED, "", plan.body_ended


def by_line(recorded: Mapping[Key, tuple[Decision, int]]) -> dict[str, tuple[list[Key], int]]:
    """What the code of the root and of each branch decided by itself, and after which release it did so last.

    Threads may ask while the loop goes on: no entry is added meanwhile, and the copy is made in one piece.
    """
    found: dict[str, tuple[list[Key], int]] = {}
    for key, (_, interval) in list(recorded.items()):
        kind, path = key
        if kind is Kind.GROUP_ENDED:
            continue  # Its branches decide that.
        scope = path if kind is Kind.BRANCH_ENDED else paths.parent(path)
        keys, until = found.get(scope) or ([], -1)
        keys.append(key)
        found[scope] = keys, max(until, interval)
    return found


def is_same(kind: Kind, expected: Decision, made: Decision) -> bool:
    """Whether a decision is the recorded one. Policies and inputs may change with the code; identity may not."""
    match expected, made:
        case StepPlanned(), StepPlanned():
            return expected.kind is made.kind and expected.name == made.name
        case GroupOpened(), GroupOpened():
            return _group_identity(expected) == _group_identity(made)
        case BranchEnded(), BranchEnded():
            return expected.outcome is made.outcome
        case GroupEnded(), GroupEnded():
            return expected == made
        case _:
            return True


def _group_identity(group: GroupOpened) -> tuple[object, ...]:
    return group.branches, group.mode, group.fail, group.quorum, group.cancel_siblings


def describe(kind: Kind, path: str, decision: Decision) -> str:
    """A decision for an error message."""
    match decision:
        case StepPlanned():
            task = f" of {decision.name!r}" if decision.name else ""
            return f"step {path!r} ({decision.kind.name.lower()}{task})"
        case GroupOpened():
            return f"group {path!r} with {decision.branches} branches in {decision.mode.name}{_policy(decision)}"
        case BranchEnded():
            return f"end of branch {path!r} ({decision.outcome.name.lower()})"
        case GroupEnded():
            return f"end of group {path!r} ({decision.verdict.name.lower()})"
        case BodyEnded():
            return "the end of the flow" if decision.failure is None else "the failure of the flow"
        case _:
            return f"abandoning step {path!r}"


def _policy(group: GroupOpened) -> str:
    """What of a group's policy is not the default, for an error message."""
    quorum = f"={group.quorum}" if group.fail is FailPolicy.QUORUM else ""
    fail = "" if group.fail is FailPolicy.ANY else f", {group.fail.name.lower()}{quorum}"
    return f"{fail}, cancel_siblings" if group.cancel_siblings else fail


def payload_bytes(decision: Decision) -> int:
    """About how many bytes of names and payloads a plan with this decision carries."""
    match decision:
        case StepPlanned(spec=SendEvent(events)):
            return len(decision.path) + sum(len(event.data.data) for event in events)
        case StepPlanned(spec=Call(body=Payload(data))) | StepPlanned(input=Payload(data)):
            return len(decision.path) + len(data)
        case BranchEnded(failure=Failure() as failure):
            return len(failure.message) + len(failure.traceback)
        case _:
            return 0


def entry_bytes(entry: Plan | Release) -> int:
    """About how many bytes of names and payloads an entry of a snapshot, or a release, brings into memory."""
    if isinstance(entry, Release):
        return sum([len(outcome.output.data) for outcome in entry.outcomes if outcome.output is not None])
    return sum([payload_bytes(step) for step in entry.steps])


def is_within(path: str, scopes: set[str]) -> bool:
    """Whether `path` is in one of the scopes, or deeper."""
    return any(scope in scopes for scope in ancestors(path))


def ancestors(path: str) -> Iterable[str]:
    """Scopes and groups above `path`, without the root."""
    above = paths.parent(path)
    while above:
        yield above
        above = paths.parent(above)
