"""A live body: user code of one run, suspended in memory between releases (DESIGN 4 and 6).

Everything here runs on the application's loop; code of sync flows runs on threads and posts its decisions to
the loop. What the body decides goes through the journal first, so that replay and live are one path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from typing import Any, Protocol

from stepwire._replay.journal import BodyJournal, Decision, Divergence, Kind
from stepwire._runtime.attempts import StepCall
from stepwire._runtime.durable import DurableFuture
from stepwire._runtime.group import Branch, GroupRun
from stepwire._runtime.scope import SCOPE, Scope
from stepwire._runtime.threads import BranchThreads
from stepwire.codec import Codec
from stepwire.errors import (
    AmbiguousStep,
    BodyEvicted,
    InvalidInput,
    InvalidStepName,
    LimitExceeded,
    PayloadTooLarge,
    StepError,
    UnawaitedStep,
    error_from_failure,
    failure_from_exception,
)
from stepwire.flow import FlowFunction, StepFunction
from stepwire.protocol import paths
from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import Advance, Release, StepOutcome, Welcome
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded, GroupOpened, ParallelMode, RetryPolicy, StepKind, StepPlanned


class BodyHost(Protocol):
    """What a body needs of the runtime around it."""

    loop: asyncio.AbstractEventLoop
    threads: BranchThreads
    codec: Codec
    limits: Welcome
    context: Context
    """What bodies inherit: the context the host was started in, never that of the callback that enters them."""

    def touch(self, body: LiveBody) -> None:
        """The body decided something; look at it at the end of this tick."""

    def reached(self, body: LiveBody, path: str) -> None:
        """The body planned this step: an Execute may have waited for it."""

    def body_failed(self, body: LiveBody, failure: Failure) -> None:
        """The body cannot go on."""

    def body_gone(self, body: LiveBody) -> None:
        """Something of the live copy is missing; the engine must send a snapshot."""


class OpenStep:
    """A planned step of a live body that was not released yet."""

    __slots__ = ("call", "context", "future", "name", "planned")

    def __init__(
        self, name: str, planned: StepPlanned, call: StepCall, context: Context, future: DurableFuture
    ) -> None:
        self.name = name
        self.planned = planned
        self.call = call
        self.context = context
        self.future = future


class LiveBody:
    """User code of one run.

    Attributes:
        hold: The host must not start closures by itself.
        outputs: Decoded outputs this process produced, until their release.
        steps: Open steps by path.
        fresh: Steps planned since the last look, in order.
        over: It ended, failed or was evicted; nothing of it has any right.
        lines_running: Lines of control (the root and branches) that do not wait for a release.
    """

    def __init__(self, host: BodyHost, run_id: str, flow: FlowFunction[..., Any], advance: Advance) -> None:
        assert advance.start is not None
        self.host = host
        self.loop = host.loop
        self.threads = host.threads
        self.run_id = run_id
        self.flow = flow
        self.seed = advance.start.seed
        self.input = advance.start.input
        self.now_ms = advance.start.created_at_ms
        self.hold = advance.hold
        self.journal = BodyJournal(advance.fence)
        self.outputs: dict[str, Any] = {}
        self.steps: dict[str, OpenStep] = {}
        self.fresh: list[str] = []
        self.over = False
        self.ended = False
        self.lines_running = 0
        self.stalled_since: float | None = None
        self.root = Scope(self, paths.ROOT, None, 0, 0)
        self._planned = 0
        self.unawaited: set[DurableFuture] = set()
        self._groups: set[GroupRun] = set()
        self._task: asyncio.Task[None] | None = None
        self.feed(advance)

    # ---- from the engine

    def feed(self, advance: Advance) -> bool:
        """Take the entries of an Advance. False: one is missing, the body needs a snapshot."""
        self.hold = advance.hold
        if advance.start is not None or not self.journal.complete:
            self.journal.load(advance.entries, complete=not advance.more)
            return True
        return all(isinstance(e, Release) and self.journal.add_release(e) for e in advance.entries)

    def enter(self, ctx: Any) -> None:
        """Run the flow's code from the top; `ctx` is its first argument."""
        self.lines_running += 1
        context = self.host.context.copy()
        context.run(SCOPE.set, self.root)
        if self.flow.is_async:
            self._task = self.loop.create_task(self._run(ctx), context=context)
            self.root.line = self._task
            self._task.add_done_callback(self._root_done)
        else:
            self.threads.start(lambda: context.run(self._run_thread, ctx))

    def go_on(self) -> None:
        """Hand over every release that may be handed over now."""
        while not self.over and (release := self.journal.deliver()) is not None:
            self.now_ms = max(self.now_ms, release.released_at_ms)
            for outcome in release.outcomes:
                self._release(outcome)
        if not self.over and self.lines_running == 0 and self.journal.replaying:
            astray = self.journal.divergence()
            if astray is not None:
                self.diverged(astray)

    def _release(self, outcome: StepOutcome) -> None:
        step = self.steps.pop(outcome.path, None)
        if step is None:
            return  # Abandoned; its outcome concerns nobody.
        if outcome.failure is not None:
            step.future.fail(error_from_failure(outcome.failure, outcome.path))
        elif outcome.held:
            if outcome.path not in self.outputs:
                self.host.body_gone(self)
                return
            step.future.resolve(self.outputs.pop(outcome.path))
        else:
            assert outcome.output is not None
            self.outputs.pop(outcome.path, None)
            try:
                value = step.call.codec.decode(outcome.output, step.call.returns)
            except StepError as error:
                step.future.fail(error)
            else:
                step.future.resolve(value)

    def evict(self) -> None:
        """The right to this body is gone: its code is stopped where it stands."""
        if self.over:
            return
        self.over = True
        groups = list(self._groups)
        for future in [step.future for step in self.steps.values()] + [group.future for group in groups]:
            if not future.done():
                future.set_exception(BodyEvicted(self.run_id))
            future.silence()
        for group in groups:
            group.stop()
        if self._task is not None:
            self._task.cancel()
        self.steps.clear()
        self.outputs.clear()

    # ---- decisions

    def decide(self, kind: Kind, path: str, decision: Decision) -> bool:
        """Put a decision through the journal. False: it has no right there, the body is over."""
        if self.over:
            return False
        try:
            self.journal.decide(kind, path, decision)
        except Divergence as astray:
            self.diverged(astray)
            return False
        self.host.touch(self)
        return True

    def diverged(self, astray: Divergence) -> None:
        """The flow does something else than its journal says (MISSION P12)."""
        message = f"expected {astray.expected}, received {astray.received}"
        failure = Failure(ErrorCode.NON_DETERMINISTIC_FLOW, "NonDeterministicFlow", message, retryable=Retryable.NO)
        self.host.body_failed(self, failure)

    def plan_step(
        self,
        scope: Scope,
        name: str,
        call: StepCall,
        step: StepFunction[..., Any] | None,
        retry: RetryPolicy | None,
        timeout: float | None,
    ) -> DurableFuture:
        """Plan a step in `scope`.

        Raises:
            AmbiguousStep, InvalidStepName, InvalidInput, PayloadTooLarge, LimitExceeded, BodyEvicted
        """
        self._alive()
        if scope.last_path(name) in self.steps:
            where = f" in {scope.path!r}" if scope.path else ""
            raise AmbiguousStep(f"step {name!r} is still outstanding{where}; give concurrent steps different names")
        if self._planned >= self.host.limits.steps_per_run_max:
            raise LimitExceeded(f"run exceeds {self.host.limits.steps_per_run_max} steps")
        payload = self._input(name, call, step)
        path = _next_path(scope, name)
        planned = StepPlanned(
            path,
            call.kind,
            step.name if step is not None else "",
            payload,
            retry,
            timeout,
            False,
            self._is_concurrent(scope),
        )
        if not self.decide(Kind.STEP, path, planned):
            raise BodyEvicted(self.run_id)
        self._planned += 1
        future = DurableFuture(self, path, scope)
        self.unawaited.add(future)
        self.steps[path] = OpenStep(name, planned, call, copy_context(), future)
        self.fresh.append(path)
        self.host.reached(self, path)
        return future

    def _input(self, name: str, call: StepCall, step: StepFunction[..., Any] | None) -> Payload | None:
        if step is None:
            return None
        payload = step.encode_input(call.args, call.kwargs)
        limit = self.host.limits.payload_bytes_max
        if len(payload.data) > limit:
            raise PayloadTooLarge(f"input of step {name!r} is {len(payload.data)} bytes, limit {limit}")
        return payload

    def open_group(self, scope: Scope, name: str, branches: Sequence[Branch], mode: ParallelMode) -> DurableFuture:
        """Open a group in `scope` and start its branches.

        Raises:
            InvalidStepName, LimitExceeded, BodyEvicted
        """
        self._alive()
        limits = self.host.limits
        if len(branches) > limits.branches_per_group_max:
            raise LimitExceeded(f"group {name!r} has {len(branches)} branches, limit {limits.branches_per_group_max}")
        if scope.depth + 1 > limits.group_depth_max:
            raise LimitExceeded(f"group {name!r} is nested {scope.depth + 1} deep, limit {limits.group_depth_max}")
        if not self.flow.is_async and not self.threads.has_room(len(branches)):
            raise LimitExceeded(
                f"group {name!r} needs {len(branches)} threads, {self.threads.busy} of {self.threads.bound} are in "
                "use; make the flow async, or raise Host(branch_threads=)"
            )
        path = _next_path(scope, name)
        opened = GroupOpened(path, len(branches), mode, concurrent=self._is_concurrent(scope))
        if not self.decide(Kind.GROUP, path, opened):
            raise BodyEvicted(self.run_id)
        group = GroupRun(self, scope, opened, branches)
        self.unawaited.add(group.future)
        self._groups.add(group)
        # Not through its own method: this is no awaiting.
        asyncio.Future.add_done_callback(group.future, lambda _: self._groups.discard(group))
        return group.start()

    def _alive(self) -> None:
        if self.over or self.ended:
            raise BodyEvicted(self.run_id)

    def _is_concurrent(self, scope: Scope) -> bool:
        if not self.flow.is_async or scope.line is None:
            return False
        return asyncio.current_task() is not scope.line

    def abandon(self, path: str) -> None:
        """User code gave up on a step: that is a decision as well (DESIGN 4)."""
        step = self.steps.pop(path, None)
        if step is not None and not self.over:
            self.decide(Kind.ABANDONED, path, path)

    # ---- lines of control

    def block(self, future: DurableFuture) -> None:
        """A line of control waits for this future and for nothing else."""
        if future.blocks is None:
            future.blocks = future.scope
            self.lines_running -= 1
            if self.journal.replaying:
                self.host.touch(self)

    def unblock(self, future: DurableFuture) -> None:
        if future.blocks is not None:
            future.blocks = None
            self.lines_running += 1

    def wait_for(self, future: DurableFuture, done: Callable[[asyncio.Future[Any]], None]) -> None:
        """A thread of a sync flow waits for this future."""
        if not future.done():
            self.block(future)
        future.add_done_callback(done)

    def post_decision(self, action: Callable[[], None]) -> None:
        """Run `action` on the loop in the calling thread's context."""
        self.loop.call_soon_threadsafe(action, context=copy_context())

    def post(self, action: Callable[[], None]) -> None:
        """Run `action` on the loop, from a thread of a sync flow."""
        self.loop.call_soon_threadsafe(action)

    # ---- the end

    async def _run(self, ctx: Any) -> None:
        try:
            args = self.flow.decode_input(self.input)
            value = await self.flow.fn(ctx, *args)
        except BodyEvicted:
            return
        except Exception as exc:
            self._raised(exc)
        except asyncio.CancelledError as exc:
            if self.over:
                raise
            self._raised(exc)
        else:
            self._returned(value)

    def _root_done(self, task: asyncio.Task[None]) -> None:
        self.lines_running -= 1
        if not task.cancelled():
            task.exception()

    def _run_thread(self, ctx: Any) -> None:
        try:
            args = self.flow.decode_input(self.input)
            value = self.flow.fn(ctx, *args)
        except BodyEvicted:
            return
        except BaseException as exc:
            error = exc
            self.post(lambda: self._raised(error))
        else:
            self.post(lambda: self._returned(value))

    def _raised(self, exc: BaseException) -> None:
        code = ErrorCode.INVALID_INPUT if isinstance(exc, InvalidInput) else ErrorCode.USER_ERROR
        self._end(None, failure_from_exception(exc, code=code))

    def _returned(self, value: Any) -> None:
        forgotten = self._forgotten()
        if forgotten is not None:
            self._end(None, failure_from_exception(forgotten))
            return
        try:
            payload, _ = self.flow.codec.round_trip(value, self.flow.returns)
            limit = self.host.limits.payload_bytes_max
            if len(payload.data) > limit:
                raise PayloadTooLarge(f"output of flow {self.flow.name!r} is {len(payload.data)} bytes, limit {limit}")
        except Exception as exc:
            self._end(None, failure_from_exception(exc))
        else:
            self._end(payload, None)

    def _forgotten(self) -> UnawaitedStep | None:
        """A step or group that the flow never awaited, or did not wait for (MISSION P13, U6)."""
        for future in self.unawaited:
            return UnawaitedStep(f"{future.path!r} was never awaited", future.path)
        for path, step in self.steps.items():
            if not step.future.cancelled():
                return UnawaitedStep(f"{path!r} was still running when the flow returned", path)
        return None

    def _end(self, output: Payload | None, failure: Failure | None) -> None:
        if self.over:
            return
        for future in self.unawaited:
            future.silence()
        if self.decide(Kind.BODY_ENDED, "", BodyEnded(output, failure)):
            self.ended = True


def _next_path(scope: Scope, name: str) -> str:
    try:
        return scope.next_path(name)
    except paths.InvalidName as error:
        raise InvalidStepName(str(error)) from None


__all__ = ("BodyHost", "LiveBody", "OpenStep", "StepKind")
