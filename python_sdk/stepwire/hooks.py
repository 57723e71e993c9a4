"""Hooks: functions of the service that are told what happens on its host, for logs, metrics and alarms.

A hook only looks. It cannot change a run, and what it raises is logged and counted, never more. `_runtime.hooks`
calls them; here is what users register and what they get.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from stepwire.errors import ConfigurationError
from stepwire.protocol.failure import Failure

HookKind = Literal[
    "run_started",
    "run_succeeded",
    "run_failed",
    "step_started",
    "step_succeeded",
    "step_failed",
    "undo_started",
    "undo_succeeded",
    "undo_failed",
]
"""What a hook is told of. Steps and undos are told of once per attempt, on the host that executes it."""

HOOK_KINDS: tuple[HookKind, ...] = get_args(HookKind)


@dataclass(frozen=True, slots=True)
class HookCall:
    """What happened. Hooks must not change the output: the flow gets the same object.

    Attributes:
        kind: What happened.
        run_id, flow: Of the run.
        path: Of the step, or of the undo; empty for runs.
        attempt: Of the step, from 1; 0 for runs.
        output: Of a step or run that succeeded.
        failure: Of one that failed; code CANCELLED: the attempt was told to stop.
    """

    kind: HookKind
    run_id: str
    flow: str
    path: str = ""
    attempt: int = 0
    output: Any = None
    failure: Failure | None = None


HookFunction = Callable[[HookCall], Any]
"""Async, or plain: then it is called on a thread."""

F = TypeVar("F", bound=HookFunction)


@dataclass(frozen=True, slots=True)
class Hook:
    """A registered hook."""

    kind: HookKind
    fn: HookFunction

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise ConfigurationError(f"a hook is a function, not {self.fn!r:.80}")

    @property
    def is_async(self) -> bool:
        """Whether it runs on the loop and not on a thread."""
        return inspect.iscoroutinefunction(self.fn)


def registering(hooks: list[Hook], kind: HookKind) -> Callable[[F], F]:
    """A decorator that adds a function to `hooks`. Raises ConfigurationError for an unknown kind, at once."""
    if kind not in HOOK_KINDS:
        raise ConfigurationError(f"there is no hook {kind!r:.80}", why=f"there are {', '.join(HOOK_KINDS)}")

    def register(fn: F) -> F:
        hooks.append(Hook(kind, fn))
        return fn

    return register
