"""Waits that take events of the past as well: `wait_event(lookback=...)` (MISSION S18).

Past events are read once the wait is on record, so that nothing falls between them and those to come: whatever is
delivered later finds the wait, and whatever is being delivered at that moment is looked at here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stepwire.protocol.plan import WaitEvent
from stepwire_engine.core import matching
from stepwire_engine.core.books import Books
from stepwire_engine.core.delivery import Delivery, came_in_time, look_back_ms
from stepwire_engine.core.model import Run, Step
from stepwire_engine.core.reads import PastEvents
from stepwire_engine.core.units import EventRecord

EVENTS_PER_PAGE = 32
"""Past events that are read and matched at once."""


class LookBack:
    """The waits whose past events are being read.

    Args:
        found: Told the event that a step takes.
        nothing: Told that a step has to wait.
    """

    def __init__(
        self,
        books: Books,
        delivery: Delivery,
        found: Callable[[Step, EventRecord], None],
        nothing: Callable[[Step], None],
    ) -> None:
        self._books = books
        self._delivery = delivery
        self._found = found
        self._nothing = nothing
        self._delivering: dict[Step, Sequence[EventRecord]] = {}
        """By step, the events whose delivery may have passed it without being on record as delivered yet."""

    def __contains__(self, step: Step) -> bool:
        return step in self._delivering

    def busy(self, run: Run) -> bool:
        """Past events are being read for a step of this run."""
        return any([step.run is run for step in self._delivering])

    def begin(self, step: Step, spec: WaitEvent) -> None:
        """Look for an event of the past. At most once at a time for a step."""
        if spec.lookback and step not in self._delivering:
            self._delivering[step] = self._delivery.in_progress(spec.event)
            self._books.read(PastEvents(step, spec.event, step.planned_ms - look_back_ms(step), EVENTS_PER_PAGE))

    def answer(self, read: PastEvents, events: Sequence[EventRecord]) -> None:
        """One page of past events, oldest first."""
        step = read.step
        spec = step.spec
        assert isinstance(spec, WaitEvent)
        if step.state.final or step.run.broken:
            del self._delivering[step]
            return
        known = {event.number: event for event in (*events, *self._delivering[step])}
        for event in sorted(known.values(), key=_age):
            if came_in_time(step, event) and matching.event_matches(spec.match, event):
                del self._delivering[step]
                self._found(step, event)
                return
        if len(events) < read.limit:
            del self._delivering[step]
            self._nothing(step)
            return
        # The next page begins with what has the same time as the last of this one.
        limit = 2 * read.limit if events[0].due_ms == events[-1].due_ms else EVENTS_PER_PAGE
        self._books.read(PastEvents(step, read.event, events[-1].due_ms, limit))


def _age(event: EventRecord) -> tuple[int, int]:
    return event.due_ms, event.number
