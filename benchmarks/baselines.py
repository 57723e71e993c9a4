"""What one strictly sequential step cannot beat: a raw stream round trip and a raw commit, measured beside it.

Neither uses the product, but for the settings of its database connection. `python -m benchmarks.baselines`
is the echoing server.
"""

from __future__ import annotations

import asyncio
import queue
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.processes import ROOT
from stepwire_engine.store.sqlite_connection import connect, make_durable

MESSAGE = b"x" * 100
METHOD = "/benchmark.Echo/Stream"


@dataclass(frozen=True, slots=True)
class Floor:
    """Medians, in seconds."""

    round_trip: float
    commit: float

    @property
    def step(self) -> float:
        """One of each."""
        return self.round_trip + self.commit


def measure_floor(folder: Path, samples: int = 300) -> Floor:
    """Measure both, one after the other, `samples` times each."""
    return Floor(_round_trip(samples), _commit(folder / "baseline.db", samples))


def _median_seconds(action: Callable[[], object], samples: int) -> float:
    taken = []
    for _ in range(samples):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _commit(path: Path, samples: int) -> float:
    """One row of 100 bytes per transaction: WAL, synchronous=FULL."""
    db = connect(str(path))
    try:
        make_durable(db, str(path))  # reads the settings back
        db.execute("CREATE TABLE IF NOT EXISTS rows (body BLOB NOT NULL)")
        return _median_seconds(lambda: db.execute("INSERT INTO rows VALUES (?)", (MESSAGE,)), samples)
    finally:
        db.close()


def _round_trip(samples: int) -> float:
    """A message to an asyncio server in another process and back, over one stream of a synchronous client."""
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.baselines"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdout is not None and server.stdin is not None
    try:
        with grpc.insecure_channel(f"127.0.0.1:{int(server.stdout.readline())}") as channel:
            outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            messages: Iterator[bytes | None] = iter(outgoing.get, None)
            dial: Any = channel.stream_stream(METHOD)
            answers = dial(messages)

            def ping() -> None:
                outgoing.put(MESSAGE)
                next(answers)

            _median_seconds(ping, 20)
            median = _median_seconds(ping, samples)
            outgoing.put(None)
            return median
    finally:
        server.communicate()  # its input ends, and so does it


async def _echo(messages: AsyncIterator[bytes], context: Any) -> None:
    while (data := await context.read()) is not grpc.aio.EOF:
        await context.write(data)


async def _serve() -> None:
    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(_echo)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("benchmark.Echo", {"Stream": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_serve())
