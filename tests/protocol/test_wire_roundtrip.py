"""What one side encodes is what the other side decodes, also when it is cut and chunked."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepwire.protocol import limits, wire
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import EngineFrame, HostFrame, HostSection, Report, Result
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Fence, GroupOpened, Plan, StepPlanned
from stepwire.v1 import host_service_pb2
from tests.protocol.strategies import ENGINE_FRAMES, HOST_FRAMES

many = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


def host_frames(messages: list[bytes], decoder: wire.HostFrameDecoder | None = None) -> list[HostFrame]:
    decoder = decoder or wire.HostFrameDecoder()
    return [frame for message in messages if (frame := decoder.decode(message)) is not None]


def engine_frames(messages: list[bytes]) -> list[EngineFrame]:
    decoder = wire.EngineFrameDecoder()
    return [frame for message in messages if (frame := decoder.decode(message)) is not None]


def result(data: bytes, number: int = 1) -> Result:
    return Result(f"work#{number}", 1, Fence(1, number), Payload(data))


@many
@given(HOST_FRAMES)
def test_host_frames_survive(frame: HostFrame) -> None:
    assert host_frames(wire.encode_host_frame(frame)) == [frame]


@many
@given(ENGINE_FRAMES)
def test_engine_frames_survive(frame: EngineFrame) -> None:
    assert engine_frames(wire.encode_engine_frame(frame)) == [frame]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(frame=HOST_FRAMES, inline=st.integers(0, 8), chunk=st.integers(1, 16), target=st.integers(0, 200))
def test_every_cut_of_a_host_frame_survives(frame: HostFrame, inline: int, chunk: int, target: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "INLINE_BYTES_MAX", inline)
        patch.setattr(limits, "CHUNK_BYTES_MAX", chunk)
        patch.setattr("stepwire.protocol.wire.transfers._MESSAGE_BYTES", target)
        messages = wire.encode_host_frame(frame)
        assert host_frames(messages) == [frame]
        assert all(len(message) <= max(target, chunk + 20) for message in messages)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(frame=ENGINE_FRAMES, inline=st.integers(0, 8), chunk=st.integers(1, 16), target=st.integers(0, 200))
def test_every_cut_of_an_engine_frame_survives(frame: EngineFrame, inline: int, chunk: int, target: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "INLINE_BYTES_MAX", inline)
        patch.setattr(limits, "CHUNK_BYTES_MAX", chunk)
        patch.setattr("stepwire.protocol.wire.transfers._MESSAGE_BYTES", target)
        assert engine_frames(wire.encode_engine_frame(frame)) == [frame]


@pytest.mark.parametrize("size", [0, 1, limits.INLINE_BYTES_MAX, limits.INLINE_BYTES_MAX + 1, limits.PAYLOAD_BYTES_MAX])
def test_payload_sizes(size: int) -> None:
    frame = HostFrame(7, runs=[HostSection("r", results=[result(bytes(size)), result(b"small", 2)])])
    messages = wire.encode_host_frame(frame)
    assert host_frames(messages) == [frame]
    assert max(map(len, messages)) <= limits.MESSAGE_BYTES_MAX
    assert len(messages) == 1 + (-(-size // limits.CHUNK_BYTES_MAX) if size > limits.INLINE_BYTES_MAX else 0)


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
    plan = Plan(1, 0, Fence(1, 1), steps=(StepPlanned("a", timeout=0.0),))
    frame = HostFrame(1, runs=[HostSection("r", plans=[plan])])
    [decoded] = host_frames(wire.encode_host_frame(frame))
    assert decoded.runs[0].plans[0].steps[0].timeout == 1e-9


def test_an_error_code_of_a_newer_peer_reads_as_internal() -> None:
    message = host_service_pb2.EngineFrame()
    message.ParseFromString(wire.encode_engine_frame(EngineFrame(1))[0])
    message.fault.code = 4711  # type: ignore[assignment]
    [frame] = engine_frames([message.SerializeToString()])
    assert frame.fault is not None
    assert frame.fault.code is ErrorCode.INTERNAL
