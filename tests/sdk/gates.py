"""Gates that steps and flow code wait at, opened by the test in the order it wants to see: no race is left to luck."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from stepwire.testing import Environment
from stepwire_engine.core.entries import AttemptEnded

PATIENCE_SECONDS = 10.0


async def until(what: str, condition: Callable[[], object]) -> None:
    """Let the loop run until `condition`; fails loudly instead of for ever."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it never came to this: {what}"
        await asyncio.sleep(0)


async def turns(count: int = 50) -> None:
    """Give everything that could happen now the time to happen."""
    for _ in range(count):
        await asyncio.sleep(0)


class Gates:
    """Named gates for async code and threads. All are shut at first.

    Attributes:
        reached: Names in the order in which somebody came to the gate.
        passed: Names in the order in which somebody went on.
    """

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.passed: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._async: dict[str, asyncio.Event] = {}
        self._sync: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def _gate(self, name: str) -> tuple[asyncio.Event, threading.Event]:
        with self._lock:
            return self._async.setdefault(name, asyncio.Event()), self._sync.setdefault(name, threading.Event())

    def open(self, *names: str) -> None:
        for name in names:
            for event in self._gate(name):
                event.set()

    async def wait(self, name: str, value: Any = None) -> Any:
        """For async code. Returns `value`, or the name."""
        self.reached.append(name)
        await self._gate(name)[0].wait()
        self.passed.append(name)
        return name if value is None else value

    def wait_sync(self, name: str, value: Any = None) -> Any:
        """For threads. Returns `value`, or the name."""
        self.reached.append(name)
        assert self._gate(name)[1].wait(PATIENCE_SECONDS), f"gate {name!r} was never opened"
        self.passed.append(name)
        return name if value is None else value

    async def until_passed(self, name: str) -> None:
        await until(f"pass {name!r}", lambda: name in self.passed)

    async def until_reached(self, *names: str) -> None:
        await until(f"reach {names}", lambda: all(name in self.reached for name in names))


def recorded(env: Environment, run_id: str) -> list[str]:
    """Last segments of the steps whose outcome is committed, in that order."""
    ended = [e for e in env.journal(run_id) if isinstance(e, AttemptEnded) and e.retry_at_ms is None]
    return [e.path.rpartition("/")[2] for e in ended]


async def until_recorded(env: Environment, run_id: str, gates: Gates, name: str) -> None:
    """Until the outcome of the step behind gate `name` is committed."""
    await gates.until_passed(name)
    await until(f"{name!r} is recorded", lambda: name in recorded(env, run_id))
