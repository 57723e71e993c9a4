"""Random units on every store, compared with a model that is too simple to be wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec

from stepwire.protocol.frames import FlowOptions, Trigger
from stepwire_engine.core.entries import RunState
from stepwire_engine.store.base import (
    EventRecord,
    InboxRow,
    Receipt,
    RunRecord,
    SessionRecord,
    Store,
    Unit,
    UnitOutcome,
    WaitRow,
)
from stepwire_engine.store.draft import EVENTS_PRUNED_PER_UNIT
from tests.store.samples import COMMITTED, Desk, ended, event, matched, record, session

BATCHES = 150
RUNS = range(1, 7)
NAMES = ("paid", "sent")
FLOWS = ("f", "g", "h")
WINDOW_MS = 40


class Model:
    """What must be stored, as plain values."""

    def __init__(self) -> None:
        self.seqs = dict.fromkeys(RUNS, 0)
        self.records: dict[int, RunRecord] = {}
        self.waits: dict[tuple[int, str], WaitRow] = {}
        self.inbox: dict[int, InboxRow] = {}
        self.events: dict[str, EventRecord] = {}
        self.delivered: set[int] = set()
        self.options: dict[str, FlowOptions] = {}
        self.sessions: dict[str, SessionRecord] = {}
        self.last_inbox = 0
        self.last_event = 0

    def expect(self, unit: Unit) -> Receipt:
        """Take a unit in; the receipt it must get."""
        if unit.run is not None:
            if unit.expected_seq != self.seqs[unit.run]:
                return Receipt(UnitOutcome.SEQ_CONFLICT)
            self.seqs[unit.run] += bool(unit.entries)
            self._change_run(unit.run, unit)
        numbers = tuple([self._send(sent, unit.events_since_ms) for sent in unit.events])
        self.delivered.update(set(unit.events_delivered) & {found.number for found in self.events.values()})
        for found in unit.sessions:
            self.sessions[found.instance_id] = found
            for flow in found.flows:
                self.options.pop(flow, None)
            self.options.update({options.flow: options for options in found.flow_options})
        for instance_id in unit.sessions_gone:
            self.sessions.pop(instance_id, None)
        inbox = tuple(range(self.last_inbox + 1, self.last_inbox + 1 + len(unit.inbox)))
        self.last_inbox += len(inbox)
        for number, row in zip(inbox, unit.inbox, strict=True):
            self.inbox[number] = msgspec.structs.replace(row, number=number)
        for number in unit.inbox_done:
            self.inbox.pop(number, None)
        return Receipt(COMMITTED, inbox=inbox, events=numbers)

    def _change_run(self, run: int, unit: Unit) -> None:
        self.waits.update({(run, wait.path): wait for wait in unit.waits})
        for path in unit.waits_done:
            self.waits.pop((run, path), None)
        if unit.record is not None:
            self.records[run] = unit.record
            if unit.record.state.terminal:
                self.waits = {place: wait for place, wait in self.waits.items() if place[0] != run}

    def _send(self, sent: EventRecord, since_ms: int) -> int:
        known = self.events.get(sent.id)
        if known is not None and known.sent_ms >= since_ms:
            return 0
        self.last_event += 1
        self.events[sent.id] = msgspec.structs.replace(sent, number=self.last_event)
        return self.last_event

    def prune(self, since_ms: int) -> None:
        """At the end of a commit that has a window."""
        old = [(max(found.due_ms, found.sent_ms), found.number, found.id) for found in self._delivered()]
        for age_ms, _, event_id in sorted(old)[:EVENTS_PRUNED_PER_UNIT]:
            if age_ms < since_ms:
                del self.events[event_id]

    def _delivered(self) -> list[EventRecord]:
        return [found for found in self.events.values() if found.number in self.delivered]

    def answers(self, until_ms: int) -> Iterator[Any]:
        """What a store must answer; `asked` asks the same in the same order."""
        yield dict(self.records)
        dormant = [r for r in self.records.values() if r.state is RunState.WAITING and r.wake_ms is not None]
        due = sorted([(r.wake_ms or 0, r.number) for r in dormant])
        yield [run for wake_ms, run in due if wake_ms <= until_ms][:4]
        yield [run for run, found in sorted(self.records.items()) if found.state in (1, 2, 4)]
        for name in NAMES:
            waits = sorted([(*place, wait) for place, wait in self.waits.items() if wait.event == name])
            yield [wait for run, path, wait in waits if (run, path) > (2, "b")][:4]
            events = sorted(self._delivered(), key=lambda found: (found.due_ms, found.number))
            yield [found for found in events if found.name == name and found.due_ms >= until_ms - WINDOW_MS][:9]
        undelivered = [found for found in self.events.values() if found.number not in self.delivered]
        undelivered.sort(key=lambda found: (found.due_ms, found.number))
        yield [found for found in undelivered if found.due_ms <= until_ms][:9]
        yield list(self.inbox.values())
        yield self.options
        yield [found for _, found in sorted(self.sessions.items())]


def asked(store: Store, until_ms: int) -> Iterator[Any]:
    found = {run: store.record(run) for run in RUNS}
    yield {run: known for run, known in found.items() if known is not None}
    yield [run.number for run in store.due_runs(until_ms, 4)]
    yield [run.number for run in store.open_runs()]
    for name in NAMES:
        yield list(store.waits(name, (2, "b"), 4))
        yield list(store.events(name, until_ms - WINDOW_MS, 9))
    yield list(store.undelivered(until_ms, 9))
    yield list(store.inbox())
    yield dict(store.flow_options())
    yield list(store.sessions())


class Units:
    """Random units that fit the model most of the time."""

    def __init__(self, rng: random.Random, model: Model) -> None:
        self._rng = rng
        self._model = model
        self._seqs: dict[int, int] = {}

    def batch(self, epoch: int, now_ms: int) -> list[Unit]:
        self._seqs = dict(self._model.seqs)
        units = [self._unit(epoch, now_ms) for _ in range(self._rng.randrange(1, 6))]
        if self._rng.random() < 0.5:
            units[0] = msgspec.structs.replace(units[0], events_since_ms=max(now_ms - WINDOW_MS, 0))
        return units

    def _unit(self, epoch: int, now_ms: int) -> Unit:
        rng = self._rng
        more: dict[str, Any] = {}
        if rng.random() < 0.5:
            more["events"] = tuple([self._event(now_ms) for _ in range(rng.randrange(1, 4))])
        if rng.random() < 0.4:
            more["events_delivered"] = self._some(self._model.last_event, rng.randrange(12))
        if rng.random() < 0.4:
            more["inbox"] = tuple([matched(rng.choice(RUNS), rng.randrange(99)) for _ in range(rng.randrange(1, 4))])
        if rng.random() < 0.4:
            more["inbox_done"] = self._some(self._model.last_inbox, 2)
        if rng.random() < 0.2:
            more["sessions"] = (self._session(),)
        if rng.random() < 0.2:
            more["sessions_gone"] = (rng.choice("abc"),)
        if rng.random() < 0.3:
            return Unit(epoch, **more)
        return self._run_unit(epoch, now_ms, more)

    def _run_unit(self, epoch: int, now_ms: int, more: dict[str, Any]) -> Unit:
        rng = self._rng
        run = rng.choice(RUNS)
        seq = self._seqs[run]
        if rng.random() < 0.1:
            return Unit(epoch, run, seq + 1, (ended(seq),), **more)  # it does not fit
        entries = (ended(seq),) if rng.random() < 0.8 else ()
        self._seqs[run] += len(entries)
        if rng.random() < 0.5:
            more["waits"] = tuple([WaitRow(run, rng.choice("abcd"), rng.choice(NAMES)) for _ in range(3)])
        if rng.random() < 0.3:
            more["waits_done"] = (rng.choice("abcd"),)
        if rng.random() < 0.6:
            wake_ms = now_ms + rng.randrange(-5, 10) if rng.random() < 0.7 else None
            state = rng.choice([RunState.WAITING, *RunState])
            more["record"] = record(run, state=state, wake_ms=None if wake_ms is None else max(wake_ms, 0))
        return Unit(epoch, run, seq, entries, **more)

    def _some(self, last: int, count: int) -> tuple[int, ...]:
        """Numbers that were told, and one that was not."""
        numbers = [*range(1, last + 1), 10**9]
        return tuple(self._rng.sample(numbers, min(len(numbers), count)))

    def _event(self, now_ms: int) -> EventRecord:
        rng = self._rng
        due_ms = max(now_ms + rng.randrange(-WINDOW_MS, 20), 0)
        return event(f"e{rng.randrange(60)}", rng.choice(NAMES), due_ms=due_ms, sent_ms=now_ms)

    def _session(self) -> SessionRecord:
        rng = self._rng
        flows = tuple(rng.sample(FLOWS, rng.randrange(4)))
        options = [FlowOptions(flow, rng.random(), triggers=(Trigger("paid"),)) for flow in flows]
        return session(rng.choice("abc"), *flows, flow_options=tuple(options[: rng.randrange(4)]))


def test_random_units_leave_what_a_simple_model_says(desk: Desk, rng: random.Random) -> None:
    model = Model()
    units = Units(rng, model)
    for n in range(BATCHES):
        now_ms = 3 * n
        batch = units.batch(desk.epoch, now_ms)
        expected = [model.expect(unit) for unit in batch]
        if since_ms := batch[0].events_since_ms:
            if expected[0].outcome is COMMITTED:
                model.prune(since_ms)
        assert desk.commit(*batch) == expected
        assert list(asked(desk.store, now_ms)) == list(model.answers(now_ms))
        if n % 50 == 49:
            desk.store.close()
            desk.open()
    assert model.last_event > BATCHES and model.last_inbox > BATCHES
    assert list(asked(desk.store, 10**6)) == list(model.answers(10**6))
