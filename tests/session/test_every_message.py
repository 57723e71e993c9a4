"""Every message of a host in every state of run, step and session: more than a thousand cases (proto/README 2 to 7).

A message changes the record, or it does not and is counted, or a typed Fault answers it; afterwards the engine serves
the same stream, if it is open, and everybody else. `EXPECTED` says which messages do what where; whatever is not in it
changes nothing and is no fault. All frames go through the wire, as they would.
"""

from __future__ import annotations

from typing import Any

import pytest

from stepwire.protocol.failure import ErrorCode
from stepwire.protocol.frames import AttemptInProgress, HostFrame, HostSection, LiveBody, Report, Result, ResumeState
from stepwire.protocol.payload import Payload
from stepwire.protocol.plan import BodyEnded, Fence, Plan, RetryPolicy
from stepwire.protocol.wire import HostFrameDecoder, encode_host_frame
from stepwire_engine.core.entries import AttemptEnded
from stepwire_engine.core.fold import rebuild
from stepwire_engine.core.model import durable_view
from tests.session.desk import Desk, running, task
from tests.session.messages import MESSAGES, NEWER
from tests.session.scenes import SCENES, A, Scene

JOURNALED, NOTHING = "journaled", "nothing"
PLAN_REJECTED, PROTOCOL, STORE_UNAVAILABLE = "PLAN_REJECTED of r", "PROTOCOL", "STORE_UNAVAILABLE"
FORGED = "PROTOCOL of r"

NOT_HEARD = {"stream replaced", "session given up", "stream closing"}
"""Whatever is said there is ignored: it has no position that could be acked."""
OVER = {"run succeeded", "run cancelled", "run dormant"}
"""The run is not in memory."""
AGAIN = {"run being read again"}
HOLDS_BODY = {
    "run without steps",
    "step executing here",
    "step in backoff",
    "step succeeded",
    "step failed",
    "step abandoned",
    "outcome being committed",
    "step adopted",
    "host draining",
    "engine draining",
    "session not on record",
}
EXECUTES = {
    "step executing here",
    "run paused",
    "run stopping",
    "step adopted",
    "host draining",
    "engine draining",
    "session not on record",
}
ALL = set(SCENES)
HEARD_OF_RUN = ALL - NOT_HEARD - OVER - AGAIN
FREE_POSITION = {"step executing elsewhere", "step adopted", "session not on record"}
"""The host resumed with nothing to send again, so that its first durable frame tells where it stands (section 3)."""

ABOUT_RUN = {AGAIN_AT: STORE_UNAVAILABLE for AGAIN_AT in AGAIN}
OF_BODY = ABOUT_RUN | dict.fromkeys(HOLDS_BODY, JOURNALED)
BROKEN_PLAN = ABOUT_RUN | dict.fromkeys(HOLDS_BODY, PLAN_REJECTED)
OF_ATTEMPT = ABOUT_RUN | dict.fromkeys(EXECUTES, JOURNALED)

