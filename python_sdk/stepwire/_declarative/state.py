"""What functions of declared steps see: the run's input and the results of what was declared before (MISSION O8, O12).

A state is read-only and private: its values are decoded anew for every attempt, so nothing that one step does to
them is seen by another, and a retry sees what the first attempt saw. Nothing here plans anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from stepwire._declarative.results import FlowGroupResult, FlowStepResult, ResultUnavailable, Stored
from stepwire.results import StepResult


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a name stands in a flow.

    Attributes:
        place: Of the step or group in the flow, from 0; members of a group have the group's.
        group, index: Of a member; empty and 0 for others.
        members: Of a group, in declaration order; None: it is a step.
        fail: Policy of a group.
    """

    place: int
    group: str = ""
    index: int = 0
    members: tuple[str, ...] | None = None
    fail: str = ""


Names = Mapping[str, Standing]


def step_names(names: Names) -> Iterator[str]:
    """Every step of a flow, in declaration order."""
    return (name for name, standing in names.items() if standing.members is None)


@dataclass(frozen=True, slots=True)
class Settled:
    """A step that has ended: its result without output, and the output as it is stored."""

    result: StepResult
    output: Stored | None

    def told(self, group: str) -> FlowStepResult:
        """The result as its readers get it, with a copy of the output of their own."""
        told = self.result
        return FlowStepResult(
            name=told.name,
            path=told.path,
            status=told.status,
            group=group,
            attempts=told.attempts,
            started_at=told.started_at,
            ended_at=told.ended_at,
            duration=told.duration,
            output=None if self.output is None else self.output.copy(),
            error=told.error,
        )


class Book:
    """What is known of one run of a declared flow; the body alone writes it.

    Attributes:
        names: Where everything stands that the flow declares.
        settled: Steps that ended, by name.
    """

    def __init__(self, flow: str, run_id: str, input: Stored, names: Names) -> None:
        self.flow = flow
        self.run_id = run_id
        self.input = input
        self.names = names
        self.settled: dict[str, Settled] = {}

    def step(self, name: str) -> FlowStepResult:
        """How a step that has settled ended."""
        return self.settled[name].told(self.names[name].group)

    def group(self, name: str) -> FlowGroupResult:
        """How a group that has settled ended."""
        standing = self.names[name]
        return FlowGroupResult(name, standing.fail, tuple([self.step(member) for member in standing.members or ()]))


class View(NamedTuple):
    """What a step, or the members of a group, may see of their run: what stands before `place`."""

    book: Book
    place: int

    def step(self, name: str) -> FlowStepResult:
        """Raises ResultUnavailable."""
        standing = self._standing(name)
        if standing.members is not None:
            raise ResultUnavailable(f"{name!r} is a group", why="its result is that of several steps: group_result")
        return self.book.step(name)

    def group(self, name: str) -> FlowGroupResult:
        """Raises ResultUnavailable."""
        standing = self._standing(name)
        if standing.members is None:
            raise ResultUnavailable(f"{name!r} is a step, not a group", why="its result is that of one step: result")
        return self.book.group(name)

    def _standing(self, name: str) -> Standing:
        """Of something that has settled."""
        standing = self.book.names.get(name)
        if standing is None:
            raise ResultUnavailable(f"flow {self.book.flow!r} declares neither a step nor a group {name!r}")
        if standing.place > self.place:
            raise ResultUnavailable(f"{name!r} has no result yet", why="it is declared later")
        if standing.place < self.place:
            return standing
        if not standing.group and standing.members is None:
            raise ResultUnavailable(f"{name!r} has no result yet", why="it is this step itself")
        raise ResultUnavailable(
            f"{name!r} has no result that a step beside it could read",
            why=f"steps of group {standing.group or name!r} run at the same time and must not depend on each other",
        )


class FlowState:
    """What the function of a declared step gets; read-only (MISSION S9, O8)."""

    __slots__ = ("_input", "_steps", "_view")

    def __init__(self, view: View) -> None:
        self._view = view
        self._input = view.book.input.copy()
        self._steps: dict[str, FlowStepResult] = {}

    def __repr__(self) -> str:
        return f"<state of run {self.run_id}>"

    def fresh(self) -> FlowState:
        """The same, with values of its own."""
        return FlowState(self._view)

    @property
    def run_id(self) -> str:
        """Identity of the run."""
        return self._view.book.run_id

    @property
    def input(self) -> Any:
        """What the run was started with, by `Flow(input=)`; None if with nothing."""
        return self._input.value

    def result(self, name: str) -> FlowStepResult:
        """How a step ended that was declared before; its `.output` raises unless it completed.

        Raises:
            ResultUnavailable: there is no such step, or it stands in the same group, or comes later.
        """
        if name not in self._steps:
            self._steps[name] = self._view.step(name)
        return self._steps[name]

    def group_result(self, name: str) -> FlowGroupResult:
        """How a group ended that was declared before: `.ok` and `.failed` name its steps.

        Raises:
            ResultUnavailable: there is no such group, or it comes later.
        """
        return self._view.group(name)
