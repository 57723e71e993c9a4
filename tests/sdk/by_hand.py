"""A host whose engine is the test: it sees the plans of one run as values and releases outcomes by hand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import stepwire
from stepwire._runtime.keeping import BoundedBodies
from stepwire._serving import runtime_of
from stepwire._transport.local import LocalLink
from stepwire._transport.port import SessionPort
from stepwire._transport.session import HostSession
from stepwire.flow import FlowFunction
from stepwire.protocol.failure import Failure
from stepwire.protocol.frames import (
    Advance,
    BodyFailed,
    BodyStart,
    EngineFrame,
    EngineSection,
    Hello,
    HostFrame,
    Purpose,
    Release,
    Result,
    StepOutcome,
    Welcome,
)
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded, Fence, Plan, StepPlanned
from tests.sdk.gates import until

RUN_ID = "run-1"
CREATED_MS = 1_700_000_000_000


def payload(value: Any) -> Payload:
    return Payload(json.dumps(value).encode())


class EngineByHand:
    """Decides nothing.

    Attributes:
        hello: What the host said of itself.
        plans: Every plan of the run, in order.
        entries: The run's journal so far: plans and releases as they alternated.
        failed: Why the body cannot go on.
    """

    def __init__(self, host: stepwire.Host, *, welcome: Welcome | None = None) -> None:
        self.hello = host.hello()
        self.plans: list[Plan] = []
        self.entries: list[Plan | Release] = []
        self.results: list[Result] = []
        self.failed: list[BodyFailed] = []
        self._welcome = welcome or Welcome("session")
        self._fence = Fence(1, 0)
        self._released = 0
        self._frames = 0
        loop = asyncio.get_running_loop()
        port = SessionPort(HostSession(self.hello), time.monotonic)
        bounds = BoundedBodies(host.bodies, host.body_bytes, host.body_idle)
        self.runtime = runtime_of(host, port, loop, bounds)
        self.link = LocalLink(self, port, loop, self._on_frame)

    # ---- as the link sees it

    def connect(self, hello: Hello, port: LocalLink) -> object:
        self._send(EngineFrame(1, self._welcome))
        return self

    def receive(self, stream: Any, frame: HostFrame) -> None:
        for section in frame.runs:
            self.plans += section.plans
            self.entries += section.plans
            self.results += section.results
            if section.body_failed is not None:
                self.failed.append(section.body_failed)

    def disconnected(self, stream: Any) -> None: ...

    def _on_frame(self, frame: EngineFrame, sections: list[Any]) -> None:
        if frame.welcome is not None:
            self.runtime.welcome(frame.welcome)
        if sections:
            self.runtime.handle(sections)

    def _send(self, frame: EngineFrame) -> None:
        self._frames += 1
        frame.number = self._frames
        self.link.send(frame)

    # ---- as the test plays it

    async def begin(
        self,
        flow: FlowFunction[..., Any],
        input: Any = None,
        entries: Sequence[Plan | Release] = (),
        purpose: Purpose = Purpose.RUN,
        settle: bool = True,
    ) -> None:
        """Enter a new body of the run, with a journal to replay or without."""
        self._fence = Fence(1, self._fence.n + 1)
        start = BodyStart(flow.name, payload(input), 1, CREATED_MS)
        self._released = max((e.release_seq for e in entries if isinstance(e, Release)), default=0)
        advance = Advance(self._fence, tuple(entries), start, hold=bool(entries), purpose=purpose)
        self._send(EngineFrame(runs=[EngineSection(RUN_ID, advance=advance)]))
        if settle:
            await self.settled()

    async def release(self, outcomes: dict[str, Any]) -> None:
        """Hand outcomes to the body in one release: JSON values, or Failures."""
        self._released += 1
        given = tuple(
            StepOutcome(path, failure=value) if isinstance(value, Failure) else StepOutcome(path, payload(value))
            for path, value in outcomes.items()
        )
        release = Release(self._released, CREATED_MS + self._released, given)
        self.entries.append(release)
        self.say(release)
        await self.settled()

    def say(self, release: Release) -> None:
        """Hand a release to the body as it is, and wait for nothing."""
        self._send(EngineFrame(runs=[EngineSection(RUN_ID, advance=Advance(self._fence, (release,)))]))

    async def settled(self) -> None:
        """Until every line of the flow waits for a release."""
        await until("the body waits", lambda: self.runtime.idle and not self.link.in_flight)

    # ---- what the body decided

    @property
    def steps(self) -> dict[str, StepPlanned]:
        """Every step that was planned, by path."""
        return {step.path: step for plan in self.plans for step in plan.steps}

    @property
    def ended(self) -> BodyEnded | None:
        """How the body ended; None: it has not."""
        return next((plan.body_ended for plan in self.plans if plan.body_ended is not None), None)

    @property
    def output(self) -> Any:
        assert self.ended is not None, "the flow has not ended"
        assert self.ended.failure is None, self.ended.failure
        assert self.ended.output is not None
        return json.loads(self.ended.output.data)


@asynccontextmanager
async def by_hand(host: stepwire.Host, *, welcome: Welcome | None = None) -> AsyncIterator[EngineByHand]:
    """Connect a host to an engine played by the test."""
    engine = EngineByHand(host, welcome=welcome)
    engine.link.start()
    await engine.settled()
    try:
        yield engine
    finally:
        engine.runtime.close()


def asking(
    is_async: bool, ask: Callable[[Any], Any], seen: list[Any] | None = None
) -> tuple[stepwire.Host, FlowFunction[..., Any]]:
    """A host with a flow that asks `ctx.step` for one step and notes what it gets."""
    host = stepwire.Host("asking")
    found = [] if seen is None else seen

    async def in_tasks(ctx: stepwire.Context) -> None:
        found.append(await ask(ctx.step))

    def in_threads(ctx: stepwire.ContextSync) -> None:
        found.append(ask(ctx.step))

    return host, host.flow(name="asking")(in_tasks if is_async else in_threads)
