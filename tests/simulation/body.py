"""A live body that runs a program: lines of control are generators, what they decide goes through the real journal.

It keeps the rules of a host (proto/README 6, 8 and 15) and is as unkind as they allow: lines that can go on do so in
any order, in replay in another one. It does not know how frames travel or attempts are executed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Generator
from typing import Any

import msgspec

from stepwire._replay.journal import BodyJournal, Decision, Kind
from stepwire.protocol import paths
from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import Advance, Purpose, Release, StepOutcome
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded, BranchEnded, BranchOutcome, GroupEnded, GroupOpened, StepKind, Verdict
from stepwire.protocol.verdict import group_verdict
from tests.simulation.programs import (
    GroupOp,
    InvokeOp,
    Op,
    PairOp,
    Program,
    SendOp,
    SimFlow,
    SleepOp,
    StepOp,
    ThinkOp,
    WaitOp,
)

PlannedOp = StepOp | SleepOp | WaitOp | SendOp | InvokeOp


class FlowError(Exception):
    """What the code of a flow raises; the text follows from the journal alone."""


class Future:
    """What a line waits for: the outcome of a step or a group."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.outcome: StepOutcome | None = None
        self.value: Any = None
        self.error: FlowError | None = None
        self.done = False
        self.waiter: Line | None = None


class Pause:
    """User code between two calls."""


class Parked:
    """A call that never returns: it decided what it must not."""


Code = Generator[Future | Pause | Parked, None, Any]


class Line:
    """A line of control: the root or a branch."""

    def __init__(self, code: Code, scope: SimScope) -> None:
        self.code = code
        self.scope = scope
        self.over = False


class SimScope(paths.Occurrences, eq=False, kw_only=True):
    """The root or one branch, with what was planned directly in it."""

    group: SimGroup | None
    index: int
    limited: bool
    ended: bool = False
    line: Line | None = None
    steps: list[str] = msgspec.field(default_factory=list)
    groups: dict[str, SimGroup] = msgspec.field(default_factory=dict)


class SimGroup:
    """One open group of a body; ends of branches are applied when replay says that their time has come."""

    def __init__(self, body: ProgramBody, opened: GroupOpened, outside: SimScope) -> None:
        self.body = body
        self.opened = opened
        self.outside = outside
        self.over = False
        self.future = Future(opened.path)
        self.scopes: list[SimScope] = []
        self.ended: list[tuple[int, BranchOutcome]] = []
        self.reports: dict[int, list[Any]] = {}
        self.held: dict[int, tuple[BranchOutcome, Any]] = {}

    def line_ended(self, scope: SimScope, outcome: BranchOutcome, value: Any) -> None:
        if self.held or self.body.journal.replaying:
            self.held[scope.index] = outcome, value
            self.go_on()
        else:
            self._apply(scope, outcome, value)

    def go_on(self) -> None:
        """Apply the ends that replay held back, as far as their time has come."""
        journal = self.body.journal
        while self.held and not self.over:
            index = next(iter(self.held)) if journal.caught_up else journal.end_due(self.opened.path)
            if index is None or index not in self.held:
                self.body.holding[self] = None
                self.body.note("end of a branch held back")
                return
            self._apply(self.scopes[index], *self.held.pop(index))
        self.body.holding.pop(self, None)

    def _apply(self, scope: SimScope, outcome: BranchOutcome, value: Any) -> None:
        scope.ended = True
        failure = None
        if outcome is BranchOutcome.FAILED:
            failure = Failure(ErrorCode.USER_ERROR, "FlowError", value, retryable=Retryable.NO)
        self.body.journal.end_made(self.opened.path, scope.index)
        if self.body.decide(Kind.BRANCH_ENDED, scope.path, BranchEnded(scope.path, outcome, failure)):
            self.reports[scope.index] = [outcome.name.lower(), value]
            self.ended.append((scope.index, outcome))
            self.settle()

    def settle(self, *, expired: bool = False) -> None:
        """End the group if its branches, or its deadline, say so."""
        verdict = group_verdict(self.opened, self.ended, expired=expired)
        if verdict is None or self.over or not self.body.decide(Kind.GROUP_ENDED, self.opened.path, verdict):
            return
        self.close()
        losers = [self.scopes[index] for index in verdict.losers]
        for scope in losers:
            self.body.stop(scope)
        report = self._report(verdict)
        if losers:
            self.body.note("branch lost")
            self.body.journal.stop([scope.path for scope in losers])
        if verdict.verdict is Verdict.FAILED:
            self.body.resolve(self.future, None, FlowError(f"{self.opened.path}: {json.dumps(report)}"))
        else:
            self.body.resolve(self.future, report, None)

    def _report(self, verdict: GroupEnded) -> list[Any]:
        """What user code sees of each branch. Of losers: the steps that somebody was told of."""
        told = self.body.journal.is_unsaid
        for index in verdict.losers:
            self.reports[index] = ["lost", sorted([path for path in self.scopes[index].steps if not told(path)])]
        return [verdict.winner, *[self.reports[index] for index in range(self.opened.branches)]]

    def close(self) -> None:
        self.over = True
        self.body.groups.pop(self.opened.path, None)
        self.body.holding.pop(self, None)
        self.outside.groups.pop(self.opened.path, None)

    def withdraw(self) -> None:
        """The branch around it was ended from outside, and so are its own."""
        self.close()
        for scope in self.scopes:
            self.body.stop(scope)


