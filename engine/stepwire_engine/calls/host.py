"""The host inside the engine: it takes Executes of `call` steps from the driver and makes the requests.

To the core it is a host like every other, with one fixed instance id, so that after a restart its return is the
first thing the engine sees and nothing waits for it. There is a task per request and none besides. It must not
decide anything about runs, and must not call the driver from inside of the driver's own calls.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from stepwire.protocol import limits
from stepwire.protocol.failure import ErrorCode, Failure, Retryable
from stepwire.protocol.frames import CancelReason, EngineFrame, Execute, Fault, Hello, HostFrame, Result
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import CALL_STEP
from stepwire_engine.calls.destinations import Destinations
from stepwire_engine.calls.exchange import CallFailed, idempotency_key
from stepwire_engine.calls.request import Caller
from stepwire_engine.calls.resolver import Resolve, Resolver
from stepwire_engine.calls.session import CallSession, Key
from stepwire_engine.scheduler.ports import ENGINE_INSTANCE, Attached, Port

SERVICE = "stepwire"
REDIAL_SECONDS = 0.5
"""From the end of a stream, as after a commit that the store refused, to the next one."""
_log = logging.getLogger("stepwire.engine.calls")


class Engine(Protocol):
    """What the host needs of the driver."""

    def connect(self, hello: Hello, port: Port) -> Attached | Fault: ...

    def receive(self, attached: Attached, frame: HostFrame) -> None: ...

    def disconnected(self, attached: Attached) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """How calls are made.

    Attributes:
        allow: Networks and host names that may be called besides the public Internet.
        slots: Requests at once, at least 1.
        response_bytes_max: Longest body of an answer.
        payload_bytes_max: Longest output of a step.
        timeout_max: Longest attempt in seconds, whatever timeout the step has.
        secrets: What headers may name, by name. Never part of a message, a log or an output.
    """

    allow: tuple[str, ...] = ()
    slots: int = 256
    response_bytes_max: int = 1024 * 1024
    payload_bytes_max: int = limits.PAYLOAD_BYTES_MAX
    timeout_max: float = 12 * 3600.0
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


class _Link:
    """One stream to the driver; the Port of its session."""

    def __init__(self, host: CallHost) -> None:
        self._host = host
        self._open = True
        self.attached: Attached | None = None

    def send(self, frame: EngineFrame) -> None:
        """The engine says something."""
        if self._open:
            self._host.hear(frame)

    def close(self) -> None:
        """The engine ends the stream."""
        if self._open:
            self._open = False
            self._host.lost(self)

    def cut(self) -> None:
        """The host ends it: nothing arrives any more."""
        self._open = False


class _Attempt:
    """A request in progress. `stop` says why it must end, if it must."""

    __slots__ = ("execute", "key", "limit", "since", "stop")

    def __init__(self, key: Key, execute: Execute, limit: float, since: float) -> None:
        self.key = key
        self.execute = execute
        self.limit = limit
        self.since = since
        self.stop: CancelReason | None = None


class CallHost:
    """The built-in host of one engine. Everything happens on the loop that called `start`.

    Args:
        engine: The driver, started.
        resolve: For tests; None: the resolver of this machine.
        tls: For tests; None: what this machine trusts.
    """

    def __init__(
        self,
        engine: Engine,
        settings: CallSettings,
        *,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._session = CallSession(
            Hello(SERVICE, ENGINE_INSTANCE, steps=(CALL_STEP,), slots=settings.slots, bodies=0, sdk_language="engine")
        )
        self._caller = Caller(
            Destinations(settings.allow),
            resolve or Resolver(),
            response_bytes_max=settings.response_bytes_max,
            payload_bytes_max=settings.payload_bytes_max,
            secrets=settings.secrets,
            tls=tls,
        )
        self._link = _Link(self)
        self._tasks: dict[asyncio.Task[Payload], _Attempt] = {}
        self._speaking: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    @property
    def calls_in_progress(self) -> int:
        """Attempts whose outcome the driver does not have yet."""
        return self._session.in_progress

    # ---- life

    def start(self) -> None:
        """Say Hello. The engine's Welcome follows through the link."""
        self._dial()

    async def stop(self) -> None:
        """Give everything in progress back, which counts as no attempt, and say goodbye. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self._session.say_goodbye("engine stops")
        self._send_frames()
        self._hang_up()
        for handle in (self._speaking, self._timer):
            if handle is not None:
                handle.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._caller.close()

    def _dial(self) -> None:
        self._link = _Link(self)
        attached = self._engine.connect(self._session.connect(self._loop.time()), self._link)
        if isinstance(attached, Fault):
            _log.debug("the engine takes no calls now: %s", attached.message)
            self._hang_up()
            self._after(REDIAL_SECONDS, self._dial)
        else:
            self._link.attached = attached

    def lost(self, link: _Link) -> None:
        """The engine ended a stream. It is told later that the stream is gone, as by every transport."""
        if not self._stopped:
            self._loop.call_soon(self._redial, link)

    def _redial(self, link: _Link) -> None:
        if link is self._link and not self._stopped:
            self._hang_up()
            self._after(REDIAL_SECONDS, self._dial)

    def _hang_up(self) -> None:
        self._link.cut()
        self._session.disconnect()
        if self._link.attached is not None:
            self._engine.disconnected(self._link.attached)

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        """Do this next by time, and nothing else: the next Report of a stream, or the next stream."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, what)

    # ---- frames

    def hear(self, frame: EngineFrame) -> None:
        """A frame of the engine."""
        orders = self._session.receive(frame, self._loop.time())
        for key, execute in orders.begin:
            self._begin(key, execute)
        for key, reason in orders.stop:
            self._stop_attempt(key, reason)
        self._ring()

    def _ring(self) -> None:
        """There may be something to say: say it once, after everything else that is ready now."""
        if self._speaking is None and not self._stopped:
            self._speaking = self._loop.call_soon(self._speak)

    def _speak(self) -> None:
        self._speaking = None
        self._send_frames()
        due = self._session.next_report()
        if due is not None:
            self._after(max(0.0, due - self._loop.time()), self._speak)

    def _send_frames(self) -> None:
        attached = self._link.attached
        while attached is not None and (frame := self._session.take_frame(self._loop.time())) is not None:
            self._engine.receive(attached, frame)

    # ---- attempts

    def _begin(self, key: Key, execute: Execute) -> None:
        limit = min(execute.timeout or self._settings.timeout_max, self._settings.timeout_max)
        attempt = _Attempt(key, execute, limit, self._loop.time())
        task = self._loop.create_task(self._perform(attempt))
        self._tasks[task] = attempt
        task.add_done_callback(self._ended)

    async def _perform(self, attempt: _Attempt) -> Payload:
        assert attempt.execute.call is not None
        async with asyncio.timeout(attempt.limit):
            return await self._caller.perform(
                attempt.execute.call, idempotency_key(*attempt.key), attempt.execute.traceparent
            )

    def _stop_attempt(self, key: Key, reason: CancelReason) -> None:
        for task, attempt in self._tasks.items():
            if attempt.key == key and attempt.stop is None:
                attempt.stop = reason
                task.cancel()

    def _ended(self, task: asyncio.Task[Payload]) -> None:
        attempt = self._tasks.pop(task)
        if self._stopped:
            return  # It was given back.
        failure = _failure(attempt, task)
        output = task.result() if failure is None else None
        elapsed = max(0.0, self._loop.time() - attempt.since)
        execute = attempt.execute
        result = Result(execute.path, execute.attempt, execute.fence, output, failure, elapsed)
        self._session.finish(attempt.key, result)
        self._ring()


def _failure(attempt: _Attempt, task: asyncio.Task[Payload]) -> Failure | None:
    """Why the attempt has no output; None: it has one."""
    path = attempt.execute.path
    if attempt.stop is CancelReason.TIMEOUT:
        return _timed_out(attempt)
    if attempt.stop is not None or task.cancelled():
        reason = (attempt.stop or CancelReason.DRAIN).name.lower()
        message = f"step {path!r} was cancelled: {reason}"
        return Failure(ErrorCode.CANCELLED, "Cancelled", message, retryable=Retryable.NO)
    match task.exception():
        case None:
            return None
        case CallFailed() as failed:
            return failed.failure
        case TimeoutError():
            return _timed_out(attempt)
        case error:
            _log.error("a call failed in the engine, step %s of run %s", path, attempt.key[0], exc_info=error)
            message = "the engine failed on this call; its log says why"
            return Failure(ErrorCode.INTERNAL, "InternalError", message)


def _timed_out(attempt: _Attempt) -> Failure:
    message = f"step {attempt.execute.path!r} was not finished within its timeout of {attempt.limit:g} s"
    if attempt.limit != attempt.execute.timeout:
        message += " (call_timeout_max)"
    return Failure(ErrorCode.TIMEOUT, "StepTimeout", message)
