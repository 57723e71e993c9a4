"""What hosts send wrongly, and how each is answered; one row per kind of bad input, in the order of the design."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc
import msgspec

from stepwire.protocol import limits
from stepwire.protocol.frames import HostFrame, HostSection, Report, Result
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Fence, Plan, StepPlanned
from stepwire.v1 import host_service_pb2, plan_pb2
from stepwire_engine.transport.host_service import StreamBounds
from tests.transport.bench import HELLO, REF
from tests.transport.whole_engine import Answer, Scenario, WholeEngine, with_instance

S = grpc.StatusCode


@dataclass(frozen=True)
class Row:
    """One kind of bad input.

    Attributes:
        what: As the list of the design calls it.
        play: Sends it, and returns how it was answered.
        message: Stands in what the peer is told.
        serves_on: The next good call is made on the same engine; a draining or full one is not asked.
    """

    what: str
    play: Scenario
    status: grpc.StatusCode
    code: str
    message: str
    bounds: StreamBounds = field(default_factory=StreamBounds)
    sessions_max: int = 1000
    serves_on: bool = True


# ---- hosts that say something wrong


def said(*frames: HostFrame | bytes, greet: bool = True) -> Scenario:
    """A host that says these, after its Hello if `greet`."""

    async def play(engine: WholeEngine) -> Answer:
        host = engine.host(with_instance("bad", flows=()))
        if greet:
            await host.greet()
        for frame in frames:
            if isinstance(frame, bytes):
                await host.call.write(frame)
            else:
                await host.send(frame)
        return await engine.ended(host)

    return play


def greeted(**changes: Any) -> Scenario:
    """A host whose Hello is wrong."""
    return said(HostFrame(hello=msgspec.structs.replace(with_instance("bad", flows=()), **changes)), greet=False)


async def no_hello(engine: WholeEngine) -> Answer:
    return await engine.ended(engine.host())


def raw_plan(step: plan_pb2.StepPlanned | None = None, group: plan_pb2.GroupOpened | None = None) -> bytes:
    plan = plan_pb2.Plan(plan_seq=1, fence=plan_pb2.Fence(claim_epoch=1, n=1))
    if step is not None:
        plan.steps.append(step)
    if group is not None:
        plan.groups.append(group)
    section = host_service_pb2.HostSection(run_id="r", plans=[plan])
    return host_service_pb2.HostFrame(position=1, runs=[section]).SerializeToString()


def raw_sleep(seconds: int) -> bytes:
    step = plan_pb2.StepPlanned(path="s", kind=plan_pb2.STEP_KIND_SLEEP)
    step.sleep.duration.seconds = seconds
    return raw_plan(step)


def long_hello(size: int) -> bytes:
    message = host_service_pb2.HostFrame()
    message.hello.build_id = "b" * size
    return message.SerializeToString()


async def same_identity(engine: WholeEngine) -> Answer:
    old, new = engine.host(), engine.host()
    await old.greet()
    await new.greet()
    answer = await engine.ended(old)
    await engine.finished_run(new)
    return answer


async def one_host_too_many(engine: WholeEngine) -> Answer:
    first, second = engine.host(), engine.host(with_instance("second"))
    await first.greet()
    await second.send(HostFrame(hello=second.hello))
    answer = await engine.ended(second)
    await first.call.done_writing()
    await first.status()
    return answer


async def again_and_again(engine: WholeEngine) -> Answer:
    """After three faults of one instance in a minute it is refused, whatever it says, and nobody else is."""
    for _ in range(3):
        assert (await said(HostFrame(position=9))(engine)).code == "protocol"
    fourth = await said(HostFrame(position=9))(engine)
    assert fourth.code == "limit_exceeded"
    host = engine.host(with_instance("bad", flows=()))
    await host.send(HostFrame(hello=host.hello))
    answer = await engine.ended(host)
    assert "stepwire-retry-after-ms" in answer.everything
    return answer


async def again_and_again_without_a_name(engine: WholeEngine) -> Answer:
    """Who never says Hello is counted by address; others of that address are served all the same."""
    for _ in range(3):
        assert (await said(b"\xff", greet=False)(engine)).code == "undecodable"
    return await said(b"\xff", greet=False)(engine)


async def plans_that_contradict(engine: WholeEngine) -> Answer:
    """One stream that breaks the protocol about its run again and again.

    Each time the body is given out anew, to the only host there is.
    """
    host = engine.host()
    await host.greet()
    run_id = await engine.start()
    _, advance = await host.advance()
    await host.one_step(run_id, advance.fence)
    wrong = (StepPlanned("other"),)
    for _ in range(3):
        await host.say(HostSection(run_id, plans=[Plan(1, 0, advance.fence, steps=wrong)]))
        while (frame := await host.next()) is not None and frame.fault is None:
            pass
        if frame is None or frame.fault is None or not frame.fault.run_id:
            return await engine.ended(host)  # The last one may come together with the end of the stream.
        _, advance = await host.advance(since=frame)
        while advance.start is None:  # The release of the step was on its way; it is for the body before.
            _, advance = await host.advance()
    await host.say(HostSection(run_id, plans=[Plan(1, 0, advance.fence, steps=wrong)]))
    return await engine.ended(host)


async def to_a_full_store(engine: WholeEngine) -> Answer:
    engine.store.accepting = False
    return await said(HostFrame(hello=HELLO), greet=False)(engine)


async def to_a_draining_engine(engine: WholeEngine) -> Answer:
    await engine.driver.drain(0.01)
    return await said(HostFrame(hello=HELLO), greet=False)(engine)


UNDECODABLE = f"message could not be decoded (ref {REF})"
UNSET_KIND = raw_plan(plan_pb2.StepPlanned(path="s"))
UNSET_SPEC = raw_plan(plan_pb2.StepPlanned(path="s", kind=plan_pb2.STEP_KIND_WAIT_EVENT))
UNKNOWN_MODE = raw_plan(group=plan_pb2.GroupOpened(path="g", mode=99, branches=2, fail=1))  # type: ignore[arg-type]
CONTROL_PATH = raw_plan(plan_pb2.StepPlanned(path="a\x1b[2Jb", kind=plan_pb2.STEP_KIND_RUN))
BAD_UTF8 = long_hello(4).replace(b"bbbb", b"b\xff\xfeb")

HOST_ROWS = [
    Row(
        "no Hello in time",
        no_hello,
        S.DEADLINE_EXCEEDED,
        "timeout",
        "expected Hello within 0.05s",
        bounds=StreamBounds(hello_timeout=0.05),
    ),
    Row(
        "first message not Hello",
        said(HostFrame(report=Report(1)), greet=False),
        S.FAILED_PRECONDITION,
        "protocol",
        "expected Hello, got Report",
    ),
    Row(
        "first message a result",
        said(HostFrame(runs=[HostSection("r", results=[Result("a", 1, Fence(1, 1), Payload(b"1"))])]), greet=False),
        S.FAILED_PRECONDITION,
        "protocol",
        "expected Hello, got Result",
    ),
    Row("second Hello", said(HostFrame(hello=HELLO)), S.FAILED_PRECONDITION, "protocol", "expected one Hello"),
    Row(
        "protocol range disjoint",
        greeted(protocol_min=7, protocol_max=7),
        S.FAILED_PRECONDITION,
        "version",
        f"protocol 7..7 offered, engine speaks {limits.PROTOCOL_MIN}..{limits.PROTOCOL_MAX}; upgrade the engine",
    ),
    Row(
        "unknown required feature",
        greeted(required_features=(1, 77)),
        S.FAILED_PRECONDITION,
        "feature",
        "feature 77 required by the host is not supported",
    ),
    Row("undecodable bytes, first", said(b"\xff\xff", greet=False), S.INVALID_ARGUMENT, "undecodable", UNDECODABLE),
    Row("undecodable bytes, later", said(b"\xff\xff"), S.INVALID_ARGUMENT, "undecodable", UNDECODABLE),
    Row("unset oneof", said(UNSET_SPEC), S.INVALID_ARGUMENT, "undecodable", UNDECODABLE),
    Row("unset enum", said(UNSET_KIND), S.INVALID_ARGUMENT, "undecodable", UNDECODABLE),
    Row("bad UTF-8 in Hello", said(BAD_UTF8, greet=False), S.INVALID_ARGUMENT, "undecodable", UNDECODABLE),
    Row(
        "message too large",
        said(long_hello(limits.MESSAGE_BYTES_MAX), greet=False),
        S.RESOURCE_EXHAUSTED,
        "payload_too_large",
        f"limit {limits.MESSAGE_BYTES_MAX}",
    ),
    Row(
        "message too large for gRPC",
        said(long_hello(2 * limits.PAYLOAD_BYTES_MAX), greet=False),
        S.RESOURCE_EXHAUSTED,
        "",
        "larger than max",
    ),
    Row("service name empty", greeted(service=""), S.INVALID_ARGUMENT, "invalid_name", "has 0 bytes; 1 to 256"),
    Row("service name too long", greeted(service="s" * 257), S.INVALID_ARGUMENT, "invalid_name", "has 257 bytes"),
    Row("service name with control characters", greeted(service="a\nb"), S.INVALID_ARGUMENT, "invalid_name", "control"),
    Row("flow name empty", greeted(flows=("",)), S.INVALID_ARGUMENT, "invalid_name", "the name of a flow has 0 bytes"),
    Row(
        "step name of 1 MB", greeted(steps=("s" * 1_000_000,)), S.INVALID_ARGUMENT, "invalid_name", "has 1000000 bytes"
    ),
    Row("instance id too long", greeted(instance_id="i" * 513), S.INVALID_ARGUMENT, "invalid_name", "has 513 bytes"),
    Row("path with control characters", said(CONTROL_PATH), S.INVALID_ARGUMENT, "undecodable", UNDECODABLE),
    Row("group of unknown mode", said(UNKNOWN_MODE), S.INVALID_ARGUMENT, "undecodable", UNDECODABLE),
    Row("negative duration", said(raw_sleep(-1)), S.INVALID_ARGUMENT, "undecodable", UNDECODABLE),
    Row("duration that overflows", said(raw_sleep(2**62)), S.INVALID_ARGUMENT, "undecodable", UNDECODABLE),
    Row("position out of order", said(HostFrame(position=9)), S.FAILED_PRECONDITION, "protocol", "out of order"),
    Row(
        "more protocol faults than are allowed in a minute",
        again_and_again,
        S.RESOURCE_EXHAUSTED,
        "limit_exceeded",
        "too many protocol errors",
        bounds=StreamBounds(faults_per_minute_max=3),
    ),
    Row(
        "more protocol faults than are allowed, without Hello",
        again_and_again_without_a_name,
        S.RESOURCE_EXHAUSTED,
        "limit_exceeded",
        "too many protocol errors",
        bounds=StreamBounds(faults_per_minute_max=3),
    ),
    Row(
        "more protocol faults than are allowed, about a run",
        plans_that_contradict,
        S.RESOURCE_EXHAUSTED,
        "limit_exceeded",
        "too many protocol errors",
        bounds=StreamBounds(faults_per_minute_max=3),
    ),
    Row("same identity again", same_identity, S.ABORTED, "replaced", "session replaced by a newer stream of the same"),
    Row(
        "session cap",
        one_host_too_many,
        S.RESOURCE_EXHAUSTED,
        "limit_exceeded",
        "1 hosts are connected (sessions_max)",
        sessions_max=1,
    ),
    Row(
        "host of a full store",
        to_a_full_store,
        S.RESOURCE_EXHAUSTED,
        "store_full",
        "the store is full; nothing was accepted",
        serves_on=False,
    ),
    Row("host of a draining engine", to_a_draining_engine, S.UNAVAILABLE, "draining", "draining", serves_on=False),
]
