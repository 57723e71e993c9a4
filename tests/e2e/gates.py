"""Gates: a step body that reaches one says so and stays until the test opens it.

The test process listens on a TCP port; a step connects, sends `run path` and waits for an answer. So arrival
is something the test can wait for, and nothing depends on how long anything takes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

ADDRESS_ENV = "E2E_GATES"
STEP_SECONDS = 60.0
"""How long a step waits at most; then it fails, so that no process stays behind."""
TEST_SECONDS = 15.0


# ---- in the host process


async def pass_gate(key: str) -> None:
    """Wait at the gate `key` on the loop."""
    async with asyncio.timeout(STEP_SECONDS):
        reader, writer = await asyncio.open_connection(*_address())
        try:
            writer.write(f"{key}\n".encode())
            _go(key, await reader.readline())
        finally:
            writer.close()


def pass_gate_sync(key: str) -> None:
    """Wait at the gate `key` and block the thread."""
    with socket.create_connection(_address(), STEP_SECONDS) as connection:
        connection.sendall(f"{key}\n".encode())
        _go(key, connection.recv(16))


def _address() -> tuple[str, int]:
    host, _, port = os.environ[ADDRESS_ENV].partition(":")
    return host, int(port)


def _go(key: str, answer: bytes) -> None:
    if answer != b"go\n":
        raise RuntimeError(f"the test ended while a step waited at gate {key!r}")


# ---- in the test process


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024


class Gates:
    """All gates of one test module. A gate is shut until it is opened; then it stays open."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrived: Counter[str] = Counter()
        self._open: set[str] = set()
        self._allowed: Counter[str] = Counter()
        self._closed = False
        gates = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                key = self.rfile.readline().decode().rstrip("\n")
                if gates._admit(key):
                    self.wfile.write(b"go\n")

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="gates")
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def _admit(self, key: str) -> bool:
        with self._changed:
            self._arrived[key] += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or self._may_pass(key), STEP_SECONDS)
            return key in self._open

    def _may_pass(self, key: str) -> bool:
        run_id = key.partition(" ")[0]
        if key not in self._open and self._allowed[run_id] > 0:
            self._allowed[run_id] -= 1
            self._open.add(key)
        return key in self._open

    def arrived(self, run_id: str, *paths: str, times: int = 1) -> None:
        """Wait until a step has arrived at each of these gates, so many times. Fails the test if not."""
        keys = [f"{run_id} {path}" for path in paths]
        with self._changed:
            if not self._changed.wait_for(lambda: all(self._arrived[key] >= times for key in keys), TEST_SECONDS):
                missing = [key for key in keys if self._arrived[key] < times]
                raise AssertionError(f"nobody came to {missing}; at gates: {dict(self._arrived)}")

    def waiting(self, run_id: str) -> list[str]:
        """Paths of steps of the run that are at a gate that is shut."""
        with self._changed:
            shut = [key for key in self._arrived if self._arrived[key] and key not in self._open]
        return sorted(key.partition(" ")[2] for key in shut if key.startswith(run_id + " "))

    def open(self, run_id: str, *paths: str) -> None:
        with self._changed:
            self._open.update(f"{run_id} {path}" for path in paths)
            self._changed.notify_all()

    def allow(self, run_id: str, number: int) -> None:
        """Let so many more steps of the run pass, in the order in which they come."""
        with self._changed:
            self._allowed[run_id] += number
            self._changed.notify_all()

    def close(self) -> None:
        """Let everybody who still waits go home."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def open_gates() -> Iterator[Gates]:
    gates = Gates()
    try:
        yield gates
    finally:
        gates.close()