EXPECTED: dict[str, dict[str, str]] = {
    "the next plan": OF_BODY,
    "the next plan, which ends the body": OF_BODY,
    "plan 1 again": ABOUT_RUN | {"run without steps": JOURNALED},
    "plan 1 again with other content": ABOUT_RUN
    | dict.fromkeys(HOLDS_BODY, PLAN_REJECTED)
    | {"run without steps": JOURNALED},
    "a plan too far": BROKEN_PLAN,
    "a plan with the largest number": BROKEN_PLAN,
    "a plan after a release of the future": BROKEN_PLAN,
    "a plan of an older body": ABOUT_RUN,
    "a plan of a body nobody has": ABOUT_RUN,
    # What the body of an honest host decides can break a rule: the run is paused, which is journaled.
    "a plan in a scope that does not exist": OF_BODY,
    "a plan with a step twice": OF_BODY,
    "a plan with a step that exists": OF_BODY,
    "a plan with a group too large": OF_BODY,
    "a plan that abandons what nobody planned": OF_BODY,
    "the result": OF_ATTEMPT,
    "the result, a failure": OF_ATTEMPT,
    "the result with another value": OF_ATTEMPT,
    "a result with an older fence": ABOUT_RUN,
    "a result with the highest fence": ABOUT_RUN | dict.fromkeys(HEARD_OF_RUN, FORGED),
    # The right is the one that was given; whatever the attempt is called, it has stopped, and the run waited for that.
    "a result of a later attempt": ABOUT_RUN | {"run stopping": JOURNALED},
    "a result of attempt 2^31": ABOUT_RUN | {"run stopping": JOURNALED},
    "a result of an unknown step": ABOUT_RUN,
    "a result of the longest path": ABOUT_RUN,
    "a result over the limit": OF_ATTEMPT,
    "rejected: NO_SLOT": ABOUT_RUN | {"run stopping": JOURNALED},
    "rejected: NO_BODY": ABOUT_RUN | {"run stopping": JOURNALED},
    "rejected: NOT_SERVED": ABOUT_RUN | {"run stopping": JOURNALED},
    "rejected: DRAINING": ABOUT_RUN | {"run stopping": JOURNALED},
    "rejected: an unknown step": ABOUT_RUN,
    "rejected: an older fence": ABOUT_RUN,
    "the body is given back": ABOUT_RUN,
    "an older body is given back": ABOUT_RUN,
    "the body failed": OF_BODY,
    "an older body failed": ABOUT_RUN,
    "goodbye": {"run stopping": JOURNALED},
    "a second hello": dict.fromkeys(ALL - NOT_HEARD, PROTOCOL),
    "a frame again": dict.fromkeys(ALL - NOT_HEARD - FREE_POSITION - AGAIN - {"run without steps"}, PROTOCOL),
    "a frame too far": dict.fromkeys(ALL - NOT_HEARD - FREE_POSITION, PROTOCOL),
    "the largest position": dict.fromkeys(ALL - NOT_HEARD - FREE_POSITION, PROTOCOL),
}
CLOSES = {"a fault", "goodbye"}
"""The host ends the stream itself."""
LIES_ABOUT_POSITIONS = {"a frame too far", "the largest position"}

CASES = [pytest.param(message, scene, id=f"{scene}: {message}") for scene in SCENES for message in MESSAGES]


def test_the_table_names_what_exists() -> None:
    assert len(CASES) >= 1000
    assert EXPECTED.keys() <= MESSAGES.keys()
    assert {scene for row in EXPECTED.values() for scene in row} <= ALL


@pytest.mark.parametrize(("message", "scene_name"), CASES)
def test_a_message_does_what_its_place_allows_and_nothing_else(message: str, scene_name: str) -> None:
    scene = SCENES[scene_name]()
    frame = through_the_wire(MESSAGES[message](scene))
    seen = len(scene.host.faults)
    counted = ignored(scene.desk)

    scene.say(frame)

    outcome = outcome_of(scene, scene_name, seen)
    assert outcome == EXPECTED.get(message, {}).get(scene_name, NOTHING)
    if outcome == NOTHING and scene_name not in NOT_HEARD:
        dropped = sum([len(section.plans) + len(section.results) for section in frame.runs])
        told = any(section.plans for section in frame.runs)
        assert told or ignored(scene.desk) == counted + dropped, "what is dropped is counted"
    assert scene.desk.core.take_incidents() == [], "the core did not fail"
    check_memory_is_the_record(scene.desk)
    if scene.host.engine is not None and scene_name not in NOT_HEARD and message not in CLOSES | LIES_ABOUT_POSITIONS:
        check_same_stream_goes_on(scene, frame)
    if scene_name != "engine draining":  # It gives nothing to anybody.
        check_others_go_on(scene.desk)


def through_the_wire(frame: HostFrame) -> HostFrame:
    """The frame as the engine decodes it; one that the wire would refuse is not for this table."""
    decoder = HostFrameDecoder(payload_bytes_max=64 * 1024 * 1024)
    decoded = [decoder.decode(data) for data in encode_host_frame(frame)]
    assert decoded[-1] is not None
    return decoded[-1]


def ignored(desk: Desk) -> int:
    counters = desk.core.counters
    return counters.stale_results + counters.repeated_results + counters.repeated_plans


