"""What one strictly sequential step cannot beat: a raw stream round trip and a raw commit, measured beside it.

Neither uses the product, but for the settings of its database connection. `python -m benchmarks.baselines`
is the echoing server.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.processes import ROOT
from stepwire_engine.store.sqlite_connection import connect, make_durable

MESSAGE = b"x" * 100
WAL_BYTES = 6 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Floor:
    """Medians, in seconds."""

    round_trip: float
    commit: float


def measure_floor(folder: Path, samples: int = 300) -> Floor:
    """Measure one after the other, `samples` times each."""
    return Floor(_round_trip(samples), _commit(str(folder / "baseline.db"), samples))


def _median_seconds(action: Callable[[], object], samples: int) -> float:
    times = [time.perf_counter()]
    for _ in range(samples):
        action()
        times.append(time.perf_counter())
    return statistics.median(end - start for start, end in itertools.pairwise(times))


def _commit(path: str, samples: int) -> float:
    """One row of 100 bytes per transaction: WAL, synchronous=FULL, read back by `make_durable`."""
    db = connect(path)
    try:
        make_durable(db, path)
        db.execute("CREATE TABLE IF NOT EXISTS rows (body BLOB NOT NULL)")
        db.execute("INSERT INTO rows VALUES (zeroblob(?))", (WAL_BYTES,))  # the WAL has its size, as an engine's has
        return _median_seconds(lambda: db.execute("INSERT INTO rows VALUES (?)", (MESSAGE,)), samples)
    finally:
        db.close()


def _round_trip(samples: int) -> float:
    """A message to an asyncio server in another process and back, over one stream of a synchronous client."""
    command = [sys.executable, "-m", "benchmarks.baselines"]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout is not None
    try:
        with grpc.insecure_channel(f"127.0.0.1:{int(server.stdout.readline())}") as channel:
            outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            dial: Any = channel.stream_stream("/benchmark.Echo/Stream")
            answers = dial(iter(outgoing.get, None))

            def ping() -> None:
                outgoing.put(MESSAGE)
                next(answers)

            _median_seconds(ping, 20)
            median = _median_seconds(ping, samples)
            outgoing.put(None)
            return median
    finally:
        server.communicate()  # its input ends, and so does it


async def _echo(messages: object, context: Any) -> None:
    while (data := await context.read()) is not grpc.aio.EOF:
        await context.write(data)


async def _serve() -> None:
    server = grpc.aio.server()
    methods: dict[str, Any] = {"Stream": grpc.stream_stream_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("benchmark.Echo", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_serve())
