"""A simulated host process: the real session core around simulated bodies, and attempts that take virtual time.

What its attempts did is ground truth (`Execution`): the world asks it, never the journal, whether something ran.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from stepwire.protocol import paths
from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import (
    Advance,
    BodyFailed,
    Cancel,
    CancelReason,
    EngineSection,
    Execute,
    FlowOptions,
    RejectReason,
    Result,
)
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Fence, StepKind
from tests.simulation.body import ProgramBody
from tests.simulation.host_process import HostProcess
from tests.simulation.process import CALLS as CALLS
from tests.simulation.process import Gate
from tests.simulation.programs import Luck

if TYPE_CHECKING:
    from tests.simulation.simulator import World


class Execution:
    """One time a host really ran the code of a step or an undo; what tests believe.

    Attributes:
        number: Stands in its output, so that no two executions have the same.
        known: The engine that runs now gave it to this host over a link that has not been cut since.
        stop: Why it was told to stop.
        completed: Its code came to its end and had success.
    """

    def __init__(self, number: int, host: SimHost, run_id: str, execute: Execute, began: float, *, known: bool) -> None:
        self.number = number
        self.host = host
        self.run_id = run_id
        self.path = execute.path
        self.attempt = execute.attempt
        self.kind = execute.kind
        self.undo = execute.undo is not None
        self.began = began
        self.known = known
        self.stop: CancelReason | None = None
        self.ended: float | None = None
        self.completed = False


class SimHost(HostProcess):
    """A host process: session core, bodies and attempts."""

    def __init__(
        self,
        world: World,
        name: str,
        flows: tuple[str, ...],
        options: tuple[FlowOptions, ...],
        *,
        instance: str = "",
        gate: Gate | None = None,
    ) -> None:
        super().__init__(world, name, flows, options, instance=instance, gate=gate)
        self.bodies: dict[str, ProgramBody] = {}
        self.waiting: dict[str, dict[str, Execute]] = {}
        self.running: dict[tuple[str, str], Execution] = {}
        self._unknown: set[tuple[str, str]] = set()
        """Attempts that wait for their body since a link that was cut."""

    @property
    def handed_over(self) -> bool:
        return not (self.running or self.waiting)

    # ---- frames

    def handle(self, section: EngineSection) -> None:
        run_id = section.run_id
        assert not (section.executes and any(not c.path for c in section.cancels)), "proto 2.2"
        if section.evict is not None:
            body = self.bodies.get(run_id)
            if body is not None and body.journal.fence <= section.evict:
                self._drop(run_id, body)
        if section.advance is not None:
            self._advance(run_id, section.advance)
        for execute in section.executes:
            self._execute(run_id, execute)
        for cancel in section.cancels:
            self._cancel(run_id, cancel)

    def _advance(self, run_id: str, advance: Advance) -> None:
        body = self.bodies.get(run_id)
        if advance.start is not None:
            if body is not None:
                self._drop(run_id, body)
            flow = self.world.flows[advance.start.flow]
            entered = ProgramBody(
                flow, advance, self.world.rng, lambda then: self._think(run_id, entered, then), self.world.note
            )
            body = self.bodies[run_id] = entered
            self.world.note_entered(self, run_id, advance)
        elif body is None:
            self.session.give_back(run_id, advance.fence)
            return
        else:
            body.hold = advance.hold
            if not all([body.journal.add_release(entry) for entry in advance.entries]):
                self._give_back(run_id, body)
                return
        self._go_on(run_id, body)

    def _think(self, run_id: str, body: ProgramBody, then: Callable[[], None]) -> None:
        """User code goes on after a while."""

        def thought() -> None:
            if not body.over:
                then()
                self._go_on(run_id, body)
                self.flush()

        self.at(self.world.rng.choice([0.0, 0.02, 0.3, 1.0]), thought)

    def unknown(self) -> None:
        for execution in self.running.values():
            execution.known = False
        self._unknown = {(run_id, path) for run_id, waiting in self.waiting.items() for path in waiting}

    def given(self, run_id: str, path: str) -> bool:
        """Whether an attempt that begins now is this host's for certain."""
        return (run_id, path) not in self._unknown and self.knows()

    def lose_attempts(self) -> None:
        for execution in self.running.values():
            self.world.truth.ended(execution)
        self.running.clear()

    # ---- bodies

    def _go_on(self, run_id: str, body: ProgramBody) -> None:
        if not body.go_on():
            self.world.note("held output gone")
            self._submit_plans(run_id, body)
            self._give_back(run_id, body)
            return
        if not body.ended or body.journal.replaying:
            assert not body.quiet or body.undoing or not body.journal.undelivered, "a blocked body has every release"
        self._start_undos(run_id, body)
        self._start_steps(run_id, body)
        for path, execute in list(self.waiting.get(run_id, {}).items()):
            if path in body.steps:
                self._take_waiting(run_id, path)
                self.world.execute(self, run_id, execute)
        if self.world.rng.random() < 0.8:
            self._submit_plans(run_id, body)
        else:
            self.at(self.world.rng.uniform(0.0, 0.01), lambda: self._submit_later(run_id, body))

    def _submit_later(self, run_id: str, body: ProgramBody) -> None:
        if self.bodies.get(run_id) is body:
            self._submit_plans(run_id, body)
            self.flush()

    def _submit_plans(self, run_id: str, body: ProgramBody) -> None:
        plans = body.journal.take_plans()
        if plans and not self.session.submit_plans(run_id, plans):
            self._drop(run_id, body)
        elif body.ended and body.journal.caught_up and not body.kept:
            del self.bodies[run_id]
            body.retire()

    def _start_steps(self, run_id: str, body: ProgramBody) -> None:
        """Begin new closures, and a registered step that is the only new one."""
        fresh, body.fresh = body.fresh, []
        if body.hold or not body.journal.caught_up:
            return
        fence = body.journal.fence
        new = {planned.path: planned for planned in body.journal.new_steps}
        alone = len(fresh) == 1 and self.world.rng.random() < 0.7
        for path, limited in fresh:
            planned = new.get(path)
            if planned is None or limited or path not in body.steps:
                continue
            mine = planned.kind is StepKind.RUN or (alone and planned.kind is StepKind.TASK)
            if mine and self.session.start_all(run_id, (path,), fence, self.mono):
                body.journal.mark_started([path])
                execute = Execute(path, 1, fence, planned.kind, planned.name, planned.input, planned.timeout)
                self.world.execute(self, run_id, execute, started=True)

    def _start_undos(self, run_id: str, body: ProgramBody) -> None:
        """Begin undos that waited for the frontier."""
        if not body.at_frontier:
            return
        for execute in [e for e in self.waiting.get(run_id, {}).values() if e.undo is not None]:
            self._take_waiting(run_id, execute.path)
            assert paths.undone_path(execute.path) in body.undos, f"{execute.path} has no closure at the frontier"
            self.world.execute(self, run_id, execute)

    def give_back(self, run_id: str) -> None:
        """The body is thrown away, as if memory had been needed."""
        body = self.bodies[run_id]
        self._submit_plans(run_id, body)
        in_use = run_id in self.waiting or any(run == run_id for run, _ in self.running)
        self._give_back(run_id, body, waits=body.quiet and body.journal.caught_up and not in_use)
        self.flush()

    def _give_back(self, run_id: str, body: ProgramBody, *, waits: bool = False) -> None:
        if self.bodies.get(run_id) is body:
            fence = body.journal.fence
            self._drop(run_id, body)
            if waits:
                self.world.note("evict of a body that waits")
            self.session.give_back(run_id, fence, waits_after=body.journal.delivered if waits else None)

    def _drop(self, run_id: str, body: ProgramBody) -> None:
        if self.bodies.get(run_id) is body:
            del self.bodies[run_id]
        body.retire()
        for execute in self.waiting.pop(run_id, {}).values():
            if self.session.attempt_fence(run_id, execute.path) is not None:
                self.session.reject(run_id, execute, RejectReason.NO_BODY)

    # ---- attempts

    def flow_of(self, run_id: str, execute: Execute) -> str:
        return execute.flow or self.bodies[run_id].flow.name

    def _execute(self, run_id: str, execute: Execute) -> None:
        if execute.kind is not StepKind.RUN:
            self.world.execute(self, run_id, execute)
            return
        body = self.bodies.get(run_id)
        undo = execute.undo is not None
        if body is None or (body.ended and not undo):
            self.session.reject(run_id, execute, RejectReason.NO_BODY)
        elif not undo and execute.path in body.steps:
            self.world.execute(self, run_id, execute)
        else:
            self.waiting.setdefault(run_id, {})[execute.path] = execute
            if not self.knows():
                self._unknown.add((run_id, execute.path))
            self._start_undos(run_id, body)

    def _take_waiting(self, run_id: str, path: str) -> Execute | None:
        waiting = self.waiting.get(run_id, {})
        execute = waiting.pop(path, None)
        if not waiting:
            self.waiting.pop(run_id, None)
        return execute

    def _cancel(self, run_id: str, cancel: Cancel) -> None:
        if cancel.path:
            self._cancel_attempt(run_id, cancel.path, cancel.reason)
            return
        for path in list(self.waiting.get(run_id, ())):
            self._cancel_attempt(run_id, path, cancel.reason)
        for run, path in list(self.running):
            if run == run_id:
                self._cancel_attempt(run_id, path, cancel.reason)
        body = self.bodies.get(run_id)
        if body is not None and body.journal.fence <= cancel.fence:
            if body.undoing or (body.ended and not body.journal.has_new):
                self._drop(run_id, body)

    def _cancel_attempt(self, run_id: str, path: str, reason: CancelReason) -> None:
        execute = self._take_waiting(run_id, path)
        if execute is not None:
            self.world.note("attempt cancelled before its body reached it")
            failure = Failure(ErrorCode.CANCELLED, "Cancelled", "cancelled before it began")
            self.session.submit_result(run_id, Result(path, execute.attempt, execute.fence, None, failure))
        running = self.running.get((run_id, path))
        if running is not None and running.stop is None:
            running.stop = reason
            self.world.note(f"{reason.name.lower()} while executing")
            if self.world.rng.random() < 0.5:
                self.at(self.world.rng.uniform(0.0, 0.05), lambda: self.finish(running, Luck()))

    def time_out(self, execution: Execution) -> None:
        """The attempt takes longer than it may; this code stops at once."""
        if execution.stop is None and execution.ended is None:
            execution.stop = CancelReason.TIMEOUT
            self.finish(execution, Luck())

    def finish(self, execution: Execution, luck: Luck) -> None:
        """The code of an attempt came to its end."""
        key = execution.run_id, execution.path
        if self.running.get(key) is not execution:
            return
        del self.running[key]
        execution.ended = self.world.now
        self.world.truth.ended(execution)
        body = self.bodies.get(execution.run_id)
        if body is not None:
            self._submit_plans(execution.run_id, body)  # The plan that explains a result goes first.
        output, failure = self._outcome(execution, luck)
        if output is not None and body is not None and not execution.undo:
            body.produced(execution.path, output)
        fence = self.session.attempt_fence(*key) or Fence(1, 1)
        result = Result(execution.path, execution.attempt, fence, output, failure, self.world.now - execution.began)
        self.session.submit_result(execution.run_id, result)
        self.flush()

    def _outcome(self, execution: Execution, luck: Luck) -> tuple[Payload | None, Failure | None]:
        if execution.stop is not None:
            code = ErrorCode.TIMEOUT if execution.stop is CancelReason.TIMEOUT else ErrorCode.CANCELLED
            return None, Failure(code, "Stopped", execution.stop.name.lower())
        if luck.fatal:
            return None, Failure(ErrorCode.USER_ERROR, "Fatal", "for good", retryable=Retryable.NO)
        if execution.attempt <= luck.fails:
            return None, Failure(ErrorCode.USER_ERROR, "ValueError", f"attempt {execution.attempt}")
        execution.completed = True
        output = json.dumps(f"{execution.path}@{execution.number}").encode()
        return Payload(output + b" " * self.world.padding()), None

    def fail_body(self, run_id: str) -> None:
        """The body stalls."""
        body = self.bodies[run_id]
        self._submit_plans(run_id, body)  # What it has begun must not be forgotten with it.
        failure = Failure(ErrorCode.BODY_STALLED, "BodyStalled", "stalled", retryable=Retryable.NO)
        for execute in [e for e in self.waiting.get(run_id, {}).values() if e.undo is not None]:
            self._take_waiting(run_id, execute.path)
            gone = Failure(ErrorCode.UNDO_UNREACHABLE, "UndoUnreachable", "stalled", retryable=Retryable.NO)
            self.session.submit_result(run_id, Result(execute.path, execute.attempt, execute.fence, None, gone))
        self.session.fail_body(run_id, BodyFailed(body.journal.fence, failure))
        self._drop(run_id, body)
        self.flush()
