"""`ctx.step`: durable steps of every kind, for async flows and, without await, for sync ones (MISSION S1).

Every method makes a request and hands it to one plan function. Methods of the two classes differ in nothing but
how they wait; the docstrings of `Step` hold for both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from msgspec import UNSET

from stepwire._context import performed
from stepwire._runtime.request import StepRequest
from stepwire.compensation import Compensate
from stepwire.events import Event, Match
from stepwire.flow import FlowFunction
from stepwire.http import EngineSecret, HttpResult
from stepwire.redaction import Redact
from stepwire.retry import Duration, Retry

if TYPE_CHECKING:
    from stepwire.context import Context, ContextSync

T = TypeVar("T")
CALL_TIMEOUT: Duration = "30s"


class Step:
    """`ctx.step` of an async flow."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def _plan(self, what: str, name: str, request: StepRequest) -> asyncio.Future[Any]:
        scope = self._ctx._scope(f"ctx.step.{what}", name)
        return self._ctx._body.plan_step(scope, name, request)

    @overload
    def run(
        self,
        name: str,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
        deadline: Duration | None = None,
        compensate: Compensate | None = None,
        abandon_after: Duration | None = None,
        redact: Redact = (),
        **kwargs: Any,
    ) -> asyncio.Future[T]: ...

    @overload
    def run(
        self,
        name: str,
        fn: Callable[..., T],
        /,
        *args: Any,
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
        deadline: Duration | None = None,
        compensate: Compensate | None = None,
        abandon_after: Duration | None = None,
        redact: Redact = (),
        **kwargs: Any,
    ) -> asyncio.Future[T]: ...

    def run(
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
        deadline: Duration | None = None,
        compensate: Compensate | None = None,
        abandon_after: Duration | None = None,
        redact: Redact = (),
        **kwargs: Any,
    ) -> asyncio.Future[Any]:
        """Run `fn(*args, **kwargs)` as a durable step (MISSION S1).

        The step is planned at the call; await the result, alone or with others. A registered step
        (`@host.step`) may run on any host that serves it, anything else runs in this process.

        Args:
            name: Names the step within its branch, 1..256 bytes; repeats get `#2`, `#3`, ...
            fn: Async or plain function; a plain one runs on a thread.
            retries: Tries after the first, or a Retry; None: 3, exponential from 1 s, or the step's own.
            timeout: Longest duration of one attempt; None: no limit, or the step's own.
            deadline: Time from now within which it must succeed, all attempts and delays included; more than 0.
            compensate: Undoes the step if the run fails after it succeeded: `undo(output)` or
                `undo(output, error)`, a registered step, or a Compensation (MISSION S8).
            abandon_after: How long an attempt that was told to stop may go on before this host gives it up:
                then the next may begin beside it, and its late result is dropped. None: never.
            redact: What of it is not for human eyes: its "output", the texts of its "failure", or both. Of a
                registered step @host.step says it (MISSION V7).

        Raises:
            StepError: when awaited, if the step failed after its retries.
            NestedStepError, AmbiguousStep, InvalidStepName, LimitExceeded, InvalidInput, ConfigurationError: at
                the call; nothing was planned.
        """
        ctx = self._ctx
        scope = ctx._scope("ctx.step.run", name)
        request = ctx._prepare(name, fn, args, kwargs, retries, timeout, deadline, compensate, abandon_after, redact)
        return ctx._body.plan_step(scope, name, request)

    def sleep(self, name: str, duration: Duration) -> asyncio.Future[None]:
        """Let time pass, durably and without holding anything of a host (MISSION S17).

        Args:
            duration: 0..366 days, for example "10s", "1.5h", "1w"; units ms, s, m, h, d, w.
        """
        return self._plan("sleep", name, performed.sleep(duration))

    def sleep_until(self, name: str, when: datetime) -> asyncio.Future[None]:
        """Sleep until a time of the engine's clock; a past time ends at once (MISSION S17).

        Raises:
            ValueError: `when` has no time zone.
        """
        return self._plan("sleep_until", name, performed.sleep_until(when))

    def wait_event(
        self,
        name: str,
        event: str,
        *,
        match: Match | None = None,
        timeout: Duration | None = None,
        lookback: Duration | None = None,
    ) -> asyncio.Future[Event | None]:
        """Wait for the next event of a name; None after the timeout (MISSION S18).

        Args:
            event: Name of the event, 1..256 bytes.
            match: Which of them. A mapping names values that must be equal, by path: {"data.order_id": 17,
                "data.items[0].sku": "a"}. Text is one JMESPath expression over {name, id, data, at}, at most
                1 KiB: never build it from values, which a mapping quotes for you.
            timeout: None waits for ever; 0 takes only what `lookback` finds.
            lookback: Events of this long before now count as well, the oldest first; engines keep 24 hours.
        """
        return self._plan("wait_event", name, performed.wait_event(event, match, timeout, lookback))

    def send_event(self, name: str, events: Event | Sequence[Event]) -> asyncio.Future[tuple[str, ...]]:
        """Send one event, or up to 100 together, exactly once; returns their ids (MISSION I15, T1)."""
        return self._plan("send_event", name, performed.send_event(events))

    @overload
    def invoke(
        self,
        name: str,
        flow: FlowFunction[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        id: str = "",
        deadline: Duration | None = None,
        retries: int | Retry = 0,
    ) -> asyncio.Future[T]: ...

    @overload
    def invoke(
        self,
        name: str,
        flow: FlowFunction[..., T],
        /,
        *args: Any,
        id: str = "",
        deadline: Duration | None = None,
        retries: int | Retry = 0,
    ) -> asyncio.Future[T]: ...

    @overload
    def invoke(
        self,
        name: str,
        flow: performed.TypedFlow | str,
        /,
        *args: Any,
        id: str = "",
        deadline: Duration | None = None,
        retries: int | Retry = 0,
    ) -> asyncio.Future[Any]: ...

    def invoke(
        self,
        name: str,
        flow: performed.TypedFlow | str,
        /,
        *args: Any,
        id: str = "",
        deadline: Duration | None = None,
        retries: int | Retry = 0,
    ) -> asyncio.Future[Any]:
        """Run another flow as a run of its own, and take over its outcome (MISSION S19).

        Args:
            flow: A flow object, for typed input and output; or the name of one that any host serves, in any
                language, for plain JSON.
            args: Its input, if it takes one.
            id: Idempotency key of the child, at most 256 bytes. The step fails if any run has it already, and is
                not retried.
            deadline: Time from now within which it must have ended; then it is cancelled.
            retries: New runs after one that failed, or a Retry.

        Raises:
            StepError: when awaited, if the child failed or was cancelled.
            InvalidInput: the input does not fit the flow; nothing was planned.
        """
        codec = self._ctx._body.host.codec
        return self._plan("invoke", name, performed.invoke(flow, args, codec, id, deadline, retries))

    def call(
        self,
        name: str,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str | EngineSecret] | None = None,
        json: Any = UNSET,
        body: bytes | str | None = None,
        timeout: Duration = CALL_TIMEOUT,
        retries: int | Retry = 0,
        deadline: Duration | None = None,
        redact: Redact = (),
    ) -> asyncio.Future[HttpResult]:
        """Let the engine make an HTTP request; any answer is a result, also status 404 or 500 (MISSION S16, U4).

        Args:
            url: http or https, at most 8 KiB; the engine's destination policy decides whether it is called.
            headers: At most 100; never shown in a record. An EngineSecret stands for a value that only the engine has.
            json: Sent as JSON, with that content type unless `headers` has one; not together with `body`.
            body: Sent as it is; text as UTF-8.
            timeout: Longest duration of one attempt.
            retries: Tries after one that got no answer, or a Retry.
            deadline: Time from now, all attempts included.
            redact: "output", if the answer is not for human eyes. What is sent is shown nowhere.

        Raises:
            StepError: when awaited, if no attempt got an answer.
        """
        request = performed.call(url, method, headers, json, body, timeout, retries, deadline, redact)
        return self._plan("call", name, request)


