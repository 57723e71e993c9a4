"""The host side alone: its runtime and session with real user code, and the test in the place of the engine.

`desk.play` starts a run and answers as an engine that releases every outcome at once (RACE); what it would have
written down stands in `desk.journal`, so that a test can give any part of it to a body that replays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec

import stepwire
from stepwire._runtime.executor import HostRuntime
from stepwire._runtime.keeping import BoundedBodies
from stepwire._runtime.tracing import PLAIN, Makers
from stepwire._transport.port import SessionPort
from stepwire._transport.session import HostSession
from stepwire.context import context_of
from stepwire.flow import FlowFunction
from stepwire.protocol.failure import Failure
from stepwire.protocol.frames import (
    Advance,
    BodyFailed,
    BodyStart,
    Cancel,
    CancelReason,
    EngineFrame,
    EngineSection,
    Execute,
    Purpose,
    Reject,
    Release,
    Result,
    StepOutcome,
    UndoInput,
    Welcome,
)
from stepwire.protocol.payload import NULL, Payload
from stepwire.protocol.plan import BodyEnded, Fence, Plan, StepKind
from tests.sdk.gates import turns, until

RUN = "r"


class HostDesk:
    """One host and its engine, which is the test.

    Args:
        ahead: Executes that the host keeps beyond its slots.
        makers: Of bodies and attempts.

    Attributes:
        plans, results, rejects, failed: What the host said, in order.
        journal: Plans and releases as an engine would have written them.
    """

    def __init__(self, host: stepwire.Host, *, ahead: int = 0, makers: Makers = PLAIN) -> None:
        hello = msgspec.structs.replace(host.hello(), ahead=ahead)
        self.port = SessionPort(HostSession(hello), time.monotonic)
        self.runtime = HostRuntime(
            self.port,
            host.flows,
            host.steps,
            loop=asyncio.get_running_loop(),
            codec=host.codec,
            parallel_mode=host.parallel_mode,
            branch_threads=host.branch_threads,
            body_stall_timeout=host.body_stall_timeout,
            telemetry=host.telemetry,
            context_of=context_of,
            keeping=BoundedBodies(host.bodies, host.body_bytes, host.body_idle),
            hooks=host.hooks,
            makers=makers,
        )
        self.plans: list[Plan] = []
        self.results: list[Result] = []
        self.rejects: list[Reject] = []
        self.failed: list[BodyFailed] = []
        self.given_back: list[Fence] = []
        self.journal: list[Plan | Release] = []
        self.fence = Fence(1, 0)
        self._frames = 0
        self._n = 0
        self._position = 0
        self.connect()

    async def __aenter__(self) -> HostDesk:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.runtime.close()
        await turns(5)

    # ---- the stream

    def connect(self) -> Any:
        """Begin a stream. Returns what the host still holds, if it is not its first."""
        self._frames = 0
        self.port.connect()
        hello = self.port.take_frame()
        assert hello is not None and hello.hello is not None
        self.receive(EngineFrame(welcome=Welcome("s")))
        return hello.hello.resume

    def receive(self, frame: EngineFrame) -> None:
        self._frames += 1
        frame.number = self._frames
        if frame.welcome is not None:
            self.runtime.welcome(frame.welcome)
        sections = self.port.receive(frame)
        if sections:
            self.runtime.handle(sections)

    def say(self, run_id: str = RUN, **what: Any) -> None:
        """One section of an engine frame."""
        self.receive(EngineFrame(runs=[EngineSection(run_id, **what)]))

    def ack(self) -> None:
        """Everything the host said until now is committed."""
        self.hear()
        self.receive(EngineFrame(acked_position=self._position))

    def hear(self) -> HostDesk:
        """Take what the host has to say."""
        while (frame := self.port.take_frame()) is not None:
            self._position = frame.position or self._position
            for section in frame.runs:
                self.plans += section.plans
                self.results += section.results
                self.rejects += section.rejects
                if section.body_failed is not None:
                    self.failed.append(section.body_failed)
                if section.need_snapshot is not None:
                    self.given_back.append(section.need_snapshot)
        return self

    def next_fence(self) -> Fence:
        self._n += 1
        return Fence(1, self._n)

    # ---- what an engine says

    def start(
        self,
        flow: FlowFunction[..., Any],
        entries: Sequence[Plan | Release] = (),
        *,
        purpose: Purpose = Purpose.RUN,
        more: bool = False,
        run_id: str = RUN,
    ) -> Fence:
        """Enter a body, anew or with a journal to replay."""
        self.fence = self.next_fence()
        start = BodyStart(flow.name, NULL, 7, 1_700_000_000_000)
        hold = purpose is Purpose.UNDO
        self.say(run_id, advance=Advance(self.fence, tuple(entries), start, hold, more, purpose))
        return self.fence

    def release(self, *outcomes: StepOutcome) -> None:
        number = 1 + sum(isinstance(entry, Release) for entry in self.journal)
        release = Release(number, 1_700_000_000_000 + number, outcomes)
        self.journal.append(release)
        self.say(advance=Advance(self.fence, (release,)))

    def undo(
        self,
        path: str,
        output: bytes = b"null",
        *,
        failure: Failure | None = None,
        attempt: int = 1,
        task: str = "",
        timeout: float | None = None,
    ) -> Fence:
        """Give the undo of the step at `path` to the host."""
        fence = self.next_fence()
        kind = StepKind.TASK if task else StepKind.RUN
        given = UndoInput(Payload(output), failure)
        self.say(
            executes=[Execute(path + "#undo", attempt, fence, kind, task, timeout=timeout, flow="flow", undo=given)]
        )
        return fence

    def cancel(self, path: str, fence: Fence, reason: CancelReason = CancelReason.RUN_CANCELLED) -> None:
        self.say(cancels=[Cancel(path, fence, reason)])

    def evict(self) -> None:
        self.say(evict=self.fence)

    # ---- waiting

    async def until_result(self, path: str) -> Result:
        """The oldest result of an attempt at `path`; it is taken out."""
        await until(f"the result of {path!r}", lambda: self._find(path))
        found = self._find(path)
        assert found is not None
        self.results.remove(found)
        return found

    def _find(self, path: str) -> Result | None:
        return next((r for r in self.hear().results if r.path == path), None)

    async def until_planned(self, path: str) -> None:
        """Until a plan names the step at `path`."""
        await until(f"{path!r} is planned", lambda: any(s.path == path for p in self.hear().plans for s in p.steps))

    async def play(self, flow: FlowFunction[..., Any]) -> BodyEnded:
        """Run a flow to its end as an engine would, without retries."""
        self.start(flow)
        while True:
            await until("the body says something", lambda: self.hear().plans or self.results)
            plans, self.plans = self.plans, []
            self.journal += plans
            for plan in plans:
                executes = [
                    Execute(s.path, 1, self.next_fence(), s.kind, s.name, s.input, s.timeout)
                    for s in plan.steps
                    if not s.started
                ]
                if executes:
                    self.say(executes=executes)
                if plan.body_ended is not None:
                    self.ack()
                    return plan.body_ended
            results, self.results = self.results, []
            for result in results:
                self.release(StepOutcome(result.path, result.output, result.failure))


def ran(flow_entries: Sequence[Plan | Release]) -> list[str]:
    """Steps of a journal, in the order of their releases."""
    return [o.path for e in flow_entries if isinstance(e, Release) for o in e.outcomes]
