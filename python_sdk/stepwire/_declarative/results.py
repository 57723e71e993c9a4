"""What comes out of a declared flow: values for its steps and for clients (MISSION S5, S9, O1, O4).

`_declarative.wire` makes them to JSON and back. Nothing here knows how a flow runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from stepwire.codec import JSON_CODEC, Codec
from stepwire.errors import MESSAGE_BYTES_MAX, StepError, limited_depth, valid_text
from stepwire.protocol.failure import CAUSE_DEPTH_MAX, ErrorCode, Failure, Retryable
from stepwire.protocol.payload import Payload
from stepwire.results import StepResult

FlowStatus = Literal["completed", "failed", "cancelled"]
UndoStatus = Literal["completed", "failed", "cancelled"]


class ResultUnavailable(StepError):
    """There is no such result where it was asked for.

    A step that raises it is not tried again: the answer would be the same.

    Args:
        what: What was asked for, or the Failure.
        why: Why it is not there.
        error: What the step failed with whose output was asked for; it hangs on `__cause__`.
    """

    hint = "read results of steps and groups that are declared before; look at .status where a failure is tolerated"

    def __init__(
        self, what: Failure | str = "", path: str = "", *, why: str = "", error: StepError | None = None
    ) -> None:
        if not isinstance(what, Failure):
            what = Failure(
                ErrorCode.USER_ERROR,
                "ResultUnavailable",
                valid_text(f"{what}: {why}" if why else what, MESSAGE_BYTES_MAX),
                retryable=Retryable.NO,
                cause=None if error is None else limited_depth(error.failure, CAUSE_DEPTH_MAX - 1),
            )
        super().__init__(what, path)
        self.__cause__ = error

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.hint}"


class Stored:
    """An output or input as stored, decoded when first asked for.

    Args:
        payload: None: it was left out.
        type, codec: How it is decoded.
    """

    __slots__ = ("_codec", "_payload", "_type", "_value")

    def __init__(self, payload: Payload | None, type: Any, codec: Codec = JSON_CODEC) -> None:
        self._payload = payload
        self._type = type
        self._codec = codec
        self._value: Any = msgspec.UNSET

    def __repr__(self) -> str:
        return "<left out>" if self._payload is None else repr(self.value)

    def __eq__(self, other: object) -> bool:
        return self._payload == other._payload if isinstance(other, Stored) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._payload)

    @property
    def left_out(self) -> bool:
        """It was not kept."""
        return self._payload is None

    @property
    def value(self) -> Any:
        """Raises InvalidInput if it does not fit its type any more."""
        if self._value is msgspec.UNSET:
            assert self._payload is not None
            self._value = self._codec.decode(self._payload, self._type)
        return self._value

    def copy(self) -> Stored:
        """The same, not decoded yet: whoever gets it has a value of its own."""
        return Stored(self._payload, self._type, self._codec)

    def plain(self) -> Any:
        """As plain JSON value."""
        assert self._payload is not None
        return self._codec.decode(self._payload)


class FlowStepResult(StepResult, frozen=True, kw_only=True):
    """How one step of a declared flow ended (MISSION O4); a StepResult whose `output` raises unless it completed.

    Attributes:
        group: The group it belongs to; empty: none.
        error: What it failed with. A run's output has no tracebacks, its record has (`Flow.result_of`).
        undo: How its compensation ended; None: it was not compensated. Only `Flow.result_of` tells it.
    """

    group: str = ""
    undo: UndoStatus | None = None

    @property
    def ok(self) -> bool:
        """It completed."""
        return self.status == "completed"

    @property  # type: ignore[misc]  # of a step that did not complete a StepResult has None, which may be an output
    def output(self) -> Any:
        """What it returned, by the annotation of its function; the same object every time.

        Raises:
            ResultUnavailable: it did not complete, or its output was left out. What it failed with is its
                `.cause`.
        """
        stored: Stored | None = _STORED.__get__(self)
        if stored is None:
            raise _no_output(self)
        if stored.left_out:
            raise ResultUnavailable(f"the output of step {self.name!r} is not part of this result", self.path)
        return stored.value


_STORED: Any = vars(StepResult)["output"]
"""The field behind `FlowStepResult.output`: there it holds a Stored, and None unless the step completed."""


def stored_output(result: FlowStepResult) -> Stored | None:
    """The output as it is stored; None unless the step completed."""
    stored: Stored | None = _STORED.__get__(result)
    return stored


def _no_output(result: FlowStepResult) -> ResultUnavailable:
    what = f"step {result.name!r} has no output"
    if result.error is None:
        return ResultUnavailable(what, result.path, why=f"it is {result.status}")
    failure = result.error.failure
    return ResultUnavailable(
        what, result.path, why=f"it failed with {failure.type}: {failure.message}", error=result.error
    )


@dataclass(frozen=True, slots=True)
class FlowGroupResult:
    """How one group of a declared flow ended (MISSION O1, O8).

    Attributes:
        name: Of the group.
        fail: Its policy: "any", "all", "never" or "quorum".
        steps: Of its members, in declaration order.
    """

    name: str
    fail: str
    steps: tuple[FlowStepResult, ...]

    @property
    def ok(self) -> list[str]:
        """Names of the steps that completed."""
        return [step.name for step in self.steps if step.status == "completed"]

    @property
    def failed(self) -> list[str]:
        """Names of the steps that failed."""
        return [step.name for step in self.steps if step.status == "failed"]

    @property
    def cancelled(self) -> list[str]:
        """Names of the steps that were not needed any more."""
        return [step.name for step in self.steps if step.status == "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowResult:
    """How a run of a declared flow ended (MISSION S9, O1).

    Attributes:
        name: Of the flow.
        status: Of the run; a run that returns one has "completed". `Flow.result_of` tells of every run that ended.
        steps: Every step of the flow, those of groups included, in declaration order.
        groups: Of the groups, by name.
        failure: Why it failed.
    """

    name: str
    status: FlowStatus
    steps: tuple[FlowStepResult, ...]
    groups: Mapping[str, FlowGroupResult]
    failure: Failure | None = None

    def result(self, name: str) -> FlowStepResult:
        """How a step ended. Raises KeyError if the flow has none of that name."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def group_result(self, name: str) -> FlowGroupResult:
        """How a group ended. Raises KeyError if the flow has none of that name."""
        return self.groups[name]
