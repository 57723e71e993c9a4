"""What `redact=` marks, what a record still shows of it, and that flows get all of it (MISSION V7)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import stepwire
from stepwire import testing
from stepwire._transport.run_record import Run, run_from_pb
from stepwire.codec import JSON_CODEC, Codec
from stepwire.encryption import ENCODING, EncryptedCodec, Keyring
from stepwire.flow import FlowFunction
from stepwire.http import EngineSecret
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.payload import Payload
from stepwire.redaction import Redacted
from stepwire.testing import TestRun
from stepwire.v1 import run_pb2
from stepwire_engine.core.entries import AttemptEnded, Planned, RunCreated, RunState
from stepwire_engine.transport.run_messages import run_to_pb
from tests.sdk.gates import until

REPLAY = pytest.mark.parametrize("replay", [False, True], ids=["live", "replay"])
CANARY = "canary-4711"
SIZE = len(CANARY) + 2


def sealing(**options: Any) -> EncryptedCodec:
    return EncryptedCodec(Keyring({"k1": bytes(32)}), **options)


def shown(run: TestRun) -> Run:
    """The record as a client gets it, which must not hold the secret wherever it stands."""
    message = run_pb2.Run()
    run_to_pb(run.record, message)
    assert CANARY.encode() not in message.SerializeToString()
    return run_from_pb(message, JSON_CODEC)


def payloads(value: Any) -> Iterator[Payload]:
    """Every payload of a journal."""
    if isinstance(value, Payload):
        yield value
    elif isinstance(value, msgspec.Struct):
        for part in msgspec.structs.astuple(value):
            yield from payloads(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from payloads(part)


async def secret(suffix: str = "") -> str:
    return CANARY + suffix


def host_with(codec: Codec = JSON_CODEC) -> stepwire.Host:
    return stepwire.Host("vault", codec=codec)


# ---- steps


@REPLAY
def test_a_redacted_output_reaches_the_flow_and_not_its_record(replay: bool) -> None:
    host = host_with()
    seen: list[str] = []

    @host.flow
    async def flow(ctx: stepwire.Context) -> int:
        token = await ctx.step.run("token", secret, redact="output")
        seen.append(token)
        return len(await ctx.step.run("use", secret, redact=["output"]))

    run = testing.run(host, flow, replay=replay)
    assert run.output == len(CANARY)
    assert set(seen) == {CANARY}
    steps = shown(run).steps
    assert [step.output for step in steps] == [Redacted(SIZE), Redacted(SIZE)]
    assert str(steps[0].output) == f"(redacted, {SIZE} bytes)"
    assert [step.output_payload for step in steps] == [None, None]


def test_a_plain_flow_and_a_map_redact_as_well() -> None:
    host = host_with()

    def told(item: int) -> str:
        return f"{CANARY}{item}"

    @host.flow
    def flow(ctx: stepwire.ContextSync) -> int:
        return len(ctx.group.map("secret-{i}", told, range(3), redact="output"))

    assert [step.output for step in shown(testing.run(host, flow)).steps] == [Redacted(SIZE + 1)] * 3


def test_input_and_output_of_a_registered_step_are_marked_where_it_is_registered() -> None:
    host = host_with()

    @host.step(redact=("input", "output"))
    async def charge(card: str) -> str:
        return card

    @host.flow
    async def flow(ctx: stepwire.Context) -> bool:
        return await ctx.step.run("charge", charge, CANARY) == CANARY

    run = testing.run(host, flow)
    assert run.output is True
    assert shown(run).steps[0].output == Redacted(SIZE)
    (planned,) = [step for entry in run.journal if isinstance(entry, Planned) for step in entry.plan.steps]
    assert planned.input is not None
    assert planned.input.redacted


def test_a_flow_cannot_redact_a_registered_step_by_itself() -> None:
    host = host_with()

    @host.step
    async def charge() -> None:
        """Does nothing."""

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("charge", charge, redact="output")

    failure = testing.run(host, flow).failure
    assert failure is not None
    assert failure.type == "ConfigurationError"
    assert "redact is not for the flow to say" in failure.message


@pytest.mark.parametrize("redact", ["everything", ("output", "x"), 7, (None,)])
def test_parts_that_there_are_not_are_refused_where_they_are_named(redact: Any) -> None:
    with pytest.raises(stepwire.ConfigurationError, match="redact="):
        host_with().step(redact=redact)(secret)


# ---- failures


@REPLAY
def test_a_hidden_failure_keeps_its_type_and_tells_nothing_else(replay: bool) -> None:
    host = host_with()

    async def leaks() -> None:
        try:
            raise KeyError(CANARY)
        except KeyError as error:
            raise stepwire.NonRetryable(CANARY) from error

    @host.flow
    async def flow(ctx: stepwire.Context) -> str:
        try:
            await ctx.step.run("leaks", leaks, redact="failure", retries=0)
        except stepwire.StepError as error:
            assert CANARY not in str(error)
            return error.type
        return ""

    run = testing.run(host, flow, replay=replay)
    assert run.output == "NonRetryable"
    (attempt,) = shown(run).steps[0].attempts
    assert attempt.failure is not None
    assert (attempt.failure.message, attempt.failure.traceback) == ("(redacted)", "")
    assert attempt.failure.cause is not None
    assert (attempt.failure.cause.type, attempt.failure.cause.message) == ("KeyError", "(redacted)")


def test_arguments_that_do_not_fit_are_not_told_either() -> None:
    host = host_with()

    @host.step(name="charge", redact="failure", retries=0)
    async def charge(card: str) -> None:
        """Never entered."""

    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("charge", charge, CANARY)

    registered = host.flow(flow)

    def misfit(*_: object) -> Any:
        raise stepwire.InvalidInput(f"does not fit: {CANARY}")

    charge.decode_input = misfit  # type: ignore[method-assign]
    run = testing.run(host, registered)
    assert run.failure is not None
    assert run.failure.code is ErrorCode.INVALID_INPUT
    shown(run)


def test_a_flow_hides_its_own_failure() -> None:
    host = host_with()

    @host.flow(redact="failure")
    async def flow(ctx: stepwire.Context) -> None:
        raise ValueError(CANARY)

    record = shown(testing.run(host, flow))
    assert record.failure is not None
    assert (record.failure.type, record.failure.message) == ("ValueError", "(redacted)")


# ---- runs


@REPLAY
def test_input_and_output_of_a_run_are_marked(replay: bool) -> None:
    host = host_with()

    @host.flow(redact=("input", "output"))
    async def flow(ctx: stepwire.Context, card: str) -> str:
        await ctx.step.run("think", asyncio.sleep, 0)
        return card

    run = testing.run(host, flow, CANARY, replay=replay)
    assert run.output == CANARY
    record = shown(run)
    assert (record.input, record.output) == (Redacted(SIZE), Redacted(SIZE))
    assert (record.input_payload, record.output_payload) == (None, None)


def test_the_engine_marks_the_input_whoever_starts_the_run() -> None:
    """A client that knows the flow by its name only, an event, a parent in another language."""
    host = host_with()

    @host.flow(redact="input")
    async def child(ctx: stepwire.Context, card: str) -> int:
        return len(card)

    @host.flow
    async def parent(ctx: stepwire.Context) -> Any:
        return await ctx.step.invoke("child", "child", CANARY)

    async def main() -> tuple[TestRun, TestRun]:
        async with testing.environment(host) as env:
            run = await env.execute(parent)
            (child_id,) = await env.started(child)
            return run, await env.finish(child, child_id)

    run, invoked = asyncio.run(main())
    assert run.output == len(CANARY)
    (created,) = [entry for entry in invoked.journal if isinstance(entry, RunCreated)]
    assert created.input.redacted
    assert shown(invoked).input == Redacted(SIZE)


def test_a_redacted_event_is_in_no_record_of_those_who_get_it() -> None:
    host = host_with()

    @host.flow(on="paid")
    async def started(ctx: stepwire.Context, event: stepwire.Event) -> bool:
        return bool(event.data == CANARY)

    @host.flow
    async def waiting(ctx: stepwire.Context) -> bool:
        await ctx.step.send_event("send", stepwire.Event("paid", CANARY, redact=True))
        event = await ctx.step.wait_event("wait", "paid", lookback="1h")
        return event is not None and bool(event.data == CANARY)

    async def main() -> tuple[TestRun, TestRun]:
        async with testing.environment(host) as env:
            run = await env.execute(waiting)
            (started_id,) = await env.started(started)
            return run, await env.finish(started, started_id)

    for run in asyncio.run(main()):
        assert run.output is True
        shown(run)


def test_the_failure_event_of_a_run_with_a_redacted_input_is_redacted() -> None:
    host = host_with()
    handled: list[str] = []

    @host.flow(redact="input")
    async def flow(ctx: stepwire.Context, card: str) -> None:
        raise ValueError("no")

    @flow.on_failure
    async def handler(failed: Any) -> None:
        handled.append(failed.input)

    async def main() -> TestRun:
        async with testing.environment(host) as env:
            await env.execute(flow, CANARY)
            handler_flow = host.flows["flow.on_failure"]
            (run_id,) = await env.started(handler_flow)
            return await env.finish(handler_flow, run_id)

    shown(asyncio.run(main()))
    assert handled == [CANARY]


# ---- calls


def test_a_call_marks_its_answer_and_body_and_names_secrets_of_the_engine() -> None:
    host = host_with()

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        headers = {"authorization": EngineSecret("TOKEN", "Bearer "), "x-plain": "1"}
        await ctx.step.call(
            "pay", "http://127.0.0.1:1/", method="POST", json=CANARY, headers=headers, redact=("input", "output")
        )

    run = testing.run(host, flow)
    (planned,) = [step for entry in run.journal if isinstance(entry, Planned) for step in entry.plan.steps]
    call: Any = planned.spec
    assert call.headers == (("x-plain", "1"),)
    assert [(h.name, h.prefix, h.secret) for h in call.secret_headers] == [("authorization", "Bearer ", "TOKEN")]
    assert call.redact_output
    assert call.body.redacted
    shown(run)


@pytest.mark.parametrize("options", [{"redact": "failure"}, {"headers": {"a": EngineSecret("not a name")}}])
def test_a_call_refuses_what_it_cannot_do(options: dict[str, Any]) -> None:
    host = host_with()

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.call("pay", "http://127.0.0.1:1/", **options)

    failure = testing.run(host, flow).failure
    assert failure is not None
    assert failure.type == "ConfigurationError"


# ---- declared flows


def test_a_declared_flow_whose_result_would_tell_redacts_it() -> None:
    telling = stepwire.Flow("telling").step("token", secret, redact="output")
    silent = stepwire.Flow("silent").step("token", secret, redact="output", in_result=False)
    for flow, redacted in ((telling, True), (silent, False)):
        host = host_with()
        host.add(flow)
        run = testing.run(host, flow)
        record = shown(run)
        assert record.steps[0].output == Redacted(SIZE)
        assert isinstance(record.output, Redacted) is redacted
        assert flow.result_of(record).steps[0].status == "completed"
    assert run.succeeded
    assert telling.describe()["items"][0]["redacted"] == ["output"]


# ---- undos


def test_an_undo_of_a_redacted_step_tells_no_more_than_the_step() -> None:
    host = host_with()

    def undo(token: str) -> str:
        raise stepwire.NonRetryable(token)

    @host.flow
    async def flow(ctx: stepwire.Context) -> None:
        await ctx.step.run("token", secret, redact=("output", "failure"), compensate=undo)
        raise ValueError("undo it")

    record = shown(testing.run(host, flow))
    (failed,) = [step for step in record.steps if step.undoes]
    assert failed.attempts[-1].failure is not None
    assert failed.attempts[-1].failure.message == "(redacted)"


# ---- with a codec that encrypts


@REPLAY
@pytest.mark.parametrize("only_redacted", [False, True], ids=["all", "only redacted"])
def test_encrypted_values_come_back_and_stand_nowhere_in_the_journal(only_redacted: bool, replay: bool) -> None:
    host = host_with(sealing(only_redacted=only_redacted))

    @host.step(redact=("input", "output"))
    async def charge(card: str) -> str:
        return card

    @host.flow(redact=("input", "output"))
    async def flow(ctx: stepwire.Context, card: str) -> str:
        assert await ctx.step.run("charge", charge, card) == card
        assert await ctx.step.run("token", secret, redact="output") == CANARY
        assert await ctx.step.run("plain", asyncio.sleep, 0, "open") == "open"
        return card

    run = testing.run(host, flow, CANARY, replay=replay)
    assert run.output == CANARY
    found = [payload for entry in run.journal for payload in payloads(entry)]
    assert not [payload for payload in found if CANARY.encode() in payload.data]
    assert all(payload.encoding == ENCODING + "json" for payload in found if payload.redacted)
    assert [payload.data for payload in found if payload.encoding == "json"] == ([b'"open"'] if only_redacted else [])


def test_a_start_that_is_repeated_with_its_id_finds_the_run_although_it_is_encrypted() -> None:
    host = host_with(sealing())

    @host.flow(redact="input")
    async def flow(ctx: stepwire.Context, card: str) -> None:
        """Does nothing."""

    async def main() -> tuple[str, str]:
        async with testing.environment(host) as env:
            return await env.start(flow, CANARY, id="order-1"), await env.start(flow, CANARY, id="order-1")

    first, second = asyncio.run(main())
    assert first == second


@pytest.mark.parametrize("lacking", ["input", "output"])
def test_a_host_without_the_key_pauses_the_run_and_one_with_it_goes_on(lacking: str) -> None:
    """A key that is missing is a mistake of a deployment, and no reason to fail and undo what is in progress."""

    def new_host(codec: Codec) -> tuple[stepwire.Host, Any]:
        host = host_with(codec)

        @host.flow
        async def flow(ctx: stepwire.Context, card: str | None = None) -> bool:
            try:
                token = await ctx.step.run("token", secret)
            except Exception:  # as flows write it that go on without a value
                return False
            await ctx.step.sleep("night", "1d")
            return token == CANARY and card in (None, CANARY)

        return host, flow

    host, flow = new_host(sealing())
    other, _ = new_host(EncryptedCodec(Keyring({"k1": bytes([1]) * 32})))
    again, _ = new_host(sealing())

    async def main() -> TestRun:
        async with testing.environment(host) as env:
            run_id = await env.start(flow, *([CANARY] if lacking == "input" else []))
            await until("the run sleeps", lambda: any(isinstance(e, AttemptEnded) for e in env.journal(run_id)))
            await env.crash(host, other)
            paused = await env.finish(flow, run_id)
            assert paused.record.state is RunState.PAUSED
            assert paused.failure is not None
            assert paused.failure.type == "UnreadablePayload"
            assert CANARY not in paused.failure.message
            await env.crash(other, again)
            await env.resume(run_id)
            return await env.finish(flow, run_id)

    assert asyncio.run(main()).output is True


@pytest.mark.parametrize("ended", [False, True], ids=["in progress", "ended"])
def test_a_start_is_known_by_its_id_whoever_marked_its_input(ended: bool) -> None:
    """The engine marks what a client that knows only the name does not."""
    host = host_with()

    @host.flow(redact="input")
    async def flow(ctx: stepwire.Context, card: str) -> None:
        """Does nothing."""

    by_name = FlowFunction(flow.fn, name="flow")

    async def main() -> list[str]:
        async with testing.environment(host) as env:
            first = await env.start(by_name, CANARY, id="order-1")
            if ended:
                await env.finish(flow, first)
            return [first, await env.start(by_name, CANARY, id="order-1"), await env.start(flow, CANARY, id="order-1")]

    assert len(set(asyncio.run(main()))) == 1
