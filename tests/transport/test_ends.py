"""Waiting for the ends of runs: the service with plain bytes, and both clients."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import msgspec
import pytest

from stepwire.client import Client, ClientSync, RunState
from stepwire.errors import EngineUnavailable, InvalidInput, RunCancelled, RunError, RunFailed, RunNotFound
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.payload import Payload
from stepwire.v1 import run_service_pb2 as pb
from stepwire_engine.core import entries
from stepwire_engine.core.refusal import CallRefused
from stepwire_engine.scheduler.ends import Ends
from stepwire_engine.transport.run_service import RunService
from tests.transport.callers import Caller, Order, Typed, interrupted
from tests.transport.run_engine import LoopbackEngine, TablePort, ended_run, open_run, passed
from tests.transport.test_run_service import Peer

FAILURE = Failure(ErrorCode.USER_ERROR, "ValueError", "no", "Traceback ...")


@pytest.fixture
def peer(engine: LoopbackEngine, port: TablePort) -> Iterator[Peer]:
    peer = Peer(engine.address)
    yield peer
    peer.channel.close()


def told(message: bytes) -> list[str]:
    return [run.run_id for run in pb.AwaitResponse.FromString(message).runs]


# ---- the service


def test_runs_are_sent_as_they_end_and_the_stream_ends_after_the_last(
    peer: Peer, port: TablePort, engine: LoopbackEngine
) -> None:
    for name in ("r1", "r2", "r3"):
        port.runs[name] = open_run(name)
    stream = peer.ends("r1", "r2", "r3")
    passed(port.watched)
    engine.call(port.put, open_run("r2"), ended_run("r3"), ended_run("r2"))
    assert told(next(stream)) == ["r3", "r2"], "what ended together is one message, in that order"
    engine.call(port.put, ended_run("r1", input=Payload(b'"given"')))
    message = next(stream)
    (run,) = pb.AwaitResponse.FromString(message).runs
    assert (run.run_id, run.output.data, run.HasField("input"), len(run.steps)) == ("r1", b'"done"', False, 0)
    assert list(stream) == []
    passed(port.left)


def test_runs_that_had_ended_are_sent_together(peer: Peer, port: TablePort) -> None:
    names = [f"r{n}" for n in range(1000)]
    for name in names:
        port.runs[name] = ended_run(name)
    (message,) = peer.ends(*names)
    assert told(message) == names


def test_messages_are_bounded_but_for_a_single_output(peer: Peer, port: TablePort) -> None:
    for number, size in enumerate((600_000, 600_000, 3_000_000, 10)):
        port.runs[f"r{number}"] = ended_run(f"r{number}", output=bytes(size))
    cause = Failure(ErrorCode.USER_ERROR, "E", "m", "t" * 16_000)
    for number in range(4, 104):
        failure = Failure(ErrorCode.USER_ERROR, "E", "m", "t" * 16_000, cause=cause)
        port.runs[f"r{number}"] = ended_run(f"r{number}", None, state=entries.RunState.FAILED, failure=failure)
    messages = list(peer.ends(*port.runs))
    assert [told(message) for message in messages[:3]] == [["r0"], ["r1"], ["r2"]]
    assert sum(len(told(message)) for message in messages) == len(port.runs)
    assert max(len(message) for message in messages[3:]) < 1024 * 1024


def test_a_run_that_there_is_not_ends_the_wait(peer: Peer, port: TablePort) -> None:
    port.runs["r1"] = open_run()
    refused = peer.refusal("Await", pb.AwaitRequest(run_ids=["r1", "nobody"]))
    assert (refused.status, refused.code) == (grpc.StatusCode.NOT_FOUND, "run_not_found")
    passed(port.left)


def test_a_peer_that_leaves_ends_its_wait(peer: Peer, port: TablePort) -> None:
    port.runs["r1"] = open_run()
    stream = peer.ends("r1")
    passed(port.watched)
    stream.cancel()
    passed(port.left)
    assert port._ends._waits == {} and port._ends._waited_for == 0


def test_a_redacted_output_is_for_who_says_so(peer: Peer, port: TablePort) -> None:
    hidden = Payload(b'"canary-4711"', redacted=True)
    port.runs["r1"] = msgspec.structs.replace(ended_run(), input=hidden, output=hidden)
    assert b"canary" not in b"".join(peer.ends("r1"))
    (message,) = peer.ends("r1", include_redacted_output=True)
    assert message.count(b"canary") == 1


# ---- the service, for one run


def test_a_single_run_is_answered_when_it_ends_and_not_before(
    peer: Peer, port: TablePort, engine: LoopbackEngine, aside: ThreadPoolExecutor
) -> None:
    port.runs["r1"] = open_run()
    answer = aside.submit(peer.end, "r1")
    passed(port.watched)
    assert not answer.done()
    engine.call(port.put, ended_run("r1", input=Payload(b'"given"')))
    run = answer.result(10)
    assert (run.run_id, run.output.data, run.HasField("input"), len(run.steps)) == ("r1", b'"done"', False, 0)
    passed(port.left)
    assert peer.end("r1") == run, "one that had ended before"


def test_a_single_run_that_there_is_not_ends_the_wait(peer: Peer, port: TablePort) -> None:
    refused = peer.refusal("AwaitOne", pb.AwaitOneRequest(run_id="nobody"))
    assert (refused.status, refused.code) == (grpc.StatusCode.NOT_FOUND, "run_not_found")
    passed(port.left)


def test_a_peer_that_leaves_ends_its_wait_for_a_single_run(peer: Peer, port: TablePort) -> None:
    port.runs["r1"] = open_run()
    method: Any = peer.channel.unary_unary("/stepwire.v1.RunService/AwaitOne")
    call = method.future(pb.AwaitOneRequest(run_id="r1").SerializeToString(), timeout=10)
    passed(port.watched)
    call.cancel()
    passed(port.left)
    assert port._ends._waits == {} and port._ends._waited_for == 0


def test_the_redacted_output_of_a_single_run_is_for_who_says_so(peer: Peer, port: TablePort) -> None:
    hidden = Payload(b'"canary-4711"', redacted=True)
    port.runs["r1"] = msgspec.structs.replace(ended_run(), input=hidden, output=hidden)
    assert b"canary" not in peer.end("r1").SerializeToString()
    assert peer.end("r1", include_redacted_output=True).SerializeToString().count(b"canary") == 1


# ---- the clients


def test_one_run_is_awaited_with_one_call_and_several_with_one_stream(
    caller: Caller, port: TablePort, engine: LoopbackEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[str] = []
    monkeypatch.setattr(RunService, "_count", lambda service, method, code: answered.append(method))
    port.runs = {name: ended_run(name, b'"%s"' % name.encode()) for name in ("r1", "r2")}
    assert [caller.result("r1"), caller.results(["r1"]), caller.results(["r1", "r2"])] == ["r1", ["r1"], ["r1", "r2"]]
    engine.stop()
    assert answered == ["AwaitOne", "AwaitOne", "Await"]


def test_results_come_in_the_order_of_the_handles(
    caller: Caller, port: TablePort, engine: LoopbackEngine, aside: ThreadPoolExecutor
) -> None:
    for name in ("r1", "r2", "r3"):
        port.runs[name] = open_run(name)
    results = aside.submit(caller.results, ["r1", "r2", "r3", "r1"])
    passed(port.watched)
    engine.call(port.put, ended_run("r3", b'"c"'), ended_run("r2", b'"b"'))
    assert not results.done()
    engine.call(port.put, ended_run("r1", b'"a"'))
    assert results.result(10) == ["a", "b", "c", "a"]
    assert [question[0] for question in port.asked] == ["ends"], "nothing is read of runs in memory"


def test_results_of_a_typed_flow_are_typed(caller: Caller, port: TablePort) -> None:
    port.runs |= {name: ended_run(name, b'{"number":7}') for name in ("r1", "r2")}
    assert caller.results(["r1", "r2"], Typed()) == [Order(7), Order(7)]


def test_no_handles_have_no_results_and_ask_nobody(caller: Caller, port: TablePort) -> None:
    assert caller.results([]) == []
    assert port.asked == []


def test_more_than_a_thousand_are_waited_for_with_several_streams(caller: Caller, port: TablePort) -> None:
    names = [f"r{n}" for n in range(2100)]
    port.runs |= {name: ended_run(name, b'"%s"' % name.encode()) for name in names}
    assert caller.results(names) == names
    assert [len(question) - 1 for question in port.asked if question[0] == "ends"] == [1000, 1000, 100]


def test_the_first_failure_in_order_is_raised_or_all_are_returned(caller: Caller, port: TablePort) -> None:
    port.runs = {
        "r1": ended_run("r1"),
        "r2": ended_run("r2", None, state=entries.RunState.CANCELLED),
        "r3": ended_run("r3", None, state=entries.RunState.FAILED, failure=FAILURE),
        "r4": ended_run("r4", b"{"),
    }
    with pytest.raises(RunCancelled):
        caller.results(list(port.runs))
    done, cancelled, failed, unread = caller.results(list(port.runs), return_exceptions=True)
    assert done == "done" and isinstance(cancelled, RunCancelled) and isinstance(unread, InvalidInput)
    assert isinstance(failed, RunFailed) and failed.run_id == "r3" and failed.failure.message == "no"


def test_successors_are_followed_also_if_they_are_asked_for_besides(caller: Caller, port: TablePort) -> None:
    port.runs = {
        "r1": ended_run("r1", successor_run_id="r2"),
        "r2": ended_run("r2", successor_run_id="r3"),
        "r3": ended_run("r3", b'"last"'),
        "r4": ended_run("r4", b'"other"'),
    }
    for order in (["r1", "r2", "r3", "r4"], ["r4", "r3", "r2", "r1"], ["r2", "r1"], ["r3", "r1"]):
        assert caller.results(order) == ["other" if name == "r4" else "last" for name in order]


def test_a_successor_that_is_not_there_yet_does_not_keep_the_others(
    caller: Caller, port: TablePort, engine: LoopbackEngine, aside: ThreadPoolExecutor
) -> None:
    port.runs = {"r1": ended_run("r1", successor_run_id="r2"), "r3": open_run("r3")}
    results = aside.submit(caller.results, ["r1", "r3"])
    passed(port.watched)
    engine.call(port.put, ended_run("r3", b'"c"'))
    for _ in range(2):
        passed(port.left)
    assert not results.done()
    engine.call(port.put, ended_run("r2", b'"b"'))
    assert results.result(10) == ["b", "c"]


def test_a_run_that_there_is_not_is_told_although_others_go_on(caller: Caller, port: TablePort) -> None:
    port.runs["r1"] = open_run()
    with pytest.raises(RunNotFound, match="nobody"):
        caller.results(["r1", "nobody"])


def test_results_that_take_too_long_say_of_which_and_how_many(caller: Caller, port: TablePort) -> None:
    port.runs = {name: open_run(name) for name in ("r1", "r2", "r3")} | {"r0": ended_run("r0")}
    with pytest.raises(TimeoutError, match=r"run r1 and 2 more did not end within 0\.3 s; it goes on"):
        caller.results(["r0", "r1", "r2", "r3"], timeout=0.3)
    passed(port.left)


def test_results_survive_a_restart_of_the_engine(
    caller: Caller, port: TablePort, engine: LoopbackEngine, aside: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """What was told before is not asked for again; what ended meanwhile is."""
    port.runs = {name: open_run(name) for name in ("r1", "r2", "r3")}
    with caplog.at_level(logging.WARNING, "stepwire.client"):
        results = aside.submit(caller.results, ["r1", "r2", "r3"])
        passed(port.watched)
        engine.call(port.put, ended_run("r2", b'"b"'))
        engine.stop()
        passed(port.left)
        successor = TablePort(open_run("r1"), ended_run("r3", b'"c"'))
        engine.serve(successor, engine.address)
        while ("ends", "r1", "r3") not in successor.asked:
            passed(successor.watched)
        engine.call(successor.put, ended_run("r1", b'"a"'))
        assert results.result(10) == ["a", "b", "c"]
    assert [r.getMessage().partition(" (")[0] for r in caplog.records] == [f"lost the engine at {engine.address}"]


def test_after_a_restart_without_any_end_it_is_known_that_the_engine_is_back(
    caller: Caller, port: TablePort, engine: LoopbackEngine, aside: ThreadPoolExecutor
) -> None:
    port.runs["r1"] = open_run()
    results = aside.submit(caller.results, ["r1"], timeout=2.0)
    passed(port.watched)
    engine.stop()
    engine.serve(TablePort(open_run()), engine.address)
    with pytest.raises(TimeoutError, match="it goes on"):
        results.result(10)


def test_an_engine_without_room_is_asked_again(caller: Caller, port: TablePort) -> None:
    ask = port._ask

    def asked(*question: object) -> None:
        ask(*question)
        if len(port.asked) <= 2:
            raise CallRefused(ErrorCode.LIMIT_EXCEEDED, "1000 reads are waiting", retry_after=0.5)

    port._ask = asked  # type: ignore[method-assign]
    port.runs["r1"] = ended_run()
    assert caller.results(["r1"]) == ["done"]
    assert [question[0] for question in port.asked] == ["ends", "ends", "ends", "view"]


@pytest.mark.parametrize("code", [ErrorCode.RUN_UNREADABLE, ErrorCode.INTERNAL], ids=lambda code: code.slug)
def test_what_does_not_pass_is_raised(caller: Caller, port: TablePort, code: ErrorCode) -> None:
    port.refusal = CallRefused(code, "what the engine says")
    with pytest.raises(RunError, match="what the engine says") as caught:
        caller.results(["r1", "r2"])
    assert caught.value.code is code


def test_results_without_any_engine_end_with_their_timeout(caller: Caller, engine: LoopbackEngine) -> None:
    engine.stop()
    with pytest.raises(TimeoutError, match="no engine answers at 127"):
        caller.results(["r1", "r2"], timeout=0.3)


def test_an_interrupt_ends_the_wait_of_the_main_thread(
    port: TablePort, engine: LoopbackEngine, aside: ThreadPoolExecutor
) -> None:
    port.runs["r1"] = open_run()

    with ClientSync(engine.address) as client:
        interrupted(client.handle("r1").result, port, aside)
        assert client.get("r1").state is RunState.RUNNING, "the client can be used on"
    passed(port.left)


def test_closing_a_client_ends_its_waits(port: TablePort, engine: LoopbackEngine, aside: ThreadPoolExecutor) -> None:
    port.runs["r1"] = open_run()
    client = ClientSync(engine.address)
    result = aside.submit(client.handle("r1").result)
    passed(port.watched)
    client.close()
    with pytest.raises(RunError, match="closed"):
        result.result(10)
    passed(port.left)


def test_coroutines_that_wait_for_one_run_each_take_no_thread(port: TablePort, engine: LoopbackEngine) -> None:
    names = [f"r{n}" for n in range(20)]
    port.runs = {name: open_run(name) for name in names}

    async def scenario() -> None:
        async with Client(engine.address) as client:
            waiting = [asyncio.create_task(client.handle(name).result()) for name in names]
            for _ in names:
                await asyncio.to_thread(passed, port.watched)
            assert [thread.name for thread in threading.enumerate() if thread.name == "stepwire-wait"] == []
            engine.call(port.put, *[ended_run(name, b'"%s"' % name.encode()) for name in names])
            assert await asyncio.gather(*waiting) == names

    asyncio.run(scenario())


@pytest.mark.parametrize("names", [("r1", "r2"), ("r1",)], ids=["stream", "call"])
def test_cancelling_results_ends_the_call_and_the_thread(
    port: TablePort, engine: LoopbackEngine, names: tuple[str, ...]
) -> None:
    port.runs = {name: open_run(name) for name in ("r1", "r2")}

    async def scenario() -> None:
        async with Client(engine.address) as client:
            waiting = asyncio.create_task(client.results([client.handle(name) for name in names]))
            await asyncio.to_thread(passed, port.watched)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await asyncio.to_thread(passed, port.left)
            assert (await client.get("r1")).state is RunState.RUNNING, "the run goes on"

    asyncio.run(scenario())
    for thread in threading.enumerate():
        if thread.name == "stepwire-wait":
            thread.join(10)
            assert not thread.is_alive()


def test_what_the_engine_says_twice_or_unasked_counts_once(
    caller: Caller, port: TablePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    port.runs = {name: ended_run(name, b'"%s"' % name.encode()) for name in ("r1", "r2", "r3")}
    wait = Ends.wait

    def with_more(ends: Ends, run_ids: Any, in_memory: Any) -> Any:
        return wait(ends, ("r1", "r3", "r2"), in_memory)

    monkeypatch.setattr(Ends, "wait", with_more)
    assert caller.results(["r1", "r2"]) == ["r1", "r2"]


def test_a_closed_client_says_so(caller: Caller) -> None:
    caller.close()  # type: ignore[attr-defined]
    with pytest.raises((RunError, EngineUnavailable), match="closed"):
        caller.results(["r1"])
