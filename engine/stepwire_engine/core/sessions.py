"""One host's session as the engine sees it: what it serves, what it holds, what will be sent to it.

A session belongs to an instance (a process) and survives its streams. This module keeps the books; what to
dispatch is decided in `slots.py` and `bodies.py`, when a session is lost in `liveness.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import (
    Advance,
    Cancel,
    Drain,
    EngineFrame,
    EngineSection,
    Execute,
    Fault,
    Goodbye,
    Hello,
    Result,
    Welcome,
)
from stepwire.protocol.plan import Fence
from stepwire_engine.core.model import Body, Lease, Run, Step

_PACE_MAX = 1.0
"""What takes longer counts as this long, in seconds: one such attempt is forgotten after a few short ones."""
_PACE_WEIGHT = 0.125


class AckLedger:
    """Which durable frames of one stream are settled. Acks are cumulative, so a frame waits for those before it."""

    def __init__(self, settled: int | None) -> None:
        """`settled` None: a resumed host with nothing to send again; its first frame tells where it stands."""
        self.received = settled
        self.settled = settled or 0
        self._open: deque[AckTicket] = deque()

    def follows(self, position: int) -> bool:
        """Whether `position` is the one that must come next."""
        return self.received is None or position == self.received + 1

    def begin(self, session: Session, position: int) -> AckTicket:
        """Note the arrival of frame `position`; it settles when every hold on it was released."""
        if self.received is None:
            self.settled = position - 1
        self.received = position
        ticket = AckTicket(session, self, position)
        self._open.append(ticket)
        return ticket

    def advance(self) -> bool:
        """Move `settled` over the frames at the front that nothing holds any more. True if it moved."""
        before = self.settled
        while self._open and self._open[0].holds == 0:
            self.settled = self._open.popleft().position
        return self.settled != before


class AckTicket:
    """The claim of one frame on its ack."""

    __slots__ = ("holds", "ledger", "position", "session")

    def __init__(self, session: Session, ledger: AckLedger, position: int) -> None:
        self.session = session
        self.ledger = ledger
        self.position = position
        self.holds = 1

    def release(self) -> bool:
        """One commit that this frame waited for is done. True if something can be acked now."""
        self.holds -= 1
        return self.holds == 0 and self.ledger.advance()


class Session:
    """The books of one instance.

    Attributes:
        stream: Counts the instance's streams; anything of an older one is ignored.
        connected: A stream is attached.
        open: Welcome may be sent; nothing is dispatched before.
        heard: When the last frame arrived, on the monotonic clock.
        written: Number of the last frame that the transport has written; 0 if it does not say.
        deaf_since: Since when the host's reports show no progress though more was written; None: it keeps up.
        congested: Much waits to be written to the host: it gets nothing new until that has gone.
        leases: Attempts the host executes, by (run_id, path).
        bodies: Runs whose live body the host holds, by run number.
        resumed_bodies: Last release of bodies whose missed releases are being read, by run number.
        closures: Ready closures of those bodies that wait for a slot.
        closure_last: Of the slots that registered steps waited for as well, the last went to a closure.
        suspects: Steps that have lost several hosts and were given to this one; those that are over may be among them.
        freed: Shared by all sessions: steps that hold a place within a group's limit and execute no more.
        saturated: The host refused an Execute for want of a slot; cleared by its next result or report.
        loop_lag: How late the host's loop is, in seconds, as its last report says.
        lagging: That is too late: it gets nothing new until a report says otherwise.
        full: The host refused a body for want of room; cleared by its next report.
        ahead: Attempts beyond its slots that may wait there for one.
        pace: What its attempts took lately, in seconds; many until that is known.
    """

    def __init__(self, session_id: str, hello: Hello, now: float, freed: list[Step]) -> None:
        self.id = session_id
        self.freed = freed
        self.instance_id = hello.instance_id
        self.stream = 0
        self.connected = False
        self.open = False
        self.draining = False
        self.saturated = False
        self.full = False
        self.heard = now
        self.lost_at: float | None = None
        self.written = 0
        self.deaf_since: float | None = None
        self.congested = False
        self.leases: dict[tuple[str, str], Lease] = {}
        self.bodies: dict[int, Run] = {}
        self.closures: deque[Step] = deque()
        self.closure_last = False
        self.suspects: set[Step] = set()
        self.resumed_bodies: dict[int, int] = {}
        self.acks = AckLedger(0)
        self.loop_lag = 0.0
        self.lagging = False
        self.closing = False
        self.pace = _PACE_MAX
        self.greet(hello)

    def greet(self, hello: Hello) -> None:
        """Take over what a Hello says about the host and start the books of a new stream."""
        self.hello = hello
        self.service = hello.service
        self.flows = frozenset(hello.flows)
        self.steps = frozenset(hello.steps)
        self.slots = hello.slots
        self.ahead = min(hello.ahead, hello.slots)
        self.stream += 1
        self.draining = False
        self.saturated = False
        self.full = False
        self.lagging = False
        self.closing = False
        self.congested = False
        self.written = self._processed = 0
        self.deaf_since = None
        if hello.resume is None:
            self.acks = AckLedger(0)
        else:
            self.acks = AckLedger(hello.resume.first_unacked - 1 if hello.resume.first_unacked else None)
        self._acked_sent = self.acks.settled
        self._number = 0
        self._sections: dict[str, EngineSection] = {}
        self._carried: list[Lease] = []
        self._welcome: Welcome | None = None
        self._fault: Fault | None = None
        self._drain: Drain | None = None
        self._goodbye: Goodbye | None = None

    @property
    def free_slots(self) -> int:
        """Attempts that may be dispatched now."""
        return self.slots - len(self.leases) if self._takes_attempts else 0

    @property
    def _takes_attempts(self) -> bool:
        if not (self.connected and self.open) or self.draining or self.saturated or self.lagging or self.closing:
            return False
        return not self.congested

    @property
    def busy_slots(self) -> int:
        """Attempts that have begun, as far as that is known here."""
        return min(len(self.leases), self.slots)

    def room_ahead(self, pace_max: float) -> int:
        """Registered steps that may be given to it beyond its slots, if its attempts took no longer than that lately.

        Closures that wait there for a slot come first.
        """
        if not self.ahead or self.pace > pace_max or self.closures or self.executes_suspect or not self._takes_attempts:
            return 0
        return self.slots + self.ahead - len(self.leases)

    def keep_pace(self, results: Sequence[Result]) -> None:
        """Results of one run have come; one of them tells for all what attempts take at present."""
        failure = results[-1].failure
        if failure is not None and failure.code is ErrorCode.CANCELLED:
            return  # It may not even have begun.
        self.pace += (min(results[-1].elapsed, _PACE_MAX) - self.pace) * _PACE_WEIGHT

    @property
    def executes_suspect(self) -> bool:
        """It executes a step that may kill it, and must be given no other of that kind."""
        if self.suspects:
            self.suspects = {s for s in self.suspects if s.lease is not None and s.lease.session_id == self.id}
        return bool(self.suspects)

    @property
    def takes_bodies(self) -> bool:
        return (
            self.connected
            and self.open
            and not (self.draining or self.lagging or self.closing or self.full or self.congested)
            and len(self.bodies) < self.hello.bodies
        )

    # ---- outbox

    def _section(self, run_id: str) -> EngineSection:
        section = self._sections.get(run_id)
        if section is None:
            section = self._sections[run_id] = EngineSection(run_id)
        return section

    def forget_queued(self) -> None:
        """Drop what was queued before the host said what it holds; the resume finds it again."""
        self._sections = {}
        self._carried = []

    def welcome(self, welcome: Welcome) -> None:
        self._welcome = welcome
        self.open = True

    def keep_body(self, run: Run, fence: Fence) -> None:
        """Queue Continue."""
        self._section(run.run_id).continued = fence

    def advance(self, run_id: str, advance: Advance) -> None:
        """Queue an Advance. One that extends a queued one of the same body is merged into it."""
        section = self._sections.get(run_id)
        if section is None:
            self._sections[run_id] = EngineSection(run_id, advance=advance)
            return
        queued = section.advance
        if queued is not None and advance.start is None and queued.fence == advance.fence:
            advance = Advance(
                queued.fence, queued.entries + advance.entries, queued.start, advance.hold, False, queued.purpose
            )
        section.advance = advance

    def execute(self, run_id: str, executes: Iterable[Execute], leases: Iterable[Lease]) -> None:
        """Queue attempts of one run, and note that the next frame carries these leases."""
        self._section(run_id).executes.extend(executes)
        self._carried.extend(leases)

    def cancel(self, run_id: str, cancel: Cancel) -> None:
        self._section(run_id).cancels.append(cancel)

    def evict(self, run_id: str, fence: Fence) -> None:
        section = self._section(run_id)
        if section.evict is None or section.evict < fence:
            section.evict = fence

    def fault(self, fault: Fault) -> None:
        """Queue a fault; without a run it is the last thing said on this stream."""
        self._fault = fault
        if not fault.run_id:
            self.closing = True

    def drain(self, deadline: float) -> None:
        self._drain = Drain(deadline)

    def goodbye(self, reason: str) -> None:
        self._goodbye = Goodbye(reason)
        self.closing = True

    def take_frame(self) -> EngineFrame | None:
        """Everything queued as one frame, or None. Numbers it and notes which leases it carries."""
        said = self._fault or self._goodbye or self._drain
        if not self.open and not said:
            return None
        acked = self.acks.settled
        if not (self._sections or self._welcome or said or acked > self._acked_sent):
            return None
        self._number += 1
        frame = EngineFrame(
            number=self._number,
            welcome=self._welcome,
            acked_position=acked,
            runs=list(self._sections.values()) if self.open else [],
            drain=self._drain,
            goodbye=self._goodbye,
            fault=self._fault,
        )
        if self.open:
            for lease in self._carried:
                lease.frame = self._number
            self._carried = []
            self._sections = {}
        for section in frame.runs:
            for cancel in section.cancels:
                stopped = self.leases.get((section.run_id, cancel.path))
                if stopped is not None and not stopped.frame:
                    stopped.frame = self._number
        self._acked_sent = acked
        self._welcome = self._fault = self._drain = self._goodbye = None
        return frame

    # ---- liveness

    def note_processed(self, number: int, now: float) -> None:
        """A report says how far the host is with what was written to it: one that hears nothing must be noticed too."""
        if number >= self.written:
            self.deaf_since = None
        elif number > self._processed or self.deaf_since is None:
            self.deaf_since = now
        self._processed = number

    def forgive(self, stall: float, now: float) -> None:
        """The engine itself stood still for so long; nobody could be heard."""
        self.heard = min(now, self.heard + stall)
        if self.lost_at is not None:
            self.lost_at = min(now, self.lost_at + stall)
        if self.deaf_since is not None:
            self.deaf_since = min(now, self.deaf_since + stall)

    # ---- books

    def hold(self, lease: Lease) -> None:
        """Note that the host has this attempt."""
        step = lease.step
        run = step.run
        body = run.body
        lease.beside = body.fence if body is not None and body.ready and body.session_id == self.id else None
        run.leased += (run.run_id, step.path) not in self.leases
        self.leases[run.run_id, step.path] = step.lease = lease
        step.fence = lease.fence
        step.uncertain = False

    def hold_all(self, run: Run, steps: Iterable[Step], fences: Iterable[Fence], since: float) -> list[Lease]:
        """Note that the host has the present attempts of these steps of one run. Returns their new leases."""
        leases: list[Lease] = []
        held, run_id, session_id = self.leases, run.run_id, self.id
        before = len(held)
        body = run.body
        beside = body.fence if body is not None and body.ready and body.session_id == session_id else None
        for step, fence in zip(steps, fences, strict=False):
            lease = Lease(step, session_id, fence, since, step.attempt, 0, None, beside)
            held[run_id, step.path] = step.lease = lease
            step.fence = fence
            step.uncertain = False
            leases.append(lease)
        run.leased += len(held) - before
        return leases

    def let_end(self, run_id: str, path: str, fence: Fence) -> Lease | None:
        """An attempt ended: its slot is free. Returns the lease under which it was executed, if it is known."""
        key = run_id, path
        lease = self.leases.get(key)
        if lease is None or lease.fence > fence:
            return None
        del self.leases[key]
        step = lease.step
        step.run.leased -= 1
        if step.admitted:
            self.freed.append(step)
        if step.lease is lease:
            step.lease = None
        return lease

    def drop(self, lease: Lease) -> None:
        """The host no longer has this attempt."""
        step = lease.step
        if self.leases.pop((step.run.run_id, step.path), None) is not None:
            step.run.leased -= 1
            if step.admitted:
                self.freed.append(step)
        if step.lease is lease:
            step.lease = None

    def drop_closures(self, closures: Iterable[Step]) -> None:
        """These do not wait for a slot here any more."""
        for step in closures:
            step.queued = False
            if step.admitted:
                self.freed.append(step)
        self.closures = deque([step for step in self.closures if step.queued])

    def take_body(self, run: Run, fence: Fence) -> Body:
        """Note that the host gets the run's body under this fence."""
        body = Body(self.id, fence)
        run.body = body
        run.body_wanted = False
        self.bodies[run.number] = run
        return body

    def drop_body(self, run: Run) -> None:
        """The host no longer has the run's body, nor a use for its waiting closures."""
        self.bodies.pop(run.number, None)
        if closures := [step for step in self.closures if step.run is run]:
            self.drop_closures(closures)
        self.resumed_bodies.pop(run.number, None)
        if run.body is not None and run.body.session_id == self.id:
            run.body = None
