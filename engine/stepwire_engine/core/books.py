"""What the parts of the core share: runs, sessions, timers and the queues of what the shell must do next."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import Fault, FlowOptions
from stepwire.protocol.plan import Fence
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.counters import Counters
from stepwire_engine.core.deadlines import group_due_ms, is_settled, step_due_ms
from stepwire_engine.core.model import Group, Lease, Run, Step
from stepwire_engine.core.reads import Read
from stepwire_engine.core.sessions import AckTicket, Session
from stepwire_engine.core.turn import Turn
from stepwire_engine.core.units import Receipt, Unit


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
    after: Callable[[Receipt], None] | None = None
    """Told what became of it, for units of no run."""


class Reply(msgspec.Struct, frozen=True):
    """The answer to a client's call, identified by the caller's token."""

    token: object
    run_id: str = ""
    existing: bool = False
    code: ErrorCode | None = None
    message: str = ""
    key_taken_by: str = ""
    """The idempotency key belongs to this finished run; the shell compares and answers."""
    event_id: str = ""
    """Of an accepted event; `existing` says that the id was known and nothing was sent again."""


class Repair(NamedTuple):
    """A run or step was found without its one owner, and got it again; for the log.

    Attributes:
        path: Of the step; empty: the run itself.
        missing: Of `owners.Missing`.
    """

    run_id: str
    path: str
    missing: str


_TIMERS_SWEPT_MIN = 1024


class Deadline(NamedTuple):
    """The total deadline of a step."""

    step: Step


class StopGrace(NamedTuple):
    """The time that the attempts of a stopping run have to stop."""

    run: Run


Timed = Step | Lease | Deadline | StopGrace | Group | Run


class Timers:
    """Due times of everything that goes on by itself, on the monotonic clock, in seconds.

    What is armed says what is due: a Step its next attempt (or the end of its sleep or wait), a Lease the timeout of
    its attempt, a Deadline the deadline of its step, a StopGrace the compensation of its run, a Group or a Run its own
    deadline.

    Nobody disarms a timer. Those whose attempt is over are dropped when they would be half of all, so that
    ended runs do not stay in memory until the timeouts of their steps.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timed]] = []
        self._count = 0
        self._forgotten = 0
        self._sweep_at = _TIMERS_SWEPT_MIN

    def arm(self, due: float, what: Timed) -> None:
        if len(self._heap) >= self._sweep_at:
            self._sweep()
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, what))

    def forget(self, count: int) -> None:
        """Of what is armed, about `count` is not awaited any more; much of that does not stay in memory."""
        self._forgotten += count
        if len(self._heap) > _TIMERS_SWEPT_MIN and 2 * self._forgotten > len(self._heap):
            self._sweep()

    def next_due(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def _sweep(self) -> None:
        self._heap = [timer for timer in self._heap if _awaited(timer[2])]
        heapq.heapify(self._heap)
        self._sweep_at = max(_TIMERS_SWEPT_MIN, 2 * len(self._heap))
        self._forgotten = 0

    def pop_due(self, now: float, lags: list[float]) -> list[Timed]:
        """Everything due at `now`, earliest first; how late that is, in seconds, is added to `lags`."""
        due: list[Timed] = []
        while self._heap and self._heap[0][0] <= now:
            at, _, what = heapq.heappop(self._heap)
            due.append(what)
            lags.append(now - at)
        return due


def _awaited(what: Timed) -> bool:
    match what:
        case Lease():
            return what.step.lease is what
        case Deadline():
            return _open(what.step)
        case Step():
            return _open(what)
        case Group():
            return not is_settled(what) and _goes_on(what.run)
        case StopGrace(run):
            return run.stop_waits and _goes_on(run)
        case Run():
            return _goes_on(what)


def _open(step: Step) -> bool:
    return not step.state.final and _goes_on(step.run)


def _goes_on(run: Run) -> bool:
    return not (run.broken or run.state.terminal)


class Books:
    """The shared state of one engine core. It decides nothing."""

    def __init__(self, config: CoreConfig, claim_epoch: int, last_run_number: int, now: Now) -> None:
        self.config = config
        self.claim_epoch = claim_epoch
        self.last_run_number = last_run_number
        self.now = now
        self.counters = Counters()
        self.runs: dict[str, Run] = {}
        self.by_number: dict[int, Run] = {}
        self.keys: dict[str, Run] = {}
        self.broken: dict[str, Run] = {}
        self.unreadable: dict[int, str] = {}
        """Runs that are kept aside, by number, and what of them is damaged in the store."""
        self.last_commit: dict[int, Commit] = {}
        self.sessions: dict[str, Session] = {}
        self.known_flows: set[str] = set()
        self.flow_options: dict[str, FlowOptions] = {}
        self.freed: list[Step] = []
        """Steps that hold a place within a group's limit and execute no more."""
        self.timers = Timers()
        self.draining = False
        self.drained_by = 0.0
        self._fence_n = 0
        self.last_fence = Fence(claim_epoch, 0)
        """The highest that was given to anybody on this store."""
        # Taken by the shell.
        self.commits: list[Commit] = []
        self.lines = False
        """Log lines wait for a unit of theirs."""
        self.replies: list[Reply] = []
        self.loads: list[Run] = []
        self.reads: dict[Read, None] = {}
        self.repairs: list[Repair] = []
        self.lost: list[tuple[Session, str]] = []
        # Taken, and not answered yet.
        self.loading: dict[Run, int] = {}
        self.reading: set[Read] = set()
        self.changed: set[str] = set()
        self.incidents: list[tuple[str, Exception]] = []
        self.ended: list[tuple[Run, int]] = []
        self.speaking: dict[str, Session] = {}

    def add(self, run: Run) -> None:
        """The run is in memory."""
        self.runs[run.run_id] = run
        self.by_number[run.number] = run
        if run.id:
            self.keys.setdefault(run.id, run)

    def remove(self, run: Run) -> None:
        """The run is no longer in memory."""
        if self.by_number.pop(run.number, None) is run:
            del self.runs[run.run_id]
        if self.keys.get(run.id) is run:
            del self.keys[run.id]

    def note_repair(self, run_id: str, path: str, missing: str) -> None:
        """Count a repair, and have it logged."""
        self.counters.reconciled[missing] += 1
        self.repairs.append(Repair(run_id, path, missing))

    def next_fence(self) -> Fence:
        """A fence higher than every one given before."""
        return self.next_fences(1)[0]

    def next_fences(self, count: int) -> list[Fence]:
        """So many of them, each higher than the one before."""
        self._fence_n += count
        last = self._fence_n
        fences = [Fence(self.claim_epoch, n) for n in range(last - count + 1, last + 1)]
        self.last_fence = fences[-1]
        return fences

    def never_given(self, fence: Fence) -> bool:
        """Whether no engine on this store has given this fence to anybody: a defect of the host, or an old store."""
        return fence > self.last_fence

    def fault(self, session: Session, code: ErrorCode, message: str) -> None:
        """End the session's stream with a typed error."""
        session.fault(Fault(code, message))
        self.speak(session)

    def read(self, wanted: Read) -> None:
        """Ask the shell to read something from the store; it answers through `EngineCore.read_done`."""
        self.reads[wanted] = None

    def speak(self, session: Session) -> Session:
        """Note that something was queued for this session."""
        self.speaking[session.id] = session
        return session

    def due_mono(self, unix_ms: int) -> float:
        """A wall-clock time on the monotonic clock."""
        return self.now.mono + (unix_ms - self.now.unix_ms) / 1000

    def pop_due(self) -> list[Timed]:
        """Everything that is due on the monotonic clock, and on the wall clock as well, which may have been set back.

        What is due because that was set forward, the reconciler finds.
        """
        due = self.timers.pop_due(self.now.mono, self.counters.timer_lags)
        return [timed for timed in due if not self._is_early(timed)]

    def _is_early(self, timed: Timed) -> bool:
        """Whether this is a deadline that has not come, because the clock was set back; then it is armed again."""
        match timed:
            case Deadline(step):
                what: Step | Group | Run = step
                due_ms = step_due_ms(step)
            case Group() | Run():
                what = timed
                due_ms = group_due_ms(timed) if isinstance(timed, Group) else timed.deadline_ms
                if isinstance(timed, Group) and timed.closing:
                    return False  # It had come; this is the end of the grace after it.
            case _:
                return False  # Whoever has such a step looks at the clock again.
        early = due_ms is not None and due_ms > self.now.unix_ms and _awaited(timed)
        if early:
            arm_deadline(self, what)
        return early

    @property
    def events_since_ms(self) -> int:
        """Start of the window in which ids of events are compared."""
        return self.now.unix_ms - round(self.config.event_window * 1000)


def earliest(first: float | None, second: float | None) -> float | None:
    """The earlier of two times; None: never."""
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)


def arm_deadline(books: Books, what: Step | Group | Run) -> None:
    """Arm the timer of a deadline, if there is one."""
    timed: Timed = what
    match what:
        case Step():
            due_ms, timed = step_due_ms(what), Deadline(what)
        case Group():
            due_ms = group_due_ms(what)
        case Run():
            due_ms = what.deadline_ms
    if due_ms is not None:
        books.timers.arm(books.due_mono(due_ms), timed)
