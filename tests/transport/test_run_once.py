"""A run that is started and awaited with one call: the service with plain bytes, and both clients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import msgspec
import pytest

from stepwire._transport import run_answers, run_calls
from stepwire.client import Client, ClientSync, RunState
from stepwire.errors import (
    EngineBusy,
    EngineUnavailable,
    InvalidInput,
    KeyConflict,
    PayloadTooLarge,
    ProtocolError,
    RunCancelled,
    RunError,
    RunFailed,
    RunNotFound,
    StepwireError,
)
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.payload import Payload
from stepwire.v1 import payload_pb2
from stepwire.v1 import run_service_pb2 as pb
from stepwire_engine.core import entries
from stepwire_engine.core.refusal import CallRefused
from stepwire_engine.scheduler import ends
from stepwire_engine.transport import named_run
from stepwire_engine.transport.run_service import RunService
from tests.transport.callers import Caller, Order, Typed, interrupted
from tests.transport.run_engine import LoopbackEngine, TablePort, ended_run, open_run, passed
from tests.transport.test_run_service import Peer, once

FAILURE = Failure(ErrorCode.USER_ERROR, "ValueError", "no", "Traceback ...")
BEFORE_AND_AFTER = pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
"""Whether the run has been named to the client when something happens."""


@pytest.fixture
def peer(engine: LoopbackEngine, port: TablePort) -> Iterator[Peer]:
    peer = Peer(engine.address)
    yield peer
    peer.channel.close()


@pytest.fixture
def answered(engine: LoopbackEngine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Methods and codes of what was answered."""
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(RunService, "_count", lambda service, method, code: told.append((method, code)))
    return told


