"""A flow that does something, fails, and is undone; and how to reach its closures (MISSION S8)."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import stepwire
from stepwire.flow import FlowFunction
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import Purpose
from tests.sdk.host_desk import HostDesk

BROKEN = Failure(ErrorCode.USER_ERROR, "ValueError", "broken")
SHARED: ContextVar[str] = ContextVar("shared", default="nothing")

Undo = Callable[..., Any]


@dataclass
class Booking:
    id: int
    seat: str


class Saga:
    """A flow that books, then fails; booking is undone by `undo`.

    Attributes:
        calls: Steps whose function ran, in order.
    """

    def __init__(self, undo: Undo | stepwire.Compensation, *, is_async: bool = True, **options: Any) -> None:
        self.calls: list[str] = []
        self.undo = undo
        self.host = stepwire.Host("saga", **options)
        self.flow: FlowFunction[..., Any] = self.host.flow(name="flow")(self.in_tasks if is_async else self.in_threads)

    def book(self) -> Booking:
        self.calls.append("book")
        SHARED.set("by the step")
        return Booking(7, "3A")

    def fail(self) -> None:
        self.calls.append("fail")
        raise ValueError("broken")

    async def in_tasks(self, ctx: stepwire.Context) -> None:
        SHARED.set("by the flow")
        await ctx.step.run("book", self.book, compensate=self.undo)
        await ctx.step.run("fail", self.fail, retries=0)

    def in_threads(self, ctx: stepwire.ContextSync) -> None:
        SHARED.set("by the flow")
        ctx.step.run("book", self.book, compensate=self.undo)
        ctx.step.run("fail", self.fail, retries=0)


async def reach(make: Callable[[], Saga], way: str) -> HostDesk:
    """A host whose body failed: the live one, or another one that replayed its journal."""
    saga = make()
    desk = HostDesk(saga.host)
    ended = await desk.play(saga.flow)
    assert ended.failure is not None
    if way == "live":
        return desk
    await desk.runtime.hooks.drained()
    desk.runtime.close()
    again = make()
    other = HostDesk(again.host)
    other.start(again.flow, desk.journal, purpose=Purpose.UNDO)
    other.journal = desk.journal
    return other
