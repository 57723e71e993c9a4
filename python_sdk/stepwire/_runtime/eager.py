"""Tasks whose code begins at once instead of in the next tick, many in a row.

Each is a real task from its first line on: `current_task`, `asyncio.timeout`, task groups and cancellation are what
they always are. Code that never waits is over before the loop has turned, and costs no callback of the loop.

The constructor of a task hands its first step to `loop.call_soon`. That is taken here, for no longer than the
constructors run, and called in turn. Tasks are made as usual where that would be seen: a loop or a task factory that
does not let itself be asked in this way, an exception that is being handled around the call (code of a task never
finds somebody else's in `sys.exc_info()`), and code that begins within code that begins, too deep for the stack.
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Any

Code = tuple[Coroutine[Any, Any, Any], Context, str]
"""What a task runs, where, and the task's name: to make one up costs Python a quarter of making the task."""
Step = tuple[Callable[[], object], Context]
SLICE_SECONDS = 0.005
"""Code that begins in a row; then the loop gets its turn before the next ones."""
LOOK_EVERY = 16
"""Tasks between two looks at the clock."""
DEPTH_MAX = 8
"""Tasks that begin within one another: each needs a dozen frames of the stack, and flows may nest 100 groups."""


class EagerTasks:
    """Makes tasks of one loop.

    Args:
        loop: The loop of the calling thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._taken: list[Step] = []
        self._waiting: list[Step] = []
        self._first_step: type = type(None)
        self._depth = 0
        self._works = self._probe()

    @property
    def works(self) -> bool:
        """Whether code begins at once on this loop."""
        return self._works and self._loop.get_task_factory() is None and "call_soon" not in vars(self._loop)

    def start(self, codes: Sequence[Code], keep: Callable[[list[asyncio.Task[Any]]], None]) -> None:
        """Make a task of each, tell `keep`, and let them begin in this order.

        Args:
            keep: Gets the tasks before any of their code runs.
        """
        if not self.works or self._depth >= DEPTH_MAX or sys.exc_info()[1] is not None:
            keep([self._loop.create_task(code, name=name, context=context) for code, context, name in codes])
            return
        tasks, steps = self._made(codes)
        keep(tasks)
        if self._waiting:
            self._waiting.extend(steps)  # Others were first.
            return
        with _no_task(self._loop):
            self._run(steps)

    def _made(self, codes: Sequence[Code]) -> tuple[list[asyncio.Task[Any]], list[Step]]:
        loop: Any = self._loop
        loop.call_soon = self._take
        try:
            tasks = [asyncio.Task(code, loop=loop, name=name, context=context) for code, context, name in codes]
        finally:
            del loop.call_soon
            steps, self._taken = self._taken, []  # They know their tasks, which should not live until the next ones.
        return tasks, steps

    def _take(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
        if type(callback) is self._first_step and not args:
            self._taken.append((callback, context))  # type: ignore[arg-type]
            return None
        # A collection may run between two constructors, and finalizers of user code with it.
        return type(self._loop).call_soon(self._loop, callback, *args, context=context)

    def _run(self, steps: Iterable[Step]) -> None:
        """Let them begin, as many as there is time for; the others wait for a turn of the loop."""
        self._depth += 1
        until = time.monotonic() + SLICE_SECONDS
        left = iter(steps)
        try:
            for begun, (step, context) in enumerate(left, 1):
                context.run(step)
                if not begun % LOOK_EVERY and time.monotonic() > until:
                    break
        except BaseException:  # SystemExit and its like end the loop; until it has ended the others are tasks as any.
            waiting, self._waiting = [*self._waiting, *left], []
            for step, context in waiting:
                self._loop.call_soon(step, context=context)
            raise
        finally:
            self._depth -= 1
        self._wait(left)

    def _wait(self, steps: Iterable[Step]) -> None:
        idle = not self._waiting
        self._waiting.extend(steps)
        if idle and self._waiting:
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._run(waiting)

    def _probe(self) -> bool:
        """Try it with a task that does nothing."""
        seen: list[Any] = []
        loop: Any = self._loop
        code = _nothing()

        def take(callback: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
            seen.append((callback, args, context))

        context = copy_context()
        try:
            if "call_soon" in getattr(loop, "__dict__", ()):
                raise AttributeError  # Somebody else's: it would be gone after this.
            loop.call_soon = take
        except AttributeError:
            code.close()
            return False
        try:
            task = asyncio.Task(code, loop=loop, context=context)
        finally:
            del loop.call_soon
        if [(args, ctx) for _, args, ctx in seen] != [((), context)]:
            for callback, args, ctx in seen:
                loop.call_soon(callback, *args, context=ctx)
            return False
        self._first_step = type(seen[0][0])
        with _no_task(loop):
            context.run(seen[0][0])
        return task.done()


async def _nothing() -> None:
    pass


@contextmanager
def _no_task(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """The task that runs now, if there is one, is not the current one for so long."""
    current = asyncio.current_task(loop)
    if current is None:
        yield
        return
    _leave_task(loop, current)
    try:
        yield
    finally:
        _enter_task(loop, current)
