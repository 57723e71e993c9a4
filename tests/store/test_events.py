"""Events, the waits for them and dormant runs: what the engine may rely on, whichever store it has."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from stepwire.protocol.payload import Payload
from stepwire_engine.core.entries import RunState
from stepwire_engine.store.base import EventRecord, RunRecord, Unit, UnitOutcome, WaitRow
from stepwire_engine.store.draft import EVENTS_PRUNED_PER_UNIT
from tests.store.samples import COMMITTED, Desk, dormant, event, matched, record

LATE = 2**62
"""Later than everything here."""
START = (0, "")


def send(desk: Desk, *events: EventRecord, since_ms: int = 0) -> tuple[int, ...]:
    """Send events in one unit; the numbers they got."""
    (receipt,) = desk.commit(Unit(desk.epoch, events=events, events_since_ms=since_ms))
    assert receipt.outcome is COMMITTED
    return receipt.events


def note(desk: Desk, *numbers: int) -> None:
    """Note that events are delivered."""
    assert desk.outcomes(Unit(desk.epoch, events_delivered=numbers)) == [COMMITTED]


def ids(events: Sequence[EventRecord]) -> list[str]:
    return [found.id for found in events]


def numbered(*runs: RunRecord) -> list[int]:
    return [run.number for run in runs]


def everything(desk: Desk) -> list[str]:
    """Ids of all stored events that are called `paid`."""
    return sorted([*ids(desk.store.undelivered(LATE, 10_000)), *ids(desk.store.events("paid", 0, 10_000))])


# ---- delivery


def test_an_event_is_undelivered_from_when_it_is_due_until_its_delivery_is_noted(desk: Desk) -> None:
    sent = EventRecord("e", "paid", Payload(b'{"n":1}', "other"), due_ms=200, sent_ms=100, traceparent="00-ab")
    (number,) = send(desk, sent)
    stored = msgspec.structs.replace(sent, number=number)
    assert number > 0
    assert desk.store.undelivered(199, 10) == []
    assert desk.store.undelivered(200, 10) == [stored]
    assert desk.store.events("paid", 0, 10) == [], "not delivered yet"
    note(desk, number)
    assert desk.store.undelivered(LATE, 10) == []
    assert desk.store.events("paid", 0, 10) == [stored]


def test_undelivered_events_come_soonest_first(desk: Desk) -> None:
    due = {"a": 30, "b": 10, "c": 20, "d": 10, "e": 40}
    numbers = send(desk, *[event(name, name, due_ms=due_ms) for name, due_ms in due.items()])
    assert list(numbers) == sorted(set(numbers))
    assert ids(desk.store.undelivered(30, 10)) == ["b", "d", "c", "a"]
    assert ids(desk.store.undelivered(30, 3)) == ["b", "d", "c"]
    note(desk, numbers[1], numbers[2])
    assert ids(desk.store.undelivered(30, 3)) == ["d", "a"]


def test_a_look_back_finds_delivered_events_of_a_name_oldest_first(desk: Desk) -> None:
    numbers = send(
        desk,
        event("late", due_ms=30),
        event("early", due_ms=10),
        event("other", "sent", due_ms=20),
        event("same time", due_ms=10),
        event("waiting", due_ms=15),
    )
    note(desk, *numbers[:4])
    assert ids(desk.store.events("paid", 0, 10)) == ["early", "same time", "late"]
    assert ids(desk.store.events("paid", 10, 2)) == ["early", "same time"]
    assert ids(desk.store.events("paid", 11, 10)) == ["late"]
    assert ids(desk.store.events("sent", 0, 10)) == ["other"]
    assert desk.store.events("pai", 0, 10) == desk.store.events("paid", 31, 10) == []


def test_noting_a_delivery_again_or_of_nothing_changes_nothing(desk: Desk) -> None:
    (number,) = send(desk, event("e"))
    note(desk, number, number, number + 5)
    note(desk, number)
    assert ids(desk.store.events("paid", 0, 10)) == ["e"]
    assert desk.store.undelivered(LATE, 10) == []
    assert send(desk, event("f")) == (number + 1,)
    assert ids(desk.store.undelivered(LATE, 10)) == ["f"]


def test_an_event_keeps_a_large_payload(desk: Desk) -> None:
    large = event("e", data=bytes(range(256)) * 16_384)
    (number,) = send(desk, large)
    assert desk.store.undelivered(LATE, 10) == [msgspec.structs.replace(large, number=number)]


def test_an_event_is_stored_with_the_step_that_sends_it(desk: Desk) -> None:
    (receipt,) = desk.commit(desk.created(1, events=(event("a"), event("b")), inbox=(matched(2), matched(3))))
    assert ids(desk.store.undelivered(LATE, 10)) == ["a", "b"]
    assert receipt.events == tuple([found.number for found in desk.store.undelivered(LATE, 10)])
    assert receipt.inbox == tuple([row.number for row in desk.store.inbox()])
    assert len(desk.store.journal(1)) == 1


# ---- known ids


@pytest.mark.parametrize("delivered", [True, False])
def test_a_known_id_is_left_out_within_the_window(desk: Desk, delivered: bool) -> None:
    (first,) = send(desk, event("e", sent_ms=100, data=b"first"))
    if delivered:
        note(desk, first)
    for since_ms in (0, 1, 99, 100):
        again = event("e", "sent", due_ms=150, sent_ms=160, data=b"again")
        assert send(desk, event(f"before {since_ms}"), again, event(f"after {since_ms}"), since_ms=since_ms)[1] == 0
    found = [*desk.store.undelivered(LATE, 100), *desk.store.events("paid", 0, 10)]
    assert [event.data for event in found if event.id == "e"] == [Payload(b"first")]
    assert len(found) == 9
    assert desk.store.events("sent", 0, 10) == []


@pytest.mark.parametrize("delivered", [True, False])
def test_a_known_id_is_replaced_when_it_is_older_than_the_window(desk: Desk, delivered: bool) -> None:
    first, between = send(desk, event("e", sent_ms=100, due_ms=500, data=b"first"), event("f"))
    if delivered:
        note(desk, first)
    (number,) = send(desk, event("e", "sent", sent_ms=160, data=b"again"), since_ms=101)
    assert number > between > first
    (other, found) = desk.store.undelivered(LATE, 10)
    assert (other.id, found.id, found.number, found.data) == ("f", "e", number, Payload(b"again"))
    note(desk, first)
    assert len(desk.store.undelivered(LATE, 10)) == 2, "the old number means nothing any more"
    assert desk.store.events("paid", 0, 10) == []
    assert send(desk, event("e", sent_ms=170), since_ms=101) == (0,), "its window begins anew"


def test_of_two_events_with_one_id_in_one_commit_the_first_counts(desk: Desk) -> None:
    receipts = desk.commit(
        Unit(desk.epoch, events=(event("e", data=b"1"), event("e", data=b"2"), event("f"))),
        Unit(desk.epoch, events=(event("g"), event("e", data=b"3")), events_since_ms=1),
    )
    assert [bool(number) for receipt in receipts for number in receipt.events] == [True, False, True, True, False]
    stored = desk.store.undelivered(LATE, 10)
    assert [(found.id, found.data.data) for found in stored] == [("e", b"1"), ("f", b"1"), ("g", b"1")]
    told = [number for receipt in receipts for number in receipt.events if number]
    assert [found.number for found in stored] == told


def test_an_event_of_a_refused_unit_is_not_known(desk: Desk) -> None:
    desk.commit(desk.created(1, key="k"))
    receipts = desk.commit(
        desk.row(1, 5, events=(event("e"),)),
        desk.created(2, key="k", events=(event("e"),)),
        Unit(desk.epoch - 1, events=(event("e"),)),
        desk.row(1, 1, events=(event("e", data=b"taken"),)),
    )
    assert [receipt.outcome for receipt in receipts] == [
        UnitOutcome.SEQ_CONFLICT,
        UnitOutcome.KEY_TAKEN,
        UnitOutcome.STALE_CLAIM,
        COMMITTED,
    ]
    assert [receipt.events for receipt in receipts[:3]] == [()] * 3
    (found,) = desk.store.undelivered(LATE, 10)
    assert (receipts[3].events, found.data) == ((found.number,), Payload(b"taken"))


# ---- pruning


def test_delivered_events_before_the_window_are_deleted_a_few_at_a_time_oldest_first(desk: Desk) -> None:
    count = 2 * EVENTS_PRUNED_PER_UNIT + 5
    note(desk, *send(desk, *[event(f"e{n:02}", due_ms=n, sent_ms=n) for n in range(count)]))
    assert desk.outcomes(Unit(desk.epoch, events_since_ms=count)) == [COMMITTED]
    assert everything(desk) == [f"e{n:02}" for n in range(EVENTS_PRUNED_PER_UNIT, count)]
    assert desk.outcomes(*[Unit(desk.epoch, events_since_ms=count - 2)] * 2) == [COMMITTED] * 2
    assert everything(desk) == [f"e{n:02}" for n in (count - 2, count - 1)], "two units delete twice as many"


def test_of_two_windows_in_one_commit_the_longer_one_counts(desk: Desk) -> None:
    note(desk, *send(desk, event("e", due_ms=30, sent_ms=30), event("f", due_ms=50, sent_ms=50)))
    for windows in ((40, 60), (60, 40)):
        desk.commit(*[Unit(desk.epoch, events_since_ms=since_ms) for since_ms in windows])
        assert everything(desk) == ["f"]


def test_events_that_are_undelivered_or_in_the_window_are_not_deleted(desk: Desk) -> None:
    numbers = send(
        desk,
        event("old", due_ms=40, sent_ms=40),
        event("undelivered", due_ms=40, sent_ms=40),
        event("sent late", due_ms=40, sent_ms=50),
        event("due late", due_ms=50, sent_ms=40),
    )
    note(desk, numbers[0], *numbers[2:])
    assert send(desk, event("new", due_ms=90, sent_ms=90), since_ms=50) != (0,)
    assert everything(desk) == ["due late", "new", "sent late", "undelivered"]
    assert send(desk, event("sent late", due_ms=90, sent_ms=90), since_ms=50) == (0,), "its id is still known"


def test_without_a_window_nothing_is_deleted(desk: Desk) -> None:
    note(desk, *send(desk, event("e", due_ms=1, sent_ms=1)))
    send(desk, event("f", due_ms=90, sent_ms=90))
    assert everything(desk) == ["e", "f"]


def test_a_number_is_never_used_twice(desk: Desk) -> None:
    numbers = send(desk, event("a", due_ms=1, sent_ms=1), event("b", due_ms=1, sent_ms=1))
    note(desk, *numbers)
    desk.commit(Unit(desk.epoch, events_since_ms=50))
    assert everything(desk) == []
    assert send(desk, event("c"))[0] > max(numbers)


# ---- waits


def test_waits_are_found_by_event_in_pages(desk: Desk) -> None:
    # Runs as numbers, and paths by code point: not as UTF-16, by length or by language.
    paths = ["a", "a#10", "a#2", "b", "\u00e9", "\uffff", "\U00010000"]
    runs = (2, 10, 9)
    expected = [WaitRow(run, path, "paid", f"data.n == `{run}`") for run in sorted(runs) for path in paths]
    desk.commit(
        *[desk.created(run, waits=tuple([wait for wait in reversed(expected) if wait.run == run])) for run in runs],
        desk.created(3, waits=(WaitRow(3, "a", "sent"), WaitRow(3, "b", "pai"))),
    )
    found: list[WaitRow] = []
    after = START
    while page := desk.store.waits("paid", after, 4):
        found += page
        after = (page[-1].run, page[-1].path)
        assert len(page) <= 4
    assert found == expected
    assert desk.store.waits("paid", (2, "\U0010ffff"), 1) == [expected[len(paths)]]
    assert desk.store.waits("sent", START, 10) == [WaitRow(3, "a", "sent")]
    assert desk.store.waits("refunded", START, 10) == []


def test_a_wait_is_over_when_its_run_says_so(desk: Desk) -> None:
    waits = (WaitRow(1, "a", "paid"), WaitRow(1, "b", "paid"), WaitRow(1, "c", "paid"))
    desk.commit(desk.created(1, waits=waits), desk.created(2, waits=(WaitRow(2, "a", "paid"),)))
    assert desk.outcomes(desk.row(1, 1, waits_done=("a", "never"))) == [COMMITTED]
    assert desk.store.waits("paid", START, 10) == [*waits[1:], WaitRow(2, "a", "paid")]
    later = WaitRow(1, "d", "paid")
    desk.commit(
        desk.row(1, 2, waits=(later, WaitRow(1, "e", "paid")), waits_done=("b", "e")),
        desk.row(1, 3, waits_done=("c",)),
    )
    assert desk.store.waits("paid", START, 10) == [later, WaitRow(2, "a", "paid")]


def test_a_wait_at_the_same_path_takes_the_place_of_the_one_before(desk: Desk) -> None:
    desk.commit(desk.created(1, waits=(WaitRow(1, "a", "paid"),)))
    newer = WaitRow(1, "a", "sent", "data.n > `3`")
    desk.commit(desk.row(1, 1, waits=(newer,)))
    assert desk.store.waits("paid", START, 10) == []
    assert desk.store.waits("sent", START, 10) == [newer]


@pytest.mark.parametrize("state", [state for state in RunState if state.terminal])
def test_a_terminal_record_ends_all_waits_of_its_run(desk: Desk, state: RunState) -> None:
    other = WaitRow(2, "a", "paid")
    desk.commit(desk.created(1, waits=(WaitRow(1, "a", "paid"),)), desk.created(2, waits=(other,)))
    receipts = desk.outcomes(
        desk.row(1, 1, waits=(WaitRow(1, "b", "paid"),)),
        desk.row(1, 2, waits=(WaitRow(1, "c", "paid"),), record=record(1, state=state)),
    )
    assert receipts == [COMMITTED] * 2
    assert desk.store.waits("paid", START, 10) == [other]


def test_a_record_that_is_not_terminal_keeps_its_waits(desk: Desk) -> None:
    waits = (WaitRow(1, "a", "paid"),)
    desk.commit(desk.created(1, waits=waits), desk.row(1, 1, record=dormant(1, 5)))
    desk.commit(desk.row(1, 2, record=record(1, state=RunState.PAUSED)))
    assert desk.store.waits("paid", START, 10) == list(waits)


def test_a_refused_unit_changes_no_wait(desk: Desk) -> None:
    desk.commit(desk.created(1, waits=(WaitRow(1, "a", "paid"),)))
    ended = desk.row(1, 7, waits=(WaitRow(1, "b", "paid"),), waits_done=("a",), record=record(1, state=RunState.FAILED))
    assert desk.outcomes(ended) == [UnitOutcome.SEQ_CONFLICT]
    assert desk.store.waits("paid", START, 10) == [WaitRow(1, "a", "paid")]


# ---- dormant runs


def test_due_runs_come_soonest_first(desk: Desk) -> None:
    wakes = {1: 30, 2: 10, 3: 20, 4: 10, 5: 40}
    desk.commit(*[Unit(desk.epoch, run, 0, record=dormant(run, wake_ms)) for run, wake_ms in wakes.items()])
    assert desk.store.due_runs(9, 10) == []
    assert desk.store.due_runs(10, 10) == [dormant(2, 10), dormant(4, 10)]
    assert numbered(*desk.store.due_runs(39, 10)) == [2, 4, 3, 1]
    assert numbered(*desk.store.due_runs(39, 3)) == [2, 4, 3]
    assert numbered(*desk.store.due_runs(39, 3, (10, 2))) == [4, 3, 1]
    assert numbered(*desk.store.due_runs(39, 1, (10, 4))) == [3]
    assert numbered(*desk.store.due_runs(10, 3, (10, 3))) == [4] and desk.store.due_runs(10, 3, (11, 0)) == []
    assert list(desk.store.open_runs()) == []
    assert desk.store.last_run_number() == 5


def test_only_the_newest_record_says_when_a_run_wakes(desk: Desk) -> None:
    desk.commit(desk.created(1), desk.row(1, 1, record=dormant(1, 50)))
    desk.commit(desk.row(1, 2))
    assert numbered(*desk.store.due_runs(50, 10)) == [1], "a unit without a record leaves it as it is"
    desk.commit(desk.row(1, 3, record=dormant(1, 20)))
    assert desk.store.due_runs(20, 10) == [dormant(1, 20)]
    desk.commit(desk.row(1, 4, record=dormant(1, 90)))
    assert desk.store.due_runs(89, 10) == []
    desk.commit(desk.row(1, 5, record=record(1, state=RunState.RUNNING)))
    assert desk.store.due_runs(LATE, 10) == []
    assert numbered(*desk.store.open_runs()) == [1]
    desk.commit(desk.row(1, 6, record=dormant(1, 30)), desk.row(1, 7, record=record(1, state=RunState.CANCELLED)))
    assert desk.store.due_runs(LATE, 10) == []


def test_a_dormant_run_without_a_time_is_never_due(desk: Desk) -> None:
    desk.commit(desk.created(1), desk.row(1, 1, record=dormant(1, 5)), desk.row(1, 2, record=dormant(1, None)))
    assert desk.store.due_runs(LATE, 10) == list(desk.store.open_runs()) == []
    assert desk.store.record(1) == desk.store.find_run("run-1") == dormant(1, None)


@pytest.mark.parametrize("state", [state for state in RunState if state is not RunState.WAITING])
def test_only_a_dormant_run_is_due(desk: Desk, state: RunState) -> None:
    awake = record(1, state=state, wake_ms=5)
    desk.commit(Unit(desk.epoch, 1, 0, record=awake))
    assert desk.store.due_runs(LATE, 10) == []
    assert desk.store.record(1) == awake


def test_a_refused_unit_wakes_nobody(desk: Desk) -> None:
    desk.commit(desk.created(1), desk.row(1, 1, record=dormant(1, 50)))
    assert desk.outcomes(desk.row(1, 1, record=dormant(1, 5))) == [UnitOutcome.SEQ_CONFLICT]
    assert desk.store.due_runs(49, 10) == []


def test_a_record_is_found_by_number(desk: Desk) -> None:
    desk.commit(desk.created(7), desk.row(9, 0))
    assert desk.store.record(7) == record(7)
    assert desk.store.record(8) is None
    assert desk.store.record(9) is None, "a journal without a record"
