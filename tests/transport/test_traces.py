"""Clients say where their span belongs (MISSION V5)."""

from __future__ import annotations

from opentelemetry import trace

from stepwire.protocol.plan import Event
from stepwire.v1 import run_service_pb2 as pb
from tests.sdk.spans import recorded, traceparent
from tests.transport.callers import Caller
from tests.transport.run_engine import LoopbackEngine, TablePort, ended_run
from tests.transport.test_run_service import Peer


def test_a_start_carries_the_context_of_the_current_span(caller: Caller, port: TablePort) -> None:
    with recorded() as spans, trace.get_tracer("test").start_as_current_span("request"):
        caller.start("orders")
    caller.start("orders")
    inside, outside = port.asked
    assert inside[:2] == outside[:2] and len(outside) == 4
    assert inside[4:] == (traceparent(spans.one("request")),)


def test_a_run_with_one_call_carries_it(caller: Caller, port: TablePort) -> None:
    port.keys["k"] = "r1"
    port.runs["r1"] = ended_run()
    with recorded() as spans, trace.get_tracer("test").start_as_current_span("request"):
        caller.run("orders", id="k")
    assert port.asked[0][4:] == (traceparent(spans.one("request")),)


def test_starts_of_many_carry_it_each(caller: Caller, port: TablePort) -> None:
    with recorded() as spans, trace.get_tracer("test").start_as_current_span("request"):
        caller.start_many("orders", [1, 2])
    caller.start_many("orders", [3])
    (_, *inside), (_, outside) = port.asked
    assert [call.traceparent for call in inside] == [traceparent(spans.one("request"))] * 2
    assert outside.traceparent == ""


def test_an_event_carries_the_context_of_the_current_span(caller: Caller, port: TablePort) -> None:
    with recorded() as spans, trace.get_tracer("test").start_as_current_span("request"):
        caller.send("paid")
    caller.send("paid")
    sent = [question[1] for question in port.asked]
    assert all(isinstance(event, Event) for event in sent)
    assert [event.traceparent for event in sent] == [traceparent(spans.one("request")), ""]


def test_a_context_that_is_none_is_left_out(engine: LoopbackEngine, port: TablePort) -> None:
    peer = Peer(engine.address)
    peer.send("Start", pb.StartRequest(flow="orders", traceparent="00-no-01").SerializeToString())
    peer.channel.close()
    assert len(port.asked[0]) == 4
