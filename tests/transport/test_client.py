"""Both clients against a RunService on loopback: answers, errors, and results over restarts of the engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import grpc
import msgspec
import pytest

from stepwire import client as client_module
from stepwire.client import (
    Client,
    ClientSync,
    GroupRecord,
    RunPhase,
    RunState,
    StepState,
    WaitReason,
    engine_address,
)
from stepwire.errors import (
    ConfigurationError,
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
    UnknownFlow,
)
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.payload import NULL, Payload
from stepwire.v1 import run_pb2
from stepwire_engine.core import entries
from stepwire_engine.core.history import RunView
from stepwire_engine.core.refusal import CallRefused
from stepwire_engine.core.units import LogRow, RunRecord
from stepwire_engine.transport import run_messages
from tests.transport.callers import Caller, Order, Typed
from tests.transport.run_engine import LoopbackEngine, TablePort, ended_run, open_run, passed
from tests.transport.test_run_service import full_run

FAILURE = Failure(
    ErrorCode.USER_ERROR, "ValueError", "no", "Traceback ...", cause=Failure(ErrorCode.USER_ERROR, "KeyError", "'a'")
)
EXPECTED: dict[ErrorCode, type[StepwireError]] = {
    ErrorCode.UNKNOWN_FLOW: UnknownFlow,
    ErrorCode.RUN_NOT_FOUND: RunNotFound,
    ErrorCode.KEY_CONFLICT: KeyConflict,
    ErrorCode.PAYLOAD_TOO_LARGE: PayloadTooLarge,
    ErrorCode.INVALID_INPUT: InvalidInput,
    ErrorCode.STORE_UNAVAILABLE: EngineUnavailable,
    ErrorCode.STORE_FULL: EngineUnavailable,
    ErrorCode.DRAINING: EngineUnavailable,
    ErrorCode.PROTOCOL: ProtocolError,
    ErrorCode.UNDECODABLE: ProtocolError,
    ErrorCode.VERSION: ProtocolError,
    ErrorCode.FEATURE: ProtocolError,
}


# ---- start


def test_start_by_name_encodes_one_value(caller: Caller, port: TablePort) -> None:
    handle = caller.start("orders", {"n": 1}, id="key")
    assert (handle.run_id, handle.existing, repr(handle).split()[-1]) == ("r1", False, "r1>")
    assert port.asked == [("start", "orders", Payload(b'{"n":1}'), "key")]
    assert caller.start("orders", {"n": 1}, id="key").existing


def test_start_without_input_sends_null(caller: Caller, port: TablePort) -> None:
    caller.start("orders")
    assert port.asked == [("start", "orders", NULL, "")]


def test_a_flow_object_encodes_its_input_and_decodes_its_output(caller: Caller, port: TablePort) -> None:
    caller.start(Typed(), 7, rush=True)
    assert port.asked == [("start", "orders", Payload(b"[7,true]"), "")]
    port.runs["r1"] = ended_run(output=b'{"number":7}')
    assert caller.result("r1", flow=Typed()) == Order(7)
    assert caller.result("r1") == {"number": 7}


def test_a_flow_object_without_types_is_started_by_its_name(caller: Caller, port: TablePort) -> None:
    class Bare:
        name = "bare"

    caller.start(Bare(), 1)
    assert port.asked == [("start", "bare", Payload(b"1"), "")]


@pytest.mark.parametrize(
    ("args", "kwargs", "error"),
    [
        (("orders", 1, 2), {}, InvalidInput),
        (("orders", float("nan")), {}, InvalidInput),
        (("orders",), {"n": 1}, ConfigurationError),
        ((17,), {}, ConfigurationError),
    ],
)
def test_what_cannot_be_an_input_never_leaves(
    caller: Caller, port: TablePort, args: Any, kwargs: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        caller.start(*args, **kwargs)
    assert port.asked == []


# ---- result


def test_result_waits_for_the_end(
    caller: Caller, port: TablePort, engine: LoopbackEngine, aside: ThreadPoolExecutor
) -> None:
    port.runs["r1"] = open_run()
    result = aside.submit(caller.result, "r1")
    passed(port.watched)
    assert not result.done()
    engine.call(port.put, ended_run())
    assert result.result(10) == "done"


def test_logs_are_read_page_by_page_to_the_newest(caller: Caller, port: TablePort) -> None:
    port.lines = [LogRow(1_000 + n, "a", 1, 20, "shop", f"line {n}", "h", n) for n in range(1, 1202)]
    port.dropped = 3
    port.runs["r1"] = open_run()
    found, dropped, ahead = caller.logs("r1", path="a", level="info", after=1)
    assert [line.message for line in found] == [f"line {n}" for n in range(2, 1202)]
    assert (dropped, ahead) == (3, 1201)
    assert found[0].level_name == "INFO" and found[0].at.timestamp() == 1.002
    asked = [question[1:] for question in port.asked if question[0] == "logs"]
    assert asked == [("r1", "a", 0, 20, after, 500) for after in (1, 501, 1001)]


def test_logs_of_a_run_that_there_is_not_and_a_level_that_there_is_not(caller: Caller) -> None:
    with pytest.raises(RunNotFound):
        caller.logs("nobody")
    with pytest.raises(ValueError, match="'LOUD'"):
        caller.logs("r1", level="LOUD")


def test_result_of_a_failed_run_raises_its_failure(caller: Caller, port: TablePort) -> None:
    port.runs["r1"] = ended_run(state=entries.RunState.FAILED, output=None, failure=FAILURE)
    with pytest.raises(RunFailed) as caught:
        caller.result("r1")
    failure = caught.value.failure
    assert (failure.type, failure.message, failure.traceback) == ("ValueError", "no", "Traceback ...")
    assert (caught.value.run_id, caught.value.code) == ("r1", ErrorCode.USER_ERROR)
    assert "KeyError" in str(caught.value.__cause__)


def test_result_of_a_cancelled_run_says_so(caller: Caller, port: TablePort) -> None:
    port.runs["r1"] = ended_run(state=entries.RunState.CANCELLED, output=None, parent_run_id="p1")
    with pytest.raises(RunCancelled) as caught:
        caller.result("r1")
    assert str(caught.value).splitlines() == [
        "run r1 of flow 'orders' was cancelled",
        "  why: by a client, by the flow itself, or with its parent run p1",
        "  next: see what it did and what was undone with `stepwire runs show r1`",
    ]


def test_result_follows_a_run_that_restarted_itself(caller: Caller, port: TablePort) -> None:
    port.runs["r1"] = ended_run("r1", successor_run_id="r2")
    port.runs["r2"] = ended_run("r2", successor_run_id="r3")
    port.runs["r3"] = ended_run("r3", b'"last"')
    assert caller.result("r1") == "last"


def test_result_waits_for_a_successor_that_is_not_there_yet(
    caller: Caller, port: TablePort, engine: LoopbackEngine, aside: ThreadPoolExecutor
) -> None:
    """The commit that ends a run names its successor; the engine starts that one afterwards."""
    port.runs["r1"] = ended_run("r1", successor_run_id="r2")
    result = aside.submit(caller.result, "r1")
    for _ in range(3):
        passed(port.left)
    assert not result.done()
    engine.call(port.put, ended_run("r2", b'"last"'))
    assert result.result(10) == "last"


def test_a_successor_that_never_comes_is_an_error(
    caller: Caller, port: TablePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwire._transport.run_watch.SUCCESSOR_SECONDS", 0.1)
    port.runs["r1"] = ended_run("r1", successor_run_id="r2")
    with pytest.raises(RunNotFound, match="r2"):
        caller.result("r1")


def test_a_timeout_holds_for_a_run_and_its_successors_together(caller: Caller, port: TablePort) -> None:
    port.runs["r1"] = ended_run("r1", successor_run_id="r2")
    port.runs["r2"] = open_run("r2")
    with pytest.raises(TimeoutError, match=r"run r2 did not end within 0\.3 s"):
        caller.result("r1", 0.3)


def test_result_after_its_timeout_says_that_the_run_goes_on(caller: Caller, port: TablePort) -> None:
    port.runs["r1"] = open_run()
    with pytest.raises(TimeoutError, match=r"run r1 did not end within 0\.3 s; it goes on"):
        caller.result("r1", 0.3)
    passed(port.left)


def test_result_of_an_unknown_run_is_refused(caller: Caller) -> None:
    with pytest.raises(RunNotFound, match="no run 'r1'"):
        caller.result("r1")


def test_result_survives_a_restart_of_the_engine(
    caller: Caller, port: TablePort, engine: LoopbackEngine, aside: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    port.runs["r1"] = open_run()
    with caplog.at_level(logging.WARNING, "stepwire.client"):
        result = aside.submit(caller.result, "r1")
        passed(port.watched)
        engine.stop()
        passed(port.left)
        successor = TablePort(open_run())
        engine.serve(successor, engine.address)
        passed(successor.watched)
        assert not result.done()
        engine.call(successor.put, ended_run(output=b'"second life"'))
        assert result.result(10) == "second life"
    assert [r.getMessage().partition(" (")[0] for r in caplog.records] == [f"lost the engine at {engine.address}"]


def test_what_is_refused_for_now_says_when_to_try_again(caller: Caller, port: TablePort) -> None:
    port.refusal = CallRefused(ErrorCode.STORE_FULL, "the store is full; nothing was accepted", retry_after=1.5)
    with pytest.raises(EngineUnavailable, match="the store is full") as full:
        caller.start("orders", id="key")
    assert (full.value.code, full.value.retry_after) == (ErrorCode.STORE_FULL, 1.5)
    port.refusal = CallRefused(ErrorCode.RUN_UNREADABLE, "what is stored of run r1 is damaged")
    with pytest.raises(RunError, match="is damaged") as unreadable:
        caller.get("r1")
    assert (unreadable.value.code, unreadable.value.retry_after) == (ErrorCode.RUN_UNREADABLE, None)
    assert "stepwire doctor" in unreadable.value.hint


@pytest.mark.parametrize(
    "code", [ErrorCode.DRAINING, ErrorCode.STORE_UNAVAILABLE, ErrorCode.STORE_FULL], ids=lambda code: code.slug
)
def test_result_waits_for_an_engine_that_cannot_answer_now(
    caller: Caller, port: TablePort, engine: LoopbackEngine, aside: ThreadPoolExecutor, code: ErrorCode
) -> None:
    port.refusal = CallRefused(code, "not now")
    result = aside.submit(caller.result, "r1")
    passed(port.left)
    passed(port.left)
    port.runs["r1"] = ended_run()
    port.refusal = None
    assert result.result(10) == "done"


def test_result_without_any_engine_ends_with_its_timeout(caller: Caller, engine: LoopbackEngine) -> None:
    engine.stop()
    with pytest.raises(TimeoutError, match="no engine answers at 127"):
        caller.result("r1", 0.3)


def test_cancelling_a_result_ends_its_stream_and_its_thread(port: TablePort, engine: LoopbackEngine) -> None:
    port.runs["r1"] = open_run()

    async def scenario() -> None:
        async with Client(engine.address) as client:
            waiting = asyncio.create_task(client.handle("r1").result())
            await asyncio.to_thread(passed, port.watched)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await asyncio.to_thread(passed, port.left)

    asyncio.run(scenario())
    for thread in threading.enumerate():
        if thread.name == "stepwire-wait":
            thread.join(10)
            assert not thread.is_alive()


def test_many_results_wait_at_once_while_calls_go_on(port: TablePort, engine: LoopbackEngine) -> None:
    names = [f"r{n}" for n in range(50)]
    for name in names:
        port.runs[name] = open_run(name)

    async def scenario() -> list[Any]:
        async with Client(engine.address) as client:
            waiting = [asyncio.create_task(client.handle(name).result()) for name in names]
            for _ in names:
                await asyncio.to_thread(passed, port.watched)
            assert (await client.get("r7")).state is RunState.RUNNING
            engine.call(port.put, *[ended_run(name, b'"%s"' % name.encode()) for name in names])
            return list(await asyncio.gather(*waiting))

    assert asyncio.run(scenario()) == names


# ---- records


def test_get_gives_the_record_as_plain_values(caller: Caller, port: TablePort) -> None:
    port.runs["r1"] = full_run()
    run = caller.get("r1", steps=True)
    assert port.asked == [("view", "r1", True)]
    assert (run.run_id, run.flow, run.id, run.state) == ("r1", "orders", "key", RunState.SUCCEEDED)
    assert run.created_at == datetime(2026, 1, 1, 0, 0, tzinfo=UTC)
    assert run.ended_at == datetime(2026, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert (run.input, run.output, run.reason) == (None, "done", WaitReason.NO_HOST)
    assert run.failure is not None and run.failure.type == "ValueError"
    assert (run.stats.advances, run.stats.releases) == (1, 6)
    (step,) = run.steps
    assert (step.path, step.kind, step.name, step.state) == ("parallel/[0]/a", "task", "charge", StepState.BACKOFF)
    assert (step.output, step.lost, step.reason) == (1, 2, WaitReason.BACKOFF_UNTIL)
    assert step.released_at == datetime(1970, 1, 1, 0, 0, 3, tzinfo=UTC)
    (attempt,) = step.attempts
    assert (attempt.number, attempt.elapsed, attempt.host) == (1, 0.25, "shop")
    assert (step.undoes, step.child_run_id, step.due_at) == ("charge", "c1", datetime(1970, 1, 1, 0, 0, 4, tzinfo=UTC))
    assert (run.phase, run.parent_run_id, run.successor_run_id) == (RunPhase.UNDOING, "p1", "s1")
    assert run.stopping is not None and run.stopping.type == "ValueError"
    assert run.groups == (
        GroupRecord("parallel", "RACE", 2, "OK"),
        GroupRecord(
            path="map",
            mode="WAIT",
            branches=3,
            verdict="FAILED",
            fail="quorum",
            quorum=2,
            cancel_siblings=True,
            limit=4,
            names=("a", "b"),
            outcomes=("OK", None, "CANCELLED"),
            expired=True,
        ),
    )


def test_an_output_that_this_codec_cannot_read_spoils_only_itself(caller: Caller, port: TablePort) -> None:
    port.runs["r1"] = msgspec.structs.replace(ended_run(), output=Payload(b"sealed", "aes"))
    run = caller.get("r1")
    assert run.state is RunState.SUCCEEDED
    with pytest.raises(ProtocolError, match="aes"):
        _ = run.output


def test_list_reads_page_after_page(caller: Caller, port: TablePort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAGE_SIZE", 2)
    port.records = [RunRecord(n, f"r{n}", "orders", entries.RunState.FAILED, 1000, None) for n in range(1, 6)]
    assert [run.run_id for run in caller.list()] == ["r5", "r4", "r3", "r2", "r1"]
    assert [run.run_id for run in caller.list(limit=3)] == ["r5", "r4", "r3"]
    assert caller.list(limit=0) == []
    assert [question[3:] for question in port.asked] == [(2, ""), (2, "r4"), (2, "r2"), (2, ""), (1, "r4")]


def test_list_passes_filters_on(caller: Caller, port: TablePort) -> None:
    caller.list(flow="orders", states=["PAUSED", RunState.FAILED])
    assert port.asked == [("list", "orders", (entries.RunState.PAUSED, entries.RunState.FAILED), 100, "")]
    with pytest.raises(ConfigurationError, match="STOPPED"):
        caller.list(states=["STOPPED"])


def test_watch_gives_each_change_and_ends(caller: Caller, port: TablePort, engine: LoopbackEngine) -> None:
    port.runs["r1"] = open_run(state=entries.RunState.PENDING)
    changes = [open_run(), ended_run()]
    seen: list[RunState] = []

    def see(run: client_module.Run) -> None:
        seen.append(run.state)
        if changes:
            passed(port.watched)
            engine.call(port.put, changes.pop(0))

    caller.watch("r1", see, steps=True)
    assert seen == [RunState.PENDING, RunState.RUNNING, RunState.SUCCEEDED]
    assert port.asked[0] == ("view", "r1", True)


def test_watch_follows_successors_only_when_asked(caller: Caller, port: TablePort) -> None:
    port.runs["r1"] = ended_run("r1", successor_run_id="r2")
    port.runs["r2"] = ended_run("r2")
    for follow, expected in ((False, ["r1"]), (True, ["r1", "r2"])):
        seen: list[str] = []
        caller.watch("r1", lambda run, seen=seen: seen.append(run.run_id), follow=follow)  # type: ignore[misc]
        assert seen == expected


def test_an_async_watch_that_is_left_early_ends_its_stream(port: TablePort, engine: LoopbackEngine) -> None:
    port.runs["r1"] = open_run()

    async def scenario() -> None:
        async with Client(engine.address) as client:
            async with contextlib.aclosing(client.watch("r1")) as records:
                async for run in records:
                    assert run.state is RunState.RUNNING
                    break
            await asyncio.to_thread(passed, port.left)

    asyncio.run(scenario())


def test_resume_is_passed_on(caller: Caller, port: TablePort) -> None:
    caller.resume("r1")
    assert port.asked == [("resume", "r1")]


def test_handles_tell_state_and_record(port: TablePort, engine: LoopbackEngine) -> None:
    port.runs["r1"] = open_run()
    with ClientSync(engine.address) as client:
        handle = client.handle("r1")
        assert (handle.status(), handle.get(steps=True).run_id) == (RunState.RUNNING, "r1")

    async def scenario() -> tuple[RunState, str]:
        async with Client(engine.address) as client:
            handle = client.handle("r1")
            return await handle.status(), (await handle.get(steps=True)).run_id

    assert asyncio.run(scenario()) == (RunState.RUNNING, "r1")
    assert port.asked == [("view", "r1", False), ("view", "r1", True)] * 2


# ---- errors


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.slug)
def test_every_code_becomes_an_exception_that_carries_it(caller: Caller, port: TablePort, code: ErrorCode) -> None:
    port.refusal = CallRefused(code, "what the engine says")
    with pytest.raises(EXPECTED.get(code, RunError)) as caught:
        caller.get("r1")
    assert type(caught.value) is EXPECTED.get(code, RunError)
    assert (caught.value.code, caught.value.message) == (code, "what the engine says")


def test_an_unreachable_engine_says_what_why_and_next(caller: Caller, engine: LoopbackEngine) -> None:
    engine.stop()
    with pytest.raises(EngineUnavailable) as caught:
        caller.start("orders")
    what, why, following = str(caught.value).split("\n")
    assert what == f"no engine answers at {engine.address}"
    assert why.startswith("  why: ") and "refused" in why.lower()
    assert "stepwire dev" in following


def test_a_call_that_is_not_answered_in_time_says_so(
    caller: Caller, port: TablePort, engine: LoopbackEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("run_answers", "run_errors"):
        monkeypatch.setattr(f"stepwire._transport.{module}.CALL_SECONDS", 0.2)

    async def never(run_id: str, *, include_steps: bool) -> RunView:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(port, "view", never)
    with pytest.raises(EngineUnavailable, match=r"did not answer within 0\.2 s"):
        caller.get("r1")


def test_an_input_over_the_servers_limit_is_too_large(caller: Caller, port: TablePort) -> None:
    with pytest.raises(PayloadTooLarge):
        caller.start("orders", "x" * (1024 * 1024))
    with pytest.raises(PayloadTooLarge, match="larger than max"):
        caller.start("orders", "x" * (2 * 1024 * 1024))
    assert port.asked == []


def test_a_state_of_a_newer_engine_is_a_clear_error(
    caller: Caller, port: TablePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    def newer(view: RunView, target: run_pb2.Run, **_: bool) -> None:
        target.run_id = "r1"
        target.state = 99  # type: ignore[assignment]

    monkeypatch.setattr("stepwire_engine.transport.run_service.run_to_pb", newer)
    port.runs["r1"] = open_run()
    with pytest.raises(ProtocolError, match="run state 99"):
        caller.get("r1")


def test_another_service_on_the_port_is_a_clear_error() -> None:
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        number = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with ClientSync(f"127.0.0.1:{number}") as client, pytest.raises(ProtocolError, match="does not know this call"):
            client.get("r1")
        server.stop(None).wait(10)


# ---- the connection


def test_nothing_is_connected_before_the_first_call() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        client = ClientSync(f"127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(TimeoutError):
            listener.accept()
        client.close()


def test_the_address_is_the_argument_then_the_environment_then_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEPWIRE_ENGINE", raising=False)
    assert ClientSync().address == Client().address == "127.0.0.1:7380"
    monkeypatch.setenv("STEPWIRE_ENGINE", "engine:1")
    assert (ClientSync().address, Client().address, ClientSync("other:2").address) == (
        "engine:1",
        "engine:1",
        "other:2",
    )
    monkeypatch.setenv("STEPWIRE_ENGINE", "")
    assert engine_address() == "127.0.0.1:7380"


def test_a_forked_child_gets_a_connection_of_its_own(
    port: TablePort, engine: LoopbackEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    port.runs["r1"] = open_run()
    made: list[str] = []
    really = grpc.insecure_channel

    def counted(address: str, options: Any) -> grpc.Channel:
        made.append(address)
        return really(address, options=options)

    monkeypatch.setattr(grpc, "insecure_channel", counted)
    client = ClientSync(engine.address)
    client.get("r1")
    client.get("r1")
    assert len(made) == 1
    parent, inherited = os.getpid(), client._calls._channels["calls"]
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    client.get("r1")
    assert len(made) == 2
    client.close()
    inherited.close()


def test_a_closed_client_says_so(caller: Caller) -> None:
    caller.close()  # type: ignore[attr-defined]
    with pytest.raises(RunError, match="closed"):
        caller.get("r1")


def test_clients_receive_what_the_engine_may_send() -> None:
    from stepwire._transport.run_record import RECEIVE_BYTES_MAX

    assert RECEIVE_BYTES_MAX >= run_messages.ANSWER_BYTES_MAX


def test_names_of_states_and_reasons_are_those_of_the_protocol() -> None:
    from stepwire._transport import run_record

    def names(enum: Any, prefix: str) -> dict[int, str]:
        return {number: name.removeprefix(prefix) for name, number in enum.items() if number}

    assert names(run_pb2.RunState, "RUN_STATE_") == {n: s.name for n, s in run_record._RUN_STATES.items()}
    assert names(run_pb2.StepState, "STEP_STATE_") == {n: s.name for n, s in run_record._STEP_STATES.items()}
    assert names(run_pb2.WaitReason, "WAIT_REASON_") == {n: r.name for n, r in run_record._REASONS.items() if r}
    assert names(run_pb2.RunPhase, "RUN_PHASE_") == {n: p.name for n, p in run_record._PHASES.items()}


def test_without_an_engine_a_call_says_so_soon() -> None:
    """The second try of a call that may be repeated must not hide what the first one found."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = ClientSync(f"127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(EngineUnavailable) as caught:
            list(client.list())
    assert "did not answer within" not in str(caught.value)
