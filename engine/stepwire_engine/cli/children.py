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
"""How long the lines of a child that ended may take; whatever it started itself may hold the pipe for ever."""


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
        self._signal(signal.SIGTERM)
        with anyio.move_on_after(grace_seconds):
            await self.ended.wait()
            return True
        self.kill()
        await self.ended.wait()
        return False

    def kill(self) -> None:
        """SIGKILL, to everything in its process group."""
        self._stopping = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)

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

    def _show_line(self, line: bytes) -> None:
        self._show(self.name, without_cursor_moves(line.decode("utf-8", "replace").rstrip("\r")))
