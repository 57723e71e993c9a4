"""Messages that speak for others (FEATURE_ALIKE), over real streams: only to a peer that understands them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

import stepwire
from stepwire._transport import redial
from stepwire._transport.session import HostSession
from stepwire.protocol.frames import (
    Advance,
    EngineFrame,
    Feature,
    Hello,
    HostFrame,
    HostSection,
    Release,
    Result,
    Welcome,
)
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import Fence, Plan, StepPlanned
from stepwire.protocol.wire import HostFrameDecoder, encode_engine_frame, encode_host_frame
from stepwire.v1 import host_service_pb2 as pb
from stepwire_engine.core.entries import RunState
from tests.transport.bench import HELLO, INPUT, Bench, Host, serving
from tests.transport.stand_in import linked

ALIKE = (Feature.ALIKE,)
PATHS = ("work", "work#2", "work#3")

# ---- what the engine says


class Listening(Host):
    """A host that keeps what was said to it as it was on the wire."""

    def __init__(self, channel: grpc.aio.Channel, hello: Hello) -> None:
        super().__init__(channel, hello)
        self.heard: list[bytes] = []
        decode = self.decoder.decode

        def keeping(data: bytes) -> EngineFrame | None:
            self.heard.append(data)
            return decode(data)

        self.decoder.decode = keeping  # type: ignore[method-assign]

    def entries(self) -> list[Any]:
        """Those of all Advances that it heard."""
        frames = [pb.EngineFrame.FromString(data) for data in self.heard]
        return [entry for frame in frames for section in frame.runs for entry in section.advance.entries]

    async def three_steps(self, run_id: str, fence: Fence, *, alike: bool) -> None:
        """Plan three closures, all started here, with their results."""
        plan = Plan(1, 0, fence, steps=tuple(StepPlanned(path, started=True) for path in PATHS))
        results = [Result(path, 1, fence, Payload(path.encode()), elapsed=0.01) for path in PATHS]
        self.position += 1
        frame = HostFrame(self.position, runs=[HostSection(run_id, plans=[plan], results=results)])
        (data,) = encode_host_frame(frame, alike=alike)
        section = pb.HostFrame.FromString(data).runs[0]
        assert (len(section.plans[0].steps), len(section.results)) == ((1, 1) if alike else (3, 3))
        await self.call.write(data)


def hello(features: tuple[int, ...]) -> Hello:
    return msgspec.structs.replace(HELLO, features=features)


async def play_run(bench: Bench, features: tuple[int, ...], *, says_alike: bool) -> tuple[Listening, str, Advance]:
    """A run of three steps, up to their release."""
    host = Listening(bench.channel, hello(features))
    welcomed = await host.greet()
    assert welcomed.welcome is not None and Feature.ALIKE in welcomed.welcome.features
    run_id, _ = await bench.driver.runs.start("checkout", INPUT, "")
    _, advance = await host.advance()
    await host.three_steps(run_id, advance.fence, alike=says_alike)
    _, released = await host.advance()
    (release,) = released.entries
    assert isinstance(release, Release)
    assert [(outcome.path, outcome.held) for outcome in release.outcomes] == [(path, True) for path in PATHS]
    return host, run_id, advance


@pytest.mark.parametrize("says_alike", [False, True], ids=["says each", "says alike"])
@pytest.mark.parametrize(
    ("features", "messages"),
    [((), 3), ((1, 2, 99), 3), (ALIKE, 1), ((99, 3, 0), 1)],
    ids=["none", "others", "alike", "alike and unknown ones"],
)
def test_the_engine_says_alike_to_a_host_that_understands_it_and_always_understands_it(
    tmp_path: Path, features: tuple[int, ...], messages: int, says_alike: bool
) -> None:
    async def main() -> None:
        async with serving(tmp_path / "engine.db") as bench:
            host, run_id, advance = await play_run(bench, features, says_alike=says_alike)
            (entry,) = host.entries()
            assert len(entry.release.outcomes) == messages
            await host.finish(run_id, advance.fence, 2, 1)
            await host.until_acked()
            view = await bench.driver.runs.view(run_id, include_steps=True)
            assert view.state is RunState.SUCCEEDED
            assert [(s.path, s.output and s.output.data) for s in view.steps] == [(p, p.encode()) for p in PATHS]

    asyncio.run(main())


@pytest.mark.parametrize(("first", "then"), [(ALIKE, ()), ((), ALIKE)], ids=["not any more", "from then on"])
def test_what_the_engine_may_say_is_a_matter_of_the_stream(
    tmp_path: Path, first: tuple[int, ...], then: tuple[int, ...]
) -> None:
    """The same instance says Hello again, having forgotten everything: it is told the run's plans and releases."""

    async def main() -> None:
        async with serving(tmp_path / "engine.db") as bench:
            _, run_id, _ = await play_run(bench, first, says_alike=True)
            again = Listening(bench.channel, hello(then))
            welcomed = await again.greet()
            _, snapshot = await again.advance(since=welcomed)
            plan, release = snapshot.entries
            assert isinstance(plan, Plan) and [step.path for step in plan.steps] == list(PATHS)
            assert isinstance(release, Release)
            assert [(o.path, o.output) for o in release.outcomes] == [(p, Payload(p.encode())) for p in PATHS]
            planned, told = again.entries()
            assert len(planned.plan.steps) == (1 if then else 3)
            assert len(told.release.outcomes) == 3, "outputs are told each"
            await again.finish(run_id, snapshot.fence, 2, 1)
            await again.until_acked()
            assert (await bench.driver.runs.view(run_id, include_steps=False)).state is RunState.SUCCEEDED

    asyncio.run(main())


# ---- what the host says


def test_a_host_says_alike_to_an_engine_that_can_do_it_and_says_it_again_to_others_as_they_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is not acked is kept as values, so the next engine may be an older one, or a newer one."""
    monkeypatch.setattr(redial, "QUICK_CAP", 0.01)
    can = ((1, 2), (1, 2, 3), (), (99, 3))
    heard: list[bytes] = []
    over = threading.Event()

    def serve(number: int, frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """One engine after the other: each hears one durable frame and is gone, without an ack."""
        if number > len(can):
            over.set()
            context.abort(grpc.StatusCode.UNAVAILABLE, "there is no other engine")
        yield from encode_engine_frame(EngineFrame(1, Welcome("s", features=can[number - 1])))
        heard.append(next(data for data in frames if pb.HostFrame.FromString(data).position))

    session = HostSession(stepwire.Host("h").hello())
    results = [Result(path, 1, Fence(1, 1), Payload(path.encode()), elapsed=0.01) for path in PATHS]
    session.submit_results([("r", result) for result in results])
    with linked(serve, session=session) as (engines, _):
        assert over.wait(15)
    assert [len(pb.HostFrame.FromString(data).runs[0].results) for data in heard] == [3, 1, 3, 1]
    for data in heard:
        frame = HostFrameDecoder().decode(data)
        assert frame is not None and (frame.position, frame.runs[0].results) == (1, results)
    assert {given.features for given in engines.hellos} == {ALIKE}


def test_what_an_engine_can_do_is_known_from_its_welcome_to_the_end_of_the_stream() -> None:
    session = HostSession(stepwire.Host("h").hello())
    known = [session.alike]
    for features in ((1, 2, 3), (1, 2)):
        session.connect()
        known.append(session.alike)
        session.receive(EngineFrame(1, Welcome("s", features=features)), 0.0)
        known.append(session.alike)
        session.disconnect()
        known.append(session.alike)
    assert known == [False, False, True, False, False, False, False]
