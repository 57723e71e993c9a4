"""What hosts hold of a run that leaves memory is taken from them; what clients start while a host is greeted begins."""

from __future__ import annotations

import time

import pytest

from stepwire.protocol.frames import CancelReason
from stepwire.protocol.plan import Fence, GroupOpened, Plan, StepKind, StepPlanned
from stepwire_engine.core import settle as settling
from stepwire_engine.core.entries import AttemptEnded, Planned, RunCreated
from stepwire_engine.core.fold import apply
from stepwire_engine.core.model import Run
from tests.session.desk import INPUT, Desk, Host, running, task


def cancels(host: Host) -> list[tuple[str, CancelReason]]:
    return [(c.path, c.reason) for section in host.sections for c in section.cancels]


def evicted(host: Host) -> list[str]:
    return [section.run_id for section in host.sections if section.evict is not None]


def test_hosts_are_told_to_let_go_of_a_run_on_which_the_core_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, host = running(task("a"), task("b"))
    other = desk.host("other")
    desk.start("s")
    desk.settle()

    def fail(turn: object) -> None:
        raise RuntimeError("a defect")

    host.ok("a")
    monkeypatch.setattr("stepwire_engine.core.intake.settle", fail)
    desk._from_hosts()
    monkeypatch.undo()
    desk.settle()
    assert [run_id for run_id, _ in desk.core.take_incidents()] == ["r"]
    assert desk.run_state() == "PAUSED"
    assert cancels(host) == [("b", CancelReason.LEASE_LOST)] and evicted(host) == ["r"]
    assert cancels(other) == [] and evicted(other) == []
    assert settling.settle is not fail


def test_the_room_that_a_run_leaves_behind_is_given_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    host = desk.host(bodies=1)
    desk.start()
    desk.settle()
    desk.start("s")
    desk.settle()
    assert "s" not in host.seqs
    desk.core._commits.quarantine(desk.core.runs["r"], RuntimeError("a defect"))
    desk.settle()
    assert "s" in host.seqs


def test_a_flow_can_be_started_while_its_first_host_is_being_greeted() -> None:
    desk = Desk()
    desk.core.known_flows.clear()
    desk.held = True
    host = desk.host(flows=("orders",))
    assert host.frames == [], "its Hello is being committed"
    desk.start(flow="orders")
    desk.settle()
    assert desk.replies == []
    desk.held = False
    desk.settle()
    assert desk.replies[-1].code is None and "r" in host.seqs


def test_a_plan_that_abandons_thousands_of_finished_steps_is_folded_in_a_moment() -> None:
    count = 10_000
    run = Run(1)
    apply(run, RunCreated("r", "flow", INPUT, 7, 0))
    paths = [f"g/[{index}]/s" for index in range(count)]
    steps = tuple([StepPlanned(path, StepKind.TASK, "work") for path in paths])
    apply(run, Planned(Plan(1, 0, Fence(1, 1), (GroupOpened("g", count + 1),), steps), 0, "h"))
    for path in paths:
        apply(run, AttemptEnded(path, 1, 0, 0.0, "h", INPUT, None))
    assert len(run.groups["g"].finished) == count
    before = time.process_time()
    apply(run, Planned(Plan(2, 0, Fence(1, 1), abandoned=tuple(reversed(paths))), 0, "h"))
    assert run.groups["g"].finished == []
    assert time.process_time() - before < 1.0, "with a search of the list for each step it takes several seconds"