class ProgramBody:
    """User code of one run.

    Args:
        think: Calls back after some time of user code.
        note: Told of rare branches that were reached.

    Attributes:
        steps: Open steps by path.
        fresh: New steps since the last look, in order.
        undos: Steps that closures of this body undo.
        ended: Its last words were said.
    """

    def __init__(
        self,
        flow: SimFlow,
        advance: Advance,
        rng: random.Random,
        think: Callable[[Callable[[], None]], None],
        note: Callable[[str], None],
    ) -> None:
        assert advance.start is not None
        self.flow = flow
        self.journal = BodyJournal(advance.fence)
        self.journal.load(advance.entries, complete=not advance.more)
        self.undoing = advance.purpose is Purpose.UNDO
        self.hold = advance.hold
        self.input = json.loads(advance.start.input.data)
        self.note = note
        self.steps: dict[str, Future] = {}
        self.groups: dict[str, SimGroup] = {}
        self.holding: dict[SimGroup, None] = {}
        self.undos: set[str] = set()
        self.fresh: list[tuple[str, bool]] = []
        self.ended = False
        self.failed = False
        self.over = False
        self._rng = rng
        self._orderly = rng.random() < 0.4
        self._think = think
        self._ready: list[Line] = []
        self._thinking: set[Line] = set()
        self._outputs: dict[str, Payload] = {}
        root = SimScope("", group=None, index=0, limited=False)
        root.line = Line(self._root(root), root)
        self._ready.append(root.line)

    # ---- from the host

    @property
    def kept(self) -> bool:
        """It stays after its end, until the engine has no use for its undos any more."""
        return self.undoing or (self.failed and bool(self.undos))

    @property
    def at_frontier(self) -> bool:
        """Everything recorded was done again, and no more will be done: undos may be executed."""
        return self.journal.caught_up and self.quiet and (self.ended or self.undoing)

    @property
    def quiet(self) -> bool:
        """No line of control can go on by itself."""
        return not (self._ready or self._thinking)

    def produced(self, path: str, output: Payload) -> None:
        """An attempt of this host has the output of a step; a release may refer to it."""
        self._outputs[path] = output

    def go_on(self) -> bool:
        """Deliver releases and run lines until nothing can go on. False: an output that was held is gone."""
        while not self.over:
            for group in list(self.holding):
                group.go_on()
            if not self._ready or self._rng.random() < 0.5:
                release = self.journal.deliver()
                if release is not None:
                    if not self._deliver(release):
                        return False
                    continue
            if not self._ready:
                break
            self._resume(self._ready.pop(0 if self._orderly else self._rng.randrange(len(self._ready))))
        if self.quiet and self.journal.replaying:
            astray = self.journal.divergence()
            assert astray is None, astray
        return True

    def _deliver(self, release: Release) -> bool:
        if any(o.held and o.path in self.steps and o.path not in self._outputs for o in release.outcomes):
            return False
        for outcome in release.outcomes:
            future = self.steps.pop(outcome.path, None)
            if future is not None:
                self._hand_over(future, outcome)
            elif outcome.path in self.groups:
                self.note("deadline of a group passed")
                self.groups[outcome.path].settle(expired=True)
        return True

    def _hand_over(self, future: Future, outcome: StepOutcome) -> None:
        output = self._outputs.pop(outcome.path, None)
        if outcome.failure is not None:
            self.resolve(future, None, FlowError(f"{outcome.path}: {outcome.failure.code.slug}"))
        else:
            payload = output if outcome.held else outcome.output
            assert payload is not None, outcome
            self.resolve(future, [json.loads(payload.data), outcome.attempts, outcome.took_ms], None)

    def retire(self) -> None:
        """Nothing of it has any right any more."""
        self.over = True
        for line in [*self._ready, *self._thinking]:
            line.code.close()
        self._ready.clear()
        self._thinking.clear()

    # ---- from lines and groups

    def decide(self, kind: Kind, path: str, decision: Decision) -> bool:
        """Put a decision through the journal. False: it has no right there."""
        if self.over or (self.ended and self.journal.all_made):
            return False
        if self.undoing and not self.journal.knows(kind, path, decision):
            return False
        self.journal.decide(kind, path, decision)
        return True

    def resolve(self, future: Future, value: Any, error: FlowError | None) -> None:
        future.done = True
        future.value = value
        future.error = error
        if future.waiter is not None and not future.waiter.over:
            self._ready.append(future.waiter)
            future.waiter = None

    def stop(self, scope: SimScope) -> None:
        """End a branch from outside: whatever of it waits is cancelled, and none of that is a decision."""
        scope.ended = True
        for path in scope.steps:
            self.steps.pop(path, None)
            if self.journal.is_unsaid(path):
                self.undos.discard(path)
        for group in list(scope.groups.values()):
            group.withdraw()
        line = scope.line
        if line is not None and not line.over:
            line.over = True
            line.code.close()
            self._thinking.discard(line)
            if line in self._ready:
                self._ready.remove(line)

    def _resume(self, line: Line) -> None:
        try:
            wanted = line.code.send(None)
        except StopIteration as done:
            self._line_ended(line, BranchOutcome.OK, done.value)
        except FlowError as error:
            self._line_ended(line, BranchOutcome.FAILED, str(error))
        else:
            match wanted:
                case Future(done=True):
                    self._ready.append(line)
                case Future():
                    wanted.waiter = line
                case Pause():
                    self._thinking.add(line)
                    self._think(lambda: self._thought(line))
                case Parked():
                    self.note("decision parked")

    def _thought(self, line: Line) -> None:
        if line in self._thinking:
            self._thinking.remove(line)
            self._ready.append(line)

    def _line_ended(self, line: Line, outcome: BranchOutcome, value: Any) -> None:
        line.over = True
        group = line.scope.group
        if group is not None:
            group.line_ended(line.scope, outcome, value)
            return
        ended = self._last_words(outcome, value)
        if self.decide(Kind.BODY_ENDED, "", ended):
            self.ended = True
            self.failed = ended.failure is not None or ended.cancelled

    def _last_words(self, outcome: BranchOutcome, value: Any) -> BodyEnded:
        if outcome is BranchOutcome.FAILED:
            return BodyEnded(failure=Failure(ErrorCode.USER_ERROR, "FlowError", value, retryable=Retryable.NO))
        if value == "cancel":
            return BodyEnded(cancelled=True)
        if value == "restart":
            return BodyEnded(restart=Payload(b'{"again": true}'))
        return BodyEnded(Payload(json.dumps([self.input, value]).encode()))

    # ---- programs

    def _root(self, scope: SimScope) -> Code:
        values = yield from self._line(scope, self.flow.program)
        match self.flow.end:
            case "fail":
                raise FlowError("the flow failed")
            case "cancel":
                return "cancel"
            case "restart" if "again" not in self.input:
                return "restart"
            case _:
                return values

    def _line(self, scope: SimScope, program: Program) -> Code:
        values: list[Any] = []
        for op in program:
            if isinstance(op, ThinkOp):
                yield Pause()
            else:
                values.append((yield from self._operation(scope, op)))
        return values

    def _operation(self, scope: SimScope, op: Op) -> Code:
        match op:
            case PairOp():
                return (yield from self._pair(scope, op))
            case GroupOp():
                future = yield from self._open(scope, op)
            case StepOp() | SleepOp() | WaitOp() | InvokeOp():
                future = yield from self._plan(scope, op)
            case SendOp():
                return (yield from self._await((yield from self._plan(scope, op)), caught=False))
            case _:
                raise AssertionError(op)
        return (yield from self._await(future, caught=op.caught))

    def _await(self, future: Future, *, caught: bool) -> Code:
        if not future.done:
            yield future
        if future.error is None:
            return future.value
        if not caught:
            raise future.error
        return ["caught", str(future.error)]

    def _plan(self, scope: SimScope, op: PlannedOp) -> Code:
        path = scope.next_path(op.name)
        planned = op.planned(path)
        if not self.decide(Kind.STEP, path, planned):
            yield Parked()
        future = self.steps[path] = Future(path)
        scope.steps.append(path)
        if planned.undo is not None and planned.undo.kind is StepKind.RUN:
            self.undos.add(path)
        self.fresh.append((path, scope.limited))
        return future

    def _pair(self, scope: SimScope, op: PairOp) -> Code:
        first = yield from self._plan(scope, op.first)
        second = yield from self._plan(scope, op.second)
        if not first.done:
            yield first
        if op.abandon:
            self._abandon(second)
        elif not second.done:
            yield second
        values = [(yield from self._await(first, caught=op.first.caught))]
        if not op.abandon:
            values.append((yield from self._await(second, caught=op.second.caught)))
        return values

    def _abandon(self, future: Future) -> None:
        if not future.done and self.steps.pop(future.path, None) is not None:
            self.note("step abandoned")
            self.decide(Kind.ABANDONED, future.path, future.path)

    def _open(self, scope: SimScope, op: GroupOp) -> Code:
        path = scope.next_path(op.name)
        opened = op.opened(path)
        if not self.decide(Kind.GROUP, path, opened):
            yield Parked()
        group = self.groups[path] = scope.groups[path] = SimGroup(self, opened, scope)
        for index, program in enumerate(op.branches):
            limited = scope.limited or op.limit > 0
            branch = SimScope(paths.branch_path(path, index), group=group, index=index, limited=limited)
            branch.line = Line(self._line(branch, program), branch)
            group.scopes.append(branch)
            self._ready.append(branch.line)
        if not op.branches:
            group.settle()
        return group.future
