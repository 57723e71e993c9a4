"""A child process of `stepwire dev`: its lines come out with its name in front, and it always ends.

Children get a process group of their own, so that Ctrl-C in the terminal reaches `stepwire dev` alone, which ends
them in order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence

import anyio
import anyio.abc

from stepwire_engine.cli.terminal import without_cursor_moves

LINE_BYTES_MAX = 64 * 1024
"""A longer line is cut into pieces."""
PIPE_SECONDS = 1.0
"""How long what a child left running may go on printing; then it is killed, because it holds the child's pipe."""


class Child:
    """One running process.

    Args:
        name: What stands in front of its lines.
        command: Program and arguments.
        environment: All of it.
        show: Called with each line.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], show: Callable[[str, str], None]
    ) -> None:
        self.name = name
        self._command = list(command)
        self._environment = dict(environment)
        self._show = show
        self._process: anyio.abc.Process | None = None
        self._stopping = False
        self._lines_ended = anyio.Event()
        self.ended = anyio.Event()

    @property
    def pid(self) -> int:
        """Its process id; 0 before it was started."""
        return self._process.pid if self._process is not None else 0

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative if a signal ended it."""
        return self._process.returncode if self._process is not None else None

    @property
    def unexpected(self) -> bool:
        """It ended without having been told to."""
        return self.ended.is_set() and not self._stopping

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Start it, show its lines, return when it has ended."""
        self._process = process = await anyio.open_process(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
        )
        task_status.started()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._show_lines, process)
                await process.wait()
                with anyio.move_on_after(PIPE_SECONDS):
                    await self._lines_ended.wait()
                if not self._lines_ended.is_set():
                    self._kill_group(process.pid)
                    group.cancel_scope.deadline = anyio.current_time() + PIPE_SECONDS
        finally:
            if process.returncode is None:
                self.kill()
                with anyio.CancelScope(shield=True):
                    await process.wait()
            self.ended.set()

    async def stop(self, grace_seconds: float) -> bool:
        """SIGTERM, and SIGKILL after `grace_seconds`; returns whether it ended by itself."""
        self._stopping = True
        if self._process is None:
            return True
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with anyio.move_on_after(grace_seconds):
            await self.ended.wait()
            return True
        self.kill()
        await self.ended.wait()
        return False

    def kill(self) -> None:
        """SIGKILL, to everything in its process group."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            self._kill_group(self._process.pid)

    @staticmethod
    def _kill_group(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)

    async def _show_lines(self, process: anyio.abc.Process) -> None:
        assert process.stdout is not None
        rest = b""
        async for chunk in process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._show_line(line)
            while len(rest) > LINE_BYTES_MAX:
                self._show_line(rest[:LINE_BYTES_MAX])
                rest = rest[LINE_BYTES_MAX:]
        if rest:
            self._show_line(rest)
        self._lines_ended.set()

    def _show_line(self, line: bytes) -> None:
        self._show(self.name, without_cursor_moves(line.decode("utf-8", "replace").rstrip("\r")))
