"""The journal of one live body: matching what user code decides with what is recorded (DESIGN 5, MISSION P12).

Replay is barriered. LAW: release n+1 is handed to user code only after the body made every recorded
decision of the releases before it; decisions between two releases are a set. Decisions that are not
recorded are held back until the body has caught up, so that a body that went astray never reaches the
engine. This module does not know how user code runs; `_runtime` drives it.
"""

from __future__ import annotations

import enum
import heapq
from collections import deque
from collections.abc import Iterable

from stepwire.protocol.frames import Release
from stepwire.protocol.plan import (
    BodyEnded,
    BranchEnded,
    Fence,
    GroupEnded,
    GroupOpened,
    Plan,
    StepPlanned,
)

PLAN_BYTES_TARGET = 128 * 1024
"""Larger sets of decisions are cut into several plans."""
_DECISION_BYTES = 64


class Kind(enum.IntEnum):
    """What a decision is; with its path it is the decision's identity."""

    GROUP = 1
    STEP = 2
    ABANDONED = 3
    BRANCH_ENDED = 4
    GROUP_ENDED = 5
    BODY_ENDED = 6


Decision = StepPlanned | GroupOpened | str | BranchEnded | GroupEnded | BodyEnded
_Key = tuple[Kind, str]


class Divergence(Exception):
    """The body does something else than its journal says.

    Attributes:
        expected: The recorded decision, as text with its path.
        received: What the body did instead.
    """

    def __init__(self, expected: str, received: str) -> None:
        super().__init__(f"the journal expects {expected}, the flow made {received}")
        self.expected = expected
        self.received = received


