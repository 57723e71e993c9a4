"""The engine as a process: its ready line, its exit codes, its signals, and kill -9 (MISSION P4, P5)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from stepwire.v1 import run_pb2, run_service_pb2
from tests.transport.bench import Host

CODE = """
import sys
from stepwire_engine import config, process
sys.exit(process.run_engine(config.load(dict(argument.split("=", 1) for argument in sys.argv[1:]))))
"""
READY = re.compile(r"stepwire engine ready  grpc (\S+)  http (\S+)  db ([^\s\"]+)")


class Process:
    """One engine process and what it said so far."""

    def __init__(self, db: Path | str, **settings: object) -> None:
        given = {"db": db, "grpc_port": 0, "http_port": 0, "drain_timeout": 10} | settings
        arguments = [f"{name}={value}" for name, value in given.items()]
        began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE, *arguments], stderr=subprocess.PIPE, text=True, env={"PYTHONPATH": PATH}
        )
        self.said = ""
        self.grpc = self.http = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            if (ready := READY.search(line)) is not None:
                self.grpc, self.http, self.db = ready.groups()
                break
        self.seconds = time.monotonic() - began

    def end(self, *signals: signal.Signals) -> int:
        """Send signals, wait for the end; the exit code."""
        for number in signals:
            self.process.send_signal(number)
        self.said += self.process.communicate(timeout=15)[1]
        return self.process.returncode


PATH = ":".join(path for path in sys.path if path)


@contextlib.contextmanager
def engine(db: Path | str, **settings: object) -> Iterator[Process]:
    process = Process(db, **settings)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.communicate()


async def call(channel: grpc.aio.Channel, name: str, request: Any, answer: Any) -> Any:
    method = channel.unary_unary(
        f"/stepwire.v1.RunService/{name}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=answer.FromString,
    )
    return await method(request)


def start_request(key: str) -> run_service_pb2.StartRequest:
    request = run_service_pb2.StartRequest(flow="checkout", id=key)
    request.input.data = b"17"
    return request


def test_ready_and_sigterm(tmp_path: Path) -> None:
    with engine(tmp_path / "a.db") as process:
        assert process.grpc and process.db == str(tmp_path / "a.db"), process.said
        assert process.seconds < 10, "the target is 2 s on an idle machine"
        with urllib.request.urlopen(f"http://{process.http}/readyz") as answer:
            assert json.load(answer)["status"] == "ok"
        with urllib.request.urlopen(f"http://{process.http}/metrics") as answer:
            assert b"stepwire_runs_started" in answer.read()
        assert process.end(signal.SIGTERM) == 0
        events = [json.loads(line) for line in process.said.splitlines()]
        assert events[-1]["event"] == "stepwire engine stopped" and "Traceback" not in process.said


def test_a_database_in_memory(tmp_path: Path) -> None:
    with engine(":memory:") as process:
        assert process.db == ":memory:"
        assert process.end(signal.SIGINT) == 0


def test_a_taken_port_is_named_with_its_flag(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for setting, flag in (("grpc_port", "--grpc-port"), ("http_port", "--http-port")):
            with engine(tmp_path / "a.db", **{setting: port}) as process:
                assert process.end() == 1
                assert f"127.0.0.1:{port}" in process.said and flag in process.said
                assert "Traceback" not in process.said


def test_a_second_engine_on_one_database_is_refused(tmp_path: Path) -> None:
    with engine(tmp_path / "a.db") as first:
        with engine(tmp_path / "a.db") as second:
            assert second.end() == 75
            assert second.said.startswith("error: ") and "a.db" in second.said and "Traceback" not in second.said
        assert first.end(signal.SIGTERM) == 0


def test_an_address_others_can_reach_is_refused(tmp_path: Path) -> None:
    with engine(tmp_path / "a.db", grpc_host="0.0.0.0") as process:
        assert process.end() == 1
        assert "error: refused to listen on 0.0.0.0:0" in process.said


def test_kill_and_restart_keep_a_started_run(tmp_path: Path) -> None:
    async def first(process: Process) -> str:
        async with grpc.aio.insecure_channel(process.grpc) as channel:
            host = Host(channel)
            await host.greet()
            answer = await call(channel, "Start", start_request("k"), run_service_pb2.StartResponse)
            seen, _ = await host.advance()
            assert seen == answer.run_id
            process.end(signal.SIGKILL)
            return str(answer.run_id)

    async def second(process: Process, run_id: str) -> None:
        async with grpc.aio.insecure_channel(process.grpc) as channel:
            host = Host(channel)
            seen, advance = await host.advance(since=await host.greet())
            assert seen == run_id and advance.start is not None and advance.fence.claim_epoch == 2
            again = await call(channel, "Start", start_request("k"), run_service_pb2.StartResponse)
            assert (again.run_id, again.existing) == (run_id, True)
            await host.finish(run_id, advance.fence, 1, 0)
            await host.until_acked()
            request = run_service_pb2.GetRequest(run_id=run_id)
            answer = await call(channel, "Get", request, run_service_pb2.GetResponse)
            assert answer.run.state == run_pb2.RUN_STATE_SUCCEEDED
            assert process.end(signal.SIGTERM) == 0

    with engine(tmp_path / "a.db") as process:
        run_id = asyncio.run(first(process))
    with engine(tmp_path / "a.db", adoption_grace=0) as process:
        asyncio.run(second(process, run_id))


@pytest.mark.parametrize("signals", [1, 2])
def test_sigterm_with_an_attempt_in_progress(tmp_path: Path, signals: int) -> None:
    """One signal waits for the attempt, a second ends the wait; either way the code is 0 and the host hears it."""

    async def scenario(process: Process) -> None:
        async with grpc.aio.insecure_channel(process.grpc) as channel:
            host = Host(channel)
            await host.greet()
            answer = await call(channel, "Start", start_request(""), run_service_pb2.StartResponse)
            _, advance = await host.advance()
            await host.plan_one_step(answer.run_id, advance.fence)
            await host.until_acked()
            process.process.send_signal(signal.SIGTERM)
            frame = await host.next()
            assert frame is not None and frame.drain is not None
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(channel, "Start", start_request(""), run_service_pb2.StartResponse)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            with pytest.raises(urllib.error.HTTPError, match="503"):
                await asyncio.to_thread(urllib.request.urlopen, f"http://{process.http}/readyz")
            if signals == 2:
                process.process.send_signal(signal.SIGTERM)
            else:
                await host.end_one_step(answer.run_id, advance.fence)
                await host.until_acked()
            last = await host.next()
            while last is not None and last.goodbye is None:
                last = await host.next()
            assert last is not None, "the engine said goodbye"
        assert await asyncio.to_thread(process.end) == 0
        assert "Traceback" not in process.said

    with engine(tmp_path / "a.db", drain_timeout=15) as process:
        asyncio.run(scenario(process))
