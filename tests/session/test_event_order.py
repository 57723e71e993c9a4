"""Any order of waits, events, time, restarts and refused commits: each wait gets the first event it may have, once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stepwire.protocol.plan import StepKind, StepPlanned, WaitEvent
from stepwire_engine.core.config import CoreConfig
from stepwire_engine.core.entries import AttemptEnded
from tests.session.desk import CONFIG, REFUSED, Desk, Host

NAMES = ("a", "b")
TICK = 0.25


@dataclass(frozen=True)
class Waits:
    event: str
    value: int | None
    timeout: float | None
    lookback: float


@dataclass(frozen=True)
class Sends:
    event: str
    value: int
    later: float


@dataclass(frozen=True)
class Passes:
    seconds: float


class Restarts:
    pass


WAITS = st.builds(
    Waits,
    st.sampled_from(NAMES),
    st.none() | st.integers(0, 2),
    st.none() | st.sampled_from([0.0, 3.0, 40.0]),
    st.sampled_from([0.0, 0.0, 2.0, 30.0]),
)
SENDS = st.builds(Sends, st.sampled_from(NAMES), st.integers(0, 2), st.sampled_from([0.0, 0.0, 5.0]))
PASSES = st.builds(Passes, st.sampled_from([TICK, 2.0, 12.0]))
DOES = st.lists(st.one_of(WAITS, SENDS, PASSES, st.builds(Restarts)), max_size=14)
HAPPENS = st.lists(st.one_of(SENDS, PASSES, st.builds(Restarts)), max_size=10)
AWAKE = msgspec.structs.replace(CONFIG, live_idle=1e6)
SOON_ASLEEP = msgspec.structs.replace(CONFIG, live_idle=2 * TICK)


@dataclass
class Expected:
    """What the waits must end with, by a calculation that knows nothing of commits."""

    now: float = 0.0
    waits: list[tuple[float, Waits]] = field(default_factory=list)
    events: list[tuple[float, int, Sends]] = field(default_factory=list)

    def outcome(self, n: int) -> Any:
        """Id of the event that wait `n` ends with, None for its timeout, "open"."""
        planned, wait = self.waits[n]
        until = self.now if wait.timeout is None else min(self.now, planned + wait.timeout)
        for at, number, event in sorted(self.events, key=lambda found: found[:2]):
            since = planned - wait.lookback
            soon = at <= until if wait.timeout is None or at <= planned else at < until
            if event.event == wait.event and wait.value in (None, event.value) and since <= at and soon:
                if wait.lookback or at > planned:
                    return f"e{number}"
        over = wait.timeout is not None and planned + wait.timeout <= self.now
        return None if over else "open"


class Scene:
    def __init__(self, config: CoreConfig = AWAKE) -> None:
        self.desk = Desk(config=config)
        self.host: Host = self.desk.host()
        self.desk.start()
        self.desk.settle()
        self.expected = Expected()
        self.pass_time(TICK)

    def pass_time(self, seconds: float) -> None:
        self.desk.pass_time(seconds, step=TICK)
        self.expected.now += seconds

    def do(self, what: Any) -> None:
        """Everything has its own time, so that before and after are not a matter of milliseconds."""
        match what:
            case Waits():
                match = "" if what.value is None else f"data == `{what.value}`"
                spec = WaitEvent(what.event, match, what.timeout, what.lookback)
                self.host.plan(StepPlanned(f"w{len(self.expected.waits)}", StepKind.WAIT_EVENT, spec=spec))
                self.expected.waits.append((self.expected.now, what))
            case Sends():
                number = len(self.expected.events)
                due_ms = self.desk.now.unix_ms + round(what.later * 1000)
                self.desk.send(what.event, what.value, id=f"e{number}", at_ms=due_ms)
                self.expected.events.append((self.expected.now + what.later, number, what))
            case Passes():
                self.pass_time(what.seconds)
            case Restarts():
                self.desk.restart()
                self.host.connect()
        self.desk.settle()
        self.pass_time(TICK)

    def outcomes(self) -> list[Any]:
        found: dict[str, Any] = {}
        for entry in self.desk.rows.entries():
            if isinstance(entry, AttemptEnded):
                assert entry.path not in found, "it ended twice"
                assert entry.output is not None
                event = msgspec.json.decode(entry.output.data)
                found[entry.path] = None if event is None else event["id"]
        return [found.get(f"w{n}", "open") for n in range(len(self.expected.waits))]


@given(DOES)
def test_each_wait_ends_with_the_first_event_it_may_have(does: list[Any]) -> None:
    scene = Scene()
    for what in does:
        scene.do(what)
    scene.pass_time(45.0)
    assert scene.outcomes() == [scene.expected.outcome(n) for n in range(len(scene.expected.waits))]
    assert scene.desk.rows.store.inbox() == []


@given(st.lists(WAITS, min_size=1, max_size=4), HAPPENS)
def test_a_run_that_sleeps_in_between_gets_the_same(waits: list[Waits], happens: list[Any]) -> None:
    scene = Scene(SOON_ASLEEP)
    for what in [*waits, *happens]:
        scene.do(what)
    scene.pass_time(45.0)
    if all(found == "open" for found in scene.outcomes()):
        assert not scene.desk.core.runs
    assert scene.outcomes() == [scene.expected.outcome(n) for n in range(len(scene.expected.waits))]
    assert scene.desk.rows.store.inbox() == []


@given(DOES, st.lists(st.integers(0, 30), max_size=4, unique=True), st.booleans())
def test_refused_commits_and_crashes_make_nothing_happen_twice(does: list[Any], bad: list[int], crash: bool) -> None:
    """What was to happen in time may happen late, but then it happens once, and nothing stays behind."""
    scene = Scene()
    desk = scene.desk
    commit, seen = desk.commit, 0

    def faulty(count: int | None = None, receipt: Any = None) -> int:
        nonlocal seen
        done = 0
        while desk.in_flight or desk.core._books.commits:
            seen += 1
            hit = seen in bad and scene.host.engine is not None
            if hit and crash:
                desk.in_flight += desk.core.take_commits()
                desk.restart()
                scene.host.connect()
                return 1
            done += commit(1, REFUSED if hit else None)
        return done

    desk.commit = faulty  # type: ignore[method-assign]
    for what in does:
        if scene.host.engine is None:
            scene.host.connect()
            desk.settle()
        scene.do(what)
    if scene.host.engine is None:
        scene.host.connect()
    desk.settle()
    scene.pass_time(60.0)
    for n, found in enumerate(scene.outcomes()):
        wait = scene.expected.waits[n][1]
        assert found != "open" or wait.timeout is None or f"w{n}" not in _planned(desk)
    assert desk.rows.store.inbox() == [] and desk.rows.store.undelivered(2**62, 10) == []


def _planned(desk: Desk) -> set[str]:
    rows = desk.rows.entries()
    return {step.path for entry in rows for step in getattr(getattr(entry, "plan", None), "steps", ())}
