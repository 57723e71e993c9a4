"""Undos on the host: what they are called with, where their closures come from, and how they end (MISSION S8, O9)."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest

import stepwire
from stepwire._runtime.undo import UndoCall, registered_undo, step_name
from stepwire.codec import JSON_CODEC
from stepwire.flow import StepFunction
from stepwire.hooks import HOOK_KINDS, HookCall
from stepwire.protocol.failure import ErrorCode, Retryable
from stepwire.protocol.frames import RejectReason, UndoInput
from stepwire.protocol.payload import NULL, Payload
from tests.sdk.gates import PATIENCE_SECONDS, until
from tests.sdk.host_desk import HostDesk
from tests.sdk.sagas import BROKEN, SHARED, Booking, Saga, Undo, reach

ASYNC_FLOW = pytest.mark.parametrize("is_async", [True, False], ids=["async-flow", "sync-flow"])
WAYS = pytest.mark.parametrize("way", ["live", "replay"])
SHORT = 0.05


# ---- what they are called with


@ASYNC_FLOW
@WAYS
@pytest.mark.parametrize("undo_is_async", [True, False], ids=["async-undo", "sync-undo"])
def test_an_undo_gets_the_output_of_its_step_and_why_the_run_failed(
    undo_is_async: bool, way: str, is_async: bool
) -> None:
    seen: list[tuple[Booking, stepwire.StepError]] = []

    async def undo_async(booking: Booking, error: stepwire.StepError) -> str:
        seen.append((booking, error))
        return "undone"

    def undo_sync(booking: Booking, error: stepwire.StepError) -> str:
        seen.append((booking, error))
        return "undone"

    async def main() -> None:
        desk = await reach(lambda: Saga(undo_async if undo_is_async else undo_sync, is_async=is_async), way)
        desk.undo("book", b'{"id":7,"seat":"3A"}', failure=BROKEN)
        result = await desk.until_result("book#undo")
        desk.runtime.close()
        assert (result.failure, result.output) == (None, Payload(b'"undone"'))
        ((booking, error),) = seen
        assert booking == Booking(7, "3A"), "decoded by the annotation of the step"
        assert isinstance(error, stepwire.StepError)
        assert (error.type, error.message) == ("ValueError", "broken")

    asyncio.run(main())


def bound(fn: Undo) -> list[Any]:
    """The arguments that an undo function gets."""
    seen: list[Any] = []

    @functools.wraps(fn)
    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.extend(args)
        return fn(*args, **kwargs)

    async def main() -> None:
        saga = Saga(spy)
        async with HostDesk(saga.host) as desk:
            await desk.play(saga.flow)
            desk.undo("book", b'{"id":7,"seat":"3A"}', failure=BROKEN)
            result = await desk.until_result("book#undo")
            assert result.failure is None, result.failure

    asyncio.run(main())
    return seen


class Seats:
    def give_back(self, booking: Booking) -> None: ...
    def give_back_because(self, booking: Booking, error: stepwire.StepError | None) -> None: ...


@pytest.mark.parametrize(
    ("fn", "count"),
    [
        (lambda: None, 0),
        (lambda out: None, 1),
        (lambda out, error: None, 2),
        (lambda out, error=None: None, 2),
        (lambda out, i=3: None, 1),
        (lambda *, log=None: None, 0),
        (lambda out, *more: None, 1),
        (lambda *args: None, 1),
        (functools.partial(lambda seat, out: None, "3A"), 1),
        (Seats().give_back, 1),
        (Seats().give_back_because, 2),
    ],
    ids=["none", "output", "both", "both-optional", "bound", "named", "more", "any", "partial", "method", "method-2"],
)
def test_the_arguments_follow_from_the_positional_parameters(fn: Undo, count: int) -> None:
    """A default that is not None was bound where the function was made: the failure must not replace it."""
    call = UndoCall(fn, JSON_CODEC, Any, None, False).call(UndoInput(Payload(b"1"), BROKEN))  # type: ignore[arg-type]
    assert len(call.args) == count
    assert call.args[:1] == ((1,) if count else ())


def test_a_wrapped_function_is_asked_for_what_it_wraps() -> None:
    assert bound(lambda out: None) == [Booking(7, "3A")]


def test_a_cancelled_run_has_no_failure_to_tell() -> None:
    seen: list[Any] = []

    async def main() -> None:
        saga = Saga(lambda out, error: seen.append(error))
        async with HostDesk(saga.host) as desk:
            await desk.play(saga.flow)
            desk.undo("book", b'{"id":7,"seat":"3A"}')
            await desk.until_result("book#undo")

    asyncio.run(main())
    assert seen == [None]


@WAYS
def test_an_undo_runs_in_the_context_of_the_call_that_planned_the_step(way: str) -> None:
    seen: list[Any] = []

    def undo(booking: Booking) -> None:
        attempt = stepwire.current_attempt()
        assert attempt is not None
        seen.append((SHARED.get(), attempt.path, attempt.attempt, attempt.idempotency_key))
        SHARED.set("by the undo")
        if attempt.attempt == 1:
            raise OSError

    async def main() -> None:
        desk = await reach(lambda: Saga(undo), way)
        desk.undo("book", b'{"id":7,"seat":"3A"}', failure=BROKEN)
        first = await desk.until_result("book#undo")
        assert first.failure is not None and first.failure.type == "OSError"
        desk.undo("book", b'{"id":7,"seat":"3A"}', failure=BROKEN, attempt=2)
        second = await desk.until_result("book#undo")
        assert second.failure is None and second.attempt == 2
        desk.runtime.close()

    asyncio.run(main())
    assert [s[:3] for s in seen] == [("by the flow", "book#undo", 1), ("by the flow", "book#undo", 2)]
    assert len({s[3] for s in seen}) == 1


@ASYNC_FLOW
def test_durable_calls_are_refused_inside_an_undo_as_inside_a_step(is_async: bool) -> None:
    async def main() -> None:
        contexts: list[Any] = []
        host = stepwire.Host("saga")

        async def nested(out: Any) -> None:
            await contexts[0].step.run("more", int)

        def nested_sync(out: Any) -> None:
            contexts[0].step.run("more", int)

        async def in_tasks(ctx: stepwire.Context) -> None:
            contexts.append(ctx)
            await ctx.step.run("book", int, compensate=nested)
            raise ValueError

        def in_threads(ctx: stepwire.ContextSync) -> None:
            contexts.append(ctx)
            ctx.step.run("book", int, compensate=nested_sync)
            raise ValueError

        flow = host.flow(in_tasks if is_async else in_threads)
        async with HostDesk(host) as desk:
            await desk.play(flow)
            desk.undo("book", b"0")
            result = await desk.until_result("book#undo")
            assert result.failure is not None and result.failure.code is ErrorCode.NESTED_STEP
            assert desk.hear().plans == []

    asyncio.run(main())


def test_an_output_that_does_not_fit_the_annotation_any_more_is_no_second_try() -> None:
    async def main() -> None:
        saga = Saga(lambda out: None)
        async with HostDesk(saga.host) as desk:
            await desk.play(saga.flow)
            desk.undo("book", b'{"id":"seven"}')
            result = await desk.until_result("book#undo")
            assert result.failure is not None
            assert (result.failure.code, result.failure.retryable) == (ErrorCode.INVALID_INPUT, Retryable.NO)
            assert desk.port.session.free_slots == desk.port.session.slots

    asyncio.run(main())


@pytest.mark.parametrize("task", ["", "release"], ids=["closure", "registered"])
def test_what_an_undo_returns_never_makes_it_fail(task: str) -> None:
    """Nobody gets it: what was done is done, whether its value can be recorded or not."""

    def undo(booking: Booking) -> int:
        return object()  # type: ignore[return-value]

    saga = Saga(undo)
    saga.host.step(name="release")(undo)

    async def main() -> None:
        async with HostDesk(saga.host) as desk:
            await desk.play(saga.flow)
            desk.undo("book", b'{"id":7,"seat":"3A"}', task=task)
            result = await desk.until_result("book#undo")
            assert (result.output, result.failure) == (NULL, None)

    asyncio.run(main())


# ---- timeouts, cancellation, retries


@pytest.mark.parametrize("told", ["timeout", "cancel"])
@pytest.mark.parametrize("undo_is_async", [True, False], ids=["async-undo", "sync-undo"])
def test_an_undo_is_told_to_stop_like_any_attempt(undo_is_async: bool, told: str) -> None:
    seen: list[str] = []

    async def in_task(out: Any) -> None:
        seen.append("began")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("stopped")
            raise

    def on_thread(out: Any) -> None:
        seen.append("began")
        attempt = stepwire.current_attempt()
        assert attempt is not None and attempt.wait_cancelled(PATIENCE_SECONDS)
        seen.append("stopped")

    async def main() -> None:
        saga = Saga(in_task if undo_is_async else on_thread)
        async with HostDesk(saga.host) as desk:
            await desk.play(saga.flow)
            fence = desk.undo("book", b'{"id":7,"seat":"3A"}', timeout=SHORT if told == "timeout" else None)
            if told == "cancel":
                await until("it runs", lambda: seen)
                desk.cancel("book#undo", fence)
            result = await desk.until_result("book#undo")
            assert result.failure is not None
            assert result.failure.code is (ErrorCode.TIMEOUT if told == "timeout" else ErrorCode.CANCELLED)

    asyncio.run(main())
    assert seen == ["began", "stopped"]


def test_exceptions_that_the_compensation_forbids_to_retry() -> None:
    def undo(out: Any) -> None:
        raise PermissionError

    async def main() -> None:
        saga = Saga(stepwire.Compensation(undo, retries=stepwire.Retry(non_retryable=[OSError])))
        async with HostDesk(saga.host) as desk:
            await desk.play(saga.flow)
            desk.undo("book", b'{"id":7,"seat":"3A"}')
            result = await desk.until_result("book#undo")
            assert result.failure is not None and result.failure.retryable is Retryable.NO

    asyncio.run(main())


# ---- registered steps


def test_a_registered_undo_needs_no_body_and_decodes_by_its_own_annotation() -> None:
    host = stepwire.Host("undoes")
    seen: list[Any] = []

    @host.step
    async def release(booking: Booking, error: stepwire.StepError | None) -> int:
        seen.append((booking, error))
        return booking.id

    @host.step
    def plain(booking: Any) -> None:
        seen.append(booking)

    async def main() -> None:
        async with HostDesk(host) as desk:
            desk.undo("book", b'{"id":7,"seat":"3A"}', task="release")
            result = await desk.until_result("book#undo")
            assert result.output == Payload(b"7")
            desk.undo("other", b'{"id":7}', task="plain")
            assert (await desk.until_result("other#undo")).failure is None
            desk.undo("misfit", b'{"id":7}', task="release")
            misfit = (await desk.until_result("misfit#undo")).failure
            assert misfit is not None and misfit.code is ErrorCode.INVALID_INPUT
            desk.undo("unknown", b"1", task="nobody knows it")
            assert [r.reason for r in desk.hear().rejects] == [RejectReason.NOT_SERVED]

    asyncio.run(main())
    assert seen == [(Booking(7, "3A"), None), {"id": 7}]


def test_a_registered_undo_is_called_like_a_closure() -> None:
    step = StepFunction(lambda out, i=3: None, name="undo")
    assert registered_undo(step, UndoInput(Payload(b"1"), BROKEN)).args == (1,)


# ---- stubs and hooks


@pytest.mark.parametrize("task", ["", "release"], ids=["closure", "registered"])
def test_stubs_stand_in_for_undos_by_the_name_of_the_step(task: str) -> None:
    ran: list[Any] = []
    saga = Saga(ran.append)
    saga.host.step(name="release")(ran.append)

    async def main() -> None:
        async with HostDesk(saga.host) as desk:
            desk.runtime.stubs = {"book#undo": lambda out: "stub", "release": "not this one"}
            await desk.play(saga.flow)
            desk.undo("book", b'{"id":7,"seat":"3A"}', task=task)
            assert (await desk.until_result("book#undo")).output == Payload(b'"stub"')
            desk.runtime.stubs = {"book#undo": OSError("stubbed")}
            desk.undo("book", b'{"id":7,"seat":"3A"}', task=task, attempt=2)
            failure = (await desk.until_result("book#undo")).failure
            assert failure is not None and failure.type == "OSError"

    asyncio.run(main())
    assert ran == []


def test_a_stub_of_a_registered_step_stands_in_where_it_undoes() -> None:
    host = stepwire.Host("stubs")

    @host.step
    def release(out: Any) -> str:
        raise AssertionError("a stubbed step ran")

    async def main() -> None:
        async with HostDesk(host) as desk:
            desk.runtime.stubs = {"release": "stub"}
            desk.undo("book", b"1", task="release")
            assert (await desk.until_result("book#undo")).output == Payload(b'"stub"')

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("book", "book"),
        ("book#undo", "book"),
        ("book#2#undo", "book"),
        ("parallel#2/[1]/a%2Fb#undo", "a/b"),
        ("100%25%23#undo", "100%#"),
    ],
)
def test_the_name_of_a_step_follows_from_its_path(path: str, name: str) -> None:
    assert step_name(path) == name


@WAYS
def test_hooks_hear_of_undos_and_of_nothing_that_is_replayed(way: str) -> None:
    async def main() -> None:
        heard: list[tuple[str, str, str]] = []

        def make() -> Saga:
            saga = Saga(lambda out: 1 / 0 if stepwire.current_attempt().attempt == 1 else None)  # type: ignore[union-attr]
            for kind in HOOK_KINDS:

                async def hear(call: HookCall) -> None:
                    heard.append((call.kind, call.flow, call.path))

                saga.host.on(kind)(hear)
            return saga

        desk = await reach(make, way)
        desk.undo("book", b'{"id":7,"seat":"3A"}')
        await desk.until_result("book#undo")
        desk.undo("book", b'{"id":7,"seat":"3A"}', attempt=2)
        await desk.until_result("book#undo")
        await desk.runtime.hooks.drained()
        desk.runtime.close()
        told = [kind for kind, _, _ in heard]
        assert {flow for _, flow, _ in heard} == {"flow"}
        assert sorted(told[-4:]) == ["undo_failed", "undo_started", "undo_started", "undo_succeeded"]
        assert {kind: told.count(kind) for kind in ("run_started", "run_failed", "step_failed")} == {
            "run_started": 1,
            "run_failed": 1,
            "step_failed": 1,
        }
        assert [path for kind, _, path in heard if kind == "step_started"] == ["book", "fail"]

    asyncio.run(main())
