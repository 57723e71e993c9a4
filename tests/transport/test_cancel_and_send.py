"""Cancelling runs and sending events, by both clients, against a RunService on loopback."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from stepwire import client as client_module
from stepwire.errors import ConfigurationError, EngineUnavailable, RunError
from stepwire.events import Event
from stepwire.protocol import plan
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.payload import Payload
from stepwire_engine.core import entries
from stepwire_engine.core.refusal import CallRefused
from stepwire_engine.core.units import RunRecord
from tests.transport.callers import Caller, Typed
from tests.transport.run_engine import TablePort


@pytest.mark.parametrize("undo", [None, True, False])
def test_cancel_is_passed_on(caller: Caller, port: TablePort, undo: bool | None) -> None:
    caller.cancel("r1", undo)
    caller.cancel_handle("r2", undo)
    assert port.asked == [("cancel", "r1", undo), ("cancel", "r2", undo)]


def test_a_run_that_ended_cannot_be_cancelled(caller: Caller, port: TablePort) -> None:
    port.over = {"r1"}
    with pytest.raises(RunError, match="run r1 has ended") as caught:
        caller.cancel("r1")
    assert caught.value.code is ErrorCode.WRONG_STATE


def test_cancel_all_goes_through_every_page_and_leaves_out_what_ended_meanwhile(
    caller: Caller, port: TablePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PAGE_SIZE", 2)
    port.records = [RunRecord(n, f"r{n}", "orders", entries.RunState.WAITING, 1000, None) for n in range(1, 6)]
    port.over = {"r4"}
    assert caller.cancel_all(flow=Typed(), undo=True) == ("r5", "r3", "r2", "r1")
    listed = [question for question in port.asked if question[0] == "list"]
    cancelled = {question[1:] for question in port.asked if question[0] == "cancel"}
    states = tuple(state for state in entries.RunState if not state.terminal)
    assert listed == [("list", "orders", states, 2, token) for token in ("", "r4", "r2")]
    assert cancelled == {(f"r{n}", True) for n in range(1, 6)}


def test_cancel_all_takes_states_of_open_runs(caller: Caller, port: TablePort) -> None:
    assert caller.cancel_all(flow="", states=["PAUSED"]) == ()
    assert port.asked == [("list", "", (entries.RunState.PAUSED,), 100, "")]
    with pytest.raises(ConfigurationError, match="FAILED"):
        caller.cancel_all(flow="orders", states=["FAILED"])


def test_cancel_all_stops_at_what_the_engine_refuses(caller: Caller, port: TablePort) -> None:
    port.records = [RunRecord(1, "r1", "orders", entries.RunState.RUNNING, 1000, None)]
    port.refusal = CallRefused(ErrorCode.DRAINING, "stopping")
    with pytest.raises(EngineUnavailable):
        caller.cancel_all(flow="orders")


def test_send_by_name_encodes_the_data(caller: Caller, port: TablePort) -> None:
    at = datetime(2026, 1, 1, 0, 0, 0, 250_000, tzinfo=UTC)
    assert caller.send("order/paid", {"n": 1}, id="e1", at=at) == "e1"
    assert port.asked == [("send", plan.Event("order/paid", Payload(b'{"n":1}'), "e1", 1_767_225_600_250))]


def test_send_takes_an_event(caller: Caller, port: TablePort) -> None:
    assert caller.send(Event("order/paid", [1], "e2")) == "e2"
    assert port.asked == [("send", plan.Event("order/paid", Payload(b"[1]"), "e2"))]


def test_an_event_without_id_gets_one_of_the_client_so_that_the_call_may_be_repeated(
    caller: Caller, port: TablePort
) -> None:
    ids = {caller.send("ping"), caller.send("ping")}
    assert len(ids) == 2 and ids == {question[1].id for question in port.asked} == port.event_ids


@pytest.mark.parametrize(
    ("args", "kwargs", "error"),
    [
        ((Event("ping"), 1), {}, ConfigurationError),
        ((Event("ping"),), {"id": "e1"}, ConfigurationError),
        (("ping", float("nan")), {}, ConfigurationError),
        (("",), {}, ValueError),
        (("n" * 257,), {}, ValueError),
        (("ping",), {"id": "k" * 257}, ValueError),
        (("ping",), {"at": datetime(2026, 1, 1)}, ValueError),
    ],
)
def test_what_is_no_event_never_leaves(
    caller: Caller, port: TablePort, args: Any, kwargs: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        caller.send(*args, **kwargs)
    assert port.asked == []
