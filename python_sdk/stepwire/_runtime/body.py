"""A live body: user code of one run, suspended in memory between releases (DESIGN 4 and 6).

Everything here runs on the application's loop; code of sync flows runs on threads and posts its decisions to
the loop. What the body decides goes through the journal first, so that replay and live are one path.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from stepwire._replay.decisions import entry_bytes
from stepwire._replay.journal import BodyJournal, Decision, Divergence, Kind
from stepwire._runtime.attempt import StepCall
from stepwire._runtime.body_host import BodyHost
from stepwire._runtime.durable import DurableFuture, GroupFuture, StepFuture
from stepwire._runtime.group import GroupRequest, GroupRun
from stepwire._runtime.keeping import BODY_BYTES, THREAD_BYTES
from stepwire._runtime.request import StepRequest
from stepwire._runtime.scope import PLACE, Scope
from stepwire._runtime.undo import UndoCall
from stepwire.errors import (
    AmbiguousStep,
    BodyEvicted,
    FlowStopped,
    InvalidInput,
    InvalidStepName,
    LimitExceeded,
    NestedStepError,
    PayloadTooLarge,
    UnawaitedStep,
    UnreadablePayload,
    error_from_failure,
    failure_from_exception,
)
from stepwire.flow import FlowFunction
from stepwire.protocol import paths
from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import Advance, Purpose, Release, StepOutcome
from stepwire.protocol.plan import RESERVED_PREFIX, BodyEnded, StepKind, StepPlanned
from stepwire.redaction import Parts, hidden, marked, redacts


class LiveBody:
    """User code of one run.

    Attributes:
        hold: The host must not start closures by itself.
        outputs: Decoded outputs this process produced, until their release.
        steps: Open steps by path.
        groups: Open groups by path.
        holding: Groups with ends of branches that replay holds back.
        undos: Closures that undo steps, by path of the step.
        undoing: It was entered to reach its undos only: it makes no decision that is not recorded.
        failed: It ended, and not well: its undos may be wanted.
        fresh: Steps planned since the last look, in order.
        over: It ended, failed or was evicted; nothing of it has any right.
        unawaited: Steps and groups that are done, and that nobody has awaited.
        touched: Its host knows that it is to be looked at.
        size, counted, active: What `keeping` knows of it. Bytes are those of its input, of its journal when it was
            entered, and of the outputs of its steps since then, which its variables may hold.
        replays_since: When it was entered with a journal, by the loop's clock; None: it has caught up.
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
        self.steps: dict[str, StepFuture] = {}
        self.undos: dict[str, UndoCall] = {}
        self.undoing = advance.purpose is Purpose.UNDO
        self.failed = False
        self.fresh: list[StepFuture] = []
        self.over = False
        self.touched = False
        self.ended = False
        self.size = BODY_BYTES + (0 if flow.is_async else THREAD_BYTES) + len(self.input.data)
        self.counted = 0
        self.active = 0.0
        self.lines_running = 0
        self.stall: asyncio.TimerHandle | None = None
        self.replays_since: float | None = None
        self.unawaited: set[DurableFuture] = set()
        self.groups: dict[str, GroupRun] = {}
        self.holding: dict[GroupRun, None] = {}
        self._times = [self.now_ms]
        self._own_end: tuple[Scope, BodyEnded] | None = None
        self._task: asyncio.Task[None] | None = None
        self._root: Scope | None = None
        self.feed(advance)

    # ---- from the engine

    def feed(self, advance: Advance) -> bool:
        """Take the entries of an Advance. False: one is missing, the body needs a snapshot."""
        self.hold = advance.hold
        for entry in advance.entries:
            self.size += entry_bytes(entry)
        if advance.start is not None or not self.journal.complete:
            self.journal.load(advance.entries, complete=not advance.more)
            return True
        for entry in advance.entries:
            if not (isinstance(entry, Release) and self.journal.add_release(entry)):
                return False
        return True

    def enter(self, ctx: Any, context: Context) -> None:
        """Run the flow's code from the top, in `context`; `ctx` is its first argument."""
        self.lines_running += 1
        root = Scope(paths.ROOT, body=self, group=None, index=0, depth=0)
        context.run(PLACE.set, root)
        if self.flow.is_async:
            self._root = root
            self._task = root.line = self.loop.create_task(self._run(ctx), context=context)
            self._task.add_done_callback(self._root_done)
        else:
            self.threads.start(self, lambda: self._root_thread(context, ctx))

    @property
    def kept(self) -> bool:
        """It stays after its end, until the engine has no use for its undos any more (MISSION S8)."""
        return self.undoing or (self.failed and bool(self.undos))

    @property
    def waits(self) -> bool:
        """Every line of its code waits for a release, it has said everything, and it was given everything."""
        journal = self.journal
        asleep = self.lines_running == 0 and not (self.over or self.ended or self.undoing or self.fresh)
        return asleep and journal.caught_up and not (journal.has_new or journal.undelivered)

    @property
    def at_frontier(self) -> bool:
        """Its undos find their variables as they were: all is made again, and no line of code changes them."""
        return self.journal.caught_up and (self.ended or not self.undoing or self.lines_running == 0)

    def go_on(self) -> None:
        """Hand over every release that may be handed over now."""
        journal = self.journal
        while True:
            # What one group applies may be what another one waits for.
            while self.holding and any([group.go_on() for group in list(self.holding)]):
                pass
            release = journal.deliver() if journal.undelivered and not self.over else None
            if release is None:
                break
            self.now_ms = max(self.now_ms, release.released_at_ms)
            self._times.append(self.now_ms)
            for outcome in release.outcomes:
                self._release(outcome)
        if self._own_end is not None:
            self._finish_if_caught_up()
        if journal.replaying and self.lines_running == 0 and not self.over:
            astray = journal.divergence()
            if astray is not None:
                self.diverged(astray)

    def _release(self, outcome: StepOutcome) -> None:
        step = self.steps.pop(outcome.path, None)
        if step is None:
            group = self.groups.get(outcome.path)
            if group is not None:
                group.expire(outcome)
            return  # Or it was abandoned, and its outcome concerns nobody.
        step.attempts = outcome.attempts
        step.took_ms = outcome.took_ms
        if outcome.held:
            value = self.outputs.pop(outcome.path, _NOT_HERE)
            if value is _NOT_HERE:
                self.host.body_gone(self)
                self._stop_waiting(step)
                return
            step.call = step.context = step.decode = None  # as StepFuture.close does it
            step.resolve(value)
        elif outcome.failure is not None:
            step.close()
            step.fail(error_from_failure(outcome.failure, outcome.path))
        else:
            self._release_output(step, outcome)

    def _release_output(self, step: StepFuture, outcome: StepOutcome) -> None:
        assert outcome.output is not None
        self.outputs.pop(outcome.path, None)
        try:
            value = step.decoded(outcome.output)
        except UnreadablePayload as error:
            self._unreadable(error)
            self._stop_waiting(step)
        except Exception as error:  # a misfit, or what a codec of the user's own raises
            step.fail(error)
        else:
            step.resolve(value)
        step.close()

    def evict(self) -> None:
        """The right to this body is gone: its code is stopped where it stands."""
        if self.over:
            return
        self.retire()
        self._stop_lines()
        self.outputs.clear()
        self.let_go()

    def let_go(self) -> None:
        """Last of all: what knows it, and is known by it, would wait for the garbage collector."""
        for group in list(self.groups.values()):
            group.let_go()
        for known in (self.steps, self.unawaited, self.undos, self.fresh):
            known.clear()
        self._task = None
        if self._root is not None:
            self._root.line = None
            self._root = None

    def retire(self) -> None:
        """It has no right to anything any more. No timer may keep its history in memory."""
        self.over = True
        self.forget_stall()
        if not self.flow.is_async:
            self.threads.give_up(self)

    def forget_stall(self) -> None:
        """Something moved, or nothing is waited for: the time without progress begins anew."""
        if self.stall is not None:
            self.stall.cancel()
            self.stall = None

    def _stop_lines(self) -> None:
        """Every line of control is stopped where it stands."""
        groups = list(self.groups.values())
        for future in (*self.steps.values(), *[group.future for group in groups]):
            self._stop_waiting(future)
        for group in groups:
            group.cancel_lines()
        if self._task is not None:
            self._task.cancel()
        self.steps.clear()

    def _stop_waiting(self, future: DurableFuture) -> None:
        """Whoever waits for it has no right to anything any more; a thread would wait for ever."""
        future.fail(BodyEvicted(self.run_id))
        future.silence()

    # ---- decisions

    def decide(self, kind: Kind, path: str, decision: Decision) -> bool:
        """Put a decision through the journal. False: it has no right there, the body is over."""
        if self.over or (self.ended and self.journal.all_made):
            return False
        if self.undoing and not self.journal.knows(kind, path, decision):
            return False  # Nothing new is decided any more: its line of control goes no further.
        try:
            self.journal.decide(kind, path, decision)
        except Divergence as astray:
            self.diverged(astray)
            return False
        if kind is _BODY_ENDED:
            assert isinstance(decision, BodyEnded)
            self.failed = decision.failure is not None or decision.cancelled
        if not self.touched:
            self.host.touch(self)
        return True

    def diverged(self, astray: Divergence) -> None:
        """The flow does something else than its journal says (MISSION P12)."""
        message = f"expected {astray.expected}, received {astray.received}"
        failure = Failure(ErrorCode.NON_DETERMINISTIC_FLOW, "NonDeterministicFlow", message, retryable=Retryable.NO)
        self.host.body_failed(self, failure)

    def plan_step(self, scope: Scope, name: str, request: StepRequest | StepCall) -> StepFuture:
        """Plan a step in `scope`, of whatever kind; a call alone is a closure without options.

        Raises:
            AmbiguousStep, InvalidStepName, PayloadTooLarge, LimitExceeded, BodyEvicted, CancelledError
        """
        if self.over or self.ended or scope.ended:
            self._alive(scope)
        steps = self.steps
        if scope.first is not None and steps and scope.last_path(name) in steps:
            where = f" in {scope.path!r}" if scope.path else ""
            raise AmbiguousStep(f"step {name!r} is still outstanding{where}; give concurrent steps different names")
        host, journal = self.host, self.journal
        limits = host.limits
        if isinstance(request, StepRequest) and (request.input is not None or request.spec is not None):
            request.check_sizes(name, limits.payload_bytes_max)
        path = _next_path(scope, name)
        most = limits.steps_per_run_max
        if journal.counted >= most and journal.steps >= most and journal.is_new(path):
            raise LimitExceeded(f"run exceeds {most} steps")
        concurrent = scope.line is not None and self._is_concurrent(scope)
        if isinstance(request, StepCall):
            planned = StepPlanned(path, concurrent=concurrent)
        else:
            planned = request.planned(path, concurrent)
        if not self.decide(_STEP, path, planned):
            raise BodyEvicted(self.run_id)
        step = steps[path] = StepFuture(loop=self.loop)
        step.path = path
        step.scope = scope
        step.awaited = False
        step.blocks = step.branch = None
        step.made_after = journal.delivered
        step.name = name
        step.planned = planned
        step.context = copy_context()
        if isinstance(request, StepCall):
            step.call, step.decode = request, None
        else:
            step.call, step.decode = request.call, request.decode
            if request.undo_call is not None:
                self.undos[path] = request.undo_call
        if scope.group is not None:
            if scope.noted is None:
                scope.noted = step
            else:
                scope.note(step)
        self.fresh.append(step)
        if host.expected:
            host.reached(self, path)
        return step

    def open_group(self, scope: Scope, name: str, request: GroupRequest) -> GroupFuture:
        """Open a group in `scope` and start its branches.

        Raises:
            InvalidStepName, LimitExceeded, BodyEvicted, CancelledError
        """
        self._alive(scope)
        request.check_limits(self, scope, name)
        path = _next_path(scope, name)
        opened = request.opened(path, self._is_concurrent(scope))
        if not self.decide(Kind.GROUP, path, opened):
            raise BodyEvicted(self.run_id)
        return GroupRun(self, scope, opened, request).start()

    def _alive(self, scope: Scope) -> None:
        if self.over or (self.ended and self.journal.all_made):
            raise BodyEvicted(self.run_id)
        if scope.ended:
            raise asyncio.CancelledError(f"branch {scope.path!r} has ended")

    @property
    def closed(self) -> bool:
        """Nothing is decided any more. What is recorded is made again even after a recorded end."""
        return self.over or (self.ended and self.journal.all_made)

    def time_after(self, release: int) -> int:
        """Time of the flow once it had been given this release, in milliseconds since the Unix epoch."""
        return self._times[release]

    def _is_concurrent(self, scope: Scope) -> bool:
        if not self.flow.is_async or scope.line is None:
            return False
        if threading.get_ident() != self.host.loop_thread:
            self._check_thread()
        # Of a loop that is named: to find out which one runs here is a system call.
        return asyncio.current_task(self.loop) is not scope.line

    def _check_thread(self) -> None:
        """Raises NestedStepError where the loop does not run: `asyncio.to_thread` takes the flow's context along."""
        if asyncio._get_running_loop() is not self.loop:
            raise NestedStepError(
                f"flow {self.flow.name!r} made a durable call on a thread of its own: an async flow makes them on its "
                "loop, outside `asyncio.to_thread`"
            )
        self.host.loop_thread = threading.get_ident()  # The loop goes on in another thread.

    def abandon(self, path: str) -> None:
        """User code gave up on a step: that is a decision as well (DESIGN 4)."""
        step = self.steps.pop(path, None)
        if step is None:
            return
        step.close()
        if not self.over:
            self.decide(Kind.ABANDONED, path, path)

    # ---- lines of control

    def block(self, future: DurableFuture) -> None:
        """A line of control waits for this future and for nothing else."""
        if future.blocks is None:
            future.blocks = future.scope
            self.lines_running -= 1
            if self.journal.replaying or self.undoing:
                self.host.touch(self)

    def unblock(self, future: DurableFuture) -> None:
        if future.blocks is not None:
            future.blocks = None
            self.lines_running += 1

    def line_left(self) -> None:
        """A line of control came to its end."""
        self.lines_running -= 1
        if not self.over and (self.journal.replaying or self.undoing):
            self.host.touch(self)

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

    def finish(self, scope: Scope, ended: BodyEnded) -> None:
        """User code in `scope` ends its run: every other line of control is stopped where it stands.

        Raises:
            BodyEvicted: the body has no right to decide that.
        """
        self._alive(scope)
        if self.journal.replaying and not self.undoing and not self.journal.knows(Kind.BODY_ENDED, "", ended):
            # In the life before, this line was slower: what is recorded comes first, and may end its branch.
            self._own_end = self._own_end or (scope, ended)
            return
        self._end(ended)
        if not self.ended:
            raise BodyEvicted(self.run_id)
        if self.closed:
            self._stop_lines()

    def _finish_if_caught_up(self) -> None:
        if self._own_end is None or not self.journal.caught_up:
            return
        scope, ended = self._own_end
        self._own_end = None
        if not scope.ended:
            self._end(ended)
            self._stop_lines()

    async def _run(self, ctx: Any) -> None:
        try:
            args = self.flow.decode_input(self.input)
            value = await self.flow.fn(ctx, *args)
        except Exception as exc:
            self._raised(exc)
        except (BodyEvicted, FlowStopped, GeneratorExit):
            raise
        except BaseException as exc:
            self._raised(exc)
            raise
        else:
            self._returned(value)

    def _root_done(self, task: asyncio.Task[None]) -> None:
        self.line_left()
        if not task.cancelled():
            task.exception()

    def _root_thread(self, context: Context, ctx: Any) -> Callable[[], None]:
        return partial(self._tell_end_of_root, context.run(self._run_thread, ctx))

    def _tell_end_of_root(self, end: Callable[[], None] | None) -> None:
        if end is not None:
            self.post(end)
        if not self.over:
            self.post(self.line_left)

    def _run_thread(self, ctx: Any) -> Callable[[], None] | None:
        """Run the flow's code. Returns what ends it on the loop; None: nobody wants to know."""
        try:
            args = self.flow.decode_input(self.input)
            value = self.flow.fn(ctx, *args)
        except (BodyEvicted, FlowStopped):
            return None
        except BaseException as exc:
            return partial(self._raised, exc)
        else:
            return partial(self._returned, value)

    def _unreadable(self, error: UnreadablePayload) -> None:
        """This host lacks a key: that is no failure of the flow, which goes on where the key is."""
        if not self.over:
            self.host.body_failed(self, failure_from_exception(error, retryable=Retryable.NO))

    def _raised(self, exc: BaseException) -> None:
        if isinstance(exc, UnreadablePayload):
            self._unreadable(exc)
            return
        code = ErrorCode.INVALID_INPUT if isinstance(exc, InvalidInput) else ErrorCode.USER_ERROR
        self._end(BodyEnded(failure=self._shown(failure_from_exception(exc, code=code))))

    def _shown(self, failure: Failure) -> Failure:
        return hidden(failure) if redacts(self.flow.redact, Parts.FAILURE) else failure

    def _returned(self, value: Any) -> None:
        forgotten = self._forgotten()
        if forgotten is not None:
            self._end(BodyEnded(failure=failure_from_exception(forgotten)))
            return
        try:
            payload, output = self.flow.codec.round_trip(value, self.flow.returns)
            if redacts(self.flow.redact, Parts.OUTPUT):
                payload = marked(payload, self.flow.codec, Parts.OUTPUT)
            limit = self.host.limits.payload_bytes_max
            if len(payload.data) > limit:
                raise PayloadTooLarge(f"output of flow {self.flow.name!r} is {len(payload.data)} bytes, limit {limit}")
        except Exception as exc:
            self._end(BodyEnded(failure=self._shown(failure_from_exception(exc))))
        else:
            self._end(BodyEnded(payload), output)

    def _forgotten(self) -> UnawaitedStep | None:
        """A step or group that the flow never awaited, or did not wait for (MISSION P13, U6)."""
        for future in self._unawaited():
            return UnawaitedStep(f"{future.path!r} was never awaited", future.path)
        for path, step in self.steps.items():
            if not step.cancelled():
                return UnawaitedStep(f"{path!r} was still running when the flow returned", path)
        return None

    def _unawaited(self) -> list[DurableFuture]:
        """Steps and groups that nobody awaits, or has awaited."""
        open_ones = (*self.steps.values(), *[group.future for group in self.groups.values()])
        return [*self.unawaited, *[future for future in open_ones if not future.awaited]]

    def _end(self, ended: BodyEnded, output: Any = None) -> None:
        if self.over or self.ended:
            return
        for future in self._unawaited():
            future.silence()
        new = self.journal.caught_up
        if self.decide(Kind.BODY_ENDED, "", ended):
            self.ended = True
            if new:
                self._tell_end(ended, output)

    def _tell_end(self, ended: BodyEnded, output: Any) -> None:
        """Hooks hear of it once: where it was decided, not where that is replayed."""
        if ended.failure is not None:
            self.host.hooks.fire("run_failed", self.run_id, self.flow.name, failure=ended.failure)
        elif not ended.cancelled:
            self.host.hooks.fire("run_succeeded", self.run_id, self.flow.name, output=output)


def _next_path(scope: Scope, name: str) -> str:
    if name.startswith(RESERVED_PREFIX):
        raise InvalidStepName(f"{name!r}: names that begin with {RESERVED_PREFIX!r} are the engine's own")
    try:
        return scope.next_path(name)
    except paths.InvalidName as error:
        raise InvalidStepName(str(error)) from None


__all__ = ("LiveBody", "StepKind")

_STEP, _BODY_ENDED = Kind.STEP, Kind.BODY_ENDED
_NOT_HERE = object()
"""Stands for an output that this process has not."""
