"""What one strictly sequential step cannot beat, and how fast the machine is just now: measured before every figure.

A raw stream round trip and a raw commit use nothing of the product but the settings of its database connection. The
spin is a fixed loop of Python: rounds in which it is slow were measured on a slower machine.
`python -m benchmarks.floor` is the echoing server.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc

from benchmarks.checkout import ROOT
from benchmarks.pace import Pace, spin
from stepwire_engine.store.sqlite_connection import connect, make_durable

MESSAGE = b"x" * 100
WAL_BYTES = 6 * 1024 * 1024
SAMPLES = 60


class Floor:
    """Samples both, and the spin.

    Args:
        patience: Seconds that a sample, and so what is measured after it, waits for calm cores at most.
    """

    def __init__(self, ping: Callable[[], object], commit: Callable[[], object], pace: Pace, patience: float) -> None:
        self._ping = ping
        self._commit = commit
        self._pace = pace
        self._patience = patience

    def sample(self, samples: int = SAMPLES) -> dict[str, float]:
        """Medians of `samples` each, in milliseconds, as figures."""
        slowed = self._pace.wait(self._patience)
        for _ in range(10):
            self._ping()  # both sides have slept
        return {
            "round_trip_ms": _median_seconds(self._ping, samples) * 1000,
            "commit_ms": _median_seconds(self._commit, samples) * 1000,
            "spin_ms": spin() * 1000,
            "slowed": slowed,
        }


@contextmanager
def floor(folder: Path, pace: Pace, patience: float) -> Iterator[Floor]:
    """Its server and its database, for as long as anything is measured. They do nothing in between."""
    with _stream() as ping, _journal(folder / "floor.db") as commit:
        yield Floor(ping, commit, pace, patience)


def _median_seconds(action: Callable[[], object], samples: int) -> float:
    times = [time.perf_counter()]
    for _ in range(samples):
        action()
        times.append(time.perf_counter())
    return statistics.median(end - start for start, end in itertools.pairwise(times))


@contextmanager
def _journal(path: Path) -> Iterator[Callable[[], object]]:
    """One row of 100 bytes per transaction: WAL, synchronous=FULL, read back by `make_durable`."""
    db = connect(str(path))
    try:
        make_durable(db, str(path))
        db.execute("CREATE TABLE IF NOT EXISTS rows (body BLOB NOT NULL)")
        db.execute("INSERT INTO rows VALUES (zeroblob(?))", (WAL_BYTES,))  # the WAL has its size, as an engine's has
        yield lambda: db.execute("INSERT INTO rows VALUES (?)", (MESSAGE,))
    finally:
        db.close()


@contextmanager
def _stream() -> Iterator[Callable[[], object]]:
    """A message to an asyncio server in another process and back, over one stream of a synchronous client."""
    command = [sys.executable, "-m", "benchmarks.floor"]
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

            yield ping
            outgoing.put(None)
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


def _main() -> None:
    """On uvloop where that is installed, as engine and host are."""
    factory: Any = None
    if find_spec("uvloop") is not None:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve())


if __name__ == "__main__":
    _main()
