"""A call that started a run and waits names the run to its client, should it take long.

A client whose connection breaks then knows that there is a run, and which. It decides nothing.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

import grpc

RUN_KEY = "stepwire-run-id"
"""Metadata: the run that the call started."""
NAMED_AFTER_SECONDS = 0.1
"""Runs that end sooner, of which there are many, do without: it is one more message."""


class NamedRun:
    """The run of one call: `async with` it while its end is awaited.

    Attributes:
        run_id: Empty until it was started.
    """

    __slots__ = ("_context", "_sending", "_timer", "run_id")

    def __init__(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self.run_id = ""
        self._context = context
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(NAMED_AFTER_SECONDS, self._name)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._sending is not None:
            # An answer must not overtake it. A peer that has gone does not get it, and nothing is lost.
            await asyncio.gather(self._sending, return_exceptions=True)

    def _name(self) -> None:
        self._sending = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        await self._context.send_initial_metadata(((RUN_KEY, self.run_id),))
