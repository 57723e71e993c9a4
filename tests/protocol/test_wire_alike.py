"""One message that speaks for others (FEATURE_ALIKE): which items it may speak for, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, find, given, settings

from stepwire.protocol import limits, wire
from stepwire.protocol.failure import ErrorCode, Failure
from stepwire.protocol.frames import (
    Advance,
    BodyStart,
    EngineFrame,
    EngineSection,
    HostFrame,
    HostSection,
    Release,
    Result,
    StepOutcome,
)
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import (
    BranchEnded,
    BranchOutcome,
    Fence,
    Invoke,
    Plan,
    RetryPolicy,
    StepKind,
    StepPlanned,
    Undo,
)
from stepwire.protocol.wire.transfers import MOVABLE_BYTES
from stepwire.v1 import host_service_pb2 as pb
from tests.protocol.strategies import ENGINE_FRAMES, HOST_FRAMES, PLANS, RELEASES, RESULT_LISTS

FENCE = Fence(1, 7)
FAILED = Failure(ErrorCode.USER_ERROR, "Declined", "no")
SPAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01"
some = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def said(frame: HostFrame | EngineFrame, *, alike: bool) -> list[Any]:
    """The messages of a frame, parsed."""
    if isinstance(frame, HostFrame):
        return [pb.HostFrame.FromString(data) for data in wire.encode_host_frame(frame, alike=alike)]
    return [pb.EngineFrame.FromString(data) for data in wire.encode_engine_frame(frame, alike=alike)]


def understood(messages: list[Any]) -> HostFrame | EngineFrame | None:
    """What a receiver makes of them."""
    decoder = wire.HostFrameDecoder() if isinstance(messages[0], pb.HostFrame) else wire.EngineFrameDecoder()
    return [decoder.decode(message.SerializeToString()) for message in messages][-1]


def spoken_for(message: Any) -> Iterator[tuple[str, int]]:
    """The sorts of messages that speak for others, anywhere in this one, and for how many."""
    for field, value in message.ListFields():
        if field.name == "alike":
            yield message.DESCRIPTOR.name, len(value.paths)
        if field.message_type is not None:
            for inner in (value,) if isinstance(value, Message) else value:
                yield from spoken_for(inner)


def planned(*steps: StepPlanned) -> HostFrame:
    return HostFrame(1, runs=[HostSection("r", plans=[Plan(1, 0, FENCE, steps=steps)])])


def branches(*ended: BranchEnded) -> HostFrame:
    return HostFrame(1, runs=[HostSection("r", plans=[Plan(1, 0, FENCE, branches_ended=ended)])])


def results(*items: Result) -> HostFrame:
    return HostFrame(1, runs=[HostSection("r", results=list(items))])


def released(*outcomes: StepOutcome) -> EngineFrame:
    return EngineFrame(1, runs=[EngineSection("r", advance=Advance(FENCE, (Release(1, 7, outcomes),)))])


def result(path: str, data: bytes = b"1", elapsed: float = 0.002, **fields: Any) -> Result:
    return Result(path, 1, FENCE, Payload(data), elapsed=elapsed, **fields)


RETRY = RetryPolicy(3)
STEP = StepPlanned("a", started=True)
HELD = StepOutcome("a", held=True)
OK = BranchEnded("g/[0]", BranchOutcome.OK)


def other(item: Any, path: str = "other", **fields: Any) -> Any:
    return msgspec.structs.replace(item, path=path, **fields)


def sealed(**fields: Any) -> Result:
    return other(result("a"), output=msgspec.structs.replace(Payload(b"1"), **fields))


DIFFERENT: list[HostFrame | EngineFrame] = [
    *[
        planned(STEP, other(STEP, **fields))
        for fields in (
            {"kind": StepKind.TASK},
            {"name": "work"},
            {"input": Payload(b"")},
            {"retry": RETRY},
            {"timeout": 1.0},
            {"deadline": 1.0},
            {"started": False},
            {"concurrent": True},
            {"undo": Undo(StepKind.RUN)},
            {"traceparent": SPAN},
        )
    ],
    *[
        planned(step, other(step))
        for step in (
            StepPlanned("a", input=Payload(b"1")),
            StepPlanned("a", StepKind.INVOKE, spec=Invoke("ship")),
            StepPlanned("a", undo=Undo(StepKind.RUN)),
            StepPlanned("a", traceparent=SPAN),
        )
    ],
    *[
        planned(step, StepPlanned("plain"))
        for step in (
            StepPlanned("a", input=Payload(b"1")),
            StepPlanned("a", undo=Undo(StepKind.RUN)),
            StepPlanned("a", traceparent=SPAN),
        )
    ],
    branches(OK, BranchEnded("g/[1]", BranchOutcome.CANCELLED)),
    branches(*[BranchEnded(f"g/[{n}]", BranchOutcome.FAILED, FAILED) for n in range(2)]),
    *[
        results(result("a"), other(result("a"), **fields))
        for fields in ({"attempt": 2}, {"fence": Fence(1, 8)}, {"output": None, "failure": FAILED})
    ],
    results(result("a"), sealed(encoding="cbor")),
    results(result("a"), sealed(redacted=True)),
    results(*[Result(path, 1, FENCE, failure=FAILED) for path in "ab"]),
    released(HELD, StepOutcome("b", Payload(b"1"))),
    released(HELD, StepOutcome("b", failure=FAILED)),
    released(HELD, other(HELD, attempts=2)),
    released(StepOutcome("a", Payload(b"1")), StepOutcome("b", Payload(b"1"))),
]


@pytest.mark.parametrize("frame", DIFFERENT, ids=range(len(DIFFERENT)))
def test_no_message_speaks_for_what_is_different(frame: HostFrame | EngineFrame) -> None:
    assert said(frame, alike=True) == said(frame, alike=False)
    assert understood(said(frame, alike=True)) == frame


def test_every_field_was_looked_at() -> None:
    """Whoever adds one: shared, told of each, or a reason for a message of its own? Say so in the protos and above."""
    known = {
        StepPlanned: "path kind name input retry timeout started concurrent deadline spec undo traceparent",
        BranchEnded: "path outcome failure",
        Result: "path attempt fence output failure elapsed",
        StepOutcome: "path output failure held attempts took_ms",
        Payload: "data encoding redacted",
    }
    for value, fields in known.items():
        assert [field.name for field in msgspec.structs.fields(value)] == fields.split()


def runs_of(item: Any, apart: Any, **fields: Any) -> list[Any]:
    """Three that are alike, one that is different, two that are alike, one of each."""
    return [
        *[other(item, path=f"g/[{n}]/{n}", **fields) for n in range(3)],
        other(apart, path="apart#1"),
        *[other(item, path=f"h/[{n}]/{n}", **fields) for n in range(2)],
        other(apart, path="apart#2"),
        other(item, path="last", **fields),
    ]


MIXED: dict[str, tuple[HostFrame | EngineFrame, str]] = {
    "steps": (planned(*runs_of(STEP, other(STEP, input=Payload(b"1")))), "StepPlanned"),
    "steps with policies": (
        planned(*runs_of(StepPlanned("a", StepKind.TASK, "work", None, RETRY, 2.5, False, True, 9.0), STEP)),
        "StepPlanned",
    ),
    "branches": (branches(*runs_of(OK, BranchEnded("a", BranchOutcome.FAILED, FAILED))), "BranchEnded"),
    "cancelled branches": (branches(*runs_of(BranchEnded("a", BranchOutcome.CANCELLED), OK)), "BranchEnded"),
    "results": (results(*runs_of(result("a"), Result("b", 1, FENCE, failure=FAILED))), "Result"),
    "redacted results": (results(*runs_of(sealed(encoding="x-sealed", redacted=True), result("b"))), "Result"),
    "outcomes": (released(*runs_of(HELD, StepOutcome("b", Payload(b"1")))), "StepOutcome"),
    "second tries": (released(*runs_of(other(HELD, attempts=2), HELD, took_ms=9)), "StepOutcome"),
}


@pytest.mark.parametrize("case", MIXED)
def test_one_message_speaks_for_those_that_are_like_it_and_their_order_stays(case: str) -> None:
    frame, sort = MIXED[case]
    messages = said(frame, alike=True)
    assert list(spoken_for(messages[0])) == [(sort, 2), (sort, 1)]
    assert understood(messages) == frame
    assert len(messages[0].SerializeToString()) < len(said(frame, alike=False)[0].SerializeToString())


@pytest.mark.parametrize("case", MIXED)
def test_who_is_spoken_for_by_nobody_is_told_as_always(case: str) -> None:
    """Without the fields `alike` the messages are those of a sender that does not use them."""
    frame, _ = MIXED[case]
    [alike], [each] = said(frame, alike=True), said(frame, alike=False)
    for item in items_of(alike):
        item.ClearField("alike")
    assert list(items_of(alike)) == [items_of(each)[at] for at in (0, 3, 4, 6, 7)]


def items_of(message: Any) -> Any:
    """The one list that a message of these cases has."""
    section = message.runs[0]
    if isinstance(message, pb.EngineFrame):
        return section.advance.entries[0].release.outcomes
    return section.results or section.plans[0].steps or section.plans[0].branches_ended


@some
@given(HOST_FRAMES | ENGINE_FRAMES)
def test_a_receiver_without_the_feature_is_told_a_message_for_each(frame: HostFrame | EngineFrame) -> None:
    assert [found for message in said(frame, alike=False) for found in spoken_for(message)] == []


def of_host(section: HostSection) -> HostFrame:
    return HostFrame(1, runs=[section])


@pytest.mark.parametrize(
    ("sort", "frames"),
    [
        ("StepPlanned", PLANS.map(lambda plan: of_host(HostSection("r", plans=[plan])))),
        ("BranchEnded", PLANS.map(lambda plan: of_host(HostSection("r", plans=[plan])))),
        ("Result", RESULT_LISTS.map(lambda items: of_host(HostSection("r", results=items)))),
        ("StepOutcome", RELEASES.map(lambda release: released(*release.outcomes))),
    ],
)
def test_the_frames_of_the_round_trips_have_items_that_are_alike(sort: str, frames: Any) -> None:
    """Otherwise those tests would prove nothing of this feature."""
    settled = settings(max_examples=1000, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    find(frames, lambda frame: sort in dict(spoken_for(said(frame, alike=True)[-1])), settings=settled)


def test_a_snapshot_tells_the_plans_of_the_journal_in_the_same_way() -> None:
    plan = Plan(1, 0, FENCE, steps=tuple(StepPlanned(f"map/[{n}]/work") for n in range(9)))
    advance = Advance(FENCE, (plan,), BodyStart("f", Payload(b"null"), 1, 7), hold=True)
    frame = EngineFrame(1, runs=[EngineSection("r", advance=advance)])
    messages = said(frame, alike=True)
    assert list(spoken_for(messages[0])) == [("StepPlanned", 8)]
    assert understood(messages) == frame


# ---- sizes


@pytest.mark.parametrize("size", [0, 1, MOVABLE_BYTES - 1, MOVABLE_BYTES, limits.INLINE_BYTES_MAX])
def test_an_output_that_travels_by_itself_is_not_spoken_for(size: int) -> None:
    frame = results(result("a"), result("b", bytes(size)), result("c"))
    messages = said(frame, alike=True)
    small = size < MOVABLE_BYTES
    assert list(spoken_for(messages[0])) == [("Result", 2 if small else 1)]
    assert understood(messages) == frame


@pytest.mark.parametrize("size", [limits.INLINE_BYTES_MAX, limits.INLINE_BYTES_MAX + 1, 500_000])
def test_one_whose_own_output_travels_by_itself_speaks_for_small_ones(size: int) -> None:
    """It may be large, a chunk of its own, or many."""
    many = [result(f"b#{n}", b"x" * 15_000) for n in range(2, 10)]
    frame = results(result("a", bytes(size)), *many)
    messages = said(frame, alike=True)
    assert list(spoken_for(messages[-1])) == [("Result", len(many))]
    assert understood(messages) == frame


def test_nobody_is_spoken_for_whose_output_must_travel_as_chunks() -> None:
    assert MOVABLE_BYTES <= limits.INLINE_BYTES_MAX


def test_a_frame_that_is_cut_is_the_same_frame() -> None:
    frame = results(*[result(f"map/[{n}]/work", b"x" * 1_000) for n in range(1_000)])
    messages = said(frame, alike=True)
    assert len(messages) > 4
    assert understood(messages) == frame


def test_a_message_for_a_group_of_1000_has_fewer_bytes() -> None:
    paths = [f"map/[{n}]/work" for n in range(1_000)]
    frames: list[HostFrame | EngineFrame] = [
        planned(*[StepPlanned(path, started=True) for path in paths]),
        results(*[result(path, str(n).encode(), 0.0001 + n / 1e8) for n, path in enumerate(paths)]),
        released(*[StepOutcome(path, held=True, took_ms=4) for path in paths]),
    ]
    for frame in frames:
        alike, each = [[m.ByteSize() for m in said(frame, alike=way)] for way in (True, False)]
        assert sum(alike) < 0.9 * sum(each)


# ---- times


@pytest.mark.parametrize("elapsed", [-1.0, 0.0, 1e-10, 0.5, 0.9, 1.0, 3600.5, 3_155_759_999.5, 4e9, float("inf")])
def test_times_are_clamped_as_in_a_message_of_ones_own(elapsed: float) -> None:
    frame = results(result("a"), result("b", elapsed=elapsed), result("c", elapsed=0.25))
    assert list(spoken_for(said(frame, alike=True)[0])) == [("Result", 2)]
    assert understood(said(frame, alike=True)) == understood(said(frame, alike=False))


@pytest.mark.parametrize("took", [-5, 0, 7, 2**32 - 1, 2**40])
def test_milliseconds_are_clamped_as_in_a_message_of_ones_own(took: int) -> None:
    frame = released(HELD, other(HELD, took_ms=took), other(HELD, "c", took_ms=3))
    assert list(spoken_for(said(frame, alike=True)[0])) == [("StepOutcome", 2)]
    assert understood(said(frame, alike=True)) == understood(said(frame, alike=False))