def name_runs(monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    """Clients are told of their runs at once, or never."""
    monkeypatch.setattr(named_run, "NAMED_AFTER_SECONDS", 0.0 if named else 3600.0)


def begin(peer: Peer, request: pb.StartAndAwaitRequest, **options: Any) -> Any:
    """A call on its way."""
    method: Any = peer.channel.unary_unary("/stepwire.v1.RunService/StartAndAwait")
    return method.future(request.SerializeToString(), **({"timeout": 10} | options))


def told_run(peer: Peer, request: pb.StartAndAwaitRequest) -> Any:
    """The same as a stream of one answer, of which gRPC shows the leading metadata when they come."""
    method: Any = peer.channel.unary_stream("/stepwire.v1.RunService/StartAndAwait")
    return method(request.SerializeToString(), timeout=10)


def read(data: bytes) -> pb.StartAndAwaitResponse:
    return pb.StartAndAwaitResponse.FromString(data)


def starts(port: TablePort) -> list[tuple[Any, ...]]:
    return [question for question in port.asked if question[0] == "start"]


# ---- the service


def test_a_run_is_started_and_answered_when_it_ends_and_not_before(
    peer: Peer, port: TablePort, engine: LoopbackEngine
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    request = once(flow="orders", input=payload_pb2.Payload(data=b"17"), id="order-17", traceparent=trace)
    call = begin(peer, request)
    passed(port.watched)
    assert not call.done()
    assert port.asked == [("start", "orders", Payload(b"17"), "order-17", trace), ("ends", "r1")]
    engine.call(port.put, ended_run(input=Payload(b'"given"')))
    answer = read(call.result())
    assert (answer.run_id, answer.existing, answer.run.run_id, answer.run.output.data) == ("r1", False, "r1", b'"done"')
    assert not answer.run.HasField("input") and len(answer.run.steps) == 0
    passed(port.left)
    again = read(begin(peer, request).result())
    assert (again.run_id, again.existing, again.run) == ("r1", True, answer.run), "one that had ended before"


def test_a_redacted_output_is_for_who_says_so(peer: Peer, port: TablePort) -> None:
    hidden = Payload(b'"canary-4711"', redacted=True)
    port.keys["k"] = "r1"
    port.runs["r1"] = msgspec.structs.replace(ended_run(), input=hidden, output=hidden)
    request = once(flow="f", id="k")
    assert b"canary" not in begin(peer, request).result()
    request.include_redacted_output = True
    assert begin(peer, request).result().count(b"canary") == 1


def test_a_wait_that_lasts_names_its_run(
    peer: Peer, port: TablePort, engine: LoopbackEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_runs(monkeypatch, True)
    call = told_run(peer, once(flow="orders"))
    assert dict(call.initial_metadata())[named_run.RUN_KEY] == "r1"
    assert not call.done()
    engine.call(port.put, ended_run())
    assert [read(data).run.output.data for data in call] == [b'"done"']


def test_a_short_one_does_not(peer: Peer, port: TablePort, engine: LoopbackEngine) -> None:
    port.keys["k"] = "r1"
    port.runs["r1"] = ended_run()
    call = begin(peer, once(flow="orders", id="k"))
    assert read(call.result()).existing
    assert named_run.RUN_KEY not in dict(call.initial_metadata())


def test_an_answer_does_not_overtake_the_name_of_its_run(
    peer: Peer, port: TablePort, engine: LoopbackEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end comes while the name is on its way; gRPC refuses to send leading metadata twice."""
    name_runs(monkeypatch, True)
    sends = named_run.NamedRun._send

    async def ended_meanwhile(named: named_run.NamedRun) -> None:
        port.put(ended_run(named.run_id))
        for _ in range(5):
            await asyncio.sleep(0)
        await sends(named)

    monkeypatch.setattr(named_run.NamedRun, "_send", ended_meanwhile)
    for _ in range(20):
        call = begin(peer, once(flow="orders"))
        answer = read(call.result())
        assert answer.run.output.data == b'"done"'
        assert dict(call.initial_metadata())[named_run.RUN_KEY] == answer.run_id


def test_a_refused_start_names_no_run_and_a_refused_wait_does(peer: Peer, port: TablePort) -> None:
    port.refusal = CallRefused(ErrorCode.DRAINING, "engine is draining")
    call = begin(peer, once(flow="orders"))
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert named_run.RUN_KEY not in dict(call.trailing_metadata())
    port.refusal = None
    refuse(port, "ends", CallRefused(ErrorCode.DRAINING, "engine is draining"))
    call = begin(peer, once(flow="orders"))
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(call.trailing_metadata())[named_run.RUN_KEY] == "r1"


@BEFORE_AND_AFTER
def test_a_peer_that_leaves_ends_its_wait_and_not_the_run(
    peer: Peer, port: TablePort, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    name_runs(monkeypatch, named)
    call = told_run(peer, once(flow="orders"))
    passed(port.watched)
    if named:
        call.initial_metadata()
    call.cancel()
    passed(port.left)
    assert port._ends._waits == {} and port._ends._waited_for == 0
    assert port.runs["r1"].state is entries.RunState.RUNNING


def test_waits_are_bounded_together_with_all_others(
    peer: Peer, port: TablePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ends, "WAITED_FOR_MAX", 0)
    call = begin(peer, once(flow="orders"))
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(call.trailing_metadata())[named_run.RUN_KEY] == "r1", "the run goes on"


def refuse(port: TablePort, question: str, refusal: CallRefused, times: int = 1000) -> None:
    """Refuse this question so many times."""
    ask = port._ask
    left = [times]

    def asked(*asks: Any) -> None:
        ask(*asks)
        if asks[0] == question and left[0] > 0:
            left[0] -= 1
            raise refusal

    port._ask = asked  # type: ignore[method-assign]


# ---- the clients


def test_one_call_starts_the_run_and_gives_its_result(
    caller: Caller,
    port: TablePort,
    engine: LoopbackEngine,
    aside: ThreadPoolExecutor,
    answered: list[tuple[str, str]],
) -> None:
    result = aside.submit(caller.run, "orders", {"n": 1}, id="order-17")
    passed(port.watched)
    assert not result.done()
    engine.call(port.put, ended_run())
    assert result.result(10) == "done"
    assert caller.run("orders", {"n": 1}, id="order-17") == "done", "its old result"
    engine.stop()
    assert answered == [("StartAndAwait", "ok")] * 2
    assert starts(port) == [("start", "orders", Payload(b'{"n":1}'), "order-17")] * 2
    assert len(port.runs) == 1


def test_each_call_without_an_id_makes_one_up(
    caller: Caller, port: TablePort, engine: LoopbackEngine, aside: ThreadPoolExecutor
) -> None:
    for name in ("r1", "r2"):
        result = aside.submit(caller.run, Typed(), 7, rush=True)
        passed(port.watched)
        engine.call(port.put, ended_run(name, b'{"number":7}'))
        assert result.result(10) == Order(7)
    first, second = (question[3] for question in starts(port))
    assert first != second and len(first) == len(second) == 32


@pytest.mark.parametrize(
    ("ended", "error", "text"),
    [
        (ended_run(output=None, state=entries.RunState.FAILED, failure=FAILURE), RunFailed, "no"),
        (ended_run(output=None, state=entries.RunState.CANCELLED), RunCancelled, "run r1 of flow 'orders' was"),
        (ended_run(output=b"{"), InvalidInput, "."),
    ],
    ids=["failed", "cancelled", "unreadable"],
)
def test_what_result_raises_is_raised(
    caller: Caller, port: TablePort, ended: Any, error: type[StepwireError], text: str
) -> None:
    port.keys["k"] = "r1"
    port.runs["r1"] = ended
    with pytest.raises(error, match=text) as caught:
        caller.run("orders", id="k")
    with pytest.raises(error) as expected:
        caller.result("r1")
    assert type(caught.value) is type(expected.value) and str(caught.value) == str(expected.value)


def test_successors_are_followed(caller: Caller, port: TablePort) -> None:
    port.keys["k"] = "r1"
    port.runs["r1"] = ended_run("r1", successor_run_id="r2")
    port.runs["r2"] = ended_run("r2", successor_run_id="r3")
    port.runs["r3"] = ended_run("r3", b'"last"')
    assert caller.run("orders", id="k") == "last"


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.slug)
def test_a_refused_start_is_told_as_start_tells_it(caller: Caller, port: TablePort, code: ErrorCode) -> None:
    port.refusal = CallRefused(code, "what the engine says")
    with pytest.raises(StepwireError) as expected:
        caller.start("orders", id="k")
    port.asked.clear()
    with pytest.raises(StepwireError) as caught:
        caller.run("orders", id="k")
    assert (type(caught.value), str(caught.value)) == (type(expected.value), str(expected.value))
    assert caught.value.code is code
    assert len(port.asked) == 1, "it was started with no other call"


def test_a_key_in_use_is_a_conflict(caller: Caller, port: TablePort) -> None:
    port.refusal = CallRefused(ErrorCode.KEY_CONFLICT, "id 'k' is in use by run r9 with another flow or input")
    with pytest.raises(KeyConflict, match="in use by run r9"):
        caller.run("orders", id="k")


@pytest.mark.parametrize("bytes_", [1024 * 1024, 2 * 1024 * 1024], ids=["engine", "gRPC"])
def test_an_input_that_is_too_large_never_starts(caller: Caller, port: TablePort, bytes_: int) -> None:
    with pytest.raises(PayloadTooLarge):
        caller.run("orders", "x" * bytes_)
    assert port.asked == []


def test_an_engine_without_room_is_asked_again_as_by_start(
    caller: Caller, port: TablePort, answered: list[tuple[str, str]]
) -> None:
    port.keys["k"] = "r1"
    port.runs["r1"] = ended_run()
    busy = CallRefused(ErrorCode.LIMIT_EXCEEDED, "7 runs are in progress", retry_after=0.01)
    refuse(port, "start", busy, run_answers.BUSY_TRIES - 1)
    assert caller.run("orders", id="k") == "done"
    assert {method for method, _ in answered} <= {"StartAndAwait"}
    refuse(port, "start", busy)
    port.asked.clear()
    with pytest.raises(EngineBusy, match="7 runs are in progress"):
        caller.run("orders", id="k")
    assert len(port.asked) == run_answers.BUSY_TRIES


def test_no_pause_is_longer_than_the_time_there_is(caller: Caller, port: TablePort) -> None:
    refuse(port, "start", CallRefused(ErrorCode.LIMIT_EXCEEDED, "7 runs are in progress", retry_after=3600.0))
    with pytest.raises(EngineBusy):
        caller.run("orders", timeout=1.0)
    assert len(port.asked) == 1


def test_an_engine_without_room_for_waits_keeps_the_run(caller: Caller, port: TablePort) -> None:
    port.keys["k"] = "r1"
    port.runs["r1"] = ended_run()
    refuse(port, "ends", CallRefused(ErrorCode.LIMIT_EXCEEDED, "1000 reads are waiting", retry_after=0.5), 2)
    assert caller.run("orders", id="k") == "done"
    assert len(starts(port)) == 1


@pytest.mark.parametrize("code", [ErrorCode.RUN_UNREADABLE, ErrorCode.INTERNAL], ids=lambda code: code.slug)
def test_what_does_not_pass_while_it_waits_is_raised(caller: Caller, port: TablePort, code: ErrorCode) -> None:
    refuse(port, "ends", CallRefused(code, "what the engine says"))
    with pytest.raises(RunError, match="what the engine says") as caught:
        caller.run("orders")
    assert caught.value.code is code and len(starts(port)) == 1


@BEFORE_AND_AFTER
def test_a_timeout_names_the_run_which_goes_on(
    caller: Caller, port: TablePort, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    name_runs(monkeypatch, named)
    monkeypatch.setattr(run_answers, "RECONNECT_SECONDS", 10.0)
    seconds = 1.5 if named else 0.3
    with pytest.raises(TimeoutError, match=rf"run r1 did not end within {seconds:g} s; it goes on"):
        caller.run("orders", timeout=seconds)
    assert len(starts(port)) == 1 or not named, "only an unnamed run is asked for by its key"
    assert len(port.runs) == 1
    passed(port.left)


@pytest.mark.parametrize("timeout", [0.0, -1.0])
def test_a_timeout_of_nothing_starts_the_run_all_the_same(
    caller: Caller, port: TablePort, monkeypatch: pytest.MonkeyPatch, timeout: float
) -> None:
    monkeypatch.setattr(run_answers, "RECONNECT_SECONDS", 10.0)
    with pytest.raises(TimeoutError, match="run r1 did not end within"):
        caller.run("orders", timeout=timeout)
    assert list(port.runs) == ["r1"]


def test_an_engine_that_says_nothing_in_time_leaves_the_id_to_ask_with(
    caller: Caller, port: TablePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any) -> tuple[str, bool]:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(run_answers, "RECONNECT_SECONDS", 0.2)
    monkeypatch.setattr(port, "start", never)
    with pytest.raises(TimeoutError, match=r"'orders' gave no result within 0\.2 s") as caught:
        caller.run("orders", id="order-17", timeout=0.2)
    assert "ask again with id='order-17'" in str(caught.value)
    assert isinstance(caught.value.__cause__, EngineUnavailable)


def test_without_an_engine_it_is_the_error_of_start(caller: Caller, engine: LoopbackEngine) -> None:
    engine.stop()
    for timeout in (None, 30.0):
        with pytest.raises(EngineUnavailable, match="no engine answers at 127") as caught:
            caller.run("orders", id="order-17", timeout=timeout)
        assert "did not answer within" not in str(caught.value)
        assert caught.value.__notes__ == [
            "if a run was started all the same: ask again with id='order-17', which gives the same run"
        ]


@BEFORE_AND_AFTER
def test_a_result_survives_a_restart_of_the_engine(
    caller: Caller,
    port: TablePort,
    engine: LoopbackEngine,
    aside: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    named: bool,
) -> None:
    """A run that was named is waited for; of another one the key tells, and the engine must be there again soon."""
    name_runs(monkeypatch, named)
    monkeypatch.setattr(run_answers, "RECONNECT_SECONDS", 10.0)
    told = threading.Semaphore(0)
    sends = named_run.NamedRun._send

    async def sent(run: named_run.NamedRun) -> None:
        await sends(run)
        told.release()

    monkeypatch.setattr(named_run.NamedRun, "_send", sent)
    result = aside.submit(caller.run, "orders")
    passed(port.watched)
    if named:
        passed(told)
    engine.stop()
    passed(port.left)
    successor = TablePort(open_run())
    successor.keys = port.keys
    engine.serve(successor, engine.address)
    passed(successor.watched)
    assert not result.done()
    engine.call(successor.put, ended_run(output=b'"second life"'))
    assert result.result(10) == "second life"
    assert len(starts(successor)) == (0 if named else 1)
    assert list(successor.runs) == ["r1"]


def test_an_engine_that_stops_in_good_order_is_waited_for(
    caller: Caller, port: TablePort, engine: LoopbackEngine, aside: ThreadPoolExecutor
) -> None:
    result = aside.submit(caller.run, "orders")
    passed(port.watched)
    engine.call(port._ends.refuse, CallRefused(ErrorCode.DRAINING, "engine is draining"))
    passed(port.left)
    engine.stop()
    successor = TablePort(ended_run(output=b'"second life"'))
    engine.serve(successor, engine.address)
    assert result.result(10) == "second life"
    assert starts(successor) == [], "the run is known by its id"


def test_an_engine_without_the_call_is_asked_with_two(
    caller: Caller,
    port: TablePort,
    engine: LoopbackEngine,
    monkeypatch: pytest.MonkeyPatch,
    answered: list[tuple[str, str]],
) -> None:
    engine.stop()
    handler = RunService.handler

    def older(service: RunService) -> grpc.GenericRpcHandler:
        whole: Any = handler(service)
        whole._method_handlers.pop("/stepwire.v1.RunService/StartAndAwait")
        older: grpc.GenericRpcHandler = whole
        return older

    monkeypatch.setattr(RunService, "handler", older)
    engine.serve(port, engine.address)
    port.keys["k"] = "r1"
    port.runs["r1"] = ended_run()
    for _ in range(2):
        assert caller.run("orders", id="k") == "done"
    engine.stop()
    assert answered == [("Start", "ok"), ("AwaitOne", "ok")] * 2


def test_another_service_on_the_port_is_a_clear_error() -> None:
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        number = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with ClientSync(f"127.0.0.1:{number}") as client, pytest.raises(ProtocolError, match="does not know this call"):
            client.run("orders")
        server.stop(None).wait(10)


def test_a_run_that_is_gone_is_told(caller: Caller, port: TablePort) -> None:
    port.keys["k"] = "r7"
    with pytest.raises(RunNotFound):
        caller.run("orders", id="k")


def test_an_interrupt_ends_the_wait_and_not_the_run(
    port: TablePort, engine: LoopbackEngine, aside: ThreadPoolExecutor
) -> None:
    with ClientSync(engine.address) as client:
        interrupted(lambda: client.run("orders"), port, aside)
        assert client.get("r1").state is RunState.RUNNING, "the client can be used on"
    passed(port.left)


def test_cancelling_ends_the_wait_and_not_the_run(port: TablePort, engine: LoopbackEngine) -> None:
    async def scenario() -> None:
        async with Client(engine.address) as client:
            waiting = asyncio.create_task(client.run("orders"))
            await asyncio.to_thread(passed, port.watched)
            assert [thread.name for thread in threading.enumerate() if thread.name == "stepwire-wait"] == []
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await asyncio.to_thread(passed, port.left)
            assert (await client.get("r1")).state is RunState.RUNNING

    asyncio.run(scenario())


def test_closing_a_client_ends_its_wait(port: TablePort, engine: LoopbackEngine, aside: ThreadPoolExecutor) -> None:
    client = ClientSync(engine.address)
    result = aside.submit(client.run, "orders")
    passed(port.watched)
    client.close()
    with pytest.raises(RunError, match="closed"):
        result.result(10)
    passed(port.left)
    with pytest.raises(RunError, match="closed"):
        client.run("orders")


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_what_is_beyond_the_bound_of_these_calls_is_started_all_the_same_with_two(
    kind: str,
    port: TablePort,
    engine: LoopbackEngine,
    answered: list[tuple[str, str]],
    aside: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gRPC would let a call wait for a stream of its connection, and its run would not be there."""
    monkeypatch.setattr(run_calls, "ONE_CALLS_MAX", 2)

    async def together(count: int) -> list[Any]:
        async with Client(engine.address) as client:
            return await asyncio.gather(*[client.run("orders", number) for number in range(count)])

    def each(count: int) -> list[Any]:
        with ClientSync(engine.address) as client, ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda number: client.run("orders", number), range(count)))

    outputs = aside.submit(lambda: each(5) if kind == "plain" else asyncio.run(together(5)))
    for _ in range(5):
        passed(port.watched)
    assert len(starts(port)) == 5 and answered == [("Start", "ok")] * 3
    for number in range(1, 6):
        engine.call(port.put, ended_run(f"r{number}"))
    assert outputs.result(10) == ["done"] * 5
    assert sorted(answered) == sorted([("Start", "ok")] * 3 + [("AwaitOne", "ok")] * 3 + [("StartAndAwait", "ok")] * 2)


def test_a_call_that_is_over_makes_room_for_the_next(
    port: TablePort, engine: LoopbackEngine, answered: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_calls, "ONE_CALLS_MAX", 1)

    async def scenario() -> None:
        async with Client(engine.address) as client:
            with pytest.raises(KeyConflict):
                port.refusal = CallRefused(ErrorCode.KEY_CONFLICT, "other")
                await client.run("orders", 1, id="a")
            port.refusal = None
            waits = asyncio.create_task(client.run("orders", 1))
            await asyncio.to_thread(passed, port.watched)
            waits.cancel()
            await asyncio.gather(waits, return_exceptions=True)
            await asyncio.to_thread(passed, port.left)
            answered.clear()
            waits = asyncio.create_task(client.run("orders", 2))
            await asyncio.to_thread(passed, port.watched)
            for number in (1, 2):
                engine.call(port.put, ended_run(f"r{number}"))
            assert await waits == "done"

    asyncio.run(scenario())
    assert answered == [("StartAndAwait", "ok")]
