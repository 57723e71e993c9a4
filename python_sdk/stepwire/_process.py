"""A process that is nothing but a host: it serves until a signal, drains, and always ends in time (MISSION P11, P17).

A thread of its own acts on signals, because the loop may be blocked by user code: that must neither delay the Drain
nor keep the process alive past its time. Services that are hosts as well do not come here; their signals are theirs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

logger = logging.getLogger("stepwire.host")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_OVER = b"\0"
EXIT_FORCED = 1
"""Code of users did not let the process end in time."""
EXIT_REFUSED = 4
"""The engine refused this host for good."""
EXIT_INTERRUPTED = 130
"""A second signal ended it."""
END_SECONDS = 1.5
"""After the drain: what is left is handed back, and everything is closed. Then the process is ended by force."""
HURRY_SECONDS = 1.25
"""The same after a second signal."""
FORCE_SECONDS = 0.4
"""For the last words of a process that is ended by force."""


class Leaving(Protocol):
    """What a process does to its host; all of it from any thread."""

    def begin_drain(self, seconds: float) -> None:
        """Take no new work from now on. Idempotent."""

    def hurry(self) -> None:
        """Do not wait for attempts any more."""

    def wait_refused(self, stop: asyncio.Event) -> None:
        """Block until the engine refused this host for good, or `stop` is set."""

    def leave(self, seconds: float) -> None:
        """Say goodbye, which hands back everything. Idempotent."""


class EndSignals:
    """Listens for SIGTERM and SIGINT in a `with` block; afterwards the handlers before it are back.

    Once a signal came, the process ends in time also after the block: threads that nobody joined may keep it.

    Args:
        seconds: From the first signal until `by_force`.
        hurried: From the second one until `by_force`, in seconds.
        first, second: Called once each, on the listening thread. A third signal ends the process without a word.
        by_force: Called on that thread; it must end the process.
    """

    def __init__(
        self,
        *,
        seconds: float,
        hurried: float,
        first: Callable[[], None],
        second: Callable[[], None],
        by_force: Callable[[], None],
    ) -> None:
        self._orders = ((seconds, first), (hurried, second))
        self._by_force = by_force
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1
        self._of_loop = -1

    def __enter__(self) -> Self:
        threading.Thread(target=self._listen, name="stepwire-signals", daemon=True).start()
        # The pipe hears a signal at once, also where the main thread runs no Python code for long.
        self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if (present := signal.set_wakeup_fd(self._wakeup_before)) != self._write:
            signal.set_wakeup_fd(present)
        os.write(self._write, _OVER)

    def listen_again(self) -> None:
        """Take the wake-ups from a loop that took them when it began: uvloop does, and has no use for these signals.

        It gets those of all others, for which the application may have handlers on it.
        """
        taken = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._of_loop = -1 if taken == self._write else taken

    def loop_ends(self) -> None:
        """The loop that `listen_again` was for is about to be closed."""
        self._of_loop = -1

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Tell of signals that the pipe did not hear, because a loop took the wake-ups for itself."""
        if (present := signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)) != self._write:
            signal.set_wakeup_fd(present)
            os.write(self._write, bytes((number,)))

    def _listen(self) -> None:
        ready = select.poll()
        ready.register(self._read, select.POLLIN)
        count = 0
        end: float | None = None
        while True:
            if not ready.poll(None if end is None else max(0.0, end - time.monotonic()) * 1000):
                self._by_force()
                return
            heard = os.read(self._read, 1)
            if heard == _OVER and end is None:
                break
            if heard[0] not in SIGNALS:
                if self._of_loop != -1:
                    with suppress(OSError):  # It is full, and so the loop will wake up; or it was closed just now.
                        os.write(self._of_loop, heard)
                continue
            if count == len(self._orders):
                os._exit(EXIT_INTERRUPTED)
            seconds, order = self._orders[count]
            end = time.monotonic() + seconds
            count += 1
            order()
        os.close(self._read)
        os.close(self._write)


class HostProcess:
    """One life of such a process.

    Args:
        name: Of the host.
        start: Connects it.
        stop: Drains for `drain_seconds` at most, and closes it.
        drain_seconds: What attempts in progress get after the first signal.
        loop_factory: Makes the loop; None: asyncio's own.
    """

    def __init__(
        self,
        name: str,
        *,
        start: Callable[[], Awaitable[Leaving]],
        stop: Callable[[], Awaitable[None]],
        drain_seconds: float,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        self._name = name
        self._start = start
        self._stop = stop
        self._drain_seconds = drain_seconds
        self._loop_factory = loop_factory
        self._host: Leaving | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked = asyncio.Event()
        self._signalled = False
        self._hurried = False
        self._exit_code: int | None = None

    def run(self) -> int:
        """Serve until the end; the exit code. Signals are heard only if this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return self._run(None)
        with EndSignals(
            seconds=self._drain_seconds + END_SECONDS,
            hurried=HURRY_SECONDS,
            first=self._on_first,
            second=self._on_second,
            by_force=self._on_overdue,
        ) as signals:
            return self._run(signals)

    def _run(self, signals: EndSignals | None) -> int:
        with asyncio.Runner(loop_factory=self._loop_factory) as runner:
            try:
                return runner.run(self._serve(signals))
            finally:
                if signals is not None:
                    signals.loop_ends()

    async def _serve(self, signals: EndSignals | None) -> int:
        self._loop = asyncio.get_running_loop()
        if signals is not None:
            signals.listen_again()
        if self._signalled:
            return 0
        self._host = await self._start()
        if self._hurried:
            self._host.hurry()
        threading.Thread(target=self._watch_refusal, args=(self._host,), name="stepwire-refusal", daemon=True).start()
        await self._asked.wait()
        was_refused = not self._signalled
        await self._stop()
        self._exit_code = EXIT_REFUSED if was_refused else EXIT_INTERRUPTED if self._hurried else 0
        return self._exit_code

    def _watch_refusal(self, host: Leaving) -> None:
        host.wait_refused(self._asked)
        self._tell(self._asked.set)

    # ---- on the thread that listens

    def _on_first(self) -> None:
        self._signalled = True
        logger.info("host %s drains for at most %g s; once more ends it now", self._name, self._drain_seconds)
        if self._host is not None:
            self._host.begin_drain(self._drain_seconds)
        self._tell(self._asked.set)

    def _on_second(self) -> None:
        self._hurried = True
        if self._host is not None:
            self._host.hurry()

    def _tell(self, what: Callable[[], None]) -> None:
        """Do this on the loop. Before there is one, `_serve` looks by itself."""
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            pass  # It was closed: the process is ending already.

    def _on_overdue(self) -> None:
        if self._exit_code is None:
            if self._host is not None:
                self._host.leave(FORCE_SECONDS)
            logger.warning("code that does not let go keeps host %s from ending; it is ended by force", self._name)
            self._exit_code = EXIT_INTERRUPTED if self._hurried else EXIT_FORCED
        os._exit(self._exit_code)
