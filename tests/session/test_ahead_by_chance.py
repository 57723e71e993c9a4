"""Whatever happens to a host: it executes no more than it has slots, and what it was given ahead ends in one way."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from stepwire._transport.session import HostSession
from stepwire.protocol import limits
from stepwire.protocol.frames import (
    Cancel,
    CancelReason,
    EngineFrame,
    EngineSection,
    Execute,
    Hello,
    HostFrame,
    Result,
    Welcome,
)
from stepwire.protocol.payload import NULL
from stepwire.protocol.plan import Fence, StepKind

RUNS = ("r1", "r2")
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("execute"), st.integers(0, 1)),
        st.tuples(st.sampled_from(["finish", "begin", "begin one", "again", "report", "drain", "cut"]), st.just(0)),
        st.tuples(st.sampled_from(["cancel", "cancel run"]), st.integers(0, 9)),
        st.tuples(st.just("pass"), st.integers(1, 12)),
    ),
    max_size=60,
)


class Played:
    """One host, what it was given, and what became of that."""

    def __init__(self, slots: int, ahead: int) -> None:
        self.session = HostSession(Hello("h", "i", steps=("s",), slots=slots, ahead=ahead))
        self.now = 0.0
        self.fence = 0
        self.given: list[tuple[str, str]] = []
        self.running: list[tuple[str, str]] = []
        self.ends: Counter[tuple[str, str]] = Counter()
        """How often something was begun, rejected, cancelled before it began, or forgotten."""
        self.waiting: dict[tuple[str, str], float] = {}
        """What was given and has come to none of these ends, and since when."""
        self.connect()

    def connect(self) -> None:
        self.session.connect()
        hello = self.session.take_frame(self.now)
        assert hello is not None and hello.hello is not None
        if hello.hello.resume is not None:
            resumed = [(a.run_id, a.path) for a in hello.hello.resume.attempts]
            assert not set(resumed) & set(self.waiting), "what has not begun is not resumed"
        self.session.receive(EngineFrame(welcome=Welcome("s")), self.now)

    def say(self, run_id: str, executes: tuple[Execute, ...] = (), cancels: tuple[Cancel, ...] = ()) -> None:
        said = EngineSection(run_id, executes=list(executes), cancels=list(cancels))
        for section in self.session.receive(EngineFrame(runs=[said]), self.now):
            self._begun([(run_id, execute) for execute in section.executes])

    def _begun(self, begun: list[tuple[str, Execute]]) -> None:
        for run_id, execute in begun:
            self.running.append((run_id, execute.path))
            self._end(run_id, execute.path)

    def _end(self, run_id: str, path: str) -> None:
        self.ends[run_id, path] += 1
        del self.waiting[run_id, path]

    def hear(self) -> None:
        while (frame := self.session.take_frame(self.now)) is not None:
            self._heard(frame)

    def _heard(self, frame: HostFrame) -> None:
        for section in frame.runs:
            for reject in section.rejects:
                self._end(section.run_id, reject.path)
            for result in section.results:
                if (section.run_id, result.path) in self.waiting:
                    self._end(section.run_id, result.path)
        if frame.report is not None:
            held = {(a.run_id, a.path) for a in frame.report.attempts}
            assert held == {*self.running, *self.waiting}, "what is missing the engine gives out again"

    # ---- events

    def execute(self, run: int) -> None:
        key = RUNS[run], f"s{len(self.given)}"
        self.given.append(key)
        self.waiting[key] = self.now
        self.again(key)

    def again(self, key: tuple[str, str]) -> None:
        """Under a higher right."""
        self.fence += 1
        self.say(key[0], executes=(Execute(key[1], 1, Fence(1, self.fence), StepKind.TASK, "s"),))

    def finish(self) -> None:
        if self.running:
            run_id, path = self.running.pop(0)
            self.session.submit_result(run_id, Result(path, 1, Fence(1, 1), NULL))

    def begin(self, slots: int, *, one: bool) -> None:
        """All that find a free slot, or one as a thread does that has told its outcome."""
        given = self.session.next_waiting
        assert (given is not None) == (bool(self.waiting) and len(self.running) < slots)
        begun = self.session.begin_waiting(self.now, 1 if one else None)
        assert begun[:1] == ([] if given is None else [given])
        self._begun(begun)
        assert one or not self.waiting or len(self.running) == slots, "a free slot is used"

    def cancel(self, index: int) -> None:
        if index < len(self.given):
            run_id, path = self.given[index]
            self.say(run_id, cancels=(Cancel(path, Fence(1, self.fence), CancelReason.RACE_LOST),))

    def cut(self) -> None:
        """What waits is forgotten, and what was said of it at last is not known to the engine."""
        self.session.disconnect()
        for run_id, path in list(self.waiting):
            self._end(run_id, path)
        assert self.session.begin_waiting(self.now) == []
        self.connect()

    def check(self, slots: int, ahead: int) -> None:
        assert self.session.attempts == len(self.running) <= slots
        assert all(times == 1 for times in self.ends.values())
        self.hear()
        assert len(self.running) + len(self.waiting) <= slots + ahead
        assert all(self.now <= since + limits.AHEAD_SECONDS for since in self.waiting.values())
        assert len(self.ends) + len(self.waiting) == len(self.given)


@settings(max_examples=150, deadline=None)
@given(EVENTS, st.integers(1, 3), st.integers(0, 3))
def test_what_is_given_ahead_begins_once_or_goes_back_or_is_forgotten(
    events: list[tuple[str, int]], slots: int, ahead: int
) -> None:
    played = Played(slots, ahead)
    for event, number in events:
        match event:
            case "execute":
                played.execute(number)
            case "finish":
                played.finish()
            case "begin" | "begin one":
                played.begin(slots, one=event == "begin one")
            case "again":
                if played.waiting:
                    played.again(next(iter(played.waiting)))
            case "report":
                played.session.report_now(played.now)
            case "drain":
                played.session.drain(1.0)
            case "cut":
                played.hear()
                played.cut()
            case "cancel":
                played.cancel(number)
            case "cancel run":
                run_id = RUNS[number % 2]
                played.say(run_id, cancels=(Cancel("", Fence(1, played.fence + 1), CancelReason.RUN_CANCELLED),))
            case _:
                played.now += number / 100
        played.check(slots, ahead)
    played.now += 2 * limits.AHEAD_SECONDS
    played.hear()
    assert not played.waiting and len(played.ends) == len(played.given)
