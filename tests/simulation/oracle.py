"""What a journal says that its flow must have done, computed without the code of either side.

The programs are evaluated once more, top down, from the released outcomes and the ends of branches on record; the
verdict of a group is written down here a second time, from its definition (proto/README 8).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from stepwire.protocol import paths
from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    BodyEnded,
    BranchEnded,
    BranchOutcome,
    FailPolicy,
    GroupEnded,
    GroupOpened,
    StepPlanned,
    Verdict,
)
from stepwire_engine.core.entries import AttemptEnded, Entry, GroupExpired, Planned, Released, RunCreated
from tests.simulation.programs import GroupOp, Op, PairOp, Program, SendOp, SimFlow, ThinkOp


class Blocked(Exception):
    """The line of control waits for something that the journal does not have."""


class Raised(Exception):
    """The line of control raised."""


class Story:
    """What a journal has, sorted by what it is about.

    Attributes:
        planned: Each step with the time of its plan in milliseconds.
        outcomes: Final outcomes, of undos as well.
        released: Position of the release that has a step or group, by path.
        ends: The ended branches of each group, in order.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.created: RunCreated | None = None
        self.planned: dict[str, tuple[StepPlanned, int]] = {}
        self.opened: dict[str, tuple[GroupOpened, int]] = {}
        self.outcomes: dict[str, AttemptEnded] = {}
        self.attempts: dict[str, list[AttemptEnded]] = {}
        self.completed: list[str] = []
        self.released: dict[str, int] = {}
        self.expired: dict[str, int] = {}
        self.ends: dict[str, list[BranchEnded]] = {}
        self.groups: dict[str, GroupEnded] = {}
        self.group_ended_after: dict[str, int] = {}
        self.abandoned: set[str] = set()
        self.body_ended: BodyEnded | None = None
        for entry in entries:
            self._read(entry)

    def _read(self, entry: Entry) -> None:
        match entry:
            case RunCreated():
                self.created = entry
            case Planned():
                self._read_plan(entry)
            case AttemptEnded():
                self.attempts.setdefault(entry.path, []).append(entry)
                if entry.retry_at_ms is None:
                    self.outcomes[entry.path] = entry
                    if entry.failure is None:
                        self.completed.append(entry.path)
            case Released():
                for path in entry.paths:
                    assert path not in self.released, f"{path} is released twice"
                    self.released[path] = entry.release_seq
            case GroupExpired():
                self.expired[entry.path] = entry.at_ms
            case _:
                pass

    def _read_plan(self, entry: Planned) -> None:
        plan = entry.plan
        self.opened.update({group.path: (group, entry.at_ms) for group in plan.groups})
        self.planned.update({step.path: (step, entry.at_ms) for step in plan.steps})
        self.abandoned.update(plan.abandoned)
        for branch in plan.branches_ended:
            self.ends.setdefault(paths.parent(branch.path), []).append(branch)
        for ended in plan.groups_ended:
            self.groups[ended.path] = ended
            self.group_ended_after[ended.path] = plan.after_release
        self.body_ended = plan.body_ended or self.body_ended


def body_end(flow: SimFlow, story: Story) -> BodyEnded | None:
    """How the body of this journal must have ended; None: it must not have."""
    assert story.created is not None
    given = json.loads(story.created.input.data)
    try:
        values = _line(story, flow.program, "")
        if flow.end == "fail":
            raise Raised("the flow failed")
    except Blocked:
        return None
    except Raised as error:
        return BodyEnded(failure=_failure(str(error)))
    if flow.end == "cancel":
        return BodyEnded(cancelled=True)
    if flow.end == "restart" and "again" not in given:
        return BodyEnded(restart=_payload({"again": True}))
    return BodyEnded(_payload([given, values]))


def _line(story: Story, program: Program, scope: str) -> list[Any]:
    occurrences = paths.Occurrences(scope)
    return [_value(story, op, occurrences) for op in program if not isinstance(op, ThinkOp)]


