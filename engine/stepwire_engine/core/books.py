"""What the parts of the core share: runs, sessions, timers and the queues of what the shell must do next."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import msgspec

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import Fault
from stepwire.protocol.plan import Fence
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.counters import Counters
from stepwire_engine.core.machine import Turn
from stepwire_engine.core.model import Lease, Run, Step
from stepwire_engine.core.sessions import AckTicket, Session
from stepwire_engine.core.units import Unit


class Now(NamedTuple):
    """The present, as the shell read it: `mono` in seconds for leases and timers, `unix_ms` for the record."""

    mono: float
    unix_ms: int


class Commit(msgspec.Struct):
    """A unit on its way to the store, and what waits for it."""

    unit: Unit
    turn: Turn | None = None
    tickets: list[AckTicket] = []
    welcome: tuple[Session, int] | None = None
    """Session and stream that get their Welcome."""
    replies: list[Reply] = []


class Reply(msgspec.Struct, frozen=True):
    """The answer to a client's call, identified by the caller's token."""

    token: object
    run_id: str = ""
    existing: bool = False
    code: ErrorCode | None = None
    message: str = ""
    key_taken_by: str = ""
    """The idempotency key belongs to this finished run; the shell compares and answers."""


_TIMERS_SWEPT_MIN = 1024


class Timers:
    """Due times of retries and attempt timeouts on the monotonic clock, in seconds.

    Nobody disarms a timer. Those whose attempt is over are dropped when they would be half of all, so that
    ended runs do not stay in memory until the timeouts of their steps.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Step | Lease]] = []
        self._count = 0
        self._sweep_at = _TIMERS_SWEPT_MIN

    def arm(self, due: float, what: Step | Lease) -> None:
        if len(self._heap) >= self._sweep_at:
            self._heap = [timer for timer in self._heap if _awaited(timer[2])]
            heapq.heapify(self._heap)
            self._sweep_at = max(_TIMERS_SWEPT_MIN, 2 * len(self._heap))
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, what))

    def next_due(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> list[Step | Lease]:
        """Everything due at `now`, earliest first."""
        due: list[Step | Lease] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        return due


def _awaited(what: Step | Lease) -> bool:
    if isinstance(what, Lease):
        return what.step.lease is what
    return not (what.state.final or what.run.broken or what.run.state.terminal)


class Books:
    """The shared state of one engine core. It decides nothing."""

    def __init__(self, config: CoreConfig, claim_epoch: int, last_run_number: int, now: Now) -> None:
        self.config = config
        self.claim_epoch = claim_epoch
        self.last_run_number = last_run_number
        self.now = now
        self.counters = Counters()
        self.runs: dict[str, Run] = {}
        self.keys: dict[str, Run] = {}
        self.broken: dict[str, Run] = {}
        self.last_commit: dict[int, Commit] = {}
        self.sessions: dict[str, Session] = {}
        self.known_flows: set[str] = set()
        self.timers = Timers()
        self.draining = False
        self._fence_n = 0
        # Taken by the shell.
        self.commits: list[Commit] = []
        self.replies: list[Reply] = []
        self.loads: list[Run] = []
        self.changed: set[str] = set()
        self.incidents: list[tuple[str, Exception]] = []
        self.ended: list[tuple[Run, int]] = []
        self.speaking: dict[str, Session] = {}

    def next_fence(self) -> Fence:
        """A fence higher than every one given before."""
        self._fence_n += 1
        return Fence(self.claim_epoch, self._fence_n)

    def fault(self, session: Session, code: ErrorCode, message: str) -> None:
        """End the session's stream with a typed error."""
        session.fault(Fault(code, message))
        self.speak(session)

    def speak(self, session: Session) -> Session:
        """Note that something was queued for this session."""
        self.speaking[session.id] = session
        return session

    def due_mono(self, unix_ms: int) -> float:
        """A wall-clock time on the monotonic clock."""
        return self.now.mono + (unix_ms - self.now.unix_ms) / 1000
