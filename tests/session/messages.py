"""Every kind of message of a host about run "r" and its step "a", right and wrong, for a given scene."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import (
    AttemptInProgress,
    BodyFailed,
    Drain,
    Fault,
    Goodbye,
    HostFrame,
    HostSection,
    NeedSnapshot,
    Reject,
    RejectReason,
    Report,
    Result,
)
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded, Fence, GroupOpened, Plan, StepPlanned
from tests.session.desk import CONFIG, task
from tests.session.scenes import BROKEN, A, Scene

UINT32 = 2**32 - 1
UINT64 = 2**64 - 1
NEWER = Fence(UINT32, UINT64)
Message = Callable[[Scene], HostFrame]


def _section(make: Callable[[Scene], dict[str, Any]], run_id: str = "r", *, durable: bool = True) -> Message:
    """A frame with one section."""
    return lambda scene: HostFrame(
        position=scene.next_position if durable else 0, runs=[HostSection(run_id, **make(scene))]
    )


def _plan(make: Callable[[Scene], Plan], run_id: str = "r") -> Message:
    return _section(lambda scene: {"plans": [make(scene)]}, run_id)


def _next(scene: Scene, **what: Any) -> Plan:
    """The plan that is due."""
    released = scene.host.seqs.get("r", (None, 0, 0))[1]
    return Plan(scene.planned + 1, released, scene.body, **what)


def _result(run_id: str = "r", **changes: Any) -> Message:
    """The outcome of the attempt that was given out last, changed."""

    def make(scene: Scene) -> dict[str, Any]:
        lease = scene.lease
        result = Result("a", lease.attempt, lease.fence, Payload(b"1"))
        return {"results": [msgspec.structs.replace(result, **changes)]}

    return _section(make, run_id)


def _reject(reason: RejectReason, run_id: str = "r", **changes: Any) -> Message:
    def make(scene: Scene) -> dict[str, Any]:
        lease = scene.lease
        return {"rejects": [msgspec.structs.replace(Reject("a", lease.attempt, lease.fence, reason), **changes)]}

    return _section(make, run_id, durable=False)


def _frame(**what: Any) -> Message:
    return lambda scene: HostFrame(**what)


def _at(offset: int) -> Message:
    return lambda scene: HostFrame(position=max(0, scene.next_position + offset))


def _held(scene: Scene) -> AttemptInProgress:
    return AttemptInProgress("r", "a", scene.lease.attempt, scene.lease.fence, 1.0)


CLOSURE = StepPlanned("c", started=True)
NO_OUTPUT = Failure(ErrorCode.USER_ERROR, "ValueError", "no")
STRANGER = AttemptInProgress("never heard of", "x", 7, Fence(3, 3), 1e9)
MANY = tuple([AttemptInProgress(f"r{n}", "x", 1, Fence(1, 1)) for n in range(20_000)])

MESSAGES: dict[str, Message] = {
    # Plans
    "the next plan": _plan(lambda s: _next(s, steps=(task("n"),))),
    "the next plan, which ends the body": _plan(lambda s: _next(s, body_ended=BodyEnded(Payload(b"done")))),
    "plan 1 again": _plan(lambda s: Plan(1, 0, s.body, steps=(A,))),
    "plan 1 again with other content": _plan(lambda s: Plan(1, 0, s.body, steps=(task("other"),))),
    "a plan too far": _plan(lambda s: Plan(s.planned + 5, 0, s.body, steps=(task("n"),))),
    "a plan with the largest number": _plan(lambda s: Plan(UINT32, UINT32, s.body)),
    "a plan after a release of the future": _plan(lambda s: Plan(s.planned + 1, 1000, s.body)),
    "a plan of an older body": _plan(lambda s: Plan(s.planned + 1, 0, Fence(1, 0), steps=(task("n"),))),
    "a plan of a body nobody has": _plan(lambda s: Plan(s.planned + 1, 0, NEWER, steps=(CLOSURE,))),
    "a plan in a scope that does not exist": _plan(lambda s: _next(s, steps=(task("g/[0]/n"),))),
    "a plan with a step twice": _plan(lambda s: _next(s, steps=(task("n"), task("n")))),
    "a plan with a step that exists": _plan(lambda s: _next(s, steps=(A,))),
    "a plan with a group too large": _plan(lambda s: _next(s, groups=(GroupOpened("g", 10**6),))),
    "a plan that abandons what nobody planned": _plan(lambda s: _next(s, abandoned=("nothing",))),
    "a plan of an unknown run": _plan(lambda s: Plan(1, 0, NEWER, steps=(CLOSURE,)), run_id="nobody"),
    # Results
    "the result": _result(),
    "the result, a failure": _result(output=None, failure=NO_OUTPUT),
    "the result with another value": _result(output=Payload(b"2")),
    "a result with an older fence": _result(fence=Fence(1, 0)),
    "a result with the highest fence": _result(fence=NEWER),
    "a result of a later attempt": _result(attempt=2),
    "a result of attempt 2^31": _result(attempt=2**31),
    "a result of an unknown step": _result(path="nothing"),
    "a result of the longest path": _result(path="p" * 16_000),
    "a result of an unknown run": _result("nobody"),
    "a result of a run with a huge name": _result("r" * 100_000),
    "a result over the limit": _result(output=Payload(bytes(CONFIG.payload_bytes_max + 1))),
    # Rejects and lost bodies
    **{f"rejected: {reason.name}": _reject(reason) for reason in RejectReason},
    "rejected: an unknown step": _reject(RejectReason.NO_SLOT, path="nothing"),
    "rejected: an older fence": _reject(RejectReason.NO_BODY, fence=Fence(1, 0)),
    "rejected: an unknown run": _reject(RejectReason.NO_BODY, "nobody"),
    "the body is given back": _section(lambda s: {"need_snapshot": NeedSnapshot(s.body)}),
    "an older body is given back": _section(lambda s: {"need_snapshot": NeedSnapshot(Fence(1, 0))}),
    "a body of an unknown run is given back": _section(lambda s: {"need_snapshot": NeedSnapshot(NEWER)}, "nobody"),
    "the body failed": _section(lambda s: {"body_failed": BodyFailed(s.body, BROKEN)}),
    "an older body failed": _section(lambda s: {"body_failed": BodyFailed(Fence(1, 0), BROKEN)}),
    # About the host
    "a report": lambda s: HostFrame(report=Report(1, attempts=(_held(s),))),
    "a report of strangers": _frame(report=Report(UINT32, UINT32, 1e9, 0, (STRANGER,))),
    "a report of 20,000 strangers": _frame(report=Report(0, attempts=MANY)),
    "a report of a frame of the future": lambda s: HostFrame(report=Report(0, 0, 0.0, UINT32, (_held(s),))),
    "drain": _frame(drain=Drain(1e9)),
    "goodbye": _frame(goodbye=Goodbye("g" * 10_000)),
    "a fault of the run": _frame(fault=Fault(ErrorCode.NON_DETERMINISTIC_FLOW, "no", "r")),
    "a fault": _frame(fault=Fault(ErrorCode.PROTOCOL, "no")),
    "a second hello": lambda s: HostFrame(hello=s.host.session._hello),
    "an empty frame": _at(0),
    "a frame again": _at(-1),
    "a frame too far": _at(7),
    "the largest position": _frame(position=UINT64),
}
