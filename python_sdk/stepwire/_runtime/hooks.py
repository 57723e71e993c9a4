"""Calls hooks: each in the order of what happened, off the way of the run, with bounded memory.

Every function has a line of its own, whatever it is registered for, so a slow one delays only itself. A line
that is too long drops what comes; that and what a hook raises is counted, and logged at most once per line in
LOG_SECONDS.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from stepwire._runtime.telemetry import HostTelemetry
from stepwire.flow import FlowFunction
from stepwire.hooks import Hook, HookCall, HookKind
from stepwire.protocol.failure import Failure

logger = logging.getLogger("stepwire.host")

CALLS_WAITING_MAX = 1000
"""Calls that one function may be behind; what happens beyond is not told to it."""
LOG_SECONDS = 10.0


class _Line:
    """Calls that one function has yet to get."""

    __slots__ = ("calls", "hook", "quiet_until", "task")

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        self.calls: deque[HookCall] = deque()
        self.task: asyncio.Task[None] | None = None
        self.quiet_until = 0.0


class Hooks:
    """The hooks of one running host.

    Args:
        loop: Async hooks run on it.
        hooks: For every flow.
        flows: Their own hooks are called for their runs only.
        telemetry: Counts failures.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        hooks: Iterable[Hook],
        flows: Mapping[str, FlowFunction[..., Any]],
        telemetry: HostTelemetry,
    ) -> None:
        self._loop = loop
        self._telemetry = telemetry
        self._context = copy_context()
        self._of_all: dict[HookKind, list[_Line]] = {}
        self._of_flow: dict[tuple[HookKind, str], list[_Line]] = {}
        self._lines: list[_Line] = []
        for hook in hooks:
            self._of_all.setdefault(hook.kind, []).append(self._line(hook))
        for flow in flows.values():
            for hook in flow.hooks:
                self._of_flow.setdefault((hook.kind, flow.name), []).append(self._line(hook))
        on_threads = sum(not line.hook.is_async for line in self._lines)
        self._pool = ThreadPoolExecutor(max(1, on_threads), thread_name_prefix="stepwire-hook")
        self._closed = False

    def _line(self, hook: Hook) -> _Line:
        line = next((line for line in self._lines if line.hook.fn == hook.fn), None)
        if line is None:
            line = _Line(hook)
            self._lines.append(line)
        return line

    def __bool__(self) -> bool:
        """Whether there are any: nobody needs to say what nobody hears."""
        return bool(self._lines)

    def fire(
        self,
        kind: HookKind,
        run_id: str,
        flow: str,
        path: str = "",
        attempt: int = 0,
        *,
        output: Any = None,
        failure: Failure | None = None,
    ) -> None:
        """Tell the hooks of this kind. From any thread; returns at once and never raises."""
        if not self._lines:
            return
        lines = (*self._of_all.get(kind, ()), *self._of_flow.get((kind, flow), ()))
        if not lines or self._closed:
            return
        call = HookCall(kind, run_id, flow, path, attempt, output, failure)
        try:
            self._loop.call_soon_threadsafe(self._line_up, lines, call, context=self._context)
        except RuntimeError:  # the loop is closed: the process is leaving
            self._telemetry.hook_failures["dropped"] += 1

    async def drained(self) -> None:
        """Wait until every hook got every call."""
        await asyncio.sleep(0)  # what was fired by now is in line then
        while running := [line.task for line in self._lines if line.task is not None]:
            await asyncio.wait(running)

    def close(self) -> None:
        """Call no more hooks; one that runs on a thread ends when it ends."""
        self._closed = True
        for line in self._lines:
            line.calls.clear()
            if line.task is not None:
                line.task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ---- on the loop

    def _line_up(self, lines: Iterable[_Line], call: HookCall) -> None:
        if self._closed:
            return
        for line in lines:
            if len(line.calls) >= CALLS_WAITING_MAX:
                self._count(line, "dropped", call, None)
                continue
            line.calls.append(call)
            if line.task is None:
                line.task = self._loop.create_task(self._work(line), context=self._context.copy())

    async def _work(self, line: _Line) -> None:
        try:
            while line.calls:
                call = line.calls.popleft()
                try:
                    await self._call(line.hook, call)
                except asyncio.CancelledError as stopped:
                    if self._closed:
                        raise
                    self._count(line, "raised", call, stopped)
                except Exception as problem:
                    self._count(line, "raised", call, problem)
        finally:
            line.task = None

    async def _call(self, hook: Hook, call: HookCall) -> None:
        if hook.is_async:
            await hook.fn(call)
            return
        made = await self._loop.run_in_executor(self._pool, self._context.copy().run, hook.fn, call)
        if inspect.isawaitable(made):  # a lambda or partial around a coroutine function
            await made

    def _count(self, line: _Line, cause: str, call: HookCall, problem: BaseException | None) -> None:
        self._telemetry.hook_failures[cause] += 1
        now = self._loop.time()
        if now < line.quiet_until:
            return
        line.quiet_until = now + LOG_SECONDS
        name = getattr(line.hook.fn, "__qualname__", repr(line.hook.fn))
        what = "failed" if problem is not None else f"is {CALLS_WAITING_MAX} calls behind and misses some"
        logger.error("hook %s (%s) of run %s %s", name, call.kind, call.run_id, what, exc_info=problem)
