"""Starting many runs with one call: the service with plain bytes, and both clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from stepwire._transport import run_requests
from stepwire.errors import (
    ConfigurationError,
    EngineBusy,
    EngineUnavailable,
    InvalidInput,
    KeyConflict,
    PartlyStarted,
    PayloadTooLarge,
    ProtocolError,
    UnknownFlow,
)
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.payload import NULL, Payload
from stepwire.v1 import failure_pb2, payload_pb2
from stepwire.v1 import run_service_pb2 as pb
from stepwire_engine.core.refusal import CallRefused
from stepwire_engine.scheduler.starts import StartCall
from tests.transport.callers import Caller, Typed
from tests.transport.run_engine import PAYLOAD_BYTES_MAX, LoopbackEngine, TablePort
from tests.transport.test_run_service import Peer, many

CONFLICT = CallRefused(ErrorCode.KEY_CONFLICT, "id 'b' is in use by run r9 with another flow or input")


@pytest.fixture
def peer(engine: LoopbackEngine, port: TablePort) -> Iterator[Peer]:
    peer = Peer(engine.address)
    yield peer
    peer.channel.close()


def calls_of(port: TablePort) -> list[tuple[StartCall, ...]]:
    return [tuple(question[1:]) for question in port.asked if question[0] == "start_many"]


# ---- the service


def test_each_run_is_handed_over_whole_and_answered_in_order(peer: Peer, port: TablePort) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    request = pb.StartManyRequest(
        runs=[
            pb.StartRequest(flow="a", input=payload_pb2.Payload(data=b"1"), id="k", traceparent=trace),
            pb.StartRequest(flow="b"),
            pb.StartRequest(flow="a", input=payload_pb2.Payload(data=b"1"), id="k"),
        ]
    )
    answer = pb.StartManyResponse.FromString(peer.send("StartMany", request.SerializeToString()))
    assert [(outcome.run_id, outcome.existing, outcome.code) for outcome in answer.outcomes] == [
        ("r1", False, 0),
        ("r2", False, 0),
        ("r1", True, 0),
    ]
    one = Payload(b"1")
    assert calls_of(port) == [(StartCall("a", one, "k", trace), StartCall("b", NULL), StartCall("a", one, "k"))]


def test_a_refused_run_has_a_code_and_a_message_that_fits_and_hinders_no_other(peer: Peer, port: TablePort) -> None:
    port.refused[b"2"] = CallRefused(ErrorCode.KEY_CONFLICT, "é" * 100_000)
    runs = [pb.StartRequest(flow="f", input=payload_pb2.Payload(data=data)) for data in (b"1", b"2", b"3")]
    answer = pb.StartManyResponse.FromString(peer.send("StartMany", pb.StartManyRequest(runs=runs).SerializeToString()))
    assert [outcome.run_id for outcome in answer.outcomes] == ["r1", "", "r2"]
    refused = answer.outcomes[1]
    assert refused.code == failure_pb2.ERROR_CODE_KEY_CONFLICT
    assert 1000 < len(refused.message.encode()) <= 1024


def test_a_thousand_runs_are_allowed(peer: Peer, port: TablePort) -> None:
    answer = pb.StartManyResponse.FromString(peer.send("StartMany", many(*["f"] * 1000).SerializeToString()))
    assert len(answer.outcomes) == len(port.runs) == 1000


def test_an_input_out_of_bounds_refuses_all(peer: Peer, port: TablePort) -> None:
    large = payload_pb2.Payload(data=bytes(PAYLOAD_BYTES_MAX + 1))
    refused = peer.refusal("StartMany", pb.StartManyRequest(runs=[pb.StartRequest(flow="f", input=large)]))
    assert refused.code == "payload_too_large"
    chunked = payload_pb2.Payload(transfer_id=1)
    refused = peer.refusal(
        "StartMany", pb.StartManyRequest(runs=[pb.StartRequest(flow="f"), pb.StartRequest(flow="f", input=chunked)])
    )
    assert refused.code == "undecodable"
    assert port.asked == []


# ---- the clients


def test_handles_come_in_the_order_of_the_inputs(caller: Caller, port: TablePort) -> None:
    handles = caller.start_many("orders", ({"n": n} for n in range(3)), ids=["a", "", "a"])
    assert [(handle.run_id, handle.existing) for handle in handles] == [("r1", False), ("r2", False), ("r1", True)]
    inputs = [Payload(b'{"n":%d}' % n) for n in range(3)]
    assert calls_of(port) == [
        tuple(StartCall("orders", given, key) for given, key in zip(inputs, ("a", "", "a"), strict=True))
    ]


def test_a_flow_object_encodes_each_input(caller: Caller, port: TablePort) -> None:
    caller.start_many(Typed(), [7, 8])
    ((first, second),) = calls_of(port)
    assert (first.payload.data, second.payload.data) == (b"[7,false]", b"[8,false]")


def test_nothing_to_start_asks_nobody(caller: Caller, port: TablePort) -> None:
    assert caller.start_many("orders", []) == []
    assert port.asked == []


@pytest.mark.parametrize(
    ("flow", "inputs", "ids", "error"),
    [
        ("orders", [1, float("nan")], None, InvalidInput),
        ("orders", [1, 2], ["a"], ConfigurationError),
        ("orders", [1], ["a", "b"], ConfigurationError),
        (17, [1], None, ConfigurationError),
    ],
)
def test_what_cannot_be_asked_never_leaves(
    caller: Caller, port: TablePort, flow: Any, inputs: Any, ids: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        caller.start_many(flow, inputs, ids=ids)
    assert port.asked == []


def test_calls_are_bounded_in_number(caller: Caller, port: TablePort) -> None:
    handles = caller.start_many("orders", range(2001))
    assert [len(call) for call in calls_of(port)] == [1000, 1000, 1]
    assert [handle.run_id for handle in handles] == [f"r{n}" for n in range(1, 2002)]


def test_calls_are_bounded_in_bytes_names_and_keys_included(caller: Caller, port: TablePort) -> None:
    caller.start_many("orders", ["x" * 600_000, "x" * 600_000, "x", "x" * (PAYLOAD_BYTES_MAX - 2), "x"])
    assert [len(call) for call in calls_of(port)] == [1, 2, 1, 1]
    payloads, keys = [Payload(b"x" * 700)] * 1000, ["é" * 128] * 1000
    for part, ids in run_requests.start_batches("f" * 256, payloads, keys):
        request = pb.StartManyRequest()
        for payload, key in zip(part, ids, strict=True):
            sent = pb.StartRequest(flow="f" * 256, id=key, traceparent="t" * 55)
            sent.input.data, sent.input.encoding = payload.data, payload.encoding
            request.runs.append(sent)
        assert request.ByteSize() <= 1024 * 1024, "the least that any engine receives"


def test_some_that_are_refused_are_named_beside_the_others(caller: Caller, port: TablePort) -> None:
    port.refused[b"2"] = CONFLICT
    port.refused[b"4"] = CallRefused(ErrorCode.LIMIT_EXCEEDED, "1000 reads are waiting (reads_pending_max)")
    with pytest.raises(PartlyStarted) as caught:
        caller.start_many("orders", [1, 2, 3, 4], ids=["a", "b", "c", "d"])
    partly = caught.value
    assert [None if handle is None else handle.run_id for handle in partly.handles] == ["r1", None, "r2", None]
    assert [type(error) for error in partly.errors] == [type(None), KeyConflict, type(None), EngineBusy]
    assert partly.code is ErrorCode.KEY_CONFLICT and partly.__cause__ is partly.errors[1]
    assert partly.message == f"2 of 4 runs were not started; the first is number 1: {CONFLICT.message}"


def test_all_that_are_refused_for_one_reason_say_it(caller: Caller, port: TablePort) -> None:
    refusal = CallRefused(ErrorCode.UNKNOWN_FLOW, "no host has registered flow 'orders' (known: none)")
    port.refused |= {b"1": refusal, b"2": refusal}
    with pytest.raises(UnknownFlow, match="no host has registered"):
        caller.start_many("orders", [1, 2])


def test_what_was_started_before_a_call_failed_is_not_lost(caller: Caller, port: TablePort) -> None:
    ask = port._ask

    def asked(*question: object) -> None:
        ask(*question)
        if len(calls_of(port)) == 2:
            raise CallRefused(ErrorCode.STORE_FULL, "the store is full; nothing was accepted", retry_after=1.5)

    port._ask = asked  # type: ignore[method-assign]
    with pytest.raises(PartlyStarted) as caught:
        caller.start_many("orders", range(2500))
    partly = caught.value
    assert [handle is not None for handle in partly.handles] == [True] * 1000 + [False] * 1500
    assert len(calls_of(port)) == 2, "after a refusal of all nothing more is asked"
    assert (partly.code, partly.retry_after) == (ErrorCode.STORE_FULL, 1.5)
    assert all(isinstance(error, EngineUnavailable) for error in partly.errors[1000:])


def test_a_refusal_of_all_is_raised_as_it_is(caller: Caller, port: TablePort) -> None:
    port.refusal = CallRefused(ErrorCode.DRAINING, "engine is draining")
    with pytest.raises(EngineUnavailable, match="draining"):
        caller.start_many("orders", [1])
    with pytest.raises(PayloadTooLarge):
        caller.start_many("orders", ["x" * PAYLOAD_BYTES_MAX])


def test_an_engine_that_tells_of_too_few_is_a_clear_error(
    caller: Caller, port: TablePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def one(calls: Any) -> list[Any]:
        return []

    monkeypatch.setattr(port, "start_many", one)
    with pytest.raises(ProtocolError, match="told of 0 runs, and 2 were to be started"):
        caller.start_many("orders", [1, 2])
