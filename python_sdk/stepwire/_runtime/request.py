"""A step as user code asks for it, whatever its kind: what its plan will say, and how its outcome is read.

`_context` makes requests, `LiveBody.plan_step` turns them into decisions; neither has a branch per kind. This
module does not know paths: they are counted when the step is planned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from stepwire._runtime.attempt import StepCall
from stepwire.errors import PayloadTooLarge
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Call, RetryPolicy, SendEvent, StepKind, StepPlanned, StepSpec, Undo

if TYPE_CHECKING:
    from stepwire._runtime.undo import UndoCall

Decode = Callable[[Payload], Any]


class StepRequest(msgspec.Struct):
    """What `ctx.step` was asked for. A Struct, because every step makes one.

    Attributes:
        kind: Of the step.
        call: What an attempt on this host calls; None: the engine performs the step.
        decode: Reads an output that the engine produced; None: `call` knows how.
        task: The registered name of what runs, if it has one.
        input: Of a registered step or an invoked flow.
        retry, timeout, deadline: Policies; durations in seconds.
        spec: What a kind performed by the engine does.
        undo, undo_call: How it is compensated, and the closure if that is one.
    """

    kind: StepKind
    call: StepCall | None
    decode: Decode | None = None
    task: str = ""
    input: Payload | None = None
    retry: RetryPolicy | None = None
    timeout: float | None = None
    deadline: float | None = None
    spec: StepSpec | None = None
    undo: Undo | None = None
    undo_call: UndoCall | None = None

    def check_sizes(self, name: str, bytes_max: int) -> None:
        """Raises PayloadTooLarge if something of step `name` that would travel exceeds the engine's limit."""
        if self.input is not None and len(self.input.data) > bytes_max:
            raise PayloadTooLarge(f"input of step {name!r} is {len(self.input.data)} bytes, limit {bytes_max}")
        if self.spec is not None:
            for what, payload in _payloads(self.spec):
                if len(payload.data) > bytes_max:
                    raise PayloadTooLarge(f"{what} of step {name!r} is {len(payload.data)} bytes, limit {bytes_max}")

    def planned(self, path: str, concurrent: bool) -> StepPlanned:
        """The decision to run it at `path`."""
        return StepPlanned(
            path,
            self.kind,
            self.task,
            self.input,
            self.retry,
            self.timeout,
            False,
            concurrent,
            self.deadline,
            self.spec,
            self.undo,
        )


def _payloads(spec: StepSpec) -> Iterator[tuple[str, Payload]]:
    match spec:
        case SendEvent():
            for event in spec.events:
                yield f"event {event.name!r}", event.data
        case Call(body=Payload() as body):
            yield "the body", body