def outcome_of(scene: Scene, scene_name: str, seen: int) -> str:
    """What the message did: to the record, compared with the same scene in which nothing was said, and in faults."""
    quiet = SCENES[scene_name]()
    quiet.say(HostFrame())
    journaled = [JOURNALED] if scene.desk.rows.rows != quiet.desk.rows.rows else []
    faults = [f"{f.code.name} of {f.run_id}" if f.run_id else f.code.name for f in scene.host.faults[seen:]]
    return " and ".join(journaled + faults) or NOTHING


def check_memory_is_the_record(desk: Desk) -> None:
    for run in desk.core.runs.values():
        again = rebuild(run.number, desk.rows.journal(run.number))
        assert durable_view(again) == durable_view(run)


def check_same_stream_goes_on(scene: Scene, frame: HostFrame) -> None:
    """The next durable frame of the same host is acked."""
    position = (frame.position or scene.host.session._position) + 1
    scene.say(HostFrame(position=position, report=Report(1)))
    assert scene.host.acked == position


def check_others_go_on(desk: Desk) -> None:
    """Another host serves another flow from start to end."""
    good = desk.host("good", flows=("good flow",), steps=("good work",))
    desk.start("good run", flow="good flow")
    desk.settle()
    good.plan("step", run_id="good run", start=("step",))
    good.ok("step", run_id="good run")
    good.end("good run")
    desk.settle()
    assert desk.run_state("good run") == "SUCCEEDED"


# ---- hosts that claim what nobody gave them


def test_a_fence_that_nobody_was_given_leaves_the_attempt_with_its_host() -> None:
    desk, host = running(A)
    other = desk.host("other")
    forged = Result("a", 1, NEWER, Payload(b"forged"))
    other.raw(HostFrame(position=1, runs=[HostSection("r", results=[forged])]))
    desk.settle()
    (fault,) = other.faults
    assert (fault.code, fault.run_id) == (ErrorCode.PROTOCOL, "r")
    assert other.acked == 1 and other.engine is not None, "the session stays"
    assert host.holds("a") and desk.core.runs["r"].steps["a"].lease is not None
    host.ok("a", data=b"true")
    desk.settle()
    assert [e.output for e in desk.rows.entries() if isinstance(e, AttemptEnded)] == [Payload(b"true")]


def test_a_result_of_an_attempt_that_was_not_given_out_yet_is_stale() -> None:
    desk, host = running(task("a", retry=RetryPolicy(max_attempts=3, delay=5.0)))
    first = host.failed("a")
    desk.settle()
    early = Result("a", 2, first.fence, Payload(b"early"))
    host.raw(HostFrame(position=host.session._position + 1, runs=[HostSection("r", results=[early])]))
    host.session._position += 1
    desk.settle()
    assert desk.core.counters.stale_results == 1
    desk.pass_time(6.0)
    (execute,) = host.executes()
    assert (execute.attempt, execute.fence > first.fence) == (2, True)


def test_a_host_of_a_newer_store_gets_nothing_of_an_older_one() -> None:
    """The database was restored from a copy: fences that it never gave take nothing away (E9 of the fault list)."""
    desk, host = running(A)
    stranger = desk.host("other", connect=False)
    held: dict[str, Any] = {
        "bodies": (LiveBody("r", NEWER, 0, 2),),
        "attempts": (AttemptInProgress("r", "a", 1, NEWER),),
    }
    hello = stranger.session._hello
    stranger.session._hello = type(hello)(hello.service, hello.instance_id, hello.flows, hello.steps, 1, 1)
    stranger.session._resume = lambda now: ResumeState(**held)  # type: ignore[method-assign]
    stranger.connect()
    desk.settle()
    section = next(s for frame in stranger.frames for s in frame.runs if s.run_id == "r")
    assert section.evict == NEWER and section.continued is None
    assert stranger.engine is not None and not stranger.engine.bodies and not stranger.engine.leases
    assert host.holds("a")
    host.ok("a")
    host.raw(HostFrame(runs=[HostSection("r", plans=[Plan(2, 0, Fence(9, 9), body_ended=BodyEnded(Payload(b"")))])]))
    desk.settle()
    assert desk.run_state() == "RUNNING"