class StepSync:
    """`ctx.step` of a plain `def` flow: the same, without await."""

    def __init__(self, ctx: ContextSync) -> None:
        self._ctx = ctx

    def _plan(self, what: str, name: str, request: StepRequest) -> Any:
        scope = self._ctx._scope(f"ctx.step.{what}", name)
        return self._ctx._wait(lambda: self._ctx._body.plan_step(scope, name, request))

    def run(
        self,
        name: str,
        fn: Callable[..., T],
        /,
        *args: Any,
        retries: int | Retry | None = None,
        timeout: Duration | None = None,
        deadline: Duration | None = None,
        compensate: Compensate | None = None,
        abandon_after: Duration | None = None,
        redact: Redact = (),
        **kwargs: Any,
    ) -> T:
        """Run `fn(*args, **kwargs)` as a durable step and wait for its result; see `Step.run`."""
        ctx = self._ctx
        scope = ctx._scope("ctx.step.run", name)
        request = ctx._prepare(name, fn, args, kwargs, retries, timeout, deadline, compensate, abandon_after, redact)
        return ctx._wait(lambda: ctx._body.plan_step(scope, name, request))  # type: ignore[no-any-return]

    def sleep(self, name: str, duration: Duration) -> None:
        """Let time pass, durably; see `Step.sleep`."""
        self._plan("sleep", name, performed.sleep(duration))

    def sleep_until(self, name: str, when: datetime) -> None:
        """Sleep until a time of the engine's clock; see `Step.sleep_until`."""
        self._plan("sleep_until", name, performed.sleep_until(when))

    def wait_event(
        self,
        name: str,
        event: str,
        *,
        match: Match | None = None,
        timeout: Duration | None = None,
        lookback: Duration | None = None,
    ) -> Event | None:
        """Wait for the next event of a name; None after the timeout; see `Step.wait_event`."""
        request = performed.wait_event(event, match, timeout, lookback)
        return self._plan("wait_event", name, request)  # type: ignore[no-any-return]

    def send_event(self, name: str, events: Event | Sequence[Event]) -> tuple[str, ...]:
        """Send one event, or up to 100 together, exactly once; returns their ids; see `Step.send_event`."""
        return self._plan("send_event", name, performed.send_event(events))  # type: ignore[no-any-return]

    @overload
    def invoke(
        self,
        name: str,
        flow: FlowFunction[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        id: str = "",
        deadline: Duration | None = None,
        retries: int | Retry = 0,
    ) -> T: ...

    @overload
    def invoke(
        self,
        name: str,
        flow: FlowFunction[..., T],
        /,
        *args: Any,
        id: str = "",
        deadline: Duration | None = None,
        retries: int | Retry = 0,
    ) -> T: ...

    @overload
    def invoke(
        self,
        name: str,
        flow: performed.TypedFlow | str,
        /,
        *args: Any,
        id: str = "",
        deadline: Duration | None = None,
        retries: int | Retry = 0,
    ) -> Any: ...

    def invoke(
        self,
        name: str,
        flow: performed.TypedFlow | str,
        /,
        *args: Any,
        id: str = "",
        deadline: Duration | None = None,
        retries: int | Retry = 0,
    ) -> Any:
        """Run another flow as a run of its own and wait for its outcome; see `Step.invoke`."""
        codec = self._ctx._body.host.codec
        return self._plan("invoke", name, performed.invoke(flow, args, codec, id, deadline, retries))

    def call(
        self,
        name: str,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str | EngineSecret] | None = None,
        json: Any = UNSET,
        body: bytes | str | None = None,
        timeout: Duration = CALL_TIMEOUT,
        retries: int | Retry = 0,
        deadline: Duration | None = None,
        redact: Redact = (),
    ) -> HttpResult:
        """Let the engine make an HTTP request and wait for the answer; see `Step.call`."""
        request = performed.call(url, method, headers, json, body, timeout, retries, deadline, redact)
        return self._plan("call", name, request)  # type: ignore[no-any-return]
