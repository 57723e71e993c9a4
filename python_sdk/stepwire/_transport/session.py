"""The host's side of a session, as a pure machine (DESIGN 3): numbering, retention until acked, resume, books.

It knows which bodies and attempts this process holds and what the engine has not acked. It owns no
thread, stream or clock; a transport feeds frames in and takes frames out, the runtime submits what user
code produced. It is not thread-safe: whoever shares it holds a lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from stepwire._transport.ahead import Ahead
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import (
    Advance,
    AttemptInProgress,
    BodyFailed,
    Cancel,
    CancelReason,
    Drain,
    EngineFrame,
    EngineSection,
    Execute,
    Fault,
    Feature,
    Goodbye,
    Hello,
    HostFrame,
    HostSection,
    LiveBody,
    NeedSnapshot,
    Purpose,
    Reject,
    RejectReason,
    Report,
    Result,
    ResumeState,
    Welcome,
)
from stepwire.protocol.plan import Fence, Plan, StepKind

_Key = tuple[str, str]


class _Attempt(msgspec.Struct, eq=False, gc=False):
    """An attempt in progress. A Struct, because every step has one."""

    attempt: int
    fence: Fence
    since: float


class _Body:
    """A body that this process holds.

    Attributes:
        undoing: It was entered for its undos only.
        undos: It planned steps that closures of it undo.
        ended: It said its last words and is kept for its undos; nothing but undos is executed in it.
        over: It is no more; it stays listed until its last words are acked.
    """

    __slots__ = ("ended", "fence", "last_release", "next_plan_seq", "over", "undoing", "undos")

    def __init__(self, fence: Fence, *, undoing: bool) -> None:
        self.fence = fence
        self.undoing = undoing
        self.undos = False
        self.ended = False
        self.over = False
        self.last_release = 0
        self.next_plan_seq = 1


class HostSession:
    """Books of one host process.

    Args:
        hello: What this process serves; `resume` is filled in from the second stream on.

    Attributes:
        waiting: What was given ahead of free slots and waits for them. Always the same.
    """

    def __init__(self, hello: Hello) -> None:
        self._hello = hello
        self.slots = hello.slots
        self.welcome: Welcome | None = None
        self.refused: Fault | None = None
        self.draining = False
        self.engine_draining = False
        self._lag = 0.0
        self._tick_due: float | None = None
        self._connected = False
        self._hello_due = False
        self._greeted = False
        self._bodies: dict[str, _Body] = {}
        self._attempts: dict[_Key, _Attempt] = {}
        self._ahead = Ahead()
        self.waiting: Mapping[_Key, object] = self._ahead.waiting
        self._finished: dict[_Key, Result] = {}
        self._queue: dict[str, HostSection] = {}
        self._durable = False
        self._position = 0
        self._unacked: deque[tuple[int, list[HostSection]]] = deque()
        self._resend: deque[tuple[int, list[HostSection]]] = deque()
        self._engine_frame = 0
        self._report_due = 0.0
        self._drain: Drain | None = None
        self._drain_said: Drain | None = None
        self._goodbye: Goodbye | None = None

    # ---- reading

    @property
    def connected(self) -> bool:
        """The engine welcomed the present stream."""
        return self._connected and self.welcome is not None

    @property
    def alike(self) -> bool:
        """The engine understands messages that speak for others."""
        return self.welcome is not None and Feature.ALIKE in self.welcome.features

    @property
    def free_slots(self) -> int:
        return 0 if self.draining else self.slots - len(self._attempts) - len(self.waiting)

    @property
    def attempts(self) -> int:
        return len(self._attempts)

    @property
    def speaks(self) -> bool:
        """Something about a run is to be sent."""
        return bool(self._queue)

    @property
    def bodies(self) -> int:
        return len(self._bodies)

    @property
    def unacked(self) -> int:
        """Durable frames kept for the engine."""
        return len(self._unacked)

    @property
    def settled(self) -> bool:
        """Everything durable was sent and acked."""
        return not self._unacked and not self._durable

    @property
    def owes_outcomes(self) -> bool:
        """Something was decided or done here that the engine may not know of. Bodies given back are no such thing."""
        kept = (section for _, sections in self._unacked for section in sections)
        return any(s.plans or s.results or s.body_failed for s in (*kept, *self._queue.values()))

    # ---- streams

    def connect(self) -> None:
        """A new stream begins; its first frame is Hello."""
        self._connected = True
        self._hello_due = True
        self.welcome = None
        self.refused = None
        self._engine_frame = 0
        self._resend.clear()
        self.engine_draining = False
        self._drain = self._drain_said

    def disconnect(self) -> None:
        """The stream ended. Everything is kept but what was not begun: the engine gives that out again."""
        self._connected = False
        self.welcome = None
        self._ahead.clear()

    @property
    def instance_id(self) -> str:
        return self._hello.instance_id

    def rename(self, instance_id: str) -> None:
        """From the next stream on this is another instance, which offers to go on with everything it holds."""
        self._hello = msgspec.structs.replace(self._hello, instance_id=instance_id)

    def _resume(self, now: float) -> ResumeState | None:
        if not self._greeted:
            return None
        attempts = [
            AttemptInProgress(run_id, path, a.attempt, a.fence, max(0.0, now - a.since))
            for (run_id, path), a in self._attempts.items()
        ]
        attempts += [
            AttemptInProgress(run_id, path, r.attempt, r.fence, r.elapsed)
            for (run_id, path), r in self._finished.items()
        ]
        bodies = [LiveBody(run_id, b.fence, b.last_release, b.next_plan_seq) for run_id, b in self._bodies.items()]
        return ResumeState(tuple(bodies), tuple(attempts), self._unacked[0][0] if self._unacked else 0)

    # ---- frames in

    def receive(self, frame: EngineFrame, now: float) -> list[EngineSection]:
        """Book a frame of the engine.

        Returns:
            What the runtime must do: sections from which everything was removed that has no right here
            any more, or that was refused or answered already.
        """
        self._engine_frame = frame.number
        if frame.welcome is not None:
            self.welcome = frame.welcome
            self._greeted = True
            self._report_due = now + frame.welcome.heartbeat_interval
            self._resend = deque(self._unacked)
        if frame.fault is not None and not frame.fault.run_id:
            self.refused = frame.fault
        self.engine_draining = self.engine_draining or frame.drain is not None
        self._forget(frame.acked_position)
        return [s for s in (self._section(section, now) for section in frame.runs) if s is not None]

    def _forget(self, acked: int) -> None:
        while self._unacked and self._unacked[0][0] <= acked:
            _, sections = self._unacked.popleft()
            for section in sections:
                self._forget_section(section)

    def _forget_section(self, section: HostSection) -> None:
        for result in section.results:
            key = section.run_id, result.path
            if self._finished.get(key) is result:
                del self._finished[key]
        # Its last words are on record; until now the body was still this host's to resume.
        body = self._bodies.get(section.run_id)
        if body is not None and body.over and _last_words(section) == body.fence:
            del self._bodies[section.run_id]

    def _section(self, section: EngineSection, now: float) -> EngineSection | None:
        run_id = section.run_id
        if section.evict is not None:
            section.cancels = [*self._evict(run_id, section.evict), *section.cancels]
        if section.advance is not None and not self._advance(run_id, section.advance):
            section.advance = None
        section.executes = [e for e in section.executes if self._execute(run_id, e, now)]
        section.cancels = [c for c in section.cancels if self._cancel(run_id, c)]
        something = section.advance or section.executes or section.cancels or section.evict or section.continued
        return section if something else None

    def _advance(self, run_id: str, advance: Advance) -> bool:
        body = self._bodies.get(run_id)
        if advance.start is not None:
            if body is not None and body.fence >= advance.fence:
                return False
            body = self._bodies[run_id] = _Body(advance.fence, undoing=advance.purpose is Purpose.UNDO)
            self._drop_plans(run_id)
        elif body is None or body.fence != advance.fence:
            self._say(run_id).need_snapshot = NeedSnapshot(advance.fence)
            return False
        elif body.over or body.ended:
            return False
        for entry in advance.entries:
            if isinstance(entry, Plan):
                body.next_plan_seq = entry.plan_seq + 1
                body.undos = body.undos or _has_undos(entry)
            else:
                body.last_release = max(body.last_release, entry.release_seq)
        return True

    def _execute(self, run_id: str, execute: Execute, now: float) -> bool:
        key = run_id, execute.path
        running = self._attempts.get(key)
        if running is not None:
            # Already executing it: the new right replaces the old one, the body of the step runs on.
            if running.attempt == execute.attempt:
                running.fence = max(running.fence, execute.fence)
                return False
            self._reject(run_id, execute, RejectReason.NO_SLOT)
            return False
        if self.waiting and self._ahead.renew(key, execute):
            return False
        finished = self._finished.get(key)
        if finished is not None and finished.attempt == execute.attempt:
            again = msgspec.structs.replace(finished, fence=execute.fence)
            self._finished[key] = again
            self._say(run_id).results.append(again)
            self._durable = True
            return False
        if execute.kind is StepKind.RUN and not self._has_body(run_id, undo=execute.undo is not None):
            self._reject(run_id, execute, RejectReason.NO_BODY)
            return False
        if self.draining:
            self._reject(run_id, execute, RejectReason.DRAINING)
            return False
        free = self.slots - len(self._attempts) - len(self.waiting)
        if free > 0:
            self._attempts[key] = _Attempt(execute.attempt, execute.fence, now)
            return True
        if free <= -self._hello.ahead or not self._ahead.add(run_id, execute, now):
            self._reject(run_id, execute, RejectReason.NO_SLOT)
        return False

    def _has_body(self, run_id: str, *, undo: bool) -> bool:
        body = self._bodies.get(run_id)
        return body is not None and not body.over and (undo or not body.ended)

    def _cancel(self, run_id: str, cancel: Cancel) -> bool:
        for _, given in self._ahead.take_cancelled(run_id, cancel) if self.waiting else ():
            failure = Failure(ErrorCode.CANCELLED, "Cancelled", f"step {given.path!r} was cancelled before it began")
            self.submit_result(run_id, Result(given.path, given.attempt, given.fence, None, failure))
        if not cancel.path:
            body = self._bodies.get(run_id)
            if body is not None and (body.ended or body.undoing):
                # Nobody needs its undos any more, and it does nothing else.
                self._evict(run_id, cancel.fence)
            return True
        running = self._attempts.get((run_id, cancel.path))
        return running is not None and running.fence <= cancel.fence

    def _evict(self, run_id: str, fence: Fence) -> list[Cancel]:
        """The body is no more. Returns what must stop: attempts that were begun for plans the engine will never see."""
        body = self._bodies.get(run_id)
        if body is None or body.fence > fence:
            return []
        del self._bodies[run_id]
        void = [step.path for plan in self._drop_plans(run_id) for step in plan.steps if step.started]
        return [Cancel(path, body.fence, CancelReason.LEASE_LOST) for path in void]

    def _drop_plans(self, run_id: str) -> list[Plan]:
        """Plans of an evicted body that were never sent have no right any more."""
        section = self._queue.get(run_id)
        if section is None:
            return []
        void, section.plans = section.plans, []
        return void

    # ---- what waits for a slot

    @property
    def next_waiting(self) -> tuple[str, Execute] | None:
        """What a free slot is for. None: nothing waits, or no slot is free."""
        return self._ahead.first if self.waiting and self.slots > len(self._attempts) else None

    def begin_waiting(self, now: float, most: int | None = None) -> list[tuple[str, Execute]]:
        """Give free slots to what waits for them, first come, first served. Returns what begins now.

        Args:
            most: Slots to give; None: all that are free.
        """
        free = self.slots - len(self._attempts)
        begun = self._ahead.take(free if most is None else min(free, most))
        for run_id, execute in begun:
            self._attempts[run_id, execute.path] = _Attempt(execute.attempt, execute.fence, now)
        return begun

    def _stop_waiting(self) -> None:
        """The host drains: what waits begins somewhere else."""
        self.draining = True
        for run_id, execute in self._ahead.take_late():
            self._reject(run_id, execute, RejectReason.DRAINING)

    # ---- what user code produced

    def _say(self, run_id: str) -> HostSection:
        section = self._queue.get(run_id)
        if section is None:
            section = self._queue[run_id] = HostSection(run_id, [], [], [])
        return section

    def start_all(self, run_id: str, paths: Sequence[str], fence: Fence, now: float) -> list[str]:
        """Take slots for attempts 1 of steps the body just planned, in this order. Returns those that got one.

        The others did not: no slot is free, somebody drains, or the body was evicted and the loop does not know it yet.
        """
        body = self._bodies.get(run_id)
        if body is None or body.over or body.fence != fence or self.engine_draining:
            return []
        attempts, free = self._attempts, self.free_slots
        taken = []
        for path in paths:
            if free <= 0:
                break
            key = run_id, path
            if key not in attempts:
                attempts[key] = _Attempt(1, fence, now)
                taken.append(path)
                free -= 1
        return taken

    def attempt_fence(self, run_id: str, path: str) -> Fence | None:
        """The right under which an attempt executes at the moment."""
        attempt = self._attempts.get((run_id, path))
        return attempt.fence if attempt is not None else None

    def submit_plans(self, run_id: str, plans: Sequence[Plan]) -> bool:
        """Queue a body's plans. False: the body was evicted meanwhile, they are void."""
        body = self._bodies.get(run_id)
        if body is None or body.over or body.ended or not plans or body.fence != plans[0].fence:
            return False
        body.next_plan_seq = plans[-1].plan_seq + 1
        if not body.undos:
            body.undos = any([_has_undos(plan) for plan in plans])
        ended = plans[-1].body_ended
        if ended is not None:
            # One that may be undone stays until the engine lets it go.
            body.ended = body.undos and (ended.failure is not None or ended.cancelled)
            body.over = not body.ended
        self._say(run_id).plans.extend(plans)
        self._durable = True
        return True

    def submit_result(self, run_id: str, result: Result) -> None:
        """Queue the outcome of an attempt, under the right it has now, and free its slot."""
        self.submit_results(((run_id, result),))

    def submit_results(self, results: Sequence[tuple[str, Result]]) -> None:
        """The same for many, of any runs."""
        attempts, finished = self._attempts, self._finished
        said: str | None = None
        for run_id, result in results:
            if run_id != said:
                said, say = run_id, self._say(run_id).results.append
            key = run_id, result.path
            attempt = attempts.pop(key, None)
            if attempt is not None and attempt.fence != result.fence:
                result = msgspec.structs.replace(result, fence=attempt.fence)
            finished[key] = result
            say(result)
        self._durable = self._durable or bool(results)

    def reject(self, run_id: str, execute: Execute, reason: RejectReason) -> None:
        """Give an attempt back that was never begun, under the right it has now."""
        attempt = self._attempts.pop((run_id, execute.path), None)
        if attempt is not None and attempt.fence != execute.fence:
            execute = msgspec.structs.replace(execute, fence=attempt.fence)
        self._reject(run_id, execute, reason)

    def _reject(self, run_id: str, execute: Execute, reason: RejectReason) -> None:
        self._say(run_id).rejects.append(Reject(execute.path, execute.attempt, execute.fence, reason))

    def give_back(self, run_id: str, fence: Fence, *, waits_after: int | None = None, no_room: bool = False) -> None:
        """The live body is gone here; the engine places it again.

        Its plans that are under way still count, so it stays this host's to resume until this is acked.

        Args:
            waits_after: It waits, and was given every release up to this one: it has nothing to do until the next.
            no_room: It was never entered, for want of room.
        """
        body = self._bodies.get(run_id)
        if body is not None and body.fence == fence and not body.over:
            body.over = True
            self._say(run_id).need_snapshot = NeedSnapshot(fence, waits_after, no_room)
            self._durable = True

    def fail_body(self, run_id: str, failed: BodyFailed) -> None:
        """The body cannot go on."""
        body = self._bodies.get(run_id)
        if body is not None and body.fence == failed.fence and not body.over:
            body.over = True
            self._say(run_id).body_failed = failed
            self._durable = True

    def drain(self, deadline: float) -> None:
        """No new work, please. Said again on every further stream."""
        self._stop_waiting()
        self._drain = self._drain_said = Drain(deadline)

    def loop_ticked(self, now: float, next_due: float) -> None:
        """The application's loop runs, and is to say so again at `next_due`. What it is late then is its lag."""
        self._lag = self._loop_lag(now)
        self._tick_due = next_due

    def _loop_lag(self, now: float) -> float:
        """The longest delay of the loop since the last Report, in seconds; one that is blocked now counts as well."""
        return self._lag if self._tick_due is None else max(self._lag, now - self._tick_due)

    def report_now(self, now: float) -> None:
        """Something changed that the engine should not wait for: the next Report is due at once."""
        self._report_due = min(self._report_due, now)

    def say_goodbye(self, reason: str) -> None:
        self._stop_waiting()
        self._goodbye = Goodbye(reason)

    # ---- frames out

    def next_due(self) -> float | None:
        """When the next Report is due, or what was given ahead goes back; None without a welcomed stream."""
        if not self.connected:
            return None
        late = self._ahead.until if self.waiting else None
        return self._report_due if late is None else min(late, self._report_due)

    def take_frame(self, now: float) -> HostFrame | None:
        """Everything that may be sent now as one frame, or None. Call until it returns None."""
        if not self._connected:
            return None
        if self._hello_due:
            self._hello_due = False
            return HostFrame(hello=msgspec.structs.replace(self._hello, resume=self._resume(now)))
        if self.welcome is None:
            return None
        if self._resend:
            position, sections = self._resend.popleft()
            return HostFrame(position=position, runs=sections)
        if self.waiting:
            for run_id, execute in self._ahead.take_late(now):
                self._reject(run_id, execute, RejectReason.NO_SLOT)
        report = self._take_report(now)
        if not (self._queue or report or self._drain or self._goodbye):
            return None
        frame = HostFrame(runs=list(self._queue.values()), report=report, drain=self._drain, goodbye=self._goodbye)
        self._queue = {}
        self._drain = self._goodbye = None
        if self._durable:
            self._durable = False
            self._position += 1
            frame.position = self._position
            kept = [
                HostSection(s.run_id, s.plans, s.results, [], s.need_snapshot, s.body_failed)
                for s in frame.runs
                if s.plans or s.results or s.body_failed or s.need_snapshot
            ]
            self._unacked.append((self._position, kept))
        return frame

    def _take_report(self, now: float) -> Report | None:
        if now < self._report_due:
            return None
        assert self.welcome is not None
        self._report_due = now + self.welcome.heartbeat_interval
        attempts = tuple(
            AttemptInProgress(run_id, path, a.attempt, a.fence, max(0.0, now - a.since))
            for (run_id, path), a in self._attempts.items()
        )
        lag, self._lag = self._loop_lag(now), 0.0
        # What waits is listed too: of what is not, the engine concludes that it never arrived, and gives it out again.
        attempts += self._ahead.held()
        return Report(max(0, self.free_slots), len(self._bodies), lag, self._engine_frame, attempts)


def _has_undos(plan: Plan) -> bool:
    for step in plan.steps:
        if step.undo is not None and step.undo.kind is StepKind.RUN:
            return True
    return False


def _last_words(section: HostSection) -> Fence | None:
    """The fence of the body that ended, failed or was given back with this section, if one did."""
    if section.body_failed is not None:
        return section.body_failed.fence
    if section.need_snapshot is not None:
        return section.need_snapshot.fence
    if section.plans and section.plans[-1].body_ended is not None:
        return section.plans[-1].fence
    return None
