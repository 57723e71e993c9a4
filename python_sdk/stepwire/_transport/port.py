"""The session core shared between the threads of a host: a lock, and a bell for whoever writes the stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from stepwire._transport.log_queue import LogQueue
from stepwire._transport.session import HostSession
from stepwire.protocol.frames import (
    BodyFailed,
    EngineFrame,
    EngineSection,
    Execute,
    HostFrame,
    RejectReason,
    Result,
)
from stepwire.protocol.plan import Fence, Plan

T = TypeVar("T")


class SessionPort:
    """Thread-safe access to one HostSession.

    Args:
        session: The pure core.
        clock: Seconds, monotonic.
        logs: Lines that frames take along; None: there are none.

    Attributes:
        waiting: What was given ahead of free slots and waits for them. Always the same, so that a look takes no lock.
        bell: Tells the transport that something may be sent.
        hand_over: The same by a caller that goes on for long: the transport takes it first, if it can do so at once.
    """

    def __init__(self, session: HostSession, clock: Callable[[], float], logs: LogQueue | None = None) -> None:
        self.logs = logs
        self.session = session
        self.waiting = session.waiting
        self.clock = clock
        self.lock = threading.RLock()
        self.bell: Callable[[], None] = _silent
        self.hand_over: Callable[[], None] = self.ring

    def ring(self) -> None:
        """Tell the transport that something may be sent."""
        self.bell()

    # ---- for the runtime

    def start(self, run_id: str, paths: Sequence[str], fence: Fence) -> Sequence[str]:
        """Take slots for first attempts, in order. Returns those that got one."""
        with self.lock:
            return self.session.start_all(run_id, paths, fence, self.clock())

    def attempt_fence(self, run_id: str, path: str) -> Fence | None:
        with self.lock:
            return self.session.attempt_fence(run_id, path)

    def submit_plans(self, run_id: str, plans: Sequence[Plan]) -> bool:
        with self.lock:
            return self.session.submit_plans(run_id, plans)

    def submit_results(self, results: Sequence[tuple[str, Result]]) -> None:
        with self.lock:
            self.session.submit_results(results)

    def begin_waiting(self) -> Sequence[tuple[str, Execute]]:
        """Take free slots for what waits for them. Returns what must be begun."""
        with self.lock:
            return self.session.begin_waiting(self.clock())

    def begin_next(self, book: Callable[[str, Execute], T | None]) -> T | None:
        """Take one free slot for what has waited longest, if `book` takes it. Returns what it gives, or None.

        Nobody can cancel what waits before it is booked, or what is booked before whoever cancels it would find it.
        """
        with self.lock:
            given = self.session.next_waiting
            booked = book(*given) if given is not None else None
            if booked is not None:
                self.session.begin_waiting(self.clock(), 1)
            return booked

    def reject(self, run_id: str, execute: Execute, reason: RejectReason) -> None:
        with self.lock:
            self.session.reject(run_id, execute, reason)

    def give_back(self, run_id: str, fence: Fence, *, waits_after: int | None = None, no_room: bool = False) -> None:
        with self.lock:
            self.session.give_back(run_id, fence, waits_after=waits_after, no_room=no_room)

    def room_again(self) -> None:
        """Bodies can be taken again after some were refused: the engine hears of it with the next frame."""
        with self.lock:
            self.session.report_now(self.clock())
        self.ring()

    def fail_body(self, run_id: str, failed: BodyFailed) -> None:
        with self.lock:
            self.session.fail_body(run_id, failed)

    # ---- for the transport

    def connect(self) -> None:
        with self.lock:
            self.session.connect()

    def disconnect(self) -> None:
        with self.lock:
            self.session.disconnect()

    def receive(self, frame: EngineFrame) -> list[EngineSection]:
        with self.lock:
            waited = bool(self.waiting)
            sections = self.session.receive(frame, self.clock())
            unheard = (self.waiting and not waited) or (not sections and self.session.speaks)
        if unheard:  # What was answered at once, or has its time now, is nothing that the runtime hears of.
            self.ring()
        return sections

    def take_frame(self) -> HostFrame | None:
        with self.lock:
            now = self.clock()
            frame = self.session.take_frame(now)
            greeted = self.session.connected
        return self._with_logs(frame, now) if self.logs and greeted else frame

    def _with_logs(self, frame: HostFrame | None, now: float) -> HostFrame | None:
        """The frame with lines that go along, or one of their own once they are due. They are never sent again."""
        assert self.logs is not None
        due = self.logs.due_at()
        if due is None or (frame is None and due > now):
            return frame
        frame = frame or HostFrame()
        frame.logs = self.logs.take(now, everything=frame.goodbye is not None)
        return frame

    def next_due(self) -> float | None:
        """When the next Report, log line or Reject is due; None without a welcomed stream."""
        with self.lock:
            due = self.session.next_due()
        lines = self.logs.due_at() if self.logs and due is not None else None
        return due if lines is None or due is None else min(due, lines)


def _silent() -> None:
    pass
