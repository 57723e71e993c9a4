"""The built-in host with an engine that is the test: it sends Executes by hand and sees every frame of the host."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from stepwire.protocol.failure import Failure
from stepwire.protocol.frames import (
    Cancel,
    CancelReason,
    Drain,
    EngineFrame,
    EngineSection,
    Execute,
    Fault,
    Hello,
    HostFrame,
    Reject,
    Report,
    Result,
    Welcome,
)
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import CALL_STEP, Call, Fence, StepKind
from stepwire_engine.calls.host import CallHost, CallSettings
from stepwire_engine.calls.resolver import Resolve
from stepwire_engine.scheduler.ports import Attached, Port

LOOPBACK = CallSettings(allow=("127.0.0.0/8",))
RUN = "run1"


class FakeEngine:
    """A driver without a core. It acks every durable frame, unless `acking` is off."""

    def __init__(self) -> None:
        self.hellos: list[Hello] = []
        self.frames: list[HostFrame] = []
        self.streams = 0
        self.ended = 0
        self.refusal: Fault | None = None
        self.acking = True
        self.heartbeat = 1000.0
        self.changed = asyncio.Condition()
        self._port: Port | None = None
        self._number = 0
        self._fence = 0
        self._waking: set[asyncio.Task[None]] = set()

    # ---- what the host calls

    def connect(self, hello: Hello, port: Port) -> Attached | Fault:
        self.hellos.append(hello)
        self._wake()
        if self.refusal is not None:
            return self.refusal
        self.streams += 1
        self._number = 0
        self._port = port
        asyncio.get_running_loop().call_soon(self._welcome)
        return cast(Attached, SimpleNamespace(stream=self.streams))

    def receive(self, attached: Attached, frame: HostFrame) -> None:
        assert attached.stream == self.streams
        self.frames.append(frame)
        if frame.position and self.acking:
            self.send(EngineFrame(acked_position=frame.position))
        self._wake()

    def disconnected(self, attached: Attached) -> None:
        self.ended += 1
        self._wake()

    def _wake(self) -> None:
        async def notify() -> None:
            async with self.changed:
                self.changed.notify_all()

        task = asyncio.get_running_loop().create_task(notify())
        self._waking.add(task)
        task.add_done_callback(self._waking.discard)

    # ---- what the engine says

    def _welcome(self) -> None:
        self.send(EngineFrame(welcome=Welcome("s1", heartbeat_interval=self.heartbeat)))

    def send(self, frame: EngineFrame) -> None:
        assert self._port is not None
        self._number += 1
        frame.number = self._number
        self._port.send(frame)

    def execute(
        self, call: Call | None, path: str = "call", *, attempt: int = 1, timeout: float | None = None, run: str = RUN
    ) -> Fence:
        self._fence += 1
        fence = Fence(1, self._fence)
        execute = Execute(path, attempt, fence, StepKind.CALL, CALL_STEP, timeout=timeout, flow="checkout", call=call)
        self.send(EngineFrame(runs=[EngineSection(run, executes=[execute])]))
        return fence

    def cancel(self, path: str, fence: Fence, reason: CancelReason = CancelReason.RUN_CANCELLED) -> None:
        self.send(EngineFrame(runs=[EngineSection(RUN, cancels=[Cancel(path, fence, reason)])]))

    def drain(self) -> None:
        self.send(EngineFrame(drain=Drain(1.0)))

    def close(self) -> None:
        """End the stream."""
        assert self._port is not None
        self._port.close()

    # ---- what the host said

    @property
    def results(self) -> list[Result]:
        return [result for frame in self.frames for section in frame.runs for result in section.results]

    @property
    def rejects(self) -> list[Reject]:
        return [reject for frame in self.frames for section in frame.runs for reject in section.rejects]

    @property
    def reports(self) -> list[Report]:
        return [frame.report for frame in self.frames if frame.report is not None]

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for frames or streams until `condition` holds."""
        async with self.changed:
            await self.changed.wait_for(condition)


class Desk:
    """One host and its engine."""

    def __init__(self, engine: FakeEngine, host: CallHost) -> None:
        self.engine = engine
        self.host = host

    async def result(self, call: Call, *, timeout: float | None = None) -> Result:
        """Execute a call and wait for its result."""
        count = len(self.engine.results)
        self.engine.execute(call, timeout=timeout)
        await self.engine.until(lambda: len(self.engine.results) > count)
        return self.engine.results[-1]

    async def output(self, call: Call) -> dict[str, Any]:
        result = await self.result(call)
        assert result.failure is None and result.output is not None, result.failure
        return decoded(result.output)

    async def failure(self, call: Call, *, timeout: float | None = None) -> Failure:
        result = await self.result(call, timeout=timeout)
        assert result.failure is not None and result.output is None, result.output
        return result.failure


def decoded(output: Payload) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(output.data)
    return found


class Names:
    """A resolver: a list of addresses a name, or one list for each time it is asked."""

    def __init__(self, **names: list[str] | list[list[str]]) -> None:
        self._names = {name.replace("_", "."): deque(answers) for name, answers in names.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        answers: Any = self._names[host.rstrip(".")]
        if isinstance(answers[0], list):
            return list(answers.popleft() if len(answers) > 1 else answers[0])
        return list(answers)


@contextlib.asynccontextmanager
async def desk(
    settings: CallSettings = LOOPBACK, *, resolve: Resolve | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Desk]:
    engine = FakeEngine()
    host = CallHost(engine, settings, resolve=resolve, tls=tls)
    host.start()
    await asyncio.sleep(0)
    try:
        yield Desk(engine, host)
    finally:
        await host.stop()


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())
