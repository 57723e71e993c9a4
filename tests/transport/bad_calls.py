"""What clients send wrongly, and how each is answered; one row per kind of bad input, in the order of the design."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from stepwire.protocol.failure import ErrorCode
from stepwire.v1 import plan_pb2
from stepwire.v1 import run_service_pb2 as pb
from tests.transport.bad_hosts import Row
from tests.transport.bench import CONFIG
from tests.transport.whole_engine import Answer, Scenario, WholeEngine, payload

S = grpc.StatusCode
YEAR_MS = 366 * 24 * 3600 * 1000

# ---- clients that ask something wrong


def asked(method: str, request: Any) -> Scenario:
    async def play(engine: WholeEngine) -> Answer:
        return await engine.refusal(method, request)

    return play


def known(method: str, make: Callable[[str], Any], *, key: str = "") -> Scenario:
    """A call about a run that has ended."""

    async def play(engine: WholeEngine) -> Answer:
        host = engine.host()
        await host.greet()
        run_id = await engine.finished_run(host, key=key)
        return await engine.refusal(method, make(run_id))

    return play


async def key_in_use(engine: WholeEngine) -> Answer:
    """The run that has the key is still in progress."""
    host = engine.host()
    await host.greet()
    run_id = await engine.start(key="order-17")
    answer = await engine.refusal("Start", pb.StartRequest(flow="checkout", id="order-17", input=payload(b"2")))
    assert run_id in answer.message
    again = pb.StartResponse.FromString(
        await engine.call("Start", pb.StartRequest(flow="checkout", id="order-17", input=payload(b"1")))
    )
    assert (again.run_id, again.existing) == (run_id, True)
    await engine.drive(host, run_id)
    return answer


def while_full(method: str, request: Any) -> Scenario:
    async def play(engine: WholeEngine) -> Answer:
        engine.store.accepting = False
        answer = await engine.refusal(method, request)
        engine.store.accepting = True
        assert "stepwire-retry-after-ms" in answer.everything
        return answer

    return play


def while_draining(method: str, request: Any) -> Scenario:
    async def play(engine: WholeEngine) -> Answer:
        await engine.driver.drain(0.01)
        return await engine.refusal(method, request)

    return play


async def unknown_method(engine: WholeEngine) -> Answer:
    return await engine.refusal("Delete", b"")


async def unknown_service(engine: WholeEngine) -> Answer:
    return await engine.refusal("Start", b"", path="/stepwire.v1.AdminService")


def event(**what: Any) -> pb.SendEventRequest:
    return pb.SendEventRequest(event=plan_pb2.Event(**({"name": "paid"} | what)))


async def event_too_far(engine: WholeEngine) -> Answer:
    request = event()
    request.event.at.FromMilliseconds(engine.driver._clock.now().unix_ms + YEAR_MS + 60_000)
    return await engine.refusal("SendEvent", request)


def bad_text(field_number: int) -> bytes:
    """A message with a text that is not UTF-8."""
    return bytes([field_number << 3 | 2, 2, 0xFF, 0xFE])


def some(*runs: pb.StartRequest) -> pb.StartManyRequest:
    return pb.StartManyRequest(runs=runs)


async def one_of_two(engine: WholeEngine) -> Answer:
    """A run starts beside one that is refused."""
    host = engine.host()
    await host.greet()
    await engine.finished_run(host, key="order-17")
    request = some(pb.StartRequest(flow="checkout", id="order-17", input=payload(b"2")), START)
    refused, started = pb.StartManyResponse.FromString(await engine.call("StartMany", request)).outcomes
    await engine.drive(host, started.run_id)
    assert not refused.run_id
    return Answer(S.ALREADY_EXISTS, ErrorCode(refused.code).slug, refused.message)


def once(flow: str, **start: Any) -> pb.StartAndAwaitRequest:
    return pb.StartAndAwaitRequest(start=pb.StartRequest(flow=flow, **start))


START = pb.StartRequest(flow="checkout")
LARGE = payload(bytes(CONFIG.payload_bytes_max + 1))

CLIENT_ROWS = [
    Row("run absent: Get", asked("Get", pb.GetRequest(run_id="r")), S.NOT_FOUND, "run_not_found", "there is no run r"),
    Row("run absent: Watch", asked("Watch", pb.WatchRequest(run_id="r")), S.NOT_FOUND, "run_not_found", "there is no"),
    Row(
        "run absent: Cancel", asked("Cancel", pb.CancelRequest(run_id="r")), S.NOT_FOUND, "run_not_found", "there is no"
    ),
    Row(
        "run absent: Resume", asked("Resume", pb.ResumeRequest(run_id="r")), S.NOT_FOUND, "run_not_found", "there is no"
    ),
    Row(
        "unknown flow", asked("Start", pb.StartRequest(flow="f")), S.NOT_FOUND, "unknown_flow", "no host has registered"
    ),
    Row("undecodable request", asked("Start", b"\x0a\xff"), S.INVALID_ARGUMENT, "undecodable", "is not a StartRequest"),
    Row("bad UTF-8 in a request", asked("Get", bad_text(1)), S.INVALID_ARGUMENT, "undecodable", "is not a GetRequest"),
    Row(
        "flow name empty", asked("Start", pb.StartRequest()), S.INVALID_ARGUMENT, "invalid_argument", "flow has 0 bytes"
    ),
    Row(
        "flow name too long",
        asked("Start", pb.StartRequest(flow="f" * 257)),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "flow has 257 bytes; 1..256 are allowed",
    ),
    Row(
        "flow name with control characters",
        asked("Start", pb.StartRequest(flow="a\x00b")),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "flow has control characters",
    ),
    Row(
        "key with control characters",
        asked("Start", pb.StartRequest(flow="checkout", id="a\x7fb")),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "id has control characters",
    ),
    Row(
        "run id too long", asked("Get", pb.GetRequest(run_id="r" * 300)), S.INVALID_ARGUMENT, "invalid_argument", "300"
    ),
    Row(
        "event name of the engine's own",
        asked("SendEvent", event(name="stepwire/run.failed")),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "engine's own",
    ),
    Row("event not set", asked("SendEvent", b""), S.INVALID_ARGUMENT, "invalid_argument", "event is not set"),
    Row(
        "event id too long", asked("SendEvent", event(id="i" * 257)), S.INVALID_ARGUMENT, "invalid_argument", "event.id"
    ),
    Row(
        "NaN in event data",
        asked("SendEvent", event(data=payload(b'{"a":NaN}'))),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "event.data is not JSON",
    ),
    Row(
        "Infinity in event data",
        asked("SendEvent", event(data=payload(b"[-Infinity]"))),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "event.data is not JSON",
    ),
    Row(
        "lone surrogate in event data",
        asked("SendEvent", event(data=payload(b'"\\ud800"'))),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "event.data is not JSON",
    ),
    Row(
        "event data that are not UTF-8",
        asked("SendEvent", event(data=payload(b'"\xff"'))),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "event.data is not JSON",
    ),
    Row(
        "event data nested too deep",
        asked("SendEvent", event(data=payload(b"[" * 100_000 + b"]" * 100_000))),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "event.data is not JSON",
    ),
    Row(
        "input over the limit",
        asked("Start", pb.StartRequest(flow="checkout", input=LARGE)),
        S.INVALID_ARGUMENT,
        "payload_too_large",
        f"limit is {CONFIG.payload_bytes_max}",
    ),
    Row(
        "request too large for gRPC",
        asked("Start", pb.StartRequest(flow="checkout", input=payload(bytes(CONFIG.payload_bytes_max + 100_000)))),
        S.RESOURCE_EXHAUSTED,
        "",
        "larger than max",
    ),
    Row(
        "page size out of range",
        asked("List", pb.ListRequest(page_size=1001)),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "1001",
    ),
    Row(
        "page token",
        asked("List", pb.ListRequest(page_token="x")),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "page_token",
    ),
    Row(
        "unknown state",
        asked("List", pb.ListRequest(states=[77])),  # type: ignore[list-item]
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "states",
    ),
    Row(
        "key reused with other input, in progress",
        key_in_use,
        S.ALREADY_EXISTS,
        "key_conflict",
        "with another flow or input",
    ),
    Row(
        "key reused with other input, finished",
        known("Start", lambda _: pb.StartRequest(flow="checkout", id="k", input=payload(b"2")), key="k"),
        S.ALREADY_EXISTS,
        "key_conflict",
        "with another flow or input",
    ),
    Row(
        "cancel of a finished run",
        known("Cancel", lambda run_id: pb.CancelRequest(run_id=run_id)),
        S.FAILED_PRECONDITION,
        "wrong_state",
        "it is SUCCEEDED",
    ),
    Row(
        "resume of a finished run",
        known("Resume", lambda run_id: pb.ResumeRequest(run_id=run_id)),
        S.FAILED_PRECONDITION,
        "wrong_state",
        "is SUCCEEDED, not PAUSED",
    ),
    Row("event due in more than 366 days", event_too_far, S.INVALID_ARGUMENT, "invalid_argument", "more than 366 days"),
    Row(
        "full store: start",
        while_full("Start", START),
        S.RESOURCE_EXHAUSTED,
        "store_full",
        "the store is full; nothing was accepted",
    ),
    Row(
        "full store: event",
        while_full("SendEvent", event()),
        S.RESOURCE_EXHAUSTED,
        "store_full",
        "nothing was accepted",
    ),
    Row(
        "draining engine: start",
        while_draining("Start", START),
        S.UNAVAILABLE,
        "draining",
        "is draining",
        serves_on=False,
    ),
    Row(
        "draining engine: event",
        while_draining("SendEvent", event()),
        S.UNAVAILABLE,
        "draining",
        "engine is draining",
        serves_on=False,
    ),
    Row("no runs to start", asked("StartMany", some()), S.INVALID_ARGUMENT, "invalid_argument", "runs has 0 entries"),
    Row(
        "too many runs to start",
        asked("StartMany", some(*[START] * 1001)),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "runs has 1001 entries; 1..1000 are allowed",
    ),
    Row(
        "flow name of one run too long",
        asked("StartMany", some(START, pb.StartRequest(flow="f" * 257))),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "runs[1].flow has 257 bytes",
    ),
    Row(
        "key of one run with control characters",
        asked("StartMany", some(START, START, pb.StartRequest(flow="checkout", id="a\x7fb"))),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "runs[2].id has control characters",
    ),
    Row(
        "input of one run over the limit",
        asked("StartMany", some(START, pb.StartRequest(flow="checkout", input=LARGE))),
        S.INVALID_ARGUMENT,
        "payload_too_large",
        f"limit is {CONFIG.payload_bytes_max}",
    ),
    Row("key of one run reused with other input", one_of_two, S.ALREADY_EXISTS, "key_conflict", "another flow or"),
    Row("undecodable runs", asked("StartMany", b"\x0a\xff"), S.INVALID_ARGUMENT, "undecodable", "StartManyRequest"),
    Row(
        "full store: start of many",
        while_full("StartMany", some(START, START)),
        S.RESOURCE_EXHAUSTED,
        "store_full",
        "the store is full; nothing was accepted",
    ),
    Row(
        "draining engine: start of many",
        while_draining("StartMany", some(START, START)),
        S.UNAVAILABLE,
        "draining",
        "is draining",
        serves_on=False,
    ),
    Row(
        "run absent: Await",
        asked("Await", pb.AwaitRequest(run_ids=["r"])),
        S.NOT_FOUND,
        "run_not_found",
        "there is no run r",
    ),
    Row(
        "run absent: AwaitOne",
        asked("AwaitOne", pb.AwaitOneRequest(run_id="r")),
        S.NOT_FOUND,
        "run_not_found",
        "there is no run r",
    ),
    Row(
        "unknown flow: start and wait",
        asked("StartAndAwait", once("f")),
        S.NOT_FOUND,
        "unknown_flow",
        "no host has registered",
    ),
    Row(
        "nothing to start and wait for",
        asked("StartAndAwait", pb.StartAndAwaitRequest()),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "start is not set",
    ),
    Row(
        "key in use: start and wait",
        known("StartAndAwait", lambda run_id: once("checkout", id="order-17", input=payload(b"2")), key="order-17"),
        S.ALREADY_EXISTS,
        "key_conflict",
        "id 'order-17' is in use by run",
    ),
    Row(
        "full store: start and wait",
        while_full("StartAndAwait", once("checkout")),
        S.RESOURCE_EXHAUSTED,
        "store_full",
        "the store is full; nothing was accepted",
    ),
    Row(
        "draining engine: start and wait",
        while_draining("StartAndAwait", once("checkout")),
        S.UNAVAILABLE,
        "draining",
        "is draining",
        serves_on=False,
    ),
    Row(
        "run absent beside one that ended: Await",
        known("Await", lambda run_id: pb.AwaitRequest(run_ids=[run_id, "r"])),
        S.NOT_FOUND,
        "run_not_found",
        "there is no run r",
    ),
    Row(
        "no runs to wait for",
        asked("Await", pb.AwaitRequest()),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "run_ids has 0 entries",
    ),
    Row(
        "too many runs to wait for",
        asked("Await", pb.AwaitRequest(run_ids=[f"r{n}" for n in range(1001)])),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "run_ids has 1001 entries; 1..1000 are allowed",
    ),
    Row(
        "a run to wait for twice",
        asked("Await", pb.AwaitRequest(run_ids=["a", "b", "a"])),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "run_ids names a run twice",
    ),
    Row(
        "one of the ids to wait for too long",
        asked("Await", pb.AwaitRequest(run_ids=["a", "r" * 257])),
        S.INVALID_ARGUMENT,
        "invalid_argument",
        "run_ids[1] has 257 bytes",
    ),
    Row("undecodable ids", asked("Await", bad_text(1)), S.INVALID_ARGUMENT, "undecodable", "is not a AwaitRequest"),
    Row("unknown method", unknown_method, S.UNIMPLEMENTED, "", "Method not found!"),
    Row("unknown service", unknown_service, S.UNIMPLEMENTED, "", "Method not found!"),
]
