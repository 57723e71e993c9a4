"""The built-in host's side of its session, as a pure machine: what it executes, what it said, what was acked.

The protocol is that of every host (`proto/README.md`, section 3), so the engine needs no second way of losing, adopting
and repeating attempts. This host has no bodies. It owns no loop, clock or socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from stepwire.protocol import limits
from stepwire.protocol.frames import (
    AttemptInProgress,
    Cancel,
    CancelReason,
    EngineFrame,
    EngineSection,
    Execute,
    Goodbye,
    Hello,
    HostFrame,
    HostSection,
    Reject,
    RejectReason,
    Report,
    Result,
    ResumeState,
    Welcome,
)
from stepwire.protocol.plan import Fence, StepKind

Key = tuple[str, str]
"""Run id and path."""


class Orders(msgspec.Struct):
    """What a frame of the engine asks for: attempts to begin, and attempts to stop."""

    begin: list[tuple[Key, Execute]] = []
    stop: list[tuple[Key, CancelReason]] = []


class _Attempt:
    __slots__ = ("attempt", "fence", "since")

    def __init__(self, attempt: int, fence: Fence, since: float) -> None:
        self.attempt = attempt
        self.fence = fence
        self.since = since


class CallSession:
    """Books of the built-in host.

    Args:
        hello: What it says of itself; `resume` is filled in once the engine knows it.
    """

    def __init__(self, hello: Hello) -> None:
        self._hello = hello
        self._connected = False
        self._draining = False
        self._welcome: Welcome | None = None
        self._greeted = False
        self._attempts: dict[Key, _Attempt] = {}
        self._finished: dict[Key, Result] = {}
        self._queue: deque[tuple[str, Result | Reject]] = deque()
        self._position = 0
        self._unacked: deque[tuple[int, list[HostSection]]] = deque()
        self._resend: deque[tuple[int, list[HostSection]]] = deque()
        self._engine_frame = 0
        self._report_due = 0.0
        self._goodbye: Goodbye | None = None

    @property
    def in_progress(self) -> int:
        """Attempts that have not been answered to the engine."""
        return len(self._attempts) + len(self._queue)

    # ---- streams

    def connect(self, now: float) -> Hello:
        """A new stream begins; the Hello it begins with."""
        self._connected = True
        self._welcome = None
        self._resend.clear()
        if not self._greeted:
            return self._hello
        attempts = (
            *self._executing(now),
            *(AttemptInProgress(run, r.path, r.attempt, r.fence, r.elapsed) for (run, _), r in self._finished.items()),
        )
        first = self._unacked[0][0] if self._unacked else 0
        return msgspec.structs.replace(self._hello, resume=ResumeState((), attempts, first))

    def disconnect(self) -> None:
        """The stream ended. Everything is kept."""
        self._connected = False
        self._welcome = None

    def _executing(self, now: float) -> Iterable[AttemptInProgress]:
        for (run_id, path), a in self._attempts.items():
            yield AttemptInProgress(run_id, path, a.attempt, a.fence, max(0.0, now - a.since))

    # ---- frames in

    def receive(self, frame: EngineFrame, now: float) -> Orders:
        """Book a frame of the engine."""
        self._engine_frame = frame.number
        if frame.welcome is not None:
            self._welcome = frame.welcome
            self._greeted = True
            self._report_due = now + frame.welcome.heartbeat_interval
            self._resend = deque(self._unacked)
        if frame.drain is not None or frame.goodbye is not None:
            self._draining = True
        self._forget(frame.acked_position)
        orders = Orders([], [])
        for section in frame.runs:
            self._section(section, orders, now)
        return orders

    def _forget(self, acked: int) -> None:
        while self._unacked and self._unacked[0][0] <= acked:
            _, sections = self._unacked.popleft()
            for section in sections:
                for result in section.results:
                    if self._finished.get((section.run_id, result.path)) is result:
                        del self._finished[section.run_id, result.path]

    def _section(self, section: EngineSection, orders: Orders, now: float) -> None:
        for execute in section.executes:
            if self._execute(section.run_id, execute, now):
                orders.begin.append(((section.run_id, execute.path), execute))
        for cancel in section.cancels:
            orders.stop += [(key, cancel.reason) for key in self._meant(section.run_id, cancel)]

    def _execute(self, run_id: str, execute: Execute, now: float) -> bool:
        key = run_id, execute.path
        running = self._attempts.get(key)
        finished = self._finished.get(key)
        if running is not None and running.attempt == execute.attempt:
            # Already under way: the new right replaces the old one.
            running.fence = max(running.fence, execute.fence)
            return False
        if running is None and finished is not None and finished.attempt == execute.attempt:
            self._answer(run_id, msgspec.structs.replace(finished, fence=execute.fence))
            return False
        reason = self._reject_reason(execute)
        if running is not None:
            reason = RejectReason.NO_SLOT
        if reason is not None:
            self._queue.append((run_id, Reject(execute.path, execute.attempt, execute.fence, reason)))
            return False
        self._attempts[key] = _Attempt(execute.attempt, execute.fence, now)
        return True

    def _reject_reason(self, execute: Execute) -> RejectReason | None:
        if execute.kind is not StepKind.CALL or execute.call is None:
            return RejectReason.NOT_SERVED
        if self._draining:
            return RejectReason.DRAINING
        return RejectReason.NO_SLOT if len(self._attempts) >= self._hello.slots else None

    def _meant(self, run_id: str, cancel: Cancel) -> list[Key]:
        """The attempts that a Cancel stops."""
        return [
            key
            for key, attempt in self._attempts.items()
            if key[0] == run_id and (not cancel.path or (cancel.path == key[1] and attempt.fence <= cancel.fence))
        ]

    # ---- outcomes

    def finish(self, key: Key, result: Result) -> None:
        """Queue the outcome of an attempt, under the right it has now."""
        attempt = self._attempts.pop(key)
        self._answer(key[0], msgspec.structs.replace(result, fence=attempt.fence))

    def _answer(self, run_id: str, result: Result) -> None:
        self._finished[run_id, result.path] = result
        self._queue.append((run_id, result))

    def say_goodbye(self, reason: str) -> None:
        """What is in progress goes back to the engine; it is no attempt."""
        self._draining = True
        self._goodbye = Goodbye(reason)

    # ---- frames out

    def next_report(self) -> float | None:
        """When the next Report is due; None without a welcomed stream."""
        return self._report_due if self._welcome is not None else None

    def take_frame(self, now: float) -> HostFrame | None:
        """The next frame that may be sent, or None. Call until it returns None."""
        if not self._connected or self._welcome is None:
            return None
        if self._resend:
            position, sections = self._resend.popleft()
            return HostFrame(position=position, runs=sections)
        report = self._take_report(now)
        sections = self._take_sections()
        if not (sections or report or self._goodbye):
            return None
        frame = HostFrame(runs=sections, report=report)
        if not self._queue:
            frame.goodbye, self._goodbye = self._goodbye, None
        kept = [HostSection(s.run_id, [], s.results, []) for s in sections if s.results]
        if kept:
            self._position += 1
            frame.position = self._position
            self._unacked.append((self._position, kept))
        return frame

    def _take_sections(self) -> list[HostSection]:
        """Queued answers by run, until the frame is full."""
        sections: dict[str, HostSection] = {}
        size = 0
        while self._queue and size < limits.FRAME_BYTES_TARGET:
            run_id, said = self._queue.popleft()
            section = sections.setdefault(run_id, HostSection(run_id, [], [], []))
            match said:
                case Result():
                    section.results.append(said)
                    size += len(said.output.data) if said.output is not None else 0
                case Reject():
                    section.rejects.append(said)
        return list(sections.values())

    def _take_report(self, now: float) -> Report | None:
        if self._welcome is None or now < self._report_due:
            return None
        self._report_due = now + self._welcome.heartbeat_interval
        free = 0 if self._draining else max(0, self._hello.slots - len(self._attempts))
        queued = tuple(AttemptInProgress(run_id, said.path, said.attempt, said.fence) for run_id, said in self._queue)
        return Report(free, 0, 0.0, self._engine_frame, (*self._executing(now), *queued))
