"""What answers of RunService hold of redacted payloads (MISSION V7)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stepwire._transport.run_calls import RunCalls
from stepwire._transport.run_handle import RunHandleSync
from stepwire.codec import JSON_CODEC
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Event, StepKind
from stepwire.redaction import Redacted
from stepwire.v1 import run_pb2
from stepwire_engine.core.history import RunView, StepStateView, StepView
from stepwire_engine.scheduler.starts import StartCall
from stepwire_engine.transport import run_messages
from stepwire_engine.transport.run_messages import run_to_pb
from tests.transport.callers import Caller
from tests.transport.run_engine import LoopbackEngine, TablePort, ended_run

CANARY = b'"canary-4711"'
HIDDEN = Payload(CANARY, redacted=True)


def answered(view: RunView, **options: Any) -> run_pb2.Run:
    message = run_pb2.Run()
    run_to_pb(view, message, **options)
    return message


def redacted_run(**fields: Any) -> RunView:
    return msgspec.structs.replace(ended_run(), **fields)


def step(output: Payload, kind: StepKind = StepKind.RUN) -> StepView:
    return StepView(path="a", kind=kind, name="", state=StepStateView.SUCCEEDED, planned_at_ms=1000, output=output)


def test_the_fact_and_the_size_are_told_and_no_byte() -> None:
    message = answered(redacted_run(input=HIDDEN, output=HIDDEN, steps=(step(HIDDEN),)))
    assert CANARY not in message.SerializeToString()
    for payload in (message.input, message.output, message.steps[0].output):
        assert (payload.redacted, payload.redacted_bytes, payload.data) == (True, len(CANARY), b"")


def test_a_long_output_of_a_step_is_told_of_as_well_if_it_is_redacted() -> None:
    size = run_messages.STEP_OUTPUT_BYTES_MAX + 1
    message = answered(redacted_run(steps=(step(Payload(bytes(size), redacted=True)),)))
    assert message.steps[0].output.redacted_bytes == size


def test_who_awaits_the_result_gets_the_output_and_nothing_else() -> None:
    message = answered(redacted_run(input=HIDDEN, output=HIDDEN, steps=(step(HIDDEN),)), reveal_output=True)
    assert message.output.data == CANARY
    assert (message.input.data, message.steps[0].output.data) == (b"", b"")


def test_a_handle_awaits_the_value_and_shows_none(engine: LoopbackEngine, port: TablePort) -> None:
    port.runs["r1"] = redacted_run(output=HIDDEN)
    calls = RunCalls(engine.address, JSON_CODEC)
    handle = RunHandleSync(calls, "r1", JSON_CODEC.decode)
    try:
        assert handle.result(timeout=10) == "canary-4711"
        assert handle.get().output == Redacted(len(CANARY))
    finally:
        calls.close()


def test_who_runs_a_flow_gets_the_value(caller: Caller, port: TablePort) -> None:
    port.keys["k"] = "r1"
    port.runs["r1"] = redacted_run(output=HIDDEN)
    assert caller.run("orders", id="k") == "canary-4711"


def test_a_mark_travels_with_a_start_and_an_event(engine: LoopbackEngine, port: TablePort) -> None:
    calls = RunCalls(engine.address, JSON_CODEC)
    try:
        calls.start("orders", HIDDEN, "").result()
        calls.start_many("orders", [HIDDEN, Payload(b"1")], ["", ""]).result()
        calls.send_event(Event("paid", HIDDEN, "e1")).result()
    finally:
        calls.close()
    assert [value for asked in port.asked for value in asked if isinstance(value, Payload)] == [HIDDEN]
    many = [call.payload for asked in port.asked for call in asked if isinstance(call, StartCall)]
    assert [payload.redacted for payload in many] == [True, False]
    assert [value.data for asked in port.asked for value in asked if isinstance(value, Event)] == [HIDDEN]


@pytest.mark.parametrize("body", ["plain", "set-cookie"])
def test_cookies_that_a_server_gave_are_not_shown(body: str) -> None:
    headers = {"set-cookie": "session=canary-4711", "x-a": "1"}
    answer = {"status": 200, "headers": headers, "body": body, "encoding": "utf-8"}
    message = answered(redacted_run(steps=(step(Payload(msgspec.json.encode(answer)), StepKind.CALL),)))
    told = msgspec.json.decode(message.steps[0].output.data)
    assert told == {**answer, "headers": {"set-cookie": "(redacted)", "x-a": "1"}}


def test_an_answer_that_only_speaks_of_cookies_is_shown_whole() -> None:
    data = b'{"status": 200,  "headers": {}, "body": "set-cookie", "encoding": "utf-8"}'
    message = answered(redacted_run(steps=(step(Payload(data), StepKind.CALL),)))
    assert msgspec.json.decode(message.steps[0].output.data) == msgspec.json.decode(data)
