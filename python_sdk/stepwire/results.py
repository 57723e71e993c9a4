"""What a group tells about its branches and their steps, as values that user code reads (MISSION S5).

The same values come out of every replay of a run: all of it follows from the journal. Nothing here knows how a
flow runs; `_runtime.report` makes these values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar, overload

import msgspec

from stepwire.errors import StepError

T = TypeVar("T")
V = TypeVar("V")

Outcome = Literal["completed", "failed", "cancelled"]
StepStatus = Literal["completed", "failed", "cancelled", "skipped"]


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one step ended (MISSION S5, O4).

    Attributes:
        name: As the flow named it; two steps of one name differ by `path`.
        path: Identity of the step in its run.
        status: "completed" or "failed" after all its attempts; "cancelled": it was planned, and its branch or its
            await was given up before it had an outcome; "skipped": a declared flow never planned it, because of
            something before it. Branches of `ctx.group` plan their steps themselves, so they skip none.
        attempts: Tries it took; 0 if it has no outcome.
        started_at: Time of the flow when it planned the step; None if skipped.
        ended_at: `started_at` and `duration` together; for a cancelled step the time of the flow when its group ended.
        duration: Seconds from its plan to its outcome, waiting and retries included; None without outcome.
        output: What it returned, if it completed.
        error: What it failed with.
    """

    name: str
    path: str
    status: StepStatus
    attempts: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration: float | None = None
    output: Any = None
    error: StepError | None = None


class BranchResult(msgspec.Struct, Generic[V], frozen=True, kw_only=True):
    """How one branch of a group ended.

    Attributes:
        index: Its place in the declaration, from 0.
        name: Of the branch's function, or of its first step if it is a lambda or a partial; empty: it has neither.
        outcome: "completed": it returned; "failed": it raised; "cancelled": the group ended before it, by
            `cancel_siblings`, a race that was won or a deadline, or user code gave up on it.
        value: What it returned; None unless it completed.
        error: What it failed with. What is no StepError hangs on its `__cause__`.
        steps: Its own steps in the order they were planned, without those of groups inside it. A step that the branch
            left behind, still running, is not among them.
    """

    index: int
    name: str
    outcome: Outcome
    value: V
    error: StepError | None = None
    steps: tuple[StepResult, ...] = ()

    @property
    def ok(self) -> bool:
        """It completed."""
        return self.outcome == "completed"


class GroupResult(Sequence[BranchResult[T | None]], Generic[T]):
    """How the branches of a group ended, in declaration order (MISSION S5, S15).

    Args:
        branches: One for each branch.
    """

    __slots__ = ("_branches",)

    def __init__(self, branches: Sequence[BranchResult[Any]] = ()) -> None:
        self._branches = tuple(branches)

    @overload
    def __getitem__(self, index: int) -> BranchResult[T | None]: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[BranchResult[T | None], ...]: ...

    def __getitem__(self, index: int | slice) -> BranchResult[T | None] | tuple[BranchResult[T | None], ...]:
        return self._branches[index]

    def __len__(self) -> int:
        return len(self._branches)

    def __iter__(self) -> Iterator[BranchResult[T | None]]:
        return iter(self._branches)

    def __eq__(self, other: object) -> bool:
        return self._branches == other._branches if isinstance(other, GroupResult) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._branches)

    def __repr__(self) -> str:
        return f"GroupResult({list(self._branches)!r})"

    @property
    def completed(self) -> tuple[BranchResult[T], ...]:
        """Branches that returned."""
        return self._of("completed")

    @property
    def failed(self) -> tuple[BranchResult[None], ...]:
        """Branches that raised."""
        return self._of("failed")

    @property
    def cancelled(self) -> tuple[BranchResult[None], ...]:
        """Branches that the group ended before."""
        return self._of("cancelled")

    @property
    def values(self) -> tuple[T, ...]:
        """What the completed branches returned."""
        return tuple([branch.value for branch in self.completed])

    def _of(self, outcome: Outcome) -> tuple[BranchResult[Any], ...]:
        return tuple([branch for branch in self._branches if branch.outcome == outcome])
