"""`given(step).when(what happens).then_...`: who sees to it that a dormant run goes on, while something is on its way.

The reconciler asks the store for dormant runs that nothing would wake (DESIGN 5: one owner for every open run). What
the store says is not all there is: what another run causes may be in the inbox, the core may not know yet what is
stored, or it may know more than was read. None of that is a defect, and nothing of it may stay in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded, Invoke, StepKind, StepPlanned, WaitEvent
from stepwire_engine.core import causes
from stepwire_engine.core.books import Repair
from stepwire_engine.core.reads import DormantPage
from stepwire_engine.scheduler.dormant import forgotten
from stepwire_engine.store.base import JournalRow
from tests.session.desk import CONFIG, Desk, Host

CHILD = causes.child_run_id("r", "i", 1)
SUCCESSOR = causes.successor_run_id(CHILD)
INVOKE = StepPlanned("i", StepKind.INVOKE, spec=Invoke("sub"))
WAIT = StepPlanned("w", StepKind.WAIT_EVENT, spec=WaitEvent("paid"))
FAILURE = Failure(ErrorCode.USER_ERROR, "ValueError", "no")
ENDS = [BodyEnded(Payload(b"1")), BodyEnded(failure=FAILURE), BodyEnded(restart=Payload(b"2"))]


class Given:
    """A dormant run "r", and a reconciler that looks when it is told to.

    Attributes:
        meanwhile: Happens once after the store has read which runs are dormant, before it reads their journals.
    """

    def __init__(self, step: StepPlanned) -> None:
        desk = self.desk = Desk(config=msgspec.structs.replace(CONFIG, reconcile_interval=1e6))
        desk.tampered = True
        self.host: Host = desk.host(flows=("flow", "sub"))
        desk.start()
        desk.settle()
        self.host.plan(step)
        desk.settle()
        desk.pass_time(2 * CONFIG.live_idle + 1.0)
        assert "r" not in desk.core.runs
        self.meanwhile: Callable[[], None] = _nothing

    def when(self, *happens: Callable[[Given], None]) -> Given:
        for event in happens:
            event(self)
        return self

    def read(self) -> object:
        """What the store says of dormant runs."""
        return forgotten(self, DormantPage("", self.desk.now.unix_ms, 50))  # type: ignore[arg-type]

    def answer(self, found: object) -> None:
        """The core is told."""
        self.desk.core.read_done(DormantPage("", self.desk.now.unix_ms, 50), found, self.desk.now)

    def then_it_has_an_owner(self) -> None:
        """Nothing is repaired: neither now, nor when everything that was on its way has arrived."""
        self._carry()
        assert self.desk.core.take_repairs() == []
        assert not self.desk.core.counters.reconciled
        assert self.desk.core.unowned() == []
        assert not self.desk.core._performed._dormancy._waking

    def then_it_is_repaired(self) -> None:
        self._carry()
        assert self.desk.core.take_repairs() == [Repair("r", "", "dormant")]
        assert self.desk.core.counters.reconciled == {"dormant": 1}

    def _carry(self) -> None:
        self.desk.held = False
        self.desk.settle()

    # ---- the store, as its reader finds it

    def list_runs(self, **what: Any) -> object:
        found = self.desk.rows.store.list_runs(**what)
        meanwhile, self.meanwhile = self.meanwhile, _nothing
        meanwhile()
        return found

    def journal(self, run: int) -> Sequence[JournalRow]:
        return self.desk.rows.store.journal(run)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.desk.rows.store, name)


def _nothing() -> None:
    """Nothing happens meanwhile."""


def given(step: StepPlanned) -> Given:
    return Given(step)


# ---- what happens


def looked_at(given: Given) -> None:
    """The reconciler asks, and is answered at once."""
    given.answer(given.read())


def child_ends(how: BodyEnded) -> Callable[[Given], None]:
    """The host says so; nothing of it is in the store."""

    def event(given: Given) -> None:
        given.desk.held = True
        given.host.plan(run_id=CHILD, body_ended=how)
        given.desk._from_hosts()
        given.desk._commits()

    return event


def committed(given: Given) -> None:
    """What was decided is in the store, and the core knows it; what it decides then is not."""
    assert given.desk.commit()
    given.desk._commits()


def committed_unknown(given: Given) -> None:
    """What was decided is in the store, and the core is told only after the store was asked and has answered."""
    receipts = [given.desk.rows.commit(commit) for commit in given.desk.in_flight]
    batch, given.desk.in_flight = given.desk.in_flight, []
    looked_at(given)
    given.desk.core.committed(batch, receipts, given.desk.now)


def successor_begins(given: Given) -> None:
    """The fact that starts it has been acted on; its first row is on its way."""
    given.desk._loads()
    given.desk._commits()
    assert SUCCESSOR in given.desk.core.runs


def cancelled(given: Given) -> None:
    """A client cancels it: it is in memory, and its end is on its way to the store."""
    given.desk.held = True
    given.desk.core.cancel_run("c", "r", None, given.desk.now)
    while given.desk._loads() | given.desk._commits():
        pass
    assert "r" in given.desk.core.runs and given.desk.in_flight


# ---- runs that invoked others


def test_a_parent_whose_childs_successor_is_about_to_be_started_has_an_owner() -> None:
    given(INVOKE).when(child_ends(ENDS[2]), committed, looked_at).then_it_has_an_owner()


def test_a_parent_whose_childs_successor_is_being_written_has_an_owner() -> None:
    run = given(INVOKE).when(child_ends(ENDS[2]), committed, successor_begins, looked_at)
    run.then_it_has_an_owner()
    assert "r" not in run.desk.core.runs and SUCCESSOR in run.desk.core.runs


def test_a_parent_whose_childs_successor_began_after_the_store_was_read_has_an_owner() -> None:
    run = given(INVOKE).when(child_ends(ENDS[2]), committed)
    found = run.read()
    run.when(successor_begins, committed)
    run.answer(found)
    run.then_it_has_an_owner()


@pytest.mark.parametrize("end", ENDS, ids=["succeeded", "failed", "restarted"])
def test_a_parent_of_whose_childs_end_the_core_is_not_told_yet_has_an_owner(end: BodyEnded) -> None:
    given(INVOKE).when(child_ends(end), committed_unknown).then_it_has_an_owner()


@pytest.mark.parametrize("end", ENDS, ids=["succeeded", "failed", "restarted"])
def test_a_parent_whom_nobody_tells_of_its_child_is_repaired(end: BodyEnded) -> None:
    """The facts of the child's end are lost: what must not happen, and what the reconciler is for."""
    run = given(INVOKE).when(child_ends(end))
    lost = [msgspec.structs.replace(commit.unit, inbox=()) for commit in run.desk.in_flight]
    for commit, unit in zip(run.desk.in_flight, lost, strict=True):
        commit.unit = unit
    run.when(committed, looked_at).then_it_is_repaired()


