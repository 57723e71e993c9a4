"""How a step is compensated, as users write it: `compensate=` takes a function, a registered step or a Compensation.

Pure: everything is checked when the step is asked for, never when its run is already failing (MISSION S8, O9).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stepwire.errors import ConfigurationError
from stepwire.flow import StepFunction
from stepwire.protocol.plan import StepKind, Undo
from stepwire.retry import Duration, Retry, duration, retry_policy


@dataclass(frozen=True, slots=True)
class Compensation:
    """An undo with policies of its own (MISSION S8).

    Args:
        fn: Takes the step's output, or the output and the StepError that the run failed with (None: it was
            cancelled). A registered step runs on any host that serves it; anything else is kept with the flow.
        retries: Tries after the first, or a Retry; None: the registered step's own, else 3, exponential from 1 s.
        timeout: Longest duration of one attempt, 0..366 days; None: the registered step's own, else no limit.

    Raises:
        ConfigurationError: `fn` is not callable, or a policy is outside its bounds.
    """

    fn: Callable[..., Any]
    retries: int | Retry | None = None
    timeout: Duration | None = None
    planned: Undo = field(init=False, repr=False, compare=False)
    """The same as the protocol says it."""

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise ConfigurationError(f"compensate= takes a function or a registered step, not {self.fn!r}")
        object.__setattr__(self, "planned", self._planned())

    def _planned(self) -> Undo:
        seconds = None if self.timeout is None else duration(self.timeout)
        if not isinstance(self.fn, StepFunction):
            return Undo(StepKind.RUN, "", retry_policy(self.retries), seconds)
        return Undo(
            StepKind.TASK,
            self.fn.name,
            self.fn.retry if self.retries is None else retry_policy(self.retries),
            self.fn.timeout if seconds is None else seconds,
        )


Compensate = Callable[..., Any] | Compensation
"""What `compensate=` takes; a registered step is callable, too."""


def compensation(value: Compensate) -> Compensation:
    """The Compensation of a `compensate=` option. Raises ConfigurationError."""
    return value if isinstance(value, Compensation) else Compensation(value)
