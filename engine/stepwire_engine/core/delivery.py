"""From accepted events to facts for those who wait for them, or are started by them (MISSION S18, T1).

The store is the queue: what is due and undelivered is read from it, the waits for it are read by pages, and each
page's facts are one unit; the last one notes the delivery. A crash anywhere repeats a part of that, and the facts
repeat harmlessly (`inbox.py`). Events of one name are delivered in their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from stepwire.protocol.payload import Payload
from stepwire_engine.core import causes, matching
from stepwire_engine.core.books import Books, Commit, earliest
from stepwire_engine.core.events import event_output
from stepwire_engine.core.model import Step
from stepwire_engine.core.reads import OpenWaits, UndeliveredEvents
from stepwire_engine.core.units import (
    EventMatched,
    EventRecord,
    InboxRow,
    Receipt,
    StartRun,
    Unit,
    UnitOutcome,
    WaitRow,
)

EVENTS_AT_ONCE = 64
"""Events being delivered at the same time; each holds its data in memory."""
WAITS_PER_PAGE = 500
EVALUATIONS_PER_PAGE = 2_000
"""Matches that are evaluated without giving way: some milliseconds."""
FACTS_PER_UNIT = 500
FACT_BYTES_PER_UNIT = 8 * 1024 * 1024
"""Everybody who gets an event gets a copy of its data, so large ones go into more units."""
FACTS_WAITING_MAX = 10_000
"""While so many facts were not acted on, no further ones are made."""
_END_OF_TIME_MS = 2**62
RETRY_SECONDS = 1.0
"""Pause after the store refused to take what an event causes."""


class _Lane:
    """The delivery of some events of one name.

    Attributes:
        after: The last wait that was looked at.
        limit: Waits of the page that was asked for.
        opening: Nobody was looked at; flows that are started by the events come first.
        exhausted: Everybody was looked at.
        facts: What is still to be stored, with the run's number (0: it is named by id).
    """

    def __init__(self, events: Sequence[EventRecord]) -> None:
        self.events = events
        self.numbers = frozenset([event.number for event in events])
        self.after = (0, "")
        self.limit = max(1, min(WAITS_PER_PAGE, EVALUATIONS_PER_PAGE // len(events)))
        self.opening = True
        self.exhausted = False
        self.facts: deque[tuple[int, StartRun | EventMatched]] = deque()
        self._documents: dict[int, Any] = {}
        self._outputs: dict[int, Payload] = {}

    def matches(self, expression: str, event: EventRecord) -> bool:
        if not expression:
            return True
        document = self._documents.get(event.number)
        if document is None:
            document = self._documents[event.number] = matching.document_of(event)
        return matching.matches(expression, document)

    def output(self, event: EventRecord) -> Payload:
        output = self._outputs.get(event.number)
        if output is None:
            output = self._outputs[event.number] = event_output(event)
        return output

    def take(self) -> tuple[InboxRow, ...]:
        """The facts of the next unit."""
        rows: list[InboxRow] = []
        size = 0
        while self.facts and len(rows) < FACTS_PER_UNIT and size < FACT_BYTES_PER_UNIT:
            run, fact = self.facts.popleft()
            size += len((fact.input if isinstance(fact, StartRun) else fact.output).data)
            rows.append(InboxRow(run, fact))
        return tuple(rows)


class Delivery:
    """Delivers events.

    Args:
        backlog: Counts the facts that were not acted on.

    Attributes:
        last_number: Highest number of an event that is known to be stored.
    """

    def __init__(self, books: Books, backlog: Callable[[], int]) -> None:
        self._books = books
        self._backlog = backlog
        self._stalled: list[tuple[str, _Lane]] = []
        self.last_number = 0
        self._lanes: dict[str, _Lane] = {}
        self._wanted = False
        self._asked = False
        self._left = False
        self._noted: set[int] = set()
        """Events whose delivery was noted after the store was asked for those that are undelivered."""
        self._due_ms: int | None = None
        """When the next event of the future is due, as far as is known."""
        self._looks_ahead = True
        """The store may know of an earlier one."""
        self._latest_ms = 0
        """What the wall clock showed when it was most ahead; events that were due then need not be due now."""
        self._retry_at: float | None = None
        self._triggers: dict[str, list[tuple[str, str]]] | None = None

    # ---- who is started by events

    def flows_changed(self) -> None:
        """Some flow was registered anew."""
        self._triggers = None

    def triggers(self, event: str) -> Sequence[tuple[str, str]]:
        """Flows that events of this name start, each with its match; a flow appears once per trigger."""
        if self._triggers is None:
            self._triggers = {}
            for options in self._books.flow_options.values():
                for trigger in options.triggers:
                    self._triggers.setdefault(trigger.event, []).append((options.flow, trigger.match))
        return self._triggers.get(event, ())

    # ---- what is due

    def look(self) -> None:
        """There may be events to deliver."""
        self._wanted = True
        self._ask()

    def accepted(self, events: Sequence[EventRecord], numbers: Sequence[int]) -> None:
        """These events are stored under these numbers; 0: the id was known, nothing was stored."""
        for event, number in zip(events, numbers, strict=True):
            if not number:
                continue
            self.last_number = max(self.last_number, number)
            if event.due_ms <= self._books.now.unix_ms:
                self._wanted = True
            else:
                self._note_future(event)
        self._ask()

    def _note_future(self, event: EventRecord) -> None:
        if self._due_ms is None or event.due_ms < self._due_ms:
            self._due_ms = event.due_ms

    def next_due(self) -> float | None:
        """When `tick` has something to do, on the monotonic clock."""
        return earliest(None if self._due_ms is None else self._books.due_mono(self._due_ms), self._retry_at)

    def tick(self) -> None:
        """Time has passed."""
        now = self._books.now
        self._latest_ms = max(self._latest_ms, now.unix_ms)
        if self._due_ms is not None and self._due_ms <= now.unix_ms:
            self._due_ms = None
            self._looks_ahead = True
            self._wanted = True
        if self._retry_at is not None and self._retry_at <= now.mono:
            self._retry_at = None
            self._wanted = True
            stalled, self._stalled = self._stalled, []
            for name, lane in stalled:
                self._go_on(name, lane)
        self._ask()

    def in_progress(self, name: str) -> Sequence[EventRecord]:
        """Events of this name whose delivery has begun and is not known to have ended."""
        lane = self._lanes.get(name)
        return () if lane is None else lane.events

    def _in_progress(self) -> int:
        return sum([len(lane.events) for lane in self._lanes.values()])

    def _ask(self) -> None:
        if self._asked:
            return
        in_progress = self._in_progress()
        now_ms = self._books.now.unix_ms
        if self._wanted and in_progress < EVENTS_AT_ONCE:
            self._wanted = False
            self._asked = True
            self._looks_ahead = self._looks_ahead or now_ms < self._latest_ms
            self._latest_ms = max(self._latest_ms, now_ms)
            self._books.read(UndeliveredEvents(now_ms, in_progress + EVENTS_AT_ONCE))
        elif self._looks_ahead and not self._wanted:
            self._looks_ahead = False
            self._asked = True
            self._books.read(UndeliveredEvents(_END_OF_TIME_MS, in_progress + 1))

    def undelivered(self, read: UndeliveredEvents, events: Sequence[EventRecord]) -> None:
        """What the store has; soonest first, those in progress included."""
        self._asked = False
        if read.until_ms == _END_OF_TIME_MS:
            self._ahead(read, events)
        else:
            self._begin(read, events)
        self._ask()

    def _ahead(self, read: UndeliveredEvents, events: Sequence[EventRecord]) -> None:
        for event in events:
            self.last_number = max(self.last_number, event.number)
            if event.due_ms > self._books.now.unix_ms:
                self._note_future(event)
                return
            lane = self._lanes.get(event.name)
            if lane is None or event.number not in lane.numbers:
                self._wanted = True  # It became due after the store was asked for those that are.
        if len(events) >= read.limit:
            self._looks_ahead = self._wanted = True  # More became due than was known.

    def _begin(self, read: UndeliveredEvents, events: Sequence[EventRecord]) -> None:
        found: dict[str, list[EventRecord]] = {}
        self._left = len(events) >= read.limit
        noted, self._noted = self._noted, set()
        for event in events:
            self.last_number = max(self.last_number, event.number)
            lane = self._lanes.get(event.name)
            if event.number in noted or (lane is not None and event.number in lane.numbers):
                continue
            due = found.setdefault(event.name, [])
            if lane is None and len(due) * len(self.triggers(event.name)) < EVALUATIONS_PER_PAGE:
                due.append(event)
            else:
                self._left = True
        for name, due in found.items():
            if due:
                lane = self._lanes[name] = _Lane(due)
                self._next_page(name, lane)

    # ---- who waits for it

    def _next_page(self, name: str, lane: _Lane) -> None:
        self._books.read(OpenWaits(name, lane.after, lane.limit))

    def waits(self, read: OpenWaits, waits: Sequence[WaitRow]) -> None:
        """One page of those who wait for an event that is being delivered."""
        lane = self._lanes.get(read.event)
        if lane is None or lane.after != read.after:
            return
        if lane.opening:
            lane.opening = False
            self._start(read.event, lane)
        for wait in waits:
            self._wake(lane, wait)
        lane.exhausted = len(waits) < read.limit
        if waits:
            lane.after = waits[-1].run, waits[-1].path
        self._go_on(read.event, lane)

    def _go_on(self, name: str, lane: _Lane) -> None:
        if self._backlog() >= FACTS_WAITING_MAX:
            self._stalled.append((name, lane))
            self._retry_at = self._books.now.mono + RETRY_SECONDS
            return
        if not (lane.facts or lane.exhausted):
            self._next_page(name, lane)
            return
        rows = lane.take()
        last = lane.exhausted and not lane.facts
        unit = Unit(
            self._books.claim_epoch,
            inbox=rows,
            events_delivered=tuple([event.number for event in lane.events]) if last else (),
        )
        self._books.commits.append(Commit(unit, after=lambda receipt: self._stored(name, lane, last, receipt)))

    def _start(self, name: str, lane: _Lane) -> None:
        started: dict[str, StartRun] = {}
        for event in lane.events:
            for flow, match in self.triggers(name):
                run_id = causes.triggered_run_id(event.id, flow, event.due_ms)
                if run_id not in started and lane.matches(match, event):
                    started[run_id] = StartRun(run_id, flow, lane.output(event), traceparent=event.traceparent)
        lane.facts.extend([(0, fact) for fact in started.values()])

    def _wake(self, lane: _Lane, wait: WaitRow) -> None:
        run = self._books.by_number.get(wait.run)
        step = None if run is None else run.steps.get(wait.path)
        if run is not None and (step is None or step.state.final):
            return
        for event in lane.events:
            if (step is None or came_in_time(step, event)) and lane.matches(wait.match, event):
                lane.facts.append((wait.run, EventMatched(wait.path, lane.output(event), event.due_ms)))
                if step is not None:
                    return

    def _stored(self, name: str, lane: _Lane, last: bool, receipt: Receipt) -> None:
        if receipt.outcome is not UnitOutcome.COMMITTED:
            del self._lanes[name]
            self._retry_at = self._books.now.mono + RETRY_SECONDS
        elif last:
            del self._lanes[name]
            if self._asked:
                self._noted |= lane.numbers
            self._wanted = self._wanted or self._left
            self._ask()
        else:
            self._go_on(name, lane)


def came_in_time(step: Step, event: EventRecord) -> bool:
    """Whether a `wait_event` step takes events of this age: those after its plan, and those within its look-back."""
    particulars = step.particulars
    assert particulars is not None
    since_ms = step.planned_ms - look_back_ms(step)
    if particulars.asked is None or since_ms < step.planned_ms:
        return event.due_ms >= since_ms
    return event.number > particulars.asked or event.due_ms > step.planned_ms


def was_waited_for(step: Step, due_ms: int | None) -> bool:
    """Whether a step takes an event that was delivered then, as far as its plan tells."""
    return due_ms is None or due_ms >= step.planned_ms - look_back_ms(step)


def look_back_ms(step: Step) -> int:
    """How much older than the plan an event may be."""
    return round(getattr(step.spec, "lookback", 0.0) * 1000)
