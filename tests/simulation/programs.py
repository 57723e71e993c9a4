"""Random flow programs: what they do, what is planned for it, and what each of their steps is to meet.

A program is a tuple of operations. What it returns follows from its journal alone (`oracle.py`); which of its
attempts fail stands in it, so hosts and oracle need not agree on chance.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import NamedTuple

from stepwire.protocol import paths
from stepwire.protocol.frames import FlowOptions, Trigger
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    CALL_STEP,
    Backoff,
    Call,
    Event,
    FailPolicy,
    GroupOpened,
    Invoke,
    ParallelMode,
    RetryPolicy,
    SendEvent,
    Sleep,
    StepKind,
    StepPlanned,
    Undo,
    WaitEvent,
)
from stepwire_engine.core.causes import RUN_FAILED_EVENT

RETRY = RetryPolicy(max_attempts=6, backoff=Backoff.FIXED, delay=0.3, jitter=0.5)
SLOW_RETRY = RetryPolicy(max_attempts=4, backoff=Backoff.FIXED, delay=2.5, jitter=0.2)
UNDO_RETRY = RetryPolicy(max_attempts=5, backoff=Backoff.FIXED, delay=0.2, jitter=0.0)
TASK = "work"
UNDO_TASK = "refund"
EVENTS = ("paid", "shipped")
KEYS = 2
"""Events of one name carry one of so many keys, and most waits want one of them."""
TRIGGER_EVENT = "arrived"


class Luck(NamedTuple):
    """What attempts meet: the first `fails` of them fail; with `fatal` the first one fails for good."""

    fails: int = 0
    fatal: bool = False


class StepOp(NamedTuple):
    """A step that some host executes.

    Attributes:
        caught: The flow goes on if it fails.
        undo: How it is compensated (RUN: a closure, TASK: a registered step), and what that meets.
    """

    name: str
    kind: StepKind
    luck: Luck
    caught: bool
    retry: RetryPolicy = RETRY
    timeout: float | None = None
    deadline: float | None = None
    undo: tuple[StepKind, Luck] | None = None

    def planned(self, path: str) -> StepPlanned:
        undo = None
        if self.undo is not None:
            undo = Undo(self.undo[0], UNDO_TASK if self.undo[0] is StepKind.TASK else "", UNDO_RETRY)
        name = {StepKind.TASK: TASK, StepKind.CALL: CALL_STEP}.get(self.kind, "")
        given = Payload(json.dumps(path).encode()) if self.kind is StepKind.TASK else None
        spec = Call("http://example.invalid/") if self.kind is StepKind.CALL else None
        return StepPlanned(
            path,
            self.kind,
            name,
            given,
            self.retry,
            self.timeout,
            deadline=self.deadline,
            spec=spec,
            undo=undo,
        )


class SleepOp(NamedTuple):
    name: str
    seconds: float
    deadline: float | None
    caught: bool

    def planned(self, path: str) -> StepPlanned:
        return StepPlanned(path, StepKind.SLEEP, deadline=self.deadline, spec=Sleep(self.seconds))


class WaitOp(NamedTuple):
    """Waits for an event of a name, and with `key` for one that carries it."""

    name: str
    event: str
    key: int | None
    timeout: float | None
    lookback: float
    deadline: float | None
    caught: bool

    def planned(self, path: str) -> StepPlanned:
        match = "" if self.key is None else f"data.key == `{self.key}`"
        spec = WaitEvent(self.event, match, self.timeout, self.lookback)
        return StepPlanned(path, StepKind.WAIT_EVENT, deadline=self.deadline, spec=spec)


class SendOp(NamedTuple):
    """Sends events; `ids` are empty or shared with other senders."""

    name: str
    events: tuple[tuple[str, int, str], ...]

    def planned(self, path: str) -> StepPlanned:
        events = tuple([Event(name, event_data(key), event_id) for name, key, event_id in self.events])
        return StepPlanned(path, StepKind.SEND_EVENT, spec=SendEvent(events))


class InvokeOp(NamedTuple):
    name: str
    flow: str
    key: str
    retry: RetryPolicy | None
    deadline: float | None
    caught: bool

    def planned(self, path: str) -> StepPlanned:
        given = Payload(json.dumps({"from": path}).encode())
        spec = Invoke(self.flow, self.key)
        return StepPlanned(path, StepKind.INVOKE, "", given, self.retry, deadline=self.deadline, spec=spec)


class PairOp(NamedTuple):
    """Two steps awaited at the same time; with `abandon` the flow gives up on the second one after the first."""

    first: StepOp
    second: StepOp
    abandon: bool


class ThinkOp(NamedTuple):
    """User code between two steps that takes its time."""


class GroupOp(NamedTuple):
    name: str
    mode: ParallelMode
    fail: FailPolicy
    quorum: int
    cancel_siblings: bool
    limit: int
    deadline: float | None
    caught: bool
    branches: tuple[Program, ...]

    def opened(self, path: str) -> GroupOpened:
        return GroupOpened(
            path,
            len(self.branches),
            self.mode,
            self.fail,
            self.quorum,
            self.cancel_siblings,
            self.limit,
            deadline=self.deadline,
        )


Op = StepOp | SleepOp | WaitOp | SendOp | InvokeOp | PairOp | ThinkOp | GroupOp
Program = tuple[Op, ...]


class SimFlow(NamedTuple):
    """A flow of one world.

    Attributes:
        end: "return", "fail", "cancel" or "restart"; a run that was restarted returns.
    """

    name: str
    program: Program
    end: str
    options: FlowOptions

    @property
    def is_handler(self) -> bool:
        """Started by events that say that a run failed."""
        return any(trigger.event == RUN_FAILED_EVENT for trigger in self.options.triggers)


def event_data(key: int) -> Payload:
    return Payload(json.dumps({"key": key}).encode())


Place = tuple[str, "Op", tuple[str, ...]]
"""A path, what stands there, and the groups with a limit around it."""


def places(program: Program, scope: str = "", limits: tuple[str, ...] = ()) -> Iterator[Place]:
    """Every operation that has a path."""
    occurrences = paths.Occurrences(scope)
    for op in program:
        match op:
            case ThinkOp():
                pass
            case PairOp(first, second):
                yield occurrences.next_path(first.name), first, limits
                yield occurrences.next_path(second.name), second, limits
            case GroupOp():
                path = occurrences.next_path(op.name)
                yield path, op, limits
                inside = (*limits, path) if op.limit else limits
                for index, branch in enumerate(op.branches):
                    yield from places(branch, paths.branch_path(path, index), inside)
            case _:
                yield occurrences.next_path(op.name), op, limits


class Author:
    """Writes the flows of one world.

    Args:
        kinds: "performed" for sleeps, events and children; "groups" for policies beyond waiting for all;
            "failures" for steps and flows that fail for good.
    """

    def __init__(self, rng: random.Random, kinds: frozenset[str]) -> None:
        self._rng = rng
        self._performed = "performed" in kinds
        self._policies = "groups" in kinds
        self._failures = "failures" in kinds
        self._children: tuple[str, ...] = ()
        self._sent = EVENTS
        """Events that steps send; only runs that no event starts may start others."""

    def flows(self, mains: int) -> dict[str, SimFlow]:
        """The flows that clients start (`main0`...), those they invoke, and those that events start."""
        rng = self._rng
        flows: list[SimFlow] = []
        if self._performed:
            for name in ("leaf", "child"):
                flows.append(self._flow(name, length=2, depth=2, deadline=rng.random() < 0.1))
                self._children = (*self._children, name)
            arrived = (Trigger(TRIGGER_EVENT, "data.key == `0`"), Trigger(TRIGGER_EVENT))
            flows.append(self._flow("greeter", length=2, depth=2, triggers=arrived[: rng.randint(1, 2)]))
            failed = (Trigger(RUN_FAILED_EVENT, "data.flow == 'main0'"),)
            flows.append(self._flow("main0.on_failure", length=1, depth=3, triggers=failed))
        self._sent = (*EVENTS, *EVENTS, TRIGGER_EVENT)
        flows.extend([self._flow(f"main{i}", length=4, depth=0, deadline=rng.random() < 0.12) for i in range(mains)])
        return {flow.name: flow for flow in flows}

    def _flow(
        self, name: str, *, length: int, depth: int, deadline: bool = False, triggers: tuple[Trigger, ...] = ()
    ) -> SimFlow:
        rng = self._rng
        program = self._program(depth, length)
        ends = ["return"] * 14 + (["fail"] * 3 + ["cancel"] if self._failures else [])
        end = rng.choice([*ends, "restart"] if self._performed else ends)
        limit = rng.choice([1.0, 3.0, 7.0]) if deadline and self._failures else None
        return SimFlow(name, program, end, FlowOptions(name, limit, rng.random() < 0.5, triggers))

    def _program(self, depth: int, length: int, least: int = 1) -> Program:
        return tuple([self._op(depth) for _ in range(self._rng.randint(least, length))])

    def _op(self, depth: int) -> Op:
        rng = self._rng
        if depth < 3 and rng.random() < 0.33:
            return self._group(depth)
        if self._performed and rng.random() < 0.33:
            return rng.choice([self._sleep, self._wait, self._send, self._invoke])()
        if rng.random() < 0.06:
            return ThinkOp()
        if rng.random() < 0.06:
            return PairOp(self._step("left"), self._step("right"), rng.random() < 0.4)
        return self._step(rng.choice("abc"))

    def _step(self, name: str) -> StepOp:
        rng = self._rng
        kind = rng.choice([StepKind.RUN] * 4 + [StepKind.TASK] * 2 + [StepKind.CALL] * self._performed)
        undo = None
        if rng.random() < 0.4:
            undo = rng.choice([StepKind.RUN, StepKind.RUN, StepKind.TASK]), self._luck(0.1)
        return StepOp(
            name,
            kind,
            self._luck(0.06),
            rng.random() < 0.4,
            SLOW_RETRY if rng.random() < 0.1 else RETRY,
            0.5 if rng.random() < 0.1 else None,
            self._deadline(0.06),
            undo,
        )

    def _luck(self, fatal: float) -> Luck:
        rng = self._rng
        if self._failures and rng.random() < fatal:
            return Luck(fatal=True) if rng.random() < 0.7 else Luck(9)
        return Luck(rng.choice([0, 0, 0, 0, 1, 2]))

    def _deadline(self, chance: float) -> float | None:
        rng = self._rng
        return rng.choice([0.05, 0.2, 0.2, 2.0]) if self._failures and rng.random() < chance else None

    def _sleep(self) -> Op:
        rng = self._rng
        return SleepOp("nap", rng.choice([0.0, 0.1, 0.7, 2.0, 4.0]), self._deadline(0.1), rng.random() < 0.5)

    def _wait(self) -> Op:
        rng = self._rng
        key = rng.choice([None, *range(KEYS)])
        timeout = rng.choice([None, None, 0.0, 0.5, 3.0])
        lookback = rng.choice([0.0, 0.0, 5.0])
        return WaitOp("hear", rng.choice(EVENTS), key, timeout, lookback, self._deadline(0.1), rng.random() < 0.5)

    def _send(self) -> Op:
        rng = self._rng
        ids = ["", "", f"shared-{rng.randrange(3)}"]
        count = rng.choice([1, 1, 2])
        events = [(rng.choice(self._sent), rng.randrange(KEYS), rng.choice(ids)) for _ in range(count)]
        return SendOp("tell", tuple(events))

    def _invoke(self) -> Op:
        rng = self._rng
        if not self._children:
            return self._step("a")
        retry = rng.choice([None, RetryPolicy(max_attempts=2, backoff=Backoff.FIXED, delay=0.5)])
        key = f"child-{rng.randrange(4)}" if rng.random() < 0.2 else ""
        deadline = rng.choice([0.5, 2.0]) if self._failures and rng.random() < 0.15 else None
        return InvokeOp("ask", rng.choice(self._children), key, retry, deadline, rng.random() < 0.6)

    def _group(self, depth: int) -> GroupOp:
        rng = self._rng
        least = 0 if rng.random() < 0.1 else 1
        branches = tuple([self._program(depth + 1, 3, least) for _ in range(rng.randint(0, 4))])
        mode = rng.choice([ParallelMode.WAIT, ParallelMode.RACE])
        caught = rng.random() < 0.5
        if not self._policies:
            return GroupOp("parallel", mode, FailPolicy.ANY, 0, False, 0, None, caught, branches)
        limit = rng.choice([1, 2]) if rng.random() < 0.25 else 0
        deadline = rng.choice([0.2, 0.8, 2.5]) if rng.random() < 0.15 else None
        if rng.random() < 0.2:
            mode = rng.choice([mode, ParallelMode.RACE])
            return GroupOp("race", mode, FailPolicy.ALL, 0, True, limit, deadline, caught, branches)
        fail = rng.choice([*FailPolicy, FailPolicy.ANY])
        quorum = 0
        if fail is FailPolicy.QUORUM:
            if not branches:
                fail = FailPolicy.ANY
            else:
                quorum = rng.randint(1, len(branches))
        return GroupOp("parallel", mode, fail, quorum, rng.random() < 0.4, limit, deadline, caught, branches)
