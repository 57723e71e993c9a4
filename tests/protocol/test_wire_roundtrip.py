"""What one side encodes is what the other side decodes, also when it is cut and chunked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepwire.protocol import limits, traceparent, wire
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import (
    Advance,
    EngineFrame,
    EngineSection,
    Execute,
    HostFrame,
    HostSection,
    Release,
    Report,
    Result,
    StepOutcome,
    UndoInput,
)
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    CALL_STEP,
    BodyEnded,
    Call,
    Event,
    Fence,
    GroupOpened,
    Invoke,
    Plan,
    SendEvent,
    Sleep,
    StepKind,
    StepPlanned,
    WaitEvent,
)
from stepwire.v1 import host_service_pb2, plan_pb2
from tests.protocol.strategies import ENGINE_FRAMES, HOST_FRAMES

alike_or_not = pytest.mark.parametrize("alike", [False, True], ids=["a message each", "alike"])
many = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


def host_frames(messages: list[bytes], decoder: wire.HostFrameDecoder | None = None) -> list[HostFrame]:
    decoder = decoder or wire.HostFrameDecoder()
    return [frame for message in messages if (frame := decoder.decode(message)) is not None]


def engine_frames(messages: list[bytes]) -> list[EngineFrame]:
    decoder = wire.EngineFrameDecoder()
    return [frame for message in messages if (frame := decoder.decode(message)) is not None]


def result(data: bytes, number: int = 1) -> Result:
    return Result(f"work#{number}", 1, Fence(1, number), Payload(data))


def a_plan(*steps: StepPlanned, body_ended: BodyEnded | None = None) -> HostFrame:
    return HostFrame(1, runs=[HostSection("r", plans=[Plan(1, 0, Fence(1, 1), steps=steps, body_ended=body_ended)])])


def released(*outcomes: StepOutcome) -> EngineFrame:
    return EngineFrame(1, runs=[EngineSection("r", advance=Advance(Fence(1, 1), (Release(1, 7, outcomes),)))])


def step_after(step: StepPlanned) -> StepPlanned:
    """The step as the other side reads it."""
    [frame] = host_frames(wire.encode_host_frame(a_plan(step)))
    return frame.runs[0].plans[0].steps[0]


@alike_or_not
@many
@given(frame=HOST_FRAMES)
def test_host_frames_survive(frame: HostFrame, alike: bool) -> None:
    assert host_frames(wire.encode_host_frame(frame, alike=alike)) == [frame]


@alike_or_not
@many
@given(frame=ENGINE_FRAMES)
def test_engine_frames_survive(frame: EngineFrame, alike: bool) -> None:
    assert engine_frames(wire.encode_engine_frame(frame, alike=alike)) == [frame]


@contextmanager
def cut_small(inline: int, chunk: int, target: int) -> Iterator[None]:
    """Payloads, chunks and messages have at most so many bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "INLINE_BYTES_MAX", inline)
        patch.setattr(limits, "CHUNK_BYTES_MAX", chunk)
        patch.setattr("stepwire.protocol.wire.transfers._MESSAGE_BYTES", target)
        patch.setattr("stepwire.protocol.wire.alike.MOVABLE_BYTES", inline + 1)
        yield


@alike_or_not
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(frame=HOST_FRAMES, inline=st.integers(0, 8), chunk=st.integers(1, 16), target=st.integers(0, 200))
def test_every_cut_of_a_host_frame_survives(
    frame: HostFrame, inline: int, chunk: int, target: int, alike: bool
) -> None:
    with cut_small(inline, chunk, target):
        messages = wire.encode_host_frame(frame, alike=alike)
        assert host_frames(messages) == [frame]
        assert all(len(message) <= max(target, chunk + 20) for message in messages)


