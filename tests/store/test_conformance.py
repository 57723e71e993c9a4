"""What the engine may rely on, whichever store it has: one suite, run on each of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any, get_args

import pytest

from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import FlowOptions, Trigger
from stepwire.protocol.limits import INLINE_BYTES_MAX
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    CALL_STEP,
    BodyEnded,
    Call,
    Event,
    Fence,
    Plan,
    SendEvent,
    Sleep,
    StepKind,
    StepPlanned,
)
from stepwire_engine.core.entries import Entry, ParentStep, Planned, Released, RunCreated, RunState, RunStats
from stepwire_engine.core.units import CancelRun, ChildEnded, EventMatched, Fact, StartRun
from stepwire_engine.store.base import EventRecord, InboxRow, Receipt, StoreError, Unit, UnitOutcome, WaitRow
from tests.store.samples import COMMITTED, WAIT_SECONDS, Desk, created, ended, event, matched, record, session

STALE_CLAIM = UnitOutcome.STALE_CLAIM
SEQ_CONFLICT = UnitOutcome.SEQ_CONFLICT
KEY_TAKEN = UnitOutcome.KEY_TAKEN
REFUSED = UnitOutcome.REFUSED


# ---- claims


def test_every_claim_raises_the_epoch(desk: Desk) -> None:
    assert [desk.store.claim() for _ in range(3)] == [desk.epoch + 1, desk.epoch + 2, desk.epoch + 3]
    assert desk.store.claim(partition=7) == 1


def test_a_unit_of_an_older_or_unknown_epoch_is_stale(desk: Desk) -> None:
    before = desk.created(1)
    desk.epoch = desk.store.claim()
    assert desk.outcomes(before, desk.created(2), Unit(desk.epoch + 1, 3, 0, (created(3),))) == [
        STALE_CLAIM,
        COMMITTED,
        STALE_CLAIM,
    ]
    assert desk.store.find_run("run-1") is None
    assert desk.store.journal(1) == ()
    assert desk.outcomes(Unit(desk.epoch - 1, sessions=(session("a"),))) == [STALE_CLAIM]
    assert desk.store.sessions() == []


# ---- sequence


def test_a_journal_is_read_back_in_order(desk: Desk) -> None:
    rows: list[tuple[Entry, ...]] = [(created(1),), (ended(1), ended(2)), (ended(3),)]
    units = [Unit(desk.epoch, 1, n, entries) for n, entries in enumerate(rows)]
    assert desk.outcomes(*units) == [COMMITTED] * 3
    assert [(row.seq, row.entries) for row in desk.store.journal(1)] == list(enumerate(rows, start=1))


@pytest.mark.parametrize("wrong", [0, 1, 3, 2**40])
def test_a_repeated_or_skipped_seq_conflicts_and_changes_nothing(desk: Desk, wrong: int) -> None:
    assert desk.outcomes(desk.created(1), desk.row(1, 1)) == [COMMITTED] * 2
    before = desk.store.journal(1)
    done = record(1, state=RunState.SUCCEEDED)
    assert desk.outcomes(desk.row(1, wrong, record=done, inbox=(matched(2),))) == [SEQ_CONFLICT]
    assert desk.store.journal(1) == before
    assert desk.store.find_run("run-1") == record(1)
    assert desk.store.inbox() == []
    assert desk.outcomes(desk.row(1, 2)) == [COMMITTED]


def test_a_first_row_must_expect_nothing(desk: Desk) -> None:
    assert desk.outcomes(desk.row(5, 1)) == [SEQ_CONFLICT]
    assert desk.outcomes(desk.row(5, 0)) == [COMMITTED]


def test_a_unit_without_row_is_judged_against_the_runs_seq(desk: Desk) -> None:
    desk.commit(desk.created(1))
    paused = record(1, state=RunState.PAUSED)
    assert desk.outcomes(Unit(desk.epoch, 1, 0, record=paused)) == [SEQ_CONFLICT]
    assert desk.outcomes(Unit(desk.epoch, 1, 1, record=paused)) == [COMMITTED]
    assert desk.store.find_run("run-1") == paused
    assert len(desk.store.journal(1)) == 1


# ---- fates within a batch


def test_units_of_a_batch_do_not_share_their_fate(desk: Desk) -> None:
    desk.commit(desk.created(1, key="k"), desk.created(2))
    receipts = desk.commit(
        desk.row(1, 1),
        desk.row(1, 1),  # the row before it took this seq
        Unit(desk.epoch - 1, 2, 1, (ended(1),)),
        desk.created(3, key="k"),
        desk.created(4),
        Unit(desk.epoch, 5, 0, (RunCreated("run-5", "bad \ud800 text", Payload(b""), 1, 1),)),
        desk.row(2, 1),
    )
    assert [receipt.outcome for receipt in receipts] == [
        COMMITTED,
        SEQ_CONFLICT,
        STALE_CLAIM,
        KEY_TAKEN,
        COMMITTED,
        REFUSED,
        COMMITTED,
    ]
    assert [len(desk.store.journal(run)) for run in range(1, 6)] == [2, 2, 0, 1, 0]
    assert desk.store.find_run("run-3") is None


@pytest.mark.parametrize(
    "more",
    [
        {"record": record(9, flow="bad \udc80 text")},
        {"record": record(8)},
        {"record": record(9, state=RunState.WAITING, wake_ms=2**63)},
        {"inbox": (matched(2**64),)},
        {"inbox": (InboxRow(1, EventMatched("bad \udc80 text")),)},
        {"inbox_done": (-1,)},
        {"key": "no record"},
        {"events": (event("e"), event(""))},
        {"events": (event("bad \udc80 text"),)},
        {"events": (event("e", due_ms=-1),)},
        {"events": (event("e", sent_ms=2**63),)},
        {"events": (event("e"),), "events_since_ms": -1},
        {"events_delivered": (2**63,)},
        {"waits": (WaitRow(9, "a", "paid"), WaitRow(8, "b", "paid"))},
        {"waits": (WaitRow(9, "a", "bad \udc80 text"),)},
        {"waits_done": ("bad \udc80 text",)},
    ],
)
def test_what_no_store_can_keep_is_refused_with_a_reason(desk: Desk, more: dict[str, Any]) -> None:
    receipts = desk.commit(desk.created(1), desk.row(9, 0, **more), desk.created(2))
    assert [receipt.outcome for receipt in receipts] == [COMMITTED, REFUSED, COMMITTED]
    assert "cannot be stored" in receipts[1].reason
    assert desk.store.journal(9) == ()
    stored = [*desk.store.undelivered(2**62, 10), *desk.store.inbox(), *desk.store.waits("paid", (0, ""), 10)]
    assert stored == []


@pytest.mark.parametrize(
    "more", [{"record": record(1)}, {"release_key": "k"}, {"waits": (WaitRow(1, "a", "paid"),)}, {"waits_done": ("a",)}]
)
def test_changes_of_a_run_need_a_run(desk: Desk, more: dict[str, Any]) -> None:
    (receipt,) = desk.commit(Unit(desk.epoch, **more))
    assert receipt.outcome is REFUSED and "need a run" in receipt.reason


def test_a_run_id_belongs_to_one_run(desk: Desk) -> None:
    twin = Unit(desk.epoch, 2, 0, (created(2),), record(2, run_id="run-1"))
    receipts = desk.commit(desk.created(1), twin)
    assert [receipt.outcome for receipt in receipts] == [COMMITTED, REFUSED]
    assert "run-1" in receipts[1].reason
    assert desk.outcomes(twin) == [REFUSED]
    assert desk.outcomes(desk.created(2)) == [COMMITTED]


def test_receipts_come_in_the_order_of_submission(desk: Desk) -> None:
    order: SimpleQueue[tuple[int, list[UnitOutcome]]] = SimpleQueue()
    for n in range(50):
        units = [desk.created(1 + 2 * n), desk.row(1 + 2 * n, 7)]

        def done(receipts: Sequence[Receipt], n: int = n) -> None:
            order.put((n, [receipt.outcome for receipt in receipts]))

        desk.store.submit(units, done)
    assert [order.get(timeout=WAIT_SECONDS) for _ in range(50)] == [(n, [COMMITTED, SEQ_CONFLICT]) for n in range(50)]


def test_values_are_taken_when_they_are_submitted(desk: Desk) -> None:
    stats = RunStats(advances=1)
    released = Released(1, ("a",), 5, stats)
    answers: SimpleQueue[Sequence[Receipt]] = SimpleQueue()
    desk.store.submit([desk.row(1, 0, released)], answers.put)
    stats.advances = 99
    answers.get(timeout=WAIT_SECONDS)
    assert desk.store.journal(1)[0].entries == (Released(1, ("a",), 5, RunStats(advances=1)),)


# ---- keys


def test_a_taken_key_names_the_run_that_holds_it(desk: Desk) -> None:
    assert desk.outcomes(desk.created(1, key="order-17")) == [COMMITTED]
    (receipt,) = desk.commit(desk.created(2, key="order-17"))
    assert (receipt.outcome, receipt.existing_run) == (KEY_TAKEN, "run-1")
    assert desk.store.find_key("order-17") == record(1)
    assert desk.store.find_key("order-18") is None
    assert desk.store.find_run("run-2") is None


def test_of_two_claims_in_one_batch_the_first_wins(desk: Desk) -> None:
    receipts = desk.commit(desk.created(1, key="k"), desk.created(2, key="k"), desk.created(3, key="other"))
    assert [receipt.outcome for receipt in receipts] == [COMMITTED, KEY_TAKEN, COMMITTED]
    assert receipts[1].existing_run == "run-1"


def test_the_holder_may_claim_its_key_again(desk: Desk) -> None:
    desk.commit(desk.created(1, key="k"))
    assert desk.outcomes(desk.row(1, 1, record=record(1), key="k")) == [COMMITTED]


def test_a_released_key_can_be_claimed(desk: Desk) -> None:
    desk.commit(desk.created(1, key="k"), desk.created(2))
    assert desk.outcomes(desk.row(2, 1, release_key="k")) == [COMMITTED]
    assert desk.store.find_key("k") == record(1), "only its own run frees a key"
    receipts = desk.commit(desk.row(1, 1, release_key="k"), desk.created(3, key="k"), desk.created(4, key="k"))
    assert [receipt.outcome for receipt in receipts] == [COMMITTED, COMMITTED, KEY_TAKEN]
    assert receipts[2].existing_run == "run-3"
    assert desk.store.find_key("k") == record(3)


def test_a_run_may_free_and_claim_only_its_own_key_at_once(desk: Desk) -> None:
    desk.commit(desk.created(1, key="k"))
    assert desk.outcomes(desk.created(2, key="k", release_key="k")) == [KEY_TAKEN]
    assert desk.outcomes(desk.row(1, 1, record=record(1), key="k", release_key="k")) == [COMMITTED]
    assert desk.store.find_key("k") == record(1)


def test_a_key_claimed_and_released_in_one_batch_is_free(desk: Desk) -> None:
    assert desk.outcomes(desk.created(1, key="k"), desk.row(1, 1, release_key="k")) == [COMMITTED] * 2
    assert desk.store.find_key("k") is None


# ---- payloads


def test_large_payloads_come_back_byte_for_byte(desk: Desk) -> None:
    small = bytes(range(256))
    large = [small * 400 + str(n).encode() for n in range(4)]
    assert all(len(data) > INLINE_BYTES_MAX for data in large)
    plan = Plan(
        1,
        0,
        Fence(1, 1),
        steps=(
            StepPlanned("a", StepKind.TASK, "t", Payload(large[0], "other", True)),
            StepPlanned("b", StepKind.TASK, "t", Payload(small, redacted=True)),
            StepPlanned("c"),
            StepPlanned("d", StepKind.TASK, "t", Payload(large[1])),
            StepPlanned("e", StepKind.CALL, CALL_STEP, spec=Call("http://x", body=Payload(large[3]))),
            StepPlanned("f", StepKind.SEND_EVENT, spec=SendEvent((Event("a"), Event("b", Payload(large[0]))))),
            StepPlanned("g", StepKind.SLEEP, spec=Sleep(5.0)),
        ),
        body_ended=BodyEnded(Payload(large[2]), restart=Payload(large[3])),
    )
    rows = [(created(1, data=large[3]), Planned(plan, 5)), (ended(1, large[0]), ended(2, small), ended(3, large[0]))]
    assert desk.outcomes(*[Unit(desk.epoch, 1, n, entries) for n, entries in enumerate(rows)]) == [COMMITTED] * 2
    assert [row.entries for row in desk.store.journal(1)] == rows


@pytest.mark.parametrize("size", [INLINE_BYTES_MAX - 1, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 4 * 1024 * 1024])
def test_payloads_around_the_inline_limit(desk: Desk, size: int) -> None:
    entry = ended(1, b"\x00" * size)
    assert desk.outcomes(desk.row(1, 0, entry)) == [COMMITTED]
    assert desk.store.journal(1)[0].entries == (entry,)


def test_nul_and_other_odd_text_is_kept(desk: Desk) -> None:
    odd = "a\x00b'\";--\N{SNOWMAN}\x7f\uffff\U0010ffff"
    unit = Unit(
        desk.epoch,
        1,
        0,
        (created(1, odd, b"\x00\xff\x00"),),
        record(1, odd, run_id=odd),
        key=odd,
        sessions=(session(odd, odd, flow_options=(FlowOptions(odd, triggers=(Trigger(odd, odd),)),)),),
        inbox=(InboxRow(1, EventMatched(odd, Payload(b"\x00\xff", odd))),),
        events=(EventRecord(odd, odd, Payload(b"\x00\xff", odd), 5, 5),),
        waits=(WaitRow(1, odd, odd, odd),),
    )
    assert desk.outcomes(unit, desk.created(2, "a")) == [COMMITTED] * 2
    assert desk.store.find_run(odd) == desk.store.find_key(odd) == unit.record
    assert desk.store.find_run("a") is None
    assert [found.number for found in desk.store.list_runs(flow=odd).runs] == [1]
    assert desk.store.sessions() == list(unit.sessions)
    assert desk.store.known_flows() == {odd}
    assert desk.store.flow_options() == {odd: unit.sessions[0].flow_options[0]}
    assert [row.fact for row in desk.store.inbox()] == [unit.inbox[0].fact]
    assert [(found.id, found.name, found.data) for found in desk.store.undelivered(5, 9)] == [
        (odd, odd, Payload(b"\x00\xff", odd))
    ]
    assert desk.store.waits(odd, (0, odd), 9) == list(unit.waits)
    assert desk.store.waits(odd, (1, odd), 9) == []
    assert desk.store.journal(1)[0].entries == unit.entries


# ---- listings


def test_pages_are_newest_first_and_complete(desk: Desk) -> None:
    desk.commit(*[desk.created(run) for run in range(1, 24)])
    seen: list[int] = []
    token = ""
    for page_number in itertools.count():
        page = desk.store.list_runs(limit=10, page_token=token)
        seen += [found.number for found in page.runs]
        if page_number == 0:
            desk.commit(desk.created(24))  # a run started meanwhile shifts nothing
        if not (token := page.next_page_token):
            break
    assert seen == list(range(23, 0, -1))
    assert desk.store.list_runs(limit=24).next_page_token == ""


def test_listings_filter_by_flow_and_states(desk: Desk) -> None:
    states = list(RunState)
    flows = ["a", "b", "c"]
    numbers = range(1, 64)
    desk.commit(*[desk.created(n, flows[n % 3], states[n % 7]) for n in numbers])
    for flow in ["", "a", "c", "unknown"]:
        for wanted in [(), (RunState.FAILED,), (RunState.WAITING, RunState.CANCELLED, RunState.WAITING)]:
            expected = [
                n for n in reversed(numbers) if flow in ("", flows[n % 3]) and (not wanted or states[n % 7] in wanted)
            ]
            first = desk.store.list_runs(flow=flow, states=wanted, limit=5)
            found = list(first.runs)
            if first.next_page_token:
                rest = desk.store.list_runs(flow=flow, states=wanted, page_token=first.next_page_token)
                found += rest.runs
                assert rest.next_page_token == ""
            assert [run.number for run in found] == expected
            assert found == [record(n, flows[n % 3], states[n % 7]) for n in expected]


@pytest.mark.parametrize("token", ["x", "r", "r0", "r-1", "r1 ", "r1\n", "r\u0661", "r1'--", "r" + "9" * 19, "r" * 999])
def test_a_malformed_page_token_is_a_value_error(desk: Desk, token: str) -> None:
    with pytest.raises(ValueError, match="malformed page token"):
        desk.store.list_runs(page_token=token)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_has_bounds(desk: Desk, limit: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.1000"):
        desk.store.list_runs(limit=limit)


def test_open_runs_are_those_that_are_neither_dormant_nor_terminal_oldest_first(desk: Desk) -> None:
    states = list(RunState)
    numbers = range(1, 1400)  # more than one page of any store
    desk.commit(*[desk.created(n, state=states[n % 7]) for n in numbers])
    in_memory = {RunState.PENDING, RunState.RUNNING, RunState.PAUSED}
    assert [found.number for found in desk.store.open_runs()] == [n for n in numbers if states[n % 7] in in_memory]
    desk.commit(Unit(desk.epoch, 1, 1, record=record(1, state=RunState.SUCCEEDED)))
    assert 1 not in [found.number for found in desk.store.open_runs()]
    assert desk.store.find_run("run-1") == record(1, state=RunState.SUCCEEDED)


def test_the_last_run_number_is_the_highest_in_use(desk: Desk) -> None:
    assert desk.store.last_run_number() == 0
    desk.commit(desk.created(7), desk.created(3))
    assert desk.store.last_run_number() == 7
    desk.commit(desk.row(9, 0))
    assert desk.store.last_run_number() == 9


# ---- sessions and inbox


def test_sessions_come_and_go_and_their_flows_stay_known(desk: Desk) -> None:
    assert desk.outcomes(Unit(desk.epoch, sessions=(session("a", "f", "g"), session("b", "g")))) == [COMMITTED]
    assert desk.outcomes(Unit(desk.epoch, sessions=(session("a", "h", at_ms=2),), sessions_gone=("b",))) == [COMMITTED]
    assert desk.store.sessions() == [session("a", "h", at_ms=2)]
    assert desk.store.known_flows() == {"f", "g", "h"}
    gone_and_back = [Unit(desk.epoch, sessions_gone=("a", "never")), Unit(desk.epoch, sessions=(session("a"),))]
    assert desk.outcomes(*gone_and_back) == [COMMITTED] * 2
    assert desk.store.sessions() == [session("a")]


def test_the_newest_registration_says_what_a_flow_asks_for(desk: Desk) -> None:
    first = FlowOptions("f", 5.0, True, (Trigger("paid"), Trigger("sent", "data.n > `3`")))
    other = FlowOptions("g", undo_on_cancel=True)
    newer = FlowOptions("f", deadline=7.5)
    desk.commit(Unit(desk.epoch, sessions=(session("a", "f", "g", "h", flow_options=(first, other)),)))
    assert desk.store.flow_options() == {"f": first, "g": other}
    assert desk.store.sessions() == [session("a", "f", "g", "h", flow_options=(first, other))]
    desk.commit(Unit(desk.epoch, sessions=(session("b", "f", flow_options=(newer,)),), sessions_gone=("a",)))
    assert desk.store.flow_options() == {"f": newer, "g": other}, "they outlive the session, as the names do"
    without, again = session("c", "g", "f"), session("d", "g", flow_options=(other,))
    desk.commit(Unit(desk.epoch, sessions=(without,)), Unit(desk.epoch, sessions=(again,)))
    assert desk.store.flow_options() == {"g": other}
    assert desk.store.known_flows() == {"f", "g", "h"}


def test_options_of_a_flow_that_the_session_does_not_have_change_nothing(desk: Desk) -> None:
    mine, foreign = FlowOptions("f", 5.0), FlowOptions("f", 1.0)
    desk.commit(Unit(desk.epoch, sessions=(session("a", "f", flow_options=(mine,)),)))
    strangers = (foreign, FlowOptions("g"))
    assert desk.outcomes(Unit(desk.epoch, sessions=(session("b", "x", flow_options=strangers),))) == [COMMITTED]
    assert desk.store.flow_options() == {"f": mine}
    assert desk.store.known_flows() == {"f", "x"}


def test_inbox_rows_are_numbered_and_consumed(desk: Desk) -> None:
    rows = [matched(n % 2 + 1, n) for n in range(4)]
    units = (Unit(desk.epoch, inbox=tuple(rows[:3])), Unit(desk.epoch, inbox=(rows[3],)))
    told = [receipt.inbox for receipt in desk.commit(*units)]
    found = desk.store.inbox()
    assert [(row.run, row.fact) for row in found] == [(row.run, row.fact) for row in rows]
    numbers = [row.number for row in found]
    assert numbers == sorted(set(numbers)) and numbers[0] > 0
    assert told == [tuple(numbers[:3]), tuple(numbers[3:])]
    assert desk.store.inbox(after=numbers[1]) == found[2:]
    assert desk.outcomes(desk.created(1, inbox_done=tuple(numbers))) == [COMMITTED]
    assert desk.store.inbox() == []
    (receipt,) = desk.commit(Unit(desk.epoch, inbox=(rows[0],)))
    assert receipt.inbox == (desk.store.inbox()[0].number,)
    assert receipt.inbox[0] > numbers[-1], "a number is never used twice"


def test_only_rows_that_are_stored_get_a_number(desk: Desk) -> None:
    receipts = desk.commit(
        Unit(desk.epoch, inbox=(matched(1, 1),)),
        Unit(desk.epoch - 1, inbox=(matched(1, 2),)),
        desk.row(7, 3, inbox=(matched(1, 3),)),
        desk.created(2, inbox=(matched(1, 4), matched(2, 5))),
    )
    assert [receipt.outcome for receipt in receipts] == [COMMITTED, STALE_CLAIM, SEQ_CONFLICT, COMMITTED]
    assert [len(receipt.inbox) for receipt in receipts] == [1, 0, 0, 2]
    told = [number for receipt in receipts for number in receipt.inbox]
    found = desk.store.inbox()
    assert [row.number for row in found] == told
    assert [row.fact for row in found] == [matched(0, n).fact for n in (1, 4, 5)]


FACTS: list[Fact] = [
    StartRun("run-9", "checkout", Payload(b"[1]"), "order-9", ParentStep(4, "run-4", "pay/[0]/child", 2, 1)),
    StartRun("run-9", "checkout", Payload(b"x" * 200_000, "other")),
    EventMatched("wait#2", Payload(b"x" * 200_000)),
    EventMatched("wait"),
    ChildEnded("child", 3, output=Payload(b"17")),
    ChildEnded("child", 1, failure=Failure(ErrorCode.TIMEOUT, "TimeoutError", "late", "trace", Retryable.NO, 0.5)),
    CancelRun("run-5"),
    CancelRun("run-5", undo=False),
]


def test_every_kind_of_fact_comes_back_equal(desk: Desk) -> None:
    assert {type(fact) for fact in FACTS} == set(get_args(Fact))
    rows = tuple(InboxRow(n, fact) for n, fact in enumerate(FACTS))
    assert desk.outcomes(Unit(desk.epoch, inbox=rows)) == [COMMITTED]
    assert [(row.run, row.fact) for row in desk.store.inbox()] == [(row.run, row.fact) for row in rows]


# ---- lifetime


def test_close_commits_what_is_queued_and_is_idempotent(desk: Desk) -> None:
    answers: SimpleQueue[Sequence[Receipt]] = SimpleQueue()
    for run in range(1, 100):
        desk.store.submit([desk.created(run)], answers.put)
    desk.store.close()
    desk.store.close()
    assert [answers.get_nowait()[0].outcome for _ in range(99)] == [COMMITTED] * 99


def test_a_closed_store_says_so(desk: Desk) -> None:
    assert desk.store.accepting
    desk.store.close()
    with pytest.raises(StoreError, match="not open"):
        desk.commit(desk.created(1))
    with pytest.raises(StoreError, match="not open"):
        desk.store.claim()
