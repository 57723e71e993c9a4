"""What is refused, with which code, and that a decoder gives a value or a WireError whatever the bytes."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepwire.protocol import limits, traceparent, wire
from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import EngineFrame, HostFrame, HostSection, Release, Result
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Fence
from stepwire.protocol.wire.transfers import Inbound
from stepwire.v1 import host_service_pb2 as pb
from stepwire.v1 import payload_pb2, plan_pb2
from tests.protocol.strategies import ENGINE_FRAMES, HOST_FRAMES

MALFORMED = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
FENCE = Fence(1, 1)


def mutated(data: bytes, seed: int) -> bytes:
    """`data` with a few bytes flipped, removed, doubled or inserted."""
    rng = random.Random(seed)
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at : at + rng.randint(1, 4)]
            case 2:
                changed[at:at] = changed[max(0, at - 8) : at]
            case _:
                changed[at:at] = rng.randbytes(rng.randint(1, 3))
    return bytes(changed)


def accepts_or_refuses(decode: Callable[[bytes], object], data: bytes) -> None:
    try:
        decode(data)
    except wire.WireError as error:
        assert error.code in (ErrorCode.UNDECODABLE, ErrorCode.PAYLOAD_TOO_LARGE)
        assert str(error)


@MALFORMED
@given(frame=HOST_FRAMES, seed=st.integers(0, 2**32), alike=st.booleans())
def test_mutated_host_messages(frame: HostFrame, seed: int, alike: bool) -> None:
    for message in wire.encode_host_frame(frame, alike=alike):
        accepts_or_refuses(wire.HostFrameDecoder().decode, mutated(message, seed))


@MALFORMED
@given(frame=ENGINE_FRAMES, seed=st.integers(0, 2**32), alike=st.booleans())
def test_mutated_engine_messages(frame: EngineFrame, seed: int, alike: bool) -> None:
    for message in wire.encode_engine_frame(frame, alike=alike):
        accepts_or_refuses(wire.EngineFrameDecoder().decode, mutated(message, seed))


@MALFORMED
@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    accepts_or_refuses(wire.HostFrameDecoder().decode, data)
    accepts_or_refuses(wire.EngineFrameDecoder().decode, data)


def a_host_message() -> pb.HostFrame:
    message = pb.HostFrame(position=1)
    result = message.runs.add(run_id="r").results.add(path="a", attempt=1)
    result.fence.claim_epoch = 1
    result.output.data = b"1"
    plan = message.runs[0].plans.add(plan_seq=1)
    plan.fence.claim_epoch = 1
    plan.steps.add(path="a", kind=1)
    return message


# `Any`: most of these calls return nothing, which a lambda may not say.
HOST_CASES: dict[str, Callable[[Any], Any]] = {
    "no run_id": lambda m: m.runs[0].ClearField("run_id"),
    "no path": lambda m: m.runs[0].results[0].ClearField("path"),
    "path too long": lambda m: setattr(m.runs[0].results[0], "path", "x" * (limits.PATH_BYTES_MAX + 1)),
    "attempt 0": lambda m: m.runs[0].results[0].ClearField("attempt"),
    "no fence": lambda m: m.runs[0].results[0].ClearField("fence"),
    "neither output nor failure": lambda m: m.runs[0].results[0].ClearField("output"),
    "output and failure": lambda m: m.runs[0].results[0].failure.SetInParent(),
    "unset error code": lambda m: (
        m.runs[0].results[0].ClearField("output"),
        m.runs[0].results[0].failure.SetInParent(),
    ),
    "negative duration": lambda m: setattr(m.runs[0].results[0].elapsed, "seconds", -1),
    "negative nanoseconds": lambda m: setattr(m.runs[0].results[0].elapsed, "nanos", -1),
    "more than a second of nanoseconds": lambda m: setattr(m.runs[0].results[0].elapsed, "nanos", 10**9),
    "duration over 100 years": lambda m: setattr(m.runs[0].results[0].elapsed, "seconds", 2**60),
    "unknown transfer": lambda m: m.runs[0].results[0].output.CopyFrom(payload_pb2.Payload(transfer_id=5)),
    "plan_seq 0": lambda m: m.runs[0].plans[0].ClearField("plan_seq"),
    "unset step kind": lambda m: m.runs[0].plans[0].steps[0].ClearField("kind"),
    "unknown step kind": lambda m: setattr(m.runs[0].plans[0].steps[0], "kind", 99),
    "unset mode": lambda m: m.runs[0].plans[0].groups.add(path="g", fail=1),
    "retry without attempts": lambda m: m.runs[0].plans[0].steps[0].retry.SetInParent(),
    "jitter over 1": lambda m: (
        m.runs[0]
        .plans[0]
        .steps[0]
        .retry.MergeFrom(plan_pb2.RetryPolicy(max_attempts=1, backoff="BACKOFF_FIXED", jitter=1.5))
    ),
    "empty end of a body": lambda m: m.runs[0].plans[0].body_ended.SetInParent(),
    "failure of a branch that succeeded": lambda m: (
        m.runs[0].plans[0].branches_ended.add(path="g/[0]", outcome=1, failure={"code": 1, "retryable": 1})
    ),
    "reject without reason": lambda m: m.runs[0].rejects.add(path="a", attempt=1, fence={"claim_epoch": 1}),
    "lines of no run": lambda m: m.logs.add(dropped=1),
    "line of the future": lambda m: m.logs.add(run_id="r").lines.add(age={"seconds": -1}),
    "line with a path that moves the cursor": lambda m: m.logs.add(run_id="r").lines.add(path="\x1b[2J"),
    "line with a path too long": lambda m: m.logs.add(run_id="r").lines.add(path="x" * (limits.PATH_BYTES_MAX + 1)),
    "empty Hello": lambda m: m.hello.SetInParent(),
    "fault without code": lambda m: m.fault.SetInParent(),
    "chunk without number": lambda m: m.chunks.add(data=b"x"),
    "empty chunk": lambda m: m.chunks.add(transfer_id=1),
    "chunk over 128 KiB": lambda m: m.chunks.add(transfer_id=1, data=bytes(limits.CHUNK_BYTES_MAX + 1)),
    "frame in chunks beside something else": lambda m: m.chunks.add(transfer_id=1, data=b"x", last=True, frame=True),
    "chunk after the last": lambda m: (
        m.chunks.add(transfer_id=1, data=b"x", last=True),
        m.chunks.add(transfer_id=1, data=b"x"),
    ),
    "chunk of another sort": lambda m: (
        m.chunks.add(transfer_id=1, data=b"x"),
        m.chunks.add(transfer_id=1, data=b"x", frame=True),
    ),
}


def refusal(decoder: wire.HostFrameDecoder | wire.EngineFrameDecoder, *messages: bytes) -> wire.WireError:
    with pytest.raises(wire.WireError) as caught:
        for message in messages:
            decoder.decode(message)
    return caught.value


def test_the_unchanged_message_is_accepted() -> None:
    assert wire.HostFrameDecoder().decode(a_host_message().SerializeToString()) is not None


@pytest.mark.parametrize("case", HOST_CASES)
def test_host_messages_are_refused(case: str) -> None:
    message = a_host_message()
    HOST_CASES[case](message)
    assert refusal(wire.HostFrameDecoder(), message.SerializeToString()).code is ErrorCode.UNDECODABLE


def a_step(**fields: Any) -> Callable[[Any], Any]:
    return lambda m: m.runs[0].plans[0].steps.add(path="b", **fields)


def an_undo(**fields: Any) -> Callable[[Any], Any]:
    return lambda m: m.runs[0].plans[0].steps.add(path="b", kind=1, undo=fields)


def an_end(**fields: Any) -> Callable[[Any], Any]:
    return lambda m: m.runs[0].plans[0].MergeFrom(plan_pb2.Plan(body_ended=fields))


def a_group(**fields: Any) -> Callable[[Any], Any]:
    return lambda m: m.runs[0].plans[0].groups.add(path="g", mode=1, branches=3, **fields)


def options(*items: dict[str, Any], **hello: Any) -> Callable[[Any], Any]:
    fields = {"protocol_min": 1, "protocol_max": 1, "instance_id": "i", "flows": ["f"], **hello}
    return lambda m: m.hello.MergeFrom(pb.Hello(**fields, flow_options=items))


LONG = "x" * 257
STEP_CASES: dict[str, Callable[[Any], Any]] = {
    "closure with a spec": a_step(kind=1, sleep={"duration": {"seconds": 1}}),
    "registered step with a spec": a_step(kind=2, name="s", invoke={"flow": "f"}),
    "sleep without a spec": a_step(kind=3),
    "call without a spec": a_step(kind=7, name="stepwire:call"),
    "sleep that waits for an event": a_step(kind=3, wait_event={"event": "e"}),
    "sleep of nothing": a_step(kind=3, sleep={}),
    "sleep of two sorts": a_step(kind=3, sleep={"duration": {"seconds": 1}, "until": {"seconds": 1}}),
    "sleep of less than nothing": a_step(kind=3, sleep={"duration": {"seconds": -1}}),
    "sleep until before 1970": a_step(kind=3, sleep={"until": {"seconds": -1}}),
    "wait for no event": a_step(kind=4, wait_event={}),
    "wait for a long event": a_step(kind=4, wait_event={"event": LONG}),
    "wait with a long match": a_step(kind=4, wait_event={"event": "e", "match": "x" * 1025}),
    "no events to send": a_step(kind=5, send_event={}),
    "101 events to send": a_step(kind=5, send_event={"events": [{"name": "e"}] * 101}),
    "event without a name": a_step(kind=5, send_event={"events": [{"name": "e"}, {}]}),
    "event with a long id": a_step(kind=5, send_event={"events": [{"name": "e", "id": LONG}]}),
    "event with data that are not JSON": a_step(kind=5, send_event={"events": [{"name": "e", "data": {"data": b"{"}}]}),
    "invocation of no flow": a_step(kind=6, invoke={}),
    "invocation with a long key": a_step(kind=6, invoke={"flow": "f", "id": LONG}),
    "call of nothing": a_step(kind=7, name="stepwire:call", call={}),
    "call of another name": a_step(kind=7, name="other", call={"url": "http://h"}),
    "call with 101 headers": a_step(kind=7, name="stepwire:call", call={"url": "u", "headers": [{"name": "a"}] * 101}),
    "call with a header without a name": a_step(kind=7, name="stepwire:call", call={"url": "u", "headers": [{}]}),
    "deadline below 0": a_step(kind=1, deadline={"seconds": -1}),
    "undo of no kind": an_undo(),
    "undo that sleeps": an_undo(kind=3),
    "undo by a registered step without a name": an_undo(kind=2),
    "undo by a closure with a name": an_undo(kind=1, name="s"),
    "undo with a path that is too long": lambda m: (
        m.runs[0].plans[0].steps.add(path="x" * limits.PATH_BYTES_MAX, kind=1, undo={"kind": 1})
    ),
    "output and restart": an_end(output={}, restart={}),
    "failure and cancelled": an_end(failure={"code": 1, "retryable": 1}, cancelled=True),
    "restart and cancelled": an_end(restart={}, cancelled=True),
    "quorum of another policy": a_group(fail=1, quorum=2),
    "policy without its quorum": a_group(fail=4),
    "options of no flow": options({}),
    "options of a flow that is not listed": options({"flow": "g"}),
    "options twice": options({"flow": "f"}, {"flow": "f"}),
    "65 triggers": options({"flow": "f", "triggers": [{"event": "e"}] * 65}),
    "trigger without an event": options({"flow": "f", "triggers": [{}]}),
    "trigger with a long match": options({"flow": "f", "triggers": [{"event": "e", "match": "x" * 1025}]}),
    "flow deadline below 0": options({"flow": "f", "deadline": {"seconds": -1}}),
    "step of the engine": options(steps=["stepwire:call"]),
}


@pytest.mark.parametrize("case", STEP_CASES)
def test_steps_groups_and_options_are_refused(case: str) -> None:
    message = a_host_message()
    STEP_CASES[case](message)
    assert refusal(wire.HostFrameDecoder(), message.SerializeToString()).code is ErrorCode.UNDECODABLE


def test_flow_options_of_a_listed_flow_are_accepted() -> None:
    message = a_host_message()
    options({"flow": "f", "triggers": [{"event": "e"}] * 64}, steps=["call"])(message)
    assert wire.HostFrameDecoder().decode(message.SerializeToString()) is not None


def results_alike(**fields: Any) -> Callable[[Any], Any]:
    return lambda m: m.runs[0].results[0].alike.MergeFrom(pb.ResultsAlike(**fields))


TWO = {"paths": ["b", "c"], "outputs": [b"2", b""], "elapsed_ns": [1, 0]}
OTHERS = {"paths": ["c", "d"]}
ALIKE_CASES: dict[str, Callable[[Any], Any]] = {
    "like a step with an input": a_step(kind=1, input={"data": b"1"}, alike=OTHERS),
    "like a step with an empty input": a_step(kind=1, input={}, alike=OTHERS),
    "like a step with a spec": a_step(kind=3, sleep={"duration": {"seconds": 1}}, alike=OTHERS),
    "like a step with an undo": a_step(kind=1, undo={"kind": 1}, alike=OTHERS),
    "like a step with a span": a_step(kind=1, traceparent=traceparent.derived_traceparent("r"), alike=OTHERS),
    "nobody like a step with an input": a_step(kind=1, input={}, alike={}),
    "step without a path": a_step(kind=1, alike={"paths": ["c", ""]}),
    "step with a path too long": a_step(kind=1, alike={"paths": ["x" * (limits.PATH_BYTES_MAX + 1)]}),
    "step with a path that moves the cursor": a_step(kind=1, alike={"paths": ["\x1b[2J"]}),
    "like a branch that failed": lambda m: (
        m.runs[0]
        .plans[0]
        .branches_ended.add(path="g/[0]", outcome=2, failure={"code": 1, "retryable": 1}, alike={"paths": ["g/[1]"]})
    ),
    "branch without a path": lambda m: (
        m.runs[0].plans[0].branches_ended.add(path="g/[0]", outcome=1, alike={"paths": [""]})
    ),
    "like a failure": lambda m: (
        results_alike(**TWO)(m),
        m.runs[0].results[0].ClearField("output"),
        m.runs[0].results[0].MergeFrom(pb.Result(failure={"code": 1, "retryable": 1})),
    ),
    "results without a path": results_alike(**{**TWO, "paths": ["b", ""]}),
    "fewer paths": results_alike(**{**TWO, "paths": ["b"]}),
    "fewer outputs": results_alike(**{**TWO, "outputs": [b"2"]}),
    "fewer times": results_alike(**{**TWO, "elapsed_ns": [1]}),
    "no times": results_alike(**{**TWO, "elapsed_ns": []}),
    "outputs of nothing": results_alike(outputs=[b"2"]),
    "over 100 years": results_alike(**{**TWO, "elapsed_ns": [1, int(limits.DURATION_SECONDS_MAX) * 10**9 + 1]}),
}


@pytest.mark.parametrize("case", ALIKE_CASES)
def test_what_is_not_alike_is_refused(case: str) -> None:
    message = a_host_message()
    ALIKE_CASES[case](message)
    assert refusal(wire.HostFrameDecoder(), message.SerializeToString()).code is ErrorCode.UNDECODABLE


def test_what_is_alike_is_accepted() -> None:
    """Otherwise the cases above would prove nothing."""
    message = a_host_message()
    results_alike(**{**TWO, "elapsed_ns": [1, int(limits.DURATION_SECONDS_MAX) * 10**9]})(message)
    a_step(kind=1, alike=OTHERS)(message)
    a_step(kind=1, alike={}, traceparent="no such thing")(message)
    message.runs[0].plans[0].branches_ended.add(path="g/[0]", outcome=1, alike={"paths": ["g/[1]"]})
    frame = wire.HostFrameDecoder().decode(message.SerializeToString())
    assert frame is not None
    assert [result.path for result in frame.runs[0].results] == ["a", "b", "c"]
    assert frame.runs[0].results[2].elapsed == float(limits.DURATION_SECONDS_MAX)
    assert [step.path for step in frame.runs[0].plans[0].steps] == ["a", "b", "c", "d", "b"]
    assert [branch.path for branch in frame.runs[0].plans[0].branches_ended] == ["g/[0]", "g/[1]"]


def test_an_output_that_is_like_another_is_inline() -> None:
    fits, large = bytes(limits.INLINE_BYTES_MAX), bytes(limits.INLINE_BYTES_MAX + 1)
    for outputs in ([fits, b""], [b"", fits]):
        message = a_host_message()
        results_alike(**{**TWO, "outputs": outputs})(message)
        assert wire.HostFrameDecoder().decode(message.SerializeToString()) is not None
    for outputs in ([large, b""], [b"", large]):
        message = a_host_message()
        results_alike(**{**TWO, "outputs": outputs})(message)
        assert refusal(wire.HostFrameDecoder(), message.SerializeToString()).code is ErrorCode.PAYLOAD_TOO_LARGE


def an_execute(path: str = "a", **fields: Any) -> dict[str, Any]:
    return {"executes": [{"path": path, "attempt": 1, "fence": {"claim_epoch": 1}, **fields}]}


def a_release(*outcomes: dict[str, Any]) -> dict[str, Any]:
    entry = {"release": {"release_seq": 1, "outcomes": outcomes}}
    return {"advance": {"fence": {"claim_epoch": 1}, "purpose": 1, "entries": [entry]}}


def test_outcomes_that_are_alike_are_accepted() -> None:
    released = a_release({"path": "a", "held": True, "attempts": 2, "alike": {"paths": ["b", "c"], "took_ms": [7, 0]}})
    message = pb.EngineFrame(number=1, runs=[{"run_id": "r", **released}])
    frame = wire.EngineFrameDecoder().decode(message.SerializeToString())
    assert frame is not None and frame.runs[0].advance is not None
    [entry] = frame.runs[0].advance.entries
    assert isinstance(entry, Release)
    assert [(o.path, o.held, o.attempts, o.took_ms) for o in entry.outcomes] == [
        ("a", True, 2, 0),
        ("b", True, 2, 7),
        ("c", True, 2, 0),
    ]


ENGINE_CASES: dict[str, dict[str, Any]] = {
    "advance without purpose": {"advance": {"fence": {"claim_epoch": 1}}},
    "empty entry": {"advance": {"fence": {"claim_epoch": 1}, "purpose": 1, "entries": [{}]}},
    "release_seq 0": {"advance": {"fence": {"claim_epoch": 1}, "purpose": 1, "entries": [{"release": {}}]}},
    "held with output": a_release({"path": "a", "held": True, "output": {}}),
    "like an outcome with bytes": a_release({"path": "a", "output": {}, "alike": {"paths": ["b"], "took_ms": [1]}}),
    "like a failure": a_release(
        {"path": "a", "failure": {"code": 1, "retryable": 1}, "alike": {"paths": ["b"], "took_ms": [1]}}
    ),
    "more paths than times": a_release({"path": "a", "held": True, "alike": {"paths": ["b"]}}),
    "more times than paths": a_release({"path": "a", "held": True, "alike": {"took_ms": [1]}}),
    "outcome without a path": a_release({"path": "a", "held": True, "alike": {"paths": [""], "took_ms": [1]}}),
    "start without flow": {"advance": {"fence": {"claim_epoch": 1}, "purpose": 1, "start": {"input": {}}}},
    "start before 1970": {
        "advance": {
            "fence": {"claim_epoch": 1},
            "purpose": 1,
            "start": {"flow": "f", "input": {}, "created_at": {"seconds": -1}},
        }
    },
    "cancel without reason": {"cancels": [{"fence": {"claim_epoch": 1}}]},
    "evict without fence": {"evict": {}},
    "execute without kind": {"executes": [{"path": "a", "attempt": 1, "fence": {"claim_epoch": 1}}]},
    "execute of a sleep": an_execute(kind=3),
    "call without a request": an_execute(kind=7),
    "request of a closure": an_execute(kind=1, call={"url": "u"}),
    "call of nothing": an_execute(kind=7, call={}),
    "undo at the path of a step": an_execute(kind=1, undo={"output": {}}),
    "step at the path of an undo": an_execute(path="a#undo", kind=1),
    "undo without output": an_execute(path="a#undo", kind=1, undo={}),
}


@pytest.mark.parametrize("case", ENGINE_CASES)
def test_engine_messages_are_refused(case: str) -> None:
    message = pb.EngineFrame(number=1, runs=[{"run_id": "r", **ENGINE_CASES[case]}])
    assert refusal(wire.EngineFrameDecoder(), message.SerializeToString()).code is ErrorCode.UNDECODABLE


def messages_of(size: int) -> list[bytes]:
    result = Result("a", 1, FENCE, Payload(bytes(size)))
    return wire.encode_host_frame(HostFrame(1, runs=[HostSection("r", results=[result])]))


def test_texts_of_log_lines_that_are_too_long_are_cut() -> None:
    """A line is never worth a stream."""
    message = a_host_message()
    message.logs.add(run_id="r").lines.add(logger="l" * 1000, message="\u20ac" * limits.LOG_MESSAGE_BYTES_MAX)
    frame = wire.HostFrameDecoder().decode(message.SerializeToString())
    assert frame is not None
    (decoded,) = frame.logs[0].lines
    assert len(decoded.logger.encode()) <= limits.NAME_BYTES_MAX
    assert len(decoded.message.encode()) <= limits.LOG_MESSAGE_BYTES_MAX and "bytes cut]" in decoded.message


def test_a_payload_over_the_limit_is_refused_while_it_arrives() -> None:
    decoder = wire.HostFrameDecoder(payload_bytes_max=200_000)
    messages = messages_of(500_000)
    assert refusal(decoder, *messages[:2]).code is ErrorCode.PAYLOAD_TOO_LARGE


def test_open_transfers_are_bounded_in_bytes_and_number() -> None:
    chunk = {"data": bytes(100)}
    over_bytes = [pb.HostFrame(chunks=[{"transfer_id": n, **chunk}]).SerializeToString() for n in (1, 2, 3)]
    assert refusal(wire.HostFrameDecoder(open_bytes_max=250), *over_bytes).code is ErrorCode.PAYLOAD_TOO_LARGE
    many = pb.HostFrame()
    for number in range(1, limits.TRANSFERS_OPEN_MAX + 2):
        many.chunks.add(transfer_id=number, data=b"x")
    assert refusal(wire.HostFrameDecoder(), many.SerializeToString()).code is ErrorCode.PAYLOAD_TOO_LARGE


@pytest.mark.parametrize("sizes", [[2] * 30_000, [4095] * 30, [1, 4096] * 30, [4096] * 30])
def test_small_pieces_cost_no_more_memory_than_their_bytes(sizes: list[int]) -> None:
    """Otherwise the bound on bytes would bound nothing."""
    inbound = Inbound(limits.PAYLOAD_BYTES_MAX, limits.TRANSFER_BYTES_OPEN_MAX)
    pieces = [os.urandom(size) for size in sizes]
    for piece in pieces:
        inbound.add(payload_pb2.Chunk(transfer_id=1, data=piece))
    inbound.add(payload_pb2.Chunk(transfer_id=1, data=b"end", last=True))
    (transfer,) = inbound._open.values()
    assert sum(map(sys.getsizeof, transfer.pieces)) < 1.2 * transfer.size + 4096
    taken = inbound.payload(payload_pb2.Payload(transfer_id=1))
    assert taken.data == b"".join([*pieces, b"end"])


def test_an_inline_payload_over_64_kib_is_refused() -> None:
    message = a_host_message()
    message.runs[0].results[0].output.data = bytes(limits.INLINE_BYTES_MAX + 1)
    assert refusal(wire.HostFrameDecoder(), message.SerializeToString()).code is ErrorCode.PAYLOAD_TOO_LARGE


def test_a_frame_in_chunks_holds_no_chunks() -> None:
    inner = pb.HostFrame(chunks=[{"transfer_id": 2, "data": b"x"}]).SerializeToString()
    outer = pb.HostFrame(chunks=[{"transfer_id": 1, "data": inner, "last": True, "frame": True}])
    assert refusal(wire.HostFrameDecoder(), outer.SerializeToString()).code is ErrorCode.UNDECODABLE