def _value(story: Story, op: Op, occurrences: paths.Occurrences) -> Any:
    match op:
        case PairOp(first, second, abandon):
            both = occurrences.next_path(first.name), occurrences.next_path(second.name)
            if not abandon:
                _step(story, both[0])
                _step(story, both[1])
            caught = [first.caught, second.caught]
            return [_caught(_step(story, both[i]), caught=caught[i]) for i in range(1 if abandon else 2)]
        case GroupOp():
            return _caught(_group(story, op, occurrences.next_path(op.name)), caught=op.caught)
        case SendOp():
            return _caught(_step(story, occurrences.next_path(op.name)), caught=False)
        case ThinkOp():
            raise AssertionError(op)
        case _:
            return _caught(_step(story, occurrences.next_path(op.name)), caught=op.caught)


def _caught(value: Any, *, caught: bool) -> Any:
    if not isinstance(value, Raised):
        return value
    if not caught:
        raise value
    return ["caught", str(value)]


def _step(story: Story, path: str) -> Any:
    """What awaiting a step gives."""
    if path not in story.released:
        raise Blocked(path)
    ended = story.outcomes[path]
    if ended.failure is not None:
        return Raised(f"{path}: {ended.failure.code.slug}")
    assert ended.output is not None
    return [json.loads(ended.output.data), ended.attempt, max(0, ended.at_ms - story.planned[path][1])]


def _group(story: Story, op: GroupOp, path: str) -> Any:
    recorded = story.groups.get(path)
    if recorded is None:
        raise Blocked(path)
    reports: dict[int, list[Any]] = {}
    for branch in story.ends.get(path, []):
        index = paths.branch_index(branch.path)
        reports[index] = _branch(story, op.branches[index], branch)
    released = story.released.get(path)
    expired = released is not None and released <= story.group_ended_after[path]
    order = [(paths.branch_index(b.path), b.outcome is BranchOutcome.OK) for b in story.ends.get(path, [])]
    verdict, winner, losers = verdict_of(op, order, expired=expired)
    assert recorded == GroupEnded(path, verdict, winner, tuple(losers)), (recorded, verdict, winner, losers)
    for index in losers:
        branch = paths.branch_path(path, index)
        reports[index] = ["lost", sorted([step for step in story.planned if paths.parent(step) == branch])]
    report = [winner, *[reports[index] for index in range(len(op.branches))]]
    return report if verdict is Verdict.OK else Raised(f"{path}: {json.dumps(report)}")


def _branch(story: Story, program: Program, recorded: BranchEnded) -> list[Any]:
    """What a branch that ended reports; Blocked is a defect here."""
    try:
        value: Any = _line(story, program, recorded.path)
        outcome = BranchOutcome.OK
    except Raised as error:
        value, outcome = str(error), BranchOutcome.FAILED
    except Blocked as blocked:
        raise AssertionError(f"{recorded.path} ended before it got {blocked}") from None
    assert recorded.outcome is outcome, f"{recorded.path} ended {recorded.outcome.name}, must be {outcome.name}"
    assert outcome is BranchOutcome.OK or (recorded.failure is not None and recorded.failure.message == value)
    return [outcome.name.lower(), value]


def verdict_of(op: GroupOp, order: Sequence[tuple[int, bool]], *, expired: bool) -> tuple[Verdict, int, list[int]]:
    """Verdict, winner and losers of a group whose branches ended like this: index and success, in order."""
    branches = len(op.branches)
    needed = {
        FailPolicy.ANY: branches,
        FailPolicy.ALL: min(1, branches),
        FailPolicy.NEVER: 0,
        FailPolicy.QUORUM: op.quorum,
    }[op.fail]

    def successes(count: int) -> int:
        return sum([ok for _, ok in order[:count]])

    def possible(count: int) -> bool:
        return successes(count) + branches - count >= needed

    def ends(count: int) -> bool:
        decided = successes(count) >= needed or not possible(count)
        return count == branches or (op.cancel_siblings and needed > 0 and decided)

    total = len(order)
    assert not any(ends(count) for count in range(total)), f"the group should have ended before: {order}"
    assert ends(total) or expired, f"the group should go on: {order}"
    losers = sorted(set(range(branches)) - {index for index, _ in order})
    ok = successes(total) >= needed
    deciding = [order[i][0] for i in range(total) if order[i][1] and successes(i + 1) == needed]
    winner = deciding[0] + 1 if losers and deciding and needed else 0
    return (Verdict.OK if ok else Verdict.FAILED), winner, losers


def _failure(message: str) -> Failure:
    return Failure(ErrorCode.USER_ERROR, "FlowError", message, retryable=Retryable.NO)


def _payload(value: Any) -> Payload:
    return Payload(json.dumps(value).encode())
