"""The journal of one live body: matching what user code decides with what is recorded (DESIGN 5, MISSION P12).

Replay is barriered. LAW: release n+1 is handed to user code only after the body made every recorded
decision of the releases before it; decisions between two releases are a set. Decisions that are not
recorded are held back until the body has caught up, so that a body that went astray never reaches the
engine. This module does not know how user code runs; `_runtime` drives it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from stepwire._replay.decisions import (
    Decision,
    Key,
    Kind,
    ancestors,
    by_line,
    decisions_of,
    describe,
    is_same,
    is_within,
    payload_bytes,
)
from stepwire.protocol import paths
from stepwire.protocol.frames import Release
from stepwire.protocol.plan import (
    BranchEnded,
    Fence,
    GroupEnded,
    GroupOpened,
    Plan,
    StepPlanned,
)

__all__ = ("PLAN_BYTES_TARGET", "BodyJournal", "Decision", "Divergence", "Kind")

PLAN_BYTES_TARGET = 128 * 1024
"""Larger sets of decisions are cut into several plans."""
_DECISION_BYTES = 64
_Made = tuple[int, Kind, Decision, str]
"""A decision of user code: after which release, its kind, itself, its path."""
_STEP, _BRANCH_ENDED, _GROUP_ENDED, _BODY_ENDED = Kind.STEP, Kind.BRANCH_ENDED, Kind.GROUP_ENDED, Kind.BODY_ENDED
_OTHER_KINDS = Kind.GROUP, Kind.ABANDONED, Kind.GROUP_ENDED, Kind.BODY_ENDED
_NO_LINE: tuple[list[Key], int] = [], -1


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

    Attributes:
        caught_up: Everything recorded was made and delivered: from here on decisions are new.
        replaying: The opposite.
        undelivered: Releases that are yet to be handed over.
        counted: `steps`, and those that stopped branches planned and nobody has dropped yet.
    """

    def __init__(self, fence: Fence) -> None:
        self.fence = fence
        self.next_plan_seq = 1
        self.delivered = 0
        self.received = 0
        self.complete = False
        self.caught_up = False
        self.replaying = True
        self.undelivered: deque[Release] = deque()
        self._recorded: dict[Key, tuple[Decision, int]] = {}
        self._unmade: dict[Key, tuple[Decision, int]] = {}
        self._unmade_until: dict[int, int] = {}
        self._abandoned: dict[int, list[str]] = {}
        self._intervals: list[int] = []
        self._replay_until = 0
        self._repeats_until = -1
        self._went_on = False
        self._new: list[_Made] = []
        self._unsaid: tuple[int, set[str]] = 0, set()
        self.counted = 0
        self._started: set[str] = set()
        self._stopped: set[str] = set()
        self._ends: dict[str, deque[tuple[int, int]]] = {}
        self._of_losers: dict[str, list[Key]] = {}
        self._by_scope: dict[str, list[Key]] | None = None
        self._own: dict[str, tuple[list[Key], int]] | None = None
        self._last_made: _Made | None = None

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
        self._by_scope = None
        self._of_losers.clear()
        self._look()

    def _record(self, plan: Plan) -> None:
        self.next_plan_seq = plan.plan_seq + 1
        interval = plan.after_release
        self._repeats_until = max(self._repeats_until, interval)
        self.counted += len(plan.steps)
        for branch in plan.branches_ended:
            group = paths.parent(branch.path)
            self._ends.setdefault(group, deque()).append((paths.branch_index(branch.path), interval))
        if plan.abandoned:
            self._abandoned.setdefault(interval, []).extend(plan.abandoned)
        for kind, path, decision in decisions_of(plan):
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
        self.undelivered.append(release)
        return True

    # ---- user code

    def _look(self) -> None:
        """Whether everything recorded was made and delivered."""
        self.caught_up = self.complete and not self._unmade and self.delivered >= self._replay_until
        self.replaying = not self.caught_up

    @property
    def all_made(self) -> bool:
        """Everything recorded was made; releases that nobody waits for may be left."""
        return self.complete and not self._unmade

    @property
    def repeats(self) -> bool:
        """User code does now what it did in a former life, as far as anything of that is on record.

        Of code that decides nothing any more nobody can tell it better; of any other see `repeats_in`.
        """
        return not (self._went_on or (self.complete and self.delivered > self._repeats_until))

    def repeats_in(self, scope: str, *, on_loop: bool) -> bool:
        """Whether code of the root or of one branch does now what it did in a former life.

        Everything before a decision of its own on record is a repetition. On the loop so is what follows the last one,
        up to the next wait: a plan leaves only when every task waits. A thread may be slower than the plan of another
        one, so that it could begin, or go on, is no proof that it did.
        """
        if not self.complete:
            return True
        if self.delivered > self._repeats_until:
            return False
        if self._own is None:
            self._own = by_line(self._recorded)
        keys, until = self._own.get(scope) or _NO_LINE
        while keys and keys[-1] not in self._unmade:
            keys.pop()
        return bool(keys) or (on_loop and self.delivered <= until and not self._went_on)

    def decide(self, kind: Kind, path: str, decision: Decision) -> bool:
        """The body made a decision.

        Returns:
            True if it is new, False if the journal has it.

        Raises:
            Divergence: the journal has another decision in its place.
        """
        recorded = self._recorded.get((kind, path)) if self._recorded else None
        if recorded is None:
            if kind is _BODY_ENDED and self.replaying:
                self._refuse_early_end(path, decision)
            made = self._last_made = self.delivered, kind, decision, path
            self._new.append(made)
            self._went_on = self.complete
            if kind is _STEP:
                self.counted += 1
            return True
        expected, interval = recorded
        self._last_made = interval, kind, decision, path
        if not is_same(kind, expected, decision):
            raise Divergence(describe(kind, path, expected), self._received)
        if self._unmade.pop((kind, path), None) is not None:
            left = self._unmade_until[interval] - 1
            if left:
                self._unmade_until[interval] = left
            else:
                del self._unmade_until[interval]
                self._look()
        return False

    def knows(self, kind: Kind, path: str, decision: Decision) -> bool:
        """Whether a decision is recorded, for a body that may make no other."""
        self._last_made = self.delivered, kind, decision, path
        return (kind, path) in self._recorded

    def _refuse_early_end(self, path: str, decision: Decision) -> None:
        received = describe(Kind.BODY_ENDED, path, decision)
        if self._unmade:
            (kind, missing), (expected, _) = next(iter(self._unmade.items()))
            raise Divergence(describe(kind, missing, expected), received)
        # Releases that are left prove nothing: their outcomes may be those that nobody waits for any more.

    def deliver(self) -> Release | None:
        """The next release that may be handed to user code now, or None."""
        if not self.undelivered or not self.complete:
            return None  # What is still to come of the snapshot may stand before this release.
        if self._decision_due():
            return None
        release = self.undelivered.popleft()
        self.delivered = release.release_seq
        if self.replaying:
            self._look()
        return release

    def _decision_due(self) -> bool:
        """Whether a recorded decision of the releases delivered so far is missing."""
        while self._intervals and self._intervals[0] not in self._unmade_until:
            heapq.heappop(self._intervals)
        return bool(self._intervals) and self._intervals[0] <= self.delivered

    def divergence(self) -> Divergence | None:
        """The proof that the body went astray, if every line of user code waits for a release.

        The caller vouches for that. Recorded decisions of concurrent lines prove nothing: such a line
        may still be on its way. Nor does one to abandon a step that is planned: user code may stop awaiting
        at any time, for example when a time limit passes.
        """
        if not self.complete or not self._decision_due() or self.abandonment_due:
            return None
        for (kind, path), (decision, interval) in self._unmade.items():
            if interval <= self.delivered:
                if getattr(decision, "concurrent", False):
                    return None
                return Divergence(describe(kind, path, decision), self._received)
        return None

    @property
    def abandonment_due(self) -> bool:
        """Whether user code has yet to give up on a step as it did before, perhaps when a time limit passes again."""
        return any(
            (Kind.ABANDONED, path) in self._unmade and (Kind.STEP, path) not in self._unmade
            for path in self._abandoned.get(self.delivered, ())
        )

    @property
    def _received(self) -> str:
        if self._last_made is None:
            return "nothing"
        _, kind, decision, path = self._last_made
        return describe(kind, path, decision)

    def missing(self) -> str:
        """What the body has not done again yet, for an error message."""
        for (kind, path), (decision, _) in self._unmade.items():
            return describe(kind, path, decision)
        return f"to receive release {self.undelivered[0].release_seq}" if self.undelivered else "nothing"

    # ---- groups

    def end_due(self, group: str) -> int | None:
        """Which branch of the group ends next according to the journal. None: no other one does, or not yet.

        What branches that lost had decided before the last end comes before it: a live body made that, too.
        """
        ends = self._ends.get(group)
        if not ends or not self.complete:
            return None
        index, interval = ends[0]
        if interval > self.delivered or (len(ends) == 1 and self._losers_due(group)):
            return None
        return index

    def end_made(self, group: str, index: int) -> None:
        """A branch of the group ended, again or for the first time."""
        ends = self._ends.get(group)
        if ends and ends[0][0] == index:
            ends.popleft()

    def _losers_due(self, group: str) -> bool:
        """Whether a branch that lost has yet to decide what it had decided before the group ended."""
        left = self._of_losers.get(group)
        if left is None:
            left = self._of_losers[group] = self._decided_by_losers(group)
        while left and left[-1] not in self._unmade:
            left.pop()
        return bool(left)

    def _decided_by_losers(self, group: str) -> list[Key]:
        ended = self._recorded.get((Kind.GROUP_ENDED, group))
        if ended is None or ended[1] > self._ends[group][-1][1]:
            return []  # It has not ended, or its deadline ended it: no branch's end is what the losers lost by.
        assert isinstance(ended[0], GroupEnded)
        scopes = [paths.branch_path(group, index) for index in ended[0].losers]
        index = self._scope_index() if scopes else {}
        found: list[Key] = []
        while scopes:
            keys = index.get(scopes.pop(), ())
            found.extend(keys)
            for kind, path in keys:
                if kind is Kind.GROUP:
                    opened = self._recorded[kind, path][0]
                    assert isinstance(opened, GroupOpened)
                    scopes.extend(paths.branch_path(path, i) for i in range(opened.branches))
        return found

    def _scope_index(self) -> dict[str, list[Key]]:
        """What is recorded, by the scope that decided it."""
        if self._by_scope is None:
            self._by_scope = {}
            for kind, path in self._recorded:
                scope = paths.parent(path)
                if kind is Kind.BRANCH_ENDED:
                    scope = paths.parent(scope)
                self._by_scope.setdefault(scope, []).append((kind, path))
        return self._by_scope

    def stop(self, branches: Iterable[str]) -> None:
        """Branches were ended from outside: what they decided and no plan says yet never happened."""
        self._stopped.update(branches)

    def is_unsaid(self, path: str) -> bool:
        """Whether the step at `path` is in no plan yet, and does not run."""
        count, unsaid = self._unsaid
        if count != len(self._new):
            unsaid = {path for _, kind, _, path in self._new if kind is _STEP}
            self._unsaid = len(self._new), unsaid
        return path in unsaid and path not in self._started

    def _retract(self) -> None:
        """Drop what stopped branches decided. A step that runs is kept, and the groups it stands in."""
        stopped, self._stopped = self._stopped, set()
        kept: set[str] = set()
        for path in self._started:
            if is_within(path, stopped):
                kept.update(ancestors(path))
                kept.add(path)
        new, self._new, self._unsaid = self._new, [], (0, set())
        for made in new:
            _, kind, _, path = made
            if not is_within(path, stopped) or (path in kept and kind in (Kind.GROUP, Kind.STEP)):
                self._new.append(made)
            elif kind is _STEP:
                self.counted -= 1

    # ---- plans

    @property
    def steps(self) -> int:
        """Steps of the run that are recorded or will be."""
        if self._stopped:
            self._retract()
        return self.counted

    @property
    def has_new(self) -> bool:
        if self._stopped:
            self._retract()
        return bool(self._new)

    @property
    def new_steps(self) -> list[StepPlanned]:
        """Steps that no plan says yet, in the order they were planned."""
        if self._stopped:
            self._retract()
        return [decision for _, _, decision, _ in self._new if isinstance(decision, StepPlanned)]

    def take_plans(self) -> list[Plan]:
        """New decisions as plans, once the body has caught up; empty before."""
        if not self._new or not self.caught_up:
            return []
        if self._stopped:
            self._retract()
        new, self._new, self._unsaid = self._new, [], (0, set())
        started, self._started = self._started, set()
        plans: list[Plan] = []
        steps: list[StepPlanned] = []
        branches: list[BranchEnded] = []
        others: list[tuple[Kind, Decision]] = []
        after, size = -1, 0
        for interval, kind, decision, path in new:
            # The end of a group stays with the end of the branch that decided it.
            if interval != after or (size >= PLAN_BYTES_TARGET and kind is not _GROUP_ENDED):
                if size:
                    plans.append(self._plan(after, steps, branches, others))
                    steps, branches, others = [], [], []
                after, size = interval, 0
            size += _DECISION_BYTES
            if kind is _STEP:
                assert isinstance(decision, StepPlanned)
                if path in started:
                    decision = msgspec.structs.replace(decision, started=True)
                steps.append(decision)
                if decision.input is None and decision.spec is None:
                    size += len(path)
                else:
                    size += payload_bytes(decision)
            elif kind is _BRANCH_ENDED:
                branches.append(decision)  # type: ignore[arg-type]
                if decision.failure is not None:  # type: ignore[union-attr]
                    size += payload_bytes(decision)
            else:
                others.append((kind, decision))
                size += payload_bytes(decision)
        if size:
            plans.append(self._plan(after, steps, branches, others))
        return plans

    def _plan(
        self, interval: int, steps: list[StepPlanned], branches: list[BranchEnded], others: list[tuple[Kind, Decision]]
    ) -> Plan:
        number = self.next_plan_seq
        self.next_plan_seq += 1
        if not others:
            return Plan(number, interval, self.fence, (), tuple(steps), (), tuple(branches))
        by_kind: dict[Kind, list[Any]] = {kind: [] for kind in _OTHER_KINDS}
        for kind, decision in others:
            by_kind[kind].append(decision)
        ended = by_kind[Kind.BODY_ENDED]
        return Plan(
            number,
            interval,
            self.fence,
            tuple(by_kind[Kind.GROUP]),
            tuple(steps),
            tuple(by_kind[Kind.ABANDONED]),
            tuple(branches),
            tuple(by_kind[_GROUP_ENDED]),
            ended[0] if ended else None,
        )

    def is_new(self, path: str) -> bool:
        """Whether the step at `path` is not in the journal."""
        return (Kind.STEP, path) not in self._recorded

    @property
    def starts_anew(self) -> bool:
        """Nothing is recorded: every step is new."""
        return not self._recorded

    def decided_after(self, path: str) -> int | None:
        """After which release the recorded step at `path` was planned; None: it is not recorded."""
        recorded = self._recorded.get((Kind.STEP, path)) if self._recorded else None
        return recorded[1] if recorded is not None else None

    def mark_started(self, start: Iterable[str]) -> None:
        """Note on new, untaken steps that the host starts their first attempt itself."""
        self._started.update(start)
