"""Whatever is sent wrongly has its message and its code, and the next good call succeeds (MISSION P14)."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

import stepwire
from stepwire.errors import InvalidInput, PayloadTooLarge, RunFailed, UnknownFlow
from stepwire.protocol import limits
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import EngineFrame, Hello, HostFrame
from stepwire.protocol.wire import EngineFrameDecoder, encode_host_frame
from tests.e2e.processes import Engine, Process, Stage

MIB = 1024 * 1024


@dataclass
class Served:
    """An engine with a host, shared by the tests of this module; each must leave it working."""

    stage: Stage
    engine: Engine
    client: stepwire.ClientSync


@pytest.fixture(scope="module")
def shared(shared_stage: Stage) -> Served:
    engine = shared_stage.engine()
    shared_stage.host(engine, "only")
    return Served(shared_stage, engine, shared_stage.client(engine))


@pytest.fixture
def served(shared: Served) -> Iterator[Served]:
    """After whatever the test did, the next good call succeeds on the same processes."""
    process = shared.engine.running
    yield shared
    assert shared.client.start("plus_one", 41).result(timeout=10) == 42
    assert process.running and shared.engine.running is process
    assert "Traceback" not in process.said


def failed(served: Served, flow: str, *args: Any) -> tuple[RunFailed, stepwire.client.Run]:
    """Start a run that must fail; what `result` raised, and the record."""
    run = served.client.start(flow, *args)
    with pytest.raises(RunFailed) as caught:
        run.result(timeout=10)
    record = run.get(steps=True)
    assert record.state == "FAILED"
    return caught.value, record


# ---- calls of clients


def test_an_unknown_flow(served: Served) -> None:
    before = len(list(served.client.list()))
    with pytest.raises(UnknownFlow) as caught:
        served.client.start("plus_two", 1)
    assert caught.value.code is ErrorCode.UNKNOWN_FLOW
    assert "'plus_two'" in caught.value.message and "blocking" in caught.value.message, "the known ones are named"
    assert len(list(served.client.list())) == before


def test_an_input_over_the_limit(served: Served) -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        served.client.start("flow_output", "x" * limits.PAYLOAD_BYTES_MAX)
    assert caught.value.code is ErrorCode.PAYLOAD_TOO_LARGE
    assert str(limits.PAYLOAD_BYTES_MAX) in caught.value.message


def test_an_input_json_cannot_carry(served: Served) -> None:
    with pytest.raises(InvalidInput) as caught:
        served.client.start("plus_one", object())
    assert caught.value.code is ErrorCode.INVALID_INPUT


# ---- runs


@pytest.mark.parametrize("given", ["many", {"n": 1}, 1.5, None])
def test_an_input_that_does_not_fit(served: Served, given: Any) -> None:
    error, record = failed(served, "plus_one", given)
    assert error.code is ErrorCode.INVALID_INPUT and record.failure is not None
    assert "does not fit int" in record.failure.message
    assert record.steps == () and not served.stage.ledger.of(record.run_id, "body", "before"), "nothing was executed"


def test_the_message_names_the_flow_whose_input_does_not_fit(served: Served) -> None:
    """As `codec.decode_flow_input` promises."""
    error, _ = failed(served, "plus_one", "many")
    assert "plus_one" in error.failure.message


def test_a_step_output_json_cannot_carry(served: Served) -> None:
    error, record = failed(served, "no_json")
    assert error.code is ErrorCode.OUTPUT_UNSERIALIZABLE
    assert "object" in error.failure.message
    (step,) = record.steps
    assert step.state == "FAILED" and len(step.attempts) == 1, "it is not retried"


def test_a_flow_output_json_cannot_carry(served: Served) -> None:
    error, record = failed(served, "no_json_itself")
    assert error.code is ErrorCode.OUTPUT_UNSERIALIZABLE
    assert [step.state for step in record.steps] == ["SUCCEEDED"]


@pytest.mark.parametrize("flow", ["step_output", "flow_output"])
def test_an_output_over_the_limit(served: Served, flow: str) -> None:
    error, _ = failed(served, flow, limits.PAYLOAD_BYTES_MAX)
    assert error.code is ErrorCode.PAYLOAD_TOO_LARGE
    assert str(limits.PAYLOAD_BYTES_MAX) in error.failure.message


@pytest.mark.parametrize("flow", ["step_output", "flow_output"])
def test_an_output_at_the_limit(served: Served, flow: str) -> None:
    """Two bytes are quotes."""
    size = limits.PAYLOAD_BYTES_MAX - 2
    output = served.client.start(flow, size).result(timeout=15)
    assert output == (size if flow == "step_output" else "x" * size)


# ---- streams of hosts


@dataclass
class Ended:
    """How the engine ended a stream."""

    faults: list[Any]
    status: grpc.StatusCode
    details: str
    code: str


def say(engine: Engine, *messages: bytes) -> Ended:
    """Open a stream, send these bytes, read until the engine ends it."""
    decoder = EngineFrameDecoder(64 * MIB)
    frames: list[EngineFrame] = []
    with grpc.insecure_channel(engine.address) as channel:
        dial: Any = channel.stream_stream("/stepwire.v1.HostService/Session")
        call = dial(iter(messages), timeout=10)
        with pytest.raises(grpc.RpcError) as caught:
            for data in call:
                frame = decoder.decode(data)
                if frame is not None:
                    frames.append(frame)
        error: Any = caught.value
        trailers = dict(error.trailing_metadata() or ())
        faults = [frame.fault for frame in frames if frame.fault is not None]
        return Ended(faults, error.code(), error.details(), trailers.get("stepwire-code", ""))


def hello(**changes: Any) -> bytes:
    (data,) = encode_host_frame(HostFrame(hello=Hello(**{"service": "raw", "instance_id": "raw-1"} | changes)))
    return data


@pytest.mark.parametrize("offered", [(2, 3), (99, 99)])
def test_a_wrong_protocol_version(served: Served, offered: tuple[int, int]) -> None:
    ended = say(served.engine, hello(protocol_min=offered[0], protocol_max=offered[1]))
    assert ended.code == "version" and ended.status is grpc.StatusCode.FAILED_PRECONDITION
    (fault,) = ended.faults
    assert fault.code is ErrorCode.VERSION
    assert f"{offered[0]}..{offered[1]}" in fault.message and "upgrade the engine" in fault.message


def test_an_unknown_required_feature(served: Served) -> None:
    ended = say(served.engine, hello(required_features=(4711,)))
    assert ended.code == "feature" and "4711" in ended.faults[0].message


@pytest.mark.parametrize("greeted", [False, True], ids=["first", "after Hello"])
def test_an_undecodable_frame(served: Served, greeted: bool) -> None:
    messages = [hello()] if greeted else []
    ended = say(served.engine, *messages, b"\xff\xff\xff\xff not protobuf")
    assert ended.code == "undecodable"
    assert ended.faults[-1].code is ErrorCode.UNDECODABLE
    assert "could not be decoded (ref " in ended.details, "the reference leads to the engine's log"
    ref = ended.details.partition("(ref ")[2].rstrip(")")
    assert ref in served.engine.running.said


def test_a_stream_that_does_not_begin_with_hello(served: Served) -> None:
    (data,) = encode_host_frame(HostFrame(position=1))
    ended = say(served.engine, data)
    assert ended.code == "protocol" and "expected Hello" in ended.faults[0].message


# ---- engines that must refuse to start


def refused(process: Process, code: int, *texts: str) -> None:
    """It ends with `code`, says what and why, and shows no traceback."""
    assert process.wait() == code
    said = process.said
    # The engine of the fixture may write to the same log.
    message = said[said.index("error: ") :]
    for text in texts:
        assert text in message, message
    assert "Traceback" not in message


def test_a_second_engine_on_the_same_database(stage: Stage, served: Served) -> None:
    second = stage.engine("other")
    second.kill()
    process = stage.launch(second, db=served.engine.db)
    refused(process, 75, str(served.engine.db), "in use by another engine", str(served.engine.running.pid))


@pytest.mark.parametrize("setting", ["port", "http_port"])
def test_a_port_that_is_taken(stage: Stage, setting: str) -> None:
    engine = stage.engine()
    engine.kill()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        flag = {"port": "--grpc-port", "http_port": "--http-port"}[setting]
        refused(stage.launch(engine, **{setting: number}), 1, f"127.0.0.1:{number}", flag)
    good_call(stage, engine)


def test_a_database_of_a_newer_engine(stage: Stage) -> None:
    engine = stage.engine()
    assert engine.running.terminate() == 0
    row = "(9999, '9999_future.sql', 'ff', '2099-01-01T00:00:00Z')"
    change_database(engine, f"INSERT INTO schema_migrations VALUES {row}")
    refused(stage.launch(engine), 65, str(engine.db), "schema 9999", "newer engine")
    change_database(engine, "DELETE FROM schema_migrations WHERE version = 9999")
    good_call(stage, engine)


def test_a_file_that_is_no_database(stage: Stage) -> None:
    engine = stage.engine()
    assert engine.running.terminate() == 0
    for suffix in ("", "-wal", "-shm"):
        engine.db.with_name(engine.db.name + suffix).unlink(missing_ok=True)
    engine.db.write_bytes(b"a letter to my mother\n" * 1000)
    refused(stage.launch(engine), 65, str(engine.db))
    assert engine.db.read_bytes().startswith(b"a letter"), "it was not touched"
    engine.db.unlink()
    good_call(stage, engine)


def change_database(engine: Engine, statement: str) -> None:
    with closing(sqlite3.connect(engine.db)) as db, db:
        db.execute(statement)


def good_call(stage: Stage, engine: Engine) -> None:
    engine.start()
    stage.host(engine, "good")
    assert stage.client(engine).start("plus_one", 1).result(timeout=10) == 2
