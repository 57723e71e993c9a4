"""Starting many runs with one call: what is asked, what became of it, and one wake-up for all of it.

A future per run would cost more than the run's own way through the core.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from stepwire.protocol.payload import Payload
from stepwire_engine.core.books import Reply


@dataclass(frozen=True, slots=True)
class StartCall:
    """A run to be started; arguments as of `Runs.start`."""

    flow: str
    payload: Payload
    key: str = ""
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """A run that is durable, and whether it was known by its key."""

    run_id: str
    existing: bool


class Batch:
    """Questions put to the core together; whoever asked them is woken once."""

    __slots__ = ("done", "left", "replies")

    def __init__(self, count: int) -> None:
        self.left = count
        self.replies: list[Reply | None] = [None] * count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answer(self, index: int, reply: Reply) -> None:
        self.replies[index] = reply
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)

    def take(self) -> list[Reply | None]:
        """The replies, once: each knows its question, which knows this, and nobody should have to collect them."""
        replies, self.replies = self.replies, []
        return replies


class Question:
    """One question of a batch: its token."""

    __slots__ = ("batch", "index")

    def __init__(self, batch: Batch, index: int) -> None:
        self.batch = batch
        self.index = index