class BodyJournal:
    """Cursor over the entries of one body.

    Args:
        fence: The body's fence, stamped on its plans.
    """

    def __init__(self, fence: Fence) -> None:
        self.fence = fence
        self.next_plan_seq = 1
        self.delivered = 0
        self.received = 0
        self.complete = False
        self._recorded: dict[_Key, tuple[Decision, int]] = {}
        self._unmade: dict[_Key, tuple[Decision, int]] = {}
        self._unmade_until: dict[int, int] = {}
        self._intervals: list[int] = []
        self._releases: deque[Release] = deque()
        self._replay_until = 0
        self._new: list[tuple[int, Kind, Decision]] = []
        self._last_made: tuple[Kind, str, Decision] | None = None

    # ---- feeding

    def load(self, entries: Iterable[Plan | Release], *, complete: bool) -> None:
        """Take (a part of) the snapshot; with `complete` its end is known."""
        for entry in entries:
            if isinstance(entry, Release):
                self.add_release(entry)
                self._replay_until = entry.release_seq
            else:
                self._record(entry)
        self.complete = complete

    def _record(self, plan: Plan) -> None:
        self.next_plan_seq = plan.plan_seq + 1
        interval = plan.after_release
        for kind, path, decision in _decisions(plan):
            self._recorded[kind, path] = decision, interval
            self._unmade[kind, path] = decision, interval
            if interval not in self._unmade_until:
                heapq.heappush(self._intervals, interval)
            self._unmade_until[interval] = self._unmade_until.get(interval, 0) + 1

    def add_release(self, release: Release) -> bool:
        """Queue a release. False if it is not the next one: the host needs a snapshot."""
        if release.release_seq <= self.received:
            return True
        if release.release_seq != self.received + 1:
            return False
        self.received = release.release_seq
        self._releases.append(release)
        return True

    # ---- user code

    @property
    def caught_up(self) -> bool:
        """Everything recorded was made and delivered: from here on decisions are new."""
        return self.complete and not self._unmade and self.delivered >= self._replay_until

    @property
    def replaying(self) -> bool:
        return not self.caught_up

    def decide(self, kind: Kind, path: str, decision: Decision) -> bool:
        """The body made a decision.

        Returns:
            True if it is new, False if the journal has it.

        Raises:
            Divergence: the journal has another decision in its place.
        """
        self._last_made = kind, path, decision
        recorded = self._recorded.get((kind, path)) if self._recorded else None
        if recorded is None:
            if kind is Kind.BODY_ENDED and self.replaying:
                self._refuse_early_end(path, decision)
            self._new.append((self.delivered, kind, decision))
            return True
        expected, interval = recorded
        if not _same(kind, expected, decision):
            raise Divergence(_describe(kind, path, expected), self._received)
        if self._unmade.pop((kind, path), None) is not None:
            left = self._unmade_until[interval] - 1
            if left:
                self._unmade_until[interval] = left
            else:
                del self._unmade_until[interval]
        return False

    def _refuse_early_end(self, path: str, decision: Decision) -> None:
        received = _describe(Kind.BODY_ENDED, path, decision)
        if self._unmade:
            (kind, missing), (expected, _) = next(iter(self._unmade.items()))
            raise Divergence(_describe(kind, missing, expected), received)
        if self.complete and self._releases:
            raise Divergence(f"to receive release {self._releases[0].release_seq}", received)

    def deliver(self) -> Release | None:
        """The next release that may be handed to user code now, or None."""
        if not self._releases:
            return None
        if self._decision_due():
            return None
        release = self._releases.popleft()
        self.delivered = release.release_seq
        return release

    def _decision_due(self) -> bool:
        """Whether a recorded decision of the releases delivered so far is missing."""
        while self._intervals and self._intervals[0] not in self._unmade_until:
            heapq.heappop(self._intervals)
        return bool(self._intervals) and self._intervals[0] <= self.delivered

    @property
    def undelivered(self) -> int:
        return len(self._releases)

    def divergence(self) -> Divergence | None:
        """The proof that the body went astray, if every line of user code waits for a release.

        The caller vouches for that. Recorded decisions of concurrent lines prove nothing: such a line
        may still be on its way.
        """
        if not self.complete or not self._decision_due():
            return None
        for (kind, path), (decision, interval) in self._unmade.items():
            if interval <= self.delivered:
                if getattr(decision, "concurrent", False):
                    return None
                return Divergence(_describe(kind, path, decision), self._received)
        return None

    @property
    def _received(self) -> str:
        return _describe(*self._last_made) if self._last_made is not None else "nothing"

    def missing(self) -> str:
        """What the body has not done again yet, for an error message."""
        for (kind, path), (decision, _) in self._unmade.items():
            return _describe(kind, path, decision)
        return f"to receive release {self._releases[0].release_seq}" if self._releases else "nothing"

    # ---- plans

    @property
    def has_new(self) -> bool:
        return bool(self._new)

    def take_plans(self) -> list[Plan]:
        """New decisions as plans, once the body has caught up; empty before."""
        if not self._new or not self.caught_up:
            return []
        new, self._new = self._new, []
        plans: list[Plan] = []
        start = 0
        size = 0
        for index, (interval, _, decision) in enumerate(new):
            size += _DECISION_BYTES + _payload_bytes(decision)
            last = index + 1 == len(new)
            if last or new[index + 1][0] != interval or size >= PLAN_BYTES_TARGET:
                plans.append(self._plan(interval, new[start : index + 1]))
                start, size = index + 1, 0
        return plans

    def _plan(self, interval: int, decisions: list[tuple[int, Kind, Decision]]) -> Plan:
        by_kind: dict[Kind, list[Decision]] = {}
        for _, kind, decision in decisions:
            by_kind.setdefault(kind, []).append(decision)
        ended = by_kind.get(Kind.BODY_ENDED)
        plan = Plan(
            plan_seq=self.next_plan_seq,
            after_release=interval,
            fence=self.fence,
            groups=tuple(by_kind.get(Kind.GROUP, ())),  # type: ignore[arg-type]
            steps=tuple(by_kind.get(Kind.STEP, ())),  # type: ignore[arg-type]
            abandoned=tuple(by_kind.get(Kind.ABANDONED, ())),  # type: ignore[arg-type]
            branches_ended=tuple(by_kind.get(Kind.BRANCH_ENDED, ())),  # type: ignore[arg-type]
            groups_ended=tuple(by_kind.get(Kind.GROUP_ENDED, ())),  # type: ignore[arg-type]
            body_ended=ended[0] if ended else None,  # type: ignore[arg-type]
        )
        self.next_plan_seq += 1
        return plan

    def is_new(self, path: str) -> bool:
        """Whether the step at `path` is not in the journal."""
        return (Kind.STEP, path) not in self._recorded

    def mark_started(self, start: Iterable[str]) -> None:
        """Note on new, untaken steps that the host starts their first attempt itself."""
        chosen = set(start)
        for index, (interval, kind, decision) in enumerate(self._new):
            if isinstance(decision, StepPlanned) and decision.path in chosen:
                started = StepPlanned(
                    decision.path,
                    decision.kind,
                    decision.name,
                    decision.input,
                    decision.retry,
                    decision.timeout,
                    True,
                    decision.concurrent,
                )
                self._new[index] = (interval, kind, started)


def _decisions(plan: Plan) -> Iterable[tuple[Kind, str, Decision]]:
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


def _same(kind: Kind, expected: Decision, made: Decision) -> bool:
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


def _describe(kind: Kind, path: str, decision: Decision) -> str:
    match decision:
        case StepPlanned():
            task = f" of {decision.name!r}" if decision.name else ""
            return f"step {path!r} ({decision.kind.name.lower()}{task})"
        case GroupOpened():
            return f"group {path!r} with {decision.branches} branches in {decision.mode.name}"
        case BranchEnded():
            return f"end of branch {path!r} ({decision.outcome.name.lower()})"
        case GroupEnded():
            return f"end of group {path!r} ({decision.verdict.name.lower()})"
        case BodyEnded():
            return "the end of the flow" if decision.failure is None else "the failure of the flow"
        case _:
            return f"abandoning step {path!r}"


def _payload_bytes(decision: Decision) -> int:
    match decision:
        case StepPlanned(input=None):
            return len(decision.path)
        case StepPlanned():
            return len(decision.path) + (len(decision.input.data) if decision.input else 0)
        case _:
            return 0
