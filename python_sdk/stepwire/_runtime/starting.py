"""Beginning attempts: what the engine gives, and what the host begins itself, becomes a call and a context.

An Execute may come before the body has planned its step, and an undo before the body is where it was: they wait here.
What may be executed is decided by the engine and by `executor`; how an attempt runs by `attempts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from typing import Any, NamedTuple

from stepwire._runtime.attempt import RunningAttempt, StepCall
from stepwire._runtime.attempts import Attempts
from stepwire._runtime.body import LiveBody
from stepwire._runtime.durable import StepFuture
from stepwire._runtime.hooks import Hooks
from stepwire._runtime.task import task_call, unread_call
from stepwire._runtime.threads import Work
from stepwire._runtime.undo import step_name, unreachable
from stepwire._transport.port import SessionPort
from stepwire.errors import failure_from_exception
from stepwire.flow import StepFunction
from stepwire.hooks import HookKind
from stepwire.protocol import paths
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import Execute, RejectReason, Result
from stepwire.protocol.plan import Fence
from stepwire.redaction import Parts, hidden, redacts


class Booked(NamedTuple):
    """A registered step that a thread has taken."""

    execute: Execute
    step: StepFunction[..., Any]
    running: RunningAttempt


class Starter:
    """Begins the attempts of one host.

    Args:
        steps: Registered steps that this host serves, by name.
        context: What attempts at registered steps inherit.
        refused: Takes the outcome of an attempt that failed before any of its code ran, and its run.

    Attributes:
        stubs: What steps do instead of their function, by name, and undos by "<name>#undo"; for tests.
        waiting: What came too early, by run and path. No run is without any. Always the same dict.
    """

    def __init__(
        self,
        port: SessionPort,
        steps: Mapping[str, StepFunction[..., Any]],
        attempts: Attempts,
        hooks: Hooks,
        context: Context,
        refused: Callable[[str, Result], None],
    ) -> None:
        self._port = port
        self._steps = steps
        self._attempts = attempts
        self._hooks = hooks
        self._hooked = bool(hooks)
        self._context = context
        self._refused = refused
        self.stubs: Mapping[str, Any] = {}
        self.waiting: dict[str, dict[str, Execute]] = {}

    # ---- attempts

    def start_task(self, run_id: str, execute: Execute, flow: str = "") -> None:
        """A registered step, or an undo that is one."""
        step = self._steps.get(execute.name)
        if step is None:
            self._port.reject(run_id, execute, RejectReason.NOT_SERVED)
            return
        call = self._made(run_id, execute, lambda: task_call(step, execute), step.redact)
        if call is None:
            return
        names = (execute.name,) if execute.undo is None else (_undo_name(execute.path), execute.name)
        self._start(run_id, execute, self._stubbed(call, *names), self._context, flow or execute.flow)

    def book(self, run_id: str, execute: Execute) -> Booked | None:
        """Take a registered step for the calling thread of the pool. None: the loop must begin it.

        Not one that may be given up: that may happen from now on, and the thread knows it only of what it runs.
        """
        step = self._steps.get(execute.name)
        if step is None or step.is_async or step.abandon_after is not None or execute.undo is not None or self.stubs:
            return None
        return Booked(execute, step, self._attempts.book(run_id, execute, unread_call(step)))

    def continued(self, booked: Booked) -> Work | None:
        """What the thread does for it. None: it has failed before any of its code ran."""
        execute, step, running = booked
        try:
            work = self._attempts.continued(running, task_call(step, execute), self._context, execute.traceparent)
        except BaseException as error:  # InvalidInput, or what a codec raises; the thread goes on.
            self._attempts.unbook(running)
            self._port.submit_results([(running.run_id, _refusal(execute, _misfit(error, step.redact)))])
            self._port.ring()
            return None
        if self._hooked:
            self._hooks.fire("step_started", running.run_id, running.flow, running.path, running.attempt)
        return work

    def start_closure(
        self, body: LiveBody, step: StepFuture, attempt: int, fence: Fence, timeout: float | None, traceparent: str
    ) -> None:
        """A step that is a function of its body."""
        call, context = step.call, step.context
        assert call is not None and context is not None
        if self.stubs:
            call = self._stubbed(call, step.name)
        flow = body.flow.name
        if self._hooked:
            self._hooks.fire("step_started", body.run_id, flow, step.path, attempt)
        self._attempts.start(body.run_id, step.path, attempt, fence, call, context, timeout, flow, traceparent)

    def start_closures(self, body: LiveBody, steps: Sequence[StepFuture]) -> None:
        """First attempts of steps that are functions of this body, which the host begins by itself."""
        run_id, flow, fence, start = body.run_id, body.flow.name, body.journal.fence, self._attempts.start
        for step in steps:
            planned = step.planned
            if self.stubs or self._hooked:
                self.start_closure(body, step, 1, fence, planned.timeout, planned.traceparent)
                continue
            call, context = step.call, step.context
            assert call is not None and context is not None
            start(run_id, step.path, 1, fence, call, context, planned.timeout, flow, planned.traceparent)

    def start_undos(self, body: LiveBody) -> None:
        """Undos that waited for the body to be where it was."""
        for execute in self.take_undos(body):
            self._start_undo(body, execute)

    def take_undos(self, body: LiveBody) -> list[Execute]:
        """Undos that wait, which they do no longer."""
        waiting = self.waiting.get(body.run_id)
        undos = [execute for execute in waiting.values() if execute.undo is not None] if waiting else []
        for execute in undos:
            self.take(body.run_id, execute.path)
        return undos

    def _start_undo(self, body: LiveBody, execute: Execute) -> None:
        undo = body.undos.get(paths.undone_path(execute.path) or "")
        if undo is None:
            reason = "the flow no longer plans this step with a closure as compensate="
            self.refuse(body.run_id, execute, unreachable(execute.path, reason))
            return
        undone = execute.undo
        assert undone is not None
        call = self._made(body.run_id, execute, lambda: undo.call(undone), undo.redact)
        if call is not None:
            call = self._stubbed(call, _undo_name(execute.path))
            self._start(body.run_id, execute, call, undo.context.copy(), body.flow.name)

    def _made(
        self, run_id: str, execute: Execute, make: Callable[[], StepCall], redact: Parts | None
    ) -> StepCall | None:
        """The call that `make` gives. None: it could not, and the attempt has failed."""
        try:
            return make()
        except Exception as error:  # InvalidInput, or of a codec of the user's own
            self.refuse(run_id, execute, _misfit(error, redact))
            return None

    def _start(self, run_id: str, execute: Execute, call: StepCall, context: Context, flow: str) -> None:
        path, attempt = execute.path, execute.attempt
        if self._hooked:
            self._hooks.fire(HOOKS[execute.undo is not None][0], run_id, flow, path, attempt)
        fence, timeout = execute.fence, execute.timeout
        self._attempts.start(run_id, path, attempt, fence, call, context, timeout, flow, execute.traceparent)

    def _stubbed(self, call: StepCall, *names: str) -> StepCall:
        name = next((name for name in names if name in self.stubs), None)
        if name is None:
            return call
        stub = self.stubs[name]

        def fn(*args: Any, **kwargs: Any) -> Any:
            if isinstance(stub, BaseException):
                raise stub
            return stub(*args, **kwargs) if callable(stub) else stub

        return call.with_function(fn, is_async=False)

    def refuse(self, run_id: str, execute: Execute, failure: Failure) -> None:
        """An attempt failed before any of its code ran."""
        self._refused(run_id, _refusal(execute, failure))

    # ---- what came too early

    def wait(self, run_id: str, execute: Execute) -> None:
        """It has to wait for its body."""
        self.waiting.setdefault(run_id, {})[execute.path] = execute

    def take(self, run_id: str, path: str) -> Execute | None:
        """What waits at this path, which it does no longer."""
        waiting = self.waiting.get(run_id)
        if waiting is None:
            return None
        execute = waiting.pop(path, None)
        if not waiting:
            del self.waiting[run_id]
        return execute

    def cancel(self, run_id: str, path: str) -> None:
        """What waits at this path is not wanted any more."""
        execute = self.take(run_id, path)
        if execute is not None:
            self.give_up(run_id, execute)

    def give_up(self, run_id: str, execute: Execute) -> None:
        """Nobody wants it any more. Not a Reject: the body is well, only this attempt at one of its steps is over."""
        message = f"step {execute.path!r} was cancelled before it began"
        self.refuse(run_id, execute, Failure(ErrorCode.CANCELLED, "Cancelled", message))

    def cancel_run(self, run_id: str) -> None:
        """Nothing of the run is wanted any more."""
        for path in list(self.waiting.get(run_id, ())):
            self.cancel(run_id, path)

    def reject_run(self, run_id: str, reason: RejectReason = RejectReason.NO_BODY) -> None:
        """The body that something waits for is gone, or there is another reason why it will not begin here."""
        for execute in self.waiting.pop(run_id, {}).values():
            self._port.reject(run_id, execute, reason)

    def reject_all(self, reason: RejectReason) -> None:
        """Nothing that waits will begin here."""
        for run_id in list(self.waiting):
            self.reject_run(run_id, reason)


def _misfit(error: BaseException, redact: Parts | None) -> Failure:
    """Of an attempt whose call could not be made."""
    failure = failure_from_exception(error)
    return hidden(failure) if redacts(redact, Parts.FAILURE) else failure


def _refusal(execute: Execute, failure: Failure) -> Result:
    return Result(execute.path, execute.attempt, execute.fence, None, failure)


def _undo_name(path: str) -> str:
    return step_name(path) + paths.UNDO_SUFFIX


HOOKS: tuple[tuple[HookKind, HookKind, HookKind], ...] = (
    ("step_started", "step_succeeded", "step_failed"),
    ("undo_started", "undo_succeeded", "undo_failed"),
)
"""What is told of an attempt, of a step and of an undo: it began, it succeeded, it did not."""