@alike_or_not
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(frame=ENGINE_FRAMES, inline=st.integers(0, 8), chunk=st.integers(1, 16), target=st.integers(0, 200))
def test_every_cut_of_an_engine_frame_survives(
    frame: EngineFrame, inline: int, chunk: int, target: int, alike: bool
) -> None:
    with cut_small(inline, chunk, target):
        assert engine_frames(wire.encode_engine_frame(frame, alike=alike)) == [frame]


@pytest.mark.parametrize("size", [0, 1, limits.INLINE_BYTES_MAX, limits.INLINE_BYTES_MAX + 1, limits.PAYLOAD_BYTES_MAX])
def test_payload_sizes(size: int) -> None:
    frame = HostFrame(7, runs=[HostSection("r", results=[result(bytes(size)), result(b"small", 2)])])
    messages = wire.encode_host_frame(frame)
    assert host_frames(messages) == [frame]
    assert max(map(len, messages)) <= limits.MESSAGE_BYTES_MAX
    assert len(messages) == 1 + (-(-size // limits.CHUNK_BYTES_MAX) if size > limits.INLINE_BYTES_MAX else 0)


@pytest.mark.parametrize("open_max", [limits.TRANSFERS_OPEN_MAX, 30])
@pytest.mark.parametrize("size", [20_000, limits.INLINE_BYTES_MAX, limits.INLINE_BYTES_MAX + 1])
def test_large_payloads_of_a_large_frame_share_messages(
    size: int, open_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 30 if size > limits.INLINE_BYTES_MAX else 100
    monkeypatch.setattr(limits, "TRANSFERS_OPEN_MAX", open_max)
    frame = HostFrame(3, runs=[HostSection("r", results=[result(bytes([n]) * size, n) for n in range(1, count)])])
    messages = wire.encode_host_frame(frame)
    assert host_frames(messages) == [frame]
    assert max(map(len, messages)) <= limits.FRAME_BYTES_TARGET + limits.INLINE_BYTES_MAX
    if count < open_max:
        assert len(messages) <= 2 + count / (limits.FRAME_BYTES_TARGET // size)


def test_a_plan_of_the_largest_group_is_one_frame_in_small_messages() -> None:
    steps = tuple(StepPlanned(f"map/[{i}]/work", input=Payload(b"x" * 300)) for i in range(limits.STEPS_PER_RUN_MAX))
    plan = Plan(1, 0, Fence(1, 1), (GroupOpened("map", len(steps)),), steps)
    frame = HostFrame(1, runs=[HostSection("r", plans=[plan])])
    messages = wire.encode_host_frame(frame)
    assert len(messages) > 10
    assert max(map(len, messages)) <= limits.FRAME_BYTES_TARGET
    assert host_frames(messages) == [frame]


def test_reports_may_overtake_a_cut_frame() -> None:
    frame = HostFrame(3, runs=[HostSection("r", results=[result(b"x" * 60_000, n) for n in range(1, 20)])])
    messages = wire.encode_host_frame(frame)
    assert len(messages) > 2
    report = HostFrame(report=Report(free_slots=4, last_engine_frame=9))
    mixed = [messages[0], *wire.encode_host_frame(report), *messages[1:]]
    assert host_frames(mixed) == [report, frame]


def test_chunks_of_several_frames_may_be_interleaved_with_one_numbering() -> None:
    transfers = itertools.count(1)
    frames = [HostFrame(n, runs=[HostSection("r", results=[result(bytes([n]) * 200_000)])]) for n in (1, 2)]
    (a1, a2, a3), (b1, b2, b3) = (wire.encode_host_frame(frame, transfers) for frame in frames)
    assert host_frames([a1, b1, b2, a2, b3, a3]) == [frames[1], frames[0]]


def test_transfer_numbers_are_free_again_after_their_frame() -> None:
    frames = [HostFrame(n, runs=[HostSection("r", results=[result(bytes([n]) * 200_000)])]) for n in (1, 2)]
    decoder = wire.HostFrameDecoder(open_bytes_max=200_000)
    assert [host_frames(wire.encode_host_frame(frame), decoder) for frame in frames] == [[frames[0]], [frames[1]]]


def test_texts_of_failures_are_cut_in_the_middle_and_causes_at_level_8() -> None:
    failure = Failure(ErrorCode.USER_ERROR, "Deep", "m" * 100_000 + "end", "début" * 10_000)
    for _ in range(12):
        failure = Failure(ErrorCode.USER_ERROR, "Deep\ud800", "caused", cause=failure)
    frame = HostFrame(1, runs=[HostSection("r", results=[Result("a", 1, Fence(1, 1), failure=failure)])])
    [decoded] = host_frames(wire.encode_host_frame(frame))
    levels = [decoded.runs[0].results[0].failure]
    while (last := levels[-1]) is not None:
        levels.append(last.cause)
    assert len(levels) == 9
    assert levels[0] is not None
    assert levels[0].type == "Deep?"
    long = wire.cut_text("m" * 100_000 + "end", 8192)
    assert len(long.encode()) <= 8192
    assert long.startswith("mmm") and long.endswith("end") and "bytes cut" in long
    assert len(wire.cut_text("début" * 10_000, 16_384).encode()) <= 16_384


def test_a_timeout_that_is_over_does_not_become_no_timeout() -> None:
    step = step_after(StepPlanned("a", timeout=0.0, deadline=0.0))
    assert (step.timeout, step.deadline) == (1e-9, 1e-9)


def test_a_wait_without_time_is_not_a_wait_for_ever() -> None:
    waits = (WaitEvent("paid", timeout=0.0, lookback=60.0), WaitEvent("paid"))
    assert tuple(step_after(StepPlanned("a", StepKind.WAIT_EVENT, spec=wait)).spec for wait in waits) == waits


@pytest.mark.parametrize("until_ms", [0, 1, 253_402_300_799_999])
def test_a_time_of_user_code_survives(until_ms: int) -> None:
    assert step_after(StepPlanned("a", StepKind.SLEEP, spec=Sleep(until_ms=until_ms))).spec == Sleep(until_ms=until_ms)


@pytest.mark.parametrize(("named", "sent"), [(-1, 0), (10**15, 253_402_300_799_999)])
def test_a_time_of_user_code_that_the_wire_does_not_have_is_clamped(named: int, sent: int) -> None:
    step = step_after(StepPlanned("a", StepKind.SEND_EVENT, spec=SendEvent((Event("paid", at_ms=named),))))
    assert step.spec == SendEvent((Event("paid", at_ms=sent),))


def test_times_of_outcomes_are_clamped_to_what_the_wire_has() -> None:
    frame = released(StepOutcome("a", held=True, took_ms=2**40), StepOutcome("b", held=True, took_ms=-5))
    [decoded] = engine_frames(wire.encode_engine_frame(frame))
    [release] = decoded.runs[0].advance.entries if decoded.runs[0].advance else []
    assert isinstance(release, Release)
    assert [outcome.took_ms for outcome in release.outcomes] == [2**32 - 1, 0]


def test_what_steps_mostly_do_not_have_costs_no_byte() -> None:
    """The hot path: steps and outcomes with defaults are as short as before there were kinds, undos and deadlines."""
    plan = host_service_pb2.HostFrame.FromString(wire.encode_host_frame(a_plan(StepPlanned("a", started=True)))[0])
    step = plan.runs[0].plans[0].steps[0]
    assert [field.name for field, _ in step.ListFields()] == ["path", "kind", "started"]
    frame = released(StepOutcome("a", Payload(b"1")), StepOutcome("b", held=True))
    outcomes = host_service_pb2.EngineFrame.FromString(wire.encode_engine_frame(frame)[0])
    first, second = outcomes.runs[0].advance.entries[0].release.outcomes
    assert [field.name for field, _ in first.ListFields()] == ["path", "output"]
    assert [field.name for field, _ in second.ListFields()] == ["path", "held"]


LARGE = Payload(b"7" * (limits.INLINE_BYTES_MAX + 1))


@pytest.mark.parametrize(
    "frame",
    [
        a_plan(StepPlanned("a", StepKind.SEND_EVENT, spec=SendEvent((Event("paid"), Event("shipped", LARGE))))),
        a_plan(StepPlanned("a", StepKind.INVOKE, input=LARGE, spec=Invoke("ship"))),
        a_plan(StepPlanned("a", StepKind.CALL, CALL_STEP, spec=Call("http://h", "PUT", body=LARGE))),
        a_plan(body_ended=BodyEnded(restart=LARGE)),
    ],
    ids=["event", "invoke", "call", "restart"],
)
def test_large_payloads_of_plans_travel_as_chunks(frame: HostFrame) -> None:
    messages = wire.encode_host_frame(frame)
    assert len(messages) == 2
    assert len(messages[1]) < 200
    assert host_frames(messages) == [frame]


@pytest.mark.parametrize(
    "execute",
    [
        Execute("a", 1, Fence(1, 1), StepKind.CALL, CALL_STEP, call=Call("http://h", "PUT", body=LARGE)),
        Execute("a#undo", 1, Fence(1, 1), StepKind.TASK, "release", undo=UndoInput(LARGE)),
    ],
    ids=["call", "undo"],
)
def test_large_payloads_of_executes_travel_as_chunks(execute: Execute) -> None:
    frame = EngineFrame(1, runs=[EngineSection("r", executes=[execute])])
    messages = wire.encode_engine_frame(frame)
    assert len(messages) == 2
    assert len(messages[1]) < 200
    assert engine_frames(messages) == [frame]


@pytest.mark.parametrize("data", [Payload(b"", "x-sealed"), Payload(b"17"), LARGE], ids=["empty", "small", "large"])
def test_events_of_unary_calls_are_inline(data: Payload) -> None:
    event = Event("paid", data, "e-1", 1_790_000_000_123)
    message = plan_pb2.Event()
    wire.event_to_pb(event, message)
    assert wire.event_from_pb(plan_pb2.Event.FromString(message.SerializeToString())) == event


def test_an_event_of_a_unary_call_without_data_has_null() -> None:
    assert wire.event_from_pb(plan_pb2.Event(name="paid")) == Event("paid")


def test_an_event_of_a_unary_call_is_checked() -> None:
    with pytest.raises(wire.WireError) as nameless:
        wire.event_from_pb(plan_pb2.Event())
    assert nameless.value.code is ErrorCode.UNDECODABLE
    with pytest.raises(wire.WireError) as large:
        wire.event_from_pb(plan_pb2.Event(name="paid", data={"data": bytes(11)}), payload_bytes_max=10)
    assert large.value.code is ErrorCode.PAYLOAD_TOO_LARGE


def test_an_error_code_of_a_newer_peer_reads_as_internal() -> None:
    message = host_service_pb2.EngineFrame()
    message.ParseFromString(wire.encode_engine_frame(EngineFrame(1))[0])
    message.fault.code = 4711  # type: ignore[assignment]
    [frame] = engine_frames([message.SerializeToString()])
    assert frame.fault is not None
    assert frame.fault.code is ErrorCode.INTERNAL


@pytest.mark.parametrize(
    "text",
    [
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n",
    ],
)
def test_a_malformed_traceparent_is_none(text: str) -> None:
    assert wire.traceparent_from_pb(text) == ""


def test_runs_of_every_host_derive_the_same_trace() -> None:
    derived = traceparent.derived_traceparent("01m2q4w8xb0123456789abcdef")
    assert derived == "00-2da34cf965b6cc0233a4f9b785b64b1c-f5105c3ca579fe75-01"
    assert wire.traceparent_from_pb(derived) == derived
    assert traceparent.trace_id_of(derived) == "2da34cf965b6cc0233a4f9b785b64b1c"