# ---- runs that go on or end while the store is being asked


def test_a_run_that_ended_while_its_page_was_read_is_no_defect_and_leaves_nothing() -> None:
    run = given(WAIT).when(cancelled)
    run.meanwhile = lambda: committed(run)
    run.when(looked_at)
    assert run.desk.run_state() == "CANCELLED"
    run.then_it_has_an_owner()


def test_who_cancels_a_run_that_turns_out_to_have_ended_is_answered() -> None:
    run = given(WAIT).when(cancelled)
    run.meanwhile = lambda: committed(run)
    run.when(looked_at)
    run.desk.core.cancel_run("late", "r", None, run.desk.now)
    run.then_it_has_an_owner()
    replies = {reply.token: reply.code for reply in run.desk.replies}
    assert replies["c"] is None and replies["late"] is ErrorCode.WRONG_STATE


def test_a_run_that_was_woken_while_its_page_was_read_is_no_defect() -> None:
    run = given(WAIT)
    found = forgotten_without_waits(run)
    run.desk.send("paid")
    run.desk.settle()
    assert "r" in run.desk.core.runs
    run.answer(found)
    run.then_it_has_an_owner()


def forgotten_without_waits(run: Given) -> object:
    """What the store would say had the run's wait been consumed between its record and its journal."""
    waits = run.desk.rows.store._waits.copy()
    run.desk.rows.store._waits.clear()
    found = run.read()
    run.desk.rows.store._waits.update(waits)
    return found
