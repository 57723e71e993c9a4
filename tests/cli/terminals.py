"""A running `stepwire dev`, and commands under a pseudo-terminal. Tests wait for lines, never for a while."""

from __future__ import annotations

import os
import pty
import queue
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.cli.commands import environment, stepwire_command

LINE_SECONDS_MAX = 15.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Terminal:
    """A `stepwire` process whose lines can be waited for."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        self.lines: list[str] = []
        self._incoming: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [*stepwire_command(), *arguments], cwd=cwd, env=environment(PYTHONUNBUFFERED="1"), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._incoming.put(line.rstrip("\n"))
        self._incoming.put(None)

    def until(self, pattern: str) -> str:
        """Consume lines up to the next that matches; fails with all lines if none does."""
        while True:
            try:
                line = self._incoming.get(timeout=LINE_SECONDS_MAX)
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"no line matches {pattern!r}:\n" + "\n".join(self.lines))
            self.lines.append(line)
            if re.search(pattern, line):
                return line

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(LINE_SECONDS_MAX)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(LINE_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


def on_terminal(arguments: Sequence[str], cwd: Path, typed: str = "", **variables: str) -> tuple[int, str, str]:
    """Run a command whose stderr is a terminal; exit code, stdout, what the terminal received.

    Args:
        typed: What its user types; empty: nobody is there, stdin is no terminal.
    """
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    process = subprocess.Popen(
        [*stepwire_command(), *arguments], cwd=cwd, env=environment(TERM="xterm-256color", **variables),
        stdin=theirs if typed else subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, text=True,
    )  # fmt: skip
    os.close(theirs)
    shown = bytearray()
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:
        pass  # how a terminal says that its last writer left
    finally:
        os.close(ours)
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read()
    return process.wait(LINE_SECONDS_MAX), output, shown.decode()
